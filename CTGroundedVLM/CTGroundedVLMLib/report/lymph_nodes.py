"""Anatomy that only says where lymph nodes lie and is not itself spoken of."""

from __future__ import annotations

from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence

_REACH = 30  # tokens
_ENDS = frozenset({";", ".", ":", "--"})
_SEEN = frozenset({
    "seen", "observed", "detected", "noted", "found", "is", "are", "was", "were", "present", "identified",
})  # fmt: skip


def landmarks(sentence: TokenizedSentence) -> set[int]:
    """First tokens of anatomy that only says where lymph nodes lie ("iliac nodes", "nodes in the splenic hilum")."""
    if "finding" not in sentence.all_kinds:
        return set()
    nodes = [m for m in sentence.mentions if isinstance(f := m.kinds.get("finding"), FindingTerm) and f.node]
    found: set[int] = set()
    for node in nodes:
        found |= _landmarks_before(sentence, node.first) | _landmarks_after(sentence, node.last)
    return found


def _landmarks_before(sentence: TokenizedSentence, node: int) -> set[int]:
    grammar, found = sentence.lexicon.grammar, set()
    for index in range(node - 1, max(-1, node - _REACH), -1):
        word, owner = sentence.lemmas[index], sentence.owner[index]
        if word in grammar["verbs"] or word in grammar["prepositions"] or word in _ENDS or word == "the":
            break
        if owner is None:
            continue
        if "finding" in owner.kinds or "scope_end" in owner.kinds or "negation_before" in owner.kinds:
            break
        if "stem" in owner.kinds:
            found.add(owner.first)
        elif "anatomy" in owner.kinds:
            adjectival, directly = owner.kinds["anatomy"][1], owner.last == node
            if not adjectival and not directly:
                break
            found.add(owner.first)
    return found


def _landmarks_after(sentence: TokenizedSentence, node: int) -> set[int]:
    """Anatomy right after "in/at/along" behind the nodes: stations and hila, and adjectives of organs."""
    grammar, found, located = sentence.lexicon.grammar, set(), False
    for index in range(node, min(len(sentence.lemmas), node + _REACH)):
        word, owner = sentence.lemmas[index], sentence.owner[index]
        if word in ("in", "at", "along", "around", "within"):
            located = True
            continue
        if word in _ENDS or word in grammar["verbs"] - _SEEN:
            break
        if located and owner is not None:
            if "stem" in owner.kinds or ("anatomy" in owner.kinds and _is_station(sentence, owner)):
                found.add(owner.first)
            elif "finding" in owner.kinds or "scope_end" in owner.kinds:
                break
    return found


def _is_station(sentence: TokenizedSentence, mention: Mention) -> bool:
    """Adjectives ("splenic") and hila name stations; a noun ("adjacent to the pancreas") names a neighbour, which is linked."""
    return bool(mention.kinds["anatomy"][1]) or "hilum" in sentence.lemmas[mention.first : mention.last]

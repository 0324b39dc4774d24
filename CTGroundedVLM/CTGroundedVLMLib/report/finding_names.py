"""Standard names of findings: the head noun with the anatomy that it is attached to ("cyst" in the liver: "hepatic cyst")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site

# Regions and systems that no finding is named after.
_NO_NAME = frozenset({"body", "chest", "abdomen", "pelvis", "great vessel", "mediastinum", "neck", "head"})
_PHRASE_ENDS = frozenset({";", ":", ".", "the", "a", "an", "no", "not"})
_SLOT = re.compile(r"\{(noun|adjective)\} ?")


def names_of(
    finding: FindingTerm, mention: Mention, sites: Sequence[Site], context: Sequence[Site], sentence: TokenizedSentence
) -> list[str]:
    """Names of ``finding``: one per structure where structures share it ("pleural or pericardial effusion")."""
    shared = dict.fromkeys(_names_of_shared_head(mention, sites, sentence))
    if not finding.names and "{" not in finding.name:  # the same name anywhere
        return [*shared, finding.name]
    attached = _attached(mention, sites, sentence)
    if not attached and "{" in finding.name:
        known = [s for s in context if s.structure is not None]
        attached = ([s for s in known if s.id in finding.names] or known)[:1]
    names = dict.fromkeys(_name(finding, site) for site in attached)
    return [*shared, *(names or [_plain(finding)])]


def _names_of_shared_head(mention: Mention, sites: Sequence[Site], sentence: TokenizedSentence) -> list[str]:
    """ "Pericardial or pleural effusion": the first adjective shares the head noun of the term "pleural effusion"."""
    if (
        mention.last - mention.first < 2
        or mention.first < 2
        or sentence.lemmas[mention.first - 1] not in ("or", "and", "/")
    ):
        return []
    heads = sentence.lexicon.find(sentence.lemmas[mention.last - 1 : mention.last])
    head = heads[0].kinds.get("finding") if heads else None
    sharing = [s for s in sites if s.finding is None and s.last == mention.first - 1]
    if not isinstance(head, FindingTerm):
        return []
    return [head.names[s.family] for s in sharing if s.family in head.names] + [
        head.names[s.id] for s in sharing if s.id in head.names and s.family not in head.names
    ]


def _plain(finding: FindingTerm) -> str:
    if finding.structures:
        return _name_of_structure(
            finding, finding.structures[0].id, finding.structures[0].noun, finding.structures[0].adjective
        )
    return _SLOT.sub("", finding.name)


def _name(finding: FindingTerm, site: Site) -> str:
    structure = site.structure
    if finding.whole and not {structure and structure.id, site.family} & set(finding.names):
        return _plain(finding)  # an effusion beside a rib is no "rib effusion"
    if structure is None or (structure.id in _NO_NAME and structure.id not in finding.names):
        return _plain(finding) if not finding.structures else _SLOT.sub("", finding.name)
    return _name_of_structure(finding, structure.id, structure.noun, structure.adjective, structure.family)


def _name_of_structure(finding: FindingTerm, identity: str, noun: str, adjective: str, family: str = "") -> str:
    if identity in finding.names:
        return finding.names[identity]
    if family in finding.names:
        return finding.names[family]
    return finding.name.replace("{noun}", noun).replace("{adjective}", adjective)


def _attached(mention: Mention, sites: Sequence[Site], sentence: TokenizedSentence) -> list[Site]:
    """Sites before the finding in its noun phrase, else after a preposition, else the subject of its clause."""
    named = [
        s
        for s in sites
        if s.finding is None and s.structure is not None and not mention.first <= s.first < mention.last
    ]
    before = _modifiers(mention, named, sentence)
    if before:
        return before
    modified = [s for s in named if s.first >= mention.last and _describes(sentence, mention.last, s.first)]
    if modified:
        return modified[:1]
    clause = sentence.clauses[mention.first]
    same = [s for s in named if sentence.clauses[s.first] == clause]
    after = [s for s in same if s.first >= mention.last and _reaches(sentence, mention.last, s.first)]
    if after:
        return after[:1]
    subject = [s for s in same if s.last <= mention.first]
    if subject:
        return subject[-1:]
    implied = [s for s in sites if s.structure is not None and s.last <= mention.first]
    return ([s for s in named if s.last <= mention.first] or implied)[-1:] or same[:1]


def _modifiers(mention: Mention, named: Sequence[Site], sentence: TokenizedSentence) -> list[Site]:
    grammar, found, end = sentence.lexicon.grammar, [], mention.first
    for site in reversed([s for s in named if s.last <= mention.first]):
        gap = sentence.lemmas[site.last : end]
        ended = any(w in grammar["prepositions"] or w in grammar["verbs"] or w in _PHRASE_ENDS for w in gap)
        if len(gap) > 4 or ended:
            break
        if any(sentence.owner[i] is not None and "finding" in sentence.owner[i].kinds for i in range(site.last, end)):
            break
        joined = any(w in (",", "and", "or", "/", "&") for w in gap)
        if joined and not (found and site.adjectival):
            break
        found.append(site)
        end = site.first
    return found[::-1]


def _describes(sentence: TokenizedSentence, first: int, last: int) -> bool:
    """Whether the finding is an adjective of the site ("enlarged right thyroid lobe")."""
    gap, grammar = sentence.lemmas[first:last], sentence.lexicon.grammar
    return len(gap) <= 3 and not any(
        w in grammar["prepositions"] or w in grammar["verbs"] or w in grammar["conjunctions"] or w in _PHRASE_ENDS
        for w in gap
    )


def _reaches(sentence: TokenizedSentence, first: int, last: int) -> bool:
    """Whether a preposition leads from the finding to the site, with no other statement between."""
    gap, grammar = sentence.lemmas[first:last], sentence.lexicon.grammar
    if len(gap) > 10 or any(w in (",", ";", ":", "and", "or", "with", "without", "no") for w in gap):
        return False
    return any(w in grammar["location_prepositions"] for w in gap)

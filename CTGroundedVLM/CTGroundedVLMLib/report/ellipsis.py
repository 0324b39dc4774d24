"""The other side of a paired organ, said without its name: "the right one ... the left is ...", "small R effusion, trace L"."""

from __future__ import annotations

from .lexicon import SIDES
from .sentence_tokens import TokenizedSentence
from .sites import Site

_FOLLOWING = frozenset(
    {"", ",", ".", ";", ":", ")", "(", "--", "-", "one", "side", "and", "but", "or", "only", "too", "also"}
)
_BEGINS_PHRASE = frozenset({"a", "an", "there", "no", "some", "several", "multiple", "the"})
_SAID_OF_IT = frozenset({"normal", "negation_after", "negation_before", "absent_organ", "historical_after"})
_JOINED = (["and"], [","], ["&"], ["+"], ["/"])
_REACH = 8  # tokens
_PASSED_OVER = frozenset({"the", "on", "at", "side", "that", "of", "in"})
_COMPARING = frozenset(
    {"to", "toward", "towards", "than", "from", ">", "<", "=", "versus", "vs", "with", "facing", "into", "across"}
)


def elliptic_sites(sentence: TokenizedSentence, sites: list[Site]) -> list[Site]:
    """Sites of the sides that stand alone after a paired organ of the other side; ``sites`` in order."""
    sides, found = sentence.lexicon.sides, []
    for index in [i for i, word in enumerate(sentence.lemmas) if sides.get(word) in SIDES]:
        side = sides[sentence.lemmas[index]]
        if any(s.first <= index < s.last for s in sites) or not _stands_alone(sentence, index):
            continue
        if _is_direction(sentence, index):
            continue
        organ = _organ_before(sites, index) or _organ_after(sentence, sites, index)
        if organ is None or (_is_pole(sentence, index + 1) and organ.family != "kidney"):
            continue
        if organ.numbered or organ.structure is None or organ.side not in SIDES or organ.side == side:
            continue
        segments = organ.structure.segments(side)
        if not any(s.segments & segments for s in sites):
            found.append(Site(organ.structure, organ.family, segments, index, index + 1, side, elliptic=True))
    return found


def _is_direction(sentence: TokenizedSentence, index: int) -> bool:
    """ "Displaced to the left", "larger than the left": a direction or a comparison names no organ."""
    before = index - 1
    while before >= 0 and sentence.lemmas[before] in _PASSED_OVER:
        before -= 1
    named = sentence.lemmas[index + 1 : index + 2] == ["one"]  # "higher than the right one"
    return before >= 0 and sentence.lemmas[before] in _COMPARING and not named


def _organ_before(sites: list[Site], index: int) -> Site | None:
    """What was spoken of last."""
    return next((s for s in reversed(sites) if s.last <= index and s.segments), None)


def _organ_after(sentence: TokenizedSentence, sites: list[Site], index: int) -> Site | None:
    """ "Large right and small left effusions": the head that the first side waits for."""
    following = [w for w in sentence.lemmas[index + 1 : index + 3] if w not in ("sided", "side")][:1]
    site = next((s for s in sites if s.first > index), None)
    if site is None or following not in _JOINED or site.first - index > _REACH:
        return None
    return None if any(w in sentence.lexicon.grammar["verbs"] for w in sentence.lemmas[index : site.first]) else site


def _stands_alone(sentence: TokenizedSentence, index: int) -> bool:
    """Whether the side at ``index`` is followed by what goes on about it, not by a noun that it belongs to."""
    lemmas, last = sentence.lemmas, index + 1
    owner = sentence.owner[index]
    if owner is not None and not owner.kinds.keys().isdisjoint(("anatomy", "finding", "stem")):
        return False
    if lemmas[last : last + 1] == ["sided"]:
        last += 1
    following = lemmas[last] if last < len(lemmas) else ""
    if _is_pole(sentence, last):
        return True
    if index >= 2 and lemmas[index - 2 : index] == ["on", "the"] and following in _BEGINS_PHRASE:
        return True  # "and on the left a 7 mm stone in the lower pole"
    if following in _FOLLOWING or following in sentence.lexicon.grammar["verbs"] or following.isdigit():
        return True
    return (following[:1].isdigit() and "." in following) or not sentence.kinds[last].isdisjoint(_SAID_OF_IT)


def _is_pole(sentence: TokenizedSentence, index: int) -> bool:
    """ "Right lower pole" after the left kidney: of the other one."""
    return sentence.lemmas[index : index + 1] == ["pole"] or sentence.lemmas[index + 1 : index + 2] == ["pole"]

"""Numbered anatomy: vertebral levels ("T4 to T6", "L4/5", "T11-L1") and ribs ("left 5th to 7th ribs", "ribs 9-12")."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .laterality import side_is_free
from .lexicon import LEVELS
from .sentence_tokens import TokenizedSentence

_LEVEL = re.compile(r"([ctlsd])(\d{1,2})$")  # "Th12" and "BWK 12" have become "t12" (see Words.base)
_TWO_LEVELS = re.compile(r"([ctl]\d{1,2})([ctls]\d{1,2})$")
_DUODENAL = frozenset({"d1", "d2", "d3", "d4"})
_OF_GUT = frozenset({
    "edema", "edematous", "dilated", "dilatation", "distended", "diverticulum", "ulcer", "ulcerated", "stricture", "lumen",
    "mucosa", "mucosal", "duodenum", "duodenal", "perforation", "perforated", "loop", "jejunum", "jejunal", "papilla", "ampulla",
    "pancreas", "pancreatic", "sweep", "medially",
})  # fmt: skip
_BONY = frozenset({"vertebra", "rib", "sacrum", "bone", "heart"})  # D1 is also a coronary branch
_NODES_OF_STAGE = re.compile(r"[nm][0-3x]")
_COUINAUD = re.compile(r"(?:s?[1-8][ab]?|i{1,3}|iv[ab]?|vi{0,3})$")
_ORDINAL = re.compile(r"(\d{1,2})(?:st|nd|rd|th)$")
_ORDINAL_WORDS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
)  # fmt: skip
_TO = frozenset({"-", "to", "through", "thru", "till", "until"})
_BETWEEN_LEVELS = frozenset({
    "level", "vertebra", "vertebral", "body", "down", "up", "the", "of", "all", "way", "endplate", "inferiorly", "caudally",
    "lower", "upper", "superior", "inferior", "segment",
})  # fmt: skip
_AND = frozenset({"and", "or", ",", "/", "&", "+", "as", "well", "plus"})
_NOT_SPINE_BEFORE = frozenset({
    "stage", "staged", "pt", "ct", "yt", "tumor", "free", "category", "grade", "ypt", "tnm", "rt", "total", "serum",
})  # fmt: skip
_NOT_SPINE_AFTER = frozenset({
    "weighted", "hyperintense", "hypointense", "signal", "hyperintensity", "isointense", "sequence", "image", "imaging", "wi",
    "tumor", "bright", "flair", "stage", "esterase", "star", "shortening", "relaxation", "mapping", "dark", "fat",
})  # fmt: skip
_RIB_NOUNS = frozenset({"rib", "costal", "costa"})  # "4th costal arch"
_RIB_POSITIONS = frozenset({
    "anterior", "posterior", "lateral", "anterolateral", "posterolateral", "medial", "mid", "upper", "lower", "posteromedial",
    "anteromedial", "anteriorly", "axillary", "and", "the", "of", "both", "sided", "aspect", "arc", "arch",
})  # fmt: skip
_BEFORE_RIB_NUMBER = frozenset({"number", "no", "(", "#", "fracture", "involving", "of", ":"})
_SEGMENT_OF_LIVER = frozenset({"segment", "seg"})
MAX_RIB = 12
_SCAN = 24  # tokens to look at on either side of "rib"


@dataclass(slots=True)
class Numbered:
    """Numbered anatomy at tokens ``first`` to ``last`` (exclusive). ``kind``: "vertebra", "sacrum" or "rib"."""

    kind: str
    segments: frozenset[str]
    first: int
    last: int


def number_of(word: str, cardinal: bool = False) -> int | None:
    """The number of "5th" or "fifth"; of "5" too when ``cardinal``."""
    if word in _ORDINAL_WORDS:
        return _ORDINAL_WORDS.index(word) + 1
    match = _ORDINAL.match(word)
    if match:
        return int(match.group(1))
    return int(word) if cardinal and word.isdigit() and len(word) <= 2 else None


def level_index(word: str) -> int | None:
    """Place of a level in C1 to S1; S2 to S5 count as the place after S1. "D8" is T8, as some write."""
    match = _LEVEL.match(word)
    if match is None:
        return None
    region, number = match.group(1).upper().replace("D", "T"), int(match.group(2))
    if region == "S" and 2 <= number <= 5:
        return len(LEVELS)
    name = f"{region}{number}"
    return LEVELS.index(name) if name in LEVELS else None


def find_levels(sentence: TokenizedSentence) -> list[Numbered]:
    """Vertebral levels and ranges, not MR weightings ("T2 hyperintense") or stages ("T3 N1")."""
    lemmas, found, read_to = sentence.lemmas, [], 0
    for index in [i for i, w in enumerate(lemmas) if w[-1] in "0123456789" and w[0] in "ctlsd"]:
        if index < read_to:
            continue
        word = lemmas[index]
        place = _level_at(sentence, index)
        if place is None:
            two = _TWO_LEVELS.match(word) if len(word) < 8 else None
            if two and None not in (pair := (level_index(two.group(1)), level_index(two.group(2)))):
                found.append(_spine(set(pair), index, index + 1))
            continue
        places, read_to = _level_sequence(sentence, index, place)
        found.append(_spine(places, index, read_to))
    return found


def find_duodenum(sentence: TokenizedSentence, families: Sequence[str]) -> list[Numbered]:
    """ "D2 diverticulum": a part of the duodenum, unless the sentence speaks of bones; ``families``: of what it names."""
    if _DUODENAL.isdisjoint(sentence.lemmas):
        return []
    found = []
    for index, word in enumerate(sentence.lemmas):
        if word in _DUODENAL and not _looks_dorsal(sentence, index) and _BONY.isdisjoint(families):
            found.append(Numbered("duodenum", frozenset({"duodenum"}), index, index + 1))
    return found


def _spine(places: set[int], first: int, last: int) -> Numbered:
    names = {"sacrum" if p >= len(LEVELS) else f"vertebrae_{LEVELS[p]}" for p in places}
    return Numbered("vertebra", frozenset(names), first, last)


def _level_at(sentence: TokenizedSentence, index: int) -> int | None:
    word = sentence.lemmas[index]
    if len(word) > 3 or word[:1] not in "ctlsd":
        return None
    place = level_index(word)
    if place is None:
        return None
    before = sentence.lemmas[index - 1] if index else ""
    after = sentence.lemmas[index + 1] if index + 1 < len(sentence.lemmas) else ""
    if before in _NOT_SPINE_BEFORE or after in _NOT_SPINE_AFTER or before in _SEGMENT_OF_LIVER:
        return None
    if word[0] == "t" and (_NODES_OF_STAGE.match(after) or _looks_like_stage(sentence, index)):
        return None
    if word[0] == "d" and not _looks_dorsal(sentence, index):
        return None
    return place


def _looks_like_stage(sentence: TokenizedSentence, index: int) -> bool:
    """ "?T3" and "at least T2" of a tumour, unless a bone is spoken of."""
    before = sentence.lemmas[index - 1] if index else ""
    after = sentence.lemmas[index + 1 : index + 3]
    spine = {"vertebra", "vertebral", "body", "level", "met", "lesion", "fracture", "metastasis", "-", "endplate"}
    return (
        place_number(sentence.lemmas[index]) <= 4
        and before in ("?", "least", "likely", "probable", "radiological")
        and not (spine & set(after))
    )


def place_number(word: str) -> int:
    """The number of a level ("t4": 4)."""
    return int(word[1:])


def _looks_dorsal(sentence: TokenizedSentence, index: int) -> bool:
    """ "D12" is a level only beside another one or a vertebra: D2 may be a part of the duodenum, D-dimer is none."""
    if place_number(sentence.lemmas[index]) > 4 and "post" not in sentence.lemmas[index + 1 : index + 2]:
        return True  # no part of the duodenum
    if not _OF_GUT.isdisjoint(sentence.lemmas):
        return False
    near = sentence.lemmas[max(0, index - 4) : index + 6]
    return any(
        w in ("vertebra", "vertebral", "body", "wedge", "fracture", "compression", "spine", "disc") for w in near
    ) or any(re.match(r"[ld]\d{1,2}$", w) for i, w in enumerate(near) if i != min(index, 4))


def _level_sequence(sentence: TokenizedSentence, first: int, place: int) -> tuple[set[int], int]:
    """All levels of "L3-4 through L5-S1", and the token after the last of them."""
    lemmas, places, current, index, end = sentence.lemmas, {place}, place, first + 1, first + 1
    while index + 1 < len(lemmas):
        sign, target = _next_of_range(lemmas, index)
        if sign is None:
            break
        following = _level_at(sentence, target)
        if following is None and sign in "-/":
            following = _next_level(lemmas[target], current)
        if following is None:
            break
        step = range(min(current, following), max(current, following) + 1)
        places.update({current, following} if sign == "/" else step)
        current, index, end = following, target + 1, target + 1
    return places, end


def _next_of_range(lemmas: list[str], index: int) -> tuple[str | None, int]:
    """The sign of a range at ``index`` ("-", "to", "/") and the token that may be its other end; no sign, no range.

    Words may stand beside "to" ("from the level of T5 down to the level of T11"), none beside the others.
    """
    if lemmas[index] in "-/":
        return lemmas[index], index + 1
    size = len(lemmas)
    while index < size and lemmas[index] in _BETWEEN_LEVELS:
        index += 1
    if index >= size or lemmas[index] not in _TO - {"-"}:
        return None, index
    index += 1
    while index < size and lemmas[index] in _BETWEEN_LEVELS:
        index += 1
    return ("to", index) if index < size else (None, index)


def _next_level(word: str, current: int) -> int | None:
    """The level of the bare number after "L4-": the next one with that number, within the region or the one below."""
    if not word.isdigit() or len(word) > 2:
        return None
    for place in range(current + 1, min(current + 13, len(LEVELS))):
        if int(LEVELS[place][1:]) == int(word):
            return place
    return None


def find_ribs(sentence: TokenizedSentence) -> list[Numbered]:
    """Ribs that are named by number. "Two rib fractures" counts fractures and names none."""
    found: list[Numbered] = []
    if _RIB_NOUNS.isdisjoint(sentence.lemmas):
        return found
    for index in [i for i, word in enumerate(sentence.lemmas) if word in _RIB_NOUNS]:
        parsed = _ribs_before(sentence, index) or _ribs_after(sentence, index)
        if parsed:
            found.append(parsed)
    return found


def _side(sentence: TokenizedSentence, index: int) -> str | None:
    return sentence.lexicon.sides.get(sentence.lemmas[index])


def _only_side_before(sentence: TokenizedSentence, first: int) -> str | None:
    """ "Thoracotomy on the right with resected fifth rib": the one side that the sentence names, before the ribs."""
    sides = {side for index in range(first) if (side := _side(sentence, index))}
    return sides.pop() if len(sides) == 1 else None


def _ribs_before(sentence: TokenizedSentence, rib: int) -> Numbered | None:
    lemmas, first = sentence.lemmas, rib
    while first > 0 and rib - first < _SCAN and _belongs_to_rib(sentence, first - 1):
        first -= 1
    window = lemmas[first:rib]
    ordinal = any(number_of(w) for w in window)
    range_of_two = any(w == "-" for w in window) and sum(w.isdigit() for w in window) >= 2
    if not ordinal and not range_of_two:
        return None
    after = (i for i in range(rib + 1, min(rib + 6, len(lemmas))) if _side(sentence, i))
    later = next((_side(sentence, i) for i in after if side_is_free(sentence, i)), None)
    segments = _rib_sequence(sentence, first, rib, later or _only_side_before(sentence, first))
    return Numbered("rib", segments, first, rib + 1) if segments else None


def _belongs_to_rib(sentence: TokenizedSentence, index: int) -> bool:
    word = sentence.lemmas[index]
    if number_of(word, cardinal=True) is not None:
        return 1 <= (number_of(word, cardinal=True) or 0) <= MAX_RIB
    return word in _RIB_POSITIONS or word in _TO or word in _AND or _side(sentence, index) is not None or word == "rib"


def ribs_under_heading(sentence: TokenizedSentence) -> frozenset[str]:
    """Ribs whose numbers open the sentence under the heading "RIBS:" ("Right 3rd-8th fractured.")."""
    numbered = _ribs_after(sentence, -1)
    return numbered.segments if numbered else frozenset()


def _ribs_after(sentence: TokenizedSentence, rib: int) -> Numbered | None:
    lemmas, last = sentence.lemmas, rib + 1
    label = rib < 0 or ":" in lemmas[rib + 1 : rib + 2]
    while (
        last < len(lemmas)
        and last < rib + 4
        and (lemmas[last] in _BEFORE_RIB_NUMBER or (label and _side(sentence, last)))
    ):
        last += 1
    start = last
    while last < len(lemmas) and last - rib < _SCAN:
        word = lemmas[last]
        number = number_of(word, cardinal=True)
        if number is not None:
            if not 1 <= number <= MAX_RIB or (last + 1 < len(lemmas) and lemmas[last + 1] in ("mm", "cm", "x")):
                break
        elif not (last > start and (word in _TO or word in _AND or (label and _side(sentence, last)))):
            break
        last += 1
    if start == last or (label and not _is_ordinal_or_range(lemmas[start:last])):
        return None
    before = next((s for i in range(start - 1, max(-1, rib - 7), -1) if (s := _side(sentence, i))), None)
    after = next((s for i in range(last, min(last + 4, len(lemmas))) if (s := _side(sentence, i))), None)
    segments = _rib_sequence(sentence, rib + 1 if label else start, last, before or after)
    return Numbered("rib", segments, rib, last) if segments else None


def _is_ordinal_or_range(words: list[str]) -> bool:
    """ "3rd" and "3-8" name ribs after a label; a bare number may count fractures ("Ribs: 2 old fractures")."""
    return any(number_of(w) for w in words) or ("-" in words and sum(w.isdigit() for w in words) >= 2)


def _rib_sequence(sentence: TokenizedSentence, first: int, last: int, side: str | None) -> frozenset[str]:
    """Ribs of the numbers in ``first`` to ``last``; a side holds for the numbers after it, the first one also before it."""
    inside = next((s for i in range(first, last) if (s := _side(sentence, i))), None)
    current, previous, ranging = inside or side, None, False
    names: set[str] = set()
    waiting: set[str] = set()  # sides since the last number: "right and left 3rd ribs"
    for index in range(first, last):
        word = sentence.lemmas[index]
        if here := _side(sentence, index):
            waiting.add(here)
            current = here if len(waiting) == 1 else "both"
        number = number_of(word, cardinal=True)
        if number is None:
            ranging = word in _TO or (ranging and word in ("the",))
            continue
        numbers = range(previous, number + 1) if ranging and previous and previous < number else (number,)
        for each in ("left", "right") if current in (None, "both") else (current,):
            names.update(f"rib_{each}_{n}" for n in numbers)
        previous, ranging = number, False
        waiting.clear()
    return frozenset(names)


def find_liver_segments(sentence: TokenizedSentence) -> list[Numbered]:
    """ "Segment 7", "segments IVa and V": the liver, in a sentence that names no lung."""
    found: list[Numbered] = []
    if _SEGMENT_OF_LIVER.isdisjoint(sentence.lemmas):
        return found
    for index, word in enumerate(sentence.lemmas[:-1]):
        if word not in _SEGMENT_OF_LIVER:
            continue
        after = index + 2 if sentence.lemmas[index + 1] == "." else index + 1
        if after < len(sentence.lemmas) and _COUINAUD.match(sentence.lemmas[after]):
            found.append(Numbered("liver", frozenset({"liver"}), index, after + 1))
    return found

"""Sentences of a passage: cut at full stops that end a statement, not at those of numbers, units and abbreviations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from .lexicon import load_lexicon, read_data

MAX_SENTENCE = 1500  # characters; text without a full stop is cut at a space, so that no step sees an endless sentence

_STOP = re.compile(r"[.!?]+[\"')\]*_]*(?=\s|$)|(?<=[^\W_])[.!?](?=[A-Z][a-z])|\n[ \t]*\n")
_WORD_BEFORE = re.compile(r"[^\s(\[,;:]+$")
_ENUMERATOR = re.compile(r"\s*(?:\(?\d{1,2}[.)]-?\)?|\d{1,2}-\))\s+(?=[^\W\d_])")
_LETTERS = re.compile(r"[^\W\d_]+")
_INITIALS = re.compile(r"(?:[a-z]\.)+[a-z]?$")
_SIDE_AT_END = re.compile(r"\b(?:to|on|the|of|than|from|at)\s[lr]$", re.IGNORECASE)  # "shift to R. Loculated fluid ..."
_SHORTEST_PROSE = 5  # letters of a word that is no abbreviation, so that a lower-case word may follow its full stop


@dataclass(frozen=True, slots=True)
class _Rules:
    units: frozenset[str]
    titles: frozenset[str]
    abbreviations: frozenset[str]
    months: frozenset[str]
    before_number: frozenset[str]
    starters: frozenset[str]
    lower_starters: frozenset[str]


@lru_cache(maxsize=1)
def _rules() -> _Rules:
    data = read_data("words")
    names = ("units", "titles", "abbreviations", "months", "before_number", "starters", "lower_starters")
    return _Rules(*(frozenset(data[name]) for name in names))


def split_sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the sentences in ``text[start:end]``, without the space around them and without list numbers."""
    position = _skip_enumerator(text, start, end)
    for match in _STOP.finditer(text, start, end):
        if match.start() < position or not _ends_sentence(text, position, match, end):
            continue
        yield from _trimmed(text, position, match.end())
        position = _skip_enumerator(text, match.end(), end)
    yield from _trimmed(text, position, end)


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without outer space; cut where it is too long; nothing where it holds no letter or digit."""
    while end - start > MAX_SENTENCE:
        cut = text.rfind(" ", start + 1, start + MAX_SENTENCE)
        cut = cut if cut > start else start + MAX_SENTENCE
        yield from _trimmed(text, start, cut)
        start = cut
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end = start + len(piece.strip())
    if start < end and (text[start].isalnum() or any(c.isalnum() for c in text[start:end])):
        yield start, end


def _skip_enumerator(text: str, start: int, end: int) -> int:
    match = _ENUMERATOR.match(text, start, end)
    return match.end() if match else start


def _ends_sentence(text: str, start: int, match: re.Match[str], end: int) -> bool:
    stop = match.group()
    if stop[0] == "\n" or match.end() >= end:
        return True
    following = text[match.end() : match.end() + 40].lstrip()
    if not following:
        return True
    if stop[0] in "!?":
        return following[0].isupper() or not following[0].isalpha()
    before = _WORD_BEFORE.search(text, max(start, match.start() - 30), match.start())
    word = before.group().lower() if before else ""
    if match.start() + 1 == match.end() and text[match.end() : match.end() + 1].isalpha():
        return len(word) > 3 and word.isalpha()  # a missing space: "normal.The spleen"
    return _full_stop_ends(word, following, text, match.start())


def _full_stop_ends(word: str, following: str, text: str, position: int) -> bool:
    """Whether a full stop after ``word`` ends the sentence, given what follows."""
    rules = _rules()
    next_word = _LETTERS.match(following)
    next_lower = next_word.group().lower() if next_word else ""
    upper = following[0].isupper()
    if word in rules.titles:
        return False
    if word in rules.before_number and following[0].isdigit():
        return False
    if word in rules.months and following[0].isdigit():
        return False
    if word in rules.units:
        return upper or following[0].isdigit()
    if word in rules.abbreviations:
        return upper and next_lower in rules.starters and word not in ("vs", "e.g", "i.e", "approx", "cf")
    if len(word) == 1 and word.isalpha():
        if upper and _SIDE_AT_END.search(text, max(0, position - 8), position):
            return load_lexicon().words.knows(next_lower)  # "to R. Smith" goes on
        return upper and next_lower in rules.starters
    if _INITIALS.fullmatch(word):
        return upper and next_lower in rules.starters
    if following[0].islower():
        prose = len(word) >= _SHORTEST_PROSE and word.isalpha() and load_lexicon().words.knows(word)
        return prose or (len(word) > 2 and next_lower in rules.lower_starters)
    return True

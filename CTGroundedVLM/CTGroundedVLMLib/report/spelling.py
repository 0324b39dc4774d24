"""Words: US spelling, singular, and the correction of slips of the keyboard in dictated reports.

The correction is the symmetric-delete scheme of SymSpell (Garbe 2012, MIT licence), for one edit and a vocabulary of a few
thousand words: re-implemented in a few lines because the package brings a frequency dictionary that is not needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

# "Th12"; in German "BWK12", "LWK3", "HWK5" for the bodies of the thoracic, lumbar and cervical vertebrae.
_EUROPEAN_LEVEL = re.compile(r"(th|[bhl]wk)(\d{1,2})$")
REGIONS = {"th": "t", "bwk": "t", "lwk": "l", "hwk": "c"}
_MIN_LENGTH = 6  # shorter words have too many neighbours one letter away
_MIN_DOUBLED = 5  # a letter that is doubled, or should be, is one too ("illiac")
_MIN_SWAP_LENGTH = 4  # two letters exchanged ("vien") is a safer sign of a slip


class _Cache(dict[str, str]):
    """Results of ``find``, each computed once; bounded for reports that are no language."""

    def __init__(self, find: Callable[[str], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, word: str) -> str:
        found = self._find(word)
        if len(self) < 200_000:
            self[word] = found
        return found


class Words:
    """``lemma`` of a lower-case word; cached, as a report repeats its words."""

    lemma: Callable[[str], str]

    def __init__(self, data: Mapping[str, object]) -> None:
        self._spelling: dict[str, str] = dict(data["spelling"])
        self._british = re.compile("|".join(map(re.escape, self._spelling)))
        self._plurals: dict[str, str] = dict(data["plurals"])
        self._keep = frozenset(data["keep"])
        self._not_typos = frozenset(data["not_typos"])
        self._vocabulary: frozenset[str] = frozenset()
        self._cache = _Cache(self._find)
        self.lemma = self._cache.__getitem__

    def set_vocabulary(self, words: Iterable[str]) -> None:
        """Words that a slip is corrected to. Earlier results are forgotten."""
        self._vocabulary = frozenset(words)
        self._cache.clear()

    def knows(self, word: str) -> bool:
        """Whether the lower-case ``word`` is one of the vocabulary, as it stands."""
        return self.base(word) in self._vocabulary

    def _find(self, word: str) -> str:
        """Singular US form; a word one letter away from a known one becomes that one."""
        found = self.base(word)
        if len(word) < 30 and word.isalpha() and found not in self._vocabulary:
            found = self._correct(word, found)
        return found

    def base(self, word: str) -> str:
        """Singular US form, without correction."""
        word = word.removesuffix("'s")
        if word in self._plurals:
            return self._plurals[word]
        if not word.isalpha():
            level = _EUROPEAN_LEVEL.match(word)
            return REGIONS[level.group(1)] + level.group(2) if level else word
        if len(word) > 30:
            return word
        if self._british.search(word):
            for british, american in self._spelling.items():
                word = word.replace(british, american)
        return self._plurals.get(word) or self._singular(word)

    def _singular(self, word: str) -> str:
        if len(word) < 4 or word in self._keep or word.endswith(("ss", "us", "is")):
            return word
        for ending, singular in (("ases", "asis"), ("oses", "osis"), ("eses", "esis"), ("yses", "ysis")):
            if word.endswith(ending) and len(word) > 7:
                return word[: -len(ending)] + singular
        if word.endswith("ies") and len(word) > 4:
            return word[:-3] + "y"
        if word.endswith(("sses", "xes", "ches", "shes")):
            return word[:-2]
        if word.endswith("ae") and len(word) > 4:
            return word[:-1]
        return word[:-1] if word.endswith("s") else word

    @cached_property
    def _deletes(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for word in self._vocabulary:
            if len(word) >= _MIN_SWAP_LENGTH:
                for shorter in _one_shorter(word):
                    index.setdefault(shorter, []).append(word)
        return index

    def _correct(self, word: str, base: str) -> str:
        if len(base) < _MIN_SWAP_LENGTH or word in self._not_typos or base in self._not_typos:
            return base
        candidates: set[str] = set(self._deletes.get(base, ()))
        for shorter in _one_shorter(base):
            if shorter in self._vocabulary:
                candidates.add(shorter)
            candidates.update(self._deletes.get(shorter, ()))
        good = [c for c in candidates if c[0] == base[0] and _is_slip(base, c)]
        # An exchange of letters explains a word better than another letter does; then the first in order, for stability.
        return min(good, key=lambda c: (sorted(c) != sorted(base), c)) if good else base


def _one_shorter(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}


def _is_slip(word: str, target: str) -> bool:
    """Whether ``target`` is one exchange, missing, extra or wrong letter away, and long enough to tell."""
    if len(word) == len(target):
        differing = [i for i, (a, b) in enumerate(zip(word, target, strict=True)) if a != b]
        if len(differing) == 2 and differing[1] == differing[0] + 1:
            i, j = differing
            return word[i] == target[j] and word[j] == target[i]
        return len(differing) == 1 and len(target) > _MIN_LENGTH
    if abs(len(word) - len(target)) != 1:
        return False
    return len(target) >= _MIN_LENGTH or (
        len(target) >= _MIN_DOUBLED and _is_doubled(max(word, target, key=len), word, target)
    )


def _is_doubled(longer: str, word: str, target: str) -> bool:
    """Whether a letter is only doubled in one of the two ("illiac")."""
    shorter = target if longer == word else word
    return any(longer[:i] + longer[i + 1 :] == shorter for i in range(1, len(longer)) if longer[i] == longer[i - 1])

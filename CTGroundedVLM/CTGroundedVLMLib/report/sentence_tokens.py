"""A sentence as the later steps see it: lemmas, the terms found in them, and where its clauses end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

from .lexicon import Lexicon, Mention, Stem
from .spelling import REGIONS
from .text import DASH, tokenize

_DIGIT = re.compile(r"\d")
_NONE: frozenset[str] = frozenset()
HEAD_REACH = 8  # tokens between a stem and its head noun, outside brackets
_FARTHEST_HEAD = 24  # tokens


@dataclass(slots=True)
class TokenizedSentence:
    """``lemmas``: one per token. ``mentions``: terms in order. ``owner``: the mention that a token belongs to, if any.
    ``kinds``: the kinds of that mention; ``all_kinds``: those in the sentence.

    ``clauses``: number of the clause that a token stands in; clauses end at "but", "except", semicolons and dashes.
    ``plural``: tokens whose word was a plural. ``numbers``: a digit stands somewhere; ``sideless``: no "left", "both", ...
    """

    lexicon: Lexicon
    lemmas: list[str]
    mentions: list[Mention]
    owner: list[Mention | None]
    kinds: list[Set[str]]
    all_kinds: frozenset[str]
    remarks: list[Mention]
    clauses: list[int]
    plural: list[bool]
    numbers: bool
    sideless: bool
    communication: bool | None = None

    def has_remark(self, kind: str) -> bool:
        """Whether the sentence holds a remark of ``kind`` ("recommendation", "communication", ...)."""
        return bool(self.remarks) and any(kind in remark.kinds for remark in self.remarks)

    @property
    def is_communication(self) -> bool:
        """Whether the sentence tells who was told what; found once."""
        if self.communication is None:
            self.communication = self._is_communication()
        return self.communication

    def _is_communication(self) -> bool:
        """Whether the sentence tells who was told what; not where that is only appended (", d/w Dr. X").

        A sentence about a person and no part of the body ("Surgeon aware at 21:15.") tells it too.
        """
        for remark in self.remarks:
            if "communication" in remark.kinds and not self._is_about_anatomy(remark):
                if remark.first and self.lemmas[remark.first - 1] in (",", ";", "--", "-", ".", "("):
                    return False
                return not self._is_appended(remark)
        if self.lexicon.grammar["persons"].isdisjoint(self.lemmas) or self.has_remark("recommendation"):
            return False
        return self.all_kinds.isdisjoint(("anatomy", "stem", "finding", "normal"))

    def _is_about_anatomy(self, remark: Mention) -> bool:
        """ "Left atrium contacted", "nodule for MDT": words that tell of persons only where no part of the body is spoken of."""
        grammar, words = self.lexicon.grammar, self.lemmas[remark.first : remark.last]
        if grammar["communication_weak"].isdisjoint(words) or not grammar["persons"].isdisjoint(self.lemmas):
            return False
        return not self.all_kinds.isdisjoint(("anatomy", "stem", "finding"))

    def _is_appended(self, remark: Mention) -> bool:
        """Whether a person is told in a last clause, after a finding: ", surgery (Dr. X) was called", ", this was called"."""
        ends = [i for i in range(remark.first) if self.lemmas[i] in (",", ";", "--")]
        told = self.lemmas[ends[-1] + 1 : remark.first] if ends else []
        grammar = self.lexicon.grammar
        if not told or (grammar["persons"].isdisjoint(told) and not grammar["anaphora"].issuperset(told)):
            return False
        said, clause = self.kinds[: ends[-1]], self.kinds[ends[-1] : remark.first]
        asserts = not all(k.isdisjoint(("finding", "anatomy", "stem")) for k in said)
        return asserts and all(k.isdisjoint(("anatomy", "stem")) for k in clause)  # "surgery" may be who is told

    def is_new_phrase(self, index: int) -> bool:
        """Whether the token begins a new noun phrase or predicate, so that it does not continue a list."""
        grammar = self.lexicon.grammar
        word = self.lemmas[index] if index < len(self.lemmas) else ""
        return word in grammar["new_phrase"] or word in grammar["verbs"] or word[:1].isdigit() or word == "#"


def read_sentence(lexicon: Lexicon, folded: str, start: int, end: int) -> TokenizedSentence:
    """Tokens, terms and clauses of ``folded[start:end]``."""
    lemmas, words = tokenize(folded, start, end, lexicon.words.lemma, lexicon.prefixes)
    if not REGIONS.keys().isdisjoint(lemmas):
        _join_levels(lemmas, words)
    mentions = lexicon.find(lemmas)
    if any("stem" in mention.kinds for mention in mentions):
        mentions = [m for m in mentions if not _waits_in_vain(lemmas, m)]
    owner: list[Mention | None] = [None] * len(lemmas)
    kinds: list[Set[str]] = [_NONE] * len(lemmas)
    for mention in mentions:
        names, first = mention.kinds.keys(), mention.first
        owner[first], kinds[first] = mention, names
        for index in range(first + 1, mention.last):
            owner[index], kinds[index] = mention, names
    remarks = lexicon.find(lemmas, remarks=True)
    all_kinds = _NONE.union(*(mention.kinds for mention in mentions))
    plural = [word[-1] in "sei" and word[-1] != lemma[-1] for word, lemma in zip(words, lemmas, strict=True)]
    one_clause = "scope_end" not in all_kinds and DASH not in lemmas
    clauses = [0] * len(lemmas) if one_clause else _clauses(lemmas, owner)
    numbers, sideless = _DIGIT.search(folded, start, end) is not None, lexicon.sides.keys().isdisjoint(lemmas)
    return TokenizedSentence(
        lexicon, lemmas, mentions, owner, kinds, all_kinds, remarks, clauses, plural, numbers, sideless
    )


def _waits_in_vain(lemmas: list[str], mention: Mention) -> bool:
    """Whether the mention is a stem like "lower" or "mid" and no head noun stands near ("lower pole", "mid gland")."""
    stem = mention.kinds.get("stem")
    if not isinstance(stem, Stem) or stem.default is not None or len(mention.kinds) > 1:
        return False
    return all(lemmas[index] not in stem.heads for index in head_places(lemmas, mention.last))


def head_places(lemmas: list[str], first: int) -> Iterator[int]:
    """Tokens from ``first`` on where the head of a stem may stand; brackets are passed over ("upper (6 mm) and lower lobes")."""
    depth, seen = 0, 0
    for index in range(first, min(first + _FARTHEST_HEAD, len(lemmas))):
        depth += (lemmas[index] == "(") - (lemmas[index - 1] == ")")
        if depth > 0:
            continue
        yield index
        seen += 1
        if seen == HEAD_REACH:
            return


def _join_levels(lemmas: list[str], words: list[str]) -> None:
    """ "Th 12" and "BWK 12" in two words are the level "t12"; changed in place."""
    for index in range(len(lemmas) - 2, -1, -1):
        if lemmas[index] in REGIONS and lemmas[index + 1].isdigit():
            lemmas[index : index + 2] = [REGIONS[lemmas[index]] + lemmas[index + 1]]
            words[index : index + 2] = [words[index] + words[index + 1]]


def _clauses(lemmas: list[str], owner: list[Mention | None]) -> list[int]:
    numbers, current = [], 0
    for lemma, mention in zip(lemmas, owner, strict=True):
        if lemma == DASH or (mention is not None and "scope_end" in mention.kinds):
            current += 1
        numbers.append(current)
    return numbers

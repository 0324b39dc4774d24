"""A sentence as the later steps see it: lemmas, the terms found in them, and where its clauses end."""

from __future__ import annotations

from dataclasses import dataclass

from .lexicon import Lexicon, Mention
from .text import DASH, tokenize

_NONE: frozenset[str] = frozenset()


@dataclass(slots=True)
class TokenizedSentence:
    """``lemmas``: one per token. ``mentions``: terms in order. ``owner``: the mention that a token belongs to, if any.
    ``kinds``: the kinds of that mention; ``all_kinds``: those in the sentence.

    ``clauses``: number of the clause that a token stands in; clauses end at "but", "except", semicolons and dashes.
    ``plural``: tokens whose word was a plural.
    """

    lexicon: Lexicon
    lemmas: list[str]
    mentions: list[Mention]
    owner: list[Mention | None]
    kinds: list[frozenset[str]]
    all_kinds: frozenset[str]
    remarks: list[Mention]
    clauses: list[int]
    plural: list[bool]

    def has_remark(self, kind: str) -> bool:
        """Whether the sentence holds a remark of ``kind`` ("recommendation", "communication", ...)."""
        return any(kind in remark.kinds for remark in self.remarks)

    @property
    def is_communication(self) -> bool:
        """Whether the sentence tells who was told what; not where that is only appended (", d/w Dr. X")."""
        for remark in self.remarks:
            if "communication" in remark.kinds:
                return remark.first == 0 or self.lemmas[remark.first - 1] not in (",", ";", "--", "-", ".", "(")
        return False

    def is_new_phrase(self, index: int) -> bool:
        """Whether the token begins a new noun phrase or predicate, so that it does not continue a list."""
        grammar = self.lexicon.grammar
        word = self.lemmas[index] if index < len(self.lemmas) else ""
        return word in grammar["new_phrase"] or word in grammar["verbs"] or word[:1].isdigit() or word == "#"


def read_sentence(lexicon: Lexicon, folded: str, start: int, end: int) -> TokenizedSentence:
    """Tokens, terms and clauses of ``folded[start:end]``."""
    tokens = tokenize(folded, start, end, lexicon.words.lemma, lexicon.prefixes)
    lemmas = [t.lemma for t in tokens]
    mentions = lexicon.find(lemmas)
    owner: list[Mention | None] = [None] * len(lemmas)
    kinds = [_NONE] * len(lemmas)
    for mention in mentions:
        owner[mention.first : mention.last] = [mention] * (mention.last - mention.first)
        kinds[mention.first : mention.last] = [frozenset(mention.kinds)] * (mention.last - mention.first)
    remarks = lexicon.find(lemmas, remarks=True)
    all_kinds = frozenset().union(*kinds)
    plural = [folded[t.end - 1] != t.lemma[-1] and folded[t.end - 1] in "sei" for t in tokens]
    clauses = _clauses(lemmas, owner)
    return TokenizedSentence(lexicon, lemmas, mentions, owner, kinds, all_kinds, remarks, clauses, plural)


def _clauses(lemmas: list[str], owner: list[Mention | None]) -> list[int]:
    numbers, current = [], 0
    for lemma, mention in zip(lemmas, owner, strict=True):
        if lemma == DASH or (mention is not None and "scope_end" in mention.kinds):
            current += 1
        numbers.append(current)
    return numbers

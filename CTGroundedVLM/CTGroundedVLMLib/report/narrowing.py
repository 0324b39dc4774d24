"""Anatomy that other words of the sentence narrow: a label, a part of the spine, the lobe of a segment."""

from __future__ import annotations

from itertools import pairwise

from .laterality import free_sides
from .sentence_tokens import TokenizedSentence
from .sites import Site

_POLES_OF_LOBES = frozenset({"upper lobe", "bases"})
_NAMED_LOBES = frozenset({
    "upper lobe", "lower lobe", "middle lobe", "right upper lobe", "right lower lobe", "left upper lobe", "left lower lobe",
})  # fmt: skip
_SEGMENT_REACH = 4  # tokens
_SEGMENT_JOINS = frozenset({"segment", "of", "the", "in", "(", ",", "left", "right", "l", "r", "lt", "rt"})


def narrow_label(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """ "Adrenals: left 2 cm adenoma": the only side in the rest of the sentence is the side of the label."""
    if ":" not in sentence.lemmas[:8]:
        return
    colon = sentence.lemmas.index(":")
    _narrow_general_label(sentence, sites, colon)
    labels = [s for s in sites if s.last <= colon and not s.numbered and s.structure.paired and s.side is None]
    sides = free_sides(sentence)
    if labels and len(sides) == 1 and (side := sides.pop()) != "both":
        for site in labels:
            site.side, site.segments = side, site.structure.segments(side)


def _narrow_general_label(sentence: TokenizedSentence, sites: list[Site], colon: int) -> None:
    """ "Lung bases: 5 mm nodule LLL": the label only says which chapter it is, unless the rest is said to be normal."""
    if not sentence.all_kinds.isdisjoint(("normal", "negation_before", "negation_after")):
        return
    for label in [s for s in sites if s.last <= colon]:
        for site in sites:
            if site.first > colon and site.family == label.family and site.segments and site.segments < label.segments:
                label.segments = frozenset()


def narrow_spine(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """ "Thoracic kyphosis, no vertebral collapse": a vertebra without a level beside a part of the spine is one of that part."""
    regions = [s for s in sites if s.id.endswith(" spine") and s.segments]
    if not regions or ";" in sentence.lemmas:
        return
    segments = frozenset().union(*(s.segments for s in regions))
    for site in sites:
        if site.id == "vertebra" and not site.numbered:
            site.segments &= segments


def settle_lobes(sentence: TokenizedSentence, lung: list[Site]) -> None:
    """ "Apical segment of the LLL": the lobe that follows a segment says which one's segment it is."""
    for one, other in pairwise(lung):
        gap = sentence.lemmas[one.last : other.first]
        of_lobe = one.id in _POLES_OF_LOBES and other.id in _NAMED_LOBES and len(gap) <= _SEGMENT_REACH
        if of_lobe and _SEGMENT_JOINS.issuperset(gap) and "segment" in sentence.lemmas[one.first : other.first]:
            one.segments &= other.segments

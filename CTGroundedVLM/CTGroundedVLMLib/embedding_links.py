"""Fallback for sentences that name no segment: the model's text tower guesses. Off by default, and every guess is marked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch

from .anatomy import segment
from .linking import link
from .types import Report, Segmentation, SentenceLink

# [R] Judgements, not fitted on data: no trained model was at hand. A guess must be near in absolute terms, and nearer than
# the segments are on average, since text embeddings of one model often lie close together as a whole.
MIN_COSINE, MIN_LEAD = 0.6, 0.15


def link_with_guesses(
    report: Report,
    segmentation: Segmentation,
    organs: Mapping[str, tuple[str, ...]],
    encode_text: Callable[[Sequence[str]], torch.Tensor],
) -> tuple[SentenceLink, ...]:
    """Like ``linking.link``, with a guessed segment for sentences that assert a finding but name no segment.

    Only segments of this mask are guessed, from their display names; a guess has ``source`` "embedding".
    """
    guesses = guess_segments(report, segmentation, encode_text)
    sentences = [
        dataclasses.replace(sentence, segments=guesses.get(index, sentence.segments))
        for index, sentence in enumerate(report.sentences)
    ]
    links = link(Report(report.text, tuple(sentences)), segmentation, organs)
    return tuple(dataclasses.replace(x, source="embedding") if x.sentence in guesses else x for x in links)


def guess_segments(
    report: Report, segmentation: Segmentation, encode_text: Callable[[Sequence[str]], torch.Tensor]
) -> dict[int, tuple[str, ...]]:
    """Sentence index -> the one segment whose display name is nearest to the sentence, where it is near enough."""
    names = sorted(set(segmentation.names.values()))
    open_ones = [i for i, sentence in enumerate(report.sentences) if sentence.findings and not sentence.segments]
    if not names or not open_ones:
        return {}
    texts = [report.text[report.sentences[i].start : report.sentences[i].end] for i in open_ones]
    cosine_SN = encode_text(texts) @ encode_text([f"{segment(name).display}." for name in names]).T
    best, where = cosine_SN.max(1)
    lead = best - cosine_SN.mean(1)
    return {
        index: (names[int(n)],)
        for index, n, value, ahead in zip(open_ones, where, best.tolist(), lead.tolist(), strict=True)
        if value >= MIN_COSINE and ahead >= MIN_LEAD
    }

"""Which parts of a report's text are links, to what, and in which segment's colour. Plain Python.

Qt counts positions in UTF-16 units, a report's sentences in characters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..anatomy import segment_classes
from ..types import Sentence, SentenceLink

# what QTextDocument reads as a break of a block or would swallow, and lone surrogates, which no text widget can show
_REPLACED = re.compile(r"[\r\ufdd0\ufdd1\u2029\x00]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Span:
    """A clickable part of the text, [start, end) in UTF-16 units.

    ``target``: "sentence:N" or "citation:N:M". ``segment``: class name whose colour it takes, None without a segment of
    this CT. ``tip``: what is shown when the mouse rests there.
    """

    start: int
    end: int
    target: str
    segment: str | None
    tip: str


def display_text(text: str) -> str:
    """The text as a text widget can hold it, character by character: no offset moves."""
    return _SURROGATES.sub("\ufffd", _REPLACED.sub(" ", text))


def broken_text(text: str, longest: int) -> str:
    """``text`` with breaks in place of spaces where a line is longer than ``longest``: no offset moves.

    Text widgets lay a whole line out at every change of it, which takes minutes for a megabyte. Where a sentence ends is the
    best place; a line without spaces stays.
    """
    return "\n".join(_broken_line(line, longest) for line in text.split("\n"))


def _broken_line(line: str, longest: int) -> str:
    pieces, start = [], 0
    while len(line) - start > longest:
        at = line.rfind(". ", start + longest // 2, start + longest) + 1 or line.rfind(" ", start, start + longest)
        if at <= start:
            at = line.find(" ", start + longest)
        if at < 0:
            break
        pieces.append(line[start:at])
        start = at + 1
    return "\n".join([*pieces, line[start:]])


@functools.cache
def _displays() -> dict[str, str]:
    return {segment_class.name: segment_class.display for segment_class in segment_classes()}


def segment_display(name: str) -> str:
    """A class's name for readers: the registry's, or its own without underscores."""
    return _displays().get(name) or name.replace("_", " ")


def utf16_length(text: str) -> int:
    """The length of a text in UTF-16 units."""
    if text.isascii() or max(text, default="") <= "\uffff":
        return len(text)
    return sum(1 + (character > "\uffff") for character in text)


def sentence_spans(
    number: int, sentence: Sentence, link: SentenceLink | None, unit_of: Callable[[int], int]
) -> list[Span]:
    """The span of a sentence that is linked or names a finding, then those of its citations, which are drawn over it.

    Args:
        unit_of: the position in UTF-16 units of a character of the report.
    """
    if link is None and not sentence.findings and not sentence.citations:
        return []
    segment = link.segments[0] if link and link.segments else None
    tip = "\n".join(sentence_details(sentence, link))
    spans = [Span(unit_of(sentence.start), unit_of(sentence.end), f"sentence:{number}", segment, tip)]
    for index, citation in enumerate(sentence.citations):
        tip = f"Go to image {citation.image}" + (f" of series {citation.series}" if citation.series else "")
        place = unit_of(citation.start), unit_of(citation.end)
        spans.append(Span(*place, f"citation:{number}:{index}", segment, tip))
    return spans


def sentence_details(sentence: Sentence, link: SentenceLink | None) -> list[str]:
    """What was read from a sentence, one line each."""
    lines = []
    if link and link.segments:
        guess = " (a guess of the text model)" if link.source == "embedding" else ""
        lines.append("Segments: " + ", ".join(segment_display(name) for name in link.segments) + guess)
    if link and link.missing_segments:
        missing = ", ".join(segment_display(name) for name in link.missing_segments)
        lines.append(f"Not in this segmentation: {missing}")
    if sentence.findings:
        lines.append("Says: " + ", ".join(f"{finding.name} ({finding.status})" for finding in sentence.findings))
    if sentence.measurements:
        sizes = (" × ".join(f"{value:g}" for value in m.values_mm) + " mm" for m in sentence.measurements)
        lines.append("Measured: " + ", ".join(sizes))
    if sentence.comparison_only:
        lines.append("Speaks of an earlier examination only")
    return lines

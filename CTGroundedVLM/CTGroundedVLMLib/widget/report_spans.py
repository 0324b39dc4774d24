"""Which parts of a report's text are links, to what, and in which segment's colour. Plain Python.

Qt counts positions in UTF-16 units, a report's sentences in characters.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..anatomy import segment_classes
from ..types import Citation, Sentence, SentenceLink

# what QTextDocument reads as a break of a block or would swallow, and lone surrogates, which no text widget can show
_REPLACED = re.compile(r"[\r\ufdd0\ufdd1\u2029\x00]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_STOP = re.compile(r"[\u3002\uff0e\uff01\uff1f](?![\u3002\uff0e\uff01\uff1f])")  # ends a sentence of East Asian writing


@dataclass(frozen=True)
class Span:
    """A clickable part of the text, [start, end) in the units of who asked for it.

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


class ShownText:
    """A report as a text widget shows it: long lines are broken, for Qt lays a whole line out at every change of it.

    ``text``: what is shown. A break takes the place of a space, best after a sentence, so that nothing moves; a line
    without spaces (a language that has none) gets further characters, whose places ``position`` allows for.
    """

    def __init__(self, text: str, longest: int) -> None:
        self._inserted: list[int] = []  # characters of the report before which a break was put in
        lines, start = [], 0
        for line in text.split("\n"):
            lines.append(self._broken(line, start, longest))
            start += len(line) + 1
        self.text = "\n".join(lines)

    def position(self, character: int) -> int:
        """Where a character of the report stands in ``text``."""
        return character + bisect.bisect_right(self._inserted, character)

    def _broken(self, line: str, offset: int, longest: int) -> str:
        pieces, start = [], 0
        while len(line) - start > longest:
            at = line.rfind(". ", start + longest // 2, start + longest) + 1 or line.rfind(" ", start, start + longest)
            if at > start:
                pieces.append(line[start:at])
                start = at + 1
                continue
            stop = _STOP.search(line, start + longest // 2, start + longest)
            at = stop.end() if stop else start + longest
            pieces.append(line[start:at])
            self._inserted.append(offset + at)
            start = at
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
    number: int, sentence: Sentence, link: SentenceLink | None, position: Callable[[int], int]
) -> list[Span]:
    """The span of a sentence that is linked or names a finding, then those of its citations, which are drawn over it.

    Args:
        position: where a character of the report is shown.
    """
    if link is None and not sentence.findings and not sentence.citations:
        return []
    segment = link.segments[0] if link and link.segments else None
    tip = "\n".join(sentence_details(sentence, link))
    spans = [Span(*extent(sentence, position), f"sentence:{number}", segment, tip)]
    for index, citation in enumerate(sentence.citations):
        tip = f"Go to image {citation.image}" + (f" of series {citation.series}" if citation.series else "")
        spans.append(Span(*extent(citation, position), f"citation:{number}:{index}", segment, tip))
    return spans


def extent(part: Sentence | Citation, position: Callable[[int], int]) -> tuple[int, int]:
    """Where a part of the report is shown: up to behind its last character, before a break that was put in there."""
    start = position(part.start)
    return start, position(part.end - 1) + 1 if part.end > part.start else start


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

"""Lines of a report: list items, and hard-wrapped paragraphs joined to one line each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .headings import LONGEST_HEADING, section_of

BULLET = re.compile(
    r"\s*(?:[-*+•·▪◦‣●■–—>➢✓]+(?=\s)|[•·▪◦‣●■➢]|\(?\d{1,2}[.)](?:-?\))?(?=\s)|\d{1,2}\s?-\)|\d{1,2}(?=\s?-\s)\s?-|\(?[a-h][.)](?=\s)"
    r"|\(?(?:i{1,3}|iv|v|vi{1,3})[.)](?=\s)|#\d{1,2}(?=\s))\s*"
)
_BREAKS_OFF = re.compile(r"[^\W\d_]{3}[.!?]\s[^.!?:;]*[^.!?:;\s]$")
_SHORTEST_WRAPPED = 30  # characters; a shorter line ends where its author ended it
_NARROWEST, _WIDEST = 50, 140  # characters of a line that a machine breaks
_NEARLY_FULL = 12  # characters
_FULL_LINES = 3
_SLACK = 4  # characters by which wrapped lines of prose fall short of the longest one
_NEVER_LAST = frozenset({
    "a", "an", "the", "of", "at", "in", "with", "and", "or", "to", "from", "for", "by", "on", "is", "are", "was", "were", "be",
    "been", "has", "have", "no", "both", "than", "which", "that", "there", "as", "into", "within", "between", "may", "likely",
    "mild", "moderate", "small", "large", "multiple", "several", "involving", "measuring", "without", "its", "their", "this",
})  # fmt: skip


@dataclass(slots=True)
class Line:
    start: int
    end: int
    blank_before: bool = False


def read_lines(text: str) -> list[Line]:
    """Lines, with those of a hard-wrapped paragraph joined. Blank lines are only noted."""
    spans = [(m.start(), m.end()) for m in re.finditer(r"[^\r\n]+", text)]
    spans = [(a, b) for a, b in spans if not text[a:b].isspace()]
    width = _wrap_width(text, spans)
    joined: list[Line] = []
    end_before = 0
    for index, (start, end) in enumerate(spans):
        gap = text[end_before:start].replace("\r\n", "\n").replace("\r", "\n")
        blank = gap.count("\n") > 1 or index == 0
        if joined and not blank and _is_wrapped(text, spans[index - 1], (start, end), width):
            joined[-1].end = end
        else:
            joined.append(Line(start, end, blank))
        end_before = end
    for line in joined:
        line.start += len(text[line.start : line.end]) - len(text[line.start : line.end].lstrip())
        line.end -= len(text[line.start : line.end]) - len(text[line.start : line.end].rstrip())
    return joined


def _wrap_width(text: str, spans: list[tuple[int, int]]) -> int:
    """The width at which lines are broken; 0 where each line ends where its author ended it.

    Broken lines go on in lower case here and there, or, in capitals, most of them are about as long as the longest one.
    """
    width = max((b - a for a, b in spans), default=0)
    if not _NARROWEST <= width <= _WIDEST:
        return 0
    if any(text[a:b].lstrip()[0].islower() for a, b in spans[1:]):
        return width
    full = sum(b - a > width - _NEARLY_FULL for a, b in spans)
    return width if full >= max(_FULL_LINES, len(spans) / 3) else 0


def _is_wrapped(text: str, before: tuple[int, int], line: tuple[int, int], width: int) -> bool:
    """Whether ``line`` goes on with the sentence of the line before it: it begins in lower case, or the line before was full."""
    previous, current = text[before[0] : before[1]].rstrip(), text[line[0] : line[1]].lstrip()
    if not previous or not current or BULLET.match(text, *line) or previous.endswith((":", "=")):
        return False
    if len(previous) < LONGEST_HEADING and section_of(previous, exact=True):
        return False
    if section_of(current.split(":")[0], exact=":" not in current):
        return False
    first = current.split(maxsplit=1)[0]
    full = width > 0 and len(previous) + 1 + len(first) > width - _SLACK
    if len(previous) > _SHORTEST_WRAPPED and _BREAKS_OFF.search(
        previous
    ):  # a statement begins within the line and goes on
        return True
    if previous[-1] in ".!?" or not (current[0].isalnum() or current[0] in "([\"'"):
        return False
    if current[0].islower() and (len(previous) > 40 or previous[-1] == ","):
        return True
    return (full and len(previous) > 40) or (_waits_for_more(previous) and len(previous) > _SHORTEST_WRAPPED)


def _waits_for_more(line: str) -> bool:
    """Whether the line ends in a word that no statement ends in: "disc protrusion at"."""
    return line.rsplit(maxsplit=1)[-1].lower() in _NEVER_LAST

"""Layout of a report: its sections, headings, list items and paragraphs.

``read_layout`` turns the text into passages: stretches of running text (a paragraph, a list item, a line after a label) with
the section that they stand in and the heading above them. Headings belong to no passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..types import Section
from .headings import LONGEST_HEADING, MARKUP, heading_key, headings, is_plain_label, section_of, states_something
from .lines import BULLET, Line, read_lines
from .text import fold

_NOT_CAPITAL = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
_NOT_SMALL = bytes(set(range(256)) - set(b"abcdefghijklmnopqrstuvwxyz"))
_LABEL = re.compile(r"[ \t#*_>|]*([^\W_][^\n:]{0,60}?)[ \t*_]*(:)[ \t*_]*")
_INLINE_LABEL = re.compile(r"(?<=[.!?;\])])[ \t]+([A-Z][A-Za-z/&(), -]{1,40}?)[ \t]?:(?=\s)")
_LEAD = re.compile(r"([a-z]+(?: [a-z]+){0,3})([ \t]*[-–][ \t]+|[ \t]+)(?=\S)")
_TRAIL = re.compile(r"[.!?]['\")\]]*$")
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]*\s*$")
_FEW_LABELS = 5  # lines of a report for one with a label; where fewer have one, labels belong to their statements
_SHORT_LINE = 100  # characters
_SHORT_TITLE = 2  # words; over bullets even the name of a finding is a heading ("Metastases")
_BEFORE_FINDINGS = ("indication", "technique", "comparison")


@dataclass(slots=True)
class Passage:
    """Running text ``[start, end)``. ``label``: the heading above it, as a span; ``bullet``: it is a list item.

    ``lead``: the heading is part of the sentence ("Indication cough"). ``opens_section``: the first one under its heading.
    ``before_headings``: no heading stands above it.
    """

    start: int
    end: int
    section: Section
    label: tuple[int, int] | None = None
    bullet: bool = False
    lead: bool = False
    opens_section: bool = True
    before_headings: bool = False


@dataclass(slots=True)
class _Reader:
    text: str
    all_capitals: bool
    passages: list[Passage] = field(default_factory=list)
    section: Section = "findings"
    label: tuple[int, int] | None = None
    heading_seen: bool = False
    rare_labels: bool = False

    def read(self) -> list[Passage]:
        lines = list(read_lines(self.text))
        matches = [m for line in lines if (m := _match_label(self.text, line.start, line.end))]
        labelled = sum(m.end() < len(self.text) and section_of(m.group(1)) is None for m in matches)
        self.rare_labels = len(lines) > _FEW_LABELS * labelled
        for number, line in enumerate(lines):
            following = lines[number + 1] if number + 1 < len(lines) else None
            self._line(line, following)
        return self.passages

    def _line(self, line: Line, following: Line | None) -> None:
        start, end = line.start, line.end
        bullet = BULLET.match(self.text, start, end)
        body = bullet.end() if bullet else start
        if body >= end or not MARKUP.sub("", self.text[body:end]).strip("-"):
            return
        if self._heading_line(body, end, bullet is not None, following):
            return
        rest = self._label(body, end, bullet is not None)
        if rest is None:
            self._add(body, end, bullet is not None, line.blank_before)
        elif rest < end:
            self._add(rest, end, False, True)

    def _heading_line(self, start: int, end: int, bullet: bool, following: Line | None) -> bool:
        """A line that is nothing but a heading or a title: note what it opens."""
        content = self.text[start:end].strip()
        bare = len(content) < LONGEST_HEADING and not _TRAIL.search(content) and ":" not in content.rstrip(": *_")
        section = section_of(content, exact=not content.endswith(":")) if bare else None
        if section:
            self._open(section)
            return True
        if bullet or _TRAIL.search(content):
            return False
        if not self.passages and not self.heading_seen and self._is_title(content):
            return True
        if self._is_subheading(content, following):
            self._open_sub((start, end))
            return True
        return False

    def _is_title(self, content: str) -> bool:
        words = re.findall(r"[a-z/]+", fold(content))
        if ":" in content or not words or len(words) > 16:
            return False
        capitals = content.upper() == content and not self.all_capitals
        return capitals or bool(headings().title_words.intersection(words)) or content.startswith("#")

    def _is_subheading(self, content: str, following: Line | None) -> bool:
        key = heading_key(content)
        words = key.split()
        if not words or len(words) > 7 or any(c.isdigit() for c in key) or key.startswith("no "):
            return False
        if content.endswith(":") or content.startswith("#") or (content.startswith("**") and content.endswith("**")):
            return True
        if key in headings().sub:
            return True
        capitals = content.upper() == content and not self.all_capitals and content.lower() != content
        bullets = following is not None and BULLET.match(self.text, following.start, following.end) is not None
        if not (capitals or bullets):
            return False
        return not states_something(key, findings=not (bullets and len(words) <= _SHORT_TITLE))

    def _label(self, start: int, end: int, bullet: bool) -> int | None:
        """Where the text after a leading label begins; None when the line starts with none."""
        match = _match_label(self.text, start, end)
        if match is None:
            return self._lead(start, end, bullet)
        label, after = match.group(1), match.end()
        section = section_of(label)
        if section and not (bullet and section == "other"):
            self._open(section)
            return after
        key = heading_key(label)
        if key in headings().skip and not self.passages:
            return end
        if bullet or not is_plain_label(label) or self._inside_sentence(start):
            return None
        if self.rare_labels and self._is_part_of_statement(label, key, end - start):
            return None
        self._open_sub(match.span(1))
        return after

    def _is_part_of_statement(self, label: str, key: str, length: int) -> bool:
        """ "Spleen: two infarcts" among short lines without labels, where no other line has one either."""
        quiet = not label.isupper() or self.all_capitals
        return quiet and key not in headings().sub and length < _SHORT_LINE and self.heading_seen

    def _lead(self, start: int, end: int, bullet: bool) -> int | None:
        """A heading without a colon: before a dash it is one, else it stays in the sentence ("Impression colitis")."""
        if bullet or self._inside_sentence(start):
            return None
        section, after = self._leading_words(start, end)
        if section is None:
            return None
        early = not any(p.section not in _BEFORE_FINDINGS for p in self.passages)
        dash = self.text[start : start + after].rstrip()[-1] in "-–"
        if (section in _BEFORE_FINDINGS and not early) or not (dash or self.text[start].isupper()):
            return None
        self._open(section)
        if dash:
            return start + after
        self._add(start, end, False, True, lead=True)
        return end

    def _leading_words(self, start: int, end: int) -> tuple[Section | None, int]:
        """The section that the first words of a line name, the most words first, and the length of words and dash."""
        folded, leads = fold(self.text[start : min(end, start + 60)]), headings().leads
        match = _LEAD.match(folded)
        while match is not None:
            if match.group(1) in leads:
                return leads[match.group(1)], match.end()
            shorter = match.group(1).rpartition(" ")[0]
            match = _LEAD.match(folded, 0, len(shorter) + 2) if shorter else None
        return None, 0

    def _inside_sentence(self, start: int) -> bool:
        """Whether the line continues a sentence of the line before."""
        if not self.passages or "\n\n" in self.text[self.passages[-1].end : start].replace("\r", ""):
            return False
        last = self.passages[-1]
        if last.bullet or last.end - last.start <= 55:
            return False
        return not _SENTENCE_END.search(self.text[last.start : last.end][-80:])

    def _open(self, section: Section) -> None:
        self.section, self.label, self.heading_seen = section, None, True

    def _open_sub(self, span: tuple[int, int]) -> None:
        if self.section in _BEFORE_FINDINGS:
            self.section = "findings"
        self.label, self.heading_seen = span, True

    def _add(self, start: int, end: int, bullet: bool, blank: bool, lead: bool = False) -> None:
        previous = self.passages[-1] if self.passages else None
        if previous is not None and self._leaves_preamble(previous, start, bullet, blank, lead):
            self.section = "findings"
        if previous is not None and blank and not bullet and previous.label == self.label:
            between = self.text[previous.end : start].replace("\r", "")
            self.label = None if "\n\n" in between else self.label
        for piece_start, piece_end in self._pieces(start, end):
            opens = not self.passages or self.passages[-1].section != self.section
            self.passages.append(
                Passage(piece_start, piece_end, self.section, self.label, bullet, lead, opens, not self.heading_seen)
            )

    def _leaves_preamble(self, previous: Passage, start: int, bullet: bool, blank: bool, lead: bool) -> bool:
        """Whether findings begin without a heading: in a new paragraph, or after a dictated "Indication ..."."""
        if self.section not in _BEFORE_FINDINGS:
            return False
        if previous.lead and not lead:
            return True
        both_plain = blank and not bullet and not previous.bullet
        return both_plain and previous.section == self.section and "\n" in self.text[previous.end : start]

    def _pieces(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The line cut at headings in its middle ("... normal. IMPRESSION: ..."), which open their sections."""
        position = start
        for match in _INLINE_LABEL.finditer(self.text, start, end):
            label = match.group(1)
            section = section_of(label)
            loud = label.upper() == label and len(label) > 2 and not self.all_capitals
            if not section and not (loud and not any(c.isdigit() for c in label)):
                continue
            yield position, match.start()
            if section:
                self._open(section)
            else:
                self._open_sub(match.span(1))
            position = match.end()
        yield position, end


def _match_label(text: str, start: int, end: int) -> re.Match[str] | None:
    """The label that opens a line, up to its colon."""
    return _LABEL.match(text, start, end) if text.find(":", start, min(end, start + _SHORT_LINE)) >= 0 else None


def is_all_capitals(text: str) -> bool:
    """Whether the report is written in capitals, so that capitals mark no heading."""
    sample = text[:5000].encode("ascii", "ignore")
    capitals, small = len(sample.translate(None, _NOT_CAPITAL)), len(sample.translate(None, _NOT_SMALL))
    return capitals > 0.85 * (capitals + small)


def read_layout(text: str) -> list[Passage]:
    """Passages of the report in order. Without any heading all of it counts as findings."""
    return _Reader(text, is_all_capitals(text)).read()

"""Layout of a report: its sections, headings, list items and paragraphs.

``read_layout`` turns the text into passages: stretches of running text (a paragraph, a list item, a line after a label) with
the section that they stand in and the heading above them. Headings belong to no passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from ..types import Section
from .lexicon import load_lexicon, read_data
from .text import fold

_BULLET = re.compile(
    r"\s*(?:[-*+•·▪◦‣●■–—>➢✓]+(?=\s)|[•·▪◦‣●■➢]|\(?\d{1,2}[.)](?:-?\))?(?=\s)|\d{1,2}\s?-\)|\d{1,2}(?=\s?-\s)\s?-|\(?[a-h][.)](?=\s)"
    r"|\(?(?:i{1,3}|iv|v|vi{1,3})[.)](?=\s)|#\d{1,2}(?=\s))\s*"
)
_MARKUP = re.compile(r"[#*_=~`\s|]+")
_LABEL = re.compile(r"[ \t#*_>|]*([^\W_][^\n:]{0,60}?)[ \t*_]*(:)[ \t*_]*")
_INLINE_LABEL = re.compile(r"(?<=[.!?;\])])[ \t]+([A-Z][A-Za-z/&(), -]{1,40}?)[ \t]?:(?=\s)")
_LEAD = re.compile(r"([a-z]+(?: [a-z]+){0,3}?)(?:[ \t]*[-–][ \t]+|[ \t]+)(?=\S)")
_TRAIL = re.compile(r"[.!?]['\")\]]*$")
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]*\s*$")
_LONGEST_HEADING = 60  # characters
_NEVER_LAST = frozenset(
    {"a", "an", "the", "of", "at", "in", "with", "and", "or", "to", "from", "for", "by", "on", "is", "are"}
)
_BEFORE_FINDINGS = ("indication", "technique", "comparison")


@dataclass(slots=True)
class Passage:
    """Running text ``[start, end)``. ``label``: the heading above it, as a span; ``bullet``: it is a list item.

    ``lead``: the heading is part of the sentence ("Indication cough"). ``opens_section``: the first one under its heading.
    """

    start: int
    end: int
    section: Section
    label: tuple[int, int] | None = None
    bullet: bool = False
    lead: bool = False
    opens_section: bool = True


@dataclass(slots=True)
class _Line:
    start: int
    end: int
    blank_before: bool = False


@dataclass(frozen=True, slots=True)
class _Headings:
    section: Mapping[str, Section]
    skip: frozenset[str]
    sub: frozenset[str]
    title_words: frozenset[str]
    leads: Mapping[str, Section]


@lru_cache(maxsize=1)
def _headings() -> _Headings:
    data = read_data("headings")
    section = {name: kind for kind, names in data["sections"].items() for name in names}
    return _Headings(
        section, frozenset(data["skip"]), frozenset(data["subheadings"]), frozenset(data["title_words"]), data["leads"]
    )


@lru_cache(maxsize=1024)
def _key(label: str) -> str:
    """A label as it stands in the vocabulary: folded, without markup, numbers and trailing signs."""
    key = _MARKUP.sub(" ", fold(label)).strip(" .:-()[]")
    key = re.sub(r"^\d{1,2}[.)]?\s+", "", key)
    return key.replace(" & ", " and ").replace("tumour", "tumor").replace("oncological", "oncologic")


@lru_cache(maxsize=1024)
def section_of(label: str, exact: bool = False) -> Section | None:
    """The section that a heading opens, if it opens one ("FINDINGS (CT chest)" opens findings).

    Unless ``exact``, more words may follow the name of the section ("Findings in the abdomen:").
    """
    names = _headings().section
    key = _key(re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*", " ", label))
    if key in names:
        return names[key]
    first = re.match(r"(findings|impression|conclusion|technique|comparison|indication)s?\b", key)
    if first and len(key.split()) <= 6 and not exact:
        return names[first.group(1)]
    return None


@dataclass(slots=True)
class _Reader:
    text: str
    all_capitals: bool
    passages: list[Passage] = field(default_factory=list)
    section: Section = "findings"
    label: tuple[int, int] | None = None
    heading_seen: bool = False

    def read(self) -> list[Passage]:
        lines = list(_lines(self.text))
        for number, line in enumerate(lines):
            following = lines[number + 1] if number + 1 < len(lines) else None
            self._line(line, following)
        return self.passages

    def _line(self, line: _Line, following: _Line | None) -> None:
        start, end = line.start, line.end
        bullet = _BULLET.match(self.text, start, end)
        body = bullet.end() if bullet else start
        if body >= end or not _MARKUP.sub("", self.text[body:end]).strip("-"):
            return
        if self._heading_line(body, end, bullet is not None, following):
            return
        rest = self._label(body, end, bullet is not None)
        if rest is None:
            self._add(body, end, bullet is not None, line.blank_before)
        elif rest < end:
            self._add(rest, end, False, True)

    def _heading_line(self, start: int, end: int, bullet: bool, following: _Line | None) -> bool:
        """A line that is nothing but a heading or a title: note what it opens."""
        content = self.text[start:end].strip()
        bare = len(content) < _LONGEST_HEADING and not _TRAIL.search(content) and ":" not in content.rstrip(": *_")
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
        return capitals or bool(_headings().title_words.intersection(words)) or content.startswith("#")

    def _is_subheading(self, content: str, following: _Line | None) -> bool:
        key = _key(content)
        words = key.split()
        if not words or len(words) > 7 or any(c.isdigit() for c in key) or key.startswith("no "):
            return False
        if content.endswith(":") or content.startswith("#") or (content.startswith("**") and content.endswith("**")):
            return True
        if key in _headings().sub:
            return True
        capitals = content.upper() == content and not self.all_capitals and content.lower() != content
        bullets = following is not None and _BULLET.match(self.text, following.start, following.end) is not None
        if not (capitals or bullets):
            return False
        return not _states_something(key)

    def _label(self, start: int, end: int, bullet: bool) -> int | None:
        """Where the text after a leading label begins; None when the line starts with none."""
        match = _LABEL.match(self.text, start, end)
        if match is None:
            return self._lead(start, end, bullet)
        label, after = match.group(1), match.end()
        section = section_of(label)
        if section and not (bullet and section == "other"):
            self._open(section)
            return after
        key = _key(label)
        if key in _headings().skip and not self.passages:
            return end
        if bullet or not _is_plain_label(label) or self._inside_sentence(start):
            return None
        self._open_sub(match.span(1))
        return after

    def _lead(self, start: int, end: int, bullet: bool) -> int | None:
        """A heading without a colon: before a dash it is one, else it stays in the sentence ("Impression colitis")."""
        if bullet or self._inside_sentence(start):
            return None
        match = _LEAD.match(fold(self.text[start : min(end, start + 60)]))
        leads = _headings().leads
        early = not any(p.section not in _BEFORE_FINDINGS for p in self.passages)
        if match is None or match.group(1) not in leads:
            return None
        section, dash = leads[match.group(1)], match.group(0).rstrip()[-1] in "-–"
        if (section in _BEFORE_FINDINGS and not early) or not (dash or self.text[start].isupper()):
            return None
        self._open(section)
        if dash:
            return start + match.end()
        self._add(start, end, False, True, lead=True)
        return end

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
            self.passages.append(Passage(piece_start, piece_end, self.section, self.label, bullet, lead, opens))

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


def _is_plain_label(label: str) -> bool:
    """A heading names things: no number, no sentence, few words."""
    words = label.split()
    return len(words) <= 7 and not any(c.isdigit() for c in label) and not re.search(r"[.!?]\s", label)


def _states_something(key: str) -> bool:
    """Whether a line without a full stop is a statement rather than a heading."""
    lexicon = load_lexicon()
    kinds = {k for mention in lexicon.find(lexicon.lemmas(key)) for k in mention.kinds}
    return bool(kinds & {"finding", "normal", "negation_before", "negation_after"})


def _lines(text: str) -> list[_Line]:
    """Lines, with those of a hard-wrapped paragraph joined. Blank lines are only noted."""
    spans = [(m.start(), m.end()) for m in re.finditer(r"[^\r\n]+", text)]
    spans = [(a, b) for a, b in spans if not text[a:b].isspace()]
    width = max((b - a for a, b in spans), default=0)
    joined: list[_Line] = []
    end_before = 0
    for index, (start, end) in enumerate(spans):
        gap = text[end_before:start].replace("\r\n", "\n").replace("\r", "\n")
        blank = gap.count("\n") > 1 or index == 0
        if joined and not blank and _is_wrapped(text, spans[index - 1], (start, end), width):
            joined[-1].end = end
        else:
            joined.append(_Line(start, end, blank))
        end_before = end
    for line in joined:
        line.start += len(text[line.start : line.end]) - len(text[line.start : line.end].lstrip())
        line.end -= len(text[line.start : line.end]) - len(text[line.start : line.end].rstrip())
    return joined


def _is_wrapped(text: str, before: tuple[int, int], line: tuple[int, int], width: int) -> bool:
    """Whether ``line`` goes on with the sentence of the line before it: it begins in lower case, or the line before was full."""
    previous, current = text[before[0] : before[1]].rstrip(), text[line[0] : line[1]].lstrip()
    if not previous or not current or _BULLET.match(text, *line) or previous.endswith((":", "=")):
        return False
    if len(previous) < _LONGEST_HEADING and section_of(previous, exact=True):
        return False
    if section_of(current.split(":")[0], exact=":" not in current):
        return False
    first = re.match(r"\S+", current).group()
    full = 50 <= width <= 140 and len(previous) + 1 + len(first) > width
    if previous[-1] in ".!?" or not (current[0].isalnum() or current[0] in "([\"'"):
        return False
    if current[0].islower() and (len(previous) > 40 or previous[-1] == ","):
        return True
    return (full or _waits_for_more(previous)) and len(previous) > 40


def _waits_for_more(line: str) -> bool:
    """Whether the line ends in a word that no statement ends in: "disc protrusion at"."""
    return line.rsplit(maxsplit=1)[-1].lower() in _NEVER_LAST


def is_all_capitals(text: str) -> bool:
    """Whether the report is written in capitals, so that capitals mark no heading."""
    sample = text[:5000]
    letters = sum(map(str.isalpha, sample))
    return letters > 0 and sum(map(str.isupper, sample)) > 0.85 * letters


def read_layout(text: str) -> list[Passage]:
    """Passages of the report in order. Without any heading all of it counts as findings."""
    return _Reader(text, is_all_capitals(text)).read()

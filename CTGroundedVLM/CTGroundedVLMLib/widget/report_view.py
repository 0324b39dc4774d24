"""The report with its sentences coloured by segment, each a link; in a QTextBrowser."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator

import qt

from ..types import Report, SentenceLink
from .report_spans import ShownText, Span, display_text, extent, sentence_spans, utf16_length

Colour = tuple[int, int, int]
ColourOf = Callable[[str], Colour | None]
Part = tuple[int, int, int]  # of a sentence: its number, first character, behind the last one
PIECE = 5_000  # characters that are laid out or painted at a time: a megabyte at once would stop the application
SENTENCES = 50  # that are painted at a time
LONGEST_LINE = 2_000  # characters; longer ones are broken: Qt lays a whole line out at every change of it
PALE, STRONG = 70, 190  # opacity (0..255) of a sentence's background: as it is, and selected
GREY: Colour = (128, 128, 128)


class ReportView:
    """Shows one report. ``on_sentence(index)`` and ``on_citation(sentence, index)`` are called on a click.

    Positions are counted in characters of the shown text; Qt's, in UTF-16 units, are found at the last moment.
    """

    def __init__(
        self, browser: qt.QTextBrowser, on_sentence: Callable[[int], None], on_citation: Callable[[int, int], None]
    ) -> None:
        self._browser, self._on_sentence, self._on_citation = browser, on_sentence, on_citation
        self._take(Report(""), (), {}.get)
        browser.connect("anchorClicked(QUrl)", self._on_anchor)

    def _take(self, report: Report, links: Iterable[SentenceLink], colour_of: ColourOf) -> None:
        self._report, self._links, self._colour_of = report, {link.sentence: link for link in links}, colour_of
        self._text = ShownText(display_text(report.text), LONGEST_LINE)
        self._ends = [sentence.end for sentence in report.sentences]
        self._pieces = [(0, 0)]  # characters and units where each piece of the text begins, and the next one will
        self._marked: frozenset[int] = frozenset()
        self._painted: set[int] = set()  # the sentences that look selected
        self._unfinished: set[int] = set()  # those of which only a part was painted
        self._steps: Iterator[None] = iter(())

    @property
    def marked(self) -> frozenset[int]:
        """The selected sentences."""
        return self._marked

    def clear(self) -> None:
        """Show nothing."""
        self.show(Report(""), (), {}.get)

    def show(self, report: Report, links: Iterable[SentenceLink], colour_of: ColourOf) -> None:
        """Show a report. ``colour_of``: class name -> the segment's colour (0..255), None where there is none."""
        self._take(report, links, colour_of)
        self._browser.clear()
        self._run(self._all_steps())

    def mark(self, sentences: Iterable[int]) -> None:
        """Select these sentences, and no others; the first one is scrolled into view. They are painted from the next turn on."""
        self._marked = frozenset(sentences)
        self._run_later(self._all_steps())
        first = min(self._marked, default=None)
        if first is not None and self._extent(first)[0] < self._shown_until:
            cursor = self._browser.textCursor()
            cursor.setPosition(self._unit(self._extent(first)[0]))
            self._browser.setTextCursor(cursor)
            self._browser.ensureCursorVisible()

    # ---------------------------------------------------------------- step by step

    def _run(self, steps: Iterator[None]) -> None:
        self._steps = steps  # those of a former report or selection are dropped
        self._next(steps)

    def _run_later(self, steps: Iterator[None]) -> None:
        self._steps = steps
        qt.QTimer.singleShot(0, lambda: self._next(steps))

    def _next(self, steps: Iterator[None]) -> None:
        if steps is not self._steps:
            return
        try:
            next(steps)
        except StopIteration:
            return
        qt.QTimer.singleShot(0, lambda: self._next(steps))

    def _all_steps(self) -> Iterator[None]:
        """What is shown already is painted anew where its selection changed; then the rest of the text comes."""
        changed = sorted((self._painted ^ self._marked) | self._unfinished)
        if len(changed) > SENTENCES:
            yield  # to find out which took its time
        for parts in self._groups(changed):
            cursor = self._browser.textCursor()
            cursor.beginEditBlock()
            for part in parts:
                self._paint(cursor, part)
            cursor.endEditBlock()
            yield
        while self._shown_until < len(self._text.text):
            self._insert_piece()
            yield

    @property
    def _shown_until(self) -> int:
        return self._pieces[-1][0]

    def _groups(self, sentences: Iterable[int]) -> Iterator[list[Part]]:
        """Parts that are painted together. They lie close together: Qt lays out anew all that lies between them."""
        group: list[Part] = []
        for part in self._parts(sentences):
            if group and (len(group) == SENTENCES or part[2] - group[0][1] > PIECE):
                yield group
                group = []
            group.append(part)
        if group:
            yield group

    def _parts(self, sentences: Iterable[int]) -> Iterator[Part]:
        for number in sentences:
            start, end = self._extent(number)
            for low in range(start, min(end, self._shown_until), PIECE):
                yield number, low, min(low + PIECE, end, self._shown_until)

    def _insert_piece(self) -> None:
        start, units = self._pieces[-1]
        end, numbers = self._next_piece(start)
        piece = self._text.text[start:end]
        self._pieces.append((end, units + utf16_length(piece)))
        cursor = self._browser.textCursor()
        cursor.movePosition(qt.QTextCursor.End)
        cursor.beginEditBlock()
        cursor.insertText(piece, qt.QTextCharFormat())
        for number in numbers:
            self._paint(cursor, (number, start, end))
        cursor.endEditBlock()

    def _next_piece(self, start: int) -> tuple[int, range]:
        """Where the piece that begins at ``start`` ends (behind a line's end), and the sentences that reach into it."""
        text, sentences = self._text.text, self._report.sentences
        end = start + PIECE
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        first = bisect.bisect_right(self._ends, start, key=self._text.position)
        last = first
        while last < len(sentences) and (begin := self._text.position(sentences[last].start)) < end:
            if last - first == SENTENCES:
                end = begin
                break
            last += 1
        return end, range(first, last)

    # ---------------------------------------------------------------- one sentence

    def _extent(self, number: int) -> tuple[int, int]:
        return extent(self._report.sentences[number], self._text.position)

    def _unit(self, character: int) -> int:
        """Qt's position of a character that is shown."""
        start, units = self._pieces[bisect.bisect_right(self._pieces, (character, 1 << 62)) - 1]
        return units + utf16_length(self._text.text[start:character])

    def _paint(self, cursor: qt.QTextCursor, part: Part) -> None:
        """Format a part of a sentence as it is to look now."""
        number, low, high = part
        selected = number in self._marked
        sentence, link = self._report.sentences[number], self._links.get(number)
        for span in sentence_spans(number, sentence, link, self._text.position):
            start, end = max(span.start, low), min(span.end, high)
            if start >= end:
                continue
            cursor.setPosition(self._unit(start))
            cursor.setPosition(self._unit(end), qt.QTextCursor.KeepAnchor)
            cursor.setCharFormat(self._pen(span, selected))
        self._unfinished.add(number)
        if high >= min(self._extent(number)[1], self._shown_until):
            self._unfinished.discard(number)
            (self._painted.add if selected else self._painted.discard)(number)

    def _pen(self, span: Span, selected: bool) -> qt.QTextCharFormat:
        colour = self._colour_of(span.segment) if span.segment else None
        opacity = STRONG if selected else PALE if colour else PALE // 2
        pen = qt.QTextCharFormat()
        pen.setAnchor(True)
        pen.setAnchorHref(span.target)
        pen.setToolTip(span.tip)
        pen.setFontUnderline(selected or span.target.startswith("citation"))
        pen.setBackground(qt.QBrush(qt.QColor(*(colour or GREY), opacity)))
        return pen

    def _on_anchor(self, url: qt.QUrl) -> None:
        kind, *numbers = url.toString().split(":")
        if kind == "sentence":
            self._on_sentence(int(numbers[0]))
        elif kind == "citation":
            self._on_citation(int(numbers[0]), int(numbers[1]))

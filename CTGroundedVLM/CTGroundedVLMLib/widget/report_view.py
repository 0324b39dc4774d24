"""The report with its sentences coloured by segment, each a link; in a QTextBrowser."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import qt

from ..types import Report, SentenceLink
from .report_spans import Span, broken_text, display_text, sentence_spans, utf16_length

Colour = tuple[int, int, int]
ColourOf = Callable[[str], Colour | None]
PIECE = (
    5_000  # characters, in whole sentences, that are laid out at a time: a megabyte at once would stop the application
)
LONGEST_LINE = 2_000  # characters; longer ones are broken: Qt lays a whole line out at every change of it
PALE, STRONG = 70, 190  # opacity (0..255) of a sentence's background: as it is, and selected
GREY: Colour = (128, 128, 128)


class ReportView:
    """Shows one report. ``on_sentence(index)`` and ``on_citation(sentence, index)`` are called on a click."""

    def __init__(
        self, browser: qt.QTextBrowser, on_sentence: Callable[[int], None], on_citation: Callable[[int, int], None]
    ) -> None:
        self._browser, self._on_sentence, self._on_citation = browser, on_sentence, on_citation
        self._report = Report("")
        self._links: dict[int, SentenceLink] = {}
        self._colour_of: ColourOf = {}.get
        self._spans: dict[int, list[Span]] = {}  # by sentence, as far as they are laid out
        self._marked: frozenset[int] = frozenset()
        self._text, self._characters, self._units, self._next = "", 0, 0, 0
        self._generation = 0
        browser.connect("anchorClicked(QUrl)", self._on_anchor)

    @property
    def marked(self) -> frozenset[int]:
        """The selected sentences."""
        return self._marked

    def clear(self) -> None:
        """Show nothing."""
        self.show(Report(""), (), {}.get)

    def show(self, report: Report, links: Iterable[SentenceLink], colour_of: ColourOf) -> None:
        """Show a report. ``colour_of``: class name -> the segment's colour (0..255), None where there is none."""
        self._generation += 1  # a piece of the former report that a timer still holds is dropped
        self._report, self._links, self._colour_of = report, {link.sentence: link for link in links}, colour_of
        self._text, self._characters = broken_text(display_text(report.text), LONGEST_LINE), 0
        self._units, self._next = 0, 0
        self._spans, self._marked = {}, frozenset()
        self._browser.clear()
        self._insert_piece(self._generation)

    def _insert_piece(self, generation: int) -> None:
        if generation != self._generation:
            return
        first, start = self._next, self._characters
        sentences = self._report.sentences
        while self._next < len(sentences) and self._characters - start < PIECE:
            self._characters = sentences[self._next].end
            self._next += 1
        if self._next == len(sentences):
            self._characters = len(self._text)
        piece, base = self._text[start : self._characters], self._units
        self._units += utf16_length(piece)
        cursor = self._browser.textCursor()
        cursor.movePosition(qt.QTextCursor.End)
        cursor.beginEditBlock()
        cursor.insertText(piece, qt.QTextCharFormat())
        for number in range(first, self._next):
            self._spans[number] = sentence_spans(
                number, sentences[number], self._links.get(number), lambda at: base + utf16_length(piece[: at - start])
            )
            self._paint(cursor, number)
        cursor.endEditBlock()
        if self._characters < len(self._text):
            qt.QTimer.singleShot(0, lambda: self._insert_piece(generation))

    def _paint(self, cursor: qt.QTextCursor, sentence: int) -> None:
        selected = sentence in self._marked
        for span in self._spans.get(sentence, ()):
            colour = self._colour_of(span.segment) if span.segment else None
            opacity = STRONG if selected else PALE if colour else PALE // 2
            pen = qt.QTextCharFormat()
            pen.setAnchor(True)
            pen.setAnchorHref(span.target)
            pen.setToolTip(span.tip)
            pen.setFontUnderline(selected or span.target.startswith("citation"))
            pen.setBackground(qt.QBrush(qt.QColor(*(colour or GREY), opacity)))
            cursor.setPosition(span.start)
            cursor.setPosition(span.end, qt.QTextCursor.KeepAnchor)
            cursor.setCharFormat(pen)

    def mark(self, sentences: Iterable[int]) -> None:
        """Select these sentences, and no others; the first one is scrolled into view."""
        wanted = frozenset(sentences)
        changed = self._marked ^ wanted
        self._marked = wanted
        cursor = self._browser.textCursor()
        cursor.beginEditBlock()
        for sentence in changed:
            self._paint(cursor, sentence)
        cursor.endEditBlock()
        first = self._spans.get(min(wanted, default=-1))
        if first:
            cursor.setPosition(first[0].start)
            self._browser.setTextCursor(cursor)
            self._browser.ensureCursorVisible()

    def _on_anchor(self, url: qt.QUrl) -> None:
        kind, *numbers = url.toString().split(":")
        if kind == "sentence":
            self._on_sentence(int(numbers[0]))
        elif kind == "citation":
            self._on_citation(int(numbers[0]), int(numbers[1]))

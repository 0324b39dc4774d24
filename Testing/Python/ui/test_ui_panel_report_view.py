"""The report's browser: links and colours, pieces, broken lines, and how much is done in one step; no worker, no scene."""
# ruff: noqa: E402 (the stand-in for qt has to be there before it is imported)

import time

import pytest

from qt_standin import install

install()

import qt

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import Report, Sentence, SentenceLink
from CTGroundedVLMLib.widget.report_spans import (
    ShownText,
    display_text,
    sentence_details,
    sentence_spans,
    utf16_length,
)
from CTGroundedVLMLib.widget.report_view import LONGEST_LINE, PIECE, SENTENCES, ReportView

TEXT = "FINDINGS:\r\n😀 The liver is normal.\nCyst of 12 mm in the pancreas (image 7).\n"


def test_spans_cover_linked_sentences_and_citations_in_qts_units():
    report = parse_report(TEXT)
    links = SentenceLink(0, ("liver",), (), ("liver",), (1, 2, 3)), SentenceLink(1, (), ("pancreas",), (), None)
    spans = []
    for number, (sentence, link) in enumerate(zip(report.sentences, links, strict=True)):
        spans += sentence_spans(number, sentence, link, lambda at: utf16_length(TEXT[:at]))
    shown = display_text(TEXT).encode("utf-16-le")
    texts = [shown[2 * span.start : 2 * span.end].decode("utf-16-le") for span in spans]
    assert texts[0].endswith("The liver is normal.")
    assert texts[1].startswith("Cyst of 12 mm")
    assert texts[2] == "image 7"
    assert [span.target for span in spans] == ["sentence:0", "sentence:1", "citation:1:0"]
    assert [span.segment for span in spans] == ["liver", None, None]


def test_details_name_segments_findings_sizes_and_what_the_segmentation_lacks():
    report = parse_report(TEXT)
    lines = sentence_details(report.sentences[1], SentenceLink(1, (), ("pancreas",), (), None))
    assert "Not in this segmentation: Pancreas" in lines
    assert any(line.startswith("Says: ") and "cyst (present)" in line for line in lines)
    assert "Measured: 12 mm" in lines


@pytest.mark.parametrize("text", ["plain", "a😀b\U0001f601c", "é\u2029\r\n", "lone \ud83d surrogate"])
def test_the_shown_text_has_the_same_length_in_characters(text):
    shown = display_text(text)
    assert len(shown) == len(text)
    units = len(shown.encode("utf-16-le")) // 2
    assert utf16_length(shown) == units
    browser = qt.QTextBrowser()
    browser.setPlainText(shown)
    cursor = browser.textCursor()
    cursor.movePosition(qt.QTextCursor.End)
    assert cursor.position() == units


class Clicks(list):
    def sentence(self, index):
        self.append(index)

    def citation(self, sentence, index):
        self.append((sentence, index))


@pytest.fixture
def view():
    clicks = Clicks()
    browser = qt.QTextBrowser()
    browser.openLinks = False
    shown = ReportView(browser, clicks.sentence, clicks.citation)
    shown.browser, shown.clicks = browser, clicks
    yield shown
    shown.clear()  # what a timer still holds is dropped


def format_at(view, position):
    cursor = view.browser.textCursor()
    cursor.setPosition(position + 1)
    return cursor.charFormat()


def test_a_sentence_has_its_segments_colour_and_is_stronger_when_marked(view):
    report = parse_report("FINDINGS: The liver is normal. The spleen is large.")
    links = [SentenceLink(n, (name,), (), (), None) for n, name in enumerate(("liver", "spleen"))]
    view.show(report, links, {"liver": (200, 10, 20)}.get)
    liver, spleen = report.sentences
    colour = format_at(view, liver.start).background().color()
    assert (colour.red(), colour.green(), colour.blue()) == (200, 10, 20)
    grey = format_at(view, spleen.start).background().color()
    assert grey.red() == grey.green() == grey.blue()
    pale = colour.alpha()
    view.mark([0])
    qt.QApplication.processEvents()
    assert format_at(view, liver.start).background().color().alpha() > 2 * pale
    assert format_at(view, liver.start).fontUnderline()
    view.mark([1])
    qt.QApplication.processEvents()
    assert format_at(view, liver.start).background().color().alpha() == pale
    assert not format_at(view, liver.start).fontUnderline()
    assert not format_at(view, 0).isAnchor()


def test_clicks_name_the_sentence_or_the_citation(view):
    view.browser.anchorClicked.emit(qt.QUrl("sentence:12"))
    view.browser.anchorClicked.emit(qt.QUrl("citation:3:1"))
    view.browser.anchorClicked.emit(qt.QUrl("https://example.org"))
    assert view.clicks == [12, (3, 1)]


def a_long_report(count):
    """``count`` sentences of 21 characters; put together, for reading a megabyte takes the parser some seconds."""
    text = "The liver is normal.\n"
    return Report(
        text * count, tuple(Sentence(n * len(text), (n + 1) * len(text) - 1, "findings") for n in range(count))
    )


def test_a_long_report_comes_in_pieces_and_every_sentence_is_a_link(view):
    report = a_long_report(6_000)
    links = [SentenceLink(n, ("liver",), (), (), None) for n in range(len(report.sentences))]
    view.show(report, links, {"liver": (0, 200, 0)}.get)
    assert 0 < len(view.browser.toPlainText()) <= PIECE
    end = time.monotonic() + 60
    while len(view.browser.toPlainText()) < len(report.text):
        qt.QApplication.processEvents()
        assert time.monotonic() < end
    assert view.browser.toPlainText() == report.text
    for sentence in (report.sentences[0], report.sentences[len(report.sentences) // 2], report.sentences[-1]):
        assert format_at(view, sentence.start).isAnchor()
        assert format_at(view, sentence.end - 2).isAnchor()
    assert all(format_at(view, sentence.start).isAnchor() for sentence in report.sentences)


def test_showing_another_report_drops_the_pieces_of_the_former_one(view):
    view.show(a_long_report(5_000), (), {}.get)
    view.show(parse_report("Short."), (), {}.get)
    for _ in range(5):
        qt.QApplication.processEvents()
    assert view.browser.toPlainText() == "Short."


def test_long_lines_are_broken_at_spaces_and_nothing_moves():
    text = "A short line.\n" + "The liver is normal. " * 300 + "\n" + "y z" * 5
    shown = ShownText(text, 2000)
    assert len(shown.text) == len(text)
    assert shown.text.replace("\n", " ") == text.replace("\n", " ")
    lines = shown.text.split("\n")
    assert lines[0] == "A short line."
    assert max(map(len, lines)) <= 2000
    assert all(line.endswith(".") for line in lines[1:-2])
    assert [shown.position(at) for at in (0, 100, len(text))] == [0, 100, len(text)]


@pytest.mark.parametrize(
    ("text", "ends"),
    [("x" * 5000 + " y", "x"), ("肝臓は正常。腫瘤なし。" * 500, "。"), ("😀" * 4500, "😀"), ("。" * 4500, "。")],
)
def test_a_line_without_spaces_is_broken_too_after_a_sentence_and_every_character_is_found(text, ends):
    shown = ShownText("Findings:\n" + text + "\nEnd", 2000)
    lines = shown.text.split("\n")
    assert max(map(len, lines)) <= 2000
    assert all(line.endswith(ends) for line in lines[1:-2])
    assert "".join(shown.text.split()) == "Findings:" + "".join(text.split()) + "End"
    whole = "Findings:\n" + text + "\nEnd"
    assert all(shown.text[shown.position(at)] == whole[at] for at in range(len(whole)) if whole[at] not in " \n")


def turns_until(done):
    """Let the event loop turn until ``done()``; returns how often it did."""
    turns, end = 0, time.monotonic() + 60
    while not done():
        qt.QApplication.processEvents()
        turns += 1
        assert time.monotonic() < end
    return turns


class Cursor:
    """Counts what is asked of QTextCursor between two turns of the event loop."""

    def __init__(self, monkeypatch):
        self.inserted, self.painted, self.extent = [0], [0], [[]]
        insert, paint = qt.QTextCursor.insertText, qt.QTextCursor.setCharFormat

        def count_insert(cursor, text, *rest):
            self.inserted[-1] += len(text)
            return insert(cursor, text, *rest)

        def count_paint(cursor, pen):
            self.painted[-1] += 1
            self.extent[-1] += [cursor.selectionStart(), cursor.selectionEnd()]
            return paint(cursor, pen)

        monkeypatch.setattr(qt.QTextCursor, "insertText", count_insert)
        monkeypatch.setattr(qt.QTextCursor, "setCharFormat", count_paint)

    def next(self):
        self.inserted.append(0)
        self.painted.append(0)
        self.extent.append([])

    def widest(self):
        return max(max(places) - min(places) for places in self.extent if places)


@pytest.fixture
def counted(view, monkeypatch):
    """Every step of the view is counted by itself."""
    cursor = Cursor(monkeypatch)
    step = view._next
    monkeypatch.setattr(view, "_next", lambda steps: (cursor.next(), step(steps))[1])
    return cursor


@pytest.mark.parametrize(
    "text",
    [
        "There is consolidation in the right lower lobe. " * 300,  # one line
        "右肺下叶实变" * 3_000,  # one line and one sentence without a space
        "A. " * 600,  # very short sentences
    ],
    ids=["one line", "without spaces", "short sentences"],
)
def test_no_step_inserts_or_paints_more_than_a_piece_however_the_report_is_written(view, counted, text):
    if "A." in text:
        sentences = tuple(Sentence(n, n + 2, "findings") for n in range(0, len(text), 3))
    elif " " in text:
        sentences = tuple(Sentence(n, n + 47, "findings") for n in range(0, len(text), 48))
    else:
        sentences = (Sentence(0, len(text), "findings"),)
    report = Report(text, sentences)
    view.show(report, [SentenceLink(n, ("lung",), (), (), None) for n in range(len(sentences))], {}.get)
    shown = ShownText(text, LONGEST_LINE).text
    turns_until(lambda: len(view.browser.toPlainText()) >= len(shown))
    assert view.browser.toPlainText() == shown
    assert 0 < max(counted.inserted) <= PIECE
    assert 0 < max(counted.painted) <= SENTENCES + 1
    last = format_at(view, len(shown) - 3)
    assert last.isAnchor()
    assert last.anchorHref() == f"sentence:{len(sentences) - 1}"


def test_marking_every_sentence_of_a_long_report_is_done_piece_by_piece(view, counted):
    report = a_long_report(600)
    view.show(report, [SentenceLink(n, ("liver",), (), (), None) for n in range(600)], {"liver": (0, 200, 0)}.get)
    turns_until(lambda: len(view.browser.toPlainText()) >= len(report.text))
    for wanted in (range(600), [], range(0, 600, 295), range(599, 600)):
        counted.next()
        view.mark(wanted)
        assert counted.painted[-1] == 0  # not within the click, in which the rest of the panel and the views change
        for _ in range(20):
            qt.QApplication.processEvents()
        underlined = {n for n, s in enumerate(report.sentences) if format_at(view, s.start).fontUnderline()}
        assert underlined == set(wanted)
    assert 0 < max(counted.painted) <= SENTENCES
    assert 0 < counted.widest() <= PIECE


def test_a_selection_that_comes_before_the_former_one_is_painted_wins(view):
    report = a_long_report(200)
    text = report.text + "x" * 12_000
    sentences = (*report.sentences, Sentence(len(report.text), len(text), "findings"))
    report = Report(text, sentences)
    view.show(report, [SentenceLink(n, ("liver",), (), (), None) for n in range(len(sentences))], {}.get)
    view.mark(range(120, len(sentences)))  # not all is shown yet
    qt.QApplication.processEvents()
    view.mark([0, 200])
    view.mark([200])
    turns_until(lambda: len(view.browser.toPlainText()) >= len(text))
    for _ in range(20):
        qt.QApplication.processEvents()
    assert {n for n, s in enumerate(sentences) if format_at(view, s.start).fontUnderline()} == {200}
    end = len(view.browser.toPlainText())
    assert all(format_at(view, at).fontUnderline() for at in range(len(text) - 11_000, end - 1, 500))


def test_the_end_of_a_selected_sentence_before_a_break_that_was_put_in_is_not_beyond_it(view):
    text = "肝臓は正常。" * 700
    report = Report(text, tuple(Sentence(n, n + 6, "findings") for n in range(0, len(text), 6)))
    view.show(report, [SentenceLink(n, ("liver",), (), (), None) for n in range(700)], {}.get)
    turns_until(lambda: len(view.browser.toPlainText()) >= len(text))
    shown = view.browser.toPlainText()
    number = shown.index("\n") // 6 - 1
    view.mark([number])
    qt.QApplication.processEvents()
    start = ShownText(text, LONGEST_LINE).position(6 * number)
    assert shown[start : start + 7] == "肝臓は正常。\n"
    marked = [at for at in range(start - 6, start + 12) if format_at(view, at).fontUnderline()]
    assert marked == list(range(start, start + 6))

"""What the panel's parts show: rows of the findings table, links of the report, text in pieces; no worker, no scene."""
# ruff: noqa: E402 (the stand-in for qt has to be there before it is imported)

import time

import pytest

from qt_standin import install

install()

import qt

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import FindingScore, Report, ReportComparison, Sentence, SentenceLink
from CTGroundedVLMLib.widget.finding_rows import filtered, finding_rows, ordered
from CTGroundedVLMLib.widget.report_spans import (
    broken_text,
    display_text,
    sentence_details,
    sentence_spans,
    utf16_length,
)
from CTGroundedVLMLib.widget.report_view import PIECE, ReportView


class Result:
    """The part of an analysis that the table reads."""

    def __init__(self, *pairs):
        self.findings = tuple(score for score, _ in pairs)
        self.comparisons = tuple(comparison for _, comparison in pairs if comparison)


def scored(organ, finding, probability, report=None, discrepancy=False, severity=0.0):
    """A score and what the report says of it."""
    reason = None if probability is not None else f"{organ} is cut off"
    score = FindingScore(organ, finding, probability, probability, False, reason, ("X.",), ("Not X.",))
    if report is None:
        return score, None
    image = None if probability is None else "positive" if probability >= 0.5 else "negative"
    comparison = ReportComparison(
        organ, finding, report, (2,), probability, 0.5, "default", image, discrepancy, severity, f"why {finding}"
    )
    return score, comparison


@pytest.fixture
def rows():
    return finding_rows(
        Result(
            scored("liver", "cyst", 0.9, "present"),
            scored("lung", "nodule", None, "present"),
            scored("heart", "effusion", 0.2, "absent"),
            scored("lung", "emphysema", 0.8, "absent", True, 1.5),
            scored("lung", "mass", 0.3, "present", True, 2.5),
            scored("spleen", "cyst", 0.4, "not mentioned"),
            scored("aorta", "aneurysm", 0.6),
        )
    )


def test_discrepancies_come_first_then_probabilities_then_what_is_not_scored(rows):
    assert [row.finding for row in rows] == ["mass", "emphysema", "cyst", "aneurysm", "cyst", "effusion", "nodule"]
    assert [row.agreement for row in rows] == ["no", "no", "yes", "–", "open", "yes", "–"]


def test_what_is_not_scored_is_a_dash_and_its_reason_never_zero(rows):
    assert rows[-1].cells == ("lung", "nodule", "–", "present", "–")
    (unread,) = finding_rows(Result(scored("lung", "nodule", None)))
    assert unread.reason == "Not scored: lung is cut off."


def test_the_filter_takes_words_of_any_column_in_any_order(rows):
    assert [row.organ for row in filtered(rows, "CYST", False)] == ["liver", "spleen"]
    assert [row.organ for row in filtered(rows, "silent cyst", False)] == ["spleen"]
    assert [row.finding for row in filtered(rows, "", True)] == ["mass", "emphysema"]
    assert filtered(rows, "no such words", False) == []


def test_what_is_not_scored_stays_last_in_both_orders_of_the_probability(rows):
    assert [row.probability for row in ordered(rows, 2, True)] == [0.9, 0.8, 0.6, 0.4, 0.3, 0.2, None]
    assert [row.probability for row in ordered(rows, 2, False)] == [0.2, 0.3, 0.4, 0.6, 0.8, 0.9, None]
    assert [row.organ for row in ordered(rows, 0, False)][:2] == ["aorta", "heart"]
    assert ordered(rows, None, False) == rows


# ---------------------------------------------------------------- report


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
    return shown


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
    assert format_at(view, liver.start).background().color().alpha() > 2 * pale
    assert format_at(view, liver.start).fontUnderline()
    view.mark([1])
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


def test_a_report_of_a_megabyte_comes_in_pieces_and_every_sentence_is_a_link(view):
    report = a_long_report(48_000)
    links = [SentenceLink(n, ("liver",), (), (), None) for n in range(len(report.sentences))]
    view.show(report, links, {"liver": (0, 200, 0)}.get)
    assert PIECE <= len(view.browser.toPlainText()) < 2 * PIECE
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


def test_long_lines_are_broken_at_spaces_and_no_offset_moves():
    text = "A short line.\n" + "The liver is normal. " * 300 + "\n" + "x" * 5000 + " y"
    broken = broken_text(text, 2000)
    assert len(broken) == len(text)
    assert broken.replace("\n", " ") == text.replace("\n", " ")
    lines = broken.split("\n")
    assert lines[0] == "A short line."
    assert max(len(line) for line in lines if not line.startswith("x")) <= 2000
    assert all(line.endswith(".") for line in lines[1:-3])
    assert lines[-2:] == ["x" * 5000, "y"]

"""``index.html`` as a document: what it holds, what it may load, and that strangers' text stays text."""

import base64
import dataclasses
import hashlib
import html.parser
import re
import time

import pytest

from cases import a_case
from CTGroundedVLMLib.export.html import page_html
from CTGroundedVLMLib.export.plan import make_plan
from CTGroundedVLMLib.export.tables import results_document
from CTGroundedVLMLib.types import (
    AnalysisResult,
    Report,
    Sentence,
    SentenceLink,
)
from export_cases import BOXES, HOSTILE, REPORT, SHAPE, a_hostile_result, a_result


def page(result: AnalysisResult, pictures: bool = True) -> str:
    plan = make_plan(result, heatmap_files=True, pictures=pictures)
    return page_html(plan, results_document(plan), [b"webp"] * len(plan.pictures)).decode("utf-8")


VOID = {"meta", "link", "img", "input", "br", "rect"}


class Document(html.parser.HTMLParser):
    """Every tag with its attributes, and the text below each element with an id or class that a test asks for."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[tuple[dict, ...], str]] = []
        self._open: list[tuple[str, dict]] = []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        self.texts.append((tuple({"tag": t, **a} for t, a in self._open), data))

    def text_of(self, **wanted: str) -> str:
        """The text inside elements whose attributes hold the wanted words."""

        def fits(element: dict) -> bool:
            return all(value in (element.get(key.rstrip("_")) or "").split() for key, value in wanted.items())

        return "".join(text for opened, text in self.texts if any(fits(e) for e in opened))

    def all(self, tag: str, **wanted: str) -> list[dict]:
        return [
            a
            for t, a in self.tags
            if t == tag and all(v in (a.get(k.rstrip("_")) or "").split() for k, v in wanted.items())
        ]


def test_the_report_is_shown_exactly():
    assert Document(page(a_result())).text_of(class_="text") == REPORT


def test_linked_sentences_can_be_reached_by_keyboard_and_name_their_status():
    linked = Document(page(a_result())).all("span", class_="linked")
    assert [(s["data-sentence"], s["tabindex"], s["role"], s.get("data-marks")) for s in linked] == [
        ("0", "0", "button", "+ ?"),
        ("1", "0", "button", "−"),
        ("2", "0", "button", "↺"),
        ("3", "0", "button", "+"),
    ]
    assert linked[0]["data-figure"] == linked[3]["data-figure"]


def test_linked_sentences_show_their_number_from_one_outside_the_text():
    linked = Document(page(a_result())).all("span", class_="linked")
    assert [(s["data-sentence"], s["data-number"]) for s in linked] == [("0", "1"), ("1", "2"), ("2", "3"), ("3", "4")]


def test_the_key_explains_sentences_whose_segments_are_not_in_the_mask():
    result = a_result()
    nowhere = SentenceLink(1, (), ("kidney_left",), (), None)
    document = Document(page(dataclasses.replace(result, links=(nowhere,))))
    assert [s["data-number"] for s in document.all("span", class_="nowhere") if "data-number" in s] == ["2"]
    assert "named, but not in this mask" in document.text_of(class_="key")
    assert [s["class"] for s in document.all("span", class_="sample")] == ["sample", "sample nowhere"]


def test_segments_are_shown_in_anatomical_order_and_numbered_as_in_the_picture():
    result = a_result()
    names = tuple(f"vertebrae_T{n}" for n in (1, 10, 11, 2))
    result = dataclasses.replace(result, links=(SentenceLink(0, names, ("vertebrae_L1", "vertebrae_L2"), (), None),))
    document = Document(page(result))
    chips = [chip["title"] for chip in document.all("li", class_="chip") if "title" in chip]
    assert chips == [f"vertebrae_T{n}" for n in (11, 10, 2, 1)]
    missing = document.text_of(class_="missing")
    assert missing.index("L2") < missing.index("L1")
    plan = make_plan(result, heatmap_files=True, pictures=True)
    assert results_document(plan)["links"][0]["segments"] == list(names)
    assert [p["segments"] for p in results_document(plan)["pictures"] if p["segments"]] == [list(names)]
    colour = document.all("span", class_="linked")[0]["class"]
    assert colour.endswith(document.all("li", class_="chip")[0]["class"].split()[-1])


def test_what_a_sentence_speaks_of_stands_beside_its_picture():
    document = Document(page(a_result()))
    second = document.text_of(id="detail-1")
    assert "Right lung lower lobe" in second
    assert "Right kidney: not in the segmentation" in second
    first = document.text_of(id="detail-0")
    assert "14 × 11 mm" in first
    assert "series 3, image 21" in first


def test_the_table_shows_probabilities_and_why_there_is_none():
    document = Document(page(a_result()))
    table = document.text_of(id="scores")
    assert "0.81" in table
    assert "not scored: not in the segmentation" in table
    assert "not scored: the model's output was not a finite number" in table
    assert "nan" not in table.lower()
    bars = [a["width"] for t, a in document.tags if t == "rect" and a.get("class") == "fill"]
    assert bars == ["25.0", "81.2", "50.0"]  # the disagreement with the report first
    assert [a["data-figure"] for a in document.all("button", class_="show")] == ["1", "0"]


def test_without_a_report_the_table_compares_nothing():
    result = dataclasses.replace(a_result(), comparisons=())
    document = Document(page(result))
    assert "≠" not in document.text_of(id="scores")
    assert "Report" not in document.text_of(id="scores")
    assert not document.all("input", id="filter-disagree")


def test_what_was_not_scored_stands_last_and_takes_one_line():
    result = a_result()
    document = Document(page(dataclasses.replace(result, findings=result.findings[::-1])))
    order = ["data-scored" in row for row in document.all("tr") if "data-organ" in row]
    assert order == [True, True, True, False, False]
    assert [cell["colspan"] for cell in document.all("td", class_="reason")] == ["3", "3"]


def test_organs_warnings_settings_and_versions_are_shown():
    document = Document(page(a_result()))
    assert "4,000" in document.text_of(id="organs")
    assert "75 %" in document.text_of(id="organs")
    assert "reaches the edge of the scan" in document.text_of(id="organs")
    run = document.text_of(id="run")
    for word in ("the liver may be cut off", "shared", "preprocess", "0.1.0", "9f" * 32, "results.json"):
        assert word in run


def test_nothing_outside_the_page_is_loaded():
    source = page(a_result())
    document = Document(source)
    for tag, attributes in document.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    style, script = document.text_of(tag="style"), document.text_of(tag="script")
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|import|eval|innerHTML)\b\s*[(=]", script)


def test_the_policy_allows_only_the_pages_own_style_and_script():
    document = Document(page(a_result()))
    policy = next(a["content"] for t, a in document.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        digest = hashlib.sha256(document.text_of(tag=tag).encode()).digest()
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"


def test_hostile_text_stays_text_everywhere():
    document = Document(page(a_hostile_result()))
    plain = Document(page(a_result(trained=False)))
    assert {t for t, _ in document.tags} <= {t for t, _ in plain.tags}
    assert len(document.all("script")) == 1
    assert not [a for t, a in document.tags if any(n.startswith("on") or n == "autofocus" for n in a)]
    assert document.text_of(class_="text") == HOSTILE
    assert "49" not in document.text_of(class_="text")
    assert document.text_of(tag="h1").startswith(HOSTILE)


@pytest.mark.parametrize("text", ["", " \n\t", "肝臓は正常。\r\n\r\n  ارتفاع", "a\u202eb\x00c \ud800", "\n\n<pre>\n"])
def test_any_report_is_shown(text):
    sentences = (Sentence(0, len(text), "other"),) if text else ()
    result = dataclasses.replace(a_result(), report=Report(text, sentences), links=())
    document = Document(page(result))
    assert document.text_of(class_="text") == text.replace("\ud800", "\ufffd")
    assert ("There is no report." in document.text_of(id="report")) == (not text)


def test_a_report_without_sentences_is_shown_plainly():
    source = page(dataclasses.replace(a_result(), report=Report(REPORT), links=()))
    assert Document(source).text_of(class_="text") == REPORT
    assert 'class="text"' in source


def test_a_page_without_scores_links_and_pictures_says_so():
    empty = dataclasses.replace(
        a_result(), report=Report(""), findings=(), organs=(), links=(), heatmaps=(), warnings=()
    )
    text = Document(page(empty, pictures=False)).text_of(tag="body")
    for words in ("There is no report.", "No finding was scored.", "No pictures were made."):
        assert words in text


@pytest.mark.parametrize("trained", [True, False])
def test_the_banner_stands_on_the_pages_of_untrained_models_only(trained):
    source = page(a_result(trained=trained))
    document = Document(source)
    assert bool(document.all("p", class_="untrained")) != trained
    assert ("UNTRAINED" in document.text_of(tag="body")) != trained
    assert "Research use only" in document.text_of(tag="header")


def test_a_report_of_a_megabyte_is_written_in_seconds():
    line = "The liver is of normal size and attenuation, without focal lesion.\n"
    count = 1_000_000 // len(line)
    sentences = tuple(Sentence(n * len(line), (n + 1) * len(line) - 1, "findings", ("liver",)) for n in range(count))
    links = tuple(SentenceLink(n, ("liver",), (), ("liver",), (1, 2, 3)) for n in range(count))
    result = dataclasses.replace(
        a_result(case=a_case(BOXES, SHAPE)), report=Report(line * count, sentences), links=links
    )
    start = time.perf_counter()
    source = page(result)
    assert time.perf_counter() - start < 20
    assert source.count('class="sentence linked') == count
    assert len(source) < 25_000_000

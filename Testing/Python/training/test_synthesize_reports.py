"""Reports of the synthetic corpus: varied, true, and read by the report parser as they are meant."""

import re

import numpy as np
import pytest

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMTraining.synthesize.agreement import read_back
from CTGroundedVLMTraining.synthesize.grammar import count_wordings, expand, grammar, say
from CTGroundedVLMTraining.synthesize.kinds import KIND, KINDS
from CTGroundedVLMTraining.synthesize.report import STYLES, ReportPlan, Statement, write_report
from CTGroundedVLMTraining.synthesize.scene import Drawn

EVERYTHING_SEEN = {kind.organ: 1.0 for kind in KINDS}
WORDS = {
    "extent": "moderate", "amount": "small", "side": "left", "where": "upper lobe", "lobe": "right lower lobe", "many": "1",
    "pole": "upper", "part": "head", "percent": "40", "level": "T9", "vessel": "right",
}  # fmt: skip
OWN = {
    "hepatic cyst": {"lobe": "right"}, "liver metastasis": {"lobe": "left", "many": "4"}, "aortic aneurysm": {"part": "ascending"},
    "hiatal hernia": {"amount": "moderate-sized"},
}  # fmt: skip


def a_finding(name, grade=0.6, size=24, **words):
    return Drawn(KIND[name], grade, np.ones((1, 1, 1), bool), (), (size,), WORDS | OWN.get(name, {}) | words)


def a_report(*names, seed=0, unreported=0.0, seen=EVERYTHING_SEEN, **plan):
    drawn = tuple(a_finding(n) if isinstance(n, str) else n for n in names)
    return write_report(
        ReportPlan(drawn, seen, "unenhanced", "chest and abdomen", (3, 3, 5), unreported, **plan),
        np.random.default_rng(seed),
    )


@pytest.fixture(scope="module")
def many_reports():
    """120 reports with random findings."""
    rng = np.random.default_rng(1)
    reports = []
    for seed in range(120):
        names = [kind.name for kind in KINDS if rng.random() < 0.2]
        drawn = [
            a_finding(n, float(rng.uniform(0.1, 1)), int(rng.integers(6, 60)), side=str(rng.choice(["left", "right"])))
            for n in names
        ]
        reports.append((names, a_report(*drawn, seed=seed)))
    return reports


# --- Grammar


def test_alternatives_are_chosen_nested_and_counted():
    template = "[A|B[1|2|]] x[y|]"
    seen = {expand(template, np.random.default_rng(n)) for n in range(200)}
    assert seen == {"A xy", "A x", "B1 xy", "B1 x", "B2 xy", "B2 x", "B xy", "B x"}
    assert count_wordings(template) == len(seen)


@pytest.mark.parametrize(
    ("template", "words", "text"),
    [
        ("a {size} cyst.", {"size": "8 mm"}, "An 8 mm cyst."),
        ("a {size} cyst.", {"size": "1.8 cm"}, "A 1.8 cm cyst."),
        ("there is a {size} cyst.", {"size": "11 mm"}, "There is an 11 mm cyst."),
        ("{Side} cyst , up to {size} .", {"side": "left", "size": "18 mm"}, "Left cyst, up to 18 mm."),
    ],
)
def test_sentences_begin_with_a_capital_and_have_the_right_article(template, words, text):
    assert say([template], words, np.random.default_rng(0)) == text


def test_each_kind_of_finding_has_wordings_for_every_status_and_the_grammar_has_hundreds():
    wordings = grammar()["findings"]
    assert set(wordings) == set(KIND)
    for name, entry in wordings.items():
        assert set(entry) == {"present", "uncertain", "absent", "impression"}
        assert sum(count_wordings(t) for t in entry["present"]["default"]) >= 12, name
    assert sum(count_wordings(t) for e in wordings.values() for s in e.values() for v in s.values() for t in v) > 1000


def test_no_template_leaves_a_slot_or_bracket_open():
    for name, entry in grammar()["findings"].items():
        for variants in entry.values():
            for templates in variants.values():
                for n, template in enumerate(templates):
                    words = WORDS | OWN.get(name, {}) | {"size": "12 mm", "count": "three"}
                    text = say([template], words, np.random.default_rng(n))
                    assert not re.search(r"[\[\]{}|]|  |\.\.| \.|,\.", text), text
                    assert text.endswith(".")


# --- What a report says


def test_every_finding_is_told_with_side_and_size_and_nothing_there_is_denied(many_reports):
    for names, report in many_reports:
        told = {kind for s in report.statements if s.status in ("present", "uncertain") for kind in s.kinds}
        denied = {kind for s in report.statements if s.status == "absent" for kind in s.kinds}
        called_normal = {s.organ for s in report.statements if s.status == "normal"}
        assert told == set(names)
        assert not denied & set(names)
        assert not called_normal & {KIND[name].organ for name in names}
        assert report.unreported == ()


def test_statements_slice_the_text_and_it_says_that_it_is_synthetic(many_reports):
    for _, report in many_reports:
        for s in report.statements:
            assert report.text[s.start : s.end] == s.text
        assert "computer-generated phantom" in report.text
        assert not re.search(r"[\[\]{}|]|\ba (?:8|11|18)\b", report.text)


def test_reports_differ_in_style_and_words(many_reports):
    assert {report.style for _, report in many_reports} == set(STYLES)
    sentences = {s.text for _, report in many_reports for s in report.statements}
    assert len(sentences) > 700
    assert len({report.text for _, report in many_reports}) == len(many_reports)
    with_impression = sum("IMPRESSION" in r.text.upper() or "CONCLUSION" in r.text for _, r in many_reports)
    assert 0.5 * len(many_reports) < with_impression < len(many_reports)


def test_organs_are_normal_in_some_reports_and_unmentioned_in_others():
    states = []
    for seed in range(80):
        about = [s for s in a_report("lung nodule", seed=seed).statements if s.organ == "spleen"]
        states.append(about[0].status if about else "unmentioned")
    assert {"normal", "absent", "unmentioned"} == set(states)
    assert states.count("unmentioned") > 15


def test_findings_are_left_out_at_the_rate_that_is_asked_for():
    names = ("lung nodule", "renal cyst", "steatosis", "emphysema", "gallstone")
    left_out = [len(a_report(*names, seed=n, unreported=0.3).unreported) for n in range(150)]
    assert np.mean(left_out) / len(names) == pytest.approx(0.3, abs=0.05)
    report = a_report("renal cyst", unreported=1.0)
    assert report.unreported == ("renal cyst",)
    assert not re.search("renal cyst|cyst", report.text)


def test_an_organ_that_the_scan_does_not_show_is_neither_normal_nor_denied():
    chest = EVERYTHING_SEEN | dict.fromkeys(("kidney", "pancreas", "gallbladder"), 0.1)
    for seed in range(40):
        report = a_report(seed=seed, seen=chest)
        assert not any(s.organ in ("kidney", "pancreas", "gallbladder") for s in report.statements)


def test_a_subtle_finding_may_be_uncertain_an_obvious_one_never_is():
    def status(grade):
        return {
            s.status
            for n in range(60)
            for s in a_report(a_finding("pneumothorax", grade), seed=n).statements
            if "pneumothorax" in s.kinds
        }

    assert status(0.2) == {"present", "uncertain"}
    assert status(0.8) == {"present"}


def test_the_report_of_a_real_scan_tells_of_what_was_planted_alone():
    for seed in range(20):
        report = a_report("renal cyst", seed=seed, phantom=False)
        assert {s.status for s in report.statements} <= {"present"}
        assert "phantom" not in report.text
        assert "Real CT with simulated findings" in report.text


# --- The report parser


def test_the_report_parser_reads_nearly_all_statements_as_they_are_meant(many_reports):
    total = None
    for _, report in many_reports:
        total = read_back(report.text, report.statements, total)
    assert total.statements > 1500
    assert total.share > 0.97, total.by_reason()


def test_each_kind_of_finding_is_read_in_most_of_its_wordings():
    for kind in KINDS:
        total = None
        for seed in range(12):
            report = a_report(kind.name, seed=seed, phantom=False)
            total = read_back(report.text, report.statements, total)
        assert total.share >= 0.9, (kind.name, total.wrong[:3])


def test_the_side_of_a_finding_is_read():
    for side in ("left", "right"):
        report = a_report(a_finding("renal cyst", side=side), seed=4, phantom=False)
        segments = {n for s in parse_report(report.text).sentences for n in s.segments if n.startswith("kidney")}
        assert segments
        assert all(name.endswith(side) for name in segments)


def test_a_statement_that_is_read_otherwise_is_counted_and_named():
    text = "FINDINGS:\nThere is no renal cyst."
    meant = Statement("There is no renal cyst.", "present", ("renal cyst",), "kidney", start=10, end=len(text))
    result = read_back(text, [meant])
    assert (result.statements, result.read, result.share) == (1, 0, 0.0)
    assert result.wrong == [("status", "renal cyst", "There is no renal cyst.")]

"""``results.json`` and the CSV tables: their values, and what never appears in them."""

import csv
import dataclasses
import hashlib
import importlib.resources
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from CTGroundedVLMLib.export.labels import (
    RESEARCH_NOTICE,
    anatomical,
    jsonable,
    notice,
    segment_display,
    short_hash,
    slug,
    unique,
)
from CTGroundedVLMLib.export.plan import MOST_SEGMENT_PICTURES, make_plan, probability_words
from CTGroundedVLMLib.export.tables import findings_csv, links_csv, results_document, results_json
from CTGroundedVLMLib.types import FindingScore, ModelIdentity, Report, Segmentation, SentenceLink
from export_cases import REPORT, a_result


def record(result, **options) -> dict:
    """``results.json`` as a strict reader gets it: NaN and Infinity, which JSON lacks, are refused."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} in results.json")

    plan = make_plan(result, **({"heatmap_files": True, "pictures": True} | options))
    return json.loads(results_json(results_document(plan)).decode("utf-8"), parse_constant=refuse)


def rows(table: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(table.decode("utf-8"), newline="")))


def plan(result):
    return make_plan(result, heatmap_files=True, pictures=True)


@pytest.fixture(scope="module")
def validator():
    jsonschema = pytest.importorskip(
        "jsonschema", reason="the schema is checked with jsonschema: pip install jsonschema"
    )
    schema = json.loads((importlib.resources.files("CTGroundedVLMLib") / "data/results.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


# ---------------------------------------------------------------- results.json


@pytest.mark.parametrize("trained", [True, False])
def test_results_follow_the_schema(validator, trained):
    validator.validate(record(a_result(trained=trained)))


def test_a_result_with_nothing_in_it_follows_the_schema(validator):
    empty = dataclasses.replace(a_result(), report=Report(""), findings=(), organs=(), links=(), heatmaps=())
    document = record(empty, pictures=False)
    validator.validate(document)
    assert (document["findings"], document["sentences"], document["case"]["report"]["text"]) == ([], [], "")


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", "other"), ("files", ["../x"]), ("schema_version", "2.0"), ("notice", ""), ("extra", 1)],
)
def test_the_schema_refuses_what_it_should(validator, key, value):
    assert not validator.is_valid(record(a_result()) | {key: value})


def test_the_schema_wants_a_reason_where_there_is_no_probability(validator):
    document = record(a_result())
    document["findings"][3]["reason"] = None
    assert not validator.is_valid(document)


def test_findings_keep_their_numbers_and_what_has_none_has_a_reason():
    findings = record(a_result())["findings"]
    assert findings[0] == {
        "organ": "liver",
        "finding": "hepatic steatosis",
        "probability": 0.8125,
        "calibrated": True,
        "reason": None,
        "margin": 1.46,
        "positive": ["Steatosis."],
        "negative": ["No steatosis.", "None."],
        "source": "registry",
    }
    assert [(f["probability"], f["reason"]) for f in findings[3:]] == [
        (None, "not in the segmentation"),
        (None, "the model's output was not a finite number"),
    ]
    assert findings[4]["margin"] is None


def test_the_case_holds_geometry_and_the_exact_report():
    result = a_result()
    case = record(result)["case"]
    assert case["ct"]["shape_kji"] == [20, 40, 50]
    np.testing.assert_allclose(case["ct"]["spacing_mm"], (2.0, 2.5, 4.0))
    np.testing.assert_array_equal(case["ct"]["ijk_to_ras"], result.case.ct.ijk_to_ras)
    assert case["report"] == {
        "source": "report.txt",
        "sha256": hashlib.sha256(REPORT.encode()).hexdigest(),
        "text": REPORT,
    }
    assert {"label": 5, "name": "liver"} in case["segmentation"]["segments"]


def test_sentences_links_and_pictures_refer_to_each_other():
    document = record(a_result())
    first = document["sentences"][0]
    assert first["text"] == REPORT[first["start"] : first["end"]]
    assert first["measurements"][0]["values_mm"] == [14.0, 11.0]
    assert (first["citations"][0]["series"], first["citations"][0]["image"]) == (3, 21)
    assert document["links"][1]["missing_segments"] == ["kidney_left", "kidney_right"]
    assert document["links"][0]["centre_ijk"] == [10, 20, 5]
    shared = next(p for p in document["pictures"] if p["segments"] == ["liver"])
    assert shared["sentences"] == [0, 3]
    assert document["links"][0]["picture"] == document["links"][3]["picture"] == shared["file"]
    assert {p["file"] for p in document["pictures"]} | {h["file"] for h in document["heatmaps"]} < set(
        document["files"]
    )


def test_not_a_number_is_null_wherever_it_stands():
    result = dataclasses.replace(a_result(), settings={"a": [math.inf, {"b": np.float32("nan")}], "c": np.int16(3)})
    document = record(result)
    assert document["settings"] == {"a": [None, {"b": None}], "c": 3}
    assert document["timings_s"] == {"preprocess": 0.5, "score": None}


def test_any_setting_can_be_written():
    value = {"path": Path("a/b"), "set": {2, 1}, "array": np.eye(2), "bool": np.bool_(True), "none": None, 3: "three"}
    assert jsonable(value) == {
        "path": str(Path("a/b")),
        "set": [1, 2],
        "array": [[1.0, 0.0], [0.0, 1.0]],
        "bool": True,
        "none": None,
        "3": "three",
    }


def test_text_in_any_script_is_readable_and_damaged_text_survives():
    text = "肝臓 \ud800 é"
    data = results_json(results_document(plan(dataclasses.replace(a_result(), report=Report(text), links=()))))
    assert "肝臓".encode() in data
    assert json.loads(data.decode("utf-8"))["case"]["report"]["text"] == text


def test_warnings_of_the_readers_and_of_the_run_stand_once():
    result = a_result()
    ct = dataclasses.replace(result.case.ct, warnings=("thick slices", "the liver may be cut off"))
    result = dataclasses.replace(result, case=dataclasses.replace(result.case, ct=ct))
    assert record(result)["warnings"] == ["thick slices", "the liver may be cut off"]


def test_more_segment_sets_than_are_drawn_are_warned_of():
    result = a_result()
    links = tuple(SentenceLink(n % 4, ("liver",), (), (), (n, 0, 0)) for n in range(MOST_SEGMENT_PICTURES + 5))
    document = record(dataclasses.replace(result, links=links))
    assert sum(p["kind"] == "segments" for p in document["pictures"]) == MOST_SEGMENT_PICTURES
    assert any("65 different sets" in w for w in document["warnings"])


# ---------------------------------------------------------------- notices


def test_an_untrained_model_is_called_so_in_json_and_in_every_row():
    result = a_result(trained=False)
    assert record(result)["notice"].startswith("UNTRAINED")
    for table in (findings_csv(plan(result)), links_csv(plan(result))):
        assert all(row["notice"].startswith("UNTRAINED") for row in rows(table))


def test_untrained_is_said_once_where_the_model_says_it_itself():
    model = ModelIdentity("untrained", "none: random weights", False, "UNTRAINED MODEL: random weights.")
    assert notice(model) == "UNTRAINED MODEL: random weights. " + RESEARCH_NOTICE
    assert short_hash(model.sha256) == ""
    assert short_hash("9f" * 32) == "9f9f9f9f9f"


def test_a_trained_model_is_for_research_only_and_not_called_untrained():
    result = a_result()
    for said in (record(result)["notice"], rows(findings_csv(plan(result)))[0]["notice"], notice(result.model)):
        assert said.startswith("Research use only")
        assert "A test's notice." in said
        assert "UNTRAINED" not in said


# ---------------------------------------------------------------- CSV


def test_the_table_of_findings_holds_every_number():
    table = rows(findings_csv(plan(a_result())))
    assert len(table) == 5
    assert {
        k: table[0][k] for k in ("organ", "finding", "probability", "calibrated", "margin", "reason", "heatmap")
    } == {
        "organ": "liver",
        "finding": "hepatic steatosis",
        "probability": "0.8125",
        "calibrated": "yes",
        "margin": "1.46",
        "reason": "",
        "heatmap": "heatmaps/liver_hepatic-steatosis.nii.gz",
    }
    assert table[0]["negative"] == "No steatosis. | None."
    assert (table[3]["probability"], table[3]["margin"], table[3]["reason"]) == ("", "", "not in the segmentation")


def test_a_question_that_the_registry_asks_too_keeps_its_own_heat_map_and_score():
    result = a_result()
    own = FindingScore("liver", "hepatic steatosis", 0.25, -1.1, False, None, ("x",), ("not x",), "prompt")
    heatmaps = (dataclasses.replace(result.heatmaps[0], source="prompt"), *result.heatmaps)
    made = plan(dataclasses.replace(result, findings=(*result.findings, own), heatmaps=heatmaps))
    table = rows(findings_csv(made))
    assert table[5]["heatmap"] == "heatmaps/liver_hepatic-steatosis.nii.gz"
    assert table[0]["heatmap"] == "heatmaps/liver_hepatic-steatosis-2.nii.gz"
    assert [made.score_of_heatmap[n].probability for n in (0, 1, 2)] == [0.25, 0.8125, 0.25]
    assert made.score_of_heatmap[2].finding == "Lung nodule"


def test_what_the_report_says_stands_beside_each_finding():
    made = plan(a_result())
    table = rows(findings_csv(made))
    assert [(row["report"], row["discrepancy"]) for row in table] == [
        ("present", "no"), ("present", "yes"), ("not mentioned", "no"), ("absent", "no"), ("not mentioned", "no"),
    ]  # fmt: skip
    assert table[1]["comparison"] == "States it."
    comparisons = results_document(made)["comparisons"]
    assert (comparisons[0]["finding"], comparisons[0]["sentences"], comparisons[0]["discrepancy"]) == (
        "Lung nodule",
        [1],
        True,
    )
    assert comparisons[4]["probability"] is None


def test_formulas_are_defused_and_negative_numbers_are_not():
    table = rows(findings_csv(plan(a_result())))
    assert (table[2]["finding"], table[2]["positive"], table[2]["negative"]) == ("'=1+1", "'=1+1", "'-2")
    assert table[1]["margin"] == "-1.1"
    assert rows(links_csv(plan(a_result())))[1]["text"] == "'- No pleural effusion; kidneys normal."


def test_the_table_of_links_has_one_row_per_link():
    table = rows(links_csv(plan(a_result())))
    assert [row["sentence"] for row in table] == ["1", "2", "3", "4"]  # as on the page; results.json has places from 0
    assert [link["sentence"] for link in record(a_result())["links"]] == [0, 1, 2, 3]
    assert table[0]["text"] == "Liver  is of low attenuation, 14 x 11 mm cyst (series 3, image 21)."
    assert table[0]["findings"] == "hepatic steatosis (present); liver cyst (uncertain)"
    assert [table[0][f"centre_{a}"] for a in "ijk"] == ["10", "20", "5"]
    assert table[1]["missing_segments"] == "kidney_left; kidney_right"
    assert [table[1][f"centre_{a}"] for a in "ijk"] == ["", "", ""]
    assert table[3]["text"] == "Steatosis 肝臓 <b>?</b>"


def test_tables_are_rfc_4180():
    result = a_result()
    odd = FindingScore("liver", 'a "b", c\nd', 0.5, 0.0, False, None, (), ())
    data = findings_csv(plan(dataclasses.replace(result, findings=(odd,))))
    assert data.startswith(b"organ,finding,probability,")
    assert b'liver,"a ""b"", c\nd",0.5,' in data
    assert data.endswith(b"\r\n")
    assert rows(data)[0]["finding"] == odd.finding


def test_tables_of_nothing_have_a_header():
    empty = dataclasses.replace(a_result(), findings=(), links=(), heatmaps=())
    assert rows(findings_csv(plan(empty))) == rows(links_csv(plan(empty))) == []
    assert links_csv(plan(empty)).count(b"\r\n") == 1


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "expected"),
    [("pleural effusion", "pleural-effusion"), ("Kyste hépatique", "kyste-hepatique"), ("lung_nodule", "lung-nodule")],
)
def test_plain_texts_make_plain_file_names(text, expected):
    assert slug(text) == expected


def test_texts_that_lose_characters_keep_names_of_their_own():
    texts = ["<5 mm", ">5 mm", "肝囊肿", "肾囊肿", "", "   ", "😀", "\ud800", "..", "/etc", "nodule!", "nodule?"]
    names = [slug(t) for t in texts]
    assert len(set(names)) == len(texts)
    assert all(n.isascii() and n.strip("-") == n and "/" not in n and "." not in n for n in names)


def test_repeated_names_are_numbered_without_meeting_others():
    assert unique(["a", "a-2", "a", "a"]) == ["a", "a-2", "a-3", "a-4"]


def test_segments_have_the_registrys_names_and_unknown_ones_their_own():
    assert segment_display("kidney_right") == "Right kidney"
    assert segment_display("my_own_class") == "My own class"


def test_segments_are_listed_in_anatomical_order_and_unknown_ones_last():
    names = ["my_own_class", *sorted(f"vertebrae_T{n}" for n in range(1, 13)), "aorta"]
    spine = tuple(f"vertebrae_T{n}" for n in range(12, 0, -1))
    assert anatomical(names) == (*spine, "aorta", "my_own_class")


def test_probabilities_are_said_with_what_they_are():
    scores = {s.finding: s for s in a_result().findings}
    assert probability_words(scores["hepatic steatosis"]) == "probability 0.81 (calibrated)"
    assert probability_words(scores["Lung nodule"]) == "probability 0.25 (not calibrated)"
    assert probability_words(scores["Hiatal hernia"]) == "not scored: not in the segmentation"
    assert probability_words(None) == ""


def test_a_segmentation_with_foreign_names_is_recorded_as_it_is():
    result = a_result()
    labels = result.case.segmentation
    foreign = Segmentation(labels.labels_kji, {np.uint8(5): "Läsion"}, "mask.nii.gz")
    result = dataclasses.replace(result, case=dataclasses.replace(result.case, segmentation=foreign))
    assert record(result)["case"]["segmentation"]["segments"] == [{"label": 5, "name": "Läsion"}]

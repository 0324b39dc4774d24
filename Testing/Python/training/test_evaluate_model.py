"""``ctgvlm-train evaluate`` with a model: the scores are an analysis's own, a run goes on, failures have no score; grounding, retrieval."""

import argparse
import csv
import dataclasses
import json

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CHEST, LPS, a_case, a_small_model
from CTGroundedVLMLib.command_line import run_command
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.image_file import set_affine
from CTGroundedVLMLib.model.checkpoint import load_checkpoint, save_checkpoint
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
from CTGroundedVLMLib.types import Heatmap
from CTGroundedVLMLib.volume_io import load_case
from CTGroundedVLMTraining.evaluate import grounding, retrieval
from CTGroundedVLMTraining.evaluate.case_journal import CaseJournal, CaseRecord
from CTGroundedVLMTraining.evaluate.case_scorer import CaseScorer
from CTGroundedVLMTraining.evaluate.commands import add_commands
from CTGroundedVLMTraining.evaluate.estimates import EvaluationSettings
from CTGroundedVLMTraining.objectives.clip import whole_body_organs

pytest.importorskip("sklearn")
CASES = {"p1_a": "test", "p1_b": "test", "p2_a": "test", "p3_a": "validation"}
REPORTS = {
    "p1_a": "Emphysema in both lungs.",
    "p1_b": "Normal lungs. Cardiomegaly.",
    "p2_a": "Clear lungs.",
    "p3_a": "",
}
NODULE = (slice(14, 20), slice(40, 60), slice(20, 40))
QUICK = EvaluationSettings(resamples=50)


def write_image(path, array, affine) -> None:
    image = sitk.GetImageFromArray(array)
    set_affine(image, affine)
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four box cases in the corpus's layout, with a planted nodule; and two small models, of four organs and of the whole body."""
    root = tmp_path_factory.mktemp("corpus")
    rows, labels = [], ["case_id,lung/Emphysema,lung/Lung nodule,heart/Cardiomegaly,esophagus/Hiatal hernia"]
    for number, (case_id, split) in enumerate(CASES.items()):
        folder = root / case_id
        folder.mkdir()
        case = a_case(CHEST, seed=number)
        planted = np.zeros(case.ct.array_kji.shape, np.uint8)
        planted[NODULE] = 13
        for name, array in {
            "ct": case.ct.array_kji,
            "segmentation": case.segmentation.labels_kji,
            "findings": planted,
        }.items():
            write_image(folder / f"{name}.nii.gz", array, case.ct.ijk_to_ras)
        truth = {
            "findings": [
                {"organ": "lung", "finding": "Lung nodule", "label": 13, "focal": True},
                {"organ": "liver", "finding": "Hepatic cyst", "label": 16, "focal": True},
            ]
        }
        (folder / "truth.json").write_text(json.dumps(truth))
        (folder / "report.txt").write_text(REPORTS[case_id])
        report = f"{case_id}/report.txt" if REPORTS[case_id] else ""
        rows.append(
            f"{case_id},{case_id[:2]},{split},{case_id}/ct.nii.gz,{case_id}/segmentation.nii.gz,{report},labels.csv"
        )
        labels.append(f"{case_id},{number % 2},{(number + 1) % 2},{int(number == 1)},0")
    (root / "manifest.csv").write_text(
        "\n".join(["case_id,patient_id,split,image,segmentation,report,labels", *rows]) + "\n"
    )
    (root / "labels.csv").write_text("\n".join(labels) + "\n")
    small = debug_config()
    for name, config in (
        ("organs", small),
        ("body", dataclasses.replace(small, organs=whole_body_organs(small.organs))),
    ):
        loaded = a_small_model(config)
        save_checkpoint(root / name, loaded.model, loaded.tokenizer, name=name, trained=True)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))


def run(corpus, output, *more, model="organs", protocol="fvlm16", manifest="manifest.csv") -> int:
    def parser():
        root = argparse.ArgumentParser(prog="ctgvlm-train")
        add_commands(root.add_subparsers(required=True))
        return root

    arguments = ["--protocol", protocol, "--model", corpus / model, "--manifest", corpus / manifest, "--output", output]
    arguments += ["--device", "cpu", "--precision", "fp32", "--bootstrap", "20", "--quiet", *more]
    return run_command("ctgvlm-train", parser, ["evaluate", *map(str, arguments)], "run again")


def table(path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_scores_are_those_that_an_analysis_gives_and_absent_organs_have_a_reason(corpus, tmp_path):
    assert run(corpus, tmp_path, "--validation-split", "validation") == 0
    loaded = load_checkpoint(corpus / "organs")
    folder = corpus / "p1_b"
    result = analyze(
        load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz"),
        loaded,
        AnalysisOptions(precision="fp32", heatmaps=0),
    )
    expected = {f"{f.organ}/{f.finding}": f.probability for f in result.findings}
    row = table(tmp_path / "scores.csv")["p1_b"]
    assert len(expected) == 16
    for key, probability in expected.items():
        if row.get(key):
            assert float(row[key]) == pytest.approx(probability, abs=1e-6)
        else:
            assert probability is None
    assert row["esophagus/Hiatal hernia"] == ""  # never 0
    reasons = (tmp_path / "not_scored.csv").read_text()
    assert "p1_b,test,esophagus/Hiatal hernia,esophagus is not in the segmentation" in reasons
    assert table(tmp_path / "validation_scores.csv").keys() == {"p3_a"}
    about = json.loads((tmp_path / "scores.json").read_text())
    assert about["model_sha256"] == loaded.identity.sha256
    calibration = json.loads((tmp_path / "calibration.json").read_text())
    assert calibration["settings"] == {"mode": "shared", "grid": "physical", "templates": False}
    assert calibration["model_sha256"] == loaded.identity.sha256


def test_the_written_table_gives_the_same_metrics_without_the_model(corpus, tmp_path):
    run(corpus, tmp_path / "a")
    with_model = json.loads((tmp_path / "a" / "metrics.json").read_text())

    def parser():
        root = argparse.ArgumentParser(prog="ctgvlm-train")
        add_commands(root.add_subparsers(required=True))
        return root

    arguments = [
        "evaluate",
        "--protocol",
        "fvlm16",
        "--scores",
        tmp_path / "a" / "scores.csv",
        "--labels",
        corpus / "labels.csv",
        "--output",
        tmp_path / "b",
        "--bootstrap",
        "20",
    ]
    assert run_command("ctgvlm-train", parser, list(map(str, arguments)), "") == 0
    from_table = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert from_table["macro"] == with_model["macro"]
    assert from_table["patients"] == with_model["patients"] == 2
    assert from_table["run"]["model_sha256"] == with_model["run"]["model_sha256"]


def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_scores(corpus, tmp_path, monkeypatch):
    run(corpus, tmp_path / "whole")
    scored = []
    score = CaseScorer.score

    def killed_at_the_second(self, row):
        if scored:
            raise KeyboardInterrupt
        scored.append(row.case_id)
        return score(self, row)

    monkeypatch.setattr(CaseScorer, "score", killed_at_the_second)
    assert run(corpus, tmp_path / "cut") == 130
    with open(tmp_path / "cut" / "cases.jsonl", "ab") as file:
        file.write(b'{"case_id": "p1_b", "pat')  # half a line
    assert table(tmp_path / "cut" / "scores.csv").keys() == {"p1_a"}
    monkeypatch.setattr(CaseScorer, "score", lambda self, row: scored.append(row.case_id) or score(self, row))
    assert run(corpus, tmp_path / "cut") == 0
    assert scored == ["p1_a", "p1_b", "p2_a"]
    assert (tmp_path / "cut" / "scores.csv").read_bytes() == (tmp_path / "whole" / "scores.csv").read_bytes()


def test_other_settings_in_the_same_folder_are_refused(corpus, tmp_path, capsys):
    run(corpus, tmp_path)
    assert run(corpus, tmp_path, "--templates") == 3
    assert "made with other settings (model_settings, protocol, templates)" in capsys.readouterr().err


def test_a_case_that_fails_is_named_and_has_no_score(corpus, tmp_path, capsys):
    text = (corpus / "manifest.csv").read_text().replace("p2_a/ct.nii.gz", "p2_a/report.txt")
    (corpus / "broken.csv").write_text(text)
    assert run(corpus, tmp_path, manifest="broken.csv") == 8
    assert "not scored: p2_a: CT report.txt" in capsys.readouterr().err
    assert table(tmp_path / "scores.csv").keys() == {"p1_a", "p1_b"}
    assert "p2_a,test,," in (tmp_path / "not_scored.csv").read_text()
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["unmatched"]["volumes with labels but without scores, left out"] == ["p2_a"]
    (corpus / "broken.csv").write_text((corpus / "manifest.csv").read_text())
    assert run(corpus, tmp_path, manifest="broken.csv") == 3  # another file than the journal has: not mixed


def test_a_model_of_the_whole_body_gets_every_prompt(corpus, tmp_path):
    assert run(corpus, tmp_path, model="body") == 0
    row = table(tmp_path / "scores.csv")["p1_a"]
    assert float(row["esophagus/Hiatal hernia"]) > 0  # asked of the body, where the esophagus is not
    assert len([key for key in row if "/" in key]) == 16


def test_a_protocol_without_any_organ_of_the_model_is_refused(corpus, tmp_path, capsys):
    (corpus / "other.csv").write_text("case_id,liver/Hepatic cyst\np1_a,1\np1_b,0\n")
    assert run(corpus, tmp_path, "--labels", corpus / "other.csv", protocol="corpus") == 3
    assert (
        "The model has none of the protocol's organs: it knows lung, heart, esophagus, aorta" in capsys.readouterr().err
    )


def test_a_split_that_is_not_there_is_named(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path, "--split", "train") == 3
    assert "has no case in the split train; it has test, validation" in capsys.readouterr().err


def test_grounding_and_retrieval_are_measured_with_the_model(corpus, tmp_path):
    assert run(corpus, tmp_path, "--grounding") == 0
    result = json.loads((tmp_path / "metrics.json").read_text())
    nodule = result["grounding"]["lung/Lung nodule"]
    assert (nodule["findings"], nodule["patients"], nodule["outside_the_organ"]) == (3, 2, 0)
    lung = 2 * 26 * 80 * 40
    assert nodule["pointing_chance"] == pytest.approx(6 * 20 * 20 / lung)
    assert result["grounding"]["focal"]["without_heatmap"] == 3  # the model has no liver
    assert result["retrieval"]["cases"] == 3
    assert 0 < result["retrieval"]["image_to_report"]["map"]["value"] <= 1
    text = (tmp_path / "metrics.md").read_text(encoding="utf-8")
    assert "## Grounding" in text
    assert "## Retrieval among 3 cases with 3 different reports" in text


def test_heatmaps_and_features_are_made_of_the_measured_split_only(corpus, tmp_path, capsys):
    assert run(corpus, tmp_path, "--grounding", "--validation-split", "validation") == 0
    records = {r["case_id"]: r for r in map(json.loads, (tmp_path / "cases.jsonl").read_text().splitlines()[1:])}
    assert {name: len(record["grounding"]) for name, record in records.items()} == {
        "p1_a": 2,
        "p1_b": 2,
        "p2_a": 2,
        "p3_a": 0,
    }
    assert len(list((tmp_path / "features").iterdir())) == 3
    assert table(tmp_path / "validation_scores.csv").keys() == {"p3_a"}
    assert json.loads((tmp_path / "metrics.json").read_text())["grounding"]["lung/Lung nodule"]["findings"] == 3
    assert run(corpus, tmp_path, "--grounding", "--split", "validation") == 3  # its cases have no heatmap here
    assert "made with other settings (grounded_split)" in capsys.readouterr().err


# --- Grounding by hand


LUNG = ("lung_lower_lobe_right",)


def a_heatmap(case, values):
    low, _ = CHEST[LUNG[0]]
    return Heatmap("lung", "Lung nodule", "contribution", values.astype(np.float32), low, case.ct.array_kji.shape)


@pytest.fixture
def planted():
    """One lobe of (26, 80, 40) voxels from (8, 20, 15), with a finding of 10 x 10 x 10 at its start, one column of it outside."""
    case = a_case({LUNG[0]: CHEST[LUNG[0]]})
    finding = np.zeros(case.ct.array_kji.shape, bool)
    finding[8:18, 20:30, 14:24] = True
    return case, finding


def test_pointing_energy_and_chance_by_hand(planted):
    case, finding = planted
    values = np.full((26, 80, 40), -1.0)
    values[2, 3, 4] = 6.0  # inside the finding
    values[20, 70, 30] = 2.0
    got = grounding.measure(case, a_heatmap(case, values), LUNG, finding)
    near = got.pop("near_chance")
    assert got == {
        "hit": 1.0,
        "near": 1.0,
        "energy": 0.75,
        "chance": pytest.approx(900 / (26 * 80 * 40)),
        "distance_mm": 0.0,
        "reachable": True,
    }
    assert near == pytest.approx(within_by_brute_force(case, finding, 15.0)[8:34, 20:100, 15:55].mean())


def within_by_brute_force(case, finding, tolerance):
    spacing_kji = np.linalg.norm(case.ct.ijk_to_ras[:3, :3], axis=0)[::-1]
    surface = np.argwhere(finding) * spacing_kji
    out = np.zeros(finding.shape, bool)
    for place in np.ndindex(finding.shape):
        out[place] = ((surface - np.multiply(place, spacing_kji)) ** 2).sum(1).min() <= tolerance**2 + 1e-9
    return out


def test_a_peak_beside_the_finding_is_near_up_to_the_tolerance_in_mm(planted):
    case, finding = planted
    spacing = np.linalg.norm(case.ct.ijk_to_ras[:3, :3], axis=0)
    assert spacing == pytest.approx((1, 1, 3))
    for j, expected in ((29 + 15, 1.0), (29 + 16, 0.0)):  # the finding ends at j = 29
        values = np.zeros((26, 80, 40))
        values[3, j - 20, 3] = 1.0
        got = grounding.measure(case, a_heatmap(case, values), LUNG, finding)
        assert (got["hit"], got["near"], got["distance_mm"]) == (0.0, expected, j - 29.0)


def test_voxels_of_one_token_that_differ_by_rounding_are_one_peak(planted):
    case, finding = planted
    values = np.zeros((26, 80, 40), np.float32)
    values[0, 0, 0] = 0.3
    values[20, 70, 30] = np.nextafter(np.float32(0.3), np.float32(1))
    assert grounding.measure(case, a_heatmap(case, values), LUNG, finding)["hit"] == 0.5


def test_equal_peaks_count_in_part_and_the_distance_is_in_mm(planted):
    case, finding = planted
    values = np.zeros((26, 80, 40))
    values[20, 3, 4] = values[0, 0, 0] = values[1, 1, 1] = 5.0  # two of three inside
    assert grounding.measure(case, a_heatmap(case, values), LUNG, finding)["hit"] == pytest.approx(2 / 3)
    values[:2] = 0
    # 11 slices of 3 mm below the finding's last one
    assert grounding.measure(case, a_heatmap(case, values), LUNG, finding)["distance_mm"] == pytest.approx(33.0)


def test_the_peak_lies_in_the_organ_even_where_all_evidence_is_negative():
    case = a_case(CHEST)
    segments = ("lung_lower_lobe_right", "lung_lower_lobe_left")
    values = np.zeros((26, 80, 110))
    values[:, :, :40] = values[:, :, 70:] = -2.0  # between the lungs it is 0, outside the organ
    values[3, 3, 3] = -1.0
    finding = np.zeros(case.ct.array_kji.shape, bool)
    finding[11, 23, 18] = True
    heatmap = Heatmap("lung", "Lung nodule", "contribution", values.astype(np.float32), (8, 20, 15), finding.shape)
    got = grounding.measure(case, heatmap, segments, finding)
    assert (got["hit"], got["energy"]) == (1.0, 0.0)


def test_a_finding_outside_its_organ_cannot_be_hit_but_a_peak_can_be_near_it(planted):
    case, _ = planted
    outside = np.zeros(case.ct.array_kji.shape, bool)
    outside[8, 19, 20] = True  # one voxel before the organ
    values = np.zeros((26, 80, 40))
    values[0, 0, 5] = 1.0
    got = grounding.measure(case, a_heatmap(case, values), LUNG, outside)
    assert (got["hit"], got["chance"], got["reachable"], got["near"]) == (0.0, 0.0, False, 1.0)
    assert 0 < got["near_chance"] < 0.1


def record(patient, *hits, key="lung/Lung nodule", reachable=True):
    found = tuple(
        {
            "key": key,
            "focal": True,
            "hit": h,
            "energy": h / 2,
            "near": 1.0,
            "chance": 0.1,
            "near_chance": 0.2,
            "distance_mm": 10.0,
            "reachable": reachable,
        }
        for h in hits
    )
    return CaseRecord(patient, patient, "test", "ct", grounding=found)


def test_the_summary_is_over_findings_and_the_macro_over_kinds():
    records = [record("a", 1, 1, 1), record("b", 0), record("c", 0, key="liver/Hepatic cyst", reachable=False)]
    got = grounding.summarize(records, QUICK)
    assert got["focal"]["pointing"]["value"] == pytest.approx(3 / 5)
    assert got["focal"]["pointing_in_organ"]["value"] == pytest.approx(3 / 4)
    assert got["focal"]["pointing_in_organ_chance"] == pytest.approx(0.1)
    assert got["focal"]["macro_pointing"]["value"] == pytest.approx((3 / 4 + 0) / 2)
    assert got["focal"]["macro_pointing_near"]["value"] == got["all"]["pointing_near"]["value"] == 1.0
    assert got["focal"]["pointing_near_chance"] == pytest.approx(0.2)
    assert got["liver/Hepatic cyst"]["pointing_in_organ"]["value"] is None
    assert got["focal"]["pointing"]["low"] <= 0.6 <= got["focal"]["pointing"]["high"]
    assert "| focal | 5 | 0.600 [" in "\n".join(grounding.grounding_lines(got))
    assert grounding.summarize([], QUICK) == {}


def test_a_label_map_on_another_grid_is_refused(planted, tmp_path):
    case, finding = planted
    other = np.eye(4)
    other[:3, :3] = LPS * 2.0
    write_image(tmp_path / "findings.nii.gz", finding.astype(np.uint8), other)
    with pytest.raises(InputError, match="is not on the grid"):
        grounding.read_label_map(tmp_path / "ct.nii.gz", case)


def test_a_damaged_truth_is_named_and_a_missing_one_is_none(tmp_path):
    assert grounding.read_truth(tmp_path / "ct.nii.gz") is None
    (tmp_path / "findings.nii.gz").touch()
    (tmp_path / "truth.json").write_text('{"findings": [{"organ": "lung"}]}')
    with pytest.raises(InputError, match=r"truth\.json cannot be used \(KeyError: 'finding'\)"):
        grounding.read_truth(tmp_path / "ct.nii.gz")


# --- Retrieval by hand


def test_ranks_and_average_precision_by_hand():
    similarity = np.array([[0.1, 0.9, 0.5, 0.3], [0.2, 0.8, 0.1, 0.0], [0.4, 0.4, 0.4, 0.4]])
    relevant = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]], bool)
    first, precision = retrieval.ranking(similarity, relevant)
    # query 1: order 2, 3, 4 (relevant), 1 (relevant); of equals (query 3) the relevant one comes last
    assert first.tolist() == [3, 1, 4]
    assert precision == pytest.approx([(1 / 3 + 2 / 4) / 2, 1, 1 / 4])


def test_similarity_is_the_mean_over_organs_that_are_seen_and_mentioned():
    x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    cases = [
        retrieval.Pairing("a", {"lung": x, "heart": y}, {"lung": x, "heart": x}, "r1"),
        retrieval.Pairing("b", {"lung": y}, {"heart": y}, "r2"),
    ]
    got = retrieval.similarities(cases, ("lung", "heart"))
    assert got.tolist() == [[0.5, 1.0], [0.0, -np.inf]]


def test_retrieval_of_matching_features_is_perfect_and_chance_is_exact():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    cases = [retrieval.Pairing(f"p{n // 2}", {"body": v}, {"body": v}, f"r{n}") for n, v in enumerate(vectors)]
    got = retrieval.retrieval(cases, ("body",), QUICK)
    for way in ("image_to_report", "report_to_image"):
        assert got[way]["map"]["value"] == got[way]["recall@1"]["value"] == 1.0
        assert got[way]["recall@5"]["chance"] == pytest.approx(5 / 12)
    same = [dataclasses.replace(case, report=f"r{n // 3}") for n, case in enumerate(cases)]
    got = retrieval.retrieval(same, ("body",), QUICK)
    assert got["different_reports"] == 4
    assert got["image_to_report"]["recall@1"]["chance"] == pytest.approx(3 / 12)
    assert retrieval.retrieval(cases[:1], ("body",), QUICK) == {}


# --- The journal


def test_a_journal_keeps_whole_lines_and_drops_failures_only_when_asked(tmp_path):
    path, good, bad = tmp_path / "cases.jsonl", record("a", 1), CaseRecord("b", "b", "test", "ct", error="broken")
    with CaseJournal(path, {"x": (1, 2)}) as journal:
        journal.append(good)
        journal.append(bad)
    with open(path, "ab") as file:
        file.write(b'{"case_id"')
    with CaseJournal(path, {"x": (1, 2)}) as journal:
        assert journal.records == {"a": good, "b": bad}
    with CaseJournal(path, {"x": (1, 2)}, retry_failed=True) as journal:
        assert journal.records == {"a": good}
    with pytest.raises(InputError, match=r"made with other settings \(x, y\)"):
        CaseJournal(path, {"y": 1})
    path.write_text("something else\n")
    with pytest.raises(InputError, match="is no record of an evaluation"):
        CaseJournal(path, {"x": (1, 2)})
    assert path.read_text() == "something else\n"

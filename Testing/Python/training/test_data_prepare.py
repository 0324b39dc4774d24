"""From a manifest to prepared cases: the right voxels and texts, and what broken input, a kill or a change leads to."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import LABEL
from CTGroundedVLMLib import segmentation
from CTGroundedVLMLib.errors import DependencyError, InputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.preprocessing import Preprocessor
from CTGroundedVLMLib.types import Segmentation
from CTGroundedVLMLib.volume_io import load_case
from CTGroundedVLMTraining.data.crop import crop_case
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.manifest import read_manifest, write_manifest
from CTGroundedVLMTraining.data.prepare import Workers, model_config, prepare
from training_data import REPORT, a_corpus, index_lines, write_case, write_image

MODEL = debug_config()
ROOT = Path(__file__).resolve().parents[3]


def change(manifest, number, **values):
    rows = read_manifest(manifest)
    rows[number] = replace(rows[number], **values)
    write_manifest(manifest, rows)


def quarantine(folder):
    with open(folder / "quarantine.csv", newline="", encoding="utf-8") as file:
        return {row["case_id"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def corpus(tmp_path):
    return a_corpus(tmp_path / "corpus")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# --- The result


def test_a_prepared_volume_is_what_the_model_sees_in_use(tmp_path):
    """One window of inference over the whole crop, for the organ whose window covers it: the same voxels."""
    write_case(tmp_path)
    case = load_case(tmp_path / "ct.nii.gz", tmp_path / "segmentation.nii.gz")
    large = replace(MODEL.preprocessing, window_size=(1000, 1000, 1000))
    expected = Preprocessor(case, MODEL.organs, large, (1, 1, 1)).reference_windows().windows[0]
    cropped = crop_case(case, MODEL)
    low, high = MODEL.preprocessing.hu_window
    image = ((torch.from_numpy(cropped.hu_DHW).float() - low) / (high - low)).clamp(0, 1)
    assert cropped.hu_DHW.dtype == np.int16
    assert image.shape == expected.image_DHW.shape
    assert (image - expected.image_DHW).abs().max() <= 0.5 / (high - low) + 1e-5
    assert np.array_equal(cropped.organ_map_DHW, expected.organ_map_DHW.numpy())
    assert cropped.hu_DHW.max() > high, "HU above the window are kept"


def test_prepared_cases_hold_volume_texts_status_report_and_labels(corpus, out):
    summary = prepare(corpus, out, MODEL)
    assert (summary.made, summary.refused, summary.earlier) == (4, 0, 0)
    cases = PreparedDataset(out, "train", model=MODEL)
    assert cases.case_ids == ("case0", "case1", "case2")
    case = cases[0]
    assert (case.case_id, case.patient_id, case.report) == ("case0", "patient0", REPORT)
    assert case.organs == tuple(MODEL.organs)
    assert case.organ_texts["lung"].status == "abnormal"
    assert case.organ_texts["lung"].text == "Lung nodule. There is a nodule in the right lower lobe."
    assert case.organ_texts["heart"].status == "normal"
    assert "aorta" not in case.organ_texts, "not mentioned is not normal"
    assert case.labels == {"lung/Lung nodule": 1}, "an empty label is unknown, not 0"
    assert cases[1].labels == {"lung/Lung nodule": 0}
    source = load_case(corpus.parent / "cases/case0/ct.nii.gz", corpus.parent / "cases/case0/segmentation.nii.gz")
    assert np.array_equal(case.hu_DHW, crop_case(source, MODEL).hu_DHW)
    assert [len(PreparedDataset(out, split)) for split in (None, "test")] == [4, 1]


def test_texts_of_a_decomposition_are_taken_by_case_or_study(corpus, out):
    lines = [
        {"report_id": "case0", "error": None, "organs": {
            "lung": {"findings": "A nodule.", "impression": "Nodule.", "status": "uncertain"},
            "heart": {"findings": "", "impression": "", "status": "not mentioned"},
            "spleen": {"findings": "Large.", "impression": "", "status": "abnormal"}}},
        {"report_id": "study1", "error": None, "organs": {
            "lung": {"findings": "x", "impression": "", "status": "normal", "caption": "c", "encoded_text": "as released"}}},
        {"report_id": "case2", "error": "no answer", "organs": {}},
    ]  # fmt: skip
    path = corpus.parent / "texts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_manifest(corpus, [replace(row, organ_texts=path) for row in read_manifest(corpus)[:3]])
    assert prepare(corpus, out, MODEL).refused == 1
    cases = PreparedDataset(out)
    assert {organ: (t.text, t.status) for organ, t in cases[0].organ_texts.items()} == {
        "lung": ("Nodule. A nodule.", "uncertain")
    }
    assert cases[1].organ_texts["lung"].text == "as released"
    assert "holds no report 'case2' or 'study2'" in quarantine(out)["case2"]
    again = prepare(corpus, out, MODEL)
    assert (again.earlier, again.refused_now, again.refused) == (3, 0, 1)
    assert len(index_lines(out)) == 3


def test_a_case_without_a_report_is_prepared_but_not_given_to_objectives_that_read(corpus, out):
    change(corpus, 0, report=None)
    summary = prepare(corpus, out, MODEL)
    assert (summary.made, summary.without_report) == (4, 1)
    reading = PreparedDataset(out, "train")
    assert reading.case_ids == ("case1", "case2")
    assert reading.without_report == 1
    assert PreparedDataset(out, "train", with_report=False)[0].organ_texts == {}


# --- Broken input


def test_broken_volumes_go_to_quarantine_with_the_reason_and_the_others_are_made(corpus, out):
    cases = corpus.parent / "cases"
    (cases / "case0/ct.nii.gz").write_bytes((cases / "case0/ct.nii.gz").read_bytes()[:2000])
    image = load_case(cases / "case1/ct.nii.gz", cases / "case1/segmentation.nii.gz")
    write_image(cases / "case1/ct.nii.gz", image.ct.array_kji - 1024, image.ct.ijk_to_ras)
    liver_only = np.minimum(image.segmentation.labels_kji, 1) * LABEL["liver"]
    write_image(cases / "case2/segmentation.nii.gz", liver_only, image.ct.ijk_to_ras)
    (cases / "case3/report.txt").unlink()
    write_case(cases / "case4")
    rows = read_manifest(corpus)
    rows.append(replace(rows[0], case_id="case4", image=cases / "case4/ct.nii.gz", patient_id="p4", labels=None))
    write_manifest(corpus, rows)
    summary = prepare(corpus, out, MODEL)
    reasons = quarantine(out)
    assert (summary.made, summary.refused) == (1, 4)
    assert "damaged or incomplete" in reasons["case0"]
    assert "not in Hounsfield units" in reasons["case1"]
    assert "applied twice" in reasons["case1"]
    assert "holds none of the model's organs" in reasons["case2"]
    assert "report.txt does not exist" in reasons["case3"]
    assert PreparedDataset(out).case_ids == ("case4",)


def test_a_refused_case_is_tried_again_when_its_file_has_changed_or_on_demand(corpus, out):
    ct = corpus.parent / "cases/case0/ct.nii.gz"
    whole = ct.read_bytes()
    ct.write_bytes(whole[:2000])
    assert prepare(corpus, out, MODEL).refused_now == 1
    again = prepare(corpus, out, MODEL)
    assert (again.refused_now, again.refused, again.earlier) == (0, 1, 4)
    assert prepare(corpus, out, MODEL, retry=True).refused_now == 1
    ct.write_bytes(whole)
    mended = prepare(corpus, out, MODEL)
    assert (mended.made, mended.refused) == (1, 0)
    assert quarantine(out) == {}


def test_a_patient_of_an_earlier_manifest_may_not_change_the_split(corpus, out):
    prepare(corpus, out, MODEL)
    rows = read_manifest(corpus)
    other = corpus.parent / "other.csv"
    write_manifest(other, [replace(rows[0], case_id="new", split="test")])
    with pytest.raises(InputError, match=r"patient 'patient0' \('new' in test, 'case0' in train\)"):
        prepare(other, out, MODEL)
    write_manifest(other, [replace(rows[0], case_id="new")])
    assert prepare(other, out, MODEL).others == 4
    assert len(PreparedDataset(out)) == 5


def test_other_settings_need_another_folder(corpus, out):
    prepare(corpus, out, MODEL)
    other = replace(MODEL, preprocessing=replace(MODEL.preprocessing, spacing_mm=(3.0, 2.0, 2.0)))
    with pytest.raises(InputError, match="prepared with other settings"):
        prepare(corpus, out, other)
    with pytest.raises(InputError, match="spacing_mm differ"):
        PreparedDataset(out, model=other)
    (out.parent / "full").mkdir()
    (out.parent / "full/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files \(thesis\.txt\)"):
        prepare(corpus, out.parent / "full", MODEL)


# --- Masks


def test_cases_without_a_mask_are_segmented_once(corpus, out, monkeypatch):
    """A stand-in takes TotalSegmentator's place: it finds the mask that the corpus was made with."""
    calls = []

    def stand_in(ct, path, *, classes, device, fast, cache_dir):
        calls.append((path.parent.name, device, fast, "aorta" in classes, "liver" in classes))
        found = load_case(path, path.parent / "segmentation.nii.gz").segmentation
        return Segmentation(found.labels_kji, found.names, "stand-in")

    monkeypatch.setattr(segmentation, "segment", stand_in)
    monkeypatch.setattr(segmentation, "installed_version", lambda: "2.18.0")
    monkeypatch.setattr(segmentation, "check_weights", lambda **kinds: None)
    expected = out.parent / "expected"
    prepare(corpus, expected, MODEL)
    change(corpus, 0, segmentation=None)
    change(corpus, 2, segmentation=None)
    assert prepare(corpus, out, MODEL, Workers(fast=True)).made == 4
    assert calls == [("case0", "cpu", True, True, False), ("case2", "cpu", True, True, False)]
    assert np.array_equal(PreparedDataset(out)[0].organ_map_DHW, PreparedDataset(expected)[0].organ_map_DHW)
    assert prepare(corpus, out, MODEL, Workers(fast=True)).earlier == 4
    assert len(calls) == 2


def test_without_totalsegmentator_missing_masks_end_the_run_at_once(corpus, out, monkeypatch):
    def missing():
        raise DependencyError("TotalSegmentator is not installed")

    monkeypatch.setattr(segmentation, "installed_version", missing)
    change(corpus, 3, segmentation=None)
    with pytest.raises(DependencyError, match="not installed"):
        prepare(corpus, out, MODEL)


# --- The model


def test_the_model_is_named_by_a_config_file_or_its_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"name": "x", "model": MODEL.to_dict()}))
    assert model_config(str(tmp_path)) == MODEL
    (tmp_path / "plain.json").write_text(json.dumps(MODEL.to_dict()))
    assert model_config(str(tmp_path / "plain.json")) == MODEL
    with pytest.raises(InputError, match=r"gone\.json"):
        model_config(str(tmp_path / "gone.json"))

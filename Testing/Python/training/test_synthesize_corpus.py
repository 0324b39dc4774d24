"""A corpus on disk: its files, runs that are killed and go on, and folders that are not to be touched."""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.volume_io import load_case
from CTGroundedVLMTraining.synthesize import commands, corpus
from CTGroundedVLMTraining.synthesize.corpus import PhantomCases, synthesize
from CTGroundedVLMTraining.synthesize.settings import Settings

COARSE = (6.0, 6.0, 8.0)
SETTINGS = Settings(patients=4, seed=3, spacing_ijk=COARSE, two_studies=0.5)


@pytest.fixture(scope="module")
def a_corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "new"
    synthesize(root, PhantomCases(SETTINGS))
    return root


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digest(root):
    """Content of every case's files; compressed images by their pixels."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def cases_of(root):
    return sorted(path.name for path in (root / "cases").iterdir())


# --- Files


def test_the_manifest_names_files_that_are_there_and_patients_in_one_split_each(a_corpus):
    manifest = rows(a_corpus / "manifest.csv")
    assert [row["case_id"] for row in manifest] == cases_of(a_corpus)
    assert len({row["patient_id"] for row in manifest}) == 4
    assert len(manifest) > 4, "one patient at least has two studies"
    splits = {}
    for row in manifest:
        assert splits.setdefault(row["patient_id"], row["split"]) == row["split"]
        for column in ("image", "segmentation", "report", "labels"):
            assert (a_corpus / row[column]).is_file()
        assert row["source"] == "folder"
    assert len({row["study_id"] for row in manifest}) == len(manifest)


def test_a_case_loads_as_any_other_ct_with_its_mask_and_report(a_corpus):
    folder = a_corpus / "cases" / cases_of(a_corpus)[0]
    case = load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz", folder / "report.txt")
    assert case.warnings == ()
    assert case.ct.array_kji.min() >= -1024
    assert np.sign(np.diag(case.ct.ijk_to_ras)).tolist() == [-1, -1, 1, 1], "stored LPS"
    assert set(np.unique(case.segmentation.labels_kji)) - {0} <= anatomy.label_names().keys()
    assert "FINDINGS" in case.report_text.upper()


def test_the_truth_tells_what_and_where_and_its_centres_lie_in_the_masks(a_corpus):
    entries = 0
    for name in cases_of(a_corpus):
        folder = a_corpus / "cases" / name
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        image = sitk.ReadImage(str(folder / "findings.nii.gz"))
        found = sitk.GetArrayFromImage(image)
        values = {entry["label"] for entry in truth["findings"]}
        assert set(np.unique(found).tolist()) - {0} <= values
        assert truth["synthetic"] is True
        assert truth["generator"] == corpus.GENERATOR
        for entry in truth["findings"]:
            r, a, s = entry["centre_ras"]
            index = image.TransformPhysicalPointToIndex((-r, -a, s))
            assert found[index[::-1]] > 0
            assert entry["voxels"] >= (found == entry["label"]).sum()
            voxel_ml = np.prod(image.GetSpacing()) / 1000
            assert entry["volume_ml"] == pytest.approx(entry["voxels"] * voxel_ml, rel=0.01, abs=0.001)
            entries += 1
    assert entries >= 5


def test_labels_are_the_truth_and_not_what_the_report_says(tmp_path):
    settings = Settings(patients=2, seed=1, spacing_ijk=COARSE, unreported=1.0, two_studies=0, coverages=(1, 0, 0, 0),
                        prevalence={"renal cyst": 1.0, "emphysema": 0.0})  # fmt: skip
    synthesize(tmp_path / "c", PhantomCases(settings))
    for row in rows(tmp_path / "c" / "labels.csv"):
        assert row["kidney/Renal cyst"] == row["kidney/Hypoattenuating renal lesion"] == "1"
        assert row["lung/Emphysema"] == "0"
        text = (tmp_path / "c" / "cases" / row["case_id"] / "report.txt").read_text(encoding="utf-8")
        assert not re.search(r"(kidney|renal)[^.]*cyst|cyst[^.]*(kidney|renal)", text, re.IGNORECASE)
    summary = json.loads((tmp_path / "c" / "summary.json").read_text(encoding="utf-8"))
    assert summary["findings"]["kidney/Renal cyst"]["positive"] == 2
    assert summary["findings"]["kidney/Renal cyst"]["reported"] == 0


def test_the_settings_are_recorded_with_every_prevalence(a_corpus):
    record = json.loads((a_corpus / "corpus.json").read_text(encoding="utf-8"))
    assert record["prevalence"]["lung nodule"] == 0.22
    assert record["seed"] == 3
    assert record["spacing_ijk"] == list(COARSE)


# --- Going on


def test_two_processes_make_what_one_makes(a_corpus, tmp_path):
    synthesize(tmp_path / "c", PhantomCases(SETTINGS), jobs=2)
    assert digest(tmp_path / "c") == digest(a_corpus)


def test_an_interrupted_run_goes_on_and_more_patients_can_be_added(a_corpus, tmp_path):
    class StopError(Exception):
        pass

    def stop(state):
        if state.made == 2:
            raise StopError

    root = tmp_path / "c"
    with pytest.raises(StopError):
        synthesize(root, PhantomCases(SETTINGS), progress=stop)
    assert len(cases_of(root)) == 2
    assert not (root / "manifest.csv").exists()
    times = {name: (root / "cases" / name).stat().st_mtime_ns for name in cases_of(root)}
    state = synthesize(root, PhantomCases(SETTINGS))
    assert state.earlier == 2
    assert all((root / "cases" / name).stat().st_mtime_ns == when for name, when in times.items())
    assert digest(root) == digest(a_corpus)
    more = Settings(**{**SETTINGS.__dict__, "patients": 5})
    assert synthesize(root, PhantomCases(more)).earlier == state.total
    assert len(rows(root / "manifest.csv")) > state.total


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
from pathlib import Path
from CTGroundedVLMTraining.synthesize.corpus import PhantomCases, synthesize
from CTGroundedVLMTraining.synthesize.settings import Settings
if __name__ == "__main__":
    synthesize(Path({root!r}), PhantomCases(Settings(patients=4, seed=3, spacing_ijk=(6.0, 6.0, 8.0), two_studies=0.5)), jobs=2)
"""


def wait_until_no_case_is_added(root):
    """The killed run's processes end with it; were they to work on, cases would go on appearing."""
    count = -1
    while count != len(cases_of(root)):
        count = len(cases_of(root))
        time.sleep(1.5)
    assert count < len(PhantomCases(SETTINGS).cases())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_is_killed_leaves_whole_cases_and_the_next_one_completes_them(a_corpus, tmp_path):
    root = tmp_path / "c"
    script = SCRIPT.format(paths=[p for p in sys.path if p], root=str(root))
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 120
    while not (root / "cases").is_dir() or not list((root / "cases").iterdir()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_no_case_is_added(root)
    assert not (root / "manifest.csv").exists()
    for name in cases_of(root):
        assert len(list((root / "cases" / name).iterdir())) == 5
    synthesize(root, PhantomCases(SETTINGS))
    assert digest(root) == digest(a_corpus)


def test_half_written_cases_of_a_killed_run_are_removed(tmp_path):
    root = tmp_path / "c"
    settings = Settings(patients=1, spacing_ijk=COARSE, two_studies=0)
    synthesize(root, PhantomCases(settings))
    (root / ".partial" / "synthetic_000001_1.abc").mkdir(parents=True)
    synthesize(root, PhantomCases(settings))
    assert not (root / ".partial").exists()
    assert not (root / ".lock").exists()


# --- What is refused


def test_other_settings_are_refused_and_named(a_corpus):
    before = digest(a_corpus)
    with pytest.raises(InputError, match=r"made with other settings \(seed=3\); use the same"):
        synthesize(a_corpus, PhantomCases(Settings(**{**SETTINGS.__dict__, "seed": 4})))
    assert digest(a_corpus) == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.doc").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds other files \(thesis.doc\)"):
        synthesize(tmp_path, PhantomCases(SETTINGS))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        (tmp_path / ".lock").write_text(str(other.pid), encoding="utf-8")
        with pytest.raises(OutputError, match=f"process {other.pid} works there"):
            synthesize(tmp_path, PhantomCases(SETTINGS))
        other.kill()
    settings = Settings(patients=1, spacing_ijk=COARSE, two_studies=0)
    assert synthesize(tmp_path, PhantomCases(settings)).made == 1, "a dead process's lock is taken over"


def test_a_full_disk_is_reported_and_leaves_no_half_case(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("CTGroundedVLMTraining.synthesize.case_files._write_files", full)
    with pytest.raises(OutputError, match=r"the case cannot be written .*No space left on device.*; free some space"):
        synthesize(tmp_path / "c", PhantomCases(SETTINGS))
    assert not list((tmp_path / "c" / "cases").iterdir())
    assert not list((tmp_path / "c" / ".partial").iterdir())


# --- Command line


def run(*words):
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_commands(parser.add_subparsers())
    arguments = parser.parse_args(["synthesize", *words])
    return arguments.run(arguments)


def test_the_command_makes_a_corpus(tmp_path, capsys):
    words = [
        "--patients",
        "1",
        "--spacing",
        "6",
        "6",
        "8",
        "--prevalence",
        "all=0",
        "--prevalence",
        "renal cyst=1",
        "--quiet",
    ]
    assert run(str(tmp_path / "c"), *words) == 0
    assert "made now, 0 before" in capsys.readouterr().out
    record = json.loads((tmp_path / "c" / "corpus.json").read_text(encoding="utf-8"))
    assert record["prevalence"]["renal cyst"] == 1
    assert sum(record["prevalence"].values()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["--prevalence", "emphysema"], "--prevalence 'emphysema': expected FINDING=SHARE"),
        (["--prevalence", "emphysema=much"], "expected FINDING=SHARE"),
        (["--split", "train"], "--split needs --plant: it is about real CTs."),
        (["--present", "liver/Steatosis"], "--present needs --plant"),
        (["--segmentation", "mask.nii.gz"], "--segmentation needs --plant"),
        (
            ["--plant", "ct.nii.gz", "--spacing", "1", "1", "1"],
            "--spacing does not go with --plant: a scan has its own voxels.",
        ),
        (
            ["--plant", "ct.nii.gz", "--splits", "1", "0"],
            "--splits does not go with --plant: all versions lie in one --split.",
        ),
        (["--plant", "ct.nii.gz"], "1 --plant and 0 --segmentation; expected one mask for each CT"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_made(tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        run(str(tmp_path / "c"), *words)
    assert not Path(tmp_path / "c").exists()

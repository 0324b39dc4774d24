"""``Training/runs/starter.sh``: the whole recipe with tiny numbers, from nothing to a model folder; run again, it goes on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from CTGroundedVLMLib.model.checkpoint import load_checkpoint
from CTGroundedVLMLib.model.header import card_line
from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
from CTGroundedVLMLib.volume_io import load_case
from CTGroundedVLMTraining.recipes import STARTER_NOTICE

pytest.importorskip("sklearn")
ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "Training" / "runs" / "starter.sh"
SIZES = {
    "RECIPE": "starter_debug",
    "PATIENTS": "16",
    "SEED": "5",
    "VERSIONS": "2",
    "JOBS": "1",
    "BOOTSTRAP": "20",
    "SYNTHESIZE": "--splits 0.15 0.65 --spacing 8 8 10 --prevalence all=0.5 --quiet",
    "SET": "batch_size=1 tensorboard=false",
}
pytestmark = [pytest.mark.skipif(shutil.which("bash") is None, reason="no bash"), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs the script with the command line of this tree; returns its folder. It must end well."""
    folder = tmp_path_factory.mktemp("starter")
    program = folder / "bin" / "ctgvlm-train"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m CTGroundedVLMTraining.cli "$@"\n')
    program.chmod(0o755)
    environment = os.environ | SIZES | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "CTGroundedVLM", ROOT / "Training"))),
        "CTGVLM_CACHE_DIR": str(folder / "cache"),
    }  # fmt: skip

    def run(*scans):
        done = subprocess.run(
            ["bash", SCRIPT, folder / "work with space", *scans],
            env=environment,
            capture_output=True,
            text=True,
            timeout=1100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "work with space"

    return run


@pytest.fixture(scope="module")
def work(run):
    return run()


def test_the_recipe_ends_with_a_model_that_is_calibrated_and_has_its_card(work):
    model = work / "model"
    loaded = load_checkpoint(model)
    assert card_line(model) == loaded.identity.notice == STARTER_NOTICE
    assert loaded.identity.license == "Apache-2.0"
    calibration = json.loads((model / "calibration-shared-physical.json").read_text())
    assert calibration["model_sha256"] == loaded.identity.sha256
    assert calibration["about"]["fitted_on"]["patients"] >= 8
    training = json.loads((model / "training.json").read_text())
    assert (training["step"], training["config"]["batch_size"]) == (2, 1)
    assert str(work) not in "".join(path.read_text() for path in model.glob("*.json")), "a folder of this machine"
    card = (model / "MODEL_CARD.md").read_text()
    metrics = json.loads((work / "evaluation" / "metrics.json").read_text())
    auc = metrics["macro"]["left_out"]["auc"]
    assert f"| mean AUC over {auc['findings']} findings | {auc['value']:.3f} |" in card
    assert "16 synthetic patients of `ctgvlm-train synthesize`" in card
    assert "--set batch_size=1" in card
    assert "Not evaluated yet" not in card


def test_an_analysis_with_it_asks_for_what_was_evaluated_and_calibrates_what_could_be(work):
    loaded = load_checkpoint(work / "model")
    case = next(folder for folder in sorted((work / "corpus" / "cases").iterdir()))
    result = analyze(
        load_case(case / "ct.nii.gz", case / "segmentation.nii.gz"),
        loaded,
        AnalysisOptions(precision="fp32", heatmaps=0),
    )
    fitted = json.loads((work / "model" / "calibration-shared-physical.json").read_text())["findings"]
    assert fitted
    assert {f"{f.organ}/{f.finding}" for f in result.findings} == set(loaded.findings) >= set(fitted)
    calibrated = {f"{f.organ}/{f.finding}" for f in result.findings if f.calibrated}
    assert calibrated == {f"{f.organ}/{f.finding}" for f in result.findings if f.reason is None} & set(fitted)
    assert result.model.notice == STARTER_NOTICE


def test_run_again_it_keeps_what_is_there_and_adds_scans_with_planted_findings(work, run):
    kept = ["model/model.safetensors", "run/checkpoints/step-00000002/state.pt", "prepared/index.jsonl"]
    before = {name: (work / name).stat().st_mtime_ns for name in kept}
    scored = (work / "evaluation" / "cases.jsonl").read_bytes()
    calibration = (work / "model" / "calibration-shared-physical.json").read_bytes()
    phantom = next(iter(sorted((work / "corpus" / "cases").iterdir())))  # in the place of a real scan
    run(phantom / "ct.nii.gz", phantom / "segmentation.nii.gz")
    assert {name: (work / name).stat().st_mtime_ns for name in kept} == before
    assert (work / "evaluation" / "cases.jsonl").read_bytes() == scored
    assert (work / "model" / "calibration-shared-physical.json").read_bytes() == calibration
    card = (work / "model" / "MODEL_CARD.md").read_text()
    assert "### Real CTs with planted findings\n\n2 volumes of 1 patient (2 versions of 1 scan each" in card


@pytest.mark.parametrize("arguments", [[], ["work", "ct.nii.gz"]])
def test_wrong_usage_is_told_before_anything_is_made(tmp_path, arguments):
    done = subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: starter.sh WORK [CT MASK]..." in done.stderr
    assert list(tmp_path.iterdir()) == []

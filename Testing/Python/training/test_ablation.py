"""``ctgvlm-train ablate``: one folder of prepared data serves all arms; a second call goes on and does nothing twice."""

import json
import os
import shlex
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMTraining import ablation, cli
from CTGroundedVLMTraining.ablation import ARMS, whole_images
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.manifest import read_manifest, write_manifest
from CTGroundedVLMTraining.data.prepare import prepare
from CTGroundedVLMTraining.overrides import with_changes
from CTGroundedVLMTraining.recipes import recipe
from training_cases import SIZE
from training_data import a_corpus

pytest.importorskip("sklearn")
CHANGES = [
    f"model.vision.image_size={list(SIZE)}",
    f"model.preprocessing.minimum_size={list(SIZE)}",
    f"model.preprocessing.window_size={list(SIZE)}",
    "model.preprocessing.spacing_mm=[4.0, 4.0, 4.0]",
    "tensorboard=false",
    "validate_every=0",
    "batch_size=4",  # so that two of a batch are normal, which the arms treat in different ways
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(manifest, prepared folder, configuration): four cases to train on and four, of either label, to test on."""
    root = tmp_path_factory.mktemp("ablation")
    config = with_changes(recipe("starter_debug"), CHANGES)
    manifest = a_corpus(root / "corpus", cases=8)
    rows = [replace(row, split="test" if n >= 4 else "train") for n, row in enumerate(read_manifest(manifest))]
    write_manifest(manifest, rows)
    prepare(manifest, root / "prepared", config.model)
    return manifest, root / "prepared", config


def ablate(data, output, *more, prepared=None):
    manifest, folder, _ = data
    sets = [part for change in CHANGES for part in ("--set", change)]
    arguments = [
        "--data",
        prepared or folder,
        "--manifest",
        manifest,
        "--output",
        output,
        "--bootstrap",
        "20",
        "--quiet",
    ]
    return cli.main(["ablate", "starter_debug", *map(str, arguments), *sets, *more])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))


def test_all_arms_and_seeds_are_trained_measured_and_compared_and_a_second_call_does_nothing_twice(
    data, tmp_path, capsys
):
    assert ablate(data, tmp_path / "out", "--seeds", "1", "2") == 0
    printed = capsys.readouterr().out
    for a, b in (("fvlm", "fvlm-uncorrected"), ("fvlm", "clip"), ("fvlm-uncorrected", "clip")):
        assert f"{a} (A) against {b} (B): 4 volumes of 4 patients" in printed
        record = json.loads((tmp_path / "out" / f"{a}-against-{b}" / "comparison.json").read_text())
        auc = next(d for d in record["differences"] if (d["metric"], d["finding"]) == ("auc", "lung/Lung nodule"))
        assert len(auc["seeds_a"]) == len(auc["seeds_b"]) == 2
        assert auc["count"] == 4
    models = sorted((tmp_path / "out").glob("*/seed-*/run/model/model.safetensors"))
    assert len(models) == len({path.read_bytes() for path in models}) == 6
    configs = {path: json.loads((path.parents[1] / "config.json").read_text()) for path in models}
    chosen = {(c["objective"]["name"], c["objective"]["false_negatives"], c["seed"]) for c in configs.values()}
    assert {("fvlm", "normal", 1), ("fvlm", "none", 2)} <= chosen
    assert sorted(len(c["model"]["organs"]) for c in configs.values()) == [1, 1, 36, 36, 36, 36]
    times = [path.stat().st_mtime_ns for path in models]
    assert ablate(data, tmp_path / "out", "--seeds", "1", "2") == 0
    assert [path.stat().st_mtime_ns for path in models] == times
    assert capsys.readouterr().out == printed


def test_data_that_changed_between_two_arms_are_refused(data, tmp_path, capsys):
    assert ablate(data, tmp_path / "out", "--seeds", "1", "--arms", "fvlm") == 0
    other = shutil.copytree(data[1], tmp_path / "other")
    text = (other / "index.jsonl").read_text()
    (other / "index.jsonl").write_text(text.replace("clear", "CLEAR"))
    assert ablate(data, tmp_path / "out", "--seeds", "1", "--arms", "fvlm", prepared=other) == 3
    assert "was started on other data" in capsys.readouterr().err


def test_sigterm_while_an_arm_is_measured_ends_with_exit_code_10_and_the_same_command_goes_on(
    data, tmp_path, monkeypatch, capsys
):
    arguments = ("--seeds", "1", "--arms", "fvlm")
    with monkeypatch.context() as patched:
        patched.setattr(ablation, "_measured", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert ablate(data, tmp_path / "out", *arguments) == 10
    assert "stopped by SIGTERM" in capsys.readouterr().err
    written = (tmp_path / "out" / "fvlm" / "seed-1" / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    assert ablate(data, tmp_path / "out", *arguments) == 0
    assert (tmp_path / "out" / "fvlm" / "seed-1" / "evaluation" / "metrics.json").is_file()
    assert (tmp_path / "out/fvlm/seed-1/run/model/model.safetensors").stat().st_mtime_ns == written


def test_a_launcher_s_processes_are_refused_before_anything_is_read(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ablate(data, tmp_path / "out") == 3
    assert "ablate works in one process" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_arm_of_whole_images_reads_what_was_prepared_for_organs_as_if_it_was_prepared_for_it(data, tmp_path):
    manifest, prepared, config = data
    model = whole_images(config).model
    prepare(manifest, tmp_path / "own", model)
    own, shared = PreparedDataset(tmp_path / "own", model=model), PreparedDataset(prepared, model=model)
    assert shared.organs == ("body",)
    assert own.case_ids == shared.case_ids
    for one, other in zip(own, shared, strict=True):
        assert np.array_equal(one.hu_DHW, other.hu_DHW)
        assert np.array_equal(one.organ_map_DHW, other.organ_map_DHW)
        assert one.organ_map_DHW.any()
        assert (one.report, one.labels, other.organ_texts) == (other.report, other.labels, {})


def test_a_model_of_one_organ_that_holds_fewer_classes_does_not_get_these_data(data):
    _, prepared, config = data
    lung = replace(config.model, organs={"body": config.model.organs["lung"]})
    with pytest.raises(InputError, match="was prepared for another model: organs"):
        PreparedDataset(prepared, model=lung)


def test_arms_differ_in_nothing_but_the_objective_and_what_it_needs():
    base = recipe("starter")
    configs = {name: arm(base) for name, arm in ARMS.items()}
    for config in configs.values():
        same = replace(config, objective=base.objective, model=base.model)
        assert same == base
    assert configs["fvlm"].model == configs["fvlm-uncorrected"].model == base.model
    clip = configs["clip"].model
    assert clip.text.max_tokens == clip.text.positions == 512
    assert replace(clip, organs=base.model.organs, text=base.model.text) == base.model


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_launch_line_makes_what_is_missing_and_its_commands_parse(tmp_path):
    script = Path(__file__).resolve().parents[3] / "Training" / "runs" / "ablation.sh"
    log, work = tmp_path / "calls", tmp_path / "with space"
    stand_in = tmp_path / "ctgvlm-train"
    stand_in.write_text(f'#!/usr/bin/env bash\nprintf "%s\\n" "$(printf "%q " "$@")" >> {log}\n')
    stand_in.chmod(0o755)

    def calls(**variables):
        log.unlink(missing_ok=True)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(
            ["bash", script, work, "--grounding"],
            env=os.environ | {"PATH": path} | variables,
            check=True,
        )
        return [cli.build_parser().parse_args(shlex.split(line)) for line in log.read_text().splitlines()]

    corpus, shown, prepared, ablation = calls(
        PATIENTS="12", STEPS="3", SEEDS="4 5", RECIPE="starter_debug", SET="ema=none seed=9"
    )
    assert (corpus.output, corpus.patients) == (work / "corpus", 12)
    assert prepared.manifest == ablation.manifest == work / "corpus" / "manifest.csv"
    assert str(prepared.output) == ablation.data == str(work / "prepared")
    assert (prepared.model, shown.recipe, ablation.recipe) == (
        str(work / "recipe.json"),
        "starter_debug",
        "starter_debug",
    )
    assert shown.changes == ablation.changes == ["steps=3", "ema=none", "seed=9"]
    assert (ablation.seeds, ablation.grounding) == ([4, 5], True)
    [ablation] = calls(MANIFEST="/m.csv", PREPARED="/p")
    assert (str(ablation.manifest), ablation.data, ablation.seeds) == ("/m.csv", "/p", [1, 2, 3])

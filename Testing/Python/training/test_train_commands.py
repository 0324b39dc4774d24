"""The commands ``train``, ``recipes`` and ``export`` on prepared data, to the model that the user's command loads."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from CTGroundedVLMLib.model.checkpoint import load_checkpoint
from CTGroundedVLMTraining import cli, train_commands
from CTGroundedVLMTraining.recipes import STARTER_NOTICE, recipe
from training_cases import SIZE, some_cases, write_prepared

ORGANS = tuple(recipe("starter").model.organs)
CHANGES = [
    f"model.vision.image_size={list(SIZE)}",
    f"model.preprocessing.minimum_size={list(SIZE)}",
    "validate_every=2",
    "ema=0.9",
    "initial.tokenizer=corpus",
]


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    name = "CTGroundedVLMTraining.train_commands"
    monkeypatch.setattr(cli, "_COMMANDS", tuple({*cli._COMMANDS, name}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    from CTGroundedVLMTraining.overrides import with_changes

    model = with_changes(recipe("starter_debug"), CHANGES).model
    folder = tmp_path_factory.mktemp("data") / "prepared"
    return write_prepared(folder, model, train=some_cases(4, ORGANS), validation=some_cases(3, ORGANS))


def train_command(prepared, run, *changes, name="starter_debug"):
    sets = [part for change in (*CHANGES, *changes) for part in ("--set", change)]
    return cli.main(["train", name, "--data", str(prepared), "--run", str(run), *sets])


def test_a_run_ends_with_a_model_that_inference_loads(prepared, tmp_path, capsys):
    assert train_command(prepared, tmp_path / "run") == 0
    out, err = capsys.readouterr()
    assert str(tmp_path / "run" / "model") in out
    assert "step 2 of 2, loss" in err
    loaded = load_checkpoint(tmp_path / "run" / "model")
    state = torch.load(tmp_path / "run" / "checkpoints" / "step-00000002" / "state.pt", weights_only=True)
    average = state["learners"][0]["average"]["model"]["text_projection.weight"]
    assert torch.equal(loaded.model.text_projection.weight, average)
    assert not torch.equal(average, state["learners"][0]["model"]["text_projection.weight"])
    assert (loaded.identity.trained, loaded.identity.notice) == (True, STARTER_NOTICE)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "validation/loss" not in lines[0]
    assert 0 <= lines[1]["validation/auc"] <= 1
    assert lines[1]["validation/loss"] > 0
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_export_writes_any_checkpoint_in_half_precision_too(prepared, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_command(prepared, run) == 0
    assert cli.main(["export", str(run), str(tmp_path / "half"), "--step", "1", "--half"]) == 0
    assert "the model after step 1" in capsys.readouterr().out
    full, half = ((folder / "model.safetensors").stat().st_size for folder in (run / "model", tmp_path / "half"))
    assert 0.45 < half / full < 0.55
    state = torch.load(run / "checkpoints" / "step-00000001" / "state.pt", weights_only=True)
    expected = state["learners"][0]["average"]["model"]["pooling.queries"]
    assert torch.equal(load_checkpoint(tmp_path / "half").model.pooling.queries, expected.half().float())
    assert cli.main(["export", str(run), str(tmp_path / "half")]) == 7
    assert "exists already" in capsys.readouterr().err
    assert cli.main(["export", str(run), str(tmp_path / "x"), "--step", "9"]) == 3
    assert "no checkpoint of step 9; it has 1, 2" in capsys.readouterr().err


def test_sigterm_ends_the_command_with_exit_code_10_and_the_same_command_goes_on(
    prepared, tmp_path, capsys, monkeypatch
):
    from CTGroundedVLMTraining.loggers import Loggers

    monkeypatch.setattr(Loggers, "__call__", lambda self, record: signal.raise_signal(signal.SIGTERM))
    assert train_command(prepared, tmp_path / "run", "steps=4") == train_commands.STOPPED == 10
    assert "stopped after step 1 of 4; run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()
    monkeypatch.undo()
    monkeypatch.setattr(cli, "_COMMANDS", ("CTGroundedVLMTraining.train_commands",))
    assert train_command(prepared, tmp_path / "run", "steps=4") == 0
    assert train_command(prepared, tmp_path / "whole", "steps=4") == 0
    files = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert files[0] == files[1]


def interrupting(monkeypatch, place, name):
    """A SIGTERM comes when this function is called."""
    from importlib import import_module

    module = import_module(f"CTGroundedVLMTraining.{place}")
    inner = getattr(module, name)

    def signalled(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        return inner(*arguments, **options)

    monkeypatch.setattr(module, name, signalled)


def test_sigterm_while_data_and_model_are_loaded_ends_with_exit_code_10_and_keeps_the_last_checkpoint(
    prepared, tmp_path, capsys, monkeypatch
):
    run, handler = tmp_path / "run", signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as early:
        interrupting(early, "build", "open_data")
        assert train_command(prepared, run) == 10
    assert "stopped by SIGTERM; what was saved stays. Run the same command again" in capsys.readouterr().err
    assert not (run / "checkpoints").exists()
    with monkeypatch.context() as late:
        interrupting(late, "export", "save_checkpoint")
        assert train_command(prepared, run) == 10
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
    assert [path.name for path in run.iterdir() if "model" in path.name] == []
    with monkeypatch.context() as early:
        interrupting(early, "build", "initial_model")
        assert train_command(prepared, run) == 10
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert train_command(prepared, run) == 0
    assert json.loads((run / "model" / "training.json").read_text())["step"] == 2
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups there")
def test_sigterm_to_the_whole_process_group_does_not_take_the_workers_before_the_step_is_saved(prepared, tmp_path):
    program = f"import sys; sys.path[:0] = {sys.path!r}; from CTGroundedVLMTraining.cli import main; sys.exit(main())"
    changes = (*CHANGES, "workers=1", "steps=100000", "checkpoint_every=100000", "validate_every=0")
    sets = [part for change in changes for part in ("--set", change)]
    run = tmp_path / "run"
    command = [*("train", "starter_debug", "--data", str(prepared), "--run", str(run), "--quiet"), *sets]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program, *command], env=environment, start_new_session=True)
    log, deadline = run / "metrics.jsonl", time.monotonic() + 600
    try:
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 3):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(120) == 10
    finally:
        process.kill()
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{last:08d}"]


def test_a_run_of_whole_images_is_validated_by_the_prompts_of_all_organs(tmp_path):
    from CTGroundedVLMTraining.overrides import with_changes

    model = with_changes(recipe("clip_debug"), CHANGES).model
    data = write_prepared(tmp_path / "data", model, train=some_cases(4, ("body",)), validation=some_cases(3, ("body",)))
    assert train_command(data, tmp_path / "run", name="clip_debug") == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["image-report"] > 0
    assert 0 <= last["validation/auc"] <= 1


def test_a_supervised_run_exports_its_head_beside_the_model(prepared, tmp_path):
    from safetensors.torch import load_file

    findings = '["lung/Emphysema", "heart/Cardiomegaly"]'
    plain = ("objective.name=supervised", "objective.presence=0", "objective.location=0")
    changes = (*plain, f"findings={findings}", "initial.tokenizer=registry")
    assert train_command(prepared, tmp_path / "run", *changes) == 0
    head = load_file(tmp_path / "run" / "model" / "head.safetensors")
    assert head["weight"].shape == (2, 24)
    assert json.loads((tmp_path / "run" / "model" / "head.json").read_text())["findings"] == json.loads(findings)


def test_a_head_that_was_not_written_leaves_no_model_that_would_pass_for_finished(prepared, tmp_path, monkeypatch):
    from CTGroundedVLMTraining import export

    plain = ("objective.name=supervised", "objective.presence=0", "objective.location=0", "initial.tokenizer=registry")
    changes = (*plain, 'findings=["lung/Emphysema"]')

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(export, "_write_head", killed)
        assert train_command(prepared, tmp_path / "run", *changes) == 130
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob(".model*"))
    assert train_command(prepared, tmp_path / "run", *changes) == 0
    head = tmp_path / "run" / "model" / "head.safetensors"
    assert head.stat().st_mode & 0o777 == (tmp_path / "run" / "model" / "model.safetensors").stat().st_mode & 0o777


def test_data_of_another_model_and_a_manifest_are_refused_with_the_remedy(prepared, tmp_path, capsys):
    assert train_command(prepared, tmp_path / "run", name="fvlm_release_debug") == 3
    assert "was prepared for another model: organs" in capsys.readouterr().err
    assert train_command(tmp_path / "manifest.csv", tmp_path / "run") == 3
    assert "ctgvlm-train prepare" in capsys.readouterr().err
    assert train_command(prepared, tmp_path / "run", "batch_size=9") == 3
    assert "4 cases do not fill one batch of 9" in capsys.readouterr().err


def test_recipes_lists_and_shows_a_configuration_that_prepare_takes(tmp_path, capsys):
    from CTGroundedVLMTraining.data.prepare import model_config

    assert cli.main(["recipes"]) == 0
    assert "starter_debug" in capsys.readouterr().out
    assert cli.main(["recipes", "starter", "--set", "model.preprocessing.spacing_mm=[4.0, 2.0, 2.0]"]) == 0
    (tmp_path / "config.json").write_text(capsys.readouterr().out)
    assert model_config(str(tmp_path / "config.json")).preprocessing.spacing_mm == (4.0, 2.0, 2.0)


def test_a_model_of_an_earlier_step_is_not_taken_for_that_of_a_finished_run(prepared, tmp_path, capsys, monkeypatch):
    from CTGroundedVLMTraining.loggers import Loggers

    run = tmp_path / "run"
    monkeypatch.setattr(Loggers, "__call__", lambda self, record: signal.raise_signal(signal.SIGTERM))
    assert train_command(prepared, run) == train_commands.STOPPED
    monkeypatch.undo()
    assert cli.main(["export", str(run), str(run / "model")]) == 0
    assert train_command(prepared, run) == 7
    assert "exists already" in capsys.readouterr().err
    shutil.rmtree(run / "model")
    assert train_command(prepared, run) == 0
    assert json.loads((run / "model" / "training.json").read_text())["step"] == 2
    shutil.rmtree(run / "checkpoints")  # a finished run needs none
    written = (run / "model" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert train_command(prepared, run) == 0
    assert "the model after step 2" in capsys.readouterr().out
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recipes", "--set", "batch_size=4"], "--set needs a RECIPE whose fields it changes."),
        (["card", "model", "--evaluation", "e", "--planted-corpus", "c"], "--planted-corpus needs --planted too"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(arguments, words, capsys):
    assert cli.main(arguments) == 3
    assert words in capsys.readouterr().err


def test_export_of_a_folder_without_a_run_says_what_is_expected(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path), str(tmp_path / "out")]) == 3
    assert "holds no run" in capsys.readouterr().err

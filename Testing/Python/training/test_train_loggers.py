"""Where a step's numbers go."""

import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from CTGroundedVLMLib.errors import DependencyError
from CTGroundedVLMTraining.loggers import Loggers, TensorBoardLog
from training_cases import a_config


def a_record(step, loss=2.5, **more):
    return {"step": step, "loss": loss, "samples_per_s": 4.0, "data_wait_s": 0.25, "organ/lung": loss, **more}


def test_tensorboard_holds_each_step_once_also_after_a_resume(tmp_path):
    first = TensorBoardLog(tmp_path, 0)
    for step in (1, 2, 3):
        first(a_record(step))
    first.close()
    again = TensorBoardLog(tmp_path, 2)  # continued from step 2
    again(a_record(3, loss=1.5))
    again.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("organ/lung")] == [(1, 2.5), (2, 2.5), (3, 1.5)]
    assert "run/loss" in events.Tags()["scalars"]


def test_the_terminal_tells_the_first_the_validated_and_the_last_step(tmp_path, capsys):
    with Loggers(a_config(), tmp_path, 9, 0, quiet=False) as report:
        report(a_record(1, mfu=0.42))
        report(a_record(2))  # within ten seconds
        report(a_record(5, **{"validation/auc": 0.75}))
        report(a_record(9))
    assert capsys.readouterr().err.splitlines() == [
        "ctgvlm-train: step 1 of 9, loss 2.500, 4.00 cases/s, 0.25 s waiting for data, MFU 42 %",
        "ctgvlm-train: step 5 of 9, loss 2.500, 4.00 cases/s, 0.25 s waiting for data, validation/auc 0.750",
        "ctgvlm-train: step 9 of 9, loss 2.500, 4.00 cases/s, 0.25 s waiting for data",
    ]


def test_quiet_says_nothing(tmp_path, capsys):
    with Loggers(a_config(), tmp_path, 9, 0, quiet=True) as report:
        report(a_record(1))
    assert capsys.readouterr().err == ""


def test_weights_and_biases_gets_configuration_and_numbers_by_step(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, numbers, step):
            calls.append((step, numbers))

        def finish(self):
            calls.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **how: calls.append(how) or Run()))
    with Loggers(a_config(wandb=True), tmp_path, 9, 0, quiet=True) as report:
        report(a_record(7))
    assert calls[0]["config"]["batch_size"] == 2
    assert calls[0]["resume"] == "allow"
    for folder in (tmp_path, tmp_path / "other" / "run", tmp_path / "another" / "run"):
        folder.mkdir(parents=True, exist_ok=True)
        Loggers(a_config(wandb=True), folder, 9, 0, quiet=True)
    first, again, other, another = (call["id"] for call in calls if "id" in call)
    assert first == again, "a run goes on under its own id"
    assert len({first, other, another}) == 3, "another one does not, whatever its folder is called"
    assert calls[1][0] == 7
    assert calls[1][1]["loss"] == 2.5
    assert calls[2] == "finished"


@pytest.mark.parametrize(
    ("module", "changes", "remedy"),
    [
        ("wandb", {"wandb": True}, "--set wandb=false"),
        ("torch.utils.tensorboard", {"tensorboard": True}, "--set tensorboard=false"),
    ],
)
def test_a_missing_logger_is_named_with_its_remedy(module, changes, remedy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DependencyError, match=remedy):
        Loggers(a_config(**changes), tmp_path, 9, 0, quiet=True)

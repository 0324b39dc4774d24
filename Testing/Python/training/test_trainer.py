"""The loop on a tiny model: exact resume, cached features, co-teaching, what is refused."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining import run_folder
from CTGroundedVLMTraining.config import InitialWeights, ObjectiveConfig, OptimizerConfig
from CTGroundedVLMTraining.data.loader import TrainingLoader
from CTGroundedVLMTraining.learner import MovingAverage
from CTGroundedVLMTraining.trainer import NotANumberError
from training_cases import CALM, a_config, a_learner, a_trainer, some_cases, train, weights


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class KilledError(Exception):
    pass


def killing_after(step):
    def report(record):
        if record["step"] == step:
            raise KilledError

    return report


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "objective": ObjectiveConfig(false_negatives="normal+momentum", momentum=0.9)},
        {"accumulate": 2, "epochs": 4, "activation_checkpointing": True},
    ],
    ids=["plain", "averages", "accumulated"],
)
@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_run_killed_at_any_step_and_continued_equals_an_uninterrupted_one_bit_for_bit(tmp_path, killed_at, changes):
    config = a_config(**changes)
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, report=killing_after(killed_at))
    torch.manual_seed(99)  # whatever the new process drew before
    continued = train(tmp_path / "killed", config)
    assert same(weights(continued), weights(whole))
    exported = [trainer.learners[0].exported().state_dict() for trainer in (continued, whole)]
    assert same(*exported)
    objectives = [trainer.learners[0].objective.state_dict() for trainer in (continued, whole)]
    assert same(*objectives)


def test_co_teaching_trains_two_models_and_resumes_exactly(tmp_path):
    config = a_config(objective=ObjectiveConfig(false_negatives="normal+coteach"))
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, report=killing_after(3))
    continued = train(tmp_path / "killed", config)
    for learner in range(2):
        assert same(weights(continued, learner), weights(whole, learner))
    assert not same(weights(whole, 0), weights(whole, 1))
    orders = [learner.loader.order for learner in whole.learners]
    assert orders[0].of_step(0) != orders[1].of_step(0) or orders[0].of_step(1) != orders[1].of_step(1)
    assert any(name.startswith("peer/organ/") for name in lines(tmp_path / "whole")[0])


def learned_margin(folder, method):
    """By how much the least typical dense lung is more like "nodule" than the least typical aerated one, after 40 steps."""
    config = a_config(
        model=CALM,
        epochs=40,
        batch_size=8,
        checkpoint_every=100,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=5, cosine="step"),
        initial=InitialWeights(method, tokenizer="registry"),
    )
    learner = a_learner(config, some_cases(8))
    train(folder, config, [learner])
    margins = lung_margins(learner)
    return float(margins[1::2].min() - margins[::2].max())


def test_training_learns_which_lungs_are_abnormal(tmp_path):
    """Odd cases have a dense lung and say so, even ones an aerated one. ln 4: the two groups of four are told apart."""
    assert learned_margin(tmp_path, "scratch") > 0.5
    assert lines(tmp_path)[-1]["organ/lung"] == pytest.approx(math.log(4), abs=0.1)


def test_a_small_model_learns_sooner_from_the_scales_for_scratch_than_from_the_usual_ones(tmp_path):
    assert learned_margin(tmp_path, "random") < 0.1


def lung_margins(learner):
    """How much more each of the eight lungs is like "nodule" than like "clear lungs"."""
    model = learner.model.eval()
    texts = registry_tokenizer()(["nodule of 3 mm.", "clear lungs."], padding=True, return_tensors="pt")
    batch = learner.loader._collate([learner.loader._views[(0, number)] for number in range(8)])
    with torch.no_grad():
        organs_BOE, texts_PE, _ = model(
            batch.image_BDHW, batch.token_mask_BON, texts["input_ids"], texts["attention_mask"]
        )
    return organs_BOE[:, 0] @ (texts_PE[0] - texts_PE[1])


def test_lines_of_steps_that_are_done_again_are_logged_once(tmp_path):
    config = a_config()
    with pytest.raises(KilledError):
        train(tmp_path, config, report=killing_after(3))
    train(tmp_path, config)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_record_tells_speed_losses_and_schedule(tmp_path):
    train(tmp_path, a_config(peak_tflops=1.0))
    line = lines(tmp_path)[0]
    assert line["lr"] == pytest.approx(1e-6)
    assert line["loss"] == pytest.approx(
        sum(value for name, value in line.items() if name.startswith("organ/")), rel=1e-5
    )
    assert line["samples_per_s"] == pytest.approx(2 / line["seconds"])
    assert 0 < line["data_wait_s"] < line["seconds"]
    assert 0 < line["mfu"] < 1


def test_steps_in_place_of_epochs_end_a_run_within_an_epoch(tmp_path):
    trainer = train(tmp_path, a_config(steps=3))
    assert trainer.finished
    assert trainer.run_folder.steps() == [2, 3]


def test_the_moving_average_follows_its_formula():
    learner = a_learner(a_config())
    average, name = MovingAverage(learner.model, 0.15), "text_projection.weight"
    expected = learner.model.text_projection.weight.detach().clone()
    for n in range(3):
        with torch.no_grad():
            learner.model.text_projection.weight.add_(1.0)
        average.update(learner.model)
        decay = min(0.15, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * learner.model.text_projection.weight.detach()
    assert torch.allclose(average.module.state_dict()[name], expected, atol=1e-6)


def test_validation_does_not_disturb_training(tmp_path):
    seen = []

    def validate(learner):
        seen.append(learner.exported().training)
        return {"loss": torch.rand(()).item()}

    with_it = train(tmp_path / "with", a_config(validate_every=1), validate=validate)
    without = train(tmp_path / "without", a_config())
    assert seen == [False] * 4
    assert same(weights(with_it), weights(without))
    assert 0 < lines(tmp_path / "with")[3]["validation/loss"] < 1


def test_only_the_last_checkpoints_are_kept(tmp_path):
    trainer = train(tmp_path, a_config(keep=2, checkpoint_every=1))
    assert trainer.finished
    assert trainer.run_folder.steps() == [3, 4]


def test_a_loss_that_is_no_number_stops_before_the_step_and_names_the_batch(tmp_path):
    cases = some_cases(2)
    config = a_config(batch_size=2, checkpoint_every=1)
    learner = a_learner(config, cases)
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    with torch.no_grad():
        learner.model.temperature.fill_(float("nan"))
    with pytest.raises(NotANumberError, match=r"Step 1: the loss is nan.*batch was case[01], case[01]"):
        train(tmp_path, config, [learner])
    after = learner.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k != "temperature")


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (0, r"Step 1, first model: the loss is nan.*The weights of neither model were changed by this step"),
        (1, r"Step 1, second model: the loss is nan.*The first one had taken this step; nothing of it is saved"),
    ],
)
def test_of_two_models_the_message_names_the_one_without_a_number_and_what_holds(tmp_path, failing, words):
    config = a_config(objective=ObjectiveConfig(false_negatives="normal+coteach"), checkpoint_every=1)
    trainer = a_trainer(tmp_path, config)
    trainer.resume()
    before = [weights(trainer, number) for number in range(2)]
    objective = trainer.learners[failing].objective
    whole = objective.forward
    objective.forward = lambda *arguments: {name: loss * math.nan for name, loss in whole(*arguments).items()}
    with pytest.raises(NotANumberError, match=words):
        trainer.run()
    after = [weights(trainer, number) for number in range(2)]
    assert [not same(*pair) for pair in zip(before, after, strict=True)] == [failing == 1, False]
    assert trainer.run_folder.steps() == []


def test_a_folder_with_another_run_is_refused_by_the_differing_fields(tmp_path):
    train(tmp_path, a_config(epochs=1))
    with pytest.raises(InputError, match=r"another configuration \(epochs, seed differ\)"):
        train(tmp_path, a_config(epochs=2, seed=1))


def test_a_run_of_a_version_that_lacked_a_field_goes_on_with_its_default(tmp_path):
    config = a_config(steps=3)
    whole = train(tmp_path / "whole", config)
    with pytest.raises(KilledError):
        train(tmp_path / "older", config, report=killing_after(3))
    path = tmp_path / "older" / "config.json"
    record = json.loads(path.read_text())
    del record["views"]["translation"], record["license"]
    path.write_text(json.dumps(record))
    assert same(weights(train(tmp_path / "older", config)), weights(whole))
    with pytest.raises(InputError, match=r"another configuration \(license differ\)"):
        train(tmp_path / "older", a_config(steps=3, license="MIT"))


def test_a_finished_run_reads_no_batch(tmp_path, monkeypatch):
    train(tmp_path, a_config())
    monkeypatch.delattr(TrainingLoader, "batches")
    assert train(tmp_path, a_config()).finished


def test_a_full_disk_while_a_run_is_continued_is_told_with_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(KilledError):
        train(tmp_path, a_config(), report=killing_after(3))
    before = (tmp_path / "metrics.jsonl").read_text()

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "atomic_path", full)
    with pytest.raises(OutputError, match=r"metrics\.jsonl cannot be written.*Free space"):
        train(tmp_path, a_config())
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    trainer = train(tmp_path, a_config(epochs=1))
    steps = trainer.run_folder.steps()

    def full(state, file):
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"step 5 cannot be written.*Free space.*continues from the last"):
        trainer.run_folder.save(5, {})
    assert trainer.run_folder.steps() == steps
    assert not list((tmp_path / "checkpoints").glob(".partial*"))


def test_checkpoints_that_a_kill_cut_off_go_when_the_run_is_continued(tmp_path):
    run = train(tmp_path, a_config(epochs=1)).run_folder
    half = run.checkpoints / ".partial-abc"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    with pytest.raises(InputError, match="another configuration"):
        train(tmp_path, a_config(epochs=2))
    assert half.exists(), "a run that is not this one is let be"
    steps = run.steps()
    run.prepare()
    assert not half.exists()
    assert run.steps() == steps


def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer = train(tmp_path, a_config(epochs=1))
    (trainer.run_folder.checkpoints / "step-00000002" / "state.pt").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"step-00000002.*Remove its folder"):
        train(tmp_path, a_config(epochs=1))


def test_a_run_on_other_data_is_refused(tmp_path):
    run = train(tmp_path, a_config(epochs=1)).run_folder
    run.check_data({"location": "here", "cases": 4, "identity": "a"})
    run.check_data({"location": "moved", "cases": 4, "identity": "a"})
    with pytest.raises(InputError, match=r"started on other data \(4 cases in here; now 5 in there\)"):
        run.check_data({"location": "there", "cases": 5, "identity": "b"})


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_saves_the_step_at_hand_and_ends_the_run(tmp_path):
    def terminate(record):
        if record["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopped = train(tmp_path / "run", a_config(checkpoint_every=1000), report=terminate)
    assert not stopped.finished
    assert stopped.run_folder.steps() == [3]
    assert signal.getsignal(signal.SIGTERM) == before
    config = a_config(checkpoint_every=1000)
    assert same(weights(train(tmp_path / "run", config)), weights(train(tmp_path / "whole", config)))


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import training_cases as t
def report(record):
    print(record["step"], flush=True)
    time.sleep(0.05)
t.train(Path({folder!r}), t.a_config(checkpoint_every=1), report=report)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_run_killed_with_9_goes_on_to_the_weights_of_an_uninterrupted_one(tmp_path):
    program = PROGRAM.format(paths=sys.path, folder=str(tmp_path / "killed"))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline().strip() for _ in range(2)] == ["1", "2"]
    process.kill()
    process.wait()
    assert "4" not in process.stdout.read().split()
    config = a_config(checkpoint_every=1)
    assert same(weights(train(tmp_path / "killed", config)), weights(train(tmp_path / "whole", config)))

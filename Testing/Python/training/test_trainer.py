"""The loop on a tiny model: exact resume, cached features, co-teaching, what is refused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.cached_step import forward_backward
from CTGroundedVLMTraining.config import ObjectiveConfig, OptimizerConfig, TrainingConfig
from CTGroundedVLMTraining.data.collate import Collator
from CTGroundedVLMTraining.data.loader import BatchOrder, TrainingLoader
from CTGroundedVLMTraining.objectives import OrganContrast
from CTGroundedVLMTraining.run_folder import RunFolder
from CTGroundedVLMTraining.schedule import learning_rate
from CTGroundedVLMTraining.trainer import Learner, NotANumberError, Trainer
from CTGroundedVLMTraining.types import OrganText, PreparedCase

MODEL = debug_config()
ORGANS = tuple(MODEL.organs)


def some_cases(count=8):
    random = np.random.default_rng(0)
    cases = []
    for i in range(count):
        hu = random.integers(-1000, 300, (50, 66, 100)).astype(np.int16)
        organ_map = np.zeros(hu.shape, np.uint8)
        organ_map[10:40, 10:30, 10:80], organ_map[10:40, 40:60, 10:80] = 1, 2
        hu[organ_map == 1] = (-800, 100)[i % 2] + 10 * i
        texts = {
            "lung": OrganText(f"nodule of {i} mm." if i % 2 else "clear lungs.", "abnormal" if i % 2 else "normal"),
            "heart": OrganText(f"cardiomegaly grade {i}." if i % 3 else "", "abnormal" if i % 3 else "normal"),
        }
        cases.append(PreparedCase(f"case{i}", f"p{i}", hu, organ_map, ORGANS, texts))
    return cases


def a_config(**changes):
    defaults = {
        "name": "test",
        "model": MODEL,
        "batch_size": 2,
        "epochs": 2,
        "checkpoint_every": 2,
        "workers": 0,
        "optimizer": OptimizerConfig(lr=1e-3, warmup_steps=3),
    }
    return TrainingConfig(**(defaults | changes))


def a_learner(config, cases=None, seed=0):
    torch.manual_seed(seed)
    model = FVLM(config.model)
    objective = OrganContrast(ORGANS, config.objective.false_negatives, momentum=0.9)
    collate = Collator(registry_tokenizer(), 32)
    cases = cases or some_cases()
    loader = TrainingLoader(
        cases, config.model, config.views, collate, BatchOrder(len(cases), config.batch_size, config.seed + seed)
    )
    return Learner(model, objective, loader, config)


def train(folder, config, learners=None, **how):
    torch.manual_seed(7)
    trainer = Trainer(learners or [a_learner(config)], RunFolder(folder, config), **how)
    trainer.finished = trainer.run()
    return trainer


def weights(trainer, learner=0):
    return {k: v.clone() for k, v in trainer.learners[learner].model.state_dict().items()}


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
        {"ema": 0.9},
        {"objective": ObjectiveConfig(false_negatives="normal+momentum")},
        {"accumulate": 2},
    ],
    ids=["plain", "ema", "momentum", "accumulated"],
)
@pytest.mark.parametrize("killed_at", [1, 5])
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
    config = a_config(objective=ObjectiveConfig(false_negatives="normal+coteach"), epochs=2)
    two = lambda: [a_learner(config, seed=0), a_learner(config, seed=1)]  # noqa: E731
    whole = train(tmp_path / "whole", config, two())
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config, two(), report=killing_after(3))
    continued = train(tmp_path / "killed", config, two())
    for learner in range(2):
        assert same(weights(continued, learner), weights(whole, learner))
    assert not same(weights(whole, 0), weights(whole, 1))
    assert any(name.startswith("peer/organ/") for name in lines(tmp_path / "whole")[0])


def test_training_learns_which_lungs_are_abnormal(tmp_path):
    """Odd cases have a dense lung and say so, even ones an aerated one."""
    config = a_config(epochs=10, batch_size=4, optimizer=OptimizerConfig(lr=2e-3, warmup_steps=2))
    learner = a_learner(config)
    torch.nn.init.normal_(learner.model.pooling.queries)
    train(tmp_path, config, [learner])
    model, tokenizer = learner.model.eval(), registry_tokenizer()
    texts = tokenizer(["nodule of 3 mm.", "clear lungs."], padding=True, return_tensors="pt")
    collate = learner.loader._collate
    batch = collate([learner.loader._views[(0, number)] for number in range(8)])
    with torch.no_grad():
        organs_BOE, texts_PE, _ = model(
            batch.image_BDHW, batch.token_mask_BON, texts["input_ids"], texts["attention_mask"]
        )
    margins = organs_BOE[:, 0] @ (texts_PE[0] - texts_PE[1])
    assert margins[1::2].min() > margins[::2].max()


def test_only_the_last_checkpoints_are_kept(tmp_path):
    trainer = train(tmp_path, a_config(keep=2))
    assert trainer.finished
    assert trainer.run_folder.steps() == [6, 8]


def test_cached_features_give_the_gradient_of_one_large_batch():
    config = a_config(batch_size=4)
    learner = a_learner(config)
    whole = next(learner.loader.batches())
    order = learner.loader.order
    parts = []
    for half in (0, 2):
        small = replace(order, batch_size=2)
        loader = a_learner(config).loader
        loader.order = small
        keys = order.of_step(0)[half : half + 2]
        parts.append(loader._collate([loader._views[key] for key in keys]))
    model, objective = learner.model.eval(), learner.objective
    expected_losses = forward_backward(model, objective, [whole])
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    losses = forward_backward(model, objective, parts)
    assert losses == pytest.approx(expected_losses, rel=1e-5)
    for name, parameter in model.named_parameters():
        if name in expected:
            scale = float(expected[name].abs().max())
            assert torch.allclose(parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-9), name


def test_cached_features_draw_the_same_dropout_twice():
    """With dropout the second pass must repeat the first one's: otherwise gradients belong to other features."""
    learner = a_learner(a_config())
    stream = learner.loader.batches()
    batches = [next(stream), next(stream)]
    learner.model.train()
    torch.manual_seed(3)
    forward_backward(learner.model, learner.objective, batches)
    cached = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    from CTGroundedVLMTraining.cached_step import joined
    from CTGroundedVLMTraining.objectives import Features

    parts = [Features.of(learner.model, batch) for batch in batches]
    both = Features(
        torch.cat([p.organs_BOE for p in parts]), torch.cat([p.texts_PE for p in parts]), parts[0].temperature
    )
    sum(learner.objective(both, joined(batches)).values()).backward()
    for name, gradient in cached.items():
        expected = dict(learner.model.named_parameters())[name].grad
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-9), name


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


def test_a_folder_with_another_run_is_refused_by_the_differing_fields(tmp_path):
    train(tmp_path, a_config(epochs=1))
    with pytest.raises(InputError, match=r"another configuration \(epochs, seed differ\)"):
        train(tmp_path, a_config(epochs=2, seed=1))


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    trainer = train(tmp_path, a_config(epochs=1))
    steps = trainer.run_folder.steps()

    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"step 5 cannot be written.*Free space.*continues from the last"):
        trainer.run_folder.save(5, {})
    assert trainer.run_folder.steps() == steps
    assert not list((tmp_path / "checkpoints").glob(".partial*"))


def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer = train(tmp_path, a_config(epochs=1))
    (trainer.run_folder.checkpoints / "step-00000004" / "state.pt").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"step-00000004.*Remove its folder"):
        train(tmp_path, a_config(epochs=1))


PROGRAM = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
import test_trainer as t
config = t.a_config(epochs=50, checkpoint_every=1000)
def report(record):
    print(record["step"], flush=True)
    time.sleep(0.05)
trainer = t.train(Path({folder!r}), config, report=report)
print("finished" if trainer.finished else "stopped", trainer.run_folder.steps(), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_sigterm_saves_the_step_at_hand_and_ends_the_run(tmp_path):
    program = PROGRAM.format(paths=[*sys.path, os.path.dirname(__file__)], folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "1"
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read().splitlines()
    assert process.wait() == 0
    done = max(int(line) for line in ["1", *rest[:-1]])
    assert done < 190
    assert rest[-1] == f"stopped [{done}]"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_the_step_alone(workers):
    config = a_config(views=replace(a_config().views, flips=(0.5, 0.5, 0.5), noise_hu=5.0))
    cases = some_cases()
    loader = TrainingLoader(
        cases, MODEL, config.views, Collator(registry_tokenizer(), 32), BatchOrder(8, 2, 5), workers=workers
    )
    plain = TrainingLoader(cases, MODEL, config.views, Collator(registry_tokenizer(), 32), BatchOrder(8, 2, 5))
    stream, late = plain.batches(), loader.batches(5)
    batches = [next(stream) for _ in range(7)]
    for expected in batches[5:]:
        found = next(late)
        assert found.case_ids == expected.case_ids
        assert torch.equal(found.image_BDHW, expected.image_BDHW)


def test_an_epoch_takes_each_case_once_over_all_ranks_and_another_epoch_in_another_order():
    orders = [BatchOrder(13, 2, 0, rank, 3) for rank in range(3)]
    epochs = []
    for epoch in range(2):
        steps = range(epoch * 2, epoch * 2 + 2)
        taken = [number for step in steps for order in orders for _, number in order.of_step(step)]
        assert len(set(taken)) == 12
        epochs.append(taken)
    assert orders[0].steps_per_epoch == 2
    assert epochs[0] != epochs[1]


def test_too_few_cases_for_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"3 cases do not fill one batch of 2 on 2 process"):
        BatchOrder(3, 2, 0, 0, 2)


def test_the_release_s_schedule_warms_up_then_falls_each_epoch():
    config = OptimizerConfig()
    rates = [learning_rate(step, 400, 20, config) for step in (0, 188, 377, 399, 400, 799, 8000)]
    cosine = lambda epoch: 1e-6 + (1e-4 - 1e-6) * (1 + np.cos(np.pi * epoch / 20)) / 2  # noqa: E731
    halfway = 1e-6 + (1e-4 - 1e-6) * 188 / 377
    assert rates == pytest.approx([1e-6, halfway, 1e-4, 1e-4, cosine(1), cosine(1), 1e-6])


def test_a_cosine_by_step_ends_at_the_minimum():
    config = OptimizerConfig(cosine="step", warmup_steps=10)
    assert learning_rate(10, 50, 2, config) == pytest.approx(1e-4)
    assert learning_rate(55, 50, 2, config) == pytest.approx((1e-4 + 1e-6) / 2)
    assert learning_rate(100, 50, 2, config) == pytest.approx(1e-6)


def test_a_configuration_survives_json():
    config = a_config(findings=("lung/Emphysema",), ema=0.99)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
        ({"precision": "fp16"}, "precision is 'fp16', expected one of fp32, bf16"),
        ({"ema": 1.5}, "ema is 1.5"),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_remedy(changes, message):
    with pytest.raises(InputError, match=message):
        a_config(**changes)


def test_a_supervised_run_needs_findings():
    with pytest.raises(InputError, match="findings is"):
        a_config(objective=ObjectiveConfig("supervised"))

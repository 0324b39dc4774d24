"""What one step is made of: cached features, the order of batches, the learning rate."""

import multiprocessing
import os
import signal
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.cached_step import forward_backward, joined
from CTGroundedVLMTraining.config import InitialWeights, ObjectiveConfig, OptimizerConfig
from CTGroundedVLMTraining.data.collate import Collator
from CTGroundedVLMTraining.data.loader import BatchOrder, TrainingLoader
from CTGroundedVLMTraining.objectives import Features
from CTGroundedVLMTraining.schedule import learning_rate
from training_cases import MODEL, a_config, a_learner, some_cases


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
    parts = [Features.of(learner.model, batch) for batch in batches]
    both = Features(
        torch.cat([p.organs_BOE for p in parts]), torch.cat([p.texts_PE for p in parts]), parts[0].temperature
    )
    sum(learner.objective(both, joined(batches)).values()).backward()
    for name, gradient in cached.items():
        expected = dict(learner.model.named_parameters())[name].grad
        assert torch.allclose(gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-9), name


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_the_step_alone(workers):
    config = a_config(views=replace(a_config().views, flips=(0.5, 0.5, 0.5), noise_hu=5.0))
    cases = some_cases(8)
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


def test_the_passes_of_an_optimiser_s_step_are_of_one_epoch():
    """Of two epochs together a case could be in it twice, and would be told from itself."""
    order = BatchOrder(7, 1, 0, passes=2)
    assert (BatchOrder(7, 1, 0).steps_per_epoch, order.steps_per_epoch) == (7, 6)
    for step in range(9):
        (first, one), (second, other) = order.of_step(2 * step) + order.of_step(2 * step + 1)
        assert first == second == step // 3
        assert one != other
    with pytest.raises(ValueError, match="3 cases do not fill 2 batches of 1 on 2 process"):
        BatchOrder(3, 1, 0, 0, 2, passes=2)
    learner = a_learner(a_config(batch_size=1, accumulate=2), some_cases(7))
    assert learner.loader.order == BatchOrder(7, 1, 42, passes=2)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM there")
def test_workers_give_the_batches_of_the_step_at_hand_after_a_sigterm_to_their_process_group():
    """As torchrun sends it; they end with the loader all the same."""
    config = a_config()
    collate, order = Collator(registry_tokenizer(), 32), BatchOrder(8, 2, 5)
    plain = TrainingLoader(some_cases(8), MODEL, config.views, collate, order).batches()
    before = multiprocessing.active_children()
    stream = TrainingLoader(some_cases(8), MODEL, config.views, collate, order, workers=2).batches()
    workers = [process for process in multiprocessing.active_children() if process not in before]
    assert len(workers) == 2
    assert next(stream).case_ids == next(plain).case_ids  # they are at work
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    for _ in range(8):  # more than they had ready
        assert next(stream).case_ids == next(plain).case_ids
    del stream
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_a_batch_and_its_questions_are_put_into_pinned_memory(monkeypatch):
    """Without a method of its own torch's DataLoader would leave it where it is, and each copy to a GPU would wait."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    learner = a_learner(a_config(objective=ObjectiveConfig(location=1.0), findings=("lung/Emphysema",)))
    batch = next(learner.loader.batches())
    found = pin_memory(batch)
    parts = [getattr(found, field.name) for field in fields(found)]
    tensors = [part for part in (*parts, *vars(found.questions).values()) if isinstance(part, torch.Tensor)]
    assert {id(tensor) for tensor in pinned} == {id(tensor) for tensor in tensors}
    assert len(tensors) == 14
    assert found.case_ids == batch.case_ids


def test_the_release_s_schedule_warms_up_then_falls_each_epoch():
    config = OptimizerConfig()
    rates = [learning_rate(step, 400, 8000, config) for step in (0, 188, 377, 399, 400, 799, 8000)]
    cosine = lambda epoch: 1e-6 + (1e-4 - 1e-6) * (1 + np.cos(np.pi * epoch / 20)) / 2  # noqa: E731
    halfway = 1e-6 + (1e-4 - 1e-6) * 188 / 377
    assert rates == pytest.approx([1e-6, halfway, 1e-4, 1e-4, cosine(1), cosine(1), 1e-6])


def test_a_cosine_by_step_ends_at_the_minimum():
    config = OptimizerConfig(cosine="step", warmup_steps=10)
    assert learning_rate(10, 50, 100, config) == pytest.approx(1e-4)
    assert learning_rate(55, 50, 100, config) == pytest.approx((1e-4 + 1e-6) / 2)
    assert learning_rate(100, 50, 100, config) == pytest.approx(1e-6)


def gradients(learner, precision="fp32"):
    torch.manual_seed(5)
    batch = next(learner.loader.batches())
    learner.model.train()
    losses = forward_backward(learner.wrapped, learner.objective, [batch], lambda: learner.model.autocast(precision))
    named = {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in learner.model.named_parameters()}
    return losses["loss"], {name: gradient for name, gradient in named.items() if gradient is not None}


def assert_same_step(found, expected, tolerance):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm() + 1e-6, name


@pytest.fixture(scope="module")
def plain_step():
    return gradients(a_learner(scratch_config()))


def scratch_config(**changes):
    return a_config(initial=InitialWeights("scratch", tokenizer="registry"), **changes)


def test_activation_checkpointing_changes_nothing_but_memory_dropout_included(plain_step):
    learner = a_learner(scratch_config(activation_checkpointing=True))
    assert_same_step(gradients(learner), plain_step, 1e-5)
    assert learner.model.state_dict().keys() == a_learner(scratch_config()).model.state_dict().keys()


def test_compiled_blocks_compute_the_same(plain_step, monkeypatch):
    compiled, original = [], torch.nn.Module.compile

    def without_code_generation(self):  # the graph is traced as for the GPU, and run as it is
        compiled.append(type(self).__name__)
        original(self, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", without_code_generation)
    learner = a_learner(scratch_config(compile=True, ema=0.9))
    assert compiled == ["TransformerBlock"] * MODEL.vision.blocks + ["BertLayer"] * MODEL.text.blocks
    assert_same_step(gradients(learner), plain_step, 1e-4)


def test_bf16_computes_nearly_the_same_and_keeps_weights_and_loss_in_fp32(plain_step):
    learner = a_learner(scratch_config(precision="bf16"))
    found = gradients(learner, "bf16")
    assert found[0] == pytest.approx(plain_step[0], rel=0.05)
    assert found[0] != plain_step[0]
    assert all(gradient.dtype == torch.float32 for gradient in found[1].values())

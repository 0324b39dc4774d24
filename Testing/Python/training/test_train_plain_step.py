"""The trainer's step against the plain re-statement of the release's: the benchmark compares two ways to do the same."""

from dataclasses import replace

import pytest
import torch

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMTraining.cached_step import forward_backward
from CTGroundedVLMTraining.initialization import scale_for_scratch
from CTGroundedVLMTraining.objectives import OrganContrast
from plain_fvlm_training import PlainTraining
from training_batches import a_batch


@pytest.fixture(scope="module")
def both():
    """(our model, its plain twin), after one backward pass, and their losses."""
    config = debug_config()
    config = replace(
        config, vision=replace(config.vision, dropout=0.0), text=replace(config.text, dropout=0.0), pooling_dropout=0.0
    )
    torch.manual_seed(0)
    model = FVLM(config).train()
    scale_for_scratch(model)
    plain = PlainTraining(model, length=config.text.max_tokens).train()
    batch, plain_batch = a_batch(config, 4)
    ours = forward_backward(model, OrganContrast(list(config.organs)), [batch])["loss"]
    loss = plain.loss(plain_batch)
    loss.backward()
    return model, plain, ours, loss.item()


def test_the_losses_are_equal(both):
    _, _, ours, plain = both
    assert ours == pytest.approx(plain, rel=1e-5)


def test_the_gradients_are_equal(both):
    model, plain, _, _ = both
    pairs = {f"vision.{k}": p for k, p in plain.vit.named_parameters() if "norm_cross_attn" not in k}
    pairs |= {f"text.bert.{k}": p for k, p in plain.bert.named_parameters()}
    pairs |= {f"text_projection.{k}": p for k, p in plain.text_projection.named_parameters()}
    pairs |= {f"pooling.attention.{k}": p for k, p in plain.attention.named_parameters()}
    pairs |= {"pooling.queries": plain.queries, "temperature": plain.temperature}
    ours = dict(model.named_parameters())
    for o, projection in enumerate(plain.projections):
        assert_close(projection.weight.grad, ours["pooling.projection_weight"].grad[o], f"projection {o}")
    assert ours.keys() - pairs.keys() == {"pooling.projection_weight", "pooling.projection_bias"}
    for key, parameter in pairs.items():
        if ours[key].requires_grad:
            assert_close(parameter.grad, ours[key].grad, key)


def assert_close(found, expected, name):
    assert (found - expected).abs().max() <= 1e-3 * expected.abs().max() + 1e-7, name

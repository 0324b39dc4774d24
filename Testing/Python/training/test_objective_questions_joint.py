"""Losses of single findings over ranks and passes, with a whole model: as one process on the joint batch."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMTraining.cached_step import forward_backward, joined
from CTGroundedVLMTraining.objectives import Features, ImageReportContrast, OrganContrast, WithQuestions
from CTGroundedVLMTraining.throughput import Speed
from CTGroundedVLMTraining.types import Batch, Questions

NAN = float("nan")
VISION = {"dense": {}, "sparse": {"background_tokens": False, "narrow_windows": ((0.6, 0.9),), "stem": (3, 4)}}


def the_model(vision):
    torch.manual_seed(0)
    config = debug_config()
    config = replace(config, vision=replace(config.vision, blocks=2, levels=(0,), **VISION[vision]))
    model = FVLM(config).eval()  # no dropout: the two runs draw different random numbers
    torch.nn.init.normal_(model.pooling.queries)
    return model


def a_batch(first, last):
    """Cases first..last of four; case 1 shows no organ, of case 2 the findings were not drawn."""
    generator = torch.Generator().manual_seed(2)
    images, ids = torch.rand(4, 48, 64, 96, generator=generator), torch.randint(5, 99, (4, 4, 6), generator=generator)
    prompts = torch.randint(5, 99, (6, 6), generator=generator)
    masks = torch.rand(4, 4, 36, generator=generator) > 0.6
    masks[1] = False
    tokens = torch.rand(4, 3, 36, generator=generator) > 0.7
    labels = torch.tensor([[1.0, NAN, 1.0], [0.0, 1.0, 0.0], [NAN, 0.0, 0.0], [1.0, 0.0, 0.0]])
    tokens &= (labels == 1)[:, :, None]
    valid = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1]], dtype=torch.bool)
    part, n = slice(first, last), last - first
    return Batch(
        case_ids=tuple("abcd"[part]),
        image_BDHW=images[part],
        token_mask_BON=masks[part],
        valid_BO=valid[part],
        status_BO=torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int8)[part],
        text_ids_PT=torch.cat([ids[part].reshape(-1, 6), prompts]),
        text_mask_PT=torch.ones(n * 4 + 6, 6, dtype=torch.long),
        text_of_BO=torch.arange(n * 4).view(n, 4),
        text_key_BO=torch.arange(16).view(4, 4)[part],
        report_of_B=torch.full((n,), -1),
        labels_BF=labels[part],
        questions=Questions(
            torch.tensor([0, 1, 3]),
            torch.tensor([[0, 1], [2, 3], [4, 5]]) + 4 * n,
            tokens[part],
            torch.tensor([True, True, False, True])[part],
        ),
    )


def gradients(vision, wrap, batch, presence=2.0, location=3.0):
    """(losses by name, gradients by name)."""
    model = the_model(vision)
    objective = WithQuestions(OrganContrast(list(model.config.organs), "normal"), presence, location)
    wrapped = wrap(model)  # DDP's hooks live as long as the wrapper
    losses = objective(Features.of(wrapped, batch), batch)
    sum(losses.values()).backward()
    return {n: v.item() for n, v in losses.items()}, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}


def same_gradients(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert torch.allclose(found[name], gradient, rtol=1e-3, atol=1e-5 * scale + 1e-8), name


def one_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {vision: gradients(vision, DistributedDataParallel, a_batch(2 * rank, 2 * rank + 2)) for vision in VISION}
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo with a file rendezvous")
def test_two_processes_equal_one_on_the_joint_batch(tmp_path):
    mp.spawn(one_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    for vision in VISION:
        losses, expected = gradients(vision, lambda model: model, a_batch(0, 4))
        assert min(losses["presence"], losses["location"]) > 0.1
        assert any(gradient.any() for name, gradient in expected.items() if name.startswith("vision."))
        for rank in ranks:
            rank_losses, found = rank[vision]
            assert rank_losses == pytest.approx(losses, rel=1e-5)
            same_gradients(found, expected)


@pytest.mark.parametrize("vision", VISION)
def test_cached_passes_with_presence_give_the_gradient_of_one_large_batch(vision):
    losses, expected = gradients(vision, lambda model: model, a_batch(0, 4), location=0.0)
    model = the_model(vision)
    objective = WithQuestions(OrganContrast(list(model.config.organs), "normal"), 2.0, 0.0)
    found = forward_backward(model, objective, [a_batch(0, 2), a_batch(2, 4)])
    assert found == pytest.approx(losses | {"loss": sum(losses.values())}, rel=1e-5)
    assert losses["presence"] > 0.1
    same_gradients({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, expected)


def test_joined_batches_ask_the_first_pass_s_prompts_of_all_cases():
    first, second = a_batch(0, 2), a_batch(2, 4)
    both = joined([first, second])
    assert both.questions.prompt_of_F2.tolist() == first.questions.prompt_of_F2.tolist()
    assert torch.equal(both.text_ids_PT[both.questions.prompt_of_F2], a_batch(0, 4).text_ids_PT[-6:].view(3, 2, 6))
    assert both.questions.mapped_B.tolist() == [True, True, False, True]
    assert torch.equal(both.labels_BF.isnan(), a_batch(0, 4).labels_BF.isnan())
    assert joined([replace(first, questions=None), replace(second, questions=None)]).questions is None


def test_a_batch_moves_with_its_questions():
    moved = a_batch(0, 2).to("meta")
    assert {moved.image_BDHW.device.type, moved.questions.tokens_BFN.device.type} == {"meta"}
    assert moved.questions.prompt_of_F2.device.type == "meta"
    assert moved.case_ids == ("a", "b")


def test_the_base_works_as_without_questions():
    torch.manual_seed(0)
    model = FVLM(debug_config()).eval()
    base = OrganContrast(list(model.config.organs), "normal+momentum", momentum=0.5)
    objective = WithQuestions(base, 1.0, 1.0)
    objective.start(model)
    assert any(name.startswith("base.text_teacher.") for name in objective.state_dict())
    with torch.no_grad():
        model.text_projection.weight.add_(1.0)
    before = base.text_teacher["text_projection"].weight.clone()
    objective.after_step(model)
    assert torch.allclose(base.text_teacher["text_projection"].weight, before + 0.5, atol=1e-6)
    assert (objective.needs_organ_texts, objective.needs_reports, objective.needs_peer) == (True, False, False)
    assert WithQuestions(OrganContrast(["a"], "normal+coteach"), 1.0, 0.0).needs_peer
    assert WithQuestions(ImageReportContrast(), 1.0, 0.0).needs_reports
    features, batch = Features.of(model, a_batch(0, 4)), a_batch(0, 4)
    losses = objective(features, batch)
    assert losses.keys() - {"presence", "location"} == base(features, batch).keys()


def test_a_model_without_background_has_no_mfu():
    batch = a_batch(0, 2)
    dense, sparse = (Speed(the_model(name).config, 100.0, 2).of_step([batch], 0.5, 0.1) for name in VISION)
    assert dense.keys() - sparse.keys() == {"mfu"}
    assert sparse == {"seconds": 0.5, "data_wait_s": 0.1, "samples_per_s": 8.0}

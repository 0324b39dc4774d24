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
from CTGroundedVLMTraining.types import Questions
from training_batches import a_model, of_four
from training_ranks import one_of_two

NAN = float("nan")
VISION = {"dense": {}, "sparse": {"background_tokens": False, "narrow_windows": ((0.6, 0.9),), "stem": (3, 4)}}


def the_model(vision):
    config = debug_config()
    return a_model(replace(config, vision=replace(config.vision, blocks=2, levels=(0,), **VISION[vision])))


def a_batch(first, last, places=True):
    """Cases first..last of four; case 1 shows no organ, of case 2 the findings were not drawn."""
    generator = torch.Generator().manual_seed(3)
    prompts = torch.randint(5, 99, (6, 6), generator=generator)
    tokens = torch.rand(4, 3, 36, generator=generator) > 0.7
    labels = torch.tensor([[1.0, NAN, 1.0], [0.0, 1.0, 0.0], [NAN, 0.0, 0.0], [1.0, 0.0, 0.0]])
    tokens &= (labels == 1)[:, :, None]
    seen = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1]], dtype=torch.bool)
    part, plain = slice(first, last), of_four(first, last)
    drawn = (tokens[part], torch.tensor([True, True, False, True])[part]) if places else ()
    return replace(
        plain,
        token_mask_BON=plain.token_mask_BON & seen[part, :, None],
        valid_BO=seen[part],
        status_BO=plain.status_BO.clamp(min=0),
        text_ids_PT=torch.cat([plain.text_ids_PT, prompts]),
        text_mask_PT=torch.ones(len(plain.text_ids_PT) + 6, 6, dtype=torch.long),
        labels_BF=labels[part],
        questions=Questions(
            torch.tensor([0, 1, 3]), torch.tensor([[0, 1], [2, 3], [4, 5]]) + len(plain.text_ids_PT), *drawn
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
    with one_of_two(rank, folder):
        batch = a_batch(2 * rank, 2 * rank + 2)
        found = {vision: gradients(vision, DistributedDataParallel, batch) for vision in VISION}
        torch.save(found, Path(folder) / f"rank{rank}.pt")


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
    losses, expected = gradients(vision, lambda model: model, a_batch(0, 4, places=False), location=0.0)
    model = the_model(vision)
    objective = WithQuestions(OrganContrast(list(model.config.organs), "normal"), 2.0, 0.0)
    found = forward_backward(model, objective, [a_batch(0, 2, places=False), a_batch(2, 4, places=False)])
    assert found == pytest.approx(losses | {"loss": sum(losses.values())}, rel=1e-5)
    assert losses["presence"] > 0.1
    same_gradients({n: p.grad for n, p in model.named_parameters() if p.requires_grad}, expected)


def test_margins_of_tokens_are_made_where_places_are_learned_only_and_change_nothing_else(monkeypatch):
    made = []
    of_tokens = FVLM.token_margins
    monkeypatch.setattr(FVLM, "token_margins", lambda *arguments: made.append(1) or of_tokens(*arguments))
    runs = {
        places: gradients("dense", lambda model: model, a_batch(0, 4, places), location=0.0) for places in (True, False)
    }
    assert len(made) == 1, "the batch with places, which was asked for them"
    (losses, with_places), (same, without) = runs.values()
    assert losses == same
    assert losses["presence"] > 0.1
    assert with_places.keys() == without.keys()
    assert all(torch.equal(with_places[name], gradient) for name, gradient in without.items())


def test_a_peer_is_not_asked_where_findings_lie(monkeypatch):
    model, peer = the_model("dense"), the_model("dense")
    asked = []
    of_tokens = FVLM.token_margins
    monkeypatch.setattr(FVLM, "token_margins", lambda self, *rest: asked.append(self) or of_tokens(self, *rest))
    objective = WithQuestions(OrganContrast(list(model.config.organs), "normal+coteach"), 1.0, 1.0)
    losses = forward_backward(model, objective, [a_batch(0, 4)], peer=peer)
    assert asked == [model]
    assert losses["location"] > 0.1


def test_the_loss_of_location_is_not_left_out_in_silence():
    model = the_model("dense")
    objective = WithQuestions(OrganContrast(list(model.config.organs), "normal"), 0.0, 1.0)
    batch = a_batch(0, 4, places=False)
    with pytest.raises(ValueError, match="needs the margins of single tokens"):
        objective(Features.of(model, batch), batch)


def test_joined_batches_ask_the_first_pass_s_prompts_of_all_cases():
    first, second = a_batch(0, 2), a_batch(2, 4)
    both = joined([first, second])
    assert both.questions.prompt_of_F2.tolist() == first.questions.prompt_of_F2.tolist()
    assert torch.equal(both.text_ids_PT[both.questions.prompt_of_F2], a_batch(0, 4).text_ids_PT[-6:].view(3, 2, 6))
    assert (both.questions.tokens_BFN, both.questions.mapped_B) == (None, None)
    assert torch.equal(both.labels_BF.isnan(), a_batch(0, 4).labels_BF.isnan())
    assert joined([replace(first, questions=None), replace(second, questions=None)]).questions is None


def test_a_batch_moves_with_its_questions():
    moved = a_batch(0, 2).to("meta")
    assert {moved.image_BDHW.device.type, moved.questions.tokens_BFN.device.type} == {"meta"}
    assert moved.questions.prompt_of_F2.device.type == "meta"
    assert moved.case_ids == ("a", "b")
    assert a_batch(0, 2, places=False).to("meta").questions.tokens_BFN is None


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

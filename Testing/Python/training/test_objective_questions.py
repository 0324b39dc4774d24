"""Losses of single findings against a literal loop over cases; over ranks and passes; what cannot be asked is refused."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMTraining.build import make_objective
from CTGroundedVLMTraining.cached_step import forward_backward, joined
from CTGroundedVLMTraining.config import ObjectiveConfig, TrainingConfig
from CTGroundedVLMTraining.objectives import Features, ImageReportContrast, OrganContrast, WithQuestions
from CTGroundedVLMTraining.objectives.clip import whole_body_organs
from CTGroundedVLMTraining.recipes import recipe
from CTGroundedVLMTraining.throughput import Speed
from CTGroundedVLMTraining.types import Batch, Questions
from training_cases import a_config

NAN = float("nan")
CASES, ORGANS, FINDINGS, TOKENS, WIDTH = 30, 3, 6, 12, 8
ORGAN_OF_F = [0, 2, 1, 0, 2, 1]
PROMPTS = [[0, 1], [2, 3], [4, 5], [6, 1], [7, 3], [8, 5]]  # negative prompts are shared


def some_labels():
    """Column by column: mixed, 1 of 30, mostly there, always there, never there, unknown."""
    generator = torch.Generator().manual_seed(7)
    labels = (torch.rand(CASES, FINDINGS, generator=generator) < 0.4).float()
    labels[torch.rand(CASES, FINDINGS, generator=generator) < 0.2] = NAN
    labels[:, 1], labels[4, 1] = 0.0, 1.0
    labels[:, 2], labels[::7, 2] = 1.0, 0.0
    labels[:, 3], labels[:, 4], labels[:, 5] = 1.0, 0.0, NAN
    return labels


def a_question_batch():
    """Features of 30 cases, their batch, and all that ``FVLM.token_margins`` would give."""
    generator = torch.Generator().manual_seed(8)
    unit = torch.nn.functional.normalize
    organs = unit(torch.randn(CASES, ORGANS, WIDTH, generator=generator), dim=-1).requires_grad_()
    texts = unit(torch.randn(9, WIDTH, generator=generator), dim=-1).requires_grad_()
    mask = torch.rand(CASES, ORGANS, TOKENS, generator=generator) < 0.5
    valid = torch.rand(CASES, ORGANS, generator=generator) < 0.9
    valid[4, 2] = True
    labels, tokens = some_labels(), torch.rand(CASES, FINDINGS, TOKENS, generator=generator) < 0.3
    tokens &= (labels == 1)[:, :, None]  # only what is there is drawn
    tokens[3:20:4] = False  # of these the findings are there but were not drawn under their names
    mapped = torch.rand(CASES, generator=generator) < 0.7
    batch = Batch(
        case_ids=tuple(map(str, range(CASES))),
        image_BDHW=torch.empty(CASES, 0, 0, 0),
        token_mask_BON=mask,
        valid_BO=valid,
        status_BO=torch.zeros(CASES, ORGANS, dtype=torch.int8),
        text_ids_PT=torch.ones(9, 4, dtype=torch.long),
        text_mask_PT=torch.ones(9, 4, dtype=torch.long),
        text_of_BO=torch.full((CASES, ORGANS), -1),
        text_key_BO=torch.zeros(CASES, ORGANS, dtype=torch.long),
        report_of_B=torch.full((CASES,), -1),
        labels_BF=labels,
        questions=Questions(torch.tensor(ORGAN_OF_F), torch.tensor(PROMPTS), tokens, mapped),
    )
    places = [(b, f, n) for b in range(CASES) for f in range(FINDINGS) for n in mask[b, ORGAN_OF_F[f]].nonzero()[:, 0]]
    numbers = [torch.tensor(column) for column in zip(*places, strict=True)]
    margins = (3 * torch.randn(len(places), generator=generator)).requires_grad_()
    return Features(organs, texts, torch.tensor(0.1, requires_grad=True), (margins, *numbers)), batch


class Nothing(OrganContrast):
    """A base without a loss of its own."""

    def forward(self, features, batch, peer=None):
        return {}


def with_questions(presence=1.0, location=1.0):
    return WithQuestions(Nothing(["a", "b", "c"]), presence, location)


def bce(margin, label, weight=1.0):
    return weight * math.log1p(math.exp(-margin)) if label else math.log1p(math.exp(margin))


def presence_by_hand(features, batch):
    organs, texts, tau = features.organs_BOE.tolist(), features.texts_PE.tolist(), features.temperature.item()
    losses = []
    for f, organ in enumerate(ORGAN_OF_F):
        known = [
            (b, int(batch.labels_BF[b, f]))
            for b in range(CASES)
            if batch.valid_BO[b, organ] and not math.isnan(batch.labels_BF[b, f])
        ]
        positives = sum(label for _, label in known)
        weight = min(max((len(known) - positives) / positives, 1.0), 20.0) if positives else None
        yes, no = (texts[i] for i in PROMPTS[f])
        for b, label in known:
            margin = sum(v * (y - n) for v, y, n in zip(organs[b][organ], yes, no, strict=True)) / tau
            losses.append(bce(margin, label, weight))
    return sum(losses) / len(losses)


def location_by_hand(features, batch):
    margins, cases, findings, tokens = (part.tolist() for part in features.located)
    of_finding = []
    for f in range(FINDINGS):
        inside, outside = [], []
        for margin, b, _, n in (row for row in zip(margins, cases, findings, tokens, strict=True) if row[2] == f):
            drawn = batch.questions.tokens_BFN[b, f]
            if not batch.questions.mapped_B[b] or not (drawn.any() or batch.labels_BF[b, f] == 0):
                continue
            (inside if drawn[n] else outside).append(bce(margin, bool(drawn[n])))
        if inside:
            of_finding.append((sum(inside) / len(inside) + (sum(outside) / len(outside) if outside else 0)) / 2)
    assert 2 <= len(of_finding) < FINDINGS
    return sum(of_finding) / len(of_finding)


# --- Values


def test_the_loss_of_presence_is_the_weighted_cross_entropy_of_known_labels():
    features, batch = a_question_batch()
    losses = with_questions(presence=2.5, location=0.0)(features, batch)
    assert losses.keys() == {"presence"}
    assert losses["presence"].item() == pytest.approx(2.5 * presence_by_hand(features, batch), rel=1e-5)


def test_the_loss_of_location_is_the_mean_over_findings_of_tokens_inside_and_outside():
    features, batch = a_question_batch()
    losses = with_questions(presence=0.0, location=3.0)(features, batch)
    assert losses.keys() == {"location"}
    assert losses["location"].item() == pytest.approx(3 * location_by_hand(features, batch), rel=1e-5)


def test_a_finding_without_a_token_outside_counts_with_those_inside_alone():
    features, batch = a_question_batch()
    asked = batch.questions
    everywhere = torch.zeros_like(asked.tokens_BFN)
    everywhere[:, 3] = True
    batch = replace(batch, questions=replace(asked, tokens_BFN=everywhere))
    margins, cases, findings, _ = features.located
    used = margins[(findings == 3) & asked.mapped_B[cases]]
    expected = torch.nn.functional.softplus(-used).mean() / 2
    assert with_questions(presence=0.0)(features, batch)["location"].item() == pytest.approx(expected.item(), rel=1e-5)


def changed(batch, tokens=None, labels=None, mapped=None):
    asked = batch.questions
    questions = replace(
        asked,
        tokens_BFN=asked.tokens_BFN if tokens is None else tokens,
        mapped_B=asked.mapped_B if mapped is None else mapped,
    )
    return replace(batch, questions=questions, labels_BF=batch.labels_BF if labels is None else labels)


def located(features, batch):
    return with_questions(presence=0.0)(features, batch)["location"].item()


def test_what_was_not_drawn_teaches_no_place():
    features, batch = a_question_batch()
    before, asked = located(features, batch), batch.questions
    undrawn = asked.tokens_BFN.clone()
    undrawn[~asked.mapped_B] ^= True
    assert located(features, changed(batch, undrawn)) == before
    margins, cases, findings, tokens = features.located
    implied = asked.mapped_B[:, None] & (batch.labels_BF == 1) & ~asked.tokens_BFN.any(-1)
    unknown = asked.mapped_B[:, None] & batch.labels_BF.isnan()
    counted = asked.mapped_B[:, None] & (batch.labels_BF == 0)
    counted &= asked.tokens_BFN.any(-1).any(0)  # of findings that were drawn in some case
    for kind, matters in ((implied, False), (unknown, False), (counted, True)):
        assert kind.any()
        moved = replace(features, located=(margins + 5 * kind[cases, findings], cases, findings, tokens))
        assert (located(moved, batch) != before) is matters


def test_unknown_labels_and_organs_out_of_sight_do_not_count_for_presence():
    features, batch = a_question_batch()
    objective = with_questions(location=0.0)
    known = batch.valid_BO[:, ORGAN_OF_F] & ~batch.labels_BF.isnan()
    assert 0 < known.sum() < known.numel()
    (gradient,) = torch.autograd.grad(objective(features, batch)["presence"], features.organs_BOE)
    used = torch.zeros(CASES, ORGANS, dtype=torch.bool)
    for f, organ in enumerate(ORGAN_OF_F):
        used[:, organ] |= known[:, f]
    assert torch.equal(gradient.abs().sum(-1) > 0, used)


def test_where_nothing_is_known_both_losses_are_zero_with_a_graph():
    features, batch = a_question_batch()
    nothing = changed(batch, labels=torch.full_like(batch.labels_BF, NAN), mapped=torch.zeros(CASES, dtype=torch.bool))
    losses = with_questions()(features, nothing)
    assert {name: loss.item() for name, loss in losses.items()} == {"presence": 0, "location": 0}
    sum(losses.values()).backward()
    leaves = (features.organs_BOE, features.texts_PE, features.temperature, features.located[0])
    assert all(not leaf.grad.any() for leaf in leaves)


def test_a_batch_in_which_no_finding_was_drawn_does_not_teach_to_say_no():
    features, batch = a_question_batch()
    nothing = changed(batch, torch.zeros_like(batch.questions.tokens_BFN), torch.zeros_like(batch.labels_BF))
    assert located(features, nothing) == 0


@pytest.mark.parametrize(("temperature", "clamped"), [(0.0001, 0.001), (0.1, 0.1), (2.0, 0.5)])
def test_the_temperature_is_clamped_in_both_losses(temperature, clamped):
    """Beyond the limits no gradient moves it on: a negative one would turn every answer round."""
    features, batch = a_question_batch()
    cosines = features.located[0].detach() * 0.01

    def losses_at(tau, divisor):
        numbers = features.located[1:]
        parts = replace(features, temperature=tau, located=(cosines / divisor, *numbers))
        return with_questions()(parts, batch)

    tau = torch.tensor(temperature, requires_grad=True)
    losses = losses_at(tau, tau)
    expected = losses_at(torch.tensor(clamped), clamped)
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4), name
        (gradient,) = torch.autograd.grad(loss, tau, retain_graph=True)
        assert (abs(gradient.item()) > 1e-3) is (temperature == clamped), name


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


# --- Several ranks, several passes

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


# --- What can be asked

ASKED = {"findings": ("lung/Emphysema", "heart/Cardiomegaly")}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObjectiveConfig(presence=-1.0), r"objective\.presence is -1\.0, expected 0 or more"),
        (lambda: ObjectiveConfig(location=-0.1), r"objective\.location is -0\.1"),
        (
            lambda: ObjectiveConfig("supervised", presence=1.0),
            r"objective\.name is 'supervised', expected fvlm or clip",
        ),
        (lambda: a_config(objective=ObjectiveConfig(presence=1.0)), "findings is .*, expected the findings to learn"),
        (
            lambda: a_config(objective=ObjectiveConfig(location=1.0), accumulate=2, **ASKED),
            r"accumulate is 2, expected 1 with objective\.location",
        ),
        (
            lambda: make_objective(
                a_config(objective=ObjectiveConfig(presence=1.0), findings=("lung/Emphysema", "liver/Steatosis"))
            ),
            r"no organ for the findings liver/Steatosis \(its organs: lung, heart\)",
        ),
    ],
)
def test_what_does_not_go_together_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_questions_are_made_for_the_weights_that_are_set_and_survive_json():
    config = a_config(objective=ObjectiveConfig(presence=1.5), accumulate=2, **ASKED)
    made = make_objective(config)
    assert (type(made), made.presence, made.location, type(made.base)) == (WithQuestions, 1.5, 0.0, OrganContrast)
    assert type(make_objective(a_config(**ASKED))) is OrganContrast
    body = replace(config.model, organs=whole_body_organs())
    clip = make_objective(replace(config, model=body, objective=ObjectiveConfig("clip", location=1.0), accumulate=1))
    assert (type(clip), type(clip.base)) == (WithQuestions, ImageReportContrast)
    starter = recipe("starter")
    assert TrainingConfig.from_dict(starter.to_dict()) == starter
    assert starter.objective.asks
    assert type(make_objective(starter).base) is OrganContrast
    old = config.to_dict()
    for name in ("presence", "location"):
        del old["objective"][name]
    assert not TrainingConfig.from_dict(old).objective.asks


def test_a_model_without_background_has_no_mfu():
    batch = a_batch(0, 2)
    dense, sparse = (Speed(the_model(name).config, 100.0, 2).of_step([batch], 0.5, 0.1) for name in VISION)
    assert dense.keys() - sparse.keys() == {"mfu"}
    assert sparse == {"seconds": 0.5, "data_wait_s": 0.1, "samples_per_s": 8.0}

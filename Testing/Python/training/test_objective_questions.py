"""Losses of single findings against a literal loop over cases; what cannot be asked is refused."""

import math
from dataclasses import replace

import pytest
import torch

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.build import make_objective
from CTGroundedVLMTraining.config import ObjectiveConfig, TrainingConfig
from CTGroundedVLMTraining.data.collate import Collator
from CTGroundedVLMTraining.objectives import Features, ImageReportContrast, OrganContrast, WithQuestions
from CTGroundedVLMTraining.objectives.clip import whole_body_organs
from CTGroundedVLMTraining.recipes import recipe
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
    assert (made.needs_questions, made.needs_places) == (True, False)
    assert type(make_objective(a_config(**ASKED))) is OrganContrast
    body = replace(config.model, organs=whole_body_organs(config.model.organs))
    clip = make_objective(replace(config, model=body, objective=ObjectiveConfig("clip", location=1.0), accumulate=1))
    assert (type(clip), type(clip.base)) == (WithQuestions, ImageReportContrast)
    assert clip.needs_places
    starter = recipe("starter")
    assert TrainingConfig.from_dict(starter.to_dict()) == starter
    assert starter.objective.asks
    assert type(make_objective(starter).base) is OrganContrast
    old = config.to_dict()
    for name in ("presence", "location"):
        del old["objective"][name]
    assert not TrainingConfig.from_dict(old).objective.asks


def test_a_finding_without_prompts_is_named():
    with pytest.raises(InputError, match="no prompts for lung/Stardust"):
        Collator(registry_tokenizer(), 64, findings=("lung/Lung nodule", "lung/Stardust"), questions=True)


def test_the_starter_s_findings_can_all_be_asked():
    starter = recipe("starter")
    assert len(starter.findings) > 20
    Collator(registry_tokenizer(), 64, findings=starter.findings, questions=True)
    assert {name.partition("/")[0] for name in starter.findings} <= set(starter.model.organs)
    assert starter.model.vision.narrow_windows == ((0.68, 0.92),), "-130 to 230 HU of -1150 to 350"

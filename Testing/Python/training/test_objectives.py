"""Objectives against literal transcriptions of their formulas (loops over patients, as the papers write them)."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMTraining.objectives import Features, ImageReportContrast, OrganContrast, SupervisedHead
from CTGroundedVLMTraining.objectives.targets import momentum_targets
from CTGroundedVLMTraining.types import ABNORMAL, NORMAL, SKIP, Batch

ORGANS = ("lung", "heart")
TAU = 0.07


def a_batch(status, keys=None, valid=None, labels=None):
    """Status and keys as (B, O) lists; every case and organ has a text of its own unless keys say otherwise."""
    status = torch.tensor(status, dtype=torch.int8)
    B, organs = status.shape
    keys = torch.arange(B * organs).view(B, organs) if keys is None else torch.tensor(keys)
    return Batch(
        case_ids=tuple(str(b) for b in range(B)),
        image_BDHW=torch.zeros(B, 1, 1, 1),
        token_mask_BON=torch.ones(B, organs, 1, dtype=torch.bool),
        valid_BO=torch.ones(B, organs, dtype=torch.bool) if valid is None else torch.tensor(valid),
        status_BO=status,
        text_ids_PT=torch.zeros(B * organs, 1, dtype=torch.long),
        text_mask_PT=torch.ones(B * organs, 1, dtype=torch.long),
        text_of_BO=torch.arange(B * organs).view(B, organs),
        text_key_BO=keys,
        report_of_B=torch.arange(B),
        labels_BF=torch.empty(B, 0) if labels is None else torch.tensor(labels),
    )


def some_features(B, organs=2, E=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(B, organs, E, generator=generator), dim=-1).requires_grad_()
    texts = F.normalize(torch.randn(B * organs, E, generator=generator), dim=-1).requires_grad_()
    return Features(images, texts, torch.tensor(TAU, requires_grad=True))


def transcription(features, batch, o, targets_of_row, targets_of_column):
    """L_j of systems.md 1.2, patient by patient; ``targets_of_row(i, k)``: the target of pair (i, k), rows summing to 1."""
    rows = [b for b in range(len(batch.case_ids)) if batch.valid_BO[b, o] and batch.status_BO[b, o] != SKIP]
    v = [features.organs_BOE[b, o].detach().numpy().astype(float) for b in rows]
    t = [features.texts_PE[batch.text_of_BO[b, o]].detach().numpy().astype(float) for b in rows]
    n = len(rows)
    S = [[float(v[i] @ t[k]) / TAU for k in range(n)] for i in range(n)]
    loss = 0.0
    for i in range(n):
        over_texts = math.log(sum(math.exp(S[i][k]) for k in range(n)))
        over_images = math.log(sum(math.exp(S[k][i]) for k in range(n)))
        for k in range(n):
            loss -= 0.5 / n * targets_of_row(rows, i, k) * (S[i][k] - over_texts)
            loss -= 0.5 / n * targets_of_column(rows, i, k) * (S[k][i] - over_images)
    return loss


def released_target(batch, o):
    """Y = I + (both normal, or the same text) off the diagonal, rows divided by their sum."""

    def pair(a, b):
        if a == b:
            return 1.0
        both_normal = batch.status_BO[a, o] == NORMAL and batch.status_BO[b, o] == NORMAL
        return 1.0 if both_normal or batch.text_key_BO[a, o] == batch.text_key_BO[b, o] else 0.0

    return lambda rows, i, k: pair(rows[i], rows[k]) / sum(pair(rows[i], other) for other in rows)


A_MIXED_STATUS = [[1, 0], [0, 0], [0, 1], [1, 0], [1, -1], [0, 0]]


def test_the_loss_with_normal_corrections_is_the_released_formula():
    batch = a_batch(A_MIXED_STATUS, keys=[[7, 1], [2, 3], [4, 5], [7, 6], [8, 9], [10, 11]])
    features = some_features(6)
    losses = OrganContrast(ORGANS, "normal")(features, batch)
    for o, organ in enumerate(ORGANS):
        target = released_target(batch, o)
        assert losses[f"organ/{organ}"].item() == pytest.approx(
            transcription(features, batch, o, target, target), rel=1e-5
        )


def test_without_correction_only_a_patient_s_own_text_is_right():
    batch, features = a_batch(A_MIXED_STATUS), some_features(6)
    losses = OrganContrast(ORGANS, "none")(features, batch)
    identity = lambda rows, i, k: float(i == k)  # noqa: E731
    assert losses["organ/lung"].item() == pytest.approx(transcription(features, batch, 0, identity, identity), rel=1e-5)


def test_a_skipped_status_and_an_organ_outside_the_crop_take_no_part():
    status = [[1, 0], [0, 0], [0, 1], [1, 0]]
    features = some_features(4)
    whole = OrganContrast(ORGANS)(features, a_batch(status, valid=[[True, True]] * 3 + [[False, True]]))
    skipped = OrganContrast(ORGANS)(features, a_batch([*status[:3], [SKIP, 0]]))
    three = Features(features.organs_BOE[:3], features.texts_PE[:6], features.temperature)
    expected = OrganContrast(ORGANS)(three, a_batch(status[:3]))["organ/lung"].item()
    assert whole["organ/lung"].item() == pytest.approx(expected, rel=1e-6)
    assert skipped["organ/lung"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("status", "keys", "counted"),
    [
        ([[0, 0], [0, 1]], None, {"organ/heart"}),
        ([[1, 0], [0, 0]], None, {"organ/lung"}),
        ([[1, 0], [1, 0]], [[5, 1], [5, 2]], {"none"}),  # all targets equal
        ([[1, 1]], None, {"none"}),  # a batch of one
        ([[0, 0], [0, 0]], None, {"none"}),
        ([[SKIP, SKIP], [SKIP, SKIP]], None, {"none"}),
    ],
)
def test_an_organ_counts_only_where_somebody_is_abnormal_and_targets_differ(status, keys, counted):
    assert set(OrganContrast(ORGANS)(some_features(len(status)), a_batch(status, keys))) == counted


def test_a_batch_in_which_nothing_counts_gives_zero_and_zero_gradients_for_all_parameters():
    model = FVLM(debug_config())
    batch = a_batch([[0] * 4, [0] * 4])
    batch = Batch(
        **{
            **vars(batch),
            "image_BDHW": torch.rand(2, 48, 64, 96),
            "token_mask_BON": torch.ones(2, 4, 36, dtype=torch.bool),
            "text_ids_PT": torch.randint(5, 99, (8, 6)),
            "text_mask_PT": torch.ones(8, 6, dtype=torch.long),
        }
    )
    losses = OrganContrast(list(model.config.organs))(Features.of(model, batch), batch)
    assert losses["none"].item() == 0
    losses["none"].backward()
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in wanted)


def test_momentum_adds_similar_abnormal_texts_to_the_targets():
    """As in RADAR's released code: to the pairs that count as the same, without the diagonal; then one division by row sums."""
    batch, features = a_batch(A_MIXED_STATUS), some_features(6)
    objective = OrganContrast(ORGANS, "normal+momentum")
    teacher = F.normalize(torch.randn(12, 5, generator=torch.Generator().manual_seed(9)), dim=-1)
    objective.text_teacher = torch.nn.ModuleDict()
    objective._momentum_texts = lambda batch: teacher[batch.text_of_BO]
    released, m = released_target(batch, 0), teacher[batch.text_of_BO[:, 0]].numpy().astype(float)

    def target(rows, i, k):
        def soft(a, b):
            abnormal = batch.status_BO[a, 0] == ABNORMAL and batch.status_BO[b, 0] == ABNORMAL
            return math.exp(m[a] @ m[b] / TAU) / sum(math.exp(m[a] @ m[c] / TAU) for c in rows) if abnormal else 0.0

        def pair(a, b):
            return float(released(rows, a, b) > 0) + soft(rows[a], rows[b])

        total = [1.0 if j == i else pair(i, j) for j in range(len(rows))]
        return total[k] / sum(total)

    loss = objective(features, batch)["organ/lung"].item()
    assert loss == pytest.approx(transcription(features, batch, 0, target, target), rel=1e-5)


def test_of_two_similar_abnormal_texts_each_is_the_other_s_soft_target():
    normal, keys = torch.tensor([False, False]), torch.tensor([0, 1])
    alike = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), dim=-1)
    soft = (alike @ alike.T / 0.07).softmax(-1)
    assert torch.allclose(
        momentum_targets(normal, keys, alike, torch.tensor(0.07))[0, 1], soft[0, 1] / (1 + soft[0, 1])
    )
    same_text = momentum_targets(normal, torch.tensor([0, 0]), alike[[0, 0]], torch.tensor(0.07))
    assert torch.allclose(same_text, torch.tensor([[0.4, 0.6], [0.6, 0.4]]))


@pytest.mark.parametrize(("own", "clamped"), [(TAU, TAU), (0.2, 0.2), (3.0, 0.5)])
def test_co_teaching_mixes_the_peer_s_distribution_into_abnormal_rows_without_gradient_to_the_peer(own, clamped):
    """The peer's distribution is by its own temperature, within the limits that training has."""
    batch, features, peer = a_batch(A_MIXED_STATUS), some_features(6), some_features(6, seed=3)
    peer = Features(peer.organs_BOE, peer.texts_PE, torch.tensor(own, requires_grad=True))
    released = released_target(batch, 0)
    v, t = peer.organs_BOE[:, 0].detach().numpy().astype(float), peer.texts_PE[batch.text_of_BO[:, 0]].detach().numpy()
    S = v @ t.T.astype(float) / clamped

    def mixed(logits):
        def target(rows, i, k):
            hard = released(rows, i, k)
            if batch.status_BO[rows[i], 0] != ABNORMAL:
                return hard
            return 0.3 * hard + 0.7 * math.exp(logits[i, k]) / np.exp(logits[i]).sum()

        return target

    objective = OrganContrast(ORGANS, "normal+coteach", alpha=0.3)
    losses = objective(features, batch, peer)
    expected = transcription(features, batch, 0, mixed(S), mixed(S.T))
    assert losses["organ/lung"].item() == pytest.approx(expected, rel=1e-5)
    sum(losses.values()).backward()
    assert peer.organs_BOE.grad is None
    assert peer.temperature.grad is None
    assert features.organs_BOE.grad.any()


def test_co_teaching_without_a_peer_is_refused():
    with pytest.raises(ValueError, match="peer"):
        OrganContrast(ORGANS, "normal+coteach")(some_features(2), a_batch([[1, 0], [0, 0]]))


def test_the_momentum_encoder_follows_the_text_encoder_and_is_saved():
    model = FVLM(debug_config())
    objective = OrganContrast(list(model.config.organs), "normal+momentum", momentum=0.9)
    objective.start(model)
    before = model.text_projection.weight.detach().clone()
    with torch.no_grad():
        model.text_projection.weight += 1.0
    objective.after_step(model)
    assert torch.allclose(objective.text_teacher["text_projection"].weight, before + 0.1, atol=1e-6)
    assert any(name.startswith("text_teacher.text.") for name in objective.state_dict())
    assert not any(p.requires_grad for p in objective.parameters())


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="'co-teach', expected one of none, normal"):
        OrganContrast(ORGANS, "co-teach")


def test_the_temperature_is_clamped_in_training():
    batch, features = a_batch([[1, 0], [0, 0]]), some_features(2)
    hot = Features(features.organs_BOE, features.texts_PE, torch.tensor(3.0))
    limit = Features(features.organs_BOE, features.texts_PE, torch.tensor(0.5))
    objective = OrganContrast(ORGANS)
    assert objective(hot, batch)["organ/lung"] == objective(limit, batch)["organ/lung"]


def test_image_report_contrast_is_the_symmetric_cross_entropy():
    features, batch = some_features(4, organs=1), a_batch([[0]] * 4)
    logits = features.organs_BOE[:, 0] @ features.texts_PE[:4].T / TAU
    expected = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    assert ImageReportContrast()(features, batch)["image-report"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_scan_without_a_report_is_no_negative():
    features, batch = some_features(4, organs=1), a_batch([[0]] * 4)
    missing = Batch(**{**vars(batch), "report_of_B": torch.tensor([0, 1, 2, -1])})
    three = Features(features.organs_BOE[:3], features.texts_PE[:3], features.temperature)
    expected = ImageReportContrast()(three, a_batch([[0]] * 3))["image-report"].item()
    assert ImageReportContrast()(features, missing)["image-report"].item() == pytest.approx(expected, rel=1e-6)


def test_the_supervised_head_learns_known_labels_of_visible_organs_only():
    nan = float("nan")
    labels = [[1.0, nan, 0.0], [0.0, 1.0, nan]]
    batch = a_batch([[1, 0], [0, 0]], valid=[[True, True], [True, False]], labels=labels)
    head = SupervisedHead(ORGANS, ("lung/Emphysema", "lung/Lung nodule", "heart/Cardiomegaly"), 5)
    torch.nn.init.normal_(head.weight)
    features = some_features(2)
    logits = head.logits(features.organs_BOE)
    known = [(0, 0, 1.0), (0, 2, 0.0), (1, 0, 0.0), (1, 1, 1.0)]
    expected = sum(F.binary_cross_entropy_with_logits(logits[b, f], torch.tensor(y)) for b, f, y in known) / 4
    loss = head(features, batch)["labels"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert features.texts_PE.grad is not None  # every parameter of the model takes part, for DDP's sake


def test_a_finding_of_an_organ_that_the_model_lacks_is_refused():
    with pytest.raises(ValueError, match="liver/Hepatic cyst"):
        SupervisedHead(ORGANS, ("liver/Hepatic cyst",), 5)

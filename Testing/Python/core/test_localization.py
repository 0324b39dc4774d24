"""Heatmaps: contributions that add up, and values that lie where the organ lies."""

import itertools

import numpy as np
import pytest
import torch

from cases import CHEST, LABEL, a_case, a_small_model
from CTGroundedVLMLib.localization import (
    hirescam,
    localize,
    organ_mask,
    shifted_windows,
    token_contributions,
    token_map,
)
from CTGroundedVLMLib.pipeline import AnalysisOptions, Session
from CTGroundedVLMLib.scoring import text_direction


@pytest.fixture(scope="module")
def session():
    loaded = a_small_model()
    torch.manual_seed(0)
    for parameter in loaded.model.pooling.parameters():  # biases other than zero: the constant must be right too
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Session(a_case(CHEST), loaded, AnalysisOptions(precision="fp32", min_visible=0.0))


def parts(session, organ, text):
    number = list(session.loaded.config.organs).index(organ)
    prompt = session.prompt(organ, text)
    window = session.features.windows[session.features.window_of[number]]
    return number, prompt, window, text_direction(prompt, session.encode_text)


@pytest.mark.parametrize("organ", ["lung", "heart", "aorta"])
@pytest.mark.parametrize("text", ["consolidation", "calcified plaque"])
def test_token_contributions_and_their_constant_add_up_to_the_margin(session, organ, text):
    number, prompt, window, direction = parts(session, organ, text)
    with torch.no_grad():
        contributions, constant = token_contributions(session.loaded.model, window, number, direction)
    margin = session.score([prompt])[0].margin
    assert float(contributions.sum()) + constant == pytest.approx(margin, abs=1e-5)
    assert abs(float(contributions.abs().sum())) > 1e-3  # not the constant alone


def test_contributions_add_up_for_a_mean_over_templates_too(session):
    number = 0
    options = AnalysisOptions(precision="fp32", templates=True, min_visible=0.0)
    averaged = Session(session.case, session.loaded, options)
    prompt = averaged.prompt("lung", "consolidation")
    assert len(prompt.positive) == 7
    direction = text_direction(prompt, averaged.encode_text)
    with torch.no_grad():
        contributions, constant = token_contributions(
            averaged.loaded.model, averaged.features.windows[averaged.features.window_of[number]], number, direction
        )
    assert float(contributions.sum()) + constant == pytest.approx(averaged.score([prompt])[0].margin, abs=1e-5)


def test_contributions_are_zero_outside_the_organ(session):
    number, _, window, direction = parts(session, "heart", "effusion")
    contributions, _ = token_contributions(session.loaded.model, window, number, direction)
    outside = ~window.token_mask_ON[window.window.organs.index(number)]
    assert not contributions[:, outside].any()
    assert contributions[:, ~outside].all()


def test_removing_a_tokens_value_changes_the_margin_by_its_contribution_when_attention_and_norm_are_held(session):
    """The definition, checked on one token by hand."""
    number, _prompt, window, direction = parts(session, "lung", "nodule")
    model = session.loaded.model
    with torch.no_grad():
        contributions, _ = token_contributions(model, window, number, direction)
        token = int(window.token_mask_ON[window.window.organs.index(number)].nonzero()[3])
        pooling, used = (
            model.pooling,
            window.token_mask_ON[window.window.organs.index(number)].repeat(len(contributions)),
        )
        q, k, v = pooling.project_qkv(window.tokens_TC[used][None], torch.tensor([number]))
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        feature = pooling.project(
            pooling.attention.out_proj((weights @ v).transpose(1, 2).flatten(2)), torch.tensor([number])
        )[0, 0]
        silenced = v.clone()
        index = int(used[:token].sum())  # of the first level
        bias = pooling.attention.in_proj_bias.chunk(3)[2].unflatten(0, (v.shape[1], -1))
        silenced[0, :, index] = bias
        without = pooling.project(
            pooling.attention.out_proj((weights @ silenced).transpose(1, 2).flatten(2)), torch.tensor([number])
        )[0, 0]
    difference = (feature - without) @ direction / (feature.norm() * model.temperature)
    assert float(contributions[0, token]) == pytest.approx(float(difference), abs=1e-6)


def test_hirescam_is_gradient_times_activation(session):
    """Against a finite difference of the margin along the tokens themselves, which gives the sum over all tokens."""
    number, _, window, direction = parts(session, "heart", "effusion")
    model = session.loaded.model
    cam = hirescam(model, window, number, direction)
    used = window.token_mask_ON[window.window.organs.index(number)].repeat(len(cam))
    tokens, everything = window.tokens_TC[used], torch.ones(1, 1, int(used.sum()), dtype=torch.bool)

    def margin(scale):
        feature = model.pooling(tokens[None] * scale, everything, torch.tensor([number]))[0, 0]
        return float(feature.double() @ direction.double() / model.temperature)

    step = 1e-2
    assert float(cam.sum()) == pytest.approx((margin(1 + step) - margin(1 - step)) / (2 * step), abs=2e-2, rel=2e-2)


@pytest.mark.parametrize("method", ["contribution", "hirescam"])
def test_a_heatmap_fills_the_organ_and_nothing_else(session, method):
    number, prompt, window, direction = parts(session, "aorta", "calcified plaque")
    heatmap = localize(
        session.loaded.model, session.case, [window], number, direction, finding=prompt.finding, method=method
    )
    volume = heatmap.to_volume()
    organ = session.case.segmentation.labels_kji == LABEL["aorta"]
    assert volume.shape == session.case.ct.array_kji.shape
    assert not volume[~organ].any()
    assert (volume[organ] != 0).mean() > 0.99
    assert heatmap.start_kji == (5, 80, 66)
    assert heatmap.method == method


def test_a_voxel_at_a_patch_centre_has_its_patchs_value(session):
    number, prompt, window, direction = parts(session, "lung", "nodule")
    heatmap = localize(session.loaded.model, session.case, [window], number, direction, finding=prompt.finding)
    values = token_map(session.loaded.model, window, number, direction, "contribution")
    mask = window.token_mask_ON[window.window.organs.index(number)].view(window.grid).numpy()
    checked = 0
    for token in np.argwhere(mask):
        centre = (token + 0.5) * session.loaded.config.vision.patch_size - 0.5
        voxel = np.round(window.window.transform.to_ct(centre[None])[0]).astype(int)
        inside = all(0 <= v < n for v, n in zip(voxel, session.case.ct.array_kji.shape, strict=True))
        if inside and session.case.segmentation.names.get(
            int(session.case.segmentation.labels_kji[tuple(voxel)]), ""
        ).startswith("lung"):
            # half a voxel of rounding, on a grid of 16 x 16 x 32
            assert heatmap.to_volume()[tuple(voxel)] == pytest.approx(
                values[tuple(token)], abs=0.1 * float(np.abs(values).max())
            )
            checked += 1
    assert checked >= 4


def test_shifted_windows_lie_around_the_scored_one_and_are_averaged(session):
    number, prompt, window, direction = parts(session, "lung", "nodule")
    model = session.loaded.model
    copies = list(shifted_windows(model, window, session._preprocessor, 2, "fp32"))
    starts = np.array([copy.window.start for copy in copies]) - window.window.start
    assert sorted(map(tuple, starts.tolist())) == sorted(
        itertools.product((-4, 4), (-4, 4), (-8, 8))
    )  # a quarter patch
    arguments = (model, session.case)
    fine = localize(*arguments, copies, number, direction, finding=prompt.finding).values_kji
    single = np.stack([localize(*arguments, [c], number, direction, finding=prompt.finding).values_kji for c in copies])
    assert fine.min() >= single.min() - 1e-6
    assert fine.max() <= single.max() + 1e-6
    middle = tuple(n // 2 for n in fine.shape)  # seen whole in every copy: the plain mean
    box = tuple(slice(m - 2, m + 3) for m in middle)
    assert np.allclose(fine[box], single.mean(0)[box], atol=0.2 * np.abs(single).max())


def test_shifted_windows_are_encoded_once_for_all_findings(session):
    options = AnalysisOptions(precision="fp32", min_visible=0.0, heatmap_shifts=2)
    fine, calls = Session(session.case, session.loaded, options), []
    encode = session.loaded.model.encode_window
    session.loaded.model.encode_window = lambda *a, **k: calls.append(1) or encode(*a, **k)
    try:
        fine.heatmap(fine.prompt("heart", "effusion"))
        first = len(calls)
        fine.heatmap(fine.prompt("heart", "mass"))
    finally:
        del session.loaded.model.encode_window
    assert (first, len(calls)) == (8, 8)


def test_the_organ_mask_is_cut_to_its_box():
    case = a_case(CHEST)
    mask, box = organ_mask(case, ("heart",))
    assert box == (slice(10, 24), slice(30, 75), slice(60, 84))
    assert mask.all()
    assert organ_mask(case, ("liver",)) is None

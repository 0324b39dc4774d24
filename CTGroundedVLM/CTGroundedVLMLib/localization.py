"""Heatmaps: which image tokens speak for a finding in an organ, shown on the CT's own voxels.

Shapes: L levels, N image tokens, T = L x N, H heads, C channels, E embedding size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from .model.fvlm import FVLM, WindowFeatures
from .preprocessing import Preprocessor
from .types import CTCase, Heatmap

Method = Literal["contribution", "hirescam"]


def token_contributions(
    model: FVLM, encoded: WindowFeatures, organ: int, direction_E: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """What each image token adds to an organ's margin, exactly.

    With x_t the tokens, a_ht the attention weight of head h on token t (they sum to 1 over t), W_v, b_v, W_o, b_o the
    attention's value and output layers and P, p the organ's projection, the unnormalised organ feature is

        f = P (W_o concat_h(sum_t a_ht (W_v,h x_t + b_v,h)) + b_o) + p

    and the margin (positive minus negative logit) for the text direction d and temperature tau is m = f.d / (|f| tau).
    Holding a_ht and |f| at their values, m is linear in the x_t. With g = W_o^T P^T d / (|f| tau), split into heads:

        contribution_t = sum_h a_ht g_h . W_v,h x_t
        constant       = d . (P (W_o b_v + b_o) + p) / (|f| tau)
        m              = sum_t contribution_t + constant

    Args:
        organ: the organ's number; it must be one of the window's organs.
        direction_E: positive minus negative text feature.

    Returns:
        contributions (L, N), zero outside the organ, and the constant.
    """
    pooling, attention = model.pooling, model.pooling.attention
    weights_HT, used_T, feature_E = _attention_weights(model, encoded, organ)
    projection_EC, scale = pooling.projection_weight[organ], 1 / (feature_E.norm() * model.temperature)
    gradient_HC = (attention.out_proj.weight.T @ (projection_EC.T @ direction_E) * scale).unflatten(
        0, (weights_HT.shape[0], -1)
    )
    value_weight, value_bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    values_THC = F.linear(encoded.tokens_TC[used_T], value_weight).unflatten(-1, gradient_HC.shape)
    out_T = torch.zeros(len(used_T), device=model.device)
    out_T[used_T] = torch.einsum("ht,hc,thc->t", weights_HT, gradient_HC, values_THC)
    fixed_C = attention.out_proj(value_bias)
    constant = direction_E @ (projection_EC @ fixed_C + pooling.projection_bias[organ]) * scale
    return out_T.view(-1, encoded.token_mask_ON.shape[1]), constant.item()


def _attention_weights(
    model: FVLM, encoded: WindowFeatures, organ: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The organ's attention over its tokens (H, its T), which tokens those are (T,) and its unnormalised feature (E,)."""
    mask_N = encoded.token_mask_ON[encoded.window.organs.index(organ)]
    used_T = mask_N.repeat(len(encoded.tokens_TC) // len(mask_N))
    number = torch.tensor([organ], device=model.device)
    q, k, v = model.pooling.project_qkv(encoded.tokens_TC[used_T][None], number)
    weights_HT = (q[0] @ k[0].transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)[:, 0]
    pooled_C = model.pooling.attention.out_proj(torch.einsum("ht,htc->hc", weights_HT, v[0]).flatten())
    return weights_HT, used_T, model.pooling.project(pooled_C[None, None], number)[0, 0]


def hirescam(model: FVLM, encoded: WindowFeatures, organ: int, direction_E: torch.Tensor) -> torch.Tensor:
    """HiResCAM (arXiv 2011.08891): gradient of the margin by the pooled tokens, times the tokens, summed over channels.

    The layer explained is the one that is pooled (all levels). Unlike :func:`token_contributions` the gradient also runs
    through the attention weights and the norm, so the values do not add up to the margin. Returns (L, N).
    """
    mask_N = encoded.token_mask_ON[encoded.window.organs.index(organ)]
    used_T = mask_N.repeat(len(encoded.tokens_TC) // len(mask_N))
    with torch.enable_grad():
        tokens_TC = encoded.tokens_TC[used_T].clone().requires_grad_()
        number = torch.tensor([organ], device=model.device)
        everything = torch.ones(1, 1, len(tokens_TC), dtype=torch.bool, device=model.device)
        feature_E = model.pooling(tokens_TC[None], everything, number)[0, 0]
        margin = feature_E @ direction_E / model.temperature
        (gradient_TC,) = torch.autograd.grad(margin, tokens_TC)
    out_T = torch.zeros(len(used_T), device=model.device)
    out_T[used_T] = (gradient_TC * tokens_TC.detach()).sum(-1)
    return out_T.view(-1, len(mask_N))


def token_map(
    model: FVLM, encoded: WindowFeatures, organ: int, direction_E: torch.Tensor, method: Method
) -> np.ndarray:
    """The chosen method's values on the token grid (D, H, W), all levels of a token added."""
    with torch.no_grad():
        if method == "contribution":
            values_LN, _ = token_contributions(model, encoded, organ, direction_E)
        else:
            values_LN = hirescam(model, encoded, organ, direction_E)
    return values_LN.sum(0).view(encoded.grid).cpu().numpy()


def organ_mask(case: CTCase, segments: tuple[str, ...]) -> tuple[np.ndarray, tuple[slice, slice, slice]] | None:
    """The organ's voxels in its own box of the CT, and that box (k, j, i); None without a voxel."""
    labels = case.segmentation.labels_kji
    values = [value for value, name in case.segmentation.names.items() if name in segments]
    wanted = np.zeros(int(max(labels.max(initial=0), *values, 0)) + 1, bool)
    wanted[values] = True
    mask = wanted[labels]
    box = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if not len(along):
            return None
        box.append(slice(int(along[0]), int(along[-1]) + 1))
        mask = mask.take(range(box[-1].start, box[-1].stop), axis=axis) if len(along) < mask.shape[axis] else mask
    return mask, tuple(box)


def localize(
    model: FVLM,
    case: CTCase,
    windows: Iterable[WindowFeatures],
    organ: int,
    direction_E: torch.Tensor,
    *,
    finding: str,
    source: Literal["registry", "prompt"] = "registry",
    method: Method = "contribution",
) -> Heatmap:
    """Heatmap of a finding on the CT grid, signed, zero outside the organ.

    Args:
        finding, source: as in the FindingScore that the heatmap explains.
        windows: the window in which the organ was scored, or its shifted copies (``shifted_windows``), which are averaged.
        direction_E: positive minus negative text feature.
    """
    name, segments = list(model.config.organs.items())[organ]
    found = organ_mask(case, segments)
    if found is None:
        raise ValueError(f"{name} has no voxel in this case: it cannot be localized")
    mask, box = found
    total, weight = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, np.float32)
    for window in windows:
        index = window.window.organs.index(organ)
        inside = window.token_mask_ON[index].view(window.grid).cpu().numpy()
        if not inside.any():
            continue
        values = token_map(model, window, organ, direction_E, method)
        patch, transform = model.config.vision.patch_size, window.window.transform
        # tokens outside the organ have no value: interpolate between those that have one
        total += transform.map_to_ct(values, patch, box)
        weight += transform.map_to_ct(inside.astype(np.float32), patch, box)
    values = np.divide(total, weight, out=np.zeros_like(total), where=(weight > 1e-6) & mask)
    start = tuple(s.start for s in box)
    return Heatmap(name, finding, method, values, start, case.ct.array_kji.shape, source)


def shifted_windows(
    model: FVLM, encoded: WindowFeatures, preprocessor: Preprocessor, shifts: int, precision: str
) -> Iterator[WindowFeatures]:
    """shifts^3 copies of a window, moved by fractions of a patch either way and encoded anew.

    The average of their heatmaps resolves below the patch size.
    """
    patch = model.config.vision.patch_size
    steps = [[round(p * ((i + 0.5) / shifts - 0.5)) for i in range(shifts)] for p in patch]
    for shift in itertools.product(*steps):
        with torch.no_grad():
            yield model.encode_window(preprocessor.shifted(encoded.window, shift), precision)

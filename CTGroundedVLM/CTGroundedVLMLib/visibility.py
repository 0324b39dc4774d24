"""How much of each organ the model saw, and why an organ is not scored."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .model.config import ModelConfig
from .preprocessing import ModelInput
from .types import CTCase, OrganInfo

MIN_VISIBLE_FRACTION, MIN_VOXELS = 0.2, 100


@functools.cache
def _lower_normal_volumes_ml() -> dict[str, float]:
    path = Path(__file__).parent / "data" / "organ_volumes.json"
    return json.loads(path.read_text(encoding="utf-8"))["volumes_ml"]


def describe_organs(
    case: CTCase,
    config: ModelConfig,
    model_input: ModelInput,
    tokens: dict[int, int],
    min_visible: float = MIN_VISIBLE_FRACTION,
    min_voxels: int = MIN_VOXELS,
) -> tuple[OrganInfo, ...]:
    """One OrganInfo per organ of the model, in its order.

    ``visible_fraction`` is the share of the organ's voxels inside its window times, for an organ whose mask touches the
    border of the scan, an estimate of the part that the scan holds: its volume over the lower bound of a normal adult's
    (a judgement, see ``data/organ_volumes.json``), at most 1. Such an estimate cannot tell a small organ from a cut one
    where both meet, so it is only used at the border.

    Args:
        tokens: organ number -> image tokens, for the organs that were pooled.
        min_visible: organs below this fraction are not scored.
        min_voxels: organs with fewer voxels on the model's grid are not scored.
    """
    counts, at_border = _count_voxels(case)
    voxel_ml = abs(np.linalg.det(case.ct.ijk_to_ras[:3, :3])) / 1000
    infos = []
    for number, (organ, segments) in enumerate(config.organs.items()):
        values = [value for value, name in case.segmentation.names.items() if name in segments]
        voxels, touches = int(counts[values].sum()), bool(at_border[values].any())
        model_voxels = model_input.organ_voxels[number]
        shown = model_input.window_voxels.get(number, 0) / model_voxels if model_voxels else 0.0
        expected_ml = _lower_normal_volumes_ml().get(organ)
        held = min(1.0, voxels * voxel_ml / expected_ml) if touches and expected_ml else 1.0
        reason = _reason(organ, segments, voxels, model_voxels, shown, held, min_visible, min_voxels)
        if reason is None and not tokens.get(number):
            reason = f"{organ}: no image token lies in it"
        infos.append(OrganInfo(organ, segments, voxels, tokens.get(number, 0), float(shown * held), touches, reason))
    return tuple(infos)


def organ_warnings(case: CTCase, infos: Sequence[OrganInfo]) -> tuple[str, ...]:
    """What to know of organs that are scored although something is odd: cut off, or far smaller than an organ is."""
    voxel_ml = abs(np.linalg.det(case.ct.ijk_to_ras[:3, :3])) / 1000
    warnings = []
    for info in infos:
        if info.reason is not None:
            continue
        volume, expected = info.voxels * voxel_ml, _lower_normal_volumes_ml().get(info.organ)
        if info.touches_border:
            share = f": about {info.visible_fraction:.0%} is visible" if info.visible_fraction < 0.995 else ""
            warnings.append(f"{info.organ} touches the border of the scan and may be cut off{share}.")
        elif expected and volume < MIN_VISIBLE_FRACTION * expected:
            warnings.append(
                f"{info.organ} has {volume:.0f} ml in the segmentation, far less than a normal adult's (at least about "
                f"{expected:.0f} ml): the mask may be incomplete."
            )
    return tuple(warnings)


def _count_voxels(case: CTCase) -> tuple[np.ndarray, np.ndarray]:
    """Voxels per label value, and whether the value occurs in the scan's outermost voxels."""
    labels, size = case.segmentation.labels_kji, max(case.segmentation.names, default=0) + 1
    # slice by slice: bincount makes an int64 copy of what it is given
    counts = np.zeros(256 if labels.dtype == np.uint8 else int(labels.max(initial=0)) + 1, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    at_border = np.zeros(max(size, len(counts)), bool)
    for axis in range(3):
        for index in (0, -1):
            at_border[np.unique(labels.take(index, axis=axis))] = True
    return np.pad(counts, (0, max(0, size - len(counts)))), at_border


def _reason(
    organ: str,
    segments: tuple[str, ...],
    voxels: int,
    model_voxels: int,
    shown: float,
    held: float,
    min_visible: float,
    min_voxels: int,
) -> str | None:
    if not segments:
        return f"{organ} is no class of TotalSegmentator v2's total task"
    if not voxels:
        return f"{organ} is not in the segmentation"
    if model_voxels < min_voxels or not model_voxels:
        return (
            f"{organ} is too small: {model_voxels} voxels on the model's grid, at least {max(min_voxels, 1)} are needed"
        )
    if shown * held < min_visible:
        where = "at the border of the scan" if held < shown else "by the model's window"
        return f"{organ} is cut off {where}: about {shown * held:.0%} of it is visible, at least {min_visible:.0%} is needed"
    return None

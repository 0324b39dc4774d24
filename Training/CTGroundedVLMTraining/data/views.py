"""One training view of a prepared case: a random crop, flips, and which organs it shows.

Shapes: D, H, W as in ``CTGroundedVLMLib.preprocessing`` (to the patient's head, back and left); O organs, N image tokens,
K findings that were drawn in a case.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from CTGroundedVLMLib.model.config import ModelConfig, Triple
from CTGroundedVLMLib.model.fvlm import organ_token_mask

from ..types import PreparedCase

PartialOrgans = Literal["drop", "visible"]


@dataclass(frozen=True)
class ViewConfig:
    """How a view is taken.

    ``flips``: probability of a flip along D, H and W. The release takes 0.2 each; a left-right flip (W) makes sides in the
    text wrong, so none is the default. ``partial_organs``: "drop" leaves out an organ with a voxel on the crop's outermost plane
    (the release's rule); "visible" one of which less than ``min_visible`` (or fewer than ``min_voxels``) is in the crop.
    ``noise_hu``, ``scale``, ``shift_hu``: intensity augmentation (standard deviations), none by default as in the release.
    ``translation``: the crop is moved by up to so many voxels along D, H and W, either way; beyond the volume is air. A volume
    that is no larger than the crop would else always fall on the same token grid. None by default as in the release.
    """

    flips: tuple[float, float, float] = (0.0, 0.0, 0.0)
    partial_organs: PartialOrgans = "visible"
    min_visible: float = 0.5
    min_voxels: int = 100
    noise_hu: float = 0.0
    scale: float = 0.0
    shift_hu: float = 0.0
    translation: Triple = (0, 0, 0)

    def __post_init__(self) -> None:
        if self.partial_organs not in ("drop", "visible"):
            raise ValueError(f'partial_organs is {self.partial_organs!r}, expected "drop" or "visible"')
        if not all(0 <= p <= 1 for p in self.flips):
            raise ValueError(f"flips is {self.flips}, expected three probabilities")
        if min(self.noise_hu, self.scale, self.shift_hu) < 0:
            raise ValueError("noise_hu, scale and shift_hu are standard deviations: expected 0 or more")
        if len(self.translation) != 3 or min(self.translation) < 0:
            raise ValueError(f"translation is {self.translation}, expected three numbers of voxels, 0 or more")

    def without_augmentation(self) -> ViewConfig:
        """The same rule of which organs are visible, and nothing random but the crop: for validation."""
        return ViewConfig(partial_organs=self.partial_organs, min_visible=self.min_visible, min_voxels=self.min_voxels)


@dataclass(frozen=True)
class View:
    """``image_DHW``: float32 in [0, 1]. ``token_mask_ON``, ``visible_O``: for all organs of the model.

    ``finding_tokens_KN``: for the case's ``mapped_findings``; None where its findings were not drawn.
    """

    case: PreparedCase
    image_DHW: torch.Tensor
    token_mask_ON: torch.Tensor
    visible_O: torch.Tensor
    finding_tokens_KN: torch.Tensor | None = None


def take_view(case: PreparedCase, model: ModelConfig, config: ViewConfig, random: np.random.Generator) -> View:
    """Crop, pad, flip and window one case; everything random comes from ``random``.

    Raises:
        ValueError: the case was prepared for other organs.
    """
    if tuple(model.organs) != case.organs:
        raise ValueError(
            f"case {case.case_id} was prepared for the organs {', '.join(case.organs)}; the model has {', '.join(model.organs)}. "
            "Prepare the data again for this model."
        )
    size = model.vision.image_size
    start = _crop_start(case.hu_DHW.shape, size, config.translation, random)
    low, high = model.preprocessing.hu_window
    hu = _cut(case.hu_DHW, start, size, low).astype(np.float32)
    organ_map = _cut(case.organ_map_DHW, start, size, 0)
    if config.scale or config.shift_hu:
        hu = hu * np.float32(1 + config.scale * random.standard_normal()) + np.float32(
            config.shift_hu * random.standard_normal()
        )
    if config.noise_hu:
        hu += np.float32(config.noise_hu) * random.standard_normal(hu.shape, dtype=np.float32)
    flipped = [axis for axis in range(3) if random.random() < config.flips[axis]]
    image = np.clip((hu - low) / (high - low), 0, 1)
    image, organ_map = np.flip(image, flipped), np.ascontiguousarray(np.flip(organ_map, flipped))
    mask_ON = organ_token_mask(torch.from_numpy(organ_map), range(len(case.organs)), model.vision.patch_size)
    visible_O = torch.from_numpy(_visible(case, organ_map, config))
    found_KN = None
    if case.finding_map_DHW is not None:
        drawn = np.ascontiguousarray(np.flip(_cut(case.finding_map_DHW, start, size, 0), flipped))
        found_KN = organ_token_mask(torch.from_numpy(drawn), range(len(case.mapped_findings)), model.vision.patch_size)
    return View(case, torch.from_numpy(np.ascontiguousarray(image)), mask_ON, visible_O, found_KN)


def _crop_start(shape: Triple, size: Triple, translation: Triple, random: np.random.Generator) -> list[int]:
    """First voxel of the crop, negative where it begins before the volume: anywhere inside; else symmetric (MONAI's
    ``SpatialPad``, which the release uses); then moved."""
    start = [int(random.integers(n - s + 1)) if n > s else -((s - n) // 2) for n, s in zip(shape, size, strict=True)]
    return [a + (int(random.integers(-t, t + 1)) if t else 0) for a, t in zip(start, translation, strict=True)]


def _cut(array: np.ndarray, start: list[int], size: Triple, value: float) -> np.ndarray:
    """``size`` voxels from ``start``; ``value`` beyond the array."""
    inside = array[tuple(slice(max(a, 0), max(a + s, 0)) for a, s in zip(start, size, strict=True))]
    if inside.shape == tuple(size):
        return inside
    before = [min(max(-a, 0), s) for a, s in zip(start, size, strict=True)]
    missing = [(b, s - b - n) for b, s, n in zip(before, size, inside.shape, strict=True)]
    return np.pad(inside, missing, constant_values=value)


def _visible(case: PreparedCase, organ_map_DHW: np.ndarray, config: ViewConfig) -> np.ndarray:
    organs = len(case.organs)
    here = np.bincount(organ_map_DHW.ravel(), minlength=organs + 1)[1:]
    if config.partial_organs == "drop":
        inner = np.bincount(organ_map_DHW[1:-1, 1:-1, 1:-1].ravel(), minlength=organs + 1)[1:]
        return (here > 0) & (here == inner)
    whole = np.bincount(case.organ_map_DHW.ravel(), minlength=organs + 1)[1:]
    return (here >= config.min_voxels) & (here >= config.min_visible * whole)

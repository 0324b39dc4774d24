"""A case on the model's grid: resampled once, cropped to the organs' box with the model's margin, as HU.

The grid, the crop and the padding are those of inference (``CTGroundedVLMLib.preprocessing``): a model sees in training what it
will see in use. D, H, W point to the patient's head, back and left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from CTGroundedVLMLib.model.config import ModelConfig
from CTGroundedVLMLib.preprocessing import ModelWindow, Preprocessor
from CTGroundedVLMLib.types import CTCase

HIGHEST_HU = 3071  # of a 12-bit scanner. Above the windows in use, so that data survive a change of the upper bound


@dataclass(frozen=True)
class CroppedCase:
    """``hu_DHW``: int16. ``organ_map_DHW``: uint8, 0 or 1 + the organ's number. ``organ_voxels``: by organ number."""

    hu_DHW: np.ndarray
    organ_map_DHW: np.ndarray
    organ_voxels: tuple[int, ...]


def grid_settings(model: ModelConfig) -> dict[str, Any]:
    """What of a model decides how a case is cropped: data prepared under equal settings serve both models."""
    grid = model.preprocessing
    return {
        "organs": {organ: list(segments) for organ, segments in model.organs.items()},
        "spacing_mm": list(grid.spacing_mm),
        "crop_margin": list(grid.crop_margin),
        "minimum_size": list(grid.minimum_size),
        "lowest_hu": grid.hu_window[0],
    }


def crop_case(case: CTCase, model: ModelConfig) -> CroppedCase:
    """The organs' box of one case, padded with the lowest HU of the model's window where it is below the minimum size.

    HU below the window are raised to its lower bound (all are 0 to the model); HU above it are kept, up to 3071.

    Raises:
        SegmentationError: the mask holds none of the model's organs.
        VolumeError: an axis is thinner than one voxel of the grid.
    """
    low = model.preprocessing.hu_window[0]
    whole_range = dataclasses.replace(model.preprocessing, hu_window=(low, float(HIGHEST_HU)))
    with _one_thread():
        preprocessor = _WholeCrop(case, model.organs, whole_range, (1, 1, 1))
        window = preprocessor.whole()
    # float32 leaves an error of 3e-4 HU, far below the rounding to whole HU
    hu = window.image_DHW.mul_(HIGHEST_HU - low).add_(low).round_().numpy().astype(np.int16)
    return CroppedCase(hu, window.organ_map_DHW.numpy(), preprocessor.organ_voxels)


@contextmanager
def _one_thread() -> Iterator[None]:
    """How torch shares work among threads decides last bits: with one, a case is the same on any machine and in any process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _WholeCrop(Preprocessor):
    def whole(self) -> ModelWindow:
        """One window that shows the whole padded crop."""
        return self._cut([(tuple(self.boxes), (np.zeros(3, int), self._crop.padded_shape))]).windows[0]


def statistics(case: CroppedCase, lowest_hu: float) -> Mapping[str, Any]:
    """What the quality summary shows of a volume: HU percentiles (padding and air outside left out), voxels by organ."""
    values = case.hu_DHW[::2, ::2, ::2]
    values = values[values > max(lowest_hu, -1000)]
    percentiles = np.percentile(values, (1, 25, 50, 75, 99)).round().astype(int).tolist() if values.size else []
    return {"shape": list(case.hu_DHW.shape), "organ_voxels": list(case.organ_voxels), "hu_percentiles": percentiles}

"""A case on the model's grid: resampled once, cropped to the organs' box with the model's margin, as HU.

The grid, the crop and the padding are those of inference (``CTGroundedVLMLib.preprocessing``): a model sees in training what it
will see in use. D, H, W point to the patient's head, back and left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from CTGroundedVLMLib.model.config import ModelConfig
from CTGroundedVLMLib.preprocessing import ModelWindow, Preprocessor
from CTGroundedVLMLib.types import CTCase, Segmentation

HIGHEST_HU = 3071  # of a 12-bit scanner. Above the windows in use, so that data survive a change of the upper bound


@dataclass(frozen=True)
class CroppedCase:
    """``hu_DHW``: int16. ``organ_map_DHW``: uint8, 0 or 1 + the organ's number. ``organ_voxels``: by organ number.

    ``finding_map_DHW``: uint8, 0 or 1 + the place in ``mapped_findings``; None where no findings were drawn.
    """

    hu_DHW: np.ndarray
    organ_map_DHW: np.ndarray
    organ_voxels: tuple[int, ...]
    finding_map_DHW: np.ndarray | None = None
    mapped_findings: tuple[str, ...] = ()


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


def crop_case(case: CTCase, model: ModelConfig, findings: Segmentation | None = None) -> CroppedCase:
    """The organs' box of one case, padded with the lowest HU of the model's window where it is below the minimum size.

    HU below the window are raised to its lower bound (all are 0 to the model); HU above it are kept, up to 3071.

    Args:
        findings: voxels of findings on the CT's grid, named "organ/finding".

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
    cropped = CroppedCase(hu, window.organ_map_DHW.numpy(), preprocessor.organ_voxels)
    if findings is None:
        return cropped
    names = tuple(sorted(set(findings.names.values())))
    drawn = preprocessor.map_of(dataclasses.replace(case, segmentation=findings), names)
    return dataclasses.replace(cropped, finding_map_DHW=drawn, mapped_findings=names)


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

    def map_of(self, case: CTCase, names: Sequence[str]) -> np.ndarray:
        """Numbers (1 + place in ``names``) of another label map of the same CT, on this crop."""
        crop = self._crop
        numbers = self._resample_organ_map(case, {name: (name,) for name in names})
        out = np.zeros(crop.padded_shape, np.uint8)
        inner = tuple(slice(p, p + b - a) for p, a, b in zip(crop.pad_before, crop.start, crop.stop, strict=True))
        out[inner] = numbers[tuple(slice(a, b) for a, b in zip(crop.start, crop.stop, strict=True))]
        return out


def statistics(case: CroppedCase, lowest_hu: float) -> Mapping[str, Any]:
    """What the quality summary shows of a volume: HU percentiles (padding and air outside left out), voxels by organ."""
    values = case.hu_DHW[::2, ::2, ::2]
    values = values[values > max(lowest_hu, -1000)]
    percentiles = np.percentile(values, (1, 25, 50, 75, 99)).round().astype(int).tolist() if values.size else []
    return {"shape": list(case.hu_DHW.shape), "organ_voxels": list(case.organ_voxels), "hu_percentiles": percentiles}

"""From a CT and its labels to the model's windows, and back to the CT's own voxels.

fVLM's steps (``resize.py``, ``preprocess.py``, ``eval.py`` of its release): resample to 3 x 1 x 1 mm, window the HU, crop to
the organs' box, pad, cut a window. The release resamples the whole volume first; here the box is found on the labels
and only the voxels that some window shows are resampled, which gives the same numbers (tested).

"Resampled" coordinates count voxels of the whole resampled volume, "padded" ones of the crop with
its padding; a window is a box of padded coordinates.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .errors import SegmentationError
from .model.config import PreprocessingConfig, Triple
from .model_grid import Box, Grid, GridTransform, resampling_axes
from .types import CTCase


@dataclass(frozen=True)
class ModelWindow:
    """One forward pass. ``image_DHW``: float32 in [0, 1], padded at the end to whole patches.

    ``organ_map_DHW``: uint8, 0 or 1 + the organ's number. ``organs``: the numbers of the organs to pool here.
    """

    image_DHW: torch.Tensor
    organ_map_DHW: torch.Tensor
    organs: tuple[int, ...]
    start: Triple
    transform: GridTransform


@dataclass(frozen=True)
class ModelInput:
    """All windows of a case, and how many voxels each organ has on the model grid (index = organ number)."""

    windows: tuple[ModelWindow, ...]
    organ_voxels: tuple[int, ...]
    window_voxels: Mapping[int, int]


@dataclass(frozen=True)
class _Crop:
    """The organs' box (resampled coordinates) and the padding that brings it to the minimum size."""

    start: np.ndarray
    stop: np.ndarray
    pad_before: np.ndarray
    padded_shape: np.ndarray


class Preprocessor:
    """Cuts the windows of one case. Keeps the resampled organ map, so that further windows (shifted ones) are cheap.

    Args:
        case: CT with its segmentation on the same grid.
        organs: name -> TotalSegmentator v2 classes, in the model's order.
        config: the model's preprocessing.
        patch_size: windows are padded at the end to multiples of it.
        grid: see :func:`resampling_axes`.
        device: where resampling is done.

    Raises:
        SegmentationError: the mask holds none of the organs.
    """

    def __init__(
        self,
        case: CTCase,
        organs: Mapping[str, tuple[str, ...]],
        config: PreprocessingConfig,
        patch_size: Triple,
        *,
        grid: Grid = "physical",
        device: torch.device | str = "cpu",
    ) -> None:
        self.config, self.patch_size, self.device = config, patch_size, torch.device(device)
        self._ct_kji = case.ct.array_kji
        shape = case.ct.array_kji.shape
        self._axes = resampling_axes(shape, case.ct.ijk_to_ras, config.spacing_mm, grid)
        self._organ_map = self._resample_organ_map(case, organs)
        self.organ_voxels = tuple(np.bincount(self._organ_map.ravel(), minlength=len(organs) + 1)[1:].tolist())
        if not any(self.organ_voxels):
            wanted = ", ".join(organs)
            raise SegmentationError(
                f"The segmentation {case.segmentation.source or case.ct.name} holds none of the model's organs "
                f"({wanted}) on the model's grid. Segment these organs, or choose a model for the organs that it holds."
            )
        self._crop = self._organ_crop()
        self.boxes = self._organ_boxes(len(organs))
        scale, offset = zip(*(axis.scale_offset for axis in self._axes), strict=True)
        whole = GridTransform(tuple(a.ct_axis for a in self._axes), scale, offset, self._organ_map.shape, shape)
        start = (self._crop.start - self._crop.pad_before).tolist()
        self._padded_transform = whole.moved(start, tuple(self._crop.padded_shape.tolist()))

    def _resample_organ_map(self, case: CTCase, organs: Mapping[str, tuple[str, ...]]) -> np.ndarray:
        """Nearest-neighbour organ numbers (1 + index) on the whole resampled grid, uint8 (D, H, W)."""
        number = {segment: i + 1 for i, segments in enumerate(organs.values()) for segment in segments}
        labels = case.segmentation.labels_kji
        table = np.zeros(int(max(case.segmentation.names, default=0)) + 1, np.uint8)
        for value, name in case.segmentation.names.items():
            table[value] = number.get(name, 0)
        view = labels.transpose([axis.ct_axis for axis in self._axes])
        for a, axis in enumerate(self._axes):
            view = view.take(axis.nearest(), axis=a)
        # values without a name (another tool's classes) are no organ of ours
        return table[np.where(view < len(table), view, 0)] if view.max(initial=0) >= len(table) else table[view]

    def _organ_crop(self) -> _Crop:
        low, high = _box_of(self._organ_map > 0)
        margin, shape = np.array(self.config.crop_margin), np.array(self._organ_map.shape)
        # `high` is the last voxel; the release takes high + margin as an exclusive end, without + 1
        start, stop = np.maximum(low - margin, 0), np.minimum(high + margin, shape)
        padded = np.maximum(stop - start, self.config.minimum_size)
        return _Crop(start, stop, (padded - (stop - start)) // 2, padded)

    def _organ_boxes(self, organs: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Organ number -> (first, last) voxel in padded coordinates."""
        crop = self._crop
        inside = self._organ_map[tuple(slice(a, b) for a, b in zip(crop.start, crop.stop, strict=True))]
        boxes = {}
        for organ in range(organs):
            mask = inside == organ + 1
            if mask.any():
                low, high = _box_of(mask)
                boxes[organ] = (low + crop.pad_before, high + crop.pad_before)
        return boxes

    def reference_windows(self) -> ModelInput:
        """One window per organ, centred on it, all other organs removed (fVLM's ``eval.py``)."""
        plans = [
            ((organ,), self._centred(low, high, self.config.window_size)) for organ, (low, high) in self.boxes.items()
        ]
        return self._cut(plans)

    def shared_windows(self) -> ModelInput:
        """Organs that fit together share a window: far fewer forward passes, the same tokens per organ otherwise.

        Greedy, largest organ first: an organ joins the first window whose common box stays within the evaluation
        window. A window is never smaller than the training crop, so that the position embedding is the trained one.
        """
        size = {organ: np.prod(high - low + 1) for organ, (low, high) in self.boxes.items()}
        groups: list[tuple[list[int], np.ndarray, np.ndarray]] = []
        for organ in sorted(self.boxes, key=lambda o: -size[o]):
            low, high = self.boxes[organ]
            for i, (members, group_low, group_high) in enumerate(groups):
                joined_low, joined_high = np.minimum(low, group_low), np.maximum(high, group_high)
                limit = np.maximum(self.config.window_size, group_high - group_low + 1)
                if np.all(joined_high - joined_low + 1 <= limit):
                    groups[i] = ([*members, organ], joined_low, joined_high)
                    break
            else:
                groups.append(([organ], low, high))
        plans = []
        for members, low, high in groups:
            # + 1: the release's extent (last - first) would lose the last plane of an organ larger than the window
            plans.append((tuple(sorted(members)), self._centred(low, high + 1, self.config.minimum_size)))
        return self._cut(plans)

    def shifted(self, window: ModelWindow, shift: Sequence[int]) -> ModelWindow:
        """The same window moved by ``shift`` voxels: beyond the padded volume it is empty (0)."""
        start = np.add(window.start, shift)
        shape = np.array(window.image_DHW.shape)
        return self._cut([(window.organs, (start, start + shape))]).windows[0]

    def _centred(self, low: np.ndarray, high: np.ndarray, size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """``center_crop`` of fVLM's ``eval.py``: at least ``size``, moved inside the padded volume, cut where larger."""
        length, padded = np.maximum(size, high - low), self._crop.padded_shape
        start = np.maximum(0, (low + high) // 2 - length // 2)
        stop = np.minimum(padded, start + length)
        start = np.where(stop - start < length, np.maximum(0, stop - length), start)
        return start, stop

    def _cut(self, plans: list[tuple[tuple[int, ...], tuple[np.ndarray, np.ndarray]]]) -> ModelInput:
        """Resample the box that all windows need once, then cut each window from it."""
        crop = self._crop
        to_resampled = crop.start - crop.pad_before
        low = np.clip(np.min([start for _, (start, _) in plans], axis=0) + to_resampled, crop.start, crop.stop)
        high = np.clip(np.max([stop for _, (_, stop) in plans], axis=0) + to_resampled, crop.start, crop.stop)
        image = self._resample_image(tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        organ_map = torch.from_numpy(self._organ_map[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        windows, shown = [], {}
        for organs, (start, stop) in plans:
            padded = -(-(stop - start) // np.array(self.patch_size)) * self.patch_size
            target, source = _overlap(start + to_resampled, stop + to_resampled, low, high)
            window_image = torch.zeros(tuple(padded.tolist()), device=self.device)
            window_image[target] = image[source]
            window_map = torch.zeros(tuple(padded.tolist()), dtype=torch.uint8)
            window_map[target] = organ_map[source]
            counts = torch.bincount(window_map.flatten(), minlength=256)
            shown.update({organ: int(counts[organ + 1]) for organ in organs})
            transform = self._padded_transform.moved(start.tolist(), tuple(padded.tolist()))
            windows.append(ModelWindow(window_image, window_map, organs, tuple(start.tolist()), transform))
        return ModelInput(tuple(windows), self.organ_voxels, shown)

    def _resample_image(self, part: Box) -> torch.Tensor:
        """Trilinear, windowed to [0, 1], for a box of resampled coordinates: axis by axis, from the voxels needed."""
        rules = [axis.linear(s) for axis, s in zip(self._axes, part, strict=True)]
        bounds = [(int(min(lo.min(), up.min())), int(max(lo.max(), up.max())) + 1) for lo, up, _ in rules]
        source = self._ct_kji.transpose([axis.ct_axis for axis in self._axes])
        source = source[tuple(slice(a, b) for a, b in bounds)]
        image = _read_only_tensor(source).to(self.device)
        for a, ((lower, upper, weight), (first, _)) in enumerate(zip(rules, bounds, strict=True)):
            image = _interpolate_axis(image, a, lower - first, upper - first, weight)
        low, high = self.config.hu_window
        return image.sub_(low).div_(high - low).clamp_(0, 1)


def _read_only_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor on the array's own memory, never to be written.

    A worker's CT is a read-only map of its file, of which torch warns. A copy would hold the volume twice.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _interpolate_axis(
    image: torch.Tensor, axis: int, lower: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> torch.Tensor:
    """Linear interpolation along one axis: (1 - w) * image[lower] + w * image[upper], as float32."""
    index = [torch.from_numpy(i).to(image.device) for i in (lower, upper)]
    shape = [1, 1, 1]
    shape[axis] = -1
    w = torch.from_numpy(weight).to(image.device).view(shape)
    below, above = (image.index_select(axis, i).to(torch.float32) for i in index)
    return below.mul_(1 - w).add_(above.mul_(w))


def _overlap(start: np.ndarray, stop: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[Box, Box]:
    """The part that boxes [start, stop) and [low, high) share, in coordinates of the first and of the second."""
    first, last = np.maximum(start, low), np.maximum(np.minimum(stop, high), np.maximum(start, low))
    mine = tuple(slice(int(a - s), int(b - s)) for a, b, s in zip(first, last, start, strict=True))
    theirs = tuple(slice(int(a - s), int(b - s)) for a, b, s in zip(first, last, low, strict=True))
    return mine, theirs


def _box_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of True along each axis."""
    first, last = [], []
    for axis in range(mask.ndim):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        first.append(along[0])
        last.append(along[-1])
    return np.array(first), np.array(last)

"""From a CT and its labels to the model's windows, and back to the CT's own voxels.

fVLM's steps (``resize.py``, ``preprocess.py``, ``eval.py`` of its release): resample to 3 x 1 x 1 mm, window the HU, crop to
the organs' box, pad, cut a window. The release resamples the whole volume first; here the box is found on the labels
and only the voxels that some window shows are resampled, which gives the same numbers (tested).

Axis order: D, H, W of the model grid point to the patient's head, back and left (the order in which CT-RATE stores
its volumes, "LPS"). "Resampled" coordinates count voxels of the whole resampled volume, "padded" ones of the crop with
its padding; a window is a box of padded coordinates.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from .errors import SegmentationError, VolumeError
from .model.config import PreprocessingConfig, Triple
from .types import CTCase

Grid = Literal["physical", "release"]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class GridTransform:
    """Where a voxel of a model window lies in the CT, axis by axis (the map is separable).

    CT index along ``ct_axes[a]`` (0 = k, 1 = j, 2 = i) equals ``scale[a] * m + offset[a]`` for index ``m`` along axis
    ``a`` of the window. Indices are voxel centres and may be fractional.
    """

    ct_axes: Triple
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]
    shape: Triple
    ct_shape_kji: Triple

    def to_ct(self, points_ND: np.ndarray) -> np.ndarray:
        """Window indices (N, 3) as (d, h, w) -> CT indices (N, 3) as (k, j, i)."""
        points = np.asarray(points_ND, float) * self.scale + self.offset
        out = np.empty_like(points)
        out[:, self.ct_axes] = points
        return out

    def to_model(self, points_ND: np.ndarray) -> np.ndarray:
        """CT indices (N, 3) as (k, j, i) -> window indices (N, 3) as (d, h, w)."""
        return (np.asarray(points_ND, float)[:, self.ct_axes] - self.offset) / self.scale

    def moved(self, start: Sequence[int], shape: Triple) -> GridTransform:
        """The transform of a box of ``shape`` that begins at ``start`` of this one."""
        offset = tuple(o + s * a for o, s, a in zip(self.offset, self.scale, start, strict=True))
        return GridTransform(self.ct_axes, self.scale, offset, shape, self.ct_shape_kji)

    def map_to_ct(self, values_DHW: np.ndarray, cell: Triple, box_kji: Box) -> np.ndarray:
        """Interpolate a map with one value per ``cell`` of window voxels (patch size, or 1) onto CT voxels.

        Trilinear between cell centres, constant outside them. ``box_kji``: the CT voxels wanted. Returns their values
        as float32 (K, J, I).
        """
        out = np.asarray(values_DHW, np.float32)
        for axis in range(3):
            ct_slice = box_kji[self.ct_axes[axis]]
            ct_index = np.arange(ct_slice.start, ct_slice.stop)
            window_index = (ct_index - self.offset[axis]) / self.scale[axis]
            weights_IC = _hat_weights((window_index + 0.5) / cell[axis] - 0.5, values_DHW.shape[axis])
            out = np.moveaxis(np.tensordot(weights_IC, out, axes=(1, axis)), 0, axis)
        # `out` is in D, H, W order; put each axis where the CT has it.
        return np.ascontiguousarray(np.moveaxis(out, (0, 1, 2), self.ct_axes))


def _hat_weights(position_I: np.ndarray, cells: int) -> np.ndarray:
    """Linear interpolation as a dense (I, cells) matrix; positions outside take the nearest cell."""
    position = np.clip(position_I, 0, cells - 1)[:, None]
    return np.clip(1 - np.abs(position - np.arange(cells)), 0, None).astype(np.float32)


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
class _Axis:
    """How one axis of the resampled volume reads the CT: nearest index, and the two neighbours with their weight."""

    ct_axis: int
    ct_size: int
    size: int
    flipped: bool

    def nearest(self) -> np.ndarray:
        """CT index per voxel, by torch's own rule (``interpolate(mode="nearest")``): its float32 rounding included."""
        index = torch.arange(self.ct_size, dtype=torch.float32)
        picked = F.interpolate(index[None, None], size=self.size, mode="nearest")[0, 0].numpy().astype(np.int64)
        return self.ct_size - 1 - picked if self.flipped else picked

    def linear(self, part: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(lower index, upper index, weight of the upper) of voxels ``part``; ``align_corners=False``, no antialiasing."""
        # float32 throughout, as torch computes it, so that crop-then-resample equals resample-then-crop to rounding
        scale = np.float32(self.ct_size) / np.float32(self.size)
        source = scale * (np.arange(part.start, part.stop, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        source = np.maximum(source, np.float32(0))
        lower = np.minimum(source.astype(np.int64), self.ct_size - 1)
        upper = np.minimum(lower + 1, self.ct_size - 1)
        weight = source - lower.astype(np.float32)
        if self.flipped:
            lower, upper = self.ct_size - 1 - lower, self.ct_size - 1 - upper
        return lower, upper, weight

    @property
    def scale_offset(self) -> tuple[float, float]:
        """CT index = scale * resampled index + offset."""
        scale = self.ct_size / self.size
        offset = 0.5 * scale - 0.5
        return (-scale, self.ct_size - 1 - offset) if self.flipped else (scale, offset)


def resampling_axes(shape_kji: Triple, ijk_to_ras: np.ndarray, spacing_mm: Sequence[float], grid: Grid) -> list[_Axis]:
    """The D, H and W axes of the resampled volume.

    ``physical`` (our default): the CT is turned to head, back, left, and each axis is resampled by its own spacing (the
    affine's column norms): right for any orientation, oblique scans and non-square pixels. ``release``: axes as
    stored, spacing from the affine's diagonal, and the x and y sizes multiplied with each other's spacing, exactly
    as fVLM's ``resize.py``. Both agree on CT-RATE's geometry. Sizes are truncated in both, as there.
    """
    columns = np.asarray(ijk_to_ras, float)[:3, :3]
    if grid == "release":
        diagonal = [abs(float(np.float32(columns[a, a]))) for a in range(3)]
        if any(diagonal[a] < 0.5 * np.linalg.norm(columns[:, a]) for a in range(3)):
            raise VolumeError(
                "The release's grid rule expects an axial volume and reads its spacing from the affine's diagonal, which "
                "this volume's axes do not follow. Use --grid physical (grid='physical'), which takes any orientation."
            )
        factor = [diagonal[2], diagonal[0], diagonal[1]]  # k by z; j by the x spacing and i by the y one: swapped
        axes, flips = (0, 1, 2), (False, False, False)
    else:
        axes, flips = _axes_to_lps(columns)
        # float32, the precision in which NIfTI stores a spacing: truncation below must not hang on the last bit
        norms = [float(np.float32(n)) for n in np.linalg.norm(columns, axis=0)][::-1]
        factor = [norms[a] for a in axes]
    out = []
    for a in range(3):
        size = int(shape_kji[axes[a]] * (factor[a] / spacing_mm[a]))
        if size < 1:
            extent = shape_kji[axes[a]] * factor[a]
            raise VolumeError(
                f"The CT is {extent:.2f} mm thick along its {'kji'[axes[a]]} axis, less than one voxel "
                f"({spacing_mm[a]} mm) of the model's grid. Check the file's voxel spacing."
            )
        out.append(_Axis(axes[a], shape_kji[axes[a]], size, flips[a]))
    return out


def release_grid_caveat(ijk_to_ras: np.ndarray) -> str:
    """Why the release's grid is not what its model was trained on for this volume; empty where it is."""
    columns = np.asarray(ijk_to_ras, float)[:3, :3]
    norms = np.linalg.norm(columns, axis=0)
    problems = []
    if _axes_to_lps(columns) != ((0, 1, 2), (False, False, False)):
        problems.append("it is not stored to the left, back and head, so that the model sees it mirrored")
    if abs(norms[0] - norms[1]) > 1e-3 * norms[0]:
        problems.append("its pixels are not square, and their sizes are exchanged")
    if not problems:
        return ""
    return f"The release's grid takes this volume as stored: {'; '.join(problems)}. Use --grid physical unless you compare."


def _axes_to_lps(columns: np.ndarray) -> tuple[Triple, tuple[bool, bool, bool]]:
    """Which array axis (0 = k) runs along head, back, left, and whether it runs the other way."""
    cosines = columns / np.linalg.norm(columns, axis=0)
    # rows: superior, posterior, left; columns: k, j, i
    towards = np.stack([cosines[2], -cosines[1], -cosines[0]])[:, ::-1]
    best = max(itertools.permutations(range(3)), key=lambda p: sum(abs(towards[a, p[a]]) for a in range(3)))
    return best, tuple(bool(towards[a, best[a]] < 0) for a in range(3))


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
        image = torch.from_numpy(source).to(self.device)
        for a, ((lower, upper, weight), (first, _)) in enumerate(zip(rules, bounds, strict=True)):
            image = _interpolate_axis(image, a, lower - first, upper - first, weight)
        low, high = self.config.hu_window
        return image.sub_(low).div_(high - low).clamp_(0, 1)


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

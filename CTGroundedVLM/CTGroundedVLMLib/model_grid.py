"""The model's grid: how its axes read the CT, and the way back from a window to the CT's own voxels.

Axis order: D, H, W of the model grid point to the patient's head, back and left (the order in which CT-RATE stores
its volumes, "LPS"); the CT's arrays are k, j, i.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from .errors import VolumeError
from .model.config import Triple

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
class Axis:
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


def resampling_axes(shape_kji: Triple, ijk_to_ras: np.ndarray, spacing_mm: Sequence[float], grid: Grid) -> list[Axis]:
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
        out.append(Axis(axes[a], shape_kji[axes[a]], size, flips[a]))
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

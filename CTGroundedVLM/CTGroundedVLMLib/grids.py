"""Brings a label map onto another grid. Arrays are (K, J, I); affines are (4, 4) ijk to RAS, in mm."""

from __future__ import annotations

from itertools import product

import numpy as np
import SimpleITK as sitk

from . import image_file

_SAME_MM = 1e-3  # affines stored as float32 differ by less
_SAME_VOXELS = 0.01  # nearest neighbour gives the same labels whether or not so small a shift is undone


def place_on_grid(
    labels: np.ndarray, ijk_to_ras: np.ndarray, shape_kji: tuple[int, ...], target_ijk_to_ras: np.ndarray
) -> tuple[np.ndarray, bool]:
    """``labels`` on the target grid (0 outside), and whether that took no resampling.

    On the same lattice (also cropped, flipped or with swapped axes) voxels are copied; otherwise the nearest is taken.
    Returns ``labels`` itself where the grids are the same.
    """
    to_target = np.linalg.inv(target_ijk_to_ras) @ ijk_to_ras
    lattice = np.rint(to_target)
    if not _is_lattice(to_target, lattice, labels.shape, target_ijk_to_ras):
        return _resample(labels, ijk_to_ras, shape_kji, target_ijk_to_ras), False
    if np.array_equal(lattice, np.eye(4)) and labels.shape == tuple(shape_kji):
        return labels, True
    return _copy(labels, lattice.astype(int), shape_kji), True


def _is_lattice(to_target: np.ndarray, lattice: np.ndarray, shape_kji: tuple[int, ...], target: np.ndarray) -> bool:
    """Whether voxel centres fall on voxel centres, at every corner of the box and so everywhere in it."""
    axes = np.abs(lattice[:3, :3])
    if not (np.array_equal(axes.sum(axis=0), np.ones(3)) and np.array_equal(axes.sum(axis=1), np.ones(3))):
        return False
    corners = np.array([(*corner, 1) for corner in product(*[(0, n - 1) for n in shape_kji[::-1]])]).T
    shift_voxels = ((to_target - lattice) @ corners)[:3]
    shift_mm = np.linalg.norm(target[:3, :3] @ shift_voxels, axis=0).max()
    return bool(shift_mm <= _SAME_MM or np.abs(shift_voxels).max() <= _SAME_VOXELS)


def _copy(labels: np.ndarray, lattice: np.ndarray, shape_kji: tuple[int, ...]) -> np.ndarray:
    axes, offset = lattice[:3, :3], lattice[:3, 3].copy()
    source_axis = np.abs(axes).argmax(axis=1)  # for each target axis i, j, k: the axis of ``labels`` along it
    turned = labels.transpose(2, 1, 0).transpose(source_axis)
    for axis in range(3):
        if axes[axis, source_axis[axis]] < 0:
            turned = np.flip(turned, axis)
            offset[axis] -= turned.shape[axis] - 1
    placed = np.zeros(tuple(shape_kji), labels.dtype)
    start = np.maximum(offset, 0)
    stop = np.minimum(offset + turned.shape, shape_kji[::-1])
    if np.all(stop > start):
        to = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        of = tuple(slice(a, b) for a, b in zip(start - offset, stop - offset, strict=True))
        placed.transpose(2, 1, 0)[to] = turned[of]
    return placed


def _resample(
    labels: np.ndarray, ijk_to_ras: np.ndarray, shape_kji: tuple[int, ...], target_ijk_to_ras: np.ndarray
) -> np.ndarray:
    image = sitk.GetImageFromArray(labels)
    image_file.set_affine(image, ijk_to_ras)
    resampler = sitk.ResampleImageFilter()
    reference = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    image_file.set_affine(reference, target_ijk_to_ras)
    resampler.SetReferenceImage(reference)
    resampler.SetSize([int(n) for n in shape_kji[::-1]])
    resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    return image_file.pixels_of(resampler.Execute(image))

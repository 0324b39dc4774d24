"""Axial, coronal and sagittal slices as a radiologist reads them, from a volume of any orientation.

In display order axis 0 runs from superior to inferior, axis 1 from anterior to
posterior, axis 2 from the patient's right to left. So an axial slice has anterior up and the patient's right on the
viewer's left, coronal and sagittal slices have superior up, and sagittal slices show anterior on the viewer's left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

_LETTERS = (("S", "I"), ("A", "P"), ("R", "L"))  # first and last edge of each display axis


@dataclass(frozen=True)
class Plane:
    """One of the three planes, and the display axes that run down and to the viewer's right in it."""

    name: str
    rows: int
    columns: int

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Patient directions at the top, bottom, left and right edge."""
        return *_LETTERS[self.rows], *_LETTERS[self.columns]


AXIAL = Plane("Axial", 1, 2)
CORONAL = Plane("Coronal", 0, 2)
SAGITTAL = Plane("Sagittal", 0, 1)
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class DisplayGrid:
    """How a ``kji`` array is turned into display order.

    ``order_kji``: the array axis that becomes display axis 0, 1, 2. ``flipped``: whether it runs backwards.
    ``spacing``: mm along the display axes. ``tilt_degrees``: the largest angle between a grid axis and the patient's.
    """

    order_kji: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    tilt_degrees: float

    @classmethod
    def of(cls, ijk_to_ras: np.ndarray, shape_kji: tuple[int, int, int]) -> DisplayGrid:
        """The permutation and flips nearest to the patient's axes (none is resampled: an oblique grid stays oblique).

        ``ijk_to_ras``: (4, 4). The permutation is the one with the largest sum of absolute direction cosines.
        """
        matrix = np.asarray(ijk_to_ras, float)[:3, :3]
        lengths = np.linalg.norm(matrix, axis=0)
        cosines = matrix / lengths
        ijk_of_ras = max(permutations(range(3)), key=lambda p: sum(abs(cosines[r, p[r]]) for r in range(3)))
        along = [cosines[r, ijk_of_ras[r]] for r in (2, 1, 0)]  # display axes run along -S, -A, -R
        ijk_axes = [ijk_of_ras[r] for r in (2, 1, 0)]
        order = tuple(2 - a for a in ijk_axes)
        return cls(
            order_kji=order,
            flipped=tuple(bool(c > 0) for c in along),
            spacing=tuple(float(lengths[a]) for a in ijk_axes),
            shape=tuple(int(shape_kji[a]) for a in order),
            tilt_degrees=float(np.degrees(np.arccos(np.clip(np.abs(along).min(), 0, 1)))),
        )

    def view(self, array_kji: np.ndarray) -> np.ndarray:
        """The array in display order: a view, nothing is copied."""
        return array_kji.transpose(self.order_kji)[tuple(slice(None, None, -1 if f else 1) for f in self.flipped)]

    def from_kji(self, index_kji: tuple[int, int, int]) -> tuple[int, int, int]:
        """A voxel's index in display order."""
        return tuple(
            int(n - 1 - index_kji[a] if f else index_kji[a])
            for a, f, n in zip(self.order_kji, self.flipped, self.shape, strict=True)
        )

    def to_kji(self, index: tuple[int, int, int]) -> tuple[int, int, int]:
        """The inverse of :meth:`from_kji`."""
        result = [0, 0, 0]
        for value, axis, flipped, n in zip(index, self.order_kji, self.flipped, self.shape, strict=True):
            result[axis] = int(n - 1 - value if flipped else value)
        return tuple(result)


@dataclass(frozen=True)
class Field:
    """A cube of tissue to show: ``centre`` in display order and mm from the first voxel's centre, ``size`` in mm."""

    centre: tuple[float, float, float]
    size: float

    @classmethod
    def around(
        cls, grid: DisplayGrid, low: tuple[int, int, int], high: tuple[int, int, int], margin_mm: float, least_mm: float
    ) -> Field:
        """The cube around the voxels ``low``..``high`` (inclusive, display order), no larger than the volume."""
        spacing = np.array(grid.spacing)
        extent = (np.array(high) - np.array(low) + 1) * spacing
        whole = (np.array(grid.shape) * spacing).max()
        size = min(max(extent.max() + 2 * margin_mm, least_mm), whole)
        centre = (np.array(high) + np.array(low)) / 2 * spacing
        # Along an axis longer than the field, keep the field inside the volume: no black band without need.
        half, last = size / 2, (np.array(grid.shape) - 0.5) * spacing
        inside = np.clip(centre, half - spacing / 2, np.maximum(last - half, half - spacing / 2))
        middle = (np.array(grid.shape) - 1) / 2 * spacing
        fits = np.array(grid.shape) * spacing >= size
        return cls(tuple(float(x) for x in np.where(fits, inside, middle)), float(size))


@dataclass(frozen=True)
class Cut:
    """The part of one slice that lies in a field: index ranges in display order, and edges in mm.

    ``edges``: left, right, bottom, top of the voxels; ``frame``: the same of the field, which may be larger.
    """

    plane: Plane
    index: tuple[slice | int, slice | int, slice | int]
    edges: tuple[float, float, float, float]
    frame: tuple[float, float, float, float]


def cut(grid: DisplayGrid, plane: Plane, through: tuple[int, int, int], field: Field) -> Cut:
    """The slice of ``plane`` through a voxel (display order), cropped to ``field``."""
    index: list[slice | int] = list(through)
    edges, frame = {}, {}
    for axis in (plane.rows, plane.columns):
        step, n = grid.spacing[axis], grid.shape[axis]
        start, stop = field.centre[axis] - field.size / 2, field.centre[axis] + field.size / 2
        first = max(int(np.floor(start / step + 0.5)), 0)
        last = min(int(np.ceil(stop / step - 0.5)), n - 1)
        index[axis] = slice(first, last + 1)
        edges[axis] = ((first - 0.5) * step, (last + 0.5) * step)
        frame[axis] = (start, stop)
    return Cut(plane, tuple(index), *(_left_right_bottom_top(plane, d) for d in (edges, frame)))


def _left_right_bottom_top(plane: Plane, ranges: dict[int, tuple[float, float]]) -> tuple[float, float, float, float]:
    """Rows run down, so the last row is the bottom."""
    return *ranges[plane.columns], ranges[plane.rows][1], ranges[plane.rows][0]

"""The drawing surface of the synthetic CT: coordinates, smooth noise, and shapes with a depth in mm.

Coordinates are millimetres in LPS of an idealised patient: ``x`` to the patient's left, ``y`` to the back, ``z`` up from
the lower end of the scan. ``Canvas.xyz`` holds them for every voxel, bent by smooth noise and scaled to the patient, so
that all organs drawn in them deform together. Arrays are ``kji``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..anatomy import segment
from .body import SAMPLE_GRID, UNENHANCED, Grid, Tissues

SPACING_IJK = SAMPLE_GRID.spacing_ijk
ORIGIN_LPS = SAMPLE_GRID.origin_lps

Box = tuple[slice, slice, slice]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Region:
    """A shape on a part of the grid: ``depth`` (k, j, i) in mm below its surface, negative outside."""

    box: Box
    depth: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Boolean mask of the shape on its box."""
        return self.depth > 0

    def cut(self, depth: np.ndarray) -> Region:
        """The part of the shape that lies inside another one, given by its depth on the same box."""
        return Region(self.box, np.minimum(self.depth, depth))

    def grown(self, mm: float | np.ndarray) -> Region:
        """The shape with its surface moved outwards by ``mm``."""
        return Region(self.box, self.depth + mm)


def within(part: Box, whole: Box) -> Box:
    """The slices that take ``part`` out of an array on ``whole``."""
    return tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, whole, strict=True))


def smooth_noise(rng: np.random.Generator, correlation_mm: float, grid: Grid = SAMPLE_GRID) -> np.ndarray:
    """A float32 field (K, J, I) of mean about 0 and standard deviation 1: cubic B-splines through white noise.

    One voxel has no deviation: its field is 0.
    """
    bases, knots = [], []
    for count, step in zip(grid.shape_kji, reversed(grid.spacing_ijk), strict=True):
        position = np.arange(count) * step / correlation_mm
        knots.append(int(position[-1]) + 4)
        distance = np.abs(position[:, None] + 1 - np.arange(knots[-1])[None, :])
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = np.clip(2 - distance, 0, None) ** 3 / 6
        bases.append(np.where(distance < 1, near, far).astype(np.float32))
    field = rng.standard_normal(knots, dtype=np.float32)
    for axis, basis in enumerate(bases):
        field = np.moveaxis(np.tensordot(basis, field, axes=(1, axis)), 0, axis)
    deviation = field.std()
    return np.ascontiguousarray(field / deviation) if deviation else np.zeros_like(field)


class Canvas:
    """HU and labels under construction; later strokes cover earlier ones.

    ``hu``: float32 (K, J, I). ``labels``: uint8, TotalSegmentator v2. ``wobble``: smooth noise that roughens surfaces.
    ``scale``: size of the patient along x, y, z (or one for all); 1 is average. ``bend_mm``: how far the smooth noise moves
    a point at most, per axis. ``tissues``: HU to paint with.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        scale: float | tuple[float, float, float],
        grid: Grid = SAMPLE_GRID,
        bend_mm: float = 4.0,
        tissues: Tissues = UNENHANCED,
    ) -> None:
        self.rng = rng
        self.scale = scale if isinstance(scale, tuple) else (scale,) * 3
        self.grid, self.bend_mm, self.tissues = grid, bend_mm, tissues
        self.hu = np.full(grid.shape_kji, -1000, np.float32)
        self.labels = np.zeros(grid.shape_kji, np.uint8)
        self.true_xyz = tuple(
            (origin + np.arange(count) * step).astype(np.float32)
            for origin, count, step in zip(grid.origin_lps, grid.shape_kji[::-1], grid.spacing_ijk, strict=True)
        )
        self._sorted = tuple(values.tolist() for values in self.true_xyz)  # bisect is far quicker than NumPy's search
        self.xyz = []
        for axis, values in enumerate(self.true_xyz):
            bend = np.float32(bend_mm) * np.tanh(smooth_noise(rng, 70.0, grid) / 1.5)
            shape = [1, 1, 1]
            shape[2 - axis] = -1
            bend += values.reshape(shape) / self.scale[axis]
            self.xyz.append(bend)
        self.wobble = smooth_noise(rng, 22.0, grid)
        self.texture = smooth_noise(rng, 5.0, grid)

    # --- Shapes

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box:
        """The voxels that may hold points of the patient between two corners (x, y, z) in mm."""
        slices = []
        for values, a, b, scale in zip(self._sorted, low, high, self.scale, strict=True):
            start = bisect_left(values, (a - self.bend_mm) * scale)
            slices.append(slice(start, max(bisect_right(values, (b + self.bend_mm) * scale), start)))
        return slices[2], slices[1], slices[0]

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The patient's coordinates x, y, z on a box."""
        return self.xyz[0][box], self.xyz[1][box], self.xyz[2][box]

    def ellipsoid(
        self, centre: Point, axes: Point, turn: np.ndarray | None = None, rough: float = 0.0, margin: float = 0.0
    ) -> Region:
        """An ellipsoid of half axes ``axes`` in mm, in the frame whose rows are ``turn``'s.

        ``rough``: mm of noise on its surface. ``margin``: mm by which it can be grown later.
        """
        frame = np.eye(3) if turn is None else turn
        reach = np.abs(frame.T) @ np.asarray(axes) + 2 * rough + margin
        box = self.box(np.asarray(centre) - reach, np.asarray(centre) + reach)
        return Region(box, self.ellipsoid_depth(box, centre, axes, frame) + np.float32(rough) * self.wobble[box])

    def ellipsoid_depth(self, box: Box, centre: Point, axes: Point, frame: np.ndarray) -> np.ndarray:
        """Depth in mm (exact along the shortest axis) inside an ellipsoid, on any box."""
        offsets = [c - np.float32(m) for c, m in zip(self.at(box), centre, strict=True)]
        square = np.zeros(offsets[0].shape, np.float32)
        for row, axis in zip(frame.astype(np.float32), axes, strict=True):
            along = sum(component * offset for component, offset in zip(row, offsets, strict=True))
            square += (along / np.float32(axis)) ** 2
        return (1 - np.sqrt(square)) * np.float32(min(axes))

    def ball(self, centre_lps: Sequence[float], radius: float, rough: float = 0.0) -> Region:
        """A ball at a place in the scan (LPS in mm, not the patient's coordinates), so that its size is exact."""
        slices, square = [], np.float32(0)
        for axis, (values, middle) in enumerate(zip(self.true_xyz, centre_lps, strict=True)):
            start, stop = np.searchsorted(values, [middle - 1.4 * radius - 3, middle + 1.4 * radius + 3])
            slices.append(slice(int(start), int(stop)))
            square = square + np.expand_dims(
                (values[start:stop] - np.float32(middle)) ** 2, tuple({0, 1, 2} - {2 - axis})
            )
        box = (slices[2], slices[1], slices[0])
        return Region(box, np.float32(radius) - np.sqrt(square) + np.float32(rough) * self.texture[box])

    def tube(self, points: Sequence[Point], radii: Sequence[float] | float, squash_z: float = 1.0) -> Region:
        """A chain of capsules whose radius in mm changes along the way; ``squash_z`` < 1 makes it taller than wide."""
        line = np.asarray(points, np.float32)
        radius = np.broadcast_to(np.asarray(radii, np.float32), len(line))
        reach = np.stack([radius, radius, radius / squash_z], axis=1) + 2
        box = self.box((line - reach).min(0).tolist(), (line + reach).max(0).tolist())
        if len(line) == 2:
            return Region(box, self._capsule(box, line[0], line[1], float(radius[0]), float(radius[1]), squash_z))
        depth = np.full(self.hu[box].shape, -1e3, np.float32)
        for a, b, ra, rb, ca, cb in zip(
            line[:-1], line[1:], radius[:-1], radius[1:], reach[:-1], reach[1:], strict=True
        ):
            part = self.box(np.minimum(a - ca, b - cb).tolist(), np.maximum(a + ca, b + cb).tolist())
            inner = within(part, box)
            piece = self._capsule(part, a, b, float(ra), float(rb), squash_z)
            np.maximum(depth[inner], piece, out=depth[inner])
        return Region(box, depth)

    def _capsule(self, box: Box, a: np.ndarray, b: np.ndarray, ra: float, rb: float, squash_z: float) -> np.ndarray:
        """Depth in mm inside a capsule from ``a`` to ``b`` whose radius goes from ``ra`` to ``rb``."""
        stretch = np.array([1, 1, squash_z], np.float32)
        offsets = [(c - m) * s for c, m, s in zip(self.at(box), a, stretch, strict=True)]
        axis = (b - a) * stretch
        along = sum(o * d for o, d in zip(offsets, axis, strict=True)) / max(float(axis @ axis), 1e-6)
        np.clip(along, 0, 1, out=along)
        square = sum((o - along * d) ** 2 for o, d in zip(offsets, axis, strict=True))
        return np.float32(ra) + along * np.float32(rb - ra) - np.sqrt(square)

    def union(self, *regions: Region) -> Region:
        """The shapes together, on a box that holds all of them."""
        box = tuple(
            slice(min(r.box[axis].start for r in regions), max(r.box[axis].stop for r in regions)) for axis in range(3)
        )
        depth = np.full(self.hu[box].shape, -1e3, np.float32)
        for region in regions:
            inner = within(region.box, box)
            np.maximum(depth[inner], region.depth, out=depth[inner])
        return Region(box, depth)

    # --- Strokes

    def paint(self, region: Region, hu: float | np.ndarray | None = None, name: str | None = None) -> Region:
        """Fill a shape with HU (a value, or an array on its box) and label it; ``name`` "" removes the label."""
        inside = region.inside
        if hu is not None:
            np.copyto(self.hu[region.box], hu, where=inside, casting="same_kind")
        if name is not None:
            self.labels[region.box][inside] = segment(name).label if name else 0
        return region

    def blend(self, region: Region, hu: float) -> None:
        """Fill a shape that may be thinner than a voxel: each voxel takes the share that the shape covers of it."""
        share = np.clip(region.depth / self.grid.spacing_ijk[0] + 0.5, 0, 1)
        self.hu[region.box] += share * (np.float32(hu) - self.hu[region.box])

    def bone(self, region: Region, name: str | None, cortex_mm: float = 1.8, marrow: float = 190) -> Region:
        """Fill a shape with cortical bone (650 HU) around marrow."""
        marrow_hu = np.float32(marrow) + 45 * self.texture[region.box]
        return self.paint(region, np.where(region.depth < cortex_mm, np.float32(650), marrow_hu), name)

    def is_label(self, *names: str) -> np.ndarray:
        """Boolean mask (K, J, I) of the voxels of these classes."""
        return np.isin(self.labels, [segment(name).label for name in names])

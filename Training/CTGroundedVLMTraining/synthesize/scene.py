"""A CT into which findings are drawn, a phantom or a real one: masks, distances and soft-edged strokes.

Arrays are ``kji`` of a volume stored LPS: the first axis goes to the head, the second to the back, the third to the left.
Points are (x, y, z) in mm from the centre of voxel (0, 0, 0) along these axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from CTGroundedVLMLib.anatomy import segment
from CTGroundedVLMLib.sample.body import Grid
from CTGroundedVLMLib.sample.canvas import Box, smooth_noise

from .kinds import KIND, Kind


@dataclass(frozen=True)
class Drawn:
    """A finding that is in the image.

    ``grade``: 0 (subtle) to 1 (obvious). ``segments``: where it lies. ``sizes_mm``: as a report would give it, the largest first;
    empty where none is measured. ``words``: what the report needs to tell of it. ``mask``: (K, J, I), its voxels.
    """

    kind: Kind
    grade: float
    mask: np.ndarray
    segments: tuple[str, ...]
    sizes_mm: tuple[int, ...] = ()
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """``depth`` in mm below the surface of a shape, on a part of the grid."""

    box: Box
    depth: np.ndarray

    def cut(self, depth: np.ndarray) -> Shape:
        """The part of the shape that lies inside another one, given by its depth on the same box."""
        return Shape(self.box, np.minimum(self.depth, depth))


def only(where: np.ndarray) -> np.ndarray:
    """A mask as a depth with hard edges."""
    return np.where(where, np.float32(99), np.float32(-99))


def between(low: float, high: float, grade: float) -> float:
    """Linear from ``low`` (grade 0) to ``high`` (grade 1)."""
    return low + (high - low) * grade


def degree(grade: float, low: str = "mild", middle: str = "moderate", high: str = "severe") -> str:
    """The word for a grade of conspicuity."""
    return low if grade < 0.35 else middle if grade < 0.7 else high


class Scene:
    """HU (float32) and labels (uint8) of a CT, both changed in place by strokes.

    Args:
        hu: (K, J, I).
        labels: (K, J, I), TotalSegmentator v2.
        noise_hu: standard deviation of the noise to put on what is drawn (0 where a scanner is simulated afterwards).
        phase: "unenhanced", "arterial" or "portal venous".
    """

    def __init__(
        self,
        hu: np.ndarray,
        labels: np.ndarray,
        spacing_ijk: Sequence[float],
        rng: np.random.Generator,
        noise_hu: float = 0.0,
        phase: str = "unenhanced",
    ) -> None:
        self.hu, self.labels, self.rng, self.noise_hu, self.phase = hu, labels, rng, noise_hu, phase
        self.spacing = tuple(float(s) for s in spacing_ijk)
        self.axes = tuple(
            (np.arange(n) * s).astype(np.float32) for n, s in zip(hu.shape[::-1], self.spacing, strict=True)
        )
        self._depths: dict[tuple[str, ...], Shape | None] = {}

    # --- Where things are

    def mask(self, *names: str) -> np.ndarray:
        """Voxels of these classes, (K, J, I)."""
        table = np.zeros(256, bool)
        table[[segment(name).label for name in names]] = True
        return table[self.labels]

    def box(self, mask: np.ndarray, margin_mm: float = 0.0) -> Box | None:
        """The part of the grid that holds a mask; None where it is empty."""
        slices = []
        for axis in range(3):
            places = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
            if not len(places):
                return None
            margin = int(np.ceil(margin_mm / self.spacing[2 - axis]))
            slices.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + margin + 1))
        return tuple(slice(s.start, min(s.stop, n)) for s, n in zip(slices, mask.shape, strict=True))

    def at(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates x, y, z on a box, to be broadcast."""
        x, y, z = (values[part] for values, part in zip(self.axes, reversed(box), strict=True))
        return x[None, None], y[None, :, None], z[:, None, None]

    def depth(self, mask: np.ndarray) -> np.ndarray:
        """Distance in mm to the surface of a mask (on any box), positive inside."""
        if not mask.any():
            return np.full(mask.shape, -1e3, np.float32)
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(self.spacing)
        distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, True, False, True))
        # ITK measures from the centres of the outermost voxels inside; the surface lies about half a voxel outside
        return distance.astype(np.float32) + np.float32(0.5 * self.spacing[0])

    def organ(self, *names: str) -> Shape | None:
        """The depth inside classes together, on their box with 12 mm around; None where absent. Kept until ``relabel``."""
        if names not in self._depths:
            mask = self.mask(*names)
            box = self.box(mask, 12.0)
            self._depths[names] = None if box is None else Shape(box, self.depth(mask[box]))
        return self._depths[names]

    def place(
        self, organ: Shape, depth_mm: float, where: np.ndarray | None = None
    ) -> tuple[float, float, float] | None:
        """A random voxel centre at least ``depth_mm`` inside a shape (or as deep as it goes), of those in ``where``."""
        depth = organ.depth if where is None else np.where(where, organ.depth, np.float32(-99))
        deepest = float(depth.max())
        if deepest <= 0:
            return None
        candidates = np.flatnonzero(depth >= min(depth_mm, 0.9 * deepest))
        return self.point(np.unravel_index(self.rng.choice(candidates), depth.shape), organ.box)

    def point(self, kji: Sequence[float], box: Box) -> tuple[float, float, float]:
        """The point of a voxel whose index is counted on a box."""
        index = [float(i) + part.start for i, part in zip(kji, box, strict=True)]
        return tuple(i * s for i, s in zip(reversed(index), self.spacing, strict=True))

    def median(self, *names: str) -> float:
        """Median HU of classes; of water where they are absent."""
        mask = self.mask(*names)
        return float(np.median(self.hu[mask])) if mask.any() else 0.0

    # --- Shapes

    def ball(self, centre: Sequence[float], radius: float, rough_mm: float = 0.0) -> Shape:
        """A ball, with ``rough_mm`` of noise on its surface."""
        box = self.around(centre, [radius + 2 * rough_mm + 6] * 3)
        x, y, z = (values - np.float32(c) for values, c in zip(self.at(box), centre, strict=True))
        depth = np.float32(radius) - np.sqrt(x * x + y * y + z * z)
        if rough_mm:
            depth = depth + np.float32(rough_mm) * self.noise(max(radius * 0.8, 6.0), box)
        return Shape(box, depth)

    def ellipsoid(self, centre: Sequence[float], half: Sequence[float], rough_mm: float = 0.0) -> Shape:
        """An ellipsoid of half axes ``half`` along the grid's axes."""
        box = self.around(centre, [h + 2 * rough_mm + 6 for h in half])
        square = sum(
            ((v - np.float32(c)) / np.float32(h)) ** 2 for v, c, h in zip(self.at(box), centre, half, strict=True)
        )
        depth = (1 - np.sqrt(square)) * np.float32(min(half))
        if rough_mm:
            depth = depth + np.float32(rough_mm) * self.noise(max(min(half) * 0.8, 6.0), box)
        return Shape(box, depth)

    def around(self, centre: Sequence[float], reach: Sequence[float]) -> Box:
        """The part of the grid within ``reach`` mm of a point."""
        slices = []
        for values, c, r in zip(self.axes, centre, reach, strict=True):
            start, stop = np.searchsorted(values, [c - r, c + r])
            slices.append(slice(int(start), int(stop)))
        return slices[2], slices[1], slices[0]

    def noise(self, correlation_mm: float, box: Box) -> np.ndarray:
        """Smooth noise of standard deviation about 1 on a box."""
        shape = tuple(part.stop - part.start for part in box)
        return smooth_noise(self.rng, correlation_mm, Grid(shape, self.spacing, (0.0, 0.0, 0.0)))

    # --- Strokes

    def fill(
        self, shape: Shape, hu: float | np.ndarray, opacity: float | np.ndarray = 1.0, soft_mm: float | None = None
    ) -> np.ndarray:
        """Draw a shape with soft edges; returns its mask on the shape's box.

        Each voxel takes the share that the shape covers of it (judged by the depth of its centre), times ``opacity``.
        """
        edge = max(soft_mm or 0.0, self.spacing[0])
        share = np.clip(shape.depth / np.float32(edge) + np.float32(0.5), 0, 1) * np.float32(opacity)
        here = self.hu[shape.box]
        target = np.asarray(hu, np.float32)
        if self.noise_hu:
            grain = self.noise(2.2 * self.spacing[0], shape.box) * np.float32(self.noise_hu)
            target = target + grain
        here += share * (target - here)
        return shape.depth > 0

    def relabel(self, box: Box, mask: np.ndarray, name: str) -> None:
        """Give the voxels of a mask another class; "" none."""
        self._depths.clear()
        self.labels[box][mask] = segment(name).label if name else 0

    def drawn(
        self,
        kind: str,
        grade: float,
        parts: Sequence[tuple[Box, np.ndarray]],
        segments: Sequence[str],
        sizes_mm: Sequence[float] = (),
        **words: str,
    ) -> Drawn | None:
        """The record of a finding from masks on boxes; None where no voxel was drawn."""
        mask = np.zeros(self.hu.shape, bool)
        for box, part in parts:
            mask[box] |= part
        if not mask.any():
            return None
        sizes = tuple(sorted((max(round(s), 1) for s in sizes_mm), reverse=True))
        return Drawn(KIND[kind], round(float(grade), 3), mask, tuple(segments), sizes, words)

"""Sentence to segment links: which segments of this CT a sentence speaks of, and the voxel where to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import SegmentationError
from .types import Report, Segmentation, SentenceLink


def link(report: Report, segmentation: Segmentation, organs: Mapping[str, tuple[str, ...]]) -> tuple[SentenceLink, ...]:
    """One link per sentence that names a segment, in the order of the sentences.

    ``organs``: the model's organs and the TotalSegmentator classes of each. A link's ``centre_ijk`` is the voxel of the union of
    its segments that lies nearest (in voxels) to the centroid of that union: a centroid itself may lie outside, as of both lungs.

    Raises SegmentationError where the label map is not three-dimensional or holds no whole numbers from 0 up.
    """
    named = [(index, sentence.segments) for index, sentence in enumerate(report.sentences) if sentence.segments]
    if not named:
        return ()
    masks = _LabelMasks.measure(segmentation)
    centres: dict[tuple[str, ...], tuple[int, int, int] | None] = {}
    links = []
    for index, segments in named:
        present = tuple(name for name in segments if name in masks.labels)
        missing = tuple(name for name in segments if name not in masks.labels)
        if present not in centres:
            centres[present] = masks.centre(present)
        holders = tuple(organ for organ, classes in organs.items() if not set(classes).isdisjoint(present))
        links.append(SentenceLink(index, present, missing, holders, centres[present]))
    return tuple(links)


@dataclass(frozen=True)
class _LabelMasks:
    """Where the labels lie. ``labels``: class name -> its label values that have voxels.

    ``counts``: (N,) voxels per label value; ``sums_ijk``: (N, 3) sums of their indices.
    """

    labels_kji: np.ndarray
    labels: Mapping[str, tuple[int, ...]]
    counts: np.ndarray
    sums_ijk: np.ndarray

    @classmethod
    def measure(cls, segmentation: Segmentation) -> _LabelMasks:
        """Count and sum slice by slice: the whole volume as int64 would take eight times its memory."""
        labels_kji = segmentation.labels_kji
        if labels_kji.ndim != 3 or not np.issubdtype(labels_kji.dtype, np.integer):
            raise SegmentationError(
                f"segmentation {segmentation.source or 'in memory'}: expected a 3D map of whole numbers, found "
                f"{labels_kji.ndim}D {labels_kji.dtype}; load the label map, not a probability map"
            )
        low, size = (int(labels_kji.min()), int(labels_kji.max()) + 1) if labels_kji.size else (0, 1)
        if low < 0:
            raise SegmentationError(
                f"segmentation {segmentation.source or 'in memory'}: label {low} is negative; use labels from 0 up"
            )
        counts, sums_ijk = _moments(labels_kji, size)
        labels: dict[str, tuple[int, ...]] = {}
        for value, name in segmentation.names.items():
            if 0 < value < size and counts[value]:
                labels[name] = (*labels.get(name, ()), value)
        return cls(labels_kji, labels, counts, sums_ijk)

    def centre(self, names: tuple[str, ...]) -> tuple[int, int, int] | None:
        """The voxel (i, j, k) of the union of ``names`` nearest to its centroid; None without names."""
        values = [value for name in names for value in self.labels[name]]
        if not values:
            return None
        inside = np.zeros(len(self.counts), bool)
        inside[values] = True
        i, j, k = self.sums_ijk[values].sum(axis=0) / self.counts[values].sum()
        best, nearest = np.inf, None
        for slice_k in sorted(range(self.labels_kji.shape[0]), key=lambda n: abs(n - k)):
            if (slice_k - k) ** 2 >= best:
                break  # every further slice is further away than the best voxel
            rows, columns = np.nonzero(inside[self.labels_kji[slice_k]])
            if not rows.size:
                continue
            distances = (columns - i) ** 2 + (rows - j) ** 2 + (slice_k - k) ** 2
            at = int(distances.argmin())
            if distances[at] < best:
                best, nearest = float(distances[at]), (int(columns[at]), int(rows[at]), slice_k)
        return nearest


def _moments(labels_kji: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Voxels per label, (size,), and the sums of their i, j and k, (size, 3), in one pass; background is left out."""
    counts, sums_ijk = np.zeros(size, np.int64), np.zeros((size, 3))
    for k, plane_ji in enumerate(labels_kji):
        j, i = np.nonzero(plane_ji)
        values = plane_ji[j, i]
        here = np.bincount(values, minlength=size)
        counts += here
        sums_ijk[:, 0] += np.bincount(values, weights=i, minlength=size)
        sums_ijk[:, 1] += np.bincount(values, weights=j, minlength=size)
        sums_ijk[:, 2] += k * here
    return counts, sums_ijk

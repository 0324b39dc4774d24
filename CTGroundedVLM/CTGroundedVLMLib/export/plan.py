"""Which files an analysis is written to: decided once, before anything is drawn, and used by every writer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from ..types import AnalysisResult, FindingScore, OrganInfo, ReportComparison
from .labels import anatomical, finite, score_reason, slug, unique

RESULTS, FINDINGS, LINKS, PAGE = "results.json", "findings.csv", "links.csv", "index.html"
MOST_SEGMENT_PICTURES = 60


@dataclass(frozen=True)
class PlannedPicture:
    """A picture to draw: of heat map number ``heatmap``, or (None) of the segments that some sentences speak of."""

    file: str
    kind: Literal["heatmap", "segments"]
    heatmap: int | None
    segments: tuple[str, ...]
    centre_ijk: tuple[int, int, int] | None
    sentences: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExportPlan:
    """The files of one result, as POSIX paths relative to the output folder.

    ``heatmap_files``: one per heat map, None where they are not written. ``pictures``: heat maps first, then segments.
    ``colours``: segment -> number of its colour, in the order in which the report's links name them.
    """

    result: AnalysisResult
    heatmap_files: tuple[str | None, ...]
    pictures: tuple[PlannedPicture, ...]
    colours: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that will be written."""
        heatmaps = (f for f in self.heatmap_files if f)
        return (RESULTS, FINDINGS, LINKS, PAGE, *heatmaps, *(p.file for p in self.pictures))

    @cached_property
    def picture_of_heatmap(self) -> dict[int, int]:
        """Number of a heat map -> number of its picture."""
        return {p.heatmap: n for n, p in enumerate(self.pictures) if p.heatmap is not None}

    @cached_property
    def picture_of_sentence(self) -> dict[int, int]:
        """Number of a sentence -> number of the picture of its segments."""
        return {sentence: n for n, p in enumerate(self.pictures) for sentence in p.sentences}

    @cached_property
    def heatmap_of_score(self) -> dict[int, int]:
        """Place of a score in ``result.findings`` -> number of its heat map."""
        heatmaps = {(h.organ, h.finding, h.source): number for number, h in enumerate(self.result.heatmaps)}
        keys = ((place, (s.organ, s.finding, s.source)) for place, s in enumerate(self.result.findings))
        return {place: heatmaps[key] for place, key in keys if key in heatmaps}

    @cached_property
    def comparison_of_score(self) -> dict[int, ReportComparison]:
        """Place of a score in ``result.findings`` -> what the report says of it; empty without a report."""
        said = {(c.organ, c.finding, c.source): c for c in self.result.comparisons}
        keys = ((place, (s.organ, s.finding, s.source)) for place, s in enumerate(self.result.findings))
        return {place: said[key] for place, key in keys if key in said}

    @cached_property
    def score_of_heatmap(self) -> dict[int, FindingScore]:
        """Number of a heat map -> its score."""
        return {number: self.result.findings[place] for place, number in self.heatmap_of_score.items()}

    @cached_property
    def organs(self) -> dict[str, OrganInfo]:
        """Organ name -> what is known of it."""
        return {o.organ: o for o in self.result.organs}


def make_plan(result: AnalysisResult, *, heatmap_files: bool, pictures: bool) -> ExportPlan:
    """Decide names and pictures.

    Sentences that speak of the same segments at the same voxel share a picture; at most 60 such pictures are drawn, and
    a warning says so where that is not all.
    """
    stems = unique(f"{slug(h.organ).replace('-', '_')}_{slug(h.finding)}" for h in result.heatmaps)
    colours: dict[str, int] = {}
    for link in result.links:
        for name in anatomical(link.segments):
            colours.setdefault(name, len(colours))
    planned: list[PlannedPicture] = []
    warnings = [
        f"heat map of {h.finding!r} in {h.organ!r}: values that are not finite numbers are written as 0"
        for h in result.heatmaps
        if not np.isfinite(h.values_kji).all()
    ]
    if heatmap_files and result.heatmaps and is_sheared(result.case.ct.ijk_to_ras):
        warnings.append("the CT's voxel grid is sheared, which the heat maps' NIfTI files cannot hold: they are tilted")
    if pictures:
        planned = [PlannedPicture(f"pictures/{stem}.png", "heatmap", n, (), None) for n, stem in enumerate(stems)]
        groups = list(_segment_pictures(result, set(stems)))
        planned += groups[:MOST_SEGMENT_PICTURES]
        if len(groups) > MOST_SEGMENT_PICTURES:
            warnings.append(
                f"{len(groups)} different sets of segments are linked; pictures show the first {MOST_SEGMENT_PICTURES}"
            )
    names = tuple(f"heatmaps/{stem}.nii.gz" if heatmap_files else None for stem in stems)
    return ExportPlan(result, names, tuple(planned), colours, tuple(warnings))


def _segment_pictures(result: AnalysisResult, taken: set[str]) -> Iterator[PlannedPicture]:
    groups: dict[tuple, list[int]] = {}
    for link in result.links:
        if link.segments:
            groups.setdefault((link.segments, link.centre_ijk), []).append(link.sentence)
    stems = unique([*taken, *(f"segments_{slug(' '.join(segments))}" for segments, _ in groups)])[len(taken) :]
    for stem, ((segments, centre), sentences) in zip(stems, groups.items(), strict=True):
        yield PlannedPicture(f"pictures/{stem}.png", "segments", None, segments, centre, tuple(sentences))


def probability_words(score: FindingScore | None) -> str:
    """A probability as pictures and page say it; empty where nothing was scored under that name."""
    if score is None:
        return ""
    probability = finite(score.probability)
    if probability is None:
        return f"not scored: {score_reason(score)}"
    return f"probability {probability:.2f} ({'calibrated' if score.calibrated else 'not calibrated'})"


def is_sheared(ijk_to_ras: np.ndarray) -> bool:
    """Whether the grid's axes are not at right angles (to 0.001), as after an uncorrected gantry tilt."""
    matrix = np.asarray(ijk_to_ras, float)[:3, :3]
    directions = matrix / np.linalg.norm(matrix, axis=0)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3)

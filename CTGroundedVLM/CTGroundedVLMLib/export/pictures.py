"""Pictures of heat maps and of the segments that a sentence speaks of, in three planes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import FuncFormatter
from PIL import Image

from ..types import CTCase, Heatmap
from .canvas import (
    FAINT,
    INK,
    PANEL_PX,
    SEGMENT_COLOURS,
    WINDOWS,
    Sheet,
    legend_corner,
    number,
    outline,
    shorten,
)
from .labels import RESEARCH_NOTICE, anatomical, organ_display, segment_display, short_hash
from .plan import ExportPlan, PlannedPicture, probability_words
from .planes import DisplayGrid, Field

_MARGIN_MM, _LEAST_FIELD_MM, _SEARCH_SIZE, _LEGEND_ENTRIES = 25.0, 140.0, 160, 20
_ORGAN_LINE = "#8CE99A"  # seen on lung and on soft tissue, and no colour of the evidence
_BONES = ("rib_", "vertebrae_", "sacrum", "hip_", "femur_", "humerus_", "scapula_", "clavicula_", "skull", "sternum")


@dataclass(frozen=True)
class Scene:
    """What all pictures of one case share.

    ``colours``: segment -> its place in the palette, for the whole page. ``notice``: the model's own.
    """

    case: CTCase
    model_name: str
    trained: bool
    colours: Mapping[str, int] = field(default_factory=dict)
    notice: str = ""

    @classmethod
    def of(cls, plan: ExportPlan) -> Scene:
        """The scene of a planned export."""
        model = plan.result.model
        name = f"{model.name} {short_hash(model.sha256)}".strip()
        return cls(plan.result.case, name, model.trained, plan.colours, model.notice)

    @cached_property
    def grid(self) -> DisplayGrid:
        """How the case's arrays are turned for display."""
        return DisplayGrid.of(self.case.ct.ijk_to_ras, self.case.ct.array_kji.shape)

    @cached_property
    def ct(self) -> np.ndarray:
        """The CT in display order, a view."""
        return self.grid.view(self.case.ct.array_kji)

    @cached_property
    def labels(self) -> np.ndarray:
        """The label map in display order, a view."""
        return self.grid.view(self.case.segmentation.labels_kji)

    def values(self, segments: Sequence[str]) -> list[int]:
        """The label values of some segments."""
        return [value for value, name in self.case.segmentation.names.items() if name in set(segments)]

    def sheet(self, title: str, caption: str, box: Field, legend_px: int) -> Sheet:
        """A sheet with the case and the notice in its footer.

        Scans of few slices would leave the lower row mostly black: it is no higher than the scan or the legend needs.
        """
        parts = (self.case.ct.name, self.model_name, RESEARCH_NOTICE)
        if self.trained and self.notice:  # weights that are random are stamped; all this must fit into one line
            parts = (shorten(self.case.ct.name, 32), self.model_name, shorten(self.notice, 80), "Research use only.")
        footer = "   |   ".join(parts)
        scanned_px = int(PANEL_PX * self.grid.shape[0] * self.grid.spacing[0] / box.size) + 1
        return Sheet(title, caption, footer, lower_px=min(PANEL_PX, max(scanned_px, legend_px)))

    def finish(self, sheet: Sheet, through: tuple[int, int, int], window: str) -> np.ndarray:
        """Add what lies below the legend, stamp the sheets of an untrained model, and draw."""
        k, j, i = self.grid.to_kji(through)
        low, high = WINDOWS[window]
        place = f"Voxel (i, j, k) = ({i}, {j}, {k}). Window: {window}, {low} to {high} HU."
        if self.grid.tilt_degrees >= 2:
            place += f" Planes of the scan, tilted {self.grid.tilt_degrees:.0f}° from the patient's axes."
        sheet.legend_line(place, size=8.5, colour=FAINT, space=16)
        if not self.trained:
            sheet.stamp("UNTRAINED")
        return sheet.pixels()


def window_of(segments: Sequence[str]) -> str:
    """The reading window, a key of ``WINDOWS``, that suits most of the segments; soft tissue where none does."""
    kinds = [_kind(s) for s in segments]
    best = max(WINDOWS, key=kinds.count)
    return best if kinds.count(best) * 2 > len(kinds) else "soft tissue"


def _kind(segment: str) -> str:
    if segment.startswith(("lung", "trachea")):
        return "lung"
    if segment.startswith(_BONES):
        return "bone"
    return "brain" if segment == "brain" else "soft tissue"


def draw_planned(scene: Scene, plan: ExportPlan, picture: PlannedPicture) -> np.ndarray:
    """Draw one picture of the plan; (H, W, 3) uint8."""
    if picture.heatmap is None:
        return draw_segments(scene, anatomical(picture.segments), picture.centre_ijk)
    heatmap = plan.result.heatmaps[picture.heatmap]
    organ = plan.organs.get(heatmap.organ)
    caption = probability_words(plan.score_of_heatmap.get(picture.heatmap))
    return draw_heatmap(scene, heatmap, organ.segments if organ else (), caption)


def draw_heatmap(scene: Scene, heatmap: Heatmap, segments: Sequence[str], caption: str) -> np.ndarray:
    """The planes through the strongest evidence, with the organ's outline and a signed colour bar.

    Args:
        segments: the organ's class names, for outline and window.
        caption: what stands beside the title, such as the probability.

    Returns: (H, W, 3) uint8.
    """
    size, start = heatmap.values_kji.shape, heatmap.start_kji
    strength = np.abs(np.nan_to_num(heatmap.values_kji, nan=0.0, posinf=0.0, neginf=0.0))
    peak = np.add(np.unravel_index(strength.argmax(), size), start)
    through = scene.grid.from_kji(tuple(int(x) for x in peak))
    corners = np.array([scene.grid.from_kji(c) for c in (start, tuple(np.add(start, size) - 1))])
    box = Field.around(scene.grid, corners.min(0), corners.max(0), _MARGIN_MM, _LEAST_FIELD_MM)
    limit, window, values = float(strength.max()), window_of(segments), scene.values(segments)
    evidence = scene.grid.view(heatmap.to_volume())
    sheet = scene.sheet(f"{organ_display(heatmap.organ)}: {heatmap.finding}", caption, box, legend_px=240)
    for axes, piece in sheet.panels(scene.grid, scene.ct, window, through, box):
        axes.imshow(
            np.nan_to_num(evidence[piece.index]), cmap=evidence_colours(), norm=_signed(limit), extent=piece.edges,
            interpolation="bilinear", interpolation_stage="data",
        )  # fmt: skip
        outline(axes, np.isin(scene.labels[piece.index], values), piece, _ORGAN_LINE, width=1.0)
    _explain_evidence(sheet, heatmap, limit)
    return scene.finish(sheet, through, window)


def _explain_evidence(sheet: Sheet, heatmap: Heatmap, limit: float) -> None:
    """Colour bar, what its ends mean, unit and method."""
    left, _ = legend_corner()
    top = sheet.legend_space(74)
    bar = sheet.figure.add_axes(sheet.rectangle(left + 16, top + 26, PANEL_PX - 62, 20))
    colours = sheet.figure.colorbar(
        ScalarMappable(_signed(limit), evidence_colours()), cax=bar, orientation="horizontal"
    )
    colours.set_ticks([-limit, -limit / 2, 0, limit / 2, limit] if limit else [0])
    colours.formatter = FuncFormatter(lambda value, _: f"{value:+.2g}" if value else "0")
    bar.set_facecolor("#000000")
    bar.tick_params(colors=INK, labelsize=8.5)
    colours.outline.set_edgecolor(FAINT)
    sheet.write(left, top + 10, "speaks against", size=9.5, colour="#6CC8FF")
    sheet.write(left + PANEL_PX - 30, top + 10, "speaks for the finding", size=9.5, colour="#FFA040", align="right")
    if not limit:
        sheet.legend_line("The heat map is zero everywhere.", size=9.5)
    sheet.legend_line(f"Unit: {heatmap.unit}.", space=17)
    sheet.legend_line(f"Method: {heatmap.method}. Planes through the strongest value; green line: the organ.", space=17)
    sheet.legend_space(8)


def draw_segments(scene: Scene, segments: Sequence[str], centre_ijk: tuple[int, int, int] | None) -> np.ndarray:
    """The planes through ``centre_ijk``, or through the slice that shows most of the segments; numbered outlines.

    The segments are numbered from 1 in the order given. Returns: (H, W, 3) uint8.
    """
    through, box = _place(scene, segments, centre_ijk)
    window = window_of(segments)
    lines = min(len(segments), _LEGEND_ENTRIES + 1)
    title = ", ".join(segment_display(name) for name in segments)
    sheet = scene.sheet(title, "", box, legend_px=80 + 20 * lines)
    for axes, piece in sheet.panels(scene.grid, scene.ct, window, through, box):
        labels = scene.labels[piece.index]
        masks = [np.isin(labels, scene.values([name])) for name in segments]
        for mask, name in zip(masks, segments, strict=True):
            outline(axes, mask, piece, *_stroke(scene, name))
        for count, (mask, name) in enumerate(zip(masks, segments, strict=True), 1):
            number(axes, mask, piece, str(count), _stroke(scene, name)[0])
    for count, name in enumerate(segments[:_LEGEND_ENTRIES], 1):
        sheet.legend_entry(f"{count}  {segment_display(name)}", *_stroke(scene, name))
    if len(segments) > _LEGEND_ENTRIES:
        sheet.legend_line(f"and {len(segments) - _LEGEND_ENTRIES} more", size=10, colour=FAINT, space=20, indent=24)
    sheet.legend_space(8)
    return scene.finish(sheet, through, window)


def _stroke(scene: Scene, segment: str) -> tuple[str, str]:
    """Colour and line style of a segment's outline; dashed once the palette has been used up."""
    place = scene.colours.get(segment, 0)
    return SEGMENT_COLOURS[place % len(SEGMENT_COLOURS)], "dashed" if place // len(SEGMENT_COLOURS) % 2 else "solid"


def _place(
    scene: Scene, segments: Sequence[str], centre_ijk: tuple[int, int, int] | None
) -> tuple[tuple[int, int, int], Field]:
    """The voxel to cut through and the field around the segments, both in display order.

    The segments are searched on every n-th voxel (at most 160 per axis), which the field's margin covers; where that
    misses one of them, on all.
    """
    grid, values = scene.grid, scene.values(segments)
    steps = np.array([max(1, -(-n // _SEARCH_SIZE)) for n in grid.shape])
    labels = scene.labels[:: steps[0], :: steps[1], :: steps[2]]
    found = np.isin(labels, values)
    if len(np.unique(labels[found])) < len(values):
        labels, steps = scene.labels, np.ones(3, int)
        found = np.isin(labels, values)
    through = grid.from_kji(centre_ijk[::-1]) if centre_ijk is not None else None
    if not found.any():
        middle = through or tuple(n // 2 for n in grid.shape)
        return middle, Field.around(grid, middle, middle, _MARGIN_MM, _LEAST_FIELD_MM)
    if through is None:
        through = tuple(int(x) for x in _best_voxel(labels, found) * steps)
    used = [np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis))) * steps[axis] for axis in range(3)]
    low = tuple(int(min(u[0], t)) for u, t in zip(used, through, strict=True))
    high = tuple(int(max(u[-1], t)) for u, t in zip(used, through, strict=True))
    return through, Field.around(grid, low, high, _MARGIN_MM, _LEAST_FIELD_MM)


def _best_voxel(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """In the axial slice that shows most of the segments (of those, the largest part), the voxel nearest the centroid.

    A sentence on kidneys and adrenal glands is better served by a slice with both than by the kidneys' largest.
    """
    areas = found.sum(axis=(1, 2))
    kinds = [len(np.unique(labels[k][found[k]])) if area else 0 for k, area in enumerate(areas)]
    k = max(range(len(areas)), key=lambda n: (kinds[n], areas[n]))
    points = np.argwhere(found[k])
    row, column = points[((points - points.mean(0)) ** 2).sum(1).argmin()]
    return np.array([k, row, column])


@lru_cache(maxsize=1)
def evidence_colours() -> LinearSegmentedColormap:
    """Blue (against) through transparent (nothing) to orange (for): told apart under every colour blindness."""
    stops = [
        (0.0, (0.35, 0.85, 1.0, 0.85)),
        (0.3, (0.12, 0.4, 0.95, 0.55)),
        (0.5, (0.1, 0.25, 0.9, 0.0)),
        (0.5, (0.85, 0.15, 0.0, 0.0)),
        (0.7, (0.95, 0.35, 0.05, 0.55)),
        (1.0, (1.0, 0.8, 0.2, 0.85)),
    ]
    return LinearSegmentedColormap.from_list("evidence", stops, N=511)


def _signed(limit: float) -> Normalize:
    return Normalize(-(limit or 1.0), limit or 1.0)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """An (H, W, 3) uint8 picture as ``png`` (for files, lossless) or ``webp`` (for the page, a tenth of the size)."""
    buffer = io.BytesIO()
    options = {"png": {"compress_level": 4}, "webp": {"quality": 82, "method": 2}}[kind]
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()

"""The sheet that every picture is drawn on: three planes, a legend field, title and footer, on black.

matplotlib's object interface only: no pyplot, no global state.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from .planes import PLANES, Cut, DisplayGrid, Field, cut

# Okabe and Ito's colours, which stay apart under colour blindness; the blue is lightened for a black background.
SEGMENT_COLOURS = ("#E69F00", "#56B4E9", "#00B488", "#F0E442", "#7C97FF", "#F2703A", "#E08CC0", "#C9CED6")
INK, FAINT, BACKGROUND, _YELLOW = "#EDEFF2", "#98A1AC", "#000000", "#FFD54A"
WIDTH_PX, PANEL_PX = 1000, 496
_TOP_PX, _GAP_PX, _BOTTOM_PX, _DPI = 40, 8, 18, 100
_TITLE_LENGTH, _CAPTION_LENGTH = 56, 48

# Lower and upper HU. The usual level/width: lung -600/1500, soft tissue 40/400, bone 400/1800, brain 40/80.
WINDOWS = {"soft tissue": (-160, 240), "lung": (-1350, 150), "bone": (-500, 1300), "brain": (0, 80)}


class Sheet:
    """One picture in the making. Positions are in pixels from the top left."""

    def __init__(self, title: str, caption: str, footer: str, lower_px: int = PANEL_PX) -> None:
        self.lower_px = lower_px  # height of the lower row: the sagittal panel and the legend
        self.height_px = _TOP_PX + PANEL_PX + _GAP_PX + lower_px + _BOTTOM_PX
        self.figure = Figure(figsize=(WIDTH_PX / _DPI, self.height_px / _DPI), dpi=_DPI, facecolor=BACKGROUND)
        self.canvas = FigureCanvasAgg(self.figure)
        self._line_px = 0.0
        self.write(4, 19, shorten(title, _TITLE_LENGTH if caption else 2 * _CAPTION_LENGTH), size=12.5, weight="bold")
        self.write(WIDTH_PX - 4, 19, shorten(caption, _CAPTION_LENGTH), size=11, align="right")
        self.write(4, self.height_px - 9, footer, size=7.5, colour=FAINT)

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 10,
        colour: str = INK,
        weight: str = "normal",
        align: str = "left",
    ) -> None:
        """One line of text, centred vertically on ``y``. Dollar signs are dollar signs, never mathematics."""
        # control characters and lone surrogates would make the renderer fail
        text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
        self.figure.text(
            x / WIDTH_PX, 1 - y / self.height_px, text, fontsize=size, color=colour, weight=weight, ha=align, va="center",
            family=_families(), parse_math=False,
        )  # fmt: skip

    def rectangle(self, left: float, top: float, width: float, height: float) -> list[float]:
        """A rectangle in pixels as matplotlib wants it: fractions, from the bottom left."""
        return [left / WIDTH_PX, 1 - (top + height) / self.height_px, width / WIDTH_PX, height / self.height_px]

    def panels(
        self, grid: DisplayGrid, ct: np.ndarray, window: str, through: tuple[int, int, int], field: Field
    ) -> Iterator[tuple[Axes, Cut]]:
        """Draw the CT (display order, HU) in three planes through a voxel; the caller adds what lies over it."""
        for plane, (left, top) in zip(PLANES, panel_corners(), strict=True):
            piece = cut(grid, plane, through, field)
            height = PANEL_PX if top == _TOP_PX else self.lower_px
            axes = self.figure.add_axes(self.rectangle(left, top, PANEL_PX, height))
            axes.set_axis_off()
            low, high = WINDOWS[window]
            axes.imshow(ct[piece.index], cmap="gray", vmin=low, vmax=high, extent=piece.edges, interpolation="bilinear")
            left_mm, right_mm, bottom_mm, top_mm = piece.frame
            cropped = (1 - height / PANEL_PX) * field.size / 2
            piece = replace(piece, frame=(left_mm, right_mm, bottom_mm - cropped, top_mm + cropped))
            axes.set(xlim=piece.frame[:2], ylim=piece.frame[2:], aspect="equal", autoscale_on=False)
            yield axes, piece
            _annotate(axes, piece, grid, through, field.size)

    def legend_line(self, text: str, size: float = 9, colour: str = INK, space: float = 18, indent: float = 0) -> float:
        """Add text below what the legend field holds already, wrapped; returns the y of its first line in pixels."""
        left, top = legend_corner()
        first = top + self._line_px + space / 2
        for line in textwrap.wrap(text, int((PANEL_PX - indent) / (size * 0.82))) or [""]:
            self.write(left + indent, top + self._line_px + space / 2, line, size, colour)
            self._line_px += space
        return first

    def legend_entry(self, text: str, colour: str, style: str) -> None:
        """Add a line with a sample of an outline before it."""
        y = self.legend_line(text, size=10, space=20, indent=24)
        left, bottom, width, height = self.rectangle(legend_corner()[0] + 1, y - 6, 14, 11)
        sample = Rectangle((left, bottom), width, height, edgecolor=colour, facecolor="none", lw=2, ls=style)
        self.figure.add_artist(sample)

    def legend_space(self, height: float) -> float:
        """Leave room in the legend field; returns its top in pixels."""
        top = legend_corner()[1] + self._line_px
        self._line_px += height
        return top

    def stamp(self, word: str) -> None:
        """Write one word across the whole sheet."""
        self.figure.text(
            0.5, 0.53, word, fontsize=0.098 * self.height_px, weight="bold", color="#FF3B30", alpha=0.48, rotation=38,
            ha="center", va="center",
        )  # fmt: skip

    def pixels(self) -> np.ndarray:
        """The finished sheet, (H, W, 3) uint8."""
        with warnings.catch_warnings():
            # A script that no installed font holds is drawn as boxes; the page and the tables have the text itself.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            self.canvas.draw()
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()


def panel_corners() -> tuple[tuple[int, int], ...]:
    """Left and top, in pixels, of the axial, coronal and sagittal panel."""
    right, below = PANEL_PX + _GAP_PX, _TOP_PX + PANEL_PX + _GAP_PX
    return (0, _TOP_PX), (right, _TOP_PX), (0, below)


def legend_corner() -> tuple[int, int]:
    """Left and top of the legend field, in the fourth quarter."""
    return PANEL_PX + _GAP_PX + 14, _TOP_PX + PANEL_PX + _GAP_PX + 12


def shorten(text: str, length: int) -> str:
    """White space collapsed to blanks, and cut with an ellipsis where longer than ``length``."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def outline(axes: Axes, mask: np.ndarray, piece: Cut, colour: str, style: str = "solid", width: float = 1.4) -> None:
    """The outline of a mask (the slice's array), halfway between the voxels inside and outside.

    A mask that ends at the slice's edge is closed there.
    """
    if not mask.any():
        return
    left, right, bottom, top = piece.edges
    rows, columns = mask.shape
    across, down = (right - left) / columns, (bottom - top) / rows
    x = left + (np.arange(-1, columns + 1) + 0.5) * across
    y = top + (np.arange(-1, rows + 1) + 0.5) * down
    axes.contour(
        x, y, np.pad(mask.astype(np.float32), 1), levels=[0.5], colors=[colour], linewidths=width, linestyles=style
    )


def number(axes: Axes, mask: np.ndarray, piece: Cut, text: str, colour: str) -> None:
    """Write a number on the mask's voxel that lies nearest to its centroid."""
    points = np.argwhere(mask)
    if not len(points):
        return
    row, column = points[((points - points.mean(0)) ** 2).sum(1).argmin()]
    left, right, bottom, top = piece.edges
    x = left + (column + 0.5) * (right - left) / mask.shape[1]
    y = top + (row + 0.5) * (bottom - top) / mask.shape[0]
    label = axes.text(x, y, text, color=colour, fontsize=9, weight="bold", ha="center", va="center")
    label.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


def _annotate(axes: Axes, piece: Cut, grid: DisplayGrid, through: tuple[int, int, int], size_mm: float) -> None:
    """Name of the plane, patient directions, a scale bar, and yellow ticks where the other two planes cut this one."""
    plane = piece.plane
    left, right, bottom, top = piece.frame
    inset = 0.024 * size_mm
    middle = (left + right) / 2, (bottom + top) / 2
    spots = (
        (middle[0], top + inset),
        (middle[0], bottom - inset),
        (left + inset, middle[1]),
        (right - inset, middle[1]),
    )
    for letter, (x, y) in zip(plane.letters, spots, strict=True):
        _over(axes, x, y, letter, 11, _YELLOW, weight="bold", family="DejaVu Sans Mono", ha="center", va="center")
    _over(axes, left + inset / 2, top + inset / 2, plane.name, 9, ha="left", va="top")
    down = through[plane.rows] * grid.spacing[plane.rows]
    across = through[plane.columns] * grid.spacing[plane.columns]
    for end, inner in ((left, left + inset), (right, right - inset)):
        axes.plot([end, inner], [down, down], color=_YELLOW, lw=1)
    for end, inner in ((top, top + inset), (bottom, bottom - inset)):
        axes.plot([across, across], [end, inner], color=_YELLOW, lw=1)
    bar = 50.0 if size_mm > 120 else 10.0
    y = bottom - 0.6 * inset
    axes.add_patch(Rectangle((left + inset, y), bar, 0.006 * size_mm, color=INK, lw=0))
    _over(axes, left + inset, y - 0.3 * inset, f"{bar / 10:g} cm", 8, ha="left", va="bottom")


def _over(axes: Axes, x: float, y: float, text: str, size: float, colour: str = INK, **how: str) -> None:
    label = axes.text(x, y, text, color=colour, fontsize=size, **how)
    label.set_path_effects([withStroke(linewidth=2, foreground="black")])


@lru_cache(maxsize=1)
def _families() -> list[str]:
    """DejaVu Sans, which matplotlib brings, then installed fonts for the scripts that it lacks."""
    wanted = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "MS Gothic", "PingFang SC", "Hiragino Sans",
              "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Arial Unicode MS")  # fmt: skip
    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]

"""Draws the icon: an axial chest slice, one organ lit like a heatmap, linked to a line of a report.

Run ``python Resources/Icons/draw_icon.py``: it writes the extension's and the module's icon. Everything is drawn from
formulas; no image of a person went into it.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128  # pixels, what the Extensions Manager shows
_SCALE = 8  # drawn larger, then averaged: smooth edges
_ROOT = Path(__file__).resolve().parents[2]
TARGETS = (
    _ROOT / "Resources" / "Icons" / "CTGroundedVLM.png",
    _ROOT / "CTGroundedVLM" / "Resources" / "Icons" / "CTGroundedVLM.png",
)
# Dark to bright, as Slicer's Inferno colour table runs
_HEAT = np.array([[87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], dtype=float)


def draw() -> Image.Image:
    """The icon: (128, 128), RGBA."""
    big = Image.new("RGBA", (SIZE * _SCALE, SIZE * _SCALE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(big)
    _ellipse(pen, (50, 64), (47, 38), (52, 58, 66, 255))  # body
    _ellipse(pen, (50, 64), (42, 33), (120, 128, 138, 255))  # wall
    _ellipse(pen, (29, 62), (16, 23), (18, 20, 24, 255))  # the lungs, as radiologists see them: from the feet
    _ellipse(pen, (50, 88), (7, 6), (232, 232, 226, 255))  # vertebra
    _ellipse(pen, (51, 58), (9, 12), (168, 120, 116, 255))  # heart
    _heat(big, (70, 62), (15, 22))
    _report(pen)
    return big.resize((SIZE, SIZE), Image.Resampling.BOX)


def _ellipse(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radii: tuple[float, float], colour: tuple) -> None:
    corners = [(c - r) * _SCALE for c, r in zip(centre, radii, strict=True)]
    pen.ellipse([*corners, *[(c + r) * _SCALE for c, r in zip(centre, radii, strict=True)]], fill=colour)


def _heat(image: Image.Image, centre: tuple[float, float], radii: tuple[float, float]) -> None:
    """The organ with a hot spot: brightness falls off with the distance from it."""
    y, x = np.mgrid[0 : SIZE * _SCALE, 0 : SIZE * _SCALE] / _SCALE
    inside = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1
    value = np.exp(-(((x - centre[0] - 2) / 9) ** 2 + ((y - centre[1] - 7) / 10) ** 2)) * (len(_HEAT) - 1)
    low = np.clip(value.astype(int), 0, len(_HEAT) - 2)
    colours = _HEAT[low] + (value - low)[..., None] * (_HEAT[low + 1] - _HEAT[low])
    layer = np.dstack([colours, np.where(inside, 255, 0)]).astype(np.uint8)
    image.alpha_composite(Image.fromarray(layer, "RGBA"))


def _report(pen: ImageDraw.ImageDraw) -> None:
    """A sheet with lines of text; the one that the organ is linked to has its colour."""
    s = _SCALE
    pen.rounded_rectangle([82 * s, 70 * s, 125 * s, 124 * s], 5 * s, fill=(250, 250, 248, 255), outline=(52, 58, 66, 255),
                          width=2 * s)  # fmt: skip
    for row, (right, colour) in enumerate(
        ((118, (150, 156, 164)), (114, (249, 142, 9)), (119, (150, 156, 164)), (108, (150, 156, 164)))
    ):
        top = 79 + 11 * row
        pen.rounded_rectangle([88 * s, top * s, right * s, (top + 5) * s], 2 * s, fill=(*colour, 255))
    pen.line([72 * s, 69 * s, 88 * s, 92.5 * s], fill=(249, 142, 9, 255), width=3 * s)
    _ellipse(pen, (72, 69), (4, 4), (249, 142, 9, 255))


if __name__ == "__main__":
    icon = draw()
    for target in TARGETS:
        target.parent.mkdir(parents=True, exist_ok=True)
        icon.save(target, optimize=True)
        print(target)

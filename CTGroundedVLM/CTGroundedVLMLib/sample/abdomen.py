"""The upper abdominal organs of the synthetic patient (no contrast agent)."""

from __future__ import annotations

import numpy as np

from .body import Organ
from .canvas import Canvas, Point, Region
from .trunk import Trunk, smooth_min

GALLBLADDER_CENTRE: Point = (-50, -50, 84)
KIDNEYS: dict[str, Point] = {"left": (63, 40, 82), "right": (-62, 40, 66)}
ADRENALS: dict[str, Point] = {"left": (34, 28, 130), "right": (-36, 30, 134)}


def turn_z(degrees: float, tilt: float = 0.0) -> np.ndarray:
    """Rows of a frame turned about z, then tilted about its own x axis, in degrees."""
    a, b = np.deg2rad([degrees, tilt])
    about_z = np.array([[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return about_x @ about_z


class Abdomen:
    """Organs below the diaphragm, drawn from the back to the front."""

    def __init__(self, canvas: Canvas, trunk: Trunk) -> None:
        self.canvas = canvas
        self.trunk = trunk

    def draw(self) -> None:
        """Paint all of it."""
        self._spleen()
        self._liver()
        for side, sign in (("left", 1), ("right", -1)):
            self._kidney(side, sign)
            self._adrenal(side, sign)
        self._bowel()
        self._stomach()
        self._pancreas()
        self._veins()
        self._gallbladder()

    def _under_diaphragm(self, region: Region, margin: float) -> Region:
        depth = np.minimum(self.trunk.cavity[region.box] - margin, self.trunk.below_diaphragm[region.box] - 3.5)
        return Region(region.box, smooth_min(region.depth, depth, 6.0))

    def _organ(self, region: Region, hu: float, name: str, grain: float = 3.0) -> Region:
        return self.canvas.paint(region, hu + grain * self.canvas.texture[region.box], name)

    def _liver(self) -> None:
        canvas = self.canvas
        box = canvas.box((-145, -110, 40), (62, 92, 205))
        x, y, z = canvas.at(box)
        body = self.trunk.body
        under = z + body.liver_mm - (58 + 0.60 * (x + 118) + 0.16 * (y + 20))
        left = (48 + body.liver_left_mm - x) - 0.25 * (z - 170)
        spine = np.sqrt((0.9 * x) ** 2 + (y - 50) ** 2) - 40
        behind = 0.8 * (x + 10) * -1 + 30 - 0.9 * y  # the left lobe does not reach behind the stomach
        bed = -canvas.ellipsoid_depth(box, (-56, 62, 70), (40, 42, 66), np.eye(3))  # the kidney lies in it
        depth = smooth_min(smooth_min(under * 0.82, left, 24.0), smooth_min(spine, behind * 0.8, 14.0), 14.0)
        depth = smooth_min(depth, bed, 10.0)
        region = self._under_diaphragm(Region(box, depth + 2.5 * canvas.wobble[box]), 4.0)
        self._organ(region, canvas.tissues.liver, "liver")
        for points, radii in (
            ([(-24, 4, 172), (-52, -8, 168), (-84, -12, 150), (-108, -6, 120)], [5, 4.5, 3.2, 1.6]),
            ([(-24, 2, 174), (-40, -24, 166), (-58, -48, 142), (-70, -62, 118)], [5, 4, 2.8, 1.4]),
            ([(-24, 0, 176), (-8, -22, 174), (14, -38, 168)], [4.5, 3.2, 1.6]),
            ([(-34, -10, 118), (-60, -4, 118), (-86, 10, 108), (-108, 18, 92)], [5.5, 4.2, 3, 1.6]),
            ([(-60, -4, 118), (-76, -32, 106), (-88, -52, 92)], [4, 2.8, 1.4]),
            ([(-34, -10, 118), (-18, -36, 138), (4, -52, 152)], [4.6, 3.4, 1.8]),
        ):
            canvas.blend(canvas.tube(points, radii), canvas.tissues.hepatic_vein)

    def _spleen(self) -> None:
        spleen = self.trunk.body.spleen
        centre = tuple(c + s for c, s in zip((103, 32, 126), spleen.shift, strict=True))
        axes = tuple(a * spleen.size for a in (27, 45, 56))
        region = self.canvas.ellipsoid(centre, axes, turn_z(-28, 18), rough=1.5)
        hollow = self.canvas.ellipsoid_depth(region.box, (54, 0, 132), (34, 38, 64), np.eye(3))
        region = Region(region.box, smooth_min(region.depth, -hollow, 8.0))
        self._organ(self._under_diaphragm(region, 3.0), self.canvas.tissues.spleen, "spleen")

    def _kidney(self, side: str, sign: int) -> None:
        canvas = self.canvas
        x, y, z = self.kidney_centre(side)
        s = self.kidney(side).size
        frame = turn_z(sign * 25, 8)
        kidney = canvas.ellipsoid((x, y, z), (27 * s, 22 * s, 53 * s), frame, rough=1.2)
        sinus = canvas.ellipsoid((x - sign * 7, y - 3, z), (12 * s, 9 * s, 27 * s), frame, rough=1.5)
        canvas.paint(kidney.grown(4), -98.0, "")  # perirenal fat
        self._organ(kidney, canvas.tissues.renal, f"kidney_{side}")
        if canvas.tissues.medulla != canvas.tissues.renal:
            pyramids = kidney.grown(-6).cut(3 * canvas.texture[kidney.box] + 1)
            canvas.paint(pyramids, canvas.tissues.medulla)
        canvas.paint(sinus, -70 + 20 * canvas.texture[sinus.box])
        canvas.paint(canvas.ellipsoid((x - sign * 25, y - 9, z), (13, 8, 13), frame), -88.0, "")
        ureter = [(x - sign * 6, y - 3, z - 2), (x - sign * 22, y - 8, z - 8), (x - sign * 26, y - 6, z - 40)]
        canvas.paint(canvas.tube(ureter, [4.5, 3.5, 2]), canvas.tissues.urine)

    def kidney(self, side: str) -> Organ:
        """Size and shift of a kidney of this patient."""
        return self.trunk.body.kidney_left if side == "left" else self.trunk.body.kidney_right

    def kidney_centre(self, side: str) -> Point:
        """Where its centre lies, in the patient's coordinates."""
        return tuple(c + s for c, s in zip(KIDNEYS[side], self.kidney(side).shift, strict=True))

    def _adrenal(self, side: str, sign: int) -> None:
        x, y, z = ADRENALS[side]
        body = [(x, y, z + 10), (x + sign * 2, y - 3, z - 4), (x + sign * 4, y - 5, z - 16)]
        medial = [(x + sign * 2, y - 3, z - 4), (x - sign * 3, y + 12, z - 12)]
        lateral = [(x + sign * 2, y - 3, z - 4), (x + sign * 12, y + 11, z - 14)]
        limbs = [
            self.canvas.tube(limb, [3.2, 2.6, 2.2][: len(limb)], squash_z=0.35) for limb in (body, medial, lateral)
        ]
        self._organ(self.canvas.union(*limbs), self.canvas.tissues.adrenal, f"adrenal_gland_{side}", 2.0)

    def _pancreas(self) -> None:
        canvas = self.canvas
        path = [
            (-26, -16, 56),
            (-24, -20, 74),
            (-8, -26, 88),
            (12, -24, 100),
            (38, -8, 110),
            (64, 10, 118),
            (82, 20, 124),
        ]
        region = canvas.tube(path, [r * self.trunk.body.pancreas for r in (11, 12.5, 9, 9.5, 9.5, 9, 7)])
        region = region.grown(1.6 * canvas.wobble[region.box] - 1.2 * np.clip(canvas.texture[region.box], 0, 3))
        free = np.isin(canvas.labels[region.box], [0])
        self._organ(region.cut(np.where(free, np.float32(99), -1)), canvas.tissues.pancreas, "pancreas", 6.0)

    def _veins(self) -> None:
        path = [
            (84, 24, 128),
            (60, 18, 122),
            (34, 2, 110),
            (8, -12, 98),
            (-10, -12, 98),
            (-22, -8, 108),
            (-36, -10, 118),
        ]
        region = self.canvas.tube(path, [3.2, 3.6, 4, 4.6, 6, 6.2, 5.8])
        self._organ(region, self.canvas.tissues.portal, "portal_vein_and_splenic_vein", 2.0)
        self.canvas.paint(
            self.canvas.tube([(-8, -14, 96), (-6, -18, 60), (0, -22, 20)], [5.5, 4.5, 3.5]), self.canvas.tissues.portal
        )

    def _gallbladder(self) -> None:
        organ = self.trunk.body.gallbladder
        if not organ.size:
            return
        centre = tuple(c + s for c, s in zip(GALLBLADDER_CENTRE, organ.shift, strict=True))
        axes = tuple(a * organ.size for a in (14, 14, 31))
        region = self.canvas.ellipsoid(centre, axes, turn_z(20, -28), rough=0.6)
        self.canvas.paint(region.grown(1.6), 38.0)
        self._organ(region, 9.0, "gallbladder", 1.5)

    def _stomach(self) -> None:
        canvas = self.canvas
        path = [(50, 14, 164), (57, 0, 146), (62, -22, 118), (54, -46, 96), (28, -58, 84), (4, -52, 80), (-16, -40, 82)]
        outer = canvas.tube(path, [r * self.trunk.body.stomach for r in (29, 32, 30, 25, 20, 15, 9)])
        outer = self._under_diaphragm(outer.grown(2 * canvas.wobble[outer.box]), 4.0)
        canvas.paint(outer, canvas.tissues.wall, "stomach")
        self._fill(outer.grown(-4.5), level=-8.0 + self.trunk.body.stomach_level_mm, hu=22.0)
        pylorus = [
            (-16, -40, 82),
            (-34, -34, 82),
            (-44, -18, 74),
            (-45, 0, 50),
            (-34, 4, 28),
            (-10, 0, 20),
            (14, -2, 22),
            (30, -8, 36),
        ]
        duodenum = canvas.tube(pylorus, [9, 11, 11, 11, 11, 10.5, 10, 9])
        canvas.paint(duodenum, canvas.tissues.wall, "duodenum")
        self._fill(duodenum.grown(-3.0), level=-34.0, hu=20.0)

    def _fill(self, lumen: Region, level: float, hu: float) -> None:
        """Fluid and food with gas above it; the surface of the fluid lies level, at ``y`` = ``level`` mm."""
        canvas = self.canvas
        y = canvas.true_xyz[1][lumen.box[1]][None, :, None]
        content = np.where(y < level, np.float32(-960), hu + 9 * canvas.texture[lumen.box])
        canvas.paint(lumen, content)

    def _bowel(self) -> None:
        canvas = self.canvas
        ascending = [(-100, 8, -14), (-100, 6, 22), (-92, -14, 44)]
        transverse = [(-92, -14, 44), (-76, -52, 42), (-40, -68, 26), (0, -72, 22), (40, -70, 34), (76, -60, 66)]
        descending = [(76, -60, 66), (98, -48, 122), (108, -20, 140), (112, 6, 84), (108, 20, 20), (106, 16, -14)]
        radii = [19, 20, 18, 18, 16, 16, 17, 17, 17, 15, 14, 13, 13]
        colon = canvas.tube([*ascending, *transverse[1:], *descending[1:]], radii)
        folds = 2.2 * np.sin(sum(c[colon.box] for c in canvas.xyz) / 5.5)
        colon = self._under_diaphragm(colon.grown(folds), 3.0)
        free = np.isin(canvas.labels[colon.box], [0])
        colon = colon.cut(np.where(free, np.float32(99), -1))
        canvas.paint(colon, canvas.tissues.wall, "colon")
        lumen = colon.grown(-2.6)
        stool = np.where(
            canvas.texture[colon.box] + canvas.wobble[colon.box] > 0.9,
            np.float32(-650),
            35 + 40 * canvas.texture[colon.box],
        )
        top = canvas.at(colon.box)[1] < -62
        canvas.paint(lumen, np.where(top, np.float32(-930), stool))
        for _ in range(13):
            self._loop()

    def _loop(self) -> None:
        """A loop of small bowel at a random place of the lower part."""
        canvas, rng = self.canvas, self.canvas.rng
        start = rng.uniform([-60, -60, -10], [95, 0, 40])
        points = [start]
        for _ in range(4):
            step = rng.normal(0, 1, 3) * [20, 10, 9]
            points.append(np.clip(points[-1] + step, [-68, -62, -12], [98, 6, 48]))
        region = self._under_diaphragm(canvas.tube([tuple(p) for p in points], 11.0), 4.0)
        region = region.cut(np.where(canvas.labels[region.box] == 0, np.float32(99), -1))
        canvas.paint(region, canvas.tissues.wall, "small_bowel")
        gas = rng.random() < 0.3
        canvas.paint(
            region.grown(-2.8), np.where(canvas.at(region.box)[1] < -45, np.float32(-850 if gas else 18), 18.0)
        )

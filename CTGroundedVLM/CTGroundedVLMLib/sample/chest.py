"""Heart, great vessels, airways, esophagus and lung vessels of the synthetic patient (no contrast agent)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..anatomy import segment
from .canvas import Canvas, Point, Region
from .trunk import LOBES, Trunk

_AORTA_DESCENDING = [
    (27, 33, 296),
    (25, 36, 270),
    (23, 36, 230),
    (19, 35, 180),
    (12, 28, 130),
    (6, 18, 90),
    (3, 14, -12),
]
AORTA: list[Point] = [
    *((-4, -28, 244), (-12, -36, 262), (-17, -36, 284), (-14, -30, 303), (-3, -16, 318), (11, 2, 324), (22, 20, 316)),
    *_AORTA_DESCENDING,
]
AORTA_RADII = [15, 16, 16, 15.5, 14.5, 13.5, 13, 12.5, 12.5, 12, 11.5, 11, 10, 9]
# From its origin on the heart's surface downwards: left anterior descending artery; right coronary artery.
LAD: list[Point] = [(22, -64, 262), (33, -78, 250), (45, -83, 233), (58, -83, 216), (72, -76, 203)]
RCA: list[Point] = [(-16, -60, 254), (-32, -62, 240), (-40, -54, 222), (-36, -44, 206)]
HEART_CENTRE: Point = (19, -38, 229)
_AROUND_HEART = 18.0  # mm, room for an effusion
_LONG = np.array([0.70, -0.44, -0.56])  # from base to apex
_HILA = {-1: (-37.0, -2.0, 266.0), 1: (40.0, 2.0, 270.0)}


def heart_frame() -> np.ndarray:
    """Rows: the heart's long axis (unit vector from base to apex) and two axes across."""
    first = _LONG / np.linalg.norm(_LONG)
    second = np.cross(first, [0, 0, 1])
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])


class Chest:
    """``heart``: the painted shape, for what is planted on it; ``size``: of the heart, 1 is normal."""

    def __init__(self, canvas: Canvas, trunk: Trunk, size: float) -> None:
        self.canvas = canvas
        self.trunk = trunk
        self.size = size
        self.heart: Region | None = None

    def draw(self) -> None:
        """Paint all of it; the lungs must be there already."""
        self._lung_vessels()
        self._veins()
        self._heart()
        self._arteries()
        self._airways()
        self._esophagus()

    def vessel(
        self, points: Sequence[Point], radii: Sequence[float] | float, name: str | None, hu: float | None = None
    ) -> None:
        """A vessel in a thin sheath of fat that holds the lung off; an artery by default."""
        canvas = self.canvas
        hu = canvas.tissues.arterial if hu is None else hu
        region = canvas.tube(points, radii)
        sheath = region.grown(3.0)
        fresh = (canvas.hu[region.box] < -300) & sheath.inside & ~region.inside
        canvas.hu[region.box][fresh] = -90
        canvas.labels[region.box][fresh] = 0
        canvas.paint(region, hu + 2 * canvas.texture[region.box], name)

    # --- Heart

    def _heart(self) -> None:
        canvas, s = self.canvas, self.size
        x, y, z = HEART_CENTRE
        body = canvas.ellipsoid(HEART_CENTRE, (63 * s, 47 * s, 45 * s), heart_frame(), 1.0, _AROUND_HEART)
        right = canvas.ellipsoid((x - 42 * s, y + 18, z - 2), (27 * s, 29 * s, 36 * s), margin=_AROUND_HEART)
        left = canvas.ellipsoid((x - 6, y + 34 * s, z + 14), (36 * s, 22 * s, 24 * s), margin=_AROUND_HEART)
        outflow = canvas.ellipsoid((x - 6, y - 12, z + 20), (26 * s, 25 * s, 26 * s), margin=_AROUND_HEART)
        heart = canvas.union(body, right, left, outflow)
        floor = -self.trunk.below_diaphragm[heart.box] - 3
        inside_chest = np.minimum(self.trunk.cavity[heart.box] - 9, floor)
        heart = heart.cut(np.where(canvas.at(heart.box)[1] < 12, inside_chest, floor))
        pericardium = heart.grown(3.5 + 2.5 * np.clip(canvas.wobble[heart.box], -0.6, 2))
        pericardium = pericardium.cut(self.trunk.cavity[heart.box] - 3)
        canvas.paint(pericardium, -92.0, "")
        sac = Region(heart.box, 1.1 - np.abs(pericardium.depth - 1.1))
        canvas.paint(sac, 15.0)
        wall = self._walls(heart)
        canvas.paint(heart, wall, "heart")
        appendage = canvas.ellipsoid((52 * s, -40, 257), (13, 12, 11), rough=1.5)
        rim = appendage.grown(3)
        canvas.paint(rim.cut(np.where(canvas.hu[rim.box] < -300, np.float32(9), -1)), -90.0, "")
        canvas.paint(appendage, canvas.tissues.left_heart, "atrial_appendage_left")
        for path in (LAD, RCA, [(22, -64, 262), (44, -48, 256), (58, -22, 244), (56, -6, 226)]):
            canvas.paint(self.on_heart(path, 4.5, heart), -85.0)  # fat in the groove of the artery
            canvas.blend(self.on_heart(path, 1.7, heart), canvas.tissues.arterial + 1)
        self.heart = heart

    def _walls(self, heart: Region) -> np.ndarray:
        """HU of blood, with the myocardium slightly brighter, as on a scan without contrast."""
        canvas = self.canvas
        x, y, z = HEART_CENTRE
        s = self.size
        first = heart_frame()[0]
        centre = (x + 22 * s * first[0] + 8, y + 22 * s * first[1] + 8, z + 22 * s * first[2])
        depth = canvas.ellipsoid_depth(heart.box, centre, (44 * s, 31 * s, 30 * s), heart_frame())
        tissues = canvas.tissues
        blood = np.float32(tissues.left_heart)
        if tissues.right_heart != tissues.left_heart:
            right = (depth <= 9) & (
                canvas.at(heart.box)[0] < centre[0] - 0.6 * (canvas.at(heart.box)[1] - centre[1]) - 14
            )
            blood = np.where(right, np.float32(tissues.right_heart), blood)
        wall = (depth > 0) & (depth < 9)
        return np.where(wall, np.float32(tissues.myocardium), blood) + 2 * canvas.texture[heart.box]

    def on_heart(self, path: Sequence[Point], radius: float, heart: Region | None = None) -> Region:
        """A tube along a path that is drawn onto the heart's surface."""
        heart = self.heart if heart is None else heart
        x, y, z = (c[heart.box] for c in self.canvas.xyz)
        surface = np.abs(heart.depth) < 1.6
        candidates = np.stack([x[surface], y[surface], z[surface]], axis=1)
        fine = [
            np.asarray(a) + (np.asarray(b) - np.asarray(a)) * t
            for a, b in itertools.pairwise(path)
            for t in (0, 1 / 3, 2 / 3)
        ]
        points = [candidates[np.argmin(((candidates - p) ** 2).sum(1))] for p in (*fine, np.asarray(path[-1]))]
        smooth = np.array(points)
        smooth[1:-1] = (smooth[:-2] + smooth[1:-1] + smooth[2:]) / 3
        return self.canvas.tube([tuple(p) for p in smooth], radius)

    # --- Vessels and airways

    def _arteries(self) -> None:
        self.vessel(AORTA, [r * f for r, f in zip(AORTA_RADII, self.trunk.body.aorta, strict=True)], "aorta")
        above = 390
        self.vessel([(-4, -18, 320), (-16, -14, 340), (-22, -8, 352)], 6.5, "brachiocephalic_trunk")
        self.vessel([(-22, -8, 352), (-40, -8, 362), (-62, 0, 368)], 5, "subclavian_artery_right")
        self.vessel([(-22, -8, 352), (-24, -6, above)], 4, "common_carotid_artery_right")
        self.vessel([(5, -8, 326), (16, -10, 345), (22, -6, above)], 4, "common_carotid_artery_left")
        self.vessel([(16, 8, 326), (27, 6, 345), (42, 4, 362), (62, 4, 368)], 5, "subclavian_artery_left")
        for points, radius in (([(6, 18, 118), (4, 2, 116)], 3.5), ([(4, 15, 104), (2, -2, 98), (4, -16, 70)], 3.5)):
            self.vessel(points, radius, None)  # celiac trunk, superior mesenteric artery
        for sign in (1, -1):
            self.vessel([(3, 16, 78), (sign * 24, 24, 76), (sign * 42, 30, 72)], 2.6, None)

    def _veins(self) -> None:
        trunk, tissues = [(12, -40, 258), (14, -36, 276), (16, -20, 290)], self.canvas.tissues
        veins = tissues.venous
        self.vessel(trunk, [15, 14.5, 13.5], None, tissues.pulmonary)
        self.vessel([trunk[-1], (-8, -8, 284), (-30, -4, 276)], [12, 11, 9.5], None, tissues.pulmonary)
        self.vessel([trunk[-1], (28, -6, 288), (38, 4, 278)], [12, 11, 9.5], None, tissues.pulmonary)
        self.vessel(
            [(-24, -22, 340), (-27, -22, 300), (-25, -20, 262), (-24, -20, 244)], 9.5, "superior_vena_cava", veins
        )
        self.vessel([(-24, -22, 340), (-34, -20, 356), (-52, -14, 366)], 8, "brachiocephalic_vein_right", veins)
        self.vessel(
            [(-24, -22, 336), (4, -36, 342), (30, -28, 354), (52, -16, 364)], 7, "brachiocephalic_vein_left", veins
        )
        cava = [(-20, 20, -12), (-21, 19, 60), (-23, 14, 120), (-25, 6, 170), (-25, -6, 198), (-24, -12, 214)]
        self.vessel(cava, [10, 11, 12, 13, 13, 13], "inferior_vena_cava", tissues.cava)
        for sign in (1, -1):
            for height in (244, 229):
                course = [(14, -4, 0), (30, -6, 0), (48, -8, -2), (62, -8, -6)]
                points = [(sign * x + (8 if x < 40 else 0), y, height + z) for x, y, z in course]
                self.vessel(points, [7, 6, 5.5, 3.5], "pulmonary_vein", tissues.pulmonary)

    def _airways(self) -> None:
        wall = 20.0
        parts = [
            ([(0, 12, 392), (1, 12, 340), (3, 13, 304), (1, 13, 297)], 9.0),
            ([(1, 13, 297), (-18, 12, 283), (-34, 8, 272)], [8.0, 7.2, 6.2]),
            ([(1, 13, 297), (24, 17, 280), (42, 14, 268)], [7.5, 6.6, 5.8]),
        ]
        branches = [
            ([(-34, 8, 272), (-54, 0, 284), (-66, -8, 300)], [4.5, 3.4, 2.4]),
            ([(-34, 8, 272), (-46, 12, 250), (-56, 22, 228)], [5.5, 4.2, 2.8]),
            ([(-46, 12, 250), (-60, -14, 240), (-70, -30, 232)], [3.8, 3.0, 2.0]),
            ([(42, 14, 268), (58, 0, 280), (66, -10, 300)], [4.5, 3.4, 2.4]),
            ([(42, 14, 268), (52, 22, 248), (60, 34, 226)], [5.2, 4.0, 2.6]),
        ]
        for points, radii in (*parts, *branches):
            outer = self.canvas.tube(points, np.asarray(radii) + 1.5)
            self.canvas.paint(outer, wall)
            # The label of a lobe stays on the small bronchi, as TotalSegmentator leaves it; no vessel's does.
            lobe = np.isin(self.canvas.labels[outer.box], [segment(name).label for name in LOBES])
            self.canvas.paint(outer.cut(np.where(lobe, np.float32(-1), 99)), name="")
        for points, radii in (*parts, *branches):
            name = "trachea" if (points, radii) in parts else None
            self.canvas.paint(self.canvas.tube(points, radii), -985.0, name)

    def _esophagus(self) -> None:
        path = [
            (5, 26, 392),
            (5, 29, 340),
            (7, 31, 296),
            (7, 30, 260),
            (8, 25, 225),
            (14, 16, 200),
            (24, 6, 184),
            (34, 4, 172),
        ]
        region = self.canvas.tube(path, [7, 7, 7.5, 7.5, 8, 8.5, 8.5, 8.5])
        self.canvas.paint(region, 38 + 3 * self.canvas.texture[region.box], "esophagus")
        gas = self.canvas.tube([(6, 27, 330), (7, 29, 300), (8, 28, 278)], [1.6, 2.6, 1.4])
        self.canvas.paint(gas, -700.0)

    # --- Lungs

    def _lung_vessels(self) -> None:
        """Two trees per lung, grown from the hilum towards points strewn over the lung."""
        canvas = self.canvas
        lungs = np.isin(canvas.labels, [segment(name).label for name in LOBES])
        for sign, hilum in _HILA.items():
            side = lungs & (canvas.xyz[0] * sign > 0)
            places = np.flatnonzero(side)
            for count in self.trunk.body.lung_vessels:
                chosen = canvas.rng.choice(places, count, replace=False)
                points = np.stack([c.ravel()[chosen] for c in canvas.xyz], axis=1)
                for a, b, ra, rb in vessel_tree(np.asarray(hilum, np.float32), points, canvas.rng):
                    region = canvas.tube([a, b], [ra, rb])
                    only = np.where(side[region.box], region.depth, np.float32(-9))
                    canvas.blend(Region(region.box, only), canvas.tissues.lung_vessel)


def vessel_tree(
    root: np.ndarray, points: np.ndarray, rng: np.random.Generator
) -> list[tuple[Point, Point, float, float]]:
    """Segments (start, end, radius there) of a tree that reaches every point (n, 3) from the root.

    Each point, from the nearest to the root outwards, joins the node that makes its way to the root short. The radii
    follow Murray's law: the cube of a vessel's is the sum of its branches' cubes.
    """
    distance = np.linalg.norm(points - root, axis=1)
    order = np.argsort(distance, kind="stable")
    nodes = np.concatenate([root[None], points[order]]).astype(np.float64)
    way = np.zeros(len(nodes))
    parent = np.zeros(len(nodes), int)
    for n in range(1, len(nodes)):
        step = np.linalg.norm(nodes[:n] - nodes[n], axis=1)
        parent[n] = int(np.argmin(step + 0.55 * way[:n]))
        way[n] = way[parent[n]] + step[parent[n]]
    cubes = np.zeros(len(nodes))
    leaf = 0.62**3 * rng.uniform(0.5, 1.6, len(nodes))
    for n in range(len(nodes) - 1, 0, -1):
        cubes[n] += leaf[n]
        cubes[parent[n]] += cubes[n]
    radius = np.minimum(np.cbrt(cubes), 5.2)
    return [
        (tuple(nodes[parent[n]]), tuple(nodes[n]), float(min(radius[n] * 1.15, radius[parent[n]])), float(radius[n]))
        for n in range(1, len(nodes))
    ]

"""The bones of the synthetic patient, and the muscles that lie along the spine."""

from __future__ import annotations

import math

import numpy as np

from .canvas import Canvas, Point, Region
from .trunk import Trunk, cavity_at

# Lower edge of each vertebra with the disc below it, in mm above the lower end of the scan.
_LEVELS = (
    *(("L3", 0), ("L2", 34), ("L1", 68), ("T12", 101), ("T11", 129), ("T10", 156), ("T9", 182), ("T8", 207)),
    *(("T7", 231), ("T6", 254), ("T5", 276), ("T4", 297), ("T3", 317), ("T2", 336), ("T1", 354), ("C7", 371)),
)
_TOP = 388.0
# Height of the front end of each bony rib, angle there (0 at the spine, pi at the sternum), height of its cartilage
# at the sternum (None: the cartilage joins the one above, or the rib floats).
_RIBS = (
    *((338, 2.50, 334), (317, 2.55, 318), (290, 2.55, 302), (264, 2.52, 287), (238, 2.50, 273), (210, 2.46, 261)),
    *((183, 2.38, 252), (160, 2.25, None), (140, 2.10, None), (122, 1.90, None), (102, 1.40, None), (92, 0.95, None)),
)
_SIDES = (("left", 1), ("right", -1))


def spine_y(z: float) -> float:
    """Centre of the vertebral bodies (y in mm) at a height: lumbar lordosis, thoracic kyphosis."""
    return float(np.interp(z, [0, 60, 120, 190, 260, 320, 375], [36, 40, 47, 55, 57, 48, 36]))


class Skeleton:
    """Vertebrae with discs and cord, ribs with cartilages, sternum, clavicles, scapulae, back muscles."""

    def __init__(self, canvas: Canvas, trunk: Trunk) -> None:
        self.canvas = canvas
        self.trunk = trunk

    def draw(self) -> None:
        """Paint all of it."""
        self._muscles()
        self._vertebrae()
        self._cord()
        self._ribs()
        self._sternum()
        self._shoulders()

    def _muscles(self) -> None:
        canvas = self.canvas
        heights = range(-10, 390, 20)
        for side, sign in _SIDES:
            erector = [(sign * 33, spine_y(z) + 37, z) for z in heights]
            region = canvas.tube(erector, [19 if z < 150 else 15 for z in heights])
            marbled = np.where(
                canvas.texture[region.box] > 1.7,
                np.float32(-40),
                canvas.tissues.muscle - 2 + 5 * canvas.texture[region.box],
            )
            canvas.paint(region.cut(self.trunk.skin[region.box] - 8), marbled, f"autochthon_{side}")
            psoas = canvas.tube([(sign * 43, 42, -12), (sign * 37, 42, 40), (sign * 28, 44, 90)], [21, 15, 5])
            canvas.paint(psoas, canvas.tissues.muscle + 2 + 4 * canvas.texture[psoas.box], f"iliopsoas_{side}")

    def _vertebrae(self) -> None:
        canvas = self.canvas
        for (level, low), (_, high) in zip(_LEVELS, (*_LEVELS[1:], ("", _TOP)), strict=True):
            size = 0.8 + 0.2 * (_TOP - low) / _TOP
            middle = (low + high) / 2
            back = spine_y(middle)
            body = self._body(back, low + 0.2 * (high - low), high, 21 * size, 16 * size)
            if self.trunk.body.fracture and self.trunk.body.fracture[0] == level:
                body = self._crushed(body, back, 16 * size, self.trunk.body.fracture[1] * 0.8 * (high - low))
            disc = self._body(back, low, low + 0.2 * (high - low), 20 * size, 15 * size)
            canvas.paint(disc, 82.0)
            canvas.bone(body, f"vertebrae_{level}", marrow=canvas.tissues.marrow)
            arch = [
                canvas.tube([(s * 11, back + 10 * size, middle), (s * 14, back + 22, middle)], 4.6) for s in (1, -1)
            ]
            arch += [canvas.tube([(s * 14, back + 22, middle), (s * 33 * size, back + 30, middle)], 4) for s in (1, -1)]
            arch += [canvas.tube([(s * 14, back + 22, middle), (0, back + 33, middle - 5)], 4) for s in (1, -1)]
            arch.append(canvas.tube([(0, back + 33, middle - 4), (0, back + 52, middle - 13)], [3.6, 4.2], 0.6))
            canvas.bone(canvas.union(*arch), f"vertebrae_{level}")

    def _body(self, back: float, low: float, high: float, width: float, depth: float) -> Region:
        """A bean-shaped disc of bone with a waist: depth in mm on its box."""
        canvas = self.canvas
        box = canvas.box((-width - 3, back - depth - 3, low), (width + 3, back + depth + 3, high))
        x, y, z = canvas.at(box)
        waist = 1 - 0.10 * np.clip(1 - ((z - (low + high) / 2) / ((high - low) / 2)) ** 2, 0, None)
        radius = np.sqrt((x / width) ** 2 + ((y - back) / depth) ** 2) / waist
        bean = np.sqrt(x**2 + (y - back - depth - 5) ** 2) - 8  # the dent of the canal
        around = np.minimum((1 - radius) * np.float32(depth), bean)
        return Region(box, np.minimum(around, np.minimum(z - low, high - z)))

    def _crushed(self, body: Region, back: float, half_mm: float, loss_mm: float) -> Region:
        """A vertebral body whose upper endplate has sunk by ``loss_mm`` in front and half of it at the back."""
        canvas = self.canvas
        _, y, _ = canvas.at(body.box)
        sunk = np.float32(loss_mm) * (0.75 - 0.25 * np.clip((y - back) / half_mm, -1, 1))
        room = body.grown(1.5)
        canvas.paint(room, 60.0)  # disc and blood where bone was
        top = np.where(body.depth > -3, self._below_top(body), np.float32(-9))
        return body.cut(top - sunk)

    def _below_top(self, body: Region) -> np.ndarray:
        """Distance in mm below the highest point of a shape, on its box."""
        z = self.canvas.at(body.box)[2]
        return float(z[body.inside].max(initial=-np.inf)) - z

    def _cord(self) -> None:
        heights = range(-10, 390, 20)
        canal = self.canvas.tube([(0, spine_y(z) + 23, z) for z in heights], 8.5)
        self.canvas.paint(canal, 14.0, "")
        cord = self.canvas.tube([(0, spine_y(z) + 22, z) for z in range(80, 400, 20)], 5)
        self.canvas.paint(cord, 38.0, "spinal_cord")

    def _ribs(self) -> None:
        canvas, joints = self.canvas, dict(_LEVELS)
        for side, sign in _SIDES:
            tip = None
            for number, (front, angle, sternal) in enumerate(_RIBS, start=1):
                joint = joints[f"T{number}"] + 18
                path = self._rib_path(sign, joint, front, angle)
                canvas.bone(canvas.tube(path, 3.7, squash_z=0.62), f"rib_{side}_{number}", 1.6, 160)
                cartilage = self._cartilage_path(sign, path[-1], sternal, tip)
                if cartilage:
                    region = canvas.tube(cartilage, 4, squash_z=0.7)
                    canvas.paint(region, np.where(region.depth < 1.3, np.float32(135), 85), "costal_cartilages")
                    tip = cartilage[1]

    def _rib_path(self, sign: int, joint: float, front: float, angle: float) -> list[Point]:
        """From the joint over the transverse process around the cavity; 5 mm outside its wall."""
        path = [(sign * 19.0, spine_y(joint) + 8, joint), (sign * 38.0, spine_y(joint) + 27, joint - 6)]
        start = 0.62
        for step in np.linspace(0, 1, 14):
            phi = start + (angle - start) * step
            z = joint - 8 + (front - joint + 8) * step**1.15
            path.append(self._on_cage(sign, phi, z, 5.0))
        return path

    def _on_cage(self, sign: int, phi: float, z: float, outside: float) -> Point:
        """A point outside the cavity's wall at an angle (0 at the spine, pi at the sternum)."""
        width, front, back = cavity_at(z)
        u, v = math.sin(phi), math.cos(phi)
        r = 0.55 * math.hypot(u, v) + 0.45 * (u**4 + v**4) ** 0.25
        half = (back - front) / 2
        x, y = width * u / r, (front + back) / 2 + half * v / r
        grow = 1 + outside / math.hypot(x, y - (front + back) / 2)
        return sign * x * grow, (front + back) / 2 + (y - (front + back) / 2) * grow, z

    def _cartilage_path(self, sign: int, end: Point, sternal: float | None, above: Point | None) -> list[Point]:
        if sternal is not None:
            x, y, z = self._on_cage(sign, math.pi - 0.17, sternal, 6.0)
            middle = self._on_cage(sign, math.pi - 0.40, (end[2] + 2 * sternal) / 3 - 4, 6.0)
            return [end, middle, (x, y, z)]
        if above is None or (abs(end[0]) > 118 and end[2] < 130):
            return []
        return [end, above] if math.dist(end, above) < 90 else []

    def _sternum(self) -> None:
        heights = np.linspace(222, 342, 31)
        widths = np.interp(heights, [222, 240, 310, 320, 342], [9, 15, 13, 20, 24])
        pieces = []
        for z, width in zip(heights, widths, strict=True):
            y = cavity_at(float(z))[1] - 6
            pieces.append([(-width + 5, y, z), (width - 5, y, z)])
        rows = [self.canvas.tube(piece, 5.2, squash_z=0.8) for piece in pieces]
        self.canvas.bone(self.canvas.union(*rows), "sternum", 1.5, 140)

    def _shoulders(self) -> None:
        canvas = self.canvas
        for side, sign in _SIDES:
            clavicle = [(sign * 22, -66, 341), (sign * 60, -70, 350), (sign * 100, -52, 359), (sign * 140, -30, 366)]
            canvas.bone(canvas.tube(clavicle, 5.5), f"clavicula_{side}")
            blade = []
            for z in range(238, 350, 8):
                reach = 0.50 + 0.62 * (z - 238) / 110
                rows = [self._on_cage(sign, phi, z, 19.0) for phi in np.linspace(0.72, 0.76 + reach, 6)]
                blade.append(canvas.tube(rows, 2.3, squash_z=0.35))
            ridge = [self._on_cage(sign, phi, 318 + 12 * phi, 27.0) for phi in (0.78, 1.0, 1.25, 1.5)]
            glenoid = canvas.tube([self._on_cage(sign, 1.42, z, 25.0) for z in (318, 345)], 9)
            canvas.bone(canvas.union(*blade, canvas.tube(ridge, 4.0), glenoid), f"scapula_{side}", 1.6)

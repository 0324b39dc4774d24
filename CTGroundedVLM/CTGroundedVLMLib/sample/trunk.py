"""The envelope of the synthetic patient: skin, fat, muscle, couch, the cavity inside the ribs, diaphragm and lungs."""

from __future__ import annotations

import numpy as np

from .body import AVERAGE, Body
from .canvas import Canvas, Region

LOBES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)
# z, half width, front, back in mm, from the lower end of the scan to its top.
_SKIN = np.array(
    [
        [0, 160, -104, 108],
        [60, 161, -106, 110],
        [120, 164, -108, 112],
        [200, 166, -116, 113],
        [260, 167, -116, 113],
        [310, 171, -106, 113],
        [345, 172, -92, 111],
        [375, 160, -78, 106],
    ],
    np.float32,
)
_CAVITY = np.array(
    [
        [0, 122, -76, 58],
        [60, 128, -82, 66],
        [110, 133, -88, 76],
        [160, 133, -93, 81],
        [210, 127, -97, 83],
        [255, 117, -96, 82],
        [300, 101, -81, 79],
        [330, 82, -63, 73],
        [350, 60, -44, 64],
        [364, 38, -26, 54],
        [375, 22, -12, 46],
    ],
    np.float32,
)
# y, half width of the space between the lungs in mm.
_MEDIASTINUM = np.array(
    [[-110, 5], [-75, 9], [-45, 22], [-15, 31], [20, 30], [45, 27], [60, 25], [110, 25]], np.float32
)


def _lookup(table: np.ndarray, column: int, at: np.ndarray) -> np.ndarray:
    """Linear interpolation in a table by its first column, on a fine grid: np.interp is too slow for a volume."""
    low, high = table[0, 0], table[-1, 0]
    fine = np.interp(np.linspace(low, high, 1024), table[:, 0], table[:, column]).astype(np.float32)
    index = np.clip((at - low) * np.float32(1023 / (high - low)), 0, 1023).astype(np.int32)
    return fine[index]


def cavity_at(z: float) -> tuple[float, float, float]:
    """Half width, front and back of the cavity inside the ribs at a height, in mm."""
    return tuple(float(np.interp(z, _CAVITY[:, 0], _CAVITY[:, column])) for column in (1, 2, 3))


def smooth_min(a: np.ndarray, b: np.ndarray, round_mm: float) -> np.ndarray:
    """Minimum of two depths whose common edge is rounded (polynomial smooth minimum)."""
    gap = np.clip(round_mm - np.abs(a - b), 0, None)
    return np.minimum(a, b) - gap * gap / np.float32(4 * round_mm)


class Trunk:
    """Depth fields of the envelope in mm (K, J, I), positive inside: ``skin``, ``cavity``, ``below_diaphragm``."""

    def __init__(self, canvas: Canvas, body: Body = AVERAGE) -> None:
        self.canvas = canvas
        self.body = body
        self.skin = self._outline(_SKIN) + canvas.wobble
        if body.skin_mm:
            self.skin += np.float32(body.skin_mm)
        self.cavity = self._outline(_CAVITY) + np.float32(1.5) * canvas.wobble
        self.below_diaphragm = self._diaphragm_height() - canvas.xyz[2]
        self.whole = (slice(None),) * 3

    def draw(self) -> None:
        """Paint couch, skin, fat, muscle, the fat that fills the cavity, and the lungs."""
        self._couch()
        self._wall()
        self._cavity_fat()
        self._lungs()

    def _outline(self, profile: np.ndarray) -> np.ndarray:
        """Depth in mm, along the ray to the centre, below a rounded box whose size follows the height."""
        x, y, z = self.canvas.xyz
        width, front, back = (_lookup(profile, column, z) for column in (1, 2, 3))
        v = (y - (front + back) / 2) / ((back - front) / 2)
        u = x / width
        u2, v2 = u * u, v * v
        # Between an ellipse (power 2) and a squarer power 4.
        r = np.float32(0.55) * np.sqrt(u2 + v2) + np.float32(0.45) * np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
        distance = np.sqrt(x * x + (v * (back - front) / 2) ** 2)
        return distance * (1 - r) / np.maximum(r, 1e-3)

    def _diaphragm_height(self) -> np.ndarray:
        """Height of the diaphragm in mm over each voxel: two domes that fall off towards the ribs."""
        x, y, _ = self.canvas.xyz
        domes = []
        right, left = self.body.diaphragm_mm
        for side, peak in ((-1, 197.0 + right), (1, 186.0 + left)):
            lateral = np.clip(x * side - 55, 0, None) / 78
            medial = np.clip(60 - x * side, 0, None) / 70
            back, front = np.clip(y + 8, 0, None) / 90, np.clip(-y - 8, 0, None) / 85
            recess = lateral * lateral + back * back
            domes.append(peak - 108 * recess * recess - 14 * medial * medial - 26 * front * front)
        return np.maximum(*domes) + 2 * self.canvas.wobble

    def _couch(self) -> None:
        """A thin curved carbon shell with a foam core under the back; it does not bend with the patient."""
        x, y, _ = self.canvas.true_xyz
        top = np.float32(119 * self.canvas.scale[1] + self.body.skin_mm) - (x[None, :] / 60) ** 2 * 0.8
        below = y[:, None] - top
        plane = np.where((below > 0) & (below < 20) & (np.abs(x[None, :]) < 172), np.float32(-930), np.float32(-1000))
        shell = ((below > 0) & (below < 2.2)) | ((below > 17.8) & (below < 20))
        plane[shell & (np.abs(x[None, :]) < 172)] = -420
        self.canvas.hu[:] = plane[None]

    def _wall(self) -> None:
        canvas, (x, y, _) = self.canvas, self.canvas.xyz
        fat = np.float32(self.body.fat_mm) * (1 + 0.25 * np.abs(x) / 160 - 0.2 * (y > 60)) + 2 * canvas.wobble
        hu = np.where(self.skin < 2.2, np.float32(25), canvas.tissues.fat + 5 * canvas.texture)
        outside = -self.cavity
        # Wavy fat planes between layers of muscle; the outer one comes and goes.
        plane = np.abs(outside - 13 - 3 * canvas.wobble) < 1.0
        plane |= (np.abs(outside - 33 - 9 * canvas.wobble - 0.15 * y) < 1.3) & (canvas.wobble > -0.8)
        muscle = np.where(plane, np.float32(-55), canvas.tissues.muscle + 5 * canvas.texture)
        muscle[canvas.texture > 1.9] = -30
        np.copyto(hu, muscle, where=self.skin > fat + 2.2)
        canvas.paint(Region(self.whole, self.skin), hu)

    def _cavity_fat(self) -> None:
        canvas = self.canvas
        wall = np.where(canvas.xyz[2] < 105, np.float32(-2), np.float32(1))  # below the ribs the wall is muscle
        fat = -100 + 6 * canvas.texture
        canvas.paint(Region(self.whole, self.cavity + wall), fat)
        sheet = Region(self.whole, 1.6 - np.abs(self.below_diaphragm - 1.6)).cut(self.cavity)
        canvas.paint(sheet, 50.0)

    def _lungs(self) -> None:
        canvas, (x, y, z) = self.canvas, self.canvas.xyz
        beside = np.abs(x) - _lookup(_MEDIASTINUM, 1, y) - 2 * canvas.wobble
        lung = smooth_min(smooth_min(self.cavity - 2, -self.below_diaphragm, 5.0), beside, 10.0)
        hu = np.float32(canvas.tissues.lung) + np.float32(0.45) * y + 12 * canvas.texture + 10 * canvas.wobble
        oblique = 243 + np.float32(0.95) * y + 3 * canvas.wobble  # height of the oblique fissure over each voxel
        minor = 252 - np.float32(0.12) * (y + 60) + 3 * canvas.wobble
        middle = (x < 0) & (z < minor) & (z > oblique)
        fissure = (np.abs(z - oblique) < 1.6) | ((x < 0) & (z > oblique) & (np.abs(z - minor) < 1.3))
        hu[fissure] += 95
        canvas.paint(Region(self.whole, lung), hu)
        index = np.where(x > 0, 0, 2) + np.where(z < oblique, np.where(x > 0, 1, 2), 0)
        index[middle] = 3
        for place, name in enumerate(LOBES):
            canvas.paint(Region(self.whole, np.where(index == place, lung, np.float32(-1))), name=name)

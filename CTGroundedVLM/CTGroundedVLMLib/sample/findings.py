"""What is planted in the synthetic CT: each finding is drawn in HU, and in the labels where TotalSegmentator would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk

from ..anatomy import segment
from .abdomen import ADRENALS, GALLBLADDER_CENTRE, KIDNEYS
from .canvas import ORIGIN_LPS, SPACING_IJK, Box, Canvas, Region
from .chest import AORTA, AORTA_RADII, LAD, Chest
from .trunk import LOBES, Trunk

_SIDES = {"left": 1, "right": -1}
# Kinds of which every sample holds at least one: those of the organs that the released model scores.
CHEST_KINDS = (
    *("pleural effusion", "lung nodule", "emphysema", "coronary calcification", "aortic calcification"),
    *("pericardial effusion", "hiatal hernia"),
)
ABDOMEN_KINDS = ("hepatic cyst", "hepatic steatosis", "gallstone", "renal cyst", "renal stone", "adrenal nodule")
# Two kinds in one place would make each other's extent wrong.
_EXCLUSIVE = ({"coronary calcification", "pericardial effusion"}, {"renal cyst", "renal stone"})


@dataclass(frozen=True)
class PlantedFinding:
    """A finding that is in the image.

    ``organ`` and ``finding``: its name in the registry (``anatomy.findings``). ``segments``: where it lies.
    ``sizes_mm``: the measured size that the report states, one value per lesion or one for the whole; empty where none
    is measured. ``box``, ``mask``: its voxels. ``words``: what the report needs to tell of it.
    """

    kind: str
    organ: str
    finding: str
    segments: tuple[str, ...]
    sizes_mm: tuple[int, ...]
    box: Box
    mask: np.ndarray
    words: dict[str, str] = field(default_factory=dict)

    @property
    def centre_kji(self) -> np.ndarray:
        """Index of its voxel that lies nearest to the mean of its voxels: a crescent's mean lies outside."""
        voxels = np.argwhere(self.mask)
        square = (((voxels - voxels.mean(0)) * SPACING_IJK[::-1]) ** 2).sum(1)
        return voxels[np.argmin(square)] + [part.start for part in self.box]


def choose_kinds(rng: np.random.Generator) -> tuple[str, ...]:
    """Three to five kinds of findings, of chest and abdomen, that can go together."""
    count = int(rng.integers(3, 6))
    chest = list(rng.permutation(CHEST_KINDS))
    abdomen = list(rng.permutation(ABDOMEN_KINDS))
    chosen = {chest.pop(), abdomen.pop()}
    for kind in rng.permutation(chest + abdomen):
        clash = any(kind in pair and chosen & (pair - {kind}) for pair in _EXCLUSIVE)
        if len(chosen) < count and not clash:
            chosen.add(str(kind))
    return tuple(kind for kind in CHEST_KINDS + ABDOMEN_KINDS if kind in chosen)


def _only(where: np.ndarray) -> np.ndarray:
    """A boolean mask as a depth, for ``Region.cut``."""
    return np.where(where, np.float32(99), np.float32(-1))


class Planter:
    """Draws findings into a finished anatomy."""

    def __init__(self, canvas: Canvas, trunk: Trunk, chest: Chest) -> None:
        self.canvas = canvas
        self.trunk = trunk
        self.chest = chest
        self.rng = canvas.rng

    def plant(self, kind: str) -> PlantedFinding:
        """Draw one finding of a kind of ``CHEST_KINDS`` or ``ABDOMEN_KINDS``."""
        draw: dict[str, Callable[[], PlantedFinding]] = {
            "pleural effusion": self._pleural_effusion,
            "lung nodule": self._lung_nodule,
            "emphysema": self._emphysema,
            "coronary calcification": self._coronary_calcification,
            "aortic calcification": self._aortic_calcification,
            "pericardial effusion": self._pericardial_effusion,
            "hiatal hernia": self._hiatal_hernia,
            "hepatic cyst": self._hepatic_cyst,
            "hepatic steatosis": self._hepatic_steatosis,
            "gallstone": self._gallstone,
            "renal cyst": self._renal_cyst,
            "renal stone": self._renal_stone,
            "adrenal nodule": self._adrenal_nodule,
        }
        return draw[kind]()

    # --- Chest

    def _pleural_effusion(self) -> PlantedFinding:
        canvas = self.canvas
        side = str(self.rng.choice(["left", "right"]))
        thickness = float(self.rng.uniform(14, 34))
        lobes = tuple(name for name in LOBES if name.endswith(side))
        box = canvas.box((-150, -40, 60), (150, 110, 300))
        _, y, z = canvas.at(box)
        lung = np.isin(canvas.labels[box], [segment(name).label for name in lobes])
        # A crescent: thickest at the back and at the base, thinning out towards the side and the apex.
        share = np.clip((y + 15) / 75, 0, 1) * np.clip((235 - z) / 70, 0, 1)
        wall = self.trunk.cavity[box] - 2
        mask = lung & (wall < thickness * share)
        canvas.hu[box][mask] = 9
        canvas.labels[box][mask] = 0
        measured = round(float(np.percentile(wall[mask], 99.5)) * canvas.scale[1])
        words = {"side": side, "amount": "small" if measured < 20 else "moderate"}
        lower = tuple(name for name in lobes if "lower" in name)
        return PlantedFinding("pleural effusion", "lung", "Pleural effusion", lower, (measured,), box, mask, words)

    def _lung_nodule(self) -> PlantedFinding:
        diameter = int(self.rng.integers(7, 16))
        lobe = str(self.rng.choice(LOBES))
        centre = self._room((lobe,), diameter / 2 + 5, below_hu=-500)
        nodule = self.canvas.ball(centre, diameter / 2, rough=0.4)
        mask = self._fill(nodule, 38.0)
        words = {"lobe": lobe}
        return PlantedFinding("lung nodule", "lung", "Lung nodule", (lobe,), (diameter,), nodule.box, mask, words)

    def _emphysema(self) -> PlantedFinding:
        canvas = self.canvas
        lobes = ("lung_upper_lobe_left", "lung_upper_lobe_right")
        box = canvas.box((-150, -110, 230), (150, 110, 376))
        lungs = canvas.is_label(*lobes)[box] & (canvas.hu[box] < -600)
        z = canvas.at(box)[2]
        places = np.flatnonzero(lungs & (z > 255))
        holes = np.zeros(canvas.labels.shape, bool)
        for place in self.rng.choice(places, 260, replace=False):
            index = [i + part.start for i, part in zip(np.unravel_index(place, lungs.shape), box, strict=True)]
            hole = canvas.ball(self._lps(index), float(self.rng.uniform(3.0, 6.5)), rough=0.8)
            holes[hole.box] |= hole.inside
        mask = holes[box] & lungs
        canvas.hu[box][mask] = -975
        return PlantedFinding("emphysema", "lung", "Emphysema", lobes, (), box, mask)

    def _coronary_calcification(self) -> PlantedFinding:
        canvas = self.canvas
        course = self.chest.on_heart(LAD, 2.2)
        inside = np.argwhere(course.inside)
        count = int(self.rng.integers(3, 7))
        near = inside[np.linspace(0, len(inside) - 1, count + 2).astype(int)[1:-1]]
        spots = []
        for index in near:
            centre = self._lps([i + part.start for i, part in zip(index, course.box, strict=True)])
            spots.append(canvas.ball(centre, float(self.rng.uniform(2.2, 3.2))))
        region = canvas.union(*spots)
        mask = self._fill(region, 720.0)
        words = {"extent": "mild" if count < 5 else "moderate"}
        name = "Coronary artery wall calcification"
        return PlantedFinding("coronary calcification", "heart", name, ("heart",), (), region.box, mask, words)

    def _aortic_calcification(self) -> PlantedFinding:
        canvas = self.canvas
        tube = canvas.tube(AORTA, AORTA_RADII)
        wall = (np.abs(tube.depth - 1.2) < 1.3) & (canvas.labels[tube.box] == segment("aorta").label)
        z = canvas.at(tube.box)[2]
        count = int(self.rng.integers(5, 10))
        places = np.argwhere(wall & (z > 60) & (z < 330))
        plaques = np.zeros(canvas.labels.shape, bool)
        for place in self.rng.choice(len(places), count, replace=False):
            centre = self._lps([i + part.start for i, part in zip(places[place], tube.box, strict=True)])
            plaque = canvas.ball(centre, float(self.rng.uniform(3.5, 6.5)))
            plaques[plaque.box] |= plaque.inside
        mask = plaques[tube.box] & wall
        canvas.hu[tube.box][mask] = 760
        name = "Arterial wall calcification"
        words = {"extent": "mild" if count < 7 else "moderate"}
        return PlantedFinding("aortic calcification", "aorta", name, ("aorta",), (), tube.box, mask, words)

    def _pericardial_effusion(self) -> PlantedFinding:
        canvas, heart = self.canvas, self.chest.heart
        labels = canvas.labels[heart.box]
        free = (labels == 0) | np.isin(labels, [segment(name).label for name in LOBES])
        free &= canvas.hu[heart.box] > -940  # not the bronchi
        bound = np.minimum(self.trunk.cavity[heart.box] - 4, -self.trunk.below_diaphragm[heart.box] - 1)
        # Fluid gathers behind the heart of a patient who lies on the back.
        _, y, z = canvas.at(heart.box)
        share = (0.25 + 0.75 * np.clip((y + 60) / 60, 0, 1)) * np.clip((276 - z) / 20, 0, 1)
        layer = heart.grown(float(self.rng.uniform(8, 14)) * share).cut(bound).cut(_only(free))
        mask = self._fill(layer, 12.0, name="")
        away = sitk.GetImageFromArray((labels == segment("heart").label).astype(np.uint8))
        away.SetSpacing(SPACING_IJK)
        away = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(away, squaredDistance=False, useImageSpacing=True))
        measured = round(float(np.percentile(away[mask], 99)))
        words = {"amount": "small" if measured < 10 else "moderate"}
        name, sizes = "Pericardial effusion", (measured,)
        return PlantedFinding("pericardial effusion", "heart", name, ("heart",), sizes, heart.box, mask, words)

    def _hiatal_hernia(self) -> PlantedFinding:
        canvas = self.canvas
        diameter = int(self.rng.integers(34, 50))
        ball = canvas.ball(self._true((14, 4, 192 + diameter / 6)), diameter / 2, rough=0.8)
        keep = ["aorta", "heart", "inferior_vena_cava", "liver", *(f"vertebrae_T{n}" for n in range(5, 13))]
        free = ~np.isin(canvas.labels[ball.box], [segment(name).label for name in keep])
        sac = ball.cut(_only(free))
        canvas.paint(sac.grown(2.5).cut(np.where(canvas.hu[sac.box] < -300, np.float32(9), -1)), -90.0, "")
        mask = self._fill(sac, 42.0, name="stomach")
        y = canvas.true_xyz[1][sac.box[1]][None, :, None]
        level = float(y.mean()) - diameter / 8
        canvas.paint(sac.grown(-4.5), np.where(y < level, np.float32(-940), np.float32(18)))
        across = round(float(np.ptp(np.argwhere(mask)[:, 2]) + 1) * SPACING_IJK[0])
        segments = ("esophagus", "stomach")
        return PlantedFinding("hiatal hernia", "esophagus", "Hiatal hernia", segments, (across,), sac.box, mask)

    # --- Abdomen

    def _hepatic_cyst(self) -> PlantedFinding:
        diameter = int(self.rng.integers(13, 30))
        cyst = self.canvas.ball(self._room(("liver",), diameter / 2 + 5), diameter / 2)
        right = self._patient_x(cyst) < -12
        mask = self._fill(cyst, 5.0)
        words = {"lobe": "right" if right else "left"}
        return PlantedFinding("hepatic cyst", "liver", "Hepatic cyst", ("liver",), (diameter,), cyst.box, mask, words)

    def _hepatic_steatosis(self) -> PlantedFinding:
        canvas = self.canvas
        box = canvas.box((-150, -115, 20), (80, 100, 215))
        mask = canvas.is_label("liver")[box]
        fat = float(self.rng.uniform(38, 50))
        cyst = canvas.hu[box] < 20
        canvas.hu[box][mask & ~cyst] -= fat
        return PlantedFinding("hepatic steatosis", "liver", "Hepatic steatosis", ("liver",), (), box, mask)

    def _gallstone(self) -> PlantedFinding:
        canvas = self.canvas
        diameter = int(self.rng.integers(7, 13))
        box = canvas.ellipsoid(GALLBLADDER_CENTRE, (34, 34, 34)).box
        inside = np.argwhere(canvas.is_label("gallbladder")[box])
        # It sinks to the back wall; the middle of the gallbladder's length.
        middle = np.abs(inside[:, 0] - np.median(inside[:, 0])) * SPACING_IJK[2] < 10
        low = inside[middle][np.argsort(inside[middle][:, 1], kind="stable")]
        column = low[low[:, 1] >= low[-1, 1] - 1].mean(0)
        column[1] -= diameter / 2 / SPACING_IJK[1]
        stone = canvas.ball(self._lps([i + part.start for i, part in zip(column, box, strict=True)]), diameter / 2)
        mask = self._fill(stone, 340.0, name="gallbladder")
        return PlantedFinding(
            "gallstone", "gallbladder", "Cholelithiasis", ("gallbladder",), (diameter,), stone.box, mask
        )

    def _renal_cyst(self) -> PlantedFinding:
        side, diameter = str(self.rng.choice(["left", "right"])), int(self.rng.integers(18, 40))
        x, y, z = KIDNEYS[side]
        z += float(self.rng.uniform(-22, 22))
        ball = self.canvas.ball(self._true((x + _SIDES[side] * 14, y + 14, z)), diameter / 2)
        free = np.isin(self.canvas.labels[ball.box], [0, segment(f"kidney_{side}").label])
        cyst = ball.cut(_only(free)).cut(self.trunk.cavity[ball.box] + 1)
        mask = self._fill(cyst, 6.0, name=f"kidney_cyst_{side}")
        measured = round(max(np.ptp(np.argwhere(mask)[:, axis]) + 1 for axis in (1, 2)) * SPACING_IJK[0])
        segments = (f"kidney_{side}", f"kidney_cyst_{side}")
        words = {"side": side}
        return PlantedFinding("renal cyst", "kidney", "Renal cyst", segments, (measured,), ball.box, mask, words)

    def _renal_stone(self) -> PlantedFinding:
        side, diameter = str(self.rng.choice(["left", "right"])), int(self.rng.integers(5, 10))
        x, y, z = KIDNEYS[side]
        pole, offset = [("upper", 17.0), ("lower", -17.0)][int(self.rng.integers(2))]
        stone = self.canvas.ball(self._true((x - _SIDES[side] * 3, y, z + offset)), diameter / 2)
        mask = self._fill(stone, 900.0, name=f"kidney_{side}")
        words = {"side": side, "pole": pole}
        segments = (f"kidney_{side}",)
        return PlantedFinding("renal stone", "kidney", "Nephrolithiasis", segments, (diameter,), stone.box, mask, words)

    def _adrenal_nodule(self) -> PlantedFinding:
        side, diameter = str(self.rng.choice(["left", "right"])), int(self.rng.integers(13, 23))
        x, y, z = ADRENALS[side]
        ball = self.canvas.ball(self._true((x + _SIDES[side] * 6, y + 2, z - 8)), diameter / 2, rough=0.3)
        free = np.isin(self.canvas.labels[ball.box], [0, segment(f"adrenal_gland_{side}").label])
        nodule = ball.cut(_only(free)).cut(self.trunk.below_diaphragm[ball.box] - 3.5)
        mask = self._fill(nodule, 4.0, name=f"adrenal_gland_{side}")
        measured = round(max(np.ptp(np.argwhere(mask)[:, axis]) + 1 for axis in (1, 2)) * SPACING_IJK[0])
        segments, words = (f"adrenal_gland_{side}",), {"side": side}
        return PlantedFinding(
            "adrenal nodule", "adrenal gland", "Adrenal nodule", segments, (measured,), ball.box, mask, words
        )

    # --- Help

    def _fill(self, region: Region, hu: float, name: str | None = None) -> np.ndarray:
        self.canvas.paint(region, hu, name)
        return region.inside

    def _lps(self, kji: Sequence[float]) -> tuple[float, float, float]:
        """Place of a voxel in LPS mm."""
        return tuple(o + float(i) * s for o, i, s in zip(ORIGIN_LPS, reversed(list(kji)), SPACING_IJK, strict=True))

    def _true(self, point: tuple[float, float, float]) -> tuple[float, float, float]:
        """Where a point of the patient's (bent) coordinates lies in the scan, LPS in mm."""
        box = self.canvas.box(point, point)
        square = sum((c - p) ** 2 for c, p in zip(self.canvas.at(box), point, strict=True))
        nearest = np.unravel_index(int(np.argmin(square)), square.shape)
        return self._lps([i + part.start for i, part in zip(nearest, box, strict=True)])

    def _patient_x(self, region: Region) -> float:
        return float(self.canvas.at(region.box)[0][region.inside].mean())

    def _room(self, names: Sequence[str], radius: float, below_hu: float = 1e4) -> tuple[float, float, float]:
        """A random place with ``radius`` mm of nothing but these classes around it (the roomiest of 400 tries)."""
        canvas = self.canvas
        allowed = canvas.is_label(*names)
        places = np.flatnonzero(allowed)
        best, best_share = None, -1.0
        for place in self.rng.choice(places, 400):
            centre = self._lps(np.unravel_index(place, allowed.shape))
            ball = canvas.ball(centre, radius)
            ok = allowed[ball.box] & (canvas.hu[ball.box] < below_hu)
            share = float(ok[ball.inside].mean())
            if share > best_share:
                best, best_share = centre, share
            if share == 1.0:
                break
        return best

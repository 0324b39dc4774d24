"""Findings of the upper abdominal organs, drawn from the masks of the organs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scanner import smooth
from .scene import Drawn, Scene, Shape, between, degree, only

_SIDES = ("left", "right")


def _side(scene: Scene, stem: str) -> str | None:
    """A side on which the organ is in the scan."""
    sides = [side for side in _SIDES if scene.mask(f"{stem}_{side}").sum() * np.prod(scene.spacing) > 800]
    return str(scene.rng.choice(sides)) if sides else None


def _liver_lobe(scene: Scene, shape: Shape, mask: np.ndarray) -> str:
    """By the middle of the body: the left lobe lies in front of the spine and to its left."""
    body = scene.mask("liver")
    x = np.broadcast_to(scene.at(shape.box)[0], mask.shape)[mask].mean()
    places = np.flatnonzero(body.any(axis=(0, 1))) * scene.spacing[0]
    return "right" if x < places[0] + 0.62 * (places[-1] - places[0]) else "left"


def steatosis(scene: Scene, grade: float) -> Drawn | None:
    """A liver that is darker than it should be, its vessels not."""
    organ = scene.organ("liver")
    median, calm = scene.median("liver"), scene.hu[organ.box]
    for axis in (0, 1, 2, 1, 2):
        calm = smooth(calm, axis, 1 / 3)
    # a real scan's noise is no vessel (calm); nor is the rim, where smoothing mixes in what lies outside
    like_liver = (np.abs(calm - median) < 17) | (np.abs(scene.hu[organ.box] - median) < 17)
    parenchyma = (organ.depth > 0) & like_liver
    uneven = 1 + 0.12 * scene.noise(30.0, organ.box)
    drop = between(22, 62, grade)
    scene.hu[organ.box] -= np.where(parenchyma, np.float32(drop) * uneven, 0).astype(np.float32)
    extent = degree(grade)
    return scene.drawn("steatosis", grade, [(organ.box, organ.depth > 0)], ["liver"], extent=extent)


def _lesions(
    scene: Scene, organ: Shape, diameters: Sequence[float], hu: float, rough: float, soft_mm: float | None = None
) -> tuple[list[tuple], list[float], list[tuple[Shape, np.ndarray]]]:
    """Round lesions at random places inside an organ."""
    parts, sizes, shapes = [], [], []
    for diameter in diameters:
        centre = scene.place(organ, diameter / 2 + 2)
        if centre is None:
            continue
        shape = scene.ball(centre, diameter / 2, rough_mm=rough * diameter)
        mask = scene.fill(shape, hu + float(scene.rng.normal(0, 2)), soft_mm=soft_mm)
        parts.append((shape.box, mask))
        sizes.append(diameter)
        shapes.append((shape, mask))
    return parts, sizes, shapes


def hepatic_cyst(scene: Scene, grade: float) -> Drawn | None:
    """One to four balls of water with sharp edges."""
    first = between(11, 58, grade)
    diameters = [first, *(first * scene.rng.uniform(0.4, 0.9, int(scene.rng.choice([0, 0, 0, 1, 2, 3]))))]
    parts, sizes, shapes = _lesions(scene, scene.organ("liver"), diameters, float(scene.rng.uniform(0, 10)), 0.0)
    if not parts:
        return None
    lobe = _liver_lobe(scene, *shapes[0])
    return scene.drawn("hepatic cyst", grade, parts, ["liver"], sizes, lobe=lobe, many=str(len(parts)))


def liver_metastasis(scene: Scene, grade: float) -> Drawn | None:
    """Three to nine lesions somewhat darker than the liver, with blurred edges."""
    median = scene.median("liver")
    count = int(scene.rng.integers(3, 10))
    diameters = between(13, 42, grade) * scene.rng.uniform(0.55, 1.15, count)
    hu = max(median - between(18, 42, grade) * (1.3 if median > 80 else 1.0), 14.0)
    parts, sizes, shapes = _lesions(scene, scene.organ("liver"), sorted(diameters)[::-1], hu, 0.05, soft_mm=5.0)
    if not parts:
        return None
    lobe = _liver_lobe(scene, *shapes[0])
    return scene.drawn("liver metastasis", grade, parts, ["liver"], sizes[:1], lobe=lobe, many=str(len(parts)))


def gallstone(scene: Scene, grade: float) -> Drawn | None:
    """One to five stones on the lowest wall of the gallbladder."""
    organ = scene.organ("gallbladder")
    inside = np.argwhere(organ.depth > 0)
    diameter = min(between(6, 20, grade), 1.5 * float(organ.depth.max()) + 4)
    parts, sizes = [], []
    for n in range(int(scene.rng.choice([1, 1, 2, 3, 5]))):
        d = diameter * (1.0 if n == 0 else float(scene.rng.uniform(0.5, 0.9)))
        z = scene.rng.choice(np.unique(inside[:, 0])[1:-1] if len(np.unique(inside[:, 0])) > 2 else inside[:, 0])
        level = inside[inside[:, 0] == z]
        low = level[level[:, 1] >= level[:, 1].max() - 1].mean(0)
        low[1] -= max(d / 2 - 1, 0) / scene.spacing[1]
        stone = scene.ball(scene.point(np.round(low), organ.box), d / 2)
        wall = np.full(scene.hu.shape, -99, np.float32)
        wall[organ.box] = organ.depth + 2
        stone = stone.cut(wall[stone.box])
        mask = scene.fill(stone, between(130, 420, grade) * float(scene.rng.uniform(0.8, 1.2)))
        scene.relabel(stone.box, mask, "gallbladder")
        parts.append((stone.box, mask))
        sizes.append(d)
    return scene.drawn("gallstone", grade, parts, ["gallbladder"], sizes, many=str(len(parts)))


def renal_cyst(scene: Scene, grade: float) -> Drawn | None:
    """A ball of water that bulges out of one kidney."""
    side = _side(scene, "kidney")
    if side is None:
        return None
    organ = scene.organ(f"kidney_{side}")
    diameter = between(12, 64, grade)
    x = np.broadcast_to(scene.at(organ.box)[0], organ.depth.shape)
    middle = float(np.median(x[organ.depth > 0]))
    lateral = (x > middle) if side == "left" else (x < middle)
    centre = scene.place(Shape(organ.box, 6 - np.abs(organ.depth)), 3, lateral)
    if centre is None:
        return None
    ball = scene.ball(centre, diameter / 2)
    labels = scene.labels[ball.box]
    free = ((labels == 0) & (scene.hu[ball.box] < 20)) | scene.mask(f"kidney_{side}")[ball.box]
    shape = ball.cut(only(free))
    mask = scene.fill(shape, float(scene.rng.uniform(0, 12)))
    if not mask.any():
        return None
    scene.relabel(shape.box, mask, f"kidney_cyst_{side}")
    size = max(np.ptp(np.argwhere(mask)[:, axis]) + 1 for axis in (1, 2)) * scene.spacing[0]
    z = np.broadcast_to(scene.at(organ.box)[2], organ.depth.shape)[organ.depth > 0]
    pole = _pole(centre[2], z)
    return scene.drawn("renal cyst", grade, [(shape.box, mask)], [f"kidney_{side}", f"kidney_cyst_{side}"],
                       [min(size, diameter)], side=side, pole=pole)  # fmt: skip


def _pole(z: float, heights: np.ndarray) -> str:
    low, high = np.percentile(heights, [35, 65])
    return "upper" if z > high else "lower" if z < low else "middle"


def _sinus(scene: Scene, side: str) -> tuple[Shape, np.ndarray] | None:
    """The kidney, and its voxels near the axis along which calyces lie: deep inside, towards the hilum."""
    organ = scene.organ(f"kidney_{side}")
    if organ is None:
        return None
    x = np.broadcast_to(scene.at(organ.box)[0], organ.depth.shape)
    middle = float(np.median(x[organ.depth > 0]))
    medial = (x < middle + 3) if side == "left" else (x > middle - 3)
    return organ, medial & (organ.depth > 0.45 * organ.depth.max())


def renal_stone(scene: Scene, grade: float) -> Drawn | None:
    """One to three dense stones in the calyces."""
    side = _side(scene, "kidney")
    if side is None:
        return None
    organ, calyces = _sinus(scene, side)
    places = np.argwhere(calyces)
    if not len(places):
        return None
    parts, sizes, pole = [], [], ""
    for n in range(int(scene.rng.choice([1, 1, 2, 3]))):
        diameter = between(5, 17, grade) * (1.0 if n == 0 else float(scene.rng.uniform(0.5, 0.9)))
        centre = scene.point(places[scene.rng.integers(len(places))], organ.box)
        stone = scene.ball(centre, max(diameter / 2, 0.55 * scene.spacing[0]), rough_mm=0.05 * diameter)
        parts.append((stone.box, scene.fill(stone, between(450, 1100, grade) * float(scene.rng.uniform(0.85, 1.1)))))
        sizes.append(diameter)
        pole = pole or _pole(centre[2], scene.at(organ.box)[2].ravel()[places[:, 0]])
    words = {"side": side, "pole": pole, "many": str(len(parts))}
    return scene.drawn("renal stone", grade, parts, [f"kidney_{side}"], sizes, **words)


def hydronephrosis(scene: Scene, grade: float) -> Drawn | None:
    """Calyces and renal pelvis of one kidney, wide with urine."""
    side = _side(scene, "kidney")
    if side is None:
        return None
    organ, calyces = _sinus(scene, side)
    places = np.argwhere(calyces)
    if not len(places):
        return None
    toward = -1 if side == "left" else 1  # the hilum lies towards the spine
    radius = between(7, 16, grade)
    centre = np.array(scene.point(places.mean(0), organ.box))
    hilum = centre + np.array([toward * between(12, 20, grade), -6, 0])
    half = (between(10, 20, grade), between(9, 17, grade), between(12, 28, grade))
    shapes = [scene.ellipsoid(hilum, half, 1.0)]
    for level in np.percentile(places[:, 0], [8, 50, 92]):
        near = places[np.abs(places[:, 0] - level) <= 1.5]
        if len(near):
            shapes.append(scene.ball(scene.point(near.mean(0), organ.box), radius, 0.8))
    parts, hu = [], float(scene.rng.uniform(2, 14))
    cortex = np.full(scene.hu.shape, 99, np.float32)
    cortex[organ.box] = np.where(organ.depth > 0, organ.depth - between(7, 4, grade), np.float32(99))
    for shape in shapes:
        labels = scene.labels[shape.box]
        free = (labels == 0) | scene.mask(f"kidney_{side}")[shape.box]
        clipped = shape.cut(only(free)).cut(cortex[shape.box])
        parts.append((shape.box, scene.fill(clipped, hu)))
    return scene.drawn("hydronephrosis", grade, parts, [f"kidney_{side}"], side=side, extent=degree(grade))


def adrenal_nodule(scene: Scene, grade: float) -> Drawn | None:
    """A round, fatty nodule of one adrenal gland."""
    stem = "adrenal_gland"
    sides = [s for s in _SIDES if scene.mask(f"{stem}_{s}").any()]
    if not sides:
        return None
    side = str(scene.rng.choice(sides))
    organ = scene.organ(f"{stem}_{side}")
    diameter = between(13, 40, grade)
    centre = scene.place(organ, 1.0)
    if centre is None:
        return None
    nodule = scene.ball(centre, diameter / 2, 0.05 * diameter)
    labels = scene.labels[nodule.box]
    free = ((labels == 0) & (scene.hu[nodule.box] > -200)) | scene.mask(f"{stem}_{side}")[nodule.box]
    shape = nodule.cut(only(free))
    hu = float(scene.rng.uniform(-8, 12)) + (0 if scene.phase == "unenhanced" else 35)
    mask = scene.fill(shape, hu)
    if not mask.any():
        return None
    scene.relabel(shape.box, mask, f"{stem}_{side}")
    size = max(np.ptp(np.argwhere(mask)[:, axis]) + 1 for axis in (1, 2)) * scene.spacing[0]
    sizes = [min(size, diameter)]
    return scene.drawn("adrenal nodule", grade, [(shape.box, mask)], [f"{stem}_{side}"], sizes, side=side)


def pancreatic_cyst(scene: Scene, grade: float) -> Drawn | None:
    """A ball of fluid in the pancreas that may bulge out of it."""
    organ = scene.organ("pancreas")
    diameter = between(12, 42, grade)
    centre = scene.place(organ, 3.0)
    if centre is None:
        return None
    ball = scene.ball(centre, diameter / 2)
    labels = scene.labels[ball.box]
    free = ((labels == 0) & (scene.hu[ball.box] > -200)) | scene.mask("pancreas")[ball.box]
    shape = ball.cut(only(free))
    mask = scene.fill(shape, float(scene.rng.uniform(2, 16)))
    if not mask.any():
        return None
    scene.relabel(shape.box, mask, "pancreas")
    size = max(np.ptp(np.argwhere(mask)[:, axis]) + 1 for axis in (1, 2)) * scene.spacing[0]
    x = np.broadcast_to(scene.at(organ.box)[0], organ.depth.shape)[organ.depth > 0]
    low, high = np.percentile(x, [33, 66])
    part = "head" if centre[0] < low else "tail" if centre[0] > high else "body"
    return scene.drawn("pancreatic cyst", grade, [(shape.box, mask)], ["pancreas"], [min(size, diameter)], part=part)

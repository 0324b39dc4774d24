"""Findings of heart, aorta and esophagus, drawn from the masks of the organs."""

from __future__ import annotations

import numpy as np

from .kinds import LOBES, THORACIC
from .scene import Drawn, Scene, Shape, between, degree, only


def pericardial_effusion(scene: Scene, grade: float) -> Drawn | None:
    """A layer of fluid around the heart, thicker behind it."""
    mask = scene.mask("heart", "atrial_appendage_left")
    box = scene.box(mask, 42.0)
    heart = scene.depth(mask[box])
    _, y, z = (np.broadcast_to(c, heart.shape) for c in scene.at(box))
    inside = heart > 0
    back = np.clip((y - np.percentile(y[inside], 20)) / 45, 0, 1)
    top = float(np.percentile(z[inside], 88))
    layer = between(7, 24, grade) * (0.35 + 0.65 * back) * np.clip((top + 8 - z) / 20, 0, 1)
    labels = scene.labels[box]
    free = (labels == 0) | scene.mask(*LOBES)[box]
    free &= (scene.hu[box] > -950) & (scene.hu[box] < 130)
    lungs_near = scene.depth(scene.mask(*LOBES, "heart")[box]) > -14  # not through the chest wall or the diaphragm
    fluid = Shape(box, layer + heart).cut(only(free & lungs_near & ~inside))
    drawn = scene.fill(fluid, float(scene.rng.uniform(5, 20)))
    scene.relabel(box, drawn, "")
    if not drawn.any():
        return None
    size = float(np.percentile(-heart[drawn], 98))
    amount = "small" if size < 10 else "moderate" if size < 18 else "large"
    return scene.drawn("pericardial effusion", grade, [(box, drawn)], ["heart"], [size], amount=amount)


# Courses of the coronary arteries as shares of the heart's box: right to left, front to back, apex to base.
_CORONARIES = {
    "left anterior descending": ((0.50, 0.30, 0.88), (0.62, 0.14, 0.70), (0.78, 0.14, 0.42)),
    "right": ((0.22, 0.30, 0.80), (0.10, 0.38, 0.55), (0.14, 0.55, 0.28)),
    "left circumflex": ((0.60, 0.40, 0.85), (0.82, 0.55, 0.70), (0.84, 0.72, 0.50)),
}


def coronary_calcification(scene: Scene, grade: float) -> Drawn | None:
    """Calcified plaques along one to three coronary arteries; None where no voxel is of the heart's surface (large voxels)."""
    organ = scene.organ("heart")
    box = scene.box(scene.mask("heart"))
    low = np.array([part.start for part in reversed(box)]) * scene.spacing
    size = np.array([part.stop - part.start for part in reversed(box)]) * scene.spacing
    surface = np.argwhere((organ.depth > -5) & (organ.depth < 2.5) & (scene.hu[organ.box] > -300))
    if not len(surface):
        return None
    points = (surface + [part.start for part in organ.box])[:, ::-1] * scene.spacing
    vessels = list(_CORONARIES)[
        : 1 + int(scene.rng.random() < between(0.1, 0.9, grade)) * int(scene.rng.integers(1, 3))
    ]
    parts = []
    for vessel in vessels:
        course = low + np.asarray(_CORONARIES[vessel]) * size
        for _ in range(max(2, round(between(2, 8, grade) * float(scene.rng.uniform(0.7, 1.1))))):
            t = float(scene.rng.uniform(0, 1.8))
            wanted = course[int(t)] + (course[int(t) + 1] - course[int(t)]) * (t - int(t))
            spot = points[np.argmin(((points - wanted) ** 2).sum(1))]
            plaque = scene.ball(spot, float(scene.rng.uniform(2.2, between(3.0, 4.4, grade))))
            parts.append(
                (plaque.box, scene.fill(plaque, between(450, 900, grade) * float(scene.rng.uniform(0.8, 1.2))))
            )
    extent = degree(grade)
    return scene.drawn("coronary calcification", grade, parts, ["heart"], vessel=vessels[0], extent=extent)


def aortic_calcification(scene: Scene, grade: float) -> Drawn | None:
    """Plaques in the wall of the aorta."""
    organ = scene.organ("aorta")
    wall = (organ.depth > -0.5 * scene.spacing[0]) & (organ.depth < scene.spacing[0] + 1)
    places = np.argwhere(wall)
    count = max(2, round(between(3, 16, grade)))
    parts = []
    for place in places[scene.rng.choice(len(places), count)]:
        plaque = scene.ball(scene.point(place, organ.box), float(scene.rng.uniform(3.5, between(5.5, 9, grade))))
        depth = np.full(scene.hu.shape, -99, np.float32)  # the wall on the plaque's box
        depth[organ.box] = np.where(wall, 1.5 - np.abs(organ.depth - 1), np.float32(-99))
        shape = plaque.cut(depth[plaque.box])
        parts.append((shape.box, scene.fill(shape, between(500, 900, grade))))
    extent = degree(grade, "mild", "moderate", "extensive")
    return scene.drawn("aortic calcification", grade, parts, ["aorta"], extent=extent)


def hiatal_hernia(scene: Scene, grade: float) -> Drawn | None:
    """Stomach with gas and fluid above the diaphragm, behind the heart."""
    organ = scene.organ("esophagus")
    voxels = np.argwhere(organ.depth > 0)
    low = voxels[:, 0].min()
    if organ.box[0].start + low == 0:
        return None  # the scan does not reach its lower end
    diameter = between(30, 75, grade)
    height = low + (10 + diameter / 2) / scene.spacing[2]
    level = voxels[np.abs(voxels[:, 0] - height) <= 1]
    if not len(level):
        return None
    centre = scene.point(level.mean(0), organ.box)
    half = (diameter / 2, 0.42 * diameter, 0.5 * diameter)
    sac = scene.ellipsoid(centre, half, rough_mm=1.5)
    keep = scene.mask("aorta", "inferior_vena_cava", "liver", "spinal_cord", *THORACIC)[sac.box]
    keep |= scene.depth(scene.mask("heart")[sac.box]) > 8
    sac = sac.cut(only(~keep))
    fat = Shape(sac.box, sac.depth + 3).cut(only(~keep & (scene.hu[sac.box] < -300)))
    scene.fill(fat, -95.0)
    mask = scene.fill(sac, max(scene.median("stomach") if scene.phase != "unenhanced" else 42.0, 35.0))
    _, y, _ = scene.at(sac.box)
    content = np.where(y < centre[1] - diameter * float(scene.rng.uniform(0.0, 0.2)), np.float32(-930), np.float32(18))
    scene.fill(Shape(sac.box, sac.depth - 4.5), np.broadcast_to(content, sac.depth.shape))
    scene.relabel(sac.box, mask, "stomach")
    if not mask.any():
        return None
    across = (np.ptp(np.argwhere(mask)[:, 2]) + 1) * scene.spacing[0]
    amount = "small" if across < 42 else "moderate-sized" if across < 58 else "large"
    return scene.drawn("hiatal hernia", grade, [(sac.box, mask)], ["esophagus", "stomach"], [across], amount=amount)

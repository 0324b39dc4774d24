"""Findings of lungs and pleura, drawn from the masks of the lobes."""

from __future__ import annotations

import numpy as np

from .kinds import LOBES
from .scene import Drawn, Scene, Shape, between, degree, only

_SIDES = ("left", "right")
_DEEP_HU = -500.0  # lung, not its large vessels


def lobes_of(side: str) -> tuple[str, ...]:
    """The lobes of a lung."""
    return tuple(name for name in LOBES if name.endswith(side))


def lobe_name(name: str) -> str:
    """ "lung_upper_lobe_left" -> "left upper lobe"."""
    _, position, _, side = name.split("_")
    return f"{side} {position} lobe"


def emphysema(scene: Scene, grade: float) -> Drawn | None:
    """Holes without walls, most in the upper lobes, and lungs that are darker as a whole."""
    organ = scene.organ(*LOBES)
    lung = organ.depth > 0
    z = np.broadcast_to(scene.at(organ.box)[2], lung.shape)
    low, high = np.percentile(z[lung], [5, 95])
    height = np.clip((z - low) / max(high - low, 1), 0, 1)
    upper = scene.rng.random() < 0.75
    lacy = 0.7 * scene.noise(float(scene.rng.uniform(9, 14)), organ.box) + 0.5 * scene.noise(28.0, organ.box)
    lacy += 1.3 * ((height if upper else 1 - height) - 0.5)
    holes = Shape(organ.box, 6 * (lacy - np.float32(between(1.55, 0.55, grade)))).cut(organ.depth - 1)
    holes = holes.cut(only(scene.hu[organ.box] < -650))
    scene.hu[organ.box][lung & (scene.hu[organ.box] < -700)] -= between(5, 30, grade)
    mask = scene.fill(holes, -978.0)
    extent = degree(grade)
    names = [n for n in LOBES if "upper" in n] if upper else [n for n in LOBES if "lower" in n]
    where = "upper lobe" if upper else "lower lobe"
    return scene.drawn("emphysema", grade, [(organ.box, mask)], names, extent=extent, where=where)


def _aerated(scene: Scene, organ: Shape) -> np.ndarray:
    """The lung on its box, with the rim of air that a segmentation leaves between it and the chest wall."""
    rim = (scene.labels[organ.box] == 0) & (scene.hu[organ.box] < -150) & (organ.depth > -6)
    return (organ.depth > 0) | rim


def _posterior_wall(scene: Scene, organ: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Depth of each lung voxel below the chest wall behind it and beside it, and its height over the lung's base (mm)."""
    lung = _aerated(scene, organ)
    _, y, z = (np.broadcast_to(c, lung.shape) for c in scene.at(organ.box))
    middle = float(np.median(y[lung]))
    behind = ~lung & (y > middle - 15)
    from_wall = -scene.depth(behind)
    return from_wall, z - float(z[lung].min())


def pleural_effusion(scene: Scene, grade: float) -> Drawn | None:
    """Fluid behind and below one or both lungs of a patient who lies on the back."""
    sides = _SIDES if scene.rng.random() < 0.3 else (str(scene.rng.choice(_SIDES)),)
    parts, sizes, segments = [], [], []
    for side in sides:
        organ = scene.organ(*lobes_of(side))
        if organ is None:
            continue
        lung = _aerated(scene, organ)
        thickness = between(9, 55, grade) * float(scene.rng.uniform(0.8, 1.15))
        from_wall, height = _posterior_wall(scene, organ)
        _, y, _ = (np.broadcast_to(c, lung.shape) for c in scene.at(organ.box))
        low, high = np.percentile(y[lung], [2, 99.5])
        share = np.clip((y - low - 0.25 * (high - low)) / (0.6 * (high - low)), 0, 1)
        share = share * np.clip((between(70, 190, grade) - height) / 60, 0, 1)
        uneven = 2.5 * scene.noise(22.0, organ.box)
        fluid = Shape(organ.box, (thickness + uneven) * share - from_wall).cut(only(lung))
        mask = scene.fill(fluid, float(scene.rng.uniform(2, 16)))
        if not mask.any():
            continue
        scene.relabel(organ.box, mask, "")
        parts.append((organ.box, mask))
        sizes.append(float(np.percentile(from_wall[mask], 99)))
        segments += [name for name in lobes_of(side) if "lower" in name]
    if not parts:
        return None
    amount = "small" if max(sizes) < 18 else "moderate" if max(sizes) < 36 else "large"
    side = "bilateral" if len(parts) == 2 else segments[0].rpartition("_")[2]
    return scene.drawn("pleural effusion", grade, parts, segments, sizes[:1], side=side, amount=amount)


def pneumothorax(scene: Scene, grade: float) -> Drawn | None:
    """Air in front of one lung and over its apex."""
    side = str(scene.rng.choice(_SIDES))
    organ = scene.organ(*lobes_of(side))
    if organ is None:
        return None
    lung = _aerated(scene, organ)
    _, y, z = (np.broadcast_to(c, lung.shape) for c in scene.at(organ.box))
    low = float(z[lung].min())
    # what lies in front of the lung's first voxel in each column: the chest wall, where that is far in front (not the heart)
    in_front = lung.argmax(axis=1)[:, None] * scene.spacing[1] + float(y.min()) < float(np.percentile(y[lung], 30))
    before = ~np.maximum.accumulate(lung, axis=1) & lung.any(axis=1, keepdims=True) & in_front
    from_wall = -scene.depth(before)
    thickness = between(10, 46, grade)
    fade = np.clip((z - low - 10) / 60, 0.2, 1) + 0.06 * scene.noise(35.0, organ.box)
    air = Shape(organ.box, thickness * fade - from_wall).cut(only(lung))
    mask = scene.fill(air, -998.0)
    scene.relabel(organ.box, mask, "")
    edge = Shape(organ.box, 1.2 - np.abs(air.depth + 1.2)).cut(only(lung))  # the visceral pleura
    scene.fill(edge, -500.0)
    scene.hu[organ.box][lung & ~mask] += np.float32(between(10, 90, grade))  # the lung holds less air
    amount = "small" if thickness < 18 else "moderate" if thickness < 32 else "large"
    names = lobes_of(side)
    upper = [n for n in names if "upper" in n]
    return scene.drawn("pneumothorax", grade, [(organ.box, mask)], upper, [thickness], side=side, amount=amount)


def _blob(scene: Scene, lobe: str, radius: float, rough: float) -> Shape | None:
    """An irregular patch of a lobe, on the lobe's box."""
    organ = scene.organ(lobe)
    if organ is None:
        return None
    centre = scene.place(organ, 0.45 * radius)
    if centre is None:
        return None
    x, y, z = (v - np.float32(c) for v, c in zip(scene.at(organ.box), centre, strict=True))
    sx, sy, sz = scene.rng.uniform(0.75, 1.3, 3)
    depth = np.float32(radius) - np.sqrt((x / sx) ** 2 + (y / sy) ** 2 + (z / sz) ** 2)
    depth = depth + np.float32(rough) * scene.noise(max(0.5 * radius, 7), organ.box)
    return Shape(organ.box, depth).cut(organ.depth)


def consolidation(scene: Scene, grade: float) -> Drawn | None:
    """One or two dense patches with air in their bronchi."""
    names = _present(scene, LOBES)
    count = 1 if scene.rng.random() < 0.75 else 2
    parts, where = [], []
    for name in scene.rng.permutation(names)[:count]:
        shape = _blob(scene, str(name), between(14, 42, grade), between(3, 9, grade))
        if shape is None:
            continue
        bronchi = np.abs(scene.noise(9.0, shape.box)) < 0.10
        target = np.where(bronchi, np.float32(-700), np.float32(scene.rng.uniform(20, 45)))
        mask = scene.fill(shape, target, opacity=between(0.75, 1.0, grade), soft_mm=7.0)
        parts.append((shape.box, mask))
        where.append(str(name))
    return scene.drawn("consolidation", grade, parts, where, lobe=lobe_name(where[0])) if where else None


def ground_glass(scene: Scene, grade: float) -> Drawn | None:
    """Hazy patches through which vessels are seen."""
    names = _present(scene, LOBES)
    count = min(int(scene.rng.integers(1, 4)), len(names))
    parts, where = [], []
    for name in scene.rng.permutation(names)[:count]:
        shape = _blob(scene, str(name), between(18, 40, grade), 8.0)
        if shape is None:
            continue
        mask = scene.fill(shape, scene.hu[shape.box] + between(130, 380, grade), soft_mm=12.0)
        parts.append((shape.box, mask & (scene.hu[shape.box] < 0)))
        where.append(str(name))
    if not where:
        return None
    lobe = lobe_name(where[0]) if len(where) == 1 else "both lungs" if _both(where) else lobe_name(where[0])
    return scene.drawn("ground-glass opacity", grade, parts, where, lobe=lobe, many=str(len(where)))


def _both(lobes: list[str]) -> bool:
    return len({name.rpartition("_")[2] for name in lobes}) == 2


def atelectasis(scene: Scene, grade: float) -> Drawn | None:
    """Bands of airless lung at the base, or a wedge of it."""
    names = _present(scene, [n for n in LOBES if "lower" in n]) or _present(scene, LOBES)
    chosen = list(names) if scene.rng.random() < 0.3 else [str(scene.rng.choice(names))]
    parts, where = [], []
    for name in chosen:
        organ = scene.organ(str(name))
        shape = _wedge(scene, organ, grade) if scene.rng.random() < 0.5 else _band(scene, organ, grade)
        mask = scene.fill(shape, float(scene.rng.uniform(45, 80)))
        parts.append((shape.box, mask))
        where.append(str(name))
    lobe = "both lower lobes" if len(where) == 2 else lobe_name(where[0])
    return scene.drawn("atelectasis", grade, parts, where, lobe=lobe)


def _band(scene: Scene, organ: Shape, grade: float) -> Shape:
    """A plate a few mm thick, low in a lobe, tilted."""
    lung = organ.depth > 0
    x, y, z = (np.broadcast_to(c, lung.shape) for c in scene.at(organ.box))
    low = float(np.percentile(z[lung], scene.rng.uniform(12, 35)))
    slope_x, slope_y = scene.rng.uniform(-0.35, 0.35, 2)
    cx, cy = float(np.median(x[lung])), float(np.percentile(y[lung], 70))
    plane = z - low - slope_x * (x - cx) - slope_y * (y - cy) - 3 * scene.noise(40.0, organ.box)
    reach = between(25, 70, grade) - np.hypot(x - cx, y - cy)
    return Shape(organ.box, np.minimum(between(3.0, 8.0, grade) - np.abs(plane), reach)).cut(organ.depth)


def _wedge(scene: Scene, organ: Shape, grade: float) -> Shape:
    """The lung along the chest wall behind, thickest at the base."""
    from_wall, height = _posterior_wall(scene, organ)
    thickness = between(9, 24, grade) * np.clip((between(45, 110, grade) - height) / 50, 0, 1)
    return Shape(organ.box, thickness - from_wall + 2 * scene.noise(14.0, organ.box)).cut(only(_aerated(scene, organ)))


def lung_nodule(scene: Scene, grade: float) -> Drawn | None:
    """One to four round nodules, most of them solid."""
    names = _present(scene, LOBES)
    count = int(scene.rng.choice([1, 1, 1, 2, 3, 4]))
    parts, sizes, where = [], [], []
    for n in range(count):
        name = str(scene.rng.choice(names))
        organ = scene.organ(name)
        diameter = between(7, 30, grade) * (1.0 if n == 0 else float(scene.rng.uniform(0.5, 1.0)))
        clear = scene.hu[organ.box] < _DEEP_HU
        centre = scene.place(organ, diameter / 2 + 3, clear)
        if centre is None:
            continue
        shape = scene.ball(centre, diameter / 2, rough_mm=0.06 * diameter)
        mask = scene.fill(shape, float(scene.rng.uniform(15, 60)))
        parts.append((shape.box, mask))
        sizes.append(diameter)
        where.append(name)
    if not where:
        return None
    return scene.drawn("lung nodule", grade, parts, where, sizes, lobe=lobe_name(where[0]), many=str(len(where)))


def _present(scene: Scene, names: tuple[str, ...] | list[str], least_ml: float = 30.0) -> list[str]:
    """Those of the classes of which the scan shows enough."""
    voxel_ml = float(np.prod(scene.spacing)) / 1000
    return [name for name in names if scene.mask(name).sum() * voxel_ml > least_ml]

"""Who is scanned and how: body, tissues, findings, the part of the body that the scan shows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from CTGroundedVLMLib.sample.abdomen import Abdomen
from CTGroundedVLMLib.sample.body import AORTA_POINTS, Body, Grid, Organ, Tissues
from CTGroundedVLMLib.sample.canvas import Canvas
from CTGroundedVLMLib.sample.chest import AORTA, AORTA_RADII, Chest
from CTGroundedVLMLib.sample.skeleton import Skeleton
from CTGroundedVLMLib.sample.trunk import Trunk

from .kinds import KINDS, TOGETHER
from .settings import COVERAGES, PHASES, Settings

# Where an aneurysm lies, as a point of chest.AORTA, and the least diameter in mm: ascending, descending, abdominal.
_ANEURYSMS = ((2, 46), (3, 46), (9, 38), (10, 36), (12, 33))
TOP_MM = 372.0  # of the drawn trunk, for a patient of average size


@dataclass(frozen=True)
class Plan:
    """One scan before it is drawn. ``grades``: kind of finding -> conspicuity. ``z_mm``: its range in the trunk."""

    body: Body
    tissues: Tissues
    scale: tuple[float, float, float]
    bend_mm: float
    grid: Grid
    phase: str
    coverage: str
    z_mm: tuple[float, float]
    grades: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Anatomy:
    """A drawn trunk. ``shaped``: masks of the findings that are shapes of an organ; ``seen`` and ``whole``:
    voxels of each class label, in the scan and in the whole trunk."""

    hu: np.ndarray
    labels: np.ndarray
    origin_lps: tuple[float, float, float]
    shaped: dict[str, np.ndarray]
    seen: np.ndarray
    whole: np.ndarray


def plan_scan(settings: Settings, patient: np.random.Generator, study: np.random.Generator) -> Plan:
    """Draw a patient from one generator, and this study's findings and technique from another."""
    body, scale = _body(patient)
    bend = float(patient.uniform(3.5, 7.5))
    grades = _findings(settings, study)
    body = _with_shapes(body, grades, study)
    phase = str(study.choice(PHASES, p=_weights(settings.phases)))
    coverage = str(study.choice(COVERAGES, p=_weights(settings.coverages)))
    spacing = _spacing(settings, study)
    body = replace(body, lung_vessels=_vessel_count(spacing))
    grid = _grid(body, scale, spacing, study)
    z_mm = tuple(float(z * scale[2]) for z in _range(coverage, study))
    return Plan(body, _tissues(phase, patient), scale, bend, grid, phase, coverage, z_mm, grades)


def _weights(weights: tuple[float, ...]) -> np.ndarray:
    return np.asarray(weights) / np.sum(weights)


def _findings(settings: Settings, rng: np.random.Generator) -> dict[str, float]:
    grades: dict[str, float] = {}
    for kind in KINDS:
        share = settings.prevalence_of(kind.name)
        for (first, second), factor in TOGETHER.items():
            if second == kind.name and first in grades:
                share *= factor
        # both drawn in any case, so that one prevalence changes no other finding
        present, grade = rng.random() < min(share, 0.95 if share < 1 else 1.0), float(rng.uniform(*settings.grades))
        if present:
            grades[kind.name] = grade
    return grades


def _body(rng: np.random.Generator) -> tuple[Body, tuple[float, float, float]]:
    """A patient without findings."""
    size = rng.normal(1, 0.05)
    scale = tuple(float(np.clip(size * rng.normal(1, 0.035), 0.86, 1.16)) for _ in range(3))
    obesity = float(rng.gamma(1.6, 9))
    shift = lambda *mm: tuple(float(rng.normal(0, m)) for m in mm)  # noqa: E731 -- six times the same
    body = Body(
        fat_mm=float(np.clip(8 + obesity * 0.7, 7, 42)),
        skin_mm=float(np.clip(obesity * 0.6 - 6, -6, 26)),
        heart=float(rng.uniform(0.80, 0.96)),
        diaphragm_mm=(lambda both: (both + float(rng.normal(0, 3)), both + float(rng.normal(0, 3))))(rng.normal(0, 7)),
        liver_mm=float(rng.normal(0, 9)),
        liver_left_mm=float(rng.normal(0, 12)),
        spleen=Organ(float(rng.uniform(0.75, 1.0)), shift(3, 5, 7)),
        kidney_left=Organ(float(rng.uniform(0.86, 1.1)), shift(4, 3, 9)),
        kidney_right=Organ(float(rng.uniform(0.86, 1.1)), shift(4, 3, 9)),
        gallbladder=Organ(0.0 if rng.random() < 0.07 else float(rng.uniform(0.7, 1.25)), shift(7, 4, 7)),
        pancreas=float(rng.uniform(0.8, 1.15)),
        stomach=float(rng.uniform(0.72, 1.05)),
        stomach_level_mm=float(rng.uniform(-25, 18)),
        aorta=(float(rng.uniform(0.85, 1.12)),) * AORTA_POINTS,
    )
    return body, scale


def _with_shapes(body: Body, grades: dict[str, float], rng: np.random.Generator) -> Body:
    """The findings that are shapes of an organ."""
    if (grade := grades.get("cardiomegaly")) is not None:
        body = replace(body, heart=1.08 + 0.26 * grade)
    if (grade := grades.get("splenomegaly")) is not None:
        x, y, z = body.spleen.shift
        size = 1.32 + 0.43 * grade
        body = replace(body, spleen=Organ(size, (x - 22 * (size - 1), y - 24 * (size - 1), z - 40 * (size - 1))))
    if (grade := grades.get("aortic aneurysm")) is not None:
        middle, least_mm = _ANEURYSMS[int(rng.integers(len(_ANEURYSMS)))]
        peak = (least_mm + 20 * grade) / (2 * AORTA_RADII[middle])
        factors = [f + max(peak - f, 0) * max(0.0, 1 - abs(n - middle) / 2.5) for n, f in enumerate(body.aorta)]
        body = replace(body, aorta=tuple(factors))
    if (grade := grades.get("vertebral fracture")) is not None:
        level = str(rng.choice([f"T{n}" for n in range(5, 13)], p=_weights((1, 1, 2, 2, 1, 1, 3, 4))))
        body = replace(body, fracture=(level, 0.34 + 0.34 * grade))
    return body


def _tissues(phase: str, rng: np.random.Generator) -> Tissues:
    """HU of a phase, different from patient to patient."""
    v = lambda mean, sd: float(rng.normal(mean, sd))  # noqa: E731 -- a table
    blood = v(42, 3)
    base = Tissues(
        arterial=blood, left_heart=blood, right_heart=blood, myocardium=blood + 8, venous=blood, cava=blood, pulmonary=blood,
        portal=blood, hepatic_vein=blood - 3, liver=v(60, 4), spleen=v(49, 3), renal=v(33, 2.5), medulla=0.0,
        adrenal=v(28, 5), pancreas=v(41, 4), wall=v(42, 3), urine=v(8, 3), muscle=v(54, 4), fat=v(-104, 4),
        lung=v(-838, 22), marrow=float(np.clip(v(170, 35), 95, 260)),
    )  # fmt: skip
    base = replace(base, medulla=base.renal)
    if phase == "portal venous":
        a = v(145, 15)
        return replace(
            base, arterial=a, left_heart=a - 5, right_heart=a - 8, myocardium=a - 35, venous=a - 15, cava=a - 20,
            pulmonary=a - 5, lung_vessel=90.0, portal=v(165, 15), hepatic_vein=v(160, 14), liver=v(108, 8), spleen=v(118, 8),
            renal=v(175, 15), medulla=v(165, 15), adrenal=v(65, 6), pancreas=v(92, 7), wall=v(75, 8), muscle=v(60, 4),
        )  # fmt: skip
    if phase == "arterial":
        a = v(310, 40)
        return replace(
            base, arterial=a, left_heart=a - 15, right_heart=v(190, 35), myocardium=v(105, 10), venous=v(150, 50),
            cava=v(70, 12), pulmonary=v(260, 40), lung_vessel=150.0, portal=v(85, 12), hepatic_vein=v(68, 6), liver=v(72, 5),
            spleen=v(115, 10), renal=v(165, 15), medulla=v(60, 8), adrenal=v(60, 6), pancreas=v(95, 8), wall=v(68, 8),
        )  # fmt: skip
    return base


def _spacing(settings: Settings, rng: np.random.Generator) -> tuple[float, float, float]:
    plane, slices = np.exp(rng.uniform(-1, 1, 2) * np.log1p(settings.spacing_variation))
    x, y, z = settings.spacing_ijk
    return round(x * plane, 3), round(y * plane, 3), round(z * slices, 2)


def _vessel_count(spacing: tuple[float, float, float]) -> tuple[int, int]:
    """Ends of the lung's vessel trees: those that are far thinner than a voxel are not worth drawing."""
    count = float(np.clip(700 * (1.5 / spacing[0]) ** 1.5, 120, 700))
    return int(count * 0.6), int(count * 0.4)


def _grid(
    body: Body, scale: tuple[float, float, float], spacing: tuple[float, float, float], rng: np.random.Generator
) -> Grid:
    """The field of view: a little larger than the patient, not quite centred."""
    width = 172 * scale[0] + max(body.skin_mm, 0) + float(rng.uniform(4, 22))
    front, back = 118 * scale[1] + max(body.skin_mm, 0) + 12, 121 * scale[1] + max(body.skin_mm, 0) + 18
    dx, dy = (float(rng.uniform(-8, 8)) for _ in range(2))
    shape = (
        int(TOP_MM * scale[2] / spacing[2]) + 1,
        int((front + back) / spacing[1]) + 1,
        int(2 * width / spacing[0]) + 1,
    )
    return Grid(shape, spacing, (-width + dx, -front + dy, 0.0))


def _range(coverage: str, rng: np.random.Generator) -> tuple[float, float]:
    """From where to where the scan goes, in mm of an average patient."""
    if coverage == "chest":
        return float(rng.uniform(85, 150)), TOP_MM
    if coverage == "abdomen":
        return 0.0, float(rng.uniform(195, 250))
    if coverage == "cut off":
        low = float(rng.uniform(0, 190))
        return low, low + float(rng.uniform(90, 180))
    return float(rng.uniform(0, 30)), TOP_MM - float(rng.uniform(0, 12))


def draw(plan: Plan, rng: np.random.Generator) -> Anatomy:
    """Draw the trunk and cut the scan out of it; no noise yet."""
    canvas = Canvas(rng, plan.scale, plan.grid, plan.bend_mm, plan.tissues)
    trunk = Trunk(canvas, plan.body)
    chest = Chest(canvas, trunk, plan.body.heart)
    trunk.draw()
    chest.draw()
    Abdomen(canvas, trunk).draw()
    Skeleton(canvas, trunk).draw()
    shaped = _shape_masks(canvas, plan)
    low, high = (np.searchsorted(canvas.true_xyz[2], z) for z in plan.z_mm)
    part = slice(int(low), max(int(high), int(low) + 8))
    whole = np.bincount(canvas.labels.ravel(), minlength=256)
    seen = np.bincount(canvas.labels[part].ravel(), minlength=256)
    # A shape of which little is in the scan is neither there nor absent.
    for name, mask in shaped.items():
        shaped[name] = mask[part] if mask[part].sum() > 0.6 * mask.sum() else np.zeros_like(mask[part])
    x, y, z = plan.grid.origin_lps
    origin = (x, y, z + part.start * plan.grid.spacing_ijk[2])
    return Anatomy(canvas.hu[part].copy(), canvas.labels[part].copy(), origin, shaped, seen, whole)


def _shape_masks(canvas: Canvas, plan: Plan) -> dict[str, np.ndarray]:
    shaped = {}
    if "cardiomegaly" in plan.grades:
        shaped["cardiomegaly"] = canvas.is_label("heart")
    if "splenomegaly" in plan.grades:
        shaped["splenomegaly"] = canvas.is_label("spleen")
    if "aortic aneurysm" in plan.grades:
        least = min(plan.body.aorta)
        wide = [n for n, factor in enumerate(plan.body.aorta) if factor > 1.2 * least]
        tube = canvas.tube([AORTA[n] for n in wide], [AORTA_RADII[n] * plan.body.aorta[n] + 1 for n in wide])
        mask = np.zeros(canvas.labels.shape, bool)
        mask[tube.box] = tube.inside
        shaped["aortic aneurysm"] = mask & canvas.is_label("aorta")
    if plan.body.fracture:
        shaped["vertebral fracture"] = canvas.is_label(f"vertebrae_{plan.body.fracture[0]}")
    return shaped

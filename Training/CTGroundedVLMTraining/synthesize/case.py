"""One case of the corpus: plan, draw, plant, scan, and write its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from CTGroundedVLMLib.anatomy import segment
from CTGroundedVLMLib.sample.chest import AORTA_RADII

from . import abdomen_findings as abdomen
from . import heart_findings as heart
from . import lung_findings as lung
from .kinds import ASSESSABLE, KINDS, Kind
from .patient import Anatomy, Plan, draw, plan_scan
from .report import ReportPlan, WrittenReport, write_report
from .scanner import Technique, scan
from .scene import Drawn, Scene, degree
from .settings import Settings

PLANTERS: Mapping[str, Callable[[Scene, float], Drawn | None]] = {
    "steatosis": abdomen.steatosis,
    "emphysema": lung.emphysema,
    "pleural effusion": lung.pleural_effusion,
    "pneumothorax": lung.pneumothorax,
    "pericardial effusion": heart.pericardial_effusion,
    "ground-glass opacity": lung.ground_glass,
    "consolidation": lung.consolidation,
    "atelectasis": lung.atelectasis,
    "lung nodule": lung.lung_nodule,
    "hiatal hernia": heart.hiatal_hernia,
    "liver metastasis": abdomen.liver_metastasis,
    "hepatic cyst": abdomen.hepatic_cyst,
    "renal cyst": abdomen.renal_cyst,
    "hydronephrosis": abdomen.hydronephrosis,
    "pancreatic cyst": abdomen.pancreatic_cyst,
    "adrenal nodule": abdomen.adrenal_nodule,
    "gallstone": abdomen.gallstone,
    "renal stone": abdomen.renal_stone,
    "coronary calcification": heart.coronary_calcification,
    "aortic calcification": heart.aortic_calcification,
}
# Of an organ, before something is planted into it; small organs and those of several segments have their own.
_LEAST_ML = {"lung": 200.0, "heart": 80.0, "liver": 60.0, "adrenal gland": 0.3, "gallbladder": 1.0}
_LEAST_ML_OTHER = 5.0


@dataclass(frozen=True)
class Case:
    """A case in memory. ``hu_kji``: int16; ``labels_kji``, ``findings_kji``: uint8. ``labels``: "organ/finding" -> 1 or 0."""

    case_id: str
    patient_id: str
    study_id: str
    split: str
    hu_kji: np.ndarray
    labels_kji: np.ndarray
    findings_kji: np.ndarray
    spacing_ijk: tuple[float, float, float]
    origin_lps: tuple[float, float, float]
    drawn: tuple[Drawn, ...]
    labels: dict[str, int]
    report: WrittenReport
    about: dict[str, object]
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def split_of(settings: Settings, patient: int) -> str:
    """The split of a patient: it depends on the seed and the patient's number alone."""
    place = float(np.random.default_rng([settings.seed, patient, 99]).random())
    train, validation = settings.splits
    return "train" if place < train else "validation" if place < train + validation else "test"


def studies_of(settings: Settings, patient: int) -> int:
    """How many studies a patient has: 1 or 2."""
    return 1 + int(np.random.default_rng([settings.seed, patient, 98]).random() < settings.two_studies)


def case_name(patient: int, study: int) -> str:
    """The case id."""
    return f"synthetic_{patient:06d}_{study + 1}"


def make_case(settings: Settings, patient: int, study: int) -> Case:
    """The case of a patient's number and a study's; the same for the same settings, whatever else is made."""
    person = np.random.default_rng([settings.seed, patient, 0])
    rng = np.random.default_rng([settings.seed, patient, 1 + study])
    plan = plan_scan(settings, person, rng)
    anatomy = draw(plan, person)
    scene = Scene(anatomy.hu, anatomy.labels, plan.grid.spacing_ijk, rng, phase=plan.phase)
    drawn = plant(scene, plan.grades, shaped_findings(scene, plan, anatomy))
    technique = Technique.draw(rng)
    hu = scan(scene.hu, plan.grid.spacing_ijk, technique, rng)
    visible = visible_share(anatomy)
    labels = truth_labels(drawn, plan.grades, visible)
    report = write_report(
        ReportPlan(drawn, visible, plan.phase, plan.coverage, plan.grid.spacing_ijk, settings.unreported,
                   plan.body.gallbladder.size == 0), rng
    )  # fmt: skip
    about = {
        "phase": plan.phase,
        "coverage": plan.coverage,
        "kernel": technique.kernel,
        "noise_hu": technique.noise_hu,
        "visible": {name: round(share, 3) for name, share in visible.items()},
    }
    return Case(
        case_name(patient, study), f"synthetic_{patient:06d}", f"synthetic_{patient:06d}_s{study + 1}",
        split_of(settings, patient), hu, scene.labels, finding_map(drawn, hu.shape), plan.grid.spacing_ijk,
        anatomy.origin_lps, drawn, labels, report, about,
    )  # fmt: skip


def plant(scene: Scene, grades: Mapping[str, float], shaped: Mapping[str, Drawn]) -> tuple[Drawn, ...]:
    """Draw findings in the order of ``KINDS``, where their organ is in the scan."""
    voxel_ml = float(np.prod(scene.spacing)) / 1000
    found = []
    for kind in KINDS:
        if kind.name in shaped:
            found.append(shaped[kind.name])
        if kind.name not in grades or kind.drawn_by_anatomy:
            continue
        least = _LEAST_ML.get(kind.organ, _LEAST_ML_OTHER)
        if scene.mask(*kind.needs).sum() * voxel_ml < least:
            continue
        drawn = PLANTERS[kind.name](scene, grades[kind.name])
        if drawn is not None:
            found.append(drawn)
    return tuple(found)


def shaped_findings(scene: Scene, plan: Plan, anatomy: Anatomy) -> dict[str, Drawn]:
    """The findings that the anatomy was drawn with and that the scan shows."""
    found = {}
    for name, mask in anatomy.shaped.items():
        if not mask.any():
            continue
        grade = plan.grades[name]
        words, sizes, segments = _shape_words(scene, plan, name, mask)
        found[name] = scene.drawn(name, grade, [((slice(None),) * 3, mask)], segments, sizes, **words)
    return found


def _shape_words(
    scene: Scene, plan: Plan, name: str, mask: np.ndarray
) -> tuple[dict[str, str], list[float], tuple[str, ...]]:
    extent = degree(plan.grades[name])
    box = scene.box(mask)
    spans = [(part.stop - part.start) * s for part, s in zip(box, reversed(scene.spacing), strict=True)]
    if name == "cardiomegaly":
        return {"extent": extent}, [], ("heart",)
    if name == "splenomegaly":
        return {"extent": extent}, [max(spans)], ("spleen",)
    if name == "vertebral fracture":
        level, loss = plan.body.fracture
        return (
            {"extent": extent, "level": level, "percent": str(round(100 * loss / 5) * 5)},
            [],
            (f"vertebrae_{level}",),
        )
    widest = int(np.argmax(plan.body.aorta))
    part = "ascending" if widest < 5 else "descending thoracic" if widest < 11 else "abdominal"
    diameter = 2 * AORTA_RADII[widest] * plan.body.aorta[widest] * float(np.mean(plan.scale[:2]))
    return {"part": part}, [diameter], ("aorta",)


def visible_share(anatomy: Anatomy) -> dict[str, float]:
    """Organ of a kind of finding -> how much of it the scan shows (0 where the patient has none)."""
    shares: dict[str, float] = {}
    for kind in KINDS:
        labels = [segment(name).label for name in kind.needs]
        shares[kind.organ] = float(anatomy.seen[labels].sum() / max(anatomy.whole[labels].sum(), 1))
    return shares


def truth_labels(
    drawn: tuple[Drawn, ...], planned: Mapping[str, float], visible: Mapping[str, float]
) -> dict[str, int]:
    """1: in the image. 0: not there, and the scan shows enough of the organ. Left out: unknown.

    A finding that was planned and of which the scan shows nothing or too little is unknown as well.
    """
    present = {d.kind.name for d in drawn}
    labels: dict[str, int] = {}
    for kind in KINDS:
        for key in (kind.key, *kind.implies):
            if kind.name in present:
                labels[key] = 1
            elif labels.get(key) != 1 and _absent(kind, planned, visible):
                labels.setdefault(key, 0)
    unknown = {k for kind in KINDS if kind.name not in present and not _absent(kind, planned, visible)
               for k in (kind.key, *kind.implies)}  # fmt: skip
    return {key: value for key, value in labels.items() if value == 1 or key not in unknown}


def _absent(kind: Kind, planned: Mapping[str, float], visible: Mapping[str, float]) -> bool:
    return kind.name not in planned and visible[kind.organ] >= ASSESSABLE


def finding_map(drawn: tuple[Drawn, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Label map of the findings; where two share a voxel, the later (the more focal one) has it."""
    found = np.zeros(shape, np.uint8)
    for finding in drawn:
        found[finding.mask] = finding.kind.label
    return found

"""Findings planted into real CTs with masks: the patient is real, what is planted is simulated."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from CTGroundedVLMLib.anatomy import segment
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.volume_io import load_case

from .case import Case, finding_map, plant
from .kinds import KIND, KINDS, with_implied
from .report import ReportPlan, write_report
from .scene import Scene
from .settings import Settings

_LEAST_ML = 5.0  # of an organ, before a finding that was not planted counts as absent from it
_SOFT = ("liver", "spleen", "aorta", "heart", "autochthon_left", "autochthon_right", "kidney_left", "kidney_right")


@dataclass(frozen=True)
class RealScan:
    """A real CT in LPS storage order. ``direction``: as SimpleITK has it (an oblique scan stays oblique)."""

    name: str
    hu: np.ndarray
    labels: np.ndarray
    spacing_ijk: tuple[float, float, float]
    origin_lps: tuple[float, float, float]
    direction: tuple[float, ...]
    sha256: str


def read_scan(ct: Path, segmentation: Path) -> RealScan:
    """Read a CT (a file or a DICOM folder) and its TotalSegmentator v2 mask.

    Raises:
        VolumeError, SegmentationError: as ``volume_io.load_case``.
    """
    case = load_case(ct, segmentation)
    values = np.zeros(256, np.uint8)
    for value, name in case.segmentation.names.items():
        values[value] = segment(name).label
    arrays = (case.ct.array_kji.astype(np.float32), values[case.segmentation.labels_kji])
    hu, labels = (sitk.DICOMOrient(_image(array, case.ct.ijk_to_ras), "LPS") for array in arrays)
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", case.ct.name).strip("_.")
    return RealScan(
        name, sitk.GetArrayFromImage(hu), sitk.GetArrayFromImage(labels), hu.GetSpacing(), hu.GetOrigin(),
        hu.GetDirection(), case.ct.sha256,
    )  # fmt: skip


def _image(array: np.ndarray, ijk_to_ras: np.ndarray) -> sitk.Image:
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    return image


@dataclass(frozen=True)
class PlantedCases:
    """Makes ``settings.patients`` versions of each real scan, each with other findings.

    All versions of a scan are one patient, and all lie in one split. ``present``: "organ/finding" of what the patients are known
    to have; it stays unknown in labels.csv, and so does what it implies.
    """

    settings: Settings
    scans: tuple[RealScan, ...]
    split: str = "test"
    present: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [scan.name for scan in self.scans]
        if len(set(names)) < len(names):
            raise InputError(
                f"two CTs have the same name ({', '.join(names)}); rename one, it becomes the patient's id"
            )
        known = {key for kind in KINDS for key in (kind.key, *kind.implies)}
        for key in self.present:
            if key not in known:
                raise InputError(f"--present {key!r}: no such finding; expected some of {', '.join(sorted(known))}")

    def record(self) -> dict[str, Any]:
        """What decides the cases, for corpus.json."""
        return {
            **self.settings.to_record(),
            "planted_into": {scan.name: scan.sha256 for scan in self.scans},
            "split": self.split,
            "present": list(self.present),
        }

    def cases(self) -> list[tuple[str, tuple[int, int]]]:
        """Case id -> what ``make`` takes."""
        versions = range(self.settings.patients)
        return [(f"{s.name}_planted_{v:04d}", (n, v)) for n, s in enumerate(self.scans) for v in versions]

    def make(self, key: tuple[int, int]) -> Case:
        """One version of one scan."""
        number, version = key
        scan, settings = self.scans[number], self.settings
        rng = np.random.default_rng([settings.seed, number, version, 7])
        phase = _phase(scan)
        scene = Scene(scan.hu.copy(), scan.labels.copy(), scan.spacing_ijk, rng, _noise(scan), phase)
        drawn = plant(scene, self._grades(rng), {})
        shown = organs_shown(scan)
        plan = ReportPlan(drawn, shown, phase, "", scan.spacing_ijk, settings.unreported, phantom=False)
        report = write_report(plan, rng)
        hu = np.clip(np.rint(scene.hu), -1024, 3071).astype(np.int16)
        about = {
            "planted_into": scan.name,
            "phase": phase,
            "absent_means": "not planted; nobody read the scan for it",
            "visible": shown,
        }
        return Case(
            f"{scan.name}_planted_{version:04d}", scan.name, f"{scan.name}_planted_{version:04d}", self.split, hu, scene.labels,
            finding_map(drawn, hu.shape), scan.spacing_ijk, scan.origin_lps, drawn, self._labels(drawn, shown), report, about,
            scan.direction,
        )  # fmt: skip

    def _grades(self, rng: np.random.Generator) -> dict[str, float]:
        grades = {}
        for kind in KINDS:
            present, grade = rng.random() < self.settings.prevalence_of(kind.name), rng.uniform(*self.settings.grades)
            if present and not kind.drawn_by_anatomy:
                grades[kind.name] = float(grade)
        return grades

    def _labels(self, drawn: Sequence, shown: dict[str, float]) -> dict[str, int]:
        planted, known = with_implied(d.kind.key for d in drawn), with_implied(self.present)
        labels = {}
        for kind in KINDS:
            for key in (kind.key, *kind.implies):
                if key in planted:
                    labels[key] = 1
                elif shown[kind.organ] and key not in known and not kind.drawn_by_anatomy:
                    labels[key] = 0
        return labels


def organs_shown(scan: RealScan) -> dict[str, float]:
    """Organ of a kind of finding -> 1 where the mask holds enough of it, else 0."""
    voxel_ml = float(np.prod(scan.spacing_ijk)) / 1000
    counts = np.bincount(scan.labels.ravel(), minlength=256) * voxel_ml
    least = {"adrenal gland": 1.0}
    return {
        kind.organ: float(counts[[segment(n).label for n in kind.needs]].sum() >= least.get(kind.organ, _LEAST_ML))
        for kind in KIND.values()
    }


def _phase(scan: RealScan) -> str:
    aorta = scan.hu[scan.labels == segment("aorta").label]
    blood = float(np.median(aorta)) if len(aorta) else 40.0
    return "arterial" if blood > 200 else "portal venous" if blood > 85 else "unenhanced"


def _noise(scan: RealScan) -> float:
    """Standard deviation of the noise, from differences of neighbours within soft tissue (robust); 8 HU without any."""
    soft = np.isin(scan.labels, [segment(name).label for name in _SOFT])
    both = soft[:, :, 2:] & soft[:, :, :-2]
    difference = (scan.hu[:, :, 2:] - scan.hu[:, :, :-2])[both]
    return float(np.median(np.abs(difference)) / 0.6745 / np.sqrt(2)) if len(difference) > 500 else 8.0

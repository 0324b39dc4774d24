"""A case on disk: one folder that appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.files import share

from .case import Case
from .scene import Drawn
from .settings import GENERATOR

CASES = "cases"
PARTIAL = ".partial"


def write_case(root: Path, case: Case, seed: int) -> Path:
    """Write ``root/cases/<case_id>``: ct, segmentation, findings (.nii.gz), report.txt and truth.json; returns the folder.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    target = root / CASES / case.case_id
    try:
        for folder in (root / CASES, root / PARTIAL):
            folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=root / PARTIAL, prefix=f"{case.case_id}."))
        try:
            _write_files(scratch, case, seed)
            scratch.chmod(0o755)  # mkdtemp makes folders that only their owner can enter
            os.replace(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # SimpleITK reports a full disk as RuntimeError
        raise OutputError(f"{target}: the case cannot be written ({error}); free some space, then run again") from error
    return target


def _write_files(folder: Path, case: Case, seed: int) -> None:
    arrays = {"ct": case.hu_kji, "segmentation": case.labels_kji, "findings": case.findings_kji}
    for name, array in arrays.items():
        write_volume(folder / f"{name}.nii.gz", array, case)
    (folder / "report.txt").write_text(case.report.text, encoding="utf-8", newline="\n")
    truth = json.dumps(truth_record(case, seed), indent=1)
    (folder / "truth.json").write_text(truth + "\n", encoding="utf-8", newline="\n")


def write_volume(path: Path, array: np.ndarray, case: Case) -> None:
    """A compressed NIfTI of a (K, J, I) array on the case's grid, in LPS storage order."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(case.spacing_ijk)
    image.SetOrigin(case.origin_lps)
    image.SetDirection(case.direction)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressionLevel(1)  # noise does not compress: more effort saves a few percent and triples the time
    writer.Execute(image)
    share(path)


def truth_record(case: Case, seed: int) -> dict[str, Any]:
    """truth.json: findings, labels and what the report is meant to say."""
    findings = [_finding_record(case, drawn) for drawn in case.drawn]
    statements = [
        {"start": s.start, "end": s.end, "status": s.status, "organ": s.organ, "kinds": list(s.kinds)}
        for s in case.report.statements
    ]
    return {
        "generator": GENERATOR,
        "synthetic": True,
        "seed": seed,
        "case_id": case.case_id,
        "patient_id": case.patient_id,
        "study_id": case.study_id,
        "split": case.split,
        **case.about,
        "findings": findings,
        "labels": case.labels,
        "report_style": case.report.style,
        "statements": statements,
    }


def _finding_record(case: Case, drawn: Drawn) -> dict[str, Any]:
    voxels = np.argwhere(drawn.mask)
    spacing_kji = np.asarray(case.spacing_ijk[::-1])
    # of its voxels the one that lies nearest to their mean: a crescent's mean lies outside
    centre = voxels[np.argmin((((voxels - voxels.mean(0)) * spacing_kji) ** 2).sum(1))]
    hu = case.hu_kji[drawn.mask]
    lps = np.asarray(case.origin_lps) + np.reshape(case.direction, (3, 3)) @ (centre[::-1] * case.spacing_ijk)
    return {
        "organ": drawn.kind.organ,
        "finding": drawn.kind.finding,
        "kind": drawn.kind.name,
        "label": drawn.kind.label,
        "segments": list(drawn.segments),
        "voxels": len(voxels),
        "volume_ml": round(len(voxels) * float(np.prod(case.spacing_ijk)) / 1000, 3),
        "centre_ras": [round(float(v), 1) for v in (-lps[0], -lps[1], lps[2])],
        "focal": drawn.kind.focal,
        "grade": drawn.grade,
        "sizes_mm": list(drawn.sizes_mm),
        "mean_hu": round(float(hu.mean()), 1),
        "reported": drawn.kind.name not in case.report.unreported,
        "words": drawn.words,
    }

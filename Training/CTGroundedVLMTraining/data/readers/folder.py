"""A plain folder: ``cases/<case_id>/`` with a CT, a mask and a report; also the layout of the synthetic corpus.

::

    cases/<case_id>/ct.nii.gz                (or .nii, .nrrd, .mha, or a DICOM folder named ct)
    cases/<case_id>/segmentation.nii.gz      (optional; or .nrrd, .seg.nrrd, or TotalSegmentator's folder)
    cases/<case_id>/report.txt               (optional)
    cases/<case_id>/truth.json               (optional: patient_id, study_id, split, labels of a synthetic case)
    cases/<case_id>/findings.nii.gz          (optional: voxels of the findings; truth.json says what its values mean)
    patients.csv                             (optional: case_id, patient_id[, split])
    labels.csv                               (optional: case_id, "organ/finding" columns)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.image_file import SUFFIXES

from ...evaluate.grounding import LABEL_MAP, TRUTH
from ..manifest import SPLITS, LabelKind, ManifestRow, split_by_patient
from ..texts import read_labels
from .base import Labels, ReaderOptions, Reading, existing, read_table

_PATIENT_KEYS = ("patient_id", "study_id", "split")


def read_folder(options: ReaderOptions) -> Reading:
    """All cases. Without a table or truth.json a case counts as a patient of its own; without splits they are drawn.

    Raises:
        InputError: no case, a case without CT, or a table that does not fit.
    """
    root = existing(options.root, "a data folder")
    folders = sorted(p for p in existing(root / "cases", "one folder a case").iterdir() if p.is_dir())
    table = _patients(root / "patients.csv")
    labels: Labels = dict(read_labels(root / "labels.csv")) if (root / "labels.csv").is_file() else {}
    rows, known, unnamed, notes = [], 0, 0, []
    for folder in folders:
        about = {**_truth(folder / TRUTH), **table.get(folder.name, {})}
        if (truth := about.get("labels")) and folder.name not in labels:
            labels[folder.name] = truth
        known += bool(about.get("patient_id"))
        kind: LabelKind = "truth" if (folder / TRUTH).is_file() else ""
        rows.append(_row(folder, about, kind))
        unnamed += rows[-1].findings is None and (folder / LABEL_MAP).is_file()
    if not rows:
        raise InputError(f"{root / 'cases'} holds no case. Put each into a folder with ct.nii.gz.")
    if known < len(rows):
        notes.append(f"{len(rows) - known} cases name no patient (patients.csv): each counts as one")
    if unnamed:
        notes.append(f"{unnamed} cases have {LABEL_MAP} without {TRUTH} that says what its values mean: not taken")
    unsplit = [row for row in rows if row.split not in SPLITS]
    if unsplit:
        notes.append(f"{len(unsplit)} cases name no split: drawn by patient, seed {options.seed}")
        drawn = {row.case_id: row for row in split_by_patient(unsplit, options.shares, options.seed)}
        rows = [drawn.get(row.case_id, row) for row in rows]
    return Reading(rows, labels, notes)


def _patients(path: Path) -> Mapping[str, Mapping[str, Any]]:
    if not path.is_file():
        return {}
    table = {}
    for place, row in read_table(path, ("case_id", "patient_id")):
        if row.get("split", "") not in ("", *SPLITS):
            raise InputError(f"{place}, column 'split': {row['split']!r} is none of {', '.join(SPLITS)}.")
        table[row["case_id"]] = {key: row[key] for key in _PATIENT_KEYS if row.get(key)}
    return table


def _truth(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {key: record[key] for key in (*_PATIENT_KEYS, "labels", "findings") if key in record}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Make the case again, or remove the file.") from error


def _row(folder: Path, about: Mapping[str, Any], kind: LabelKind) -> ManifestRow:
    image = _file(folder, "ct")
    if image is None:
        raise InputError(f"{folder} holds no ct.nii.gz ({', '.join(SUFFIXES)} or a folder 'ct' are read). Add it.")
    report = folder / "report.txt"
    return ManifestRow(
        folder.name,
        about.get("patient_id") or folder.name,
        about.get("split", ""),
        image,
        about.get("study_id") or folder.name,
        _file(folder, "segmentation"),
        report if report.is_file() else None,
        label_kind=kind,
        source="folder",
        findings=folder / LABEL_MAP if "findings" in about and (folder / LABEL_MAP).is_file() else None,
    )


def _file(folder: Path, stem: str) -> Path | None:
    """``stem`` with one of the endings that are read, or a folder of that name."""
    names = (*(f"{stem}{suffix}" for suffix in (*SUFFIXES, ".seg.nrrd")), stem)
    return next((folder / name for name in names if (folder / name).exists()), None)

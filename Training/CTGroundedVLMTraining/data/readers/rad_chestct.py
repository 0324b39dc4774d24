"""RAD-ChestCT: 3,630 public volumes without reports, with labels per abnormality and location.

Layout, anywhere below the folder for volumes::

    trn00001.npz, val..., tst...
    img{train,valid,test}_Abnormality_and_Location_Labels.csv   NoteAcc_DEID, then abnormality*location
    CT_Scan_Metadata_Complete_35747.csv                         MRN_DEID, NoteAcc_DEID
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from CTGroundedVLMLib.errors import InputError

from ...evaluate.protocols import published_protocol
from ..manifest import ManifestRow, Split
from .base import Labels, Masks, ReaderOptions, Reading, existing, read_table

_ID, _PATIENT = "NoteAcc_DEID", "MRN_DEID"
_SPLITS: dict[str, tuple[str, Split]] = {
    "trn": ("train", "train"),
    "val": ("valid", "validation"),
    "tst": ("test", "test"),
}


def read_rad_chestct(options: ReaderOptions) -> Reading:
    """All volumes, with the labels of ``radchest15`` (fVLM's findings that the set has).

    Raises:
        InputError: no volume, or a table or column is missing.
    """
    root = existing(options.root, "RAD-ChestCT's folder")
    volumes = {p.stem: p for p in sorted(root.rglob("*.npz")) if p.stem[:3] in _SPLITS}
    if not volumes:
        raise InputError(f"{root}: no volumes named trn*.npz, val*.npz or tst*.npz. Check the folder.")
    patients = _patients(root)
    masks, notes = (
        Masks(options.masks),
        ["RAD-ChestCT has no reports: only objectives that learn from labels can use it"],
    )
    if not patients:
        notes.append("no metadata table: each volume counts as a patient, and the published splits are relied on")
    rows = [
        ManifestRow(
            name,
            patients.get(name, name),
            _SPLITS[name[:3]][1],
            path,
            name,
            masks.of(name),
            label_kind="silver",
            source="rad-chestct",
        )
        for name, path in volumes.items()
    ]
    labels: Labels = {}
    for prefix, (half, _) in _SPLITS.items():
        path = root / f"img{half}_Abnormality_and_Location_Labels.csv"
        if any(name.startswith(prefix) for name in volumes):
            labels |= _labels(existing(path, "a table of labels"), volumes.keys())
    notes.append("labels are silver: a program read them out of the reports; positive if any location is")
    return Reading(rows, labels, notes)


def _patients(root: Path) -> Mapping[str, str]:
    path = root / "CT_Scan_Metadata_Complete_35747.csv"
    if not path.is_file():
        return {}
    return {row[_ID].removesuffix(".npz"): row[_PATIENT] for _, row in read_table(path, (_ID, _PATIENT))}


def _labels(path: Path, wanted: set[str]) -> Labels:
    findings = {item.key: set(item.labels) for item in published_protocol("radchest15").items}
    labels: Labels = {}
    for place, row in read_table(path, (_ID,)):
        name = row.pop(_ID).removesuffix(".npz")
        if name not in wanted:
            continue
        cells: dict[str, list[str]] = {}
        for column, cell in row.items():
            if "*" in column:
                cells.setdefault(column.split("*")[0], []).append(cell)
        try:
            labels[name] = {
                key: _any(cell for abnormality in named for cell in cells.get(abnormality, ()))
                for key, named in findings.items()
            }
        except ValueError as error:
            raise InputError(f"{place}: a label is no number ({error}); expected 1, 0, or -1 where unknown.") from error
    return labels


def _any(cells: Iterable[str]) -> int | None:
    """1 where a location is positive; else None where one is unknown (empty, nan, -1) or there is none; else 0."""
    values = [float(cell) if cell.strip() else math.nan for cell in cells]
    if any(value > 0 for value in values):
        return 1
    return 0 if values and all(value == 0 for value in values) else None

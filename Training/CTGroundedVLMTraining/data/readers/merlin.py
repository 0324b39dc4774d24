"""Merlin (abdominal CT): volumes, one table of reports and splits, labels by regular expressions.

Layout: ``merlin_data/<study id>.nii.gz``, ``reports_final.xlsx`` (study id, Findings, Split, ...),
``zero_shot_findings_disease_cls.csv`` (study id, then 1, 0, or -1 where the report does not say).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import DependencyError, InputError

from ..manifest import ManifestRow, Split
from .base import Labels, Masks, ReaderOptions, Reading, check_columns, existing, facts, read_table

_SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
_ID, _FINDINGS, _SPLIT, _PATIENT = "study id", "Findings", "Split", "patient id"
_VALUES = {"1": 1, "0": 0, "-1": None, "": None}


def read_merlin(options: ReaderOptions) -> Reading:
    """All studies of the table whose volume is there.

    Raises:
        InputError: a file or column is missing, or a split or label is none of the known ones.
        DependencyError: openpyxl is not installed.
    """
    root = existing(options.root, "Merlin's folder")
    volumes = {p.name.split(".nii")[0]: p for p in sorted((root / "merlin_data").rglob("*.nii*"))}
    masks, rows, absent, patients = Masks(options.masks), [], 0, False
    for place, row in _xlsx(existing(root / "reports_final.xlsx", "Merlin's table of reports")):
        study = row[_ID]
        if study not in volumes:
            absent += 1
            continue
        split = _SPLITS.get(row[_SPLIT].lower())
        if split is None:
            raise InputError(f"{place}, column {_SPLIT!r}: {row[_SPLIT]!r}; expected train, val or test.")
        patients |= bool(row.get(_PATIENT))
        rows.append(
            ManifestRow(
                study,
                row.get(_PATIENT) or study,
                split,
                volumes[study],
                study,
                masks.of(study),
                report_text=row[_FINDINGS],
                label_kind="silver",
                source="merlin",
            )
        )
    if not rows:
        raise InputError(f"{root}: no study of reports_final.xlsx has a volume below merlin_data. Check the folder.")
    notes = [f"{absent} studies of the table have no volume here"]
    if not patients:
        notes.append("the table names no patients: each study counts as one, and the published splits are relied on")
    labels = _labels(root / "zero_shot_findings_disease_cls.csv", {row.case_id for row in rows}, notes)
    return Reading(rows, labels, notes)


def _xlsx(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of the first sheet; cells as text."""
    try:
        import openpyxl
    except ImportError as error:
        raise DependencyError('Merlin\'s table needs openpyxl: pip install "ct-grounded-vlm[training]".') from error
    try:
        sheet = openpyxl.load_workbook(path, read_only=True, data_only=True).worksheets[0]
        lines = iter(list(sheet.iter_rows(values_only=True)))  # all of it: a sheet is unpacked while it is read
    except Exception as error:  # a damaged archive fails in any way: as zip, in its checksum, as XML
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: cannot be read as an Excel table ({reason}). Download it again.") from error
    header = [_text(cell) for cell in next(lines, ())]
    check_columns(path, header, (_ID, _FINDINGS, _SPLIT))
    for number, cells in enumerate(lines, 2):
        row = dict(zip(header, map(_text, cells), strict=False))
        if row.get(_ID):
            yield f"{path}, row {number}", {_FINDINGS: "", _SPLIT: "", **row}


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _labels(path: Path, wanted: set[str], notes: list[str]) -> Labels:
    """Only what the registry knows; -1 is unknown, never negative: it marks reports that say nothing in the expected words."""
    if not path.is_file():
        notes.append(f"no labels: {path.name} is missing")
        return {}
    columns: dict[str, str] = facts()["merlin"]["labels"]
    labels: Labels = {}
    for place, row in read_table(path, (_ID,)):
        if row[_ID] not in wanted:
            continue
        labels[row[_ID]] = {}
        for column, key in columns.items():
            text = row.get(column, "").strip().removesuffix(".0")
            if text not in _VALUES:
                raise InputError(f"{place}, column {column!r}: {row[column]!r}; expected 1, 0 or -1.")
            labels[row[_ID]][key] = _VALUES[text]
    notes.append("labels are silver: regular expressions read them out of the reports; -1 is kept as unknown")
    return labels

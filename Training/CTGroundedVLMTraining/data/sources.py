"""From a data set's own files to a manifest and a table of labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.files import atomic_path

from .manifest import SPLITS, ManifestRow, split_by_patient, write_manifest

if TYPE_CHECKING:
    from .readers.base import Labels, ReaderOptions, Reading

SOURCES = {
    "folder": ("folder", "read_folder"),
    "ct-rate": ("ct_rate", "read_ct_rate"),
    "radgenome": ("radgenome", "read_radgenome"),
    "merlin": ("merlin", "read_merlin"),
    "rad-chestct": ("rad_chestct", "read_rad_chestct"),
}


def read_source(source: str, options: ReaderOptions) -> Reading:
    """Rows, labels and notes of a data set. Raises InputError where its files are not as published."""
    module, function = SOURCES[source]
    return getattr(import_module(f".readers.{module}", __package__), function)(options)


def make_manifest(
    source: str,
    options: ReaderOptions,
    output: Path,
    *,
    organ_texts: Path | None = None,
    shares: tuple[float, float] | None = None,
) -> list[str]:
    """Write the manifest, and ``<name>.labels.csv`` beside it where there are labels; returns what to tell the user.

    Args:
        organ_texts: a decomposition of the reports, named in every row that has a report.
        shares: of patients in train and validation: draws all splits anew.

    Raises:
        InputError: the data set is not as expected, or a patient lies in two splits.
        OutputError: the files cannot be written.
    """
    reading = read_source(source, options)
    rows = reading.rows if shares is None else split_by_patient(reading.rows, shares, options.seed)
    labels = {case_id: found for case_id, found in reading.labels.items() if any(v is not None for v in found.values())}
    table = output.with_name(f"{output.stem}.labels.csv")
    rows = [
        replace(
            row,
            labels=table if row.case_id in labels else None,
            label_kind=row.label_kind if row.case_id in labels else "",
            organ_texts=organ_texts if row.has_report else None,
        )
        for row in rows
    ]
    write_manifest(output, rows)
    told = [*reading.notes, *_counts(rows, output)]
    if labels:
        _write_labels(table, labels, rows)
        told.append(f"{table}: labels of {len(labels)} volumes")
    return told


def _counts(rows: Sequence[ManifestRow], output: Path) -> list[str]:
    splits = Counter(row.split for row in rows)
    patients = len({row.patient_id for row in rows})
    without = {
        "a mask (prepare makes them)": sum(row.segmentation is None for row in rows),
        "a report": sum(not row.has_report for row in rows),
    }
    drawn = sum(row.findings is not None for row in rows)
    counts = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    return [
        f"{output}: {len(rows)} volumes of {patients} patients ({counts})",
        *(f"{number} volumes without {what}" for what, number in without.items() if number),
        *([f"{drawn} volumes with drawn findings"] if drawn else []),
    ]


def _write_labels(path: Path, labels: Labels, rows: Sequence[ManifestRow]) -> None:
    columns = list(dict.fromkeys(key for found in labels.values() for key in found))
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["case_id", *columns], restval="", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                found = {k: v for k, v in labels.get(row.case_id, {}).items() if v is not None}
                writer.writerow({"case_id": row.case_id, **found})
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); give a path in a writable folder.") from error

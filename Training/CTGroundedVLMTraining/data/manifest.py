"""The manifest: one row a volume, with its mask, its report and its split. CSV or Parquet, the same columns.

Paths are relative to the manifest's folder, or absolute. An empty cell (or null) is nothing. Columns::

    case_id        unique; names the case everywhere
    patient_id     a patient's volumes never lie in two splits
    split          train, validation or test
    image          NIfTI, NRRD, MetaImage, DICOM folder, or RAD-ChestCT's .npz
    study_id       optional: volumes of one session share it, and their report
    segmentation   optional: label map or folder of masks; without it, ``prepare`` segments
    report, report_text   optional: a text file, or the text itself
    organ_texts    optional: what ``ctgvlm-train decompose`` has written, with case_id or study_id as report_id
    labels         optional: a CSV with case_id and a column per "organ/finding" (1, 0, empty: unknown)
    label_kind     optional: "truth", "expert", or "silver" where a program read the labels out of reports
    correction     optional, JSON: how stored values become HU, see ``Correction``
    source         optional: where the row comes from ("folder", "ct-rate", ...)
    findings       optional: label map of the findings' voxels, with truth.json beside it as ``ctgvlm-train synthesize`` writes it
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from CTGroundedVLMLib.errors import DependencyError, InputError, OutputError
from CTGroundedVLMLib.files import atomic_path

Split = Literal["train", "validation", "test"]
LabelKind = Literal["", "truth", "expert", "silver"]
SPLITS: tuple[str, ...] = get_args(Split)
_PATHS = ("image", "segmentation", "report", "organ_texts", "labels", "findings")
_REQUIRED = ("case_id", "patient_id", "split", "image")
_SHOWN = 5  # problems of one kind in a message: the first tell enough


@dataclass(frozen=True)
class Correction:
    """HU = stored value * ``slope`` + ``intercept``, and the geometry that the file's header lacks (CT-RATE's first version).

    ``spacing_ijk``: mm. ``origin_lps``: mm; ``direction_lps``: nine cosines, row by row, as ITK has them.
    """

    slope: float = 1.0
    intercept: float = 0.0
    spacing_ijk: tuple[float, float, float] | None = None
    origin_lps: tuple[float, float, float] | None = None
    direction_lps: tuple[float, ...] | None = None

    def to_json(self) -> str:
        """The manifest's cell: only what is set."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None})

    @classmethod
    def from_json(cls, text: str) -> Correction:
        """The inverse of :meth:`to_json`; ValueError where it does not fit."""
        values = json.loads(text)
        lengths = {"spacing_ijk": 3, "origin_lps": 3, "direction_lps": 9}
        if not isinstance(values, dict) or not values.keys() <= {f.name for f in fields(cls)}:
            raise ValueError(f"expected an object with {', '.join(f.name for f in fields(cls))}")
        for name, value in values.items():
            numbers = value if name in lengths else [value]
            if not isinstance(numbers, list) or len(numbers) != lengths.get(name, 1):
                raise ValueError(f"{name}: expected {lengths.get(name, 1)} number(s)")
            if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
                raise ValueError(f"{name}: expected numbers")
        return cls(**{k: tuple(v) if isinstance(v, list) else float(v) for k, v in values.items()})


@dataclass(frozen=True)
class ManifestRow:
    """One volume. Paths are absolute once read; ``study_id`` is the case's id where the manifest has none."""

    case_id: str
    patient_id: str
    split: Split
    image: Path
    study_id: str = ""
    segmentation: Path | None = None
    report: Path | None = None
    report_text: str = ""
    organ_texts: Path | None = None
    labels: Path | None = None
    label_kind: LabelKind = ""
    correction: Correction | None = None
    source: str = ""
    findings: Path | None = None

    @property
    def has_report(self) -> bool:
        """Whether the row names a report. One without is allowed: it has no texts, which is not the same as normal."""
        return self.report is not None or bool(self.report_text.strip())


COLUMNS = tuple(field.name for field in fields(ManifestRow))


def read_manifest(path: Path) -> list[ManifestRow]:
    """The rows, checked: columns, values, unique case ids, no patient in two splits. Files they name are not looked for.

    Raises:
        InputError: naming line (CSV) or row (Parquet), column, value and what was expected.
        DependencyError: a Parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    rows, problems, places = [], [], {}
    for place, cells in _table(path):
        row = _row(cells, path.parent.absolute(), place, problems)
        if row is None:
            continue
        if row.case_id in places:
            problems.append(f"{place}, column 'case_id': {row.case_id!r} stands in {places[row.case_id]} already")
        places.setdefault(row.case_id, place)
        rows.append(row)
    if problems:
        raise InputError(f"{path}: {_listed(problems)}. Correct the manifest and try again.")
    if not rows:
        raise InputError(f"{path}: no rows; expected one row a volume with {', '.join(_REQUIRED)}.")
    check_patients(rows, str(path))
    return rows


def check_patients(rows: Iterable[ManifestRow], what: str = "the manifest") -> None:
    """Refuse a patient in two splits: scores on patients that were trained on mean nothing. Raises InputError, with names."""
    splits: dict[str, dict[str, str]] = {}
    for row in rows:
        splits.setdefault(row.patient_id, {}).setdefault(row.split, row.case_id)
    crossing = [
        f"patient {patient!r} ({', '.join(f'{case!r} in {split}' for split, case in found.items())})"
        for patient, found in splits.items()
        if len(found) > 1
    ]
    if crossing:
        raise InputError(
            f"{what}: {_listed(crossing)} in more than one split. Put all volumes of a patient into one split "
            "(`ctgvlm-train manifest ... --split-by-patient` does so)."
        )


def split_by_patient(
    rows: Sequence[ManifestRow], shares: tuple[float, float] = (0.8, 0.1), seed: int = 0
) -> list[ManifestRow]:
    """The rows with new splits; ``shares``: of the patients that train and validation get on average, the rest is test.

    A patient's split follows from ``seed`` and ``patient_id`` alone, so that rows added later move nobody from test into
    train. Shares are therefore met only roughly in a small set.
    """
    train, validation = shares
    if min(train, validation, 1 - train - validation) < -1e-9:
        raise InputError(f"Shares of train and validation are {train:g} and {validation:g}; expected 0 to 1 in all.")

    def of(patient: str) -> Split:
        digest = hashlib.blake2b(json.dumps([seed, patient]).encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        return "train" if share < train else "validation" if share < train + validation else "test"

    return [replace(row, split=of(row.patient_id)) for row in rows]


def write_manifest(path: Path, rows: Sequence[ManifestRow]) -> None:
    """Write CSV or Parquet, by the name's ending; columns that no row uses are left out.

    Relative paths of ``rows`` are below the working folder, as any program has them, not below the manifest's.

    Raises:
        InputError: the ending is neither, or the rows do not pass the reader's checks of patients and case ids.
        OutputError: the file cannot be written.
        DependencyError: Parquet, and pyarrow is not installed.
    """
    path = Path(path)
    parquet = _is_parquet(path)
    check_patients(rows, str(path))
    twice = [case_id for case_id, n in Counter(row.case_id for row in rows).items() if n > 1]
    if twice:
        raise InputError(
            f"{path}: case ids {_listed([repr(c) for c in twice])} occur twice; each volume needs its own."
        )
    folder = Path(os.path.abspath(path.parent))
    cells = [{name: _cell(getattr(row, name), folder) for name in COLUMNS} for row in rows]
    columns = [name for name in COLUMNS if name in _REQUIRED or any(row[name] for row in cells)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            (_write_parquet if parquet else _write_csv)(temporary, columns, cells)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); give a path in a writable folder") from error


# --- Cells


def _row(cells: Mapping[str, Any], folder: Path, place: str, problems: list[str]) -> ManifestRow | None:
    before = len(problems)
    values: dict[str, Any] = {}
    for name in COLUMNS:
        cell = cells.get(name)
        if cell is not None and not isinstance(cell, str):
            problems.append(f"{place}, column {name!r}: {cell!r} is {type(cell).__name__}, not text")
            continue
        text = (cell or "").strip()
        try:
            if value := _value(name, text, folder):
                values[name] = value
            elif name in _REQUIRED:
                raise ValueError("is empty")
        except ValueError as error:
            problems.append(f"{place}, column {name!r}: {error}")
    if len(problems) > before:
        return None
    return ManifestRow(**{"study_id": values["case_id"], **values})


def _value(name: str, text: str, folder: Path) -> Any:
    if not text:
        return None
    if name in _PATHS:
        return Path(os.path.normpath(folder / text))
    if name == "correction":
        return Correction.from_json(text)
    allowed = {"split": SPLITS, "label_kind": get_args(LabelKind)[1:]}.get(name)
    if allowed and text not in allowed:
        raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
    return text


def _cell(value: Any, folder: Path) -> str:
    if isinstance(value, Correction):
        return value.to_json()
    if isinstance(value, Path):
        path = Path(os.path.abspath(value))
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    return value or ""


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return "; ".join(items[:_SHOWN]) + more


# --- Tables


def _is_parquet(path: Path) -> bool:
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{path}: a manifest's name ends in .csv or .parquet.")
    return path.suffix.lower() == ".parquet"


def _table(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where it stands, cells) of each row; blank lines of a CSV are no rows."""
    if _is_parquet(path):
        columns, rows = _read_parquet(path)
    else:
        columns, rows = _read_csv(path)
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        found = ", ".join(map(str, columns)) or "nothing"
        raise InputError(f"{path}: column(s) {', '.join(missing)} are missing (found: {found}).")
    for name in columns:
        near = difflib.get_close_matches(str(name).lower(), COLUMNS, 1, 0.85)
        if name not in COLUMNS and near and near[0] not in columns:
            raise InputError(f"{path}: column {name!r} is not known; is {near[0]!r} meant? Rename it, or remove it.")
    return iter(rows)


def _read_csv(path: Path) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    rows = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or [])
            for cells in reader:
                if None in cells:
                    raise InputError(
                        f"{path}, line {reader.line_num}: more cells than the header has columns. "
                        "Text with a comma needs quotes around it."
                    )
                rows.append((f"line {reader.line_num}", cells))
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table ({error}); save it as UTF-8 CSV with a header.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 CSV.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    return columns, rows


def _write_csv(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[str, Mapping[str, Any]]]]:
    pyarrow = _pyarrow()
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read as Parquet ({error}). Check the path, or make it again.") from error
    return table.column_names, [(f"row {n}", cells) for n, cells in enumerate(table.to_pylist(), 1)]


def _write_parquet(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
    pyarrow = _pyarrow()
    schema = pyarrow.schema([(name, pyarrow.string()) for name in columns])
    table = pyarrow.table({name: [row[name] or None for row in rows] for name in columns}, schema=schema)
    pyarrow.parquet.write_table(table, path)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            'Parquet needs pyarrow: pip install "ct-grounded-vlm[training]", or use a .csv manifest.'
        ) from error
    return pyarrow

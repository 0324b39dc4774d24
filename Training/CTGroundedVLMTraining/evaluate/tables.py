"""CSV tables of scores and labels, read column by column. Volumes are known by ``volume_key``, whatever their files' endings.

Score tables: fVLM's release (``file_name, lung_Emphysema_Not Emphysema._Emphysema., ...``: organ, finding, negative and
positive prompt), our own (``case_id, lung/Emphysema, ...``), or plain finding names. Label tables: CT-RATE's (``VolumeName,
Emphysema, ...``), RAD-ChestCT's (``NoteAcc_DEID, nodule*right_upper, ...``), our own.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError

ID_COLUMNS = ("case_id", "file_name", "VolumeName", "NoteAcc_DEID", "volume_name")
PATIENT_COLUMNS = ("patient_id", "MRN_DEID", "PatientID")
_ENDING = re.compile(r"(\.nii\.gz|\.nii|\.nrrd|\.mha|\.mhd|\.npz)$", re.IGNORECASE)
_MISSING = {"", "nan", "none", "null", "na", "n/a"}
_TRUTH = {"true": 1.0, "false": 0.0}
_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """Some columns of a CSV file as text, one row a volume. ``header``: all columns. ``keys``: see ``volume_key``."""

    path: Path
    header: tuple[str, ...]
    keys: tuple[str, ...]
    lines: tuple[int, ...]
    columns: Mapping[str, tuple[str, ...]]


def volume_key(name: str) -> str:
    """A volume's name without ending, and without folders where it has one: "dir/valid_1_a_1.nii.gz" is "valid_1_a_1"."""
    name = name.strip()
    stem = _ENDING.sub("", name)
    return stem if stem == name else re.split(r"[/\\]", stem)[-1]


Patients = Mapping[str, str] | None  # volume key -> patient


def loosen(scores: Table, labels: Table, patients: Patients) -> tuple[Table, Table, Patients]:
    """The same with keys in small letters and without folders, for tables of which no key matches.

    Unchanged where two volumes of one of them would get the same key: which is meant, nobody could tell.
    """
    tables = [replace(table, keys=tuple(map(_loose_key, table.keys))) for table in (scores, labels)]
    given = None if patients is None else {_loose_key(key): patient for key, patient in patients.items()}
    numbers = [(len(set(table.keys)), len(table.keys)) for table in tables] + [(len(given or ()), len(patients or ()))]
    return (*tables, given) if all(loose == whole for loose, whole in numbers) else (scores, labels, patients)


def _loose_key(key: str) -> str:
    return re.split(r"[/\\]", key.rstrip("/\\"))[-1].casefold()


def listed(names: Iterable[str], shown: int = _SHOWN) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def read_table(path: Path, choose: Callable[[Sequence[str]], Iterable[str]]) -> Table:
    """Read the columns that ``choose`` picks from the header; the others are never kept.

    Raises:
        InputError: not a CSV table, no column with volume names, a volume or a chosen column twice, or a broken line.
    """
    with _open_csv(path) as reader:
        header = [name.strip() for name in next(reader, [])]
        id_index, indices = _indices(path, header, choose(header))
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells under {len(header)} columns; is the file cut off?"
                )
            rows.append((reader.line_num, cells[id_index], [cells[i] for i in indices.values()]))
    keys = tuple(volume_key(name) for _, name, _ in rows)
    _check_keys(path, keys, [line for line, _, _ in rows])
    columns = {name: tuple(cells[n] for _, _, cells in rows) for n, name in enumerate(indices)}
    return Table(path, tuple(header), keys, tuple(line for line, _, _ in rows), columns)


def read_header(path: Path) -> tuple[str, ...]:
    """The names of the columns. Errors: InputError."""
    with _open_csv(path) as reader:
        return tuple(name.strip() for name in next(reader, []))


@contextmanager
def _open_csv(path: Path) -> Iterator[Any]:
    """A CSV reader; what goes wrong becomes an InputError that names the file."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield csv.reader(file, strict=True)
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV table ({error}); save it as UTF-8 CSV with a header.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8 CSV.") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error


def _indices(path: Path, header: list[str], chosen: Iterable[str]) -> tuple[int, dict[str, int]]:
    id_column = id_column_of(header)
    if id_column is None:
        raise InputError(
            f"{path}: no column with volume names; expected one of {', '.join(ID_COLUMNS)} "
            f"(found: {listed(header) or 'nothing'})."
        )
    chosen = list(dict.fromkeys(chosen))
    twice = [name for name in (id_column, *chosen) if header.count(name) > 1]
    if twice:
        raise InputError(f"{path}: column {twice[0]!r} stands in the header twice. Remove one.")
    return header.index(id_column), {name: header.index(name) for name in chosen}


def id_column_of(header: Sequence[str]) -> str | None:
    """The column that names the volumes, in any case; None where there is none."""
    lower = {name.lower(): name for name in reversed(header)}
    return next((lower[name.lower()] for name in ID_COLUMNS if name.lower() in lower), None)


def _check_keys(path: Path, keys: Sequence[str], lines: Sequence[int]) -> None:
    if not keys:
        raise InputError(f"{path}: no rows; expected one row a volume.")
    first: dict[str, int] = {}
    for key, line in zip(keys, lines, strict=True):
        if not key:
            raise InputError(f"{path}, line {line}: the volume's name is empty.")
        if key in first:
            raise InputError(
                f"{path}, line {line}: {key!r} stands in line {first[key]} already; each volume needs one row. Remove one."
            )
        first[key] = line


def probabilities(table: Table, column: str) -> np.ndarray:
    """A score column as float64, NaN where there is no score.

    Raises:
        InputError: a value is no probability from 0 to 1; line and column are named.
    """
    return _parsed(table, column, _probability, "a probability from 0 to 1, or nothing where there is no score")


def labels(table: Table, column: str) -> np.ndarray:
    """A label column: 1, 0 (also true, false, in any case), or NaN where unknown (empty, or -1 as some data sets write it).

    Raises:
        InputError: another value; line and column are named.
    """
    return _parsed(table, column, _label, "1, 0 (or true, false), or nothing (or -1) where unknown")


def _parsed(table: Table, column: str, parse: Callable[[str], float | None], expected: str) -> np.ndarray:
    values = np.empty(len(table.keys))
    for n, cell in enumerate(table.columns[column]):
        value = parse(cell)
        if value is None:
            raise InputError(
                f"{table.path}, line {table.lines[n]} ({table.keys[n]}), column {column!r}: {cell!r} is not {expected}."
            )
        values[n] = value
    return values


def _number(text: str) -> float | None:
    if text.strip().lower() in _MISSING:
        return math.nan
    try:
        return float(text)
    except ValueError:
        return None


def _probability(text: str) -> float | None:
    value = _number(text)
    return value if value is not None and (math.isnan(value) or 0 <= value <= 1) else None


def _label(text: str) -> float | None:
    value = _TRUTH.get(text.strip().lower(), _number(text))
    if value == -1:
        return math.nan
    return value if value is not None and (math.isnan(value) or value in (0, 1)) else None

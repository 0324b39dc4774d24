"""What the worker hands back: an AnalysisResult, an Answer, a Segmentation. Lossless; arrays are memory-mapped files.

A result is a file of JSON lines: a first one with all single values, then the long lists in pieces, so that Slicer's GUI
thread can read it in small steps. An array that is itself the read-only map of a file (the CT) is named, not copied.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import InputError, OutputError
from .json_records import from_record, to_record
from .types import (
    AnalysisResult,
    FindingScore,
    Heatmap,
    OrganInfo,
    ReportComparison,
    Segmentation,
    Sentence,
    SentenceLink,
)


@dataclass(frozen=True)
class Answer:
    """What the worker says to a question. ``comparison``: with the report; None where there is no report."""

    score: FindingScore
    heatmap: Heatmap
    comparison: ReportComparison | None = None


One = TypeVar("One", Answer, Segmentation)

FORMAT, VERSION = "ctgvlm-result", 1
RESULT = "result.jsonl"
PIECE = 40  # items of a list per line: read within a few ms
INLINE_VALUES = 64  # a matrix is not worth a file
_LISTS = {
    "findings": FindingScore,
    "organs": OrganInfo,
    "links": SentenceLink,
    "heatmaps": Heatmap,
    "comparisons": ReportComparison,
    "sentences": Sentence,
}


def write_result(result: AnalysisResult, folder: Path) -> Path:
    """Write ``result`` into ``folder`` (made, or empty) and return its file.

    Raises:
        OutputError: the disk is full, or the folder cannot be written; the folder is removed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = _ArrayStore(folder).store
        lists = {name: getattr(result, name) for name in _LISTS if name != "sentences"}
        lists["sentences"] = result.report.sentences
        single = dataclasses.replace(
            result,
            report=dataclasses.replace(result.report, sentences=()),
            **dict.fromkeys(lists.keys() - {"sentences"}, ()),
        )
        pieces = [(name, items[i : i + PIECE]) for name, items in lists.items() for i in range(0, len(items), PIECE)]
        lines = [{"format": FORMAT, "version": VERSION, "lines": len(pieces) + 2}, to_record(single, store)]
        lines += [{"list": name, "items": to_record(items, store)} for name, items in pieces]
        path = folder / RESULT
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _not_written("result", folder, error) from error
    return path


class ResultReader:
    """Reads a result in steps of a few milliseconds: iterate over ``steps()``, then take ``result``."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self.result: AnalysisResult | None = None

    def steps(self) -> Iterator[float]:
        """Yields the fraction done. Raises InputError for a file that is missing or damaged."""
        load = _ArrayStore(self._path.parent).load
        lists: dict[str, list[Any]] = {name: [] for name in _LISTS}
        what = f"The result {self._path}"
        try:
            with open(self._path, encoding="utf-8") as stream:
                header = json.loads(next(stream, "null"))
                self._check(header)
                single = from_record(AnalysisResult, json.loads(next(stream, "null")), what, load)
                number = 2
                for number, line in enumerate(stream, 3):
                    yield number / header["lines"]
                    piece = json.loads(line)
                    kind = _LISTS[piece["list"]]
                    lists[piece["list"]] += [from_record(kind, item, what, load) for item in piece["items"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{what} cannot be read ({error}): it may be incomplete. Analyze again.") from error
        if number != header["lines"]:
            raise InputError(f"{what} ends at line {number} of {header['lines']}: it is incomplete. Analyze again.")
        report = dataclasses.replace(single.report, sentences=tuple(lists.pop("sentences")))
        self.result = dataclasses.replace(
            single, report=report, **{name: tuple(items) for name, items in lists.items()}
        )
        yield 1.0

    def _check(self, header: Any) -> None:
        if not isinstance(header, dict) or (header.get("format"), header.get("version")) != (FORMAT, VERSION):
            raise InputError(f"{self._path} is no {FORMAT} of version {VERSION}: this program must have written it.")


def read_result(path: Path) -> AnalysisResult:
    """Read what ``write_result`` wrote. Raises InputError for a file that is missing or damaged."""
    reader = ResultReader(path)
    for _ in reader.steps():
        pass
    return reader.result


def write_answer(answer: Answer, folder: Path, name: str = "answer") -> Path:
    """Write one answer as ``name``.json beside its heatmap's array and return that file. Raises OutputError."""
    return _write_one(answer, Path(folder), name)


def read_answer(path: Path) -> Answer:
    """Read what ``write_answer`` wrote. Raises InputError for a file that is missing or damaged."""
    return _read_one(Answer, Path(path))


def write_segmentation(segmentation: Segmentation, folder: Path, name: str = "segmentation") -> Path:
    """Write a segmentation as ``name``.json beside its array and return that file. Raises OutputError."""
    return _write_one(segmentation, Path(folder), name)


def read_segmentation(path: Path) -> Segmentation:
    """Read what ``write_segmentation`` wrote. Raises InputError for a file that is missing or damaged."""
    return _read_one(Segmentation, Path(path))


def _write_one(value: Answer | Segmentation, folder: Path, name: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.json"
        path.write_text(json.dumps(to_record(value, _ArrayStore(folder, f"{name}-").store)), encoding="ascii")
    except OSError as error:
        for partial in folder.glob(f"{name}[-.]*"):
            partial.unlink(missing_ok=True)
        raise _not_written(type(value).__name__.lower(), folder, error) from error
    return path


def _read_one(cls: type[One], path: Path) -> One:
    what = f"The {cls.__name__.lower()} {path}"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return from_record(cls, record, what, _ArrayStore(path.parent).load)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{what} cannot be read ({error}): it may be incomplete. Try again.") from error


class _ArrayStore:
    """Arrays of one folder: as files named ``prefix`` and a number, small ones in the record itself."""

    def __init__(self, folder: Path, prefix: str = "array-") -> None:
        self._folder, self._prefix, self._count = folder, prefix, 0

    def store(self, array: np.ndarray) -> Any:
        """What stands for the array in a record."""
        if array.size <= INLINE_VALUES:
            return {"dtype": array.dtype.str, "shape": array.shape, "values": array.ravel().tolist()}
        mapped = _mapped_file(array)
        if mapped:
            return {"file": mapped}
        name = f"{self._prefix}{self._count}.npy"
        self._count += 1
        np.save(self._folder / name, array, allow_pickle=False)
        return {"file": name}

    def load(self, record: Any) -> np.ndarray:
        """The array of a record. Raises ValueError, OSError or KeyError for one that is damaged."""
        if "values" in record:
            return np.array(record["values"], np.dtype(record["dtype"])).reshape(record["shape"])
        return np.load(self._folder / record["file"], mmap_mode="r", allow_pickle=False)


def _mapped_file(array: np.ndarray) -> str:
    """The .npy file that ``array`` is the whole, unchanged map of; "" for any other array."""
    if not isinstance(array, np.memmap) or array.mode != "r" or not isinstance(array.base, mmap.mmap):
        return ""
    path = os.fspath(array.filename)
    return path if path.endswith(".npy") and array.flags.c_contiguous else ""


def _not_written(what: str, folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The {what} cannot be written to {folder} ({error.strerror or error}). Make space on that disk, or choose another "
        "folder for temporary files."
    )

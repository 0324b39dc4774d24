"""The folder that ``prepare`` fills: its settings, and one line a case.

::

    dataset.json     format, version, the grid and organs that it was prepared for, how texts were made
    index.jsonl      one line per finished or refused case; of two lines on a case the later one counts
    cases/*.case     volumes, see ``shards.py``
    quarantine.csv   refused cases with the reason: a readable copy of the index's lines
    segmentations/   masks that prepare made itself
    qa/              a summary with pictures

A line is written after its shard, so that what the index names is there.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import atomic_path

FORMAT, VERSION = "ctgvlm-prepared", 1
SETTINGS, INDEX, QUARANTINE = "dataset.json", "index.jsonl", "quarantine.csv"
_LARGE = ("report", "organ_texts", "labels", "sources", "trace")  # of a line; not needed to go on with a run
_QUARANTINE_COLUMNS = ("case_id", "patient_id", "split", "source", "image", "kind", "reason")


@dataclass(frozen=True)
class IndexLine:
    """What the index tells without being read as a whole: enough to choose cases and to find a line again."""

    case_id: str
    split: str
    failed: bool
    has_report: bool
    offset: int
    length: int


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write dataset.json into a new or empty folder; compare it in one that has it.

    Raises:
        InputError: the folder was prepared with other settings, or holds something else.
        OutputError: it cannot be written.
    """
    record = {"format": FORMAT, "version": VERSION, **settings}
    if (path / SETTINGS).exists():
        before = read_settings(path)
        changed = sorted(key for key in {*record, *before} if record.get(key) != before.get(key))
        if changed:
            was = "; ".join(
                f"{key}: {_short(before.get(key))} before, {_short(record.get(key))} now" for key in changed
            )
            raise InputError(f"{path} was prepared with other settings ({was}). Name another folder for these.")
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        if others := sorted(p.name for p in path.iterdir() if not p.name.startswith(".")):
            raise InputError(f"{path} holds other files ({', '.join(others[:3])}); name a new or empty folder.")
        with atomic_path(path / SETTINGS) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); give a folder in a writable place.") from error


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_settings(path: Path) -> dict[str, Any]:
    """dataset.json of a local folder. Raises InputError."""
    try:
        return parse_settings((path / SETTINGS).read_bytes(), str(path))
    except OSError as error:
        raise InputError(
            f"{path}: no prepared data ({error}). Give a folder that `ctgvlm-train prepare` made."
        ) from error


def parse_settings(content: bytes, name: str) -> dict[str, Any]:
    """dataset.json from its bytes. Raises InputError."""
    try:
        record = json.loads(content)
        version = record["format"], record["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: {SETTINGS} is damaged ({error}). Prepare the data again.") from error
    if version != (FORMAT, VERSION):
        raise InputError(f"{name}: prepared data of another kind or version {version}. Prepare the data again.")
    return record


def parse_index(content: bytes, name: str) -> dict[str, IndexLine]:
    """The last line on each case. Half a last line (a killed run's) is left out.

    Raises:
        InputError: another line is damaged.
    """
    lines: dict[str, IndexLine] = {}
    offset = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if line.endswith(b"\n"):
            try:
                record = json.loads(line)
                case_id, report = record["case_id"], bool(record.get("report", "").strip())
                found = IndexLine(case_id, record["split"], "error" in record, report, offset, len(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{name}/{INDEX}, line {number}: damaged ({error}). Remove this line and prepare again."
                ) from error
            lines[case_id] = found
        offset += len(line)
    return lines


class IndexWriter:
    """Appends lines to the index of a local folder; one writer at a time. Use as a context manager.

    ``records``: the last line on each case without its texts, in the order in which cases first came.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OutputError where it cannot be written or another run writes it, InputError where it is damaged."""
        self._folder = folder
        self.records: dict[str, dict[str, Any]] = {}
        try:
            self._file = open(folder / INDEX, "a+b")  # noqa: SIM115 -- closed by close()
            _lock(self._file, folder)
            self._file.seek(0)
            content = self._file.read()
            for line in parse_index(content, str(folder)).values():
                self._keep(json.loads(content[line.offset : line.offset + line.length]))
            if not content.endswith(b"\n"):
                self._file.truncate(content.rfind(b"\n") + 1)  # half a line of a killed run
        except OSError as error:
            raise OutputError(f"{folder / INDEX}: cannot be written ({error}); give a writable folder.") from error

    def append(self, record: dict[str, Any]) -> None:
        """Write a line, on disk when this returns. Raises OutputError."""
        try:
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._folder / INDEX}: cannot be written ({error}). Free space, then run the same command again."
            ) from error
        self._keep(record)

    def _keep(self, record: Mapping[str, Any]) -> None:
        self.records[record["case_id"]] = {key: value for key, value in record.items() if key not in _LARGE}

    def write_quarantine(self) -> int:
        """quarantine.csv of all refused cases; returns how many there are. Raises OutputError."""
        refused = [record for record in self.records.values() if "error" in record]
        rows = [{**r, "reason": r["error"]} for r in refused]
        try:
            path = self._folder / QUARANTINE
            with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, _QUARANTINE_COLUMNS, extrasaction="ignore", lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise OutputError(f"{self._folder / QUARANTINE}: cannot be written ({error}). Free space.") from error
        return len(refused)

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _lock(file: Any, folder: Path) -> None:
    """Keep a second run away, where the system can (not on Windows). The lock ends with its process, however that ends."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{folder}: another run prepares data there; wait for it, or name another folder.") from error

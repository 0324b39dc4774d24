"""``cases.jsonl``: one line per case that a model has seen, on disk before the next; a killed run goes on from there.

The first line holds the settings; lines of other settings are never mixed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import atomic_path

_FORMAT = "ctgvlm-evaluation-cases"


@dataclass(frozen=True)
class CaseRecord:
    """A case: ``scores`` by question key, each with ``probability`` and ``margin``, or with the ``reason`` why there is none.

    ``error``: why the whole case failed. ``grounding``: see ``grounding.measure_case``. ``report_error``: why the case
    is not in the retrieval. ``image``: the file that was read.
    """

    case_id: str
    patient_id: str
    split: str
    image: str
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    grounding: tuple[Mapping[str, Any], ...] = ()
    report_error: str | None = None
    seconds: float = 0.0


class CaseJournal:
    """Append-only JSON lines. Use as a context manager; ``records``: case id -> what is known."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, retry_failed: bool = False) -> None:
        """Open ``path``, new or to go on with. Half a last line, left by a killed run, is cut off.

        Raises:
            InputError: it was made with other settings, or is no such file.
            OutputError: it cannot be written.
        """
        self.path = path
        self._settings = json.loads(json.dumps(dict(settings)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._read()
            self.records = {
                r.case_id: r for r in map(self._record, lines) if not (retry_failed and r.error is not None)
            }
            self._rewrite(self.records.values())
            self._file = open(path, "ab")  # noqa: SIM115 -- closed by __exit__
        except OSError as error:
            raise self._output_error(error) from error

    def _read(self) -> list[bytes]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        if not lines and not data:
            return []
        try:
            header = json.loads(lines[0]) if lines else {}
            ours = header["format"] == _FORMAT
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} is no record of an evaluation. Name another output folder.") from error
        if not ours or header["settings"] != self._settings:
            was, now = header.get("settings") or {}, self._settings
            changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
            raise InputError(
                f"{self.path} was made with other settings ({', '.join(sorted(changed))}). Name another output folder, or "
                "use the same settings."
            )
        return lines[1:]

    def _record(self, line: bytes) -> CaseRecord:
        try:
            values = json.loads(line)
            return CaseRecord(**values | {"grounding": tuple(values["grounding"])})
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} holds a damaged line ({error}). Remove the file to start again.") from error

    def _rewrite(self, records: Iterable[CaseRecord]) -> None:
        """The whole lines only, in one step."""
        header = {"format": _FORMAT, "settings": self._settings}
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            file.writelines(map(_line, records))
            file.flush()
            os.fsync(file.fileno())

    def append(self, record: CaseRecord) -> None:
        """Write a case. Raises OutputError where the disk is full or gone."""
        try:
            self._file.write(_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._output_error(error) from error
        self.records[record.case_id] = record

    def _output_error(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path} cannot be written ({error}); free some space, then run the same command again."
        )

    def __enter__(self) -> CaseJournal:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _line(record: CaseRecord) -> bytes:
    return json.dumps(asdict(record), allow_nan=False).encode() + b"\n"

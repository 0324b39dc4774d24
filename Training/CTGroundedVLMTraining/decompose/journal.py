"""The output file: one line per finished report, appended and on disk before the next; a killed run goes on from there."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError, OutputError, ReportError
from CTGroundedVLMLib.files import atomic_path

from .records import Decomposition, ReportText

_BEGIN = b'{"report_id": "'


class Journal:
    """Append-only JSON lines. Use as a context manager.

    ``sync_s``: how often the disk is waited for; 0 after every report. A killed process loses nothing either way, a power
    cut at most that time's reports, which the next run makes again.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], *, retry_failed: bool = False, sync_s: float = 0.0
    ) -> None:
        """Open ``path``, new or to go on with: half a last line is cut off, failed reports with ``retry_failed`` too.

        Raises:
            OutputError: it cannot be written, or another run writes it.
            InputError: it holds reports decomposed with other settings, or is no such file.
        """
        self._path, self._settings, self._sync_s, self._synced = path, dict(settings), sync_s, time.monotonic()
        self._file: io.BufferedWriter | None = None
        try:
            if retry_failed and path.exists():
                self._open()
                self._drop_failed()
            self._open()
            self.done, end = self._read()
            self._file.truncate(end)
        except OSError as error:
            self.close()
            raise OutputError(
                f"{path}: cannot be written ({error.strerror}); give a path in a writable folder"
            ) from error
        except (InputError, OutputError):
            self.close()
            raise

    def _open(self) -> None:
        self.close()
        self._file = open(self._path, "ab")  # noqa: SIM115 -- closed by close()
        _lock(self._file, self._path)

    def _drop_failed(self) -> None:
        """Rewrite the file, as a whole, without failed reports."""
        _, end = self._read()
        lines = [
            line
            for line in self._path.read_bytes()[:end].splitlines(keepends=True)
            if json.loads(line)["error"] is None
        ]
        self.close()  # Windows replaces no open file
        with atomic_path(self._path) as temporary, open(temporary, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> tuple[dict[str, tuple[str, str | None]], int]:
        """Report id -> (text, error) of the whole lines, and where the last of them ends."""
        done: dict[str, tuple[str, str | None]] = {}
        end = 0
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._check_is_ours(line, number)
                    break  # a run was killed while it wrote this
                end += len(line)
                record = self._record(line, number)
                if record["report_id"] in done:
                    raise ReportError(
                        f"{self._path}, line {number}: report {record['report_id']!r} stands there twice; remove one"
                    )
                done[record["report_id"]] = (record["text"], record["error"])
        return done, end

    def _check_is_ours(self, line: bytes, number: int) -> None:
        """Half a line may be cut off only where a run of this program wrote it."""
        if line[: len(_BEGIN)] != _BEGIN[: len(line)]:
            raise ReportError(
                f"{self._path}, line {number}: not a decomposed report; name another output, or remove this one"
            )

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        place = f"{self._path}, line {number}"
        try:
            record = json.loads(line)
            settings = {"method": record["method"], **record["settings"]}
            _ = record["report_id"], record["text"], record["error"]
        except (ValueError, KeyError, TypeError) as error:
            raise ReportError(f"{place}: not a decomposed report; name another output, or remove this one") from error
        if settings != self._settings:
            changed = sorted(k for k in {*settings, *self._settings} if settings.get(k) != self._settings.get(k))
            was = ", ".join(f"{k}={settings.get(k)!r}" for k in changed)
            raise InputError(
                f"{place}: made with other settings ({was}); name another output, or use the same settings"
            )
        return record

    def pending(self, reports: list[ReportText]) -> list[ReportText]:
        """Reports without a line. Raises InputError where a finished report's text has changed since."""
        for report in reports:
            if report.report_id in self.done and self.done[report.report_id][0] != report.text:
                raise InputError(
                    f"{self._path}: report {report.report_id!r} was made from another text; name another output"
                )
        return [report for report in reports if report.report_id not in self.done]

    def append(self, result: Decomposition) -> None:
        """Write one report. Raises OutputError where the disk is full or gone."""
        line = json.dumps(result.to_record()) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            if time.monotonic() - self._synced >= self._sync_s:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); make room and run the same command again"
            ) from error
        self.done[result.report.report_id] = (result.report.text, result.error)

    def close(self) -> None:
        """Close the file, with all on disk."""
        if self._file is not None and not self._file.closed:
            try:
                self._file.flush()
                os.fsync(self._file.fileno())
            finally:
                self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _lock(file: io.BufferedWriter, path: Path) -> None:
    """Keep a second run away, where the system can (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{path}: another run is writing it; wait for it, or name another output") from error

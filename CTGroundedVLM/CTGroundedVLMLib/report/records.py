"""The JSON form of a parsed report: one object per line, as annotated reports are kept."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from ..errors import OutputError, ReportError
from ..types import Report
from .parser import parse_report


def to_record(report: Report, report_id: str) -> dict[str, object]:
    """``report`` as a JSON object: report_id, text and sentences (start, end, section, segments, findings)."""
    sentences = [
        {
            "start": s.start,
            "end": s.end,
            "section": s.section,
            "segments": list(s.segments),
            "findings": [{"name": f.name, "status": f.status} for f in s.findings],
        }
        for s in report.sentences
    ]
    return {"report_id": report_id, "text": report.text, "sentences": sentences}


def parse_jsonl(in_path: str | Path, out_path: str | Path) -> int:
    """Parse the reports of a JSON-lines file (keys ``report_id`` and ``text``) into another; returns how many.

    Raises ReportError for a file that cannot be read or a line that is no such object, OutputError where the result cannot be
    written. ``out_path`` is replaced at the end, as a whole: on an error it stays as it was.
    """
    in_path, out_path = Path(in_path), Path(out_path)
    lines = [json.dumps(to_record(parse_report(text), name), ensure_ascii=False) for name, text in _read(in_path)]
    _write(out_path, "".join(line + "\n" for line in lines))
    return len(lines)


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); give a JSON-lines file of reports") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    return [_item(path, n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]


def _item(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        item = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ReportError(f"{path}, line {number}: not JSON ({error}); each line holds one object") from error
    if not isinstance(item, dict):
        raise ReportError(
            f"{path}, line {number}: expected an object with report_id and text, found {type(item).__name__}"
        )
    for key in ("report_id", "text"):
        if not isinstance(item.get(key), str):
            state = "missing" if key not in item else f"{type(item[key]).__name__}, not a string"
            raise ReportError(f"{path}, line {number}: key {key!r} is {state}; each line needs report_id and text")
    return item["report_id"], item["text"]


def _write(path: Path, content: str) -> None:
    """Write beside the target, then replace it, so that a reader never sees half a file."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="\n", dir=path.parent, prefix=path.name, suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
        os.replace(temporary, path)
    except (OSError, UnicodeEncodeError) as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error}); give a path in a writable folder") from error

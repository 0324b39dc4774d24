"""Reading reports: JSON lines, or CSV as CT-RATE has it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import ReportError

from .records import ReportText

CT_RATE_ID = "VolumeName"
CT_RATE_SECTIONS = {"Findings_EN": "FINDINGS", "Impressions_EN": "IMPRESSION"}


def read_reports(path: Path, id_column: str | None = None, text_column: str | None = None) -> list[ReportText]:
    """Reports of a ``.csv`` or JSON-lines file, in its order.

    ``id_column`` and ``text_column`` default to ``report_id`` and ``text``; in a CSV with CT-RATE's columns to
    ``VolumeName``, and to ``Findings_EN`` and ``Impressions_EN`` under the headings FINDINGS: and IMPRESSION:.

    Raises:
        ReportError: the file cannot be read, lacks a column, or has the same id twice.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    reports: dict[str, ReportText] = {}
    for place, row in rows:
        report = _report(place, row, id_column, text_column)
        if report.report_id in reports:
            raise ReportError(f"{place}: report id {report.report_id!r} occurs twice; each report needs its own")
        reports[report.report_id] = report
    if not reports:
        raise ReportError(f"{path}: no reports; expected one JSON object a line, or a .csv file with a header")
    return list(reports.values())


def _report(place: str, row: Mapping[str, Any], id_column: str | None, text_column: str | None) -> ReportText:
    ct_rate = CT_RATE_ID in row and all(column in row for column in CT_RATE_SECTIONS)
    id_column = id_column or (CT_RATE_ID if ct_rate else "report_id")
    report_id = _value(place, row, id_column, "--id-column").strip()
    if not report_id:
        raise ReportError(f"{place}: {id_column!r} is empty; each report needs an id")
    if text_column is None and ct_rate:
        return ReportText(report_id, _ct_rate_text(place, row))
    return ReportText(report_id, _value(place, row, text_column or "text", "--text-column"))


def _value(place: str, row: Mapping[str, Any], column: str, option: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        found = ", ".join(map(str, row)) or "nothing"
        kind = "missing" if column not in row else f"{type(value).__name__}, not text"
        raise ReportError(f"{place}: {column!r} is {kind} (found: {found}); name the right one with {option}")
    return value


def _ct_rate_text(place: str, row: Mapping[str, Any]) -> str:
    parts = [
        (heading, "" if row[column] is None else _value(place, row, column, "--text-column").strip())
        for column, heading in CT_RATE_SECTIONS.items()
    ]
    return "\n\n".join(f"{heading}:\n{part}" for heading, part in parts if part)


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise ReportError(f"{path}: not a CSV table ({error}); save it as UTF-8 CSV with a header") from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); give a .csv or .jsonl file") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, value in read_json_lines(path):
        if not isinstance(value, dict):
            raise ReportError(f"{place}: expected an object with report_id and text, found {type(value).__name__}")
        yield place, value


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """``(place, value)`` of each line that is not blank; ``place`` names file and line.

    Raises:
        ReportError: the file cannot be read, or a line is not JSON.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}, line {number}", _json(f"{path}, line {number}", line)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror}); give a .csv or .jsonl file") from error
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _json(place: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ReportError(f"{place}: not JSON ({error}); each line holds one object") from error

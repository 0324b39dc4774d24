"""What a report says of each of the model's organs, and the labels of a case: from files, or by rules."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from CTGroundedVLMLib.anatomy import Organ, OrganGroup
from CTGroundedVLMLib.errors import InputError, ReportError
from CTGroundedVLMLib.report_sources import read_report

from ..decompose.organs import OrganFinder
from ..decompose.records import OrganStatus
from ..decompose.reports import read_json_lines
from ..decompose.rules import decompose_by_rules
from .manifest import ManifestRow

OrganTexts = Mapping[str, tuple[str, str]]  # organ -> text, status; an organ that is not mentioned is not there
_STATUSES = get_args(OrganStatus)
_MENTIONED = tuple(status for status in _STATUSES if status != "not mentioned")
_LABEL_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": None, "-1": None, "-1.0": None}


def report_of(row: ManifestRow) -> str:
    """The report's text, empty where the row names none. Raises ReportError where it names a file that cannot be read."""
    return read_report(row.report) if row.report is not None else row.report_text


def texts_by_rules(report: str, organs: Mapping[str, tuple[str, ...]]) -> OrganTexts:
    """Decompose a report for these organs (name -> segments) by ``decompose``'s rules."""
    if not report.strip():
        return {}
    made = decompose_by_rules(report, _finder(tuple((name, tuple(segments)) for name, segments in organs.items())))
    return {
        organ: (joined_text(d.findings, d.impression), d.status) for organ, d in made.items() if d.status in _MENTIONED
    }


@functools.lru_cache(maxsize=4)
def _finder(organs: tuple[tuple[str, tuple[str, ...]], ...]) -> OrganFinder:
    return OrganFinder(OrganGroup("model", tuple(Organ(name, segments, ()) for name, segments in organs), ""))


def joined_text(findings: str, impression: str) -> str:
    """The text to encode: the impression first, as in fVLM's release; a part that repeats the other is left out."""
    parts = [part.strip() for part in (impression, findings) if part.strip()]
    if len(parts) == 2 and parts[0] == parts[1]:
        parts = parts[:1]
    return " ".join(parts)


class DecomposedReports:
    """What ``ctgvlm-train decompose`` has written: organ texts by report id.

    Raises:
        ReportError: the file cannot be read, or is no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts: dict[str, OrganTexts] = {}
        for place, record in read_json_lines(path):
            try:
                if record["error"] is None:
                    self._texts[record["report_id"]] = {
                        organ: _organ_text(place, organ, said)
                        for organ, said in record["organs"].items()
                        if said["status"] != "not mentioned"
                    }
            except (KeyError, TypeError, AttributeError) as error:
                raise ReportError(f"{place}: not a line of `ctgvlm-train decompose` ({error!r}).") from error

    def of(self, row: ManifestRow, organs: Mapping[str, Any]) -> OrganTexts:
        """The texts of a row's report, of the model's organs. Raises ReportError where the file has no such report."""
        for report_id in (row.case_id, row.study_id, f"{row.case_id}.nii.gz"):
            if report_id in self._texts:
                return {organ: said for organ, said in self._texts[report_id].items() if organ in organs}
        raise ReportError(
            f"{self.path} holds no report {row.case_id!r} or {row.study_id!r} (or its decomposition failed). Run "
            "`ctgvlm-train decompose` on all reports; --retry-failed tries failed ones again."
        )


def _organ_text(place: str, organ: str, said: Mapping[str, Any]) -> tuple[str, str]:
    status = said["status"]
    if status not in _STATUSES:
        raise ReportError(f"{place}: {organ} has status {status!r}; expected one of {', '.join(_STATUSES)}.")
    text = said.get("encoded_text")  # the release's own wording, with decompose's --normality legacy
    return (joined_text(said["findings"], said["impression"]) if text is None else text), status


def read_labels(path: Path) -> dict[str, dict[str, int]]:
    """Labels by case id, from a CSV with ``case_id`` and "organ/finding" columns: 1, 0; empty or -1 is unknown and left out.

    Raises:
        InputError: naming line and column.
    """
    labels: dict[str, dict[str, int]] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if "case_id" not in (reader.fieldnames or ()):
                raise InputError(f"{path}: column 'case_id' is missing.")
            for row in reader:
                case_id = row.pop("case_id")
                place = f"{path}, line {reader.line_num}"
                if case_id in labels:
                    raise InputError(f"{place}: case {case_id!r} occurs twice; remove one line.")
                values = {column: _label(place, column, cell) for column, cell in row.items()}
                labels[case_id] = {column: value for column, value in values.items() if value is not None}
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: labels cannot be read ({error}). Give a UTF-8 CSV.") from error
    return labels


def _label(place: str, column: str | None, cell: str | None) -> int | None:
    text = (cell or "").strip() if not isinstance(cell, list) else "?"
    if column is None or text not in _LABEL_VALUES:
        raise InputError(f"{place}, column {column!r}: {cell!r}; expected 1, 0, or nothing where it is not known.")
    return _LABEL_VALUES[text]

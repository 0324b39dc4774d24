"""The score tables that this command writes: ``scores.csv``, what made them (``scores.json``), and what has no score."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError

from .case_journal import CaseRecord
from .outputs import write_text

_ABOUT_FORMAT = "ctgvlm-scores"


def write_scores(path: Path, records: Sequence[CaseRecord], keys: Sequence[str], about: Mapping[str, Any]) -> None:
    """``path`` with a row a scored case (empty where an organ has no score), and ``about`` beside it. Errors: OSError.

    Probabilities have all their digits, so that margins can be had back from them. Failed cases have no row.
    """
    rows = [
        {"case_id": r.case_id, "patient_id": r.patient_id}
        | {key: repr(s["probability"]) for key, s in r.scores.items() if s.get("probability") is not None}
        for r in records
        if r.error is None
    ]
    write_text(path, _csv(("case_id", "patient_id", *keys), rows))
    record = {"format": _ABOUT_FORMAT, **about}
    write_text(path.with_suffix(".json"), json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_unscored(path: Path, records: Sequence[CaseRecord]) -> None:
    """What has no score and why: cases that failed (no finding is named), and findings of an organ that cannot be scored."""
    rows = []
    for record in records:
        if record.error is not None:
            rows.append({"case_id": record.case_id, "split": record.split, "reason": record.error})
        for key, score in record.scores.items():
            if score.get("reason"):
                rows.append(
                    {"case_id": record.case_id, "split": record.split, "finding": key, "reason": score["reason"]}
                )
    write_text(path, _csv(("case_id", "split", "finding", "reason"), rows))


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_about(scores: Path) -> dict[str, Any]:
    """What made a table of ours: ``scores.json`` beside ``scores.csv``; empty for a table from elsewhere.

    Raises:
        InputError: the file is there and cannot be read.
    """
    path = scores.with_suffix(".json")
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        ours = record.get("format") == _ABOUT_FORMAT
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); remove it if it does not belong to {scores.name}."
        ) from error
    return {name: value for name, value in record.items() if name != "format"} if ours else {}

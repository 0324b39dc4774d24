"""``results.json``, ``findings.csv`` and ``links.csv``. The format is described in ``docs/results_schema.md``."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np

from ..types import AnalysisResult, FindingScore, Heatmap, ReportComparison, Sentence
from .labels import finite, jsonable, notice, score_reason
from .plan import ExportPlan

SCHEMA, SCHEMA_VERSION = "ctgvlm-results", "1.0"


def results_document(plan: ExportPlan) -> dict[str, object]:
    """The content of ``results.json``: only what strict JSON can hold, NaN nowhere."""
    result = plan.result
    warnings = dict.fromkeys([*result.case.warnings, *result.warnings, *plan.warnings])
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "notice": notice(result.model),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "case": _case(result),
        "model": jsonable(result.model),
        "settings": jsonable(result.settings),
        "findings": [_finding(score) for score in result.findings],
        "organs": jsonable(result.organs),
        "sentences": [_sentence(result.report.text, s) for s in result.report.sentences],
        "links": [{**jsonable(link), "picture": _picture_file(plan, link.sentence)} for link in result.links],
        "comparisons": [_comparison(c) for c in result.comparisons],
        "heatmaps": [_heatmap(h, file) for h, file in zip(result.heatmaps, plan.heatmap_files, strict=True)],
        "pictures": _pictures(plan),
        "timings_s": jsonable(result.timings_s),
        "warnings": list(warnings),
        "versions": jsonable(result.versions),
        "files": list(plan.files),
    }


def results_json(document: dict[str, object]) -> bytes:
    """UTF-8. A lone surrogate of a damaged report becomes its ``\\uXXXX`` escape, which JSON allows."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode("utf-8", "backslashreplace")


def _case(result: AnalysisResult) -> dict[str, object]:
    case = result.case
    k, j, i = case.ct.array_kji.shape
    spacing = case.ct.spacing_ijk
    text = result.report.text
    return {
        "name": case.ct.name,
        "ct": {
            "source": case.ct.source,
            "sha256": case.ct.sha256,
            "shape_kji": [k, j, i],
            "spacing_mm": list(spacing),
            "ijk_to_ras": jsonable(np.asarray(case.ct.ijk_to_ras, float)),
        },
        "segmentation": {
            "source": case.segmentation.source,
            "sha256": case.segmentation.sha256,
            "segments": [{"label": int(v), "name": name} for v, name in sorted(case.segmentation.names.items())],
        },
        "report": {
            "source": case.report_source,
            "sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
            "text": text,
        },
    }


def _finding(score: FindingScore) -> dict[str, object]:
    return {
        "organ": score.organ,
        "finding": score.finding,
        "probability": finite(score.probability),
        "calibrated": bool(score.calibrated),
        "reason": score_reason(score),
        "margin": finite(score.margin),
        "positive": list(score.positive),
        "negative": list(score.negative),
        "source": score.source,
    }


def _comparison(comparison: ReportComparison) -> dict[str, object]:
    return {**jsonable(comparison), "probability": finite(comparison.probability)}


def _sentence(text: str, sentence: Sentence) -> dict[str, object]:
    return {**jsonable(sentence), "text": text[sentence.start : sentence.end]}


def _heatmap(heatmap: Heatmap, file: str | None) -> dict[str, object]:
    """Least and largest value over the whole grid, which is zero outside the stored box."""
    values = np.nan_to_num(heatmap.values_kji, nan=0.0, posinf=0.0, neginf=0.0)
    return {
        "file": file,
        "organ": heatmap.organ,
        "finding": heatmap.finding,
        "source": heatmap.source,
        "method": heatmap.method,
        "unit": heatmap.unit,
        "min": float(min(values.min(initial=0.0), 0.0)),
        "max": float(max(values.max(initial=0.0), 0.0)),
    }


def _picture_file(plan: ExportPlan, sentence: int) -> str | None:
    number = plan.picture_of_sentence.get(sentence)
    return None if number is None else plan.pictures[number].file


def _pictures(plan: ExportPlan) -> list[dict[str, object]]:
    pictures = []
    for picture in plan.pictures:
        heatmap = None if picture.heatmap is None else plan.result.heatmaps[picture.heatmap]
        pictures.append(
            {
                "file": picture.file,
                "kind": picture.kind,
                "organ": heatmap and heatmap.organ,
                "finding": heatmap and heatmap.finding,
                "segments": list(picture.segments),
                "sentences": list(picture.sentences),
            }
        )
    return pictures


# ---------------------------------------------------------------- CSV


def findings_csv(plan: ExportPlan) -> bytes:
    """One row per finding. Empty cells are what was not scored; ``reason`` then says why."""
    said = notice(plan.result.model)
    header = ("organ", "finding", "probability", "calibrated", "margin", "reason", "source",
              "positive", "negative", "heatmap", "report", "discrepancy", "comparison", "notice")  # fmt: skip
    rows = []
    for place, score in enumerate(plan.result.findings):
        number = plan.heatmap_of_score.get(place)
        said_by_report = plan.comparison_of_score.get(place)
        rows.append(
            (
                score.organ,
                score.finding,
                finite(score.probability),
                "yes" if score.calibrated else "no",
                finite(score.margin),
                score_reason(score),
                score.source,
                " | ".join(score.positive),
                " | ".join(score.negative),
                None if number is None else plan.heatmap_files[number],
                said_by_report and said_by_report.report,
                said_by_report and ("yes" if said_by_report.discrepancy else "no"),
                said_by_report and said_by_report.reason,
                said,
            )
        )
    return _csv(header, rows)


def links_csv(plan: ExportPlan) -> bytes:
    """One row per link of a sentence; lists are joined with "; ". Sentences are numbered from 1, as on the page."""
    result, said = plan.result, notice(plan.result.model)
    header = ("sentence", "start", "end", "section", "text", "segments", "missing_segments", "organs", "findings",
              "centre_i", "centre_j", "centre_k", "source", "picture", "notice")  # fmt: skip
    rows = []
    for link in result.links:
        sentence = result.report.sentences[link.sentence]
        findings = "; ".join(f"{f.name} ({f.status})" for f in sentence.findings)
        rows.append(
            (
                link.sentence + 1,  # as the page counts
                sentence.start,
                sentence.end,
                sentence.section,
                result.report.text[sentence.start : sentence.end],
                "; ".join(link.segments),
                "; ".join(link.missing_segments),
                "; ".join(link.organs),
                findings,
                *(link.centre_ijk or (None, None, None)),
                link.source,
                _picture_file(plan, link.sentence),
                said,
            )
        )
    return _csv(header, rows)


def _csv(header: tuple[str, ...], rows: Iterable[tuple]) -> bytes:
    """RFC 4180: comma, CRLF, quotes doubled; UTF-8 without a byte order mark."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> object:
    """Text that a spreadsheet would run as a formula gets an apostrophe before it (OWASP, "CSV injection").

    Report sentences and prompts are strangers' text, and "- no effusion" is a common beginning. Numbers stay numbers,
    negative ones too. ``results.json`` holds the exact text.
    """
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return "'" + value
    return value

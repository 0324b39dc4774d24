"""What the findings table shows, its order and its filter. Plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..types import AnalysisResult, FindingScore, ReportComparison

COLUMNS = ("Organ", "Finding", "Prob.", "Report", "Agrees")
PROBABILITY, AGREEMENT = 2, 4
NO_VALUE = "–"
Agreement = Literal["no", "yes", "open", "–"]
_REPORT_WORDS = {"historical": "in the past", "not mentioned": "silent"}


@dataclass(frozen=True)
class FindingRow:
    """One row. ``report``: what the report says; ``sentences``: indices of the sentences that say it.

    ``agreement``: "no": a discrepancy. "open": the report leaves it open, or is silent and the image negative. "–": not
    scored, or not compared.
    """

    organ: str
    finding: str
    source: Literal["registry", "prompt"]
    probability: float | None
    calibrated: bool
    report: str
    agreement: Agreement
    severity: float
    reason: str
    sentences: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        """What tells rows apart."""
        return self.organ, self.finding

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """The texts of the columns."""
        probability = NO_VALUE if self.probability is None else f"{self.probability:.2f}"
        return self.organ.replace("_", " "), self.finding, probability, self.report, self.agreement


def finding_rows(result: AnalysisResult) -> list[FindingRow]:
    """One row per score: discrepancies first by severity, then by probability; what was not scored comes last."""
    compared = {(c.organ, c.finding, c.source): c for c in result.comparisons}
    rows = [_row(score, compared.get((score.organ, score.finding, score.source))) for score in result.findings]
    return sorted(rows, key=_default_order)


def _default_order(row: FindingRow) -> tuple:
    return (
        row.agreement != "no",
        -row.severity if row.agreement == "no" else 0.0,
        row.probability is None,
        -(row.probability or 0.0),
        row.key,
    )


def report_words(comparison: ReportComparison | None) -> str:
    """What the report says, as the table has it."""
    said = comparison.report if comparison else NO_VALUE
    return _REPORT_WORDS.get(said, said)


def _row(score: FindingScore, comparison: ReportComparison | None) -> FindingRow:
    return FindingRow(
        organ=score.organ,
        finding=score.finding,
        source=score.source,
        probability=score.probability,
        calibrated=score.calibrated,
        report=report_words(comparison),
        agreement=_agreement(score, comparison),
        severity=comparison.severity if comparison else 0.0,
        reason=_reason(score, comparison),
        sentences=comparison.sentences if comparison else (),
    )


def _agreement(score: FindingScore, comparison: ReportComparison | None) -> Agreement:
    if score.probability is None or comparison is None:
        return NO_VALUE
    if comparison.discrepancy:
        return "no"
    agreed = {("present", "positive"), ("absent", "negative")}
    return "yes" if (comparison.report, comparison.image) in agreed else "open"


def _reason(score: FindingScore, comparison: ReportComparison | None) -> str:
    if comparison is not None:
        return comparison.reason
    if score.probability is None:
        return f"Not scored: {score.reason}."
    kind = "calibrated" if score.calibrated else "raw, not calibrated: not a frequency"
    return f"Probability {score.probability:.2f} ({kind}). Not compared with a report."


def filtered(rows: Iterable[FindingRow], words: str, discrepancies_only: bool) -> list[FindingRow]:
    """The rows that hold every word of ``words`` in some column, in any case."""
    wanted = words.casefold().split()
    return [
        row
        for row in rows
        if (row.agreement == "no" or not discrepancies_only)
        and all(any(word in cell.casefold() for cell in row.cells) for word in wanted)
    ]


def ordered(rows: Sequence[FindingRow], column: int | None, descending: bool) -> list[FindingRow]:
    """Sorted by a column, stably; None gives the default order. What was not scored stays last either way."""
    if column is None:
        return sorted(rows, key=_default_order)
    if column == PROBABILITY:
        scored = [row for row in rows if row.probability is not None]
        scored.sort(key=lambda row: row.probability, reverse=descending)
        return scored + [row for row in rows if row.probability is None]
    return sorted(rows, key=lambda row: row.cells[column].casefold(), reverse=descending)

"""What decomposition makes of a report, and its JSON form: one object per line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OrganStatus = Literal["normal", "abnormal", "uncertain", "not mentioned"]
Normality = Literal["status", "legacy"]


@dataclass(frozen=True)
class ReportText:
    """A report to decompose."""

    report_id: str
    text: str


@dataclass(frozen=True)
class OrganDescription:
    """What a report says of one organ.

    ``findings`` and ``impression``: the text on this organ in each section, empty where there is none. ``sentences``:
    offsets into the report's text, in order. ``caption`` and ``encoded_text``: only with legacy normality.
    """

    findings: str = ""
    impression: str = ""
    status: OrganStatus = "not mentioned"
    sentences: tuple[tuple[int, int], ...] = ()
    caption: str | None = None
    encoded_text: str | None = None


@dataclass(frozen=True)
class Decomposition:
    """One line of the output. ``organs`` is empty where ``error`` gives a reason: a failure is never a description."""

    report: ReportText
    settings: Mapping[str, Any]
    organs: Mapping[str, OrganDescription] = field(default_factory=dict)
    error: str | None = None

    def to_record(self) -> dict[str, Any]:
        """The JSON object; ``method`` is one of ``settings``."""
        settings = dict(self.settings)
        return {
            "report_id": self.report.report_id,
            "organs": {organ: _organ_record(description) for organ, description in self.organs.items()},
            "method": settings.pop("method"),
            "error": self.error,
            "settings": settings,
            "text": self.report.text,
        }


def _organ_record(description: OrganDescription) -> dict[str, Any]:
    record: dict[str, Any] = {
        "findings": description.findings,
        "impression": description.impression,
        "status": description.status,
        "sentences": [list(span) for span in description.sentences],
    }
    if description.caption is not None:
        record |= {"caption": description.caption, "encoded_text": description.encoded_text}
    return record

"""Normality of an organ: an explicit status from the findings, and the rule of fVLM's release as ``legacy``."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.types import ReportFinding

from .records import OrganDescription, OrganStatus

NORMAL = "abnormality"  # the finding's name in "the liver is normal" (status absent)


def status_of(findings: Iterable[ReportFinding]) -> OrganStatus:
    """The status of an organ that the report mentions, from all findings that it asserts of the organ.

    A present finding, or one that surgery has left (historical, "cholecystectomy") -> abnormal; else an uncertain one ->
    uncertain; else only absent or resolved ones -> normal. No finding at all (a size, a limited view) -> uncertain: the
    report names the organ and says neither.
    """
    statuses = {f.status if f.status != "historical" or not is_surgery(f.name) else "present" for f in findings}
    if "present" in statuses:
        return "abnormal"
    if "uncertain" in statuses or not statuses:
        return "uncertain"
    return "normal"


def is_surgery(finding: str) -> bool:
    """Whether a historical finding of that name has changed the organ for good."""
    words = _surgery()
    return any(
        word in words["surgery_words"] or word.endswith(tuple(words["surgery_endings"]))
        for word in re.findall(r"[a-z]+", finding.lower())
    )


@functools.cache
def _surgery() -> Mapping[str, Any]:
    return json.loads((Path(__file__).parent / "normality.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class LegacyCaption:
    """A training text as fVLM's release builds it. ``encoded_text`` is what its text tower reads."""

    caption: str
    abnormal: bool
    encoded_text: str


def legacy_caption(organ: str, description: str | None, conclusion: str | None) -> LegacyCaption:
    """The release's text and flag of one organ; None where its ``desc_info`` or ``conc_info`` lacks the organ.

    As alibaba-damo-academy/fvlm does, quirks included: a missing conclusion becomes "<organ> shows no significant
    abnormalities." and makes the organ normal whatever the description says; an empty one becomes "." and makes it abnormal.
    """
    template = f"{organ} shows no significant abnormalities."
    caption = template if conclusion is None else _with_full_stop(conclusion)
    caption += "" if description is None else _with_full_stop(description)
    caption = caption.translate(_REMOVED)
    encoded = caption if caption == template else caption.replace(template, "")
    return LegacyCaption(caption, not caption.startswith(template), encoded)


_REMOVED = str.maketrans("", "", "\"'()")


def _with_full_stop(text: str) -> str:
    return text if text.endswith(".") else text + "."


def with_legacy_normality(organs: Mapping[str, OrganDescription]) -> dict[str, OrganDescription]:
    """``organs`` with the release's captions and its two-valued status: nothing is "not mentioned" or "uncertain"."""
    return {organ: _legacy(organ, description) for organ, description in organs.items()}


def _legacy(organ: str, description: OrganDescription) -> OrganDescription:
    made = legacy_caption(organ, description.findings or None, description.impression or None)
    status: OrganStatus = "abnormal" if made.abnormal else "normal"
    return replace(description, status=status, caption=made.caption, encoded_text=made.encoded_text)

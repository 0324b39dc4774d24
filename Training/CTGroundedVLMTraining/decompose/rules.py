"""Decomposition by the report parser: sentences with their segments and findings, gathered per organ."""

from __future__ import annotations

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import ReportFinding

from .attribution import attribute
from .normality import status_of
from .organs import OrganFinder
from .records import OrganDescription

LINKED_SECTIONS = ("findings", "impression", "other")


def decompose_by_rules(text: str, finder: OrganFinder) -> dict[str, OrganDescription]:
    """Every organ of the group: its sentences verbatim (white space joined) and its status.

    A sentence in the findings section or an addendum goes to ``findings``, one in the impression to ``impression``; a
    finding counts wherever it stands. An organ without a sentence is "not mentioned".
    """
    spans: dict[str, list[tuple[int, int]]] = {organ: [] for organ in finder.names}
    texts: dict[str, dict[str, list[str]]] = {organ: {"findings": [], "impression": []} for organ in finder.names}
    findings: dict[str, list[ReportFinding]] = {organ: [] for organ in finder.names}
    for sentence in parse_report(text).sentences:
        if sentence.section not in LINKED_SECTIONS:
            continue
        words = text[sentence.start : sentence.end]
        organs = finder.find(words, sentence.segments)
        for organ, own in attribute(sentence, words, organs, finder).items():
            spans[organ].append((sentence.start, sentence.end))
            texts[organ]["impression" if sentence.section == "impression" else "findings"].append(joined(words))
            findings[organ] += own
    return {
        organ: OrganDescription(
            findings=" ".join(texts[organ]["findings"]),
            impression=" ".join(texts[organ]["impression"]),
            status=status_of(findings[organ]) if spans[organ] else "not mentioned",
            sentences=tuple(spans[organ]),
        )
        for organ in finder.names
    }


def joined(text: str) -> str:
    """``text`` on one line, ended by a full stop where it has no end of its own."""
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?", ":")) or not line else f"{line}."

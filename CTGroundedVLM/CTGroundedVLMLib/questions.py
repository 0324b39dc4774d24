"""What a question in free words ("show me a cyst in the left kidney") asks, and of which organ. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import InputError
from .report import parse_report

_LEAD = re.compile(
    r"^(?:please\s+)?(?:(?:show|find|highlight|locate)(?:\s+me)?|look\s+for|where\s+(?:is|are)|(?:is|are)\s+there)\s+"
    r"(?:(?:an?|any|the)\s+)?",
    re.IGNORECASE,
)


def question_finding(text: str) -> str:
    """The question without what only makes it one: "Where is the cyst?" -> "cyst"."""
    text = " ".join(text.split())
    return _LEAD.sub("", text).rstrip(" ?.") or text


def question_organ(text: str, organs: Mapping[str, tuple[str, ...]]) -> str:
    """The model's organ that ``text`` names, by its own name or by a segment of it.

    Args:
        organs: the model's organs and the TotalSegmentator classes of each.

    Raises:
        InputError: it names none of them, or several; the message lists the organs.
    """
    named = [organ for organ in organs if re.search(rf"\b{re.escape(organ)}s?\b", text, re.IGNORECASE)]
    if len(named) == 1:
        return named[0]
    segments = {name for sentence in parse_report(text).sentences for name in sentence.segments}
    holders = [organ for organ, classes in organs.items() if segments & set(classes)]
    whole = [organ for organ in holders if segments <= set(organs[organ])]
    for candidates in (whole, holders):
        if len(candidates) == 1:
            return candidates[0]
    found = (
        f"names several organs ({', '.join(holders or named)})" if holders or named else "names no organ of the model"
    )
    raise InputError(f'The question "{text:.200}" {found}. Choose one of: {", ".join(organs)}.')

"""The content tree of a DICOM structured report as plain text (PS3.3 C.17.3, templates TID 2000 and 1500 in PS3.16).

A container becomes a heading ("Findings:"), a text item its text, a coded or numeric item a line "Name: value, property.".
Who observed, with which device, and references to images say nothing of the patient's organs: they are left out, and so
are persons' names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .errors import ReportError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MAX_DEPTH = 40  # real reports are 3 to 8 deep
_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT"})
_PROPERTIES = frozenset({"HAS CONCEPT MOD", "HAS PROPERTIES"})
# In TID 2000 an item's name repeats what its section says already: Finding, Conclusion, Recommendation, ...
_PLAIN_NAMES = frozenset({"finding", "impression", "conclusion", "recommendation", "history", "request", "comment",
                          "description", "report", "text", "document title", "diagnosis", "summary"})  # fmt: skip
_NO_UNIT = re.compile(r"\{.*\}|1")  # UCUM annotations ("{ratio}") and the unit 1 are no units to a reader


def structured_text(document: Dataset, what: str) -> str:
    """The text of a structured report.

    Raises:
        ReportError: the data set is no structured report, or has no text.
    """
    modality = document.get("Modality") or "unknown"
    if "ContentSequence" not in document and modality != "SR":
        kind = "an encapsulated document (PDF)" if "EncapsulatedDocument" in document else f"of modality {modality}"
        raise ReportError(f"{what} is DICOM {kind}; a structured report (SR) or a text file is expected.")
    lines = list(_children(document, heading="", depth=0))
    while lines and not lines[0]:
        lines.pop(0)
    text = "\n".join(lines).rstrip()
    if not any(line and not line.endswith(":") for line in lines):
        raise ReportError(f"{what} is a structured report without text. Choose another report, or paste its text.")
    return text + "\n"


def _children(item: Dataset, heading: str, depth: int) -> Iterator[str]:
    """The lines of what an item holds. Properties of a text, code or number are part of its own line already; of a
    section they are lines; of the whole document (its language) they say nothing."""
    if depth > _MAX_DEPTH:
        raise ReportError(f"The structured report is nested more than {_MAX_DEPTH} levels deep: it is damaged.")
    skipped = _CONTEXT if depth > 0 and item.get("ValueType") == "CONTAINER" else _CONTEXT | _PROPERTIES
    for child in item.get("ContentSequence") or ():
        if child.get("RelationshipType", "") not in skipped:
            yield from _item(child, heading, depth)
            if depth == 0:  # several items of one name under no section share one heading
                heading = _meaning(child.get("ConceptNameCodeSequence"))


def _item(item: Dataset, heading: str, depth: int) -> Iterator[str]:
    kind, name = item.get("ValueType", ""), _meaning(item.get("ConceptNameCodeSequence"))
    if kind == "CONTAINER":
        inner = list(_children(item, name or heading, depth + 1))
        if any(inner):
            yield from ("", f"{name}:") if name and not _same(name, heading) else ()
            yield from inner
        return
    if value := _value(item, kind):
        value = _with_properties(item, value, depth)
        as_section = depth == 0 and kind == "TEXT" and name
        if as_section and not _same(name, heading):
            yield from ("", f"{name}:")
        plain = not name or (kind == "TEXT" and (as_section or _same(name, heading) or name.lower() in _PLAIN_NAMES))
        yield from _lines(value if plain else f"{name}: {value}", finish=kind != "TEXT" or not plain)
    if kind in ("TEXT", "CODE", "NUM"):
        yield from _children(item, heading, depth + 1)


def _with_properties(item: Dataset, value: str, depth: int) -> str:
    """Laterality, site and size belong into the sentence of the finding that they describe."""
    if depth > _MAX_DEPTH:
        return value
    for child in item.get("ContentSequence") or ():
        kind = child.get("ValueType", "")
        if child.get("RelationshipType") in _PROPERTIES and (inner := _value(child, kind)):
            name = _meaning(child.get("ConceptNameCodeSequence"))
            inner = _with_properties(child, inner, depth + 1)
            value = f"{value.rstrip('. ')}, {inner if kind == 'CODE' or not name else f'{name} {inner}'}"
    return value


def _value(item: Dataset, kind: str) -> str:
    if kind == "TEXT":
        return _clean(item.get("TextValue"))
    if kind == "CODE":
        return _meaning(item.get("ConceptCodeSequence"))
    if kind == "NUM":
        return _number(item)
    if kind == "DATE":
        return _clean(item.get("Date"))
    return ""


def _number(item: Dataset) -> str:
    """The value with its unit; "" where nothing was measured (an empty sequence with a qualifier)."""
    measured = item.get("MeasuredValueSequence")
    value = measured[0].get("NumericValue") if measured else None
    if value is None:
        return ""
    number = _clean(value[0] if isinstance(value, Sequence) else value)
    units = measured[0].get("MeasurementUnitsCodeSequence")
    unit = _clean(units[0].get("CodeValue")) if units else ""
    return number if not unit or _NO_UNIT.fullmatch(unit) else f"{number} {unit}"


def _meaning(codes: object) -> str:
    return _clean(codes[0].get("CodeMeaning")) if codes else ""


def _clean(value: object) -> str:
    text = "" if value is None else str(value)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").strip()


def _same(name: str, heading: str) -> bool:
    """Whether an item's name says what its heading says: "Finding" under "Findings"."""
    return name.lower().rstrip("s") == heading.lower().rstrip("s")


def _lines(text: str, finish: bool) -> Iterator[str]:
    lines = text.split("\n")
    if finish and lines[-1] and lines[-1][-1] not in ".!?:;":
        lines[-1] += "."
    yield from lines

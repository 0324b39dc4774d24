"""Measurements (in mm) and image citations of a sentence."""

from __future__ import annotations

import re

from ..types import Citation, Measurement

_NUMBER = r"\d{1,4}(?:[.,]\d{1,2})?"
_SIZE = re.compile(
    rf"(?<![\d.,/])({_NUMBER})\s?-?(mm|cm)?((?:\s?(?:x|by|\*)\s?{_NUMBER}\s?(?:mm|cm)?){{0,2}})\s?-?(mms?|cms?|millimeters?|centimeters?"
    rf"|millimetres?|centimetres?)?(?![\w²³])"
)
_NEXT_AXIS = re.compile(rf"(?:x|by|\*)\s?({_NUMBER})\s?(mm|cm)?")
_SERIES = r"(?:series|serie|ser|se|sr)"
_IMAGE = r"(?:images?|img|ims?|bild|slices?|schicht)"
_CITATION = re.compile(
    rf"\b{_SERIES}\.?\s?[#:]?\s?(\d{{1,4}})\s?[,;/]?\s?(?:and\s)?{_IMAGE}\.?\s?(?:number|no\.?)?\s?[#:]?\s?(\d{{1,4}})"
    rf"|\b{_IMAGE}\.?\s?[#:]?\s?(\d{{1,4}})\s?(?:of|on|from|,|/)?\s?{_SERIES}\.?\s?[#:]?\s?(\d{{1,4}})"
    r"|[(\[]\s?(\d{1,3})\s?[:/]\s?(\d{1,4})\s?[)\]]"
    rf"|\b{_IMAGE}\.?\s?(?:number|no\.?)?\s?[#:]?\s?(\d{{1,4}})"
)


def find_measurements(folded: str, start: int, end: int) -> tuple[Measurement, ...]:
    """Lengths in ``folded[start:end]`` in mm, one value per axis; a unit after the last axis holds for all."""
    found = []
    for match in _SIZE.finditer(folded, start, end):
        first, first_unit, others, last_unit = match.groups()
        axes = [(first, first_unit), *_NEXT_AXIS.findall(others)]
        unit = last_unit or next((u for _, u in reversed(axes) if u), None)
        if unit is None:
            continue
        values = tuple(_millimetres(number, own or unit) for number, own in axes)
        found.append(Measurement(values, match.start(), match.end()))
    return tuple(found)


def _millimetres(number: str, unit: str) -> float:
    factor = 10.0 if unit.startswith("c") else 1.0
    return round(float(number.replace(",", ".")) * factor, 3)


def find_citations(folded: str, start: int, end: int) -> tuple[Citation, ...]:
    """References to images in ``folded[start:end]``: "series 4, image 112", "(4/156)", "Serie 4, Bild 12", "image 7"."""
    found = []
    for match in _CITATION.finditer(folded, start, end):
        series, image, image_first, series_after, series_short, image_short, image_only = match.groups()
        number = image or image_first or image_short or image_only
        of = series or series_after or series_short
        if series_short and _is_date(folded, match):
            continue
        found.append(Citation(int(of) if of else None, int(number), match.start(), match.end()))
    return tuple(found)


def _is_date(folded: str, match: re.Match[str]) -> bool:
    """Whether "(1/20)" is said to be a date ("CT of (1/20)")."""
    return folded[max(0, match.start() - 12) : match.start()].rstrip().endswith(("dated", "since", "date"))

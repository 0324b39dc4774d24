"""The segments that 3D Slicer's ``.seg.nrrd`` header describes.

Keys as vtkMRMLSegmentationStorageNode writes them: ``Segment0_Name``, ``Segment0_LabelValue``, ``Segment0_Layer``,
``Segment0_Tags`` (``key:value|key:value``), the tag ``TerminologyEntry`` among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from . import anatomy
from .errors import SegmentationError

_SEGMENT_KEY = re.compile(r"Segment(\d+)_(?:ID|Name)$")


@dataclass(frozen=True)
class SlicerSegment:
    """One segment. ``terminology``: see ``parse_terminology``."""

    name: str
    label: int
    layer: int
    terminology: tuple[str, str, str, str, str]

    def class_name(self) -> str | None:
        """The TotalSegmentator v2 class: by terminology, else by name."""
        by_code = anatomy.match_terminology(*self.terminology) if self.terminology[1] else None
        return by_code or anatomy.match_segment_name(self.name)


def is_slicer_segmentation(metadata: Mapping[str, str]) -> bool:
    """Whether a NRRD header's fields describe segments."""
    return any(_SEGMENT_KEY.match(key) for key in metadata)


def slicer_segments(metadata: Mapping[str, str], what: str) -> list[SlicerSegment]:
    """The segments in a NRRD header's fields, by number. Errors: SegmentationError, which names ``what``."""
    numbers = sorted({int(match[1]) for key in metadata if (match := _SEGMENT_KEY.match(key))})
    try:
        return [_segment(metadata, number) for number in numbers]
    except ValueError as exc:
        raise SegmentationError(
            f"{what} is damaged: a segment's label value or layer is no number ({exc}). Save it again in 3D Slicer."
        ) from exc


def _segment(metadata: Mapping[str, str], number: int) -> SlicerSegment:
    def field(name: str, default: object) -> str:
        return metadata.get(f"Segment{number}_{name}", str(default)).strip()

    # Slicer 4.10 and older wrote one binary layer per segment, and neither label value nor layer.
    old = f"Segment{number}_LabelValue" not in metadata
    return SlicerSegment(
        name=field("Name", field("ID", number)),
        label=int(field("LabelValue", 1)),
        layer=int(field("Layer", number if old else 0)),
        terminology=parse_terminology(field("Tags", "")),
    )


def parse_terminology(tags: str) -> tuple[str, str, str, str, str]:
    """Code values of category, type, type modifier, region and region modifier in a segment's tags, "" where absent.

    The entry reads ``context~category~type~modifier~region context~region~region modifier``, each code being
    ``scheme^value^meaning``.
    """
    for tag in tags.split("|"):
        key, _, entry = tag.partition(":")
        if key.strip() == "TerminologyEntry":
            codes = [code.split("^")[1] if code.count("^") >= 2 else "" for code in entry.split("~")]
            codes += [""] * (7 - len(codes))
            return codes[1], codes[2], codes[3], codes[5], codes[6]
    return "", "", "", "", ""

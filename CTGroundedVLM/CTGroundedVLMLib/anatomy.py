"""The organ registry: segments, their codes, the organs of a model, the findings of an organ, prompt templates.

Everything lies in ``data/*.json``, whose ``source`` keys say where each part comes from; it is read once, on first use.
Standard library only: the Slicer panel imports this module.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from .anatomy_data import (
    Code,
    Finding,
    Organ,
    OrganGroup,
    SegmentClass,
    close_matches,
    read_findings,
    read_organ_groups,
    read_prompt_templates,
    read_segments,
    read_v1_labels,
)
from .errors import InputError, SegmentationError

__all__ = [
    "Code",
    "Finding",
    "Organ",
    "OrganGroup",
    "SegmentClass",
    "finding_sets",
    "findings",
    "is_known_organ",
    "label_names",
    "match_segment_name",
    "match_terminology",
    "organ_group",
    "organ_groups",
    "prompt_templates",
    "segment",
    "segment_classes",
]

DATA = Path(__file__).parent / "data"
_SIDES = {"left": "7771000", "right": "24028007"}  # SNOMED CT


@functools.cache
def segment_classes() -> tuple[SegmentClass, ...]:
    """The 117 classes of TotalSegmentator v2's ``total`` task, by label."""
    return read_segments(DATA / "segments.json")


@functools.cache
def _v1_labels() -> dict[str, tuple[int, str | None]]:
    return read_v1_labels(DATA / "segments.json", segment_classes())


@functools.cache
def _by_name() -> dict[str, SegmentClass]:
    return {c.name: c for c in segment_classes()}


@functools.cache
def _groups() -> dict[str, OrganGroup]:
    return read_organ_groups(DATA / "organ_groups.json", v2=_by_name().keys(), v1=_v1_labels().keys())


@functools.cache
def _organs() -> frozenset[str]:
    return frozenset(name for group in _groups().values() for name in group.names)


@functools.cache
def _findings() -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    return read_findings(DATA / "findings.json", _organs())


def segment(name: str) -> SegmentClass:
    """The class of exactly that TotalSegmentator v2 name (``match_segment_name`` finds one for a free name).

    Raises:
        SegmentationError: no class has that name; the message suggests close ones.
    """
    try:
        return _by_name()[name]
    except KeyError:
        close = close_matches(name, _by_name()) or "; expected a name such as liver or kidney_left"
        raise SegmentationError(f"no TotalSegmentator v2 class is called {name!r}{close}") from None


def label_names(version: int = 2) -> dict[int, str]:
    """Label value -> TotalSegmentator **v2** class name, for masks of TotalSegmentator ``version`` 1 or 2.

    v1's five heart classes all map to ``heart``; v1 classes that v2's ``total`` lacks (face, pulmonary_artery) are left
    out.

    Raises:
        SegmentationError: another version.
    """
    if version == 2:
        return {c.label: c.name for c in segment_classes()}
    if version == 1:
        return dict(sorted((label, name) for label, name in _v1_labels().values() if name is not None))
    raise SegmentationError(f"TotalSegmentator version {version!r} is not known; expected 1 or 2")


def organ_groups() -> tuple[str, ...]:
    """Names of the organ groups."""
    return tuple(_groups())


def organ_group(name: str) -> OrganGroup:
    """The organ group of that name.

    Raises:
        InputError: no such group; the message lists them.
    """
    if name not in _groups():
        raise InputError(f"no organ group is called {name!r}; expected one of {', '.join(_groups())}")
    return _groups()[name]


def is_known_organ(name: str) -> bool:
    """Whether an organ group of the registry has an organ of that name."""
    return name in _organs()


def finding_sets() -> tuple[str, ...]:
    """Names of the finding sets."""
    return _findings()[0]


def findings(organ: str | None = None, in_set: str | None = None) -> tuple[Finding, ...]:
    """The findings, of one organ and of one set where these are given, in the set's order.

    Raises:
        InputError: no organ group has that organ, or there is no such set. A known organ without findings gives ().
    """
    if organ is not None and organ not in _organs():
        raise InputError(f"no organ is called {organ!r}{close_matches(organ, _organs())}")
    if in_set is not None and in_set not in finding_sets():
        raise InputError(f"no finding set is called {in_set!r}; expected one of {', '.join(finding_sets())}")
    return tuple(f for f in _findings()[1] if organ in (None, f.organ) and (in_set is None or in_set in f.sets))


@functools.cache
def prompt_templates() -> tuple[tuple[str, str], ...]:
    """RadFinder's seven (positive, negative) format strings; ``{finding}`` takes a finding's term."""
    return read_prompt_templates(DATA / "prompt_templates.json")


# --- Matching names and codes of other tools ---------------------------------------------------------------------

_TOKENS = {
    "first": "1",
    "second": "2",
    "third": "3",
    "fourth": "4",
    "fifth": "5",
    "sixth": "6",
    "seventh": "7",
    "eighth": "8",
    "ninth": "9",
    "tenth": "10",
    "eleventh": "11",
    "twelfth": "12",
    "l": "left",
    "lt": "left",
    "r": "right",
    "rt": "right",
    "vertebrae": "vertebra",
}
_IGNORED = {"of", "the", "and", "segment", "segmentation", "mask", "structure", "organ"}


def _key(text: str) -> tuple[str, ...]:
    """The words of a name in a form that ignores case, separators, order, number and filler words."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # LeftKidney
    words = []
    for word in re.findall(r"[a-z0-9]+", text.lower()):
        word = re.sub(r"^0*(\d+)(?:st|nd|rd|th)?$", r"\1", word)  # 05, 5th
        if len(word) > 4 and re.search(r"[^aius]s$", word):  # kidneys, not humerus, pancreas, axis
            word = word[:-1]
        words.append(_TOKENS.get(word, word))
    return tuple(sorted(word for word in words if word not in _IGNORED))


@functools.cache
def _name_index() -> dict[tuple[str, ...], str]:
    index: dict[tuple[str, ...], str] = {}
    wordings = [(name, v2_name) for name, (_, v2_name) in _v1_labels().items() if v2_name is not None]
    for c in segment_classes():
        codes = [c.terminology[k] for k in ("type", "modifier", "region", "region_modifier") if k in c.terminology]
        coded = " ".join(code.meaning for code in codes)
        wordings += [(text, c.name) for text in (c.name, c.display, coded, *c.synonyms)]
    for text, name in wordings:
        if index.setdefault(_key(text), name) != name:
            raise InputError(f"{DATA / 'segments.json'}: {text!r} names both {index[_key(text)]} and {name}")
    return index


def match_segment_name(text: str) -> str | None:
    """The TotalSegmentator v2 class that a segment's name means, or None.

    Takes v2 and v1 class names, display names, SNOMED meanings and synonyms in any case and word order ("Kidney_L",
    "kidney left", "L1 vertebra", "left 5th rib").
    """
    return text if text in _by_name() else _name_index().get(_key(text))


@functools.cache
def _code_index() -> dict[tuple[str, str, str, str], SegmentClass]:
    index: dict[tuple[str, str, str, str], SegmentClass] = {}
    for c in segment_classes():
        parts = [c.terminology.get(k) for k in ("type", "modifier", "region", "region_modifier")]
        values = tuple(code.value if code else "" for code in parts)
        side = _SIDES.get(c.name.rpartition("_")[2], "")
        # "Middle lobe of right lung" is coded without a side; tools add one all the same.
        for key in {values, (values[0], side, *values[2:]) if not any(values[1:]) else values}:
            if index.setdefault(key, c) is not c:
                raise InputError(f"{DATA / 'segments.json'}: {c.name} and {index[key].name} have the same codes {key}")
    return index


def match_terminology(
    category: str | None,
    type: str,
    modifier: str | None = None,
    region: str | None = None,
    region_modifier: str | None = None,
) -> str | None:
    """The TotalSegmentator v2 class of SNOMED CT code values as Slicer and DICOM SEG give them, or None.

    ``category`` and what does not apply may be None or empty. ``region`` and ``region_modifier`` (anatomic region) tell
    a cyst of the left kidney from one of the right.
    """
    found = _code_index().get((type, modifier or "", region or "", region_modifier or ""))
    if found is None or (category and category != found.terminology["category"].value):
        return None
    return found.name

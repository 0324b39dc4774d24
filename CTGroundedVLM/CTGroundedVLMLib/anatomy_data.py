"""Forms and readers of the organ registry's JSON files; ``anatomy`` holds what ships with the package.

A ``read_*`` function checks all that it reads and names the file in every error, so that a model with other organs or
findings needs data and no code.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .errors import InputError

_TEMPLATE_FIELD = "{finding}"


class Code(NamedTuple):
    """A coded concept as DICOM and Slicer write it, e.g. ("SCT", "10200004", "Liver")."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class SegmentClass:
    """One class of TotalSegmentator's ``total`` task, version 2.

    ``v1_label`` and ``v1_name`` are None where version 1 has no such class or splits it (heart). ``terminology`` holds
    ``category`` and ``type``, and where they apply ``modifier``, ``region`` and ``region_modifier``. ``color``: RGB,
    0 to 255.
    """

    label: int
    name: str
    display: str
    v1_label: int | None
    v1_name: str | None
    terminology: Mapping[str, Code] = field(hash=False)
    color: tuple[int, int, int]
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class Organ:
    """An organ of a model: the TotalSegmentator classes that make it up. ``segments`` is empty where v2 has none."""

    name: str
    segments: tuple[str, ...]
    v1_segments: tuple[str, ...]


@dataclass(frozen=True)
class OrganGroup:
    """The organs of one model, in the model's order."""

    name: str
    organs: tuple[Organ, ...]
    description: str

    @property
    def names(self) -> tuple[str, ...]:
        """The organs' names, in order."""
        return tuple(organ.name for organ in self.organs)


@dataclass(frozen=True)
class Finding:
    """A finding of one organ with its prompt pair.

    ``term``: the lower-case noun phrase for templates. ``synonyms``: report wordings, lower case, singular, unique
    within the organ and set. ``focal``: a lesion with a place, not a diffuse change. ``sets``: the finding sets that hold it.
    """

    organ: str
    name: str
    positive: str
    negative: str
    term: str
    synonyms: tuple[str, ...]
    focal: bool
    sets: tuple[str, ...]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); restore or correct the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object at the top, found {type(content).__name__}")
    return content


def _entries(path: Path, content: Mapping[str, Any], key: str, required: Iterable[str]) -> list[dict[str, Any]]:
    """``content[key]``, checked to be a list of objects that hold the ``required`` keys."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise InputError(f'{path}: expected a list under "{key}"')
    for place, entry in enumerate(entries):
        missing = [name for name in required if not isinstance(entry, dict) or name not in entry]
        if missing:
            raise InputError(f'{path}: entry {place} of "{key}" lacks {", ".join(missing)}')
    return entries


def _check_unique(path: Path, what: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{path}: {what} {value!r} occurs twice; keep one")
        seen.add(value)


def read_segments(path: Path) -> tuple[SegmentClass, ...]:
    """Segment classes of a file of the form of ``data/segments.json``, in its order.

    Raises:
        InputError: the file cannot be read, lacks a key, or names a label, class or display name twice.
    """
    keys = ("label", "name", "display", "v1_label", "v1_name", "terminology", "color", "synonyms")
    classes = []
    for entry in _entries(path, _load(path), "segments", keys):
        codes = {key: Code(*code) for key, code in entry["terminology"].items()}
        if not {"category", "type"} <= codes.keys():
            raise InputError(f"{path}: {entry['name']} needs a terminology with category and type")
        values = {key: entry[key] for key in keys}
        values |= {"terminology": MappingProxyType(codes), "color": tuple(entry["color"])}
        classes.append(SegmentClass(**(values | {"synonyms": tuple(entry["synonyms"])})))
    _check_unique(path, "label", (c.label for c in classes))
    _check_unique(path, "class", (c.name for c in classes))
    _check_unique(path, "display name", (c.display for c in classes))
    _check_unique(path, "v1 label", (c.v1_label for c in classes if c.v1_label is not None))
    return tuple(classes)


def read_v1_labels(path: Path, classes: Iterable[SegmentClass]) -> dict[str, tuple[int, str | None]]:
    """Class name of v1 -> (label of v1, class name of v2 or None where v2's ``total`` has no such class).

    Raises:
        InputError: the file cannot be read, a label occurs twice, or a class is merged into an unknown one.
    """
    content, known = _load(path), {c.name for c in classes}
    table = {c.v1_name: (c.v1_label, c.name) for c in classes if c.v1_name is not None}
    for entry in _entries(path, content, "v1_merged", ("label", "name", "into")):
        if entry["into"] not in known:
            raise InputError(f"{path}: v1's {entry['name']} is merged into the unknown class {entry['into']!r}")
        table[entry["name"]] = (entry["label"], entry["into"])
    for entry in _entries(path, content, "v1_without_v2", ("label", "name")):
        table[entry["name"]] = (entry["label"], None)
    _check_unique(path, "v1 label", (label for label, _ in table.values()))
    return table


def read_organ_groups(path: Path, v2: Collection[str], v1: Collection[str]) -> dict[str, OrganGroup]:
    """Organ groups of a file of the form of ``data/organ_groups.json``, by name. ``v2``, ``v1``: the known class names.

    Raises:
        InputError: the file cannot be read, an organ occurs twice in a group, a class is unknown or belongs to two
            organs of one group, or an organ has no class at all.
    """
    entries = _entries(path, _load(path), "groups", ("name", "description", "organs"))
    _check_unique(path, "group", (entry["name"] for entry in entries))
    groups = {}
    for entry in entries:
        organs = tuple(
            Organ(organ["name"], tuple(organ["segments"]), tuple(organ["v1_segments"]))
            for organ in _entries(path, entry, "organs", ("name", "segments", "v1_segments"))
        )
        group = groups[entry["name"]] = OrganGroup(entry["name"], organs, entry["description"])
        _check_unique(path, f"{group.name}: organ", group.names)
        _check_classes(path, f"{group.name}: v2 class", [name for o in organs for name in o.segments], v2)
        _check_classes(path, f"{group.name}: v1 class", [name for o in organs for name in o.v1_segments], v1)
        for organ in organs:
            if not (organ.segments or organ.v1_segments):
                raise InputError(f"{path}: organ {organ.name!r} of {group.name} has no class; name at least one")
    return groups


def _check_classes(path: Path, what: str, names: Iterable[str], known: Collection[str]) -> None:
    _check_unique(path, what, names)
    for name in names:
        if name not in known:
            raise InputError(f"{path}: {what} {name!r} is not known to TotalSegmentator{close_matches(name, known)}")


def read_findings(path: Path, organs: Collection[str]) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """The finding sets' names and the findings of a file of the form of ``data/findings.json``, in its order.

    ``organs``: the names that a finding's organ may have.

    Raises:
        InputError: the file cannot be read, names an unknown organ or set, or a wording stands for two findings of
            one organ in one set.
    """
    content = _load(path)
    sets = tuple(entry["name"] for entry in _entries(path, content, "sets", ("name",)))
    keys = ("organ", "name", "positive", "negative", "term", "synonyms", "focal", "sets")
    found = []
    for entry in _entries(path, content, "findings", keys):
        values = {key: entry[key] for key in keys} | {key: tuple(entry[key]) for key in ("synonyms", "sets")}
        finding = Finding(**values)
        if finding.organ not in organs:
            known = close_matches(finding.organ, organs)
            raise InputError(f"{path}: {finding.name!r} belongs to {finding.organ!r}, no organ of any group{known}")
        if not finding.sets or not set(finding.sets) <= set(sets):
            raise InputError(f'{path}: {finding.name!r} is in sets {finding.sets}; expected some of "sets": {sets}')
        found.append(finding)
    _check_unique(path, "finding", ((f.organ, f.name) for f in found))
    wordings = ((s, f.organ, word) for f in found for s in f.sets for word in (f.term, *f.synonyms))
    _check_unique(path, "wording", wordings)
    return sets, tuple(found)


def read_prompt_templates(path: Path) -> tuple[tuple[str, str], ...]:
    """(positive, negative) format strings of a file of the form of ``data/prompt_templates.json``.

    Raises:
        InputError: the file cannot be read, or a template does not hold ``{finding}`` exactly once.
    """
    entries = _entries(path, _load(path), "templates", ("positive", "negative"))
    for template in (entry[sign] for entry in entries for sign in ("positive", "negative")):
        if template.count(_TEMPLATE_FIELD) != 1:
            raise InputError(f"{path}: template {template!r} must hold {_TEMPLATE_FIELD} once")
    return tuple((entry["positive"], entry["negative"]) for entry in entries)


def close_matches(name: str, candidates: Iterable[str]) -> str:
    """The end of an error message: "; did you mean liver?", or nothing where no candidate is close."""
    close = difflib.get_close_matches(name, sorted(candidates), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""

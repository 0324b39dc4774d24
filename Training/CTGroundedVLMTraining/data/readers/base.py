"""What readers share: their result, tables with checked columns, and where a mask lies."""

from __future__ import annotations

import csv
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from CTGroundedVLMLib.errors import InputError

from ..manifest import ManifestRow

Labels = dict[str, dict[str, int | None]]  # case id -> "organ/finding" -> 1, 0 or None (unknown)


@dataclass(frozen=True)
class ReaderOptions:
    """``root``: the data set's folder. ``masks``: label maps named as the volumes, anywhere below it.

    ``reconstructions``: of one session, the first or all (CT-RATE, RadGenome). ``version``: CT-RATE's 1 (stored values) or 2
    (HU, ``_fixed``), None: 2 where it is there. ``validation``: share of the training patients that become the validation
    split, for sets that publish two splits only; ``seed``: which ones. ``images``: RadGenome's volumes (a CT-RATE folder).
    """

    root: Path
    masks: Path | None = None
    images: Path | None = None
    reconstructions: Literal["first", "all"] = "first"
    version: Literal[1, 2] | None = None
    validation: float = 0.05
    shares: tuple[float, float] = (0.8, 0.1)
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """What a reader found. ``notes``: in words, what was left out and what the labels are."""

    rows: list[ManifestRow]
    labels: Labels = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@functools.cache
def facts() -> Mapping[str, Any]:
    """``facts.json``: names and lists of the data sets, with where they come from."""
    return json.loads((Path(__file__).parent / "facts.json").read_text(encoding="utf-8"))


def read_table(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, row) of a CSV whose columns include ``required``. Raises InputError."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            check_columns(path, reader.fieldnames or (), required)
            for row in reader:
                yield f"{path}, line {reader.line_num}", {k: v or "" for k, v in row.items() if k is not None}
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a CSV table ({error}). Check the data set's folder.") from error


def check_columns(path: Path, found: Sequence[str], required: Sequence[str]) -> None:
    """Raise InputError that names the missing columns."""
    missing = [name for name in required if name not in found]
    if missing:
        raise InputError(
            f"{path}: column(s) {', '.join(missing)} are missing (found: {', '.join(map(str, found)) or 'none'}). Is it the "
            "data set's own file?"
        )


def existing(path: Path, what: str) -> Path:
    """``path``; InputError where it does not exist."""
    if not path.exists():
        raise InputError(f"{path} does not exist: {what} is expected there. Check the data set's folder.")
    return path


class Masks:
    """Label maps below a folder, by the volume that they are named after ("x.nii.gz", or TotalSegmentator's folder "x")."""

    def __init__(self, folder: Path | None) -> None:
        self._by_name: dict[str, Path] = {}
        for path in sorted(existing(folder, "the folder of masks").rglob("*.nii*")) if folder else []:
            is_class = path.parent != folder and not path.name.startswith(path.parent.name)
            if is_class and path.name.split(".")[0] in _class_names():
                self._by_name.setdefault(path.parent.name, path.parent)
            else:
                self._by_name.setdefault(path.name.split(".nii")[0], path)

    def of(self, volume: str) -> Path | None:
        """The mask of ``volume`` (its name without ending), None where there is none."""
        return self._by_name.get(volume)


@functools.cache
def _class_names() -> frozenset[str]:
    from CTGroundedVLMLib.anatomy import segment_classes

    return frozenset(segment.name for segment in segment_classes())

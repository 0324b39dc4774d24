"""A folder that ``ctgvlm-train evaluate`` wrote, read back; and whether two of them can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError

from .calibration import Platt
from .joining import Dataset
from .measured import read_measured
from .outputs import FORMAT
from .tables import listed, volume_key

PlantedFinding = tuple[str, str, int]  # volume, "organ/finding", number among the volume's findings of that name


@dataclass(frozen=True)
class Result:
    """``data``: volumes in the order of their names. ``record``: metrics.json.

    ``calibration``, ``youden``: by finding, where the evaluation had a validation split. ``planted``: what ``grounding.measure``
    says of each planted finding; empty without ``--grounding``.
    """

    folder: Path
    record: Mapping[str, Any]
    keys: tuple[str, ...]
    data: Dataset
    calibration: Mapping[str, Platt]
    youden: Mapping[str, float]
    planted: Mapping[PlantedFinding, Mapping[str, Any]]

    @property
    def model(self) -> str | None:
        """The model's hash; None for a table of unknown origin."""
        return self.record["run"].get("model_sha256")


def read_result(folder: Path) -> Result:
    """Read a folder of results.

    Raises:
        InputError: it is none, is incomplete or damaged.
    """
    path = folder / "metrics.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise InputError(f"{path} is no result of `ctgvlm-train evaluate`.")
        found = {f["key"]: f for f in record["findings"]}
        calibration = {key: Platt(**f["calibration"]) for key, f in found.items() if f["calibration"]}
        thresholds = {key: f["sections"].get("youden", {}).get("threshold") for key, f in found.items()}
        grounded = bool(record.get("grounding"))
    except OSError as error:
        raise InputError(
            f"{folder} holds no result ({error.strerror}: metrics.json). Give a folder that `ctgvlm-train evaluate` wrote."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error!r}). Run `ctgvlm-train evaluate` again.") from error
    data = read_measured(folder, tuple(found))
    youden = {key: value for key, value in thresholds.items() if value is not None}
    planted = _planted(folder / "cases.jsonl", set(data.volumes)) if grounded else {}
    return Result(folder, record, tuple(found), data, calibration, youden, planted)


def _planted(path: Path, volumes: set[str]) -> dict[PlantedFinding, Mapping[str, Any]]:
    found: dict[PlantedFinding, Mapping[str, Any]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            case = json.loads(line)
            volume, seen = volume_key(case["case_id"]), Counter[str]()
            for planted in case["grounding"] if volume in volumes else ():
                number = seen[planted["key"]]
                seen[planted["key"]] += 1
                if "hit" in planted:
                    found[volume, planted["key"], number] = {name: planted[name] for name in ("hit", "near", "focal")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error!r}). Run its `ctgvlm-train evaluate` again.") from error
    return found


# --- Whether results can be compared


def check_comparable(a: Sequence[Result], b: Sequence[Result]) -> list[str]:
    """What a reader of the comparison has to know.

    Raises:
        InputError: a folder or a model of one method is there twice, or the results have other volumes, patients, labels or
            another protocol than the first one.
    """
    first, results = a[0], [*a, *b]
    _check_different(a, b)
    for other in results[1:]:
        _check_protocol(first, other)
        _check_volumes(first, other)
        _check_labels(first, other)
    notes = [
        f"{name} is one run: its interval is over patients, not over seeds"
        for name, method in (("A", a), ("B", b))
        if len(method) == 1
    ]
    for what, value in (
        ("prompts", lambda r: r.record["protocol"]["prompts"]),
        ("settings (mode, grid, templates)", lambda r: r.record["run"].get("model_settings")),
    ):
        if any(value(r) != value(first) for r in results):
            notes.append(f"the results were not made with the same {what}; metrics.json of each says with which")
    return notes


def _check_different(a: Sequence[Result], b: Sequence[Result]) -> None:
    folders = [r.folder.resolve() for r in (*a, *b)]
    twice = [str(folder) for folder, count in Counter(folders).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is given twice. Give each result once, to one of the two methods.")
    for method in (a, b):
        models = {}
        for result in method:
            if result.model and result.model in models:
                raise InputError(
                    f"{result.folder} and {models[result.model]} are results of the same model: they are no two seeds of a "
                    "method. Leave out one of them."
                )
            models[result.model] = result.folder


def _check_protocol(first: Result, other: Result) -> None:
    for what, (ours, theirs) in {
        "the protocol": (first.record["protocol"]["name"], other.record["protocol"]["name"]),
        "the labels": (first.record["protocol"]["label_map"], other.record["protocol"]["label_map"]),
        "the findings": (listed(sorted(first.keys)), listed(sorted(other.keys))),
    }.items():
        if ours != theirs:
            raise InputError(
                f"{first.folder} and {other.folder} cannot be compared: {what} of the first: {ours}, of the second: {theirs}. "
                "Evaluate both with the same protocol and label table."
            )


def _check_volumes(first: Result, other: Result) -> None:
    ours, theirs = set(first.data.volumes), set(other.data.volumes)
    if ours != theirs:
        parts = [
            f"only {result.folder} has {listed(sorted(own), 3)}"
            for result, own in ((first, ours - theirs), (other, theirs - ours))
            if own
        ]
        raise InputError(
            f"{first.folder} and {other.folder} are of other volumes: {'; '.join(parts)}. A paired comparison needs the same: "
            "evaluate both on the same split (cases that failed: --retry-failed)."
        )
    if first.data.patients != other.data.patients:
        raise InputError(
            f"{first.folder} and {other.folder} tell patients apart in other ways. Evaluate both with the same manifest."
        )


def _check_labels(first: Result, other: Result) -> None:
    order = [other.keys.index(key) for key in first.keys]
    differing_NF = ~_equal(first.data.labels_NF, other.data.labels_NF[:, order])
    if differing_NF.any():
        n, f = np.argwhere(differing_NF)[0]
        raise InputError(
            f"{first.folder} and {other.folder} have other labels for {int(differing_NF.sum())} values, the first one "
            f"{first.keys[f]} of {first.data.volumes[n]}. Evaluate both with the same label table."
        )


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))

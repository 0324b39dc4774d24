"""Platt scaling per finding, fitted on validation patients, and the file in which an analysis reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import atomic_path
from CTGroundedVLMLib.model.header import CONFIG, read_header
from CTGroundedVLMLib.prompts import registry_prompts
from CTGroundedVLMLib.scoring import CALIBRATION_FORMAT, calibration_name

from .protocols import Item

MIN_OF_CLASS = 5  # judgement: fewer volumes of a class say nothing about a slope
_FLOOR = 1e-9  # a probability stored as exactly 0 or 1 has no finite margin


@dataclass(frozen=True)
class Platt:
    """probability = sigmoid(a * margin + b); the margin is the logit of the model's own probability."""

    a: float
    b: float

    def __call__(self, probabilities: np.ndarray | float) -> np.ndarray:
        """Calibrated probabilities of the model's own ones; the order is kept, for ``a`` is positive."""
        z = self.a * margins(probabilities) + self.b
        return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def margins(probabilities: np.ndarray | float) -> np.ndarray:
    """Positive minus negative logit of a softmax over two: the logit of its probability."""
    p = np.clip(np.asarray(probabilities, np.float64), _FLOOR, 1 - _FLOOR)
    return np.log(p) - np.log1p(-p)


def fit_platt(labels_N: np.ndarray, probabilities_N: np.ndarray) -> Platt | str:
    """The fit, or why there is none. Targets are Platt's (1999): (n+ + 1) / (n+ + 2) and 1 / (n- + 2), never 1 and 0.

    With them a finding that the scores tell without an error still gets a finite slope.
    """
    positives, negatives = int((labels_N == 1).sum()), int((labels_N == 0).sum())
    if min(positives, negatives) < MIN_OF_CLASS:
        return (
            f"the validation split has {positives} positive and {negatives} negative volumes; at least {MIN_OF_CLASS} "
            "of each are needed"
        )
    margin_N = margins(probabilities_N)
    centre, scale = margin_N.mean(), margin_N.std()
    if scale < 1e-12:
        return "all scores of the validation split are the same"
    from sklearn.linear_model import LogisticRegression

    target_N = np.where(labels_N == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # a soft target t is a positive with weight t and a negative with weight 1 - t
    x = np.tile((margin_N - centre) / scale, 2)[:, None]
    y = np.repeat([1, 0], len(margin_N))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(x, y, sample_weight=np.concatenate([target_N, 1 - target_N]))
    a = float(model.coef_[0, 0] / scale)
    if a <= 0:
        return "the scores rank the wrong way round in the validation split"
    return Platt(a, float(model.intercept_[0] - a * centre))


def calibration_record(
    fits: Mapping[str, Platt],
    thresholds: Mapping[str, Mapping[str, float]],
    model_sha256: str | None,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of the file that ``scoring.read_calibration`` reads.

    Args:
        thresholds: "organ/finding" -> operating points on the model's own probability; an analysis uses the first.
        model_sha256: None where scores came from a table that does not say; no analysis takes such a file.
        about: where it was fitted; for readers, not read by programs.
    """
    findings = {}
    for key, fit in fits.items():
        points = {name: float(fit(value)) for name, value in thresholds.get(key, {}).items()}
        findings[key] = {"a": fit.a, "b": fit.b}
        if points:
            findings[key] |= {"threshold": next(iter(points.values())), "operating_points": points}
    return {
        "format": CALIBRATION_FORMAT,
        "model_sha256": model_sha256,
        "settings": dict(settings),
        "findings": findings,
        "about": dict(about),
    }


def write_calibration(path: Path, record: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def asked_by_an_analysis(item: Item, templates: bool) -> bool:
    """Whether ``ctgvlm analyze`` asks for the finding in the very words of the protocol: a calibration holds for no others."""
    question = item.questions[0]
    if len(item.questions) > 1 or question.organ is None:
        return False
    asked = registry_prompts([question.organ], "all", templates)
    return any((p.finding, p.positive, p.negative) == (question.finding, *question.pairs(templates)) for p in asked)


def carry_calibration(model: Path, file: Path) -> Path:
    """Put an evaluation's calibration into the folder of the model that it was fitted for.

    An analysis then uses it by default, and asks for the findings that were evaluated (``findings`` of ``config.json``).

    Returns:
        The file in the model's folder; one of an earlier evaluation with the same settings is replaced.

    Raises:
        InputError: the file is damaged. ModelError: no model folder. OutputError: it cannot be written.
    """
    header = read_header(model)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        findings = [*record["findings"], *record["about"]["not_calibrated"]]
        target = model / calibration_name(record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is no calibration of an evaluation ({type(error).__name__}: {error}).") from error
    header["findings"] = sorted({*header.get("findings", ()), *findings})
    try:
        write_calibration(target, record)
        with atomic_path(model / CONFIG) as temporary:
            temporary.write_text(json.dumps(header, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{model} cannot be written ({error}). Free space, or copy the model to another folder."
        ) from error
    return target

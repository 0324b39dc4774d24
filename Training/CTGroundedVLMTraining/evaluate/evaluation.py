"""Measures joined scores: every metric of every finding and their means, with intervals.

A finding has up to four sections. They differ in what happens to volumes without a score and where the threshold comes from:

    release      missing scores are 0; threshold of the release's rule, fitted on the test labels (what papers report)
    left_out     volumes without a score are left out; the same rule; calibration metrics
    youden       left out; threshold with the highest sensitivity + specificity of the validation split
    sensitivity  left out; threshold that reaches the target sensitivity in the validation split

Shapes: N volumes, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import DependencyError

from . import metrics
from .bootstrap import RankedResamples, calibration_resamples, interval, patient_weights
from .calibration import Platt, fit_platt
from .estimates import Estimate, EvaluationSettings
from .joining import Dataset, check_no_patient_in_both
from .protocols import Item, Protocol

TEST_LABELS = "test labels"
VALIDATION = "validation split"
CALIBRATION_METRICS = ("ece", "brier", "calibrated_ece", "calibrated_brier")
METRICS = ("auc", *metrics.OPERATING, *CALIBRATION_METRICS)
_ONE_CLASS = "only one class is there"


@dataclass(frozen=True)
class SectionResult:
    """Metrics under one rule. ``threshold`` is on the model's own probability; ``fitted_on``: which labels it comes from."""

    threshold: float | None
    fitted_on: str
    volumes: int
    positives: int
    metrics: Mapping[str, Estimate]
    resampled: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class FindingResult:
    """One line of the result. Counts are of volumes with a known label; ``missing`` of them have no score.

    ``platt``: the calibration, or None with ``not_calibrated`` (also None where there is no validation split).
    """

    item: Item
    volumes: int
    patients: int
    positives: int
    positive_patients: int
    missing: int
    unknown: int
    sections: Mapping[str, SectionResult]
    platt: Platt | None = None
    not_calibrated: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """``macro``: section -> metric -> the mean over the findings where it is defined; ``macro_of``: over how many.

    ``validation``: volumes, patients and sha256 (``Dataset.sha256``) of the validation split.
    """

    protocol: Protocol
    settings: EvaluationSettings
    findings: tuple[FindingResult, ...]
    macro: Mapping[str, Mapping[str, Estimate]]
    macro_of: Mapping[str, Mapping[str, int]]
    volumes: int
    patients: int
    notes: tuple[str, ...]
    unmatched: Mapping[str, tuple[str, ...]]
    validation: Mapping[str, int | str] | None = None


def evaluate(
    protocol: Protocol, test: Dataset, settings: EvaluationSettings | None = None, validation: Dataset | None = None
) -> Evaluation:
    """All metrics. Without ``validation`` there are neither validation thresholds nor calibration.

    Raises:
        InputError: a patient is in both splits.
        DependencyError: scikit-learn is not installed.
    """
    if find_spec("sklearn") is None:
        raise DependencyError('An evaluation needs scikit-learn: pip install "ct-grounded-vlm[training]".')
    settings = settings or EvaluationSettings()
    if validation is not None:
        check_no_patient_in_both(test, validation)
    weights_RN = patient_weights(test.patients, settings.resamples, settings.seed)
    results = []
    for number, item in enumerate(protocol.items):
        held = None if validation is None else (validation.labels_NF[:, number], validation.scores_NF[:, number])
        results.append(_finding(item, test, number, weights_RN, settings, held))
    macro, macro_of = _macro(results, settings)
    return Evaluation(
        protocol,
        settings,
        tuple(results),
        macro,
        macro_of,
        len(test.volumes),
        len(set(test.patients)),
        tuple(test.notes()),
        test.unmatched,
        validation and _about(validation),
    )


def _about(validation: Dataset) -> dict[str, int | str]:
    counts = {"volumes": len(validation.volumes), "patients": len(set(validation.patients))}
    return counts | {"sha256": validation.sha256()}


_Held = tuple[np.ndarray, np.ndarray] | None  # labels and scores of the validation split


def _finding(
    item: Item, test: Dataset, number: int, weights_RN: np.ndarray, settings: EvaluationSettings, held: _Held
) -> FindingResult:
    labels_N, scores_N = test.labels_NF[:, number], test.scores_NF[:, number]
    known_N = ~np.isnan(labels_N)
    scored_N = known_N & ~np.isnan(scores_N)
    patients = np.asarray(test.patients)
    fields: dict[str, Any] = {
        "volumes": int(known_N.sum()),
        "patients": len(set(patients[known_N])),
        "positives": int((labels_N == 1).sum()),
        "positive_patients": len(set(patients[labels_N == 1])),
        "missing": int((known_N & ~scored_N).sum()),
        "unknown": int((~known_N).sum()),
    }
    reason = test.reasons.get(item.key) or (
        None if scored_N.any() else f"{item.key}: no volume has a score and a label"
    )
    if reason:
        return FindingResult(item, sections={}, reason=reason, **fields)
    platt, why_not, points = _fit(held, settings)
    scored = (labels_N[scored_N], scores_N[scored_N], weights_RN[:, scored_N])
    filled_N = np.nan_to_num(scores_N) if test.filled_NF is None else test.filled_NF[:, number]
    known = (labels_N[known_N], filled_N[known_N], weights_RN[:, known_N])
    sections = {
        "release": _release_section(*known, settings),
        "left_out": _release_section(*scored, settings, platt, calibration=True),
    }
    for name, threshold in points.items():
        sections[name] = _fixed_section(*scored, settings, threshold)
    return FindingResult(item, sections=sections, platt=platt, not_calibrated=why_not, **fields)


def _fit(held: _Held, settings: EvaluationSettings) -> tuple[Platt | None, str | None, dict[str, float]]:
    """Calibration (or why there is none) and operating points of the validation split."""
    if held is None:
        return None, None, {}
    usable_N = ~np.isnan(held[0]) & ~np.isnan(held[1])
    labels_N, scores_N = held[0][usable_N], held[1][usable_N]
    fit = fit_platt(labels_N, scores_N)
    if len(np.unique(labels_N)) < 2:
        return None, fit if isinstance(fit, str) else None, {}
    points = {
        "youden": metrics.youden_threshold(labels_N, scores_N),
        "sensitivity": metrics.sensitivity_threshold(labels_N, scores_N, settings.target_sensitivity),
    }
    return (None, fit, points) if isinstance(fit, str) else (fit, None, points)


def _release_section(
    labels_N: np.ndarray,
    scores_N: np.ndarray,
    weights_RN: np.ndarray,
    settings: EvaluationSettings,
    platt: Platt | None = None,
    calibration: bool = False,
) -> SectionResult:
    threshold = metrics.release_threshold(labels_N, scores_N)
    points = metrics.operating_metrics(metrics.counts_of(labels_N, scores_N > threshold))
    if np.isnan(threshold):
        points = dict.fromkeys(points, np.nan)
    resamples = RankedResamples(weights_RN, labels_N, scores_N)
    values = {"auc": metrics.area_under_roc(labels_N, scores_N), **points}
    resampled = {"auc": resamples.area_under_roc(), **resamples.release_rule()}
    if calibration:
        for prefix, probabilities_N in _calibrations(scores_N, platt):
            values[f"{prefix}ece"] = metrics.expected_calibration_error(labels_N, probabilities_N, settings.bins)
            values[f"{prefix}brier"] = metrics.brier_score(labels_N, probabilities_N)
            drawn = calibration_resamples(weights_RN, labels_N, probabilities_N, settings.bins)
            resampled |= {f"{prefix}{name}": values_R for name, values_R in drawn.items()}
    return _section(values, resampled, threshold, TEST_LABELS, labels_N, settings)


def _calibrations(scores_N: np.ndarray, platt: Platt | None) -> list[tuple[str, np.ndarray]]:
    return [("", scores_N)] + ([("calibrated_", platt(scores_N))] if platt else [])


def _fixed_section(
    labels_N: np.ndarray, scores_N: np.ndarray, weights_RN: np.ndarray, settings: EvaluationSettings, threshold: float
) -> SectionResult:
    values = metrics.operating_metrics(metrics.counts_of(labels_N, scores_N >= threshold))
    resampled = RankedResamples(weights_RN, labels_N, scores_N).at_threshold(threshold)
    return _section(values, resampled, threshold, VALIDATION, labels_N, settings)


def _section(
    values: Mapping[str, Any],
    resampled: Mapping[str, np.ndarray],
    threshold: float,
    fitted_on: str,
    labels_N: np.ndarray,
    settings: EvaluationSettings,
) -> SectionResult:
    estimates = {
        name: _estimate(name, float(values[name]), resampled[name], settings) for name in METRICS if name in values
    }
    return SectionResult(
        None if np.isnan(threshold) else threshold,
        fitted_on,
        len(labels_N),
        int(labels_N.sum()),
        estimates,
        dict(resampled),
    )


def _estimate(metric: str, value: float, resampled_R: np.ndarray, settings: EvaluationSettings) -> Estimate:
    if np.isnan(value):
        return Estimate(None, reason=_ONE_CLASS)
    found = interval(resampled_R, settings.confidence, value if metric.endswith("ece") else None)
    return Estimate(value, *found) if found else Estimate(value)


def _macro(
    results: list[FindingResult], settings: EvaluationSettings
) -> tuple[dict[str, dict[str, Estimate]], dict[str, dict[str, int]]]:
    """Unweighted means over findings; a resample's mean is over the findings that are defined in it."""
    macro: dict[str, dict[str, Estimate]] = {}
    macro_of: dict[str, dict[str, int]] = {}
    for name in ("release", "left_out", "youden", "sensitivity"):
        sections = [result.sections[name] for result in results if name in result.sections]
        for metric in METRICS:
            having = [s for s in sections if metric in s.metrics and s.metrics[metric].value is not None]
            if not having:
                continue
            mean = float(np.mean([s.metrics[metric].value for s in having]))
            drawn_R = metrics.nan_mean(np.stack([s.resampled[metric] for s in having]), axis=0)
            macro.setdefault(name, {})[metric] = _estimate(metric, mean, drawn_R, settings)
            macro_of.setdefault(name, {})[metric] = len(having)
    return macro, macro_of

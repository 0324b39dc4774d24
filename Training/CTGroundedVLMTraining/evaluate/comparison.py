"""Two methods on the same volumes: differences of their metrics, paired, with intervals over patients and seeds.

A method is one result folder or several: the same training with other seeds. Its value is the mean over its seeds.

What is resampled: in each of R resamples the patients (with replacement, all volumes of a patient together) and, within each
method, its seeds. The same patients are drawn for both methods and all seeds: what makes a patient hard is hard for both, and
cancels in the difference. Seeds are drawn for each method by itself, for two trainings have nothing in common. Without them
the interval would hold for these very weights only, and two seeds of one method could seem to differ.

Patients and seeds are crossed (each seed is measured on all patients), and resampling both independently is the pigeonhole
bootstrap (Owen, Annals of Applied Statistics 2007), which overstates the variance a little. Of S seeds S - 1 are drawn: drawing
S would understate the variance of their mean by the factor (S - 1) / S, two thirds for three seeds (Rao and Wu, JASA 1988).
With one seed nothing is drawn, and the interval is over patients only. A spread estimated from two or three seeds is rough.

Shapes: N volumes, M models (the S seeds of A, then those of B), F findings, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import metrics
from .bootstrap import RankedResamples, calibration_resamples, interval, patient_weights
from .estimates import Estimate, EvaluationSettings, means
from .grounding import TOLERANCE_MM
from .results import Result, check_comparable

METRICS = {
    "auc": "AUC",
    "accuracy": "accuracy, threshold of the release's rule fitted on the TEST labels",
    "youden_accuracy": "accuracy, threshold from the validation split (Youden)",
    "ece": "ECE",
    "calibrated_ece": "ECE after calibration on the validation split",
    "pointing": "heatmap peak inside the planted finding",
    "pointing_near": f"heatmap peak within {TOLERANCE_MM:g} mm of it",
    "focal_pointing": "peak inside, focal findings",
    "focal_pointing_near": f"peak within {TOLERANCE_MM:g} mm, focal findings",
}
MACRO = "macro"


@dataclass(frozen=True)
class Difference:
    """One metric of one finding, or (``finding`` "macro") its mean over the ``findings`` that have it for all models.

    ``count``: volumes, or planted findings, that it is computed from. ``a``, ``b``: the methods' means over their seeds;
    ``seeds_a``, ``seeds_b``: each seed's own value. ``difference``: a - b.
    """

    finding: str
    metric: str
    findings: int
    count: int
    a: Estimate
    b: Estimate
    difference: Estimate
    seeds_a: tuple[float, ...]
    seeds_b: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """``left_out``: finding -> volumes with a label for which some model has no score."""

    differences: tuple[Difference, ...]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    volumes: int
    patients: int


@dataclass(frozen=True)
class _Measured:
    """One metric of one finding: ``values_M`` and ``resampled_MR``."""

    finding: str
    metric: str
    count: int
    values_M: np.ndarray
    resampled_MR: np.ndarray


def compare(a: Sequence[Result], b: Sequence[Result], settings: EvaluationSettings) -> Comparison:
    """Every metric that all results have. Volumes count for a finding where all models have a score.

    Raises:
        InputError: see ``results.check_comparable``.
    """
    notes = check_comparable(a, b)
    results, data = [*a, *b], a[0].data
    weights_RN = patient_weights(data.patients, settings.resamples, settings.seed)
    measured: list[_Measured] = []
    left_out: dict[str, int] = {}
    for key in a[0].keys:
        labels_N = data.labels_NF[:, a[0].keys.index(key)]
        scores_MN = np.stack([r.data.scores_NF[:, r.keys.index(key)] for r in results])
        known_N, scored_N = ~np.isnan(labels_N), ~np.isnan(scores_MN).any(0)
        used_N = known_N & scored_N
        if (known_N & ~scored_N).any():
            left_out[key] = int((known_N & ~scored_N).sum())
        if used_N.any():
            measured += _of_scores(
                key, results, labels_N[used_N], scores_MN[:, used_N], weights_RN[:, used_N], settings
            )
    pointing = _of_heatmaps(results, data.volumes, weights_RN)
    seeds = _Seeds(len(a), len(b), settings)
    shown = [m for m in (*measured, *pointing) if not m.metric.startswith("focal")]
    found = [*_macro([*measured, *pointing], seeds), *(seeds.difference(m, 1) for m in shown)]
    return Comparison(tuple(found), left_out, tuple(notes), len(data.volumes), len(set(data.patients)))


def _of_scores(
    key: str,
    results: Sequence[Result],
    labels_N: np.ndarray,
    scores_MN: np.ndarray,
    weights_RN: np.ndarray,
    settings: EvaluationSettings,
) -> list[_Measured]:
    """The metrics that all models have and that are defined."""
    of_models = [
        _of_model(result, key, labels_N, scores_N, weights_RN, settings.bins)
        for result, scores_N in zip(results, scores_MN, strict=True)
    ]
    found = []
    for metric in of_models[0]:
        if all(metric in model for model in of_models):
            values_M = np.array([model[metric][0] for model in of_models])
            if not np.isnan(values_M).any():
                resampled_MR = np.stack([model[metric][1] for model in of_models])
                found.append(_Measured(key, metric, len(labels_N), values_M, resampled_MR))
    return found


def _of_model(
    result: Result, key: str, labels_N: np.ndarray, scores_N: np.ndarray, weights_RN: np.ndarray, bins: int
) -> dict[str, tuple[float, np.ndarray]]:
    """metric -> value and resamples (R,)."""
    ranked = RankedResamples(weights_RN, labels_N, scores_N)
    threshold = metrics.release_threshold(labels_N, scores_N)
    accuracy = _accuracy(labels_N, scores_N > threshold)
    found = {
        "auc": (metrics.area_under_roc(labels_N, scores_N), ranked.area_under_roc()),
        "accuracy": (np.nan if np.isnan(threshold) else accuracy, ranked.release_rule()["accuracy"]),
        "ece": _calibration_error(labels_N, scores_N, weights_RN, bins),
    }
    if key in result.youden:
        chosen = result.youden[key]
        found["youden_accuracy"] = _accuracy(labels_N, scores_N >= chosen), ranked.at_threshold(chosen)["accuracy"]
    if key in result.calibration:
        found["calibrated_ece"] = _calibration_error(labels_N, result.calibration[key](scores_N), weights_RN, bins)
    return found


def _accuracy(labels_N: np.ndarray, predicted_N: np.ndarray) -> float:
    return float(metrics.operating_metrics(metrics.counts_of(labels_N, predicted_N))["accuracy"])


def _calibration_error(
    labels_N: np.ndarray, probabilities_N: np.ndarray, weights_RN: np.ndarray, bins: int
) -> tuple[float, np.ndarray]:
    value = metrics.expected_calibration_error(labels_N, probabilities_N, bins)
    return value, calibration_resamples(weights_RN, labels_N, probabilities_N, bins)["ece"]


def _of_heatmaps(results: Sequence[Result], volumes: Sequence[str], weights_RN: np.ndarray) -> list[_Measured]:
    """The pointing game over planted findings that all models have a heatmap of; once more over the focal ones."""
    number = {volume: n for n, volume in enumerate(volumes)}
    shared = sorted(set.intersection(*(set(result.planted) for result in results)))
    focal = [planted for planted in shared if results[0].planted[planted]["focal"]]
    found = []
    for prefix, chosen in (("", shared), ("focal_", focal)):
        for key in sorted({key for _, key, _ in chosen}):
            own = [planted for planted in chosen if planted[1] == key]
            weights_RP = weights_RN[:, [number[volume] for volume, _, _ in own]]
            for metric, value in (("pointing", "hit"), ("pointing_near", "near")):
                hits_MP = np.array([[float(result.planted[planted][value]) for planted in own] for result in results])
                resampled_MR = np.stack([means(hits_P, weights_RP) for hits_P in hits_MP])
                found.append(_Measured(key, prefix + metric, len(own), hits_MP.mean(1), resampled_MR))
    return found


def _macro(measured: Sequence[_Measured], seeds: _Seeds) -> list[Difference]:
    """Unweighted means over findings; a resample's mean is over the findings that are defined in it."""
    found = []
    for metric in METRICS:
        own = [m for m in measured if m.metric == metric]
        if own:
            values_M = np.mean([m.values_M for m in own], axis=0)
            resampled_MR = metrics.nan_mean(np.stack([m.resampled_MR for m in own]), axis=0)
            joined = _Measured(MACRO, metric, sum(m.count for m in own), values_M, resampled_MR)
            found.append(seeds.difference(joined, len(own)))
    return found


class _Seeds:
    """Means over a method's seeds, and in each resample over S - 1 of them, drawn with replacement."""

    def __init__(self, of_a: int, of_b: int, settings: EvaluationSettings) -> None:
        self._of_a, self._settings = of_a, settings
        random = np.random.default_rng([settings.seed, 1])  # the 1 keeps it apart from the patients'
        self._drawn_KR = [random.integers(n, size=(max(n - 1, 1), settings.resamples)) for n in (of_a, of_b)]

    def difference(self, measured: _Measured, findings: int) -> Difference:
        """The metric's difference with its interval."""
        values = np.split(measured.values_M, [self._of_a])
        resampled = np.split(measured.resampled_MR, [self._of_a])
        columns_R = np.arange(self._settings.resamples)
        a_R, b_R = (
            of_SR[drawn_KR, columns_R].mean(0) for of_SR, drawn_KR in zip(resampled, self._drawn_KR, strict=True)
        )
        a, b = (float(of_S.mean()) for of_S in values)
        grows = measured.metric.endswith("ece")  # with noise: see ``bootstrap.interval``
        difference_R = a_R - b_R
        if grows and np.isfinite(difference_R).any():
            difference_R = difference_R - np.nanmedian(difference_R) + (a - b)
        return Difference(
            measured.finding,
            measured.metric,
            findings,
            measured.count,
            self._estimate(a, a_R, a if grows else None),
            self._estimate(b, b_R, b if grows else None),
            self._estimate(a - b, difference_R),
            *(tuple(of_S.tolist()) for of_S in values),
        )

    def _estimate(self, value: float, drawn_R: np.ndarray, around: float | None = None) -> Estimate:
        found = interval(drawn_R, self._settings.confidence, around)
        return Estimate(value, *found) if found else Estimate(value)

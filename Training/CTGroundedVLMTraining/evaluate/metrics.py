"""Metrics of one finding, and threshold rules.

AUC comes from scikit-learn; what follows from counts (true and false positives and negatives) is computed here for whole arrays
of counts, so that a result and its bootstrap resamples go through the same lines (tests compare them with scikit-learn).
Shapes: N volumes, T thresholds.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

OPERATING = ("accuracy", "sensitivity", "specificity", "precision", "f1_weighted")
RELEASE_THRESHOLDS = np.linspace(0, 1, 100)


class Counts(NamedTuple):
    """Arrays of one shape: how many volumes of each kind."""

    tp: np.ndarray
    fp: np.ndarray
    tn: np.ndarray
    fn: np.ndarray


def counts_of(labels_N: np.ndarray, predicted_N: np.ndarray) -> Counts:
    """Counts of one decision; ``labels_N``: 1 or 0, ``predicted_N``: bool."""
    positive = labels_N == 1
    return Counts(
        np.asarray((predicted_N & positive).sum()),
        np.asarray((predicted_N & ~positive).sum()),
        np.asarray((~predicted_N & ~positive).sum()),
        np.asarray((~predicted_N & positive).sum()),
    )


def operating_metrics(counts: Counts) -> dict[str, np.ndarray]:
    """``OPERATING`` at given counts; NaN where undefined.

    Precision without a positive prediction is 0, as scikit-learn has it. ``f1_weighted``: F1 of both classes, weighted by how
    many volumes truly are of each (scikit-learn's average="weighted").
    """
    tp, fp, tn, fn = (np.asarray(c, np.float64) for c in counts)
    positives, negatives = tp + fn, tn + fp
    f1 = positives * _ratio(2 * tp, 2 * tp + fp + fn, 0.0) + negatives * _ratio(2 * tn, 2 * tn + fp + fn, 0.0)
    return {
        "accuracy": _ratio(tp + tn, positives + negatives),
        "sensitivity": _ratio(tp, positives),
        "specificity": _ratio(tn, negatives),
        "precision": _ratio(tp, tp + fp, 0.0),
        "f1_weighted": _ratio(f1, positives + negatives),
    }


def _ratio(part: np.ndarray, whole: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), otherwise), where=whole > 0)


def area_under_roc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """AUC; NaN where only one class is there."""
    if len(np.unique(labels_N)) < 2:
        return float("nan")
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels_N, scores_N))


def brier_score(labels_N: np.ndarray, probabilities_N: np.ndarray) -> float:
    """Mean squared difference of probability and label; NaN without volumes."""
    return float(np.mean((probabilities_N - labels_N) ** 2)) if len(labels_N) else float("nan")


def calibration_bins(probabilities_N: np.ndarray, bins: int) -> np.ndarray:
    """The number of the bin of each: ``bins`` of equal width, the upper end belongs to the last."""
    return np.minimum((probabilities_N * bins).astype(int), bins - 1)


def expected_calibration_error(labels_N: np.ndarray, probabilities_N: np.ndarray, bins: int) -> float:
    """Sum over bins of (share of the volumes) * |mean probability - share of positives| (Naeini et al., AAAI 2015).

    Of the positive class's probability, in bins of equal width. It is biased upwards in small samples.
    """
    if not len(labels_N):
        return float("nan")
    gap = np.bincount(calibration_bins(probabilities_N, bins), probabilities_N - labels_N, bins)
    return float(np.abs(gap).sum() / len(labels_N))


# --- Thresholds


def release_distance(counts_T: Counts) -> np.ndarray:
    """Distance of each threshold's point from the ROC corner (0, 1): sensitivity 1 and no false positive."""
    tp, fp, tn, fn = (np.asarray(c, np.float64) for c in counts_T)
    with np.errstate(invalid="ignore", divide="ignore"):  # one class only: NaN, no threshold
        return np.sqrt((1 - tp / (tp + fn)) ** 2 + (fp / (fp + tn)) ** 2)


def release_threshold(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The rule of fVLM's release: of 100 equidistant values the one nearest to the ROC corner; of equals the last.

    "Positive" is a score above the threshold, not one equal to it. NaN where only one class is there.
    """
    distance_T = release_distance(counts_above(labels_N, scores_N, RELEASE_THRESHOLDS))
    if np.isnan(distance_T).any():
        return float("nan")
    return float(RELEASE_THRESHOLDS[len(distance_T) - 1 - int(np.argmin(distance_T[::-1]))])


def counts_above(labels_N: np.ndarray, scores_N: np.ndarray, thresholds_T: np.ndarray) -> Counts:
    """Counts (T,) of the decision "score above the threshold"."""
    positive, negative = np.sort(scores_N[labels_N == 1]), np.sort(scores_N[labels_N == 0])
    fn, tn = (np.searchsorted(values, thresholds_T, side="right") for values in (positive, negative))
    return Counts(len(positive) - fn, len(negative) - tn, tn, fn)


def youden_threshold(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """The threshold with the highest sensitivity + specificity; of equals the one with the higher sensitivity.

    "Positive" is a score that reaches the threshold, as in an analysis. It lies halfway between two observed scores.
    NaN where only one class is there.
    """
    thresholds_T, (tp, fp, tn, fn) = _candidates(labels_N, scores_N)
    if not len(thresholds_T):
        return float("nan")
    # sensitivity + specificity - 1, times both numbers of volumes: as integers, for rounded quotients tell equals apart
    index_T = tp * (fp + tn) - fp * (tp + fn)
    return float(thresholds_T[int(np.argmax(index_T))])  # ascending: the first is most sensitive


def sensitivity_threshold(labels_N: np.ndarray, scores_N: np.ndarray, target: float) -> float:
    """The highest threshold that reaches the target sensitivity ("positive" and place as in ``youden_threshold``)."""
    thresholds_T, counts_T = _candidates(labels_N, scores_N)
    if not len(thresholds_T):
        return float("nan")
    sensitivity_T = counts_T.tp / (counts_T.tp + counts_T.fn)
    return float(thresholds_T[np.flatnonzero(sensitivity_T >= target - 1e-12)[-1]])


def _candidates(labels_N: np.ndarray, scores_N: np.ndarray) -> tuple[np.ndarray, Counts]:
    """Thresholds in ascending order that tell all different decisions but "all negative", with their counts."""
    if len(np.unique(labels_N)) < 2:
        return np.empty(0), Counts(*np.empty((4, 0), int))
    values = np.unique(scores_N)
    # a threshold halfway decides as the higher score does; below the lowest score everything is positive
    halfway = np.maximum(
        (values[1:] + values[:-1]) / 2, np.nextafter(values[:-1], np.inf)
    )  # adjacent floats have no middle
    thresholds_T = np.concatenate([[min(values[0], values[0] / 2)], halfway])
    return thresholds_T, counts_above(labels_N, scores_N, np.nextafter(thresholds_T, -np.inf))


def nan_mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of what is defined; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=axis)

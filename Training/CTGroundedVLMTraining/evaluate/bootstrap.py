"""Patients drawn with replacement: the spread of every metric. All resamples at once.

A patient's volumes are drawn together, for they are not independent.
Shapes: R resamples, N volumes (P of them positive, M negative), T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .metrics import RELEASE_THRESHOLDS, Counts, calibration_bins, operating_metrics, release_distance


def patient_weights(patients: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """(R, N) float64: how often each volume is in each resample."""
    names, number_N = np.unique(np.asarray(patients), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, number_N].astype(np.float64)


def interval(values_R: np.ndarray, confidence: float, around: float | None = None) -> tuple[float, float] | None:
    """The percentile interval; resamples in which the metric is undefined are left out. None where it always is.

    ``around``: the metric's own value, for a metric from 0 to 1 that grows with noise (ECE): a resample is noisier than the
    sample, so the interval is moved by what the resamples' median is off.
    """
    defined = values_R[~np.isnan(values_R)]
    if not len(defined):
        return None
    low, middle, high = np.quantile(defined, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
    if around is not None:
        low, high = np.clip([low + around - middle, high + around - middle], 0, 1)
    return float(low), float(high)


class RankedResamples:
    """The resamples of one finding, in the order of its scores. ``labels_N``: 1 or 0; ``scores_N``: without NaN."""

    def __init__(self, weights_RN: np.ndarray, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
        order = np.argsort(scores_N, kind="stable")
        order = order[labels_N[order] == 1], order[labels_N[order] == 0]
        self._scores_P, self._scores_M = (scores_N[o] for o in order)
        self._weights_RP = weights_RN[:, order[0]]
        self._below_RP, self._below_RM = (_cumulative(weights_RN[:, o]) for o in order)

    def area_under_roc(self) -> np.ndarray:
        """(R,): share of the pairs of a positive and a negative that are in order, ties by half; NaN without a pair."""
        lower, upper = (np.searchsorted(self._scores_M, self._scores_P, side=side) for side in ("left", "right"))
        ordered_R = np.einsum("rp,rp->r", self._weights_RP, self._below_RM[:, lower] + self._below_RM[:, upper]) / 2
        pairs_R = self._below_RP[:, -1] * self._below_RM[:, -1]
        return np.divide(ordered_R, pairs_R, out=np.full(len(pairs_R), np.nan), where=pairs_R > 0)

    def release_rule(self) -> dict[str, np.ndarray]:
        """(R,) each: the operating metrics at the release's threshold, fitted anew in each resample."""
        counts_RT = self._counts_above(RELEASE_THRESHOLDS)
        distance_RT = release_distance(counts_RT)
        last_R = distance_RT.shape[1] - 1 - np.argmin(distance_RT[:, ::-1], axis=1)
        rows = np.arange(len(last_R))
        metrics = operating_metrics(Counts(*(c[rows, last_R] for c in counts_RT)))
        one_class_R = np.isnan(distance_RT).any(1)
        return {name: np.where(one_class_R, np.nan, values_R) for name, values_R in metrics.items()}

    def at_threshold(self, threshold: float) -> dict[str, np.ndarray]:
        """(R,) each: the operating metrics of "the score reaches a threshold" that comes from elsewhere."""
        counts_R1 = self._counts_above(np.array([np.nextafter(threshold, -np.inf)]))
        return operating_metrics(Counts(*(c[:, 0] for c in counts_R1)))

    def _counts_above(self, thresholds_T: np.ndarray) -> Counts:
        fn_RT = self._below_RP[:, np.searchsorted(self._scores_P, thresholds_T, side="right")]
        tn_RT = self._below_RM[:, np.searchsorted(self._scores_M, thresholds_T, side="right")]
        return Counts(self._below_RP[:, -1:] - fn_RT, self._below_RM[:, -1:] - tn_RT, tn_RT, fn_RT)


def _cumulative(weights_RN: np.ndarray) -> np.ndarray:
    """(R, N + 1): the weight of the first n volumes."""
    out = np.zeros((weights_RN.shape[0], weights_RN.shape[1] + 1))
    np.cumsum(weights_RN, axis=1, out=out[:, 1:])
    return out


def calibration_resamples(
    weights_RN: np.ndarray, labels_N: np.ndarray, probabilities_N: np.ndarray, bins: int
) -> dict[str, np.ndarray]:
    """(R,) each: "ece" and "brier"."""
    gap_NB = np.zeros((len(labels_N), bins))
    gap_NB[np.arange(len(labels_N)), calibration_bins(probabilities_N, bins)] = probabilities_N - labels_N
    total_R = weights_RN.sum(1)
    squared_R = weights_RN @ (probabilities_N - labels_N) ** 2
    sums = {"ece": np.abs(weights_RN @ gap_NB).sum(1), "brier": squared_R}
    return {
        name: np.divide(value_R, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0)
        for name, value_R in sums.items()
    }

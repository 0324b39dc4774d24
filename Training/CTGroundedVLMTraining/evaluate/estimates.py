"""A value with its interval, and how intervals are made. Shapes: R resamples, N things that are averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError

from .bootstrap import interval


@dataclass(frozen=True)
class EvaluationSettings:
    """``resamples``: of the patient bootstrap, 0 for no intervals. ``confidence``: of the intervals. ``bins``: of the ECE."""

    resamples: int = 1000
    seed: int = 0
    confidence: float = 0.95
    bins: int = 15
    target_sensitivity: float = 0.9

    def __post_init__(self) -> None:
        if not (self.resamples == 0 or self.resamples >= 20) or self.seed < 0:
            raise InputError(
                f"{self.resamples} resamples, seed {self.seed}: expected 0 (no intervals) or at least 20, and a seed from 0."
            )
        if not 0.5 <= self.confidence < 1 or not 2 <= self.bins <= 100:
            raise InputError(
                f"Confidence {self.confidence}, {self.bins} bins: expected 0.5 to below 1, and 2 to 100 bins."
            )
        if not 0 < self.target_sensitivity <= 1:
            raise InputError(f"The target sensitivity is {self.target_sensitivity}; expected above 0, at most 1.")


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None with the reason where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def means(values_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """(R,): the mean of each resample; NaN for one that drew nothing."""
    total_R = weights_RN.sum(1)
    return np.divide(weights_RN @ values_N, total_R, out=np.full(len(total_R), np.nan), where=total_R > 0)


def with_interval(value: float, resampled_R: np.ndarray, settings: EvaluationSettings) -> Estimate:
    """The value with the percentile interval of its resamples."""
    found = interval(resampled_R, settings.confidence)
    return Estimate(value, *found) if found else Estimate(value)


def mean_estimate(values_N: np.ndarray, weights_RN: np.ndarray, settings: EvaluationSettings) -> Estimate:
    """The mean and its interval."""
    return with_interval(float(values_N.mean()), means(values_N, weights_RN), settings)


def shown(estimate: Mapping[str, Any]) -> str:
    """An estimate's JSON form as "0.812 [0.790, 0.834]"."""
    if estimate["value"] is None:
        return "-"
    value = f"{estimate['value']:.3f}"
    return value if estimate["low"] is None else f"{value} [{estimate['low']:.3f}, {estimate['high']:.3f}]"

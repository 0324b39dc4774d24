"""ROC curves and reliability diagrams, one small panel a finding."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CTGroundedVLMLib.files import atomic_path

from .evaluation import Evaluation, FindingResult
from .joining import Dataset
from .metrics import calibration_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS, _SIDE = 4, 2.6
_Draw = Callable[["Axes", FindingResult, np.ndarray, np.ndarray], None]


def write_pictures(evaluation: Evaluation, test: Dataset, roc: Path, reliability: Path) -> None:
    """Both pictures as PNG, of the volumes that have a score. Errors: OSError."""
    bins = evaluation.settings.bins

    def reliability_panel(axes: Axes, result: FindingResult, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
        _reliability(axes, result, labels_N, scores_N, bins)

    _panels(evaluation, test, roc, _roc, "1 - specificity", "sensitivity")
    _panels(evaluation, test, reliability, reliability_panel, "probability", "share of positives")


def _panels(evaluation: Evaluation, test: Dataset, path: Path, draw: _Draw, x: str, y: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window system, no global state of pyplot
    from matplotlib.figure import Figure

    shown = [(n, result) for n, result in enumerate(evaluation.findings) if result.sections]
    rows = max(1, math.ceil(len(shown) / _COLUMNS))
    figure = Figure(figsize=(_COLUMNS * _SIDE, rows * _SIDE + 0.4), dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(shown):
            axes.set_axis_off()
            continue
        number, result = shown[place]
        labels_N, scores_N = test.labels_NF[:, number], test.scores_NF[:, number]
        usable_N = ~np.isnan(labels_N) & ~np.isnan(scores_N)
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        draw(axes, result, labels_N[usable_N], scores_N[usable_N])
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_title(result.item.key, fontsize=7)
        axes.tick_params(labelsize=6)
    # fixed margins: working them out takes longer than the whole evaluation
    height = rows * _SIDE + 0.4
    figure.subplots_adjust(0.08, 0.45 / height, 0.98, 1 - 0.25 / height, wspace=0.3, hspace=0.3)
    figure.supxlabel(x, fontsize=8)
    figure.supylabel(y, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _roc(axes: Axes, result: FindingResult, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
    auc = result.sections["left_out"].metrics["auc"]
    if auc.value is None:
        _say(axes, auc.reason or "")
        return
    from sklearn.metrics import roc_curve

    false_positive, true_positive, _ = roc_curve(labels_N, scores_N)
    axes.plot(false_positive, true_positive, linewidth=1.2)
    _say(axes, f"AUC {auc.value:.3f}" + ("" if auc.low is None else f"\n[{auc.low:.3f}, {auc.high:.3f}]"))


def _reliability(axes: Axes, result: FindingResult, labels_N: np.ndarray, scores_N: np.ndarray, bins: int) -> None:
    kinds: list[tuple[str, np.ndarray, dict[str, Any]]] = [("raw", scores_N, {"color": "tab:blue"})]
    if result.platt:
        kinds.append(("calibrated", result.platt(scores_N), {"color": "tab:orange"}))
    estimates = result.sections["left_out"].metrics
    for place, (name, probabilities_N, style) in enumerate(kinds):
        number_N = calibration_bins(probabilities_N, bins)
        count_B = np.bincount(number_N, minlength=bins)
        filled = count_B > 0
        mean_B, share_B = (
            np.bincount(number_N, v, bins)[filled] / count_B[filled] for v in (probabilities_N, labels_N)
        )
        axes.plot(mean_B, share_B, linewidth=0.8, **style)
        axes.scatter(mean_B, share_B, s=4 + 60 * count_B[filled] / len(labels_N), **style)
        value = estimates["ece" if name == "raw" else "calibrated_ece"].value
        _say(axes, f"{name}: ECE {value:.3f}", 0.04 + 0.08 * (len(kinds) - 1 - place), style["color"])


def _say(axes: Axes, text: str, height: float = 0.04, color: str = "black") -> None:
    axes.text(0.97, height, text, ha="right", va="bottom", fontsize=6, color=color, transform=axes.transAxes)

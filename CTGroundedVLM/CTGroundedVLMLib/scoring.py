"""Zero-shot probabilities of findings, and their calibration.

Shapes: E embedding size, K prompt pairs of one finding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .errors import InputError
from .prompts import Prompt
from .types import FindingScore

CALIBRATION_FORMAT = "ctgvlm-calibration"


@dataclass(frozen=True)
class Calibration:
    """Platt scaling per finding: probability = sigmoid(a * margin + b). Keys are "organ/finding".

    ``thresholds``: operating points on the calibrated probability, for the findings that have one.
    """

    parameters: Mapping[str, tuple[float, float]]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def apply(self, organ: str, finding: str, margin: float) -> float | None:
        """The calibrated probability, or None where the file holds no such finding."""
        pair = self.parameters.get(f"{organ}/{finding}")
        return None if pair is None else sigmoid(pair[0] * margin + pair[1])


def read_calibration(path: Path, model_sha256: str) -> Calibration:
    """Read a calibration file, which holds for one model.

    ``{"format": "ctgvlm-calibration", "model_sha256": ..., "findings": {"organ/finding": {"a", "b", "threshold"}}}``;
    the threshold (0..1) is optional.

    Raises:
        InputError: it cannot be read, holds a value that is no number, or was made for another model.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        right_format = data["format"] == CALIBRATION_FORMAT
        parameters = {key: (float(value["a"]), float(value["b"])) for key, value in data["findings"].items()}
        thresholds = {key: float(value["threshold"]) for key, value in data["findings"].items() if "threshold" in value}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The calibration file {path} cannot be used: {type(error).__name__}: {error}.") from error
    if not right_format or not all(math.isfinite(x) for pair in parameters.values() for x in pair):
        raise InputError(f'The calibration file {path} must have format "{CALIBRATION_FORMAT}" and finite a and b.')
    if not all(0 <= threshold <= 1 for threshold in thresholds.values()):
        raise InputError(f"The calibration file {path}: every threshold must be a probability between 0 and 1.")
    made_for = data.get("model_sha256")
    if made_for != model_sha256:
        raise InputError(
            f"The calibration file {path} was made for model {made_for}, not for {model_sha256}. "
            "Calibration holds for one model only: fit it again."
        )
    return Calibration(parameters, thresholds, str(path))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def text_direction(prompt: Prompt, encode_text: Callable[[Sequence[str]], torch.Tensor]) -> torch.Tensor:
    """(E,): the mean over the prompt's pairs of positive minus negative text feature.

    The margin is linear in it, so that the mean over templates is the mean of their margins (as in RADAR's prompt
    ensembles), and a heatmap of the mean adds up too.
    """
    positive_KE, negative_KE = encode_text(prompt.positive), encode_text(prompt.negative)
    return (positive_KE - negative_KE).mean(0)


def score_findings(
    prompts: Sequence[Prompt],
    organ_features: Mapping[str, torch.Tensor],
    reasons: Mapping[str, str],
    encode_text: Callable[[Sequence[str]], torch.Tensor],
    temperature: float,
    calibration: Calibration | None = None,
) -> tuple[FindingScore, ...]:
    """Probability of each prompt: softmax([negative, positive] cosine / temperature), its second entry.

    Args:
        organ_features: organ -> (E,), L2-normalised.
        reasons: organ -> why it cannot be scored; its findings get None with this reason.
    """
    wanted = [prompt for prompt in prompts if prompt.organ not in reasons]
    if wanted:
        encode_text([text for prompt in wanted for text in prompt.texts])  # all in one batch; then from memory
    scores = []
    for prompt in prompts:
        margin = probability = None
        calibrated = False
        if prompt.organ not in reasons:
            direction_E = text_direction(prompt, encode_text)
            margin = float(organ_features[prompt.organ] @ direction_E) / temperature
            probability = calibration.apply(prompt.organ, prompt.finding, margin) if calibration else None
            calibrated = probability is not None
            probability = sigmoid(margin) if probability is None else probability
        reason = reasons.get(prompt.organ)
        scores.append(
            FindingScore(
                prompt.organ, prompt.finding, probability, margin, calibrated, reason,
                prompt.positive, prompt.negative, prompt.source,
            )
        )  # fmt: skip
    return tuple(scores)

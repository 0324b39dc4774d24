"""Zero-shot probabilities of findings, and their calibration.

Shapes: E embedding size, K prompt pairs of one finding.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .errors import InputError
from .model.header import CALIBRATIONS
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

    def apply(self, prompt: Prompt, margin: float) -> float | None:
        """The calibrated probability, or None where the file holds no such finding, or the words are the user's own."""
        pair = self.parameters.get(key_of(prompt)) if prompt.source == "registry" else None
        return None if pair is None else sigmoid(pair[0] * margin + pair[1])

    def unused(self, prompts: Sequence[Prompt]) -> list[str]:
        """Findings of the file that are not asked for: often a misspelt key."""
        return sorted(set(self.parameters) - {key_of(prompt) for prompt in prompts if prompt.source == "registry"})


def key_of(prompt: Prompt) -> str:
    """A finding's key in the calibration file."""
    return f"{prompt.organ}/{prompt.finding}"


def read_calibration(path: Path, model_sha256: str, settings: Mapping[str, object]) -> Calibration:
    """Read a calibration file, which holds for one model and one way of running it.

    ``{"format": "ctgvlm-calibration", "model_sha256": ..., "settings": {"mode": "shared", "grid": "physical", "templates":
    false}, "findings": {"organ/finding": {"a", "b", "threshold"}}}``; the threshold (0..1) is optional.

    Raises:
        InputError: it cannot be read, holds a value that is no number, or was made for another model or other ``settings``.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        right_format, fitted = data["format"] == CALIBRATION_FORMAT, dict(data["settings"])
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
    different = [
        f"{name} {fitted.get(name)!r} instead of {value!r}"
        for name, value in settings.items()
        if fitted.get(name) != value
    ]
    if different:
        raise InputError(
            f"The calibration file {path} was fitted with {', '.join(different)}. Run with its settings, or fit it again."
        )
    return Calibration(parameters, thresholds, str(path))


def calibration_name(settings: Mapping[str, object]) -> str:
    """The file in a model's folder that holds the calibration for one way of running it (see ``read_calibration``)."""
    templates = "-templates" if settings["templates"] else ""
    return CALIBRATIONS.replace("*", f"{settings['mode']}-{settings['grid']}{templates}")


def own_calibration(
    folder: Path | None, model_sha256: str, settings: Mapping[str, object]
) -> tuple[Calibration | None, tuple[str, ...]]:
    """The calibration that a model carries for these settings; and, where it has only ones for others, a warning.

    Raises:
        InputError: its file is damaged, or belongs to other weights.
    """
    if folder is None:
        return None, ()
    path = folder / calibration_name(settings)
    if path.is_file():
        try:
            own = read_calibration(path, model_sha256, settings)
        except InputError as error:
            raise InputError(
                f"{error} The file lies in the model's folder: take the whole folder again, remove the file, or run with "
                "--no-calibration."
            ) from error
        return dataclasses.replace(own, source=f"{path.name} of the model"), ()
    others = sorted(other.name for other in folder.glob(CALIBRATIONS))
    if not others:
        return None, ()
    return None, (
        f"The model's own calibration is for other settings ({', '.join(others)}; not {path.name}): probabilities are raw.",
    )


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
        if prompt.organ in reasons:
            scores.append(_unscored(prompt, reasons[prompt.organ]))
            continue
        margin = float(organ_features[prompt.organ] @ text_direction(prompt, encode_text)) / temperature
        if not math.isfinite(margin):
            scores.append(_unscored(prompt, "the model's output is not a finite number"))
            continue
        calibrated = calibration.apply(prompt, margin) if calibration else None
        probability = sigmoid(margin) if calibrated is None else calibrated
        scores.append(_score(prompt, probability, margin, calibrated is not None, None))
    return tuple(scores)


def _unscored(prompt: Prompt, reason: str) -> FindingScore:
    return _score(prompt, None, None, False, reason)


def _score(
    prompt: Prompt, probability: float | None, margin: float | None, calibrated: bool, reason: str | None
) -> FindingScore:
    return FindingScore(
        prompt.organ,
        prompt.finding,
        probability,
        margin,
        calibrated,
        reason,
        prompt.positive,
        prompt.negative,
        prompt.source,
    )

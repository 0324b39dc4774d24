"""The configuration of a run: frozen, complete, validated. A recipe returns one (``recipes.py``); a run's folder keeps it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import ModelConfig

from .data.collate import TextConfig
from .data.views import ViewConfig
from .objectives.targets import FALSE_NEGATIVE_MODES, FalseNegatives


@dataclass(frozen=True)
class ObjectiveConfig:
    """``name``: "fvlm", "clip" or "supervised". The others are fVLM's: see ``OrganContrast``."""

    name: Literal["fvlm", "clip", "supervised"] = "fvlm"
    false_negatives: FalseNegatives = "normal"
    alpha: float = 0.5
    momentum: float = 0.995

    def __post_init__(self) -> None:
        _one_of(self, "name", ("fvlm", "clip", "supervised"))
        _one_of(self, "false_negatives", FALSE_NEGATIVE_MODES)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; the defaults are what fVLM's release has in effect.

    Linear warm-up from ``min_lr`` over ``warmup_steps``, then cosine from ``lr`` to ``min_lr``: a new value each epoch as in the
    release ("epoch"), or each step ("step"). ``clip_norm``: gradients' total norm is cut there; None: never.
    ``head_lr_factor``: for parameters of the objective (a head), relative to ``lr``.
    """

    lr: float = 1e-4
    min_lr: float = 1e-6
    warmup_steps: int = 377
    cosine: Literal["epoch", "step"] = "epoch"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    head_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        _one_of(self, "cosine", ("epoch", "step"))
        _require(0 <= self.min_lr <= self.lr, "optimizer.min_lr", self.min_lr, f"0 to lr ({self.lr})")
        _require(self.warmup_steps >= 0, "optimizer.warmup_steps", self.warmup_steps, "0 or more")
        positive = self.clip_norm is None or self.clip_norm > 0
        _require(positive, "optimizer.clip_norm", self.clip_norm, "a number above 0, or none")


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    ``batch_size``: cases of one forward pass on one device. ``accumulate``: forward passes per step; features are cached,
    so that their contrast is over all of them (exactly the gradient of one large batch). ``ema``: decay of a moving
    average of the weights that is validated and exported instead of them; None: none. ``keep``: how many checkpoints stay.
    """

    name: str
    model: ModelConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    texts: TextConfig = field(default_factory=TextConfig)
    findings: tuple[str, ...] = ()
    batch_size: int = 14
    accumulate: int = 1
    epochs: int = 20
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["none", "ddp", "fsdp2"] = "none"
    activation_checkpointing: bool = False
    compile: bool = False
    ema: float | None = None
    workers: int = 4
    checkpoint_every: int = 1000
    keep: int = 2
    validate_every: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _one_of(self, "precision", ("fp32", "bf16"))
        _one_of(self, "parallel", ("none", "ddp", "fsdp2"))
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "a decay between 0 and 1, or none")
        supervised = self.objective.name == "supervised"
        _require(
            not supervised or self.findings, "findings", self.findings, "the findings to learn, for this objective"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {"model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of :meth:`to_dict`. Raises InputError that names what does not fit."""
        parts = {"objective": ObjectiveConfig, "optimizer": OptimizerConfig, "views": ViewConfig, "texts": TextConfig}
        values = dict(data)
        try:
            values["model"] = ModelConfig.from_dict(values["model"])
            for name, kind in parts.items():
                values[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
            values["findings"] = tuple(values["findings"])
            return cls(**values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise InputError(
                f"The run's configuration does not fit this version of the software ({error}). Start a new run, or "
                "continue it with the version that it was started with."
            ) from error


def _one_of(config: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    _require(value in allowed, name, value, f"one of {', '.join(allowed)}")


def _require(condition: object, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{name} is {value!r}, expected {expected}.")

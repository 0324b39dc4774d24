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
    """``name``: "fvlm", "clip" or "supervised". The next three are fVLM's: see ``OrganContrast``.

    ``presence``, ``location``: weights of the losses of single findings, see ``WithQuestions``; 0 for none.
    """

    name: Literal["fvlm", "clip", "supervised"] = "fvlm"
    false_negatives: FalseNegatives = "normal"
    alpha: float = 0.5
    momentum: float = 0.995
    presence: float = 0.0
    location: float = 0.0

    def __post_init__(self) -> None:
        _one_of(self, "name", ("fvlm", "clip", "supervised"))
        _one_of(self, "false_negatives", FALSE_NEGATIVE_MODES)
        for name in ("presence", "location"):
            _require(getattr(self, name) >= 0, f"objective.{name}", getattr(self, name), "0 or more")
        plain = self.name != "supervised" or not self.asks
        _require(plain, "objective.name", self.name, "fvlm or clip, for objective.presence or objective.location")

    @property
    def asks(self) -> bool:
        """Whether batches bring the registry's prompts."""
        return bool(self.presence or self.location)


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
class InitialWeights:
    """What a run starts from; see ``initialization.py``.

    ``method``: "random" (PyTorch's, MONAI's and BERT's own scales), "scratch" (for small models: scales that fit their width)
    or "mae" (MAE's ViT-B of ImageNet from the file ``mae_weights``). ``text_model``: a local folder with BERT's weights for
    the text tower; "" for none. ``tokenizer``: a folder, "corpus" (the words of the training texts and of the registry) or
    "registry" (those of the registry); "" takes that of ``text_model``.
    """

    method: Literal["random", "scratch", "mae"] = "random"
    mae_weights: str = ""
    text_model: str = ""
    tokenizer: str = ""

    def __post_init__(self) -> None:
        allowed = ("random", "scratch", "mae")
        _require(self.method in allowed, "initial.method", self.method, f"one of {', '.join(allowed)}")
        mixed = self.mae_weights and self.method != "mae"
        _require(not mixed, "initial.mae_weights", self.mae_weights, f"nothing, for initial.method {self.method}")

    def check_complete(self) -> None:
        """What a recipe leaves open must be named before a run starts. Raises InputError."""
        _require(
            self.method != "mae" or self.mae_weights,
            "initial.mae_weights",
            self.mae_weights,
            "the file with MAE's ViT-B weights (mae_pretrain_vit_base.pth). Set it with --set initial.mae_weights=FILE, or "
            "start from random weights with --set initial.method=random",
        )
        _require(
            self.tokenizer or self.text_model,
            "initial.text_model",
            self.text_model,
            "a local folder with BERT's weights and tokenizer (fVLM's is microsoft/BiomedVLP-CXR-BERT-specialized). Set it with "
            "--set initial.text_model=FOLDER, or only a tokenizer with --set initial.tokenizer=FOLDER, corpus or registry",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    ``batch_size``: cases of one forward pass on one device. ``accumulate``: forward passes per step; features are cached,
    so that their contrast is over all of them (exactly the gradient of one large batch). ``steps``: optimiser steps of the
    run, in place of ``epochs``. ``parallel``: what several processes do; one process does neither. ``ema``: decay of a moving
    average of the weights that is validated and exported instead of them; None: none. ``keep``: how many checkpoints stay.
    ``validate_every``: steps; 0: never. ``peak_tflops``: of one device in this precision, for MFU; None: from a table of GPUs.
    ``notice``, ``license``: go into the exported model.
    """

    name: str
    model: ModelConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    texts: TextConfig = field(default_factory=TextConfig)
    initial: InitialWeights = field(default_factory=InitialWeights)
    findings: tuple[str, ...] = ()
    batch_size: int = 14
    accumulate: int = 1
    epochs: int = 20
    steps: int | None = None
    seed: int = 42
    precision: Literal["fp32", "bf16"] = "fp32"
    parallel: Literal["none", "ddp", "fsdp2"] = "ddp"
    activation_checkpointing: bool = False
    compile: bool = False
    ema: float | None = None
    workers: int = 4
    checkpoint_every: int = 1000
    keep: int = 2
    validate_every: int = 0
    tensorboard: bool = True
    wandb: bool = False
    peak_tflops: float | None = None
    notice: str = ""
    license: str = ""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs", "checkpoint_every", "keep"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _require(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more, or none")
        _one_of(self, "precision", ("fp32", "bf16"))
        _one_of(self, "parallel", ("none", "ddp", "fsdp2"))
        _require(self.ema is None or 0 < self.ema < 1, "ema", self.ema, "a decay between 0 and 1, or none")
        supervised = self.objective.name == "supervised"
        _require(
            not (supervised or self.objective.asks) or self.findings,
            "findings",
            self.findings,
            "the findings to learn, for this objective",
        )
        whole = self.accumulate == 1 or not self.objective.location
        _require(whole, "accumulate", self.accumulate, "1 with objective.location: tokens of all passes do not fit")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {"model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingConfig:
        """The inverse of :meth:`to_dict`. Raises InputError that names what does not fit."""
        values = dict(data)
        try:
            values["model"] = ModelConfig.from_dict(values["model"])
            for name, kind in _PARTS.items():
                values[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values[name].items()})
            values["findings"] = tuple(values["findings"])
            return cls(**values)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise InputError(
                f"The run's configuration does not fit this version of the software ({error}). Start a new run, or "
                "continue it with the version that it was started with."
            ) from error


_PARTS: dict[str, type] = {
    "objective": ObjectiveConfig,
    "optimizer": OptimizerConfig,
    "views": ViewConfig,
    "texts": TextConfig,
    "initial": InitialWeights,
}


def _one_of(config: object, name: str, allowed: tuple[str, ...]) -> None:
    value = getattr(config, name)
    _require(value in allowed, name, value, f"one of {', '.join(allowed)}")


def _require(condition: object, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InputError(f"{name} is {value!r}, expected {expected}.")

"""Recipes: functions that return a complete configuration, each with a twin (``NAME_debug``) that runs on a CPU in seconds.

Fields are changed on the command line with ``--set``; to change more, write a function like these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

from CTGroundedVLMLib.anatomy import findings, organ_group
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import (
    ModelConfig,
    PreprocessingConfig,
    TextConfig,
    VisionConfig,
    debug_config,
    fvlm_config,
)

from .config import InitialWeights, ObjectiveConfig, OptimizerConfig, TrainingConfig
from .data.collate import TextConfig as OrganTexts
from .data.views import ViewConfig
from .objectives.clip import WHOLE_BODY, whole_body_organs
from .synthesize.kinds import label_columns

Recipe = Callable[[], TrainingConfig]

STARTER_NOTICE = "Trained on synthetic patients only: it has never seen a scan of a person."


def fvlm_release() -> TrainingConfig:
    """fVLM's released training on CT-RATE: four organs, 4 GPUs with 14 cases each (torchrun), 20 epochs, fp32.

    Its settings as they take effect, quirks included: flips along every axis (left and right in the text become wrong), an organ
    that touches the crop's border is left out, weight decay 0.01 (the 0.05 of its file never reaches the optimiser), no
    clipping, a cosine by epoch. Its labelling rule, by which a finding outside the impression is normal, is made when reports are
    decomposed (``ctgvlm-train decompose --normality legacy``). Different here: the gradient through the gather is exact (the
    release's is 1/GPUs of it for all but the temperature, which AdamW's scale invariance hides but for the temperature), a batch
    without a qualifying organ is a step of zero gradient instead of a crash, and a case that cannot be read stops the run
    instead of being replaced by a random patient.
    """
    return TrainingConfig(
        name="fvlm_release",
        model=fvlm_config("fvlm4"),
        views=ViewConfig(flips=(0.2, 0.2, 0.2), partial_organs="drop"),
        initial=InitialWeights("mae"),
        batch_size=14,
        epochs=20,
    )


def fvlm() -> TrainingConfig:
    """Ours: fVLM's objective over the paper's 36 anatomies, with what the release lacks.

    Abnormal false negatives corrected with a momentum encoder, no flips, partly visible organs kept from half of their volume,
    mild intensity augmentation, bf16, clipping, a cosine by step, a moving average. Judgements, not measured on real data.
    """
    return TrainingConfig(
        name="fvlm",
        model=fvlm_config("anatomy36"),
        objective=ObjectiveConfig("fvlm", "normal+momentum"),
        optimizer=OptimizerConfig(warmup_steps=1000, cosine="step", weight_decay=0.05, clip_norm=1.0),
        views=ViewConfig(noise_hu=5.0, scale=0.02, shift_hu=5.0),
        initial=InitialWeights("mae"),
        precision="bf16",
        ema=0.999,
    )


def clip() -> TrainingConfig:
    """The baseline of whole images: one feature per scan against its whole report, everything else as ``fvlm``."""
    base = fvlm()
    return replace(
        base,
        name="clip",
        model=replace(base.model, organs=whole_body_organs(base.model.organs)),
        objective=ObjectiveConfig("clip"),
    )


def supervised() -> TrainingConfig:
    """The supervised baseline: a logistic regression per finding of the registry on its organ's feature; no texts."""
    base = fvlm()
    return replace(
        base,
        name="supervised",
        objective=ObjectiveConfig("supervised"),
        optimizer=replace(base.optimizer, head_lr_factor=10.0),
        findings=registry_findings(base.model),
        initial=InitialWeights("mae", tokenizer="registry"),
    )


def starter() -> TrainingConfig:
    """The small model that ships, from random weights on the synthetic corpus (``ctgvlm-train synthesize``).

    fVLM's contrast, and beside it what a synthetic corpus knows and a report does not: which findings are there, and in which
    voxels. A few thousand passes over small phantoms would not do from reports alone (docs/training.md). Tokens of 24 mm; a
    convolutional stem, a soft-tissue window as a second channel, and no tokens outside organs, so that two CPU cores suffice.
    Views are moved by half a token either way: a phantom fits into the crop, and a finding would else meet one token grid only.
    """
    organs = {organ.name: organ.segments for organ in organ_group("anatomy36").organs}
    hu_window = (-1150.0, 350.0)
    vision = VisionConfig((48, 96, 128), (4, 8, 8), 128, 512, blocks=2, heads=4, levels=(0,), dropout=0.0)
    model = ModelConfig(
        organs=organs,
        vision=replace(
            vision, background_tokens=False, narrow_windows=(_shares((-130.0, 230.0), hu_window),), stem=(8, 32)
        ),
        text=TextConfig(2048, 128, 512, blocks=1, heads=4, positions=128, max_tokens=128, dropout=0.0),
        preprocessing=PreprocessingConfig(
            spacing_mm=(6.0, 3.0, 3.0),
            hu_window=hu_window,
            crop_margin=(2, 5, 5),
            minimum_size=(48, 96, 128),
            window_size=(48, 96, 128),
        ),
        embedding_size=128,
        pooling_dropout=0.0,
    )
    return TrainingConfig(
        name="starter",
        model=model,
        objective=ObjectiveConfig("fvlm", "normal", presence=60.0, location=600.0),
        findings=tuple(name for name in label_columns() if name in registry_findings(model)),
        optimizer=OptimizerConfig(3e-3, 3e-5, 30, "step", weight_decay=0.05, clip_norm=1.0),
        views=ViewConfig(noise_hu=5.0, scale=0.02, shift_hu=5.0, translation=(2, 4, 4)),
        texts=OrganTexts(normal_text="template"),
        initial=InitialWeights("scratch", tokenizer="corpus"),
        batch_size=16,
        epochs=8,
        ema=0.995,
        workers=1,
        checkpoint_every=100,
        validate_every=500,
        notice=STARTER_NOTICE,
        license="Apache-2.0",
    )


def _shares(window: tuple[float, float], whole: tuple[float, float]) -> tuple[float, float]:
    """An HU window as shares of a wider one."""
    low, high = ((value - whole[0]) / (whole[1] - whole[0]) for value in window)
    return round(low, 4), round(high, 4)


def registry_findings(model: ModelConfig) -> tuple[str, ...]:
    """ "organ/finding" of every finding in the registry whose organ the model has; of all where it has the whole body."""
    whole = WHOLE_BODY in model.organs
    return tuple(f"{finding.organ}/{finding.name}" for finding in findings() if whole or finding.organ in model.organs)


def debug(config: TrainingConfig) -> TrainingConfig:
    """The same recipe with a tiny model on two cases: every part runs, nothing is learned."""
    small = debug_config()
    model = dataclasses.replace(small, organs=config.model.organs)
    return replace(
        config,
        name=f"{config.name}_debug",
        model=model,
        optimizer=replace(config.optimizer, warmup_steps=1),
        initial=InitialWeights("scratch", tokenizer="registry"),
        batch_size=2,
        epochs=1,
        steps=2,
        workers=0,
        checkpoint_every=1,
        validate_every=min(config.validate_every, 2),
    )


_RECIPES: dict[str, Recipe] = {
    function.__name__: function for function in (fvlm_release, fvlm, clip, supervised, starter)
}


def recipe_names() -> tuple[str, ...]:
    """All recipes, each followed by its twin."""
    return tuple(name for recipe in _RECIPES for name in (recipe, f"{recipe}_debug"))


def description(name: str) -> str:
    """The first line of a recipe's docstring."""
    plain = name.removesuffix("_debug")
    first = (_RECIPES[plain].__doc__ or "").splitlines()[0]
    return first if plain == name else f"{plain} with a tiny model, two steps: a test that everything runs."


def recipe(name: str) -> TrainingConfig:
    """The configuration of a recipe. Raises InputError that lists the names."""
    if name not in recipe_names():
        raise InputError(f"There is no recipe {name!r}; there are {', '.join(recipe_names())}.")
    config = _RECIPES[name.removesuffix("_debug")]()
    return debug(config) if name.endswith("_debug") else config

"""From a run's checkpoint to the model folder that ``ctgvlm analyze --model`` takes, with a model card without results yet.

``training.json`` beside the weights keeps what the card says of the training: recipe, configuration, step, data.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from CTGroundedVLMLib import __version__
from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import share
from CTGroundedVLMLib.model.checkpoint import check_free, check_state, materialize, save_checkpoint
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMLib.model.header import CARD
from CTGroundedVLMLib.model.tokenizer import load_tokenizer

from .model_card import TRAINING, CardFacts, model_card
from .run_folder import RunFolder, open_run, read_json

HEAD, HEAD_FINDINGS = "head.safetensors", "head.json"


def export(run_folder: Path, output: Path, *, step: int | None = None, half: bool = False, learner: int = 0) -> int:
    """Write the model of a checkpoint (the last one by default): the moving average where the run keeps one.

    A supervised run's head goes beside it: ``head.safetensors`` (weight (F, E), bias (F,), scale) and ``head.json`` (findings).

    Args:
        half: weights in fp16, half the size; they are computed with in fp32 all the same.
        learner: 0 or, for the second model of co-teaching, 1.

    Returns:
        The step.

    Raises:
        InputError: no run, or no checkpoint of that step.
        OutputError: ``output`` exists, or cannot be written.
    """
    run = open_run(run_folder)
    check_free(output)
    state = run.load(step)
    if state is None:
        raise InputError(f"{run_folder} has no checkpoint yet. Let it run until the first one.")
    if not 0 <= learner < len(state["learners"]):
        raise InputError(f"{run_folder} trains {len(state['learners'])} model(s); there is no number {learner}.")
    chosen, config = state["learners"][learner], run.config
    weights = chosen["average"]["model"] if chosen["average"] else chosen["model"]
    model = _model(config.model, weights, str(run_folder))
    if half:
        model.half()
    details = {
        "notice": config.notice,
        "license": config.license,
        "source": f"step {state['step']} of run {run_folder.name}",
    }
    details = {key: value for key, value in details.items() if value}
    training = training_record(run, state["step"], weights)
    facts = CardFacts({"name": config.name, "model": config.model.to_dict(), **details}, training)
    files = {TRAINING: json.dumps(training, indent=1) + "\n", CARD: model_card(facts)}
    tokenizer = load_tokenizer(run.tokenizer)
    with _appearing_whole(output) as folder:
        save_checkpoint(folder, model, tokenizer, name=config.name, trained=True, files=files, **details)
        if config.objective.name == "supervised":
            _write_head(folder, chosen["objective"], config.findings)
    return state["step"]


def is_exported(run: RunFolder, step: int) -> bool:
    """Whether ``RUN/model`` is the model after this step; a folder that does not say of which step it is counts as such."""
    record = read_json(run.model / TRAINING)
    return run.model.exists() if record is None else record["step"] == step


def training_record(run: RunFolder, step: int, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """``training.json``: how the weights came about. Folders of the machine are left out: the model is to be handed on."""
    config, data = run.config, run.data()
    initial = config.initial
    named = {name: Path(getattr(initial, name)).name for name in ("mae_weights", "text_model", "tokenizer")}
    shown = dataclasses.replace(config, initial=dataclasses.replace(initial, **named))
    return {
        "format": "ctgvlm-training",
        "format_version": 1,
        "software": __version__,
        "config": shown.to_dict(),
        "step": step,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "cases": data.get("cases"),
        "data": data.get("identity"),
        "processes": data.get("processes"),
    }


def _model(config, weights: dict[str, torch.Tensor], source: str) -> FVLM:
    with torch.device("meta"):
        model = FVLM(config)
    token_type = "text.bert.embeddings.token_type_embeddings.weight"
    state = {key: value for key, value in weights.items() if key != token_type}
    check_state(state, model, source)
    model.load_state_dict(state, strict=False, assign=True)
    materialize(model)
    return model


@contextmanager
def _appearing_whole(output: Path) -> Iterator[Path]:
    """A folder to make and fill, which then becomes ``output``: a run that was killed in between would take a model without its
    head for finished.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.partial-") as beside:
            folder = Path(beside) / output.name
            yield folder
            os.replace(folder, output)
    except OSError as error:
        raise OutputError(f"{output} cannot be written ({error}). Free space or choose a folder.") from error


def _write_head(folder: Path, head: dict[str, torch.Tensor], findings: tuple[str, ...]) -> None:
    save_file({key: value.contiguous() for key, value in head.items()}, folder / HEAD)
    share(folder / HEAD)  # safetensors makes files that only their owner can read
    (folder / HEAD_FINDINGS).write_text(json.dumps({"findings": list(findings)}, indent=1), encoding="utf-8")

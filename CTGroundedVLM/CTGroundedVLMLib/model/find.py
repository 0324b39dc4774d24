"""From what the user calls a model to a loaded model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ModelError
from ..folders import bundled_models_folder, models_folder
from .checkpoint import LoadedModel, load_checkpoint
from .header import CONFIG, STARTER, UNTRAINED, bundled_models, known_folder, readable_models
from .untrained import untrained_model

HOW_TO_GET = """How to get a model:
  1. fVLM's released CT-RATE weights (lung, heart, esophagus, aorta): download checkpoint_10.pth by the link in the README of
     alibaba-damo-academy/fvlm, and the tokenizer files of microsoft/BiomedVLP-CXR-BERT-specialized, then run
       ctgvlm models import-fvlm checkpoint_10.pth --tokenizer DIR --output {folder}/fvlm
  2. or give the folder of a model that somebody trained with this software: --model DIR
  3. or try the software with random weights, whose numbers mean nothing: --model untrained"""
_NOT_IN_THIS_COPY = (
    "The starter model, which comes with this software, is not in this copy of it: {folder} is missing or incomplete. "
    "Take a copy with the model (the repository, the extension, a wheel), or another model."
)


def find_model(name: str | None, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a model.

    Args:
        name: "untrained", a model folder, the name of a model in the models folder, or that of a bundled one ("starter").
            None takes the only model of the models folder; where that is empty, the starter model.

    Raises:
        ModelError: there is none; the message says how to get one.
    """
    if name == UNTRAINED:
        return untrained_model(device=device)
    return load_checkpoint(_default_folder() if name is None else _named_folder(name), device)


def _default_folder() -> Path:
    installed = list(readable_models(models_folder()))
    if len(installed) > 1:
        raise ModelError(f"Several models are installed: {', '.join(installed)}. Choose one with --model NAME.")
    folder = known_folder(installed[0] if installed else STARTER)
    if folder is None:
        raise ModelError(
            f"No model is installed in {models_folder()}, and --model names none. {_missing_starter()}\n{_how_to_get()}"
        )
    return folder


def _named_folder(name: str) -> Path:
    """A folder that holds a model goes before a name; any other folder of that name (results, a run) does not."""
    path, known = Path(name), known_folder(name)
    if (path / CONFIG).is_file() or (known is None and path.is_dir()):
        return path
    if known is not None:
        return known
    if name == STARTER:
        raise ModelError(f"{_missing_starter()}\n{_how_to_get()}")
    names = ", ".join([*readable_models(models_folder()), *bundled_models(), UNTRAINED])
    raise ModelError(f'"{name}" is neither a folder nor an installed model (known: {names}).\n{_how_to_get()}')


def _missing_starter() -> str:
    return _NOT_IN_THIS_COPY.format(folder=bundled_models_folder() / STARTER)


def _how_to_get() -> str:
    return HOW_TO_GET.format(folder=models_folder())

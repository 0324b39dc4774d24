"""From what the user calls a model to a loaded model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ModelError
from ..files import models_folder
from .checkpoint import LoadedModel, load_checkpoint
from .header import UNTRAINED, readable_models
from .untrained import untrained_model

HOW_TO_GET = """How to get a model:
  1. fVLM's released CT-RATE weights (lung, heart, esophagus, aorta): download checkpoint_10.pth by the link in the README of
     alibaba-damo-academy/fvlm, and the tokenizer files of microsoft/BiomedVLP-CXR-BERT-specialized, then run
       ctgvlm models import-fvlm checkpoint_10.pth --tokenizer DIR --output {folder}/fvlm
  2. or give the folder of a model that somebody trained with this software: --model DIR
  3. or try the software with random weights, whose numbers mean nothing: --model untrained"""


def find_model(name: str | None, device: torch.device | str = "cpu") -> LoadedModel:
    """Load "untrained", a checkpoint directory, a model of the models folder, or (None) the only one there.

    Raises:
        ModelError: there is none; the message says how to get one.
    """
    if name == UNTRAINED:
        return untrained_model(device=device)
    return load_checkpoint(_folder(name), device)


def _folder(name: str | None) -> Path:
    installed = readable_models(models_folder())
    help_text = HOW_TO_GET.format(folder=models_folder())
    if name is None:
        if len(installed) == 1:
            return models_folder() / next(iter(installed))
        if installed:
            raise ModelError(f"Several models are installed: {', '.join(installed)}. Choose one with --model NAME.")
        raise ModelError(f"No model is installed in {models_folder()}, and --model names none.\n{help_text}")
    if Path(name).is_dir():
        return Path(name)
    if name in installed:
        return models_folder() / name
    known = ", ".join([*installed, UNTRAINED])
    raise ModelError(f'"{name}" is neither a folder nor an installed model (known: {known}).\n{help_text}')

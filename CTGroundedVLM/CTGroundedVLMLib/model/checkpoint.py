"""The checkpoint directory: ``model.safetensors``, ``config.json``, the tokenizer's files. One format for everything.

``config.json`` holds the whole ModelConfig, so that loading needs no flags::

    {"format": "ctgvlm-model", "format_version": 1, "name": ..., "trained": true, "notice": "", "license": ...,
     "source": ..., "findings": [...], "model": {...}}

Beside them may lie ``calibration-*.json``, one per way of running the model (``scoring.own_calibration``), and ``MODEL_CARD.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from ..errors import ModelError, OutputError
from ..files import sha256_of, share
from ..types import ModelIdentity
from .config import ModelConfig
from .fvlm import FVLM
from .header import CONFIG, FORMAT, FORMAT_VERSION, WEIGHTS, notice_of, read_header
from .tokenizer import TOKENIZER_FILES, load_tokenizer

# BERT always has a token-type embedding; ours is zero and is not stored (see text.py)
NOT_STORED = ("text.bert.embeddings.token_type_embeddings.weight",)


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and identity.

    ``folder``: where it was read from; None for one that no folder holds. ``findings``: "organ/finding" of what it was
    evaluated on, which an analysis asks for by default; empty where nobody has said.
    """

    model: FVLM
    tokenizer: PreTrainedTokenizerBase
    identity: ModelIdentity
    folder: Path | None = None
    findings: tuple[str, ...] = ()

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.model.config


def save_checkpoint(
    folder: Path,
    model: FVLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    trained: bool,
    files: Mapping[str, str] | None = None,
    **details: str,
) -> None:
    """Write a checkpoint directory in one step: it appears complete or not at all.

    Args:
        folder: must not exist yet, or be empty.
        files: name -> text of further files, such as the model card.
        details: optional ``notice``, ``license`` and ``source`` for ``config.json``.

    Raises:
        OutputError: the folder holds something already, or cannot be written.
    """
    unknown = set(details) - {"notice", "license", "source"}
    if unknown:
        raise TypeError(f"unknown details: {sorted(unknown)}")
    check_free(folder)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "name": name, "trained": trained, **details}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        try:
            state = {k: v.contiguous() for k, v in model.state_dict().items() if k not in NOT_STORED}
            save_file(state, partial / WEIGHTS)
            text = json.dumps(header | {"model": model.config.to_dict()}, indent=1)
            (partial / CONFIG).write_text(text, encoding="utf-8")
            tokenizer.save_pretrained(partial)
            for file, content in (files or {}).items():
                (partial / file).write_text(content, encoding="utf-8", newline="\n")
            for path in partial.iterdir():  # safetensors makes files that only their owner can read
                share(path)
            partial.chmod(0o755)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"The model cannot be written to {folder}: {error}. Free space or choose a folder."
        ) from error


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something already: nothing of the user's is overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already. Choose a folder that does not exist yet, or remove it first.")


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Load a checkpoint directory.

    Raises:
        ModelError: a file is missing or damaged, or weights and configuration do not fit: every key is named.
    """
    header = read_header(folder)
    config = ModelConfig.from_dict(header["model"])
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}. Copy the whole model folder again.")
    try:
        # half-precision weights are computed with in fp32 (or bf16 by --precision)
        state = {key: tensor.float() for key, tensor in load_file(weights, device="cpu").items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{weights} cannot be read ({error}). It may be incomplete: copy it again.") from error
    with torch.device("meta"):
        model = FVLM(config)
    check_state(state, model, str(weights))
    model.load_state_dict(state, strict=False, assign=True)
    materialize(model)
    identity = ModelIdentity(
        name=header["name"],
        sha256=_identity_hash(folder, header),
        trained=header["trained"],
        notice=notice_of(header),
        license=header.get("license", ""),
    )
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, config.text.vocabulary_size, str(folder))
    return LoadedModel(model.eval().to(device), tokenizer, identity, folder, tuple(header.get("findings", ())))


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocabulary_size: int, source: str) -> None:
    """Every token needs an embedding. Raises ModelError."""
    if len(tokenizer) > vocabulary_size:
        raise ModelError(
            f"The tokenizer of {source} has {len(tokenizer)} tokens, the model only {vocabulary_size}. "
            "Use the tokenizer that the model was trained with."
        )


def check_state(state: dict[str, torch.Tensor], model: FVLM, source: str) -> None:
    """Every key and shape must fit; the message names each that does not."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if k not in NOT_STORED}
    problems = [f"missing: {key}" for key in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected: {key}" for key in sorted(state.keys() - expected.keys())]
    for key in sorted(expected.keys() & state.keys()):
        if tuple(state[key].shape) != expected[key]:
            problems.append(f"{key}: shape {tuple(state[key].shape)}, expected {expected[key]}")
    if problems:
        raise ModelError(f"The weights in {source} do not fit the configuration:\n  " + "\n  ".join(problems))


def materialize(model: FVLM) -> None:
    """Give a model that was made on the meta device its few tensors that no checkpoint stores."""
    embeddings, text = model.text.bert.embeddings, model.config.text
    embeddings.position_ids = torch.arange(text.positions).expand((1, -1))
    embeddings.token_type_ids = torch.zeros((1, text.positions), dtype=torch.long)
    embeddings.token_type_embeddings.weight = torch.nn.Parameter(torch.zeros(1, text.hidden_size), requires_grad=False)
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise ModelError(f"Not initialised: {', '.join(left)}")


def model_sha256(folder: Path) -> str:
    """A model folder's hash, as results and calibrations name it; the weights are not loaded. Raises ModelError."""
    return _identity_hash(folder, read_header(folder))


def _identity_hash(folder: Path, header: dict[str, Any]) -> str:
    """One hash for weights, configuration and tokenizer: what the text cache, calibration and results are keyed by."""
    files = [folder / name for name in (WEIGHTS, *TOKENIZER_FILES, "tokenizer_config.json")]
    parts = [json.dumps(header["model"], sort_keys=True)]
    parts += [f"{path.name} {sha256_of(path)}" for path in files if path.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

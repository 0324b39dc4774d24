"""The full architecture with deterministic random weights: it shows that everything runs; its numbers mean nothing."""

from __future__ import annotations

import re
import string
import zlib

import torch
from transformers import BertTokenizerFast

from ..anatomy import findings, segment_classes
from ..types import ModelIdentity
from .checkpoint import LoadedModel, materialize
from .config import ModelConfig, fvlm_config
from .fvlm import FVLM
from .header import UNTRAINED, UNTRAINED_NOTICE, UNTRAINED_ORGANS


def untrained_model(config: ModelConfig | None = None, device: torch.device | str = "cpu") -> LoadedModel:
    """Same weights on every machine and in every run (each tensor is seeded by its name).

    Without a configuration: the full architecture with the 36 organs of fVLM's paper, so that any CT shows something.
    """
    config = config or fvlm_config(UNTRAINED_ORGANS)
    with torch.device("meta"):
        model = FVLM(config)
    for name, parameter in model.state_dict().items():
        _assign(model, name, _random_tensor(name, parameter.shape, config))
    materialize(model)
    identity = ModelIdentity(UNTRAINED, "none: random weights", trained=False, notice=UNTRAINED_NOTICE)
    return LoadedModel(model.eval().to(device), registry_tokenizer(), identity)


def _random_tensor(name: str, shape: torch.Size, config: ModelConfig) -> torch.Tensor:
    """Scales of a usual initialisation, but random queries: zero ones would attend to all tokens alike."""
    if name == "temperature":
        return torch.tensor(config.temperature)
    if "norm" in name.lower() or name.endswith("bias"):
        return torch.full(shape, 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.empty(shape).normal_(0.0, 1.0 if name == "pooling.queries" else 0.03, generator=generator)


def _assign(model: FVLM, name: str, value: torch.Tensor) -> None:
    owner = model.get_submodule(name.rpartition(".")[0])
    setattr(owner, name.rpartition(".")[2], torch.nn.Parameter(value))


def registry_tokenizer() -> BertTokenizerFast:
    """A WordPiece tokenizer whose words are those of the organ registry; anything else is spelled in characters."""
    texts = [segment.display for segment in segment_classes()]
    for finding in findings():
        texts += [finding.positive, finding.negative, finding.term, *finding.synonyms]
    words = sorted({word for text in texts for word in re.findall(r"[a-z0-9]+", text.lower())})
    characters = [c for c in string.printable if c in string.ascii_lowercase + string.digits + string.punctuation]
    pieces = characters + [f"##{c}" for c in string.ascii_lowercase + string.digits]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *pieces, *words]))
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=True)

"""Read fVLM's released checkpoint (``checkpoint_10.pth``) and write our checkpoint directory.

The release loads it with ``strict=False``, which hides misses; here every key and shape is checked.
"""

from __future__ import annotations

import dataclasses
import re
import zipfile
from pathlib import Path

import torch

from ..errors import ModelError
from .checkpoint import check_free, check_state, check_vocabulary, materialize, save_checkpoint
from .config import ModelConfig, fvlm_config
from .fvlm import FVLM
from .tokenizer import load_tokenizer

# In the file, and without use at inference: the masked-language-model head, a constant buffer, and the token-type
# embedding, which the release's own text encoder never adds.
UNUSED = re.compile(r"text_encoder\.(cls\..*|pooler\..*|embeddings\.(position_ids|token_type_embeddings\.weight))")
RENAMED = (
    ("visual_encoder.", "vision."),
    ("text_encoder.", "text.bert."),
    ("text_proj.", "text_projection."),
    ("attention.", "pooling.attention."),
)
LICENSE = (
    "The authors state no licence for these weights; they were trained on CT-RATE (CC-BY-NC-SA-4.0). "
    "Treat them as for non-commercial research only."
)


def import_fvlm(checkpoint: Path, tokenizer_folder: Path, output: Path, group: str = "fvlm4") -> ModelConfig:
    """Convert a released fVLM checkpoint.

    Args:
        checkpoint: ``.pth`` with the state dict under "model" (365 keys for the four-organ release).
        tokenizer_folder: ``tokenizer.json`` or ``vocab.txt`` of microsoft/BiomedVLP-CXR-BERT-specialized.
        output: the directory to make.
        group: the organ group that the model was trained with, in its order.

    Raises:
        ModelError: the file cannot be read, or a key or shape does not fit (each is named).
        OutputError: ``output`` exists.
    """
    check_free(output)
    tokenizer = load_tokenizer(tokenizer_folder)
    state = convert_state(read_state(checkpoint), checkpoint)
    config = fvlm_config(group)
    words = state.get("text.bert.embeddings.word_embeddings.weight")
    vocabulary = config.text.vocabulary_size if words is None else words.shape[0]
    check_vocabulary(tokenizer, vocabulary, str(tokenizer_folder))
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocabulary_size=vocabulary))
    with torch.device("meta"):
        model = FVLM(config)
    check_state(state, model, str(checkpoint))
    model.load_state_dict(state, strict=False, assign=True)
    materialize(model)
    save_checkpoint(
        output, model, tokenizer, name=f"fvlm-{checkpoint.stem}", trained=True, license=LICENSE, source=checkpoint.name
    )
    return config


def read_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The file's state dict. Only tensors are unpickled (``weights_only=True``), so the file cannot run code."""
    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint} does not exist. Give the path of fVLM's checkpoint (checkpoint_10.pth).")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(checkpoint))
    except Exception as error:
        # A file that is no checkpoint makes the unpickler fail in any way. PyTorch's own text advises weights_only=False,
        # which would let the file run code: it is not shown.
        raise ModelError(
            f"{checkpoint} cannot be read as a PyTorch checkpoint of tensors ({type(error).__name__}). "
            "It may be incomplete or no checkpoint (download it again), or hold Python objects, which are refused."
        ) from None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f'{checkpoint} holds no state dict under "model": it is not a checkpoint of fVLM\'s trainer.')
    return state


def convert_state(released: dict[str, torch.Tensor], source: Path) -> dict[str, torch.Tensor]:
    """The release's names to ours; the organs' projections are stacked. Raises ModelError for a name without a place."""
    state, weights, biases = {}, {}, {}
    for key, tensor in released.items():
        if UNUSED.fullmatch(key):
            continue
        if match := re.fullmatch(r"vision_projs\.(\d+)\.(weight|bias)", key):
            (weights if match[2] == "weight" else biases)[int(match[1])] = tensor
        elif key in ("temp", "query_tokens"):
            state["temperature" if key == "temp" else "pooling.queries"] = tensor.reshape(
                () if key == "temp" else tensor.shape
            )
        else:
            new = next((key.replace(old, new, 1) for old, new in RENAMED if key.startswith(old)), key)
            state[new] = tensor
    if not weights or sorted(weights) != sorted(biases) or sorted(weights) != list(range(len(weights))):
        raise ModelError(
            f"{source}: vision_projs.N.weight and .bias must be there for N = 0, 1, ...; found {sorted(weights)}."
        )
    shapes = {tuple(w.shape) for w in weights.values()} | {(*b.shape, -1) for b in biases.values()}
    if len(shapes) != 2:
        raise ModelError(f"{source}: the vision_projs have different shapes: {sorted(shapes)}.")
    state["pooling.projection_weight"] = torch.stack([weights[i] for i in range(len(weights))])
    state["pooling.projection_bias"] = torch.stack([biases[i] for i in range(len(biases))])
    return {key: tensor.clone() if tensor.dtype == torch.float32 else tensor.float() for key, tensor in state.items()}

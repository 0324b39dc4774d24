"""What a run starts from: random weights, scales for small models, MAE's ViT-B of ImageNet, a BERT from a local folder.

Nothing is downloaded. Every key of a file that finds no place, and every weight that the file lacks, is named.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from CTGroundedVLMLib.errors import ModelError
from CTGroundedVLMLib.model.config import ModelConfig, Triple
from CTGroundedVLMLib.model.fvlm import FVLM

from .config import InitialWeights

MEAN_INTENSITY = 0.5  # of an image in [0, 1]
QUERY_STD = 0.02

# In MAE's file, and without a place in a 3D ViT: the class token, the 2D patch embedding, and (in the file of the whole
# autoencoder) the mask token and the decoder.
MAE_UNUSED = re.compile(r"cls_token|mask_token|patch_embed\..*|decoder_.*")
MAE_RENAMED = (
    ("attn.proj.", "attn.out_proj."),
    ("mlp.fc1.", "mlp.linear1."),
    ("mlp.fc2.", "mlp.linear2."),
)
# Left random by MAE: the patch is 3D
MAE_RANDOM = re.compile(r"patch_embedding\.patch_embeddings\..*")
# In a BERT's file, and without a place here: its heads (CXR-BERT has one for masked words and one for its own projection), and
# the token-type embedding, which fVLM's release never adds
BERT_UNUSED = re.compile(
    r"(cls|cls_projection_head|pooler)\..*|embeddings\.(position_ids|token_type_ids|token_type_embeddings\.weight)"
)


def initial_model(config: ModelConfig, initial: InitialWeights, seed: int) -> FVLM:
    """The model at step 0, on the CPU; the same for the same seed.

    Raises:
        InputError: the configuration leaves a file open that it needs.
        ModelError: a file is missing or does not fit; each key is named.
    """
    initial.check_complete()
    torch.manual_seed(seed)
    model = FVLM(config)
    if initial.method == "scratch":
        scale_for_scratch(model)
    elif initial.method == "mae":
        load_mae(model, Path(initial.mae_weights))
    if initial.text_model:
        load_text_model(model, Path(initial.text_model))
    return model


@torch.no_grad()
def scale_for_scratch(model: FVLM) -> None:
    """Scales under which a small model can tell two cases apart at its first step.

    At small width BERT's fixed std of 0.02 makes every layer's output vanish beside the residual (post-norm), so that all texts
    have the same feature (measured: cosine 0.9999); patches of different brightness look the same after the first LayerNorm,
    since inputs lie in [0, 1] and the patch embedding only scales one direction with the brightness; queries of zero attend to
    all tokens alike; and an organ's projection of std 0.02 changes by a tenth in one step of AdamW at a small model's rates.
    So: Xavier's width-dependent scale for the text tower's matrices, He's for convolutions and the patch embedding, a bias
    there such that an image of mean intensity gives zero, unit scale for the projections, and small random queries.
    """
    for module in model.text.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    embedding = model.vision.patch_embedding.patch_embeddings
    convolutions = [module for module in model.vision.stem if isinstance(module, nn.Conv3d)]
    for conv in (*convolutions, embedding):
        nn.init.kaiming_normal_(conv.weight)
        nn.init.zeros_(conv.bias)
    first = convolutions[0] if convolutions else embedding
    first.bias.copy_(-MEAN_INTENSITY * first.weight.flatten(1).sum(1))
    nn.init.normal_(model.pooling.projection_weight, std=model.pooling.projection_weight.shape[-1] ** -0.5)
    nn.init.normal_(model.pooling.queries, std=QUERY_STD)


def load_mae(model: FVLM, path: Path) -> None:
    """MAE's ViT-B (He et al. 2022; ``mae_pretrain_vit_base.pth``) into the vision tower: blocks, final norm, position embedding.

    The patch embedding stays random, as in fVLM's release.

    Raises:
        ModelError: the file cannot be read, or a key or shape does not fit.
    """
    vision = model.vision
    converted = {}
    for key, tensor in _read(path).items():
        if key == "pos_embed":
            _check_mae_position(key, tensor, path, model.config.vision.hidden_size)
            new, tensor = "patch_embedding.position_embeddings", mae_position_embedding(tensor, vision.config.grid)
        elif MAE_UNUSED.fullmatch(key):
            continue
        else:
            new = key
            for old, ours in MAE_RENAMED:
                new = new.replace(old, ours)
        converted[new] = tensor
    left_random = {key for key in vision.state_dict() if MAE_RANDOM.fullmatch(key)}
    _load(vision, converted, left_random, path)


def mae_position_embedding(embedding_1NC: torch.Tensor, grid: Triple) -> torch.Tensor:
    """MAE's (1, 1 + 14 x 14, C) for a grid of (D, H, W) tokens: (1, D x H x W, C).

    The class token's is dropped, the 14 x 14 interpolated to H x W (bilinear, ``align_corners=False``) and repeated along D: as
    fVLM's release does (tested against it).
    """
    side = round((embedding_1NC.shape[1] - 1) ** 0.5)
    plane = embedding_1NC[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    plane = F.interpolate(plane, size=grid[1:], mode="bilinear", align_corners=False)
    return plane.flatten(2).transpose(1, 2).repeat(1, grid[0], 1)


def load_text_model(model: FVLM, folder: Path) -> None:
    """BERT's weights from a local folder (``model.safetensors`` or ``pytorch_model.bin``) into the text tower.

    Raises:
        ModelError: the folder cannot be read, or a key or shape does not fit.
    """
    from safetensors.torch import load_file

    files = [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()]
    if not files:
        raise ModelError(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin. Copy the whole BERT folder again."
        )
    try:
        state = load_file(files[0]) if files[0].suffix == ".safetensors" else _read(files[0])
    except Exception as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{files[0]} cannot be read ({type(error).__name__}). It may be incomplete: copy it again."
        ) from error
    state = {key.removeprefix("bert."): tensor for key, tensor in state.items()}
    # older files call LayerNorm's weights gamma and beta
    state = {re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", k)): v
             for k, v in state.items() if not BERT_UNUSED.fullmatch(k)}  # fmt: skip
    zero = {key for key in model.text.bert.state_dict() if BERT_UNUSED.fullmatch(key)}
    _load(model.text.bert, state, zero, files[0])


def _read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a PyTorch file, under "model" or at its top. Only tensors are unpickled, so the file cannot run code."""
    if not path.is_file():
        raise ModelError(f"{path} does not exist. Give the path of a file with weights.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a file that is no checkpoint makes the unpickler fail in any way
        raise ModelError(
            f"{path} cannot be read as a PyTorch file of tensors ({type(error).__name__}). It may be incomplete: copy it again."
        ) from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ModelError(f"{path} holds no state dict of tensors.")
    return content


def _check_mae_position(key: str, tensor: torch.Tensor, path: Path, width: int) -> None:
    tokens = tensor.shape[1] - 1 if tensor.ndim == 3 else 0
    if tensor.ndim != 3 or tensor.shape[2] != width or round(tokens**0.5) ** 2 != tokens:
        raise ModelError(f"{path}: {key} has shape {tuple(tensor.shape)}, expected (1, 1 + n x n, {width}).")


def _load(module: nn.Module, state: dict[str, torch.Tensor], without: set[str], path: Path) -> None:
    """Load strictly; only the keys in ``without`` may be missing."""
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items() if key not in without}
    problems = [f"missing: {key}" for key in sorted(expected.keys() - state.keys())]
    problems += [f"unexpected: {key}" for key in sorted(state.keys() - expected.keys())]
    problems += [
        f"{key}: shape {tuple(state[key].shape)}, expected {expected[key]}"
        for key in sorted(expected.keys() & state.keys())
        if tuple(state[key].shape) != expected[key]
    ]
    if problems:
        raise ModelError(f"The weights in {path} do not fit the model:\n  " + "\n  ".join(problems))
    module.load_state_dict(state, strict=False)

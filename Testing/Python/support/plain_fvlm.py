"""A plain re-statement of fVLM's released evaluation, in this project's words: what the tests compare with and what the
benchmark measures against.

As the release does it: whole volumes are resampled and written between the steps as compressed NIfTI (its three scripts),
the ViT runs once per organ with eager attention and a strided convolution, organ tokens are gathered in a loop, and prompts
are encoded pair by pair, padded to 384 tokens.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai import transforms
from monai.networks.nets.vit import ViT
from transformers import BertConfig, BertModel

from CTGroundedVLMLib.model.checkpoint import LoadedModel
from CTGroundedVLMLib.model.config import PreprocessingConfig

KEYS = ["image", "label"]


def merge_labels(labels: np.ndarray, names: dict[int, str], organs: dict[str, tuple[str, ...]]) -> np.ndarray:
    """TotalSegmentator labels -> 1 + organ number."""
    merged = np.zeros(labels.shape, np.uint8)
    for number, segments in enumerate(organs.values()):
        for value, name in names.items():
            if name in segments:
                merged[labels == value] = number + 1
    return merged


def target_size(shape_xyz, affine, reference_spacing_zyx) -> list[int]:
    """The release's rule, x and y swapped as there."""
    scale = [abs(float(affine[a, a])) / ref for a, ref in zip(range(3), reference_spacing_zyx[::-1], strict=True)]
    return [int(shape_xyz[0] * scale[1]), int(shape_xyz[1] * scale[0]), int(shape_xyz[2] * scale[2])]


def resize(image_XYZ, organ_map_XYZ, affine, config: PreprocessingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole volume on the model's grid: image trilinear, labels nearest, both (X, Y, Z)."""
    size = target_size(image_XYZ.shape, affine, config.spacing_mm)
    image = transforms.Resize(size, mode="trilinear")(torch.as_tensor(image_XYZ, dtype=torch.float32)[None])
    labels = transforms.Resize(size, mode="nearest")(torch.as_tensor(organ_map_XYZ, dtype=torch.float32)[None])
    return image[0].as_tensor(), labels[0].as_tensor()


def crop_and_pad(image_XYZ, labels_XYZ, config: PreprocessingConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Transposed to (D, H, W), windowed, cropped to the organs with margin, padded to the minimum size."""
    low, high = config.hu_window
    image = ((image_XYZ.permute(2, 1, 0) - low) / (high - low)).clip(0, 1)
    labels = labels_XYZ.permute(2, 1, 0)
    where = torch.nonzero(labels)
    margin = torch.tensor(config.crop_margin)
    start = (where.min(0).values - margin).clamp(min=0)
    stop = torch.minimum(where.max(0).values + margin, torch.tensor(labels.shape))
    part = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    pad = transforms.SpatialPad(config.minimum_size, mode="constant", value=0)
    return pad(image[part][None])[0].as_tensor(), pad(labels[part][None])[0].as_tensor()


def preprocess_files(ct: Path, mask: Path, names: dict[int, str], organs, config: PreprocessingConfig, work: Path):
    """The release's three scripts on files, with every intermediate written as .nii.gz."""
    load = transforms.LoadImaged(KEYS, image_only=True, ensure_channel_first=True)

    def save(data, step):
        for key in KEYS:
            data[key].meta["filename_or_obj"] = f"{key}.nii.gz"
            folder = work / step
            transforms.SaveImage(folder, output_postfix="", separate_folder=False, resample=False, print_log=False)(
                data[key]
            )
        return {key: work / step / f"{key}.nii.gz" for key in KEYS}

    data = load({"image": ct, "label": mask})
    affine = data["image"].affine
    merged = merge_labels(data["label"][0].numpy(), names, organs)
    data["label"] = data["label"].clone()
    data["label"][0] = torch.from_numpy(merged.astype(np.float32))
    data = load(save(data, "merged"))
    size = target_size(data["image"].shape[1:], affine, config.spacing_mm)
    data = transforms.Resized(KEYS, size, mode=("trilinear", "nearest"))(data)
    data = load(save(data, "resized"))
    image, labels = crop_and_pad(data["image"][0].as_tensor(), data["label"][0].as_tensor(), config)
    data = {key: transforms.ToTensor(track_meta=True)(x[None]) for key, x in (("image", image), ("label", labels))}
    data = load(save(data, "processed"))
    return data["image"][0].as_tensor(), data["label"][0].as_tensor()


def organ_window(image_DHW, labels_DHW, organ: int, config: PreprocessingConfig, patch):
    """The crop centred on one organ, other organs removed, padded at the end to whole patches."""
    mask = labels_DHW == organ + 1
    where = torch.nonzero(mask)
    low, high = where.min(0).values.tolist(), where.max(0).values.tolist()
    part, padding = [], []
    for a in range(3):
        length, size = max(config.window_size[a], high[a] - low[a]), image_DHW.shape[a]
        start = max(0, (low[a] + high[a]) // 2 - length // 2)
        stop = min(size, start + length)
        if stop - start < length:
            start = max(0, stop - length)
        part.append(slice(start, stop))
        padding = [0, -(stop - start) % patch[a], *padding]
    return F.pad(image_DHW[tuple(part)], padding), F.pad(mask[tuple(part)].float(), padding)


class PlainFVLM:
    """The same weights in MONAI's and transformers' own eager modules."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded, model, config = loaded, loaded.model, loaded.config
        v, t = config.vision, config.text
        self.vit = ViT(
            1,
            v.image_size,
            v.patch_size,
            v.hidden_size,
            v.mlp_size,
            v.blocks,
            v.heads,
            dropout_rate=v.dropout,
            qkv_bias=True,
        ).eval()
        left = self.vit.load_state_dict(model.vision.state_dict(), strict=False)
        assert not left.unexpected_keys
        assert all("norm_cross_attn" in key for key in left.missing_keys)
        settings = BertConfig(
            vocab_size=t.vocabulary_size, hidden_size=t.hidden_size, num_hidden_layers=t.blocks, num_attention_heads=t.heads,
            intermediate_size=t.mlp_size, max_position_embeddings=t.positions, layer_norm_eps=t.layer_norm_eps,
            type_vocab_size=1, attn_implementation="eager",
        )  # fmt: skip
        self.bert = BertModel(settings, add_pooling_layer=False).eval()
        self.bert.load_state_dict(model.text.bert.state_dict())

    @torch.inference_mode()
    def levels(self, image_DHW: torch.Tensor) -> list[torch.Tensor]:
        """Tokens (N, C) after the chosen blocks and after the final norm."""
        embed, config = self.vit.patch_embedding, self.loaded.config.vision
        x = embed.patch_embeddings(image_DHW[None, None])
        grid = x.shape[2:]
        position = embed.position_embeddings.transpose(1, 2).unflatten(2, config.grid)
        position = F.interpolate(position, size=grid, mode="trilinear", align_corners=False).flatten(2).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2) + position
        out = []
        for i, block in enumerate(self.vit.blocks):
            x = block(x)
            if i in config.levels:
                out.append(x[0])
        return [*out, self.vit.norm(x)[0]]

    @torch.inference_mode()
    def organ_feature(self, levels, mask_DHW: torch.Tensor, organ: int) -> torch.Tensor:
        """(E,): nn.MultiheadAttention over the gathered tokens, the organ's projection, normalised."""
        pooling = self.loaded.model.pooling
        patch = self.loaded.config.vision.patch_size
        tokens = F.max_pool3d(mask_DHW[None, None], patch, patch).flatten() > 0
        keys = torch.cat([level[tokens] for level in levels])[None]
        pooled, _ = pooling.attention(pooling.queries[organ][None, None], keys, keys)
        feature = F.linear(pooled[0, 0], pooling.projection_weight[organ], pooling.projection_bias[organ])
        return F.normalize(feature, dim=-1)

    @torch.inference_mode()
    def text_pair(self, negative: str, positive: str) -> torch.Tensor:
        """(2, E), padded to the maximal length."""
        length = self.loaded.config.text.max_tokens
        batch = self.loaded.tokenizer(
            [negative, positive], padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        out = self.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return F.normalize(self.loaded.model.text_projection(out.last_hidden_state[:, 0]), dim=-1)

    @torch.inference_mode()
    def image_features(self, image_DHW: torch.Tensor, labels_DHW: torch.Tensor) -> dict[int, torch.Tensor]:
        """One ViT pass per organ."""
        config, features = self.loaded.config, {}
        for organ in range(len(config.organs)):
            if (labels_DHW == organ + 1).any():
                image, mask = organ_window(image_DHW, labels_DHW, organ, config.preprocessing, config.vision.patch_size)
                features[organ] = self.organ_feature(self.levels(image), mask, organ)
        return features

    def probability(self, feature_E: torch.Tensor, text_2E: torch.Tensor) -> float:
        """Softmax over (negative, positive), the positive's share."""
        logits = text_2E @ feature_E / self.loaded.model.temperature
        return float(logits.softmax(0)[1])

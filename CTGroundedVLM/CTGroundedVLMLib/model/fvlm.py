"""The fVLM model and what it makes of an image.

Shapes: B windows, O organs, N image tokens, T = levels x N, C channels, E embedding size, P texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..preprocessing import ModelInput, ModelWindow
from .config import ModelConfig, Triple
from .pooling import OrganPooling
from .text import TextTower
from .vision import VisionTower


@dataclass(frozen=True)
class WindowFeatures:
    """What the model saw in one window: all tokens (T, C), and which of the N lie in which organ."""

    window: ModelWindow
    tokens_TC: torch.Tensor
    token_mask_ON: torch.Tensor
    grid: Triple


@dataclass(frozen=True)
class ImageFeatures:
    """Organ features (E,), L2-normalised, by organ number; ``window_of`` tells where each organ was seen."""

    organ_features: dict[int, torch.Tensor]
    windows: tuple[WindowFeatures, ...]
    window_of: dict[int, int]

    def organ_tokens(self, organ: int) -> int:
        """How many image tokens the organ was pooled from (of one level)."""
        window = self.windows[self.window_of[organ]]
        return int(window.token_mask_ON[window.window.organs.index(organ)].sum())


class FVLM(nn.Module):
    """Vision tower, text tower, organ pooling and temperature (a divisor)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config.vision)
        self.text = TextTower(config.text)
        self.text_projection = nn.Linear(config.text.hidden_size, config.embedding_size)
        self.pooling = OrganPooling(
            len(config.organs),
            config.vision.hidden_size,
            config.embedding_size,
            config.pooling_heads,
            config.pooling_dropout,
        )
        self.temperature = nn.Parameter(torch.tensor(config.temperature))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.temperature.device

    def autocast(self, precision: str) -> AbstractContextManager:
        """bf16 matrix products for ``precision="bf16"``; nothing for "fp32"."""
        if precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def forward(
        self,
        image_BDHW: torch.Tensor,
        token_mask_BON: torch.Tensor,
        input_ids_PT: torch.Tensor,
        attention_mask_PT: torch.Tensor,
        organ_of_F: torch.Tensor | None = None,
        prompt_of_F2: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """A training step's features: organs (B, O, E), texts (P, E), both L2-normalised and fp32, and the temperature.

        The feature of an organ without a token is zero. Without a text (P = 0) the texts' features are empty. With F questions
        (the organ, and two of the texts, of each) also what :meth:`token_margins` gives, at a cost: ask where it is used only.
        """
        tokens_BTC = torch.cat(self.vision(image_BDHW, organs_BN=token_mask_BON.any(1)), dim=1)
        levels = tokens_BTC.shape[1] // token_mask_BON.shape[2]
        organs_BOE = self.pooling(tokens_BTC, token_mask_BON.repeat(1, 1, levels)).float()
        texts_PE = self.encode_tokens(input_ids_PT, attention_mask_PT).float()
        if organ_of_F is None:
            return organs_BOE, texts_PE, self.temperature
        directions_FE = texts_PE[prompt_of_F2[:, 0]] - texts_PE[prompt_of_F2[:, 1]]
        located = self.token_margins(tokens_BTC, token_mask_BON, organ_of_F, directions_FE)
        return organs_BOE, texts_PE, self.temperature, *located

    def token_margins(
        self,
        tokens_BTC: torch.Tensor,
        token_mask_BON: torch.Tensor,
        organ_of_F: torch.Tensor,
        directions_FE: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The margin of every question for every token of its organ, as if the organ consisted of this token alone.

        With one token attention can choose among its levels only; here all of them count the same, so that the feature is the
        projected value of their mean. With one level it is exactly that of an organ of one token.

        Returns:
            margins, and for each of them the numbers of its case, its question and its token; all (M,).
        """
        levels_BLNC = tokens_BTC.unflatten(1, (-1, token_mask_BON.shape[2]))
        parts = []
        for organ in organ_of_F.unique().tolist():
            cases, places = token_mask_BON[:, organ].nonzero(as_tuple=True)
            features_ME = self.pooling.of_single_tokens(levels_BLNC.mean(1)[cases, places], organ).float()
            for question in (organ_of_F == organ).nonzero().flatten().tolist():
                margins_M = features_ME @ directions_FE[question] / self.temperature
                parts.append((margins_M, cases, torch.full_like(cases, question), places))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    @torch.no_grad()
    def encode_image(self, model_input: ModelInput, precision: str = "fp32") -> ImageFeatures:
        """One pass of the vision tower per window; organ features are pooled in fp32."""
        windows, features, window_of = [], {}, {}
        for i, window in enumerate(model_input.windows):
            encoded = self.encode_window(window, precision)
            windows.append(encoded)
            pooled_OE = self.pool(encoded)
            for organ, feature in zip(window.organs, pooled_OE, strict=True):
                features[organ], window_of[organ] = feature, i
        return ImageFeatures(features, tuple(windows), window_of)

    def encode_window(self, window: ModelWindow, precision: str = "fp32") -> WindowFeatures:
        """The tokens of all levels, and the organs' token masks; the last level holds tokens inside an organ only."""
        image_BDHW = window.image_DHW.to(self.device)[None]
        patch = self.config.vision.patch_size
        all_ON = organ_token_mask(window.organ_map_DHW, range(len(self.config.organs)), patch).to(self.device)
        mask_ON = all_ON[list(window.organs)]
        with self.autocast(precision):
            levels = self.vision(image_BDHW, mask_ON.any(0), all_ON.any(0)[None])
        tokens_TC = torch.cat([level[0].float() for level in levels])
        grid = tuple(n // p for n, p in zip(image_BDHW.shape[1:], self.config.vision.patch_size, strict=True))
        return WindowFeatures(window, tokens_TC, mask_ON, grid)

    def pool(self, encoded: WindowFeatures) -> torch.Tensor:
        """Features (O, E) of the window's organs; only tokens that lie in one of them are projected."""
        mask_ON = encoded.token_mask_ON
        levels = len(encoded.tokens_TC) // mask_ON.shape[1]
        mask_OT = mask_ON.repeat(1, levels)
        used_T = mask_OT.any(0)
        organs = torch.tensor(encoded.window.organs, device=self.device)
        return self.pooling(encoded.tokens_TC[used_T][None], mask_OT[:, used_T][None], organs)[0]

    def encode_tokens(self, input_ids_PT: torch.Tensor, attention_mask_PT: torch.Tensor) -> torch.Tensor:
        """Text features (P, E), L2-normalised."""
        return F.normalize(self.text_projection(self.text(input_ids_PT, attention_mask_PT)), dim=-1)


def organ_token_mask(organ_map_DHW: torch.Tensor, organs: Sequence[int], patch_size: Triple) -> torch.Tensor:
    """(O, N) bool: a token belongs to an organ when any voxel of its patch does (``max_pool3d(mask) > 0``).

    ``organ_map_DHW``: 0, or an organ's number + 1, below 256.
    """
    _, h, w = (n // p for n, p in zip(organ_map_DHW.shape, patch_size, strict=True))
    pd, ph, pw = patch_size
    wanted = torch.tensor([organ + 1 for organ in organs], dtype=torch.long, device=organ_map_DHW.device)
    masks = []
    for slab_DHW in organ_map_DHW.split(pd):  # one layer of tokens at a time: indices take eight bytes a voxel
        patches = slab_DHW.reshape(pd, h, ph, w, pw).permute(1, 3, 0, 2, 4).reshape(h * w, -1).long()
        found = torch.zeros(h * w, 256, dtype=torch.bool, device=patches.device).scatter_(1, patches, True)
        masks.append(found[:, wanted].T)
    return torch.cat(masks, dim=1)

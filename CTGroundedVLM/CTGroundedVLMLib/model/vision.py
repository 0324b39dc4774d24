"""Vision tower: MONAI's ViT, with the outputs of several blocks, any input size and fused attention.

Shapes: B cases, N image tokens, C channels; D, H, W as in ``preprocessing``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.vit import ViT
from torch import nn

from .config import Triple, VisionConfig


class VisionTower(ViT):
    """fVLM's image encoder (``lavis/models/blip_models/vit.py`` of its release, MONAI's block layout).

    Three things are done faster than MONAI does them, with the same result (tested): the patch embedding is a matrix
    product rather than a strided convolution; attention is fused; parameters that are never used are not made.
    """

    def __init__(self, config: VisionConfig) -> None:
        shrunk = [math.prod(stride) for stride in zip((1, 1, 1), *config.stem_strides, strict=True)]
        super().__init__(
            in_channels=config.stem[-1] if config.stem else 1 + len(config.narrow_windows),
            img_size=[n // s for n, s in zip(config.image_size, shrunk, strict=True)],
            patch_size=[n // s for n, s in zip(config.patch_size, shrunk, strict=True)],
            hidden_size=config.hidden_size,
            mlp_dim=config.mlp_size,
            num_layers=config.blocks,
            num_heads=config.heads,
            dropout_rate=config.dropout,
            qkv_bias=True,
        )
        self.config = config
        self.stem = nn.Sequential()
        for channels, out, stride in zip(
            (1 + len(config.narrow_windows), *config.stem), config.stem, config.stem_strides, strict=False
        ):
            self.stem.extend([nn.Conv3d(channels, out, 3, stride, padding=1), nn.ReLU()])
        for block in self.blocks:
            block.norm_cross_attn = nn.Identity()  # MONAI makes it although there is no cross attention
            block.attn.use_flash_attention = True
        self.train(self.training)

    def train(self, mode: bool = True) -> VisionTower:
        """Also sets the attention dropout, which MONAI's fused branch would apply at evaluation too."""
        super().train(mode)
        for block in self.blocks:
            block.attn.dropout_rate = self.config.dropout if mode else 0.0
        return self

    def forward(
        self,
        image_BDHW: torch.Tensor,
        wanted_N: torch.Tensor | None = None,
        organs_BN: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Image in [0, 1], whole patches along each axis -> one (B, N, C) tensor per level, the final norm's last.

        Args:
            wanted_N: which tokens of the last level will be used (at evaluation); the others of that level stay zero. All
                tokens serve as keys and values, so that the wanted ones are the same (tested).
            organs_BN: which tokens lie in an organ. A model without background tokens needs it: the others stay zero in
                every level, and nothing attends to them.
        """
        tokens = self._patch_tokens(image_BDHW)
        grid = tuple(n // p for n, p in zip(image_BDHW.shape[1:], self.config.patch_size, strict=True))
        tokens = self.patch_embedding.dropout(tokens + self.position_embedding(grid))
        if self.config.background_tokens:
            return self._levels(tokens, wanted_N)
        if organs_BN is None:
            raise ValueError("a model without background tokens needs organs_BN")
        cases = [self._of_organs(*case, wanted_N) for case in zip(tokens, organs_BN, strict=True)]
        return [torch.stack(level) for level in zip(*cases, strict=True)]

    def _of_organs(
        self, tokens_NC: torch.Tensor, organs_N: torch.Tensor, wanted_N: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """The levels of one case, each (N, C), from its tokens inside organs; cases differ in how many they have."""
        kept = organs_N.nonzero().squeeze(1)
        if not len(kept):
            kept = kept.new_zeros(1)  # a case without an organ keeps the graph: DDP wants a gradient of each parameter
        levels = self._levels(tokens_NC[kept][None], None if wanted_N is None else wanted_N[kept])
        empty = torch.zeros_like(tokens_NC, dtype=levels[0].dtype)
        return [empty.index_copy(0, kept, level[0].to(empty.dtype)) for level in levels]

    def _levels(self, tokens: torch.Tensor, wanted_N: torch.Tensor | None) -> list[torch.Tensor]:
        levels = []
        last = len(self.blocks) - 1
        for i, block in enumerate(self.blocks):
            if i == last and wanted_N is not None and last not in self.config.levels and not self.training:
                return [*levels, self._wanted_of_last_block(tokens, wanted_N)]
            tokens = block(tokens)
            if i in self.config.levels:
                levels.append(tokens)
        return [*levels, self.norm(tokens)]

    def _wanted_of_last_block(self, tokens_BNC: torch.Tensor, wanted_N: torch.Tensor) -> torch.Tensor:
        """The last block and the final norm for some tokens only: queries and MLP of the others would be thrown away."""
        block, attention = self.blocks[-1], self.blocks[-1].attn
        normed = block.norm1(tokens_BNC)
        weight, bias, width = attention.qkv.weight, attention.qkv.bias, tokens_BNC.shape[-1]
        q = F.linear(normed[:, wanted_N], weight[:width], bias[:width])
        k, v = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens_BNC[:, wanted_N] + attention.out_proj(attended)
        tokens = self.norm(tokens + block.mlp(block.norm2(tokens)))
        out = tokens.new_zeros(tokens_BNC.shape)
        out[:, wanted_N] = tokens
        return out

    def _patch_tokens(self, image_BDHW: torch.Tensor) -> torch.Tensor:
        """Windows as channels, the stem, then Conv3d with stride = kernel, as one matrix product."""
        image = image_BDHW[:, None]
        narrow = [((image - low) / (high - low)).clamp(0, 1) for low, high in self.config.narrow_windows]
        image = self.stem(torch.cat([image, *narrow], dim=1) if narrow else image)
        conv = self.patch_embedding.patch_embeddings
        (b, c, *size), patch = image.shape, conv.kernel_size
        d, h, w = (n // p for n, p in zip(size, patch, strict=True))
        patches = image.reshape(b, c, d, patch[0], h, patch[1], w, patch[2]).permute(0, 2, 4, 6, 1, 3, 5, 7)
        return F.linear(patches.reshape(b, d * h * w, -1), conv.weight.flatten(1), conv.bias)

    def position_embedding(self, grid: Sequence[int]) -> torch.Tensor:
        """(1, N, C); trilinear (``align_corners=False``) where ``grid`` is not the trained one."""
        embedding = self.patch_embedding.position_embeddings
        trained: Triple = self.config.grid
        if tuple(grid) == trained:
            return embedding
        cube = embedding.transpose(1, 2).unflatten(2, trained)
        return F.interpolate(cube, size=tuple(grid), mode="trilinear").flatten(2).transpose(1, 2)

"""Vision tower: MONAI's ViT, with the outputs of several blocks, any input size and fused attention.

Shapes: B cases, N image tokens, C channels; D, H, W as in ``preprocessing``.
"""

from __future__ import annotations

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
        super().__init__(
            in_channels=1,
            img_size=config.image_size,
            patch_size=config.patch_size,
            hidden_size=config.hidden_size,
            mlp_dim=config.mlp_size,
            num_layers=config.blocks,
            num_heads=config.heads,
            dropout_rate=config.dropout,
            qkv_bias=True,
        )
        self.config = config
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

    def forward(self, image_BDHW: torch.Tensor, wanted_N: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Image in [0, 1], whole patches along each axis -> one (B, N, C) tensor per level, the final norm's last.

        Args:
            wanted_N: which tokens of the last level will be used (at evaluation); the others of that level stay zero. All
                tokens serve as keys and values, so that the wanted ones are the same (tested).
        """
        tokens = self._patch_tokens(image_BDHW)
        grid = tuple(n // p for n, p in zip(image_BDHW.shape[1:], self.config.patch_size, strict=True))
        tokens = self.patch_embedding.dropout(tokens + self.position_embedding(grid))
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
        """Conv3d with stride = kernel, as one matrix product."""
        conv = self.patch_embedding.patch_embeddings
        (b, *size), patch = image_BDHW.shape, self.config.patch_size
        d, h, w = (n // p for n, p in zip(size, patch, strict=True))
        patches = image_BDHW.reshape(b, d, patch[0], h, patch[1], w, patch[2]).permute(0, 1, 3, 5, 2, 4, 6)
        return F.linear(patches.reshape(b, d * h * w, -1), conv.weight.flatten(1), conv.bias)

    def position_embedding(self, grid: Sequence[int]) -> torch.Tensor:
        """(1, N, C); trilinear (``align_corners=False``) where ``grid`` is not the trained one."""
        embedding = self.patch_embedding.position_embeddings
        trained: Triple = self.config.grid
        if tuple(grid) == trained:
            return embedding
        cube = embedding.transpose(1, 2).unflatten(2, trained)
        return F.interpolate(cube, size=tuple(grid), mode="trilinear").flatten(2).transpose(1, 2)

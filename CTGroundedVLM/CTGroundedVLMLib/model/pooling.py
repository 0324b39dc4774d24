"""Organ attention: one learned query per organ attends to the image tokens inside that organ.

Shapes: B cases, O organs, T tokens of all levels together (levels x N), C channels, H heads, E embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class OrganPooling(nn.Module):
    """fVLM's ``get_roi_features`` and ``vision_projs``, vectorised over organs and cases.

    v_o = normalize(W_o MHA(q_o, K = V = tokens of organ o) + b_o). The release loops over cases and organs; here all
    organs of all cases go through one fused attention call with a mask, which gives the same numbers (tested).
    """

    def __init__(self, organs: int, hidden_size: int, embedding_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(organs, hidden_size))
        # Holds the parameters under the release's names; its slow forward is not used.
        self.attention = nn.MultiheadAttention(hidden_size, heads, dropout=dropout, batch_first=True)
        self.projection_weight = nn.Parameter(torch.empty(organs, embedding_size, hidden_size))
        self.projection_bias = nn.Parameter(torch.zeros(organs, embedding_size))
        nn.init.trunc_normal_(self.projection_weight, std=0.02)

    def forward(
        self, tokens_BTC: torch.Tensor, mask_BOT: torch.Tensor, organs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Organ features (B, O, E), L2-normalised.

        ``mask_BOT``: True where token t lies in organ o. ``organs``: the numbers of the O organs (all when None). The
        feature of an organ without a token is zero: its caller must not score it.
        """
        q, k, v = self.project_qkv(tokens_BTC, organs)
        # A row without a key would give NaN (and NaN gradients): let it see everything, then blank it.
        empty_BO1 = ~mask_BOT.any(-1, keepdim=True)
        dropout = self.attention.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=(mask_BOT | empty_BO1)[:, None], dropout_p=dropout)
        pooled_BOC = self.attention.out_proj(out.transpose(1, 2).flatten(2))
        return F.normalize(self.project(pooled_BOC, organs), dim=-1).masked_fill(empty_BO1, 0.0)

    def project_qkv(
        self, tokens_BTC: torch.Tensor, organs: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, O, C/H), keys and values (B, H, T, C/H)."""
        attention = self.attention
        weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        queries_OC = self.queries if organs is None else self.queries[organs]
        q_BOC = F.linear(queries_OC.to(tokens_BTC.dtype), weight[0], bias[0]).expand(len(tokens_BTC), -1, -1)
        k_BTC, v_BTC = F.linear(tokens_BTC, weight[1], bias[1]), F.linear(tokens_BTC, weight[2], bias[2])
        return tuple(x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in (q_BOC, k_BTC, v_BTC))

    def of_single_tokens(self, tokens_MC: torch.Tensor, organ: int) -> torch.Tensor:
        """Features (M, E) that an organ would have if it consisted of one token."""
        attention = self.attention
        weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
        pooled_MC = attention.out_proj(F.linear(tokens_MC, weight, bias))
        return F.normalize(F.linear(pooled_MC, self.projection_weight[organ], self.projection_bias[organ]), dim=-1)

    def project(self, pooled_BOC: torch.Tensor, organs: torch.Tensor | None = None) -> torch.Tensor:
        """Each organ's own linear layer: (B, O, C) -> (B, O, E)."""
        weight, bias = self.projection_weight, self.projection_bias
        if organs is not None:
            weight, bias = weight[organs], bias[organs]
        return torch.einsum("boc,oec->boe", pooled_BOC, weight) + bias

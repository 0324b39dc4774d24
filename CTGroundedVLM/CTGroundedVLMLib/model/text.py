"""Text tower: transformers' BERT, its CLS token.

Shapes: B texts, T text tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig, BertModel

from .config import TextConfig


class TextTower(nn.Module):
    """fVLM's text encoder: CXR-BERT's architecture, without the token-type embedding that BERT adds by default."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        settings = BertConfig(
            vocab_size=config.vocabulary_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_size,
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.positions,
            layer_norm_eps=config.layer_norm_eps,
            type_vocab_size=1,
            attn_implementation="sdpa",
        )
        self.bert = BertModel(settings, add_pooling_layer=False)
        # The release never adds token-type embeddings. BERT always does, so ours are zero and stay zero.
        token_type = self.bert.embeddings.token_type_embeddings.weight
        token_type.requires_grad_(False)
        nn.init.zeros_(token_type)

    def forward(self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor) -> torch.Tensor:
        """Token ids and their mask (1 = token, 0 = padding) -> CLS of the last layer (B, C)."""
        return self.bert(input_ids=input_ids_BT, attention_mask=attention_mask_BT).last_hidden_state[:, 0]

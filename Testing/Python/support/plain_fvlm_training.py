"""A plain re-statement of fVLM's released training step, in this project's words: the benchmark's baseline, and a test's reference.

As the release does it: eager attention with its dropout, a strided convolution for the patches, organ tokens gathered and pooled case
by case and organ by organ, texts encoded organ by organ and padded to 384 tokens, targets built pair by pair, AdamW, fp32.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.nets.vit import ViT
from torch import nn
from transformers import BertConfig, BertModel

from CTGroundedVLMLib.model.fvlm import FVLM

PADDED_LENGTH = 384


@dataclass(frozen=True)
class PlainBatch:
    """``images``: (B, D, H, W). ``organ_maps``: (B, D, H, W), 1 + organ number. By organ and case: token ids, whether the text is
    normal, and the text itself."""

    images: torch.Tensor
    organ_maps: torch.Tensor
    ids: list[list[list[int]]]
    normal: list[list[bool]]
    texts: list[list[str]]


class PlainTraining(nn.Module):
    """The same weights in MONAI's and transformers' own eager modules, and a step of AdamW.

    Args:
        length: texts are padded to it.
    """

    def __init__(self, model: FVLM, length: int = PADDED_LENGTH) -> None:
        super().__init__()
        config, self.length = model.config, length
        v, t = config.vision, config.text
        self.config = config
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
        )
        self.vit.load_state_dict(model.vision.state_dict(), strict=False)
        settings = BertConfig(
            vocab_size=t.vocabulary_size, hidden_size=t.hidden_size, num_hidden_layers=t.blocks, num_attention_heads=t.heads,
            intermediate_size=t.mlp_size, max_position_embeddings=t.positions, layer_norm_eps=t.layer_norm_eps,
            hidden_dropout_prob=t.dropout, attention_probs_dropout_prob=t.dropout, type_vocab_size=1, attn_implementation="eager",
        )  # fmt: skip
        self.bert = BertModel(settings, add_pooling_layer=False)
        self.bert.load_state_dict(model.text.bert.state_dict())
        self.bert.embeddings.token_type_embeddings.weight.requires_grad_(False)
        self.text_projection = nn.Linear(t.hidden_size, config.embedding_size)
        self.text_projection.load_state_dict(model.text_projection.state_dict())
        self.attention = nn.MultiheadAttention(
            v.hidden_size, config.pooling_heads, dropout=config.pooling_dropout, batch_first=True
        )
        self.attention.load_state_dict(model.pooling.attention.state_dict())
        self.queries = nn.Parameter(model.pooling.queries.detach().clone())
        self.projections = nn.ModuleList(nn.Linear(v.hidden_size, config.embedding_size) for _ in config.organs)
        with torch.no_grad():
            for o, projection in enumerate(self.projections):
                projection.weight.copy_(model.pooling.projection_weight[o])
                projection.bias.copy_(model.pooling.projection_bias[o])
        self.temperature = nn.Parameter(model.temperature.detach().clone())

    def levels(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Tokens (B, N, C) after the chosen blocks and after the final norm."""
        x = self.vit.patch_embedding(images[:, None])
        out = []
        for i, block in enumerate(self.vit.blocks):
            x = block(x)
            if i in self.config.vision.levels:
                out.append(x)
        return [*out, self.vit.norm(x)]

    def organ_feature(self, levels: list[torch.Tensor], organ_map: torch.Tensor, case: int, organ: int) -> torch.Tensor:
        """(E,) of one organ of one case."""
        patch = self.config.vision.patch_size
        inside = F.max_pool3d((organ_map == organ + 1).float()[None, None], patch, patch).flatten() > 0
        tokens = torch.cat([level[case][inside] for level in levels])[None]
        pooled, _ = self.attention(self.queries[organ][None, None], tokens, tokens)
        return F.normalize(self.projections[organ](pooled[0, 0]), dim=-1)

    def text_features(self, ids: list[list[int]]) -> torch.Tensor:
        """(B, E) of one organ's texts, padded to ``length``."""
        device = self.temperature.device
        padded = torch.tensor([row + [0] * (self.length - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (self.length - len(row)) for row in ids], device=device)
        cls = self.bert(input_ids=padded, attention_mask=mask).last_hidden_state[:, 0]
        return F.normalize(self.text_projection(cls), dim=-1)

    def loss(self, batch: PlainBatch) -> torch.Tensor:
        """The sum over organs of the contrast with FNCN targets."""
        levels, total = self.levels(batch.images), 0.0
        cases = range(len(batch.images))
        temperature = self.temperature.clamp(0.001, 0.5)
        for organ in range(len(self.config.organs)):
            if all(batch.normal[organ]):
                continue
            images = torch.stack([self.organ_feature(levels, batch.organ_maps[c], c, organ) for c in cases])
            texts = self.text_features(batch.ids[organ])
            targets = torch.eye(len(cases), device=images.device)
            for i in cases:
                for k in cases:
                    both_normal = batch.normal[organ][i] and batch.normal[organ][k]
                    if both_normal or batch.texts[organ][i] == batch.texts[organ][k]:
                        targets[i, k] = 1.0
            targets = targets / targets.sum(1, keepdim=True)
            logits = images @ texts.T / temperature
            to_text = -(F.log_softmax(logits, 1) * targets).sum(1).mean()
            to_image = -(F.log_softmax(logits.T, 1) * targets).sum(1).mean()
            total = total + (to_text + to_image) / 2
        return total

    def optimizer(self) -> torch.optim.Optimizer:
        """As in effect in the release."""
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.01)

    def step(self, batch: PlainBatch, optimizer: torch.optim.Optimizer) -> float:
        """One step; returns the loss."""
        optimizer.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        optimizer.step()
        return loss.item()

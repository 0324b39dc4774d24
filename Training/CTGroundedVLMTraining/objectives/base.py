"""The features that objectives consume, and what an objective is.

Shapes: B cases of this rank, G cases of all ranks, O organs, P texts, E embedding size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from CTGroundedVLMLib.model.fvlm import FVLM

from ..types import Batch


@dataclass(frozen=True)
class Features:
    """One forward pass: organ features (B, O, E) and text features (P, E), both L2-normalised, and the temperature.

    ``located``: where the batch's questions say where the findings lie, see ``FVLM.token_margins``; else empty.
    """

    organs_BOE: torch.Tensor
    texts_PE: torch.Tensor
    temperature: torch.Tensor
    located: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(cls, model: nn.Module, batch: Batch) -> Features:
        """Call the model (an FVLM, or its DDP or compiled wrapper) on a batch."""
        asked = batch.questions
        placed = asked is not None and asked.tokens_BFN is not None
        organs_BOE, texts_PE, temperature, *located = model(
            *(batch.image_BDHW, batch.token_mask_BON, batch.text_ids_PT, batch.text_mask_PT),
            *((asked.organ_of_F, asked.prompt_of_F2) if placed else ()),
        )
        return cls(organs_BOE, texts_PE, temperature, tuple(located))


class Objective(nn.Module, ABC):
    """Named losses of a batch; the trainer minimises their sum.

    An objective may own parameters (a head) and buffers (a momentum encoder): they are saved with a run. ``needs_...``: what
    batches have to bring for it (``needs_places``: also where the findings of the questions lie), and a peer's features.
    """

    needs_organ_texts: ClassVar[bool] = False
    needs_reports: ClassVar[bool] = False
    needs_questions: ClassVar[bool] = False
    needs_places: bool = False
    needs_peer: bool = False

    @abstractmethod
    def forward(self, features: Features, batch: Batch, peer: Features | None = None) -> dict[str, torch.Tensor]:
        """Losses by name, all of them with a graph, computed on the cases of all ranks; ``peer``: another model's features."""

    @torch.no_grad()
    def after_step(self, model: FVLM) -> None:
        """Called after each optimiser step with the (unwrapped) model."""


def zero_with_graph(features: Features) -> torch.Tensor:
    """0 that depends on every parameter of the model: a batch in which nothing qualifies still has a backward pass."""
    return 0.0 * (features.organs_BOE.sum() + features.texts_PE.sum() + features.temperature)


def organ_text_features(features: Features, batch: Batch) -> torch.Tensor:
    """Text features by case and organ (B, O, E); zero where there is no text."""
    return _pick(features.texts_PE, batch.text_of_BO)


def report_features(features: Features, batch: Batch) -> torch.Tensor:
    """Text features of the whole reports (B, E); zero where there is none."""
    return _pick(features.texts_PE, batch.report_of_B)


def _pick(texts_PE: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return texts_PE[index.clamp(min=0)] * (index >= 0).unsqueeze(-1)

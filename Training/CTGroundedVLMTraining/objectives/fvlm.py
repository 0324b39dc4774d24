"""fVLM's objective: organ by organ, the image of an organ against what the reports say of it (arXiv 2501.14548).

Shapes: G cases of all ranks, V those of them whose organ is valid, O organs, E embedding size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from CTGroundedVLMLib.model.fvlm import FVLM

from ..parallel import whole
from ..types import ABNORMAL, NORMAL, SKIP, Batch
from .base import Features, Objective, organ_text_features, zero_with_graph
from .gather import gather
from .targets import (
    FALSE_NEGATIVE_MODES,
    FalseNegatives,
    base_targets,
    momentum_targets,
    soft_cross_entropy,
    with_peer,
)

TEMPERATURE_LIMITS = (0.001, 0.5)  # clamped in training only, as the release does


@dataclass(frozen=True)
class _Joint:
    """Features and statuses of the cases of all ranks, and the model's temperature within its limits."""

    organs_GOE: torch.Tensor
    texts_GOE: torch.Tensor
    valid_GO: torch.Tensor
    status_GO: torch.Tensor
    key_GO: torch.Tensor
    tau: torch.Tensor

    def logits(self, rows: torch.Tensor, o: int) -> torch.Tensor:
        """S = v t^T / tau of some cases and an organ, (V, V)."""
        return self.organs_GOE[rows, o] @ self.texts_GOE[rows, o].T / self.tau


class OrganContrast(Objective):
    """L = sum over organs of the symmetric cross entropy of S = v t^T / tau with the targets of ``targets.py``.

    An organ counts in a step when it is valid in some case that is abnormal there, and its targets are not all equal.

    Args:
        organs: the model's organs, for the losses' names.
        false_negatives: see ``targets``. "normal+momentum" keeps a moving average of the text encoder; "normal+coteach" needs
            the features of a second model (``peer``).
        alpha: weight of the hard targets in co-teaching.
        momentum: of the moving average.
    """

    needs_organ_texts = True

    def __init__(
        self,
        organs: Sequence[str],
        false_negatives: FalseNegatives = "normal",
        *,
        alpha: float = 0.5,
        momentum: float = 0.995,
    ) -> None:
        super().__init__()
        if false_negatives not in FALSE_NEGATIVE_MODES:
            raise ValueError(
                f"false_negatives is {false_negatives!r}, expected one of {', '.join(FALSE_NEGATIVE_MODES)}"
            )
        if not 0 <= alpha <= 1 or not 0 <= momentum < 1:
            raise ValueError(f"alpha is {alpha}, momentum {momentum}: expected 0 <= alpha <= 1 and 0 <= momentum < 1")
        self.organs, self.mode, self.alpha, self.momentum = tuple(organs), false_negatives, alpha, momentum
        self.needs_peer = false_negatives == "normal+coteach"
        self.text_teacher: torch.nn.ModuleDict | None = None

    def start(self, model: FVLM) -> None:
        """Make the moving average of the text encoder, equal to it; nothing in the other modes."""
        if self.mode == "normal+momentum":
            parts = {"text": copy.deepcopy(model.text), "text_projection": copy.deepcopy(model.text_projection)}
            self.text_teacher = torch.nn.ModuleDict(parts).requires_grad_(False).eval()

    @torch.no_grad()
    def after_step(self, model: FVLM) -> None:
        """teacher <- momentum x teacher + (1 - momentum) x model."""
        for name, teacher in (self.text_teacher or {}).items():
            for ours, theirs in zip(teacher.parameters(), getattr(model, name).parameters(), strict=True):
                ours.lerp_(whole(theirs).to(ours.dtype), 1 - self.momentum)

    def forward(self, features: Features, batch: Batch, peer: Features | None = None) -> dict[str, torch.Tensor]:
        """Losses "organ/lung" and so on, of the organs that count; "none" = 0 with a graph where no organ does."""
        if self.needs_peer and peer is None:
            raise ValueError("co-teaching needs the peer model's features")
        joint = _joint(features, batch)
        other = _joint(peer, batch) if self.needs_peer else None
        momentum_GOE = gather(self._momentum_texts(batch)) if self.text_teacher is not None else None
        losses = {}
        for o, organ in enumerate(self.organs):
            rows = torch.nonzero(joint.valid_GO[:, o] & (joint.status_GO[:, o] != SKIP)).squeeze(-1)
            if not (joint.status_GO[rows, o] == ABNORMAL).any():
                continue
            loss = self._organ_loss(joint, other, momentum_GOE, rows, o)
            if loss is not None:
                losses[f"organ/{organ}"] = loss
        return losses or {"none": zero_with_graph(features)}

    def _organ_loss(
        self,
        joint: _Joint,
        other: _Joint | None,
        momentum_GOE: torch.Tensor | None,
        rows: torch.Tensor,
        o: int,
    ) -> torch.Tensor | None:
        normal, key = joint.status_GO[rows, o] == NORMAL, joint.key_GO[rows, o]
        if momentum_GOE is not None:
            targets = momentum_targets(normal, key, momentum_GOE[rows, o], joint.tau.detach())
        else:
            targets = base_targets(normal, key, self.mode)
        if targets.min() == targets.max():
            return None
        logits = joint.logits(rows, o)
        to_text = to_image = targets
        if other is not None:
            peer_logits = other.logits(rows, o).detach()
            to_text = with_peer(targets, ~normal, peer_logits, self.alpha)
            to_image = with_peer(targets, ~normal, peer_logits.T, self.alpha)
        return (soft_cross_entropy(logits, to_text) + soft_cross_entropy(logits.T, to_image)) / 2

    @torch.no_grad()
    def _momentum_texts(self, batch: Batch) -> torch.Tensor:
        """The teacher's text features by case and organ (B, O, E)."""
        teacher = self.text_teacher
        cls_PC = teacher["text"](batch.text_ids_PT, batch.text_mask_PT)
        texts_PE = torch.nn.functional.normalize(teacher["text_projection"](cls_PC).float(), dim=-1)
        return texts_PE[batch.text_of_BO.clamp(min=0)]


def _joint(features: Features, batch: Batch) -> _Joint:
    return _Joint(
        gather(features.organs_BOE),
        gather(organ_text_features(features, batch)),
        gather(batch.valid_BO),
        gather(batch.status_BO),
        gather(batch.text_key_BO),
        features.temperature.clamp(*TEMPERATURE_LIMITS),
    )

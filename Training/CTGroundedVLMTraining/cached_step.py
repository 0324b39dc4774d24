"""Forward and backward of one step, over several passes where the batch is too large for one.

With cached features (GradCache, arXiv 2101.06983) the contrast is over all passes together, at the memory of one: (1) features of
every pass without a graph, (2) the loss and its gradient by the features, (3) every pass again with a graph, fed with that
gradient. Dropout draws the same numbers in (1) and (3), so that the result is exactly that of one large batch (tested).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import nn

from .objectives import Features, Objective
from .parallel import no_sync
from .types import Batch, Questions

Autocast = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class RandomState:
    """The generators that dropout draws from: the CPU's and this process's GPU's."""

    cpu: torch.Tensor
    cuda: torch.Tensor | None

    @classmethod
    def now(cls) -> RandomState:
        """A copy of their present state."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)

    def to_dict(self) -> dict[str, torch.Tensor | None]:
        """What a checkpoint holds."""
        return {"cpu": self.cpu, "cuda": self.cuda}

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda)


def forward_backward(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    autocast: Autocast = nullcontext,
    peer: nn.Module | None = None,
) -> dict[str, float]:
    """Gradients of the joint batch are added to the parameters; returns the losses by name, and their sum as "loss"."""
    peer_features = _without_graph(peer, batches, autocast) if peer is not None else None
    if len(batches) == 1:
        with autocast():
            features = Features.of(model, batches[0])
        losses = objective(features, batches[0], peer_features)
        total = sum(losses.values())
        total.backward()
    else:
        losses, total = _cached(model, objective, batches, autocast, peer_features)
    return {name: loss.item() for name, loss in losses.items()} | {"loss": total.item()}


def _cached(
    model: nn.Module,
    objective: Objective,
    batches: Sequence[Batch],
    autocast: Autocast,
    peer: Features | None,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    parts, states = [], []
    with torch.no_grad(), autocast():
        for batch in batches:
            states.append(RandomState.now())
            parts.append(Features.of(model, batch))
    after = RandomState.now()
    leaf = [_leaf(torch.cat([getattr(part, name) for part in parts])) for name in ("organs_BOE", "texts_PE")]
    temperature = _leaf(parts[0].temperature)
    losses = objective(Features(*leaf, temperature), joined(batches), peer)
    total = sum(losses.values())
    total.backward()
    organ_gradients = leaf[0].grad.split([len(part.organs_BOE) for part in parts])
    text_gradients = leaf[1].grad.split([len(part.texts_PE) for part in parts])
    for i, batch in enumerate(batches):
        states[i].restore()
        last = i == len(batches) - 1
        with nullcontext() if last else no_sync(model):  # gradients are brought together in the last pass only
            with autocast():
                again = Features.of(model, batch)
            surrogate = (again.organs_BOE * organ_gradients[i]).sum() + (again.texts_PE * text_gradients[i]).sum()
            # the temperature is the same in every pass: its gradient counts once
            surrogate = surrogate + again.temperature * (temperature.grad if last else 0.0)
            surrogate.backward()
    after.restore()
    return losses, total.detach()


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()


@torch.no_grad()
def _without_graph(model: nn.Module, batches: Sequence[Batch], autocast: Autocast) -> Features:
    """A peer's features; nobody asks it where findings lie."""
    with autocast():
        parts = [Features.of(model, replace(batch, questions=None)) for batch in batches]
    organs, texts = (torch.cat([getattr(part, name) for part in parts]) for name in ("organs_BOE", "texts_PE"))
    return Features(organs, texts, parts[0].temperature)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several, without images and image masks: what an objective reads beside the features."""
    if len(batches) == 1:
        return batches[0]
    values = {}
    start = 0
    offsets = []
    for batch in batches:
        offsets.append(start)
        start += len(batch.text_ids_PT)
    for name in (field.name for field in fields(Batch)):
        parts = [getattr(batch, name) for batch in batches]
        if name == "case_ids":
            values[name] = tuple(case for part in parts for case in part)
        elif name == "questions":
            values[name] = _joined_questions(parts)
        elif name in ("image_BDHW", "token_mask_BON"):
            values[name] = parts[0][:0]
        elif name in ("text_ids_PT", "text_mask_PT"):
            longest = max(part.shape[1] for part in parts)
            values[name] = torch.cat([F.pad(part, (0, longest - part.shape[1])) for part in parts])
        elif name in ("text_of_BO", "report_of_B"):
            shifted = [torch.where(p >= 0, p + offset, p) for p, offset in zip(parts, offsets, strict=True)]
            values[name] = torch.cat(shifted)
        else:
            values[name] = torch.cat(parts)
    return Batch(**values)


def _joined_questions(parts: Sequence[Questions | None]) -> Questions | None:
    """The prompts are the same in every pass: those of the first; where findings lie is not learned over several passes."""
    return None if parts[0] is None else replace(parts[0], tokens_BFN=None, mapped_B=None)

"""A model with its objective, optimiser, moving average and data: what one step changes, and what a checkpoint holds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from CTGroundedVLMLib.model.fvlm import FVLM

from .config import TrainingConfig
from .data.loader import TrainingLoader
from .objectives import Objective
from .parallel import average_gradients, is_sharded, local, shard, whole, world, wrap


@dataclass
class Learner:
    """A model that learns. Co-teaching has two of them, each the other's peer.

    ``model`` is the FVLM itself (under FSDP2 sharded in place), ``wrapped`` what a step calls.
    """

    model: FVLM
    objective: Objective
    loader: TrainingLoader
    config: TrainingConfig

    def __post_init__(self) -> None:
        config = self.config
        if hasattr(self.objective, "start"):
            self.objective.start(self.model)  # before sharding: a copy of a sharded tower could not run by itself
        self.average = MovingAverage(self.model, config.ema) if config.ema else None
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        if config.compile:
            for block in (*self.model.vision.blocks, *self.model.text.bert.encoder.layer):
                block.compile()
        self.wrapped = wrap(self.model, config.parallel)
        if self.average is not None and is_sharded(self.model):
            shard(self.average.module)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = self.config.optimizer
        # the temperature in a group of its own: under FSDP2 it is no sharded tensor, and kinds cannot be mixed in a group
        towers = [p for p in self.model.parameters() if p.requires_grad and p is not self.model.temperature]
        head = [p for p in self.objective.parameters() if p.requires_grad]
        groups = [
            {"params": towers, "factor": 1.0},
            {"params": [self.model.temperature], "factor": 1.0},
            {"params": head, "factor": optimizer.head_lr_factor},
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )

    def parameters(self) -> list[nn.Parameter]:
        """All that the optimiser changes."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def average_loose_gradients(self) -> None:
        """Gradients that neither DDP nor FSDP2 averages over ranks."""
        average_gradients(self.objective.parameters())
        if is_sharded(self.model):
            average_gradients([self.model.temperature])

    def apply(self, lr: float) -> None:
        """One optimiser step with the gradients at hand."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        self.optimizer.step()
        self.objective.after_step(self.model)
        if self.average is not None:
            self.average.update(self.model)

    def exported(self) -> FVLM:
        """The model to validate and to ship: the moving average where there is one."""
        return self.average.module if self.average is not None else self.model

    def state(self) -> dict[str, Any]:
        """All that a later ``restore`` needs, in whole tensors; every rank must call it."""
        return {
            "model": _whole_state(self.model.state_dict()),
            "objective": self.objective.state_dict(),
            "optimizer": _whole_state(self.optimizer.state_dict()),
            "average": None if self.average is None else _whole_state(self.average.state_dict()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        _load(self.model, state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(self._sharded_optimizer_state(state["optimizer"]))
        if self.average is not None:
            self.average.updates = state["average"]["updates"]
            _load(self.average.module, state["average"]["model"])

    def _sharded_optimizer_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The optimiser's tensors split as the parameters they belong to."""
        parameters = self.parameters()  # numbered in this order by the optimiser
        parts = {
            number: {name: _like(value, parameters[number]) for name, value in values.items()}
            for number, values in state["state"].items()
        }
        return {"state": parts, "param_groups": state["param_groups"]}


class MovingAverage:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at the n-th update.

    The rise of d (as in TensorFlow's ExponentialMovingAverage) lets the average forget the random start of a short run.
    """

    def __init__(self, model: FVLM, decay: float) -> None:
        self.module: FVLM = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: FVLM) -> None:
        """Take in the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        ours = [local(p) for p in self.module.parameters()]
        theirs = [local(p) for p in model.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and how many updates it has seen."""
        return {"model": self.module.state_dict(), "updates": self.updates}


def checkpoint_activations(model: FVLM) -> None:
    """Blocks keep their input only and compute the rest again in the backward pass, dropout with the same numbers."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model.vision.blocks = nn.ModuleList(checkpoint_wrapper(block) for block in model.vision.blocks)
    encoder = model.text.bert.encoder
    encoder.layer = nn.ModuleList(checkpoint_wrapper(layer) for layer in encoder.layer)


def _whole_state(state: Any) -> Any:
    """Sharded tensors put together on rank 0's CPU; other ranks, which write nothing, keep none of them."""
    if isinstance(state, DTensor):
        full = whole(state)
        return full.cpu() if world()[0] == 0 else None
    if isinstance(state, dict):
        return {key: _whole_state(value) for key, value in state.items()}
    return state


def _like(value: Any, parameter: torch.Tensor) -> Any:
    """A whole tensor split as ``parameter`` is; scalars (AdamW's step) stay as they are."""
    if isinstance(parameter, DTensor) and isinstance(value, torch.Tensor) and value.shape == parameter.shape:
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value


@torch.no_grad()
def _load(model: FVLM, state: dict[str, torch.Tensor]) -> None:
    """Strict, into whole or sharded parameters."""
    present = model.state_dict()
    if is_sharded(model):
        state = {key: _like(value, present[key]) if key in present else value for key, value in state.items()}
    model.load_state_dict(state)

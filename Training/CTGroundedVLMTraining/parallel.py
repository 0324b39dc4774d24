"""One process, or several with DDP: how a model is wrapped and what is averaged."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .config import TrainingConfig


def wrap(model: nn.Module, config: TrainingConfig) -> nn.Module:
    """The model as the run's configuration asks for it."""
    if config.parallel == "ddp":
        devices = [model.device] if model.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices)
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def average_gradients(module: nn.Module) -> None:
    """The mean over ranks of the gradients of parameters that no wrapper looks after (an objective's head)."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for parameter in module.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def world() -> tuple[int, int]:
    """(rank, world size)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def device_of_rank() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", dist.get_node_local_rank(0) if dist.is_initialized() else 0)
    return torch.device("cpu")

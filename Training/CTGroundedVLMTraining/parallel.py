"""One process, or several with DDP or FSDP2: how a model is wrapped, and what the ranks have to agree on.

Gradients: every rank computes the loss of the joint batch (``objectives.gather``), so that the mean over ranks of a
parameter's gradient is exactly that of one process on the joint batch. DDP and FSDP2 take that mean themselves; what neither
looks after (an objective's head, and under FSDP2 the temperature, which as a scalar cannot be sharded) is averaged here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from CTGroundedVLMLib.errors import InputError

TIMEOUT = timedelta(minutes=30)  # rank 0 may write a large checkpoint to a slow disk while the others wait


@contextmanager
def process_group(parallel: str) -> Iterator[torch.device]:
    """Joins the processes that torchrun (or a launch line that sets RANK, WORLD_SIZE, ...) started; yields this one's device.

    Raises:
        InputError: several processes, and the configuration says that there is one.
    """
    several = started_by_launcher()
    if several and parallel == "none":
        raise InputError(
            "Several processes were started and parallel is none. Start one process, or --set parallel=ddp (or fsdp2)."
        )
    device = _device()
    if not several:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield device
        dist.barrier()  # a rank that leaves while another still talks to it can abort both (threads of gloo and its store)
    finally:
        dist.destroy_process_group()


def started_by_launcher() -> bool:
    """Whether this process is one of several (torchrun sets WORLD_SIZE)."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def world() -> tuple[int, int]:
    """(rank, world size)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def wrap(model: nn.Module, parallel: str) -> nn.Module:
    """The model as several processes train it; itself where there is one process."""
    if world()[1] == 1 or parallel == "none":
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model, device_ids=[model.device] if model.device.type == "cuda" else None)
    return shard(model)


def shard(model: nn.Module) -> nn.Module:
    """FSDP2 in place: parameters, gradients and optimiser state are split over all ranks, block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(model.device.type, (world()[1],))
    for block in (*model.vision.blocks, *model.text.bert.encoder.layer):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh, ignored_params={model.temperature})


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 holds (part of) its parameters."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together (all ranks must call); any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Backward passes inside leave gradients where they are; those after it bring them together."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over ranks of gradients that no wrapper looks after."""
    if world()[1] == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None) -> float:
    """The total norm over all ranks' gradients; they are scaled down to ``limit`` where it is exceeded."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    sharded = [g for g in gradients if isinstance(g, DTensor)]
    plain = [g for g in gradients if not isinstance(g, DTensor)]
    norms = [whole(torch.nn.utils.get_total_norm(part)) for part in (sharded, plain) if part]
    total = torch.linalg.vector_norm(torch.stack(norms))
    if limit is not None:
        for part in (sharded, plain):
            with_gradient = [
                p for p in parameters if p.grad is not None and isinstance(p.grad, DTensor) == (part is sharded)
            ]
            torch.nn.utils.clip_grads_with_norm_(with_gradient, limit, total)
    return total.item()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether it is so on some rank: what decides whether all of them go on."""
    if world()[1] == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return bool(value.item())


def from_all_ranks(value: Any) -> list[Any]:
    """The values of all ranks, by rank."""
    ranks = world()[1]
    if ranks == 1:
        return [value]
    values: list[Any] = [None] * ranks
    dist.all_gather_object(values, value)
    return values

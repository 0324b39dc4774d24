"""Features of all ranks, with the exact gradient.

fVLM's release gathers without gradient, so that an encoder's gradient is 1/world of the exact one. Here every rank computes the
loss of the joint batch; the backward pass sums the ranks' gradients of a feature (world times the exact one) and DDP's mean
over ranks divides by world: the same as one process on the joint batch (tested, forward and gradient).
"""

from __future__ import annotations

import torch
import torch.distributed as dist


class _Gather(torch.autograd.Function):
    """``all_gather`` along the first axis; backward: the sum over ranks of the own part's gradient."""

    @staticmethod
    def forward(context, tensor: torch.Tensor) -> torch.Tensor:
        context.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may use it elsewhere
        dist.all_reduce(gradient)
        start = context.rows * dist.get_rank()
        return gradient[start : start + context.rows]


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """(B, ...) of each rank -> (world x B, ...), by rank; the tensor itself outside a process group.

    B must be the same on every rank: loaders drop an incomplete last batch.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    if tensor.dtype == torch.bool:
        return gather(tensor.to(torch.uint8)).bool()
    return _Gather.apply(tensor)

"""Where to compute, and in fp32 or bf16: what fits and is faster on this machine."""

from __future__ import annotations

import functools
import logging
import time
from typing import Literal

import torch

from .errors import DependencyError

Precision = Literal["auto", "fp32", "bf16"]


# Free memory that "auto" asks of a GPU: the context, the released model's weights and one window with its gradients in fp32, with
# room to spare. A judgement, not measured on a GPU.
NEEDED_BYTES = 2 * 1024**3


def choose_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" -> device. "auto" is the first CUDA GPU with enough free memory, otherwise the CPU.

    Raises:
        DependencyError: CUDA is asked for and not there.
    """
    if name == "auto":
        return _free_gpu() or torch.device("cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise DependencyError(
            "No CUDA device is available to PyTorch. Use --device cpu, or install a PyTorch build for your GPU's driver."
        )
    return torch.device(name)


def _free_gpu() -> torch.device | None:
    """What this process holds itself counts as free: it goes on with it. GPUs are asked one after the other, for asking takes
    some hundred MB of each."""
    if not torch.cuda.is_available():
        return None
    most = 0
    for index in range(torch.cuda.device_count()):
        free = torch.cuda.mem_get_info(index)[0] + torch.cuda.memory_reserved(index)
        if free >= NEEDED_BYTES:
            return torch.device("cuda", index)
        most = max(most, free)
    logging.getLogger(__name__).warning(
        "No GPU has %.1f GiB of free memory (at most %.1f): the CPU is used. Close other programs that use the GPU, "
        "or choose it by name to try nevertheless.",
        NEEDED_BYTES / 1024**3,
        most / 1024**3,
    )
    return None


def choose_precision(precision: Precision, device: torch.device) -> str:
    """Resolve "auto": bf16 on a GPU that has it, and on a CPU where a matrix product of the ViT's size is faster in it."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if bf16_speedup() > 1.1 else "fp32"


@functools.cache
def bf16_speedup() -> float:
    """How many times faster than fp32 this CPU multiplies matrices in bf16 (measured once).

    A CPU without bf16 instructions is tens of times slower in it: one trial that is slower than fp32 settles it.
    """
    fp32 = min(_matmul_seconds(torch.float32) for _ in range(4))
    bf16 = float("inf")
    for _ in range(4):
        bf16 = min(bf16, _matmul_seconds(torch.bfloat16))
        if bf16 > 4 * fp32:
            break
    return fp32 / bf16


def _matmul_seconds(dtype: torch.dtype) -> float:
    """One product of the ViT's width, a quarter of its usual length."""
    a, b = torch.ones(308, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start

"""One training step of the full-size model (fVLM's released architecture) against a plain re-statement of the release's step.

Baseline: eager attention, organs pooled case by case, texts padded to 384 (``Testing/Python/support/plain_fvlm_training.py``; a test
holds that both compute the same loss and gradients). Each variant runs in a process of its own, so that peak memory is its own.
Dropout is measured both as released (0.1, 0.25 in the text tower) and off; the recipes take it with
``--set model.vision.dropout=0 --set model.text.dropout=0 --set model.pooling_dropout=0``.

    python Testing/Benchmark/bench_training.py [--device cpu|cuda] [--batch 2] [--json OUT]

On a CPU it takes minutes, and 18 GB of memory for the baseline. On a GPU it also looks for the largest batch and gives MFU.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / folder) for folder in ("CTGroundedVLM", "Training", "Testing/Python/support")]


@dataclass(frozen=True)
class Variant:
    """What is measured. ``plain``: the baseline. ``dropout``: as released, or off."""

    name: str
    plain: bool
    dropout: bool
    precision: str = "fp32"
    compile: bool = False
    checkpointing: bool = False


@dataclass(frozen=True)
class Measured:
    """Seconds of a step (the fastest), and of all cores' work in it; GiB (of the process, or allocated on the GPU); FLOPs."""

    seconds: float
    cpu_seconds: float
    memory: float
    flops: float
    loss: float


def measure(variant: Variant, batch_size: int, device: str, repeats: int, pipe) -> None:
    """Runs in its own process."""
    import torch

    from CTGroundedVLMLib.model.config import fvlm_config

    config = fvlm_config()
    if not variant.dropout:
        config = replace(
            config,
            vision=replace(config.vision, dropout=0.0),
            text=replace(config.text, dropout=0.0),
            pooling_dropout=0.0,
        )
    torch.manual_seed(0)
    try:
        pipe.send((_plain if variant.plain else _ours)(variant, config, batch_size, device, repeats))
    except torch.OutOfMemoryError:
        pipe.send(None)


def _plain(variant: Variant, config, batch_size: int, device: str, repeats: int) -> Measured:
    from CTGroundedVLMLib.model.fvlm import FVLM
    from plain_fvlm_training import PlainTraining
    from training_batches import a_batch

    plain = PlainTraining(FVLM(config)).to(device).train()
    optimizer = plain.optimizer()
    _, batch = a_batch(config, batch_size, device=device)
    return _timed(lambda: plain.step(batch, optimizer), device, repeats, 0.0)


def _ours(variant: Variant, config, batch_size: int, device: str, repeats: int) -> Measured:
    """The trainer's own step: forward, backward, clipping, AdamW, on a batch that is at hand."""
    import torch

    from CTGroundedVLMLib.model.fvlm import FVLM
    from CTGroundedVLMTraining.cached_step import forward_backward
    from CTGroundedVLMTraining.config import TrainingConfig
    from CTGroundedVLMTraining.learner import Learner
    from CTGroundedVLMTraining.objectives import OrganContrast
    from CTGroundedVLMTraining.parallel import clip_gradients
    from CTGroundedVLMTraining.throughput import StepCost
    from training_batches import a_batch

    run = TrainingConfig(
        name="bench",
        model=config,
        precision=variant.precision,
        compile=variant.compile,
        activation_checkpointing=variant.checkpointing,
    )
    batch, _ = a_batch(config, batch_size, device=device)
    learner = Learner(FVLM(config).to(torch.device(device)).train(), OrganContrast(list(config.organs)), None, run)

    def step() -> float:
        learner.optimizer.zero_grad(set_to_none=True)
        autocast = lambda: learner.model.autocast(variant.precision)  # noqa: E731
        losses = forward_backward(learner.wrapped, learner.objective, [batch], autocast)
        clip_gradients(learner.parameters(), None)
        learner.apply(1e-4)
        return losses["loss"]

    return _timed(step, device, repeats, StepCost(config).of(batch))


def _timed(step, device: str, repeats: int, flops: float) -> Measured:
    """The first step warms up; the fastest of the others counts."""
    import torch

    loss, seconds, work = step(), [], []
    for _ in range(repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start, worked = time.perf_counter(), time.process_time()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        work.append(time.process_time() - worked)
    on_gpu = device == "cuda"
    memory = (
        torch.cuda.max_memory_allocated() / 2**30
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    return Measured(min(seconds), min(work), memory, flops, loss)


def in_own_process(*arguments) -> Measured | None:
    """The measurement; None where memory did not suffice."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(*arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:  # killed for its memory
        return None
    finally:
        process.join()


def variants(device: str) -> list[Variant]:
    """The baseline with and without dropout, then ours."""
    found = [
        Variant("baseline", True, True),
        Variant("baseline, dropout 0", True, False),
        Variant("ours", False, True),
        Variant("ours, dropout 0", False, False),
        Variant("ours, dropout 0, bf16", False, False, "bf16"),
    ]
    if device == "cuda":
        found += [
            Variant("ours, bf16", False, True, "bf16"),
            Variant("ours, dropout 0, bf16, compiled", False, False, "bf16", compile=True),
        ]
    return found


def largest_batch(variant: Variant, device: str, size: int) -> tuple[int, Measured] | None:
    """A batch that fits where half as much again does not: doubled from ``size``, then one and a half times tried."""
    best = None
    while (measured := in_own_process(variant, size, device, 2)) is not None:
        best, size = (size, measured), 2 * size
    if best is None:
        return None
    size = best[0] + best[0] // 2
    measured = in_own_process(variant, size, device, 2)
    return best if measured is None else (size, measured)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", help="variants whose name holds this")
    parser.add_argument("--largest-batch", action="store_true", help="look for it (GPU)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    import torch

    device = ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    rows = {}
    for variant in variants(device):
        if not arguments.only or arguments.only in variant.name:
            rows[variant.name] = in_own_process(variant, arguments.batch, device, arguments.repeats)
            print(f"{variant.name}: {rows[variant.name] or 'out of memory'}", file=sys.stderr, flush=True)
    print_table(rows, arguments.batch, device)
    largest = {}
    if arguments.largest_batch:
        for variant in (Variant("baseline", True, True), Variant("ours, dropout 0, bf16", False, False, "bf16")):
            largest[variant.name] = largest_batch(variant, device, arguments.batch)
            print_largest(variant.name, largest[variant.name], device)
    if arguments.json:
        result = {"device": device, "batch": arguments.batch, "rows": {k: v and vars(v) for k, v in rows.items()}}
        result["largest"] = {k: v and {"batch": v[0], **vars(v[1])} for k, v in largest.items()}
        arguments.json.write_text(json.dumps(result, indent=1))


def print_table(rows: dict[str, Measured | None], batch: int, device: str) -> None:
    """Markdown; ratios against the baseline as released, and against the one without dropout."""
    print(f"\nDevice {device}, one step of the full-size model on {batch} cases\n")
    print(
        "| | s | cores' s | cases/s | GiB | baseline / this: time | without dropout: time | this / baseline: memory | MFU |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    released, calm = rows.get("baseline"), rows.get("baseline, dropout 0")
    for name, row in rows.items():
        if row is None:
            print(f"| {name} | out of memory | | | | | | | |")
            continue
        ratios = [f"{other.seconds / row.seconds:.2f}" if other else "" for other in (released, calm)]
        memory = f"{row.memory / released.memory:.2f}" if released else ""
        times = (f"{row.seconds:.2f}", f"{row.cpu_seconds:.1f}", f"{batch / row.seconds:.2f}")
        print(f"| {' | '.join((name, *times, f'{row.memory:.1f}', *ratios, memory))} | {_mfu(row, name, device)} |")


def print_largest(name: str, found: tuple[int, Measured] | None, device: str) -> None:
    """One line."""
    if found is None:
        print(f"\n{name}: the smallest batch does not fit")
        return
    size, row = found
    print(
        f"\n{name}: largest batch {size}, {size / row.seconds:.2f} cases/s, {row.memory:.0f} GiB, MFU {_mfu(row, name, device)}"
    )


def _mfu(row: Measured, name: str, device: str) -> str:
    if device != "cuda" or not row.flops:
        return ""
    import torch

    from CTGroundedVLMTraining.throughput import known_peak_tflops

    peak = known_peak_tflops(torch.device("cuda", 0), "bf16" if "bf16" in name else "fp32")
    return f"{100 * row.flops / row.seconds / (peak * 1e12):.0f} %" if peak else ""


if __name__ == "__main__":
    main()

"""The loop: one optimiser step after another, until the last, a signal, or a loss that is no number.

Killed at any step and run again, it goes on from the last checkpoint as if nothing had happened: weights, optimiser, moving
averages and every rank's random numbers are saved, and the data of a step follow from its number (``data.loader``).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from CTGroundedVLMLib.errors import CTGroundedVLMError, InputError
from CTGroundedVLMLib.memory import release_freed_memory

from .cached_step import RandomState, forward_backward
from .learner import Learner
from .parallel import any_rank, clip_gradients, from_all_ranks, world
from .run_folder import RunFolder
from .schedule import learning_rate
from .throughput import Speed, known_peak_tflops
from .types import Batch

Report = Callable[[dict[str, Any]], None]
Validate = Callable[[Learner], dict[str, float]]


class NotANumberError(CTGroundedVLMError):
    """A loss or gradient is infinite or no number; the message names the batch."""

    exit_code = 9


class Trainer:
    """Runs one configuration.

    Args:
        learners: one, or two that teach each other.
        validate: called every ``validate_every`` steps, on every rank; its numbers are logged as "validation/...".
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        run: RunFolder,
        validate: Validate | None = None,
    ) -> None:
        self.learners, self.run_folder, self.config = list(learners), run, run.config
        self._validate = validate
        self._rank, self._ranks = world()
        self._device = self.learners[0].model.device
        peak = self.config.peak_tflops or known_peak_tflops(self._device, self.config.precision)
        self._speed = Speed(self.config.model, peak, self._ranks)
        self.step = 0
        self._terminated = False

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.config.steps or self.steps_per_epoch * self.config.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return self.learners[0].loader.order.steps_per_epoch // self.config.accumulate

    def resume(self) -> int:
        """Go to the last checkpoint, or to step 0 of a new folder; returns the step.

        Raises:
            InputError: another configuration or number of processes, a damaged checkpoint, or a rank that sees other files.
            OutputError: the folder cannot be written.
        """
        if self._rank == 0:
            self.run_folder.prepare()
        self.step = 0
        state = self.run_folder.load()
        steps = from_all_ranks(state["step"] if state else 0)
        if len(set(steps)) > 1:
            raise InputError(
                f"The processes see different checkpoints in {self.run_folder.folder} (steps {', '.join(map(str, steps))}, by "
                "rank). The folder must lie on a disk that all of them share."
            )
        if state is not None:
            self._restore(state)
        if self._rank == 0:
            self.run_folder.forget_metrics_after(self.step)
        return self.step

    def _restore(self, state: dict[str, Any]) -> None:
        if len(state["random"]) != self._ranks:
            raise InputError(
                f"{self.run_folder.folder} was trained by {len(state['random'])} processes, now there are {self._ranks}: the "
                "steps would see other batches. Continue with as many as before, or start a new run."
            )
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.restore(saved)
        self.step = state["step"]
        RandomState(**state["random"][self._rank]).restore()

    def run(self, report: Report = lambda record: None) -> bool:
        """Train from the present step until done (True), or until a SIGTERM, after which everything is saved (False).

        Args:
            report: called after each step, on rank 0, with its record (step, epoch, losses, learning rate, speed).

        Raises:
            NotANumberError: the batch is named; nothing of that step is saved.
            OutputError: a checkpoint cannot be written.
        """
        if self.step == self.total_steps:
            return True  # without workers that would read ahead
        with self._stopping_on_sigterm():
            streams = [learner.loader.batches(self.step * self.config.accumulate) for learner in self.learners]
            stop = False
            while self.step < self.total_steps and not stop:
                record = self._one_step(streams)
                if self._rank == 0:
                    self.run_folder.log(record)
                    report(record)
                stop = any_rank(self._terminated, self._device)  # all of them after the same step
                finished = self.step == self.total_steps
                if stop or finished or self.step % self.config.checkpoint_every == 0:
                    self._save()
                    release_freed_memory()
        return self.step == self.total_steps

    def _one_step(self, streams: Sequence[Iterator[Batch]]) -> dict[str, Any]:
        start, waited, seen = time.perf_counter(), 0.0, []
        lr = learning_rate(self.step, self.steps_per_epoch, self.total_steps, self.config.optimizer)
        record: dict[str, Any] = {"step": self.step + 1, "epoch": self.step // self.steps_per_epoch, "lr": lr}
        for number, stream in enumerate(streams):
            asked = time.perf_counter()
            batches = [next(stream).to(self._device) for _ in range(self.config.accumulate)]
            waited += time.perf_counter() - asked
            seen += batches
            peer = self.learners[1 - number] if len(self.learners) == 2 else None
            losses = self._learn(number, batches, peer, lr)
            record |= losses if number == 0 else {f"peer/{name}": value for name, value in losses.items()}
        self.step += 1
        record |= self._speed.of_step(seen, time.perf_counter() - start, waited)
        if self._validate and self.config.validate_every and self.step % self.config.validate_every == 0:
            record |= {f"validation/{name}": value for name, value in self._validated().items()}
        return record

    def _learn(self, number: int, batches: Sequence[Batch], peer: Learner | None, lr: float) -> dict[str, float]:
        learner = self.learners[number]
        learner.model.train()
        learner.optimizer.zero_grad(set_to_none=True)
        autocast = lambda: learner.model.autocast(self.config.precision)  # noqa: E731
        losses = forward_backward(learner.wrapped, learner.objective, batches, autocast, peer and peer.wrapped)
        learner.average_loose_gradients()
        norm = clip_gradients(learner.parameters(), self.config.optimizer.clip_norm)
        if not math.isfinite(norm) or not math.isfinite(losses["loss"]):
            # the same on every rank: losses are of the joint batch, the norm is of all ranks' gradients
            raise self._no_number(number, f"the loss is {losses['loss']}, the gradient's norm {norm}", batches)
        learner.apply(lr)
        return losses | {"gradient_norm": norm, "temperature": learner.model.temperature.item()}

    def _no_number(self, number: int, what: str, batches: Sequence[Batch]) -> NotANumberError:
        of_ranks = from_all_ranks([name for batch in batches for name in batch.case_ids])
        names = ", ".join(name for names in of_ranks for name in names)
        model, kept = "", "The weights were not changed by this step."
        if len(self.learners) == 2:  # they take a step one after the other
            model, kept = (
                (", first model", "The weights of neither model were changed by this step."),
                (", second model", "The first one had taken this step; nothing of it is saved."),
            )[number]
        return NotANumberError(
            f"Step {self.step + 1}{model}: {what}; the batch was {names}. Look at these cases, lower the learning rate or train "
            f"in fp32. {kept}"
        )

    def _validated(self) -> dict[str, float]:
        """Leaves the random numbers of training as they were."""
        random, learner = RandomState.now(), self.learners[0]
        learner.exported().eval()
        try:
            return self._validate(learner)
        finally:
            learner.exported().train()
            random.restore()

    def _save(self) -> None:
        state = {
            "step": self.step,
            "learners": [learner.state() for learner in self.learners],
            "random": from_all_ranks(RandomState.now().to_dict()),
        }
        if self._rank == 0:
            self.run_folder.save(self.step, state)
        from_all_ranks(None)  # a launcher ends rank 0 when another rank ends: none may before the file is complete

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """SIGTERM (a scheduler's time limit) to any process ends the run after the step at hand, saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: object) -> None:
            self._terminated = True

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

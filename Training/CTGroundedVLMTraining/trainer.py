"""The loop: one optimiser step after another, until the last, a signal, or a loss that is no number.

Killed at any step and run again, it goes on from the last checkpoint as if nothing had happened: weights, optimiser, moving
averages and random numbers are saved, and the data of a step follow from its number (``data.loader``).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from CTGroundedVLMLib.errors import CTGroundedVLMError
from CTGroundedVLMLib.model.fvlm import FVLM

from .cached_step import RandomState, forward_backward
from .config import TrainingConfig
from .data.loader import TrainingLoader
from .objectives import Objective
from .parallel import average_gradients, unwrapped, wrap
from .run_folder import RunFolder
from .schedule import learning_rate
from .types import Batch

Report = Callable[[dict[str, Any]], None]


class NotANumberError(CTGroundedVLMError):
    """A loss or gradient is infinite or no number; the message names the batch."""

    exit_code = 9


@dataclass
class Learner:
    """A model with its objective, optimiser and data. Co-teaching has two of them, each the other's peer."""

    model: FVLM
    objective: Objective
    loader: TrainingLoader
    config: TrainingConfig

    def __post_init__(self) -> None:
        if hasattr(self.objective, "start"):
            self.objective.start(self.model)
        self.wrapped = wrap(self.model, self.config)
        optimizer = self.config.optimizer
        groups = [
            {"params": [p for p in self.model.parameters() if p.requires_grad], "factor": 1.0},
            {
                "params": [p for p in self.objective.parameters() if p.requires_grad],
                "factor": optimizer.head_lr_factor,
            },
        ]
        self.optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=optimizer.lr,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )
        self.average = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema)) if self.config.ema else None
        )

    def exported(self) -> FVLM:
        """The model to validate and to ship: the moving average where there is one."""
        return self.average.module if self.average is not None else self.model

    def state(self) -> dict[str, Any]:
        """All that a later ``restore`` needs."""
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


class Trainer:
    """Runs one configuration.

    Args:
        learners: one, or two that teach each other.
        report: called after each step with its record (step, epoch, losses, learning rate, samples per second).
        validate: called every ``validate_every`` steps with the model to export; its numbers are logged.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        run: RunFolder,
        *,
        rank: int = 0,
        report: Report | None = None,
        validate: Callable[[FVLM], dict[str, float]] | None = None,
    ) -> None:
        self.learners, self.run_folder, self.config = list(learners), run, run.config
        self._rank, self._report, self._validate = rank, report or (lambda record: None), validate
        self.step = 0
        self._stop = False

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_per_epoch * self.config.epochs

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return max(self.learners[0].loader.order.steps_per_epoch // self.config.accumulate, 1)

    def run(self) -> bool:
        """Train until done (True), or until a SIGTERM, after which everything is saved (False).

        Raises:
            NotANumberError: the batch is named; nothing of that step was applied.
            OutputError: a checkpoint cannot be written.
        """
        self.run_folder.prepare()
        self._resume()
        with self._stopping_on_sigterm():
            streams = [learner.loader.batches(self.step * self.config.accumulate) for learner in self.learners]
            while self.step < self.total_steps and not self._stop:
                self._one_step(streams)
                finished = self.step == self.total_steps
                if self._stop or finished or self.step % self.config.checkpoint_every == 0:
                    self._save()
        return self.step == self.total_steps

    def _one_step(self, streams: Sequence[Iterator[Batch]]) -> None:
        start = time.perf_counter()
        lr = learning_rate(self.step, self.steps_per_epoch, self.config.epochs, self.config.optimizer)
        record: dict[str, Any] = {"step": self.step + 1, "epoch": self.step // self.steps_per_epoch, "lr": lr}
        for number, (learner, stream) in enumerate(zip(self.learners, streams, strict=True)):
            peer = self.learners[1 - number].wrapped if len(self.learners) == 2 else None
            losses = self._learn(learner, stream, peer, lr)
            record |= losses if number == 0 else {f"peer/{name}": value for name, value in losses.items()}
        self.step += 1
        record["seconds"] = time.perf_counter() - start
        record["samples_per_s"] = self._samples_per_step() / record["seconds"]
        if self._validate and self.config.validate_every and self.step % self.config.validate_every == 0:
            record |= self._validated()
        if self._rank == 0:
            self.run_folder.log(record)
            self._report(record)

    def _learn(self, learner: Learner, stream: Iterator[Batch], peer: nn.Module | None, lr: float) -> dict[str, float]:
        device = learner.model.device
        batches = [next(stream).to(device) for _ in range(self.config.accumulate)]
        learner.model.train()
        learner.optimizer.zero_grad(set_to_none=True)
        autocast = lambda: learner.model.autocast(self.config.precision)  # noqa: E731
        losses = forward_backward(learner.wrapped, learner.objective, batches, autocast, peer)
        average_gradients(learner.objective)
        parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
        limit = self.config.optimizer.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf).item()
        if not math.isfinite(norm) or not math.isfinite(losses["loss"]):
            names = ", ".join(name for batch in batches for name in batch.case_ids)
            raise NotANumberError(
                f"Step {self.step + 1}: the loss is {losses['loss']}, the gradient's norm {norm}; the batch was {names}. Look at "
                "these cases, lower the learning rate or train in fp32. The weights were not changed by this step."
            )
        for group in learner.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        learner.optimizer.step()
        learner.objective.after_step(learner.model)
        if learner.average is not None:
            learner.average.update_parameters(learner.model)
        return losses | {"gradient_norm": norm}

    def _samples_per_step(self) -> int:
        order = self.learners[0].loader.order
        return order.batch_size * order.world_size * self.config.accumulate

    def _validated(self) -> dict[str, float]:
        model = unwrapped(self.learners[0].exported())
        training = model.training
        model.eval()
        numbers = self._validate(model)
        model.train(training)
        return {f"validation/{name}": value for name, value in numbers.items()}

    def _save(self) -> None:
        random = RandomState.now()
        state = {
            "step": self.step,
            "learners": [learner.state() for learner in self.learners],
            "random": {"cpu": random.cpu, "cuda": list(random.cuda)},
        }
        if self._rank == 0:
            self.run_folder.save(self.step, state)

    def _resume(self) -> None:
        state = self.run_folder.load()
        if state is None:
            return
        for learner, saved in zip(self.learners, state["learners"], strict=True):
            learner.restore(saved)
        self.step = state["step"]
        RandomState(state["random"]["cpu"].cpu(), tuple(t.cpu() for t in state["random"]["cuda"])).restore()

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """SIGTERM (a scheduler's time limit) ends the run after the step at hand, saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: object) -> None:
            self._stop = True

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

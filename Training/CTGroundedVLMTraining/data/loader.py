"""Batches in an order that depends on the step alone: a resumed run sees the same ones, bit for bit.

Which cases a step takes follows from (seed, epoch), what is random in a view from (seed, epoch, case): neither from the number
of workers nor from what ran before. So the step number is the whole state of a loader.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from CTGroundedVLMLib.errors import CTGroundedVLMError
from CTGroundedVLMLib.model.config import ModelConfig

from ..types import Batch, PreparedCase
from .collate import Collator
from .views import View, ViewConfig, take_view


@dataclass(frozen=True)
class BatchOrder:
    """Which cases each rank takes in each step.

    Args:
        cases: how many there are.
        batch_size: cases of one rank in one step.
        rank, world_size: steps of all ranks together take ``batch_size * world_size`` cases.
        passes: how many of these steps are one of the optimiser (accumulation). An epoch holds whole ones: of two epochs together
            an optimiser's step could see a case twice, and would tell it from itself.
    """

    cases: int
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    passes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank is {self.rank}, expected 0 to {self.world_size - 1}")
        if self.steps_per_epoch < 1:
            batches = "one batch" if self.passes == 1 else f"{self.passes} batches"
            raise ValueError(
                f"{self.cases} cases do not fill {batches} of {self.batch_size} on {self.world_size} process(es): "
                "lower the batch size or add cases"
            )

    @property
    def steps_per_epoch(self) -> int:
        """An incomplete last step is left out: every rank needs as many cases as the others."""
        return self.cases // (self.batch_size * self.world_size * self.passes) * self.passes

    def of_step(self, step: int) -> list[tuple[int, int]]:
        """(epoch, case number) of this rank's batch; ``step`` counts from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.cases)
        start = (position * self.world_size + self.rank) * self.batch_size
        return [(epoch, int(number)) for number in order[start : start + self.batch_size]]


class _Views(Dataset):
    """Views by (epoch, case number); what is wrong with a case comes back in its place."""

    def __init__(self, cases: Sequence[PreparedCase], model: ModelConfig, config: ViewConfig, seed: int) -> None:
        self._cases, self._model, self._config, self._seed = cases, model, config, seed

    def __getitem__(self, key: tuple[int, int]) -> View | CTGroundedVLMError:
        epoch, number = key
        random = np.random.default_rng([self._seed, epoch, number, 1])  # the 1 keeps it apart from the order's
        try:
            return take_view(self._cases[number], self._model, self._config, random)
        except CTGroundedVLMError as error:  # raised in a worker it would arrive as the text of a traceback
            return error


class _Collate:
    """A batch of views, or the first error among them."""

    def __init__(self, collate: Callable[[Sequence[View]], Batch]) -> None:
        self._collate = collate

    def __call__(self, views: Sequence[View | CTGroundedVLMError]) -> Batch | CTGroundedVLMError:
        return next((view for view in views if isinstance(view, CTGroundedVLMError)), None) or self._collate(views)


def _raised(batch: Batch | CTGroundedVLMError) -> Batch:
    if isinstance(batch, CTGroundedVLMError):
        raise batch
    return batch


def _outlive_sigterm(worker: int) -> None:
    """torchrun and schedulers signal whole process groups: the trainer still wants the batches of the step at hand. Workers end
    with their process, whichever way that ends.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class TrainingLoader:
    """Batches from any step on, without end.

    Args:
        cases: prepared cases, in memory or read on demand (``[number]``, ``len``).
        workers: processes that take views ahead; 0 for none.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        model: ModelConfig,
        views: ViewConfig,
        collate: Collator,
        order: BatchOrder,
        *,
        workers: int = 0,
    ) -> None:
        self.order, self._collate, self._workers = order, collate, workers
        self._views = _Views(cases, model, views, order.seed)

    def batches(self, first_step: int = 0) -> Iterator[Batch]:
        """The batches of ``first_step``, ``first_step + 1``, ...; InputError that names the file where a case cannot be read."""
        loader = DataLoader(
            self._views,
            batch_sampler=_Steps(self.order, first_step),
            num_workers=self._workers,
            collate_fn=_Collate(self._collate),
            worker_init_fn=_outlive_sigterm,
            # of its own: otherwise torch would draw the workers' seeds from the generator that dropout uses
            generator=torch.Generator().manual_seed(self.order.seed),
            pin_memory=torch.cuda.is_available(),
        )
        return map(_raised, iter(loader))


class _Steps:
    """The endless batch sampler of a BatchOrder."""

    def __init__(self, order: BatchOrder, first_step: int) -> None:
        self._order, self._first = order, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self._first
        while True:
            yield self._order.of_step(step)
            step += 1

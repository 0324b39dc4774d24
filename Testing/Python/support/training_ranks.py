"""What each of two processes does in the tests of distributed training; in a module of its own, for spawned ones import it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.build import make_learners
from CTGroundedVLMTraining.config import ObjectiveConfig, OptimizerConfig
from CTGroundedVLMTraining.objectives.clip import whole_body_organs
from CTGroundedVLMTraining.trainer import NotANumberError
from training_cases import CALM, a_config, a_trainer, some_cases, train

RUNS = {
    "plain": {"ema": 0.9},
    "accumulated": {"accumulate": 2, "epochs": 4, "activation_checkpointing": True},
    "momentum": {"objective": ObjectiveConfig(false_negatives="normal+momentum", momentum=0.9)},
    "supervised": {
        "objective": ObjectiveConfig("supervised"),
        "findings": ("lung/Emphysema", "heart/Cardiomegaly"),
        "optimizer": OptimizerConfig(lr=1e-3, warmup_steps=3, clip_norm=0.05, head_lr_factor=10.0),
    },
    "coteach": {"objective": ObjectiveConfig(false_negatives="normal+coteach")},
    "clip": {
        "objective": ObjectiveConfig("clip"),
        "model": replace(CALM, organs=whole_body_organs(CALM.organs)),
    },
}
MODES = {
    "plain": ("ddp", "fsdp2"),
    "accumulated": ("ddp", "fsdp2"),
    "momentum": ("fsdp2",),
    "supervised": ("fsdp2",),
    "coteach": ("ddp", "fsdp2"),
    "clip": ("ddp",),
}
PAIRS = [(name, mode) for name, modes in MODES.items() for mode in modes]


def the_config(name, parallel, batch_size):
    optimizer = OptimizerConfig(lr=1e-3, warmup_steps=3, clip_norm=0.05)
    # no dropout: two processes draw other random numbers than one
    changes = {"model": CALM, "optimizer": optimizer} | RUNS[name]
    return a_config(batch_size=batch_size, parallel=parallel, checkpoint_every=1, **changes)


def eight(config):
    cases = some_cases(8, tuple(config.model.organs))
    return make_learners(config, cases, registry_tokenizer(), torch.device("cpu"))


class KilledError(Exception):
    pass


def dies_after_saving_step_2(trainer):
    save = trainer._save

    def save_and_die():
        save()
        if trainer.step == 2:
            raise KilledError

    trainer._save = save_and_die
    return trainer


def killed_and_continued(name, mode, folder):
    config = the_config(name, mode, 2)
    first = dies_after_saving_step_2(a_trainer(folder, config, eight(config)))
    first.resume()
    with pytest.raises(KilledError):
        first.run()
    torch.manual_seed(99)
    return train(folder, config, eight(config))


@contextmanager
def one_of_two(rank: int, folder: Path | str) -> Iterator[None]:
    """A process group of two on the CPU, with one thread each; they find each other by a file in ``folder``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    yield
    dist.destroy_process_group()


def one_rank(rank, folder):
    with one_of_two(rank, folder):
        for name, mode in PAIRS:
            killed_and_continued(name, mode, folder / f"{name}-{mode}")
        a_nan_stops_both(rank, folder / "nan")
        dist.barrier()
    # All is written. The interpreter's own end has aborted once ("terminate called without an active exception", a thread of gloo
    # or DDP that outlived its group), which is nothing that these tests are about.
    os._exit(0)


def a_nan_stops_both(rank, folder):
    """Every rank stops, and names the cases of both."""
    config = the_config("plain", "fsdp2", 4)
    learners = eight(config)
    with torch.no_grad():
        learners[0].model.temperature.fill_(float("nan"))
    trainer = a_trainer(folder, config, learners)
    trainer.resume()
    with pytest.raises(NotANumberError) as caught:
        trainer.run()
    (folder / f"message{rank}").write_text(str(caught.value))

"""Two processes (gloo, CPU) that train with DDP and with FSDP2, against one process on the joint batches."""

import sys

import pytest
import torch
import torch.multiprocessing as mp

from CTGroundedVLMLib.errors import InputError
from training_cases import train
from training_ranks import PAIRS, eight, one_rank, the_config


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    """Folders of finished runs; the two processes are started once for all of them."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_rank, (folder,), nprocs=2)
    return folder


def last_state(folder):
    files = sorted((folder / "checkpoints").glob("step-*/state.pt"))
    return torch.load(files[-1], weights_only=True)


def flat(tree, prefix=""):
    if isinstance(tree, dict):
        return {k: v for name, part in tree.items() for k, v in flat(part, f"{prefix}/{name}").items()}
    return {prefix: tree} if isinstance(tree, torch.Tensor) else {}


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo with a file rendezvous")


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_two_processes_killed_and_continued_equal_one_that_ran_through(name, mode, trained_by_two, tmp_path):
    config = the_config(name, "none", 4)
    train(tmp_path, config, eight(config))
    expected, found = last_state(tmp_path), last_state(trained_by_two / f"{name}-{mode}")
    assert found["step"] == expected["step"] == 4
    assert len(found["learners"]) == len(expected["learners"]) == (2 if name == "coteach" else 1)
    expected, found = (flat(dict(enumerate(state["learners"]))) for state in (expected, found))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if "/optimizer/" not in key:
            assert torch.allclose(found[key], value, rtol=1e-3, atol=2e-5), key


def test_a_loss_that_is_no_number_stops_all_processes_and_names_all_cases(trained_by_two):
    for rank in range(2):
        message = (trained_by_two / "nan" / f"message{rank}").read_text()
        assert all(f"case{n}" in message for n in range(8))


def test_another_number_of_processes_is_refused(trained_by_two):
    config = the_config("plain", "ddp", 2)
    with pytest.raises(InputError, match="was trained by 2 processes, now there are 1"):
        train(trained_by_two / "plain-ddp", config, eight(config))

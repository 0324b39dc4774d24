"""Two processes (gloo, CPU) with DDP against one process on the joint batch: the same loss and the same gradients."""

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMTraining.objectives import Features, OrganContrast, SupervisedHead
from CTGroundedVLMTraining.types import Batch

FINDINGS = ("lung/Emphysema", "heart/Cardiomegaly")


def the_model():
    torch.manual_seed(0)
    model = FVLM(debug_config()).eval()  # no dropout: the two runs draw different random numbers
    torch.nn.init.normal_(model.pooling.queries)
    return model


def the_objective(name, organs):
    if name == "supervised":
        head = SupervisedHead(organs, FINDINGS, 24)
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
        return head
    return OrganContrast(organs, name)


def a_batch(first, last):
    """Cases first..last of four."""
    generator = torch.Generator().manual_seed(2)
    images, ids = torch.rand(4, 48, 64, 96, generator=generator), torch.randint(5, 99, (4, 4, 6), generator=generator)
    masks = torch.rand(4, 4, 36, generator=generator) > 0.6
    status = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 0, -1, 0]], dtype=torch.int8)
    valid = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], dtype=torch.bool)
    nan = float("nan")
    part, n = slice(first, last), last - first
    return Batch(
        case_ids=tuple("abcd"[part]),
        image_BDHW=images[part],
        token_mask_BON=masks[part],
        valid_BO=valid[part],
        status_BO=status[part],
        text_ids_PT=ids[part].reshape(-1, 6),
        text_mask_PT=torch.ones(n * 4, 6, dtype=torch.long),
        text_of_BO=torch.arange(n * 4).view(n, 4),
        text_key_BO=torch.arange(16).view(4, 4)[part],
        report_of_B=torch.full((n,), -1),
        labels_BF=torch.tensor([[1.0, nan], [0.0, 1.0], [nan, nan], [1.0, 0.0]])[part],
    )


def gradients(name, wrap, batch):
    """(loss, gradients of model and objective by name)."""
    model = the_model()
    objective = the_objective(name, list(model.config.organs))
    if hasattr(objective, "start"):
        objective.start(model)
    wrapped = wrap(model)  # DDP's hooks live as long as the wrapper
    loss = sum(objective(Features.of(wrapped, batch), batch).values())
    loss.backward()
    named = [*model.named_parameters(), *((f"objective.{n}", p) for n, p in objective.named_parameters())]
    return loss.item(), {n: p.grad for n, p in named if p.requires_grad}


def one_rank(rank, name, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss, found = gradients(name, DistributedDataParallel, a_batch(2 * rank, 2 * rank + 2))
    for parameter_name, gradient in found.items():
        if parameter_name.startswith("objective."):  # the trainer averages these as DDP does the model's
            torch.distributed.all_reduce(gradient)
            gradient /= 2
    torch.save((loss, found), Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo with a file rendezvous")
@pytest.mark.parametrize("name", ["none", "normal", "normal+momentum", "supervised"])
def test_two_processes_equal_one_on_the_joint_batch(name, tmp_path):
    loss, expected = gradients(name, lambda model: model, a_batch(0, 4))
    mp.spawn(one_rank, (name, str(tmp_path)), nprocs=2)
    for rank in range(2):
        rank_loss, found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert rank_loss == pytest.approx(loss, rel=1e-6)
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            assert torch.allclose(found[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-9), key

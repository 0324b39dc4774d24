"""Two processes (gloo, CPU) with DDP against one process on the joint batch: the same loss and the same gradients."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from CTGroundedVLMTraining.objectives import Features, ImageReportContrast, OrganContrast, SupervisedHead
from training_batches import a_model, of_four
from training_ranks import one_of_two

FINDINGS = ("lung/Emphysema", "heart/Cardiomegaly")


def the_objective(name, organs):
    if name == "supervised":
        head = SupervisedHead(organs, FINDINGS, 24)
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
        return head
    if name == "clip":
        return ImageReportContrast()
    return OrganContrast(organs, name)


def a_peer():
    """Another model, with a temperature of its own."""
    peer = a_model()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        peer.temperature.fill_(0.2)
    return peer


def gradients(name, wrap, batch):
    """(loss, gradients of model and objective by name)."""
    model = a_model()
    objective = the_objective(name, list(model.config.organs))
    if hasattr(objective, "start"):
        objective.start(model)
    wrapped = wrap(model)  # DDP's hooks live as long as the wrapper
    if name == "clip":  # the third case has no report
        reports = [-1 if case == "c" else 4 * number for number, case in enumerate(batch.case_ids)]
        batch = replace(batch, report_of_B=torch.tensor(reports))
    with torch.no_grad():
        peer = Features.of(a_peer(), batch) if objective.needs_peer else None
    loss = sum(objective(Features.of(wrapped, batch), batch, peer).values())
    loss.backward()
    named = [*model.named_parameters(), *((f"objective.{n}", p) for n, p in objective.named_parameters())]
    return loss.item(), {n: p.grad for n, p in named if p.requires_grad}


def one_rank(rank, name, folder):
    with one_of_two(rank, folder):
        loss, found = gradients(name, DistributedDataParallel, of_four(2 * rank, 2 * rank + 2))
        for parameter_name, gradient in found.items():
            if parameter_name.startswith("objective."):  # the trainer averages these as DDP does the model's
                torch.distributed.all_reduce(gradient)
                gradient /= 2
        torch.save((loss, found), Path(folder) / f"rank{rank}.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="gloo with a file rendezvous")
@pytest.mark.parametrize("name", ["none", "normal", "normal+momentum", "normal+coteach", "clip", "supervised"])
def test_two_processes_equal_one_on_the_joint_batch(name, tmp_path):
    loss, expected = gradients(name, lambda model: model, of_four(0, 4))
    assert loss > 0.1
    mp.spawn(one_rank, (name, str(tmp_path)), nprocs=2)
    for rank in range(2):
        rank_loss, found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert rank_loss == pytest.approx(loss, rel=1e-6)
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            assert torch.allclose(found[key], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()) + 1e-9), key

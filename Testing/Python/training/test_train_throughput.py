"""Counting FLOPs, and the speed of a step."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from CTGroundedVLMTraining.objectives import Features
from CTGroundedVLMTraining.throughput import Speed, StepCost, known_peak_tflops
from training_cases import MODEL, a_config, a_learner, some_cases


@pytest.fixture(scope="module")
def the_batch():
    return next(a_learner(a_config(batch_size=3), some_cases(3)).loader.batches())


def test_the_cost_of_a_step_is_what_counting_the_step_itself_gives(the_batch):
    model = a_learner(a_config()).model
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        features = Features.of(model, the_batch)
        (features.organs_BOE.sum() + features.texts_PE.sum() + features.temperature).backward()
    assert the_batch.text_ids_PT.shape[0] > 2
    assert StepCost(MODEL).of(the_batch) == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_speed_counts_the_samples_of_all_processes_and_mfu_what_each_does(the_batch):
    record = Speed(MODEL, peak_tflops=2.0, ranks=4).of_step([the_batch, the_batch], seconds=0.5, waited=0.1)
    assert record["samples_per_s"] == 2 * 3 * 4 / 0.5
    assert record["mfu"] == pytest.approx(2 * StepCost(MODEL).of(the_batch) / 0.5 / 2e12)
    assert "mfu" not in Speed(MODEL, None, 1).of_step([the_batch], 0.5, 0.1)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA H200", "bf16", 989.0),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA H100 PCIe", "fp32", 51.0),
        ("NVIDIA L4", "bf16", 121.0),
        ("NVIDIA L40S", "bf16", 362.0),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("Some other GPU", "bf16", None),
    ],
)
def test_the_peak_of_a_gpu_comes_from_its_name(name, precision, peak, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert known_peak_tflops(torch.device("cuda", 0), precision) == peak


def test_a_cpu_has_no_known_peak():
    assert known_peak_tflops(torch.device("cpu"), "fp32") is None

"""How fast a run is: samples per second, waiting for data, and MFU (model FLOPs per second over what the device could do).

MFU counts what the model needs, forward and backward, whatever is computed twice (activation checkpointing, cached features): it
is comparable over configurations.
"""

from __future__ import annotations

import math
import re
from functools import cached_property

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from CTGroundedVLMLib.model.config import ModelConfig
from CTGroundedVLMLib.model.fvlm import FVLM

from .types import Batch

# Dense TFLOP/s by the vendor's data sheets: bf16 with fp32 accumulation, and fp32 without TF32. The first match counts.
PEAK_TFLOPS = (
    (r"B200", 2250.0, 75.0),
    (r"H200|H100 SXM|H100 80GB HBM3|GH200", 989.0, 67.0),
    (r"H100", 756.0, 51.0),
    (r"A100", 312.0, 19.5),
    (r"L40S", 362.0, 91.6),
    (r"L4\b", 121.0, 30.3),
    (r"A10\b", 125.0, 31.2),
    (r"A40", 149.7, 37.4),
    (r"RTX 4090", 165.2, 82.6),
    (r"RTX 3090", 71.0, 35.6),
)


def known_peak_tflops(device: torch.device, precision: str) -> float | None:
    """Of a GPU in the table; None for a CPU or another GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for pattern, bf16, fp32 in PEAK_TFLOPS:
        if re.search(pattern, name):
            return bf16 if precision == "bf16" else fp32
    return None


class StepCost:
    """FLOPs of a training step, counted by ``torch.utils.flop_counter`` on the meta device: nothing is computed.

    A step costs the same for every case, and once the projection of the organs' queries. A text costs a quadratic polynomial of
    its padded length (matrix products and attention) and its own projection. Equal to the count of a whole step (tested).
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._queries = (
            6.0 * len(config.organs) * config.vision.hidden_size**2
        )  # forward, gradients of weight and input
        self._projection = 6.0 * config.text.hidden_size * config.embedding_size

    def of(self, batch: Batch) -> float:
        """Forward and backward of the model on this batch; an objective's own cost is small and left out."""
        case, linear, quadratic = self._factors
        texts, length = batch.text_ids_PT.shape
        text = self._projection + linear * length + quadratic * length**2
        return len(batch.case_ids) * case + self._queries + texts * text

    @cached_property
    def _factors(self) -> tuple[float, float, float]:
        """Of a case, of a text token, of a pair of text tokens."""
        with torch.device("meta"):
            model = FVLM(self._config).train()
        one, two, three = (_count(model, length) for length in (1, 2, 3))
        quadratic = (three - 2 * two + one) / 2
        linear = two - one - 3 * quadratic
        return one - self._queries - self._projection - linear - quadratic, linear, quadratic


def _count(model: FVLM, text_length: int) -> float:
    """One case and one text, forward and backward."""
    config = model.config
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        image = torch.empty(1, *config.vision.image_size)
        mask = torch.ones(1, len(config.organs), math.prod(config.vision.grid), dtype=torch.bool)
        ids = torch.zeros(1, text_length, dtype=torch.long)
        # no attention mask: BERT would look at its values, and on the meta device there are none
        organs, texts, temperature = model(image, mask, ids, None)
        (organs.sum() + texts.sum() + temperature).backward()
    return float(counter.get_total_flops())


class Speed:
    """Numbers of each step for its record.

    Args:
        peak_tflops: of one device; None leaves MFU out, as a model without background tokens does.
        ranks: processes of the run.
    """

    def __init__(self, config: ModelConfig, peak_tflops: float | None, ranks: int) -> None:
        self._cost, self._peak, self._ranks = StepCost(config), peak_tflops, ranks
        if not config.vision.background_tokens:
            self._peak = None  # what a case costs depends on how many of its tokens lie in organs

    def of_step(self, batches: list[Batch], seconds: float, waited: float) -> dict[str, float]:
        """``batches``: this rank's, of all learners; ``waited``: seconds in which the next batch was not there yet."""
        samples = sum(len(batch.case_ids) for batch in batches) * self._ranks
        record = {"seconds": seconds, "data_wait_s": waited, "samples_per_s": samples / seconds}
        if self._peak:
            flops = sum(self._cost.of(batch) for batch in batches)
            record["mfu"] = flops / seconds / (self._peak * 1e12)
        return record

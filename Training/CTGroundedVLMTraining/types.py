"""What data preparation, objectives and the trainer hand to each other.

Shapes: B cases, O organs, N image tokens, P texts, T text tokens, F findings; D, H, W as in ``CTGroundedVLMLib.preprocessing``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .decompose.records import OrganStatus

if TYPE_CHECKING:
    import numpy as np
    import torch

NORMAL, ABNORMAL, SKIP = 0, 1, -1  # values of Batch.status_BO


@dataclass(frozen=True)
class OrganText:
    """What the report says of an organ: the text to encode and an explicit status (never read from the text)."""

    text: str
    status: OrganStatus


@dataclass(frozen=True)
class PreparedCase:
    """One volume on the model's grid, as a shard holds it.

    ``hu_DHW``: int16 HU. ``organ_map_DHW``: uint8, 0 or 1 + the number of the organ in ``organs``. ``organ_texts``: by organ.
    ``labels``: "organ/finding" -> 1 or 0; a finding that is not there is unknown, never 0. ``finding_map_DHW``: uint8, 0 or 1 +
    the number of the finding in ``mapped_findings``; None where nobody has drawn the findings of this case.
    """

    case_id: str
    patient_id: str
    hu_DHW: np.ndarray
    organ_map_DHW: np.ndarray
    organs: tuple[str, ...]
    organ_texts: Mapping[str, OrganText]
    report: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    finding_map_DHW: np.ndarray | None = None
    mapped_findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Questions:
    """The findings of ``labels_BF`` as questions: their organs, their prompts, and where they lie.

    ``prompt_of_F2``: numbers of the positive and the negative prompt among the batch's texts. ``tokens_BFN``: tokens with a voxel
    of the finding. ``mapped_B``: cases whose findings were drawn; of the others ``tokens_BFN`` says nothing. The last two are
    None where the objective does not learn places: the model then makes no margins of single tokens.
    """

    organ_of_F: torch.Tensor
    prompt_of_F2: torch.Tensor
    tokens_BFN: torch.Tensor | None = None
    mapped_B: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Questions:
        """The same on ``device``."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Questions:
        """The same in page-locked memory."""
        return _each(self, lambda tensor: tensor.pin_memory())


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    ``image_BDHW``: float32 in [0, 1]. ``token_mask_BON``: which image tokens lie in which organ. ``valid_BO``: the organ is in
    the crop (and not cut off by it, see the data's rule) and has a text. ``status_BO``: NORMAL, ABNORMAL or SKIP.
    ``text_ids_PT``/``text_mask_PT``: all different texts of the batch, padded to the longest. ``text_of_BO``: which of them is
    the organ's (-1: none); ``text_key_BO``: ``text_key`` of it, the same on every rank. ``report_of_B``: likewise for the whole
    report. ``labels_BF``: 1, 0, or NaN where unknown; in the order of the run's findings. ``questions``: None where the objective
    asks none.
    """

    case_ids: tuple[str, ...]
    image_BDHW: torch.Tensor
    token_mask_BON: torch.Tensor
    valid_BO: torch.Tensor
    status_BO: torch.Tensor
    text_ids_PT: torch.Tensor
    text_mask_PT: torch.Tensor
    text_of_BO: torch.Tensor
    text_key_BO: torch.Tensor
    report_of_B: torch.Tensor
    labels_BF: torch.Tensor
    questions: Questions | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on ``device``."""
        return _each(self, lambda tensor: tensor.to(device, non_blocking=True), lambda questions: questions.to(device))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a copy to a GPU does not wait; torch's DataLoader calls it."""
        return _each(self, lambda tensor: tensor.pin_memory(), lambda questions: questions.pin_memory())


def _each(
    whole: Batch | Questions,
    of_tensor: Callable[[torch.Tensor], torch.Tensor],
    of_questions: Callable[[Questions], Questions] | None = None,
) -> Any:
    """``whole`` with its tensors, and its questions, changed."""
    values = {f.name: getattr(whole, f.name) for f in fields(whole)}
    for name, value in values.items():
        if isinstance(value, Questions):
            values[name] = of_questions(value)
        elif hasattr(value, "pin_memory"):  # a tensor
            values[name] = of_tensor(value)
    return type(whole)(**values)


def text_key(text: str) -> int:
    """A number of 63 bits that stands for a text: equal texts have equal keys on every rank and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

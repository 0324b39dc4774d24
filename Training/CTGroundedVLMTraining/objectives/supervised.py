"""The supervised baseline: one logistic regression per finding on the feature of its organ; texts are not used.

Shapes: B cases, O organs, F findings, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..types import Batch
from .base import Features, Objective, zero_with_graph
from .gather import gather


class SupervisedHead(Objective):
    """BCE over the known labels of all ranks.

    Args:
        organs: the model's organs.
        findings: "organ/finding", in the order of ``Batch.labels_BF``; the organ of each must be among ``organs``.
        embedding_size: E.
    """

    def __init__(self, organs: Sequence[str], findings: Sequence[str], embedding_size: int) -> None:
        super().__init__()
        unknown = sorted({f for f in findings if f.partition("/")[0] not in organs})
        if unknown:
            raise ValueError(f"findings of organs that the model does not have: {', '.join(unknown)}")
        self.findings = tuple(findings)
        self.organ_of_F = [list(organs).index(f.partition("/")[0]) for f in findings]
        self.weight = nn.Parameter(torch.zeros(len(findings), embedding_size))
        self.bias = nn.Parameter(torch.zeros(len(findings)))
        # a feature has length 1: without this factor a logit could hardly leave the weights' scale
        self.scale = nn.Parameter(torch.tensor(10.0))

    def logits(self, organs_BOE: torch.Tensor) -> torch.Tensor:
        """(B, F)."""
        return self.scale * torch.einsum("bfe,fe->bf", organs_BOE[:, self.organ_of_F], self.weight) + self.bias

    def forward(self, features: Features, batch: Batch, peer: Features | None = None) -> dict[str, torch.Tensor]:
        """One loss, "labels"; 0 with a graph where no label is known."""
        logits_GF = gather(self.logits(features.organs_BOE))
        known_BF = batch.valid_BO[:, self.organ_of_F] & ~batch.labels_BF.isnan()
        known_GF, labels_GF = gather(known_BF), gather(batch.labels_BF)
        unused = zero_with_graph(
            features
        )  # the text tower and the temperature: DDP wants a gradient of every parameter
        if not known_GF.any():
            return {"none": unused + 0.0 * logits_GF.sum()}
        return {"labels": F.binary_cross_entropy_with_logits(logits_GF[known_GF], labels_GF[known_GF]) + unused}

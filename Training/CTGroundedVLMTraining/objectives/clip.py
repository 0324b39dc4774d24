"""The baseline of whole images: one feature per scan against its whole report (CLIP), in the same frame as fVLM's objective.

The model has one organ, ``WHOLE_BODY``, that holds many classes of the segmentation: its query pools the whole patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..types import Batch
from .base import Features, Objective, report_features, zero_with_graph
from .fvlm import TEMPERATURE_LIMITS
from .gather import gather
from .targets import base_targets, soft_cross_entropy

WHOLE_BODY = "body"


def whole_body_organs(organs: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """The one organ of a model that sees the whole patient: the classes of all ``organs`` together, so that their crop and
    prepared data serve it too.
    """
    return {WHOLE_BODY: tuple(dict.fromkeys(name for segments in organs.values() for name in segments))}


class ImageReportContrast(Objective):
    """InfoNCE between scans and reports, over the cases of all ranks that have both."""

    needs_reports = True

    def forward(self, features: Features, batch: Batch, peer: Features | None = None) -> dict[str, torch.Tensor]:
        """One loss, "image-report"; 0 with a graph where fewer than two cases can be told apart."""
        images_GE = gather(features.organs_BOE[:, 0])
        reports_GE = gather(report_features(features, batch))
        usable_G = gather(batch.valid_BO[:, 0] & (batch.report_of_B >= 0))
        images_VE, reports_VE = images_GE[usable_G], reports_GE[usable_G]
        if len(images_VE) < 2:
            return {"none": zero_with_graph(features)}
        logits = images_VE @ reports_VE.T / features.temperature.clamp(*TEMPERATURE_LIMITS)
        nobody = torch.zeros(len(images_VE), dtype=torch.bool, device=logits.device)
        targets = base_targets(nobody, torch.arange(len(images_VE), device=logits.device), "none")
        loss = (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2
        return {"image-report": loss}

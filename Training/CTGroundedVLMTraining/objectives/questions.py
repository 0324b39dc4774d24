"""What is known of single findings, beside a contrast: whether they are there, and where.

Both terms ask the registry's prompts, as inference does. m = v.(t+ - t-) / tau is the margin of an organ's feature v between the
features t+, t- of a finding's two prompts. Shapes: B cases of this rank, G of all ranks, F findings, N image tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from CTGroundedVLMLib.model.fvlm import FVLM

from ..types import Batch
from .base import Features, Objective, zero_with_graph
from .fvlm import TEMPERATURE_LIMITS
from .gather import gather

MOST_POSITIVE_WEIGHT = 20.0


class WithQuestions(Objective):
    """Another objective, and two more losses.

    "presence"  BCE of m with the label, positives of a finding weighted by negatives / positives of the batch, but by 1 to 20:
                the disease loss of RadFinder (arXiv 2603.02026), whose weights are those of its whole data set.
    "location"  BCE of each token's margin with whether the finding has a voxel there, among the tokens of its organ; tokens with
                and without it weigh the same, and findings weigh the same. Of cases whose findings were drawn; ours, no paper's.

    Args:
        base: the objective that goes with them; its parts (``start``, ``after_step``, a peer) work as without.
        presence, location: weights; a loss of weight 0 is not computed.
    """

    needs_questions = True

    def __init__(self, base: Objective, presence: float, location: float) -> None:
        super().__init__()
        self.base, self.presence, self.location = base, presence, location
        self.needs_peer, self.needs_places = base.needs_peer, location > 0

    @property
    def needs_organ_texts(self) -> bool:
        """As the base."""
        return self.base.needs_organ_texts

    @property
    def needs_reports(self) -> bool:
        """As the base."""
        return self.base.needs_reports

    def start(self, model: FVLM) -> None:
        """As the base."""
        if hasattr(self.base, "start"):
            self.base.start(model)

    @torch.no_grad()
    def after_step(self, model: FVLM) -> None:
        """As the base."""
        self.base.after_step(model)

    def forward(self, features: Features, batch: Batch, peer: Features | None = None) -> dict[str, torch.Tensor]:
        """The base's losses, "presence" and "location"; those are 0 with a graph where nothing is known."""
        if self.location and not features.located:
            raise ValueError(
                "the loss of location needs the margins of single tokens: questions with places, in one pass"
            )
        losses = self.base(features, batch, peer)
        if self.presence:
            losses["presence"] = self.presence * self._presence(features, batch)
        if self.location:
            losses["location"] = self.location * self._location(features, batch)
        return losses

    def _presence(self, features: Features, batch: Batch) -> torch.Tensor:
        asked = batch.questions
        tau = features.temperature.clamp(*TEMPERATURE_LIMITS)
        directions_FE = features.texts_PE[asked.prompt_of_F2[:, 0]] - features.texts_PE[asked.prompt_of_F2[:, 1]]
        margins_BF = torch.einsum("bfe,fe->bf", features.organs_BOE[:, asked.organ_of_F], directions_FE) / tau
        known_BF = batch.valid_BO[:, asked.organ_of_F] & ~batch.labels_BF.isnan()
        margins_GF, known_GF = gather(margins_BF), gather(known_BF)
        labels_GF = gather(batch.labels_BF).nan_to_num()
        if not known_GF.any():
            return zero_with_graph(features)
        positive_F = (labels_GF * known_GF).sum(0)
        weight_F = ((known_GF.sum(0) - positive_F) / positive_F.clamp(min=1)).clamp(1.0, MOST_POSITIVE_WEIGHT)
        losses_GF = F.binary_cross_entropy_with_logits(margins_GF, labels_GF, pos_weight=weight_F, reduction="none")
        return (losses_GF * known_GF).sum() / known_GF.sum()

    def _location(self, features: Features, batch: Batch) -> torch.Tensor:
        """Sums over the tokens of this rank's cases, then over ranks: the mean is that of the joint batch."""
        margins_M, case_M, finding_M, token_M = features.located
        # divided by the clamped temperature: beyond its limits nothing moves it further
        margins_M = margins_M * (features.temperature / features.temperature.clamp(*TEMPERATURE_LIMITS))
        asked = batch.questions
        # where a finding lies that was not drawn under its own name (an opacity that is a consolidation), nobody knows
        known_BF = asked.mapped_B[:, None] & ((batch.labels_BF == 0) | asked.tokens_BFN.any(-1))
        known_M = known_BF[case_M, finding_M]
        inside_M = asked.tokens_BFN[case_M, finding_M, token_M]
        losses_M = F.binary_cross_entropy_with_logits(margins_M, inside_M.float(), reduction="none")
        sums = []
        for chosen_M in (inside_M & known_M, ~inside_M & known_M):
            for values_M in (losses_M * chosen_M, chosen_M.float()):
                empty = values_M.new_zeros(len(asked.organ_of_F))
                sums.append(empty.index_add(0, finding_M, values_M))
        loss_in, n_in, loss_out, n_out = gather(torch.stack(sums)[None]).sum(0)
        mean_F = (loss_in / n_in.clamp(min=1) + loss_out / n_out.clamp(min=1)) / 2
        drawn_F = n_in > 0  # from a batch without the finding one would only learn to say no
        return (mean_F * drawn_F).sum() / drawn_F.sum().clamp(min=1)

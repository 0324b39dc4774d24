"""Numbers on the validation split during training: the objective's loss, and the macro AUC of the registry's findings.

The AUC is zero-shot, by the registry's prompts (of the head for a supervised run), on training views: crops, fp32 or bf16 as in
training, raw margins. It follows a run; what a model is worth is measured by ``ctgvlm-train evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from CTGroundedVLMLib.anatomy import findings
from CTGroundedVLMLib.model.tokenizer import tokenize

from .data.loader import TrainingLoader
from .evaluate.metrics import area_under_roc
from .learner import Learner
from .objectives import Features, SupervisedHead
from .objectives.clip import WHOLE_BODY
from .objectives.gather import gather
from .types import Batch


@dataclass(frozen=True)
class _Question:
    """A finding: its column among the labels, its organ's number, its prompts."""

    column: int
    organ: int
    positive: str
    negative: str


class Validation:
    """Call it with a learner, on every rank.

    Args:
        loader: the same number of cases for every rank; its first epoch is what is measured.
        findings: "organ/finding" in the order of the batches' labels; those without a prompt in the registry, or whose organ the
            model lacks, are left out of the AUC.
    """

    def __init__(
        self, loader: TrainingLoader, findings: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int
    ) -> None:
        self._loader, self._findings = loader, tuple(findings)
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    @torch.no_grad()
    def __call__(self, learner: Learner) -> dict[str, float]:
        """ "loss", and "auc" where at least one finding has both values."""
        asked = self._asked(learner)
        losses, margins, labels = [], [], []
        batches = self._loader.batches()
        for _ in range(self._loader.order.steps_per_epoch):
            batch = next(batches).to(learner.model.device)
            features, margins_BF, labels_BF = self._one(learner, batch, asked)
            losses.append(float(sum(learner.objective(features, batch, self._peer(learner, features)).values())))
            margins.append(gather(margins_BF).cpu().numpy())
            labels.append(gather(labels_BF).cpu().numpy())
        numbers = {"loss": float(np.mean(losses))}
        aucs = _aucs(np.concatenate(margins), np.concatenate(labels))
        return numbers | ({"auc": float(np.mean(aucs))} if aucs else {})

    @staticmethod
    def _peer(learner: Learner, features: Features) -> Features | None:
        """Co-teaching's soft targets need a second model; here the model itself stands in for it."""
        return features if learner.objective.needs_peer else None

    def _asked(self, learner: Learner) -> list[_Question]:
        organs = list(learner.model.config.organs)
        prompts = {f"{f.organ}/{f.name}": (f.positive, f.negative) for f in findings()}
        whole = organs.index(WHOLE_BODY) if WHOLE_BODY in organs else None
        asked = []
        for column, name in enumerate(self._findings):
            organ = name.partition("/")[0]
            number = organs.index(organ) if organ in organs else whole
            if name in prompts and number is not None:
                asked.append(_Question(column, number, *prompts[name]))
        return asked

    def _one(
        self, learner: Learner, batch: Batch, asked: list[_Question]
    ) -> tuple[Features, torch.Tensor, torch.Tensor]:
        """Features of the batch's own texts, margins (B, F) and labels (B, F; NaN where unknown or not visible)."""
        organs = torch.tensor([question.organ for question in asked], dtype=torch.long, device=batch.labels_BF.device)
        columns = torch.tensor([question.column for question in asked], dtype=torch.long, device=batch.labels_BF.device)
        labels_BF = batch.labels_BF[:, columns].masked_fill(~batch.valid_BO[:, organs], float("nan"))
        if isinstance(learner.objective, SupervisedHead):
            with learner.model.autocast(learner.config.precision):
                features = Features.of(learner.exported(), batch)
            return features, learner.objective.logits(features.organs_BOE)[:, columns], labels_BF
        own = len(batch.text_ids_PT)
        with learner.model.autocast(learner.config.precision):
            both = Features.of(learner.exported(), self._with_prompts(batch, asked))
        features = Features(both.organs_BOE, both.texts_PE[:own], both.temperature, both.located)
        positive_FE, negative_FE = both.texts_PE[own:].view(-1, 2, both.texts_PE.shape[-1]).unbind(1)
        margins_BF = torch.einsum("bfe,fe->bf", both.organs_BOE[:, organs], positive_FE - negative_FE)
        return features, margins_BF, labels_BF

    def _with_prompts(self, batch: Batch, asked: list[_Question]) -> Batch:
        """The batch with the prompts (positive, negative of each finding) behind its texts: one forward pass does both."""
        texts = [text for question in asked for text in (question.positive, question.negative)]
        if not texts:
            return batch
        parts = [(batch.text_ids_PT, batch.text_mask_PT), tokenize(self._tokenizer, texts, self._max_tokens)]
        longest = max(ids.shape[1] for ids, _ in parts)
        ids, mask = (
            torch.cat([F.pad(pair[i].to(batch.text_ids_PT.device), (0, longest - pair[i].shape[1])) for pair in parts])
            for i in range(2)
        )
        return replace(batch, text_ids_PT=ids, text_mask_PT=mask)


def _aucs(margins_NF: np.ndarray, labels_NF: np.ndarray) -> list[float]:
    """Of the findings that have both values."""
    aucs = []
    for margins, labels in zip(margins_NF.T, labels_NF.T, strict=True):
        known = ~np.isnan(labels)
        auc = area_under_roc(labels[known].astype(int), margins[known]) if known.any() else float("nan")
        if not np.isnan(auc):
            aucs.append(auc)
    return aucs

"""Views to a batch: which text goes with which organ, and its tokens.

Shapes: B cases, O organs, P texts, T text tokens, F findings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from CTGroundedVLMLib.anatomy import findings as registry_findings
from CTGroundedVLMLib.errors import InputError

from ..objectives.clip import WHOLE_BODY
from ..types import ABNORMAL, NORMAL, SKIP, Batch, OrganText, Questions, text_key
from .views import View

TEMPLATE = "{organ} shows no significant abnormalities."  # the release's text for an organ without a description


@dataclass(frozen=True)
class TextConfig:
    """Which texts organs are compared with.

    ``normal_text``: "report" takes what the report says of a normal organ, and the template where it says nothing; "template"
    takes the template for every normal organ (RADAR's rule). ``unmentioned``: "normal" (fVLM's rule) or "skip".
    ``uncertain``: "abnormal" or "skip" for an organ with a hedged finding.
    """

    normal_text: Literal["report", "template"] = "report"
    unmentioned: Literal["normal", "skip"] = "normal"
    uncertain: Literal["abnormal", "skip"] = "abnormal"

    def __post_init__(self) -> None:
        allowed = {
            "normal_text": ("report", "template"),
            "unmentioned": ("normal", "skip"),
            "uncertain": ("abnormal", "skip"),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(values)}")


def text_and_status(organ: str, said: OrganText | None, config: TextConfig) -> tuple[str, int]:
    """The text to encode and NORMAL, ABNORMAL or SKIP. The status is what decomposition found, never read from the text."""
    template = TEMPLATE.format(organ=organ)
    status = said.status if said else "not mentioned"
    if status == "not mentioned":
        return (template, NORMAL) if config.unmentioned == "normal" else ("", SKIP)
    if status == "normal":
        own = said.text.strip() if config.normal_text == "report" else ""
        return own or template, NORMAL
    if not said.text.strip() or (status == "uncertain" and config.uncertain == "skip"):
        return "", SKIP
    return said.text.strip(), ABNORMAL


class Collator:
    """Makes a Batch of views.

    Args:
        max_tokens: texts are cut there; they are padded to the longest of the batch only.
        findings: "organ/finding" of ``labels_BF``.
        organ_texts, reports: which texts the objective needs; others are not encoded.
        questions: whether the registry's prompts for ``findings`` go with each batch.
        places: whether these also say where the findings lie.

    Raises:
        InputError: a finding to ask for that the registry does not have.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        texts: TextConfig | None = None,
        *,
        findings: Sequence[str] = (),
        organ_texts: bool = True,
        reports: bool = False,
        questions: bool = False,
        places: bool = False,
    ) -> None:
        self._tokenizer, self._max_tokens, self._texts = tokenizer, max_tokens, texts or TextConfig()
        self._findings, self._organ_texts, self._reports = tuple(findings), organ_texts, reports
        self._prompts, self._places = _prompts(findings) if questions else [], places

    def __call__(self, views: Sequence[View]) -> Batch:
        """Stack the views; every different text is tokenised once."""
        numbers: dict[str, int] = {}
        said = [self._of_case(view) for view in views]

        def number(text: str) -> int:
            return numbers.setdefault(text, len(numbers)) if text else -1

        status_BO = torch.tensor([[status for _, status in row] for row in said], dtype=torch.int8)
        visible_BO = torch.stack([view.visible_O for view in views])
        valid_BO = visible_BO & (status_BO != SKIP) if self._organ_texts else visible_BO
        used = [
            [text if valid else "" for (text, _), valid in zip(row, valid_O.tolist(), strict=True)]
            for row, valid_O in zip(said, valid_BO, strict=True)
        ]
        text_of_BO = torch.tensor([[number(text if self._organ_texts else "") for text in row] for row in used])
        reports = [view.case.report.strip() if self._reports else "" for view in views]
        report_of_B = torch.tensor([number(report) for report in reports])
        prompts = [[number(text) for text in pair] for pair in self._prompts]
        # a model's text tower wants at least one text, and DDP a gradient of each of its parameters
        tokens = self._tokenizer(
            list(numbers) or ["none"],
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        return Batch(
            case_ids=tuple(view.case.case_id for view in views),
            image_BDHW=torch.stack([view.image_DHW for view in views]),
            token_mask_BON=torch.stack([view.token_mask_ON for view in views]),
            valid_BO=valid_BO,
            status_BO=status_BO,
            text_ids_PT=tokens["input_ids"],
            text_mask_PT=tokens["attention_mask"],
            text_of_BO=text_of_BO,
            text_key_BO=torch.tensor([[text_key(text) if text else 0 for text in row] for row in used]),
            report_of_B=report_of_B,
            labels_BF=self._labels(views),
            questions=self._questions(views, prompts) if self._prompts else None,
        )

    def _questions(self, views: Sequence[View], prompts: list[list[int]]) -> Questions:
        asked = Questions(torch.tensor(organ_numbers(self._findings, views[0].case.organs)), torch.tensor(prompts))
        if not self._places:
            return asked
        tokens_BFN = torch.zeros(len(views), len(self._findings), views[0].token_mask_ON.shape[1], dtype=torch.bool)
        for b, view in enumerate(views):
            if view.finding_tokens_KN is not None:
                for name, tokens_N in zip(view.case.mapped_findings, view.finding_tokens_KN, strict=True):
                    if name in self._findings:
                        tokens_BFN[b, self._findings.index(name)] = tokens_N
        mapped_B = torch.tensor([view.finding_tokens_KN is not None for view in views])
        return replace(asked, tokens_BFN=tokens_BFN, mapped_B=mapped_B)

    def _of_case(self, view: View) -> list[tuple[str, int]]:
        return [text_and_status(organ, view.case.organ_texts.get(organ), self._texts) for organ in view.case.organs]

    def _labels(self, views: Sequence[View]) -> torch.Tensor:
        rows = [[view.case.labels.get(finding, float("nan")) for finding in self._findings] for view in views]
        return torch.tensor(rows, dtype=torch.float32).view(len(views), len(self._findings))


def organ_numbers(findings: Sequence[str], organs: Sequence[str]) -> list[int]:
    """The number of each finding's organ; of the whole body for all findings of a model that has it.

    Raises:
        InputError: findings of organs that the model does not have.
    """
    if missing := [name for name in findings if not {name.partition("/")[0], WHOLE_BODY} & set(organs)]:
        raise InputError(
            f"The model has no organ for the findings {', '.join(missing)} (its organs: {', '.join(organs)}). "
            "Leave them out of findings."
        )
    own = [name.partition("/")[0] for name in findings]
    return [list(organs).index(organ if organ in organs else WHOLE_BODY) for organ in own]


def _prompts(findings: Sequence[str]) -> list[tuple[str, str]]:
    """The registry's positive and negative prompt of each "organ/finding"."""
    known = {f"{f.organ}/{f.name}": (f.positive, f.negative) for f in registry_findings()}
    if missing := [name for name in findings if name not in known]:
        raise InputError(f"The registry has no prompts for {', '.join(missing)}. Leave them out of findings.")
    return [known[name] for name in findings]

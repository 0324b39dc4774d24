"""Which questions are put to the model: pairs of a positive and a negative text, per organ and finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from .anatomy import Finding, findings, is_known_organ, prompt_templates
from .errors import InputError

MAX_PROMPT_CHARACTERS = 1000


@dataclass(frozen=True)
class Prompt:
    """A finding in an organ: ``positive[i]`` is compared with ``negative[i]``; several pairs are averaged."""

    organ: str
    finding: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    source: Literal["registry", "prompt"] = "registry"

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that have to be encoded."""
        return self.positive + self.negative


def registry_prompts(
    organs: Iterable[str], finding_set: str = "auto", templates: bool = False, evaluated: Iterable[str] = ()
) -> tuple[Prompt, ...]:
    """The registry's findings for these organs.

    Args:
        organs: the model's organs.
        finding_set: a set's name; "auto" takes what the model was ``evaluated`` on, where that is known; else fvlm16 for an
            organ that it covers (the released evaluation) and all findings of other organs; "all" takes everything.
        templates: the mean over the registry's prompt templates instead of the finding's own pair.
        evaluated: "organ/finding" keys, of ``LoadedModel.findings``.
    """
    prompts, evaluated = [], frozenset(evaluated)
    for organ in organs:
        if not is_known_organ(organ):  # a model of somebody's own organs: it answers questions only
            continue
        if finding_set == "auto" and evaluated:
            chosen = tuple(finding for finding in findings(organ) if f"{organ}/{finding.name}" in evaluated)
        elif finding_set == "auto":
            chosen = findings(organ, "fvlm16") or findings(organ)
        else:
            chosen = findings(organ, None if finding_set == "all" else finding_set)
        prompts += [_from_registry(finding, templates) for finding in chosen]
    return tuple(prompts)


def _from_registry(finding: Finding, templates: bool) -> Prompt:
    if templates:
        positive, negative = _templates(finding.term)
        return Prompt(finding.organ, finding.name, positive, negative)
    return Prompt(finding.organ, finding.name, (finding.positive,), (finding.negative,))


def _templates(term: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    pairs = prompt_templates()
    return tuple(p.format(finding=term) for p, _ in pairs), tuple(n.format(finding=term) for _, n in pairs)


def free_prompt(organ: str, text: str, organs: Mapping[str, object], templates: bool = False) -> Prompt:
    """A question in the user's own words, in the form of fVLM's prompts: "X." against "Not X.".

    Raises:
        InputError: the model has no such organ, or the text is empty or far too long.
    """
    if organ not in organs:
        raise InputError(f'The model has no organ "{organ}". It knows: {", ".join(organs)}.')
    term = " ".join(text.split()).rstrip(".")
    if not term:
        raise InputError(f'The prompt for "{organ}" is empty. Write a finding, for example "hypodense lesion".')
    if len(term) > MAX_PROMPT_CHARACTERS:
        raise InputError(
            f'The prompt for "{organ}" has {len(term)} characters; at most {MAX_PROMPT_CHARACTERS} are taken. '
            "Write one finding, not a report."
        )
    if templates:
        positive, negative = _templates(term)
    else:
        positive, negative = (f"{term}.",), (f"Not {term}.",)
    return Prompt(organ, term, positive, negative, "prompt")

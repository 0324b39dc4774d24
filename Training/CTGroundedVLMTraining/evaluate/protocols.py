"""What an evaluation asks and what it compares the answers with: prompts, label columns, how scores are combined.

The published protocols lie in ``protocols.json``. ``corpus`` is made from a label table: every "organ/finding" column of it that
the registry knows, with the registry's prompts.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.anatomy import findings as registry_findings
from CTGroundedVLMLib.anatomy import prompt_templates
from CTGroundedVLMLib.errors import InputError

CORPUS = "corpus"


@dataclass(frozen=True)
class Question:
    """A finding that is put to the model. ``organ`` is None where no organ holds it; ``term`` is its noun phrase in templates."""

    organ: str | None
    finding: str
    positive: str
    negative: str
    term: str

    @property
    def key(self) -> str:
        """``organ/finding``: its column in our score tables."""
        return f"{self.organ}/{self.finding}" if self.organ else self.finding

    def pairs(self, templates: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Positive and negative texts: the protocol's own pair, or one of each prompt template of the registry."""
        if not templates:
            return (self.positive,), (self.negative,)
        forms = prompt_templates()
        return tuple(p.format(finding=self.term) for p, _ in forms), tuple(
            n.format(finding=self.term) for _, n in forms
        )


@dataclass(frozen=True)
class Item:
    """A line of the result: the highest score of ``questions`` against "any of the ``labels`` is positive".

    ``own_labels``: the finding's own names, of which the first is taken where a table has none of ``labels``.
    """

    name: str
    questions: tuple[Question, ...]
    labels: tuple[str, ...]
    own_labels: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """``organ/finding`` of its own question."""
        return self.questions[0].key


@dataclass(frozen=True)
class Protocol:
    """Everything that decides what a number means; it is written out with every result."""

    name: str
    description: str
    prompts: str
    label_map: str
    items: tuple[Item, ...]
    templates: bool = False

    def with_templates(self) -> Protocol:
        """The same, asked in the wordings of the registry's prompt templates; scores are the mean over them."""
        prompts = f"mean over the registry's {len(prompt_templates())} prompt templates, instead of {self.prompts}"
        return replace(self, prompts=prompts, templates=True)

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is put to the model, each once."""
        return tuple(dict.fromkeys(question for item in self.items for question in item.questions))

    def to_record(self) -> dict[str, Any]:
        """JSON form: every prompt and every label column."""
        return {
            "name": self.name,
            "description": self.description,
            "prompts": self.prompts,
            "label_map": self.label_map,
            "templates": self.templates,
            "findings": [
                {
                    "finding": item.name,
                    "labels": list(item.labels),
                    "questions": [
                        {
                            "key": q.key,
                            "positive": list(q.pairs(self.templates)[0]),
                            "negative": list(q.pairs(self.templates)[1]),
                        }
                        for q in item.questions
                    ],
                }
                for item in self.items
            ],
        }


@functools.cache
def _data() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "protocols.json").read_text(encoding="utf-8"))


def protocol_names() -> tuple[str, ...]:
    """The protocols, ``corpus`` last."""
    return (*_data()["protocols"], CORPUS)


def label_map_names() -> tuple[str, ...]:
    """The label maps of all protocols."""
    return tuple(_data()["label_maps"])


def published_protocol(name: str, label_map: str | None = None) -> Protocol:
    """A protocol of ``protocols.json``; ``label_map``: another than its first.

    Raises:
        InputError: no such protocol, or the label map is none of its own.
    """
    if name not in _data()["protocols"]:
        raise InputError(f"No protocol is called {name!r}; expected one of {', '.join(protocol_names())}.")
    record = _data()["protocols"][name]
    label_map = label_map or record["label_maps"][0]
    if label_map not in record["label_maps"]:
        raise InputError(
            f"The protocol {name} has no label map {label_map!r}; expected {' or '.join(record['label_maps'])}."
        )
    questions = {question.finding: question for question in _questions(record["prompts"])}
    columns = _columns(label_map)
    items = []
    for finding in questions:
        if finding not in record["without"]:
            asked = tuple(questions[f] for f in record["highest_of"].get(finding, [finding]))
            # a column of the finding's own name follows the first label map: it is no answer to another one
            own = (asked[0].key, finding) if label_map == record["label_maps"][0] else ()
            items.append(Item(finding, asked, tuple(columns.get(finding, [finding])), own))
    prompts = f"{record['prompts']} ({_data()['prompt_sets'][record['prompts']]['description']})"
    described = f"{label_map} ({_data()['label_maps'][label_map]['description']})"
    return Protocol(name, record["description"], prompts, described, tuple(items))


def _columns(label_map: str) -> dict[str, list[str]]:
    record = _data()["label_maps"][label_map]
    return (_columns(record["based_on"]) if "based_on" in record else {}) | record["columns"]


def _questions(prompt_set: str) -> list[Question]:
    record = _data()["prompt_sets"][prompt_set]
    if "registry_set" in record:
        return [_registry_question(f) for f in registry_findings(in_set=record["registry_set"])]
    return [
        Question(
            organ,
            finding,
            record["positive"].format(finding=finding),
            record["negative"].format(finding=finding),
            finding.lower(),
        )
        for organ, finding in record["findings"]
    ]


def _registry_question(finding: Any) -> Question:
    return Question(finding.organ, finding.name, finding.positive, finding.negative, finding.term)


def choose_protocol(name: str, label_header: Iterable[str], label_map: str | None = None) -> Protocol:
    """A protocol by name; ``corpus`` is made from the label table's header. Raises InputError."""
    if name != CORPUS:
        return published_protocol(name, label_map)
    if label_map:
        raise InputError(
            f"The protocol {CORPUS} takes the label table's own columns; --label-map {label_map} does not go with it. Leave "
            "it out, or name the protocol whose label map it is."
        )
    return corpus_protocol(label_header)


def corpus_protocol(columns: Iterable[str]) -> Protocol:
    """Every column "organ/finding" that the registry knows.

    Raises:
        InputError: there is none.
    """
    known = {f"{f.organ}/{f.name}": f for f in registry_findings()}
    chosen = [known[column.strip()] for column in columns if column.strip() in known]
    if not chosen:
        raise InputError(
            'The labels have no column "organ/finding" of the registry, such as lung/Emphysema; the protocol corpus needs '
            "them. For CT-RATE's or RAD-ChestCT's labels name their protocol."
        )
    items = tuple(Item(f.name, (_registry_question(f),), (f"{f.organ}/{f.name}",)) for f in chosen)
    return Protocol(
        CORPUS,
        "the findings of the label table",
        "registry (the registry's pair of each finding)",
        'same name (the column "organ/finding")',
        items,
    )

"""Decomposition by a language model: is the organ mentioned, what is said of it, is that normal (RADAR's three calls)."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.report.sections import section_of
from CTGroundedVLMLib.types import Sentence

from .asking import Asker
from .chat import Messages, ReportFailure
from .records import OrganDescription
from .rules import LINKED_SECTIONS, joined

_PROMPTS = Path(__file__).parent / "prompts.json"
_SECTIONS = {"findings": "Findings", "impression": "Impression"}
_LONGEST_LABEL = 60
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


@functools.cache
def prompts() -> Mapping[str, Any]:
    """The prompts' file."""
    return json.loads(_PROMPTS.read_text(encoding="utf-8"))


def prompts_version() -> str:
    """A short hash of the prompts, recorded with the output."""
    return hashlib.sha256(_PROMPTS.read_bytes()).hexdigest()[:12]


class LLMDecomposer:
    """Calls per organ: mention on the whole text; where yes, extract on each section; normality on what was extracted."""

    def __init__(self, asker: Asker, organs: Sequence[str]) -> None:
        self._asker, self._organs = asker, tuple(organs)

    def __call__(self, text: str) -> dict[str, OrganDescription]:
        """Every organ. Raises ReportFailure, which names organ and call."""
        parsed = parse_report(text).sentences
        sentences = [s for s in parsed if s.section in LINKED_SECTIONS]
        parts = {
            "findings": _part(text, parsed, ("findings", "other")),
            "impression": _part(text, parsed, ("impression",)),
        }
        whole = "\n\n".join(f"{_SECTIONS[name]}:\n{part}" for name, part in parts.items() if part)
        if not whole:
            return {organ: OrganDescription() for organ in self._organs}
        return {organ: self._organ(organ, whole, parts, text, sentences) for organ in self._organs}

    def _organ(
        self, organ: str, whole: str, parts: Mapping[str, str], text: str, sentences: Sequence[Sentence]
    ) -> OrganDescription:
        if self._word(organ, "mention", ("yes", "no"), report=whole) == "no":
            return OrganDescription()
        told = {name: self._extract(organ, _SECTIONS[name], part) if part else "" for name, part in parts.items()}
        description = " ".join(filter(None, told.values()))
        if not description:
            return OrganDescription()
        status = self._word(organ, "normality", ("normal", "abnormal"), description=description)
        return OrganDescription(told["findings"], told["impression"], status, _quoted(description, text, sentences))

    def _word(self, organ: str, task: str, words: tuple[str, ...], **fields: str) -> str:
        reminder = _filled(prompts()["remind_word"], words=" or ".join(words))
        return self._ask(
            organ, task, self._messages(task, organ=organ, **fields), lambda a: _one_of(a, words), reminder
        )

    def _extract(self, organ: str, section: str, part: str) -> str:
        messages = self._messages("extract", organ=organ, section=section, report=part)
        reminder = _filled(prompts()["remind_extract"], organ=organ)
        return self._ask(organ, "extract", messages, lambda a: _description(a, organ, part), reminder)

    def _ask(self, organ: str, task: str, messages: Messages, read: Any, reminder: str) -> str:
        try:
            return self._asker.ask(messages, read, reminder)
        except ReportFailure as error:
            raise ReportFailure(f"{organ}, {task}: {error}") from error

    def _messages(self, task: str, **fields: str) -> Messages:
        system = "\n".join([prompts()["system"], *prompts()["knowledge"]])
        return [{"role": "system", "content": system}, {"role": "user", "content": _filled(prompts()[task], **fields)}]


def _filled(template: str, **fields: str) -> str:
    """``template`` with its fields in one pass: braces in a report stay what they are."""
    return re.sub(r"\{(\w+)\}", lambda match: fields[match.group(1)], template)


def _part(text: str, sentences: Sequence[Sentence], sections: tuple[str, ...]) -> str:
    """The sentences of ``sections``, each with the subheading right above it ("LIVER:"), and nothing else of ``text``."""
    pieces, end = [], 0
    for s in sentences:
        gap, end = text[end : s.start], s.end
        if s.section in sections:
            lines = gap.strip().splitlines()
            label = " ".join(lines[-1].split()) if lines else ""
            keep = label if len(label) <= _LONGEST_LABEL and section_of(label.rstrip(": ")) is None else ""
            pieces.append(("\n" if "\n" in gap else " ") + (f"{keep} " if keep else "") + text[s.start : s.end])
    return "".join(pieces).strip()


def _one_of(answer: str, words: tuple[str, ...]) -> str | None:
    bare = re.sub(r"[\s\"'`*_.!]+", " ", _THOUGHT.sub("", answer)).strip().lower().removeprefix("answer:").strip()
    return bare if bare in words else None


def _description(answer: str, organ: str, part: str) -> str | None:
    """The extracted text without the leading "organ:"; "" where the answer says that there is none; None: invalid."""
    text = " ".join(_THOUGHT.sub("", answer).split()).strip("\"'`* ")
    text = re.sub(rf"^[*_]*{re.escape(organ)}[*_]*\s*:[*_]*\s*", "", text, flags=re.IGNORECASE)
    if re.match(prompts()["refusal"], text, re.IGNORECASE) or "<think>" in text or not text:
        return None
    unlabelled = re.sub(r"^[\w ]{1,40}:\s*", "", text)  # some models label with another form of the name ("Kidneys:")
    if re.fullmatch(prompts()["empty_answer"], unlabelled.strip(" .\"'*"), re.IGNORECASE):
        return ""
    if len(text) > 2 * len(part) + 100:
        return None  # more than the report says
    return joined(text)


def _quoted(description: str, text: str, sentences: Sequence[Sentence]) -> tuple[tuple[int, int], ...]:
    """Sentences of the report that the description quotes word for word (a model may also reword: then none)."""
    said = _bare(description)
    return tuple(
        (s.start, s.end) for s in sentences if (words := _bare(text[s.start : s.end])) and f" {words} " in f" {said} "
    )


def _bare(text: str) -> str:
    return " ".join(re.findall(r"\w+(?:[.,]\d+)*", text.lower()))

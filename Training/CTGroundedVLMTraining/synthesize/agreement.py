"""How well the report parser reads the corpus's reports: each sentence against what it was meant to say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from CTGroundedVLMLib.anatomy import findings
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import ReportFinding, Sentence

from .kinds import KIND
from .report import Statement

_SIZES = ("cardiomegaly", "splenomegaly")
# The registry has no such finding: what the parser calls it
_OTHER_NAMES = {
    "vertebral fracture": {"compression fracture", "vertebral compression fracture", "vertebral fracture", "fracture"}
}


@dataclass
class Agreement:
    """Counts over statements. ``wrong``: (what is wrong, kind, sentence) of those that are read otherwise."""

    statements: int = 0
    read: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Statements that are read as they are meant."""
        return self.read / max(self.statements, 1)

    def by_reason(self) -> Counter[str]:
        """How often each thing is wrong."""
        return Counter(reason for reason, _, _ in self.wrong)


def read_back(text: str, statements: Iterable[Statement], total: Agreement | None = None) -> Agreement:
    """Parse a report and count, for each finding that a statement names, whether name, status and organ are read.

    A statement that calls an organ normal counts as read where its sentence links the organ and asserts nothing.
    """
    total = total or Agreement()
    sentences = parse_report(text).sentences
    for statement in statements:
        if statement.status == "other":
            continue
        here = [s for s in sentences if s.start < statement.end and s.end > statement.start]
        for kind in statement.kinds or ("",):
            total.statements += 1
            reason = _what_is_wrong(here, statement, kind)
            if reason:
                total.wrong.append((reason, kind or statement.organ, statement.text))
            else:
                total.read += 1
    return total


def names_of(kind: str) -> set[str]:
    """What the registry and the parser call a kind of finding, in lower case."""
    names = {kind, *_OTHER_NAMES.get(kind, ())}
    for finding in findings():
        if (finding.organ, finding.name) == (KIND[kind].organ, KIND[kind].finding):
            names |= {finding.name.lower(), finding.term, *(s.lower() for s in finding.synonyms)}
    return names


def _is_normal_size(said: list[ReportFinding], segments: set[str], kind: str) -> bool:
    """ "The heart is normal in size" denies an enlargement that it does not name."""
    denied = any(finding.name == "abnormality" and finding.status == "absent" for finding in said)
    return denied and bool(segments & set(KIND[kind].needs))


def _what_is_wrong(sentences: list[Sentence], statement: Statement, kind: str) -> str:
    if not sentences:
        return "no sentence"
    said = [finding for sentence in sentences for finding in sentence.findings]
    segments = {name for sentence in sentences for name in sentence.segments}
    if not kind:
        needs = {s for k in KIND.values() if k.organ == statement.organ for s in k.needs}
        if not segments & needs:
            return "organ"
        return "status" if any(finding.status != "absent" for finding in said) else ""
    names = names_of(kind)
    if statement.status == "absent" and kind in _SIZES and _is_normal_size(said, segments, kind):
        return ""
    found = [f for f in said if f.name in names or any(f.name.endswith(f" {name}") for name in names)]
    if not found:
        return "name"
    if statement.status not in {f.status for f in found}:
        return "status"
    return "" if segments & set(KIND[kind].needs) else "organ"

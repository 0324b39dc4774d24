"""Quality of a decomposition against annotated reports (sentences with segments and findings).

Gold: an organ is mentioned where a sentence of the findings, impression or an addendum links one of its segments; its
status is ``normality.status_of`` of those sentences' findings. A sentence that speaks of several structures and does not
give all its findings the same status does not tell which is whose: an organ whose status hangs on such a sentence is not
scored for status, and counted as ``unclear``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import ReportError
from CTGroundedVLMLib.types import ReportFinding

from .normality import status_of
from .organs import OrganFinder
from .reports import read_json_lines
from .rules import LINKED_SECTIONS

_STATUSES = ("normal", "abnormal", "uncertain")


@dataclass
class OrganScore:
    """Counts over (report, organ) pairs. ``confusion``: (gold, predicted) status where both mention the organ."""

    mention: Counter[str] = field(default_factory=Counter)
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    abnormal: Counter[str] = field(default_factory=Counter)
    unclear: int = 0

    def add(self, other: OrganScore) -> None:
        """Add the counts of ``other``."""
        self.mention.update(other.mention)
        self.confusion.update(other.confusion)
        self.abnormal.update(other.abnormal)
        self.unclear += other.unclear

    @property
    def status_accuracy(self) -> float:
        """Share of right statuses where both mention the organ and the gold status is clear; NaN without any."""
        return _ratio(sum(n for (a, b), n in self.confusion.items() if a == b), self.confusion.total())


@dataclass
class DecompositionScore:
    """Scores per organ and over all; ``missing``: gold reports without a result or with a failure (all their organs missed)."""

    organs: dict[str, OrganScore]
    missing: list[str]

    @property
    def total(self) -> OrganScore:
        """All organs together (micro average)."""
        total = OrganScore()
        for score in self.organs.values():
            total.add(score)
        return total

    def to_record(self) -> dict[str, Any]:
        """The total as JSON."""
        total = self.total
        names = ("precision", "recall", "f1")
        return {
            "mention": dict(zip(names, prf(total.mention), strict=True)),
            "status_accuracy": total.status_accuracy,
            "status_pairs": total.confusion.total(),
            "unclear_pairs": total.unclear,
            "abnormal": dict(zip(names, prf(total.abnormal), strict=True)),
            "confusion": {f"{gold} -> {have}": n for (gold, have), n in sorted(total.confusion.items())},
            "missing_reports": self.missing,
        }


def score_files(gold: Path, predicted: Path, finder: OrganFinder) -> DecompositionScore:
    """Score the output of ``ctgvlm-train decompose`` against an annotated file.

    Raises:
        ReportError: a file cannot be read or has another form.
    """
    return score(_read(gold, "sentences"), _read(predicted, "organs"), finder)


def score(gold: Mapping[str, Any], predicted: Mapping[str, Any], finder: OrganFinder) -> DecompositionScore:
    """``gold`` and ``predicted``: report id -> record. Organs without a segment have no gold and are not scored."""
    result = DecompositionScore({organ: OrganScore() for organ in finder.segmented}, [])
    for report_id, report in gold.items():
        record = predicted.get(report_id)
        if record is None or record.get("error") is not None:
            result.missing.append(report_id)
        organs = {} if record is None or record.get("error") is not None else record["organs"]
        want = gold_statuses(report, finder)
        for organ in finder.segmented:
            have = organs.get(organ, {"status": "not mentioned"})["status"]
            _count(result.organs[organ], want.get(organ, "not mentioned"), have)
    return result


def gold_statuses(report: Mapping[str, Any], finder: OrganFinder) -> dict[str, str]:
    """Organ -> status, "unclear" where the annotation does not tell; organs that are not mentioned are left out."""
    clear: dict[str, list[ReportFinding]] = {}
    unclear: set[str] = set()
    for sentence in report["sentences"]:
        if sentence["section"] not in LINKED_SECTIONS:
            continue
        findings = [ReportFinding(f["name"], f["status"]) for f in sentence["findings"]]
        organs = finder.by_segments(sentence["segments"])
        alone = len(organs) == 1 and not _speaks_of_others(sentence, finder)
        tells = alone or len({f.status for f in findings}) < 2
        for organ in organs:
            clear.setdefault(organ, []).extend(findings if tells else ())
            if not tells:
                unclear.add(organ)
    statuses: dict[str, str] = {organ: status_of(findings) for organ, findings in clear.items()}
    return {
        organ: "unclear" if organ in unclear and status != "abnormal" else status for organ, status in statuses.items()
    }


def _speaks_of_others(sentence: Mapping[str, Any], finder: OrganFinder) -> bool:
    """Whether segments outside the group are linked too; the class of a kidney's cyst is the kidney's own."""
    kept = [name for name in sentence["segments"] if not name.startswith("kidney_cyst")]
    return any(not finder.by_segments([name]) for name in kept)


def _count(score: OrganScore, want: str, have: str) -> None:
    mentioned, claimed = want != "not mentioned", have != "not mentioned"
    if mentioned or claimed:
        score.mention["tp" if mentioned and claimed else "fn" if mentioned else "fp"] += 1
    if want == "unclear":
        score.unclear += 1
        return
    if mentioned and claimed:
        score.confusion[want, have] += 1
    if "abnormal" in (want, have):
        score.abnormal["tp" if want == have else "fn" if want == "abnormal" else "fp"] += 1


def prf(counts: Mapping[str, int]) -> tuple[float, float, float]:
    """Precision, recall and F1 of counts ``tp``, ``fp``, ``fn``; NaN where undefined."""
    tp, fp, fn = (counts.get(key, 0) for key in ("tp", "fp", "fn"))
    return _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def table(result: DecompositionScore) -> str:
    """Plain text: one line per organ that the gold mentions, and the total."""
    head = (
        f"{'organ':<24}{'pairs':>6}  {'mention P':>9} {'R':>5} {'F1':>5}  {'status':>6} {'(n)':>6}  "
        f"{'abnormal P':>10} {'R':>5} {'F1':>5}"
    )
    lines = [head, "-" * len(head)]
    mentioned = {organ: s for organ, s in result.organs.items() if s.mention.total()}
    for organ, s in [*mentioned.items(), ("all", result.total)]:
        mention, abnormal = prf(s.mention), prf(s.abnormal)
        lines.append(
            f"{organ:<24}{s.mention['tp'] + s.mention['fn']:>6}  {mention[0]:>9.3f} {mention[1]:>5.3f} {mention[2]:>5.3f}  "
            f"{s.status_accuracy:>6.3f} {s.confusion.total():>6}  {abnormal[0]:>10.3f} {abnormal[1]:>5.3f} {abnormal[2]:>5.3f}"
        )
    lines += ["", "gold status -> predicted status (all organs)"]
    confusion = result.total.confusion
    for want in _STATUSES:
        lines.append(f"  {want:<10}" + "".join(f"  {have} {confusion[want, have]:>4}" for have in _STATUSES))
    lines.append(f"pairs not scored for status, as the annotation does not tell: {result.total.unclear}")
    if result.missing:
        lines.append(f"reports without a result (all their organs count as missed): {len(result.missing)}")
    return "\n".join(lines)


def _read(path: Path, key: str) -> dict[str, Any]:
    records: dict[str, Any] = {}
    for place, record in read_json_lines(path):
        if not isinstance(record, dict) or "report_id" not in record or key not in record:
            raise ReportError(
                f"{place}: expected an object with report_id and {key}; are the two files in the right order?"
            )
        if record["report_id"] in records:
            raise ReportError(f"{place}: report id {record['report_id']!r} occurs twice")
        records[record["report_id"]] = record
    return records

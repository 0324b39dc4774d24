"""Where the report and the image disagree: each scored finding with what the report says of it, the worst first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .anatomy import findings
from .report import parse_report
from .scoring import Calibration
from .types import FindingScore, Report, ReportComparison

DEFAULT_THRESHOLD = 0.5
# [a judgement] How much a disagreement weighs beside its distance from the threshold: a clear statement of the report against
# the image most, an organ called normal as a whole less, a finding that the report never mentions least.
WEIGHTS = {"named": 1.0, "part of the organ": 1.0, "normal organ": 0.75, "not mentioned": 0.5}
# "The heart is normal in size" says nothing of effusions: such a sentence does not call the organ as a whole normal
ONE_ASPECT = re.compile(
    r"\b(sizes?d?|calib\w*|diameters?|contours?|shape|position|course|enhance\w*|attenuation|density|patent\w*)\b", re.I
)
GENERAL = "abnormality"  # the parser's name for what a purely normal sentence denies
PRECEDENCE = ("present", "uncertain", "absent", "historical")


@dataclass(frozen=True)
class _Statement:
    """What the report says of one finding, from which sentences, and on what ground (a key of WEIGHTS)."""

    status: str
    sentences: tuple[int, ...]
    ground: str


def compare_with_report(
    scores: Sequence[FindingScore],
    report: Report,
    organs: Mapping[str, tuple[str, ...]],
    calibration: Calibration | None = None,
) -> tuple[ReportComparison, ...]:
    """One comparison per score, discrepancies first, by severity.

    The severity is |logit(probability) - logit(threshold)|, weighted by how clearly the report speaks (WEIGHTS).
    Without a report (no sentence) there is nothing to compare: the result is empty.

    Args:
        organs: the model's organs -> TotalSegmentator v2 classes.
        calibration: where thresholds come from; 0.5 on the raw probability otherwise.
    """
    if not report.sentences:
        return ()
    comparisons = [_compare(score, _statement(score, report, organs[score.organ]), calibration) for score in scores]
    return tuple(sorted(comparisons, key=lambda c: (not c.discrepancy, -c.severity)))


def _statement(score: FindingScore, report: Report, segments: tuple[str, ...]) -> _Statement:
    """Sentences about the organ that name the finding; else those that call the whole organ normal."""
    names = _names_of(score)
    said: dict[str, list[int]] = {}
    covered: dict[str, set[str]] = {"denied": set(), "normal": set()}
    normal_sentences = []
    for index, sentence in enumerate(report.sentences):
        if sentence.section not in ("findings", "impression", "other"):
            continue
        here = set(sentence.segments) & set(segments)
        for finding in sentence.findings:
            if finding.name == GENERAL and finding.status == "absent" and here:
                if not ONE_ASPECT.search(report.text, sentence.start, sentence.end):
                    covered["normal"] |= here
                    normal_sentences.append(index)
            elif _matches(finding.name, finding.status, names, bool(here)) and (here or not sentence.segments):
                said.setdefault(finding.status, []).append(index)
                covered["denied"] |= here or set(segments)
    for status in PRECEDENCE:
        if status in said:
            sentences = tuple(dict.fromkeys(said[status]))
            if status == "absent" and not covered["denied"] >= _main_segments(segments):
                return _Statement("uncertain", sentences, "part of the organ")
            return _Statement(status, sentences, "named")
    if segments and covered["normal"] >= _main_segments(segments):
        return _Statement("absent", tuple(dict.fromkeys(normal_sentences)), "normal organ")
    return _Statement("not mentioned", (), "not mentioned")


def _main_segments(segments: Iterable[str]) -> set[str]:
    """The classes that a sentence about the whole organ names: the left atrial appendage is rarely named with the heart."""
    return set(segments) - {"atrial_appendage_left"}


def _names_of(score: FindingScore) -> frozenset[str]:
    """Lower-case wordings of the finding: the registry's, or the user's own words."""
    names = {score.finding.lower()}
    if score.source == "prompt":  # "basal atelectasis" is what a report's sentence would be read as: atelectasis
        sentences = parse_report(f"FINDINGS: {score.finding}.").sentences
        names |= {finding.name for sentence in sentences for finding in sentence.findings} - {GENERAL}
    else:
        for finding in findings(score.organ):
            if finding.name == score.finding:
                names |= {finding.term, *finding.synonyms}
    return frozenset(name.lower() for name in names)


def _matches(name: str, status: str, names: frozenset[str], in_organ: bool) -> bool:
    """The same name; or, where something is there, a narrower one ("loculated pleural effusion" is an effusion).

    Denying the narrower one denies nothing more: "no loculated effusion" leaves a free one open. And it must be in the
    organ: subcutaneous emphysema is no emphysema of the lung.
    """
    narrower = in_organ and status != "absent" and any(name.endswith(f" {known}") for known in names)
    return name in names or narrower


def _compare(score: FindingScore, statement: _Statement, calibration: Calibration | None) -> ReportComparison:
    threshold = (
        calibration.thresholds.get(f"{score.organ}/{score.finding}") if calibration and score.calibrated else None
    )
    source = "default" if threshold is None else "calibration"
    threshold = DEFAULT_THRESHOLD if threshold is None else threshold
    image = None if score.probability is None else "positive" if score.probability >= threshold else "negative"
    disagree = (image == "positive" and statement.status in ("absent", "not mentioned")) or (
        image == "negative" and statement.status == "present"
    )
    severity = WEIGHTS[statement.ground] * abs(_logit(score.probability) - _logit(threshold)) if disagree else 0.0
    return ReportComparison(
        organ=score.organ,
        finding=score.finding,
        report=statement.status,
        sentences=statement.sentences,
        probability=score.probability,
        threshold=threshold,
        threshold_source=source,
        image=image,
        discrepancy=disagree,
        severity=severity,
        reason=_reason(score, statement, image, threshold, source),
        source=score.source,
    )


def _logit(probability: float) -> float:
    p = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


def _reason(score: FindingScore, statement: _Statement, image: str | None, threshold: float, source: str) -> str:
    says = {
        "present": "The report states it",
        "absent": "The report denies it",
        "uncertain": "The report leaves it open",
        "historical": "The report speaks of it in the past only",
        "not mentioned": "The report does not mention it",
    }[statement.status]
    if statement.ground == "not mentioned" and score.source == "prompt":
        says = "The report does not mention it, as far as your words are recognised"
    if statement.ground == "part of the organ":
        says = f"The report denies it for a part of the {score.organ} only"
    if statement.ground == "normal organ":
        says = f"The report calls the {score.organ} normal without naming it"
    if image is None:
        return f"{says}; the image is not scored: {score.reason}."
    relation = "at or above" if image == "positive" else "below"
    kind = "threshold from calibration" if source == "calibration" else "default threshold, not calibrated"
    shown, limit = _told_apart(score.probability, threshold)
    return f"{says}; the image's probability {shown} is {relation} {limit} ({kind})."


def _told_apart(probability: float, threshold: float) -> tuple[str, str]:
    """Both with two digits, or with as many (up to six) as it takes to see that they differ."""
    pairs = [(f"{probability:.{digits}f}", f"{threshold:.{digits}f}") for digits in range(2, 7)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])

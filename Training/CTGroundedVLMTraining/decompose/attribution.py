"""Which finding of a sentence belongs to which of its organs: "the pancreas is fatty, and the spleen is normal".

The parser gives segments and findings per sentence. Where a sentence speaks of several structures and both asserts and
denies, its clauses are read one by one, and that reading is taken only if it finds the same as the whole sentence.
Otherwise a finding goes to the organs that its name tells, and to all organs of the sentence where it tells none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import ReportFinding, Sentence

from .organs import OrganFinder

Attributed = dict[str, tuple[ReportFinding, ...]]

_CLAUSE = re.compile(r"(?:;|,|\s(?=(?:and|but|while|whereas|with|without)\s))\s*")


def attribute(sentence: Sentence, text: str, organs: Sequence[str], finder: OrganFinder) -> Attributed:
    """Findings of each of ``organs``. ``text``: the sentence's text."""
    if len(organs) == 1 or len({f.status for f in sentence.findings}) < 2:
        return dict.fromkeys(organs, sentence.findings)
    return _by_clauses(sentence, text, organs, finder) or _by_names(sentence.findings, organs, finder)


def _by_names(findings: Sequence[ReportFinding], organs: Sequence[str], finder: OrganFinder) -> Attributed:
    owners = [set(finder.of_finding(f.name)) & set(organs) or set(organs) for f in findings]
    return {organ: tuple(f for f, own in zip(findings, owners, strict=True) if organ in own) for organ in organs}


def _by_clauses(sentence: Sentence, text: str, organs: Sequence[str], finder: OrganFinder) -> Attributed | None:
    """None where the clauses, read alone, do not find what the whole sentence does."""
    found: Attributed = dict.fromkeys(organs, ())
    seen: list[ReportFinding] = []
    for clause in _clauses(text):
        parsed = parse_report(clause).sentences
        findings = tuple(f for part in parsed for f in part.findings)
        seen += findings
        named = finder.find(clause, {s for part in parsed for s in part.segments})
        for organ in named:
            if organ not in found:
                return None
            found[organ] += findings
        if findings and not named and any(f.status != "absent" for f in findings):
            return None
    same = {(f.name, f.status) for f in seen} == {(f.name, f.status) for f in sentence.findings}
    return found if same and all(found.values()) else None


def _clauses(text: str) -> list[str]:
    """Clauses that assert something; words before that ("Liver, spleen, ...") stay with what follows."""
    clauses: list[str] = []
    start = 0
    for cut in _CLAUSE.finditer(text):
        if any(sentence.findings for sentence in parse_report(text[start : cut.start()]).sentences):
            clauses.append(text[start : cut.start()])
            start = cut.end()
    return [*clauses, text[start:]]

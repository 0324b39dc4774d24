"""Floors on the project's own synthetic reports (Testing/Data): links and statuses per sentence, counted here."""

import functools
import json
from collections import Counter
from pathlib import Path

import pytest

from CTGroundedVLMLib.report import parse_report

DATA = Path(__file__).resolve().parents[2] / "Data"
LINKED = {"findings", "impression", "other"}
FLOORS = {
    "report_gold_own.jsonl": {"segments": 0.995, "exact": 0.99, "status": 0.98, "bounds": 0.995},
    # never used to improve the parser: what it scores here is what to expect of reports that nobody has seen
    "report_gold_blind.jsonl": {"segments": 0.97, "exact": 0.95, "status": 0.95, "bounds": 0.98},
}


def classes(names) -> set[str]:
    """Classes that count: the cyst of a kidney is scored on the kidney."""
    return {name for name in names if not name.startswith("kidney_cyst")}


def f1(counts: Counter, kind: str) -> float:
    right, wrong = counts[f"{kind} right"], counts[f"{kind} wrong"]  # wrong: missed and superfluous ones
    return 2 * right / (2 * right + wrong)


def compare(counts: Counter, kind: str, want: set, have: set) -> None:
    counts[f"{kind} right"] += len(want & have)
    counts[f"{kind} wrong"] += len(want ^ have)


@functools.cache
def scores(file: str) -> dict[str, float]:
    counts: Counter = Counter()
    for line in (DATA / file).read_text(encoding="utf-8").splitlines():
        gold = json.loads(line)
        parsed = parse_report(gold["text"]).sentences
        for want in gold["sentences"]:
            have = [s for s in parsed if s.start < want["end"] and want["start"] < s.end]
            linked = classes(name for s in have for name in s.segments)
            counts["sentences"] += 1
            counts["bounds"] += any((s.start, s.end) == (want["start"], want["end"]) for s in have)
            compare(counts, "segments", classes(want["segments"]), linked)
            if want["section"] in LINKED:
                counts["linked"] += 1
                counts["exact"] += linked == classes(want["segments"])
                compare(
                    counts,
                    "status",
                    {f["status"] for f in want["findings"]},
                    {f.status for s in have for f in s.findings},
                )
    return {
        "segments": f1(counts, "segments"), "status": f1(counts, "status"),
        "exact": counts["exact"] / counts["linked"], "bounds": counts["bounds"] / counts["sentences"],
    }  # fmt: skip


@pytest.mark.parametrize("file", FLOORS)
@pytest.mark.parametrize("measure", ["segments", "exact", "status", "bounds"])
def test_the_synthetic_reports_score_above_the_floor(file, measure):
    assert scores(file)[measure] >= FLOORS[file][measure]

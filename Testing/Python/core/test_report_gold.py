"""Floors on the annotated development reports, measured with the scorer that comes with them.

The parser was developed on two thirds of these reports; the last third was looked at late. They guard against regressions;
reports that nobody has seen score lower.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from CTGroundedVLMLib.report import parse_jsonl

FLOORS = {"segment_f1": 0.97, "exact": 0.93, "status_f1": 0.95, "bounds": 0.98}


@pytest.fixture(scope="session")
def scores(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    gold, scorer = test_data / "report_gold" / "dev.jsonl", test_data.parent / "tools" / "score_report_gold.py"
    if not gold.is_file() or not scorer.is_file():
        pytest.skip(f"no annotated reports at {gold} or no scorer at {scorer}")
    predicted = tmp_path_factory.mktemp("gold") / "predicted.jsonl"
    assert parse_jsonl(gold, predicted) == len(gold.read_text(encoding="utf-8").splitlines())
    command = [sys.executable, str(scorer), str(gold), str(predicted)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


@pytest.mark.parametrize("measure", FLOORS)
def test_annotated_reports_score_above_the_floor(scores, measure):
    assert scores[measure] >= FLOORS[measure]

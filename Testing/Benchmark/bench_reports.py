"""Benchmark: reading reports, on one core.

    python Testing/Benchmark/bench_reports.py

Reports: the annotated ones beside the test data (CTGVLM_TEST_DATA) where they are there, else reports of the synthetic sample.
Printed: reports and kilobytes a second of processor time (least of five rounds), the import and the first report. With
annotated reports also the scores of the links, by the scorer beside the test data: on those, and on the blind set of Testing/Data.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "CTGroundedVLM"))
DATA = Path(os.environ.get("CTGVLM_TEST_DATA", ROOT.parent / "shared" / "data"))
GOLD = DATA / "report_gold" / "dev.jsonl"
BLIND = ROOT / "Testing" / "Data" / "report_gold_blind.jsonl"


def import_seconds(module: str) -> float:
    """Processor time of ``import module`` in a fresh interpreter, less that of starting one (least of three)."""

    def run(code: str) -> float:
        code = (
            f"import sys, time; sys.path.insert(0, {str(ROOT / 'CTGroundedVLM')!r}); {code}; print(time.process_time())"
        )
        return min(float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3))

    return run(f"import {module}") - run("pass")


def texts() -> tuple[str, list[str]]:
    """Where the reports come from, and the reports."""
    if GOLD.is_file():
        return "annotated reports", [json.loads(line)["text"] for line in GOLD.read_text("utf-8").splitlines() if line]
    from CTGroundedVLMLib.sample import make_phantom

    return "reports of synthetic samples", [make_phantom(seed).report for seed in range(4)] * 10


def main() -> None:
    """Measure and print."""
    from CTGroundedVLMLib.report import parse_report

    source, reports = texts()
    start = time.process_time()
    parse_report(reports[0])
    first = time.process_time() - start
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for report in reports:
            parse_report(report)
        rounds.append(time.process_time() - start)
    size = sum(len(report) for report in reports) / 1000
    print(f"\n| reading {len(reports)} {source}, mean {size / len(reports):.1f} kB, one core | |\n|---|---|")
    print(f"| reports per second | {len(reports) / min(rounds):.0f} |")
    print(f"| kB per second | {size / min(rounds):.0f} |")
    print(f"| import of the parser | {import_seconds('CTGroundedVLMLib.report'):.2f} s |")
    print(f"| first report (loads the vocabulary) | {first:.2f} s |")
    if GOLD.is_file():
        for gold in (GOLD, BLIND):
            print(f"\n{gold.name}:", flush=True)
            print_score(gold)


def print_score(gold: Path) -> None:
    """The scorer's table for ``ctgvlm parse-reports``."""
    from CTGroundedVLMLib.report import parse_jsonl

    with tempfile.TemporaryDirectory() as folder:
        parse_jsonl(gold, Path(folder) / "predicted.jsonl")
        scorer = DATA.parent / "tools" / "score_report_gold.py"
        subprocess.run([sys.executable, str(scorer), str(gold), f"{folder}/predicted.jsonl"], check=True)


if __name__ == "__main__":
    main()

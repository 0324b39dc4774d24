"""Benchmark: the synthetic corpus in numbers.

    python Testing/Benchmark/bench_corpus.py [CORPUS] [--limit 300]

Printed: what the generator knows (kinds, organs, wordings), how long a case takes on one core and how large it is, at the spacing
of training and at that of a CT, and how well the report parser reads the reports: of 40 reports that are made here or, with
CORPUS (a folder of ``ctgvlm-train synthesize``), of the first ``--limit`` reports there. And, with CORPUS, where the starter's
heatmaps could point at best: the highest voxel of a map that holds, for each token, how much of the planted finding lies in it,
over focal findings of the test split.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "CTGroundedVLM"), str(ROOT / "Training")]


def generator_lines() -> list[str]:
    """What the generator knows."""
    from CTGroundedVLMTraining.synthesize.grammar import count_wordings, grammar
    from CTGroundedVLMTraining.synthesize.kinds import KINDS

    def strings(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [s for child in (node.values() if isinstance(node, dict) else node) for s in strings(child)]

    wordings = sum(count_wordings(s) for name, part in grammar().items() if name != "about" for s in strings(part))
    planted = sum(not kind.drawn_by_anatomy for kind in KINDS)
    organs = len({kind.organ for kind in KINDS})
    return [
        f"| kinds of findings, of organs | {len(KINDS)}, {organs} |",
        f"| of them planted into real CTs | {planted} |",
        f"| wordings, before sizes and sides are filled in | {wordings} |",
    ]


def case_lines(spacing: tuple[float, float, float], patients: int) -> list[str]:
    """Time of one core and size on disk of a case."""
    from CTGroundedVLMTraining.synthesize.case import make_case
    from CTGroundedVLMTraining.synthesize.case_files import write_case
    from CTGroundedVLMTraining.synthesize.settings import Settings

    settings, made, written, size = Settings(patients=patients, spacing_ijk=spacing), [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for patient in range(patients):
            start = time.process_time()
            case = make_case(settings, patient, 0)
            made.append(time.process_time() - start)
            start = time.process_time()
            path = write_case(Path(folder), case, settings.seed)
            written.append(time.process_time() - start)
            size.append(sum(file.stat().st_size for file in path.iterdir()))
    named = " x ".join(f"{mm:g}" for mm in spacing)
    seconds = f"{np.mean(made):.1f} s + {np.mean(written):.2f} s to write"
    return [f"| a case at {named} mm (mean of {patients}) | {seconds}, {np.mean(size) / 1e6:.1f} MB |"]


def reports_made(patients: int) -> list[tuple[str, list]]:
    """(text, statements) of cases that are made here."""
    from CTGroundedVLMTraining.synthesize.case import make_case
    from CTGroundedVLMTraining.synthesize.settings import Settings

    settings = Settings(patients=patients)
    reports = [make_case(settings, patient, 0).report for patient in range(patients)]
    return [(report.text, list(report.statements)) for report in reports]


def reports_of(corpus: Path, limit: int) -> list[tuple[str, list]]:
    """(text, statements) of cases on disk."""
    from CTGroundedVLMTraining.synthesize.report import Statement

    reports = []
    for folder in sorted((corpus / "cases").iterdir())[:limit]:
        text = (folder / "report.txt").read_text(encoding="utf-8")
        truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
        statements = [
            Statement(
                text[s["start"] : s["end"]],
                s["status"],
                tuple(s["kinds"]),
                s["organ"],
                start=s["start"],
                end=s["end"],
            )
            for s in truth["statements"]
        ]
        reports.append((text, statements))
    return reports


def agreement_lines(reports: list[tuple[str, list]]) -> list[str]:
    """How well the parser reads them."""
    from CTGroundedVLMTraining.synthesize.agreement import Agreement, read_back

    total = Agreement()
    for text, statements in reports:
        read_back(text, statements, total)
    wrong = ", ".join(f"{reason} {count}" for reason, count in total.by_reason().most_common())
    read = f"{total.share:.1%} of {total.statements} in {len(reports)} reports"
    return [f"| statements that are read as they are meant | {read} (else: {wrong or 'none'}) |"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, metavar="CORPUS")
    parser.add_argument("--limit", type=int, default=300, metavar="N", help="reports of CORPUS (default 300)")
    parser.add_argument("--cases", type=int, default=60, metavar="N", help="cases whose heatmaps count (default 60)")
    arguments = parser.parse_args()
    lines = generator_lines()
    lines += case_lines((3.0, 3.0, 5.0), 6) + case_lines((1.0, 1.0, 2.5), 1)
    lines += agreement_lines(reports_of(arguments.corpus, arguments.limit) if arguments.corpus else reports_made(40))
    print("\n| the synthetic corpus | |\n|---|---|")
    print("\n".join(lines))
    if arguments.corpus:
        from heatmap_limit import limit_lines

        print()
        print("\n".join(limit_lines(arguments.corpus, arguments.cases)))


if __name__ == "__main__":
    main()

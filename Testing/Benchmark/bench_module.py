"""Benchmark: what the Slicer module's user waits for: the hand-over to the worker process, its first sign, a second question.

    python Testing/Benchmark/bench_module.py [--model untrained|DIR] [--repeats N] [--json FILE]

No Slicer is needed: the steps are those that its GUI thread does, run one after the other. Each row names its baseline, measured
in this run. The CT is the abdomen beside the test data (CTGVLM_TEST_DATA) where it is there, else a synthetic scan.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "CTGroundedVLM"), str(Path(__file__).parent)]
DATA = Path(os.environ.get("CTGVLM_TEST_DATA", ROOT.parent / "shared" / "data"))
LARGE_KJI = (600, 512, 512)
QUESTIONS = ("hypodense lesion", "fatty infiltration", "calcification", "hemorrhage")
RECEIVER = """
import sys
left = int(sys.argv[1])
while left:
    left -= len(sys.stdin.buffer.read(min(left, 1 << 20)))
"""


def timed_steps(steps) -> np.ndarray:
    """Seconds of each step of a generator."""
    seconds, start = [], time.perf_counter()
    for _ in steps:
        now = time.perf_counter()
        seconds.append(now - start)
        start = now
    return np.array(seconds)


def hand_over(volume: np.ndarray, folder: Path) -> dict[str, float]:
    """Seconds of the hand-over by files: its longest step, all of it, and removing it after Cancel."""
    from CTGroundedVLMLib.exchange import CaseWriter

    writer = CaseWriter(folder / "case")
    steps = timed_steps(writer.write_ct(volume, np.eye(4), "large"))
    start = time.perf_counter()
    writer.discard()
    return {"longest step": steps.max(), "total": steps.sum(), "removal": time.perf_counter() - start}


def pipe(volume: np.ndarray) -> float:
    """Seconds to send the volume through a pipe, which is one step: the writer waits for the reader."""
    process = subprocess.Popen([sys.executable, "-c", RECEIVER, str(volume.nbytes)], stdin=subprocess.PIPE)
    process.stdin.write(b"")
    start = time.perf_counter()
    process.stdin.write(volume.data)
    process.stdin.close()
    process.wait()
    return time.perf_counter() - start


def import_seconds() -> float:
    """Seconds until a process of its own has imported what an analysis needs: what the GUI would stall for without a worker."""
    from CTGroundedVLMLib.worker_client import worker_environment

    environment = os.environ | worker_environment()
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import CTGroundedVLMLib.pipeline"], env=environment, check=True)
    return time.perf_counter() - start


class Job:
    """One service with its worker; what it does is waited for, and timed."""

    def __init__(self, folder: Path) -> None:
        from CTGroundedVLMLib.analysis_job import AnalysisService
        from CTGroundedVLMLib.case_sources import ImmediateScheduler
        from CTGroundedVLMLib.worker_client import WorkerClient

        self.service = AnalysisService(WorkerClient(), ImmediateScheduler(), folder=folder)

    def analyze(self, source, settings) -> tuple[dict[str, float], object]:
        """Seconds to the first progress, to the worker's first, and to the result; and the result."""
        seconds, done = {}, []
        start = time.perf_counter()

        def progress(stage, fraction):
            seconds.setdefault("first progress", time.perf_counter() - start)
            if stage not in ("hand over", "start the worker"):
                seconds.setdefault("worker's first progress", time.perf_counter() - start)

        self.service.analyze(
            source, settings, on_progress=progress, on_done=done.append, on_error=fail, on_cancelled=lambda: None
        )
        self.service.wait()
        return seconds | {"result": time.perf_counter() - start}, done[0]

    def ask(self, organ: str, text: str) -> float:
        """Seconds to the score and the heatmap of a question."""
        start = time.perf_counter()
        self.service.ask(organ, text, on_progress=lambda *_: None, on_done=lambda _: None, on_error=fail)
        self.service.wait()
        return time.perf_counter() - start


def fail(error: Exception) -> None:
    """An error ends the benchmark."""
    raise error


def real_case(folder: Path):
    """What is analysed, and its source."""
    from CTGroundedVLMLib.case_sources import ArrayCase
    from CTGroundedVLMLib.volume_io import load_case

    abdomen = DATA / "ct" / "abdomen"
    if abdomen.is_dir():
        return "real abdomen CT", ArrayCase(load_case(abdomen / "ct.nii.gz", abdomen / "segmentation.nii.gz"))
    from scans import write_scan

    return "synthetic scan", ArrayCase(load_case(*write_scan(folder / "scan")))


def result_steps(folder: Path) -> np.ndarray:
    """Seconds of each step in which the result that lies below ``folder`` is read."""
    from CTGroundedVLMLib.exchange import ResultReader

    return timed_steps(ResultReader(next(folder.rglob("result.jsonl"))).steps())


def measure(model: str, repeats: int, folder: Path) -> dict:
    """All numbers, in seconds."""
    from CTGroundedVLMLib.analysis_job import JobSettings

    volume = np.random.default_rng(0).integers(-1000, 1000, LARGE_KJI, np.int16)
    handed = [hand_over(volume, folder) for _ in range(repeats)]
    numbers = {f"hand-over, {key}": min(run[key] for run in handed) for key in handed[0]}
    numbers["hand-over, pipe"] = min(pipe(volume) for _ in range(repeats))
    del volume
    numbers["import in process"] = import_seconds()
    name, source = real_case(folder)
    job = Job(folder)
    settings = JobSettings(model, options={"heatmaps": 1, "min_visible": 0.0, "cache_folder": None})
    cold, result = job.analyze(source, settings)
    warm, result = job.analyze(source, settings)
    numbers |= {f"cold, {key}": value for key, value in cold.items()} | {
        f"warm, {key}": value for key, value in warm.items()
    }
    numbers["result, longest step"] = result_steps(folder).max()
    organ = next(score.organ for score in result.findings if score.reason is None)
    answers = [job.ask(organ, text) for text in QUESTIONS]
    job.service.close()
    return {
        "ct": name,
        "model": model,
        "question, median": float(np.median(answers)),
        "question, first": answers[0],
    } | numbers


def print_table(n: dict) -> None:
    """Markdown."""
    k, j, i = LARGE_KJI
    rows = [
        ("longest GUI step of the hand-over", "hand-over, longest step", "through a pipe", "hand-over, pipe"),
        ("whole hand-over", "hand-over, total", "through a pipe", "hand-over, pipe"),
        ("removal after Cancel", "hand-over, removal", "through a pipe", "hand-over, pipe"),
        ("click to first progress", "cold, first progress", "import in the GUI's process", "import in process"),
        (
            "click to the worker's first progress",
            "cold, worker's first progress",
            "import in the GUI's process",
            "import in process",
        ),
        (
            "the same, worker running",
            "warm, worker's first progress",
            "import in the GUI's process",
            "import in process",
        ),
        ("longest GUI step of reading the result", "result, longest step", "whole analysis", "warm, result"),
        ("second question, score and heatmap", "question, median", "whole analysis", "warm, result"),
    ]
    print(f"\nHand-over: {i} x {j} x {k} int16. Analysis: {n['ct']}, model {n['model']}, worker running.\n")
    print("| | ours | baseline | | baseline / ours |\n|---|---|---|---|---|")
    for what, key, baseline, base_key in rows:
        print(
            f"| {what} | {1000 * n[key]:.0f} ms | {baseline} | {1000 * n[base_key]:.0f} ms | {n[base_key] / n[key]:.1f} |"
        )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="untrained")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        numbers = measure(arguments.model, arguments.repeats, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_table(numbers)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()

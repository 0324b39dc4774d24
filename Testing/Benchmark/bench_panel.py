"""Benchmark: what the panel costs: loading, imports, the click, and how long the application ever stands still.

    python Testing/Benchmark/bench_panel.py [--model untrained|DIR] [--phantom] [--json FILE]

The panel runs on the stand-in for PythonQt (Testing/Python/support/qt_standin) over slicer-core's real scene, with a real
worker; nothing is rendered. A stall is the time between two turns of the event loop; a busy machine shows in it, and less so in
the processor time of the GUI thread ("cpu") beside it, which includes what the stand-in does in Python. The CT is the abdomen beside the test data, else (--phantom) the
synthetic patient, which has a report.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = ROOT / "Testing" / "Python" / "support"
sys.path[:0] = [str(ROOT / "CTGroundedVLM"), str(SUPPORT)]
DATA = Path(os.environ.get("CTGVLM_TEST_DATA", ROOT.parent / "shared" / "data"))
HEAVY = ("torch", "monai", "transformers", "matplotlib", "SimpleITK", "pydicom", "PIL", "jinja2", "scipy")
TICK_MS = 1


class Heartbeat:
    """Notes how long the event loop was not back, and in which stage of a run."""

    def __init__(self, stage) -> None:
        import qt

        self._stage, self._last = stage, (time.perf_counter(), time.thread_time())
        self.stalls: dict[str, float] = {}
        self._timer = qt.QTimer()
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._beat)
        self._timer.start()

    def _beat(self) -> None:
        now = time.perf_counter(), time.thread_time()
        for kind, seconds in zip(("stall", "cpu"), (now[0] - self._last[0], now[1] - self._last[1]), strict=True):
            key = f"{kind}, {self._stage()}"
            self.stalls[key] = max(self.stalls.get(key, 0.0), seconds)
        self._last = now

    def take(self) -> dict[str, float]:
        """ "stall, STAGE" and "cpu, STAGE": the longest in seconds, since the last call."""
        taken, self.stalls, self._last = self.stalls, {}, (time.perf_counter(), time.thread_time())
        return taken

    def worst(self, of: str) -> dict[str, float]:
        """As ``take``, all stages as one called ``of``."""
        taken = self.take()
        return {
            f"{kind}, {of}": max(value for key, value in taken.items() if key.startswith(kind))
            for kind in ("stall", "cpu")
        }


def the_case(phantom: bool):
    """What is analysed, and its name."""
    from CTGroundedVLMLib.volume_io import load_case

    abdomen = DATA / "ct" / "abdomen"
    if not phantom and abdomen.is_dir():
        return "real abdomen CT", load_case(abdomen / "ct.nii.gz", abdomen / "segmentation.nii.gz")
    from slicer_scene import the_phantom_case

    return "synthetic patient", the_phantom_case()


def measure(model: str, phantom: bool, folder: Path) -> dict:
    """All numbers, in seconds."""
    from panel_session import add_case, open_empty_panel
    from qt_standin import a_session

    name, case = the_case(phantom)
    with a_session(folder) as session:
        panel = add_case(open_empty_panel(session), case, case.report_text)
        panel.parameters.model = model
        return {"ct": name, "model": model} | run(panel)


def opening() -> dict:
    """Seconds to load the module and to open its panel, and what that imports; in a process of its own."""
    command = [sys.executable, __file__, "--opening"]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()[-1])


def measure_opening() -> dict:
    """What ``opening`` runs in its process."""
    from panel_session import MODULE
    from qt_standin import a_session

    with tempfile.TemporaryDirectory() as folder, a_session(Path(folder)) as session:
        before = set(sys.modules)
        start = time.perf_counter()
        module = session.load(MODULE)
        loaded = time.perf_counter()
        session.open(module)
        numbers = {"load the module": loaded - start, "open the panel": time.perf_counter() - loaded}
        return {"imported": [n for n in HEAVY if n in sys.modules and n not in before]} | numbers


def run(panel) -> dict:
    """Look at the panel for a moment, click, wait, click a finding, ask."""
    beat = Heartbeat(lambda: panel.panel.progress.current)
    panel.session.wait_until(lambda: panel.panel.warmed_up, 60)
    panel.session.wait_until(lambda: panel.widget.logic.workerPid is not None, 60)
    numbers = beat.worst("the worker's start ahead of the click")
    start = time.perf_counter()
    panel.ui.analyzeButton.click()
    numbers["click"] = time.perf_counter() - start
    panel.session.wait_until(lambda: panel.panel.progress.current == "hand over", 60)
    numbers["first progress"] = time.perf_counter() - start
    panel.finish(600)
    numbers["analysis"] = time.perf_counter() - start
    numbers |= beat.take()
    row = next(n for n, row in enumerate(panel.results.table.shown) if row.probability is not None)
    start = time.perf_counter()
    panel.ui.findingsTable.setCurrentCell(row, 0)
    numbers["finding, click"] = time.perf_counter() - start
    panel.finish()
    numbers |= beat.worst("finding")
    panel.ui.questionLineEdit.text = "hypodense lesion"
    panel.ui.questionOrganComboBox.setCurrentIndex(1)
    for turn in ("first", "second"):
        start = time.perf_counter()
        panel.ui.askButton.click()
        panel.session.wait_until(lambda: not panel.widget.logic.busy, 60)
        numbers[f"{turn} question"] = time.perf_counter() - start
        panel.finish()
        numbers |= beat.worst(f"{turn} question")
        panel.ui.questionLineEdit.text = "calcification"
    return numbers


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="untrained")
    parser.add_argument("--phantom", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--opening", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.opening:
        print(json.dumps(measure_opening()))
        return
    numbers = opening()
    with tempfile.TemporaryDirectory() as folder:
        numbers |= measure(arguments.model, arguments.phantom, Path(folder))
    print(f"\nPanel on the stand-in; {numbers['ct']}, model {numbers['model']}.\n")
    print(f"Imported when the panel opens, of {', '.join(HEAVY)}: {', '.join(numbers['imported']) or 'none'}\n")
    print("| | ms |\n|---|---|")
    for key, value in numbers.items():
        if isinstance(value, float):
            print(f"| {key} | {1000 * value:.0f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()

"""The module's panel in a session of the stand-in: opened with a small case, driven as a user does, waited for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import slicer

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib import process_qt
from CTGroundedVLMLib.types import CTCase
from CTGroundedVLMLib.worker_client import MODULE as WORKER
from qt_standin import Session

MODULE = Path(__file__).resolve().parents[3] / "CTGroundedVLM" / "CTGroundedVLM.py"
REPORT = """FINDINGS:
Emphysema in the lungs. The heart is enlarged. The aorta is normal.
The liver is normal. Nodule in the right lower lobe (series 4, image 12).

IMPRESSION: Emphysema.
"""


def make_models_folder(folder: Path, *names: str) -> Path:
    """A models folder with the debug architecture (random weights) under these names: an analysis takes a second."""
    from CTGroundedVLMLib.model.checkpoint import save_checkpoint
    from CTGroundedVLMLib.model.config import debug_config
    from CTGroundedVLMLib.model.untrained import untrained_model

    loaded = untrained_model(debug_config())
    for name in names:
        save_checkpoint(folder / name, loaded.model, loaded.tokenizer, name=name, trained=False)
    return folder


@dataclass
class OpenPanel:
    """``widget``: the module's Python widget; ``representation``: the C++ one, to be grabbed and closed."""

    session: Session
    representation: Any
    widget: Any
    volume: Any = None
    segmentation: Any = None

    @property
    def ui(self) -> Any:
        """The widgets by name."""
        return self.widget.ui

    @property
    def panel(self) -> Any:
        """The panel's parts."""
        return self.widget.panel

    @property
    def results(self) -> Any:
        """The results' parts."""
        return self.widget.panel.results

    @property
    def parameters(self) -> Any:
        """The parameter node, wrapped."""
        return self.widget.logic.getParameterNode()

    def finish(self, timeout_s: float = 120) -> None:
        """Wait until nothing is under way, and let what was scheduled run."""
        self.session.wait_until(lambda: not self.widget.logic.busy, timeout_s, "the worker")
        for _ in range(20):
            self.session.process_events()
        self.session.wait_until(lambda: not self.results.navigation.busy, timeout_s, "the views")

    def analyze(self) -> None:
        """Click Analyze and wait for the end."""
        self.ui.analyzeButton.click()
        self.finish()

    def click_link(self, target: str) -> None:
        """Click a link of the report, as QTextBrowser reports it."""
        import qt

        self.ui.reportBrowser.anchorClicked.emit(qt.QUrl(target))
        self.finish()

    def click_sentence(self, words: str) -> int:
        """Click the sentence that holds these words; returns its index."""
        report = self.results.result.report
        index = next(n for n, s in enumerate(report.sentences) if words in report.text[s.start : s.end])
        self.click_link(f"sentence:{index}")
        return index

    def row_of(self, organ: str, finding: str) -> int:
        """Where a finding stands in the table."""
        return [row.key for row in self.results.table.shown].index((organ, finding))


def open_panel(session: Session, case: CTCase | None = None, report: str = REPORT) -> OpenPanel:
    """The module, opened in a scene with views and a case (default: the box case), its report pasted."""
    return add_case(open_empty_panel(session), case or a_case(CHEST), report)


def add_case(panel: OpenPanel, case: CTCase, report: str) -> OpenPanel:
    """Load a case, choose it, and paste its report."""
    slicer.app.layoutManager().sliceViewNames()
    panel.volume, panel.segmentation = slicer_scene.add_case(panel.session.booted, case)
    panel.ui.inputVolumeSelector.setCurrentNode(panel.volume)
    panel.ui.inputSegmentationSelector.setCurrentNode(panel.segmentation)
    panel.ui.reportTextEdit.setPlainText(report)
    panel.panel.report.flush()
    return panel


def open_empty_panel(session: Session) -> OpenPanel:
    """The module, opened."""
    module = session.load(MODULE)
    widget = session.open(module)
    return OpenPanel(session, module.widgetRepresentation(), widget)


def contents(scene: slicer.vtkMRMLScene) -> dict[str, tuple]:
    """What a scene holds, for comparing before and after: by node ID, what would be saved of it, and its voxels' age."""
    found = {}
    for index in range(scene.GetNumberOfNodes()):
        node = scene.GetNthNode(index)
        attributes = tuple((name, node.GetAttribute(name)) for name in sorted(node.GetAttributeNames() or ()))
        image = node.GetImageData() if node.IsA("vtkMRMLVolumeNode") else None
        found[node.GetID()] = (node.GetName(), attributes, image.GetMTime() if image is not None else 0)
    return found


def items(combo: Any) -> list[str]:
    """The texts of a combo box."""
    return [combo.itemText(index) for index in range(combo.count)]


def choose(combo: Any, text: str) -> None:
    """Choose as a user does: the index changes, then "activated" comes."""
    combo.setCurrentIndex(items(combo).index(text))
    combo.activated.emit(items(combo).index(text))


def copy_models(source: Path, target: Path) -> Path:
    """A models folder that a test may change: links to the models of another one."""
    target.mkdir()
    for model in source.iterdir():
        (target / model.name).symlink_to(model)
    return target


class SharedRunner:
    """A ``ProcessRunner`` that hands one real worker on from test to test: its imports take seconds.

    A worker that is stopped while nothing is asked of it lives on, and the next runner has it, if the folder of models is the
    same. One that is stopped at work ends, as in Slicer; so does any other command.
    """

    _kept: ClassVar[_KeptWorker | None] = None

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._own: Any = None  # the runner of another command
        self._worker: _KeptWorker | None = None
        self._on_exit: Callable[[int], None] | None = None
        self._environment = environment

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_log: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """See ProcessRunner."""
        if tuple(command[1:]) != ("-m", WORKER):
            self._own = PlainRunner(self._environment)
            self._own.start(command, environment, on_line, on_log, on_exit)
            return
        self._on_exit = on_exit
        key = command[0], os.environ.get("CTGVLM_MODELS_DIR")
        if SharedRunner._kept is None or SharedRunner._kept.key != key:
            SharedRunner.end()
            SharedRunner._kept = _KeptWorker(key)
            SharedRunner._kept.listeners = (on_line, on_log, self._ended)
            SharedRunner._kept.start(command, environment)
        self._worker = SharedRunner._kept
        self._worker.listeners = (on_line, on_log, self._ended)
        for line in tuple(self._worker.greetings):
            on_line(line)

    def write(self, line: str) -> None:
        """See ProcessRunner."""
        if self._own is not None:
            self._own.write(line)
        elif self._worker is not None:
            self._worker.write(line)

    def stop(self) -> None:
        """See ProcessRunner."""
        if self._own is not None:
            self._own.stop()
        elif self._worker is not None and self._worker.at_work:
            SharedRunner._kept = None
            self._worker.runner.stop()
        elif self._worker is not None:
            import qt

            self._worker.listeners = None
            self._worker = None
            qt.QTimer.singleShot(0, lambda: self._ended(0))

    def kill(self) -> None:
        """See ProcessRunner."""
        runner = self._own or (self._worker.runner if self._worker is not None else None)
        if runner is not None:
            runner.kill()

    def wait(self, seconds: float) -> None:
        """See ProcessRunner."""
        if self._own is not None:
            self._own.wait(seconds)
        elif self._worker is not None:
            self._worker.runner.wait(seconds)
        else:
            self._ended(0)

    def _ended(self, code: int) -> None:
        on_exit, self._on_exit, self._worker = self._on_exit, None, None
        if on_exit is not None:
            on_exit(code)

    @classmethod
    def end(cls) -> None:
        """End the worker that is kept."""
        if cls._kept is not None:
            cls._kept.runner.stop()
            cls._kept.runner.wait(5)
            cls._kept = None


class _KeptWorker:
    """A worker's process, what it said of itself, and who listens to it now."""

    def __init__(self, key: tuple[str, str | None]) -> None:
        self.key = key
        self.runner = PlainRunner()
        self.greetings: list[str] = []
        self.asked: dict[int, str] = {}  # number of a request without an answer yet -> its name
        self.listeners: tuple[Callable[..., None], ...] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.runner.start(command, environment, self._line, self._log, self._exit)

    def write(self, line: str) -> None:
        request = json.loads(line)
        self.asked[request["id"]] = request["name"]
        self.runner.write(line)

    @property
    def at_work(self) -> bool:
        """Whether a request is not answered yet; the list of devices takes milliseconds, and is waited for."""
        end = time.monotonic() + 5
        while list(self.asked.values()) == ["hello"] and time.monotonic() < end:
            self.runner.wait(0.02)
        return bool(self.asked)

    def _line(self, line: str) -> None:
        message = json.loads(line)
        if message["event"] in ("started", "ready"):
            self.greetings.append(line)
        elif message["event"] != "progress":
            self.asked.pop(message["id"], None)
        if self.listeners is not None:
            self.listeners[0](line)

    def _log(self, line: str) -> None:
        if self.listeners is not None:
            self.listeners[1](line)

    def _exit(self, code: int) -> None:
        if SharedRunner._kept is self:
            SharedRunner._kept = None
        if self.listeners is not None:
            self.listeners[2](code)


PlainRunner = process_qt.QProcessRunner

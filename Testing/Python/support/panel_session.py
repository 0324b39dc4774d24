"""The module's panel in a session of the stand-in: opened with a small case, driven as a user does, waited for."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import slicer

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib.types import CTCase
from qt_standin import Session

MODULE = Path(__file__).resolve().parents[3] / "CTGroundedVLM" / "CTGroundedVLM.py"
REPORT = """FINDINGS:
Emphysema in the lungs. The heart is enlarged. The aorta is normal.
The liver is normal. Nodule in the right lower lobe (series 4, image 12).

IMPRESSION: Emphysema.
"""


def keep_singletons_alive() -> None:
    """PySide6 6.12 is built for Python 3.12, where None is immortal: on 3.11 every void call takes one of its references.

    Some ten thousand calls would abort the interpreter ("deallocating None"), so it gets references enough.
    """
    if sys.version_info < (3, 12):
        for singleton in (None, True, False):
            ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40


keep_singletons_alive()


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

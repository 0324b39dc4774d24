"""The report of the inputs: a text node, edited or pasted in the panel, read from a file or from the study's DICOM reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from ..errors import ReportError
from ..mrml_io.scene_edit import vtk_text
from ..report_sources import StudyReport, find_reports, read_report, study_of
from .errors import shown_errors
from .report_spans import display_text

WRITE_DELAY_MS = 400  # after the last key: a text node's observers should not run at every letter


class ReportInput(slicer.util.VTKObservationMixin):
    """Keeps the text box and the report's text node the same.

    ``on_node(node)`` is called when a node is made for a pasted or opened report; ``volume`` gives the CT.
    """

    def __init__(
        self,
        edit: qt.QPlainTextEdit,
        scene: slicer.vtkMRMLScene,
        *,
        on_node: Callable[[slicer.vtkMRMLTextNode], None],
        volume: Callable[[], slicer.vtkMRMLScalarVolumeNode | None],
    ) -> None:
        super().__init__()
        self._edit, self._scene, self._on_node, self._volume = edit, scene, on_node, volume
        self._node: slicer.vtkMRMLTextNode | None = None
        self._following = self._edited = False
        self._timer = qt.QTimer(edit)
        self._timer.setSingleShot(True)
        self._timer.setInterval(WRITE_DELAY_MS)
        self._timer.connect("timeout()", self.flush)
        edit.connect("textChanged()", self._on_edited)

    @property
    def text(self) -> str:
        """The report as the box holds it."""
        return self._edit.toPlainText()

    def set_node(self, node: slicer.vtkMRMLTextNode | None) -> None:
        """Show this node's text from now on."""
        if node is self._node:
            return
        self.flush()
        self._follow(node)

    def _follow(self, node: slicer.vtkMRMLTextNode | None) -> None:
        self.removeObservers()
        self._node = node
        if node is not None:
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._on_node_modified)
        self._follow_node()

    def forget(self) -> None:
        """Show nothing, and write nothing: the scene is being closed."""
        self._edited = False
        self.set_node(None)

    def flush(self) -> None:
        """Write what was typed into the node; a node is made for the first report."""
        if not self._edited:
            return
        self._edited = False
        self._timer.stop()
        if self._node is None and self.text.strip():
            self._use_new_node(self.text, _("Report"))
        elif self._node is not None and self._node.GetText() != vtk_text(self.text):
            self._node.SetText(vtk_text(self.text))

    def set_report(self, text: str, name: str) -> None:
        """A new report with a node of its own: an earlier one stays in the scene."""
        self._timer.stop()
        self._edited = False
        self._use_new_node(display_text(text), name)

    def open_file(self) -> None:
        """Let the user choose a text file or a DICOM structured report."""
        filters = _("Reports (*.txt *.dcm);;All files (*)")
        chosen = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Open a report"), "", filters)
        if chosen:
            with shown_errors(_("The report was not read.")):
                self.set_report(read_report(Path(chosen)), Path(chosen).stem)

    def open_from_study(self) -> None:
        """Let the user choose among the structured reports of the CT's study in the DICOM database."""
        with shown_errors(_("No report was read.")):
            if getattr(slicer, "dicomDatabase", None) is None:
                raise ReportError("Slicer's DICOM module is not enabled. Enable it, or open the report from a file.")
            reports = find_reports(slicer.dicomDatabase, self._study())
            if not reports:
                raise ReportError(
                    "The DICOM database holds no structured report of this CT's study. Import it in the DICOM module, "
                    "or paste the report."
                )
            report = reports[0] if len(reports) == 1 else self._chosen_of(reports)
            if report is not None:
                self.set_report(read_report(report.path), report.description or "Report")

    def _chosen_of(self, reports: Sequence[StudyReport]) -> StudyReport | None:
        labels = [f"{number}. {report.label}" for number, report in enumerate(reports, 1)]
        # a cancelled QInputDialog answers with the first item: it must not be a report
        items = [_("(none)"), *labels]
        title, question = _("Reports of this study"), _("Report:")
        label = qt.QInputDialog.getItem(slicer.util.mainWindow(), title, question, items, 0, False)
        return reports[labels.index(label)] if label in labels else None

    def _study(self) -> str:
        volume = self._volume()
        uids = (volume.GetAttribute("DICOM.instanceUIDs") or "").split() if volume is not None else []
        study = study_of(slicer.dicomDatabase, uids[0]) if uids else ""
        if not study:
            raise ReportError(
                "The CT was not loaded from the DICOM database, so its study is not known. Load it with the DICOM "
                "module, or open the report from a file."
            )
        return study

    def _use_new_node(self, text: str, name: str) -> None:
        node = slicer.vtkMRMLTextNode()
        node.SetName(self._scene.GenerateUniqueName(vtk_text(name)))
        node.SetText(vtk_text(text))
        node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeAlways)  # saved in a file of its own
        self._scene.AddNode(node)
        self._follow(node)
        self._on_node(node)

    def _on_edited(self) -> None:
        if not self._following:
            self._edited = True
            self._timer.start()

    def _on_node_modified(self, _caller: vtk.vtkObject, _event: str) -> None:
        if not self._edited:  # what is being typed wins
            self._follow_node()

    def _follow_node(self) -> None:
        text = display_text(self._node.GetText() or "") if self._node is not None else ""
        if text != self.text:
            self._following = True
            self._edit.setPlainText(text)
            self._following = False

"""The panel: its parts, the parameter node, and the run of an analysis. The module's widget only ties it to Slicer."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from ..errors import CTGroundedVLMError
from ..mrml_io import AnalysisNodes, MrmlCaseSource, SavedResult, find_analyses, is_input, restore_steps
from ..process_qt import QProcessRunner
from ..types import AnalysisResult
from .device_box import DeviceBox
from .errors import show_error, shown_errors
from .input_nodes import InputNodes
from .model_picker import ModelPicker
from .report_input import ReportInput
from .results_panel import ResultsPanel
from .run_progress import RunProgress
from .segmenting import can_segment, has_extension, segment_by_extension

WARM_UP_MS = 1500  # after the last input was chosen
# what a click on Analyze needs, imported one by one between other events: all at once they would stall it
PRELOADED = ("dependencies", "models_admin", "analysis_job", "worker_client", "widget.scene_analysis", "export")


class Panel:
    """``ui``: the widgets of the .ui file by name; ``logic``: the module's logic."""

    def __init__(self, ui: Any, scene: slicer.vtkMRMLScene, logic: Any) -> None:
        self.ui, self._scene, self._logic = ui, scene, logic
        self._parameters: Any = None
        self._shown: tuple[Any, ...] = ()
        self._starting = self.warmed_up = False
        self._segmented = ""  # name of the segmentation that the present run made
        self._restoring: Iterator[float] | None = None
        self._input_nodes = InputNodes(scene, (ui.inputVolumeSelector, ui.reportTextSelector))
        self.progress = RunProgress(ui.progressWidget, ui.progressBar, ui.stageLabel, ui.logTextEdit)
        self.models = ModelPicker(
            ui.modelComboBox,
            ui.modelMenuButton,
            ui.modelLicenseLabel,
            ui.modelNoticeLabel,
            on_chosen=lambda choice: self._set("model", choice),
            make_runner=QProcessRunner,
            log=self.progress.log,
        )
        self.devices = DeviceBox(ui.deviceComboBox, lambda device: self._set("device", device))
        self.report = ReportInput(
            ui.reportTextEdit,
            scene,
            on_node=lambda node: self._set("reportNode", node),
            volume=lambda: self._parameters.inputVolume if self._parameters else None,
        )
        self.results = ResultsPanel(ui, scene, logic, on_matches_changed=self._on_matches_changed)
        logic.onLog = self.progress.log
        self._connect()
        self.models.refresh("")
        self.models.add_action(_("Install packages from a folder of wheels…"), self.install_wheels)
        self._warm_up = qt.QTimer(ui.analyzeButton)
        self._warm_up.setSingleShot(True)
        self._warm_up.setInterval(WARM_UP_MS)
        self._warm_up.connect("timeout()", self._start_worker)
        self._preload(iter(PRELOADED))

    def _preload(self, names: Iterator[str]) -> None:
        name = next(names, None)
        if name is not None:
            qt.QTimer.singleShot(0, lambda: self._preload(names))
            importlib.import_module(f"{__package__.rpartition('.')[0]}.{name}")

    def _connect(self) -> None:
        ui = self.ui
        ui.analyzeButton.connect("clicked()", self.on_analyze)
        ui.openReportButton.connect("clicked()", self.report.open_file)
        ui.studyReportButton.connect("clicked()", self.report.open_from_study)
        ui.sampleDataButton.connect("clicked()", self.load_sample)
        for section in (ui.segmentsCollapsibleButton, ui.matchesCollapsibleButton):
            section.connect("contentsCollapsed(bool)", self._on_section)

    # ---------------------------------------------------------------- parameter node

    def set_parameter_node(self, parameters: Any) -> None:
        """Follow this parameter node; None follows none."""
        if parameters is None:
            self.report.flush()
        self._parameters = parameters
        self._shown = ()

    def _set(self, name: str, value: Any) -> None:
        if self._parameters is not None:
            setattr(self._parameters, name, value)

    def choose_defaults(self) -> None:
        """Choose the first CT, segmentation and model where nothing is chosen."""
        parameters = self._parameters
        if parameters.inputVolume is None:
            volumes = self._offered("vtkMRMLScalarVolumeNode")
            parameters.inputVolume = next((node for node in volumes if is_input(node)), None)
        if parameters.inputSegmentation is None:
            parameters.inputSegmentation = next(iter(self._offered("vtkMRMLSegmentationNode")), None)
        if not parameters.model and self.models.chosen is not None:
            parameters.model = self.models.chosen.choice

    def _offered(self, kind: str) -> list[slicer.vtkMRMLNode]:
        """The scene's nodes of this very class that a selector can show."""
        nodes = slicer.util.getNodesByClass(kind, self._scene)
        return [node for node in nodes if node.GetClassName() == kind and not node.GetHideFromEditors()]

    def update_from_parameter_node(self) -> None:
        """Show the choices that no connector shows."""
        parameters = self._parameters
        if parameters is None:
            return
        choices = parameters.inputSegmentation, parameters.reportNode, parameters.model, parameters.device
        former, self._shown = self._shown, choices
        if not former or choices[0] is not former[0]:
            self.results.show_segmentation(parameters.inputSegmentation)
        self.report.set_node(parameters.reportNode)
        if not former or choices[2] != former[2]:
            self.models.refresh(parameters.model) if not former else self.models.show(parameters.model)
        self.devices.show(parameters.device)
        self.ui.inputSegmentationSelector.enabled = not parameters.segmentAutomatically
        self.update_buttons()

    def show_saved_analysis(self) -> None:
        """Show the scene's analysis (of the chosen CT, if there is one of it) where none is shown; step by step."""
        if self.results.result is not None or self._logic.busy:
            return
        analyses = find_analyses(self._scene)
        analyses.sort(key=lambda nodes: nodes.volume is self._parameters.inputVolume)
        if analyses:
            self._restoring = steps = restore_steps(analyses[-1])
            self._restore(steps, analyses[-1])

    def _restore(self, steps: Iterator[float], nodes: AnalysisNodes) -> None:
        """One step; they end where another analysis was begun or shown, or the scene closed, meanwhile."""
        if steps is not self._restoring or self.results.result is not None or self._logic.busy:
            return
        try:
            next(steps)
        except StopIteration as end:
            self._restoring = None
            saved: SavedResult = end.value
            self._show(saved, nodes, can_ask=False)
            return
        except CTGroundedVLMError as error:
            self._restoring = None
            self.progress.log(str(error))
            return
        qt.QTimer.singleShot(0, lambda: self._restore(steps, nodes))

    # ---------------------------------------------------------------- run

    def missing(self) -> list[str]:
        """What is missing for an analysis, in words."""
        parameters = self._parameters
        if parameters is None:
            return []
        lacks = []
        if parameters.inputVolume is None:
            lacks.append(_("Choose a CT."))
        if parameters.inputSegmentation is None and not parameters.segmentAutomatically:
            lacks.append(_("Choose a segmentation, or let TotalSegmentator make one."))
        if parameters.segmentAutomatically and not can_segment():
            lacks.append(_("Install the TotalSegmentator extension (Extensions Manager), or choose a segmentation."))
        if self.models.chosen is None:
            lacks.append(_("Choose a model."))
        return lacks

    def update_buttons(self) -> None:
        """Analyze or Cancel, and why not."""
        button, running = self.ui.analyzeButton, self._running
        lacks = self.missing()
        button.text = _("Cancel") if running else _("Analyze")
        button.enabled = running or not (lacks or self._starting)
        ready = _("Score the findings and link the report; the CT stays on this computer.")
        stop = _("Stop the analysis. The scene stays as it is.")
        starting = _("Starting: packages are being installed, or TotalSegmentator works.") if self._starting else ""
        button.toolTip = stop if running else starting or "\n".join(lacks) or ready
        if self._parameters is None or lacks or running:
            self._warm_up.stop()
        elif not self.warmed_up:
            self._warm_up.start()

    @property
    def _running(self) -> bool:
        return self._logic.busy and self._logic.analysis.analyzing

    def on_analyze(self) -> None:
        """The button: start, or cancel what runs."""
        if self._running:
            self._logic.analysis.cancel()
            return
        if self._parameters is None:
            return
        self._starting = True  # an installation or TotalSegmentator lets events through: no second start meanwhile
        self.update_buttons()
        with shown_errors(_("The analysis was not started.")):
            try:
                self._start()
            finally:
                self._starting = False
                if not self._logic.busy:
                    self.progress.finish("")
                self.update_buttons()

    def _start(self) -> None:
        from ..dependencies import DependencyInstaller

        self.report.flush()
        self._segmented = ""
        MrmlCaseSource(self._parameters.inputVolume).check()  # before anybody is asked to install something for it
        if DependencyInstaller(slicer).ensure() != "ready":
            return
        if self._logic.busy:  # a question: the analysis makes it pointless
            self._logic.analysis.cancel()
        parameters = self._parameters
        self.progress.start(_("Start"))
        segmentation = parameters.inputSegmentation
        if parameters.segmentAutomatically:
            if has_extension():
                self.progress.stage(_("The TotalSegmentator extension works: Slicer waits for it"), 0.0)
                slicer.app.processEvents()  # the line above is to be seen
            segmentation = segment_by_extension(parameters.inputVolume, self.progress.log)
            if segmentation is not None:  # minutes of work: kept and chosen, whatever becomes of the analysis
                parameters.inputSegmentation, parameters.segmentAutomatically = segmentation, False
                self._segmented = segmentation.GetName()
        self.results.set_can_ask(False)
        self._logic.analyze(
            parameters.inputVolume,
            segmentation,
            parameters.reportNode or "",
            parameters.model,
            parameters.device,
            {"mode": parameters.mode.name, "heatmaps": parameters.heatmapCount},
            onDone=self._on_done,
            onError=self._on_error,
            onProgress=self.progress.stage,
            onCancelled=self._on_cancelled,
        )

    def _on_done(self, result: AnalysisResult) -> None:
        text = _("Done in {seconds:.1f} s").format(seconds=self.progress.seconds)
        self.progress.finish(text)
        for warning in result.warnings:
            self.progress.log(warning)
        nodes = self._logic.analysis.nodes
        parameters = self._parameters or self._logic.getParameterNode()  # the user may look at another module
        parameters.inputSegmentation, parameters.segmentAutomatically = nodes.segmentation, False
        self.update_buttons()
        qt.QTimer.singleShot(0, lambda: self._show_new(result, nodes))  # the scene has just been changed: a turn later

    def _show_new(self, result: AnalysisResult, nodes: AnalysisNodes) -> None:
        if self._logic.analysis.nodes is nodes:
            self._show(result, nodes, can_ask=True)
            self._logic.requestDevices(self._on_devices)

    def _on_error(self, error: CTGroundedVLMError) -> None:
        self.progress.finish(_("Not finished: {error}").format(error=error))
        self.update_buttons()
        # a turn later: this may come from within a signal of the process, or a scene that is removing a node
        what = _("The analysis did not end well.") + " " + self._scene_after()
        qt.QTimer.singleShot(0, lambda: show_error(what, error))

    def _on_cancelled(self) -> None:
        self.progress.finish(_("Cancelled.") + " " + self._scene_after())
        self.update_buttons()

    def _scene_after(self) -> str:
        """What an analysis leaves behind that did not end well."""
        if not self._segmented:
            return _("The scene is as it was before.")
        return _("The scene is as it was before, but for the new segmentation {name}.").format(name=self._segmented)

    def _on_devices(self, devices: list[dict[str, Any]]) -> None:
        if self._parameters is not None:
            self.devices.set_devices(devices, self._parameters.device)

    def _show(self, result: AnalysisResult | SavedResult, nodes: AnalysisNodes, *, can_ask: bool) -> None:
        self.results.show(result, nodes, can_ask=can_ask)
        self.ui.resultsCollapsibleButton.collapsed = False

    # ---------------------------------------------------------------- the rest

    def load_sample(self) -> None:
        """Load the synthetic patient and choose it."""
        from ..sample_data import PhantomSample

        with shown_errors(_("The sample data was not loaded.")):
            self.progress.log(_("Loading the synthetic patient; it is generated the first time."))
            PhantomSample(slicer).load(
                blocking=False,
                on_done=self._on_sample,
                on_error=lambda error: show_error(_("The sample data was not loaded."), error),
            )

    def install_wheels(self) -> None:
        """Install the Python packages without a network, from a folder that the user chooses."""
        from ..dependencies import DependencyInstaller

        chosen = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Choose the folder of wheels"))
        if not chosen:
            return
        with shown_errors(_("The packages were not installed.")):
            if DependencyInstaller(slicer).ensure(wheels=Path(chosen)) == "ready":
                self.progress.log(_("All Python packages are installed."))
                slicer.util.infoDisplay(_("All Python packages are installed."))

    def _start_worker(self) -> None:
        """All inputs are chosen, so that an analysis is likely: the worker's imports run meanwhile."""
        from ..dependencies import DependencyInstaller

        self.warmed_up = True
        if self._logic.busy or slicer.app.testingEnabled() or not DependencyInstaller(slicer).plan().complete:
            return
        try:
            self._logic.startWorker()
        except CTGroundedVLMError as error:
            self.progress.log(str(error))  # said again, in a box, when Analyze is clicked

    def _on_sample(self, nodes: Any) -> None:
        parameters = self._parameters
        if parameters is not None:
            with slicer.util.NodeModify(parameters.parameterNode):
                parameters.inputVolume, parameters.inputSegmentation = nodes.volume, nodes.segmentation
                parameters.reportNode, parameters.segmentAutomatically = nodes.report, False

    def _on_section(self, collapsed: bool) -> None:
        if not collapsed:
            self.results.matches.refresh()

    def _on_matches_changed(self) -> None:
        if self.results.result is not None:
            self.progress.log(_("A segment is read as something else now: analyze again to use it."))

    def on_scene_closing(self) -> None:
        """End what runs, and let go of the nodes."""
        if self._logic.busy:
            self._logic.analysis.cancel()
        self._restoring = None
        self.results.clear(scene_is_closing=True)
        self.results.show_segmentation(None)
        self.report.forget()

    def close(self) -> None:
        """The panel is destroyed. Every part is ended, also where another one cannot be."""
        self._warm_up.stop()
        self._restoring = None
        with contextlib.ExitStack() as ends:  # the last one first
            ends.callback(self.results.clear)
            ends.callback(self.report.forget)
            ends.callback(self._input_nodes.close)
            ends.callback(self.models.close)

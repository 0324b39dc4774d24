"""CTGroundedVLM in 3D Slicer: module, parameter node, panel and logic. Wiring only; the work is done in CTGroundedVLMLib.

Nothing heavy is imported here or by the panel: inference runs in a process of its own (CTGroundedVLMLib.worker).
"""
# ruff: noqa: N802, PT009  (Slicer's naming and test class)

import contextlib
import enum
import logging
import unittest
from typing import Annotated

import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class CTGroundedVLM(ScriptedLoadableModule):
    """Describes the module to Slicer."""

    def __init__(self, parent) -> None:
        super().__init__(parent)
        self.parent.title = "CTGroundedVLM"
        self.parent.categories = ["Informatics"]
        self.parent.dependencies = []
        self.parent.contributors = ["CTGroundedVLM contributors"]
        self.parent.helpText = _(
            "Links the segments of a CT to the sentences of its radiology report, scores findings per organ with a "
            "fine-grained vision-language model, and shows where in the organ the image speaks for a finding. "
            "Research use only; not a medical device. No data leaves this computer."
        )
        self.parent.acknowledgementText = _(
            "Method: Shui et al., Large-scale and Fine-grained Vision-language Pre-training for Enhanced CT Image "
            "Understanding, ICLR 2025. Segmentation: Wasserthal et al., TotalSegmentator, Radiology: AI 2023."
        )
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """Register the sample data; go on with an installation that Slicer was restarted for."""
    from CTGroundedVLMLib.widget.startup import start_up

    start_up()


class AnalysisMode(enum.Enum):
    """How organs are put into the model's windows; names are pipeline.AnalysisOptions.mode."""

    shared = 1
    reference = 2

    def label(self) -> str:
        """What the panel says."""
        return _("Shared windows (fast)") if self is AnalysisMode.shared else _("One window per organ (as released)")


@parameterNodeWrapper
class CTGroundedVLMParameterNode:
    """The panel's choices, saved with the scene.

    ``model``: what ``find_model`` takes, "" for the first of the list. ``device``: "auto", "cpu", "cuda" or "cuda:N".
    """

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    inputSegmentation: slicer.vtkMRMLSegmentationNode
    segmentAutomatically: bool = False
    reportNode: slicer.vtkMRMLTextNode
    model: str = ""
    device: str = "auto"
    mode: AnalysisMode = AnalysisMode.shared
    heatmapCount: Annotated[int, WithinRange(0, 20)] = 4
    heatmapOpacity: Annotated[float, WithinRange(0.0, 1.0)] = 0.5


class CTGroundedVLMWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: parts of CTGroundedVLMLib.widget, tied to the parameter node and the logic."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._guiTag = None
        self.panel = None

    def setup(self) -> None:
        """Load the .ui file and connect everything; called once, when the module is opened first."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CTGroundedVLM.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        named = {w.property("SlicerParameterName"): w for w in vars(self.ui).values()}
        self._parameterWidgets = {name: w for name, w in named.items() if name}
        uiWidget.setMRMLScene(slicer.mrmlScene)
        from CTGroundedVLMLib.widget.panel import Panel

        self.logic = CTGroundedVLMLogic()
        self.panel = Panel(self.ui, slicer.mrmlScene, self.logic)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReady)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReady)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """The panel is about to be destroyed: end the worker and forget all observers, whatever else fails."""
        with contextlib.ExitStack() as ends:  # the last one first, and all of them
            ends.callback(self.removeObservers)
            if self.panel is not None:  # None: setup() has failed
                ends.callback(self.panel.close)
                ends.callback(self.setParameterNode, None)
            if self.logic is not None:
                ends.callback(self.logic.close)

    def onReload(self) -> None:
        """Developer mode's Reload, of the library as well."""
        from CTGroundedVLMLib.widget.reloading import loaded_anew

        with loaded_anew(__name__):
            ScriptedLoadableModuleWidget.onReload(self)

    def enter(self) -> None:
        """The user opens the module."""
        if self.panel is not None:  # None: setup() has failed, and has said why
            self.initializeParameterNode()

    def exit(self) -> None:
        """The user goes to another module: do not follow the parameter node; a running analysis goes on."""
        if self.panel is not None:
            self.setParameterNode(None)

    def onSceneStartClose(self, caller, event) -> None:
        """Everything that is shown, and what is being analysed, is about to go."""
        self.panel.on_scene_closing()
        self.setParameterNode(None)

    def onSceneReady(self, caller, event) -> None:
        """The scene was closed: begin anew. Or one was loaded: show its analysis again."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Take the scene's parameter node, and choose what there is to choose."""
        self.setParameterNode(self.logic.getParameterNode())
        self.panel.choose_defaults()
        self.panel.show_saved_analysis()

    def setParameterNode(self, parameterNode: CTGroundedVLMParameterNode | None) -> None:
        """Connect the widgets with this parameter node, and with no other."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode = parameterNode
        self.panel.set_parameter_node(parameterNode)
        if parameterNode is not None:
            # connectGui() would find the same widgets, but in Slicer 5.12 it returns no tag to disconnect them by
            self._guiTag = parameterNode.connectParametersToGui(self._parameterWidgets)
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
            self.onParametersModified()

    def onParametersModified(self, caller=None, event=None) -> None:
        """A choice has changed, by the user or by a script."""
        self.panel.update_from_parameter_node()


class CTGroundedVLMLogic(ScriptedLoadableModuleLogic):
    """Analyses nodes of the scene; for the panel and for scripts. Shows no dialogs.

    ``onLog`` gets the worker's log, line by line.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.onLog = logging.info
        self._analysis = self._client = None

    def getParameterNode(self) -> CTGroundedVLMParameterNode:
        """The scene's parameter node in a new wrapper: connectParametersToGui() leaves an observer behind in the old one."""
        return CTGroundedVLMParameterNode(super().getParameterNode())

    @property
    def analysis(self):
        """The running parts (CTGroundedVLMLib.widget.scene_analysis.SceneAnalysis), made when they are needed first."""
        if self._analysis is None:
            from CTGroundedVLMLib.analysis_job import AnalysisService
            from CTGroundedVLMLib.process_qt import QProcessRunner, QtScheduler, pythonProgram
            from CTGroundedVLMLib.widget.scene_analysis import SceneAnalysis
            from CTGroundedVLMLib.worker_client import WorkerClient

            scheduler = QtScheduler()
            self._client = WorkerClient(
                QProcessRunner, python=pythonProgram(), on_log=lambda line: self.onLog(line), call_later=scheduler.call_later
            )  # fmt: skip
            self._analysis = SceneAnalysis(AnalysisService(self._client, scheduler), scheduler, slicer.mrmlScene)
        return self._analysis

    @property
    def busy(self) -> bool:
        """Whether an analysis or a question is under way."""
        return self._analysis is not None and self._analysis.busy

    def startWorker(self) -> None:
        """Start the worker ahead of the first analysis: its imports take some seconds."""
        if self.analysis is not None:  # which makes the client
            self._client.start()

    @property
    def workerPid(self) -> int | None:
        """The worker's process id, for a process monitor; None where none has started."""
        return self._client.pid if self._client is not None else None

    def analyze(
        self, volumeNode, segmentationNode=None, report="", model="", device="auto", options=None, onDone=None,
        onError=None, onProgress=None, onCancelled=None,
    ):  # fmt: skip
        """Analyse a CT and put the result's nodes into the scene.

        :param segmentationNode: None: TotalSegmentator makes one.
        :param report: the report's text, or its vtkMRMLTextNode.
        :param model: "untrained", the name of a model or a model folder; "": the first installed one, else "starter".
        :param options: fields of CTGroundedVLMLib.pipeline.AnalysisOptions, e.g. {"mode": "reference", "heatmaps": 8}.
        :param onDone: called with the result; without it this method blocks and returns the result.
        :param onError: called with the error where onDone is given; without onDone errors are raised.
        :return: CTGroundedVLMLib.types.AnalysisResult, or None with onDone. The nodes: ``logic.analysis.nodes``.
        """
        from CTGroundedVLMLib.widget.scene_analysis import Outcome, inputs_of, settings_of

        inputs, settings = inputs_of(volumeNode, segmentationNode, report), settings_of(model, device, options)
        outcome = Outcome(onDone, onError, onProgress, onCancelled)
        self._waitForDevices()
        self.analysis.analyze(inputs, settings, outcome.listener)
        return outcome.wait(self.analysis) if onDone is None else None

    def ask(self, organ, text, onDone, onError) -> None:
        """Score a finding in free words in the last analysed CT; ``onDone(CTGroundedVLMLib.exchange.Answer)`` follows.

        :param organ: None: the organ that the words name.
        """
        self._waitForDevices()
        self.analysis.ask(organ, text, onDone, onError)

    def requestHeatmap(self, organ, finding, onDone, onError) -> None:
        """Add the heatmap of a scored finding to the scene; ``onDone(Heatmap)`` follows."""
        self._waitForDevices()
        self.analysis.heatmap(organ, finding, onDone, onError)

    def goToCitation(self, volumeNode, citation) -> None:
        """Show the image that a report cites: of this volume, or of another loaded one.

        :param citation: CTGroundedVLMLib.types.Citation.
        """
        from CTGroundedVLMLib.widget.cited_images import go_to_citation

        go_to_citation(slicer.mrmlScene, volumeNode, citation)

    def heatmap(self, result, organ, text):
        """Score a finding in free words in an organ of the last analysis; blocks. Its volume node is added to the scene.

        :return: CTGroundedVLMLib.types.Heatmap.
        """
        return self.answer(result, organ, text).heatmap

    def answer(self, result, organ, text):
        """As ``heatmap``; returns CTGroundedVLMLib.exchange.Answer: score, heatmap, and what the report says of it."""
        from CTGroundedVLMLib.errors import InputError
        from CTGroundedVLMLib.widget.scene_analysis import Outcome

        if self.analysis.result is not result or result is None:
            raise InputError("The encoded image of this result is no longer in memory. Analyze the CT again.")
        outcome = Outcome()
        self.ask(organ, text, outcome.done, outcome.failed)
        return outcome.wait(self.analysis)

    def requestDevices(self, onDone) -> None:
        """Ask an idle worker which devices this computer has; ``onDone`` gets them (see worker_requests.hello)."""
        if self._client is not None and self._client.state == "idle":
            self._client.request(
                "hello", {}, on_progress=lambda stage, fraction: None,
                on_done=lambda value: onDone(value["devices"]), on_error=lambda error: self.onLog(str(error)),
            )  # fmt: skip

    def _waitForDevices(self) -> None:
        """The worker takes one request at a time: let it answer ``requestDevices`` first (a few milliseconds)."""
        if self._client is not None and not self.busy:
            self._client.wait(5.0)

    def close(self) -> None:
        """End the worker and remove temporary files."""
        if self._analysis is not None:
            self._analysis.close()


class CTGroundedVLMTest(ScriptedLoadableModuleTest):
    """The scenario of the tutorial on the sample data, for a real Slicer with the Python packages installed."""

    def setUp(self) -> None:
        """An empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        """Run all tests."""
        self.setUp()
        try:
            self.test_SamplePatient()
        except unittest.SkipTest as skipped:  # here nobody else takes it for what it is
            self.delayDisplay(str(skipped))

    def test_SamplePatient(self) -> None:
        """Analyse, ask, save nothing: nodes and numbers are there, and the scene keeps its inputs."""
        from CTGroundedVLMLib.dependencies import DependencyInstaller
        from CTGroundedVLMLib.sample_data import PhantomSample

        if not DependencyInstaller(slicer).plan().complete:
            self.skipTest("The Python packages are not installed")
        self.delayDisplay("Load the synthetic patient")
        sample = PhantomSample(slicer).load()
        logic = CTGroundedVLMLogic()
        try:
            self.delayDisplay("Analyze it with the untrained model")
            result = logic.analyze(sample.volume, sample.segmentation, report=sample.report, model="untrained")
            self.assertFalse(result.model.trained)
            self.assertTrue(any(score.probability is not None for score in result.findings))
            self.assertTrue(any("liver" in link.segments for link in result.links))
            self.assertEqual(len(logic.analysis.nodes.heatmaps), len(result.heatmaps))
            heatmap = logic.heatmap(result, "liver", "hypodense lesion")
            self.assertEqual(heatmap.organ, "liver")
            self.assertIn(("liver", "hypodense lesion"), logic.analysis.nodes.heatmaps)
        finally:
            logic.close()
        self.delayDisplay("Test passed")

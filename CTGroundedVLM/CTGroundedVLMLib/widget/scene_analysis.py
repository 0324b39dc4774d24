"""Analyses nodes of the scene in the worker and puts the result into the scene, in small steps. No Qt here.

What ``analysis_job.AnalysisService`` is for a case, this is for nodes: the panel and the console drive it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import slicer

from ..analysis_job import AnalysisService, JobSettings, Scheduler
from ..errors import CTGroundedVLMError, InputError
from ..exchange import Answer
from ..folders import cache_folder
from ..models_admin import list_models
from ..mrml_io import AnalysisNodes, MrmlCaseSource, add_heatmap_steps, add_segmentation, show_steps
from ..mrml_io.scene_edit import remove_node
from ..types import AnalysisResult, Heatmap

OnError = Callable[[CTGroundedVLMError], None]


@dataclass(frozen=True)
class Inputs:
    """What is analysed. ``segmentation`` None: TotalSegmentator makes one, which becomes a node with the result.

    ``report_node``: the text node that ``report`` is from, if any; ``report_source``: what to call its origin.
    """

    volume: slicer.vtkMRMLScalarVolumeNode | None
    segmentation: slicer.vtkMRMLSegmentationNode | None
    report: str = ""
    report_node: slicer.vtkMRMLTextNode | None = None
    report_source: str = ""


def inputs_of(
    volume: slicer.vtkMRMLScalarVolumeNode | None,
    segmentation: slicer.vtkMRMLSegmentationNode | None,
    report: str | slicer.vtkMRMLTextNode,
) -> Inputs:
    """The inputs that these nodes are; ``report``: its text, or its node."""
    if isinstance(report, slicer.vtkMRMLTextNode):
        return Inputs(volume, segmentation, report.GetText() or "", report, report.GetName())
    return Inputs(volume, segmentation, report)


def settings_of(model: str, device: str, options: Mapping[str, Any] | None) -> JobSettings:
    """The settings of a job; ``model`` "": the first of the list, ``options``: fields of ``pipeline.AnalysisOptions``."""
    return JobSettings(
        model or list_models()[0].choice, device, {"cache_folder": str(cache_folder())} | dict(options or {})
    )


@dataclass(frozen=True)
class Listener:
    """Who is told of an analysis: any number of ``on_progress``, then one of the others."""

    on_progress: Callable[[str, float], None]
    on_done: Callable[[AnalysisResult, AnalysisNodes], None]
    on_error: OnError
    on_cancelled: Callable[[], None]


class SceneAnalysis:
    """One analysis at a time. ``result`` and ``nodes``: the last one that the worker still holds, or None."""

    def __init__(self, service: AnalysisService, scheduler: Scheduler, scene: slicer.vtkMRMLScene) -> None:
        self._service, self._scheduler, self._scene = service, scheduler, scene
        self._steps: Generator[float, None, Any] | None = None
        self._after: Callable[[Any], None] = lambda value: None
        self._failed: OnError = lambda error: None
        self._listener: Listener | None = None
        self._inputs: Inputs | None = None
        self._observer: int | None = None
        self.result: AnalysisResult | None = None
        self.nodes: AnalysisNodes | None = None

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return self._steps is not None or self._service.state != "idle"

    @property
    def analyzing(self) -> bool:
        """Whether an analysis (not a question) is under way."""
        return self._listener is not None

    def analyze(self, inputs: Inputs, settings: JobSettings, listener: Listener) -> None:
        """Analyse; the scene changes when the result is there only, and is as before where it is cancelled or fails.

        Raises:
            InputError: something is under way already. Everything else goes to ``listener.on_error``.
        """
        if self.busy:
            raise InputError("An analysis is running: cancel it first.")
        source = MrmlCaseSource(inputs.volume, inputs.segmentation, inputs.report, inputs.report_source)
        self._inputs, self._listener = inputs, listener
        self.result = self.nodes = None  # the worker drops its encoded image
        self._observer = self._scene.AddObserver(self._scene.NodeRemovedEvent, self._on_node_removed)
        self._service.analyze(
            source,
            replace(settings, segment=inputs.segmentation is None),
            on_progress=listener.on_progress,
            on_done=self._on_result,
            on_error=self._on_error,
            on_cancelled=self._on_cancelled,
        )

    def ask(self, organ: str | None, text: str, on_done: Callable[[Answer], None], on_error: OnError) -> None:
        """Score a question in free words and add its heatmap to the scene. organ None: the one that the words name."""
        self._refuse_if_busy()
        self._service.ask(
            organ,
            text,
            on_progress=lambda stage, fraction: None,
            on_done=lambda answer: self._add(answer.heatmap, answer, lambda: on_done(answer), on_error),
            on_error=on_error,
        )

    def heatmap(self, organ: str, finding: str, on_done: Callable[[Heatmap], None], on_error: OnError) -> None:
        """Add the heatmap of a finding of the analysis to the scene."""
        self._refuse_if_busy()
        self._service.heatmap(
            organ,
            finding,
            on_progress=lambda stage, fraction: None,
            on_done=lambda heatmap: self._add(heatmap, None, lambda: on_done(heatmap), on_error),
            on_error=on_error,
        )

    def cancel(self) -> None:
        """End what is under way, the worker too; the scene is as it was before."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()
        if self._service.state != "idle":
            self.result = self.nodes = None  # a question's cancelling ends the worker as well
            self._service.cancel()
        elif self._listener is not None:
            self._on_cancelled()

    def wait(self) -> None:
        """Block until nothing is under way (for the console)."""
        self._service.wait()
        while self._steps is not None:
            self._step(self._steps)

    def close(self) -> None:
        """Cancel, end the worker, remove temporary files."""
        try:
            self.cancel()  # which tells the listener
        finally:
            self.result = self.nodes = None
            self._service.close()

    # ---------------------------------------------------------------- after the worker

    def _on_result(self, result: AnalysisResult) -> None:
        listener, inputs = self._listener, self._inputs

        def shown(nodes: AnalysisNodes) -> None:
            self._end()
            self.result, self.nodes = result, nodes
            listener.on_done(result, nodes)

        self._run(self._show(result, inputs), shown, self._on_error)

    def _show(self, result: AnalysisResult, inputs: Inputs) -> Generator[float, None, AnalysisNodes]:
        segmentation, made = inputs.segmentation, None
        if segmentation is None:
            name = f"{inputs.volume.GetName()} segmentation"
            made = segmentation = add_segmentation(self._scene, result.case.segmentation, inputs.volume, name)
        try:
            return (yield from show_steps(result, self._scene, inputs.volume, segmentation, inputs.report_node))
        except BaseException:  # also GeneratorExit: cancelled
            if made is not None and made.GetScene() is self._scene:
                remove_node(self._scene, made)
            raise

    def _add(self, heatmap: Heatmap, answer: Answer | None, shown: Callable[[], None], on_error: OnError) -> None:
        if self.nodes is None:
            on_error(InputError("The analysis that was asked about is gone. Analyze the CT again."))
            return
        said = (answer.score, answer.comparison) if answer is not None else ()
        self._run(add_heatmap_steps(self.nodes, heatmap, self._scene, *said), lambda node: shown(), on_error)

    def _run(self, steps: Generator[float, None, Any], after: Callable[[Any], None], failed: OnError) -> None:
        self._steps, self._after, self._failed = steps, after, failed
        self._scheduler.call_soon(lambda: self._step(steps))

    def _step(self, steps: Generator[float, None, Any]) -> None:
        """One step; those of a job that has ended meanwhile are dropped."""
        if steps is not self._steps:
            return
        try:
            next(steps)
        except StopIteration as end:
            self._steps = None
            self._after(end.value)
            return
        except CTGroundedVLMError as error:
            self._steps = None
            self._failed(error)
            return
        except BaseException:
            self._steps = None
            self._end()  # a mistake of ours: it shows, and the next analysis works
            raise
        self._scheduler.call_soon(lambda: self._step(steps))

    # ---------------------------------------------------------------- ends

    def _on_error(self, error: CTGroundedVLMError) -> None:
        listener = self._listener
        self._end()
        listener.on_error(error)

    def _on_cancelled(self) -> None:
        listener = self._listener
        self._end()
        listener.on_cancelled()

    def _end(self) -> None:
        if self._observer is not None:
            self._scene.RemoveObserver(self._observer)
        self._observer = self._listener = self._inputs = None

    def _on_node_removed(self, _scene: slicer.vtkMRMLScene, _event: str) -> None:
        """Stop at once where an input was deleted, rather than after minutes."""
        inputs, listener = self._inputs, self._listener
        if inputs is None or self._scene.IsClosing():
            return
        for what, node in (("CT", inputs.volume), ("segmentation", inputs.segmentation)):
            if node is not None and node.GetScene() is None:
                self._listener = replace(listener, on_cancelled=lambda: None)
                self.cancel()
                text = f"The {what} {node.GetName()} was deleted while it was analysed. The analysis was stopped."
                listener.on_error(InputError(f"{text} Load it again and analyze it."))
                return

    def _refuse_if_busy(self) -> None:
        if self.busy:
            raise InputError("An analysis is running: wait for it, or cancel it first.")


class Outcome:
    """What comes of a job that a script started: handed to its callbacks, or waited for."""

    def __init__(
        self,
        on_done: Callable[[Any], None] | None = None,
        on_error: OnError | None = None,
        on_progress: Callable[[str, float], None] | None = None,
        on_cancelled: Callable[[], None] | None = None,
    ) -> None:
        self._on_done, self._on_error = on_done, on_error
        self._on_progress, self._on_cancelled = on_progress, on_cancelled
        self._value: Any = None
        self._error: CTGroundedVLMError | None = None

    @property
    def listener(self) -> Listener:
        """For ``SceneAnalysis.analyze``."""
        return Listener(
            on_progress=self._on_progress or (lambda stage, fraction: None),
            on_done=lambda result, nodes: self.done(result),
            on_error=self.failed,
            on_cancelled=self._on_cancelled or (lambda: None),
        )

    def done(self, value: Any) -> None:
        """The job succeeded."""
        self._value = value
        if self._on_done is not None:
            self._on_done(value)

    def failed(self, error: CTGroundedVLMError) -> None:
        """The job failed."""
        self._error = error
        if self._on_error is not None:
            self._on_error(error)

    def wait(self, analysis: SceneAnalysis) -> Any:
        """Block until the job is over; returns its value or raises its error."""
        analysis.wait()
        if self._error is not None:
            raise self._error
        return self._value

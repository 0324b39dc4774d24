"""What the panel and the console drive: hand a case over, run it in the worker, ask more of it, cancel.

No Qt and no Slicer here: ``process_qt`` and ``mrml_io`` give the parts that need them; ``case_sources`` has parts for
files. Every method but ``wait`` and ``close`` returns at once, every callback comes in the thread that drives the service,
and no step of the hand-over or of reading the result takes longer than some milliseconds.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from .errors import CTGroundedVLMError, InputError, OutputError
from .exchange import CASE, Answer, ResultReader, read_answer
from .types import AnalysisResult, Heatmap
from .worker_client import WorkerClient

State = Literal["idle", "handing over", "running"]
OnProgress = Callable[[str, float], None]
OnError = Callable[[CTGroundedVLMError], None]
OnAnswer = Callable[[Answer], None]


class CaseSource(Protocol):
    """Where a case comes from: the scene, or files."""

    def check(self) -> None:
        """Cheap refusals (a CTGroundedVLMError), before anything is written."""

    def hand_over(self, folder: Path) -> Iterator[float]:
        """Write ``case.json`` into ``folder`` by ``exchange.CaseWriter``, step by step; yields the fraction done (0..1).

        Raises InputError if a node has disappeared meanwhile, OutputError if the disk is full.
        """


class Scheduler(Protocol):
    """Calls back later, in the same thread."""

    def call_soon(self, function: Callable[[], None]) -> None:
        """Call ``function`` when other events have had their turn."""


@dataclass(frozen=True)
class JobSettings:
    """How to analyse.

    ``model``: "untrained", a model folder or an installed model's name. ``options``: fields of ``pipeline.AnalysisOptions``
    as JSON can hold them. ``segment``: let TotalSegmentator make the segmentation where the source hands none over.
    """

    model: str
    device: str = "auto"
    options: Mapping[str, object] = field(default_factory=dict)
    segment: bool = False


# the part of a job's progress that each stage of it takes
_SHARES = {"hand over": (0.0, 0.05), "analyze": (0.05, 0.95), "show": (0.95, 1.0)}


@dataclass
class _Job:
    """What is under way: ``steps`` until the worker has all it needs, and again when its result is read."""

    folder: Path
    on_progress: OnProgress
    on_error: OnError
    on_cancelled: Callable[[], None]
    steps: Iterator[float] | None = None
    stage: str = ""
    after_steps: Callable[[], None] = lambda: None

    def report(self, stage: str, fraction: float) -> None:
        """Progress within the present stage, as a fraction of the whole job."""
        low, high = _SHARES.get(self.stage, (0.0, 1.0))
        self.on_progress(stage, low + (high - low) * fraction)


class AnalysisService:
    """One worker, one job at a time. ``state``: "idle", "handing over" or "running".

    The callbacks of a job: any number of ``on_progress`` (stage, fraction 0..1), then exactly one of ``on_done``,
    ``on_error`` and, for a cancelled one, ``on_cancelled`` (at once, from within ``cancel``). The state is "idle" before they
    are called, so that they may start the next job.

    Args:
        folder: where the temporary folder is made; None for the system's.
    """

    def __init__(self, client: WorkerClient, scheduler: Scheduler, *, folder: Path | None = None) -> None:
        self._client, self._scheduler, self._parent = client, scheduler, folder
        self._root: Path | None = None
        self._job: _Job | None = None
        self._kept: Path | None = None  # the folder of the analysis that the worker keeps ready for questions
        self._count = 0

    @property
    def state(self) -> State:
        """What the service is doing."""
        if self._job is None:
            return "idle"
        return "handing over" if self._job.stage == "hand over" else "running"

    def analyze(
        self,
        source: CaseSource,
        settings: JobSettings,
        *,
        on_progress: OnProgress,
        on_done: Callable[[AnalysisResult], None],
        on_error: OnError,
        on_cancelled: Callable[[], None],
    ) -> None:
        """Hand the case over, step by step, and analyse it in the worker.

        Arrays of the result are maps of files that stay until the next analysis or ``close`` (and, but for Windows, for as
        long as somebody uses them). Raises InputError where a job is under way; everything else goes to ``on_error``.
        """
        self._refuse_second()
        try:
            source.check()
            folder = self._new_folder("analysis")
        except CTGroundedVLMError as error:
            on_error(error)
            return
        arguments = {
            "case_json": str(folder / "case" / CASE),
            "folder": str(folder / "result"),
            "model": settings.model,
            "device": settings.device,
            "options": dict(settings.options),
            "segment": settings.segment,
        }
        job = _Job(folder, on_progress, on_error, on_cancelled)
        self._job = job
        self._client.start()  # its imports run while the volumes are written
        self._run_steps(
            job,
            "hand over",
            source.hand_over(folder / "case"),
            lambda: self._request(job, "analyze", arguments, lambda value: self._read(job, value["result"], on_done)),
        )

    def ask(
        self, organ: str | None, text: str, *, on_progress: OnProgress, on_done: OnAnswer, on_error: OnError
    ) -> None:
        """Score ``text`` in ``organ`` of the case analysed last, localize it, and compare it with the report.

        organ None: the one that the text names.

        Raises:
            InputError: a job is under way already. Everything else goes to ``on_error``, also an organ that is not scored.
        """
        self._answer("ask", {"organ": organ, "text": text}, on_progress, on_done, on_error)

    def heatmap(
        self,
        organ: str,
        finding: str,
        *,
        on_progress: OnProgress,
        on_done: Callable[[Heatmap], None],
        on_error: OnError,
    ) -> None:
        """The heatmap of a finding of the case analysed last. Errors: as ``ask``."""
        arguments = {"organ": organ, "finding": finding}
        self._answer("heatmap", arguments, on_progress, lambda answer: on_done(answer.heatmap), on_error)

    def cancel(self) -> None:
        """End the job, the worker and its children, and remove what was handed over; nothing happens when idle.

        During the hand-over the worker has no part in the job yet: it stays, and so does what it keeps for questions.
        """
        job = self._job
        if job is None:
            return
        in_worker = self.state == "running"
        self._end(job)
        if in_worker:
            self._client.cancel()
        job.on_cancelled()

    def wait(self) -> None:
        """Block until the job is done (for the console); callbacks come from within. Ctrl-C cancels it."""
        try:
            while (job := self._job) is not None:
                if job.steps is not None:
                    self._step(job)
                else:
                    self._client.wait(0.1)
        except KeyboardInterrupt:
            self.cancel()
            raise

    def close(self) -> None:
        """Cancel, end the worker, and remove all temporary files."""
        self.cancel()
        self._client.close()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
        self._root = self._kept = None

    def _refuse_second(self) -> None:
        if self._job is not None:
            running = "An analysis" if self._job.folder != self._kept else "A question"
            raise InputError(f"{running} is running: cancel it first.")

    def _answer(
        self, name: str, arguments: dict[str, Any], on_progress: OnProgress, on_done: OnAnswer, on_error: OnError
    ) -> None:
        self._refuse_second()
        if self._kept is None:
            on_error(InputError("There is no analysed image to ask about. Analyze the CT first."))
            return
        self._count += 1
        arguments |= {"folder": str(self._kept / "answers"), "file": f"answer-{self._count}"}
        job = _Job(self._kept, on_progress, on_error, lambda: None)
        self._job = job

        def deliver(value: Mapping[str, Any]) -> None:
            answer = read_answer(Path(value["answer"]))
            self._job = None
            on_done(answer)

        self._request(job, name, arguments, deliver)

    def _request(self, job: _Job, name: str, arguments: Mapping[str, Any], on_value: Callable[[Any], None]) -> None:
        def take(value: Any) -> None:
            try:
                on_value(value)
            except CTGroundedVLMError as error:
                self._fail(job, error)

        job.stage, job.steps = name, None
        if self._client.state == "starting":
            job.report("start the worker", 0.0)
        self._client.request(
            name,
            arguments,
            on_progress=job.report,
            on_done=take,
            on_error=lambda error: self._fail(job, error),
        )

    def _read(self, job: _Job, path: str, on_done: Callable[[AnalysisResult], None]) -> None:
        reader = ResultReader(Path(path))

        def deliver() -> None:
            self._job = None
            _remove(self._kept)
            self._kept = job.folder
            on_done(reader.result)

        self._run_steps(job, "show", reader.steps(), deliver)

    def _run_steps(self, job: _Job, stage: str, steps: Iterator[float], after: Callable[[], None]) -> None:
        job.stage, job.steps, job.after_steps = stage, steps, after
        self._scheduler.call_soon(lambda: self._step(job, steps))

    def _step(self, job: _Job, steps: Iterator[float] | None = None) -> None:
        """One step; ``steps``: those that were scheduled, of a job that may have ended or moved on since."""
        if job is not self._job or (steps is not None and steps is not job.steps):
            return
        steps = job.steps
        try:
            fraction = next(steps, None)
        except CTGroundedVLMError as error:
            self._fail(job, error)
            return
        except BaseException:
            self._end(job)  # a mistake of ours: it shows, and the next job works
            raise
        if fraction is None:
            job.steps = None
            job.after_steps()
            return
        job.report(job.stage, fraction)
        self._scheduler.call_soon(lambda: self._step(job, steps))

    def _fail(self, job: _Job, error: CTGroundedVLMError) -> None:
        if job is self._job:
            self._end(job)
            job.on_error(error)

    def _end(self, job: _Job) -> None:
        self._job = None
        if job.steps is not None and hasattr(job.steps, "close"):
            job.steps.close()
        job.steps = None
        if job.folder != self._kept:
            _remove(job.folder)

    def _new_folder(self, name: str) -> Path:
        try:
            if self._root is None:
                self._root = Path(tempfile.mkdtemp(prefix="ctgvlm-", dir=self._parent))
            self._count += 1
            folder = self._root / f"{name}-{self._count}"
            folder.mkdir()
        except OSError as error:
            raise OutputError(
                f"No temporary folder can be made in {self._parent or tempfile.gettempdir()} ({error.strerror or error}). Make "
                "space on that disk, or choose another folder for temporary files."
            ) from error
        return folder


def _remove(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)

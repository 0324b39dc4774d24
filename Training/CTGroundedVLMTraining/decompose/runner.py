"""Runs a decomposer over many reports, in threads, into a journal."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from CTGroundedVLMLib.errors import DependencyError

from .chat import ReportFailure
from .journal import Journal
from .records import Decomposition, OrganDescription, ReportText

Decomposer = Callable[[str], dict[str, OrganDescription]]

GIVE_UP = 20  # a server that is gone, or a model that cannot answer, must not use up the whole corpus


@dataclass(frozen=True)
class Summary:
    """Counts of reports: made in this run, of these failed, and finished before."""

    made: int
    failed: int
    earlier: int


def decompose(
    reports: Sequence[ReportText],
    decomposer: Decomposer,
    journal: Journal,
    settings: Mapping[str, object],
    *,
    threads: int = 1,
    stop: threading.Event | None = None,
    progress: Callable[[int, int, int], None] = lambda made, failed, total: None,
) -> Summary:
    """Decompose what the journal lacks; lines come in the order in which reports are finished.

    ``progress(made, failed, total)`` after each report. ``stop`` is set when the run ends early, to end waits.

    Raises:
        DependencyError: report after report failed; all are in the journal.
    """
    stop = stop or threading.Event()
    pending = journal.pending(list(reports))
    made = failed = in_a_row = 0
    try:
        for report, organs, error in _results(pending, decomposer, threads, stop):
            if error is not None and not isinstance(error, ReportFailure):
                raise error
            in_a_row = in_a_row + 1 if error is not None and report.text.strip() else 0
            journal.append(Decomposition(report, settings, organs or {}, None if error is None else str(error)))
            made, failed = made + 1, failed + (error is not None)
            progress(made, failed, len(pending))
            if in_a_row >= GIVE_UP:
                raise DependencyError(
                    f"{in_a_row} reports in a row failed, the last: {error}. Correct the cause, then go on with --retry-failed."
                )
    finally:
        stop.set()
    return Summary(made, failed, len(reports) - len(pending))


_Result = tuple[ReportText, dict[str, OrganDescription] | None, Exception | None]


def _results(
    pending: Sequence[ReportText], decomposer: Decomposer, threads: int, stop: threading.Event
) -> Iterator[_Result]:
    if threads == 1:
        for report in pending:
            yield _one(report, decomposer)
        return
    todo: queue.SimpleQueue[ReportText] = queue.SimpleQueue()
    results: queue.Queue[_Result] = queue.Queue()
    for report in pending:
        todo.put(report)
    for _ in range(min(threads, len(pending))):
        # daemon: an interrupted run ends now, not when the last answer has come
        threading.Thread(target=_work, args=(todo, results, decomposer, stop), daemon=True).start()
    for _ in pending:
        yield results.get()


def _work(
    todo: queue.SimpleQueue[ReportText], results: queue.Queue[_Result], decomposer: Decomposer, stop: threading.Event
) -> None:
    while not stop.is_set():
        try:
            report = todo.get_nowait()
        except queue.Empty:
            return
        results.put(_one(report, decomposer))


def _one(report: ReportText, decomposer: Decomposer) -> _Result:
    if not report.text.strip():
        return report, None, ReportFailure("the report is empty")
    try:
        return report, decomposer(report.text), None
    except Exception as error:  # handed to the main thread, which records it or raises it again
        return report, None, error

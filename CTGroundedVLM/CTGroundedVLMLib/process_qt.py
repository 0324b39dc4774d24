"""Runs the worker by QProcess, and postpones calls by QTimer, for 3D Slicer. The only file beside the panel that uses Qt.

Written to PythonQt's documented API, for Qt 5 and 6: no keyword arguments, signals by their signature. ``qt`` can be passed
in, so that a test can run it on another binding.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import DependencyError
from .worker_runner import STOP_GRACE_S, UNKNOWN_EXIT, exit_code_of, kill_tree


def pythonProgram() -> str:  # noqa: N802  (Slicer's naming)
    """Slicer's Python: the interpreter ``python-real``, its launcher ``PythonSlicer``, or the interpreter that runs this.

    Raises:
        DependencyError: there is none of them.
    """
    # Why not PythonSlicer first, as pip_install and most extensions have it? They write nothing to its stdin, and the worker's
    # requests come that way. It is CTK's launcher, which runs python-real by a QProcess with forwarded output; its input is
    # handed on since commontk/AppLauncher's pull request 100, where that is reported not to work on Windows. python-real works
    # in an installed Slicer on Linux, Windows and macOS:
    # - It lies beside PythonSlicer everywhere (CMake/SlicerBlockInstallPython.cmake; on macOS with an rpath of its own).
    # - Slicer reads its launcher's settings also where no launcher has run, as on macOS, and sets what they hold: PATH with that
    #   folder, PYTHONHOME, PYTHONPATH, library paths (qSlicerCoreApplicationPrivate::init, SlicerBlockCTKAppLauncherSettings
    #   .cmake, External_python.cmake). On Windows sitecustomize.py adds the folders of DLLs from that (LibraryPaths).
    # - Slicer runs scripted command line modules by it in this same environment (findPython in
    #   qSlicerCLIExecutableModuleFactory.cxx).
    found = shutil.which("python-real") or shutil.which("PythonSlicer")
    if found:
        return found
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    raise DependencyError(
        "PythonSlicer was not found on the PATH, so that the analysis cannot run in a process of its own. Start 3D Slicer by "
        "its launcher (Slicer, not SlicerApp-real), or reinstall it."
    )


RELEASE_MS = 200  # until a QProcess that is still at work is asked again whether it can go
WATCH_MS = 1000  # between two looks at whether a process is still there
LOST_S = 1.0  # so long a process is gone before its end counts as one that no signal tells
_DELETED = ("already deleted", "destroyed")  # what PySide6 and PythonQt say of an object that is gone


class QProcessRunner:
    """A ``worker_runner.ProcessRunner`` on QProcess; events are delivered by Qt's event loop, or from within ``wait``.

    It also looks by itself whether the process is still there: in Slicer on Linux ``finished`` is reported not to come any more
    after a scripted command line module has run (discourse.slicer.org, topic 26534; the cause is not known).

    An application that ends deletes the QProcess, which kills the process and says "finished" for the last time. Nobody is
    told of that end unless the event loop turns again: who would listen is being deleted, too.

    Args:
        environment: the environment to start from (``slicer.util.startupEnvironment()``); None for the present one.
        qt: PythonQt's ``qt`` module.
        clock: the time in seconds.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, qt=None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if qt is None:
            import qt
        self._qt = qt
        self._environment = environment
        self._process = None
        self._clock = clock
        self._ended = False
        self._goneSince: float | None = None
        self._lost = False  # its end was found out here; the QProcess does not know of it
        self._deleted = False  # the QProcess was, by others
        self._depth = 0  # of calls from within the QProcess: a callback may run an event loop of its own
        self._pending = {"out": b"", "log": b""}
        self._callbacks: dict[str, Callable] = {}

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_log: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """See ProcessRunner."""
        self._callbacks = {"out": on_line, "log": on_log, "exit": on_exit}
        process = self._qt.QProcess()
        self._process = process
        process.setProcessEnvironment(self._processEnvironment(environment))
        process.connect("readyReadStandardOutput()", self._readOutput)
        process.connect("readyReadStandardError()", self._readLog)
        process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onError)
        process.start(command[0], list(command[1:]))
        self._qt.QTimer.singleShot(WATCH_MS, self._watch)

    def write(self, line: str) -> None:
        """See ProcessRunner."""
        if not self._ended:
            self._ask("write", line.encode("utf-8") + b"\n")

    def stop(self) -> None:
        """See ProcessRunner."""
        if self._process is None or self._ended:
            return
        # The worker takes it as the sign to end itself and its children: also where this process is only its launcher.
        self._ask("closeWriteChannel")
        self._qt.QTimer.singleShot(int(1000 * STOP_GRACE_S), self.kill)

    def wait(self, seconds: float) -> None:
        """See ProcessRunner."""
        if self._process is not None and not self._ended:
            self._ask("waitForReadyRead", int(1000 * seconds))
            self._checkEnd()
        self._tellDeleted()

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the QProcess; None where that was deleted, which is noted."""
        if self._process is None:
            return None
        try:
            return getattr(self._process, method)(*arguments)
        except (RuntimeError, ValueError) as error:  # of PySide6, of PythonQt
            if not any(words in str(error) for words in _DELETED):
                raise
        self._process, self._deleted = None, True
        self._qt.QTimer.singleShot(0, self._tellDeleted)
        return None

    def _tellDeleted(self) -> None:  # noqa: N802
        if self._deleted and not self._ended:
            self._ended = True
            self._callbacks["exit"](UNKNOWN_EXIT)

    def _processEnvironment(self, additions: Mapping[str, str]):  # noqa: N802
        if self._environment is None:
            environment = self._qt.QProcessEnvironment.systemEnvironment()
        else:
            environment = self._qt.QProcessEnvironment()
            for name, value in self._environment.items():
                environment.insert(name, value)
        for name, value in additions.items():
            environment.insert(name, value)
        return environment

    def _readOutput(self) -> None:  # noqa: N802
        self._deliver("out", _bytes(self._ask("readAllStandardOutput")))

    def _readLog(self) -> None:  # noqa: N802
        self._deliver("log", _bytes(self._ask("readAllStandardError")))

    def _deliver(self, kind: str, data: bytes) -> None:
        """Whole lines only: a chunk may end anywhere, also within a character."""
        *lines, self._pending[kind] = (self._pending[kind] + data).split(b"\n")
        self._depth += 1
        try:
            for line in lines:
                self._callbacks[kind](line.decode("utf-8", "replace").rstrip("\r"))
        finally:
            self._depth -= 1

    def _onFinished(self, exitCode, exitStatus) -> None:  # noqa: N802
        crashed = exitStatus == self._qt.QProcess.CrashExit
        self._end(-max(1, exitCode) if crashed else exitCode)

    def _watch(self) -> None:
        if not self._ended:
            self._checkEnd()
            self._qt.QTimer.singleShot(WATCH_MS, self._watch)

    def _checkEnd(self) -> None:  # noqa: N802
        """End the run of a process that is gone without a word."""
        if self._process is None or self._ended or self._depth:  # at depth the QProcess has something to say still
            return
        state = self._ask("state")
        if self._process is None:
            return
        if state == self._qt.QProcess.NotRunning:
            self._onFinished(self._process.exitCode(), self._process.exitStatus())
            return
        code = exit_code_of(int(self._process.processId()))
        if code is None:
            self._goneSince = None
        elif self._goneSince is None:
            self._goneSince = self._clock()  # "finished" may be on its way
        elif self._clock() - self._goneSince >= LOST_S:
            self._lost = True
            self._end(code)

    def _onError(self, error) -> None:  # noqa: N802
        if error == self._qt.QProcess.FailedToStart:  # after any other error "finished" comes
            self._callbacks["log"](f"The process cannot be started: {self._ask('errorString')}")
            self._end(127)

    def _end(self, code: int) -> None:
        if self._ended:
            return
        self._readOutput()
        self._readLog()
        for kind in ("out", "log"):
            self._deliver(kind, b"\n" if self._pending[kind] else b"")
        if self._ended or self._deleted:  # meanwhile, in an event loop that one of the callbacks has run
            return
        self._ended = True
        self._callbacks["exit"](code)
        self._qt.QTimer.singleShot(0, self._release)  # not now: this is called from within the QProcess

    def _release(self) -> None:
        """The connections to this object's methods hold it, and it holds the QProcess: let both go."""
        if self._depth:
            self._qt.QTimer.singleShot(RELEASE_MS, self._release)
            return
        if self._lost:  # or its destructor blocks for half a minute, waiting for what does not come
            self._ask("setProcessState", self._qt.QProcess.NotRunning)
        self._ask("deleteLater")
        self._process = None

    def kill(self) -> None:
        """See ProcessRunner."""
        if not self._ended and (pid := self._ask("processId")):
            kill_tree(int(pid))
            self._ask("kill")


def _bytes(array: Any) -> bytes:
    """Of a QByteArray; none of None. Its ``data()`` may be bytes, text, or None where it is empty: builds of PythonQt differ."""
    data = array.data() if array is not None else None
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    return bytes(data or b"")


class QtScheduler:
    """An ``analysis_job.Scheduler`` on Qt's event loop."""

    def __init__(self, qt=None) -> None:
        if qt is None:
            import qt
        self._qt = qt

    def call_soon(self, function: Callable[[], None]) -> None:
        """See Scheduler."""
        self._qt.QTimer.singleShot(0, function)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """See WorkerClient."""
        self._qt.QTimer.singleShot(int(1000 * seconds), function)

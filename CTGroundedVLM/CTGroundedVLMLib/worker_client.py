"""Talks to the worker process: starts it when it is needed, sends requests, and turns what comes back into callbacks.

No torch and no Qt: the process is run by a ProcessRunner. Nothing here blocks but ``wait`` and ``close``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import errors
from .errors import CTGroundedVLMError, DependencyError, InputError, ResourceError
from .worker_runner import UNKNOWN_EXIT, ProcessRunner, SubprocessRunner

ClientState = Literal["stopped", "starting", "idle", "busy"]
OnProgress = Callable[[str, float], None]
OnDone = Callable[[Any], None]
OnError = Callable[[CTGroundedVLMError], None]
CallLater = Callable[[float, Callable[[], None]], None]

MODULE = "CTGroundedVLMLib.worker"
CLOSE_S = 2.0
SHOWN_LOG_LINES = 3
# A request has its first answer within milliseconds of the worker being ready, and a worker that is still importing torch, for
# however long, gives a sign of life each second. So many seconds without either, and without a line of log, it hangs, or does
# not get what is written to it. Later a request may be silent for long: TotalSegmentator is.
SILENCE_S = 300.0
CHECK_S = 10.0
_MISSING = ("No module named", "ImportError", "DLL load failed")


class WorkerError(ResourceError):
    """The worker process ended by itself (it crashed, or the system killed it, mostly for want of memory), or hangs."""


@dataclass
class _Request:
    """The request under way. ``answered``: some event of it has come."""

    number: int
    line: str
    on_progress: OnProgress
    on_done: OnDone
    on_error: OnError
    sent_to_idle: bool
    answered: bool = False


class WorkerClient:
    """One worker process, one request at a time.

    Args:
        make_runner: makes the runner of one process; called for each start.
        python: the interpreter to run the worker with; None for the running one.
        on_log: gets the worker's log, line by line.
        call_later: calls a function after so many seconds, in the same thread (``process_qt.QtScheduler.call_later``). Without
            it a worker that never answers is noticed by ``wait`` only.
        clock: the time in seconds.
    """

    def __init__(
        self,
        make_runner: Callable[[], ProcessRunner] = SubprocessRunner,
        *,
        python: str | None = None,
        on_log: Callable[[str], None] | None = None,
        call_later: CallLater | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_runner, self._python = make_runner, python or sys.executable
        self._on_log = on_log or (lambda line: None)
        self._call_later, self._clock = call_later, clock
        self._silent_s, self._checked_s = 0.0, 0.0
        self._log: deque[str] = deque(maxlen=200)
        self._runner: ProcessRunner | None = None
        self._stopping: list[ProcessRunner] = []
        self._ready = False
        self._pid: int | None = None
        self._request: _Request | None = None
        self._count = 0

    @property
    def state(self) -> ClientState:
        """ "stopped"; "starting" until the worker has imported all it needs; then "busy" or "idle"."""
        if self._runner is None:
            return "stopped"
        if not self._ready:
            return "starting"
        return "busy" if self._request else "idle"

    @property
    def pid(self) -> int | None:
        """The worker's process id (not that of a launcher), once it has started."""
        return self._pid

    def start(self) -> None:
        """Start the process ahead of the first request, so that its imports run meanwhile."""
        if self._runner is None:
            self._start()

    def request(
        self, name: str, arguments: Mapping[str, Any], *, on_progress: OnProgress, on_done: OnDone, on_error: OnError
    ) -> None:
        """Send a request (see ``worker_requests``); exactly one of ``on_done`` and ``on_error`` follows, unless cancelled.

        Raises:
            InputError: another request is under way.
        """
        if self._request is not None:
            raise InputError("The worker is busy with another request: wait for it, or cancel it first.")
        if self._runner is not None:
            self._runner.wait(0)  # it may have ended since
        self._count += 1
        line = json.dumps({"id": self._count, "name": name, "arguments": dict(arguments)})
        self._request = _Request(self._count, line, on_progress, on_done, on_error, sent_to_idle=self.state == "idle")
        self._silent_s, self._checked_s = 0.0, self._clock()
        self.start()
        self._send()
        self._check_later(self._count)

    def cancel(self) -> None:
        """End the worker and its children; no callback of its request comes any more. The next request starts another."""
        self._request = None
        self._stop()

    def close(self) -> None:
        """``cancel``, then wait until the process has ended, by force after two seconds."""
        self.cancel()
        end = self._clock() + CLOSE_S
        while self._stopping and self._clock() < end:
            self._stopping[0].wait(0.02)
        for runner in self._stopping:
            runner.kill()

    def wait(self, timeout_s: float | None = None) -> None:
        """Block until no request is under way, or ``timeout_s`` is over."""
        end = self._clock() + timeout_s if timeout_s is not None else None
        while self._request is not None:
            left = 0.1 if end is None else min(0.1, end - self._clock())
            if left <= 0:
                return
            self._runner.wait(left)
            self._check_silence()

    def _check_later(self, number: int) -> None:
        """Check from time to time until the request of that number has an answer."""
        if self._call_later is not None and self._unanswered(number):
            self._call_later(CHECK_S, lambda: self._checked(number))

    def _checked(self, number: int) -> None:
        if self._unanswered(number):
            self._check_silence()
            self._check_later(number)

    def _unanswered(self, number: int) -> bool:
        return self._request is not None and self._request.number == number and not self._request.answered

    def _check_silence(self) -> None:
        """Give a worker up that has been silent for too long before its first answer."""
        if self._request is None or self._request.answered:
            return
        now = self._clock()
        # no more than that: while this application was blocked, or the computer asleep, nobody listened
        self._silent_s += min(now - self._checked_s, 2 * CHECK_S)
        self._checked_s = now
        if self._silent_s < SILENCE_S:
            return
        request, self._request = self._request, None
        self._stop()
        request.on_error(
            WorkerError(
                f"The worker process has given no sign of life for {SILENCE_S / 60:.0f} minutes and was ended ({self._python}). "
                "Try again. If it comes again, restart 3D Slicer, and see whether a virus scanner or a slow network drive "
                f"holds this program back.{self._log_tail()}"
            )
        )

    def _start(self) -> None:
        runner = self._make_runner()
        self._runner, self._ready, self._pid = runner, False, None
        self._log.clear()
        runner.start(
            [self._python, "-m", MODULE],
            worker_environment(),
            lambda line: self._take_line(runner, line),
            self._take_log,
            lambda code: self._take_exit(runner, code),
        )

    def _send(self) -> None:
        if self._runner is not None and self._request is not None:  # else it could not even be started
            self._runner.write(self._request.line)

    def _stop(self) -> None:
        if self._runner is not None:
            self._stopping.append(self._runner)  # kept alive until it has ended
            self._runner.stop()
        self._runner, self._ready, self._pid = None, False, None

    def _take_log(self, line: str) -> None:
        self._silent_s = 0.0
        self._log.append(line)
        self._on_log(line)

    def _take_line(self, runner: ProcessRunner, line: str) -> None:
        if runner is not self._runner:
            return  # of a worker that was cancelled
        self._silent_s = 0.0
        try:
            message = json.loads(line)
            event = message["event"]
        except (ValueError, KeyError, TypeError):
            self._take_log(line)
            return
        if event == "started":
            self._pid = message["pid"]
        elif event == "ready":
            self._ready = True
        elif self._request is not None and message.get("id") == self._request.number:
            self._take_answer(event, message)

    def _take_answer(self, event: str, message: Mapping[str, Any]) -> None:
        request = self._request
        request.answered = True
        if event == "progress":
            request.on_progress(message["stage"], message["fraction"])
            return
        self._request = None  # first: the callback may send the next request
        if event == "result":
            request.on_done(message["value"])
        else:
            request.on_error(_error_of(message["kinds"], message["message"]))

    def _take_exit(self, runner: ProcessRunner, code: int) -> None:
        if runner in self._stopping:
            self._stopping.remove(runner)
        if runner is not self._runner:
            return
        was_ready, pid = self._ready, self._pid
        self._runner, self._ready, self._pid = None, False, None
        _end_group(pid)
        request, self._request = self._request, None
        if request is None:
            return
        if request.sent_to_idle and not request.answered:
            # it had ended between two requests; nobody is to notice
            self._request = request
            request.sent_to_idle = False
            self._start()
            self._send()
            return
        request.on_error(self._exit_error(code, was_ready))

    def _log_tail(self) -> str:
        log = [line for line in self._log if line.strip()][-SHOWN_LOG_LINES:]
        return f" Its log ends: {' | '.join(log)}" if log else ""

    def _exit_error(self, code: int, was_ready: bool) -> CTGroundedVLMError:
        tail = self._log_tail()
        if not was_ready and any(word in tail for word in _MISSING):
            return DependencyError(
                f"The worker process could not start with {self._python}: a package is missing. In 3D Slicer, let the module "
                f"install its dependencies; elsewhere run: pip install ct-grounded-vlm.{tail}"
            )
        if not was_ready:
            return WorkerError(
                f"The worker process could not start ({_exit_text(code)}; {self._python}). Check the log, and that this "
                f"program is a working Python.{tail}"
            )
        return WorkerError(
            f"The worker process ended unexpectedly ({_exit_text(code)}), most often because the memory did not suffice. "
            "Choose the shared mode, or the CPU instead of a GPU, close other programs, or crop the volume; then try again: "
            f"a new worker starts by itself.{tail}"
        )


def worker_environment() -> dict[str, str]:
    """What the worker's environment holds beside the present one."""
    library = str(Path(__file__).resolve().parents[1])
    present = os.environ.get("PYTHONPATH")
    return {
        "PYTHONPATH": os.pathsep.join([library, present] if present else [library]),
        "PYTHONSAFEPATH": "1",  # or the current folder comes first, and a types.py in it hides Python's own
        "PYTHONUTF8": "1",
        "PYTHONFAULTHANDLER": "1",  # a crash leaves its traceback in the log
        # Slicer's folder of plug-ins for ITK, which are of its own ITK and not of SimpleITK's; Slicer empties it for its command
        # line modules as well (qSlicerCLIExecutableModuleFactory.cxx)
        "ITK_AUTOLOAD_PATH": "",
    }


def _error_of(kinds: list[str], message: str) -> CTGroundedVLMError:
    """The error of the family that the worker raised: the first of its classes, from itself upwards, that is known here."""
    for kind in kinds:
        found = getattr(errors, kind, None)
        if isinstance(found, type) and issubclass(found, CTGroundedVLMError):
            return found(message)
    return CTGroundedVLMError(message)


def _exit_text(code: int) -> str:
    if code == UNKNOWN_EXIT:
        return "exit code unknown"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _end_group(pid: int | None) -> None:
    """End the children that a crashed worker has left: they are of its process group. Windows has no such groups."""
    if pid is not None and hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)

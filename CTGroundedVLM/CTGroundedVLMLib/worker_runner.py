"""How a worker process is run and talked to: the Protocol, and the runner for any Python without an event loop."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol

STOP_GRACE_S = 3.0  # the worker ends itself within milliseconds of stdin's end, unless it hangs in foreign code
UNKNOWN_EXIT = 1 << 30  # no system's exit code: the process has ended, and nobody can tell how


class ProcessRunner(Protocol):
    """One process, once. Callbacks come in the thread that made the runner."""

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_log: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """Start ``command`` with ``environment`` added to the present one.

        ``on_line`` gets whole lines of stdout, ``on_log`` of stderr, both without their end; ``on_exit`` gets the exit
        code, negative after a crash, UNKNOWN_EXIT where nobody knows it, once and last. A command that cannot be started is
        logged, and exits with 127.
        """

    def write(self, line: str) -> None:
        """Write one line to stdin; nothing happens where the process has ended."""

    def stop(self) -> None:
        """End the process and its children, without waiting; ``on_exit`` follows."""

    def kill(self) -> None:
        """The same by force, for callers whose event loop ends: what ``stop`` does after a while by itself."""

    def wait(self, seconds: float) -> None:
        """For callers without an event loop: deliver what is pending, and wait at most ``seconds`` for something to be."""


class SubprocessRunner:
    """A ProcessRunner on ``subprocess``. Everything is delivered from within ``wait``."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._events: queue.SimpleQueue[tuple[Callable, object]] = queue.SimpleQueue()

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
        on_log: Callable[[str], None],
        on_exit: Callable[[int], None],
    ) -> None:
        """See ProcessRunner."""
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | dict(environment),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows
            )
        except OSError as error:
            self._events.put((on_log, f"{command[0]} cannot be started: {error}"))
            self._events.put((on_exit, 127))
            return
        readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, on_line), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, on_log), daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._await_exit, args=(readers, on_exit), daemon=True).start()

    def write(self, line: str) -> None:
        """See ProcessRunner."""
        if self._process is None:
            return
        with contextlib.suppress(OSError, ValueError):  # the process has gone, or stop() has closed the pipe
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()

    def stop(self) -> None:
        """See ProcessRunner."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # the worker takes it as the sign to end itself and its children
        timer = threading.Timer(STOP_GRACE_S, self.kill)
        timer.daemon = True
        timer.start()

    def wait(self, seconds: float) -> None:
        """See ProcessRunner."""
        with contextlib.suppress(queue.Empty):
            callback, argument = self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait()
            while True:
                callback(argument)
                callback, argument = self._events.get_nowait()

    def kill(self) -> None:
        """See ProcessRunner."""
        if self._process is not None and self._process.poll() is None:
            kill_tree(self._process.pid)
            self._process.kill()

    def _read(self, stream: IO[bytes], callback: Callable[[str], None]) -> None:
        for line in stream:
            self._events.put((callback, line.decode("utf-8", "replace").rstrip("\r\n")))

    def _await_exit(self, readers: Sequence[threading.Thread], on_exit: Callable[[int], None]) -> None:
        code = self._process.wait()
        for reader in readers:
            reader.join(1.0)  # a child that was left over may hold the pipes open
        self._events.put((on_exit, code))


def kill_tree(pid: int) -> None:
    """Kill a process that does not end by itself, and its children: it hangs, or is a launcher whose child does."""
    try:
        import psutil
    except ImportError:
        return  # the caller ends the process itself, and a worker ends with its stdin
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.Error):
                member.kill()


def exit_code_of(pid: int) -> int | None:
    """The exit code of a child process that has ended (negative: the signal), None while it runs; does not block.

    It is only looked at: who has started the process can still wait for it. UNKNOWN_EXIT where somebody has, and where the
    system cannot be asked for the code (Windows, and macOS before Python 3.13).
    """
    if pid <= 0:
        return None
    if not hasattr(os, "waitid"):
        return UNKNOWN_EXIT if _is_gone(pid) else None
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return UNKNOWN_EXIT if _is_gone(pid) else None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; without psutil nobody can tell, and it counts as running."""
    try:
        import psutil
    except ImportError:
        return False
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False

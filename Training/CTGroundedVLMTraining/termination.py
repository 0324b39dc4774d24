"""SIGTERM, a scheduler's time limit, outside of a run's steps: the command ends at once, with the exit code that means "go on".

In its steps a run answers it itself (``trainer``): the step at hand is finished and saved.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable
from functools import wraps

STOPPED = 10


class TerminatedError(KeyboardInterrupt):
    """A SIGTERM came; as with Ctrl-C, nothing that catches errors may take it for one."""


def going_on_after_sigterm(command: Callable[[Namespace], int]) -> Callable[[Namespace], int]:
    """A command that ends with ``STOPPED`` on a SIGTERM, whatever it is doing: it must be one that goes on when it is run again.

    While data and model are loaded there is nothing to save, and the last checkpoint stays.
    """

    @wraps(command)
    def run(arguments: Namespace) -> int:
        if threading.current_thread() is not threading.main_thread():
            return command(arguments)  # only the main thread may handle signals
        previous = signal.signal(signal.SIGTERM, _terminate)
        try:
            return command(arguments)
        except TerminatedError:
            if os.environ.get("RANK", "0") == "0":
                text = "stopped by SIGTERM; what was saved stays. Run the same command again to go on"
                print(f"ctgvlm-train: {text}", file=sys.stderr, flush=True)
            return STOPPED
        finally:
            signal.signal(signal.SIGTERM, previous)

    return run


def _terminate(signum: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut off what the first one leaves in order
    raise TerminatedError

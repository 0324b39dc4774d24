"""What both command lines share: errors become messages and exit codes in one place, signals end a run cleanly."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from .errors import CTGroundedVLMError


def run_command(
    program: str, build_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None, interrupted: str
) -> int:
    """Parse ``argv``, run the chosen command (``arguments.run``) and return the exit code.

    Args:
        interrupted: what to say after Ctrl-C, kill or a closed terminal (exit code 130).
    """
    previous = {number: signal.signal(number, _interrupt) for number in _stopping_signals()}
    try:
        arguments = build_parser().parse_args(argv)
        quiet_libraries()
        return arguments.run(arguments) or 0
    except CTGroundedVLMError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        return 130
    except MemoryError:
        print(f"{program}: error: not enough memory. Close other programs, or use smaller input.", file=sys.stderr)
        return 6
    except BrokenPipeError:
        # whoever read our output has gone (... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stopping_signals() -> list[int]:
    """kill, and a closed terminal: both are to leave nothing half-written, as Ctrl-C does. None outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def quiet_libraries() -> None:
    """Their notices are not for our users; and none of them may use the network."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

"""What went wrong in slots, observers and connections: PythonQt and VTK print it and go on, so tests must ask here."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType

collected: list[str] = []


def record(message: str) -> None:
    """Note a fault that Slicer would only print, and print it too."""
    collected.append(message)
    print(message, file=sys.stderr)


def record_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The excepthook of the stand-in: exceptions that leave a slot, a timer or a VTK observer end here."""
    record("".join(traceback.format_exception(kind, error, trace)))


def take() -> list[str]:
    """All faults since the last call; the list is empty afterwards."""
    taken = list(collected)
    collected.clear()
    return taken

"""Work in steps of a few milliseconds: a generator that yields between them, so that a GUI thread can do other things."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

Value = TypeVar("Value")


def finished(steps: Generator[Any, None, Value]) -> Value:
    """Run a generator to its end at once; returns its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value

"""Qt properties of the stand-in's own widgets: declared to Qt, so .ui files, ``property()`` and attributes all see them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from PySide6 import QtCore


def start(widget: QtCore.QObject) -> SimpleNamespace:
    """The state of a stand-in object, in the one attribute that the rules let it have."""
    widget._d = SimpleNamespace(values={})
    return widget._d


def stored(kind: Any, name: str, default: Any, after: Callable[[Any], None] | None = None) -> QtCore.Property:
    """A property that keeps its value; ``after(widget)`` runs when it changed. Lists are kept as lists (QStringList)."""

    def read(self: Any) -> Any:
        return self._d.values.get(name, default)

    def write(self: Any, value: Any) -> None:
        if read(self) != value:
            self._d.values[name] = value
            if after is not None:
                after(self)

    return QtCore.Property(kind, read, write)

"""The module ``qt``: PySide6's classes under PythonQt's flat name, with the few that differ replaced."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from qt_standin import dialogs, ui_loader

_SOURCES = (QtWidgets, QtGui, QtCore, QtUiTools)
_PYSIDE_ONLY = {"Slot", "Property", "SIGNAL", "SLOT", "ClassInfo", "QtMsgType", "__version__", "Signal"}
_REPLACED = {
    "QUiLoader": ui_loader.QUiLoader,
    "QFileDialog": dialogs.QFileDialog,
    "QMessageBox": dialogs.QMessageBox,
    "QInputDialog": dialogs.QInputDialog,
}


def _lookup(name: str) -> Any:
    if name in _REPLACED:
        return _REPLACED[name]
    if name not in _PYSIDE_ONLY:
        for source in _SOURCES:
            if hasattr(source, name):
                return getattr(source, name)
    raise AttributeError(f"module 'qt' (stand-in for PythonQt) has no attribute '{name}'")


def make() -> types.ModuleType:
    """The module object to put into ``sys.modules``."""
    module = types.ModuleType("qt", __doc__)
    module.__getattr__ = _lookup
    return module

"""One test's Slicer: the stand-in modules in ``sys.modules``, a real scene, the application, and a loaded panel."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import slicer.util
from PySide6 import QtCore, QtWidgets

from qt_standin import (
    application,
    ctk_module,
    dialogs,
    errors,
    members,
    node_combo_box,
    packaging_module,
    parameter_node,
    qt_module,
    sample_data_module,
    scripted_module,
    segment_widgets,
)
from slicer_scene import SlicerScene, a_scene

_SLICER_CLASSES = (
    node_combo_box.qMRMLWidget, node_combo_box.qMRMLNodeComboBox, segment_widgets.qMRMLSegmentsTableView,
    scripted_module.qSlicerScriptedLoadableModule, scripted_module.qSlicerScriptedLoadableModuleWidget,
)  # fmt: skip


def install() -> application.qSlicerApplication:
    """Put the stand-in modules into ``sys.modules`` and make the application; once per process, harmless again."""
    if getattr(slicer, "app", None) is not None:
        return slicer.app
    _keep_constants_alive()
    members.patch()
    i18n = types.ModuleType("slicer.i18n", "Stand-in: no translation.")
    i18n.tr = lambda text: text
    i18n.translate = lambda context, text: text
    added = {
        "qt": qt_module.make(),
        "ctk": ctk_module.make(),
        "SampleData": sample_data_module.make(),
        "slicer.i18n": i18n,
        "slicer.packaging": packaging_module.make(),
        "slicer.parameterNodeWrapper": parameter_node.make(),
        "slicer.ScriptedLoadableModule": scripted_module.make(),
    }
    sys.modules.update(added)
    for name, module in added.items():
        if name.startswith("slicer."):
            setattr(slicer, name.partition(".")[2], module)
    for cls in _SLICER_CLASSES:
        setattr(slicer, cls.__name__, cls)
    slicer.util.delayDisplay = lambda message, *_rest, **_options: logging.info(message)
    slicer.app = application.qSlicerApplication()
    slicer.modules = types.SimpleNamespace()
    sys.excepthook = errors.record_exception  # PySide6 and VTK end here with exceptions in slots and observers
    return slicer.app


def _keep_constants_alive() -> None:
    """Before Python 3.12, PySide6 6.12 releases a reference to None with every call that returns nothing.

    It counts on constants that live for ever, as they do from 3.12 on; the interpreter aborts when None is freed.
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


class Session:
    """A running Slicer as far as a panel sees it."""

    def __init__(self, booted: SlicerScene) -> None:
        self.booted, self.scene = booted, booted.scene
        self.app = install()
        self.app.bind(booted)
        self.main_window = application.qSlicerMainWindow()
        slicer.modules = types.SimpleNamespace()
        for name in self.app.moduleManager().factoryManager().loadedModuleNames():
            setattr(slicer.modules, name.lower(), self.app.moduleManager().module(name))
        self._open: scripted_module.qSlicerScriptedLoadableModule | None = None
        self.longest_stall_s = 0.0  # of the event loop, while waiting: what a user feels as a frozen window

    def load(self, path: Path) -> scripted_module.qSlicerScriptedLoadableModule:
        """Load a module file, as Slicer does at its start; the panel is not made yet."""
        module = scripted_module.qSlicerScriptedLoadableModule(path)
        self.app.moduleManager()._d.modules[module.name] = module
        setattr(slicer.modules, module.name.lower(), module)
        setattr(slicer.modules, f"{module.name}Instance", module.self())
        self.app.moduleManager().moduleLoaded.emit(module.name)
        return module

    def start_up(self) -> None:
        """What happens after all modules are loaded."""
        self.app.startupCompleted.emit()

    def open(self, module: scripted_module.qSlicerScriptedLoadableModule) -> Any:
        """Switch to the module: its Python widget, set up, entered and shown."""
        representation = module.widgetRepresentation()
        self._open = module
        setattr(slicer.modules, f"{module.name}Widget", representation.self())
        representation.enter()
        representation.show()
        self.process_events()
        return representation.self()

    def leave(self) -> None:
        """Switch to another module: the panel shows that one's widget instead."""
        self._open.widgetRepresentation().exit()
        self._open.widgetRepresentation().hide()
        self.process_events()

    def unload(self) -> None:
        """Slicer exits: the module cleans up and its widget goes."""
        if self._open is not None:
            representation = self._open.widgetRepresentation()
            self.app.moduleManager().moduleAboutToBeUnloaded.emit(self._open.name)
            representation.close()
            representation.deleteLater()
            self._open = None
        self._delete_what_is_due()

    def close(self) -> None:
        """Unload, and let the main window go."""
        self.unload()
        self.main_window.deleteLater()
        self._delete_what_is_due()

    def _delete_what_is_due(self) -> None:
        self.process_events()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)

    def process_events(self) -> None:
        """Let timers and posted events run once."""
        QtWidgets.QApplication.processEvents()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 60, what: str = "") -> None:
        """Run the event loop until ``condition()``; an AssertionError names what did not come.

        CTGVLM_TEST_PATIENCE multiplies the time: where other programs have the processor, a worker's start takes minutes.
        """
        timeout_s *= float(os.environ.get("CTGVLM_TEST_PATIENCE", "1"))
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s:g} s in vain for {what or condition}"
            start = time.perf_counter()
            QtWidgets.QApplication.processEvents()
            self.longest_stall_s = max(self.longest_stall_s, time.perf_counter() - start)
            time.sleep(0.002)


@contextmanager
def a_session(folder: Path) -> Iterator[Session]:
    """A session over a new scene in ``folder``; at its end no slot, observer or connection may have failed."""
    install()
    QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
    QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(folder))
    errors.take()
    dialogs.reset()
    sample_data_module.registered.clear()
    packaging_module.calls.clear()
    packaging_module.fail_with.clear()
    with a_scene(folder) as booted:
        session = Session(booted)
        try:
            yield session
        finally:
            session.close()
    faults, unasked = errors.take(), dialogs.reset()
    assert not faults, "faults that Slicer would only print:\n" + "\n".join(faults)
    assert not unasked, f"answers that no dialog asked for: {unasked}"

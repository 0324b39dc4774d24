"""Stand-in for ``slicer.app``, ``slicer.modules`` and what hangs on them, over a scene booted from slicer-core."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from PySide6 import QtCore, QtWidgets

from qt_standin.io_manager import qSlicerCoreIOManager
from qt_standin.layout import LayoutManager
from qt_standin.members import cpp
from qt_standin.qt_properties import start, stored


@cpp
class qSlicerModuleFactoryManager(QtCore.QObject):
    """Names of the loaded modules."""

    def __init__(self, modules: dict[str, Any]) -> None:
        super().__init__()
        start(self).modules = modules

    def loadedModuleNames(self) -> list[str]:
        return list(self._d.modules)

    def isLoaded(self, name: str) -> bool:
        return name in self._d.modules


@cpp
class qSlicerModuleManager(QtCore.QObject):
    """The loaded modules, and the signals of their life."""

    moduleLoaded = QtCore.Signal(str)
    moduleAboutToBeUnloaded = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        state = start(self)
        state.modules = {}
        state.factory = qSlicerModuleFactoryManager(state.modules)

    def module(self, name: str) -> Any:
        return self._d.modules.get(name)

    def factoryManager(self) -> qSlicerModuleFactoryManager:
        return self._d.factory


class CppModule:
    """A C++ module such as Segmentations: its name and its real logic from slicer-core."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name = self.title = name
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


class ExtensionsManagerModel:
    """Knows which extensions a test says are installed, and which the module asked to install."""

    def __init__(self) -> None:
        self.installed: set[str] = set()
        self.asked_for: list[str] = []
        self.server_has: set[str] = set()
        self.interactive = True

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.installed

    def installExtensionFromServer(self, name: str, *_options: bool) -> bool:
        """True and installed if the test lets the server have it."""
        self.asked_for.append(name)
        if name in self.server_has:
            self.installed.add(name)
        return name in self.server_has


@cpp
class qSlicerApplication(QtWidgets.QApplication):
    """The application: one per process, bound to a new scene by every session."""

    startupCompleted = QtCore.Signal()
    documentationBaseUrl = stored(str, "documentationBaseUrl", "https://slicer.readthedocs.io/en/latest/")
    slicerHome = stored(str, "slicerHome", "")
    temporaryPath = stored(str, "temporaryPath", "")
    extensionsInstallPath = stored(str, "extensionsInstallPath", "")
    repositoryRevision = stored(str, "repositoryRevision", "31053")
    revision = stored(str, "revision", "31053")
    majorVersion = stored(int, "majorVersion", 5)
    minorVersion = stored(int, "minorVersion", 13)

    def __init__(self) -> None:
        super().__init__(["Slicer (stand-in)"])
        start(self).testing = False
        self.setApplicationName("Slicer")
        self.setOrganizationName("NA-MIC")
        self.setApplicationVersion("5.13.0-2026-08-01")
        self.setStyle("Fusion")

    def bind(self, booted: Any) -> None:
        """Take over a scene booted by ``slicer_scene``."""
        state = self._d
        state.booted, state.manager = booted, qSlicerModuleManager()
        state.extensions, state.layout = ExtensionsManagerModel(), LayoutManager(booted)
        for name, logic in booted.logics.items():
            state.manager._d.modules[name] = CppModule(name, logic)
        self.temporaryPath = self.slicerHome = str(booted.folder)

    def moduleManager(self) -> qSlicerModuleManager:
        return self._d.manager

    def layoutManager(self) -> LayoutManager:
        return self._d.layout

    def coreIOManager(self) -> qSlicerCoreIOManager:
        return qSlicerCoreIOManager()

    def applicationLogic(self) -> Any:
        return self._d.booted.application

    def mrmlScene(self) -> Any:
        return self._d.booted.scene

    def extensionsManagerModel(self) -> ExtensionsManagerModel:
        return self._d.extensions

    def testingEnabled(self) -> bool:
        return self._d.testing

    def processEvents(self) -> None:
        QtWidgets.QApplication.processEvents()

    def userSettings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def settings(self) -> QtCore.QSettings:
        return QtCore.QSettings()

    def commandOptions(self) -> SimpleNamespace:
        return SimpleNamespace(testingEnabled=self._d.testing, noMainWindow=False)

    def moduleDocumentationUrl(self, name: str) -> str:
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def translate(self, context: str, text: str) -> str:
        return text

    def pauseRender(self) -> None:
        """Nothing is rendered here."""

    def resumeRender(self) -> None:
        """Nothing is rendered here."""

    def restart(self) -> None:
        """Noted, not done."""
        self._d.values["restarts"] = self._d.values.get("restarts", 0) + 1


@cpp
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """There is one, so that messages are shown."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        start(self).selected = []

    def moduleSelector(self) -> Any:
        return SimpleNamespace(selectModule=self._d.selected.append, selectedModule=(self._d.selected or [""])[-1])

"""Stand-in for ``slicer.ScriptedLoadableModule`` and the C++ objects that hold a scripted module and its widget."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

import importlib.util
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from qt_standin.members import cpp
from qt_standin.node_combo_box import qMRMLWidget
from qt_standin.qt_properties import start, stored


@cpp
class qSlicerScriptedLoadableModule(QtCore.QObject):
    """The C++ side of a scripted module: what a module's ``parent`` is."""

    name = stored(str, "name", "")
    path = stored(str, "path", "")
    title = stored(str, "title", "")
    helpText = stored(str, "helpText", "")
    acknowledgementText = stored(str, "acknowledgementText", "")
    categories = stored("QStringList", "categories", [])
    contributors = stored("QStringList", "contributors", [])
    dependencies = stored("QStringList", "dependencies", [])
    associatedNodeTypes = stored("QStringList", "associatedNodeTypes", [])
    hidden = stored(bool, "hidden", False)
    index = stored(int, "index", -1)
    widgetRepresentationCreationEnabled = stored(bool, "widgetRepresentationCreationEnabled", True)
    icon = stored(QtGui.QIcon, "icon", None)

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = start(self)
        self.name, self.path = path.stem, str(path)
        state.widget = None
        state.python_module = _import(path)
        state.python_self = getattr(state.python_module, path.stem)(self)

    def self(self) -> Any:
        """The Python object that describes the module."""
        return self._d.python_self

    def pythonModule(self) -> types.ModuleType:
        """The module file as imported (not in Slicer; for tests)."""
        return self._d.python_module

    def widgetRepresentation(self) -> Any:
        if self._d.widget is None:
            self._d.widget = qSlicerScriptedLoadableModuleWidget(self._d.python_module, self.name)
        return self._d.widget

    def logic(self) -> Any:
        return slicer.vtkSlicerScriptedLoadableModuleLogic()


def _import(path: Path) -> types.ModuleType:
    """Import a module file as Slicer does: its folder on ``sys.path``, the file's name as the module's name."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@cpp
class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The C++ side of a module's panel: it calls the Python widget's setup, enter and exit."""

    def __init__(self, python_module: types.ModuleType, name: str) -> None:
        super().__init__()
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.setMRMLScene(slicer.mrmlScene)
        self._d.entered = False
        self._d.python_self = getattr(python_module, name + "Widget")(self)
        self._d.python_self.setup()

    def self(self) -> Any:
        """The Python widget."""
        return self._d.python_self

    @property
    def isEntered(self) -> bool:
        """Whether the user looks at the module; set before the Python widget is told."""
        return self._d.entered

    def enter(self) -> None:
        self._d.entered = True
        self._d.python_self.enter()

    def exit(self) -> None:
        self._d.entered = False
        self._d.python_self.exit()

    def reload(self) -> None:
        """What ``slicer.util.reloadScriptedModule`` ends with: another Python widget, set up; entered is not called."""
        name = self._d.python_self.moduleName
        self._d.python_self = getattr(sys.modules[name], name + "Widget")(self)
        setattr(slicer.modules, name + "Widget", self._d.python_self)
        self._d.python_self.setup()


class ScriptedLoadableModule:
    """Base class of a module's description."""

    def __init__(self, parent: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title, parent.helpText, parent.acknowledgementText = "", "", ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        for extension in (".svg", ".png"):
            icon = Path(self.resourcePath(f"Icons/{self.moduleName}{extension}"))
            if icon.is_file():
                parent.icon = QtGui.QIcon(str(icon))
                break

    def resourcePath(self, filename: str) -> str:
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        return f'<p>For more information see the <a href="{docPage or self.moduleName}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **keywords: Any) -> None:
        """Run the module's test class."""
        case = getattr(sys.modules[type(self).__module__], self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**keywords)


class ScriptedLoadableModuleWidget:
    """Base class of a module's panel."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            self.parent = qMRMLWidget()
            self.parent.setLayout(QtWidgets.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        """Overridden by the module."""

    def enter(self) -> None:
        """Overridden by the module."""

    def exit(self) -> None:
        """Overridden by the module."""

    def cleanup(self) -> None:
        """Overridden by the module."""

    def onReload(self) -> None:
        """Developer mode's button: Slicer's own function, which loads the module's file, and nothing else, anew."""
        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """Base class of a module's logic: finds or makes the parameter node."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """The scene's parameter node of this module, made if there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)  # closing the scene may have removed it
                return node
        known = self.getAllParameterNodes()
        return (
            known[0]
            if known and not self.isSingletonParameterNode
            else slicer.mrmlScene.AddNode(self.createParameterNode())
        )

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode", slicer.mrmlScene)
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        """A new parameter node, not yet in the scene."""
        node = slicer.vtkMRMLScriptedModuleNode()
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base class of a module's test."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.messageDelay = 0

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        slicer.util.delayDisplay(message, msec or 0)

    def runTest(self) -> None:
        """Overridden by the module."""


def make() -> types.ModuleType:
    """The module ``slicer.ScriptedLoadableModule``."""
    module = types.ModuleType("slicer.ScriptedLoadableModule", __doc__)
    classes = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    module.__all__ = [cls.__name__ for cls in classes]
    for cls in classes:
        setattr(module, cls.__name__, cls)
    return module

"""Stand-in for ``qMRMLWidget`` and ``qMRMLNodeComboBox`` over a real MRML scene."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

from typing import Any

import vtk
from PySide6 import QtCore, QtWidgets

from qt_standin.members import cpp
from qt_standin.qt_properties import start, stored
from qt_standin.ui_loader import custom_widget


@custom_widget
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows its scene and tells its children."""

    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        start(self).scene = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._d.scene:
            self._d.scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._d.scene


class SceneObserver:
    """Calls back with the node of a scene's events until released; holds no scene alive."""

    def __init__(self) -> None:
        self._tags: list[tuple[Any, int]] = []

    def observe(self, subject: Any, event: int, function: Any, *, with_node: bool = True) -> None:
        """``function(node)`` for events that carry a node, ``function(None)`` otherwise."""

        def deliver(caller: Any, name: str, node: Any = None) -> None:
            function(node)

        if with_node:
            deliver.CallDataType = vtk.VTK_OBJECT
        self._tags.append((subject, subject.AddObserver(event, deliver)))

    def release(self) -> None:
        """Remove all observers."""
        for subject, tag in self._tags:
            subject.RemoveObserver(tag)
        self._tags.clear()


@cpp
class qMRMLSortFilterProxyModel(QtCore.QObject):
    """What a node selector leaves out; here only by the nodes' IDs."""

    def __init__(self, parent: QtCore.QObject) -> None:
        super().__init__(parent)
        start(self).changed = lambda: None

    hiddenNodeIDs = stored("QStringList", "hiddenNodeIDs", [], lambda self: self._d.changed())


@custom_widget
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Lists the scene's nodes of the wanted classes and keeps one current; follows the scene."""

    currentNodeChanged = QtCore.Signal((object,), (bool,))
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAddedByUserAction = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        state = start(self)
        state.scene, state.current, state.attributes = None, None, []
        state.observer, state.names, state.updating = SceneObserver(), SceneObserver(), False
        state.filter = qMRMLSortFilterProxyModel(self)
        state.filter._d.changed = self._refresh
        state.box = QtWidgets.QComboBox(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(state.box)
        state.box.connect("currentIndexChanged(int)", self._box_changed)
        state.box.connect("activated(int)", lambda index: self.nodeActivated.emit(self.currentNode()))
        self.destroyed.connect(state.observer.release)
        self.destroyed.connect(state.names.release)
        self._refresh()

    # ------------------------------------------------------------------ scene
    def mrmlScene(self) -> Any:
        return self._d.scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._d.scene:
            return
        self._d.observer.release()
        self._d.scene = scene
        if scene is not None:
            observe = self._d.observer.observe
            observe(scene, scene.NodeAddedEvent, self._on_added)
            observe(scene, scene.NodeAboutToBeRemovedEvent, self._on_about_to_be_removed)
            observe(scene, scene.NodeRemovedEvent, lambda node: self._refresh())
            observe(scene, scene.EndBatchProcessEvent, lambda node: self._refresh(), with_node=False)
        self._refresh()
        self.mrmlSceneChanged.emit(scene)

    def _on_added(self, node: Any) -> None:
        if self._d.scene.IsBatchProcessing() or not self._shows(node):
            return
        self._refresh()
        self.nodeAdded.emit(node)

    def _on_about_to_be_removed(self, node: Any) -> None:
        if node is not None and self._shows(node):
            self.nodeAboutToBeRemoved.emit(node)
        if node is not None and node is self._d.current:
            others = [n for n in self.nodes() if n is not node]
            self._select(others[0] if others and not self.noneEnabled else None)

    def _shows(self, node: Any) -> bool:
        values = self._d.values  # plain: this is asked of every node at every change of the scene
        if node is None or (node.GetHideFromEditors() and not values.get("showHidden", False)):
            return False
        of_class = node.IsA if values.get("showChildNodeTypes", True) else node.GetClassName().__eq__
        if not any(of_class(kind) for kind in values.get("nodeTypes", ())):
            return False
        if any(node.IsA(kind) for kind in values.get("hideChildNodeTypes", ())):
            return False
        if node.GetID() in self._d.filter._d.values.get("hiddenNodeIDs", ()):
            return False
        return all(_matches(node, name, value) for kind, name, value in self._d.attributes if node.IsA(kind))

    def sortFilterProxyModel(self) -> qMRMLSortFilterProxyModel:
        return self._d.filter

    # ------------------------------------------------------------------ list
    def nodes(self) -> list[Any]:
        scene = self._d.scene
        if scene is None:
            return []
        return [n for i in range(scene.GetNumberOfNodes()) if self._shows(n := scene.GetNthNode(i))]

    def nodeCount(self) -> int:
        return len(self.nodes())

    def nodeFromIndex(self, index: int) -> Any:
        nodes = self.nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def _refresh(self) -> None:
        nodes, state = self.nodes(), self._d
        state.updating = True
        state.names.release()
        state.box.clear()
        if self.noneEnabled:
            state.box.addItem(self.noneDisplay)
        for node in nodes:
            state.box.addItem(node.GetName())
            state.names.observe(node, vtk.vtkCommand.ModifiedEvent, lambda _n: self._rename(), with_node=False)
        state.updating = False
        state.box.setEnabled(state.scene is not None)
        if state.current not in nodes:
            state.current, changed = None, state.current is not None
            if nodes and not self.noneEnabled:
                self._select(nodes[0])
            elif changed:
                self._emit()
        self._show_current()

    def _rename(self) -> None:
        first = int(self.noneEnabled)
        for index, node in enumerate(self.nodes()):
            self._d.box.setItemText(index + first, node.GetName())

    def _show_current(self) -> None:
        nodes, state = self.nodes(), self._d
        state.updating = True
        row = (
            nodes.index(state.current) + int(self.noneEnabled)
            if state.current in nodes
            else 0
            if self.noneEnabled
            else -1
        )
        state.box.setCurrentIndex(row)
        state.updating = False

    def _box_changed(self, index: int) -> None:
        if not self._d.updating:
            nodes = self.nodes()
            row = index - int(self.noneEnabled)
            self._select(nodes[row] if 0 <= row < len(nodes) else None)

    # ------------------------------------------------------------------ current node
    def currentNode(self) -> Any:
        return self._d.current

    def setCurrentNode(self, node: Any) -> None:
        if isinstance(node, str):
            self.setCurrentNodeID(node)
            return
        if node is not None and not hasattr(node, "IsA"):
            raise ValueError(f"Could not find matching overload for setCurrentNode({type(node).__name__})")
        self._select(node if node in self.nodes() else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._select(next((n for n in self.nodes() if n.GetID() == node_id), None))

    def setCurrentNodeIndex(self, index: int) -> None:
        self._select(self.nodeFromIndex(index))

    def _select(self, node: Any) -> None:
        if node is not self._d.current:
            self._d.current = node
            self._show_current()
            self._emit()

    def _emit(self) -> None:
        node = self._d.current
        bound = object.__getattribute__(self, "currentNodeChanged")  # PySide6's own signal, to choose the overload
        bound[object].emit(node)
        bound[bool].emit(node is not None)
        self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def addNode(self, node_type: str = "") -> Any:
        """What "Create new" does."""
        kind = node_type or self.nodeTypes[0]
        base = self.baseName or self._d.scene.GetTagByClassName(kind)
        node = self._d.scene.AddNewNodeByClass(kind, self._d.scene.GenerateUniqueName(base))
        for attribute_kind, name, value in self._d.attributes:
            if node.IsA(attribute_kind) and value is not None:
                node.SetAttribute(name, str(value))
        if self.selectNodeUponCreation:
            self._select(node)
        self.nodeAddedByUser.emit(node)
        self.nodeAddedByUserAction.emit(node)
        return node

    def removeCurrentNode(self) -> None:
        self._d.scene.RemoveNode(self._d.current)

    def addAttribute(self, kind: str, name: str, value: Any = None) -> None:
        self._d.attributes.append((kind, name, value))
        self._refresh()

    def removeAttribute(self, kind: str, name: str) -> None:
        self._d.attributes = [a for a in self._d.attributes if a[:2] != (kind, name)]
        self._refresh()

    # nodeTypes as QStringList, the rest as in qMRMLNodeComboBox.h
    nodeTypes = stored("QStringList", "nodeTypes", [], lambda self: self._refresh())
    hideChildNodeTypes = stored("QStringList", "hideChildNodeTypes", [], lambda self: self._refresh())
    showHidden = stored(bool, "showHidden", False, lambda self: self._refresh())
    showChildNodeTypes = stored(bool, "showChildNodeTypes", True, lambda self: self._refresh())
    noneEnabled = stored(bool, "noneEnabled", False, lambda self: self._refresh())
    noneDisplay = stored(str, "noneDisplay", "None", lambda self: self._refresh())
    baseName = stored(str, "baseName", "")
    addEnabled = stored(bool, "addEnabled", True)
    removeEnabled = stored(bool, "removeEnabled", True)
    editEnabled = stored(bool, "editEnabled", False)
    renameEnabled = stored(bool, "renameEnabled", False)
    selectNodeUponCreation = stored(bool, "selectNodeUponCreation", True)
    interactionNodeSingletonTag = stored(str, "interactionNodeSingletonTag", "")
    currentNodeID = QtCore.Property(
        str, lambda self: self._d.current.GetID() if self._d.current is not None else "", setCurrentNodeID
    )


def _matches(node: Any, name: str, value: Any) -> bool:
    found = node.GetAttribute(name)
    return found is not None and (value is None or found == str(value))

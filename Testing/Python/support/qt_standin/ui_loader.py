"""``qt.QUiLoader`` for Slicer's .ui files: knows the stand-ins for ctk's and Slicer's widgets and their connections."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from qt_standin import errors, members, signals
from qt_standin.members import cpp

custom_widgets: dict[str, type[QtWidgets.QWidget]] = {}


def custom_widget(cls: type) -> type:
    """Class decorator: a C++ widget of ctk or Slicer that a .ui file may name."""
    custom_widgets[cls.__name__] = cpp(cls)
    return cls


@cpp
class QUiLoader(QtUiTools.QUiLoader):
    """Loads a .ui; connections are made afterwards in Python, for PySide6 does not know VTK's pointers."""

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget | None:
        """The top widget, or None with a fault recorded."""
        tree = ElementTree.fromstring(bytes(device.readAll().data()))
        unknown = {e.findtext("class") for e in tree.iter("customwidget")} - custom_widgets.keys()
        used = {e.get("class") for e in tree.iter("widget")}
        if unknown & used:
            errors.record(f"QUiLoader: no stand-in for {sorted(unknown & used)}; known are {sorted(custom_widgets)}")
            return None
        connections = list(tree.iter("connection"))
        for parent_element in tree.iter("ui"):
            for element in parent_element.findall("connections"):
                parent_element.remove(element)
        return self._build(tree, connections, parent)

    def _build(self, tree: ElementTree.Element, connections: list[ElementTree.Element], parent: Any) -> Any:
        for cls in custom_widgets.values():
            self.registerCustomWidget(cls)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = self._load(buffer, parent)
        if widget is None:
            errors.record(f"QUiLoader: {self.errorString()}")
            return None
        for connection in connections:
            _make(widget, connection)
        return widget

    def _load(self, buffer: QtCore.QBuffer, parent: Any) -> Any:
        members.loading_ui.now = True
        try:
            return QtUiTools.QUiLoader.load(self, buffer, parent)
        finally:
            members.loading_ui.now = False


def _make(widget: QtWidgets.QWidget, connection: ElementTree.Element) -> None:
    sender, receiver = (_find(widget, connection.findtext(end)) for end in ("sender", "receiver"))
    if sender is None or receiver is None:
        errors.record(f"QFormBuilder: a connection's end is missing: {[e.text for e in connection][:4]}")
        return
    signals.connect(sender, connection.findtext("signal"), receiver, connection.findtext("slot"))


def _find(widget: QtWidgets.QWidget, name: str) -> QtCore.QObject | None:
    if QtCore.QObject.objectName(widget) == name:
        return widget
    return QtCore.QObject.findChild(widget, QtCore.QObject, name)

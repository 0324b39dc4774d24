"""Which widgets the stand-in's ``parameterNodeWrapper`` can tie to which types, as Slicer's ``guiConnectors`` does."""

from __future__ import annotations

import enum
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import slicer
from PySide6 import QtWidgets

from qt_standin import ctk_module as ctk
from qt_standin.node_combo_box import qMRMLNodeComboBox
from qt_standin.parameter_types import Choice, Decimals, Maximum, Minimum, Parameter, SingleStep, WithinRange, split


class Connector:
    """Ties one widget to one parameter: reads and writes its value, and calls back when the user changes it."""

    def __init__(self, widget: Any, signal: str, read: Callable[[], Any], write: Callable[[Any], None]) -> None:
        self.widget, self.read, self.write = widget, read, write
        self._signal, self._callback = signal, None

    def on_changed(self, callback: Callable[[], None] | None) -> None:
        """Connect the widget's signal to ``callback``; None disconnects."""
        self._callback = callback
        signal = getattr(self.widget, self._signal)
        if callback is None:
            signal.disconnect(self._changed)
        else:
            signal.connect(self._changed)

    def _changed(self) -> None:
        if self._callback is not None:
            self._callback()


def connector(widget: Any, parameter: Parameter) -> Connector:
    """The connector for a widget and a parameter; Slicer's RuntimeError for a pair that it does not know."""
    base, _annotations = split(parameter.annotated)
    make = _MAKERS.get((type(widget), _group(base)))
    if make is None:
        raise RuntimeError(
            f"Unable to create GUI connector from datatype '{parameter.annotated}' to widget type '{type(widget)}'"
        )
    return make(widget, parameter)


def _group(base: type) -> str:
    if base in (bool, int, float, str):
        return base.__name__
    for parent, name in ((pathlib.PurePath, "path"), (enum.Enum, "enum"), (slicer.vtkMRMLNode, "node")):
        if issubclass(base, parent):
            return name
    raise RuntimeError(f"no group for {base}")


def _attribute(name: str, signal: str, prepare: Callable[[Any, Parameter], None] | None = None) -> Callable:
    def make(widget: Any, parameter: Parameter) -> Connector:
        if prepare is not None:
            prepare(widget, parameter)
        return Connector(widget, signal, lambda: getattr(widget, name), lambda value: setattr(widget, name, value))

    return make


def _prepare_checkable(widget: Any, parameter: Parameter) -> None:
    if not widget.checkable:
        logging.warning("Making push button checkable for conversion to bool: button %s", widget.objectName)
        widget.checkable = True


def _prepare_number(widget: Any, parameter: Parameter) -> None:
    for annotation, name in ((Decimals, "decimals"), (SingleStep, "singleStep")):
        if (found := parameter.annotation(annotation)) is not None:
            setattr(widget, name, found.value)
    within, low, high = (parameter.annotation(kind) for kind in (WithinRange, Minimum, Maximum))
    bounded = within is not None or (low is not None and high is not None)
    if type(widget) in (QtWidgets.QSlider, ctk.ctkSliderWidget) and not bounded:
        raise RuntimeError("Cannot connect a slider to a number without bounds")
    whole = type(widget) in (QtWidgets.QSlider, QtWidgets.QSpinBox)
    lowest, highest = (-(2**31), 2**31 - 1) if whole else (float("-inf"), float("inf"))
    widget.minimum = within.minimum if within else low.minimum if low else lowest
    widget.maximum = within.maximum if within else high.maximum if high else highest


def _list_connector(widget: Any, labels: list[str], values: list[Any]) -> Connector:
    widget.clear()
    for label in labels:
        widget.addItem(label)

    def write(value: Any) -> None:
        if value not in values:
            raise ValueError(f"Unable to find value {value} in choices {values}")
        widget.currentIndex = values.index(value)

    return Connector(widget, "currentIndexChanged", lambda: values[widget.currentIndex], write)


def _choice(widget: Any, parameter: Parameter) -> Connector:
    choice = parameter.annotation(Choice)
    if choice is None:
        raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
    values = list(choice.choices)
    return _list_connector(widget, [str(v) for v in values], values)


def _enum(widget: Any, parameter: Parameter) -> Connector:
    values = list(split(parameter.annotated)[0])
    label = getattr(type(values[0]), "label", lambda value: value.name)
    return _list_connector(widget, [label(v) for v in values], values)


def _plain_text(widget: Any, parameter: Parameter) -> Connector:
    return Connector(widget, "textChanged", lambda: widget.toPlainText(), lambda value: widget.setPlainText(value))


def _path(name: str, signal: str) -> Callable:
    def make(widget: Any, parameter: Parameter) -> Connector:
        kind = split(parameter.annotated)[0]
        return Connector(widget, signal, lambda: kind(getattr(widget, name)), lambda v: setattr(widget, name, str(v)))

    return make


def _node(widget: Any, parameter: Parameter) -> Connector:
    base = split(parameter.annotated)[0]
    widget.nodeTypes = [base.__name__]
    return Connector(
        widget, "currentNodeChanged", lambda: widget.currentNode(), lambda node: widget.setCurrentNode(node)
    )


_MAKERS: dict[tuple[type, str], Callable[[Any, Parameter], Connector]] = {
    (QtWidgets.QCheckBox, "bool"): _attribute("checked", "stateChanged"),
    (QtWidgets.QPushButton, "bool"): _attribute("checked", "toggled", _prepare_checkable),
    (QtWidgets.QSlider, "int"): _attribute("value", "valueChanged", _prepare_number),
    (QtWidgets.QSpinBox, "int"): _attribute("value", "valueChanged", _prepare_number),
    (QtWidgets.QDoubleSpinBox, "float"): _attribute("value", "valueChanged", _prepare_number),
    (ctk.ctkSliderWidget, "float"): _attribute("value", "valueChanged", _prepare_number),
    **{(QtWidgets.QComboBox, name): _choice for name in ("int", "float", "str", "bool")},
    (QtWidgets.QComboBox, "enum"): _enum,
    (QtWidgets.QLineEdit, "str"): _attribute("text", "textChanged"),
    (QtWidgets.QTextEdit, "str"): _plain_text,
    (ctk.ctkPathLineEdit, "path"): _path("currentPath", "currentPathChanged"),
    (ctk.ctkDirectoryButton, "path"): _path("directory", "directoryChanged"),
    (qMRMLNodeComboBox, "node"): _node,
}

"""Stand-in for ``slicer.parameterNodeWrapper``: typed parameters on a MRML node, tied to widgets by a dynamic property."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

import slicer.util
import vtk
from PySide6 import QtWidgets

from qt_standin import parameter_types
from qt_standin.parameter_gui import Connector, connector
from qt_standin.parameter_types import Default, Parameter

PROPERTY = "SlicerParameterName"


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator, with or without brackets."""
    return _process if cls is None else _process(cls)


def _process(cls: type) -> type:
    parameters = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        default = Default(getattr(cls, name)) if hasattr(cls, name) else None
        parameters[name] = Parameter(name, annotated, default)
        setattr(cls, name, _value_property(name))
    reserved = {n: v for n, v in vars(_Wrapper).items() if not n.startswith("__")} | {"allParameters": parameters}
    for name, value in reserved.items():
        if hasattr(cls, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        setattr(cls, name, value)
    cls.__init__ = _Wrapper.__init__
    return cls


def _value_property(name: str) -> property:
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


class _Wrapper:
    """The members that a wrapped class gets; never made itself."""

    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._guis: dict[int, dict[str, Connector]] = {}
        self._updating_gui = False
        self._parameters = {
            name: Parameter((prefix or "") + name, p.annotated, p.default) for name, p in self.allParameters.items()
        }
        for parameter in self._parameters.values():
            if not parameter.is_in(parameterNode):
                parameter.write(parameterNode, parameter.default.value)

    def _known(self, name: str) -> Parameter:
        if name not in self._parameters:
            raise ValueError(f"Cannot find a param with the given name: {name}; found {list(self._parameters)}")
        return self._parameters[name]

    def getValue(self, name: str) -> Any:
        return self._known(name).read(self.parameterNode)

    def setValue(self, name: str, value: Any) -> None:
        with slicer.util.NodeModify(self.parameterNode):
            self._known(name).write(self.parameterNode, value)

    def default(self, name: str) -> Default:
        return self._known(name).default

    def dataType(self, name: str) -> Any:
        return self._known(name).annotated

    def isCached(self, name: str) -> bool:
        return bool(self._known(name))

    def connectGui(self, gui: Any) -> None:
        """Tie every widget that has the dynamic property; ``gui`` is a widget or ``childWidgetVariables``.

        As in Slicer's source, no tag comes back, so this can not be undone: use connectParametersToGui where it must.
        """
        found = {}
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        for widget in gui.findChildren(QtWidgets.QWidget) if is_widget else vars(gui).values():
            if name := widget.property(PROPERTY):
                found[name] = widget
        self.connectParametersToGui(found)

    def connectParametersToGui(self, mapping: Mapping[str, Any]) -> int:
        """Tie parameters to widgets by name; the widgets take the parameters' values. Returns the tag to undo it."""
        connectors = {name: connector(widget, self._known(name)) for name, widget in mapping.items()}
        tag = max(self._guis, default=-1) + 1
        self._guis[tag] = connectors
        for name, tied in connectors.items():
            tied.write(self.getValue(name))
            tied.on_changed(_gui_to_parameter(self, name, tied))
        # as in Slicer, this observer stays after disconnectGui and then finds nothing to update
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._update_guis())
        return tag

    def _update_guis(self) -> None:
        if self._updating_gui:
            return
        self._updating_gui = True
        try:
            with slicer.util.NodeModify(self):
                for connectors in list(self._guis.values()):
                    for name, tied in connectors.items():
                        tied.write(self.getValue(name))
        finally:
            self._updating_gui = False

    def disconnectGui(self, tag: int) -> None:
        for tied in self._guis.pop(tag, {}).values():
            tied.on_changed(None)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, before: int) -> int:
        return self.parameterNode.EndModify(before)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def _gui_to_parameter(wrapper: Any, name: str, tied: Connector) -> Any:
    def changed() -> None:
        with slicer.util.NodeModify(wrapper):
            if not wrapper._updating_gui:
                wrapper.setValue(name, tied.read())

    return changed


def isParameterNodeWrapper(thing: Any) -> bool:
    return getattr(thing, "_is_parameter_node_wrapper", False)


def findChildWidgetForParameter(widget: Any, name: str) -> Any:
    """The child widget whose dynamic property names the parameter, or None."""
    return next((w for w in widget.findChildren(QtWidgets.QWidget) if w.property(PROPERTY) == name), None)


def make() -> types.ModuleType:
    """The module ``slicer.parameterNodeWrapper``."""
    module = types.ModuleType("slicer.parameterNodeWrapper", __doc__)
    module.SlicerParameterNamePropertyName = PROPERTY
    for function in (parameterNodeWrapper, isParameterNodeWrapper, findChildWidgetForParameter):
        setattr(module, function.__name__, function)
    for name in ("Validator", "NotNone", "IsInstance", "WithinRange", "Minimum", "Maximum", "Choice", "Exclude",
                 "Default", "Decimals", "SingleStep"):  # fmt: skip
        setattr(module, name, getattr(parameter_types, name))
    return module

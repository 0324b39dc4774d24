"""What the lint needs to know of Qt, asked from PySide6's own classes and from the stand-ins for ctk's and Slicer's."""

from __future__ import annotations

import enum
import functools
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PySide6 import QtCore, QtGui, QtWidgets

from qt_standin import application, ctk_module, node_combo_box, qt_meta, scripted_module, segment_widgets
from qt_standin.qt_module import make

_OWN_MODULES = (application, ctk_module, node_combo_box, scripted_module, segment_widgets)
# signals that PySide6 has and Qt 5 has not, or whose Qt 5 form differs
_NOT_IN_PANELS = ("QStyleOption", "QGraphics", "QPalette")  # their methods bear the names of widgets' properties
QT6_ONLY_SIGNALS = {"checkStateChanged", "idClicked", "idPressed", "idReleased", "idToggled"}


@functools.cache
def qt_class(name: str) -> type | None:
    """PySide6's or our class of that name, or None."""
    for module in _OWN_MODULES:
        if isinstance(found := vars(module).get(name), type):
            return found
    found = getattr(make(), name, None)
    return found if isinstance(found, type) else None


def qt_has(name: str) -> bool:
    """Whether ``qt.<name>`` exists."""
    return hasattr(make(), name)


@functools.cache
def _qt_classes() -> tuple[type, ...]:
    named = (getattr(module, name) for module in (QtCore, QtGui, QtWidgets) for name in dir(module))
    return tuple(c for c in named if isinstance(c, type(QtCore.QObject)))


@functools.cache
def _object_classes() -> tuple[type, ...]:
    own = [c for m in _OWN_MODULES for c in vars(m).values() if isinstance(c, type(QtCore.QObject))]
    return tuple({c for c in (*own, *_qt_classes()) if issubclass(c, QtCore.QObject)})


@functools.cache
def _value_classes() -> tuple[type, ...]:
    return tuple(c for c in _qt_classes() if not issubclass(c, QtCore.QObject))


@functools.cache
def property_names(cls: type) -> frozenset[str]:
    """Names of the Qt properties of a class and its bases; ``name`` is PythonQt's for ``objectName``."""
    return frozenset(qt_meta.properties(cls))


@functools.cache
def all_property_names() -> frozenset[str]:
    """Names of all properties of all classes."""
    return frozenset().union(*(property_names(c) for c in _object_classes()))


@functools.cache
def only_properties() -> frozenset[str]:
    """Names that are a property in every class that has them, and a method nowhere else: never to be called."""
    methods = {name for c in _value_classes() if not c.__name__.startswith(_NOT_IN_PANELS) for name in dir(c)}
    for cls in (c for c in _object_classes() if not c.__name__.startswith(_NOT_IN_PANELS)):
        methods |= {name for name in dir(cls) if name not in property_names(cls) and not name.startswith("_")}
    return all_property_names() - methods


@functools.cache
def method_names() -> frozenset[str]:
    """Names of Qt's methods of two words or more, which no Python method bears by chance."""
    names = {name for c in (*_object_classes(), *_value_classes()) for name in dir(c)}
    return frozenset(n for n in names if not n.startswith("_") and n != n.lower() and n[0].islower())


@functools.cache
def signatures() -> frozenset[str]:
    """Normalised signatures of all signals; the stand-in's Python objects stand for VTK's pointers."""
    return frozenset().union(*(qt_meta.signals(c) for c in _object_classes()))


def has_signal(cls: type | None, normalized: str) -> bool:
    """Whether the class, or any if it is None, has a signal of that signature."""
    return normalized in (signatures() if cls is None else qt_meta.signals(cls))


def is_enum(cls: type, name: str) -> bool:
    """Whether ``cls.name`` is an enum class, so that ``cls.name.value`` is a scoped enum value."""
    found = getattr(cls, name, None)
    return isinstance(found, type) and issubclass(found, enum.Enum)


def widgets_of(ui_file: Path) -> dict[str, str]:
    """Object name -> class name of every widget of a .ui file."""
    return {e.get("name"): e.get("class") for e in ElementTree.parse(ui_file).iter("widget")}

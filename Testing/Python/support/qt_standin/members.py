"""Make PySide6's objects answer as PythonQt's do: properties are attributes, methods refuse keywords, new attributes fail.

PySide6's classes are patched in place, once per process, at their common roots. The rules follow PythonQt's
``PythonQtInstanceWrapper`` and ``PythonQtSlot``: an attribute of a Python subclass comes first, then a Qt property
(``name`` is ``objectName``), a method, a signal, a dynamic property, a child by its object name.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from qt_standin import signals
from qt_standin.qt_meta import QtProperty, properties

CPP_MARK = "_standin_for_cpp"
STATE = "_d"  # the one attribute that a stand-in class keeps on its instances
_reading = threading.local()
loading_ui = threading.local()
# PySide6's own getters of the few classes where a name is static and bound at once (QFile.exists)
_getters: dict[type, Any] = {}


def cpp(cls: type) -> type:
    """Class decorator: this Python class stands in for a C++ class, so PythonQt's rules hold for its instances."""
    setattr(cls, CPP_MARK, cls)
    return cls


def is_cpp(cls: type) -> bool:
    """Whether ``cls`` is, or stands in for, a C++ class; False for a Python subclass of one."""
    return cls.__module__.startswith(("PySide6.", "Shiboken", "shiboken6")) or cls.__dict__.get(CPP_MARK) is cls


@functools.cache
def _of_python_subclass(cls: type, name: str) -> bool:
    return any(name in base.__dict__ for base in cls.__mro__ if not is_cpp(base) and base is not object)


class Method:
    """A bound C++ method: positional arguments only, lists come back as tuples."""

    def __init__(self, owner: object, name: str, function: Any) -> None:
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if keywords:
            raise TypeError(
                f"{type(self._owner).__name__}.{self._name}() takes no keyword arguments: {sorted(keywords)}"
            )
        result = self._function(*arguments)
        return tuple(result) if type(result) is list else result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and (self._owner, self._name) == (other._owner, other._name)

    def __hash__(self) -> int:
        return hash((id(self._owner), self._name))

    def __repr__(self) -> str:
        return f"<stand-in for PythonQt's {type(self._owner).__name__}.{self._name}>"


def _plain_get(self: Any, name: str) -> Any:
    return _getter(type(self))(self, name)


@functools.cache
def _getter(cls: type) -> Any:
    return next((_getters[base] for base in cls.__mro__ if base in _getters), object.__getattribute__)


def _plain_set(self: Any, name: str, value: Any) -> None:
    # object.__setattr__ refuses PySide6's types
    descriptor = getattr(type(self), name, None)
    if hasattr(type(descriptor), "__set__"):
        descriptor.__set__(self, value)
    else:
        _plain_get(self, "__dict__")[name] = value


def _get(self: QtCore.QObject, name: str) -> Any:
    cls = type(self)
    if name.startswith("_") or _of_python_subclass(cls, name) or _is_own_attribute(self, name):
        return _plain_get(self, name)
    if name in properties(cls) and not _is_being_read(self, name):
        return _read_property(self, name)
    return _get_other(self, name)


def _is_own_attribute(self: QtCore.QObject, name: str) -> bool:
    # PySide6 keeps a signal in the instance once it was asked for
    return not is_cpp(type(self)) and type(_plain_get(self, "__dict__").get(name, _signal)) is not QtCore.SignalInstance


_signal = QtCore.QObject().destroyed


def _is_being_read(self: QtCore.QObject, name: str) -> bool:
    # reading a property may call a virtual of the same name, for which PySide6 looks up this attribute again
    return (id(self), name) in getattr(_reading, "now", ())


def _read_property(self: QtCore.QObject, name: str) -> Any:
    now = _reading.__dict__.setdefault("now", set())
    key = (id(self), name)
    now.add(key)
    try:
        value = QtCore.QObject.property(self, "objectName" if name == "name" else name)
    finally:
        now.discard(key)
    return tuple(value) if type(value) is list else value


def _get_other(self: QtCore.QObject, name: str) -> Any:
    if name in ("connect", "disconnect"):
        return Method(self, name, functools.partial(getattr(signals, name), self))
    if name == "className":
        return Method(self, name, lambda: getattr(type(self), CPP_MARK, type(self)).__name__)
    if name in ("exec", "exec_"):
        return _exec(self)
    try:
        value = _plain_get(self, name)
    except AttributeError:
        return _dynamic_property_or_child(self, name)
    if type(value) is QtCore.SignalInstance:
        return signals.Signal(self, name)
    # PySide6 takes only a plain method for an override of a virtual, such as paintEvent
    if type(value).__name__ in ("builtin_function_or_method", "method") and not name.endswith("Event"):
        return Method(self, name, value)
    return value


def _exec(self: QtCore.QObject) -> Method:
    from qt_standin import dialogs  # which needs this module

    asks = issubclass(type(self), QtWidgets.QDialog) and not issubclass(type(self), dialogs.QMessageBox)
    return Method(self, "exec", functools.partial(dialogs.exec_dialog, self) if asks else _plain_get(self, "exec"))


def _dynamic_property_or_child(self: QtCore.QObject, name: str) -> Any:
    value = QtCore.QObject.property(self, name)
    if value is not None:
        return value
    for child in QtCore.QObject.children(self):
        if QtCore.QObject.objectName(child) == name:
            return child
    raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")


def _set(self: QtCore.QObject, name: str, value: Any) -> None:
    cls = type(self)
    if type(value) is QtCore.SignalInstance:
        _plain_get(self, "__dict__")[name] = value
        return
    if getattr(loading_ui, "now", False) and issubclass(type(value), QtCore.QObject):
        return  # PySide6's loader puts children on the top widget; here they are found by name anyway
    if name in properties(cls) and not _of_python_subclass(cls, name):
        _write_property(self, name, value)
    elif not is_cpp(cls) or name == STATE:
        _plain_set(self, name, value)
    elif QtCore.QObject.property(self, name) is not None:
        QtCore.QObject.setProperty(self, name, value)
    elif hasattr(cls, name):
        raise AttributeError(f"'{name}' can not be overwritten on {cls.__name__} object")
    else:
        raise AttributeError(
            f"Attribute '{name}' does not exist and creation of new attributes on C++ objects is not allowed ({cls.__name__})"
        )


def _write_property(self: QtCore.QObject, name: str, value: Any) -> None:
    found = properties(type(self))[name]
    if not found.writable:
        raise AttributeError(f"Property '{name}' of {type(self).__name__} object is not writable")
    if not _acceptable(found, value):
        raise AttributeError(
            f"Property '{name}' of type '{found.type_name}' does not accept an object of type {type(value).__name__} ({value!r})"
        )
    if not QtCore.QObject.setProperty(self, found.name, list(value) if type(value) is tuple else value):
        raise AttributeError(f"Property '{name}' of {type(self).__name__} was not set to {value!r}")


def _acceptable(found: QtProperty, value: Any) -> bool:
    """PythonQt converts numbers to each other and to strings only from str; the rest is left to Qt."""
    kinds = {"QString": (str,), "bool": (bool, int), "int": (bool, int, float), "double": (bool, int, float)}
    allowed = kinds.get(found.type_name)
    return allowed is None or type(value) in allowed or isinstance(value, allowed)


def _set_plain_cpp(self: Any, name: str, value: Any) -> None:
    if is_cpp(type(self)):
        raise AttributeError(f"creation of new attributes on C++ objects is not allowed ({type(self).__name__}.{name})")
    _plain_set(self, name, value)


def _construct(cls: type, *arguments: Any, **keywords: Any) -> Any:
    if keywords and is_cpp(cls):
        raise TypeError(f"{cls.__name__}() takes no keyword arguments in PythonQt: {sorted(keywords)}")
    return type.__call__(cls, *arguments, **keywords)


def _is_instance(cls: type, instance: object) -> bool:
    # PythonQt's classes do not inherit from each other: only the very class matches, or a Python subclass's bases
    kind = type(instance)
    return (
        kind is cls
        or (not is_cpp(kind) and cls in kind.__mro__ and _nearest_cpp(kind) is cls)
        or _python_base(cls, kind)
    )


def _nearest_cpp(kind: type) -> type:
    return next(base for base in kind.__mro__ if is_cpp(base))


def _python_base(cls: type, kind: type) -> bool:
    return not is_cpp(cls) and cls in kind.__mro__


def patch() -> None:
    """Patch PySide6 in place; harmless when done again."""
    if getattr(QtCore.QObject, "_standin_patched", False):
        return
    meta = type(QtCore.QObject)
    meta.__call__ = _construct
    meta.__instancecheck__ = _is_instance
    for cls in _all_classes():
        if issubclass(cls, QtCore.QObject):
            cls.__setattr__ = _set
            if "__getattribute__" in cls.__dict__:
                _getters[cls] = cls.__dict__["__getattribute__"]
                cls.__getattribute__ = _get
        elif issubclass(cls, _ITEMS):
            cls.__setattr__ = _set_plain_cpp
    for method in ("__enter__", "__exit__"):
        delattr(QtCore.QSignalBlocker, method)
    QtCore.QObject._standin_patched = True


_ITEMS = (QtWidgets.QTableWidgetItem, QtWidgets.QTreeWidgetItem, QtWidgets.QListWidgetItem, QtGui.QStandardItem)


def _all_classes() -> list[type]:
    """All of PySide6's classes; asking for each makes PySide6 create it, for it does so only when asked."""
    named = (getattr(module, name) for module in (QtCore, QtGui, QtWidgets, QtUiTools) for name in dir(module))
    return [thing for thing in named if isinstance(thing, type(QtCore.QObject))]

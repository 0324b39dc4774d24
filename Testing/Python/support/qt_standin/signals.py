"""PythonQt's way to connect: by signature string or by signal attribute, with arguments cut to what the callable takes.

Follows PythonQt's ``PythonQtSignalReceiver``: a Python function gets at most as many arguments as it names, any other
callable gets all; a signature that does not exist only prints, so it is recorded as a fault; an exception in a slot is
printed, never raised, so it is recorded too.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import shiboken6
from PySide6 import QtCore

from qt_standin import errors, qt_meta

_VTK_POINTER = re.compile(r"vtk\w+\s*\*")


@dataclass(frozen=True)
class _Target:
    signature: str
    callable: Callable
    connection: QtCore.QMetaObject.Connection


_targets: dict[int, list[_Target]] = {}  # by the address of the sender


class Signal:
    """A bound signal, as the attribute of a Qt object."""

    def __init__(self, sender: QtCore.QObject, name: str) -> None:
        self._sender, self._name = sender, name

    def connect(self, *arguments: Any) -> bool:
        """Connect the first overload to one callable."""
        if len(arguments) != 1:
            raise ValueError("Called connect with wrong number of arguments")
        return connect(self._sender, _first_signature(self._sender, self._name), arguments[0])

    def disconnect(self, *arguments: Any) -> bool:
        """Disconnect one callable, or all without an argument."""
        return disconnect(self._sender, _first_signature(self._sender, self._name), *arguments)

    def emit(self, *arguments: Any) -> None:
        """Emit the first overload."""
        types_of_it = _first_signature(self._sender, self._name).partition("(")[2].rstrip(")")
        own = object.__getattribute__(self._sender, self._name)
        (own[types_of_it] if types_of_it and "," not in types_of_it else own).emit(*arguments)

    __call__ = emit


def connect(sender: QtCore.QObject, signature: str, *target: Any) -> bool:
    """``obj.connect("clicked()", f)`` or ``obj.connect("clicked()", receiver, "slot()")``; False and a fault if unknown."""
    if not isinstance(signature, str):
        return QtCore.QObject.connect(signature, *target)  # PySide6 itself, from within QTimer.singleShot
    known, text = qt_meta.signals(type(sender)), normalized(signature)
    if text not in known:
        errors.record(f"QObject::connect: No such signal {_name(sender)}::{signature}")
        return False
    if len(target) == 2:
        return _connect_slot(sender, signature, *target)
    (function,) = target
    if not callable(function):
        errors.record(f"PythonQt: {_name(sender)}::{signature} was connected to {function!r}, which can not be called")
        return False
    connection = QtCore.QObject.connect(sender, QtCore.SIGNAL(text), _relay(function, known[text]))
    _remember(sender, _Target(text, function, connection))
    return True


def _connect_slot(sender: QtCore.QObject, signature: str, receiver: QtCore.QObject, slot: str) -> bool:
    name = slot.split("(")[0]
    if normalized(slot) not in qt_meta.slots(type(receiver)) and not hasattr(type(receiver), name):
        errors.record(f"QObject::connect: No such slot {_name(receiver)}::{slot}")
        return False
    count = 0 if slot.endswith("()") else slot.count(",") + 1
    function = getattr(receiver, name)
    return connect(sender, signature, lambda *arguments: function(*arguments[:count]))


def disconnect(sender: QtCore.QObject, signature: str, *target: Any) -> bool:
    """Undo :func:`connect`; without a target, all callables of the signal. False if there was none."""
    text = normalized(signature)
    kept, gone = [], []
    for known in _targets.get(_address(sender), ()):
        same = known.signature == text and (not target or known.callable == target[0])
        (gone if same else kept).append(known)
    if target and len(gone) > 1:  # PythonQt removes one connection at a time
        kept, gone = kept + gone[1:], gone[:1]
    for known in gone:
        QtCore.QObject.disconnect(known.connection)
    if gone:
        _targets[_address(sender)] = kept
    return bool(gone)


def _remember(sender: QtCore.QObject, target: _Target) -> None:
    address = _address(sender)
    if address not in _targets:
        _targets[address] = []
        QtCore.QObject.connect(sender, QtCore.SIGNAL("destroyed()"), lambda: _targets.pop(address, None))
    _targets[address].append(target)


def _relay(function: Callable, count: int) -> Callable:
    """A function of exactly ``count`` arguments: PySide6 passes none to one with ``*arguments``."""

    def deliver(*arguments: Any) -> None:
        taken = number_of_arguments(function)
        try:
            function(*(arguments if taken is None else arguments[:taken]))
        except Exception:
            errors.record_exception(*sys.exc_info())

    names = ", ".join(f"a{i}" for i in range(count))
    return eval(f"lambda {names}: deliver({names})", {"deliver": deliver})


def number_of_arguments(function: Callable) -> int | None:
    """How many arguments PythonQt passes at most; None for all (builtins, partials, ``*arguments``)."""
    if type(function) not in (types.FunctionType, types.MethodType):
        return None
    code = getattr(function, "__func__", function)
    if not inspect.isfunction(code) or code.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return code.__code__.co_argcount - (type(function) is types.MethodType)


def normalized(signature: str) -> str:
    """Qt's normal form of a signature, as the stand-in's own signals have it."""
    # VTK's pointers are Python objects in the stand-in's own signals
    text = _VTK_POINTER.sub("PyObject", signature)
    return bytes(QtCore.QMetaObject.normalizedSignature(text).data()).decode()


def _first_signature(sender: QtCore.QObject, name: str) -> str:
    for signature in qt_meta.signals(type(sender)):
        if signature.partition("(")[0] == name:
            return signature
    raise AttributeError(f"{_name(sender)} has no signal {name}")


def _address(sender: QtCore.QObject) -> int:
    return shiboken6.getCppPointer(sender)[0]


def _name(sender: QtCore.QObject) -> str:
    return f"{type(sender).__name__} '{QtCore.QObject.objectName(sender)}'"

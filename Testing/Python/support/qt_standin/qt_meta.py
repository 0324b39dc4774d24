"""Properties and signals of a Qt class as plain values, asked once.

Not asked through ``object.metaObject()``: PySide6 6.12 gives out the class's own description with it, and then takes it to
be deleted together with the object.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from PySide6 import QtCore


@dataclass(frozen=True)
class QtProperty:
    """A property as Qt declares it."""

    name: str
    type_name: str
    writable: bool


@functools.cache
def properties(cls: type) -> Mapping[str, QtProperty]:
    """Qt properties by name, of the class and its bases; ``name`` is what PythonQt makes of ``objectName``."""
    meta = cls.staticMetaObject
    declared = (meta.property(i) for i in range(meta.propertyCount()))
    found = {p.name(): QtProperty(p.name(), p.typeName(), p.isWritable()) for p in declared}
    return MappingProxyType({**found, "name": found["objectName"]})


@functools.cache
def signals(cls: type) -> Mapping[str, int]:
    """Normalised signatures of the signals of a class and its bases, in Qt's order, with their numbers of arguments."""
    meta = cls.staticMetaObject
    methods = (meta.method(i) for i in range(meta.methodCount()))
    emitted = (m for m in methods if m.methodType() == QtCore.QMetaMethod.MethodType.Signal)
    return MappingProxyType({bytes(m.methodSignature().data()).decode(): m.parameterCount() for m in emitted})


@functools.cache
def slots(cls: type) -> frozenset[str]:
    """Normalised signatures of everything that can be invoked by name."""
    meta = cls.staticMetaObject
    return frozenset(bytes(meta.method(i).methodSignature().data()).decode() for i in range(meta.methodCount()))

"""Which Qt class an expression has, as far as annotations, constructors and the .ui file tell; for the lint."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from PySide6 import QtCore

from qt_standin import qt_knowledge as known
from qt_standin.signals import normalized

_UI_NAMES = {"ui", "_ui"}


def dotted(node: ast.AST | None) -> str:
    """``a.b.c`` of a chain of names; ``?`` stands for anything else in it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Call):
        return f"{dotted(node.func)}(...)"
    return "?"


class Types:
    """Classes of names and of attributes of ``self``, gathered once per file.

    A name that is bound to different classes in one function, or to anything else besides, has no class.
    """

    def __init__(self, tree: ast.Module, ui: Mapping[str, str]) -> None:
        self._ui = ui
        self._scope_of: dict[ast.AST, tuple[ast.AST, ast.ClassDef | None]] = {}
        self._names: dict[tuple[ast.AST, str], str | None] = {}
        self._attributes: dict[tuple[ast.ClassDef | None, str], str | None] = {}
        self._walk(tree, tree, None)
        for node in ast.walk(tree):
            self._bind_parameters(node)
        for node in ast.walk(tree):
            for target, value in _assignments(node):
                self._bind(target, self._class_of_value(value), node)

    @staticmethod
    def normalized(signature: str) -> str:
        """Qt's normal form of a signal's signature."""
        return normalized(signature)

    def of(self, node: ast.AST) -> type | None:
        """The class of an expression, or None if it is not known to be Qt's."""
        name = self._name_of(node)
        cls = known.qt_class(name) if name else None
        return cls if cls is not None and isinstance(cls, type(QtCore.QObject)) else None

    def _walk(self, node: ast.AST, scope: ast.AST, cls: ast.ClassDef | None) -> None:
        for child in ast.iter_child_nodes(node):
            inner = child if isinstance(child, (ast.FunctionDef, ast.Lambda)) else scope
            self._scope_of[child] = (inner, cls)
            self._walk(child, inner, child if isinstance(child, ast.ClassDef) else cls)

    def _bind_parameters(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef):
            for argument in (*node.args.args, *node.args.kwonlyargs):
                annotation = argument.annotation
                if isinstance(annotation, ast.BinOp):  # qt.QWidget | None
                    annotation = annotation.left
                self._names[node, argument.arg] = _class_name(annotation)

    def _bind(self, target: ast.AST, name: str | None, node: ast.AST) -> None:
        scope, cls = self._scope_of.get(node, (None, None))
        if isinstance(target, ast.Name):
            key, known_names = (scope, target.id), self._names
        elif isinstance(target, ast.Attribute) and dotted(target.value) == "self":
            key, known_names = (cls, target.attr), self._attributes
        else:
            return
        known_names[key] = name if known_names.get(key, name) == name else None

    def _class_of_value(self, value: ast.AST) -> str | None:
        return _class_name(value.func) if isinstance(value, ast.Call) else self._name_of(value)

    def _name_of(self, node: ast.AST) -> str | None:
        scope, cls = self._scope_of.get(node, (None, None))
        if isinstance(node, ast.Name):
            return self._names.get((scope, node.id))
        if isinstance(node, ast.Call):
            return _class_name(node.func)
        if isinstance(node, ast.Attribute):
            if dotted(node.value).split(".")[-1] in _UI_NAMES:
                return self._ui.get(node.attr)
            if dotted(node.value) == "self":
                return self._attributes.get((cls, node.attr))
        return None


def _assignments(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=False)
            else:
                yield target, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        yield node.target, node.value


def _class_name(node: ast.AST | None) -> str | None:
    """``QLabel`` of ``qt.QLabel``; of ctk's and Slicer's widgets likewise."""
    module, _, name = dotted(node).rpartition(".")
    return name if module in ("qt", "ctk", "slicer") else None

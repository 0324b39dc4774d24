"""Finds in Python source what works on PySide6 and fails, or silently does nothing, on PythonQt. Reads; runs nothing.

Each rule is a method ``_rule_...`` that takes a syntax node and yields messages; ``RULES`` tells what each is for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from qt_standin import qt_knowledge as known
from qt_standin.lint_types import Types, dotted

_QT_MODULES = {"qt", "ctk"}
_ENUM_PARTS = {"value", "name"}
_GETTERS = {
    "isChecked", "isEnabled", "isVisible", "isHidden", "toPlainText", "currentRow", "currentNode", "currentItem",
    "selectedItems", "children", "currentColumn", "isRunning", "isActive",
}  # fmt: skip
_TUPLES = {"selectedItems", "selectedIndexes", "selectedRanges", "children", "findChildren", "sizes", "actions"}
_DIALOGS = {"getOpenFileName", "getSaveFileName", "getExistingDirectory", "getText", "getItem", "getInt", "getDouble"}
_OTHER_BINDINGS = {"PySide2", "PySide6", "PyQt5", "PyQt6", "qtpy"}
_THREADS = {"Thread", "ThreadPoolExecutor", "QThread", "QThreadPool", "QRunnable", "Timer"}


def find(source: str, filename: str = "<source>", ui: Mapping[str, str] | None = None) -> list[str]:
    """Messages "file:line: rule: what", in the order of the lines. ``ui``: object name -> class of the .ui file."""
    tree = ast.parse(source, filename)
    checker = _Checker(tree, Types(tree, ui or {}))
    found = sorted({(line, text) for node in ast.walk(tree) for line, text in checker.check(node)})
    return [f"{filename}:{line}: {text}" for line, text in found]


class _Checker:
    def __init__(self, tree: ast.Module, types: Types) -> None:
        self._types = types
        self._own_functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        self._rules = [getattr(self, name) for name in dir(self) if name.startswith("_rule_")]

    def check(self, node: ast.AST) -> Iterator[tuple[int, str]]:
        """All findings at this node."""
        for rule in self._rules:
            for text in rule(node) or ():
                yield getattr(node, "lineno", 0), f"{rule.__name__.removeprefix('_rule_')}: {text}"

    def _is_qt_class(self, node: ast.AST) -> bool:
        parts = dotted(node).split(".")
        return parts[0] in _QT_MODULES or (
            len(parts) == 2 and parts[0] == "slicer" and parts[1].startswith(("qMRML", "qSlicer"))
        )

    # ------------------------------------------------------------------ calls
    def _rule_keywords(self, node: ast.AST) -> Iterator[str]:
        if not isinstance(node, ast.Call) or not node.keywords:
            return
        name = dotted(node.func)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        owner = self._types.of(node.func.value) if method else None
        of_qt = owner is not None and hasattr(owner, method)
        is_own = method in self._own_functions or name in (f"self.{method}", f"super(...).{method}")
        guessed = owner is None and method in known.method_names() and not is_own and not name.startswith("slicer.")
        if self._is_qt_class(node.func) or of_qt or guessed:
            yield f"{name}() with keywords {[k.arg for k in node.keywords]}: PythonQt takes positional arguments only"

    def _rule_isinstance(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call) and dotted(node.func) in ("isinstance", "issubclass") and len(node.args) == 2:
            classes = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            for cls in filter(self._is_qt_class, classes):
                yield f"isinstance of {dotted(cls)} is False for subclasses in PythonQt: use widget.inherits('...') or isWidgetType()"

    def _rule_property_called(self, node: ast.AST) -> Iterator[str]:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args):
            return
        owner, name = self._types.of(node.func.value), node.func.attr
        if owner is not None and not issubclass(owner, known.QtCore.QObject):
            return
        if name in (known.property_names(owner) if owner else known.only_properties() - self._own_functions):
            yield f"{dotted(node.func)}() calls a property: write {dotted(node.func)}"

    def _rule_method_not_called(self, node: ast.AST) -> Iterator[str]:
        tested: list[ast.AST] = []
        if isinstance(node, (ast.If, ast.While, ast.IfExp)):
            tested = [node.test]
        elif isinstance(node, ast.BoolOp):
            tested = node.values
        elif isinstance(node, ast.UnaryOp):
            tested = [node.operand]
        elif isinstance(node, ast.Compare):
            tested = [node.left, *node.comparators]
        elif isinstance(node, (ast.Assign, ast.Return)):
            tested = [node.value]
        for part in tested:
            if isinstance(part, ast.Attribute) and part.attr in _GETTERS:
                yield f"{dotted(part)} is a method and always true: write {dotted(part)}()"

    def _rule_dialog_returns_path(self, node: ast.AST) -> Iterator[str]:
        if (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)) or isinstance(node, ast.Subscript):
            call = node.value
        else:
            return
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _DIALOGS:
            yield f"{dotted(call.func)}() returns the value alone in PythonQt, not a pair"

    def _rule_super_of_qt_class(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.ClassDef) and any(map(self._is_qt_class, node.bases)):
            for call in ast.walk(node):
                is_super = isinstance(call, ast.Attribute) and isinstance(call.value, ast.Call)
                if is_super and dotted(call.value.func) == "super" and call.attr != "__init__":
                    yield f"super().{call.attr} does not find a C++ method in PythonQt: write {dotted(node.bases[0])}.{call.attr}(self, ...)"

    def _rule_threads(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in _THREADS:
            yield f"{dotted(node.func)}: Python threads all but stop beside Slicer's idle event loop; use a process or qt.QTimer"

    # ------------------------------------------------------------------ names
    def _rule_other_binding(self, node: ast.AST) -> Iterator[str]:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in names:
                if name.split(".")[0] in _OTHER_BINDINGS:
                    yield f"import of {name}: Slicer has PythonQt's qt and ctk only"

    def _rule_unknown_name(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Attribute) and dotted(node.value) == "qt" and not known.qt_has(node.attr):
            yield f"qt.{node.attr} does not exist in PythonQt, or not in both Qt 5 and Qt 6"

    def _rule_enum(self, node: ast.AST) -> Iterator[str]:
        parts = dotted(node).split(".") if isinstance(node, ast.Attribute) else []
        if len(parts) < 3 or parts[0] != "qt" or (cls := known.qt_class(parts[1])) is None:
            return
        if parts[-1] in _ENUM_PARTS:
            yield f"{dotted(node)}: PythonQt's enums are integers without .value and .name"
        elif len(parts) == 4 and known.is_enum(cls, parts[2]):
            yield f"{dotted(node)}: write qt.{parts[1]}.{parts[3]}; scoped enum names are not in PythonQt for Qt 5"

    def _rule_new_attribute(self, node: ast.AST) -> Iterator[str]:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            return
        for target in (t for top in targets for t in (top.elts if isinstance(top, ast.Tuple) else [top])):
            if not isinstance(target, ast.Attribute) or (owner := self._types.of(target.value)) is None:
                continue
            names = known.property_names(owner) if issubclass(owner, known.QtCore.QObject) else frozenset()
            if target.attr not in names:
                yield f"{dotted(target)} = ...: {owner.__name__} has no such property, and C++ objects take no new attributes"

    # ------------------------------------------------------------------ signals
    def _rule_signal_overload(self, node: ast.AST) -> Iterator[str]:
        subscripted = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Subscript)
        if (
            subscripted
            and node.attr in ("connect", "disconnect", "emit")
            and isinstance(node.value.value, ast.Attribute)
        ):
            yield f"{dotted(node.value.value)}[...]: PythonQt does not know signal[int]; connect by signature"

    def _rule_signature(self, node: ast.AST) -> Iterator[str]:
        is_connect = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if not is_connect or node.func.attr not in ("connect", "disconnect") or not node.args:
            return
        first = node.args[0]
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            return
        owner = self._types.of(node.func.value)
        if not known.has_signal(owner, self._types.normalized(first.value)):
            whose = f"{owner.__name__} has" if owner else "no class of Qt, ctk or Slicer (as far as stood in for) has"
            yield f"connect('{first.value}'): {whose} no such signal in both Qt 5 and Qt 6; it would only print"
        elif first.value.partition("(")[0] in known.QT6_ONLY_SIGNALS:
            yield f"connect('{first.value}'): not in Qt 5"

    def _rule_signal_attribute(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Attribute) and node.attr == "connect" and isinstance(node.value, ast.Attribute):
            name, owner = node.value.attr, self._types.of(node.value.value)
            if name in known.QT6_ONLY_SIGNALS:
                yield f"{dotted(node)}: not in Qt 5"
            elif owner is not None and issubclass(owner, known.QtCore.QObject) and not hasattr(owner, name):
                yield f"{dotted(node)}: {owner.__name__} has no signal {name}"

    def _rule_signal_blocker(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.With):
            for item in node.items:
                if isinstance(item.context_expr, ast.Call) and self._is_qt_class(item.context_expr.func):
                    yield f"with {dotted(item.context_expr.func)}: PythonQt's objects are no context managers; use blockSignals"

    # ------------------------------------------------------------------ tuples
    def _rule_tuple_results(self, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Attribute) and node.attr in ("append", "sort", "remove", "extend", "insert", "pop"):
            calls = [node.value]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            calls = sides if any(isinstance(side, ast.List) for side in sides) else []
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            calls = [node.left, node.right] if any(isinstance(s, ast.List) for s in (node.left, node.right)) else []
        else:
            return
        for call in calls:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in _TUPLES:
                yield f"{dotted(call.func)}() is a tuple in PythonQt, used as a list"

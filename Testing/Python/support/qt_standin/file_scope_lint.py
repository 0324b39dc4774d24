"""Finds what the Extensions Index does not allow at file scope: foreign imports, work done at import, changeable state."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

# numpy and the like come with Slicer; dependencies of ours are imported where they are used
ALLOWED = {"qt", "ctk", "slicer", "vtk", "SimpleITK", "numpy", "scipy", "CTGroundedVLMLib"}
_CALLS_ALLOWED = {"frozenset", "re.compile", "logging.getLogger", "tuple", "TypeVar"}
_MADE_WITH = ("np.", "Path(", "'")  # arrays, paths, methods of a text
_CONTAINERS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def find(source: str, filename: str = "<source>") -> list[str]:
    """Messages "file:line: what", in the order of the lines."""
    tree = ast.parse(source, filename)
    return [f"{filename}:{line}: {text}" for statement in tree.body for line, text in _statement(statement)]


def _statement(node: ast.stmt) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _import(node, alias.name)
    elif isinstance(node, ast.ImportFrom):
        if not node.level:
            yield from _import(node, node.module or "")
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        yield from _assignment(node)
    elif isinstance(node, ast.If):
        if ast.unparse(node.test) != "TYPE_CHECKING":
            yield node.lineno, "if at file scope: code runs when the module is loaded"
    elif isinstance(node, ast.Expr):
        if not isinstance(node.value, ast.Constant):
            yield node.lineno, f"{ast.unparse(node)[:60]}: code runs when the module is loaded"
    elif not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield node.lineno, f"{type(node).__name__.lower()} at file scope: code runs when the module is loaded"


def _import(node: ast.stmt, name: str) -> Iterator[tuple[int, str]]:
    top = name.split(".")[0]
    if top not in ALLOWED and top not in sys.stdlib_module_names:
        yield node.lineno, f"import of {name} at file scope: only the standard library and what Slicer ships"


def _assignment(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[int, str]]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    name = ast.unparse(targets[0])
    is_constant = name.lstrip("_").isupper() or name == "__all__"
    if isinstance(node.value, _CONTAINERS) and not is_constant:
        yield node.lineno, f"{name}: changeable state at file scope"
    for call in (n for n in ast.walk(node.value) if isinstance(n, ast.Call)) if node.value else ():
        if not (is_constant and _makes_a_value(call)) and ast.unparse(call.func) not in _CALLS_ALLOWED:
            yield node.lineno, f"{ast.unparse(call)[:60]}: a call when the module is loaded"


def _makes_a_value(call: ast.Call) -> bool:
    """Whether a call is the spelling of a constant: a class, an array, a path, a text."""
    name = ast.unparse(call.func)
    return name.lstrip("_")[:1].isupper() or name.startswith(_MADE_WITH)

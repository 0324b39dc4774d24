"""Developer mode's Reload: Slicer loads the module's file anew, but not the library that it imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_LIBRARY = "CTGroundedVLMLib"


@contextmanager
def loaded_anew(module: str) -> Iterator[None]:
    """In this block the module's file and its library are imported anew.

    Where that fails, the panel lives on with the modules that it is made of.
    """
    former = _forget(module)
    importlib.invalidate_caches()
    try:
        yield
    except BaseException:
        _forget(module)
        sys.modules.update(former)
        raise


def _forget(module: str) -> dict[str, ModuleType]:
    """Take what was loaded of the module and the library out of ``sys.modules``; returns it."""
    ours = module, _LIBRARY
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in ours}

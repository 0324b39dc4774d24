"""Stand-in for ``slicer.packaging``: really checks what is installed, never installs; what was asked for is noted."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

import importlib.metadata
import types
from pathlib import Path
from typing import Any

import slicer.util
from packaging.requirements import Requirement

calls: list[dict[str, Any]] = []  # every installation asked for, with its arguments
fail_with: list[Exception] = []  # the next installation raises this


def _requirements(given: Any) -> list[Requirement]:
    if isinstance(given, str):
        given = given.split()
    elif isinstance(given, Requirement):
        given = [given]
    return [item if isinstance(item, Requirement) else Requirement(item) for item in given]


def load_requirements(path: str | Path) -> list[Requirement]:
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def pip_check(req: Any) -> bool:
    """Whether every requirement that applies here is installed; extras are not looked into (Slicer does)."""
    return all(_is_satisfied(r) for r in _requirements(req))


def _is_satisfied(requirement: Requirement) -> bool:
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return importlib.metadata.version(requirement.name) in requirement.specifier
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_ensure(
    requirements: Any,
    constraints: str | Path | None = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Asks once if something is missing; RuntimeError if declined; then notes the installation."""
    missing = [str(r) for r in _requirements(requirements) if not pip_check([r])]
    if not missing or (skip_in_testing and slicer.app.testingEnabled()):
        return
    question = f"{requester or 'A module'} needs {', '.join(missing)}. Install?"
    if prompt_install and not slicer.util.confirmOkCancelDisplay(question):
        raise RuntimeError("User declined package installation")
    pip_install(missing, constraints=constraints, requester=requester)


def pip_install(
    requirements: Any, constraints: str | Path | None = None, requester: str | None = None, **options: Any
) -> None:
    text = Path(constraints).read_text(encoding="utf-8") if constraints else None
    calls.append({"requirements": requirements, "constraints": text, "requester": requester, **options})
    if fail_with:
        raise fail_with.pop()


def pip_uninstall(requirements: Any, **options: Any) -> None:
    calls.append({"uninstall": requirements, **options})


def isPipInstallInProgress() -> bool:
    return False


def make() -> types.ModuleType:
    """The module ``slicer.packaging``."""
    module = types.ModuleType("slicer.packaging", __doc__)
    for function in (load_requirements, pip_check, pip_ensure, pip_install, pip_uninstall, isPipInstallInProgress):
        setattr(module, function.__name__, function)
    return module

"""Python packages in Slicer: what is missing, one question, and the installation through Slicer's own means.

Packages go through ``slicer.packaging``, torch through the PyTorch extension; from a folder of wheels where there is no
network. Inference runs in a process of its own, so nothing that is installed here is imported here. (Two exceptions
are not ours: the PyTorch extension imports torch once, right after it has installed it, and the TotalSegmentator extension
does when it segments.) Slicer is passed in, never imported.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from .errors import DependencyError
from .installed_packages import (
    KEPT,
    PINNED,
    REQUIREMENTS,
    InstallPlan,
    PythonEnvironment,
    check_platform,
    check_wheels,
    pins,
)

Outcome = Literal["ready", "declined", "restarting"]
REQUESTER = "CTGroundedVLM"
RESUME_KEY = "CTGroundedVLM/resumeInstallation"
TORCHVISION = ">=0.19"  # the one of torch 2.4; since long each names the one torch that it fits
_OFFLINE = (
    'Without network access, install from a folder of wheels: see "Hospitals behind a firewall" in docs/slicer.md.'
)


_TRY_THERE = (
    "Run it once in its own module, which says what it needs (also the extension NNUNet), or choose a segmentation that you "
    "have already."
)


class DependencyInstaller:
    """Asks once, then installs all that is missing. Call ``ensure`` on a click, never while a module loads.

    Args:
        slicer: the ``slicer`` module. Used: ``app.testingEnabled()``, ``app.extensionsManagerModel()``,
            ``app.userSettings()``, ``modules``, ``util.confirmOkCancelDisplay``, ``util.restart``; and ``slicer.packaging``.
        environment: where Python's packages lie; default: this Python.
    """

    def __init__(
        self,
        slicer: Any,
        *,
        environment: PythonEnvironment | None = None,
        requirements: Path = REQUIREMENTS,
        import_module: Callable[[str], ModuleType] = importlib.import_module,
    ) -> None:
        self._slicer = slicer
        self._environment = environment or PythonEnvironment()
        self._requirements = requirements
        self._import = import_module
        self._resumed = False

    def plan(self, wheels: Path | None = None) -> InstallPlan:
        """What is missing. Reads package metadata only (milliseconds). ``wheels``: a folder to install from."""
        self._environment.refresh()
        return InstallPlan(
            packages=self._environment.missing(self._requirements),
            torch=self._environment.torch_state(self._requirements),
            torch_requirement=self._environment.torch_requirement(self._requirements),
            has_extension=hasattr(self._slicer.modules, "pytorchutils"),
            wheels=wheels,
        )

    def ensure(self, *, wheels: Path | None = None) -> Outcome:
        """Install what is missing after one confirmation that tells what, from where and how large.

        Returns:
            "ready": everything is there. "declined": the user said no, nothing was changed. "restarting": Slicer restarts
            now; call ``resume`` when it has started again.

        Raises:
            DependencyError: something cannot be installed; the message says what and names the remedy.
        """
        plan = self.plan(wheels)
        if plan.complete:
            return "ready"
        if self._slicer.app.testingEnabled():
            raise DependencyError(
                f"Slicer runs in testing mode, where nothing is installed. Missing: {plan.names}. Install it beforehand."
            )
        check_platform(plan)
        if wheels is not None:
            check_wheels(wheels, plan)
        title = f"{REQUESTER} - Install Python packages"
        if not self._slicer.util.confirmOkCancelDisplay(plan.question, title, detailedText=plan.details):
            return "declined"
        return self._install(plan)

    def resume(self) -> Outcome | None:
        """Go on after the restart that ``ensure`` asked for; the user has agreed already. None: nothing to go on with.

        Raises:
            DependencyError: as ``ensure``.
        """
        settings = self._slicer.app.userSettings()
        if not settings.contains(RESUME_KEY):
            return None
        settings.remove(RESUME_KEY)  # first of all: whatever fails below must not come back at every start
        self._resumed = True
        plan = self.plan()
        return "ready" if plan.complete else self._install(plan)

    def _install(self, plan: InstallPlan) -> Outcome:
        if plan.wheels is not None:
            self._install_wheels(plan, plan.wheels)
        else:
            if plan.torch != "installed":
                if not plan.has_extension:
                    return self._install_extension()
                self._install_torch(plan)
            self._install_packages(plan)
        left = self.plan(plan.wheels)
        if not left.complete:
            remedy = _OFFLINE if left.torch == "installed" else self._environment.torch_remedy()
            raise DependencyError(
                f"After the installation this is still missing: {left.names}. The log in Slicer's Python console says what "
                f"pip did. {remedy}"
            )
        return "ready"

    def _install_packages(self, plan: InstallPlan) -> None:
        if not plan.packages:
            return
        with self._constraints() as constraints, _explained("The Python packages could not be installed"):
            # the question has been asked: prompt_install would ask it a second time
            self._import("slicer.packaging").pip_ensure(
                list(plan.packages),
                constraints=constraints,
                prompt_install=False,
                prompt_restart=False,  # what is installed here is imported by the worker, not by Slicer
                requester=REQUESTER,
            )

    def _install_wheels(self, plan: InstallPlan, folder: Path) -> None:
        """pip_ensure takes no pip options, pip_install does. torch too comes from the folder: its extension needs a network."""
        torch = () if plan.torch == "installed" else (plan.torch_requirement,)
        arguments = ["--no-index", "--find-links", str(folder), *plan.packages, *torch]
        with self._constraints() as constraints, _explained(f"The wheels in {folder} could not be installed"):
            self._import("slicer.packaging").pip_install(arguments, constraints=constraints, requester=REQUESTER)

    def _install_torch(self, plan: InstallPlan) -> None:
        """By the PyTorch extension, which knows the build that fits the graphics card (light-the-torch).

        It installs "torch" and "torchvision" and takes no constraints. Without a wish for torchvision it has come with one that
        is years older than torch (fepegar/SlicerPyTorch, issue 18), hence the wish. torchvision is for others: ``worker`` hides
        it from its imports.
        """
        logic = self._import("PyTorchUtils").PyTorchUtilsLogic()
        remedy = self._environment.torch_remedy()
        with self._pinned_for_any_pip(), _explained("PyTorch could not be installed", remedy):
            if plan.torch == "damaged":
                logic.uninstallTorch()
            logic.installTorch(
                askConfirmation=False,
                torchVersionRequirement=plan.torch_requirement.removeprefix("torch"),
                torchvisionVersionRequirement=TORCHVISION,
            )
        state = self.plan().torch
        if state != "installed":
            raise DependencyError(
                f"PyTorch is still {state} after its installation. {self._environment.torch_remedy()}"
            )

    def _install_extension(self) -> Outcome:
        """The PyTorch extension, then a restart: Slicer loads extensions at its start only."""
        manager = self._slicer.app.extensionsManagerModel()
        by_hand = "Install the extension PyTorch by View > Extensions Manager, restart Slicer and click again."
        if self._resumed:  # it was installed, Slicer has restarted, and it is not there: no second round
            raise DependencyError(f"The PyTorch extension is installed but was not loaded. {by_hand} {_OFFLINE}")
        interactive, manager.interactive = manager.interactive, False
        try:
            there = manager.isExtensionInstalled("PyTorch") or manager.installExtensionFromServer("PyTorch", False)
        finally:
            manager.interactive = interactive
        if not there:
            raise DependencyError(f"Slicer could not install the PyTorch extension. {by_hand} {_OFFLINE}")
        self._slicer.app.userSettings().setValue(RESUME_KEY, "true")
        self._slicer.util.restart()
        return "restarting"

    @contextmanager
    def _constraints(self, names: Sequence[str] = PINNED) -> Iterator[str]:
        """A file that pins what Slicer and torch have now: nothing else keeps pip from replacing them."""
        with tempfile.TemporaryDirectory(prefix="ctgvlm-constraints-") as folder:
            path = Path(folder) / "constraints.txt"
            path.write_text("".join(f"{line}\n" for line in pins(self._environment, names)), encoding="utf-8")
            yield str(path)

    @contextmanager
    def _pinned_for_any_pip(self) -> Iterator[None]:
        """The same but for torch itself, where others call pip: by the environment variable, which their processes inherit."""
        with self._constraints(KEPT) as path:
            former = os.environ.get("PIP_CONSTRAINT")
            # a URI, for pip splits the value at spaces
            os.environ["PIP_CONSTRAINT"] = " ".join([*([former] if former else []), Path(path).as_uri()])
            try:
                yield
            finally:
                if former is None:
                    del os.environ["PIP_CONSTRAINT"]
                else:
                    os.environ["PIP_CONSTRAINT"] = former


@contextmanager
def _explained(what: str, remedy: str = "") -> Iterator[None]:
    """pip's failure as a message; its log has been shown by Slicer."""
    try:
        yield
    except subprocess.CalledProcessError as error:
        reason = f"pip ended with code {error.returncode}; Slicer's Python console shows its log"
        raise DependencyError(f"{what}: {reason}. {remedy or _OFFLINE}") from error
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        # PyTorchUtils: TypeError on a half-installed torch, OSError on its libraries, ValueError on an unknown backend
        raise DependencyError(f"{what} ({type(error).__name__}: {error}). {remedy or _OFFLINE}") from error


def total_segmentator_logic(slicer: Any, import_module: Callable[[str], ModuleType] = importlib.import_module) -> Any:
    """The logic of the TotalSegmentator extension, which brings its own packages and weights.

    Raises:
        DependencyError: the extension is not there; the message says how to get it, or to do without.
    """
    if not hasattr(slicer.modules, "totalsegmentator"):
        raise DependencyError(
            "The TotalSegmentator extension is not installed. Install it by View > Extensions Manager and restart Slicer, "
            "or choose a segmentation that you have already."
        )
    return import_module("TotalSegmentator").TotalSegmentatorLogic()


def run_total_segmentator(
    slicer: Any,
    volume_node: Any,
    segmentation_node: Any,
    *,
    fast: bool = True,
    log: Callable[[str], None] | None = None,
    import_module: Callable[[str], ModuleType] = importlib.import_module,
) -> None:
    """Segment by the TotalSegmentator extension (it installs what it needs, asks by itself, and blocks until it is done).

    Raises:
        DependencyError: the extension is not there, or its packages could not be installed.
    """
    logic = total_segmentator_logic(slicer, import_module)
    if log is not None:
        logic.logCallback = log
    try:
        logic.setupPythonRequirements()
        logic.process(volume_node, segmentation_node, fast=fast, task="total")
    except Exception as error:  # foreign code with error classes of its own, also for "cancelled"
        remedy = "Restart Slicer and click again." if getattr(error, "restartRequired", False) else _TRY_THERE
        raise DependencyError(
            f"TotalSegmentator could not be set up or run ({type(error).__name__}: {error}). {remedy}"
        ) from error

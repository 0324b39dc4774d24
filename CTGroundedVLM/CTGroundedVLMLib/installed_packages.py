"""What Python has installed and what is missing, read from package metadata: nothing is imported, no network is used."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .errors import DependencyError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TorchState = Literal["installed", "missing", "outdated", "damaged"]
REQUIREMENTS = Path(__file__).resolve().parents[1] / "Resources" / "requirements.txt"
# Slicer 5.12 ships these; what it ships must stay as it is
SHIPPED = ("numpy", "pillow", "pydicom", "SimpleITK")
KEPT = (*SHIPPED, "scipy", "requests")
PINNED = (*KEPT, "torch", "torchvision")
# Wheels of November 2026 for Python 3.12 on Linux: 43 packages, 48 MB to download, 172 MB on disk; torch's CPU build
# takes 0.76 GB on disk. The CUDA build's sizes are a judgement: they change with every release.
_PACKAGES_SIZE = "about 50 MB to download, 0.2 GB on disk"
_TORCH_SIZE = "0.2 GB to download and 0.8 GB on disk for CPUs, about 3 GB and 7 GB with CUDA"


class PythonEnvironment:
    """The packages of a Python. ``path``: where to look instead of ``sys.path``."""

    def __init__(self, path: Sequence[str] | None = None) -> None:
        self._path = list(path) if path is not None else None

    def refresh(self) -> None:
        """Look at the disk again: pip has installed packages by another process."""
        importlib.invalidate_caches()

    def _distribution(self, name: str) -> importlib.metadata.Distribution | None:
        path = {} if self._path is None else {"path": self._path}
        return next(iter(importlib.metadata.Distribution.discover(name=name, **path)), None)

    def version(self, name: str) -> str | None:
        """The installed version; None where it is missing, or so damaged that it does not say."""
        distribution = self._distribution(name)
        return _version(distribution) if distribution is not None else None

    def satisfies(self, requirement: Requirement) -> bool:
        """Whether a version is installed that the requirement allows (a pre-release counts, as Slicer ships some)."""
        version = self.version(requirement.name)
        return version is not None and requirement.specifier.contains(version, prereleases=True)

    def missing(self, requirements: Path = REQUIREMENTS) -> tuple[str, ...]:
        """The requirements that are not satisfied, torch apart."""
        wanted = read_requirements(requirements)
        return tuple(str(r) for r in wanted if r.name != "torch" and not self.satisfies(r))

    def torch_requirement(self, requirements: Path = REQUIREMENTS) -> str:
        """E.g. ``torch>=2.4``."""
        return next(str(r) for r in read_requirements(requirements) if r.name == "torch")

    def torch_state(self, requirements: Path = REQUIREMENTS) -> TorchState:
        """Whether torch is there, without importing it.

        An installation that was interrupted leaves metadata without a file list (then ``PyTorchUtils.torchInstalled()``
        raises TypeError), or metadata without the package.
        """
        distribution = self._distribution("torch")
        if distribution is None:
            return "missing"
        spec = importlib.machinery.PathFinder.find_spec("torch", self._path)
        # distribution.files would look for each of its 13,000 files
        has_list = distribution.read_text("RECORD") is not None
        if not has_list or _version(distribution) is None or spec is None or spec.origin is None:
            return "damaged"
        wanted = next(r for r in read_requirements(requirements) if r.name == "torch")
        return "installed" if self.satisfies(wanted) else "outdated"

    def torch_remedy(self) -> str:
        """How to repair torch by hand; names the folders."""
        distribution = self._distribution("torch")
        if distribution is None:
            return "Install it with the module PyTorch Utils (Utilities), or from a folder of wheels (docs/slicer.md)."
        folder = Path(str(distribution.locate_file("")))
        return (
            f"Close Slicer, delete the folders torch and torch-*.dist-info in {folder}, start Slicer and click again; "
            "or repair it with the module PyTorch Utils (Utilities)."
        )


def _version(distribution: importlib.metadata.Distribution) -> str | None:
    """From the head of METADATA: ``distribution.version`` parses the whole description below it, 10 ms a package."""
    head = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").partition("\n\n")[0]
    found = re.search(r"^Version:[ \t]*(\S+)", head, re.MULTILINE)
    return found[1] if found else None


def read_requirements(path: Path = REQUIREMENTS) -> list[Requirement]:
    """The requirements of a file, without comments. Raises DependencyError."""
    from packaging.requirements import Requirement  # Slicer ships it

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DependencyError(f"{path} cannot be read ({error}). Install the extension again.") from error
    return [Requirement(line) for line in (line.strip() for line in lines) if line and not line.startswith("#")]


def pins(environment: PythonEnvironment, names: Sequence[str] = PINNED) -> list[str]:
    """Constraints that keep what is installed: ``name==version`` for what Slicer ships, and for torch."""
    versions = {name: environment.version(name) for name in names}
    return [f"{name}=={version}" for name, version in versions.items() if version]


@dataclass(frozen=True)
class InstallPlan:
    """What is missing and how it would be installed. ``packages``: requirements without torch."""

    packages: tuple[str, ...]
    torch: TorchState
    torch_requirement: str
    has_extension: bool
    wheels: Path | None = None

    @property
    def complete(self) -> bool:
        """Nothing is missing."""
        return not self.packages and self.torch == "installed"

    @property
    def names(self) -> str:
        """The missing packages, in words."""
        torch = () if self.torch == "installed" else (f"{self.torch_requirement} ({self.torch})",)
        return ", ".join((*self.packages, *torch)) or "nothing"

    @property
    def needs_restart(self) -> bool:
        """Slicer has to restart on the way, to load the PyTorch extension."""
        return self.torch != "installed" and not self.has_extension and self.wheels is None

    @property
    def question(self) -> str:
        """What the user is asked, once."""
        lines = ["CTGroundedVLM needs Python packages that Slicer does not ship:", ""]
        if self.torch != "installed":
            how = {
                "missing": "",
                "outdated": " (the installed one is too old)",
                "damaged": " (the installed one is damaged)",
            }
            source = "from the folder" if self.wheels else "by the PyTorch extension"
            lines.append(f"- PyTorch{how[self.torch]}, {source}: {_TORCH_SIZE}")
        if self.packages:
            lines.append(f"- {len(self.packages)} packages and what they need: {_PACKAGES_SIZE}")
        source = f"the folder {self.wheels}; no network is used" if self.wheels else "the Python Package Index"
        lines += ["", f"They are installed into Slicer's own Python, from {source}. Nothing of your data is sent."]
        if self.needs_restart:
            lines.append(
                "Slicer restarts once, to load the PyTorch extension, and then goes on: save your scene first."
            )
        return "\n".join([*lines, "", "Install them now?"])

    @property
    def details(self) -> str:
        """Every requirement, for the dialog's details."""
        torch = () if self.torch == "installed" else (self.torch_requirement,)
        return "\n".join(f"- {requirement}" for requirement in (*torch, *self.packages))


def check_platform(plan: InstallPlan) -> None:
    """Refuse where no torch exists that is new enough: before a download of hundreds of megabytes. Raises DependencyError."""
    if plan.torch != "installed" and sys.platform == "darwin" and platform.machine() == "x86_64":
        raise DependencyError(
            f"{plan.torch_requirement} is needed, and PyTorch's last version for Intel Macs is 2.2: use a Slicer that is "
            "built for Apple silicon (arm64), or Linux or Windows."
        )


def check_wheels(folder: Path, plan: InstallPlan) -> None:
    """Refuse a folder that lacks a wheel of what is asked for by name (what those need, pip finds out).

    Raises:
        DependencyError: names the missing wheels and how to fetch them.
    """
    from packaging.requirements import Requirement
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    if not folder.is_dir():
        raise DependencyError(f"{folder} is no folder. Choose the folder that holds the wheels (.whl files).")
    there = set()
    for path in folder.glob("*.whl"):
        try:
            there.add(parse_wheel_filename(path.name)[0])
        except InvalidWheelFilename:
            continue
    torch = () if plan.torch == "installed" else (plan.torch_requirement,)
    lacking = [text for text in (*torch, *plan.packages) if canonicalize_name(Requirement(text).name) not in there]
    if lacking:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise DependencyError(
            f"{folder} holds no wheel of {', '.join(lacking)}. On a computer with network access, the same system and Python "
            f'{version}, run "python -m pip download --only-binary=:all: -d WHEELS -r {REQUIREMENTS.name}" and copy the folder.'
        )

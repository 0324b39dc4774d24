"""The installation of Python packages in Slicer: one question, Slicer's own means, nothing replaced, a way without network.

SlicerStandIn takes Slicer's place. Its functions have the signatures that Slicer 5.12 documents, so that a wrong call
fails here; installing means that package metadata appear in a folder, which is what the code under test reads.
"""

import contextlib
import importlib
import os
import platform
import subprocess
import sys
import tomllib
import types
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from packaging.requirements import Requirement

from CTGroundedVLMLib.dependencies import RESUME_KEY, DependencyInstaller, run_total_segmentator
from CTGroundedVLMLib.errors import DependencyError
from CTGroundedVLMLib.installed_packages import REQUIREMENTS, SHIPPED, PythonEnvironment, pins, read_requirements

ROOT = Path(__file__).resolve().parents[3]
SLICER_SHIPS = {"numpy": "2.4.6", "scipy": "1.17.1", "SimpleITK": "2.5.5", "pydicom": "3.0.2", "requests": "2.32.4", "pillow": "12.0.0"}  # fmt: skip


def install(site, name, version):
    """What pip leaves behind: a package and its metadata with a file list."""
    package, info = site / name, site / f"{name}-{version}.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(f"raise ImportError('{name} must not be imported here')")
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


def remove(site, name):
    for path in site.glob(f"{name}*/*"):
        path.unlink()
    for path in site.glob(f"{name}*"):
        path.rmdir()


def wheel(folder, name, version="1.0", requires=()):
    """A wheel that pip installs."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", "")
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


class SettingsStandIn(dict):
    """QSettings."""

    setValue = dict.__setitem__
    contains = dict.__contains__
    remove = dict.__delitem__

    def value(self, key):
        return self[key]


class ExtensionsManagerStandIn:
    def __init__(self, events, installed=False, succeeds=True):
        self._events, self._installed, self._succeeds, self.interactive = events, installed, succeeds, True

    def isExtensionInstalled(self, extensionName):  # noqa: N802
        return self._installed

    def installExtensionFromServer(self, extensionName, restart=True, update=True):  # noqa: N802
        assert not self.interactive, "a second dialog would open"
        assert not restart, "Slicer would restart before the resumption is noted"
        self._events.append(f"extension {extensionName}")
        self._installed = self._succeeds
        return self._succeeds


class PyTorchUtilsStandIn:
    """The PyTorch extension's logic; its ``torchInstalled`` imports torch, so it must not be called."""

    constraints_before = ()

    def __init__(self, slicer, installs="2.9.1+cpu"):
        self._slicer, self._installs = slicer, installs

    def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None,  # noqa: N802
                     torchvisionVersionRequirement=None):  # fmt: skip
        assert not askConfirmation, "the question has been asked"
        self._slicer.events.append(f"torch {torchVersionRequirement}")
        self._slicer.torchvision = torchvisionVersionRequirement
        # pip, which light-the-torch runs in a process, splits it so
        *before, uri = os.environ["PIP_CONSTRAINT"].split()
        assert before == list(self.constraints_before)
        self._slicer.torch_constraints = Path(url2pathname(urlsplit(uri).path)).read_text().split()
        if isinstance(self._installs, Exception):
            raise self._installs
        if self._installs:
            remove(self._slicer.site, "torch")
            install(self._slicer.site, "torch", self._installs)

    def uninstallTorch(self, askConfirmation=False, forceComputationBackend=None):  # noqa: N802
        self._slicer.events.append("uninstall torch")
        remove(self._slicer.site, "torch")


class SlicerStandIn:
    def __init__(
        self, site, *, says=True, extension=True, testing=False, torch="2.9.1+cpu", manager=None, pip_fails=None
    ):
        self.site, self.events, self.questions, self.constraints = site, [], [], None
        self.modules = types.SimpleNamespace(**({"pytorchutils": object()} if extension else {}))
        self.util = types.SimpleNamespace(confirmOkCancelDisplay=self._confirm, restart=self._restart)
        self.settings, self._says, self._pip_fails = SettingsStandIn(), says, pip_fails
        manager = ExtensionsManagerStandIn(self.events, **(manager or {}))
        self.app = types.SimpleNamespace(
            testingEnabled=lambda: testing, extensionsManagerModel=lambda: manager, userSettings=lambda: self.settings
        )
        self.manager = manager
        self._modules = {
            "slicer.packaging": types.SimpleNamespace(pip_ensure=self._pip_ensure, pip_install=self._pip_install),
            "PyTorchUtils": types.SimpleNamespace(PyTorchUtilsLogic=lambda: PyTorchUtilsStandIn(self, torch)),
        }

    def import_module(self, name):
        return self._modules.get(name) or importlib.import_module(name)

    def _confirm(self, text, windowTitle=None, parent=None, *, detailedText=""):
        self.questions.append((text, detailedText))
        return self._says

    def _restart(self):
        self.events.append("restart")

    def _note(self, constraints):
        self.constraints = Path(constraints).read_text().split()
        if self._pip_fails:
            raise self._pip_fails

    def _pip_ensure(self, requirements, constraints=None, skip_packages=None, prompt_install=True, prompt_restart=True,
                    requester=None, skip_in_testing=True, show_progress=True):  # fmt: skip
        assert not prompt_install, "the question has been asked"
        assert requester == "CTGroundedVLM"
        self.events.append("pip_ensure")
        self._note(constraints)
        for requirement in map(Requirement, requirements):
            install(self.site, requirement.name, next(iter(requirement.specifier)).version)

    def _pip_install(self, requirements, constraints=None, no_deps_requirements=None, skip_packages=None, blocking=True,
                     show_progress=True, requester=None, parent=None, logCallback=None, completedCallback=None):  # fmt: skip
        """The real pip, with the arguments that Slicer's pip_install builds from a list."""
        assert isinstance(requirements, list)
        self.events.append("pip_install")
        self._note(constraints)
        command = [sys.executable, "-m", "pip", "install", *requirements, "-c", str(constraints)]
        subprocess.run(
            [*command, "--quiet", "--target", str(self.site), "--no-cache-dir"], check=True, capture_output=True
        )


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site-packages"
    for name, version in SLICER_SHIPS.items():
        install(folder, name, version)
    return folder


def installer(slicer, **options):
    environment = PythonEnvironment([str(slicer.site)])
    return DependencyInstaller(slicer, environment=environment, import_module=slicer.import_module, **options)


def test_the_list_is_that_of_pyproject_without_what_slicer_ships():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    expected = {str(Requirement(text)) for text in project if Requirement(text).name not in SHIPPED}
    assert {str(requirement) for requirement in read_requirements()} == expected


def test_a_missing_package_is_asked_for_once_and_installed_after_torch(site):
    slicer = SlicerStandIn(site)
    assert installer(slicer).ensure() == "ready"
    assert slicer.events == ["torch >=2.4", "pip_ensure"]
    ((question, details),) = slicer.questions
    assert "PyTorch, by the PyTorch extension: 0.2 GB to download and 0.8 GB on disk for CPUs" in question
    assert "about 50 MB to download, 0.2 GB on disk" in question
    assert "restarts" not in question
    assert details.split("\n")[0] == "- torch>=2.4"
    assert "- transformers>=5" in details
    assert installer(slicer).ensure() == "ready"
    assert len(slicer.questions) == 1


def test_what_slicer_ships_and_torch_are_pinned_as_they_are(site):
    slicer = SlicerStandIn(site)
    installer(slicer).ensure()
    assert sorted(slicer.constraints) == sorted([*(f"{n}=={v}" for n, v in SLICER_SHIPS.items()), "torch==2.9.1+cpu"])


@pytest.mark.parametrize("former", [None, "theirs.txt"])
@pytest.mark.parametrize("torch", ["2.9.1+cpu", RuntimeError("no network")])
def test_what_slicer_ships_is_pinned_while_the_pytorch_extension_installs_torch(
    site, tmp_path, monkeypatch, former, torch
):
    """It takes no constraints, so that they are in the environment of its pip."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a user"))
    (tmp_path / "a user").mkdir()
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    install(site, "torch", "2.2.2")
    if former is not None:
        (tmp_path / former).write_text("")
        monkeypatch.setenv("PIP_CONSTRAINT", former)
        monkeypatch.setattr(PyTorchUtilsStandIn, "constraints_before", [former])
    slicer = SlicerStandIn(site, torch=torch)
    with pytest.raises(DependencyError) if isinstance(torch, Exception) else contextlib.nullcontext():
        installer(slicer).ensure()
    assert sorted(slicer.torch_constraints) == sorted(f"{name}=={version}" for name, version in SLICER_SHIPS.items())
    assert os.environ.get("PIP_CONSTRAINT") == former
    assert not list((tmp_path / "a user").iterdir())


def test_a_torchvision_that_fits_torch_is_asked_for(site):
    """Else the PyTorch extension has brought one of years before: its issue 18."""
    slicer = SlicerStandIn(site)
    installer(slicer).ensure()
    assert slicer.torchvision == ">=0.19"


def test_pip_really_refuses_to_replace_what_is_pinned(site, tmp_path):
    wheels = tmp_path / "wheels"
    wheel(wheels, "numpy", "3.0")
    wheel(wheels, "greedy", requires=["numpy>=3"])
    constraints = tmp_path / "a user" / "constraints.txt"
    constraints.parent.mkdir()
    constraints.write_text("\n".join(pins(PythonEnvironment([str(site)]))))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--find-links", wheels, "greedy"]
    options = {"capture_output": True, "text": True, "env": {"PATH": "", "PIP_CONFIG_FILE": "/dev/null"}}
    assert subprocess.run([*command, "--target", tmp_path / "x"], **options).returncode == 0
    refused = subprocess.run([*command, "--target", tmp_path / "x", "-c", constraints], **options)
    assert refused.returncode != 0
    assert "conflicting dependencies" in refused.stderr
    options["env"] = options["env"] | {"PIP_CONSTRAINT": constraints.as_uri()}  # as for the PyTorch extension's pip
    refused = subprocess.run([*command, "--target", tmp_path / "x"], **options)
    assert refused.returncode != 0
    assert "conflicting dependencies" in refused.stderr


def test_no_is_an_answer_and_changes_nothing(site):
    before = sorted(path.name for path in site.iterdir())
    slicer = SlicerStandIn(site, says=False)
    assert installer(slicer).ensure() == "declined"
    assert slicer.events == []
    assert sorted(path.name for path in site.iterdir()) == before


def test_torch_that_is_there_is_left_alone(site):
    install(site, "torch", "2.8.0+cu128")
    slicer = SlicerStandIn(site)
    assert installer(slicer).ensure() == "ready"
    assert slicer.events == ["pip_ensure"]
    assert "PyTorch" not in slicer.questions[0][0]
    assert "torch==2.8.0+cu128" in slicer.constraints


def test_torch_that_is_too_old_is_renewed(site):
    install(site, "torch", "2.2.2")
    slicer = SlicerStandIn(site)
    assert installer(slicer).plan().torch == "outdated"
    assert installer(slicer).ensure() == "ready"
    assert slicer.events == ["torch >=2.4", "pip_ensure"]
    assert "the installed one is too old" in slicer.questions[0][0]


@pytest.mark.parametrize("damage", ["no file list", "no package", "no version"])
def test_half_installed_torch_is_noticed_and_installed_anew(site, damage):
    install(site, "torch", "2.9.1")
    if damage == "no file list":
        (site / "torch-2.9.1.dist-info" / "RECORD").unlink()  # PyTorchUtils.torchInstalled() raises TypeError on this
    elif damage == "no package":
        (site / "torch" / "__init__.py").unlink()
    else:
        (site / "torch-2.9.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\n")
    slicer = SlicerStandIn(site)
    assert installer(slicer).plan().torch == "damaged"
    assert installer(slicer).ensure() == "ready"
    assert slicer.events == ["uninstall torch", "torch >=2.4", "pip_ensure"]


@pytest.mark.parametrize(
    ("torch", "message"),
    [
        (None, r"PyTorch is still missing after its installation\. Install it with the module PyTorch Utils"),
        (TypeError("'NoneType' object is not iterable"), r"PyTorch could not be installed \(TypeError"),
        (subprocess.CalledProcessError(1, "pip install"), "PyTorch could not be installed: pip ended with code 1"),
    ],
)
def test_torch_that_cannot_be_installed_is_told_with_a_remedy(site, torch, message):
    slicer = SlicerStandIn(site, torch=torch)
    with pytest.raises(DependencyError, match=message):
        installer(slicer).ensure()
    assert "pip_ensure" not in slicer.events


def test_damaged_torch_that_stays_damaged_names_the_folders_to_delete(site):
    install(site, "torch", "2.9.1")
    (site / "torch-2.9.1.dist-info" / "RECORD").unlink()
    slicer = SlicerStandIn(site, torch=RuntimeError("files in use"))
    with pytest.raises(DependencyError, match="files in use") as caught:
        installer(slicer).ensure()
    assert f"Close Slicer, delete the folders torch and torch-*.dist-info in {site}" in str(caught.value)


def test_without_the_pytorch_extension_it_is_installed_and_the_rest_follows_after_the_restart(site):
    before = SlicerStandIn(site, extension=False)
    assert installer(before).ensure() == "restarting"
    assert before.events == ["extension PyTorch", "restart"]
    assert "restarts once" in before.questions[0][0]
    assert before.manager.interactive
    after = SlicerStandIn(site)
    after.settings = before.settings
    assert RESUME_KEY in after.settings
    assert installer(after).resume() == "ready"
    assert after.questions == []  # the user has agreed before the restart
    assert after.events == ["torch >=2.4", "pip_ensure"]
    assert after.settings == {}
    assert installer(after).resume() is None


def test_an_extension_that_does_not_load_is_no_endless_loop_of_restarts(site):
    slicer = SlicerStandIn(site, extension=False, manager={"installed": True})
    slicer.settings[RESUME_KEY] = "true"
    with pytest.raises(DependencyError, match="installed but was not loaded"):
        installer(slicer).resume()
    assert slicer.events == []
    assert slicer.settings == {}


def test_an_extension_that_cannot_be_downloaded_names_both_ways_out(site):
    slicer = SlicerStandIn(site, extension=False, manager={"succeeds": False})
    with pytest.raises(DependencyError, match=r"Extensions Manager(.|\n)*folder of wheels"):
        installer(slicer).ensure()
    assert slicer.settings == {}
    assert slicer.events == ["extension PyTorch"]


def test_a_failure_of_pip_names_the_way_without_network(site):
    slicer = SlicerStandIn(site, pip_fails=subprocess.CalledProcessError(1, "pip install"))
    with pytest.raises(DependencyError, match=r"pip ended with code 1(.|\n)*folder of wheels"):
        installer(slicer).ensure()


def test_packages_that_are_still_missing_afterwards_are_named(site, monkeypatch):
    slicer = SlicerStandIn(site)
    slicer._modules["slicer.packaging"].pip_ensure = lambda requirements, **options: None
    with pytest.raises(DependencyError, match=r"still missing: einops>=0\.7, "):
        installer(slicer).ensure()


def test_nothing_is_installed_while_slicer_tests(site):
    slicer = SlicerStandIn(site, testing=True)
    with pytest.raises(DependencyError, match=r"testing mode(.|\n)*torch>=2\.4 \(missing\)"):
        installer(slicer).ensure()
    assert slicer.questions == slicer.events == []


def test_intel_macs_are_told_before_anything_is_downloaded(site, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    slicer = SlicerStandIn(site)
    with pytest.raises(DependencyError, match="Intel Macs"):
        installer(slicer).ensure()
    assert slicer.questions == []


def requirements_file(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("# two packages and torch\nalpha>=1.0\nbeta>=1.0\ntorch>=2.4\n")
    return path


def test_everything_is_installed_from_a_folder_of_wheels_with_real_pip(site, tmp_path):
    wheels = tmp_path / "wheels of mine"
    for name, version, requires in (
        ("alpha", "1.2", ["gamma"]),
        ("beta", "1.0", []),
        ("gamma", "0.1", []),
        ("torch", "2.9", []),
    ):
        wheel(wheels, name, version, requires)
    slicer = SlicerStandIn(site, extension=False)  # the PyTorch extension cannot be had without a network
    own = installer(slicer, requirements=requirements_file(tmp_path))
    assert own.ensure(wheels=wheels) == "ready"
    assert slicer.events == ["pip_install"]
    assert f"the folder {wheels}; no network is used" in slicer.questions[0][0]
    assert [own._environment.version(name) for name in ("alpha", "beta", "gamma", "torch")] == [
        "1.2",
        "1.0",
        "0.1",
        "2.9",
    ]
    assert own._environment.version("numpy") == "2.4.6"


def test_a_folder_that_lacks_wheels_is_refused_with_their_names_before_the_question(site, tmp_path):
    wheel(tmp_path / "wheels", "alpha")
    (tmp_path / "wheels" / "not a wheel.whl").write_text("")
    slicer = SlicerStandIn(site)
    own = installer(slicer, requirements=requirements_file(tmp_path))
    with pytest.raises(DependencyError, match=r"holds no wheel of torch>=2\.4, beta>=1\.0\.(.|\n)*pip download"):
        own.ensure(wheels=tmp_path / "wheels")
    with pytest.raises(DependencyError, match="is no folder"):
        own.ensure(wheels=tmp_path / "none")
    assert slicer.questions == []


def test_a_wheel_whose_own_needs_are_not_there_changes_nothing(site, tmp_path):
    wheels = tmp_path / "wheels"
    for name, requires in (("alpha", ["gamma"]), ("beta", []), ("torch", [])):
        wheel(wheels, name, "3.0", requires)
    slicer = SlicerStandIn(site)
    own = installer(slicer, requirements=requirements_file(tmp_path))
    with pytest.raises(DependencyError, match="could not be installed: pip ended with code 1"):
        own.ensure(wheels=wheels)
    assert own._environment.version("alpha") is None


def test_pre_releases_that_slicer_ships_satisfy_a_requirement(site):
    remove(site, "SimpleITK")
    install(site, "SimpleITK", "2.5.0rc2.dev41")
    environment = PythonEnvironment([str(site)])
    assert environment.satisfies(Requirement("SimpleITK>=2.4"))
    assert not environment.satisfies(Requirement("SimpleITK>=2.6"))
    assert "SimpleITK==2.5.0rc2.dev41" in pins(environment)


def test_asking_what_is_missing_imports_nothing(site):
    program = (
        "import sys; from CTGroundedVLMLib.dependencies import DependencyInstaller; import types; "
        "plan = DependencyInstaller(types.SimpleNamespace(modules=object())).plan(); "
        "print(plan.complete, sorted({'torch', 'monai', 'transformers', 'numpy', 'platformdirs'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT / "CTGroundedVLM")}, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.strip() == "True []"


def test_a_missing_list_is_told(tmp_path):
    with pytest.raises(DependencyError, match="Install the extension again"):
        read_requirements(tmp_path / "none.txt")
    assert REQUIREMENTS.is_file()


class TotalSegmentatorLogicStandIn:
    """The signatures of the TotalSegmentator extension's logic."""

    def __init__(self):
        self.logCallback, self.calls = None, []

    def setupPythonRequirements(self, upgrade=False):  # noqa: N802
        self.logCallback("setting up")

    def process(self, inputVolume, outputSegmentation, fast=True, cpu=False, task=None, subset=None, interactive=False,
                sequenceBrowserNode=None):  # fmt: skip
        self.calls.append((inputVolume, outputSegmentation, fast, task))


def test_total_segmentator_runs_by_its_extension():
    logic, lines = TotalSegmentatorLogicStandIn(), []
    slicer = types.SimpleNamespace(modules=types.SimpleNamespace(totalsegmentator=object()))
    extension = types.SimpleNamespace(TotalSegmentatorLogic=lambda: logic)
    run_total_segmentator(slicer, "volume", "segmentation", log=lines.append, import_module=lambda name: extension)
    assert logic.calls == [("volume", "segmentation", True, "total")]
    assert lines == ["setting up"]


def test_without_the_total_segmentator_extension_the_ways_out_are_named():
    slicer = types.SimpleNamespace(modules=object())
    with pytest.raises(DependencyError, match=r"Extensions Manager(.|\n)*choose a segmentation that you have"):
        run_total_segmentator(slicer, None, None)

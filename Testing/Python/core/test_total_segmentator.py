"""TotalSegmentator is called as its installed version wants to be, never without weights, never with the network.

The call runs a stand-in of exactly the installed function's signature.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import socket
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib import segmentation
from CTGroundedVLMLib.errors import DependencyError, OutputError, SegmentationError
from CTGroundedVLMLib.types import Volume

AFFINE = np.array([[-0.8, 0, 0, 30.0], [0, 0.8, 0, 20.0], [0, 0, -3.0, -100.0], [0, 0, 0, 1]])
LIVER, SPLEEN = 5, 1


def signature(tree):
    """The signature of ``totalsegmentator`` without its body and its annotations, which need other packages."""
    (node,) = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "totalsegmentator"]
    for argument in node.args.args:
        argument.annotation = None
    node.body = [ast.Pass()]
    namespace = {}
    exec(compile(ast.fix_missing_locations(ast.Module([node], [])), "python_api.py", "exec"), namespace)
    return inspect.signature(namespace["totalsegmentator"])


@pytest.fixture
def a_ct():
    rng = np.random.default_rng(0)
    return Volume(rng.integers(-1000, 1000, (6, 8, 10)).astype(np.int16), AFFINE, "scan", sha256="0" * 64)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A fresh home for TotalSegmentator and for our cache, and no network."""
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "totalsegmentator home"))
    monkeypatch.delenv("TOTALSEG_WEIGHTS_PATH", raising=False)
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.18.0")

    def no_network(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    return tmp_path / "totalsegmentator home"


def put_weights(folder, names):
    for name in names:
        checkpoint = folder / name / "nnUNetTrainer__nnUNetPlans__3d_fullres" / "fold_0" / "checkpoint_final.pth"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"weights")


@pytest.fixture
def weights(home):
    put_weights(home / "nnunet/results", segmentation._WEIGHTS.values())


@pytest.fixture
def runs(monkeypatch, home, source):
    """Replaces TotalSegmentator's API by a stand-in with its signature; holds the arguments of every run."""
    expected, calls = signature(source("python_api.py")), []

    def run(*arguments, **options):
        bound = expected.bind(*arguments, **options)
        image = sitk.ReadImage(str(bound.arguments["input"]))
        labels = np.zeros(image.GetSize()[::-1], np.uint8)
        labels[1:4], labels[4:] = LIVER, SPLEEN
        result = sitk.GetImageFromArray(labels)
        result.CopyInformation(image)
        calls.append({**bound.arguments, "pixels": sitk.GetArrayFromImage(image)})
        print("it prints though told to be quiet")
        sitk.WriteImage(result, str(bound.arguments["output"]))

    module = ModuleType("totalsegmentator.python_api")
    module.totalsegmentator = run
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", module)
    return calls


# --- the run ------------------------------------------------------------------------------------------------------


def test_a_ct_is_segmented_on_its_own_grid(a_ct, runs, weights, capsys):
    steps = []
    result = segmentation.segment(a_ct, progress=lambda what, fraction: steps.append((what, fraction)))
    assert result.names == {SPLEEN: "spleen", LIVER: "liver"}
    assert (result.labels_kji[1:4] == LIVER).all()
    assert (result.labels_kji[4:] == SPLEEN).all()
    assert result.source == "TotalSegmentator 2.18.0, 3 mm model"
    assert result.warnings == ()
    (call,) = runs
    np.testing.assert_array_equal(call["pixels"], a_ct.array_kji)
    assert (call["ml"], call["task"], call["quiet"], call["roi_subset"]) == (True, "total", True, None)
    assert not Path(call["input"]).exists()  # the copy is gone
    assert capsys.readouterr().out == ""
    assert steps[0] == ("TotalSegmentator: segmenting (minutes on a CPU)", 0.0)
    assert ("TotalSegmentator: done", 1.0) in steps


@pytest.mark.parametrize(
    ("device", "fast", "expected"),
    [
        ("cpu", None, ("cpu", True)),
        ("cpu", False, ("cpu", False)),
        ("cuda", None, ("gpu", False)),
        ("cuda:1", None, ("gpu:1", False)),
        ("cuda", True, ("gpu", True)),
        ("mps", None, ("mps", False)),
    ],
)
def test_device_and_speed_are_put_in_its_words(a_ct, runs, weights, device, fast, expected):
    segmentation.segment(a_ct, device=device, fast=fast)
    assert (runs[0]["device"], runs[0]["fast"]) == expected


def test_only_the_classes_asked_for_are_segmented(a_ct, runs, weights):
    segmentation.segment(a_ct, classes=["spleen", "liver", "liver"])
    assert runs[0]["roi_subset"] == ["liver", "spleen"]  # a list: it refuses other sequences


def test_every_class_is_no_subset(a_ct, runs, weights):
    segmentation.segment(a_ct, classes=[c.name for c in segmentation.anatomy.segment_classes()])
    assert runs[0]["roi_subset"] is None


def test_a_second_run_is_taken_from_the_cache(a_ct, runs, weights):
    first = segmentation.segment(a_ct, classes=["liver", "spleen"])
    again = segmentation.segment(a_ct, classes=["spleen", "liver"])
    assert len(runs) == 1
    np.testing.assert_array_equal(first.labels_kji, again.labels_kji)
    assert (first.names, first.source, first.sha256) == (again.names, again.source, again.sha256)


def test_the_cache_serves_without_weights(a_ct, runs, weights, home):
    segmentation.segment(a_ct)
    (home / "nnunet").rename(home / "moved")
    segmentation.segment(a_ct)
    assert len(runs) == 1


@pytest.mark.parametrize("change", ["pixels", "grid", "classes", "fast", "version"])
def test_anything_else_is_segmented_anew(a_ct, runs, weights, monkeypatch, change):
    segmentation.segment(a_ct, classes=["liver"])
    options = {"classes": ["liver"]}
    if change == "pixels":
        a_ct = Volume(a_ct.array_kji + np.int16(1), AFFINE, "scan")
    elif change == "grid":
        a_ct = Volume(a_ct.array_kji, AFFINE + np.diag([0.1, 0, 0, 0]), "scan")
    elif change == "version":
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.19.0")
    else:
        options[change] = {"classes": ["spleen"], "fast": False}[change]
    segmentation.segment(a_ct, **options)
    assert len(runs) == 2


def test_the_cache_may_lie_elsewhere(a_ct, runs, weights, tmp_path):
    segmentation.segment(a_ct, cache_dir=tmp_path / "mine")
    assert [path.suffixes for path in (tmp_path / "mine/segmentations").iterdir()] == [[".nii", ".gz"]]


def test_a_cache_that_cannot_be_written_is_named(a_ct, runs, weights, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="set CTGVLM_CACHE_DIR to another folder"):
        segmentation.segment(a_ct, cache_dir=tmp_path / "file")
    assert runs == []


def test_a_failed_run_is_told_in_one_message_and_not_cached(a_ct, runs, weights, monkeypatch, tmp_path):
    def fail(*arguments, **options):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(sys.modules["totalsegmentator.python_api"], "totalsegmentator", fail)
    with pytest.raises(
        SegmentationError, match=r"TotalSegmentator failed on CT head\.nii: CUDA out of memory\. Try fast"
    ):
        segmentation.segment(a_ct, Path("somewhere/head.nii"))
    assert list((tmp_path / "cache/segmentations").iterdir()) == []


def test_finding_nothing_is_an_error_and_not_cached(a_ct, runs, weights, monkeypatch, tmp_path):
    def find_nothing(source, result, **options):
        sitk.WriteImage(sitk.Image(10, 8, 6, sitk.sitkUInt8), str(result))

    monkeypatch.setattr(sys.modules["totalsegmentator.python_api"], "totalsegmentator", find_nothing)
    with pytest.raises(SegmentationError, match="did not find brain in CT scan"):
        segmentation.segment(a_ct, classes=["brain"])
    assert list((tmp_path / "cache/segmentations").iterdir()) == []


def test_unknown_classes_and_devices_are_refused_before_anything_runs(a_ct, runs, weights):
    with pytest.raises(SegmentationError, match="livver"):
        segmentation.segment(a_ct, classes=["livver"])
    with pytest.raises(DependencyError, match="cpu, mps, cuda or cuda:N is expected"):
        segmentation.segment(a_ct, device="tpu")
    assert runs == []


# --- weights and installation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "tasks"),
    [
        ({"fast": True}, [297]),
        ({"fast": True, "classes": ["liver"]}, [297, 298]),
        ({"fast": False}, [291, 292, 293, 294, 295]),
        ({"fast": False, "classes": ["liver"]}, [291, 292, 293, 294, 295, 298]),
    ],
)
def test_missing_weights_are_named_with_their_source_and_place(a_ct, runs, home, options, tasks):
    with pytest.raises(DependencyError) as caught:
        segmentation.segment(a_ct, **options)
    message = str(caught.value)
    folder = home / "nnunet" / "results"
    release = "https://github.com/wasserth/TotalSegmentator/releases/download/v2.0.0-weights/"
    names = [segmentation._WEIGHTS[task] for task in tasks]
    assert message.startswith(f"TotalSegmentator's weights are missing in {folder}: {', '.join(names)}.")
    assert [line.strip(" -") for line in message.splitlines() if ".zip" in line] == [f"{release}{n}.zip" for n in names]
    assert f"so that {folder / names[0]} exists" in message
    assert runs == []
    assert not home.exists()  # nothing was written


def test_only_what_is_missing_is_asked_for(a_ct, runs, home):
    put_weights(home / "nnunet/results", [segmentation._WEIGHTS[297]])
    (home / "nnunet/results" / segmentation._WEIGHTS[298]).mkdir()  # an empty folder, as a broken download leaves it
    with pytest.raises(DependencyError) as caught:
        segmentation.segment(a_ct, classes=["liver"])
    assert "Dataset298" in str(caught.value)
    assert "Dataset297" not in str(caught.value)


def test_weights_may_lie_elsewhere(a_ct, runs, home, tmp_path, monkeypatch):
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "weights"))
    put_weights(tmp_path / "weights", [segmentation._WEIGHTS[297]])
    segmentation.segment(a_ct)
    assert len(runs) == 1


def test_without_totalsegmentator_the_message_says_how_to_get_it(a_ct, home, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(DependencyError) as caught:
        segmentation.segment(a_ct)
    assert 'pip install "ct-grounded-vlm[segmentation]"' in str(caught.value)


def test_an_incomplete_installation_is_named(a_ct, home, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "totalsegmentator.python_api", None)  # as if an import in it failed
    with pytest.raises(DependencyError, match="is installed, but cannot be imported"):
        segmentation.segment(a_ct)


# --- usage statistics ---------------------------------------------------------------------------------------------


def test_usage_statistics_are_off_before_the_run(a_ct, runs, weights, home):
    segmentation.segment(a_ct)
    config = json.loads((home / "config.json").read_text())
    assert config["send_usage_stats"] is False
    assert config["prediction_counter"] == 0  # it counts its runs in this key


def test_other_settings_of_totalsegmentator_stay(home):
    home.mkdir()
    before = {"totalseg_id": "totalseg_X", "send_usage_stats": True, "prediction_counter": 7, "license_number": "aca_1"}
    (home / "config.json").write_text(json.dumps(before))
    segmentation.disable_usage_statistics()
    after = json.loads((home / "config.json").read_text())
    assert after == before | {"send_usage_stats": False, "statistics_disclaimer_shown": True}


def test_a_damaged_config_is_named(home):
    home.mkdir()
    (home / "config.json").write_text("{")
    with pytest.raises(DependencyError, match=r"config\.json is not valid JSON .* Delete it"):
        segmentation.disable_usage_statistics()


def test_a_home_that_cannot_be_written_is_named(home):
    home.write_text("a file where the folder should be")
    with pytest.raises(DependencyError, match="Set TOTALSEG_HOME_DIR to a folder that can be written"):
        segmentation.disable_usage_statistics()

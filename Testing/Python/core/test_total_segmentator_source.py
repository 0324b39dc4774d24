"""What the segmentation module states about TotalSegmentator is what the installed version's source says."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from CTGroundedVLMLib import segmentation


def function(tree, name, **namespace):
    """A function compiled from the tree; it sees ``namespace`` and nothing else of its module."""
    (node,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    exec(compile(ast.Module([node], []), name, "exec"), namespace)
    return namespace[name]


def test_the_weights_are_those_of_the_installed_version(source):
    tree = source("map_tasks_config.py")
    namespace = {}
    exec(compile(tree, "map_tasks_config", "exec"), namespace)
    modes = namespace["TASK_CONFIGS"]["total"]["sub_modes"]
    assert tuple(modes["default"]["task_id"]) == segmentation._FULL_TASKS
    assert (modes["fast"]["task_id"],) == segmentation._FAST_TASKS
    assert modes["fastest"]["task_id"] == segmentation._CROP_TASK
    for task, name in segmentation._WEIGHTS.items():
        entry = namespace["TASK_ID_WEIGHTS_CONFIGS"][task]
        assert (entry["foldername"], entry["version"]) == (name, segmentation._WEIGHTS_RELEASE)
    assert segmentation.RELEASE_URL in ast.unparse(source("libs.py"))


def test_a_subset_is_cropped_by_the_6_mm_model(source):
    text = ast.unparse(source("python_api.py"))
    assert "if crop is not None or roi_subset is not None or cascade" in text
    assert "crop_model_task = 298" in text


@pytest.mark.parametrize("variables", [{}, {"TOTALSEG_HOME_DIR": "/a"}, {"TOTALSEG_WEIGHTS_PATH": "/b"}])
def test_the_folders_are_those_of_the_installed_version(source, monkeypatch, variables):
    for name in ("TOTALSEG_HOME_DIR", "TOTALSEG_WEIGHTS_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tree = source("config.py")
    get_totalseg_dir = function(tree, "get_totalseg_dir", os=os, Path=Path)
    get_weights_dir = function(tree, "get_weights_dir", os=os, Path=Path, get_totalseg_dir=get_totalseg_dir)
    assert segmentation.home_folder() == get_totalseg_dir()
    assert segmentation.weights_folder() == get_weights_dir()


def test_our_config_file_is_enough_for_the_installed_version(source, tmp_path, monkeypatch):
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "home"))
    segmentation.disable_usage_statistics()
    tree = source("config.py")
    get_totalseg_dir = function(tree, "get_totalseg_dir", os=os, Path=Path)
    names = {"get_totalseg_dir": get_totalseg_dir, "json": json}
    assert function(tree, "setup_totalseg", **names)()["send_usage_stats"] is False
    config = function(tree, "increase_prediction_counter", **names)()
    assert config["prediction_counter"] == 1
    assert function(tree, "get_config_key", **names)("statistics_disclaimer_shown") is True
    # With sending on, this would need ``requests`` and the network; neither is at hand.
    function(tree, "send_usage_stats")(config, {"roi_subset": None})


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda", "cuda:3"])
def test_the_installed_version_takes_our_devices(source, device):
    accept = function(source("python_api.py"), "validate_device_type_api", re=re)
    assert accept(segmentation.device_name(device)) == segmentation.device_name(device)

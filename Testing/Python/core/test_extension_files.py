"""What Slicer's build and its Extensions Index read: file lists, metadata, index entry, icons; and what Slicer must not need."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "CTGroundedVLM"
ENTRY = ROOT / "Resources" / "CTGroundedVLM.json"
RAW = "https://raw.githubusercontent.com/CTGroundedVLM/SlicerCTGroundedVLM/main/"
# The rules of slicer-extension-catalog-entry-schema v1.0.2 as far as this entry uses them, restated here.
ENTRY_RULES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["$schema", "category", "scm_url"],
    "properties": {
        "$schema": {"pattern": r"/slicer-extension-catalog-entry-schema-v1\.0\.2\.json#?$"},
        "build_dependencies": {"type": "array", "items": {"type": "string", "minLength": 1}, "uniqueItems": True},
        "category": {"enum": ["Analysis", "Informatics", "Quantification"]},  # of its list, those that would fit
        "dicom_support_rule": {"type": "string"},
        "scm_revision": {"type": "string", "minLength": 1},
        "scm_url": {"pattern": r"^https://github\.com/[^/]+/Slicer[^/]*\.git$"},
        "tier": {"type": "integer", "minimum": 1, "maximum": 5},
    },
}
# Modules that Slicer's own process imports, before any package of ours is installed
IN_SLICER = (
    "dependencies",
    "installed_packages",
    "models_admin",
    "report_sources",
    "structured_report",
    "sample_data",
    "sample",
    "anatomy",
    "linking",
    "report",
    "exchange",
    "worker_client",
    "analysis_job",
    "process_qt",
    "types",
    "errors",
)


def cmake_list(name: str) -> list[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    entries = re.search(rf"set\({name}\n(.*?)\)", text, re.DOTALL)[1].split()
    return [entry.replace("${MODULE_NAME}", "CTGroundedVLM") for entry in entries]


def metadata() -> dict[str, str]:
    """The values of the root CMakeLists.txt; the index wants each of them as one quoted string on one line."""
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    values = dict(re.findall(r'^set\(EXTENSION_(\w+) "([^"\n]*)"\)$', text, re.MULTILINE))
    assert len(values) == len(re.findall(r"set\(EXTENSION_", text)), "a value is not one quoted string on one line"
    return values | {"PROJECT": re.search(r"^project\((\w+)\)$", text, re.MULTILINE)[1]}


def files(folder: Path) -> set[Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {p for p in found if not any(part.startswith((".", "__pycache__")) for part in p.relative_to(folder).parts)}


def test_every_script_is_packaged_and_every_packaged_script_is_there():
    listed = cmake_list("MODULE_PYTHON_SCRIPTS")
    there = {path for path in files(MODULE / "CTGroundedVLMLib") if path.suffix == ".py"} | {
        MODULE / "CTGroundedVLM.py"
    }
    assert sorted(listed) == sorted(path.relative_to(MODULE).as_posix() for path in there)


def test_every_resource_is_packaged_and_every_packaged_resource_is_there():
    listed = cmake_list("MODULE_PYTHON_RESOURCES")
    models = (
        MODULE / "CTGroundedVLMLib" / "data" / "models"
    )  # found when the build is configured: see the test with CMake
    there = {path for path in files(MODULE / "CTGroundedVLMLib") if path.suffix != ".py"} | files(MODULE / "Resources")
    there = {path for path in there if models not in path.parents}
    assert sorted(listed) == sorted(path.relative_to(MODULE).as_posix() for path in there)


def test_nothing_beside_the_module_is_taken_for_a_module_by_slicer():
    assert [path.name for path in MODULE.glob("*.py")] == ["CTGroundedVLM.py"]


def test_no_testing_folder_of_the_extension_is_a_package():
    assert list((MODULE / "Testing").rglob("__init__.py")) == []
    scripts = re.findall(r"SCRIPT (\S+?)\)", (MODULE / "Testing" / "Python" / "CMakeLists.txt").read_text())
    assert scripts == sorted(path.name for path in (MODULE / "Testing" / "Python").glob("*.py"))


def test_the_index_entry_keeps_the_index_rules():
    data = ENTRY.read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"}\n")
    entry = json.loads(data)
    jsonschema.validate(entry, ENTRY_RULES)
    assert entry["dicom_support_rule"] == "Modality == 'CT'"


@pytest.mark.parametrize(
    "change",
    [
        {"category": "Radiology"},
        {"scm_url": "https://github.com/CTGroundedVLM/CTGroundedVLM.git"},
        {"description": "not allowed here"},
        {"tier": 9},
    ],
)
def test_the_rules_notice_a_wrong_entry(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(ENTRY.read_text(encoding="utf-8")) | change, ENTRY_RULES)


def test_entry_and_cmake_metadata_agree():
    entry, values = json.loads(ENTRY.read_text(encoding="utf-8")), metadata()
    assert values["PROJECT"] == ENTRY.stem == "CTGroundedVLM"
    assert values["CATEGORY"] == entry["category"]
    assert values["DEPENDS"].split() == entry["build_dependencies"] == ["PyTorch"]
    assert f"{values['HOMEPAGE']}.git" == entry["scm_url"]
    assert set(values) >= {"CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS"}
    for said in ("Research use only", "non-commercial", "no data leave", "synthetic patients only"):
        assert said in values["DESCRIPTION"]
    assert (MODULE / "CTGroundedVLMLib" / "data" / "models" / "starter" / "model.safetensors").is_file()


def test_icon_and_screenshots_are_pictures_of_this_repository():
    values = metadata()
    for url in [values["ICONURL"], *values["SCREENSHOTURLS"].split()]:
        assert url.startswith(RAW), url
        with Image.open(ROOT / url.removeprefix(RAW)) as picture:
            assert picture.format in ("PNG", "JPEG", "GIF")


def test_the_icons_are_what_the_script_draws():
    drawn = np.asarray(runpy.run_path(str(ROOT / "Resources" / "Icons" / "draw_icon.py"))["draw"]())
    assert drawn.shape == (128, 128, 4)
    for path in (ROOT / "Resources" / "Icons", MODULE / "Resources" / "Icons"):
        with Image.open(path / "CTGroundedVLM.png") as stored:
            difference = np.abs(np.asarray(stored.convert("RGBA")).astype(int) - drawn)
        assert difference.max() <= 8, path  # another version of Pillow may draw an edge differently


def test_the_license_lies_at_the_root():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:300]


def test_what_has_to_be_set_before_publishing_is_written_down():
    text = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8").partition("## Before publishing")[2]
    owner = re.match(r"https://github\.com/([^/]+)/", metadata()["HOMEPAGE"])[1]
    assert f"github.com/{owner}/SlicerCTGroundedVLM" in text
    for name in (
        "CMakeLists.txt",
        "Resources/CTGroundedVLM.json",
        "EXTENSION_CONTRIBUTORS",
        "EXTENSION_SCREENSHOTURLS",
    ):
        assert name in text


def test_the_tutorial_holds_what_reviewers_of_the_index_ask_for():
    text = (ROOT / "docs" / "slicer.md").read_text(encoding="utf-8")
    for heading in (
        "## Tutorial",
        "## Privacy",
        "## How to cite",
        "## Hospitals behind a firewall",
        "## Models",
        "## Console",
    ):
        assert f"\n{heading}\n" in text
    for page in (text, (ROOT / "README.md").read_text(encoding="utf-8")):
        for said in ("CTGroundedVLMPhantom", "Research use only", "Tutorial", "Privacy"):
            assert said in page


def test_slicer_needs_no_package_of_ours_to_load_the_module_and_to_ask_what_is_missing():
    """Every requirement that Slicer does not ship is hidden; a module that needs it at import fails by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    hidden = {re.match(r"[\w-]+", text)[0].lower() for text in project} - {"numpy", "pillow", "pydicom", "simpleitk"}
    program = (
        "import importlib, sys\n"
        f"hidden = {sorted(hidden)!r}\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in hidden: raise ModuleNotFoundError(f'{name} is not shipped by Slicer', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        f"for name in {IN_SLICER!r}: importlib.import_module(f'CTGroundedVLMLib.{{name}}')\n"
        "from CTGroundedVLMLib.models_admin import list_models\n"
        "print([model.name for model in list_models()])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(MODULE), "CTGVLM_MODELS_DIR": os.devnull}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['untrained']"


STUBS = """
macro(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MY "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MY_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown: ${MY_UNPARSED_ARGUMENTS}")
  endif()
  foreach(entry ${MY_SCRIPTS} ${MY_RESOURCES})
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${entry})
      message(FATAL_ERROR "nonexistent: ${entry}")
    endif()
  endforeach()
  message(STATUS "module ${MY_NAME}, tests ${MY_WITH_GENERIC_TESTS}")
  list(FILTER MY_RESOURCES INCLUDE REGEX "/data/models/")
  message(STATUS "models: ${MY_RESOURCES}")
endmacro()
macro(slicer_add_python_unittest)
  cmake_parse_arguments(MY "" "TESTNAME_PREFIX;SCRIPT" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${MY_SCRIPT})
    message(FATAL_ERROR "nonexistent test: ${MY_SCRIPT}")
  endif()
  message(STATUS "test ${MY_SCRIPT}")
endmacro()
"""


def _without_weights(folder, names):
    """What the build reads: the two folders with CMake files, without bundled models."""
    if Path(folder) == ROOT:
        return [
            name
            for name in names
            if name not in ("CMakeLists.txt", "CTGroundedVLM", "Resources", "LICENSE", "README.md")
        ]
    return [name for name in names if name == "__pycache__" or (Path(folder).name, name) == ("data", "models")]


@pytest.mark.skipif(None in (shutil.which("cmake"), shutil.which("c++")), reason="needs cmake and a compiler")
def test_cmake_reads_the_files_with_stubs_in_the_place_of_slicers_macros(tmp_path):
    copy = shutil.copytree(ROOT, tmp_path / "copy", ignore=_without_weights)
    starter = copy / "CTGroundedVLM" / "CTGroundedVLMLib" / "data" / "models" / "starter"
    starter.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (starter / name).write_text("")
    slicer = tmp_path / "slicer"
    slicer.mkdir()
    (slicer / "use.cmake").write_text(STUBS)
    (slicer / "end.cmake").write_text('message(STATUS "depends ${EXTENSION_DEPENDS}, project ${PROJECT_NAME}")')
    (slicer / "SlicerConfig.cmake").write_text(
        "".join(
            f"set({name} ${{CMAKE_CURRENT_LIST_DIR}}/{file}.cmake)\n"
            for name, file in (
                ("Slicer_USE_FILE", "use"),
                ("Slicer_EXTENSION_GENERATE_CONFIG", "end"),
                ("Slicer_EXTENSION_CPACK", "end"),
            )
        )
        + "set(BUILD_TESTING ON)\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(Outer NONE)\n"
        f"set(Slicer_DIR {slicer.as_posix()})\nadd_subdirectory({copy.as_posix()} inner)\n"
    )
    command = ["cmake", "-Wno-dev", "-S", tmp_path, "-B", tmp_path / "build"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "module CTGroundedVLM, tests TRUE",
        "test CTGroundedVLM.py",
        "test analysis_in_slicer.py",
        "depends PyTorch, project CTGroundedVLM",
        "models: CTGroundedVLMLib/data/models/starter/config.json;CTGroundedVLMLib/data/models/starter/model.safetensors",
    ):
        assert f"-- {line}\n" in done.stdout

"""Which output folders are refused, before the computation and again when writing."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.export import check_output, write_result
from CTGroundedVLMLib.export import content as content_module
from export_cases import a_result


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """These tests look at folders, not into pictures (test_export_pictures.py does)."""
    monkeypatch.setattr(content_module, "draw_planned", lambda *args: np.zeros((10, 10, 3), np.uint8))


def refused(output: Path, *words: str) -> None:
    before = content(output) if output.is_dir() else None
    with pytest.raises(OutputError) as raised:
        check_output(output)
    for word in (str(output), *words):
        assert word in str(raised.value)
    with pytest.raises(OutputError):
        write_result(a_result(), output)
    assert before is None or content(output) == before


def test_a_file_is_refused_as_folder(tmp_path):
    (tmp_path / "out").write_text("x")
    refused(tmp_path / "out", "is a file", "Name another folder")


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("x")
    refused(tmp_path / "out" / "deeper", "is a file")


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    refused(tmp_path, "not empty", "new or empty folder")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema": "other", "files": []}', '{"schema": "ctgvlm-results"}']
    + [
        json.dumps({"schema": "ctgvlm-results", "files": [file]})
        for file in ("../thesis.txt", "/etc/passwd", "..\\x", "C:\\x", "a/../../x", "..", "a/..", "", ".", 5, "link/x")
    ],
)
def test_a_results_file_that_is_not_ours_or_points_outside_is_refused(tmp_path, text):
    output = tmp_path / "out"
    output.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (output / "link").symlink_to(tmp_path / "elsewhere")
    (output / "results.json").write_text(text)
    refused(output)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root and Windows ignore permission bits")
def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    refused(tmp_path / "out", "permission")
    tmp_path.chmod(0o700)


def test_missing_permission_is_refused_before_the_computation(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(tmp_path / "out", "permission")


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match="Name another folder"):
        check_output(tmp_path / "a")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    for use in (check_output, lambda output: write_result(a_result(), output)):
        with pytest.raises(OutputError, match="Name another folder"):
            use(tmp_path / ("x" * 300))


def test_a_folder_among_the_listed_files_is_left_with_what_it_holds(tmp_path):
    output = tmp_path / "out"
    write_result(a_result(), output)
    document = json.loads((output / "results.json").read_bytes())
    (output / "results.json").write_text(json.dumps(document | {"files": [*document["files"], "heatmaps"]}))
    (output / "heatmaps" / "mine.txt").write_text("keep")
    write_result(a_result(), output)
    assert (output / "heatmaps" / "mine.txt").read_text() == "keep"


def test_absent_empty_and_former_folders_are_accepted(tmp_path, tmp_path_factory):
    written = tmp_path_factory.mktemp("former")
    write_result(a_result(), written)
    check_output(tmp_path / "absent" / "deeper")
    check_output(tmp_path)
    check_output(written)
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write_result(a_result(), tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert set(content(tmp_path / "real")) == set(json.loads((tmp_path / "out/results.json").read_bytes())["files"])

"""The output folder: what is written, and what stays as it was when writing fails."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from CTGroundedVLMLib import export
from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.export import check_output, result_record, write_result
from CTGroundedVLMLib.export import content as content_module
from CTGroundedVLMLib.export import folder as export_folder
from CTGroundedVLMLib.export.heatmaps import write_heatmap
from export_cases import a_result

NAMES = {
    "results.json",
    "findings.csv",
    "links.csv",
    "index.html",
    "heatmaps/liver_hepatic-steatosis.nii.gz",
    "heatmaps/lung_lung-nodule.nii.gz",
    "pictures/liver_hepatic-steatosis.png",
    "pictures/lung_lung-nodule.png",
    "pictures/segments_liver.png",
    "pictures/segments_lung-lower-lobe-right.png",
    "pictures/segments_spleen.png",
}


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "out"
    write_result(a_result(), folder)
    return folder


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """These tests look at files, not into pictures (test_export_pictures.py does)."""
    monkeypatch.setattr(content_module, "draw_planned", lambda *args: np.zeros((10, 10, 3), np.uint8))


def test_all_files_are_written_and_listed(written):
    assert set(content(written)) == NAMES
    assert set(json.loads((written / "results.json").read_bytes())["files"]) == NAMES


def test_the_paths_returned_exist(tmp_path):
    paths = write_result(a_result(), tmp_path / "new" / "out", pictures=False)
    assert set(paths) == {"results", "findings", "links", "page", "heatmaps"}
    assert paths["page"] == tmp_path / "new" / "out" / "index.html"
    assert all(p.exists() for p in paths.values())


def test_heat_maps_and_pictures_can_be_left_out(tmp_path):
    paths = write_result(a_result(), tmp_path / "out", heatmap_files=False, pictures=False)
    assert set(content(tmp_path / "out")) == {"results.json", "findings.csv", "links.csv", "index.html"}
    document = json.loads(paths["results"].read_bytes())
    assert [h["file"] for h in document["heatmaps"]] == [None, None]
    assert document["pictures"] == []


def test_progress_rises_from_0_to_1(tmp_path):
    seen = []
    write_result(a_result(), tmp_path / "out", progress=lambda text, fraction: seen.append((text, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert "Writing heatmaps/liver_hepatic-steatosis.nii.gz" in [text for text, _ in seen]


def test_a_record_without_a_folder_names_no_files():
    record = result_record(a_result())
    assert record["files"] == []
    assert [h["file"] for h in record["heatmaps"]] == [None, None]
    assert record["findings"][0]["probability"] == 0.8125


# ---------------------------------------------------------------- heat maps


@pytest.mark.parametrize(
    "directions",
    [
        np.diag([-1.0, -1.0, 1.0]),
        np.diag([1.0, -1.0, -1.0]),  # left-handed grid
        np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),  # sagittal slices
        np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]]),  # oblique
    ],
)
def test_a_heat_map_keeps_values_and_places(tmp_path, directions):
    result = a_result(directions=directions)
    write_result(result, tmp_path / "out", pictures=False)
    image = SimpleITK.ReadImage(str(tmp_path / "out/heatmaps/liver_hepatic-steatosis.nii.gz"))
    values = SimpleITK.GetArrayFromImage(image)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, result.heatmaps[0].to_volume())
    k, j, i = (int(x) for x in np.unravel_index(values.argmax(), values.shape))
    assert (k, j, i) == (3, 12, 8)
    lps = image.TransformIndexToPhysicalPoint((i, j, k))
    ras = result.case.ct.ijk_to_ras @ (i, j, k, 1)
    np.testing.assert_allclose((-lps[0], -lps[1], lps[2]), ras[:3], atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), (2.0, 2.5, 4.0), atol=1e-5)


def test_values_that_are_not_finite_become_0_with_a_warning(tmp_path):
    result = a_result()
    result.heatmaps[0].values_kji[0, 0, 0] = np.nan
    paths = write_result(result, tmp_path / "out")
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(next(paths["heatmaps"].glob("liver*")))))
    assert values[2, 10, 5] == 0
    document = json.loads(paths["results"].read_bytes())
    assert [(h["min"], h["max"]) for h in document["heatmaps"]] == [(-0.25, 0.5), (-0.25, 0.125)]
    assert "hepatic steatosis" in next(w for w in document["warnings"] if "not finite" in w)


def test_a_sheared_grid_is_warned_of(tmp_path):
    result = a_result(directions=np.array([[-1.0, 0, 0], [0, -1.0, 0.2], [0, 0, 0.98]]))
    write_result(result, tmp_path / "out", pictures=False)
    assert any("sheared" in w for w in json.loads((tmp_path / "out/results.json").read_bytes())["warnings"])


def test_a_heat_map_that_cannot_be_written_is_named(tmp_path):
    result = a_result()
    with pytest.raises(OSError, match=r"liver\.nii\.gz could not be written"):
        write_heatmap(result.heatmaps[0], result.case.ct.ijk_to_ras, tmp_path / "absent" / "liver.nii.gz")


def test_names_that_collide_or_are_not_ascii_get_files_of_their_own(tmp_path):
    result = a_result()
    prompts = ("5 mm", "<5 mm", ">5 mm", "肝囊肿", "a/../../b", "5 mm", "Kyste hépatique", "x" * 400)
    heatmaps = tuple(dataclasses.replace(result.heatmaps[0], finding=p) for p in prompts)
    write_result(dataclasses.replace(result, heatmaps=heatmaps), tmp_path / "out", pictures=False)
    document = json.loads((tmp_path / "out/results.json").read_bytes())
    files = [h["file"] for h in document["heatmaps"]]
    assert len(set(files)) == len(prompts)
    assert [files[0], files[5], files[6]] == [
        "heatmaps/liver_5-mm.nii.gz",
        "heatmaps/liver_5-mm-2.nii.gz",
        "heatmaps/liver_kyste-hepatique.nii.gz",
    ]
    for file in files:
        assert file.isascii()
        assert len(file) < 100
        assert (tmp_path / "out" / file).is_file()


# ---------------------------------------------------------------- all or nothing


def disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["write_heatmap", "draw_planned", "links_csv", "page_html", "install"])
@pytest.mark.parametrize(("failure", "error"), [(disk_full, OutputError), (interrupted, KeyboardInterrupt)])
def test_a_failure_midway_leaves_the_former_result_and_nothing_else(tmp_path, monkeypatch, stage, failure, error):
    output = tmp_path / "out"
    write_result(a_result(), output, pictures=False)
    (output / "my notes.txt").write_text("keep")
    before = content(tmp_path)
    monkeypatch.setattr(export if stage == "install" else content_module, stage, failure)
    with pytest.raises(error) as raised:
        write_result(a_result(trained=False), output)
    assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == [output]
    if error is OutputError:
        assert "disk is full" in str(raised.value)
        assert str(output) in str(raised.value)


def everything(folder: Path) -> dict[str, bytes | None]:
    """Files with their content, and folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("moves_done", [0, 1, 3, 6, 9, 14])
def test_a_failure_while_files_are_exchanged_is_undone(tmp_path, monkeypatch, moves_done):
    output = tmp_path / "out"
    write_result(a_result(), output, pictures=False)  # 6 files give way, 11 come
    before = everything(tmp_path)
    rename, count = Path.rename, 0

    def failing(self, target):
        nonlocal count
        count += 1
        if count == moves_done + 1:
            raise PermissionError(errno.EACCES, "in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError, match="permission"):
        write_result(a_result(trained=False), output)
    assert everything(tmp_path) == before


def test_former_files_that_cannot_be_moved_back_are_kept_and_named(tmp_path, monkeypatch):
    output = tmp_path / "out"
    write_result(a_result(), output, heatmap_files=False, pictures=False)
    before = content(output)
    rename = Path.rename

    def failing(self, target):
        broken = Path(target).name == "index.html" and Path(target).parent == output  # neither in nor back
        if broken:
            raise PermissionError(errno.EACCES, "in use")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputError) as raised:
        write_result(a_result(trained=False), output, heatmap_files=False, pictures=False)
    kept = next(tmp_path.glob(".out.former-*"))
    assert str(kept) in str(raised.value)
    assert content(kept) == {"index.html": before["index.html"]}
    assert content(output) == {name: data for name, data in before.items() if name != "index.html"}


def test_a_failure_in_a_new_place_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(content_module, "page_html", disk_full)
    with pytest.raises(OutputError):
        write_result(a_result(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_former_result_is_replaced_and_other_files_stay(tmp_path):
    output = tmp_path / "out"
    write_result(a_result(), output)
    (output / "my notes.txt").write_text("keep")
    (output / "heatmaps" / "mine.nii.gz").write_bytes(b"keep")
    write_result(a_result(trained=False), output, heatmap_files=False, pictures=False)
    assert set(content(output)) == {
        "results.json",
        "findings.csv",
        "links.csv",
        "index.html",
        "my notes.txt",
        "heatmaps/mine.nii.gz",
    }
    assert not (output / "pictures").exists()
    assert json.loads((output / "results.json").read_bytes())["model"]["trained"] is False
    assert list(tmp_path.iterdir()) == [output]


def test_a_strangers_file_in_the_way_is_not_overwritten(tmp_path):
    output = tmp_path / "out"
    write_result(a_result(), output, heatmap_files=False)
    stranger = output / "heatmaps" / "lung_lung-nodule.nii.gz"
    stranger.parent.mkdir()
    stranger.write_bytes(b"mine")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="lung_lung-nodule"):
        write_result(a_result(), output)
    assert content(tmp_path) == before


@pytest.mark.parametrize("litter", [(), (".DS_Store",), (".out.partial-0a1b2c3d",)])
def test_an_empty_folder_is_used(tmp_path, litter):
    (tmp_path / "out").mkdir()
    for name in litter:
        (tmp_path / "out" / name).write_text("")
    write_result(a_result(), tmp_path / "out")
    assert set(content(tmp_path / "out")) == NAMES | set(litter)


def test_files_are_made_inside_a_folder_whose_parent_is_another_disk(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    stat = Path.stat

    def another_disk(self, **kwargs):
        found = stat(self, **kwargs)
        return os.stat_result([*found[:2], found.st_dev + (self == tmp_path), *found[3:]])

    monkeypatch.setattr(Path, "stat", another_disk)
    with export_folder.staging(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "out"
        assert folder.is_dir()
        check_output(tmp_path / "out")
    assert not folder.exists()

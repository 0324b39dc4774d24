"""The sample's files: what they hold, and what they never replace."""

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.sample import make_phantom, write_sample
from CTGroundedVLMLib.volume_io import read_ct


@pytest.fixture(scope="module")
def a_sample(tmp_path_factory):
    """The files of seed 0."""
    return write_sample(tmp_path_factory.mktemp("sample"), seed=0)


def test_the_files_hold_the_phantom_in_lps(a_sample):
    phantom = make_phantom(0)
    volume = read_ct(a_sample.ct)
    assert np.array_equal(volume.array_kji, phantom.hu_kji)
    assert volume.ijk_to_ras == pytest.approx(phantom.ijk_to_ras)
    labels = sitk.ReadImage(str(a_sample.segmentation))
    assert np.array_equal(sitk.GetArrayFromImage(labels), phantom.labels_kji)
    assert labels.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert labels.GetSpacing() == pytest.approx((1.5, 1.5, 2.5))
    assert a_sample.report.read_text(encoding="utf-8") == phantom.report
    assert a_sample.ct.stat().st_size < 8e6
    assert sorted(p.name for p in a_sample.directory.iterdir()) == [
        "ct.nii.gz",
        "report.txt",
        "segmentation.nii.gz",
        "truth.json",
    ]


def test_the_truth_points_at_the_findings(a_sample):
    truth = json.loads(a_sample.truth.read_text(encoding="utf-8"))
    volume = read_ct(a_sample.ct)
    report = a_sample.report.read_text(encoding="utf-8")
    assert truth["seed"] == 0
    assert truth["synthetic"] is True
    assert len(truth["findings"]) >= 3
    for entry in truth["findings"]:
        i, j, k = entry["centre_ijk"]
        assert (volume.ijk_to_ras @ [i, j, k, 1])[:3] == pytest.approx(entry["centre_ras_mm"], abs=0.06)
        assert entry["sentence"] in report
        assert entry["volume_ml"] > 0
        assert all(np.array([i, j, k]) < volume.array_kji.shape[::-1])


def test_the_same_seed_gives_the_same_files_and_another_one_replaces_them(a_sample, tmp_path):
    again = write_sample(tmp_path / "new" / "folder", seed=0)
    names = ("ct", "segmentation", "report", "truth")
    first = {name: getattr(again, name).read_bytes() for name in names}
    assert first == {name: getattr(a_sample, name).read_bytes() for name in names}
    other = write_sample(again.directory, seed=1)
    assert other == again
    assert all(getattr(other, name).read_bytes() != first[name] for name in names)


@pytest.mark.parametrize("name", ["ct.nii.gz", "report.txt", "truth.json"])
def test_a_folder_with_somebody_s_files_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(OutputError, match=f"{re.escape(name)} exists and is not an unchanged file of a sample"):
        write_sample(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "{}"


def test_a_changed_file_of_a_sample_is_not_replaced(tmp_path):
    (tmp_path / "report.txt").write_text("edited", encoding="utf-8")
    truth = {"generator": "CTGroundedVLM synthetic sample", "sha256": {"report.txt": "0" * 64}}
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    with pytest.raises(OutputError, match=r"report\.txt exists"):
        write_sample(tmp_path)
    assert (tmp_path / "report.txt").read_text(encoding="utf-8") == "edited"


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        write_sample(tmp_path / "file")

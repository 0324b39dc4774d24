"""Segmentations in every form land on the CT's grid with TotalSegmentator v2 labels; the rest is refused in words."""

import gzip
import itertools
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.errors import SegmentationError
from CTGroundedVLMLib.grids import place_on_grid
from CTGroundedVLMLib.image_file import set_affine
from CTGroundedVLMLib.segmentation_io import read_segmentation
from CTGroundedVLMLib.types import Volume
from CTGroundedVLMLib.volume_io import read_ct
from label_cases import AFFINE, HEART, LIVER, SHAPE, SPLEEN, labels


@pytest.fixture
def a_ct():
    return Volume(np.zeros(SHAPE, np.int16), AFFINE, "scan")


def written(path, array, affine=AFFINE):
    image = sitk.GetImageFromArray(array)
    set_affine(image, affine)
    sitk.WriteImage(image, str(path))
    return path


def refusal(path, ct, **options):
    with pytest.raises(SegmentationError) as caught:
        read_segmentation(path, ct, **options)
    return str(caught.value)


# --- label maps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_label_maps_are_read_in_every_format(a_ct, tmp_path, suffix, dtype):
    segmentation = read_segmentation(written(tmp_path / f"labels{suffix}", labels().astype(dtype)), a_ct)
    np.testing.assert_array_equal(segmentation.labels_kji, labels())
    assert segmentation.labels_kji.dtype == np.uint8
    assert segmentation.names == {SPLEEN: "spleen", LIVER: "liver"}
    assert segmentation.warnings == ()
    assert len(segmentation.sha256) == 64


def test_labels_of_version_1_become_those_of_version_2(a_ct, tmp_path):
    array = labels()
    array[array == LIVER] = 46  # v1: heart_ventricle_left
    array[0, 0, :3] = 49  # v1: pulmonary_artery, which version 2 lacks
    segmentation = read_segmentation(written(tmp_path / "labels.nii.gz", array), a_ct, version=1)
    assert anatomy.label_names(1)[46] == "heart"
    assert segmentation.names == {SPLEEN: "spleen", HEART: "heart"}
    np.testing.assert_array_equal(segmentation.labels_kji == HEART, labels() == LIVER)
    assert "labels that are not known were left out: 49" in segmentation.warnings[0]


def test_unknown_labels_are_left_out_with_a_warning(a_ct, tmp_path):
    array = labels().astype(np.int16)
    array[0, 0, 0], array[0, 0, 1] = 118, 3000
    segmentation = read_segmentation(written(tmp_path / "labels.nii.gz", array), a_ct)
    np.testing.assert_array_equal(segmentation.labels_kji, labels())
    assert segmentation.warnings == ("Segmentation labels.nii.gz: labels that are not known were left out: 118, 3000.",)


def with_label_table(path, array, names):
    """A NIfTI with the extension that TotalSegmentator's nifti_ext_header.py writes."""
    rows = "".join(f'<Label Key="{k}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{n}]]></Label>\n' for k, n in names)
    text = f"<CaretExtension><VolumeInformation><LabelTable>{rows}</LabelTable></VolumeInformation></CaretExtension>"
    content = text.encode() + b" " * (-(len(text) + 8) % 16)
    plain = written(path.with_name("plain.nii"), array)
    data = bytearray(plain.read_bytes())
    extension = struct.pack("<4B2i", 1, 0, 0, 0, len(content) + 8, 0) + content
    struct.pack_into("<f", data, 108, 348 + len(extension))
    path.write_bytes(gzip.compress(bytes(data[:348]) + extension + bytes(data[352:])))
    return path


def test_names_in_the_nifti_header_count_more_than_the_values(a_ct, tmp_path):
    path = with_label_table(
        tmp_path / "labels.nii.gz", labels(), [(1, "liver"), (5, "heart_atrium_left"), (6, "aorta")]
    )
    segmentation = read_segmentation(path, a_ct)
    assert segmentation.names == {LIVER: "liver", HEART: "heart"}
    np.testing.assert_array_equal(segmentation.labels_kji == LIVER, labels() == SPLEEN)


def test_another_task_of_totalsegmentator_is_not_taken_for_total(a_ct, tmp_path):
    names = [(1, "lung_vessels"), (5, "lung_trachea_bronchia")]
    message = refusal(with_label_table(tmp_path / "labels.nii.gz", labels(), names), a_ct)
    assert "holds no class that is known; found 1 lung_vessels, 5 lung_trachea_bronchia" in message


def test_a_single_mask_is_named_by_its_file(a_ct, tmp_path):
    mask = (labels() == LIVER).astype(np.uint8)
    by_file = read_segmentation(written(tmp_path / "kidney_left.nii.gz", mask), a_ct)
    assert by_file.names == {3: "kidney_left"}
    by_value = read_segmentation(written(tmp_path / "mask.nii.gz", mask), a_ct)
    assert by_value.names == {SPLEEN: "spleen"}
    assert "holds the label 1 only, read as spleen" in by_value.warnings[0]


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(SHAPE, np.uint8), "is empty: every voxel is 0. Run the segmentation again"),
        (np.full(SHAPE, 200, np.uint8), "holds no class that is known; found 200"),
        (np.where(labels() > 0, 0.37, 0.0), "holds values from 0 to 0.37; label values"),
        (labels().astype(np.int16) - 1024, "holds values from -1024 to -1019; label values"),
        (np.zeros((14, 12), np.uint8), "is 12 × 14 voxels"),
    ],
)
def test_what_holds_no_labels_is_refused(a_ct, tmp_path, array, found):
    path = tmp_path / "labels.nii.gz"
    if array.ndim == 3:
        written(path, array)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    message = refusal(path, a_ct)
    assert message.startswith("Segmentation labels.nii.gz ")
    assert found in message


def test_unknown_labels_come_with_a_hint_at_other_versions(a_ct, tmp_path):
    message = refusal(written(tmp_path / "labels.nii.gz", labels() + np.uint8(120)), a_ct)
    assert "TotalSegmentator v2's task 'total' are expected" in message
    assert "say if it is version 1 or 2" in message


def test_truncated_and_missing_files_are_refused(a_ct, tmp_path):
    path = written(tmp_path / "labels.nii.gz", labels())
    path.write_bytes(path.read_bytes()[:-40])
    assert "Segmentation labels.nii.gz is damaged or incomplete" in refusal(path, a_ct)
    assert "does not exist" in refusal(tmp_path / "none.nii.gz", a_ct)


def test_a_missing_mask_is_named_with_the_folder_where_it_was_looked_for(a_ct, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(Path("nope.nii.gz"), a_ct)
    assert message == f"Segmentation nope.nii.gz does not exist: {tmp_path / 'nope.nii.gz'}. Check the path."


@pytest.mark.parametrize("content", [b"not a mask\n" * 50, bytes(range(256)) * 4])
def test_what_is_no_mask_is_answered_with_what_a_mask_may_be(a_ct, tmp_path, content):
    (tmp_path / "mask.nii.gz").write_bytes(content)
    message = refusal(tmp_path / "mask.nii.gz", a_ct)
    assert message.endswith(".mhd, or TotalSegmentator's output folder.")
    assert "DICOM" not in message


def test_a_dicom_segmentation_is_refused_with_a_way_out(a_ct, tmp_path):
    path = tmp_path / "seg.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(200))
    assert "save it as .seg.nrrd" in refusal(path, a_ct)


# --- grids --------------------------------------------------------------------------------------------------------


def orientations():
    """All 48 ways to store a volume: (permutation of the axes, which of them are flipped)."""
    return itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3))


def reoriented(array_kji, ijk_to_ras, permutation, flips):
    """The same physical content in another orientation."""
    array = array_kji.transpose(2, 1, 0).transpose(permutation)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for new, old in enumerate(permutation):
        step[old, new] = -1 if flips[new] else 1
        step[old, 3] = array.shape[new] - 1 if flips[new] else 0
    array = np.flip(array, [axis for axis in range(3) if flips[axis]])
    return np.ascontiguousarray(array.transpose(2, 1, 0)), ijk_to_ras @ step


def test_a_mask_in_any_orientation_has_the_same_labels_at_the_same_points():
    for permutation, flips in orientations():
        turned, affine = reoriented(labels(), AFFINE, permutation, flips)
        placed, exact = place_on_grid(turned, affine, SHAPE, AFFINE)
        assert exact
        np.testing.assert_array_equal(placed, labels())


def test_a_ct_in_any_orientation_gets_the_labels_of_its_points(tmp_path):
    path = written(tmp_path / "labels.nii.gz", labels())
    for permutation, flips in orientations():
        turned, affine = reoriented(labels().astype(np.int16), AFFINE, permutation, flips)
        segmentation = read_segmentation(path, Volume(turned, affine, "scan"))
        np.testing.assert_array_equal(segmentation.labels_kji, turned)
        assert segmentation.warnings == ()


def test_a_real_mask_in_other_orientations_reads_the_same(test_data, tmp_path):
    folder = test_data / "ct/abdomen"
    ct = read_ct(folder / "ct.nii.gz")
    expected = read_segmentation(folder / "segmentation.nii.gz", ct)
    for code in ("RAS", "LPS", "LPI", "ASL"):
        image = sitk.DICOMOrient(sitk.ReadImage(str(folder / "segmentation.nii.gz")), code)
        sitk.WriteImage(image, str(tmp_path / f"{code}.nii.gz"))
        segmentation = read_segmentation(tmp_path / f"{code}.nii.gz", ct)
        np.testing.assert_array_equal(segmentation.labels_kji, expected.labels_kji)
        assert segmentation.names == expected.names
        assert segmentation.warnings == ()


def test_a_cropped_mask_is_put_back_in_its_place(a_ct, tmp_path):
    offset = np.eye(4)
    offset[:3, 3] = (1, 2, 1)
    path = written(tmp_path / "labels.nii.gz", labels()[1:, 2:, 1:], AFFINE @ offset)
    segmentation = read_segmentation(path, a_ct)
    np.testing.assert_array_equal(segmentation.labels_kji, labels())
    assert segmentation.warnings == ()


def test_a_mask_beyond_the_ct_is_cut_with_a_warning(a_ct, tmp_path):
    offset = np.eye(4)
    offset[2, 3] = -4
    path = written(tmp_path / "labels.nii.gz", labels(), AFFINE @ offset)
    segmentation = read_segmentation(path, a_ct)
    np.testing.assert_array_equal(segmentation.labels_kji[:-4], labels()[4:])
    kept = np.count_nonzero(labels()[4:]) / np.count_nonzero(labels())
    assert segmentation.warnings == (
        f"Segmentation labels.nii.gz: only {kept:.0%} of the segmented volume lies inside the CT.",
    )


@pytest.mark.parametrize("rounding", [1e-7, 4e-4])
def test_rounded_affines_are_the_same_grid(a_ct, tmp_path, rounding):
    path = written(tmp_path / "labels.mha", labels(), AFFINE + rounding * np.eye(4)[:, [3, 0, 1, 2]])
    segmentation = read_segmentation(path, a_ct)
    np.testing.assert_array_equal(segmentation.labels_kji, labels())
    assert segmentation.warnings == ()


def test_another_grid_is_resampled_to_the_nearest_voxel_with_a_warning(tmp_path):
    coarse_affine = np.diag([-2.0, -2.0, 4.0, 1.0])
    coarse_affine[:3, 3] = (31, 21, -101)
    rng = np.random.default_rng(0)
    coarse = rng.choice(np.array([0, SPLEEN, LIVER, 117], np.uint8), (9, 10, 11))
    ct = Volume(np.zeros(SHAPE, np.int16), AFFINE, "scan")
    segmentation = read_segmentation(written(tmp_path / "labels.nii.gz", coarse, coarse_affine), ct)
    assert "another grid than the CT; it was resampled" in segmentation.warnings[0]
    to_coarse = np.linalg.inv(coarse_affine) @ AFFINE
    for k, j, i in np.ndindex(SHAPE):
        index = to_coarse @ (i, j, k, 1)
        nearest = np.rint(index[:3]).astype(int)
        if np.abs(index[:3] - nearest).max() < 0.49:
            inside = np.all(nearest >= 0) and np.all(nearest < (11, 10, 9))
            expected = coarse[tuple(nearest[::-1])] if inside else 0
            assert segmentation.labels_kji[k, j, i] == expected


def test_copying_equals_resampling():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 118, SHAPE, dtype=np.uint8)
    offset = np.eye(4)
    offset[:3, 3] = (3, -4, 2)
    for permutation, flips in orientations():
        turned, affine = reoriented(array, AFFINE @ offset, permutation, flips)
        placed, exact = place_on_grid(turned, affine, (8, 10, 9), AFFINE)
        image, reference = sitk.GetImageFromArray(turned), sitk.GetImageFromArray(np.zeros((8, 10, 9), np.uint8))
        set_affine(image, affine)
        set_affine(reference, AFFINE)
        resampled = sitk.Resample(image, reference, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert exact
        np.testing.assert_array_equal(placed, sitk.GetArrayFromImage(resampled))


@pytest.mark.parametrize("shift", [(500, 0, 0), (500.3, 0, 0.2)])
def test_the_mask_of_another_place_is_refused(a_ct, tmp_path, shift):
    affine = AFFINE.copy()
    affine[:3, 3] += shift
    message = refusal(written(tmp_path / "labels.nii.gz", labels(), affine), a_ct)
    assert "does not overlap the CT scan: all its segments lie outside" in message


# --- one mask per class -------------------------------------------------------------------------------------------


def test_a_totalsegmentator_folder_is_read(a_ct, tmp_path):
    folder = tmp_path / "mask folder"
    folder.mkdir()
    written(folder / "spleen.nii.gz", (labels() == SPLEEN).astype(np.uint8))
    written(folder / "liver.nii.gz", (labels() == LIVER).astype(np.uint8) * 255)
    written(folder / "heart_atrium_left.nii.gz", (labels() == 0).astype(np.uint8) * (np.arange(12) == 0))  # v1's name
    written(folder / "colon.nii.gz", np.zeros(SHAPE, np.uint8))
    written(folder / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    (folder / "statistics.json").write_text("{}")
    expected = labels()
    expected[..., 0] = HEART
    steps = []
    segmentation = read_segmentation(folder, a_ct, progress=lambda what, fraction: steps.append(what))
    np.testing.assert_array_equal(segmentation.labels_kji, expected)
    assert segmentation.names == {SPLEEN: "spleen", LIVER: "liver", HEART: "heart"}
    assert segmentation.warnings == (
        "Segmentation mask folder: files that are not named after a class were left out: ct.nii.gz.",
    )
    assert steps == [f"Reading mask {name}.nii.gz" for name in ("colon", "heart_atrium_left", "liver", "spleen")]


def test_the_real_folder_of_masks_is_read(test_data):
    folder = test_data / "ct/cardiac"
    ct = read_ct(folder / "ct.nii.gz")
    segmentation = read_segmentation(folder, ct)
    assert set(segmentation.names.values()) == {"aorta", "brachiocephalic_trunk", "vertebrae_T12"}
    for label, name in segmentation.names.items():
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) > 0
        np.testing.assert_array_equal(segmentation.labels_kji == label, mask)
    aorta = ct.array_kji[segmentation.labels_kji == anatomy.segment("aorta").label]
    assert np.median(aorta) > 200  # contrast medium


@pytest.mark.parametrize("name", [None, "segmentations.nii.gz"])
def test_a_folder_without_masks_is_refused(a_ct, tmp_path, name):
    if name:
        written(tmp_path / name, labels())
    message = refusal(tmp_path, a_ct)
    assert "without a mask named after a class" in message
    assert f"found {name or 'no image file'}" in message


def test_a_folder_of_empty_masks_is_refused(a_ct, tmp_path):
    written(tmp_path / "liver.nii.gz", np.zeros(SHAPE, np.uint8))
    assert "is empty: no voxel belongs to a segment" in refusal(tmp_path, a_ct)

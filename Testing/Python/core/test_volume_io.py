"""CT files and reports: every format gives the same volume, and what cannot be analysed is refused in words."""

import gzip
import struct
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib.errors import OutputError, ReportError, ResourceError, SegmentationError, VolumeError
from CTGroundedVLMLib.types import Segmentation
from CTGroundedVLMLib.volume_io import load_case, read_ct, write_label_map

SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr"]
OBLIQUE = (np.cos(0.3), -np.sin(0.3), 0, np.sin(0.3), np.cos(0.3), 0, 0, 0, 1)


def hounsfield(shape=(10, 24, 20)):
    """Air around a body of 40 HU with fat, a bone and noise."""
    hu = np.full(shape, -1000, np.int16)
    hu[:, 4:20, 3:17] = -100
    hu[:, 6:18, 5:15] = 40
    hu[2, 9, 11] = 700
    return hu + np.random.default_rng(0).integers(-20, 20, shape).astype(np.int16)


def an_image(array=None, direction=OBLIQUE, spacing=(0.7, 0.8, 2.5), origin=(-12.5, 30.25, -700)):
    image = sitk.GetImageFromArray(hounsfield() if array is None else array)
    image.SetDirection(direction)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    return image


def written(path, image=None):
    sitk.WriteImage(an_image() if image is None else image, str(path))
    return path


def patched(path, *edits, image=None):
    """A NIfTI file with some header fields overwritten: (offset, struct format, values)."""
    written(path, an_image(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)) if image is None else image)
    data = bytearray(path.read_bytes())
    for offset, form, values in edits:
        struct.pack_into("<" + form, data, offset, *values)
    path.write_bytes(data)
    return path


def refusal(path, error=VolumeError):
    with pytest.raises(error) as caught:
        read_ct(path)
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_volume(tmp_path, suffix):
    image = an_image()
    ct = read_ct(written(tmp_path / f"scan{suffix}", image))
    np.testing.assert_array_equal(ct.array_kji, hounsfield())
    assert ct.array_kji.dtype == np.int16
    assert ct.array_kji.flags.writeable
    assert ct.name == "scan"
    assert ct.source.endswith(f"scan{suffix}")
    assert ct.warnings == ()
    assert ct.spacing_ijk == pytest.approx((0.7, 0.8, 2.5))
    for index in [(0, 0, 0), (19, 23, 9), (3, 20, 5)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((ct.ijk_to_ras @ [*index, 1])[:3], lps * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_whole_numbers_are_int16_however_they_are_stored(tmp_path, dtype):
    ct = read_ct(written(tmp_path / "scan.nii.gz", an_image(hounsfield().astype(dtype))))
    assert ct.array_kji.dtype == np.int16
    np.testing.assert_array_equal(ct.array_kji, hounsfield())


def test_fractions_stay_float32(tmp_path):
    hu = hounsfield().astype(np.float64) + 0.25
    ct = read_ct(written(tmp_path / "scan.nii.gz", an_image(hu)))
    assert ct.array_kji.dtype == np.float32
    np.testing.assert_array_equal(ct.array_kji, hu)


def test_the_pixels_outlive_the_reader(tmp_path):
    ct = read_ct(written(tmp_path / "scan.nii.gz"))
    before = ct.array_kji.copy()
    for _ in range(20):  # memory that was freed would be reused by these
        sitk.Image(20, 24, 10, sitk.sitkInt16) + 7
    np.testing.assert_array_equal(ct.array_kji, before)


def test_names_with_spaces_and_foreign_letters_work(tmp_path):
    folder = tmp_path / "Größe 患者 α"
    folder.mkdir()
    ct = read_ct(written(folder / "tête & cou (1).nii.gz"))
    assert ct.name == "tête & cou (1)"


def test_the_scaling_of_a_nifti_header_is_applied_once(tmp_path):
    stored = an_image(hounsfield() + 1024, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    path = patched(tmp_path / "scan.nii", (112, "ff", (1.0, -1024.0)), image=stored)
    np.testing.assert_array_equal(read_ct(path).array_kji, hounsfield())


def test_a_nifti_header_that_rescales_hu_again_is_named_as_the_cause(tmp_path):
    message = refusal(patched(tmp_path / "scan.nii", (112, "ff", (1.0, -1024.0))))
    assert "tissue lies about 1024 too low" in message
    assert "scl_inter = -1024, which was applied when the file was read" in message


def test_a_nifti_without_orientation_is_read_with_a_warning(tmp_path):
    ct = read_ct(patched(tmp_path / "scan.nii", (252, "hh", (0, 0))))
    assert "does not say how its axes lie" in ct.warnings[0]
    assert "left and right may be swapped" in ct.warnings[0]


def test_a_qform_and_an_sform_that_place_the_scan_differently_are_reported(tmp_path):
    path = written(tmp_path / "scan.nii", an_image(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert read_ct(path).warnings == ()
    stored = struct.unpack_from("<12f", path.read_bytes(), 280)
    moved = (stored[0] * 1.5, *stored[1:])  # along i, 20 voxels of 0.7 mm: 6.65 mm at the far end
    warnings = read_ct(patched(path, (252, "hh", (1, 2)), (280, "12f", moved))).warnings
    assert len(warnings) == 1
    assert "qform and sform" in warnings[0]


def test_one_time_point_is_a_volume(tmp_path):
    path = patched(tmp_path / "scan.nii", (40, "8h", (4, 20, 24, 10, 1, 1, 1, 1)))
    assert read_ct(path).array_kji.shape == (10, 24, 20)


@pytest.mark.parametrize("case", ["abdomen/ct.nii.gz", "cardiac/ct.nii.gz"])
def test_a_real_ct_reads_as_simpleitk_reads_it(test_data, case):
    path = test_data / "ct" / case
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.array_kji, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert ct.warnings == ()
    assert len(ct.sha256) == 64


def test_reading_takes_hardly_longer_than_inflating(tmp_path):
    rng = np.random.default_rng(0)
    hu = np.tile(hounsfield((64, 256, 256)), (2, 1, 1)) + rng.integers(-9, 9, (128, 256, 256), dtype=np.int16)
    path = written(tmp_path / "scan.nii.gz", an_image(hu))
    start = time.perf_counter()
    with gzip.open(path) as file:
        while file.read(1 << 22):
            pass
    inflating = time.perf_counter() - start
    start = time.perf_counter()
    read_ct(path)
    assert time.perf_counter() - start < 3 * inflating + 0.5


# --- files that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_truncated_files_are_refused(tmp_path, suffix):
    path = written(tmp_path / f"scan{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    message = refusal(path)
    assert message.startswith(f"CT scan{suffix} is ")
    assert "truncated" in message or "damaged" in message
    assert "Copy or export it again" in message


def test_a_nifti_damaged_inside_its_gzip_stream_is_refused(tmp_path):
    path = written(tmp_path / "scan.nii.gz")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(VolumeError):
        read_ct(path)


def test_other_gzip_writers_are_read(tmp_path):
    content = written(tmp_path / "plain.nii").read_bytes()
    half = len(content) // 2
    several = tmp_path / "several members.nii.gz"  # as bgzip writes them
    several.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]) + gzip.compress(b""))
    not_compressed = tmp_path / "misnamed.nii.gz"
    not_compressed.write_bytes(content)
    for path in (several, not_compressed):
        np.testing.assert_array_equal(read_ct(path).array_kji, hounsfield())


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("scan.nii.gz", b"", "is empty (0 bytes)"),
        ("scan.nii.gz", b"no image at all\n" * 50, "it is a text file, not an image"),
        ("scan.nii", gzip.compress(b"x" * 999, mtime=0), "it is gzip-compressed. Rename it so that it ends in .nii.gz"),
        (
            "scan.nii.gz",
            b"NRRD0005\ntype: short\n",
            "it is a NRRD file, possibly damaged. Its name should end in .nrrd",
        ),
        (
            "scan.nii",
            struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(999),
            "it is a NIfTI-2 file. Convert it to NIfTI-1",
        ),
        ("scan.nrrd", b"\x89PNG\r\n\x1a\n" + bytes(600), "it is damaged, or not what its name says"),
        ("scan.nii", bytes(128) + b"DICM" + bytes(600), "it is a DICOM file. Give the folder"),
        ("scan.zip", b"PK\x03\x04" + bytes(600), "it is a zip archive. Unpack it first"),
        ("scan.txt", b"no image at all\n" * 50, "Give a file that ends in .nii.gz, .nii"),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(tmp_path, name, content, found):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path)
    assert f"CT {name} " in message
    assert found in message


def test_a_missing_file_is_named(tmp_path):
    assert refusal(tmp_path / "nowhere.nii.gz") == (
        f"CT nowhere.nii.gz does not exist: {tmp_path / 'nowhere.nii.gz'}. Check the path."
    )


@pytest.mark.parametrize(
    ("edits", "found"),
    [
        ([(252, "hh", (0, 1)), (280, "12f", (1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))], "not at right angles"),
        ([(252, "hh", (0, 1)), (280, "12f", (0,) * 12)], "not at right angles"),
        ([(252, "hh", (1, 1)), (280, "12f", (1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0))], "not at right angles"),
        ([(80, "f", (0.0,))], "has voxels of 0 × 0.8 × 2.5 mm"),
        ([(80, "f", (-0.7,))], "has voxels of -0.7 × 0.8 × 2.5 mm"),
        ([(80, "3f", (0.7e-3, 0.8e-3, 2.5e-3)), (252, "hh", (1, 0))], "has voxels of 0.0007 × 0.0008 × 0.0025 mm"),
        ([(88, "f", (60.0,)), (252, "hh", (1, 0))], "0.8 × 60 mm; 0.05 to 20 mm"),
        ([(40, "8h", (4, 20, 24, 5, 2, 1, 1, 1))], "has 4 dimensions (20 × 24 × 5 × 2)"),
        ([(40, "8h", (2, 20, 24, 1, 1, 1, 1, 1))], "is 20 × 24 voxels"),
        ([(40, "8h", (3, 20, 24, 2, 1, 1, 1, 1))], "is 20 × 24 × 2 voxels; a volume of at least 3"),
    ],
)
def test_nifti_headers_that_cannot_be_right_are_refused(tmp_path, edits, found):
    assert found in refusal(patched(tmp_path / "scan.nii", *edits))


@pytest.mark.parametrize(
    ("suffix", "was", "becomes"),
    [(".mha", b"TransformMatrix = 1 0 0 0 1", b"TransformMatrix = 1 .3 0 0 1"), (".nrrd", b"(0,0.8", b"(9,0.8")],
)
def test_sheared_axes_are_refused_in_other_formats(tmp_path, suffix, was, becomes):
    image = an_image(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    path = written(tmp_path / f"scan{suffix}", image)
    data = path.read_bytes()
    if suffix == ".nrrd":  # lengths may change in this header, not in MetaImage's
        assert b"(0,0.8" in data
    assert was in data
    path.write_bytes(data.replace(was, becomes))
    assert "not at right angles" in refusal(path)


def test_colour_images_are_refused(tmp_path):
    rgb = sitk.GetImageFromArray(np.zeros((5, 24, 20, 3), np.uint8), isVector=True)
    assert "3 values per voxel (a colour or vector image)" in refusal(written(tmp_path / "photo.nii.gz", rgb))


def test_nan_voxels_are_refused(tmp_path):
    hu = hounsfield().astype(np.float32)
    hu[0, 0, :2] = np.nan
    assert "2 NaN and 0 infinite voxels" in refusal(written(tmp_path / "scan.nii.gz", an_image(hu)))


def test_a_huge_volume_is_refused_before_its_voxels_are_read(tmp_path, monkeypatch):
    # The header promises 2000^3 voxels that the file does not hold: reading them could only fail otherwise.
    path = patched(tmp_path / "scan.nii", (40, "8h", (3, 2000, 2000, 2000, 1, 1, 1, 1)))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**33))
    message = refusal(path, ResourceError)
    assert "CT scan.nii needs about 44.7 GiB of memory to read (8,000,000,000 voxels); 8.0 GiB are free" in message


# --- whole cases --------------------------------------------------------------------------------------------------


def test_a_case_holds_ct_segmentation_and_report(test_data, tmp_path):
    report = tmp_path / "report.txt"
    report.write_text("The liver is enlarged.", encoding="utf-8")
    folder = test_data / "ct/abdomen"
    case = load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz", report)
    assert case.ct.name == "abdomen/ct"
    assert case.segmentation.labels_kji.shape == case.ct.array_kji.shape
    assert case.segmentation.names[5] == "liver"
    assert (case.report_text, case.report_source) == ("The liver is enlarged.", str(report))
    assert case.warnings == ()
    # The liver's HU tell that mask and CT lie on each other.
    assert 0 < np.median(case.ct.array_kji[case.segmentation.labels_kji == 5]) < 120


def test_a_report_may_be_given_as_text_or_left_out(test_data):
    folder = test_data / "ct/abdomen"
    paths = (folder / "ct.nii.gz", folder / "segmentation.nii.gz")
    assert load_case(*paths, report_text="Normal liver.").report_text == "Normal liver."
    assert load_case(*paths).report_text == ""


def test_a_wrong_report_is_found_before_the_ct_is_read(tmp_path):
    with pytest.raises(ReportError):
        load_case(tmp_path / "no ct.nii.gz", tmp_path / "no mask.nii.gz", tmp_path / "no report.txt")


def test_the_mask_of_another_patient_is_refused(test_data):
    with pytest.raises(SegmentationError, match="does not overlap the CT"):
        load_case(test_data / "ct/cardiac/ct.nii.gz", test_data / "ct/abdomen/segmentation.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_written_label_map_reads_back_the_same(test_data, tmp_path, suffix):
    folder = test_data / "ct/abdomen"
    case = load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz")
    path = tmp_path / f"out{suffix}"
    write_label_map(case.segmentation, case.ct, path)
    again = load_case(folder / "ct.nii.gz", path).segmentation
    np.testing.assert_array_equal(again.labels_kji, case.segmentation.labels_kji)
    assert again.names == case.segmentation.names
    assert again.warnings == ()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["no folder/out.nii.gz", "out.unknown"])
def test_a_label_map_that_cannot_be_written_leaves_nothing_behind(tmp_path, name):
    ct = read_ct(written(tmp_path / "scan.nii.gz"))
    labels = Segmentation(np.ones(ct.array_kji.shape, np.uint8), {1: "spleen"})
    with pytest.raises(OutputError, match="The label map cannot be written to"):
        write_label_map(labels, ct, tmp_path / name)
    assert [item.name for item in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_a_file_whose_name_says_nothing_is_named_with_its_folder(tmp_path):
    folder = tmp_path / "patient 7"
    folder.mkdir()
    assert read_ct(written(folder / "ct.nii.gz")).name == "patient 7/ct"
    assert read_ct(written(folder / "chest.nii.gz")).name == "chest"

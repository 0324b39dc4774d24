"""DICOM folders: the right series is found, irregular ones are refused, and the grid is the scanner's."""

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from CTGroundedVLMLib.errors import VolumeError
from CTGroundedVLMLib.volume_dicom import find_series
from CTGroundedVLMLib.volume_io import read_ct
from dicom_cases import CORONAL, ROOT, slice_hu, write_series, write_slice


def refusal(folder, **options):
    with pytest.raises(VolumeError) as caught:
        read_ct(folder, **options)
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


def test_slices_are_sorted_by_position_and_lie_where_the_header_says(tmp_path):
    ct = read_ct(write_series(tmp_path / "scan", [-100, -97.5, -95, -92.5]))
    assert ct.name == "scan"
    assert ct.array_kji.dtype == np.int16
    assert ct.array_kji.shape == (4, 24, 20)
    np.testing.assert_array_equal(ct.array_kji, [slice_hu(k) for k in range(4)])
    # LPS (-5 + 0.5 i, -9 + 0.75 j, -100 + 2.5 k), in RAS
    np.testing.assert_allclose(ct.ijk_to_ras @ [4, 5, 3, 1], [5 - 2, 9 - 3.75, -92.5, 1])
    assert ct.warnings == ()


def test_a_series_scanned_from_head_to_feet_is_the_same_volume(tmp_path):
    up = read_ct(write_series(tmp_path / "up", [0, 2, 4]))
    down = read_ct(write_series(tmp_path / "down", [4, 2, 0]))
    np.testing.assert_array_equal(down.array_kji, up.array_kji[::-1])
    np.testing.assert_allclose(down.ijk_to_ras, up.ijk_to_ras)


def test_the_grid_is_that_of_gdcm(test_data):
    folder = test_data / "ct/abdomen_dicom/series"
    ct = read_ct(folder)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    gdcm = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(ct.array_kji, gdcm)
    for index in [(0, 0, 0), (511, 0, 19), (10, 400, 7)]:
        expected = np.array(image.TransformContinuousIndexToPhysicalPoint(index)) * (-1, -1, 1)
        np.testing.assert_allclose((ct.ijk_to_ras @ [*index, 1])[:3], expected, atol=1e-6)


def test_a_coronal_series_keeps_its_orientation(tmp_path):
    for index, y in enumerate([10, 7, 4]):
        write_slice(tmp_path / f"{index}.dcm", (0, y, 50), index=index, orientation=CORONAL)
    ct = read_ct(tmp_path)
    # rows run to the left, columns downwards, slices to the back (x × -z = y)
    np.testing.assert_allclose(ct.ijk_to_ras[:3, :3], [[-0.5, 0, 0], [0, 0, -3], [0, -0.75, 0]])
    assert ct.array_kji[:, 5, 4].tolist() == [302, 301, 300]


def test_one_file_stands_for_its_series(tmp_path):
    write_series(tmp_path, [0, 2, 4, 6])
    write_series(tmp_path, [0, 3, 6], series="2")
    ct = read_ct(next(tmp_path.glob("2-*.dcm")))
    assert ct.array_kji.shape[0] == 3


def test_files_are_found_in_sub_folders_beside_other_files(tmp_path):
    write_series(tmp_path / "Patient Ä/études", [0, 2, 4])
    (tmp_path / "readme.txt").write_text("not DICOM")
    (tmp_path / "report.pdf").write_bytes(b"%PDF-1.4")
    assert read_ct(tmp_path).array_kji.shape[0] == 3


def test_blank_identifiers_of_anonymised_files_do_no_harm(tmp_path):
    write_series(tmp_path, [0, 2, 4], SOPInstanceUID="", SeriesInstanceUID="", SOPClassUID="")
    assert read_ct(tmp_path).array_kji.shape[0] == 3


def test_the_checksum_is_that_of_the_slices_wherever_they_lie(tmp_path):
    first = read_ct(write_series(tmp_path / "a", [0, 2, 4], SOPInstanceUID=""))
    (tmp_path / "b").mkdir()
    for index, path in enumerate(sorted((tmp_path / "a").iterdir(), reverse=True)):
        (tmp_path / "b" / f"IM{index}").write_bytes(path.read_bytes())
    assert read_ct(tmp_path / "b").sha256 == first.sha256
    assert len(first.sha256) == 64


def test_fractional_rescale_gives_float32(tmp_path):
    write_series(tmp_path, [0, 2, 4], RescaleSlope=0.5, RescaleIntercept=-1000.25)
    array = read_ct(tmp_path).array_kji
    assert array.dtype == np.float32
    assert array[:, 5, 4].tolist() == [299.75, 300.75, 301.75]  # 300 to 302 HU, stored as whole numbers


# --- which series -------------------------------------------------------------------------------------------------


def test_the_axial_ct_with_the_most_slices_is_read_and_the_others_are_named(tmp_path):
    write_series(tmp_path, np.arange(4) * 5.0, series="2")
    write_series(tmp_path, np.arange(8) * 2.5, series="3")
    for index in range(20):  # more slices, but in another plane
        write_slice(tmp_path / f"4-{(index * 7) % 101:03}-{index}.dcm", (0, -index, 0), series="4", orientation=CORONAL)
    write_slice(tmp_path / "scout.dcm", (0, 0, 0), series="1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ct = read_ct(tmp_path)
    assert ct.array_kji.shape[0] == 8
    (warning,) = ct.warnings
    assert "holds 3 CT series; read: series 3 'series 3', CT, 8 images" in warning
    assert "Not read: series 2" in warning


def test_a_series_can_be_chosen(tmp_path):
    write_series(tmp_path, [0, 5, 10], series="2")
    write_series(tmp_path, [0, 2, 4, 6], series="3")
    ct = read_ct(tmp_path, series_uid=ROOT + "2")
    assert ct.array_kji.shape[0] == 3
    assert ct.warnings == ()


def test_an_unknown_series_is_refused_with_a_list(tmp_path):
    message = refusal(write_series(tmp_path, [0, 5, 10], series="2"), series_uid="1.2.3")
    assert "has no series 1.2.3" in message
    assert f"- series 2 'series 2', CT, 3 images (UID {ROOT}2)" in message


def test_a_localizer_inside_a_series_is_left_out(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    write_slice(tmp_path / "scout.dcm", (0, 0, 0), orientation=CORONAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert read_ct(tmp_path).array_kji.shape[0] == 3


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"Modality": "MR", "SOPClassUID": MRImageStorage}, "MR, 4 images, not a CT"),
        ({"Modality": "PT"}, "PT, 4 images, not a CT"),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, "a localizer, secondary capture or report"),
        ({"ImagePositionPatient": None}, "a localizer, secondary capture or report"),
        ({"NumberOfFrames": 30}, "a multi-frame CT, which is not read: convert it to NIfTI"),
    ],
)
def test_what_is_no_ct_series_is_refused_by_name(tmp_path, changes, found):
    message = refusal(write_series(tmp_path, [0, 2, 4, 6], **changes))
    assert "holds no CT series" in message
    assert found in message


def test_too_few_slices_are_refused(tmp_path):
    assert "fewer than 3 slices" in refusal(write_series(tmp_path, [0, 2]))


@pytest.mark.parametrize("other_file", [None, "notes.txt"])
def test_a_folder_without_images_is_refused(tmp_path, other_file):
    if other_file:
        (tmp_path / other_file).write_text("nothing here")
    assert "holds no DICOM images. Give the folder that holds a CT series" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"PatientID": "B"}, "2 patients"),
        ({"StudyInstanceUID": ROOT + "9"}, "2 studies"),
        ({"PatientID": ""}, "2 patients"),
    ],
)
def test_series_of_several_patients_or_studies_are_not_chosen_between(tmp_path, other, what):
    write_series(tmp_path, [0, 5, 10], series="2", PatientID="A")
    write_series(tmp_path, [0, 2, 4, 6], series="3", **{"PatientID": "A"} | other)
    message = refusal(tmp_path)
    assert f"holds CT series of {what}; those of one study are expected" in message
    assert "Choose one with --series UID" in message
    assert f"- series 2 'series 2', CT, 3 images (UID {ROOT}2), patient A, study {ROOT}0" in message
    patient, study = other.get("PatientID", "A") or "(blank)", other.get("StudyInstanceUID", ROOT + "0")
    assert f"- series 3 'series 3', CT, 4 images (UID {ROOT}3), patient {patient}, study {study}" in message
    assert read_ct(tmp_path, series_uid=ROOT + "2").array_kji.shape[0] == 3
    assert read_ct(next(tmp_path.glob("3-*.dcm"))).array_kji.shape[0] == 4


def test_another_patients_mr_beside_the_ct_does_no_harm(tmp_path):
    write_series(tmp_path, [0, 5, 10], series="2", PatientID="A")
    write_series(tmp_path, [0, 2, 4, 6], series="3", PatientID="B", Modality="MR", SOPClassUID=MRImageStorage)
    assert read_ct(tmp_path).array_kji.shape[0] == 3


# --- irregular series ---------------------------------------------------------------------------------------------


def test_missing_slices_are_refused_with_their_positions(tmp_path):
    message = refusal(write_series(tmp_path, [0, 2.5, 5, 10, 12.5]))
    assert "CT series 1 of DICOM folder" in message
    assert "slices lie 2.50 mm apart, but not from 5.00 to 10.00 mm" in message


@pytest.mark.parametrize(
    ("keyword", "first", "second"),
    [
        ("PatientID", "A", "B"),
        ("PatientID", "A", ""),
        ("StudyInstanceUID", "1.2.3", "1.2.4"),
        ("FrameOfReferenceUID", "1.2.3", "1.2.4"),
    ],
)
@pytest.mark.parametrize("chosen", [None, ROOT + "1"])
def test_slices_of_two_patients_in_one_series_are_refused(tmp_path, keyword, first, second, chosen):
    write_series(tmp_path / "a", [0, 2, 4], **{keyword: first})
    write_series(tmp_path / "b", [6, 8, 10], **{keyword: second})  # would go on from the first without a gap
    message = refusal(tmp_path, series_uid=chosen)
    listed = ", ".join(sorted([first, second])) if second else f"(blank), {first}"
    assert f"CT series 1 of DICOM folder {tmp_path.name} mixes slices of 2 values of {keyword} ({listed})" in message
    assert "in a folder of their own" in message


def test_blank_patients_studies_and_frames_of_reference_do_no_harm(tmp_path):
    write_series(tmp_path, [0, 2], PatientID="", StudyInstanceUID="", FrameOfReferenceUID="")
    write_series(tmp_path / "b", [4, 6], StudyInstanceUID=None)  # absent is blank, too
    assert read_ct(tmp_path).array_kji.shape[0] == 4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("different", [1, 2])
def test_slices_that_share_their_identifier_are_refused_without_other_noise(tmp_path, different):
    for index in range(6):
        uid = f"{ROOT}77.{index % different}"
        write_slice(tmp_path / f"{index}.dcm", (0, 0, 2 * index), SOPInstanceUID=uid)
    message = refusal(tmp_path)
    assert f"holds 6 images with only {different} different SOPInstanceUID; at least 3 different slices" in message


def test_rounded_positions_pass(tmp_path):
    heights = np.round(np.arange(12) * 0.625, 2)
    assert read_ct(write_series(tmp_path, heights)).spacing_ijk[2] == pytest.approx(0.625, abs=1e-3)


def test_two_slices_at_one_position_are_refused(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    write_slice(tmp_path / "again.dcm", (-5, -9, 2))
    message = refusal(tmp_path)
    assert "1 slices at a position that another slice holds (2.00 mm)" in message
    assert "mixes two phases" in message


def test_copies_of_a_file_are_ignored_with_a_warning(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    original = next(tmp_path.glob("*.dcm"))
    (tmp_path / "copy of it.dcm").write_bytes(original.read_bytes())
    ct = read_ct(tmp_path)
    assert ct.array_kji.shape[0] == 3
    assert ct.warnings[0].endswith("1 files are copies of other slices; ignored.")


@pytest.mark.parametrize(
    ("odd", "name"),
    [
        ({"orientation": CORONAL}, "orientation"),
        ({"hu": slice_hu(0, 30, 30)}, r"image size (\(20, 24\) and \(30, 30\))"),
        ({"PixelSpacing": [0.9, 0.9]}, "pixel spacing"),
        ({"RescaleIntercept": -1000}, "rescale slope and intercept"),
        ({"RescaleIntercept": None}, "rescale slope and intercept"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, odd, name):
    write_series(tmp_path, [0, 2, 4])
    write_slice(tmp_path / "odd.dcm", (-5, -9, 6), **odd)
    assert f"mixes 2 values of {name.split(' (')[0]}" in refusal(tmp_path)


def test_a_tilted_gantry_is_refused(tmp_path):
    for index in range(6):
        write_slice(tmp_path / f"{index}.dcm", (0, index * 0.5, index * 2.0))
    assert "gantry tilt" in refusal(tmp_path)


def test_series_without_rescale_are_found_by_their_values(tmp_path):
    hu = slice_hu(0)
    write_series(tmp_path, [0, 2, 4], hu=hu, RescaleIntercept=None, RescaleSlope=None)
    message = refusal(tmp_path)
    assert "as in stored DICOM values" in message
    assert "The slices have no RescaleSlope and RescaleIntercept" in message


def test_a_truncated_file_is_named(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    path = sorted(tmp_path.glob("*.dcm"))[1]
    path.write_bytes(path.read_bytes()[:-300])
    assert f"{path.name} is damaged" in refusal(tmp_path)


def test_a_file_without_pixels_is_named(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    path = sorted(tmp_path.glob("*.dcm"))[1]
    image = pydicom.dcmread(path)
    del image.PixelData
    image.save_as(path)
    assert f"{path.name} is damaged" in refusal(tmp_path)


def test_broken_files_beside_a_series_do_no_harm(tmp_path):
    write_series(tmp_path, [0, 2, 4])
    whole = next(tmp_path.glob("*.dcm")).read_bytes()
    for length in (100, 132, 150, 400):
        (tmp_path / f"cut at {length}.dcm").write_bytes(whole[:length])
    assert read_ct(tmp_path).array_kji.shape[0] == 3


def test_a_slice_without_a_usable_position_is_missed(tmp_path):
    write_series(tmp_path, [0, 2, 4, 6, 8])
    path = sorted(tmp_path.glob("*.dcm"))[2]
    image = pydicom.dcmread(path)
    height = float(image.ImagePositionPatient[2])
    image.ImagePositionPatient = image.ImagePositionPatient[:2]
    image.save_as(path)
    assert f"not from {height - 2:.2f} to {height + 2:.2f} mm" in refusal(tmp_path)


def test_find_series_tells_what_a_folder_holds(tmp_path):
    write_series(tmp_path, [0, 2, 4], series="2")
    write_series(tmp_path, [0, 2], series="5", Modality="MR")
    found = {series.number: (series.modality, series.images, series.problem) for series in find_series(tmp_path)}
    assert found == {"2": ("CT", 3, ""), "5": ("MR", 2, "not a CT")}


def test_progress_is_reported(tmp_path):
    steps = []
    read_ct(write_series(tmp_path, [0, 2, 4]), progress=lambda what, fraction: steps.append((what, fraction)))
    assert steps[0] == ("Reading DICOM headers", 0.0)
    assert steps[-1][0].startswith("Reading CT series 1")
    assert all(0 <= fraction <= 1 for _, fraction in steps)

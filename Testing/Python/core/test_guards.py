"""Each guard refuses what it should, says what it found, and lets real CTs pass."""

import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from CTGroundedVLMLib import guards, volume_io
from CTGroundedVLMLib.errors import ResourceError, SegmentationError, VolumeError

CASES = ["abdomen/ct.nii.gz", "abdomen/ct_full.nii.gz", "abdomen_dicom/series", "cardiac/ct.nii.gz"]


@pytest.fixture(scope="module", params=CASES)
def a_real_ct(request, test_data):
    return volume_io.read_ct(test_data / "ct" / request.param).array_kji.astype(np.int32)


def refusal(array, header_note=""):
    with pytest.raises(VolumeError) as caught:
        guards.prepare_hounsfield("CT x.nii", array, header_note)
    message = str(caught.value)
    assert message.startswith("CT x.nii ")
    return message


def outside_the_field_of_view(array):
    j, i = np.ogrid[: array.shape[1], : array.shape[2]]
    centre_j, centre_i = array.shape[1] / 2, array.shape[2] / 2
    return (j - centre_j) ** 2 + (i - centre_i) ** 2 > min(centre_j, centre_i) ** 2


# --- Hounsfield units ---------------------------------------------------------------------------------------------


def test_real_cts_pass_unchanged_and_are_stored_as_int16(a_real_ct):
    array, warnings = guards.prepare_hounsfield("CT", a_real_ct.copy())
    assert array.dtype == np.int16
    assert warnings == ()
    np.testing.assert_array_equal(array, a_real_ct)


@pytest.mark.parametrize("lowest", [None, -1024, -2024], ids=["as is", "cut at -1024", "cut at -2024"])
def test_a_rescale_applied_twice_is_refused(a_real_ct, lowest):
    twice = a_real_ct - 1024
    message = refusal(twice if lowest is None else np.maximum(twice, lowest))
    assert "tissue lies about 1024 too low" in message
    assert "applied twice" in message
    assert "soft tissue near 0 to 100" in message


def test_a_rescale_applied_twice_is_found_beside_padding(a_real_ct):
    twice = a_real_ct - 1024
    twice[:, outside_the_field_of_view(twice)] = -2048
    assert "applied twice" in refusal(twice)


@pytest.mark.parametrize("padding", [None, -2000])
def test_stored_values_that_were_never_rescaled_are_refused(a_real_ct, padding):
    stored = np.maximum(a_real_ct, -1024) + 1024
    if padding is not None:
        stored[:, outside_the_field_of_view(stored)] = padding
    message = refusal(stored)
    assert "as in stored DICOM values" in message
    assert "RescaleIntercept (mostly 1 and -1024) once" in message


@pytest.mark.parametrize(
    ("convert", "found"),
    [
        (lambda hu: np.clip((hu + 1000) / 2000, 0, 1), "between 0 and 1, as in a normalised image"),
        (lambda hu: np.clip(hu / 1000, -1, 1), "between -1 and 1, as in a normalised image"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "as in a normalised image"),
        (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255).astype(np.uint8), "0 and 255, as in a windowed 8-bit pict"),
        (lambda hu: np.clip(hu + 1000, 0, 700), "no voxel is below 0 (lowest 0"),
        (lambda hu: hu * 20, "above 20000|hold many values between"),
        (lambda hu: np.full_like(hu, -1000), "every voxel is -1000"),
        (lambda hu: np.full_like(hu, -2048), "only values below -1500"),
    ],
)
def test_other_units_are_refused(a_real_ct, convert, found):
    message = refusal(convert(a_real_ct))
    assert any(part in message for part in found.split("|")), message


def test_padding_stored_as_an_unsigned_number_is_refused(a_real_ct):
    wrapped = np.where(outside_the_field_of_view(a_real_ct), 63536 - 1024, a_real_ct)
    assert "stored as an unsigned number" in refusal(wrapped)


def test_an_mr_is_not_in_hounsfield_units():
    rng = np.random.default_rng(0)
    mr = np.abs(rng.normal(0, 12, (20, 64, 64)))
    mr[:, 12:52, 12:52] = rng.normal(350, 80, (20, 40, 40)).clip(1)
    assert "Give a CT (not an MR or PET image)" in refusal(mr.astype(np.int16))


@pytest.mark.parametrize("last", [1, 24, 117])
def test_a_segmentation_in_the_place_of_the_ct_is_told(last):
    mask = np.zeros((8, 30, 30), np.float32)
    mask[2:6, 5:20, 5:20] = np.linspace(1, last, 15).round()
    assert refusal(mask).endswith("This looks like a segmentation: are the CT and --segmentation swapped?")


def test_pictures_and_normalised_images_are_not_called_segmentations(a_real_ct):
    for other in (np.clip((a_real_ct + 1000) / 2000, 0, 1), np.clip(a_real_ct, 0, 255)):
        assert "segmentation" not in refusal(other)


def test_the_note_on_the_header_ends_the_message(a_real_ct):
    assert refusal(a_real_ct - 1024, "(scl_inter was -1024.)").endswith("(scl_inter was -1024.)")


@pytest.mark.parametrize("padding", [-2000, -2048, -3024])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_padding_outside_the_field_of_view_becomes_air_with_a_warning(a_real_ct, padding, dtype):
    padded = a_real_ct.astype(dtype)
    outside = outside_the_field_of_view(padded)
    padded[:, outside] = padding
    array, warnings = guards.prepare_hounsfield("CT x.nii", padded)
    assert (array[:, outside] == -1024).all()
    np.testing.assert_array_equal(array[:, ~outside], np.maximum(a_real_ct[:, ~outside], -1024))
    assert warnings == (
        f"CT x.nii: values down to {padding} (padding outside the field of view) were set to -1024 HU.",
    )


def test_metal_passes(a_real_ct):
    a_real_ct = a_real_ct.copy()
    a_real_ct[5:8, 50:54, 50:54] = 30_000
    assert guards.prepare_hounsfield("CT", a_real_ct)[0].max() == 30_000


@pytest.mark.parametrize("window", [(-200, 300), (-1350, 150), (-1000, 1000)])
def test_a_ct_cut_to_a_range_of_hu_passes(a_real_ct, window):
    cut = np.clip(a_real_ct, *window)
    np.testing.assert_array_equal(guards.prepare_hounsfield("CT", cut.astype(np.int16))[0], cut)


def test_a_small_patient_in_a_wide_field_of_view_passes(a_real_ct):
    margin = 2 * a_real_ct.shape[1]
    wide = np.pad(a_real_ct[::4], ((0, 0), (margin, margin), (margin, margin)), constant_values=-1000)
    assert guards.prepare_hounsfield("CT", wide.astype(np.int16))[1] == ()


def test_nan_and_infinite_voxels_are_counted_and_refused(a_real_ct):
    array = a_real_ct.astype(np.float32)
    array[0, 0, :3] = np.nan
    array[1, 2, 5] = -np.inf
    array[1, 2, 6] = np.inf
    message = refusal(array)
    assert f"3 NaN and 2 infinite voxels of {array.size:,}" in message
    assert "Replace them (-1024" in message


# --- storage ------------------------------------------------------------------------------------------------------


def test_whole_numbers_become_int16_and_fractions_float32():
    whole = np.array([[[-1024.0, 0.0, 31743.0]]])
    assert guards.compact(whole).dtype == np.int16
    fractions = whole + 0.5
    assert guards.compact(fractions).dtype == np.float32
    np.testing.assert_array_equal(guards.compact(fractions), fractions)


def test_one_fraction_among_millions_keeps_float32():
    array = np.zeros((120, 80, 80))
    array[101, 3, 7] = 0.25  # off the sub-grid that is sampled
    assert guards.compact(array)[101, 3, 7] == 0.25


def test_int16_is_not_copied():
    array = np.zeros((3, 3, 3), np.int16)
    assert guards.compact(array) is array


def test_values_beyond_int16_end_at_its_limit():
    assert guards.compact(np.array([[[40_000, -5]]], np.int32)).tolist() == [[[32767, -5]]]


@pytest.mark.parametrize("shape", [(600, 512, 512), (3, 4096, 4096), (2000, 512, 512), (5, 6, 7), (3000, 32, 32)])
def test_the_sample_is_bounded_for_any_shape(shape):
    sample = guards.subsample(np.broadcast_to(np.int16(1), shape))
    assert sample.size <= guards.SAMPLE_VOXELS
    assert sample.size == np.prod(shape) or sample.size > guards.SAMPLE_VOXELS / 50


def test_the_hu_check_of_a_large_volume_costs_a_fraction_of_a_second():
    rng = np.random.default_rng(0)
    tile = rng.choice(np.array([-1000, -100, 40, 60, 300], np.int16), (8, 512, 512))
    array = np.tile(tile, (75, 1, 1))  # 512 x 512 x 600
    start = time.perf_counter()
    guards.check_hounsfield("CT", array)
    assert time.perf_counter() - start < 0.5  # 0.05 s on one core


# --- dimensions, geometry, memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "components", "found"),
    [
        ((512, 512, 100), 3, "3 values per voxel (a colour or vector image)"),
        ((64, 64, 30, 5), 1, "4 dimensions (64 × 64 × 30 × 5)"),
        ((512, 512), 1, "is 512 × 512 voxels; a volume of at least 3"),
        ((512, 512, 1), 1, "not a single slice"),
        ((512, 512, 2), 1, "is 512 × 512 × 2 voxels"),
    ],
)
def test_what_is_not_one_grey_scale_volume_is_refused(size, components, found):
    with pytest.raises(SegmentationError) as caught:
        guards.check_dimensions("Mask m", size, components, SegmentationError)
    assert found in str(caught.value)
    assert str(caught.value).startswith("Mask m ")


def test_three_slices_suffice_and_two_do_not():
    assert guards.check_dimensions("CT", (512, 512, 3), 1, VolumeError) is None
    with pytest.raises(VolumeError, match="at least 3"):
        guards.check_dimensions("CT", (512, 512, 2), 1, VolumeError)


@pytest.mark.parametrize("spacing", [(0, 1, 1), (0.7, 0.7, 25), (1, 0.001, 1), (1000, 1000, 1000), (np.nan, 1, 1)])
def test_absurd_voxel_sizes_are_refused(spacing):
    with pytest.raises(VolumeError, match=r"has voxels of .* mm; 0.05 to 20 mm are expected"):
        guards.check_geometry("CT x.nii", np.diag([*spacing, 1.0]), VolumeError)


def test_thick_slices_and_oblique_axes_pass_and_the_same_axes_sheared_do_not():
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 0.7, 10)
    assert guards.check_geometry("CT", affine, VolumeError) is None
    affine[:3, 2] += affine[:3, 0]
    with pytest.raises(VolumeError, match="not at right angles"):
        guards.check_geometry("CT", affine, VolumeError)


def test_sheared_axes_are_refused_with_the_cause():
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(15))  # a gantry tilted by 15 degrees
    with pytest.raises(VolumeError, match=r"not at right angles \(gantry tilt or shear\).*Resample it first"):
        guards.check_geometry("CT x.nii", affine, VolumeError)


def test_a_volume_larger_than_the_free_memory_is_refused(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    guards.check_memory("CT", 2**28, 4)
    with pytest.raises(ResourceError) as caught:
        guards.check_memory("CT x.nii", 2**28, 6)
    assert "CT x.nii needs about 1.5 GiB of memory to read (268,435,456 voxels); 1.0 GiB are free" in str(caught.value)

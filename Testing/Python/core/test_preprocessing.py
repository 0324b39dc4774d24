"""Model windows from a CT, and the way back. Axis order: k, j, i for the CT; D, H, W for the model."""

import itertools

import numpy as np
import pytest
import torch

import plain_fvlm
from cases import CHEST, LPS, a_case
from CTGroundedVLMLib.anatomy import organ_group
from CTGroundedVLMLib.errors import SegmentationError, VolumeError
from CTGroundedVLMLib.model.config import PreprocessingConfig
from CTGroundedVLMLib.model_grid import resampling_axes
from CTGroundedVLMLib.preprocessing import Preprocessor

ORGANS = {organ.name: organ.segments for organ in organ_group("fvlm4").organs}
PATCH = (16, 16, 32)
CONFIG = PreprocessingConfig(minimum_size=(48, 64, 96), window_size=(48, 80, 96))


def preprocessor(case, grid="physical", config=CONFIG):
    return Preprocessor(case, ORGANS, config, PATCH, grid=grid)


def plain_volume(case, config=CONFIG):
    """The whole volume resampled, cropped and padded as the release does it."""
    names = dict(case.segmentation.names)
    merged = plain_fvlm.merge_labels(case.segmentation.labels_kji, names, ORGANS)
    image, labels = plain_fvlm.resize(
        case.ct.array_kji.transpose(2, 1, 0), merged.transpose(2, 1, 0), case.ct.ijk_to_ras, config
    )
    return plain_fvlm.crop_and_pad(image, labels, config)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 3.0), (0.7, 0.7, 1.25), (1.3, 1.3, 5.0), (0.9, 0.9, 0.9)])
@pytest.mark.parametrize("grid", ["physical", "release"])
def test_reference_windows_equal_resampling_the_whole_volume_first(spacing, grid):
    case = a_case(CHEST, spacing=spacing)
    image, labels = plain_volume(case)
    windows = preprocessor(case, grid).reference_windows().windows
    assert [window.organs for window in windows] == [(0,), (1,), (3,)]
    for window in windows:
        expected_image, expected_mask = plain_fvlm.organ_window(image, labels, window.organs[0], CONFIG, PATCH)
        assert window.image_DHW.shape == expected_image.shape
        assert torch.allclose(window.image_DHW, expected_image, atol=2e-6)
        assert torch.equal(window.organ_map_DHW == window.organs[0] + 1, expected_mask.bool())


def test_the_release_grid_swaps_the_pixel_sizes_and_ours_does_not():
    case = a_case(CHEST, spacing=(0.8, 1.2, 3.0))
    sizes = {
        g: [a.size for a in resampling_axes((40, 120, 140), case.ct.ijk_to_ras, (3, 1, 1), g)]
        for g in ("release", "physical")
    }
    assert sizes["release"] == [40, 96, 168]
    assert sizes["physical"] == [40, 144, 112]
    image, labels = plain_volume(case)
    window = preprocessor(case, "release").reference_windows().windows[0]
    expected, _ = plain_fvlm.organ_window(image, labels, 0, CONFIG, PATCH)
    assert torch.allclose(window.image_DHW, expected, atol=2e-6)


def test_sizes_are_truncated_in_single_precision_as_nifti_stores_spacing():
    affine = np.diag([-np.float64(np.float32(0.9)), -np.float64(np.float32(0.9)), 3.0, 1.0])
    assert [axis.size for axis in resampling_axes((10, 100, 100), affine, (3, 1, 1), "release")] == [10, 89, 89]


def orientations():
    """All 48 ways to store an axis-aligned volume."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            yield order, signs


def test_every_orientation_gives_the_same_windows():
    upright = a_case(CHEST, spacing=(0.8, 1.1, 2.5))
    expected = preprocessor(upright).shared_windows().windows
    for order, signs in orientations():
        turned = reoriented(upright, order, signs)
        windows = preprocessor(turned).shared_windows().windows
        for window, want in zip(windows, expected, strict=True):
            # mirrored sampling positions differ in the last bit of a float32 index
            assert torch.allclose(window.image_DHW, want.image_DHW, atol=1e-3), (order, signs)
            differing = (window.organ_map_DHW != want.organ_map_DHW).float().mean()
            assert differing < 0.02, (order, signs)  # nearest neighbour at exact ties only


def reoriented(case, order, signs):
    """The same patient, stored along other axes: array axis a of the result is axis order[a], reversed for sign -1."""
    flip = tuple(slice(None, None, s) for s in signs)
    array = np.ascontiguousarray(case.ct.array_kji.transpose(order)[flip])
    labels = np.ascontiguousarray(case.segmentation.labels_kji.transpose(order)[flip])
    shape = case.ct.array_kji.shape
    old_from_new = np.zeros((4, 4))  # in k, j, i
    old_from_new[3, 3] = 1
    for axis, (old, sign) in enumerate(zip(order, signs, strict=True)):
        old_from_new[old, axis] = sign
        if sign < 0:
            old_from_new[old, 3] = shape[old] - 1
    swap = np.eye(4)[[2, 1, 0, 3]]
    affine = case.ct.ijk_to_ras @ swap @ old_from_new @ swap
    ct = type(case.ct)(array, affine, case.ct.name)
    return type(case)(ct, type(case.segmentation)(labels, case.segmentation.names))


def test_an_oblique_scan_is_resampled_by_its_own_spacing():
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    case = a_case(CHEST, spacing=(0.8, 1.1, 2.5), directions=turn @ LPS)
    straight = a_case(CHEST, spacing=(0.8, 1.1, 2.5))
    for window, want in zip(
        preprocessor(case).shared_windows().windows, preprocessor(straight).shared_windows().windows, strict=True
    ):
        assert torch.allclose(window.image_DHW, want.image_DHW, atol=1e-5)


def test_a_point_goes_to_the_model_and_back():
    case = reoriented(a_case(CHEST, spacing=(0.8, 1.1, 2.5)), (2, 0, 1), (1, -1, 1))
    points = np.random.default_rng(0).uniform(0, 30, (50, 3))
    for window in preprocessor(case).shared_windows().windows:
        assert np.allclose(window.transform.to_ct(window.transform.to_model(points)), points)


def test_a_voxel_of_the_window_lies_where_its_transform_says():
    """Linear ramps along the CT's axes: after resampling, a window's voxel must hold its own CT index."""
    shape = (40, 120, 140)
    case = reoriented(a_case({"aorta": ((10, 40, 50), (30, 80, 100))}, shape, (0.8, 1.1, 2.5)), (1, 2, 0), (-1, 1, -1))
    config = PreprocessingConfig(hu_window=(0.0, 200.0), minimum_size=(16, 16, 32), window_size=(16, 16, 32))
    for axis in range(3):
        ramp = np.broadcast_to(
            np.arange(case.ct.array_kji.shape[axis], dtype=np.int16).reshape(
                [-1 if a == axis else 1 for a in range(3)]
            ),
            case.ct.array_kji.shape,
        )
        ramped = type(case)(type(case.ct)(np.ascontiguousarray(ramp), case.ct.ijk_to_ras, "ramp"), case.segmentation)
        window = preprocessor(ramped, config=config).reference_windows().windows[0]
        inside = np.argwhere(window.organ_map_DHW.numpy() > 0)
        got = window.image_DHW.numpy()[tuple(inside.T)] * 200
        assert np.allclose(got, window.transform.to_ct(inside)[:, axis], atol=0.01)


def test_a_map_returns_to_the_voxels_it_came_from():
    case = reoriented(a_case(CHEST, spacing=(0.8, 1.1, 2.5)), (2, 1, 0), (1, 1, -1))
    window = preprocessor(case).shared_windows().windows[0]
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in window.image_DHW.shape), indexing="ij"), -1).reshape(-1, 3)
    ct_index = window.transform.to_ct(grid)
    low, high = ct_index.min(0), ct_index.max(0)
    box = tuple(slice(int(a) + 1, int(b)) for a, b in zip(low, high, strict=True))
    for axis in range(3):
        values = ct_index[:, axis].reshape(window.image_DHW.shape)
        back = window.transform.map_to_ct(values, (1, 1, 1), box)
        expected = np.arange(box[axis].start, box[axis].stop).reshape([-1 if a == axis else 1 for a in range(3)])
        assert np.allclose(back, np.broadcast_to(expected, back.shape), atol=1e-3)


def test_organs_that_fit_together_share_a_window():
    shared = preprocessor(
        a_case(CHEST), config=PreprocessingConfig(minimum_size=(48, 64, 96), window_size=(64, 160, 160))
    )
    assert [window.organs for window in shared.shared_windows().windows] == [(0, 1, 3)]


def test_organs_far_apart_do_not_share_a_window():
    case = a_case({"aorta": ((2, 5, 5), (8, 12, 12)), "heart": ((30, 105, 120), (38, 115, 135))})
    windows = preprocessor(case).shared_windows().windows
    assert sorted(window.organs for window in windows) == [(1,), (3,)]
    for window in windows:
        assert (window.organ_map_DHW == window.organs[0] + 1).sum() == preprocessor(case).organ_voxels[window.organs[0]]


def test_an_organ_larger_than_the_window_is_seen_whole_in_a_shared_window_and_loses_its_last_plane_in_a_reference_one():
    case = a_case({"lung_upper_lobe_left": ((2, 2, 2), (38, 118, 138))})
    config = PreprocessingConfig(crop_margin=(0, 5, 5), minimum_size=(16, 16, 32), window_size=(16, 16, 32))
    prepared = preprocessor(case, config=config)
    whole = prepared.organ_voxels[0]
    assert prepared.reference_windows().window_voxels[0] < whole
    # in both, the crop itself ends before the last slice: margin 0 and the release's exclusive end
    lost = 116 * 136
    assert prepared.shared_windows().window_voxels[0] == whole - lost


def test_a_shifted_window_shows_the_same_voxels_moved():
    case = a_case(CHEST)
    prepared = preprocessor(case)
    window = prepared.reference_windows().windows[1]
    moved = prepared.shifted(window, (2, -3, 5))
    assert torch.allclose(moved.image_DHW[2:-2, 3:-5, 5:-8], window.image_DHW[4:, :-8, 10:-3], atol=1e-6)
    assert np.allclose(moved.transform.to_ct([[0, 3, 0]]), window.transform.to_ct([[2, 0, 5]]))


@pytest.mark.filterwarnings("error")
def test_a_ct_that_is_a_read_only_map_of_its_file_is_read_without_a_warning():
    case = a_case(CHEST)
    expected = preprocessor(case).shared_windows().windows[0].image_DHW
    case.ct.array_kji.flags.writeable = False
    torch.set_warn_always(True)  # else torch warns once per process only
    try:
        assert torch.equal(preprocessor(case).shared_windows().windows[0].image_DHW, expected)
    finally:
        torch.set_warn_always(False)


def test_a_mask_without_the_models_organs_is_refused():
    with pytest.raises(SegmentationError, match=r"none of the model's organs.*lung, heart, esophagus, aorta"):
        preprocessor(a_case({"liver": ((5, 5, 5), (20, 60, 60))}))


def test_a_ct_thinner_than_a_model_voxel_is_refused():
    with pytest.raises(VolumeError, match=r"2\.00 mm thick along its k axis"):
        resampling_axes((4, 100, 100), np.diag([-1.0, -1.0, 0.5, 1.0]), (3, 1, 1), "physical")

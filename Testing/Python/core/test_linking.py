"""Links between sentences and the segments of a label map."""

import numpy as np
import pytest

from CTGroundedVLMLib.errors import SegmentationError
from CTGroundedVLMLib.linking import link
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import Segmentation

ORGANS = {"liver": ("liver",), "kidney": ("kidney_left", "kidney_right"), "spleen": ("spleen",)}


@pytest.fixture
def a_segmentation() -> Segmentation:
    labels_kji = np.zeros((8, 10, 12), np.uint8)
    labels_kji[1:4, 2:5, 6:9] = 5  # liver, centre (i, j, k) = (7, 3, 2)
    labels_kji[5, 5, 1:4] = 2  # right kidney
    labels_kji[5, 5, 9:12] = 3  # left kidney
    return Segmentation(labels_kji, {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver"})


def test_a_sentence_links_to_the_centre_of_its_segment(a_segmentation):
    (one,) = link(parse_report("The liver is normal."), a_segmentation, ORGANS)
    assert (one.sentence, one.segments, one.missing_segments, one.organs) == (0, ("liver",), (), ("liver",))
    assert one.centre_ijk == (7, 3, 2)


def test_segments_without_voxels_are_missing(a_segmentation):
    (one,) = link(parse_report("Liver and spleen are normal."), a_segmentation, ORGANS)
    assert one.segments == ("liver",)
    assert one.missing_segments == ("spleen",)
    assert one.organs == ("liver",)
    assert one.centre_ijk == (7, 3, 2)


def test_a_sentence_about_nothing_in_the_mask_has_no_centre(a_segmentation):
    (one,) = link(parse_report("The spleen is normal."), a_segmentation, ORGANS)
    assert (one.segments, one.missing_segments, one.organs, one.centre_ijk) == ((), ("spleen",), (), None)


def test_the_centre_lies_in_the_mask_where_the_centroid_does_not(a_segmentation):
    (one,) = link(parse_report("Both kidneys are normal."), a_segmentation, ORGANS)
    i, j, k = one.centre_ijk
    assert a_segmentation.labels_kji[k, j, i] in (2, 3)
    assert (i, j, k) in {(3, 5, 5), (9, 5, 5)}  # the centroid is at i = 6


def test_only_sentences_that_name_a_segment_are_linked(a_segmentation):
    report = parse_report(
        "INDICATION: Liver cyst.\nFINDINGS: No ascites. The liver is normal. The left kidney is small."
    )
    links = link(report, a_segmentation, ORGANS)
    assert [one.sentence for one in links] == [2, 3]
    assert links[1].organs == ("kidney",)
    assert links[1].centre_ijk == (10, 5, 5)


def test_the_nearest_voxel_is_found_like_by_trying_all():
    generator = np.random.default_rng(7)
    labels_kji = (generator.random((9, 14, 11)) > 0.97).astype(np.int16) * 5
    (one,) = link(parse_report("Liver normal."), Segmentation(labels_kji, {5: "liver"}), {})
    voxels_ijk = np.argwhere(labels_kji == 5)[:, ::-1]
    distances = np.linalg.norm(voxels_ijk - voxels_ijk.mean(axis=0), axis=1)
    assert np.linalg.norm(np.array(one.centre_ijk) - voxels_ijk.mean(axis=0)) == pytest.approx(distances.min())


def test_two_labels_of_one_class_are_united():
    labels_kji = np.zeros((3, 3, 9), np.uint8)
    labels_kji[1, 1, 1], labels_kji[1, 1, 3] = 4, 6
    (one,) = link(parse_report("Liver normal."), Segmentation(labels_kji, {4: "liver", 6: "liver"}), ORGANS)
    assert one.centre_ijk in {(1, 1, 1), (3, 1, 1)}


def test_an_empty_mask_misses_everything():
    segmentation = Segmentation(np.zeros((2, 2, 2), np.uint8), {5: "liver"})
    (one,) = link(parse_report("Liver normal."), segmentation, ORGANS)
    assert (one.segments, one.missing_segments, one.centre_ijk) == ((), ("liver",), None)


def test_a_report_without_sentences_needs_no_mask():
    assert link(parse_report(""), Segmentation(np.zeros((0, 0, 0), np.uint8), {}), ORGANS) == ()


@pytest.mark.parametrize(
    ("labels_kji", "message"),
    [
        (np.zeros((2, 2), np.uint8), "3D"),
        (np.zeros((2, 2, 2), np.float32), "float32"),
        (np.full((2, 2, 2), -1, np.int16), "negative"),
    ],
)
def test_what_is_no_label_map_is_refused(labels_kji, message):
    with pytest.raises(SegmentationError, match=message):
        link(parse_report("Liver normal."), Segmentation(labels_kji, {5: "liver"}, source="mask.nii.gz"), ORGANS)

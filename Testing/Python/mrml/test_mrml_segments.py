"""Which class each segment of a real segmentation node is."""

import numpy as np
import pytest
import slicer

from cases import CHEST, a_case
from CTGroundedVLMLib import anatomy, mrml_io
from CTGroundedVLMLib.errors import SegmentationError
from CTGroundedVLMLib.exchange import read_case
from CTGroundedVLMLib.mrml_io import segments
from CTGroundedVLMLib.types import Segmentation
from slicer_scene import add_case, add_segmentation, add_volume


@pytest.fixture
def named(booted):
    """Makes a segmentation whose segments have these names; returns the node and the segment IDs."""

    def make(*names):
        labels = np.zeros((8, 8, 8), np.uint8)
        for value in range(1, len(names) + 1):
            labels[value] = value
        volume = add_volume(booted.scene, np.zeros((8, 8, 8), np.int16), np.eye(4))
        node = add_segmentation(booted, volume, labels, dict(enumerate(names, 1)))
        return node, [node.GetSegmentation().GetNthSegmentID(n) for n in range(len(names))]

    return make


def matched(node):
    return [(match.class_name, match.source) for match in mrml_io.match_segments(node)]


def test_names_match_in_any_case_order_and_spelling(named):
    node, _ = named("Liver", "KIDNEY_left", "right kidney", "vertebrae L1", "Bump on a rug")
    assert matched(node) == [
        ("liver", "name"),
        ("kidney_left", "name"),
        ("kidney_right", "name"),
        ("vertebrae_L1", "name"),
        (None, "none"),
    ]


def test_terminology_goes_before_the_name(named):
    node, (first, _) = named("Liver", "Spleen")
    node.GetSegmentation().GetSegment(first).SetTag("TerminologyEntry", segments.terminology_entry("kidney_left"))
    assert matched(node) == [("kidney_left", "code"), ("spleen", "name")]


def test_the_terminology_that_slicer_gives_to_every_new_segment_does_not_hide_the_name(booted):
    node = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.GetSegmentation().AddEmptySegment("a", "pancreas")
    segment = node.GetSegmentation().GetSegment("a")
    tissue = (
        "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    )
    segment.SetTag("TerminologyEntry", tissue + "Anatomic codes - DICOM master list~^^~^^")
    assert matched(node) == [("pancreas", "name")]


def test_a_choice_goes_before_all_and_can_be_taken_back(named):
    node, (first, second) = named("Liver", "what is this")
    mrml_io.choose_match(node, first, None)
    mrml_io.choose_match(node, second, "spleen")
    assert matched(node) == [(None, "chosen"), ("spleen", "chosen")]
    mrml_io.clear_match(node, first)
    assert matched(node) == [("liver", "name"), ("spleen", "chosen")]


def test_a_choice_is_saved_with_the_scene(named, booted):
    node, (first, second) = named("Liver", "what is this")
    mrml_io.choose_match(node, first, None)
    mrml_io.choose_match(node, second, "spleen")
    booted.load_mrb(booted.save_mrb(booted.folder / "scene.mrb"))
    loaded = booted.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert matched(loaded) == [(None, "chosen"), ("spleen", "chosen")]


def test_a_choice_of_an_unknown_class_or_segment_is_refused_with_a_suggestion(named):
    node, (first,) = named("Liver")
    with pytest.raises(SegmentationError, match=r"livver.*liver"):
        mrml_io.choose_match(node, first, "livver")
    with pytest.raises(SegmentationError, match="no segment gone: it was probably removed"):
        mrml_io.choose_match(node, "gone", "liver")


def test_a_choice_that_the_registry_does_not_know_is_ignored(named):
    node, (first,) = named("Liver")
    node.GetSegmentation().GetSegment(first).SetTag(segments.CHOICE_TAG, "class_of_another_version")
    assert matched(node) == [("liver", "name")]


def test_segments_are_found_by_class(named):
    node, ids = named("Liver", "segment of the liver", "Spleen")
    mrml_io.choose_match(node, ids[1], "liver")
    assert mrml_io.segment_ids_of(node, ["liver"]) == ids[:2]
    assert mrml_io.segment_ids_of(node, ["aorta"]) == []


def test_every_class_is_found_again_by_its_code_and_by_its_display_name():
    node = slicer.vtkMRMLSegmentationNode()
    for segment_class in anatomy.segment_classes():
        for name, entry in (("x", segments.terminology_entry(segment_class.name)), (segment_class.display, "")):
            segment = slicer.vtkSegment()
            segment.SetName(name)
            segment.SetTag("TerminologyEntry", entry)
            node.GetSegmentation().AddSegment(segment)
    found = [match.class_name for match in mrml_io.match_segments(node)]
    assert found == [c.name for c in anatomy.segment_classes() for _ in range(2)]


def test_a_made_segmentation_comes_back_voxel_by_voxel_with_codes_and_names(booted, tmp_path):
    case = a_case(CHEST, directions=np.array([[0.0, 0.6, -0.8], [-1.0, 0, 0], [0, 0.8, 0.6]]))
    volume = add_volume(booted.scene, case.ct.array_kji, case.ct.ijk_to_ras)
    node = mrml_io.add_segmentation(booted.scene, case.segmentation, volume, "AI")
    booted.load_mrb(booted.save_mrb(booted.folder / "scene.mrb"))
    volume = booted.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    node = booted.scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert [match.source for match in mrml_io.match_segments(node)] == ["code"] * 4
    assert node.GetSegmentation().GetNthSegment(3).GetName() == anatomy.segment("aorta").display
    list(mrml_io.MrmlCaseSource(volume, node).hand_over(tmp_path / "case"))
    read = read_case(tmp_path / "case" / "case.json")
    assert np.array_equal(read.segmentation.labels_kji, case.segmentation.labels_kji)


def test_a_segmentation_of_another_grid_is_not_made(booted):
    volume, _ = add_case(booted, a_case(CHEST))
    count = booted.scene.GetNumberOfNodes()
    with pytest.raises(SegmentationError, match="another grid than the volume box case"):
        mrml_io.add_segmentation(booted.scene, Segmentation(np.zeros((3, 3, 3), np.uint8), {}), volume, "AI")
    assert booted.scene.GetNumberOfNodes() == count

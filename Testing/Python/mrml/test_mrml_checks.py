"""What cannot be analysed is refused at once, with the remedy, and the scene is left as it is."""

import numpy as np
import pytest
import slicer
import vtk

from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError, ReportError, SegmentationError, VolumeError
from CTGroundedVLMLib.exchange import read_case
from CTGroundedVLMLib.mrml_io import MrmlCaseSource
from slicer_scene import add_case, add_segmentation, add_to_study, add_volume, snapshot

HU = np.random.default_rng(1).integers(-1000, 300, (9, 10, 11)).astype(np.int16)


@pytest.fixture
def case_nodes(booted):
    return add_case(booted, a_case(CHEST))


def refused(booted, volume, segmentation, error, match, report="The liver is normal."):
    """The refusal must come from the cheap check, and change nothing."""
    before = snapshot(booted)
    with pytest.raises(error, match=match) as caught:
        MrmlCaseSource(volume, segmentation, report).check()
    assert snapshot(booted) == before
    return str(caught.value)


def test_no_ct_is_refused(booted):
    refused(booted, None, None, VolumeError, "No CT volume is chosen. Choose a CT volume")


def test_a_deleted_ct_is_refused(booted, case_nodes):
    volume, segmentation = case_nodes
    booted.scene.RemoveNode(volume)
    refused(booted, volume, segmentation, VolumeError, "box case is no longer in the scene. Load it again")


def test_a_label_map_as_ct_is_refused(booted):
    node = add_volume(booted.scene, HU.astype(np.uint8), np.eye(4), "mask", "vtkMRMLLabelMapVolumeNode")
    refused(booted, node, None, VolumeError, "mask is a label map, not an image.*given as the segmentation")


@pytest.mark.parametrize("class_name", ["vtkMRMLVectorVolumeNode", "vtkMRMLScalarVolumeNode"])
def test_a_colour_image_is_refused(booted, class_name):
    rgb = np.zeros((9, 10, 11, 3), np.uint8)
    node = add_volume(booted.scene, rgb, np.eye(4), "photo", class_name)
    refused(booted, node, None, VolumeError, "photo holds 3 values per voxel")


def test_a_model_as_ct_is_refused(booted):
    node = booted.scene.AddNewNodeByClass("vtkMRMLModelNode", "bone")
    refused(booted, node, None, VolumeError, "bone is a Model node. Choose a CT volume")


def test_a_volume_without_voxels_is_refused(booted):
    node = booted.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "unread")
    refused(booted, node, None, VolumeError, "unread holds no voxels")


def test_a_single_slice_is_refused(booted):
    node = add_volume(booted.scene, HU[:1], np.eye(4), "scout")
    refused(booted, node, None, VolumeError, "scout is 11 × 10 × 1 voxels")


def test_a_time_sequence_and_a_volume_that_follows_it_are_refused(booted):
    sequence = booted.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "beats")
    refused(booted, sequence, None, VolumeError, "beats is a time sequence; one volume is expected")
    frame = add_volume(booted.scene, HU, np.eye(4), "frame")
    for time in "01":
        sequence.SetDataNodeAtValue(frame, time)
    browser = booted.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "player")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    proxy = browser.AddProxyNode(frame, sequence, False)
    refused(booted, proxy, None, VolumeError, "shows one of 2 time points of the sequence player.*Clone it")


def test_an_mr_by_its_dicom_modality_is_refused(booted, case_nodes):
    volume, segmentation = case_nodes
    add_to_study(booted, volume, "MR")
    refused(booted, volume, segmentation, VolumeError, "box case is of modality MR; a CT is expected")


def test_a_ct_by_its_dicom_modality_is_taken(booted, case_nodes):
    volume, segmentation = case_nodes
    add_to_study(booted, volume, "CT")
    MrmlCaseSource(volume, segmentation).check()


def test_a_sheared_volume_is_refused(booted):
    sheared = np.eye(4)
    sheared[0, 2] = 0.3
    node = add_volume(booted.scene, HU, sheared, "tilted")
    refused(booted, node, None, VolumeError, "tilted has axes that are not at right angles")


@pytest.mark.parametrize("which", [0, 1])
def test_a_nonlinear_parent_transform_is_refused(booted, case_nodes, which):
    warp = booted.scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    for points in (spline.SetSourceLandmarks, spline.SetTargetLandmarks):
        landmarks = vtk.vtkPoints()
        for corner in (
            (0, 0, 0),
            (9, 0, 0),
            (0, 9, 0),
            (0, 0, 9),
            (9, 9, 9 if points == spline.SetSourceLandmarks else 30),
        ):
            landmarks.InsertNextPoint(corner)
        points(landmarks)
    warp.SetAndObserveTransformToParent(spline)
    case_nodes[which].SetAndObserveTransformNodeID(warp.GetID())
    refused(booted, *case_nodes, InputError, "under the transform warp, which is not linear.*Harden it")


def test_a_segmentation_without_segments_is_refused(booted, case_nodes):
    empty = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "new")
    refused(booted, case_nodes[0], empty, SegmentationError, "new has no segments. Segment the CT first")


def test_a_segment_without_voxels_is_refused(booted, case_nodes):
    empty = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "outline")
    empty.CreateDefaultDisplayNodes()
    empty.GetSegmentation().AddEmptySegment("a", "liver")
    refused(booted, case_nodes[0], empty, SegmentationError, "outline (is empty|has no voxels)")


def test_unknown_segments_are_listed(booted):
    case = a_case(CHEST)
    volume = add_volume(booted.scene, case.ct.array_kji, case.ct.ijk_to_ras)
    names = {value: f"thing {value}" for value in case.segmentation.names}
    node = add_segmentation(booted, volume, case.segmentation.labels_kji, names, "odd")
    message = refused(booted, volume, node, SegmentationError, "odd has no segment that is known")
    assert all(f"'{name}'" in message for name in names.values())


def test_the_segmentation_of_another_patient_is_refused(booted, case_nodes):
    other = a_case(CHEST)
    far = other.ct.ijk_to_ras.copy()
    far[:3, 3] += 2000
    elsewhere = add_volume(booted.scene, other.ct.array_kji, far, "other CT")
    node = add_segmentation(booted, elsewhere, other.segmentation.labels_kji, other.segmentation.names, "other")
    refused(booted, case_nodes[0], node, SegmentationError, "other does not overlap the CT box case.*another patient")


def test_closed_surfaces_alone_are_refused_with_the_way_to_voxels(booted, case_nodes):
    node = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    ball = vtk.vtkSphereSource()
    ball.Update()
    assert node.AddSegmentFromClosedSurfaceRepresentation(ball.GetOutput(), "liver")
    refused(
        booted, case_nodes[0], node, SegmentationError, "only Closed surface; a binary labelmap is expected. Create it"
    )


def test_another_node_as_segmentation_is_refused(booted, case_nodes):
    label_map = add_volume(booted.scene, HU.astype(np.uint8), np.eye(4), "mask", "vtkMRMLLabelMapVolumeNode")
    refused(booted, case_nodes[0], label_map, SegmentationError, "mask is a LabelMapVolume node.*Convert labelmap")


def test_a_report_of_over_a_megabyte_is_refused(booted, case_nodes):
    refused(booted, *case_nodes, ReportError, "1,000,008 bytes", report="Normal. " * 125_001)


def test_an_empty_report_is_no_refusal_but_a_warning(booted, case_nodes, tmp_path):
    source = MrmlCaseSource(*case_nodes, " \n")
    source.check()
    list(source.hand_over(tmp_path / "case"))
    case = read_case(tmp_path / "case" / "case.json")
    assert any("There is no report" in warning for warning in case.warnings)


def test_left_out_and_joined_segments_are_warned_of(booted, tmp_path):
    case = a_case(CHEST)
    volume = add_volume(booted.scene, case.ct.array_kji, case.ct.ijk_to_ras)
    names = dict(zip(case.segmentation.names, ("aorta", "Aorta", "blob", "heart"), strict=True))
    node = add_segmentation(booted, volume, case.segmentation.labels_kji, names)
    list(MrmlCaseSource(volume, node).hand_over(tmp_path / "case"))
    warnings = read_case(tmp_path / "case" / "case.json").warnings
    assert any("left out: 'blob'" in warning for warning in warnings)
    assert any("segments 'aorta', 'Aorta' are all aorta; joined" in warning for warning in warnings)


def test_the_check_leaves_no_generic_exception_for_a_node_without_scene():
    with pytest.raises(VolumeError, match="no longer in the scene"):
        MrmlCaseSource(slicer.vtkMRMLScalarVolumeNode()).check()

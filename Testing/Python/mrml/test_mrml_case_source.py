"""What the worker gets is exactly what lies in the scene, and in the file; nodes may go while it is handed over."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import slicer.util
import vtk

from cases import CHEST, LABEL, a_case
from CTGroundedVLMLib import image_file, volume_io
from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.exchange import read_case
from CTGroundedVLMLib.grids import place_on_grid
from CTGroundedVLMLib.mrml_io import MrmlCaseSource, geometry
from CTGroundedVLMLib.segmentation_io import read_segmentation
from slicer_scene import add_case, add_volume, fill_image, snapshot

TILT = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
ORIENTATIONS = {
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "RAS": np.eye(3),
    "flipped head to foot": np.diag([-1.0, 1.0, -1.0]),
    "sagittal": np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": TILT @ np.array([[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]) @ np.diag([-1.0, -1.0, 1.0]),
}


def handed_over(source, folder, segmentation=None):
    """The case as the worker reads it; ``segmentation``: what it makes itself where none is handed over."""
    *_, last = source.hand_over(folder)
    assert last == 1.0
    return read_case(folder / "case.json", lambda ct: segmentation)


def write_image(array, affine, path):
    image = sitk.GetImageFromArray(array)
    image_file.set_affine(image, affine)
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


@pytest.mark.parametrize("directions", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_file_in_slicer_and_the_same_file_read_here_give_the_same_case(booted, tmp_path, directions, suffix):
    drawn = a_case(CHEST, spacing=(0.8, 0.9, 2.5), directions=directions)
    path = write_image(drawn.ct.array_kji, drawn.ct.ijk_to_ras, tmp_path / f"scan{suffix}")
    volume = booted.logics["Volumes"].AddArchetypeVolume(str(path), "scan", 0)
    label_map = add_volume(
        booted.scene, drawn.segmentation.labels_kji, drawn.ct.ijk_to_ras, "labels", "vtkMRMLLabelMapVolumeNode"
    )
    segmentation = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segments")
    assert booted.logics["Segmentations"].ImportLabelmapToSegmentationNode(label_map, segmentation)
    for index in range(4):
        segment = segmentation.GetSegmentation().GetNthSegment(index)
        segment.SetName(drawn.segmentation.names[segment.GetLabelValue()])
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "segments.seg.nrrd"))
    assert storage.WriteData(segmentation)

    case = handed_over(MrmlCaseSource(volume, segmentation), tmp_path / "case")
    ct = volume_io.read_ct(path)
    assert np.array_equal(case.ct.array_kji, ct.array_kji)
    assert np.abs(case.ct.ijk_to_ras - ct.ijk_to_ras).max() < 1e-4
    assert case.ct.source == str(path)
    from_file = read_segmentation(tmp_path / "segments.seg.nrrd", ct)
    assert np.array_equal(case.segmentation.labels_kji, from_file.labels_kji)
    assert np.array_equal(case.segmentation.labels_kji, drawn.segmentation.labels_kji)
    assert case.segmentation.names == from_file.names == drawn.segmentation.names


def test_a_left_handed_file_which_slicer_turns_round_has_every_voxel_at_its_place(booted, tmp_path):
    drawn = a_case(CHEST, directions=np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    path = write_image(drawn.ct.array_kji, drawn.ct.ijk_to_ras, tmp_path / "scan.nii.gz")
    volume = booted.logics["Volumes"].AddArchetypeVolume(str(path), "scan", 0)
    case = handed_over(MrmlCaseSource(volume), tmp_path / "case", segmentation=drawn.segmentation)
    assert not np.array_equal(case.ct.array_kji, drawn.ct.array_kji)  # stored in another order
    placed, exact = place_on_grid(case.ct.array_kji, case.ct.ijk_to_ras, drawn.ct.array_kji.shape, drawn.ct.ijk_to_ras)
    assert exact
    assert np.array_equal(placed, drawn.ct.array_kji)


def test_overlapping_segments_in_layers_of_their_own_are_all_handed_over(booted, tmp_path):
    case = a_case({"heart": CHEST["heart"]})
    volume, segmentation = add_case(booted, case)
    aorta = np.zeros_like(case.segmentation.labels_kji)
    aorta[12:30, 40:60, 70:80] = 1  # partly inside the heart
    slicer_segment = slicer.vtkSegment()
    slicer_segment.SetName("aorta")
    slicer_segment.AddRepresentation("Binary labelmap", oriented(aorta, case.ct.ijk_to_ras))
    segmentation.GetSegmentation().AddSegment(slicer_segment)
    assert segmentation.GetSegmentation().GetNumberOfLayers("Binary labelmap") == 2
    labels = handed_over(MrmlCaseSource(volume, segmentation), tmp_path / "case").segmentation.labels_kji
    expected = case.segmentation.labels_kji.copy()
    expected[aorta > 0] = LABEL["aorta"]
    assert np.array_equal(labels, expected)


def oriented(array, affine, extent_start=(0, 0, 0)):
    image = slicer.vtkOrientedImageData()
    fill_image(image, array)
    start, size = np.array(extent_start), array.shape[::-1]
    image.SetExtent(*[int(x) for pair in zip(start, start + size - 1, strict=True) for x in pair])
    matrix = slicer.util.vtkMatrixFromArray(affine)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def test_a_layer_whose_extent_does_not_start_at_zero_lies_where_it_belongs(booted, tmp_path):
    case = a_case(CHEST, directions=ORIENTATIONS["oblique"])
    volume, _ = add_case(booted, case)
    node = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment = slicer.vtkSegment()
    segment.SetName("spleen")
    segment.AddRepresentation(
        "Binary labelmap", oriented(np.ones((4, 5, 6), np.int16), case.ct.ijk_to_ras, extent_start=(30, 20, 10))
    )
    node.GetSegmentation().AddSegment(segment)
    labels = handed_over(MrmlCaseSource(volume, node), tmp_path / "case").segmentation.labels_kji
    expected = np.zeros_like(labels)
    expected[10:14, 20:25, 30:36] = LABEL["spleen"]
    assert np.array_equal(labels, expected)


def test_a_finer_layer_is_resampled_on_the_ct(booted, tmp_path):
    case = a_case(CHEST, spacing=(1.0, 1.0, 2.0))
    volume, _ = add_case(booted, case)
    fine = case.ct.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = (case.ct.ijk_to_ras @ [-0.25, -0.25, -0.25, 1])[:3]  # the corners of both grids meet
    mask = np.zeros((80, 240, 280), np.uint8)
    mask[20:40, 100:140, 60:90] = 1
    node = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment = slicer.vtkSegment()
    segment.SetName("liver")
    segment.AddRepresentation("Binary labelmap", oriented(mask, fine))
    node.GetSegmentation().AddSegment(segment)
    handed = handed_over(MrmlCaseSource(volume, node), tmp_path / "case")
    box = np.argwhere(handed.segmentation.labels_kji == LABEL["liver"])
    assert np.array_equal(box.min(axis=0), [10, 50, 30])
    assert np.array_equal(box.max(axis=0), [19, 69, 44])
    assert any("resampled to the CT" in warning for warning in handed.warnings)


def linear_transform(booted, matrix, parent=None):
    node = booted.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    if parent is not None:
        node.SetAndObserveTransformNodeID(parent.GetID())
    return node


def test_linear_parent_transforms_are_composed(booted, tmp_path):
    case = a_case(CHEST)
    volume, segmentation = add_case(booted, case)
    outer, inner = np.eye(4), np.eye(4)
    outer[:3, :3], inner[:3, 3] = TILT, (5, -7, 11)
    transform = linear_transform(booted, inner, linear_transform(booted, outer))
    for node in (volume, segmentation):
        node.SetAndObserveTransformNodeID(transform.GetID())
    handed = handed_over(MrmlCaseSource(volume, segmentation), tmp_path / "case")
    assert np.abs(handed.ct.ijk_to_ras - outer @ inner @ case.ct.ijk_to_ras).max() < 1e-9
    assert np.array_equal(handed.segmentation.labels_kji, case.segmentation.labels_kji)


def test_a_transform_of_the_ct_alone_moves_it_against_its_segments(booted, tmp_path):
    case = a_case(CHEST)
    volume, segmentation = add_case(booted, case)
    shift = np.eye(4)
    shift[:3, 3] = (0, 0, 6)  # two slices to the head
    volume.SetAndObserveTransformNodeID(linear_transform(booted, shift).GetID())
    labels = handed_over(MrmlCaseSource(volume, segmentation), tmp_path / "case").segmentation.labels_kji
    assert np.array_equal(labels[:-2], case.segmentation.labels_kji[2:])


def test_voxel_positions_follow_any_transform(booted):
    case = a_case(CHEST)
    volume, _ = add_case(booted, case)
    matrix = np.eye(4)
    matrix[:3, :3] = TILT
    volume.SetAndObserveTransformNodeID(linear_transform(booted, matrix).GetID())
    expected = (matrix @ case.ct.ijk_to_ras @ [3, 4, 5, 1])[:3]
    assert np.allclose(geometry.voxel_position(volume, (3, 4, 5)), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_the_array_of_a_volume_is_its_memory_in_any_type(booted, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    volume = add_volume(booted.scene, array, np.eye(4))
    view = geometry.image_array(volume.GetImageData())
    assert np.array_equal(view, array)
    assert view.dtype == dtype
    view[1, 2, 3] = 99
    assert volume.GetImageData().GetScalarComponentAsDouble(3, 2, 1, 0) == 99


def test_only_matched_layers_are_handed_over(booted, tmp_path):
    case = a_case(CHEST)
    volume, segmentation = add_case(booted, case)
    extra = slicer.vtkSegment()
    extra.SetName("ruler")
    extra.AddRepresentation("Binary labelmap", oriented(np.ones((40, 120, 140), np.uint8), case.ct.ijk_to_ras))
    segmentation.GetSegmentation().AddSegment(extra)
    folder = tmp_path / "case"
    labels = handed_over(MrmlCaseSource(volume, segmentation), folder).segmentation.labels_kji
    assert np.array_equal(labels, case.segmentation.labels_kji)
    assert len(list(folder.glob("layer-*.npy"))) == 1


def test_without_a_segmentation_the_ct_goes_alone(booted, tmp_path):
    case = a_case(CHEST)
    volume, _ = add_case(booted, case)
    segmented = []
    list(MrmlCaseSource(volume).hand_over(tmp_path / "case"))
    read = read_case(tmp_path / "case" / "case.json", lambda ct: segmented.append(ct) or case.segmentation)
    assert np.array_equal(segmented[0].array_kji, case.ct.array_kji)
    assert read.segmentation is case.segmentation


def test_a_report_in_any_script_arrives_as_it_is(booted, tmp_path):
    volume, segmentation = add_case(booted, a_case(CHEST))
    text = "ПЕЧЕНЬ не увеличена.\r\n肝臓は正常。 الكبد طبيعي \U0001fac1 \ud83e"
    case = handed_over(MrmlCaseSource(volume, segmentation, text, "report.txt"), tmp_path / "case")
    assert (case.report_text, case.report_source) == (text, "report.txt")


def test_the_hand_over_takes_many_small_steps_and_leaves_the_scene_as_it_was(booted, tmp_path):
    array = np.zeros((64, 512, 512), np.int16)
    array[:, 100:400, 100:400] = 40
    volume = add_volume(booted.scene, array, np.eye(4))
    before = snapshot(booted)
    fractions = list(MrmlCaseSource(volume).hand_over(tmp_path / "case"))
    assert len(fractions) >= array.nbytes / 8_000_000
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert snapshot(booted) == before


# --- while it is handed over -------------------------------------------------------------------------------------


@pytest.fixture
def halfway(booted, tmp_path):
    """A hand-over after its first step, its nodes, and its folder."""
    array = np.full((64, 512, 512), -1000, np.int16)
    array[:, 100:400, 100:400] = 40
    volume = add_volume(booted.scene, array, np.eye(4), "scan")
    labels = np.zeros((64, 512, 512), np.uint8)
    labels[:, 200:300, 200:300] = LABEL["liver"]
    node = booted.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    segment = slicer.vtkSegment()
    segment.SetName("liver")
    segment.SetLabelValue(LABEL["liver"])
    segment.AddRepresentation("Binary labelmap", oriented(labels, np.eye(4)))
    node.GetSegmentation().AddSegment(segment)
    steps = MrmlCaseSource(volume, node, "Normal.").hand_over(tmp_path / "case")
    assert 0 < next(steps) < 1
    assert (tmp_path / "case").is_dir()
    return steps, volume, node, tmp_path / "case"


def change_voxels(volume, node, scene):
    slicer.util.arrayFromVolume(volume)[0, 0, 0] = 1
    slicer.util.arrayFromVolumeModified(volume)


def replace_image(volume, node, scene):
    image = vtk.vtkImageData()
    fill_image(image, np.zeros((3, 3, 3), np.int16))
    volume.SetAndObserveImageData(image)


def reallocate(volume, node, scene):
    volume.GetImageData().AllocateScalars(vtk.VTK_SHORT, 1)  # the former memory is freed


def edit_segment(volume, node, scene):
    image = node.GetSegmentation().GetLayerDataObject(0, "Binary labelmap")
    image.GetPointData().GetScalars().Modified()


CHANGES = {
    "the CT deleted": (lambda v, n, scene: scene.RemoveNode(v), "CT scan was deleted, or the scene closed"),
    "the segmentation deleted": (lambda v, n, scene: scene.RemoveNode(n), "Segmentation organs was deleted"),
    "the scene closed": (lambda v, n, scene: scene.Clear(False), "was deleted, or the scene closed"),
    "voxels changed": (change_voxels, "CT scan was changed while it was read. Analyze again"),
    "another image": (replace_image, "CT scan was changed while it was read"),
    "memory freed": (reallocate, "CT scan was changed while it was read"),
    "a segment edited": (edit_segment, "Segmentation organs was changed while it was read"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_during_the_hand_over_is_an_error_that_leaves_no_folder(booted, halfway, change, message):
    steps, volume, node, folder = halfway
    change(volume, node, booted.scene)
    with pytest.raises(InputError, match=message):
        list(steps)
    assert not folder.exists()


def test_the_name_and_the_display_may_change_during_the_hand_over(halfway):
    steps, volume, node, folder = halfway
    volume.SetName("renamed")
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    volume.GetImageData().GetScalarRange()
    node.GetSegmentation().GetNthSegment(0).SetColor(1, 0, 0)
    list(steps)
    case = read_case(folder / "case.json")
    assert case.ct.name == "scan"
    assert np.count_nonzero(case.segmentation.labels_kji) == 64 * 100 * 100


def test_a_hand_over_that_is_given_up_leaves_no_folder(halfway):
    steps, _, _, folder = halfway
    steps.close()
    assert not folder.exists()


def test_a_full_disk_is_an_output_error_and_the_scene_stays(booted, tmp_path, monkeypatch):
    volume, segmentation = add_case(booted, a_case(CHEST))
    before = snapshot(booted)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OutputError, match="Make space"):
        list(MrmlCaseSource(volume, segmentation).hand_over(tmp_path / "case"))
    assert not (tmp_path / "case").exists()
    assert snapshot(booted) == before

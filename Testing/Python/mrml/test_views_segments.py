"""Segments in Slicer's own views: highlighted, coloured by score, as surfaces in 3D; and everything restored."""

import dataclasses

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.mrml_io import display, display_segment_surface, segment_box
from CTGroundedVLMLib.mrml_io.display_colours import NEUTRAL, NOT_SCORED, probability_colour
from offscreen_views import SliceView, ThreeDView, missing_egl

pytestmark = pytest.mark.skipif(missing_egl() is not None, reason=str(missing_egl()))

SIZE = (400, 300)


@pytest.fixture
def case():
    return a_case(CHEST)


@pytest.fixture
def nodes(booted, case):
    return slicer_scene.add_case(booted, case)


@pytest.fixture
def segmentation(nodes):
    return nodes[1]


@pytest.fixture
def ids(segmentation):
    """Class name -> segment id."""
    held = segmentation.GetSegmentation()
    return {held.GetNthSegment(n).GetName(): held.GetNthSegmentID(n) for n in range(held.GetNumberOfSegments())}


@pytest.fixture
def view(booted, nodes):
    opened = SliceView(booted, "Red", SIZE)
    opened.show(nodes[0])
    yield opened
    opened.close()


@pytest.fixture
def space(booted):
    opened = ThreeDView(booted, SIZE, background=((0, 0, 0), (0, 0, 0)))
    yield opened
    opened.close()


def labels_of_pixels(view, case):
    """(H, W): the class name of each pixel, "" outside; and whether it is well inside or outside of a segment."""
    to_ijk = np.linalg.inv(case.ct.ijk_to_ras)
    ijk = np.rint(view.ras() @ to_ijk[:3, :3].T + to_ijk[:3, 3]).astype(int)
    labels = case.segmentation.labels_kji
    inside = ((ijk >= 0) & (ijk < labels.shape[::-1])).all(axis=-1)
    found = np.zeros(ijk.shape[:2], int)
    found[inside] = labels[tuple(ijk[inside][:, ::-1].T)]
    edge = np.zeros(found.shape, bool)
    for axis in (0, 1):
        for step in range(-4, 5):  # the outline is drawn in here
            edge |= np.roll(found, step, axis) != found
    return found, ~edge


def plain(value):
    """VTK's vectors are equal to nothing but themselves."""
    return tuple(value) if hasattr(value, "__len__") else value


def our_surfaces(scene):
    models = slicer.util.getNodesByClass("vtkMRMLModelNode", scene)
    return [model for model in models if model.GetName().endswith(" surface")]


def all_properties(segmentation):
    shown, held = segmentation.GetDisplayNode(), segmentation.GetSegmentation()
    names = [
        f"Get{kind}{what}"
        for kind, whats in {
            "SegmentVisibility": ("", "2DFill", "2DOutline", "3D"),
            "SegmentOpacity": ("2DFill", "2DOutline", "3D"),
            "SegmentOverride": ("Color",),
            "Segment": ("Color", "Pickable"),
        }.items()
        for what in whats
    ]
    segments = {
        held.GetNthSegmentID(n): [plain(getattr(shown, name)(held.GetNthSegmentID(n))) for name in names]
        for n in range(held.GetNumberOfSegments())
    }
    switches = [getattr(shown, f"Get{name}")() for name in ("Visibility", "Visibility2D", "Visibility3D", "Opacity3D")]
    return segments, switches, tuple(shown.GetAttributeNames() or ())


def test_a_highlight_keeps_its_segment_dims_the_others_and_touches_nothing_else(view, case, segmentation, ids):
    segmentation.GetDisplayNode().SetVisibility(False)
    plain = view.picture().astype(float)
    segmentation.GetDisplayNode().SetVisibility(True)
    full = view.picture().astype(float)
    display.highlight_segments(segmentation, [ids["heart"]], surfaces=False)
    shown = view.picture().astype(float)
    labels, clear = labels_of_pixels(view, case)
    heart, others, nothing = (clear & mask for mask in (labels == 51, (labels != 51) & (labels > 0), labels == 0))
    assert min(heart.sum(), others.sum(), nothing.sum()) > 500
    np.testing.assert_array_equal(shown[heart], full[heart])
    np.testing.assert_array_equal(shown[nothing], plain[nothing])
    np.testing.assert_allclose(shown[others] - plain[others], 0.2 * (full[others] - plain[others]), atol=2)


def test_outlines_alone_leave_the_inside_free_for_a_heatmap(view, case, segmentation, ids):
    segmentation.GetDisplayNode().SetVisibility(False)
    plain = view.picture()
    display.highlight_segments(segmentation, [ids["heart"]], fill=False, surfaces=False)
    shown = view.picture()
    labels, clear = labels_of_pixels(view, case)
    np.testing.assert_array_equal(shown[clear], plain[clear])
    assert (shown != plain).any(axis=-1)[labels == 51].sum() > 100


def test_a_highlight_is_restored_exactly_after_several_changes(view, segmentation, ids):
    shown = segmentation.GetDisplayNode()
    shown.SetVisibility2D(False)
    shown.SetSegmentVisibility(ids["aorta"], False)
    shown.SetSegmentOpacity2DFill(ids["heart"], 0.123456789)
    shown.SetSegmentVisibility2DOutline(ids["heart"], False)
    shown.SetSegmentOpacity3D(ids["aorta"], 1 / 3)
    before, picture = all_properties(segmentation), view.picture()
    for chosen in (["heart"], ["aorta", "heart"], ["lung_lower_lobe_left"]):
        display.highlight_segments(segmentation, [ids[name] for name in chosen])
    display.colour_segments_by_score(segmentation, {ids["heart"]: 0.9})
    assert all_properties(segmentation) != before
    display.clear_highlight(segmentation)
    display.restore_segment_colours(segmentation)
    assert all_properties(segmentation) == before
    np.testing.assert_array_equal(view.picture(), picture)


def test_segments_removed_or_added_meanwhile_do_not_hinder_restoring(booted, segmentation, ids):
    before = all_properties(segmentation)[0]
    display.highlight_segments(segmentation, [ids["heart"], "gone for long"])
    segmentation.GetSegmentation().RemoveSegment(ids["heart"])
    added = segmentation.GetSegmentation().AddEmptySegment("new")
    display.highlight_segments(segmentation, [ids["aorta"]])
    segmentation.GetDisplayNode().SetSegmentOpacity3D(added, 0.75)
    display.clear_highlight(segmentation)
    after = all_properties(segmentation)[0]
    assert after.pop(added)[6] == 0.75
    assert after == {key: value for key, value in before.items() if key != ids["heart"]}


def test_highlighting_nothing_that_exists_clears_the_highlight(segmentation, ids):
    before = all_properties(segmentation)
    display.highlight_segments(segmentation, [ids["heart"]])
    display.highlight_segments(segmentation, ["gone"])
    assert all_properties(segmentation) == before


def test_a_segmentation_that_is_gone_is_passed_over_and_its_surfaces_leave(booted, space, segmentation, ids):
    display.highlight_segments(segmentation, [ids["heart"]])
    booted.scene.RemoveNode(segmentation)
    for node in (segmentation, None):
        display.highlight_segments(node, [ids["heart"]])
        display.colour_segments_by_score(node, {ids["heart"]: 0.5})
        display.clear_highlight(node)
        display.restore_segment_colours(node)
        assert display.show_surfaces(node, [ids["heart"]]) == []
    display.restore_display(booted.scene)
    assert our_surfaces(booted.scene) == []
    assert not space.picture().any()


def test_a_highlight_saved_with_the_scene_can_be_restored_after_loading(booted, view, segmentation, ids, tmp_path):
    segmentation.GetDisplayNode().SetSegmentOpacity2DFill(ids["aorta"], 0.625)
    before, picture = all_properties(segmentation), view.picture()
    display.highlight_segments(segmentation, [ids["heart"]])
    display.colour_segments_by_score(segmentation, {ids["aorta"]: 0.9})
    booted.load_mrb(booted.save_mrb(tmp_path / "scene.mrb"))
    loaded = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", booted.scene)[0]
    assert our_surfaces(booted.scene) == []  # surfaces are not saved
    assert (view.picture() != picture).any()
    display.restore_display(booted.scene)
    assert to_file_precision(all_properties(loaded)) == to_file_precision(before)
    np.testing.assert_array_equal(view.picture(), picture)


def to_file_precision(value):
    """Slicer writes a segment's colour with six digits."""
    if isinstance(value, dict):
        return {key: to_file_precision(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_file_precision(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def test_scores_colour_the_slices_and_the_surfaces_with_a_legend(view, space, case, segmentation, ids):
    shown = segmentation.GetDisplayNode()
    own = plain(shown.GetSegmentColor(ids["heart"]))
    display.highlight_segments(segmentation, [ids["heart"]], surfaces=False)
    display.colour_segments_by_score(segmentation, {ids["heart"]: 0.75, ids["aorta"]: None})
    assert shown.GetSegmentColor(ids["heart"]) == pytest.approx((0.369, 0.789, 0.383), abs=0.01)
    assert shown.GetSegmentColor(ids["aorta"]) == pytest.approx(NOT_SCORED)
    assert segmentation.GetSegmentation().GetSegment(ids["heart"]).GetColor() == own
    labels, clear = labels_of_pixels(view, case)
    red, green, blue = view.picture()[clear & (labels == 51)].mean(axis=0)
    assert green > red + 20
    assert green > blue + 20
    space.picture()
    space.look()
    pixels = space.picture().astype(int)
    green_pixels = (pixels[..., 1] > pixels[..., 0] + 40) & (pixels[..., 1] > pixels[..., 2] + 40)
    assert green_pixels[:, :300].sum() > 300  # the heart
    legend = pixels[:, 300:]
    assert ((legend.min(axis=-1) > 200).sum()) > 30  # white letters
    assert ((legend[..., 0] > 230) & (legend[..., 2] < 90)).any()  # yellow: probability 1
    display.restore_segment_colours(segmentation)
    assert plain(shown.GetSegmentColor(ids["heart"])) == own
    assert not space.picture().any()


def test_a_colour_that_was_overridden_before_comes_back(segmentation, ids):
    shown = segmentation.GetDisplayNode()
    shown.SetSegmentOverrideColor(ids["heart"], 0.1, 0.2, 0.3)
    for scores in ({ids["heart"]: 0.5}, {ids["heart"]: 0.7, ids["aorta"]: 0.1}):
        display.colour_segments_by_score(segmentation, scores)
    display.restore_segment_colours(segmentation)
    assert shown.GetSegmentOverrideColor(ids["heart"]) == pytest.approx((0.1, 0.2, 0.3))
    assert min(shown.GetSegmentOverrideColor(ids["aorta"])) < 0


@pytest.mark.parametrize("most_voxels", [400_000, 2_000])
def test_a_surface_lies_where_its_segment_is_also_when_thinned(monkeypatch, case, segmentation, ids, most_voxels):
    monkeypatch.setattr(segment_box, "_MOST_VOXELS", most_voxels)
    (model,) = display.show_surfaces(segmentation, [ids["heart"]])
    low, high = CHEST["heart"]
    corners = [(case.ct.ijk_to_ras @ [*corner[::-1], 1.0])[:3] for corner in (low, np.subtract(high, 1))]
    bounds = np.array(model.GetPolyData().GetBounds()).reshape(3, 2)
    expected = np.sort(np.transpose(corners), axis=1)
    tolerance = np.array(case.ct.spacing_ijk)[:, None] * (1 if most_voxels > 2_000 else 4)
    assert (np.abs(bounds - expected) <= tolerance).all()
    assert not segmentation.GetSegmentation().ContainsRepresentation("Closed surface")


def a_thin_segment(booted, case):
    """A block with a fin of one voxel, and a block that touches it at an edge only; its mask, and its node's segment."""
    labels = np.zeros_like(case.segmentation.labels_kji)
    labels[10:20, 20:50, 20:50] = 5
    labels[20:30, 20:50, 35] = 5
    labels[10:20, 50:70, 50:70] = 5
    thin = dataclasses.replace(case.segmentation, labels_kji=labels, names={5: "liver"})
    _, node = slicer_scene.add_case(booted, dataclasses.replace(case, segmentation=thin))
    return labels > 0, node, node.GetSegmentation().GetNthSegmentID(0)


def test_the_normals_of_a_thin_part_and_of_a_sharp_edge_point_outward(booted, case):
    """Else they are drawn as black rims, and evidence is looked for on the wrong side."""
    mask_kji, node, segment_id = a_thin_segment(booted, case)
    surface = display_segment_surface.segment_surface(node, segment_id)
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(float)
    normals = vtk_to_numpy(surface.GetPointData().GetNormals()).astype(float)
    corners = vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    a, b, c = points[corners].swapaxes(0, 1)
    across = np.cross(b - a, c - a)
    volume_mm3 = np.einsum("nx,nx->", a, across) / 6  # negative parts: turned inside out
    assert volume_mm3 == pytest.approx(mask_kji.sum() * np.prod(case.ct.spacing_ijk), rel=0.1)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    agreement = np.einsum("nx,nkx->nk", across, normals[corners])
    assert agreement.min() > 0.3


@pytest.mark.parametrize("most_voxels", [400_000, 2_000])
def test_the_centre_of_a_segment_lies_in_it_also_where_the_middle_of_its_box_does_not(
    booted, case, monkeypatch, most_voxels
):
    monkeypatch.setattr(segment_box, "_MOST_VOXELS", most_voxels)
    labels = np.zeros_like(case.segmentation.labels_kji)
    labels[10:20, 10:80, 10:20] = labels[10:20, 10:20, 10:80] = 5  # an L
    bent = dataclasses.replace(case.segmentation, labels_kji=labels, names={5: "liver"})
    _, node = slicer_scene.add_case(booted, dataclasses.replace(case, segmentation=bent))
    segment_id = node.GetSegmentation().GetNthSegmentID(0)
    place = segment_box.segment_centre(node, segment_id)
    to_ijk = np.linalg.inv(case.ct.ijk_to_ras)
    i, j, k = np.rint((to_ijk @ [*place, 1.0])[:3]).astype(int)
    assert labels[k, j, i] == 5
    assert abs(k - 14.5) <= 5
    assert segment_box.segment_centre(node, "another") is None
    transform = booted.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(2, 3, 25.0)
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert segment_box.segment_centre(node, segment_id) == pytest.approx(np.add(place, (0, 0, 25)))


def test_an_empty_segment_has_no_centre(segmentation):
    segment_id = segmentation.GetSegmentation().AddEmptySegment("empty")
    assert segment_box.segment_centre(segmentation, segment_id) is None


def test_the_centre_of_a_segment_without_voxels_is_that_of_its_surface(segmentation, ids):
    expected = segmentation.GetSegmentCenterRAS(ids["heart"])
    segmentation.CreateClosedSurfaceRepresentation()
    held = segmentation.GetSegmentation()
    held.SetSourceRepresentationName("Closed surface")
    held.RemoveRepresentation("Binary labelmap")
    assert segment_box.segment_centre(segmentation, ids["heart"]) == pytest.approx(expected, abs=6)


def test_surfaces_are_made_for_shown_segments_only_and_kept_until_an_edit(booted, segmentation, ids):
    (heart,) = display.show_surfaces(segmentation, [ids["heart"]])
    (aorta,) = display.show_surfaces(segmentation, [ids["aorta"]])
    assert (heart.GetDisplayNode().GetVisibility(), aorta.GetDisplayNode().GetVisibility()) == (0, 1)
    assert len(our_surfaces(booted.scene)) == 2
    assert display.show_surfaces(segmentation, [ids["heart"]]) == [heart]
    array = slicer.util.arrayFromSegmentInternalBinaryLabelmap(segmentation, ids["heart"])
    array[array == 51] = 0
    image = segmentation.GetSegmentation().GetSegment(ids["heart"]).GetRepresentation("Binary labelmap")
    image.GetPointData().GetScalars().Modified()
    image.Modified()
    (emptied,) = display.show_surfaces(segmentation, [ids["heart"]])
    assert emptied.GetPolyData().GetNumberOfPoints() == 0
    display.remove_surfaces(booted.scene)
    assert our_surfaces(booted.scene) == []


def test_a_surface_follows_the_transform_of_its_segmentation(booted, segmentation, ids):
    transform = booted.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 50.0)
    transform.SetMatrixTransformToParent(matrix)
    (model,) = display.show_surfaces(segmentation, [ids["heart"]])
    before = np.zeros(6)
    model.GetRASBounds(before)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    assert display.show_surfaces(segmentation, [ids["heart"]]) == [model]
    after = np.zeros(6)
    model.GetRASBounds(after)
    np.testing.assert_allclose(after - before, [50, 50, 0, 0, 0, 0], atol=1e-6)


def test_the_segmentations_own_surfaces_come_back_after_ours(space, segmentation, ids):
    segmentation.CreateClosedSurfaceRepresentation()
    space.picture()
    space.look()
    before, properties = space.picture(), all_properties(segmentation)
    assert before.any()
    display.highlight_segments(segmentation, [ids["heart"]])
    display.colour_segments_by_score(segmentation, {ids["heart"]: 0.9})
    assert (space.picture() != before).any()
    display.clear_highlight(segmentation)
    display.restore_segment_colours(segmentation)
    assert all_properties(segmentation) == properties
    np.testing.assert_array_equal(space.picture(), before)


def test_evidence_is_painted_on_the_surface_that_it_lies_below(booted, space, case, segmentation, ids):
    low, high = CHEST["heart"]
    values = np.zeros(np.subtract(high, low), np.float32)
    half = values.shape[2] // 2
    values[:, :, half:] = 2.0  # the half towards the last column: the patient's left
    values[:, :, :half] = -1.0
    affine = case.ct.ijk_to_ras.copy()
    affine[:3, 3] = (affine @ [*low[::-1], 1.0])[:3]
    heatmap = slicer_scene.add_volume(booted.scene, values, affine, "Evidence")
    (model,) = display.paint_evidence(segmentation, [ids["heart"]], heatmap)
    points = slicer.util.arrayFromModelPoints(model)
    evidence = slicer.util.arrayFromModelPointData(model, "evidence")
    middle = (case.ct.ijk_to_ras @ [low[2] + half - 0.5, 0, 0, 1])[0]
    assert (evidence[points[:, 0] < middle - 1] == 2.0).all()
    assert (evidence[np.abs(points[:, 0] - points[:, 0].max()) < 0.5] <= 2.0).all()
    front_right = (points[:, 0] > middle + 1) & (points[:, 0] < points[:, 0].max() - 2)
    assert (evidence[front_right] == 0).all()  # what speaks against is not shown with "for"
    space.picture()
    space.look()
    pixels = space.picture()[:, :300].astype(int)
    shown = pixels.max(axis=-1) > 40
    warm = shown & (pixels[..., 0] > pixels[..., 2] + 60)
    neutral = shown & (np.ptp(pixels, axis=-1) < 30)
    assert min(warm.sum(), neutral.sum()) > 200
    assert np.argwhere(warm)[:, 1].mean() > np.argwhere(neutral)[:, 1].mean()  # seen from the front, left is right
    display.paint_evidence(segmentation, [ids["heart"]], heatmap, evidence="both")
    assert evidence_of(model).min() == -1.0
    with pytest.raises(InputError, match="holds no image"):
        display.paint_evidence(segmentation, [ids["heart"]], slicer.vtkMRMLScalarVolumeNode())


def test_surfaces_come_one_by_one_after_the_former_ones_have_gone(booted, segmentation, ids):
    display.show_surfaces(segmentation, [ids["aorta"]])
    steps = display.surface_steps(segmentation, [ids["heart"], "no such segment", ids["aorta"]])
    seen = []
    for _ in steps:
        models = [model for model in our_surfaces(booted.scene) if model.GetDisplayNode().GetVisibility()]
        names = sorted(model.GetName() for model in models)
        if names not in seen:
            seen.append(names)
    assert seen == [[], ["heart surface"], ["aorta surface", "heart surface"]]


def test_surfaces_that_are_given_up_halfway_leave_the_segmentations_own_display_as_it_was(booted, segmentation, ids):
    before = all_properties(segmentation)
    steps = display.surface_steps(segmentation, [ids["heart"], ids["aorta"]])
    while not any(model.GetDisplayNode().GetVisibility() for model in our_surfaces(booted.scene)):
        next(steps)
    steps.close()
    display.hide_surfaces(booted.scene)
    assert all_properties(segmentation) == before


def test_painting_ends_where_the_heatmap_or_the_segmentation_leaves_the_scene(booted, case, segmentation, ids):
    heatmap = slicer_scene.add_volume(booted.scene, np.ones((9, 9, 9), np.float32), case.ct.ijk_to_ras, "Evidence")
    for gone in (heatmap, segmentation):
        steps = display.evidence_steps(segmentation, [ids["heart"], ids["aorta"]], heatmap)
        next(steps)
        booted.scene.RemoveNode(gone)
        assert list(steps) == []


def evidence_of(model):
    return slicer.util.arrayFromModelPointData(model, "evidence")


def test_colours_of_probabilities_rise_in_lightness_and_grey_means_not_scored():
    lightness = [np.dot(probability_colour(p), (0.299, 0.587, 0.114)) for p in np.linspace(0, 1, 11)]
    assert (np.diff(lightness) > 0).all()
    assert probability_colour(None) == probability_colour(float("nan")) == NOT_SCORED
    assert np.ptp(NEUTRAL) < 0.06

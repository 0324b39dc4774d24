"""Slicer's camera, as it is at the start, finds the surfaces of a CT wherever its coordinates lie; and the 3D check box."""

import dataclasses

import numpy as np
import pytest
import slicer
import slicer.util

from cases import CHEST, a_case
from CTGroundedVLMLib import mrml_io
from CTGroundedVLMLib.mrml_io import display
from CTGroundedVLMLib.widget.navigation import LinkedNavigation
from export_cases import a_result
from offscreen_views import ThreeDView, missing_egl
from slicer_scene import add_case

pytestmark = pytest.mark.skipif(missing_egl() is not None, reason=str(missing_egl()))

FAR_MM = (60.0, -700.0, 900.0)


@pytest.fixture
def space(booted):
    """A 3D view with Slicer's own camera, which nothing but the tested code moves."""
    opened = ThreeDView(booted, (300, 300), background=((0, 0, 0), (0, 0, 0)))
    opened.picture()
    yield opened
    opened.close()


def far_segmentation(booted):
    """A chest whose coordinates lie far from the origin, and its segment ids by name."""
    case = a_case(CHEST)
    affine = case.ct.ijk_to_ras.copy()
    affine[:3, 3] += FAR_MM
    _, node = add_case(booted, dataclasses.replace(case, ct=dataclasses.replace(case.ct, ijk_to_ras=affine)))
    held = node.GetSegmentation()
    return node, {held.GetSegment(i).GetName(): i for i in held.GetSegmentIDs()}


def camera_of(booted):
    (camera,) = slicer.util.getNodesByClass("vtkMRMLCameraNode", booted.scene)
    return camera


def coloured(space):
    return space.picture().max(axis=-1) > 30


def test_surfaces_far_from_the_origin_come_into_view_whole_and_from_the_front(booted, space):
    segmentation, ids = far_segmentation(booted)
    assert not coloured(space).any()
    display.show_surfaces(segmentation, list(ids.values()))
    shown = coloured(space)
    assert shown.sum() > 1000
    assert not any(edge.any() for edge in (shown[0], shown[-1], shown[:, 0], shown[:, -1]))
    camera = camera_of(booted)
    ahead = np.subtract(camera.GetFocalPoint(), camera.GetPosition())
    np.testing.assert_allclose(ahead / np.linalg.norm(ahead), (0, -1, 0), atol=1e-9)


def test_a_view_that_shows_the_surfaces_is_left_alone_and_one_turned_away_is_not(booted, space):
    segmentation, ids = far_segmentation(booted)
    (heart,) = display.show_surfaces(segmentation, [ids["heart"]])
    camera, bounds = camera_of(booted), np.zeros(6)
    heart.GetRASBounds(bounds)
    middle = bounds.reshape(3, 2).mean(axis=1)
    for focus, position in (
        (np.add(middle, (0, 0, 30)), np.add(middle, (250, 200, 50))),  # to the user's taste
        (middle, np.add(middle, (0, 40, 0))),  # a close-up, from within
    ):
        camera.SetFocalPoint(*focus)
        camera.SetPosition(*position)
        display.show_surfaces(segmentation, [ids["heart"]])
        assert (tuple(camera.GetFocalPoint()), tuple(camera.GetPosition())) == (tuple(focus), tuple(position))
    camera.SetFocalPoint(*np.add(middle, (0, 500, 0)))
    camera.SetPosition(*np.add(middle, (0, 200, 0)))  # the heart is behind it
    assert not coloured(space).any()
    display.show_surfaces(segmentation, [ids["heart"]])
    assert coloured(space).sum() > 300
    np.testing.assert_allclose(camera.GetFocalPoint(), middle)


@pytest.fixture
def navigation(booted):
    """In an analysis with a heatmap of the liver; its steps wait in ``navigation.waiting``."""
    result, waiting = a_result(), []
    booted.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")  # a slice view, for the heatmap
    volume, segmentation = add_case(booted, result.case)
    opened = LinkedNavigation(
        booted.scene,
        on_selection=lambda selection: None,
        request_heatmap=lambda organ, finding: None,
        call_soon=waiting.append,
        on_error=lambda error: pytest.fail(str(error)),
    )
    opened.open(result, mrml_io.show_result(result, booted.scene, volume, segmentation))
    opened.waiting, opened.segmentation = waiting, segmentation
    return opened


def run(navigation):
    while navigation.waiting:
        navigation.waiting.pop(0)()
    assert not navigation.busy


def shown_segments(scene):
    """Segment -> whether the surface that is shown is painted with evidence."""
    models = slicer.util.getNodesByClass("vtkMRMLModelNode", scene)
    ours = [m for m in models if m.GetAttribute("CTGroundedVLM.Segment") and m.GetDisplayNode().GetVisibility()]
    return {m.GetAttribute("CTGroundedVLM.Segment"): bool(m.GetDisplayNode().GetScalarVisibility()) for m in ours}


def choose_finding(navigation):
    navigation.choose_finding("liver", "hepatic steatosis")


def choose_segment(navigation):
    navigation.choose_segments([navigation.segmentation.GetSegmentation().GetNthSegmentID(0)])


@pytest.mark.parametrize(("choose", "painted"), [(choose_finding, True), (choose_segment, False)])
def test_surfaces_switched_off_and_on_again_are_those_of_the_choice(booted, navigation, choose, painted):
    choose(navigation)
    run(navigation)
    before = shown_segments(booted.scene)
    assert set(before.values()) == {painted}
    navigation.set_surfaces_visible(False)
    run(navigation)
    assert shown_segments(booted.scene) == {}
    navigation.set_surfaces_visible(True)
    run(navigation)
    assert shown_segments(booted.scene) == before


@pytest.mark.parametrize("done", range(1, 9))
def test_surfaces_switched_off_while_they_are_made_stay_off(booted, navigation, done):
    choose_finding(navigation)
    for _ in range(done):
        if navigation.waiting:
            navigation.waiting.pop(0)()
    navigation.set_surfaces_visible(False)
    run(navigation)
    assert shown_segments(booted.scene) == {}
    assert display.shown_heatmap(booted.scene) is not None


def test_without_a_choice_the_switch_shows_nothing(booted, navigation):
    choose_segment(navigation)
    run(navigation)
    navigation.clear()
    navigation.set_surfaces_visible(False)
    navigation.set_surfaces_visible(True)
    run(navigation)
    assert shown_segments(booted.scene) == {}

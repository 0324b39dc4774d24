"""The heatmap over the CT in Slicer's own slice views: where it is, how strong, its legend, and what is restored."""

import json

import numpy as np
import pytest
import slicer

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.mrml_io import display
from offscreen_views import SliceView, missing_egl

pytestmark = pytest.mark.skipif(missing_egl() is not None, reason=str(missing_egl()))

SIZE = (400, 300)
LEGEND = 250  # the legend lies right of this column
HEART = tuple(slice(low, high) for low, high in zip(*CHEST["heart"], strict=True))


@pytest.fixture
def case():
    return a_case(CHEST)


@pytest.fixture
def ct(booted, case):
    return slicer_scene.add_volume(booted.scene, case.ct.array_kji, case.ct.ijk_to_ras, "CT")


@pytest.fixture
def heatmap(booted, case):
    """Evidence +1 in the heart's half that is nearer to the first column, -1 in the other."""
    start = [s.start for s in HEART]
    values = np.ones([s.stop - s.start for s in HEART], np.float32)
    values[:, :, values.shape[2] // 2 :] = -1
    return a_heatmap(booted, case, values, start)


def a_heatmap(booted, case, values_kji, start_kji, name="Heart"):
    affine = case.ct.ijk_to_ras.copy()
    affine[:3, 3] = (affine @ [*start_kji[::-1], 1.0])[:3]
    return slicer_scene.add_volume(booted.scene, values_kji, affine, name)


@pytest.fixture
def a_view(booted, ct):
    """Make slice views by name that show the CT; they are closed with the test."""
    opened = []

    def make(name="Red"):
        view = SliceView(booted, name, SIZE)
        opened.append(view)
        view.show(ct)
        return view

    yield make
    for view in opened:
        view.close()


def ijk_of_pixels(view, case):
    """(H, W, 3): the CT voxel coordinates (i, j, k) below each pixel."""
    to_ijk = np.linalg.inv(case.ct.ijk_to_ras)
    return view.ras() @ to_ijk[:3, :3].T + to_ijk[:3, 3]


def inside(ijk, box_kji, margin):
    """Pixels whose voxel lies in the box, grown by ``margin`` voxels beyond its voxels' centres."""
    low = np.array([s.start for s in box_kji[::-1]]) - margin
    high = np.array([s.stop - 1 for s in box_kji[::-1]]) + margin
    return ((ijk >= low) & (ijk <= high)).all(axis=-1)


def centre_ras(case, box_kji, shift_ijk=(0, 0, 0)):
    ijk = np.array([(s.start + s.stop - 1) / 2 for s in box_kji[::-1]]) + shift_ijk
    return (case.ct.ijk_to_ras @ [*ijk, 1.0])[:3]


POSITIVE = (HEART[0], HEART[1], slice(HEART[2].start, (HEART[2].start + HEART[2].stop) // 2))
NEGATIVE = (HEART[0], HEART[1], slice((HEART[2].start + HEART[2].stop) // 2, HEART[2].stop))


@pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
@pytest.mark.parametrize(("evidence", "box"), [("for", POSITIVE), ("against", NEGATIVE)])
def test_the_overlay_is_where_the_evidence_is_and_nowhere_else(booted, case, heatmap, a_view, name, evidence, box):
    view = a_view(name)
    display.jump_to(booted.scene, centre_ras(case, box))
    plain = view.picture().astype(int)
    display.show_heatmap(booted.scene, heatmap, evidence=evidence)
    changed = np.abs(view.picture() - plain).max(axis=-1)[:, :LEGEND] > 0
    ijk = ijk_of_pixels(view, case)[:, :LEGEND]
    assert inside(ijk, box, -1).sum() > 500
    assert changed[inside(ijk, box, -1)].all()
    assert not changed[~inside(ijk, box, 1)].any()


def test_evidence_of_both_signs_is_warm_for_and_cold_against(booted, case, heatmap, a_view):
    view = a_view()
    display.jump_to(booted.scene, centre_ras(case, HEART))
    display.show_heatmap(booted.scene, heatmap, evidence="both", opacity=1.0)
    pixels, ijk = view.picture().astype(int), ijk_of_pixels(view, case)
    warm, cold = (pixels[inside(ijk, box, -1)] for box in (POSITIVE, NEGATIVE))
    assert (warm[:, 0] - warm[:, 2] > 100).all()
    assert (cold[:, 2] - cold[:, 0] > 50).all()


def test_no_evidence_is_transparent_also_where_both_signs_are_shown(booted, case, a_view):
    view = a_view()
    values = np.zeros((40, 120, 140), np.float32)
    values[:, :, 100:] = -2
    values[:, :, :40] = 1
    display.jump_to(booted.scene, centre_ras(case, HEART))
    plain, ijk = view.picture(), ijk_of_pixels(view, case)
    display.show_heatmap(booted.scene, a_heatmap(booted, case, values, (0, 0, 0)), evidence="both", opacity=1.0)
    pixels, column = view.picture()[:, :LEGEND], ijk[:, :LEGEND, 0]
    np.testing.assert_array_equal(
        pixels[(column > 41) & (column < 98)], plain[:, :LEGEND][(column > 41) & (column < 98)]
    )
    assert (pixels[(column > 1) & (column < 39)][:, 0] > 200).all()


def test_at_opacity_zero_the_view_is_the_plain_ct(booted, heatmap, a_view):
    view = a_view()
    plain = view.picture()
    display.show_heatmap(booted.scene, heatmap, opacity=0.0)
    np.testing.assert_array_equal(view.picture(), plain)
    display.set_heatmap_opacity(booted.scene, 0.5)
    half = view.picture()
    assert (half != plain).any()
    display.set_heatmap_opacity(booted.scene, 0.0)
    np.testing.assert_array_equal(view.picture(), plain)


def test_opacity_blends_between_ct_and_colour(booted, case, heatmap, a_view):
    view = a_view()
    display.jump_to(booted.scene, centre_ras(case, POSITIVE))
    where = inside(ijk_of_pixels(view, case), POSITIVE, -2)
    pictures = [view.picture()[where].astype(float)]
    display.show_heatmap(booted.scene, heatmap, opacity=1.0)
    for opacity in (0.5, 1.0):
        display.set_heatmap_opacity(booted.scene, opacity)
        pictures.append(view.picture()[where].astype(float))
    plain, half, full = pictures
    np.testing.assert_allclose(half, (plain + full) / 2, atol=2)


def test_the_legend_shows_the_colours_and_goes_with_the_heatmap(booted, heatmap, a_view):
    view = a_view()
    plain = view.picture()[:, LEGEND:].astype(int)
    display.show_heatmap(booted.scene, heatmap, title="Evidence for\ncardiomegaly")
    shown = view.picture()[:, LEGEND:].astype(int)
    changed = np.abs(shown - plain).max(axis=-1) > 60
    assert changed.any(axis=1).sum() > 60  # a bar of some height
    bar = shown[changed & (shown[..., 0] - shown[..., 2] > 120)]
    assert np.ptp(bar[:, 1]) > 100  # from red to yellow
    display.hide_heatmap(booted.scene)
    np.testing.assert_array_equal(view.picture()[:, LEGEND:], plain)


def test_the_legend_explains_the_range_of_the_evidence(booted, heatmap, a_view):
    a_view()
    display.show_heatmap(booted.scene, heatmap, title="Evidence")
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(heatmap)
    shown = heatmap.GetScalarVolumeDisplayNode()
    assert legend.GetTitleText() == "Evidence"
    assert (shown.GetWindowLevelMin(), shown.GetWindowLevelMax()) == (0.0, 1.0)


def test_a_table_of_slicer_can_be_chosen_and_hides_what_is_no_evidence(booted, case, heatmap, a_view):
    view = a_view()
    display.jump_to(booted.scene, centre_ras(case, HEART))
    plain = view.picture()
    display.show_heatmap(booted.scene, heatmap, colours="Iron", opacity=1.0)
    pixels, ijk = view.picture(), ijk_of_pixels(view, case)
    np.testing.assert_array_equal(pixels[inside(ijk, NEGATIVE, -1)], plain[inside(ijk, NEGATIVE, -1)])
    assert (pixels[inside(ijk, POSITIVE, -1)] != plain[inside(ijk, POSITIVE, -1)]).any(axis=-1).all()
    with pytest.raises(InputError, match=r"No colour table is called 'Lava'; choose one of .*Iron"):
        display.show_heatmap(booted.scene, heatmap, colours="Lava")


def test_hiding_restores_layers_opacity_and_picture_exactly(booted, case, heatmap, a_view):
    view = a_view()
    pet = a_heatmap(booted, case, np.full((10, 30, 30), 7, np.float32), (5, 10, 10), "PET")
    view.composite.SetForegroundVolumeID(pet.GetID())
    view.composite.SetForegroundOpacity(0.3125)
    view.composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Add)
    before, layers = view.picture(), layers_of(view)
    other = a_heatmap(booted, case, np.ones((4, 9, 9), np.float32), (9, 9, 9), "Other")
    for shown in (heatmap, other, heatmap):
        display.show_heatmap(booted.scene, shown, opacity=0.9, volume_node=pet)
        assert display.shown_heatmap(booted.scene) is shown
    assert (view.picture() != before).any()
    display.hide_heatmap(booted.scene)
    assert layers_of(view) == layers
    assert display.shown_heatmap(booted.scene) is None
    np.testing.assert_array_equal(view.picture(), before)
    display.restore_display(booted.scene)
    assert not booted.scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode")


def layers_of(view):
    node = view.composite
    attributes, roles = [], []
    node.GetNodeReferenceRoles(roles)
    return {
        "background": node.GetBackgroundVolumeID(),
        "foreground": node.GetForegroundVolumeID(),
        "opacity": node.GetForegroundOpacity(),
        "mode": node.GetCompositing(),
        "attributes": tuple(node.GetAttributeNames() or attributes),
        "references": tuple(role for role in roles if node.GetNodeReferenceID(role)),
    }


def test_the_ct_of_the_heatmap_can_be_put_below_it_and_the_former_one_comes_back(booted, ct, heatmap, a_view):
    view = a_view()
    other = slicer_scene.add_volume(booted.scene, np.zeros((3, 3, 3), np.int16), np.eye(4), "other CT")
    view.composite.SetBackgroundVolumeID(other.GetID())
    display.show_heatmap(booted.scene, heatmap, volume_node=ct)
    assert view.composite.GetBackgroundVolumeID() == ct.GetID()
    display.hide_heatmap(booted.scene)
    assert view.composite.GetBackgroundVolumeID() == other.GetID()


def test_a_layer_chosen_by_hand_meanwhile_is_kept(booted, ct, heatmap, a_view):
    view = a_view()
    display.show_heatmap(booted.scene, heatmap)
    view.composite.SetForegroundVolumeID(ct.GetID())
    view.composite.SetForegroundOpacity(0.25)
    display.set_heatmap_opacity(booted.scene, 0.9)
    display.hide_heatmap(booted.scene)
    assert (view.composite.GetForegroundVolumeID(), view.composite.GetForegroundOpacity()) == (ct.GetID(), 0.25)


def test_a_heatmap_or_a_former_layer_that_was_deleted_does_not_hinder_hiding(booted, case, heatmap, a_view):
    view = a_view()
    plain = view.picture()
    pet = a_heatmap(booted, case, np.full((10, 30, 30), 7, np.float32), (5, 10, 10), "PET")
    view.composite.SetForegroundVolumeID(pet.GetID())
    display.show_heatmap(booted.scene, heatmap)
    booted.scene.RemoveNode(pet)
    booted.scene.RemoveNode(heatmap)
    assert display.shown_heatmap(booted.scene) is None
    display.set_heatmap_opacity(booted.scene, 0.2)
    display.hide_heatmap(booted.scene)
    assert view.composite.GetForegroundVolumeID() is None
    np.testing.assert_array_equal(view.picture(), plain)


def test_a_saved_scene_shows_the_heatmap_and_can_restore_its_views(booted, heatmap, a_view, tmp_path):
    view = a_view()
    view.composite.SetForegroundOpacity(0.125)
    plain = view.picture()
    display.show_heatmap(booted.scene, heatmap, opacity=0.8)
    shown = view.picture()
    path = booted.save_mrb(tmp_path / "scene.mrb")
    booted.load_mrb(path)
    loaded = display.shown_heatmap(booted.scene)
    assert loaded.GetName() == "Heart"
    np.testing.assert_array_equal(view.picture()[:, :LEGEND], shown[:, :LEGEND])
    display.hide_heatmap(booted.scene)
    assert view.composite.GetForegroundOpacity() == 0.125
    np.testing.assert_array_equal(view.picture(), plain)


def test_a_closed_scene_leaves_nothing_to_restore(booted, heatmap, a_view):
    a_view()
    display.show_heatmap(booted.scene, heatmap)
    booted.scene.Clear(False)
    display.set_heatmap_opacity(booted.scene, 0.5)
    display.restore_display(booted.scene)
    assert display.shown_heatmap(booted.scene) is None


@pytest.mark.parametrize(
    ("values", "evidence", "limit"),
    [
        ([0] * 10 + [1.0] * 999 + [1000.0], "for", 1.0),  # one voxel out of a thousand does not set the scale
        ([0, -2.0, -2.0, -2.0], "against", 2.0),
        ([0, -4.0, -4.0, 0.001], "for", 0.4),  # weak evidence is not blown up
        ([0, -1.0, 3.0, np.nan, np.inf], "both", 3.0),
        ([0, 0, 0], "for", 1.0),
    ],
)
def test_the_scale_ends_at_a_robust_strength_of_the_evidence(booted, values, evidence, limit):
    node = slicer_scene.add_volume(booted.scene, np.array(values, np.float32).reshape(1, 1, -1), np.eye(4))
    assert display.evidence_limit(node, evidence) == pytest.approx(limit, rel=0.01)


def test_a_heatmap_without_evidence_leaves_the_ct_plain(booted, case, a_view):
    view = a_view()
    plain = view.picture()
    display.show_heatmap(booted.scene, a_heatmap(booted, case, np.zeros((5, 5, 5), np.float32), (20, 50, 60)))
    np.testing.assert_array_equal(view.picture()[:, :LEGEND], plain[:, :LEGEND])


def test_bad_arguments_are_refused_and_change_nothing(booted, heatmap, a_view):
    view = a_view()
    before, nodes = layers_of(view), booted.scene.GetNumberOfNodes()
    empty = slicer.vtkMRMLScalarVolumeNode()
    for arguments, message in (
        ({"heatmap_node": heatmap, "opacity": 1.5}, "opacity 1.5 is out of range; expected a number from 0 to 1"),
        (
            {"heatmap_node": heatmap, "evidence": "maybe"},
            "Evidence 'maybe' is not known; expected one of for, against, both",
        ),
        ({"heatmap_node": empty}, "holds no image"),
        ({"heatmap_node": None}, "holds no image"),
    ):
        with pytest.raises(InputError, match=message):
            display.show_heatmap(booted.scene, **arguments)
    assert (layers_of(view), booted.scene.GetNumberOfNodes()) == (before, nodes)


@pytest.mark.parametrize("name", ["Red", "Green", "Yellow"])
def test_a_jump_shows_the_slice_at_the_place_and_moves_in_the_plane_only_if_needed(booted, case, a_view, name):
    view = a_view(name)
    place = centre_ras(case, HEART, (0, 0, 3))
    display.jump_to(booted.scene, place)
    distance = np.linalg.norm(view.ras() - place, axis=-1)
    assert distance.min() < 1.0  # the place is on the plane and in view
    before = view.node.GetFieldOfView(), view.node.GetXYZOrigin()
    display.jump_to(booted.scene, place)
    assert (view.node.GetFieldOfView(), view.node.GetXYZOrigin()) == before
    view.node.SetFieldOfView(20.0, 15.0, 1.0)
    away = place + np.array([35.0, 30.0, 25.0])
    display.jump_to(booted.scene, away)
    row, column = np.unravel_index(np.linalg.norm(view.ras() - away, axis=-1).argmin(), SIZE[::-1])
    assert abs(row - SIZE[1] / 2) <= 1
    assert abs(column - SIZE[0] / 2) <= 1


def test_a_jump_puts_the_crosshair_there(booted):
    crosshair = booted.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    display.jump_to(booted.scene, (1.5, -2.0, 30.25))
    assert crosshair.GetCrosshairRAS() == (1.5, -2.0, 30.25)


@pytest.mark.parametrize("place", [(1.0, 2.0), (1.0, 2.0, float("nan"))])
def test_a_jump_to_no_place_is_refused(booted, place):
    with pytest.raises(InputError, match="expected three finite coordinates in mm"):
        display.jump_to(booted.scene, place)


def test_damaged_memory_of_a_display_counts_as_none(booted, heatmap, a_view):
    view = a_view()
    display.show_heatmap(booted.scene, heatmap)
    for text in ("{", json.dumps([1])):
        view.composite.SetAttribute("CTGroundedVLM.Former.SliceLayers", text)
        display.hide_heatmap(booted.scene)

"""Pictures: orientation, windows, geometry and what is written on them."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cases import LPS, a_case
from CTGroundedVLMLib.export.canvas import PANEL_PX, Sheet, panel_corners, shorten
from CTGroundedVLMLib.export.pictures import (
    SEGMENT_COLOURS,
    Scene,
    draw_heatmap,
    draw_planned,
    draw_segments,
    encode,
    evidence_colours,
    window_of,
)
from CTGroundedVLMLib.export.plan import make_plan
from CTGroundedVLMLib.export.planes import AXIAL, CORONAL, PLANES, SAGITTAL, DisplayGrid, Field, cut
from CTGroundedVLMLib.types import CTCase, Segmentation, SentenceLink, Volume
from CTGroundedVLMLib.volume_io import load_case
from export_cases import BOXES, SHAPE, a_heatmap, a_result

AXES = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
CODES = [
    "".join(c) for axes in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*axes)
]  # all 48, e.g. LPS: i to the left, j to the back, k to the head


def affine(code: str, spacing) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([AXES[letter] for letter in code], float).T * spacing
    return matrix


def volume(code: str, spacing=(2.0, 3.0, 4.0), extent_mm=(144, 144, 144)) -> np.ndarray:
    """Zeros (kji) on a grid that covers ``extent_mm``."""
    return np.zeros([round(e / s) for e, s in zip(extent_mm, spacing, strict=True)][::-1], np.int16)


def toward(code: str, shape_kji, **places: float) -> tuple[int, int, int]:
    """The voxel (k, j, i) at a fraction of the way towards R, A and S."""
    index = []
    for letter, n in zip(code, shape_kji[::-1], strict=True):
        positive = letter if letter in places else {"L": "R", "P": "A", "I": "S"}[letter]
        fraction = places[positive] if letter == positive else 1 - places[positive]
        index.append(round(fraction * (n - 1)))
    return tuple(index[::-1])


def scene(array: np.ndarray, matrix: np.ndarray, trained=True, labels=None, names=None, colours=None) -> Scene:
    labels = np.zeros(array.shape, np.uint8) if labels is None else labels
    return Scene(
        CTCase(Volume(array, matrix, "case"), Segmentation(labels, names or {})), "model", trained, colours or {}
    )


def bright_centre(panel: np.ndarray) -> tuple[float, float]:
    """Where white pixels lie in a panel: fractions down and to the right."""
    points = np.argwhere(panel.min(axis=-1) > 240)
    return tuple(points.mean(0) / panel.shape[:2])


def panels(pixels: np.ndarray) -> dict[str, np.ndarray]:
    return {
        plane.name: pixels[top : top + PANEL_PX, left : left + PANEL_PX]
        for plane, (left, top) in zip(PLANES, panel_corners(), strict=True)
    }


# ---------------------------------------------------------------- orientation


@pytest.mark.parametrize("code", CODES)
def test_a_marker_lies_right_anterior_superior_for_every_orientation(code):
    spacing = (2.0, 3.0, 4.0)
    array = volume(code, spacing)
    grid = DisplayGrid.of(affine(code, spacing), array.shape)
    marker = toward(code, array.shape, R=1.0, A=1.0, S=1.0)
    array[marker] = 1000
    shown = grid.view(array)
    assert shown[0, 0, 0] == 1000  # top left of the axial, coronal and (superior, anterior) sagittal slice
    assert grid.from_kji(marker) == (0, 0, 0)
    assert grid.to_kji((0, 0, 0)) == marker
    assert np.shares_memory(shown, array)
    assert grid.tilt_degrees == pytest.approx(0)
    by_letter = dict(zip(code, spacing, strict=True))
    expected = [next(s for c, s in by_letter.items() if c in pair) for pair in ("SI", "AP", "RL")]
    assert grid.spacing == pytest.approx(expected)


@pytest.mark.parametrize("code", ["LPS", "RAS", "RPI", "PSR", "ASL", "SRA"])
def test_the_drawn_marker_is_in_the_right_corner_of_every_panel(code):
    array = volume(code)
    shape = array.shape
    centre = np.array(toward(code, shape, R=0.8, A=0.7, S=0.9))
    array[tuple(slice(c - 3, c + 4) for c in centre)] = 3000
    labels = np.zeros(shape, np.uint8)
    labels[tuple(centre)] = 1
    pixels = draw_segments(
        scene(array, affine(code, (2.0, 3.0, 4.0)), labels=labels, names={1: "liver"}), (), tuple(centre[::-1])
    )
    found = {name: bright_centre(panel) for name, panel in panels(pixels).items()}
    assert found["Axial"] == pytest.approx((0.3, 0.2), abs=0.06)
    assert found["Coronal"] == pytest.approx((0.1, 0.2), abs=0.06)
    assert found["Sagittal"] == pytest.approx((0.1, 0.3), abs=0.06)


def test_an_oblique_grid_is_shown_by_its_nearest_axes_and_names_its_tilt():
    angle = np.radians(20)
    matrix = np.eye(4)
    matrix[:3, :3] = LPS @ np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    grid = DisplayGrid.of(matrix, (10, 20, 30))
    assert grid.order_kji == (0, 1, 2)
    assert grid.flipped == (True, False, False)
    assert grid.tilt_degrees == pytest.approx(20)


@pytest.mark.parametrize("name", ["abdomen", "abdomen_dicom"])
def test_a_real_patient_is_shown_as_a_radiologist_expects(test_data, name):
    folder = test_data / "ct" / name
    ct = folder / ("series" if name == "abdomen_dicom" else "ct.nii.gz")
    case = load_case(ct, folder / "segmentation.nii.gz", None)
    here = Scene(case, "m", True)

    def centre(segment: str) -> np.ndarray:
        return np.argwhere(np.isin(here.labels, here.values([segment]))).mean(0)

    assert centre("liver")[2] < centre("aorta")[2] < centre("spleen")[2]  # the liver at the viewer's left
    assert centre("stomach")[1] < centre("vertebrae_T12")[1] < centre("autochthon_left")[1]  # the back is below
    assert centre("vertebrae_T11")[0] < centre("vertebrae_T12")[0]  # the head is up
    axial = panels(draw_segments(Scene(case, "m", True, {"spleen": 0}), ("spleen",), None))["Axial"].astype(int)
    rgb = [int(SEGMENT_COLOURS[0][k : k + 2], 16) for k in (1, 3, 5)]
    outlined = np.argwhere(np.abs(axial - rgb).max(axis=-1) < 24)
    assert len(outlined) > 200


def test_an_oblique_scan_and_many_segments_are_drawn():
    names = {n + 1: f"rib_left_{n + 1}" for n in range(25)}
    labels = np.zeros((20, 60, 100), np.uint8)
    for n in range(25):
        labels[5:15, 20:40, 4 * n : 4 * n + 3] = n + 1
    matrix = np.diag([-2.0, -2.0, 4.0, 1.0])
    matrix[:3, :3] = np.array([[0.94, -0.342, 0], [0.342, 0.94, 0], [0, 0, 1]]) @ matrix[:3, :3]
    colours = {name: n for n, name in enumerate(names.values())}
    picture = scene(np.zeros(labels.shape, np.int16), matrix, labels=labels, names=names, colours=colours)
    assert picture.grid.tilt_degrees == pytest.approx(20, abs=0.1)
    axial = panels(draw_segments(picture, tuple(names.values()), None))["Axial"].astype(int)
    for colour in SEGMENT_COLOURS:
        rgb = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(axial - rgb).max(axis=-1) < 24).sum() > 20


def test_the_letters_are_those_of_radiological_convention():
    assert AXIAL.letters == ("A", "P", "R", "L")
    assert CORONAL.letters == ("S", "I", "R", "L")
    assert SAGITTAL.letters == ("S", "I", "A", "P")


# ---------------------------------------------------------------- geometry


@given(
    shape=st.tuples(*[st.integers(1, 60)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 8)] * 3),
    data=st.data(),
)
def test_a_field_holds_the_box_and_a_cut_holds_the_voxel(shape, spacing, data):
    grid = DisplayGrid.of(np.diag([*spacing, 1.0]), shape)
    corners = [tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape) for _ in range(2)]
    low, high = tuple(np.min(corners, 0)), tuple(np.max(corners, 0))
    field = Field.around(grid, low, high, 10.0, 40.0)
    for plane in PLANES:
        piece = cut(grid, plane, low, field)
        left, right, bottom, top = piece.frame
        assert right - left == pytest.approx(field.size)
        assert bottom - top == pytest.approx(field.size)
        for axis, (start, stop) in ((plane.rows, (top, bottom)), (plane.columns, (left, right))):
            kept = piece.index[axis]
            assert 0 <= kept.start <= low[axis] < kept.stop <= grid.shape[axis]
            assert start - 1e-6 <= (low[axis] - 0.5) * grid.spacing[axis]
            assert (high[axis] + 0.5) * grid.spacing[axis] <= stop + 1e-6


def test_millimetres_are_equal_in_both_directions_whatever_the_voxels():
    array = volume("LPS", (0.75, 3.0, 6.0))
    array[8:16, 16:32, 64:128] = 3000  # 48 mm cube
    pixels = draw_segments(scene(array, affine("LPS", (0.75, 3.0, 6.0))), (), (96, 24, 12))
    for panel in panels(pixels).values():
        rows, columns = np.nonzero(panel.min(axis=-1) > 200)
        inner = [np.percentile(x, 98) - np.percentile(x, 2) for x in (rows, columns)]
        assert inner == pytest.approx([48 / 144 * PANEL_PX] * 2, rel=0.12)


def test_a_scan_of_few_slices_makes_a_low_picture():
    low = draw_segments(scene(np.zeros((10, 200, 200), np.int16), affine("LPS", (1.0, 1.0, 1.0))), (), None)
    high = draw_segments(scene(np.zeros((200, 200, 200), np.int16), affine("LPS", (1.0, 1.0, 1.0))), (), None)
    assert low.shape[1] == high.shape[1] == 1000
    assert low.shape[0] < high.shape[0] - 300


# ---------------------------------------------------------------- content


@pytest.mark.parametrize(
    ("segments", "window"),
    [
        (["lung_upper_lobe_left", "lung_lower_lobe_left"], "lung"),
        (["rib_left_5"], "bone"),
        (["vertebrae_T12", "sacrum"], "bone"),
        (["brain"], "brain"),
        (["liver", "spleen"], "soft tissue"),
        (["liver", "lung_lower_lobe_left"], "soft tissue"),
        ([], "soft tissue"),
        (["lung_lower_lobe_left", "lung_lower_lobe_right", "heart"], "lung"),
    ],
)
def test_the_window_suits_the_segments(segments, window):
    assert window_of(segments) == window


def coloured(panel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks of clearly orange and clearly blue pixels, without the panel's rim, where yellow letters and ticks are."""
    inner = np.zeros(panel.shape[:2], bool)
    inner[40:-40, 40:-40] = True
    red, _, blue = (panel[..., c].astype(int) for c in range(3))
    return inner & (red > blue + 60), inner & (blue > red + 60)


def test_evidence_for_is_orange_and_evidence_against_is_blue_where_it_lies():
    case = a_case({"liver": ((5, 10, 10), (25, 50, 50))}, (30, 60, 60), (2.0, 2.0, 4.0))
    heatmap = a_heatmap("liver", "steatosis", ((5, 10, 10), (25, 50, 50)), 1.0)
    heatmap.values_kji[:] = 0
    heatmap.values_kji[:, :, 20:] = 0.5  # larger i is the patient's left, at the viewer's right
    heatmap.values_kji[:, :, :20] = -0.5
    heatmap = dataclasses.replace(heatmap, shape_kji=(30, 60, 60))
    axial = panels(draw_heatmap(Scene(case, "m", True), heatmap, ["liver"], ""))["Axial"]
    orange, blue = coloured(axial)
    assert orange.sum() > 5000
    assert blue.sum() > 5000
    assert np.argwhere(orange)[:, 1].mean() > PANEL_PX / 2 + 40
    assert np.argwhere(blue)[:, 1].mean() < PANEL_PX / 2 - 40


def test_the_colour_scale_is_signed_and_transparent_at_zero():
    colours = evidence_colours()
    against, nothing, support = (np.array(colours(x)) for x in (0.0, 0.5, 1.0))
    assert nothing[3] == pytest.approx(0, abs=0.01)
    assert against[2] > against[0] + 0.4
    assert support[0] > support[2] + 0.4


def test_a_heat_map_of_zeros_is_drawn():
    heatmap = a_heatmap("liver", "steatosis", BOXES["liver"], 0.0)
    pixels = draw_heatmap(Scene(a_result().case, "m", True), heatmap, ["liver"], "")
    orange, blue = coloured(panels(pixels)["Axial"])
    assert orange.sum() + blue.sum() == 0


def test_outlines_have_the_segments_colours():
    result = a_result()
    colours = {"spleen": 0, "liver": 4}
    pixels = draw_segments(Scene(result.case, "m", True, colours), ("liver", "spleen"), None)
    axial = panels(pixels)["Axial"].astype(int)
    for place in (0, 4):
        rgb = [int(SEGMENT_COLOURS[place][k : k + 2], 16) for k in (1, 3, 5)]
        near = np.abs(axial - rgb).max(axis=-1) < 24
        assert near.sum() > 150
    absent = [int(SEGMENT_COLOURS[1][k : k + 2], 16) for k in (1, 3, 5)]
    assert (np.abs(axial - absent).max(axis=-1) < 24).sum() == 0


def test_pictures_number_segments_in_anatomical_order(monkeypatch):
    names = ("vertebrae_T1", "vertebrae_T10", "vertebrae_T2")
    result = a_result(case=a_case(dict(zip(names, BOXES.values(), strict=False)), SHAPE))
    result = dataclasses.replace(result, links=(SentenceLink(0, names, (), (), None),), heatmaps=())
    plan, lines = make_plan(result, heatmap_files=False, pictures=True), []
    monkeypatch.setattr(Sheet, "legend_entry", lambda sheet, text, colour, style: lines.append(text))
    draw_planned(Scene.of(plan), plan, plan.pictures[0])
    assert lines == ["1  T10 vertebra", "2  T2 vertebra", "3  T1 vertebra"]
    assert plan.colours == {"vertebrae_T10": 0, "vertebrae_T2": 1, "vertebrae_T1": 2}


def test_without_a_centre_the_slice_shows_as_many_segments_as_possible():
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[:8, 5:35, 5:35] = 1  # large, low
    labels[7:12, 2:4, 2:4] = 2  # small, meets it in slice 7 only
    picture = scene(np.zeros(labels.shape, np.int16), affine("LPS", (3.0, 3.0, 3.0)), labels=labels,
                    names={1: "liver", 2: "spleen"}, colours={"liver": 0, "spleen": 1})  # fmt: skip
    axial = panels(draw_segments(picture, ("liver", "spleen"), None))["Axial"].astype(int)
    for place in (0, 1):
        rgb = [int(SEGMENT_COLOURS[place][k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(axial - rgb).max(axis=-1) < 24).sum() > 20


def red_part(pixels: np.ndarray) -> float:
    red, green, blue = (pixels[..., c].astype(int) for c in range(3))
    return float(((red > 80) & (red > green + 60) & (red > blue + 60)).mean())


def test_untrained_is_stamped_across_every_picture_and_only_then():
    for trained in (True, False):
        result = a_result(trained=trained)
        plan = make_plan(result, heatmap_files=False, pictures=True)
        stamped = [red_part(draw_planned(Scene.of(plan), plan, p)) for p in plan.pictures]
        assert len(stamped) == 5
        assert all((part > 0.03) != trained for part in stamped), stamped


@pytest.mark.parametrize("text", ["$x^2_{$", "肝臓の嚢胞", "a\nb\tc", "<b>&amp;", "x" * 500, "", "\ud800", "\0\x1b"])
def test_any_text_can_be_a_title(text, recwarn):
    heatmap = a_heatmap("liver", text, BOXES["liver"], 0.5)
    pixels = draw_heatmap(Scene(a_result().case, "m", True), heatmap, ["liver"], "probability 0.5")
    assert pixels.dtype == np.uint8
    assert pixels.shape[1:] == (1000, 3)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_long_text_is_cut_with_an_ellipsis():
    assert shorten("  a\n b  ", 10) == "a b"
    assert shorten("abcdefghij", 5) == "abcd…"


def test_segments_that_are_not_in_the_mask_still_make_a_picture():
    pixels = draw_segments(Scene(a_result().case, "m", True), ("pancreas",), None)
    assert pixels.shape[1] == 1000


def test_pictures_are_encoded_losslessly_as_png_and_small_as_webp():
    pixels = draw_segments(Scene(a_result().case, "m", True), ("liver",), None)
    png, webp = encode(pixels, "png"), encode(pixels, "webp")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
    assert Image.open(io.BytesIO(webp)).size == (pixels.shape[1], pixels.shape[0])
    assert len(webp) < len(png) / 2


def test_drawing_leaves_matplotlibs_global_state_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    Sheet("title", "", "").pixels()
    assert dict(matplotlib.rcParams) == before
    assert a_result().heatmaps[0].shape_kji == SHAPE

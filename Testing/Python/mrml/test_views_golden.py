"""One picture of Slicer's axial view, compared with a kept one: what all the parts of the display look like together.

After a wanted change, look at the new picture: ``CTGVLM_WRITE_GOLDEN=1 pytest Testing/Python/mrml/test_views_golden.py``.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import slicer_scene
from CTGroundedVLMLib.mrml_io import display
from offscreen_views import SliceView, load_picture, missing_egl, save_picture

pytestmark = pytest.mark.skipif(missing_egl() is not None, reason=str(missing_egl()))

GOLDEN = Path(__file__).resolve().parents[2] / "Data" / "views" / "axial_heatmap.png"


def test_the_sample_with_a_heatmap_looks_as_it_did(booted):
    case = slicer_scene.the_phantom_case()
    volume, segmentation = slicer_scene.add_case(booted, case)
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(400, 50)
    liver = next(value for value, name in case.segmentation.names.items() if name == "liver")
    heatmap, middle = a_simulated_heatmap(booted, case, liver)
    view = SliceView(booted, "Red", (320, 240))
    view.show(volume)
    display.jump_to(booted.scene, middle)
    display.show_heatmap(booted.scene, heatmap, title="Simulated")
    held = segmentation.GetSegmentation()
    display.highlight_segments(segmentation, [held.GetSegmentIdBySegmentName("liver")], fill=False, surfaces=False)
    picture = view.picture()
    view.close()
    if os.environ.get("CTGVLM_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        save_picture(picture, GOLDEN)
    difference = np.abs(picture.astype(int) - load_picture(GOLDEN)).max(axis=-1)
    # Drivers draw letters and lines differently; the picture as a whole must be the same.
    assert difference.mean() < 2
    assert (difference > 24).mean() < 0.01


def a_simulated_heatmap(booted, case, label):
    """A spot in the middle of an organ, as a node, and its place (RAS)."""
    organ = case.segmentation.labels_kji == label
    voxels = np.argwhere(organ)
    low, high = voxels.min(0), voxels.max(0) + 1
    middle = np.array([*voxels.mean(0).round().astype(int)])
    spacing_kji = np.array(case.ct.spacing_ijk[::-1])
    places = np.stack(np.mgrid[tuple(map(slice, low, high))], axis=-1)
    square = (((places - middle) * spacing_kji) ** 2).sum(axis=-1)
    values = (np.exp(-square / (2 * 20.0**2)) - 0.1) * organ[tuple(map(slice, low, high))]
    affine = case.ct.ijk_to_ras.copy()
    affine[:3, 3] = (affine @ [*low[::-1], 1.0])[:3]
    node = slicer_scene.add_volume(booted.scene, values.astype(np.float32), affine, "Simulated")
    return node, (case.ct.ijk_to_ras @ [*middle[::-1], 1.0])[:3]

"""Draw the pictures of Slicer's views for the README: ``python Resources/Screenshots/make_view_screenshots.py [FOLDER]``.

Slicer's own displayable managers draw them, from slicer-core and without Slicer's window. CT, segmentation and report are the
synthetic sample. Evidence (a smooth spot around a planted finding) and probabilities are simulated, as the legends say: pictures
of what the display looks like, not of what a model finds.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "Testing" / "Python" / "support"))

import numpy as np

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.mrml_io import display
from CTGroundedVLMLib.sample import Phantom, make_phantom
from offscreen_views import FourUp, missing_egl, save_picture
from slicer_scene import a_scene, add_segmentation, add_volume

SIZE = (1040, 780)
_SPOT_MM = 16.0  # half width of the simulated evidence: an image token is 48 x 16 x 32 mm
_KIND = "hepatic cyst"
_SCORES = {"liver": 0.86, "kidney_left": 0.71, "heart": 0.55, "esophagus": 0.62, "spleen": 0.12, "kidney_right": 0.08}


def simulated_evidence(phantom: Phantom, kind: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """A spot around a planted finding, slightly negative elsewhere in its segments, in their box.

    Returns: values (K, J, I), the box's ijk-to-RAS (4, 4), and the segments.
    """
    finding = next(f for f in phantom.findings if f.kind == kind)
    organ = np.isin(phantom.labels_kji, [anatomy.segment(name).label for name in finding.segments])
    voxels = np.argwhere(organ)
    low, high = voxels.min(0), voxels.max(0) + 1
    spacing_kji = np.linalg.norm(phantom.ijk_to_ras[:3, :3], axis=0)[::-1]
    places = np.stack(np.mgrid[tuple(map(slice, low, high))], axis=-1)
    square = (((places - finding.centre_kji) * spacing_kji) ** 2).sum(axis=-1)
    values = 0.04 * np.exp(-square / (2 * _SPOT_MM**2)) - 0.004
    affine = phantom.ijk_to_ras.copy()
    affine[:3, 3] = (affine @ [*low[::-1], 1.0])[:3]
    box = tuple(map(slice, low, high))
    return (values * organ[box]).astype(np.float32), affine, finding.segments


def draw(folder: Path) -> list[Path]:
    """Write the pictures and return where they are."""
    phantom = make_phantom(0)
    with a_scene() as booted:
        ct = add_volume(booted.scene, phantom.hu_kji, phantom.ijk_to_ras, "Sample CT")
        ct.GetDisplayNode().SetAutoWindowLevel(False)
        ct.GetDisplayNode().SetWindowLevel(400, 50)
        names = {c.label: c.name for c in anatomy.segment_classes() if (phantom.labels_kji == c.label).any()}
        segmentation = add_segmentation(booted, ct, phantom.labels_kji, names)
        views = FourUp(booted, SIZE)
        views.show(ct)
        paths = [
            draw_evidence(booted.scene, views, phantom, segmentation, folder / "slicer_heatmap.png"),
            draw_scores(booted.scene, views, segmentation, folder / "slicer_scores.png"),
        ]
        views.close()
    return paths


def draw_evidence(scene, views: FourUp, phantom: Phantom, segmentation, path: Path) -> Path:
    """A finding was clicked: its heatmap in the slices and on the organ's surface."""
    values, affine, segments = simulated_evidence(phantom, _KIND)
    heatmap = add_volume(scene, values, affine, "Heatmap")
    ids = [ids_by_name(segmentation)[name] for name in segments]
    centre = next(f for f in phantom.findings if f.kind == _KIND).centre_kji
    display.jump_to(scene, (phantom.ijk_to_ras @ [*centre[::-1], 1.0])[:3])
    display.show_heatmap(scene, heatmap, title=f"Evidence for\n{_KIND}\n(simulated)")
    display.highlight_segments(segmentation, ids, fill=False, surfaces=False)
    display.paint_evidence(segmentation, ids, heatmap, title=f"Evidence for\n{_KIND}\n(simulated)")
    return save(views, path)


def draw_scores(scene, views: FourUp, segmentation, path: Path) -> Path:
    """Segments coloured by the probability of their findings."""
    display.restore_display(scene)
    ids = ids_by_name(segmentation)
    scores = {ids[name]: score for name, score in _SCORES.items()}
    display.highlight_segments(segmentation, scores, surfaces=False)
    display.colour_segments_by_score(segmentation, scores, title="Probability\n(simulated)")
    return save(views, path)


def ids_by_name(segmentation) -> dict[str, str]:
    """Segment name -> id."""
    held = segmentation.GetSegmentation()
    return {held.GetNthSegment(n).GetName(): held.GetNthSegmentID(n) for n in range(held.GetNumberOfSegments())}


def save(views: FourUp, path: Path) -> Path:
    """Look at the surfaces from the front right, and write the four views."""
    views.three_d.picture()  # the first rendering makes the camera
    views.three_d.look(azimuth=-25, elevation=12, zoom=0.95)
    save_picture(views.picture(), path)
    return path


if __name__ == "__main__":
    if missing_egl():
        sys.exit(missing_egl())
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for written in draw(target):
        print(f"{written} ({written.stat().st_size // 1024} KB)")

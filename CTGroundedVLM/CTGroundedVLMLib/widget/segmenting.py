"""The segmentation of a CT that has none: by the TotalSegmentator extension, or left to the worker."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import slicer

from ..dependencies import run_total_segmentator, total_segmentator_logic
from ..errors import InputError
from ..mrml_io import MrmlCaseSource
from ..mrml_io.scene_edit import remove_node


def has_extension() -> bool:
    """Whether the TotalSegmentator extension is loaded."""
    return hasattr(slicer.modules, "totalsegmentator")


def can_segment() -> bool:
    """Whether TotalSegmentator is there: the extension, or its Python package (which the worker runs)."""
    return has_extension() or importlib.util.find_spec("totalsegmentator") is not None


def segment_by_extension(
    volume: slicer.vtkMRMLScalarVolumeNode, log: Callable[[str], None]
) -> slicer.vtkMRMLSegmentationNode | None:
    """A new segmentation node of the TotalSegmentator extension, which brings its packages and weights.

    It blocks, cannot be cancelled, and imports torch into Slicer's process: that is how the extension works.

    None where the extension is not there but its Python package is: the worker segments then, and can be cancelled.

    Raises:
        VolumeError: the CT cannot be analysed.
        DependencyError: neither is there; the message says how to get the extension.
    """
    if not has_extension() and can_segment():
        return None
    MrmlCaseSource(volume).check()
    total_segmentator_logic(slicer)
    scene = volume.GetScene()

    def shown(text: str) -> None:
        log(text)
        slicer.app.processEvents()  # it blocks, and the log is to be seen

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
    try:
        run_total_segmentator(slicer, volume, node, log=shown)
    except BaseException:
        if node.GetScene() is scene:
            remove_node(scene, node)
        raise
    if volume.GetScene() is not scene or node.GetScene() is not scene:
        raise InputError("The CT or its segmentation was deleted, or the scene closed, meanwhile. Load the CT again.")
    return node

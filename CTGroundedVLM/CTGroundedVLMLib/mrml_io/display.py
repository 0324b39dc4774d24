"""What the panel shows in Slicer's views: the heatmap over the CT, segments that a sentence names, a place.

Everything goes through MRML nodes, so that it works in Slicer, in a script and offscreen. Nothing is kept in Python: the
former state of a display lies on its node (``display_former``), so that it can be restored in a scene loaded from a file.

The functions for segments and surfaces are offered here too: the panel needs this module only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import slicer
import slicer.util
import vtk

from ..errors import InputError
from .display_colours import Evidence, colour_node_called, evidence_colours, evidence_range
from .display_former import forget, remember, remembered
from .display_heatmap import evidence_limit, heatmap_values
from .display_legend import add_legend, hide_legends, legends, remove_orphans, remove_our_legends
from .display_segments import clear_highlight, colour_segments_by_score, highlight_segments, restore_segment_colours
from .display_surfaces import (
    evidence_steps,
    hide_surfaces,
    paint_evidence,
    remove_surfaces,
    show_surfaces,
    surface_steps,
)

__all__ = [
    "Evidence",
    "clear_highlight",
    "colour_segments_by_score",
    "evidence_limit",
    "evidence_steps",
    "hide_heatmap",
    "hide_surfaces",
    "highlight_segments",
    "jump_to",
    "paint_evidence",
    "remove_surfaces",
    "restore_display",
    "restore_segment_colours",
    "set_heatmap_opacity",
    "show_heatmap",
    "show_surfaces",
    "shown_heatmap",
    "surface_steps",
]

_KEY = "SliceLayers"
_FORMER_FOREGROUND, _FORMER_BACKGROUND = "CTGroundedVLM.FormerForeground", "CTGroundedVLM.FormerBackground"
_SHOWN, _SHOWN_CT = "CTGroundedVLM.ShownHeatmap", "CTGroundedVLM.ShownCT"


def show_heatmap(
    scene: slicer.vtkMRMLScene,
    heatmap_node: slicer.vtkMRMLScalarVolumeNode,
    *,
    opacity: float = 0.7,
    evidence: Evidence = "for",
    colours: str | None = None,
    title: str = "",
    volume_node: slicer.vtkMRMLScalarVolumeNode | None = None,
) -> None:
    """Lay the heatmap over the CT in all slice views, with a colour legend; ``hide_heatmap`` restores the views.

    The scale ends at the 99.5th percentile of the evidence (see ``evidence_limit``); what is not evidence of the wanted
    sign is transparent. Called again, it replaces the heatmap that is shown.

    Args:
        opacity: 0..1; at 0 the CT looks as it does without the heatmap.
        evidence: "for" the finding (warm), "against" it (cold), or "both".
        colours: a colour table of Slicer by name, such as "Inferno", in place of this extension's.
        title: of the legend; the node's name if empty.
        volume_node: the CT, put below the heatmap where a view shows something else; None leaves it to the views.

    Raises:
        InputError: the heatmap holds no image, is not in the scene, or an argument is out of its range.
    """
    _check_opacity(opacity)
    limit = evidence_limit(heatmap_node, evidence)
    if heatmap_node.GetScene() is not scene:
        raise InputError(f"The heatmap {heatmap_node.GetName()!r} is not in the scene; run the analysis again.")
    table = colour_node_called(scene, colours) if colours else evidence_colours(scene, evidence)
    former = shown_heatmap(scene)
    if former is not None and former is not heatmap_node:
        hide_legends(former)
    _set_up_display(heatmap_node, table, evidence, limit)
    for composite in _composites(scene):
        with _one_update(composite):
            _lay_over(composite, heatmap_node, opacity, volume_node)
    # After the layers: the legend looks at them when it changes, and is not told when a script changes them.
    legend = add_legend(heatmap_node.GetScalarVolumeDisplayNode(), title or heatmap_node.GetName(), "%.2g")
    legend.SetVisibility(opacity > 0)


def set_heatmap_opacity(scene: slicer.vtkMRMLScene, opacity: float) -> None:
    """Set how much the shown heatmap covers the CT, 0..1; at 0 its legend goes too. Nothing happens where none is shown.

    Raises:
        InputError: the opacity is out of its range.
    """
    _check_opacity(opacity)
    for legend in legends(shown_heatmap(scene)):
        legend.SetVisibility(opacity > 0)
    for composite in _composites(scene):
        if _shows_ours(composite):
            composite.SetForegroundOpacity(opacity)


def hide_heatmap(scene: slicer.vtkMRMLScene) -> None:
    """Take the heatmap off and restore each slice view's layers and opacity.

    A layer that was chosen by hand meanwhile is left as it is; one that has left the scene cannot come back. Call this
    before deleting the heatmap's node, or after it: its legend is hidden, or goes, here.
    """
    for composite in _composites(scene):
        with _one_update(composite):
            _restore_layers(composite)
    for volume in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene):
        if volume.GetAttribute(_SHOWN) is not None:
            hide_legends(volume)
            volume.RemoveAttribute(_SHOWN)
    remove_orphans(scene)


def shown_heatmap(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The heatmap that ``show_heatmap`` laid over the CT and that a view still shows."""
    shown = (composite.GetNodeReference(_SHOWN) for composite in _composites(scene) if _shows_ours(composite))
    return next(shown, None)


def jump_to(scene: slicer.vtkMRMLScene, ras: Sequence[float]) -> None:
    """Show a place (RAS, mm) in all slice views and put the crosshair there.

    A view is moved in its plane only where the place would lie outside of it.

    Raises:
        InputError: not three finite numbers.
    """
    if len(ras) != 3 or not all(math.isfinite(x) for x in ras):
        raise InputError(f"The position {tuple(ras)} is not one; expected three finite coordinates in mm (R, A, S).")
    right, anterior, superior = (float(x) for x in ras)
    for node in slicer.util.getNodesByClass("vtkMRMLSliceNode", scene):
        node.JumpSliceByOffsetting(right, anterior, superior)
        if not _in_view(node, (right, anterior, superior)):
            node.JumpSliceByCentering(right, anterior, superior)
    for crosshair in slicer.util.getNodesByClass("vtkMRMLCrosshairNode", scene):
        crosshair.SetCrosshairRAS(right, anterior, superior)


def restore_display(scene: slicer.vtkMRMLScene) -> None:
    """Undo everything that this module shows: heatmap, highlight, colours by score, surfaces."""
    hide_heatmap(scene)
    for segmentation_node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene):
        clear_highlight(segmentation_node)
        restore_segment_colours(segmentation_node)
    remove_surfaces(scene)
    remove_our_legends(scene)


def _composites(scene) -> list[slicer.vtkMRMLSliceCompositeNode]:
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene)


@contextmanager
def _one_update(node) -> Iterator[None]:
    """The changes reach the views as one."""
    modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(modifying)


def _check_opacity(opacity: float) -> None:
    if not 0 <= opacity <= 1:
        raise InputError(f"The opacity {opacity!r} is out of range; expected a number from 0 to 1.")


def _set_up_display(heatmap_node, table, evidence: Evidence, limit: float) -> None:
    """Colours, window and threshold of the heatmap's own display node."""
    heatmap_node.CreateDefaultDisplayNodes()
    low, high = evidence_range(evidence, limit)
    nothing = limit * 1e-6
    beyond = max(float(np.nanmax(np.abs(heatmap_values(heatmap_node)))), limit) * 2
    display = heatmap_node.GetScalarVolumeDisplayNode()
    with _one_update(display):
        display.SetAndObserveColorNodeID(table.GetID())
        display.SetInterpolate(True)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(low, high)
        display.SetAutoThreshold(False)
        display.SetThreshold(-beyond if low < 0 else nothing, beyond if high > 0 else -nothing)
        display.SetApplyThreshold(evidence != "both")  # of both signs, the colours' own opacity hides the middle
    heatmap_node.SetAttribute(_SHOWN, "1")


def _lay_over(composite, heatmap_node, opacity: float, volume_node) -> None:
    if remembered(composite, _KEY) is None:
        remember(composite, _KEY, {"opacity": composite.GetForegroundOpacity(), "mode": composite.GetCompositing()})
        composite.SetNodeReferenceID(_FORMER_FOREGROUND, composite.GetForegroundVolumeID())
        composite.SetNodeReferenceID(_FORMER_BACKGROUND, composite.GetBackgroundVolumeID())
    composite.SetNodeReferenceID(_SHOWN, heatmap_node.GetID())
    composite.SetForegroundVolumeID(heatmap_node.GetID())
    composite.SetForegroundOpacity(opacity)
    composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
    if volume_node is not None and volume_node.GetScene() is heatmap_node.GetScene():
        composite.SetNodeReferenceID(_SHOWN_CT, volume_node.GetID())
        composite.SetBackgroundVolumeID(volume_node.GetID())


def _shows_ours(composite) -> bool:
    shown = composite.GetNodeReferenceID(_SHOWN)
    return shown is not None and shown == composite.GetForegroundVolumeID()


def _restore_layers(composite) -> None:
    former = remembered(composite, _KEY)
    if former is None:
        return
    if composite.GetForegroundVolumeID() in (None, composite.GetNodeReferenceID(_SHOWN)):
        composite.SetForegroundVolumeID(composite.GetNodeReferenceID(_FORMER_FOREGROUND))
        composite.SetForegroundOpacity(former["opacity"])
        composite.SetCompositing(former["mode"])
    shown_ct = composite.GetNodeReferenceID(_SHOWN_CT)
    if shown_ct is not None and shown_ct == composite.GetBackgroundVolumeID():
        composite.SetBackgroundVolumeID(composite.GetNodeReferenceID(_FORMER_BACKGROUND))
    for role in (_SHOWN, _SHOWN_CT, _FORMER_FOREGROUND, _FORMER_BACKGROUND):
        composite.RemoveNodeReferenceIDs(role)
    forget(composite, _KEY)


def _in_view(slice_node, ras: tuple[float, float, float]) -> bool:
    """Whether a place on the slice's plane lies inside the view; a view without a size shows everything."""
    width, height = slice_node.GetDimensions()[:2]
    ras_to_xy = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(slice_node.GetXYToRAS(), ras_to_xy)
    x, y, *_ = ras_to_xy.MultiplyPoint((*ras, 1.0))
    return width <= 1 or height <= 1 or (0 <= x < width and 0 <= y < height)

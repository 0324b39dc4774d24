"""Segments in the views: some highlighted while the others are dimmed, or coloured by their score.

Segments that are gone are passed over, and so is a segmentation that is no longer in a scene.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import slicer

from .display_colours import probability_colour
from .display_former import forget, remember, remembered
from .display_surfaces import hide_surfaces, show_surfaces

_HIGHLIGHT, _COLOURS = "Highlight", "SegmentColours"
_DIMMED = 0.2  # of its former opacity, for a segment that is not highlighted
_SWITCHES = ("Visibility", "Visibility2D")  # of the whole segmentation
# Of one segment; the display node has a Get and a Set of each.
_PROPERTIES = (
    "SegmentVisibility",
    "SegmentVisibility2DFill",
    "SegmentVisibility2DOutline",
    "SegmentOpacity2DFill",
    "SegmentOpacity2DOutline",
    "SegmentOpacity3D",
)


def highlight_segments(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    *,
    fill: bool = True,
    surfaces: bool = True,
) -> None:
    """Show some segments in full and dim the others, in the slices and in 3D.

    ``clear_highlight`` restores the former display. Another call replaces the highlight. With no segment that exists, the
    highlight is cleared.

    Args:
        fill: False draws the highlighted outlines only, so that a heatmap below them is seen.
        surfaces: also show the segments' surfaces in 3D (see ``show_surfaces``, which tells what that costs).
    """
    if not _is_there(segmentation_node):
        return
    ids = _existing(segmentation_node, segment_ids)
    if not ids:
        clear_highlight(segmentation_node)
        return
    with _one_update(segmentation_node) as display:
        remember(display, _HIGHLIGHT, _state(segmentation_node, display))
        former = remembered(display, _HIGHLIGHT) or {}
        for switch in _SWITCHES:
            getattr(display, f"Set{switch}")(1)
        for segment_id in _all_ids(segmentation_node):
            if segment_id in ids:
                _show_in_full(display, segment_id, fill)
            else:
                _dim(display, segment_id, former.get("segments", {}).get(segment_id), fill)
    if surfaces:
        show_surfaces(segmentation_node, ids)


def clear_highlight(segmentation_node: slicer.vtkMRMLSegmentationNode | None) -> None:
    """Give the segments the display back that they had before ``highlight_segments``; hide the surfaces."""
    if not _is_there(segmentation_node):
        return
    with _one_update(segmentation_node) as display:
        former = remembered(display, _HIGHLIGHT) or {}
        for switch, value in former.get("switches", {}).items():
            getattr(display, f"Set{switch}")(value)
        segments = former.get("segments", {})
        for segment_id in _existing(segmentation_node, segments):
            _set_properties(display, segment_id, segments[segment_id])
        forget(display, _HIGHLIGHT)
    hide_surfaces(segmentation_node.GetScene(), segmentation_node)


def colour_segments_by_score(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    probabilities: Mapping[str, float | None],
    *,
    title: str = "Probability",
) -> None:
    """Colour segments by a probability, in the slices and as surfaces in 3D with a colour legend.

    The segments' own colours stay in the segmentation (the display overrides them). Earlier scores are replaced.

    Args:
        probabilities: segment id -> 0..1; None (not scored) gives grey.
        title: of the legend.
    """
    if not _is_there(segmentation_node):
        return
    restore_segment_colours(segmentation_node)
    ids = _existing(segmentation_node, probabilities)
    with _one_update(segmentation_node) as display:
        former = {segment_id: list(display.GetSegmentOverrideColor(segment_id)) for segment_id in ids}
        remember(display, _COLOURS, former)
        for segment_id in ids:
            display.SetSegmentOverrideColor(segment_id, *probability_colour(probabilities[segment_id]))
    show_surfaces(segmentation_node, ids, probabilities=probabilities, title=title)


def restore_segment_colours(segmentation_node: slicer.vtkMRMLSegmentationNode | None) -> None:
    """Give the segments the colours back that they had before ``colour_segments_by_score``; hide the surfaces."""
    if not _is_there(segmentation_node):
        return
    with _one_update(segmentation_node) as display:
        former = remembered(display, _COLOURS) or {}
        for segment_id in _existing(segmentation_node, former):
            if min(former[segment_id]) < 0:  # Slicer's mark of "no override"
                display.UnsetSegmentOverrideColor(segment_id)
            else:
                display.SetSegmentOverrideColor(segment_id, *former[segment_id])
        forget(display, _COLOURS)
    hide_surfaces(segmentation_node.GetScene(), segmentation_node)


def _is_there(segmentation_node) -> bool:
    return segmentation_node is not None and segmentation_node.GetScene() is not None


def _all_ids(segmentation_node) -> list[str]:
    segmentation = segmentation_node.GetSegmentation()
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


def _existing(segmentation_node, segment_ids: Iterable[str]) -> list[str]:
    """Those that the segmentation has, in its order."""
    wanted = set(segment_ids)
    return [segment_id for segment_id in _all_ids(segmentation_node) if segment_id in wanted]


@contextmanager
def _one_update(segmentation_node) -> Iterator[slicer.vtkMRMLSegmentationDisplayNode]:
    """The display node, whose changes reach the views as one."""
    if segmentation_node.GetDisplayNode() is None:
        segmentation_node.CreateDefaultDisplayNodes()
    display = segmentation_node.GetDisplayNode()
    modifying = display.StartModify()
    try:
        yield display
    finally:
        display.EndModify(modifying)


def _state(segmentation_node, display) -> dict:
    segments = {
        segment_id: {name: getattr(display, f"Get{name}")(segment_id) for name in _PROPERTIES}
        for segment_id in _all_ids(segmentation_node)
    }
    return {"switches": {name: getattr(display, f"Get{name}")() for name in _SWITCHES}, "segments": segments}


def _set_properties(display, segment_id: str, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        getattr(display, f"Set{name}")(segment_id, value)


def _show_in_full(display, segment_id: str, fill: bool) -> None:
    full = dict.fromkeys(_PROPERTIES, 1)
    _set_properties(display, segment_id, full | {"SegmentVisibility2DFill": fill})


def _dim(display, segment_id: str, former: Mapping[str, float] | None, fill: bool) -> None:
    """``former`` is None for a segment that was added since: it keeps its display."""
    if former is None:
        return
    opacities = {name: value * _DIMMED for name, value in former.items() if "Opacity" in name}
    if not fill:
        opacities["SegmentOpacity2DFill"] = 0.0
    _set_properties(display, segment_id, {**former, **opacities})

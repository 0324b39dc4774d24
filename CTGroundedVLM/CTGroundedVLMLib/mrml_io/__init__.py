"""The adapter between MRML nodes and ``types``: the only part of the library, with ``widget``, that imports Slicer.

Scene and nodes are passed in, never looked up globally. ``segments``: which class each segment is; ``case_source``: from
the scene to the worker (``checks``: what is refused); ``show``: an analysis into the scene and back (``nodes``, ``tables``,
``records``, ``heatmaps``); ``citations``: "series 4, image 112"; ``display``: views.
"""

from .case_source import MrmlCaseSource
from .citations import citation_position, find_citation
from .geometry import voxel_position
from .nodes import AnalysisNodes, find_analyses, is_input, remove_analysis
from .records import SavedResult
from .segments import (
    SegmentMatch,
    add_segmentation,
    choose_match,
    clear_match,
    match_segments,
    segment_ids_of,
)
from .show import add_heatmap, add_heatmap_steps, restore_result, restore_steps, show_result, show_steps

__all__ = [
    "AnalysisNodes",
    "MrmlCaseSource",
    "SavedResult",
    "SegmentMatch",
    "add_heatmap",
    "add_heatmap_steps",
    "add_segmentation",
    "choose_match",
    "citation_position",
    "clear_match",
    "find_analyses",
    "find_citation",
    "is_input",
    "match_segments",
    "remove_analysis",
    "restore_result",
    "restore_steps",
    "segment_ids_of",
    "show_result",
    "show_steps",
    "voxel_position",
]

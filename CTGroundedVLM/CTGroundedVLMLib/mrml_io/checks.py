"""Cheap refusals of what cannot be analysed, before anything is copied. Each message names the input and the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import slicer.util

from .. import guards
from ..errors import InputError, SegmentationError, VolumeError
from ..exchange import check_modality
from . import geometry
from .segments import Layer, SegmentMatch, match_segments, matched_layers

_CHOOSE_CT = "Choose a CT volume (one grey-scale value in HU per voxel)."
_LISTED = 12


def check_volume(volume_node: slicer.vtkMRMLNode | None) -> np.ndarray:
    """Refuse what is no CT volume; returns its (4, 4) matrix from array indices to the world.

    Values are not looked at: the worker checks that they are Hounsfield units.

    Raises:
        VolumeError: no node, or one that was deleted; a label map, colour image, time sequence or another kind of node;
            an empty volume; another DICOM modality than CT; a non-linear transform; an impossible geometry.
    """
    if volume_node is None:
        raise VolumeError(f"No CT volume is chosen. {_CHOOSE_CT}")
    what = f"CT {volume_node.GetName()}"
    if volume_node.GetScene() is None:
        raise VolumeError(f"{what} is no longer in the scene. Load it again, and choose it.")
    _check_kind(what, volume_node)
    image = volume_node.GetImageData()
    if not geometry.has_voxels(image):
        raise VolumeError(f"{what} holds no voxels: its file was not read. Load it again.")
    guards.check_dimensions(what, image.GetDimensions(), image.GetNumberOfScalarComponents(), VolumeError)
    check_modality(what, modality_of(volume_node))
    to_world = geometry.volume_to_world(volume_node, what, VolumeError)
    guards.check_geometry(what, to_world, VolumeError)
    return to_world


def _check_kind(what: str, node: slicer.vtkMRMLNode) -> None:
    if node.IsA("vtkMRMLSequenceNode") or node.IsA("vtkMRMLMultiVolumeNode"):
        raise VolumeError(
            f"{what} is a time sequence; one volume is expected. Copy one time point to a volume of its own: show it, "
            "then Clone it in the Data module."
        )
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        raise VolumeError(
            f"{what} is a label map, not an image. {_CHOOSE_CT} Label maps are given as the segmentation."
        )
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        raise VolumeError(f"{what} is a {node.GetNodeTagName()} node. {_CHOOSE_CT}")
    for browser in slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode", node.GetScene()):
        if browser.IsProxyNodeID(node.GetID()) and browser.GetNumberOfItems() > 1:
            raise VolumeError(
                f"{what} shows one of {browser.GetNumberOfItems()} time points of the sequence {browser.GetName()}, and "
                "changes with it; one volume is expected. Clone it in the Data module and choose the copy."
            )


def modality_of(volume_node: slicer.vtkMRMLVolumeNode) -> str:
    """The DICOM modality that the DICOM module noted in the subject hierarchy; "" where there is none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume_node.GetScene())
    item = hierarchy.GetItemByDataNode(volume_node) if hierarchy else 0
    noted = hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
    return noted or volume_node.GetAttribute("DICOM.Modality") or ""


def check_segmentation(
    segmentation_node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLVolumeNode, ct_to_world: np.ndarray
) -> tuple[list[tuple[Layer, np.ndarray]], tuple[str, ...]]:
    """Refuse a segmentation that cannot be of this CT.

    Returns:
        The layers that hold matched segments, each with its matrix from array indices to the world, and warnings.

    Raises:
        SegmentationError: it is no segmentation node, was deleted, has no segments, none that is known, or no voxels;
            is under a non-linear transform; or lies outside the CT.
    """
    what = f"Segmentation {segmentation_node.GetName()}"
    if segmentation_node.GetScene() is None:
        raise SegmentationError(f"{what} is no longer in the scene. Load it again, and choose it.")
    if not segmentation_node.IsA("vtkMRMLSegmentationNode"):
        raise SegmentationError(
            f"{what} is a {segmentation_node.GetNodeTagName()} node; a segmentation is expected. A label map volume is "
            "converted in the Data module: right click > Convert labelmap to segmentation node."
        )
    matches = match_segments(segmentation_node)
    _check_matches(what, matches)
    layers = matched_layers(segmentation_node, matches)
    if not layers:
        raise SegmentationError(f"{what} is empty: no voxel belongs to a known segment. Run the segmentation again.")
    parent = geometry.parent_to_world(segmentation_node, what, SegmentationError)
    placed = [(layer, parent @ geometry.layer_to_parent(layer.image)) for layer in layers]
    shape = volume_node.GetImageData().GetDimensions()[::-1]
    boxes = [(layer.image.GetDimensions()[::-1], to_world) for layer, to_world in placed]
    if not any(geometry.boxes_meet(shape, ct_to_world, *box) for box in boxes):
        raise SegmentationError(
            f"{what} does not overlap the CT {volume_node.GetName()}: all its segments lie outside. Choose the "
            "segmentation of this CT (is it one of another patient or study?)."
        )
    return placed, _warnings(what, matches)


def _check_matches(what: str, matches: Sequence[SegmentMatch]) -> None:
    if not matches:
        raise SegmentationError(f"{what} has no segments. Segment the CT first, or choose another segmentation.")
    if not any(match.class_name for match in matches):
        raise SegmentationError(
            f"{what} has no segment that is known; found {_quoted(matches)}. Choose what they are in the table of "
            "segments, name them as TotalSegmentator does (liver, lung_upper_lobe_left, …) or set their terminology."
        )


def _warnings(what: str, matches: Sequence[SegmentMatch]) -> tuple[str, ...]:
    warnings = []
    left_out = [match for match in matches if match.class_name is None and match.source == "none"]
    if left_out:
        warnings.append(f"{what}: segments that match no known class were left out: {_quoted(left_out)}.")
    by_class: dict[str, list[SegmentMatch]] = {}
    for match in matches:
        if match.class_name:
            by_class.setdefault(match.class_name, []).append(match)
    for class_name, same in by_class.items():
        if len(same) > 1:
            warnings.append(f"{what}: segments {_quoted(same)} are all {class_name}; joined.")
    return tuple(warnings)


def _quoted(matches: Sequence[SegmentMatch]) -> str:
    shown = ", ".join(f"'{match.segment_name}'" for match in matches[:_LISTED])
    return f"{shown} and {len(matches) - _LISTED} more" if len(matches) > _LISTED else shown


def check_in_scene(node: slicer.vtkMRMLNode, scene: slicer.vtkMRMLScene, what: str) -> None:
    """Raise InputError where a node was deleted, or the scene closed, since ``scene`` was its scene."""
    if node.GetScene() is not scene:
        raise InputError(
            f"{what} {node.GetName()} was deleted, or the scene closed, meanwhile. Nothing was changed; load it again."
        )

"""Which TotalSegmentator class each segment of a segmentation node is, and the label maps that hold the segments."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import get_vtk_array_type

from .. import anatomy
from ..errors import SegmentationError
from ..slicer_segments import parse_terminology
from ..types import Segmentation
from . import geometry

CHOICE_TAG = "CTGroundedVLM.Class"  # of a segment: the class that the user chose for it
_LEFT_OUT = "(none)"  # the tag's value where the user says that a segment is none of the classes


@dataclass(frozen=True)
class SegmentMatch:
    """A segment and its TotalSegmentator v2 class (None: it is left out), and what the class was found by."""

    segment_id: str
    segment_name: str
    class_name: str | None
    source: Literal["chosen", "code", "name", "none"]


@dataclass(frozen=True)
class Layer:
    """A label map that several segments share. ``names``: label value -> class name, of matched segments only."""

    image: slicer.vtkOrientedImageData
    names: Mapping[int, str]


def match_segments(segmentation_node: slicer.vtkMRMLSegmentationNode) -> list[SegmentMatch]:
    """The class of every segment, in the node's order: the user's choice, else by terminology code, else by name."""
    segmentation = segmentation_node.GetSegmentation()
    known = frozenset(anatomy.label_names().values())
    return [_match(segment_id, segmentation.GetSegment(segment_id), known) for segment_id in _segment_ids(segmentation)]


def _match(segment_id: str, segment: slicer.vtkSegment, known: frozenset[str]) -> SegmentMatch:
    name = segment.GetName() or segment_id
    chosen = _tag(segment, CHOICE_TAG)
    # a choice that a later version of the registry no longer knows is no choice
    if chosen == _LEFT_OUT or chosen in known:
        return SegmentMatch(segment_id, name, None if chosen == _LEFT_OUT else chosen, "chosen")
    codes = parse_terminology(f"TerminologyEntry:{_tag(segment, 'TerminologyEntry')}")
    if codes[1] and (by_code := anatomy.match_terminology(*codes)):
        return SegmentMatch(segment_id, name, by_code, "code")
    by_name = anatomy.match_segment_name(name)
    return SegmentMatch(segment_id, name, by_name, "name" if by_name else "none")


def choose_match(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str, class_name: str | None) -> None:
    """Set a segment's class by hand; None leaves it out. It is a tag of the segment, and so saved with it.

    Raises:
        SegmentationError: there is no such segment or class.
    """
    value = _LEFT_OUT if class_name is None else anatomy.segment(class_name).name
    _segment(segmentation_node, segment_id).SetTag(CHOICE_TAG, value)


def clear_match(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> None:
    """Take a choice back: the segment is matched by code or name again. Raises SegmentationError: no such segment."""
    _segment(segmentation_node, segment_id).RemoveTag(CHOICE_TAG)


def segment_ids_of(segmentation_node: slicer.vtkMRMLSegmentationNode, class_names: Iterable[str]) -> list[str]:
    """The segments that are of one of these classes, in the node's order."""
    wanted = set(class_names)
    return [match.segment_id for match in match_segments(segmentation_node) if match.class_name in wanted]


def matched_layers(segmentation_node: slicer.vtkMRMLSegmentationNode, matches: Iterable[SegmentMatch]) -> list[Layer]:
    """The binary label maps that hold at least one matched segment, as they lie in memory.

    Raises:
        SegmentationError: the node has no binary label maps (but closed surfaces, say).
    """
    segmentation = segmentation_node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if not segmentation.ContainsRepresentation(representation):
        raise SegmentationError(
            f"Segmentation {segmentation_node.GetName()} has no voxels, only {_representations(segmentation)}; a binary "
            "labelmap is expected. Create it in the Segmentations module: Representations > Binary labelmap > Create."
        )
    classes = {match.segment_id: match.class_name for match in matches if match.class_name}
    layers = []
    for index in range(segmentation.GetNumberOfLayers(representation)):
        ids = segmentation.GetSegmentIDsForLayer(index, representation)
        names = {segmentation.GetSegment(i).GetLabelValue(): classes[i] for i in ids if i in classes}
        image = segmentation.GetLayerDataObject(index, representation)
        if names and geometry.has_voxels(image):
            layers.append(Layer(image, names))
    return layers


def add_segmentation(
    scene: slicer.vtkMRMLScene,
    segmentation: Segmentation,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    name: str,
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation node of ``volume_node`` (one shared layer), with display names, colours and SNOMED codes.

    Raises:
        SegmentationError: its label map is not on the volume's grid.
    """
    if segmentation.labels_kji.shape != volume_node.GetImageData().GetDimensions()[::-1]:
        raise SegmentationError(
            f"The segmentation has {segmentation.labels_kji.shape} voxels (k, j, i), another grid than the volume "
            f"{volume_node.GetName()}. Segment that volume again."
        )
    image = _shared_label_map(segmentation.labels_kji, volume_node)
    node = slicer.vtkMRMLSegmentationNode()
    node.SetName(name)
    for segment in _segments(segmentation.names, image):
        node.GetSegmentation().AddSegment(segment)
    scene.AddNode(node)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    return node


def terminology_entry(class_name: str) -> str:
    """A class's SNOMED codes as Slicer writes them into a segment's tag."""
    codes = anatomy.segment(class_name).terminology

    def code(key: str) -> str:
        return f"{codes[key].scheme}^{codes[key].value}^{codes[key].meaning}" if key in codes else "^^"

    contexts = "Segmentation category and type - 3D Slicer General Anatomy list", "Anatomic codes - DICOM master list"
    kind = code("category"), code("type"), code("modifier")
    return "~".join((contexts[0], *kind, contexts[1], code("region"), code("region_modifier")))


def _segments(names: Mapping[int, str], image: slicer.vtkOrientedImageData) -> Iterator[slicer.vtkSegment]:
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    for value, class_name in sorted(names.items()):
        segment = slicer.vtkSegment()
        segment.SetName(anatomy.segment(class_name).display)
        segment.SetTag("TerminologyEntry", terminology_entry(class_name))
        segment.SetColor(*_colour(value))
        segment.AddRepresentation(representation, image)
        segment.SetLabelValue(int(value))
        yield segment


def _colour(label: int) -> tuple[float, float, float]:
    """Colours that stay apart for labels that follow each other: hues by the golden ratio."""
    return colorsys.hsv_to_rgb((label * 0.618034) % 1.0, 0.55, 0.9 if label % 2 else 0.75)


def _shared_label_map(
    labels_kji: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkOrientedImageData:
    image = slicer.vtkOrientedImageData()
    image.SetExtent(volume_node.GetImageData().GetExtent())
    image.AllocateScalars(get_vtk_array_type(labels_kji.dtype), 1)
    geometry.image_array(image)[:] = labels_kji
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    return image


def _segment(segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str) -> slicer.vtkSegment:
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        raise SegmentationError(
            f"Segmentation {segmentation_node.GetName()} has no segment {segment_id}: it was probably removed meanwhile. "
            "Choose another one."
        )
    return segment


def _segment_ids(segmentation: slicer.vtkSegmentation) -> list[str]:
    return [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]


def _representations(segmentation: slicer.vtkSegmentation) -> str:
    found: list[str] = []
    segmentation.GetContainedRepresentationNames(found)
    return ", ".join(found) or "empty segments"


def _tag(segment: slicer.vtkSegment, key: str) -> str:
    value = vtk.mutable("")
    return str(value) if segment.GetTag(key, value) else ""

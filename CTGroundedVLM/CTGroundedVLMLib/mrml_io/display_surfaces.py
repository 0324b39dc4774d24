"""Surfaces of single segments in 3D: in their own colour, by probability, or painted with a heatmap's evidence.

They are model nodes of this extension. A closed surface representation of the segmentation itself would be made of all of
its segments at once, which takes minutes for a whole body. A hidden surface stays in the scene, so that showing it again is
instant; it is made anew when its segment was edited. Surfaces are not saved with the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from .display_camera import look_at
from .display_colours import Evidence, evidence_colours, evidence_range, probability_colour, probability_colours
from .display_former import forget, remember, remembered
from .display_heatmap import evidence_limit, ras_to_ijk
from .display_legend import add_legend, hide_legends, remove_legends
from .display_segment_surface import segment_surface_steps
from .steps import finished

_SEGMENT, _SEGMENTATION, _MADE_OF = "CTGroundedVLM.Segment", "CTGroundedVLM.Segmentation", "CTGroundedVLM.MadeOf"
_KEY = "Surfaces"
_EVIDENCE = "evidence"
_DEPTHS_MM = np.arange(1.0, 21.0, 2.0)  # below the surface, where evidence is looked for
_POINTS = 4_000  # of a surface, whose evidence is looked up at a time: a few ms


Models = list[slicer.vtkMRMLModelNode]
Look = Callable[[str, slicer.vtkMRMLModelNode], Iterator[None]]  # segment id, its model: gives it its colours in steps


def show_surfaces(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    *,
    probabilities: Mapping[str, float | None] | None = None,
    title: str = "Probability",
) -> Models:
    """Show the surfaces of these segments in 3D and hide those shown before.

    A surface that is not kept yet takes 0.01 to 0.03 s, also on a CT of 512 x 512 x 400 voxels.

    Args:
        segment_ids: those that the segmentation does not have are passed over.
        probabilities: segment id -> 0..1 or None: colours by score, with a legend of that ``title``; else own colours.

    Raises:
        SegmentationError: Slicer cannot make a surface.
    """
    return finished(surface_steps(segmentation_node, segment_ids, probabilities=probabilities, title=title))


def surface_steps(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    *,
    probabilities: Mapping[str, float | None] | None = None,
    title: str = "Probability",
) -> Generator[None, None, Models]:
    """``show_surfaces`` in steps of a few milliseconds: hides the former ones first; a legend comes last.

    It may be given up after any step. What left the scene between two steps is passed over.
    """

    def look(segment_id: str, model: slicer.vtkMRMLModelNode) -> Iterator[None]:
        display = model.GetDisplayNode()
        display.SetScalarVisibility(False)
        if probabilities is None:
            display.SetColor(segmentation_node.GetDisplayNode().GetSegmentColor(segment_id))
        else:
            display.SetColor(probability_colour(probabilities.get(segment_id)))
            display.SetAndObserveColorNodeID(probability_colours(model.GetScene()).GetID())
            _set_range(display, (0.0, 1.0))
        yield

    models = yield from _shown_one_by_one(segmentation_node, segment_ids, look)
    if probabilities is not None and models:
        add_legend(models[0].GetDisplayNode(), title, "%.2f", three_d=True)
    return models


def paint_evidence(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    heatmap_node: slicer.vtkMRMLScalarVolumeNode,
    *,
    evidence: Evidence = "for",
    title: str = "",
) -> Models:
    """Show the surfaces of these segments in 3D, coloured by the heatmap's evidence below each point of the surface.

    A point shows the strongest value within 20 mm below it, so that evidence inside the organ is seen from outside.

    Raises:
        InputError: the heatmap holds no image, or ``evidence`` is not known.
        SegmentationError: Slicer cannot make a surface.
    """
    return finished(evidence_steps(segmentation_node, segment_ids, heatmap_node, evidence=evidence, title=title))


def evidence_steps(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    heatmap_node: slicer.vtkMRMLScalarVolumeNode,
    *,
    evidence: Evidence = "for",
    title: str = "",
) -> Generator[None, None, Models]:
    """``paint_evidence`` in steps, as ``surface_steps``; it ends where the heatmap leaves the scene."""
    low_high = evidence_range(evidence, evidence_limit(heatmap_node, evidence))
    scene = heatmap_node.GetScene()

    def look(segment_id: str, model: slicer.vtkMRMLModelNode) -> Iterator[None]:
        yield from _evidence_put(model, heatmap_node, evidence)
        display = model.GetDisplayNode()
        if display is None or not is_there():
            return
        display.SetActiveScalar(_EVIDENCE, vtk.vtkAssignAttribute.POINT_DATA)
        display.SetAndObserveColorNodeID(evidence_colours(model.GetScene(), evidence, opaque=True).GetID())
        _set_range(display, low_high)
        display.SetScalarVisibility(True)

    def is_there() -> bool:
        return heatmap_node.GetScene() is scene

    models = yield from _shown_one_by_one(segmentation_node, segment_ids, look, is_there)
    if models:
        add_legend(models[0].GetDisplayNode(), title or heatmap_node.GetName(), "%.2g", three_d=True)
    return models


def _shown_one_by_one(
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
    segment_ids: Iterable[str],
    look: Look,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Generator[None, None, Models]:
    """Hide all surfaces, then make and show one after the other; yields in between. Returns the models that are shown.

    A 3D view that does not see them is turned to them in the end.
    """
    scene = segmentation_node.GetScene() if segmentation_node is not None else None
    if scene is None:
        return []

    def is_there(segment_id: str) -> bool:
        if segmentation_node.GetScene() is not scene or not is_wanted():
            return False
        return segmentation_node.GetSegmentation().GetSegment(segment_id) is not None

    hide_surfaces(scene)
    yield
    models = []
    for segment_id in dict.fromkeys(segment_ids):
        if not is_there(segment_id):
            continue
        model = _kept_model(segmentation_node, segment_id)
        if model is None:
            made_of = _version(segmentation_node, segment_id)
            surface = yield from segment_surface_steps(segmentation_node, segment_id)
            yield
            if not is_there(segment_id):
                continue
            model = _new_model(segmentation_node, segment_id, surface, made_of)
        yield from look(segment_id, model)
        if not is_there(segment_id) or model.GetScene() is not scene:
            continue
        _cover(segmentation_node, segment_id)
        model.GetDisplayNode().SetVisibility(True)
        models.append(model)
        yield
    models = [model for model in models if model.GetScene() is scene]
    look_at(scene, models)
    return models


def hide_surfaces(
    scene: slicer.vtkMRMLScene | None, segmentation_node: slicer.vtkMRMLSegmentationNode | None = None
) -> None:
    """Hide the surfaces (of one segmentation, or all) and show in 3D again what they covered.

    Surfaces whose segmentation has gone are removed.
    """
    if scene is None:
        return
    for model in _surfaces(scene):
        owner = model.GetNodeReference(_SEGMENTATION)
        if owner is None:
            _remove(model)
        elif segmentation_node in (None, owner):
            hide_legends(model)
            model.GetDisplayNode().SetVisibility(False)
    for owner in slicer.util.getNodesByClass("vtkMRMLSegmentationNode", scene):
        if segmentation_node in (None, owner):
            _uncover(owner)


def remove_surfaces(
    scene: slicer.vtkMRMLScene | None, segmentation_node: slicer.vtkMRMLSegmentationNode | None = None
) -> None:
    """Hide the surfaces (of one segmentation, or all) and take them out of the scene."""
    hide_surfaces(scene, segmentation_node)
    for model in _surfaces(scene) if scene is not None else []:
        if segmentation_node in (None, model.GetNodeReference(_SEGMENTATION)):
            _remove(model)


def _surfaces(scene) -> list[slicer.vtkMRMLModelNode]:
    models = slicer.util.getNodesByClass("vtkMRMLModelNode", scene)
    return [model for model in models if model.GetAttribute(_SEGMENT) is not None]


def _remove(model) -> None:
    remove_legends(model)
    scene = model.GetScene()
    scene.RemoveNode(model.GetDisplayNode())
    scene.RemoveNode(model)


def _cover(segmentation_node, segment_id: str) -> None:
    """Hide the segmentation's own surface where ours lies in the same place."""
    display = segmentation_node.GetDisplayNode()
    covered = remembered(display, _KEY) or {}
    if segment_id not in covered:
        forget(display, _KEY)
        remember(display, _KEY, covered | {segment_id: display.GetSegmentVisibility3D(segment_id)})
    display.SetSegmentVisibility3D(segment_id, False)


def _uncover(segmentation_node) -> None:
    display = segmentation_node.GetDisplayNode()
    former = remembered(display, _KEY) if display else None
    for segment_id, visible in (former or {}).items():
        if segmentation_node.GetSegmentation().GetSegment(segment_id):
            display.SetSegmentVisibility3D(segment_id, visible)
    if display:
        forget(display, _KEY)


def _kept_model(segmentation_node, segment_id: str) -> slicer.vtkMRMLModelNode | None:
    """The segment's model in the scene; one that no longer fits the segment is removed, and None returned."""
    made_of = _version(segmentation_node, segment_id)
    for model in _surfaces(segmentation_node.GetScene()):
        if model.GetAttribute(_SEGMENT) == segment_id and model.GetNodeReference(_SEGMENTATION) is segmentation_node:
            if model.GetAttribute(_MADE_OF) == made_of:
                model.SetAndObserveTransformNodeID(segmentation_node.GetTransformNodeID())
                return model
            _remove(model)
    return None


def _version(segmentation_node, segment_id: str) -> str:
    """Changes with every edit of the segment's voxels (or of one that shares its layer)."""
    segmentation = segmentation_node.GetSegmentation()
    source = segmentation.GetSegment(segment_id).GetRepresentation(segmentation.GetSourceRepresentationName())
    return str(source.GetMTime()) if source is not None else ""


def _new_model(segmentation_node, segment_id: str, surface: vtk.vtkPolyData, made_of: str) -> slicer.vtkMRMLModelNode:
    name = segmentation_node.GetSegmentation().GetSegment(segment_id).GetName()
    scene = segmentation_node.GetScene()
    model = slicer.vtkMRMLModelNode()
    model.SetName(f"{name} surface")
    model.SetHideFromEditors(True)
    model.SetSaveWithScene(False)
    model.SetAttribute(_SEGMENT, segment_id)
    model.SetAttribute(_MADE_OF, made_of)
    model.SetAndObservePolyData(surface)
    scene.AddNode(model)
    model.SetNodeReferenceID(_SEGMENTATION, segmentation_node.GetID())
    model.SetAndObserveTransformNodeID(segmentation_node.GetTransformNodeID())
    model.CreateDefaultDisplayNodes()
    display = model.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetVisibility(False)
    display.SetVisibility2D(False)
    return model


def _set_range(display, low_high: tuple[float, float]) -> None:
    display.SetScalarRangeFlag(slicer.vtkMRMLDisplayNode.UseManualScalarRange)
    display.SetScalarRange(*low_high)


def _evidence_put(model, heatmap_node, evidence: Evidence) -> Iterator[None]:
    """Add the point array: for each point, the strongest value of the wanted sign below it; 0 outside the heatmap."""
    surface = model.GetPolyData()
    if surface.GetNumberOfPoints() == 0:
        return
    points = vtk_to_numpy(surface.GetPoints().GetData())
    normals = vtk_to_numpy(surface.GetPointData().GetNormals())
    to_ijk = ras_to_ijk(heatmap_node, model)
    values_kji = slicer.util.arrayFromVolume(heatmap_node)  # keeps its memory, should the node go meanwhile
    strongest = np.zeros(len(points), np.float32)
    for first in range(0, len(points), _POINTS):
        some = slice(first, first + _POINTS)
        start = points[some].astype(np.float64) @ to_ijk[:3, :3].T + to_ijk[:3, 3]
        inward = -normals[some].astype(np.float64) @ to_ijk[:3, :3].T
        strongest[some] = _strongest_below(values_kji, start, inward, evidence)
        yield
    array = numpy_to_vtk(strongest, deep=True)
    array.SetName(_EVIDENCE)
    surface.GetPointData().AddArray(array)
    model.SetAndObservePolyData(surface)


def _strongest_below(values_kji: np.ndarray, start: np.ndarray, inward: np.ndarray, evidence: Evidence) -> np.ndarray:
    """(N,) for places ``start`` and directions per mm ``inward``, both (N, 3) in voxels."""
    strongest = np.zeros(len(start), np.float32)
    for depth in _DEPTHS_MM:
        found = np.nan_to_num(_nearest(values_kji, start + depth * inward))
        found = {"for": np.maximum(found, 0), "against": np.minimum(found, 0), "both": found}[evidence]
        np.copyto(strongest, found, where=np.abs(found) > np.abs(strongest))
    return strongest


def _nearest(values_kji: np.ndarray, places_ijk: np.ndarray) -> np.ndarray:
    """Values (N,) of the voxels that hold the places (N, 3), in voxels; 0 outside."""
    kji = np.rint(places_ijk).astype(int)[:, ::-1]
    inside = ((kji >= 0) & (kji < values_kji.shape)).all(axis=1)
    values = np.zeros(len(places_ijk), np.float32)
    values[inside] = values_kji[tuple(kji[inside].T)]
    return values

"""Slicer's real scene, module logics and file IO, booted from slicer-core without the application, and nodes for tests.

What Slicer's Qt plugins do beside the scene is done here by :class:`SubjectHierarchyItems`. Nothing else is simulated.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.mrml_io.segments import terminology_entry
from CTGroundedVLMLib.sample import make_phantom
from CTGroundedVLMLib.types import CTCase, Segmentation, Volume

# Module name -> logic class, in an order that respects who asks whom. The Terminologies logic is left out: the wheel
# lacks its files, and terminology entries are plain tags of a segment.
MODULE_LOGICS = {
    "Units": "vtkSlicerUnitsLogic",
    "Colors": "vtkSlicerColorLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Models": "vtkSlicerModelsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
}


@dataclass
class SlicerScene:
    """A booted scene. ``folder`` is the application's home and temporary folder; logics are kept alive here."""

    application: slicer.vtkSlicerApplicationLogic
    scene: slicer.vtkMRMLScene
    logics: dict[str, slicer.vtkMRMLAbstractLogic]
    hierarchy_items: SubjectHierarchyItems
    folder: Path
    kept: tuple[object, ...] = ()

    @property
    def hierarchy(self) -> slicer.vtkMRMLSubjectHierarchyNode:
        """The subject hierarchy of the scene (a new node after the scene was closed)."""
        return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)

    def save_mrb(self, path: Path) -> Path:
        """Save the scene as Slicer does; every storable node gets its storage node."""
        assert self.scene.WriteToMRB(str(path)), f"{path} was not written"
        return path

    def load_mrb(self, path: Path) -> None:
        """Replace the scene by a saved one, as File > Load does after closing."""
        messages = slicer.vtkMRMLMessageCollection()
        self.scene.Clear(False)
        assert self.scene.ReadFromMRB(str(path), False, messages), messages.GetAllMessagesAsString()


class SubjectHierarchyItems:
    """Stands in for qSlicerSubjectHierarchyPluginLogic: an item for every visible storable node, gone with its node."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        for event, method in (
            (scene.NodeAddedEvent, self._on_added),
            (scene.NodeAboutToBeRemovedEvent, self._on_removed),
            (scene.EndImportEvent, self._on_imported),
            (scene.EndCloseEvent, self._on_closed),
        ):
            method.__func__.CallDataType = vtk.VTK_OBJECT
            scene.AddObserver(event, method)

    def _on_added(self, scene, event, node=None) -> None:
        if not scene.IsImporting():
            self._add(node)

    def _add(self, node) -> None:
        shown = node is not None and node.IsA("vtkMRMLStorableNode") and not node.GetHideFromEditors()
        if shown and not node.GetAttribute("SubjectHierarchy.ExcludeFromTree"):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
            if not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    def _on_removed(self, scene, event, node=None) -> None:
        if scene.IsClosing() or node is None or node.IsA("vtkMRMLSubjectHierarchyNode"):
            return
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if item := hierarchy.GetItemByDataNode(node):
            hierarchy.RemoveItem(item, False, False)

    def _on_imported(self, scene, event, data=None) -> None:
        for node in slicer.util.getNodesByClass("vtkMRMLStorableNode", scene):
            self._add(node)

    def _on_closed(self, scene, event, data=None) -> None:
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def boot(folder: Path) -> SlicerScene:
    """Application logic, scene, file IO and the module logics, as Slicer wires them; ``folder`` must exist."""
    (folder / "share" / "ColorFiles").mkdir(parents=True, exist_ok=True)
    application = slicer.vtkSlicerApplicationLogic()
    application.SetHomeDirectory(str(folder))
    application.SetShareDirectory("share")
    application.SetTemporaryPath(str(folder))
    scene = slicer.vtkMRMLScene()
    scene.SetRootDirectory(str(folder))
    remote_io = slicer.vtkMRMLRemoteIOLogic()
    remote_io.SetMRMLScene(scene)
    data_io = slicer.vtkDataIOManagerLogic()
    data_io.SetMRMLApplicationLogic(application)
    data_io.SetAndObserveDataIOManager(remote_io.GetDataIOManager())
    application.SetMRMLScene(scene)
    application.SetMRMLSceneDataIO(scene, remote_io, data_io)
    remote_io.AddDataIOToScene()
    logics = {}
    for name, class_name in MODULE_LOGICS.items():
        logics[name] = getattr(slicer, class_name)()
        logics[name].SetMRMLApplicationLogic(application)  # before the scene: logics look each other up by it
        logics[name].SetMRMLScene(scene)
        application.SetModuleLogic(name, logics[name])
    items = SubjectHierarchyItems(scene)
    return SlicerScene(application, scene, logics, items, folder, (remote_io, data_io))


@contextmanager
def a_scene(folder: Path | None = None) -> Iterator[SlicerScene]:
    """A booted scene in ``folder`` or a temporary one; also ``slicer.mrmlScene``, as in Slicer, while it is open."""
    former = getattr(slicer, "mrmlScene", None)
    with tempfile.TemporaryDirectory() as temporary:
        booted = boot(folder or Path(temporary))
        slicer.mrmlScene = booted.scene
        try:
            yield booted
        finally:
            booted.scene.Clear(True)
            booted.scene.RemoveAllObservers()
            slicer.mrmlScene = former


@functools.cache
def the_phantom_case(seed: int = 0) -> CTCase:
    """The synthetic sample phantom with its report; drawn once per process (six seconds). Do not write to its arrays."""
    phantom = make_phantom(seed)
    names = anatomy.label_names()
    present = {int(v): names[int(v)] for v in np.unique(phantom.labels_kji) if v}
    ct = Volume(phantom.hu_kji, phantom.ijk_to_ras, f"phantom {seed}")
    return CTCase(ct, Segmentation(phantom.labels_kji, present), phantom.report)


def add_volume(
    scene: slicer.vtkMRMLScene,
    array_kji: np.ndarray,
    ijk_to_ras: np.ndarray,
    name: str = "CT",
    class_name: str = "vtkMRMLScalarVolumeNode",
) -> slicer.vtkMRMLVolumeNode:
    """A volume node with display node; a fourth axis of ``array_kji`` holds components."""
    node = scene.AddNewNodeByClass(class_name, name)
    image = vtk.vtkImageData()
    fill_image(image, array_kji)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(ijk_to_ras, float)))
    node.SetAndObserveImageData(image)
    node.CreateDefaultDisplayNodes()
    return node


def fill_image(image: vtk.vtkImageData, array_kji: np.ndarray) -> None:
    """Put a copy of (K, J, I) or (K, J, I, components) into ``image``, whose extent then starts at 0."""
    k, j, i = array_kji.shape[:3]
    image.SetDimensions(i, j, k)
    flat = np.ascontiguousarray(array_kji).reshape(k * j * i, -1)
    image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))


def add_segmentation(
    booted: SlicerScene,
    volume: slicer.vtkMRMLScalarVolumeNode,
    labels_kji: np.ndarray,
    names: Mapping[int, str],
    name: str = "Segmentation",
    *,
    terminology: bool = False,
) -> slicer.vtkMRMLSegmentationNode:
    """A segmentation node of ``volume`` with one shared layer; a segment per label of ``names`` that has voxels.

    Segments are called as given, and get the class's SNOMED codes too with ``terminology``.
    """
    scene = booted.scene
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    affine = slicer.util.arrayFromVTKMatrix(ijk_to_ras_of(volume))
    label_map = add_volume(scene, labels_kji, affine, "labels", "vtkMRMLLabelMapVolumeNode")
    try:
        assert booted.logics["Segmentations"].ImportLabelmapToSegmentationNode(label_map, node)
    finally:
        scene.RemoveNode(label_map)
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        segment.SetName(names[segment.GetLabelValue()])
        if terminology:
            segment.SetTerminology(terminology_entry(names[segment.GetLabelValue()]))
    return node


def ijk_to_ras_of(volume: slicer.vtkMRMLVolumeNode) -> vtk.vtkMatrix4x4:
    """The node's matrix, without a parent transform."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def add_case(
    booted: SlicerScene, case: CTCase, *, terminology: bool = False
) -> tuple[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLSegmentationNode]:
    """The CT and the segmentation of a case as nodes."""
    volume = add_volume(booted.scene, case.ct.array_kji, case.ct.ijk_to_ras, case.ct.name)
    labels, names = case.segmentation.labels_kji, case.segmentation.names
    return volume, add_segmentation(booted, volume, labels, names, terminology=terminology)


def add_to_study(
    booted: SlicerScene, volume: slicer.vtkMRMLVolumeNode, modality: str = "CT"
) -> tuple[int, slicer.vtkMRMLVolumeNode]:
    """Put a volume under a patient and study as the DICOM module does; returns the study's item and the volume."""
    hierarchy = booted.hierarchy
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    item = hierarchy.CreateItem(study, volume)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", modality)
    return study, volume


def snapshot(booted: SlicerScene) -> dict[str, object]:
    """What a user could notice of the scene: its nodes with attributes, references and voxels, and the hierarchy."""
    scene, hierarchy = booted.scene, booted.hierarchy
    nodes = [scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes())]
    items = vtk.vtkIdList()
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), items, True)
    numbers = [items.GetId(index) for index in range(items.GetNumberOfIds())]
    tree = [(n, hierarchy.GetItemName(n), hierarchy.GetItemParent(n), hierarchy.GetItemDataNode(n)) for n in numbers]
    return {"nodes": {node.GetID(): _state(node) for node in nodes if not node.IsA("vtkMRMLSubjectHierarchyNode")}} | {
        "tree": sorted((n, name, parent, data and data.GetID()) for n, name, parent, data in tree)
    }


def _state(node: slicer.vtkMRMLNode) -> tuple[object, ...]:
    attributes = tuple((name, node.GetAttribute(name)) for name in sorted(node.GetAttributeNames()))
    roles = [node.GetNthNodeReferenceRole(n) for n in range(node.GetNumberOfNodeReferenceRoles())]
    references = tuple(
        (role, n, node.GetNthNodeReferenceID(role, n))
        for role in roles
        for n in range(node.GetNumberOfNodeReferences(role))
    )
    voxels = node.GetImageData().GetMTime() if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() else 0
    return node.GetName(), attributes, references, voxels

"""Puts an analysis into the scene, all or nothing, and reads it back."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from typing import TypeVar

import numpy as np
import slicer

from ..errors import InputError
from ..types import AnalysisResult, FindingScore, Heatmap
from . import geometry, records, scene_edit
from .checks import check_in_scene
from .heatmaps import HeatmapImage, key_of, read_heatmap_node
from .nodes import ANALYSIS, REFERENCE, AnalysisNodes, find_analyses, heatmap_nodes, nodes_of, remove_analysis
from .tables import fill_findings_table, fill_organs_table

Value = TypeVar("Value")


def show_result(
    result: AnalysisResult,
    scene: slicer.vtkMRMLScene,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    segmentation_node: slicer.vtkMRMLSegmentationNode | None = None,
    report_node: slicer.vtkMRMLTextNode | None = None,
) -> AnalysisNodes:
    """Add the nodes of a result; those that earlier analyses of the same CT made are removed.

    Args:
        report_node: the user's text node that the report is from, which stays the user's; without one, a text node is
            made for a report that is not empty.

    Raises:
        InputError: the CT was deleted or changed its size since it was analysed. The scene is then as before.
    """
    return _run(show_steps(result, scene, volume_node, segmentation_node, report_node))


def show_steps(
    result: AnalysisResult,
    scene: slicer.vtkMRMLScene,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    segmentation_node: slicer.vtkMRMLSegmentationNode | None = None,
    report_node: slicer.vtkMRMLTextNode | None = None,
) -> Generator[float, None, AnalysisNodes]:
    """``show_result`` in steps of a few milliseconds: yields the fraction done, returns the nodes.

    The scene is changed in the last step only. A generator that is closed before leaves it as it was.
    """
    _check_fits(result.case.ct.array_kji.shape, scene, volume_node)
    images = []
    for number, heatmap in enumerate(result.heatmaps):
        images.append((yield from _filled(heatmap, number, len(result.heatmaps))))
    text = records.result_to_text(result, [records.heatmap_entry(i.heatmap, i.low, i.high) for i in images])
    yield 1.0
    _check_fits(result.case.ct.array_kji.shape, scene, volume_node)
    inputs = {
        "CT": volume_node,
        "Segmentation": _present(segmentation_node, scene),
        "Report": _present(report_node, scene),
    }
    return _add_all(result, text, images, scene, inputs)


def _add_all(
    result: AnalysisResult,
    text: str,
    images: list[HeatmapImage],
    scene: slicer.vtkMRMLScene,
    inputs: dict[str, slicer.vtkMRMLNode | None],
) -> AnalysisNodes:
    volume, report = inputs["CT"], inputs["Report"]
    former = [nodes for nodes in find_analyses(scene) if nodes.volume is volume]
    identifier, name = uuid.uuid4().hex, volume.GetName()
    with scene_edit.undone_on_error(scene) as made:
        findings = _add(scene, made, "vtkMRMLTableNode", f"{name} findings")
        fill_findings_table(findings, result)
        organs = _add(scene, made, "vtkMRMLTableNode", f"{name} organs")
        fill_organs_table(organs, result.organs, float(np.prod(result.case.ct.spacing_ijk)) / 1000)
        if report is None and result.report.text.strip():
            report = _add_text(scene, made, f"{name} report", result.report.text)
        record = _add_text(scene, made, f"{name} links", text)
        own = {"Record": record, "Findings": findings, "Organs": organs, "Report": report}
        for role, node in (inputs | own).items():
            if node is not None:
                record.SetNodeReferenceID(REFERENCE[role], node.GetID())
        for image in images:
            heatmap = image.add_node(scene, volume, made)
            record.AddNodeReferenceID(REFERENCE["Heatmap"], heatmap.GetID())
        for node in made:
            node.SetAttribute(ANALYSIS, identifier)
        folders = [scene_edit.folder_of(nodes.links_text, nodes.analysis_id) for nodes in former]
        folder = next((item for item in folders if item), 0)
        scene_edit.place_in_folder(scene, made, volume, folder, f"{name}: CTGroundedVLM", identifier)
    _adopt(report, former, identifier)
    for nodes in former:
        remove_analysis(nodes, scene)
    return nodes_of(record)


def _adopt(report: slicer.vtkMRMLTextNode | None, former: list[AnalysisNodes], identifier: str) -> None:
    """The report that a former analysis made, now given as input, belongs to the new analysis."""
    for nodes in former:
        if report is not None and nodes.report_text is report and report.GetAttribute(ANALYSIS):
            report.SetAttribute(ANALYSIS, identifier)


def add_heatmap(
    nodes: AnalysisNodes, heatmap: Heatmap, scene: slicer.vtkMRMLScene, score: FindingScore | None = None
) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a heatmap to an analysis, in place of one of the same organ, finding and source; ``nodes`` is updated.

    Args:
        score: the answer that goes with it, kept in the record and shown in the findings table.

    Raises:
        InputError: the CT or the record was deleted, or the CT changed its size. The scene is then as before.
    """
    return _run(add_heatmap_steps(nodes, heatmap, scene, score))


def add_heatmap_steps(
    nodes: AnalysisNodes, heatmap: Heatmap, scene: slicer.vtkMRMLScene, score: FindingScore | None = None
) -> Generator[float, None, slicer.vtkMRMLScalarVolumeNode]:
    """``add_heatmap`` in steps of a few milliseconds: yields the fraction done, returns the volume."""
    _check_fits(heatmap.shape_kji, scene, nodes.volume)
    image = yield from _filled(heatmap, 0, 1)
    _check_fits(heatmap.shape_kji, scene, nodes.volume)
    check_in_scene(nodes.links_text, scene, "The record")
    record = nodes.links_text
    content = _content(record)
    records.add_entries(content, records.heatmap_entry(heatmap, image.low, image.high), score)
    saved = records.read_saved(content, (), f"The text node {record.GetName()}")
    key = heatmap.organ, heatmap.finding, heatmap.source
    same = [node for node in heatmap_nodes(record) if key_of(node) == key]
    with scene_edit.undone_on_error(scene) as made:
        node = image.add_node(scene, nodes.volume, made)
        node.SetAttribute(ANALYSIS, nodes.analysis_id)
        folder = scene_edit.folder_of(record, nodes.analysis_id)
        name = f"{nodes.volume.GetName()}: CTGroundedVLM"
        scene_edit.place_in_folder(scene, made, nodes.volume, folder, name, nodes.analysis_id)
    for former in same:
        scene_edit.remove_node(scene, former)
    record.AddNodeReferenceID(REFERENCE["Heatmap"], node.GetID())
    record.SetText(records.dump(content))
    if score is not None and nodes.findings_table is not None and nodes.findings_table.GetScene() is scene:
        fill_findings_table(nodes.findings_table, saved)
    nodes.heatmaps[heatmap.organ, heatmap.finding] = node
    return node


def restore_result(nodes: AnalysisNodes) -> records.SavedResult:
    """What was shown, read back from the scene, as after loading it; heatmaps are views of their nodes' memory.

    Raises:
        InputError: the record was edited by hand, or written by a later version.
    """
    heatmaps = (read_heatmap_node(node) for node in heatmap_nodes(nodes.links_text))
    content = _content(nodes.links_text)
    return records.read_saved(content, tuple(h for h in heatmaps if h), f"The text node {nodes.links_text.GetName()}")


def _content(record: slicer.vtkMRMLTextNode) -> dict:
    return records.load(record.GetText() or "", f"The text node {record.GetName()}")


def _filled(heatmap: Heatmap, number: int, total: int) -> Generator[float, None, HeatmapImage]:
    image = HeatmapImage(heatmap)
    for fraction in image.fill():
        yield (number + fraction) / total
    return image


def _add(scene: slicer.vtkMRMLScene, made: list, class_name: str, name: str) -> slicer.vtkMRMLNode:
    node = scene.AddNewNodeByClass(class_name, name)
    made.append(node)
    return node


def _add_text(scene: slicer.vtkMRMLScene, made: list, name: str, text: str) -> slicer.vtkMRMLTextNode:
    node = _add(scene, made, "vtkMRMLTextNode", name)
    node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeAlways)  # else it is not saved
    node.SetText(scene_edit.vtk_text(text))
    return node


def _present(node: slicer.vtkMRMLNode | None, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLNode | None:
    """None for a node that was deleted meanwhile: the result stands without it."""
    return node if node is not None and node.GetScene() is scene else None


def _check_fits(
    shape_kji: tuple[int, ...], scene: slicer.vtkMRMLScene, volume_node: slicer.vtkMRMLScalarVolumeNode | None
) -> None:
    if volume_node is None:
        raise InputError("The CT of this analysis was deleted. Load it again and analyze it.")
    check_in_scene(volume_node, scene, "The CT")
    image = volume_node.GetImageData()
    size = image.GetDimensions()[::-1] if geometry.has_voxels(image) else None
    if size != tuple(shape_kji):
        raise InputError(
            f"The CT {volume_node.GetName()} has {size} voxels (k, j, i), the analysed one had {tuple(shape_kji)}: it was "
            "changed meanwhile. Analyze it again."
        )


def _run(steps: Iterator[float]) -> Value:
    """Run a generator to its end; returns its value."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value

"""Puts an analysis into the scene, all or nothing, and reads it back."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Generator

import numpy as np
import slicer

from ..errors import InputError
from ..types import AnalysisResult, FindingScore, Heatmap, ReportComparison
from . import geometry, records, scene_edit
from .checks import check_in_scene
from .heatmaps import HeatmapImage, key_of, read_heatmap_node
from .nodes import (
    ANALYSIS,
    RECORD,
    REFERENCE,
    AnalysisNodes,
    find_analyses,
    heatmap_nodes,
    hide_one_of,
    nodes_of,
    remove_analysis,
)
from .steps import finished
from .tables import fill_findings_table, fill_organs_table


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
    return finished(show_steps(result, scene, volume_node, segmentation_node, report_node))


def show_steps(
    result: AnalysisResult,
    scene: slicer.vtkMRMLScene,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    segmentation_node: slicer.vtkMRMLSegmentationNode | None = None,
    report_node: slicer.vtkMRMLTextNode | None = None,
) -> Generator[float, None, AnalysisNodes]:
    """``show_result`` in steps of a few milliseconds: yields the fraction done, returns the nodes.

    A generator that is closed before its end, or that fails, leaves the scene as it was.
    """
    _check_fits(result.case.ct.array_kji.shape, scene, volume_node)
    images = []
    for number, heatmap in enumerate(result.heatmaps):
        images.append((yield from _filled(heatmap, number, len(result.heatmaps))))
    entries = [records.heatmap_entry(image.heatmap, image.low, image.high) for image in images]
    text = yield from records.text_steps(result, entries)
    yield 1.0
    _check_fits(result.case.ct.array_kji.shape, scene, volume_node)
    inputs = {
        "CT": volume_node,
        "Segmentation": _present(segmentation_node, scene),
        "Report": _present(report_node, scene),
    }
    return (yield from _add_all(result, text, images, scene, inputs))


def _add_all(
    result: AnalysisResult,
    text: str,
    images: list[HeatmapImage],
    scene: slicer.vtkMRMLScene,
    inputs: dict[str, slicer.vtkMRMLNode | None],
) -> Generator[float, None, AnalysisNodes]:
    """Node by node. Until the last step nothing refers to the new nodes, and they are removed again if it does not come."""
    from ..export.labels import notice  # here: a loaded scene is shown without it

    volume, report = inputs["CT"], inputs["Report"]
    name, identifier = volume.GetName(), uuid.uuid4().hex
    with scene_edit.undone_on_error(scene) as made:
        findings = _add(scene, made, "vtkMRMLTableNode", f"{name} findings")
        fill_findings_table(findings, result.findings, result.comparisons, notice(result.model))
        yield 1.0
        organs = _add(scene, made, "vtkMRMLTableNode", f"{name} organs")
        fill_organs_table(organs, result.organs, float(np.prod(result.case.ct.spacing_ijk)) / 1000)
        yield 1.0
        if report is None and result.report.text.strip():
            report = _add_text(scene, made, f"{name} report", result.report.text)
            yield 1.0
        record = _add_text(scene, made, f"{name} links", text, RECORD)
        heatmaps = []
        for image in images:
            yield 1.0
            heatmaps.append(image.add_node(scene, volume, made))
        yield 1.0
        former = [nodes for nodes in find_analyses(scene) if nodes.volume is volume]
        own = {"Record": record, "Findings": findings, "Organs": organs, "Report": report}
        _refer(record, {role: _present(node, scene) for role, node in (inputs | own).items()}, heatmaps)
        _group(scene, made, volume, former, identifier)
    _adopt(report, former, identifier)
    for nodes in former:
        remove_analysis(nodes, scene)
    return nodes_of(record)


def _refer(
    record: slicer.vtkMRMLTextNode,
    nodes: dict[str, slicer.vtkMRMLNode | None],
    heatmaps: list[slicer.vtkMRMLScalarVolumeNode],
) -> None:
    """From here on ``find_analyses`` finds the record, and what belongs to it."""
    for role, node in nodes.items():
        if node is not None:
            record.SetNodeReferenceID(REFERENCE[role], node.GetID())
    for heatmap in heatmaps:
        record.AddNodeReferenceID(REFERENCE["Heatmap"], heatmap.GetID())


def _group(
    scene: slicer.vtkMRMLScene,
    made: list[slicer.vtkMRMLNode],
    volume: slicer.vtkMRMLScalarVolumeNode,
    former: list[AnalysisNodes],
    identifier: str,
) -> None:
    """Mark the new nodes, and put them into the folder of the former analysis or a new one."""
    for node in made:
        node.SetAttribute(ANALYSIS, identifier)
    folders = [scene_edit.folder_of(nodes.links_text, nodes.analysis_id) for nodes in former]
    folder = next((item for item in folders if item), 0)
    scene_edit.place_in_folder(scene, made, volume, folder, f"{volume.GetName()}: CTGroundedVLM", identifier)


def _adopt(report: slicer.vtkMRMLTextNode | None, former: list[AnalysisNodes], identifier: str) -> None:
    """The report that a former analysis made, now given as input, belongs to the new analysis."""
    for nodes in former:
        if report is not None and nodes.report_text is report and report.GetAttribute(ANALYSIS):
            report.SetAttribute(ANALYSIS, identifier)


def add_heatmap(
    nodes: AnalysisNodes,
    heatmap: Heatmap,
    scene: slicer.vtkMRMLScene,
    score: FindingScore | None = None,
    comparison: ReportComparison | None = None,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a heatmap to an analysis, in place of one of the same organ, finding and source; ``nodes`` is updated.

    Args:
        score: the answer that goes with it, kept in the record and shown in the findings table.
        comparison: of that answer with the report.

    Raises:
        InputError: the CT or the record was deleted, or the CT changed its size. The scene is then as before.
    """
    return finished(add_heatmap_steps(nodes, heatmap, scene, score, comparison))


def add_heatmap_steps(
    nodes: AnalysisNodes,
    heatmap: Heatmap,
    scene: slicer.vtkMRMLScene,
    score: FindingScore | None = None,
    comparison: ReportComparison | None = None,
) -> Generator[float, None, slicer.vtkMRMLScalarVolumeNode]:
    """``add_heatmap`` in steps of a few milliseconds: yields the fraction done, returns the volume."""
    _check_fits(heatmap.shape_kji, scene, nodes.volume)
    image = yield from _filled(heatmap, 0, 1)
    check_in_scene(nodes.links_text, scene, "The record")
    content = yield from _content_steps(nodes.links_text)
    yield 1.0
    records.add_entries(content, records.heatmap_entry(heatmap, image.low, image.high), score, comparison)
    text = yield from records.dump_steps(content)
    yield 1.0
    scores = None
    if score is not None:
        scores = yield from records.score_steps(content, f"The text node {nodes.links_text.GetName()}")
    _check_fits(heatmap.shape_kji, scene, nodes.volume)
    check_in_scene(nodes.links_text, scene, "The record")
    node = _added(nodes, image, scene)
    nodes.links_text.SetText(text)
    nodes.heatmaps[heatmap.organ, heatmap.finding] = node
    try:
        yield 1.0
    finally:  # also where the generator is closed here: the record has the answer already
        if scores is not None and _present(nodes.findings_table, scene) is not None:
            fill_findings_table(nodes.findings_table, *scores, str(content.get("notice", "")))
    return node


def _added(nodes: AnalysisNodes, image: HeatmapImage, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLScalarVolumeNode:
    """The heatmap's node in the scene, in its analysis' folder, in place of a former one."""
    record, heatmap = nodes.links_text, image.heatmap
    key = heatmap.organ, heatmap.finding, heatmap.source
    same = [node for node in heatmap_nodes(record) if key_of(node) == key]
    with scene_edit.undone_on_error(scene) as made:
        node = image.add_node(scene, nodes.volume, made)
        node.SetAttribute(ANALYSIS, nodes.analysis_id)
        folder = scene_edit.folder_of(record, nodes.analysis_id)
        name = f"{nodes.volume.GetName()}: CTGroundedVLM"
        scene_edit.place_in_folder(scene, made, nodes.volume, folder, name, nodes.analysis_id)
    hide_one_of(scene, same)
    for former in same:
        scene_edit.remove_node(scene, former)
    record.AddNodeReferenceID(REFERENCE["Heatmap"], node.GetID())
    return node


def restore_result(nodes: AnalysisNodes) -> records.SavedResult:
    """What was shown, read back from the scene, as after loading it; heatmaps are views of their nodes' memory.

    Raises:
        InputError: the record was edited by hand, or written by a later version.
    """
    return finished(restore_steps(nodes))


def restore_steps(nodes: AnalysisNodes) -> Generator[float, None, records.SavedResult]:
    """``restore_result`` in steps of a few milliseconds; raises InputError also where the record leaves the scene."""
    scene, what = nodes.links_text.GetScene(), f"The text node {nodes.links_text.GetName()}"
    content = yield from _content_steps(nodes.links_text)
    saved = yield from records.read_steps(content, what)
    yield 1.0
    check_in_scene(nodes.links_text, scene, "The record")
    heatmaps = (read_heatmap_node(node) for node in heatmap_nodes(nodes.links_text))
    return dataclasses.replace(saved, heatmaps=tuple(heatmap for heatmap in heatmaps if heatmap))


def _content_steps(record: slicer.vtkMRMLTextNode) -> Generator[float, None, dict]:
    return (yield from records.load_steps(record.GetText() or "", f"The text node {record.GetName()}"))


def _filled(heatmap: Heatmap, number: int, total: int) -> Generator[float, None, HeatmapImage]:
    image = HeatmapImage(heatmap)
    for fraction in image.fill():
        yield (number + fraction) / total
    return image


def _add(scene: slicer.vtkMRMLScene, made: list, class_name: str, name: str) -> slicer.vtkMRMLNode:
    node = scene.AddNewNodeByClass(class_name, name)
    made.append(node)
    return node


def _add_text(
    scene: slicer.vtkMRMLScene, made: list, name: str, text: str, mark: str | None = None
) -> slicer.vtkMRMLTextNode:
    node = slicer.vtkMRMLTextNode()
    node.SetName(scene_edit.vtk_text(name))
    node.SetForceCreateStorageNode(slicer.vtkMRMLTextNode.CreateStorageNodeAlways)  # else it is not saved
    node.SetText(scene_edit.vtk_text(text))
    if mark is not None:
        node.SetAttribute(mark, "1")
    scene.AddNode(node)
    made.append(node)
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

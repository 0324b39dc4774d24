"""One analysis as nodes of the scene: tables, the record of links and scores, the report, heatmaps.

Nodes are found from the record's text node by references, never by name: names are the user's. Those that an analysis made
itself also bear its mark (the attribute ``CTGroundedVLM.Analysis``), which a copy made by the user bears too, but no
reference leads to a copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import slicer
import slicer.util

from . import display, scene_edit
from .heatmaps import ATTRIBUTE, key_attributes, key_of

ANALYSIS = ATTRIBUTE + "Analysis"
# Roles of references from a record. It refers to itself as its "Record", which a copy of it does not.
_NAMES = "Record", "CT", "Segmentation", "Findings", "Organs", "Report", "Heatmap"
REFERENCE = {name: ATTRIBUTE + name for name in _NAMES}
RECORD = (
    ATTRIBUTE + "Links"
)  # attribute of a record from the moment when it is added; scenes of earlier versions lack it


@dataclass
class AnalysisNodes:
    """The nodes of one analysis; None for what the user deleted, or what there never was (a report).

    ``links_text``: the record, JSON. ``heatmaps``: (organ, finding) -> volume; where a question of the user has the name of a
    finding, the question's.
    """

    links_text: slicer.vtkMRMLTextNode
    findings_table: slicer.vtkMRMLTableNode | None = None
    organs_table: slicer.vtkMRMLTableNode | None = None
    report_text: slicer.vtkMRMLTextNode | None = None
    heatmaps: dict[tuple[str, str], slicer.vtkMRMLScalarVolumeNode] = field(default_factory=dict)
    volume: slicer.vtkMRMLScalarVolumeNode | None = None
    segmentation: slicer.vtkMRMLSegmentationNode | None = None

    @property
    def analysis_id(self) -> str:
        """What all nodes that this analysis made are marked with."""
        return self.links_text.GetAttribute(ANALYSIS) or ""


def find_analyses(scene: slicer.vtkMRMLScene) -> list[AnalysisNodes]:
    """The analyses in the scene, in the order in which they were added; copies that the user made of records do not count."""
    records = slicer.util.getNodesByClass("vtkMRMLTextNode", scene)
    return [nodes_of(record) for record in records if record.GetNodeReference(REFERENCE["Record"]) is record]


def is_input(node: slicer.vtkMRMLNode) -> bool:
    """Whether a volume or text node can be what is analysed: it is no heatmap and no record, nor a copy of one.

    The report that an analysis made of a text without a node is one: it can be analysed again.
    """
    if node.IsA("vtkMRMLTextNode"):
        return node.GetAttribute(RECORD) is None and not node.GetNodeReferenceID(REFERENCE["Record"])
    return None in key_attributes(node)


def nodes_of(record: slicer.vtkMRMLTextNode) -> AnalysisNodes:
    """What a record's text node refers to."""
    heatmaps = sorted(heatmap_nodes(record), key=lambda node: key_of(node)[2] == "prompt")
    names = ("Findings", "Organs", "Report", "CT", "Segmentation")
    findings, organs, report, volume, segmentation = (record.GetNodeReference(REFERENCE[name]) for name in names)
    by_finding = {key_of(node)[:2]: node for node in heatmaps}
    return AnalysisNodes(record, findings, organs, report, by_finding, volume, segmentation)


def heatmap_nodes(record: slicer.vtkMRMLTextNode) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """The heatmaps that a record refers to and that still exist."""
    role = REFERENCE["Heatmap"]
    nodes = [record.GetNthNodeReference(role, n) for n in range(record.GetNumberOfNodeReferences(role))]
    return [node for node in nodes if node is not None]


def remove_analysis(
    nodes: AnalysisNodes, scene: slicer.vtkMRMLScene, keep: tuple[slicer.vtkMRMLNode, ...] = ()
) -> None:
    """Remove the nodes that an analysis made itself, but those to ``keep``, and its folder if nothing else lies in it.

    The CT, the segmentation, a report that the user gave, and copies that the user made stay.
    """
    record, identifier = nodes.links_text, nodes.analysis_id
    hide_one_of(scene, heatmap_nodes(record))
    folder = scene_edit.folder_of(record, identifier)
    parts = [nodes.findings_table, nodes.organs_table, nodes.report_text, *heatmap_nodes(record), record]
    for node in parts:
        if node is not None and node.GetAttribute(ANALYSIS) == identifier:
            scene_edit.remove_node(scene, node)
    scene_edit.remove_folder_if_empty(scene, folder)


def hide_one_of(scene: slicer.vtkMRMLScene, heatmaps: list[slicer.vtkMRMLScalarVolumeNode]) -> None:
    """Give the slice views back where they show one of these heatmaps, which are about to be removed."""
    if display.shown_heatmap(scene) in heatmaps:
        display.hide_heatmap(scene)

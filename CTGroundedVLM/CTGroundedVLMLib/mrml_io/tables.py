"""The result tables: findings and organs as vtkMRMLTableNode, with titles, units and descriptions of their columns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import slicer
import vtk

from ..types import FindingScore, OrganInfo, ReportComparison
from .scene_edit import vtk_text

_ARRAYS = {"string": vtk.vtkStringArray, "double": vtk.vtkDoubleArray, "int": vtk.vtkIntArray}


@dataclass(frozen=True)
class Column:
    """``kind``: "string", "double" (NaN: no value) or "int". ``unit``: UCUM, or a word where UCUM has none."""

    name: str
    title: str
    description: str
    kind: str = "string"
    unit: str = ""


FINDING_COLUMNS = (
    Column("organ", "Organ", "The model's organ that the finding is scored in."),
    Column("finding", "Finding", "The finding; the user's own words where the source is 'prompt'."),
    Column(
        "probability",
        "Probability",
        "Zero-shot probability of the finding in this organ, 0 to 1; no value where the organ cannot be scored.",
        "double",
        "1",
    ),
    Column("calibrated", "Calibrated", "yes: mapped to a frequency by a calibration file. no: a raw probability."),
    Column("report", "Report", "What the report says of the finding; 'not mentioned' is never read as normal."),
    Column(
        "agreement",
        "Agreement",
        "Of report and image: disagrees, agrees, open (the report leaves it open, or is silent and the image negative), "
        "not scored, not compared (no report).",
    ),
    Column(
        "severity",
        "Severity",
        "Ranks disagreements: distance of the probability from its threshold, weighted by how clearly the report speaks; "
        "0 where there is none.",
        "double",
        "logit",
    ),
    Column("threshold", "Threshold", "From here on the image counts as positive.", "double", "1"),
    Column("reason", "Reason", "All this in words."),
    Column("sentences", "Sentences", "Numbers (from 1) of the report's sentences that speak of the finding."),
    Column("source", "Source", "registry: a finding of the built-in list. prompt: the user's own question."),
    Column("notice", "Notice", "What these numbers are for, and what the model's makers say of it."),
)

ORGAN_COLUMNS = (
    Column("organ", "Organ", "The model's organ."),
    Column("segments", "Segments", "TotalSegmentator classes of this CT's segmentation that make up the organ."),
    Column("volume", "Volume", "Volume of the organ in the segmentation.", "double", "mL"),
    Column("voxels", "Voxels", "Voxels of the organ in the segmentation.", "int", "voxel"),
    Column(
        "visible_fraction",
        "Visible fraction",
        "Share of the organ that the model saw: inside its window and, as estimated, inside the scan; 0 to 1.",
        "double",
        "1",
    ),
    Column(
        "touches_border", "Touches border", "yes: the organ reaches the border of the scan, and may be cut off there."
    ),
    Column("reason", "Reason", "Why the organ is not scored; empty where it is."),
)


def fill_findings_table(
    node: slicer.vtkMRMLTableNode,
    findings: Iterable[FindingScore],
    comparisons: Iterable[ReportComparison],
    notice: str,
) -> None:
    """One row per score: disagreements first, by severity, then by probability. The node's former content goes.

    ``notice``: goes with every row, for the table may be saved without the scene.
    """
    compared = {(c.organ, c.finding, c.source): c for c in comparisons}
    pairs = [(score, compared.get((score.organ, score.finding, score.source))) for score in findings]
    rows = [(*_finding_row(*pair), notice) for pair in sorted(pairs, key=_finding_order)]
    _fill(node, FINDING_COLUMNS, rows)


def _finding_order(pair: tuple[FindingScore, ReportComparison | None]) -> tuple[float, ...]:
    score, comparison = pair
    severity = comparison.severity if comparison and comparison.discrepancy else -1.0
    return -severity, score.probability is None, -(score.probability or 0.0)


def _finding_row(score: FindingScore, comparison: ReportComparison | None) -> tuple:
    said = comparison.sentences if comparison else ()
    return (
        score.organ,
        score.finding,
        score.probability,
        _yes(score.calibrated),
        comparison.report if comparison else "",
        _agreement(score, comparison),
        comparison.severity if comparison else None,
        comparison.threshold if comparison else None,
        comparison.reason if comparison else score.reason or "",
        ", ".join(str(index + 1) for index in said),
        score.source,
    )


def _agreement(score: FindingScore, comparison: ReportComparison | None) -> str:
    if score.probability is None:
        return "not scored"
    if comparison is None:
        return "not compared"
    if comparison.discrepancy:
        return "disagrees"
    agreed = ("present", "positive"), ("absent", "negative")
    return "agrees" if (comparison.report, comparison.image) in agreed else "open"


def fill_organs_table(node: slicer.vtkMRMLTableNode, organs: Iterable[OrganInfo], voxel_ml: float) -> None:
    """One row per organ; ``voxel_ml``: volume of one voxel of the CT, in mL."""
    rows = [
        (
            organ.organ,
            ", ".join(organ.segments),
            organ.voxels * voxel_ml,
            organ.voxels,
            organ.visible_fraction,
            _yes(organ.touches_border),
            organ.reason or "",
        )
        for organ in organs
    ]
    _fill(node, ORGAN_COLUMNS, rows)


def _fill(node: slicer.vtkMRMLTableNode, columns: Sequence[Column], rows: Sequence[tuple]) -> None:
    table = vtk.vtkTable()
    for number, column in enumerate(columns):
        array = _ARRAYS[column.kind]()
        array.SetName(column.name)
        for row in rows:
            array.InsertNextValue(_cell(column.kind, row[number]))
        table.AddColumn(array)
    modifying = node.StartModify()
    node.SetAndObserveTable(table)
    for column in columns:
        node.SetColumnType(column.name, _ARRAYS[column.kind]().GetDataType())
        node.SetColumnTitle(column.name, column.title)
        node.SetColumnDescription(column.name, column.description)
        node.SetColumnUnitLabel(column.name, column.unit)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)  # numbers of a model are not to be edited by a slip of the hand
    node.EndModify(modifying)


def _cell(kind: str, value: object) -> object:
    if kind == "string":
        # Slicer's table file escapes neither tabs nor line breaks nor quotes; the record holds the exact text
        return vtk_text(" ".join(str(value).split()).replace('"', "\N{RIGHT DOUBLE QUOTATION MARK}"))
    if kind == "double":
        return math.nan if value is None else float(value)
    return int(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"

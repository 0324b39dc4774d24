"""Colour legends, as the Colors module makes them."""

from __future__ import annotations

import slicer
import slicer.util

from .scene_edit import vtk_text

# Shares of the view's width and height. The size of the letters follows the width.
_SIZE, _POSITION = (0.09, 0.4), (0.97, 0.5)
_OURS = "CTGroundedVLM.Legend"


def add_legend(
    display_node: slicer.vtkMRMLDisplayNode, title: str, label_format: str, *, three_d: bool = False
) -> slicer.vtkMRMLColorLegendDisplayNode:
    """Show the display's colours with the values they stand for; a legend that is there is changed.

    Args:
        label_format: printf format of the numbers.
        three_d: in 3D views only; otherwise wherever the display is shown.
    """
    legend = slicer.vtkSlicerColorLogic.AddDefaultColorLegendDisplayNode(display_node)
    modifying = legend.StartModify()
    legend.SetTitleText(vtk_text(title))
    legend.SetLabelFormat(label_format)
    legend.SetNumberOfLabels(3)
    legend.SetMaxNumberOfColors(256)
    legend.SetSize(*_SIZE)
    legend.RemoveAllViewNodeIDs()
    if three_d:
        for view in slicer.util.getNodesByClass("vtkMRMLViewNode", display_node.GetScene()):
            legend.AddViewNodeID(view.GetID())
    legend.SetAttribute(_OURS, "1")
    legend.SetSaveWithScene(display_node.GetSaveWithScene())
    legend.SetVisibility(True)
    legend.Modified()  # the view asks again whether what it explains is shown
    legend.EndModify(modifying)
    return legend


def legends(displayable_node: slicer.vtkMRMLDisplayableNode | None) -> list[slicer.vtkMRMLColorLegendDisplayNode]:
    """The legends of a node; none of None."""
    if displayable_node is None:
        return []
    displays = [displayable_node.GetNthDisplayNode(n) for n in range(displayable_node.GetNumberOfDisplayNodes())]
    return [display for display in displays if display and display.IsA("vtkMRMLColorLegendDisplayNode")]


def hide_legends(displayable_node: slicer.vtkMRMLDisplayableNode | None) -> None:
    """Hide the legends of a node. They stay in the scene: whatever lists nodes would be told of each that comes and goes."""
    for legend in legends(displayable_node):
        legend.SetVisibility(False)


def remove_legends(displayable_node: slicer.vtkMRMLDisplayableNode) -> None:
    """Take the legends of a node out of the scene."""
    for legend in legends(displayable_node):
        displayable_node.GetScene().RemoveNode(legend)


def remove_orphans(scene: slicer.vtkMRMLScene) -> None:
    """Take legends of ours out of the scene whose node was deleted: they would stay in the views."""
    for legend in _ours(scene):
        if legend.GetDisplayableNode() is None:
            scene.RemoveNode(legend)


def remove_our_legends(scene: slicer.vtkMRMLScene) -> None:
    """Take all legends of ours out of the scene."""
    for legend in _ours(scene):
        scene.RemoveNode(legend)


def _ours(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLColorLegendDisplayNode]:
    nodes = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", scene)
    return [legend for legend in nodes if legend.GetAttribute(_OURS) is not None]

"""Changing the scene so that it can be taken back: nodes with their display and storage nodes, folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import slicer

_FOLDER_MARK = "CTGroundedVLM.Analysis"  # attribute of a folder item: the id of the analysis whose nodes it holds


def vtk_text(text: str) -> str:
    """``text`` as a VTK string can hold it: half a surrogate pair, which a Qt text can have, would abort Slicer."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


@contextmanager
def undone_on_error(scene: slicer.vtkMRMLScene) -> Iterator[list[slicer.vtkMRMLNode]]:
    """Gives a list for the nodes that are made; when the block raises, they are removed again, the last one first."""
    made: list[slicer.vtkMRMLNode] = []
    try:
        yield made
    except BaseException:
        for node in reversed(made):
            remove_node(scene, node)
        raise


def remove_node(scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode) -> None:
    """Remove a node with its display and storage nodes, which the scene alone would leave behind."""
    parts = []
    for count, get in (("NumberOfDisplayNodes", "NthDisplayNode"), ("NumberOfStorageNodes", "NthStorageNode")):
        if hasattr(node, f"Get{count}"):
            parts += [getattr(node, f"Get{get}")(n) for n in range(getattr(node, f"Get{count}")())]
    for gone in (node, *parts):
        if gone is not None and gone.GetScene() is scene:
            scene.RemoveNode(gone)


def folder_of(node: slicer.vtkMRMLNode, analysis_id: str) -> int:
    """The subject hierarchy folder that was made for an analysis and that ``node`` lies in; 0 where there is none."""
    hierarchy = _hierarchy(node.GetScene())
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
    ours = folder and folder != hierarchy.GetSceneItemID() and hierarchy.HasItemAttribute(folder, _FOLDER_MARK)
    return folder if ours and hierarchy.GetItemAttribute(folder, _FOLDER_MARK) == analysis_id else 0


def place_in_folder(
    scene: slicer.vtkMRMLScene,
    nodes: Iterable[slicer.vtkMRMLNode],
    beside: slicer.vtkMRMLNode,
    folder: int,
    name: str,
    analysis_id: str,
) -> None:
    """Put nodes into ``folder``, or (0) into a new one that lies where the node ``beside`` does: under its study."""
    hierarchy = _hierarchy(scene)
    new = 0
    try:
        if not folder:
            parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(beside)) or hierarchy.GetSceneItemID()
            folder = new = hierarchy.CreateFolderItem(parent, name)
        for node in nodes:
            hierarchy.CreateItem(folder, node)  # moves the item that Slicer has already made for the node
        hierarchy.SetItemAttribute(folder, _FOLDER_MARK, analysis_id)
    except BaseException:
        if new:
            hierarchy.RemoveItem(new, False, False)
        raise


def remove_folder_if_empty(scene: slicer.vtkMRMLScene, folder: int) -> None:
    """Remove a folder item unless something lies in it."""
    hierarchy = _hierarchy(scene)
    if folder and hierarchy.GetNumberOfItemChildren(folder) == 0:
        hierarchy.RemoveItem(folder)


def _hierarchy(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLSubjectHierarchyNode:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

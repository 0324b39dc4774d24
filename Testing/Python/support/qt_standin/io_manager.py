"""Stand-in for ``slicer.app.coreIOManager()``: loads local files with Slicer's real logics."""

# ruff: noqa: N801, N802  (names as in Slicer)

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk


class qSlicerCoreIOManager:
    """Loads volumes, segmentations and texts, as their readers do; nothing else."""

    def loadNodes(self, file_type: str, properties: dict[str, Any], loaded: Any, messages: Any) -> bool:
        """Add the file's node to ``loaded``; False where it cannot be read."""
        path = Path(properties["fileName"])
        node = _LOADERS[file_type](path, properties["name"]) if path.is_file() else None
        if node is None:
            messages.AddMessage(vtk.vtkCommand.ErrorEvent, f"{path} cannot be read")
            return False
        loaded.AddItem(node)
        return True


def _volume(path: Path, name: str) -> Any:
    return slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, 0)


def _segmentation(path: Path, name: str) -> Any:
    label_map = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, 1)
    if label_map is None:
        return None
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(label_map)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_map, node)
    slicer.mrmlScene.RemoveNode(label_map)
    return node


def _text(path: Path, name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name)
    node.SetText(path.read_text(encoding="utf-8"))
    return node


_LOADERS = {"VolumeFile": _volume, "SegmentationFile": _segmentation, "TextFile": _text}

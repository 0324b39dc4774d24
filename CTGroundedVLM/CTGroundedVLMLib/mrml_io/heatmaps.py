"""A heatmap as a scalar volume: the organ's box with a matrix of its own, float32, zero outside the organ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import slicer
import vtk

from ..types import Heatmap
from . import geometry
from .scene_edit import vtk_text

ATTRIBUTE = "CTGroundedVLM."
_TEXTS = {"Organ": "organ", "Finding": "finding", "Source": "source", "Method": "method", "Unit": "unit"}
_SLAB_VALUES = 1_000_000  # 4 MB: copied within a few ms


class HeatmapImage:
    """A heatmap's values in an image that is in no scene yet. ``low`` <= 0 <= ``high``: its range."""

    def __init__(self, heatmap: Heatmap) -> None:
        self.heatmap = heatmap
        self.low = self.high = 0.0
        self.image = vtk.vtkImageData()
        self.image.SetDimensions(*heatmap.values_kji.shape[::-1])
        self.image.AllocateScalars(vtk.VTK_FLOAT, 1)

    def fill(self) -> Iterator[float]:
        """Copy the values slab by slab, yielding the fraction done; what is not a finite number becomes 0."""
        target = geometry.image_array(self.image)
        values = self.heatmap.values_kji
        step = max(1, _SLAB_VALUES // max(1, values[:1].size))
        for start in range(0, len(values), step):
            slab = np.nan_to_num(values[start : start + step], nan=0.0, posinf=0.0, neginf=0.0)
            target[start : start + step] = slab
            self.low, self.high = min(self.low, float(slab.min())), max(self.high, float(slab.max()))
            yield (start + len(slab)) / len(values)

    def add_node(
        self,
        scene: slicer.vtkMRMLScene,
        volume_node: slicer.vtkMRMLScalarVolumeNode,
        made: list[slicer.vtkMRMLNode],
    ) -> slicer.vtkMRMLScalarVolumeNode:
        """The volume node, on the lattice of ``volume_node`` and under its parent transform; noted in ``made`` at once."""
        heatmap = self.heatmap
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(vtk_text(f"{heatmap.finding} ({heatmap.organ.replace('_', ' ')}) heatmap"))
        matrix = vtk.vtkMatrix4x4()
        volume_node.GetIJKToRASMatrix(matrix)
        shift = np.eye(4)
        shift[:3, 3] = np.array(heatmap.start_kji[::-1]) + volume_node.GetImageData().GetExtent()[::2]
        node.SetIJKToRASMatrix(geometry.to_vtk(geometry.to_numpy(matrix) @ shift))
        node.SetAndObserveImageData(self.image)
        for name, field in _TEXTS.items():
            node.SetAttribute(ATTRIBUTE + name, vtk_text(str(getattr(heatmap, field))))
        node.SetAttribute(ATTRIBUTE + "Start", _numbers(heatmap.start_kji))
        node.SetAttribute(ATTRIBUTE + "Shape", _numbers(heatmap.shape_kji))
        scene.AddNode(node)
        made.append(node)
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        self._add_display(scene, node)
        return node

    def _add_display(self, scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        """Symmetric around zero; the automatic window would cost a histogram, and hide the sign."""
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        display.SetAutoWindowLevel(False)
        display.SetWindowLevel(2 * (max(-self.low, self.high) or 1.0), 0.0)
        scene.AddNode(display)
        node.SetAndObserveDisplayNodeID(display.GetID())
        display.SetDefaultColorMap()


def key_of(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[str, str, str]:
    """Organ, finding and source of a heatmap's node."""
    return tuple(value or "" for value in key_attributes(node))


def key_attributes(node: slicer.vtkMRMLNode) -> tuple[str | None, ...]:
    """As ``key_of``, but None for what the node lacks: any other node lacks all."""
    return tuple(node.GetAttribute(ATTRIBUTE + name) for name in ("Organ", "Finding", "Source"))


def read_heatmap_node(node: slicer.vtkMRMLScalarVolumeNode) -> Heatmap | None:
    """The heatmap, its values a view of the node's memory; None where the node lost its voxels or its attributes."""
    texts = {field: node.GetAttribute(ATTRIBUTE + name) for name, field in _TEXTS.items()}
    start, shape = (node.GetAttribute(ATTRIBUTE + name) for name in ("Start", "Shape"))
    if None in texts.values() or not (start and shape and geometry.has_voxels(node.GetImageData())):
        return None
    values = geometry.image_array(node.GetImageData())
    return Heatmap(values_kji=values, start_kji=_tuple(start), shape_kji=_tuple(shape), **texts)


def _numbers(values: tuple[int, ...]) -> str:
    return " ".join(str(value) for value in values)


def _tuple(text: str) -> tuple[int, ...]:
    return tuple(int(value) for value in text.split())

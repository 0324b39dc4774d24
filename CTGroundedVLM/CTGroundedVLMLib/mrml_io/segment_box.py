"""The box of one segment, thinned: its surface is made of it, and its centre found in it.

A label map is read as it lies in memory; on a CT of 512 x 512 x 400 voxels the box takes some milliseconds.
"""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

_MOST_VOXELS = 400_000  # of the box; more are thinned: a liver gets voxels of about 2.5 mm
_SEARCH_STEP = 4  # the box is looked for on every 4th voxel first


def binary_labelmap() -> str:
    """The name of the representation by voxels."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def segment_centre(
    segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str
) -> tuple[float, float, float] | None:
    """A place (RAS, mm) inside a segment: its voxel nearest to the middle of all; None where it is gone or empty.

    ``GetSegmentCenterRAS``, which is asked for segments without voxels only, takes 0.2 s on a CT of 512 x 512 x 400 voxels.
    """
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    if segment is None:
        return None
    image = segment.GetRepresentation(binary_labelmap())
    if image is None:
        return segmentation_node.GetSegmentCenterRAS(segment_id)
    box = thinned_box(image, segment.GetLabelValue())
    if box is None:
        return None
    columns, rows, slices = box.GetDimensions()
    mask = vtk_to_numpy(box.GetPointData().GetScalars()).reshape(slices, rows, columns)
    voxels_kji = np.argwhere(mask)
    if not len(voxels_kji):  # thinned away
        return segmentation_node.GetSegmentCenterRAS(segment_id)
    apart = (voxels_kji - voxels_kji.mean(axis=0)) * np.array(box.GetSpacing())[::-1]
    middle = voxels_kji[(apart**2).sum(axis=1).argmin()]
    matrix = vtk.vtkMatrix4x4()
    box.GetImageToWorldMatrix(matrix)
    world = [0.0, 0.0, 0.0]
    segmentation_node.TransformPointToWorld(matrix.MultiplyPoint((*map(float, middle[::-1]), 1.0))[:3], world)
    return tuple(world)


def thinned_box(image: slicer.vtkOrientedImageData, label: int) -> slicer.vtkOrientedImageData | None:
    """The voxels of one label in their box with a margin of one, thinned; None where there are none."""
    if image.IsEmpty():
        return None
    columns, rows, slices = image.GetDimensions()
    labels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(slices, rows, columns)
    box = _box(labels, label)
    if box is None:
        return None
    cut = labels[box]
    step = max(1, int(np.ceil((cut.size / _MOST_VOXELS) ** (1 / 3))))
    mask = np.pad((cut[::step, ::step, ::step] == label).astype(np.uint8), 1)
    first = np.array([b.start for b in box[::-1]]) + image.GetExtent()[::2] - step
    place = np.diag([step, step, step, 1.0])
    place[:3, 3] = first
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    matrix = slicer.util.vtkMatrixFromArray(slicer.util.arrayFromVTKMatrix(matrix) @ place)
    thinned = slicer.vtkOrientedImageData()
    thinned.SetDimensions(*mask.shape[::-1])
    thinned.GetPointData().SetScalars(numpy_to_vtk(mask.ravel(), deep=True))
    thinned.SetGeometryFromImageToWorldMatrix(matrix)
    return thinned


def _box(labels_kji: np.ndarray, label: int) -> tuple[slice, slice, slice] | None:
    """The box of a label, up to ``_SEARCH_STEP`` voxels too large; found on fewer voxels where these show it."""
    for step in (_SEARCH_STEP, 1):
        found = labels_kji[::step, ::step, ::step] == label
        used = [np.flatnonzero(found.any(axis=tuple({0, 1, 2} - {axis}))) * step for axis in range(3)]
        if used[0].size:
            return tuple(
                slice(max(0, int(u[0]) - step + 1), min(size, int(u[-1]) + step))
                for u, size in zip(used, labels_kji.shape, strict=True)
            )
    return None

"""Where voxels lie: matrices and arrays of MRML nodes, without copies.

"World" is Slicer's RAS in mm, after all parent transforms. Arrays are (K, J, I); matrices (4, 4), voxel centres.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..errors import InputError


def volume_to_world(volume_node: slicer.vtkMRMLVolumeNode, what: str, error: type[InputError]) -> np.ndarray:
    """The matrix from the indices of ``image_array`` to the world.

    Raises:
        error: a parent transform is not linear; the message names ``what``.
    """
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    local = to_numpy(matrix) @ _from_array_index(volume_node.GetImageData())
    return parent_to_world(volume_node, what, error) @ local


def layer_to_parent(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """The matrix from the indices of a segmentation layer's ``image_array`` to the segmentation node's own coordinates."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)  # VTK's "world" of the data object knows no parent transform
    return to_numpy(matrix) @ _from_array_index(image)


def parent_to_world(node: slicer.vtkMRMLTransformableNode, what: str, error: type[InputError]) -> np.ndarray:
    """The matrix of all parent transforms of ``node``; raises ``error`` where one is not linear."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise error(
            f"{what} is under the transform {transform.GetName()}, which is not linear; no or a linear transform is "
            "expected. Harden it (Transforms module) or move the node out of it."
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return to_numpy(matrix)


def voxel_position(volume_node: slicer.vtkMRMLVolumeNode, ijk: tuple[float, float, float]) -> tuple[float, ...]:
    """World position (RAS, mm) of a voxel of ``image_array``; any parent transform, also one that is not linear."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    local = to_numpy(matrix) @ _from_array_index(volume_node.GetImageData()) @ [*ijk, 1.0]
    world = [0.0, 0.0, 0.0]
    volume_node.TransformPointToWorld([float(x) for x in local[:3]], world)
    return tuple(world)


def image_array(image: vtk.vtkImageData) -> np.ndarray:
    """(K, J, I) or (K, J, I, components): a view of the image's memory, good only while its scalars stay as they are."""
    i, j, k = image.GetDimensions()
    flat = vtk_to_numpy(image.GetPointData().GetScalars())
    return flat.reshape((k, j, i) if flat.ndim == 1 else (k, j, i, flat.shape[1]))


def has_voxels(image: vtk.vtkImageData | None) -> bool:
    """Whether there is an image that holds values."""
    scalars = image.GetPointData().GetScalars() if image is not None else None
    return scalars is not None and scalars.GetNumberOfTuples() > 0


def boxes_meet(shape_kji: tuple[int, ...], to_world: np.ndarray, other_kji: tuple[int, ...], other: np.ndarray) -> bool:
    """Whether two grids may share a point: false only where an axis of the first one parts them.

    For grids that are turned against each other the answer may be true although they do not meet.
    """
    corners = np.array([(*corner, 1.0) for corner in product(*[(-0.5, n - 0.5) for n in other_kji[::-1]])])
    inside = (np.linalg.inv(to_world) @ other @ corners.T)[:3]
    size = np.array(shape_kji[::-1])
    return bool(np.all((inside.max(axis=1) > -0.5) & (inside.min(axis=1) < size - 0.5)))


def to_numpy(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """The VTK matrix of a (4, 4) array."""
    result = vtk.vtkMatrix4x4()
    result.DeepCopy([float(x) for x in np.asarray(matrix).ravel()])
    return result


def _from_array_index(image: vtk.vtkImageData) -> np.ndarray:
    """From array indices, which start at 0, to VTK's, which start at the extent's lower ends."""
    shift = np.eye(4)
    shift[:3, 3] = image.GetExtent()[::2]
    return shift

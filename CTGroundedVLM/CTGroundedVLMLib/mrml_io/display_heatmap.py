"""Numbers that the display of a heatmap needs: how strong its evidence is, and where its voxels lie."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk

from ..errors import InputError
from .display_colours import Evidence, check_evidence

_PERCENTILE = 99.5  # a few extreme voxels do not darken the rest
_LEAST_SHARE = 0.1  # of the other sign's strength: weak evidence is not blown up to look strong


def evidence_limit(heatmap_node: slicer.vtkMRMLScalarVolumeNode | None, evidence: Evidence = "for") -> float:
    """The value that gets the strongest colour: the 99.5th percentile of the evidence, and 1 where there is none.

    It is that of the wanted sign, but at least a tenth of what both signs together give.

    Raises:
        InputError: the node holds no image, or ``evidence`` is not known.
    """
    check_evidence(evidence)
    values = heatmap_values(heatmap_node)
    values = values[np.isfinite(values) & (values != 0)]
    wanted = {"for": values[values > 0], "against": values[values < 0], "both": values}[evidence]
    limit = max(_strength(wanted), _LEAST_SHARE * _strength(values))
    return limit or 1.0


def _strength(values: np.ndarray) -> float:
    return float(np.percentile(np.abs(values), _PERCENTILE)) if values.size else 0.0


def heatmap_values(heatmap_node: slicer.vtkMRMLScalarVolumeNode | None) -> np.ndarray:
    """The heatmap's array (K, J, I), a view.

    Raises:
        InputError: there is none.
    """
    if heatmap_node is None or heatmap_node.GetImageData() is None:
        name = heatmap_node.GetName() if heatmap_node is not None else "None"
        raise InputError(f"The heatmap {name!r} holds no image; run the analysis, or ask for the heatmap again.")
    return slicer.util.arrayFromVolume(heatmap_node)


def ras_to_ijk(volume_node: slicer.vtkMRMLVolumeNode, points_of: slicer.vtkMRMLTransformableNode) -> np.ndarray:
    """(4, 4) from the local coordinates of ``points_of`` to the volume's voxels; linear parent transforms count."""
    local_to_volume = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        points_of.GetParentTransformNode(), volume_node.GetParentTransformNode(), local_to_volume
    )
    to_ijk = vtk.vtkMatrix4x4()
    volume_node.GetRASToIJKMatrix(to_ijk)
    vtk.vtkMatrix4x4.Multiply4x4(to_ijk, local_to_volume, to_ijk)
    return slicer.util.arrayFromVTKMatrix(to_ijk)

"""The cameras of the 3D views: turned to surfaces that they do not see.

Slicer's camera stands 500 mm in front of the origin and sees 134 mm around it; the origin of a CT's coordinates may lie
anywhere, so that the surfaces of a chest are often far above it. A view that shows them already is left as the user has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import slicer
import slicer.util
import vtk

_ALONG = 5  # points of the box per axis that are looked for in the view
_ENOUGH = 0.5  # of these points


def look_at(scene: slicer.vtkMRMLScene, models: Iterable[slicer.vtkMRMLModelNode]) -> None:
    """Move each camera that does not see the models to their middle, and back until they fit; it keeps its direction.

    Surfaces count as seen where half of their box lies in the view, or the middle of the view looks into it (a close-up).
    """
    box = vtk.vtkBoundingBox()
    for model in models:
        bounds = [0.0] * 6
        model.GetRASBounds(bounds)
        if bounds[0] <= bounds[1]:  # an empty surface has none
            box.AddBounds(bounds)
    if not box.IsValid():
        return
    bounds = [0.0] * 6
    box.GetBounds(bounds)
    low_high = np.reshape(bounds, (3, 2)).T
    for camera in slicer.util.getNodesByClass("vtkMRMLCameraNode", scene):
        if not _sees(camera, low_high):
            _move(camera, low_high.mean(axis=0), float(np.ptp(low_high, axis=0) @ np.ptp(low_high, axis=0)) ** 0.5 / 2)


def _sees(camera: slicer.vtkMRMLCameraNode, low_high: np.ndarray) -> bool:
    """``low_high``: (2, 3), the corners of a box in mm (RAS). The view is taken for square: MRML does not know its width."""
    position, focus, up = (np.array(v) for v in (camera.GetPosition(), camera.GetFocalPoint(), camera.GetViewUp()))
    distance = np.linalg.norm(focus - position)
    if distance == 0:
        return False
    ahead = (focus - position) / distance
    if _hits(position, ahead, low_high):
        return True
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right) or 1.0
    grid = np.meshgrid(*np.linspace(*low_high, _ALONG).T)
    points = np.stack(grid, axis=-1).reshape(-1, 3) - position
    depth = points @ ahead
    angle = math.radians(camera.GetViewAngle()) / 2
    reach = camera.GetParallelScale() if camera.GetParallelProjection() else depth * math.tan(angle)
    seen = (depth > 0) & (np.abs(points @ right) <= reach) & (np.abs(points @ np.cross(right, ahead)) <= reach)
    return bool(seen.mean() >= _ENOUGH)


def _hits(origin: np.ndarray, direction: np.ndarray, low_high: np.ndarray) -> bool:
    """Whether a ray meets a box (slabs: it is inside all three ranges at once); an origin inside of it does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = (low_high - origin) / direction
    crossings = np.where(np.isnan(crossings), 0.0, crossings)  # along a side of the box
    enters, leaves = crossings.min(axis=0).max(), crossings.max(axis=0).min()
    return bool(leaves >= max(enters, 0.0))


def _move(camera: slicer.vtkMRMLCameraNode, middle: np.ndarray, radius: float) -> None:
    """Focus the middle of a sphere (mm, RAS), from the same side, at least as far away as before."""
    back = np.array(camera.GetPosition()) - camera.GetFocalPoint()
    former = float(np.linalg.norm(back))
    back = back / former if former else np.array([0.0, 1.0, 0.0])  # from the front
    distance = max(former, radius / math.sin(math.radians(camera.GetViewAngle()) / 2))
    modifying = camera.StartModify()
    try:
        camera.SetFocalPoint(*middle)
        camera.SetPosition(*(middle + distance * back))
        if camera.GetParallelProjection():
            camera.SetParallelScale(max(camera.GetParallelScale(), radius))
    finally:
        camera.EndModify(modifying)
    camera.ResetClippingRange()

"""Shows the image that a report cites ("series 4, image 112")."""

from __future__ import annotations

import slicer
import slicer.util

from ..errors import InputError
from ..mrml_io import display, find_citation
from ..types import Citation


def go_to_citation(scene: slicer.vtkMRMLScene, volume_node: slicer.vtkMRMLScalarVolumeNode, citation: Citation) -> None:
    """Move the slices to the image: of this volume, or of another loaded one, which comes into the background then.

    Raises:
        InputError: no loaded volume holds it, as far as the DICOM headers tell.
    """
    database = getattr(slicer, "dicomDatabase", None)
    if database is None:
        raise InputError("Slicer's DICOM module is not enabled, so that cited images cannot be found. Enable it.")
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode", scene)
    volumes.sort(key=lambda node: node is not volume_node)
    found = find_citation(volumes, citation, database.fileForInstance)
    if found is None:
        series = "" if citation.series is None else f" of series {citation.series}"
        raise InputError(
            f"Image {citation.image}{series} is in none of the loaded volumes, as far as their DICOM headers tell. "
            "Load that series with the DICOM module."
        )
    if found[0] is not volume_node:
        slicer.util.setSliceViewerLayers(background=found[0])
    display.jump_to(scene, found[1])

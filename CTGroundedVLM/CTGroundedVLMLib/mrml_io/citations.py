"""Where in a volume an image is that a report cites ("series 4, image 112"), by the DICOM headers of its slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import slicer
import vtk

from ..types import Citation
from . import geometry

# SOP instance UID -> the DICOM file, or None where it is not known; in Slicer, slicer.dicomDatabase.fileForInstance.
DicomLookup = Callable[[str], str | Path | None]

_UIDS = "DICOM.instanceUIDs"  # attribute of a volume that Slicer loaded from DICOM, in the order of its slices
_TAGS = ["SeriesNumber", "InstanceNumber", "ImagePositionPatient"]
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def citation_position(
    volume_node: slicer.vtkMRMLScalarVolumeNode, citation: Citation, dicom_lookup: DicomLookup
) -> tuple[float, ...] | None:
    """World position (RAS, mm) of the centre of the cited slice.

    None where the volume is not from DICOM, is of another series than the cited one, has no such image, or was moved
    since it was loaded. A citation without a series is taken to mean the given volume's. Instance numbers mostly follow
    each other: then up to four headers are read, also where the image is not among them; else those of all slices, up to the
    cited one.
    """
    uids = (volume_node.GetAttribute(_UIDS) or "").split()
    if not uids or not geometry.has_voxels(volume_node.GetImageData()):
        return None
    headers = _Headers(uids, dicom_lookup)
    first = headers.read(0)
    if first is None or citation.series not in (None, _number(first, "SeriesNumber")):
        return None
    header = headers.of_image(citation.image)
    return None if header is None else _slice_centre(volume_node, header)


def find_citation(
    volume_nodes: Iterable[slicer.vtkMRMLScalarVolumeNode], citation: Citation, dicom_lookup: DicomLookup
) -> tuple[slicer.vtkMRMLScalarVolumeNode, tuple[float, ...]] | None:
    """The first of these volumes that holds the cited image, and where; the analysed CT should come first."""
    for volume_node in volume_nodes:
        position = citation_position(volume_node, citation, dicom_lookup)
        if position is not None:
            return volume_node, position
    return None


class _Headers:
    """The headers of a volume's slices, read when asked for."""

    def __init__(self, uids: list[str], lookup: DicomLookup) -> None:
        self._uids, self._lookup = uids, lookup
        self._read: dict[int, object] = {}

    def read(self, index: int) -> object | None:
        """The header of one slice; None where its file is gone or damaged."""
        if index not in self._read:
            self._read[index] = _header_of(self._lookup(self._uids[index]))
        return self._read[index]

    def of_image(self, image: int) -> object | None:
        """The header with that instance number: first where consecutive numbers would put it, then everywhere."""
        first = self._image_number(0)
        guesses = [] if first is None else [image - first, first - image]
        for index in guesses:
            if 0 <= index < len(self._uids) and self._image_number(index) == image:
                return self.read(index)
        everywhere = () if self._lies_beyond(image) else range(len(self._uids))
        found = next((index for index in everywhere if self._image_number(index) == image), None)
        return None if found is None else self.read(found)

    def _image_number(self, index: int) -> int | None:
        return _number(self.read(index), "InstanceNumber")

    def _lies_beyond(self, image: int) -> bool:
        """Whether slices are numbered in equal steps, as far as both ends and the middle tell, and not up to that number.

        Reading all headers of a series takes some tenths of a second, in which Slicer would stand still.
        """
        last = len(self._uids) - 1
        middle = last // 2
        numbers = [self._image_number(index) for index in (0, middle, last)]
        if last < 2 or None in numbers:
            return False
        first, between, end = numbers
        evenly = end != first and (between - first) * last == (end - first) * middle
        return evenly and not min(first, end) <= image <= max(first, end)


def _header_of(path: str | Path | None) -> object | None:
    import pydicom  # here: only a click on a citation needs it

    if not path:
        return None
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except (OSError, EOFError, ValueError, pydicom.errors.InvalidDicomError):
        return None  # the DICOM files were moved or damaged since the volume was loaded: no link then


def _number(header: object | None, keyword: str) -> int | None:
    try:
        return int(getattr(header, keyword, None))
    except (TypeError, ValueError):  # absent or blank
        return None


def _slice_centre(volume_node: slicer.vtkMRMLScalarVolumeNode, header: object) -> tuple[float, ...] | None:
    """By the header's position rather than by the slice's place in the list, which another loader may order otherwise."""
    try:
        position = np.array(getattr(header, "ImagePositionPatient", None), float)
    except (TypeError, ValueError):  # pydicom reads the numbers now, and they are none
        return None
    if position.shape != (3,) or not np.isfinite(position).all():
        return None
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetRASToIJKMatrix(matrix)
    corner = geometry.to_numpy(matrix) @ [*(position * _LPS_TO_RAS), 1.0]
    i, j, k = volume_node.GetImageData().GetDimensions()
    found = round(float(corner[2]))
    # another orientation, or moved (centred) since it was loaded
    if not 0 <= found < k or abs(corner[2] - found) > 0.25 or not (_at_edge(corner[0], i) and _at_edge(corner[1], j)):
        return None
    return geometry.voxel_position(volume_node, ((i - 1) / 2, (j - 1) / 2, found))


def _at_edge(index: float, size: int) -> bool:
    """Whether the first pixel of a slice is at one end of an axis, as it must be; half a voxel of tolerance."""
    return min(abs(index), abs(index - (size - 1))) < 0.5

"""Reads a segmentation onto its CT's grid, with TotalSegmentator v2 label values, whatever form it comes in.

Forms: a label map (TotalSegmentator's values, or names in its NIfTI header), 3D Slicer's ``.seg.nrrd``, and a folder
with one mask per class. A label map on another lattice is resampled by nearest neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from . import anatomy, guards, image_file
from .errors import SegmentationError
from .grids import place_on_grid
from .image_file import Progress
from .slicer_segments import SlicerSegment, is_slicer_segmentation, slicer_segments
from .types import Segmentation, Volume
from .volume_dicom import is_dicom_file

_KEPT_FRACTION = 0.9  # of the mask's volume; below, the user is told how much lies outside the CT
_LABEL_TABLE = re.compile(rb'<Label Key="(\d+)"[^>]*><!\[CDATA\[(.*?)\]\]>')  # TotalSegmentator's nifti_ext_header.py

# One label map in v2 label values, (K, J, I) uint8, and its (4, 4) ijk-to-RAS matrix.
LabelMap = tuple[np.ndarray, np.ndarray]


def read_segmentation(path: Path, ct: Volume, *, version: int = 2, progress: Progress | None = None) -> Segmentation:
    """Read ``path`` onto the grid of ``ct``; ``version`` is TotalSegmentator's, for label maps without names.

    The result's label values are those of TotalSegmentator v2. Errors: SegmentationError, ResourceError.
    """
    path = Path(path)
    what = f"Segmentation {path.name}"
    warnings: list[str] = []
    if path.is_dir():
        sources = _class_files(path, what, warnings)
        maps = _read_class_files(sources, progress)
        hashed = list(sources)
    else:
        if path.is_file() and not image_file.is_image_file(path) and is_dicom_file(path):
            raise SegmentationError(
                f"{what} is a DICOM object, which is not read. Load it in 3D Slicer and save it as .seg.nrrd."
            )
        maps = iter(_read_label_file(path, what, version, warnings))
        hashed = [path]
        if progress:
            progress(f"Read {what}", 1.0)
    labels = merge_maps(maps, ct, what, warnings)
    all_names = anatomy.label_names()
    names = {label: all_names[label] for label in present_values(labels)}
    return Segmentation(labels, names, str(path), image_file.sha256_of(hashed), tuple(warnings))


def present_values(labels: np.ndarray) -> list[int]:
    """The values other than 0 in an unsigned integer array, ascending."""
    counts = np.zeros(np.iinfo(labels.dtype).max + 1, np.int64)
    for slab in labels:  # one by one: bincount works on 8-byte copies
        counts += np.bincount(slab.ravel(), minlength=counts.size)
    return [int(value) for value in np.flatnonzero(counts) if value]


def merge_maps(maps: Iterator[LabelMap], ct: Volume, what: str, warnings: list[str]) -> np.ndarray:
    """Put every label map on the CT's grid; where two meet, the later one stays."""
    merged = None
    given_mm3 = kept_mm3 = 0.0
    resampled = False
    ct_voxel_mm3 = float(np.prod(ct.spacing_ijk))
    for labels, ijk_to_ras in maps:
        placed, exact = place_on_grid(labels, ijk_to_ras, ct.array_kji.shape, ct.ijk_to_ras)
        resampled |= not exact
        given_mm3 += np.count_nonzero(labels) * abs(np.linalg.det(ijk_to_ras[:3, :3]))
        kept_mm3 += np.count_nonzero(placed) * ct_voxel_mm3
        if merged is None:
            merged = placed
        else:
            np.copyto(merged, placed, where=placed > 0)
    if merged is None or not given_mm3:
        raise SegmentationError(f"{what} is empty: no voxel belongs to a segment. Run the segmentation again.")
    if not kept_mm3:
        raise SegmentationError(
            f"{what} does not overlap the CT {ct.name}: all its segments lie outside. Give the segmentation of this CT."
        )
    if resampled:
        warnings.append(f"{what} is on another grid than the CT; it was resampled to the CT by nearest neighbour.")
    if kept_mm3 < _KEPT_FRACTION * given_mm3:
        warnings.append(f"{what}: only {kept_mm3 / given_mm3:.0%} of the segmented volume lies inside the CT.")
    return merged


def _read_image(path: Path, what: str, allow_layers: bool) -> tuple[np.ndarray, image_file.ImageHeader]:
    """(K, J, I) or (K, J, I, layer) unsigned integers, and the file's header."""
    header = image_file.read_header(path, what, SegmentationError)
    layered = allow_layers and is_slicer_segmentation(header.metadata)
    components = 1 if layered else header.components
    # Slicer crops what it saves to the segments, which may be as thin as one slice.
    guards.check_dimensions(what, header.size_ijk, components, SegmentationError, minimum=1)
    guards.check_geometry(what, header.ijk_to_ras, SegmentationError)
    guards.check_memory(what, int(np.prod(header.size_ijk)), 2 * header.bytes_per_voxel + 2)
    return as_labels(image_file.read_pixels(header, SegmentationError), what), header


def as_labels(array: np.ndarray, what: str) -> np.ndarray:
    """Unsigned labels; SegmentationError for values that are none."""
    if array.dtype in (np.uint8, np.uint16):
        return array
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 65535) or any((slab != np.rint(slab)).any() for slab in array):
        raise SegmentationError(
            f"{what} holds values from {low:g} to {high:g}; label values (whole numbers from 0) are expected. "
            "Give the label map, not the CT or a probability map."
        )
    return array.astype(np.uint8 if high <= 255 else np.uint16)


def relabel(labels: np.ndarray, mapping: Mapping[int, int], values: Sequence[int]) -> np.ndarray:
    """``labels``, which holds ``values``, with every value replaced by ``mapping`` (others by 0), as uint8."""
    if labels.dtype == np.uint8 and all(mapping.get(value) == value for value in values):
        return labels
    table = np.zeros(np.iinfo(labels.dtype).max + 1, np.uint8)
    for value in values:
        table[value] = mapping.get(value, 0)
    return table[labels]


# --- one label map -----------------------------------------------------------------------------------------------


def _read_label_file(path: Path, what: str, version: int, warnings: list[str]) -> list[LabelMap]:
    array, header = _read_image(path, what, allow_layers=True)
    if is_slicer_segmentation(header.metadata):
        segments = slicer_segments(header.metadata, what)
        return [(labels, header.ijk_to_ras) for labels in _slicer_layers(array, segments, what, warnings)]
    values = present_values(array)
    if not values:
        raise SegmentationError(f"{what} is empty: every voxel is 0. Run the segmentation again.")
    mapping = _value_mapping(header, values, version, warnings)
    return [(relabel(array, mapping, values), header.ijk_to_ras)]


def _value_mapping(
    header: image_file.ImageHeader, values: Sequence[int], version: int, warnings: list[str]
) -> dict[int, int]:
    """File value -> v2 label: by the header's names, the file's name (one value), else by TotalSegmentator's values."""
    what = header.what
    named = _header_names(header)
    file_class = anatomy.match_segment_name(image_file.stem(header.path))
    if named:
        classes = {value: anatomy.match_segment_name(named.get(value, "")) for value in values}
    elif len(values) == 1 and file_class:
        classes = {values[0]: file_class}
    else:
        known = anatomy.label_names(version)
        classes = {value: known.get(value) for value in values}
        if values == [1]:
            warnings.append(f"{what} holds the label 1 only, read as {known[1]}; name the file after its class.")
    mapping = {value: anatomy.segment(name).label for value, name in classes.items() if name}
    unknown = [f"{value} {named.get(value, '')}".strip() for value in values if value not in mapping]
    if not mapping:
        raise SegmentationError(
            f"{what} holds no class that is known; found {_listed(unknown)}. Label values of TotalSegmentator "
            f"v{version}'s task 'total' are expected: give its output, say if it is version 1 or 2, or give a "
            ".seg.nrrd, whose segments are found by name."
        )
    if unknown:
        warnings.append(f"{what}: labels that are not known were left out: {_listed(unknown)}.")
    return mapping


def _header_names(header: image_file.ImageHeader) -> dict[int, str]:
    """Label names that TotalSegmentator writes into a NIfTI header's extension; empty where there are none."""
    if not header.nifti:
        return {}
    return {int(value): name.decode("utf-8", "replace") for value, name in _LABEL_TABLE.findall(header.nifti.start)}


def _listed(items: Sequence[object], limit: int = 12) -> str:
    shown = ", ".join(str(item) for item in items[:limit])
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


# --- 3D Slicer's .seg.nrrd ---------------------------------------------------------------------------------------


def _slicer_layers(
    array: np.ndarray, segments: Sequence[SlicerSegment], what: str, warnings: list[str]
) -> Iterator[np.ndarray]:
    layers = array.reshape(*array.shape[:3], -1)
    mappings: dict[int, dict[int, int]] = {}
    unmatched, found = [], {}
    for segment in segments:
        name = segment.class_name()
        if name is None:
            unmatched.append(f"'{segment.name}'")
            continue
        if name in found:
            warnings.append(f"{what}: segments '{found[name]}' and '{segment.name}' are both {name}; joined.")
        found[name] = segment.name
        mappings.setdefault(segment.layer, {})[segment.label] = anatomy.segment(name).label
    if not mappings:
        raise SegmentationError(
            f"{what} has no segment that is known; found {_listed(unmatched)}. Name segments as TotalSegmentator does "
            "(liver, lung_upper_lobe_left, …) or set their terminology in 3D Slicer's Segment Editor."
        )
    if unmatched:
        warnings.append(f"{what}: segments that match no known class were left out: {_listed(unmatched)}.")
    missing = [layer for layer in mappings if layer >= layers.shape[3]]
    if missing:
        raise SegmentationError(
            f"{what} is damaged: its header names layer {missing[0]}, it holds {layers.shape[3]}. Save it again."
        )
    for layer, mapping in sorted(mappings.items()):
        labels = np.ascontiguousarray(layers[..., layer])
        yield relabel(labels, mapping, present_values(labels))


# --- one mask per class ------------------------------------------------------------------------------------------


def _class_files(folder: Path, what: str, warnings: list[str]) -> dict[Path, str]:
    """The files of ``folder`` that are named after a class, with that class."""
    images = sorted(path for path in folder.iterdir() if path.is_file() and image_file.is_image_file(path))
    classes = {path: anatomy.match_segment_name(image_file.stem(path)) for path in images}
    known = {path: name for path, name in classes.items() if name}
    other = [path.name for path, name in classes.items() if not name]
    if not known:
        found = _listed(other) if other else "no image file"
        raise SegmentationError(
            f"{what} is a folder without a mask named after a class (liver.nii.gz, …); found {found}. Give "
            "TotalSegmentator's output folder, or the label map itself."
        )
    if other:
        warnings.append(f"{what}: files that are not named after a class were left out: {_listed(other)}.")
    return known


def _read_class_files(sources: Mapping[Path, str], progress: Progress | None) -> Iterator[LabelMap]:
    for index, (path, name) in enumerate(sources.items()):
        if progress:
            progress(f"Reading mask {path.name}", index / len(sources))
        array, header = _read_image(path, f"Mask {path.name}", allow_layers=False)
        yield (array > 0).view(np.uint8) * np.uint8(anatomy.segment(name).label), header.ijk_to_ras

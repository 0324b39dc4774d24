"""Reads the input of one analysis: a CT, its segmentation and the report, checked on the way in.

Everything is handed on in the orientation it was stored in; preprocessing turns it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import guards, image_file
from .errors import OutputError, VolumeError
from .image_file import Progress
from .report_sources import read_report
from .segmentation_io import read_segmentation
from .types import CTCase, Segmentation, Volume
from .volume_dicom import is_dicom_file, read_dicom_ct

GENERIC_NAMES = frozenset({"ct", "image", "volume"})


def load_case(
    ct_path: Path,
    segmentation_path: Path,
    report_path: Path | None = None,
    *,
    report_text: str = "",
    series_uid: str | None = None,
    version: int = 2,
    progress: Progress | None = None,
) -> CTCase:
    """Read CT, segmentation and report (from ``report_path``, else ``report_text``).

    ``series_uid`` picks a series of a DICOM folder; ``version`` is TotalSegmentator's, for label maps without names.
    Errors: VolumeError, SegmentationError, ReportError, ResourceError.
    """
    # The report first: it is read in no time, and a wrong path should not show after a minute of reading images.
    text = read_report(report_path) if report_path is not None else report_text
    ct = read_ct(ct_path, series_uid=series_uid, progress=progress)
    segmentation = read_segmentation(segmentation_path, ct, version=version, progress=progress)
    source = str(report_path) if report_path is not None else ""
    return CTCase(ct=ct, segmentation=segmentation, report_text=text, report_source=source)


def read_ct(path: Path, *, series_uid: str | None = None, progress: Progress | None = None) -> Volume:
    """Read a CT from a NIfTI, NRRD or MetaImage file, a DICOM folder, or one DICOM file of a series.

    Returns int16 HU where the data are integral, else float32. Errors: VolumeError, ResourceError.
    """
    path = Path(path)
    if path.is_dir() or (path.is_file() and not image_file.is_image_file(path) and is_dicom_file(path)):
        return read_dicom_ct(path, series_uid=series_uid, progress=progress)
    return _read_ct_file(path, progress)


def _read_ct_file(path: Path, progress: Progress | None) -> Volume:
    what = f"CT {path.name}"
    header = image_file.read_header(path, what, VolumeError)
    guards.check_dimensions(what, header.size_ijk, header.components, VolumeError)
    guards.check_geometry(what, header.ijk_to_ras, VolumeError)
    # At the peak the voxels lie in a file buffer and an array; a conversion to int16 may follow.
    guards.check_memory(what, int(np.prod(header.size_ijk)), 2 * header.bytes_per_voxel + 2)
    if progress:
        progress(f"Reading {what}", 0.0)
    array, warnings = guards.prepare_hounsfield(what, image_file.read_pixels(header, VolumeError), header.rescale_note)
    if header.nifti and not header.nifti.has_orientation:
        warnings += (
            f"{what} does not say how its axes lie in the patient (qform and sform are 0): left-posterior-superior "
            "is assumed, so left and right may be swapped.",
        )
    if header.orientation_note:
        warnings += (header.orientation_note,)
    if progress:
        progress(f"Read {what}", 1.0)
    sha256 = image_file.sha256_of([path])
    return Volume(array, header.ijk_to_ras, _display_name(path), source=str(path), sha256=sha256, warnings=warnings)


def _display_name(path: Path) -> str:
    """The file's name without its ending; with the folder's, where the file's says nothing ("ct")."""
    stem = image_file.stem(path)
    folder = path.resolve().parent.name
    return f"{folder}/{stem}" if stem.lower() in GENERIC_NAMES and folder else stem


def write_label_map(segmentation: Segmentation, ct: Volume, path: Path) -> None:
    """Write the label map on its CT's grid; the name's ending picks the format. Errors: OutputError.

    The file appears at ``path`` when it is whole, and replaces one that is there.
    """
    path = Path(path)
    image = sitk.GetImageFromArray(segmentation.labels_kji)
    image_file.set_affine(image, ct.ijk_to_ras)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".ctgvlm-") as folder:
            partial = Path(folder) / path.name
            sitk.WriteImage(image, str(partial), useCompression=True)
            os.replace(partial, path)
    except (OSError, RuntimeError) as exc:  # SimpleITK raises RuntimeError for whatever goes wrong
        reason = str(exc).strip().splitlines()[-1]
        raise OutputError(
            f"The label map cannot be written to {path} ({reason}). The folder must exist and be writable, with free "
            f"space, and the name end in {', '.join(image_file.SUFFIXES)}."
        ) from exc

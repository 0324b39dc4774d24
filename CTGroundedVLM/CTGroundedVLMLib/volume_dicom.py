"""Reads a CT from a DICOM folder: finds the series, checks that its slices make one regular volume, reads them.

pydicom reads the headers; SimpleITK (GDCM) reads the pixels and applies each slice's rescale, once.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.errors import InvalidDicomError

from . import guards, image_file
from .errors import VolumeError
from .image_file import Progress
from .types import Volume

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "RescaleSlope",
    "RescaleIntercept",
]
_CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_AXIAL_COSINE = 0.8  # the slice normal lies within about 37 degrees of the body axis: gantry tilts stay below 30
_UNEVEN_FRACTION = 0.1  # of the usual slice distance; headers round positions, missing slices double the distance
_TILT_MM = 1.0  # sideways drift of the slices over the whole stack


@dataclass(frozen=True)
class Slice:
    """One image of a series. ``position``, ``rows``/``columns`` directions: LPS, mm. ``spacing``: (row, column)."""

    path: Path
    uid: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    rescale: tuple[float, float] | None
    patient: str = ""
    study: str = ""
    frame_of_reference: str = ""

    @property
    def normal(self) -> np.ndarray:
        """Unit vector across the slice."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def height(self) -> float:
        """Position along the normal, in mm."""
        return float(self.normal @ np.array(self.position))


@dataclass(frozen=True)
class Series:
    """The images of one SeriesInstanceUID. ``problem`` says why they are no CT volume, empty if they may be."""

    uid: str
    number: str
    description: str
    modality: str
    images: int
    slices: tuple[Slice, ...]
    problem: str

    @property
    def is_axial(self) -> bool:
        """The slices lie across the body axis."""
        return bool(self.slices) and abs(self.slices[0].normal[2]) >= _AXIAL_COSINE

    @property
    def origins(self) -> set[tuple[str, str]]:
        """PatientID and StudyInstanceUID of the slices; blank where anonymised."""
        return {(item.patient, item.study) for item in self.slices}

    def __str__(self) -> str:
        words = f"series {self.number or '?'} '{self.description}', {self.modality or '?'}, {self.images} images"
        return f"{words}{', ' + self.problem if self.problem else ''} (UID {self.uid or 'missing'})"


def is_dicom_file(path: Path) -> bool:
    """Whether the file has a DICOM preamble."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom_ct(path: Path, *, series_uid: str | None = None, progress: Progress | None = None) -> Volume:
    """Read the CT series ``series_uid`` below folder ``path``, else the axial one with the most slices.

    ``path`` may be one file: its series is read. Errors: VolumeError (the message lists the series), ResourceError.
    """
    folder = (path if path.is_dir() else path.parent).resolve()
    if series_uid is None and path.is_file():
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        series_uid = str(header.SeriesInstanceUID) if "SeriesInstanceUID" in header else None
    what = f"DICOM folder {folder.name}"
    found = find_series(folder, progress)
    series, warnings = choose_series(what, found, series_uid)
    what = f"CT series {series.number or series.uid or '?'} of {what}"
    slices, duplicates = sort_slices(what, series)
    ijk_to_ras = _affine(slices)
    guards.check_dimensions(what, (*slices[0].size, len(slices)), 1, VolumeError)
    guards.check_geometry(what, ijk_to_ras, VolumeError)
    guards.check_memory(what, len(slices) * int(np.prod(slices[0].size)), 6)
    array, padding = guards.prepare_hounsfield(what, _read_pixels(what, slices, progress), _rescale_note(slices))
    sha256 = image_file.sha256_of([item.path for item in slices])
    warnings = (*warnings, *duplicates, *padding)
    return Volume(array, ijk_to_ras, folder.name, source=str(path), sha256=sha256, warnings=warnings)


def find_series(folder: Path, progress: Progress | None = None) -> list[Series]:
    """All series below ``folder``, with the reason why one cannot be used as a CT."""
    files = sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)
    groups: dict[str, list[tuple[Path, pydicom.Dataset]]] = defaultdict(list)
    for index, path in enumerate(files):
        if progress and index % 50 == 0:
            progress("Reading DICOM headers", index / len(files))
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
        except (InvalidDicomError, OSError, EOFError, ValueError, NotImplementedError):
            continue  # reports, pictures, broken and other files lie beside the images
        if "Modality" in header:  # a DICOMDIR has none
            groups[str(header.get("SeriesInstanceUID", ""))].append((path, header))
    return [_series(uid, images) for uid, images in groups.items()]


def choose_series(what: str, found: Sequence[Series], series_uid: str | None) -> tuple[Series, tuple[str, ...]]:
    """The series to read, and a warning where several could have been."""
    listing = "".join(f"\n  - {series}" for series in found)
    if not found:
        raise VolumeError(f"{what} holds no DICOM images. Give the folder that holds a CT series, or a NIfTI file.")
    if series_uid is not None:
        for series in found:
            if series.uid == series_uid:
                if series.problem:
                    raise VolumeError(f"{what}: {series} is not a CT volume. Choose another series of:{listing}")
                return series, ()
        raise VolumeError(f"{what} has no series {series_uid}. Choose one of:{listing}")
    usable = [series for series in found if not series.problem]
    if not usable:
        raise VolumeError(f"{what} holds no CT series; a series of CT images is expected. Found:{listing}")
    _check_one_study(what, found)
    best = max(usable, key=lambda series: (series.is_axial, len(series.slices), series.uid))
    if len(usable) == 1:
        return best, ()
    others = "; ".join(str(series) for series in usable if series is not best)
    return best, (f"{what} holds {len(usable)} CT series; read: {best}. Not read: {others}.",)


def _check_one_study(what: str, found: Sequence[Series]) -> None:
    """Refuse to choose between the CT series of several patients or studies."""
    series = [item for item in found if item.modality == "CT" and item.slices]
    origins = set().union(*(item.origins for item in series))
    if len(series) < 2 or len(origins) < 2:  # one series that mixes patients is refused when its slices are sorted
        return
    patients = len({patient for patient, _ in origins})
    listing = "".join(f"\n  - {item}{_origin_words(item)}" for item in series)
    raise VolumeError(
        f"{what} holds CT series of {f'{patients} patients' if patients > 1 else f'{len(origins)} studies'}; those of "
        f"one study are expected. Choose one with --series UID, or give the folder of one study:{listing}"
    )


def _origin_words(series: Series) -> str:
    return "".join(
        f", patient {patient or '(blank)'}, study {study or '(blank)'}" for patient, study in sorted(series.origins)
    )


def _series(uid: str, images: Sequence[tuple[Path, pydicom.Dataset]]) -> Series:
    header = images[0][1]
    modality = str(header.get("Modality", ""))
    slices = tuple(item for path, image in images if (item := _slice(path, image)))
    multi_frame = any(int(image.get("NumberOfFrames", 1) or 1) > 1 for _, image in images)
    problem = ""
    if modality != "CT":
        problem = "not a CT"
    elif multi_frame:
        problem = "a multi-frame CT, which is not read: convert it to NIfTI (dcm2niix) first"
    elif not slices:
        problem = "a localizer, secondary capture or report"
    elif len(slices) < guards.MIN_VOXELS:
        problem = f"fewer than {guards.MIN_VOXELS} slices"
    number, description = str(header.get("SeriesNumber", "") or ""), str(header.get("SeriesDescription", "") or "")
    return Series(uid, number, description, modality, len(images), slices, problem)


def _slice(path: Path, image: pydicom.Dataset) -> Slice | None:
    """The geometry of one CT slice; None for localizers, secondary captures and images without a position."""
    localizer = "LOCALIZER" in [str(value).upper() for value in image.get("ImageType") or ()]
    # Anonymisers blank the UIDs of the data set, and leave those of the file's meta header.
    sop_class = image.get("SOPClassUID") or image.file_meta.get("MediaStorageSOPClassUID") or _CT_IMAGE_STORAGE
    uid = image.get("SOPInstanceUID") or image.file_meta.get("MediaStorageSOPInstanceUID") or path
    if sop_class != _CT_IMAGE_STORAGE or localizer:
        return None
    try:
        position, orientation, spacing = (
            tuple(float(x) for x in image.get(tag) or ())
            for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        )
        rescale = [float(x) for tag in ("RescaleSlope", "RescaleIntercept") if (x := image.get(tag)) is not None]
        size = int(image.get("Columns") or 0), int(image.get("Rows") or 0)
    except (TypeError, ValueError):  # text where a number belongs
        return None
    if (len(position), len(orientation), len(spacing)) != (3, 6, 2):
        return None
    ids = (str(image.get(tag) or "").strip() for tag in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"))
    rescale_pair = tuple(rescale) if len(rescale) == 2 else None
    return Slice(path, str(uid), position, orientation, spacing, size, rescale_pair, *ids)


def sort_slices(what: str, series: Series) -> tuple[list[Slice], tuple[str, ...]]:
    """Slices from low to high along their normal; VolumeError unless they make one regular volume."""
    _check_one_patient(what, series.slices)  # first: copies of two patients' slices may share their UIDs
    slices = list({item.uid: item for item in series.slices}.values())
    copies = len(series.slices) - len(slices)
    if len(slices) < guards.MIN_VOXELS:
        raise VolumeError(
            f"{what} holds {len(series.slices)} images with only {len(slices)} different SOPInstanceUID; at least "
            f"{guards.MIN_VOXELS} different slices are expected. Fetch or anonymise the series again: every slice needs "
            "a SOPInstanceUID of its own."
        )
    _check_uniform(what, slices)
    slices.sort(key=lambda item: item.height)
    _check_positions(what, slices)
    return slices, (f"{what}: {copies} files are copies of other slices; ignored.",) if copies else ()


def _check_one_patient(what: str, slices: Sequence[Slice]) -> None:
    """Refuse slices of several patients, studies or frames of reference under one SeriesInstanceUID."""
    for name, values in (
        ("PatientID", {item.patient for item in slices}),
        ("StudyInstanceUID", {item.study for item in slices}),
        ("FrameOfReferenceUID", {item.frame_of_reference for item in slices}),
    ):
        if len(values) > 1:
            listed = ", ".join(value or "(blank)" for value in sorted(values)[:5])
            raise VolumeError(
                f"{what} mixes slices of {len(values)} values of {name} ({listed}{', …' if len(values) > 5 else ''}); one "
                f"series with the same {name} in every slice is expected. Its files were probably merged or anonymised "
                "wrongly: put those that belong together in a folder of their own."
            )


def _check_uniform(what: str, slices: Sequence[Slice]) -> None:
    for name, values in (
        ("image size", {item.size for item in slices}),
        ("orientation", {tuple(np.round(item.orientation, 3) + 0.0) for item in slices}),
        ("pixel spacing", {tuple(np.round(item.spacing, 4)) for item in slices}),
        ("rescale slope and intercept", {item.rescale for item in slices}),
    ):
        if len(values) > 1:
            examples = " and ".join(_words(value) for value in sorted(values, key=str)[:2])
            raise VolumeError(
                f"{what} mixes {len(values)} values of {name} ({examples}); one volume with the same {name} in every "
                "slice is expected. Separate the acquisitions, for example in 3D Slicer's DICOM browser."
            )


def _words(values: Sequence[float] | None) -> str:
    return "none" if values is None else " ".join(f"{value:g}" for value in values)


def _check_positions(what: str, slices: Sequence[Slice]) -> None:
    heights = np.array([item.height for item in slices])
    steps = np.diff(heights)
    repeated = heights[1:][steps < 1e-3]
    if repeated.size:
        raise VolumeError(
            f"{what} has {repeated.size} slices at a position that another slice holds ({_millimetres(repeated)}); one "
            "slice per position is expected. It probably mixes two phases or reconstructions: separate them."
        )
    usual = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - usual) > _UNEVEN_FRACTION * usual)
    if uneven.size:
        gaps = ", ".join(f"{heights[i]:.2f} to {heights[i + 1]:.2f} mm" for i in uneven[:5])
        raise VolumeError(
            f"{what} is not evenly spaced: slices lie {usual:.2f} mm apart, but not from {gaps}"
            f"{' and more' if uneven.size > 5 else ''}. Slices are probably missing: fetch the whole series again."
        )
    path = np.array(slices[-1].position) - slices[0].position
    drift = float(np.linalg.norm(path - slices[0].normal * (path @ slices[0].normal)))
    if drift > _TILT_MM:
        raise guards.not_orthogonal(what, VolumeError)


def _millimetres(positions: np.ndarray) -> str:
    listed = ", ".join(f"{position:.2f}" for position in positions[:5])
    return f"{listed}{' …' if positions.size > 5 else ''} mm"


def _affine(slices: Sequence[Slice]) -> np.ndarray:
    """(4, 4) ijk to RAS, in mm: i runs along a row, j down a column, k along the normal (DICOM PS3.3 C.7.6.2.1.1)."""
    first, last = slices[0], slices[-1]
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = first.normal * (last.height - first.height) / (len(slices) - 1)
    affine[:3, 3] = first.position
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _rescale_note(slices: Sequence[Slice]) -> str:
    if slices[0].rescale is None:
        return "(The slices have no RescaleSlope and RescaleIntercept.)"
    slope, intercept = slices[0].rescale
    return f"(RescaleSlope {slope:g} and RescaleIntercept {intercept:g} of the slices were applied when read.)"


def _read_pixels(what: str, slices: Sequence[Slice], progress: Progress | None) -> np.ndarray:
    """(K, J, I) HU of ``slices``, read one by one so that no second copy of the volume is needed."""
    array = None
    for index, item in enumerate(slices):
        if progress and index % 20 == 0:
            progress(f"Reading {what}", index / len(slices))
        try:
            pixels = image_file.pixels_of(sitk.ReadImage(str(item.path)))
        except RuntimeError as exc:
            reason = str(exc).strip().splitlines()[-1]
            raise VolumeError(f"{what}: {item.path.name} is damaged ({reason}). Fetch the series again.") from exc
        if array is None:
            array = np.empty((len(slices), *pixels.shape[-2:]), pixels.dtype)
        if not np.can_cast(pixels.dtype, array.dtype):  # GDCM picks the type slice by slice
            array = array.astype(np.promote_types(pixels.dtype, array.dtype))
        array[index] = pixels.reshape(pixels.shape[-2:])
    return array

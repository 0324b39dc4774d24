"""Reads NIfTI, NRRD and MetaImage files through SimpleITK, with messages that a user can act on.

SimpleITK works in LPS; everything that leaves this file is RAS, in mm.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import files, guards
from .errors import InputError, SegmentationError
from .nifti import NiftiHeader, is_nifti_2, read_nifti_header, read_nifti_pixels

Progress = Callable[[str, float], None]  # what is being done, and how much of it (0..1)

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
ORIENTATION_TOLERANCE_MM = 0.5
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ImageHeader:
    """What a file says before its voxels are read. ``ijk_to_ras``: (4, 4) in mm, None unless the image is 3D."""

    path: Path
    what: str
    size_ijk: tuple[int, ...]
    components: int
    bytes_per_voxel: int
    ijk_to_ras: np.ndarray | None
    metadata: Mapping[str, str]
    nifti: NiftiHeader | None = None

    @property
    def rescale_note(self) -> str:
        """A sentence on the intercept that the NIfTI header made the reader apply; empty if there is none."""
        if not self.nifti or not self.nifti.intercept:
            return ""
        return (
            f"(The file's header has scl_inter = {self.nifti.intercept:g}, which was applied when the file was read.)"
        )

    @property
    def orientation_note(self) -> str:
        """A warning where the NIfTI header's sform and the grid that is used place the volume differently; else empty."""
        if not self.nifti or self.nifti.sform is None or self.ijk_to_ras is None:
            return ""
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        corners[:, :3] *= np.array(self.size_ijk) - 1
        apart = float(np.linalg.norm(corners @ (self.nifti.sform - self.ijk_to_ras).T, axis=1).max())
        if apart < ORIENTATION_TOLERANCE_MM:
            return ""
        return (
            f"{self.what} holds two positions (qform and sform) that differ by up to {apart:.1f} mm; the qform is used. "
            "Programs that use the sform place it elsewhere."
        )


def stem(path: Path) -> str:
    """The file name without any of SUFFIXES (``ct.nii.gz`` -> ``ct``)."""
    name = path.name
    for suffix in (".seg.nrrd", *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return path.stem


def is_image_file(path: Path) -> bool:
    """Whether the name ends as one of the volume formats that are read."""
    return path.name.lower().endswith(SUFFIXES)


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 of one file; of several, that of their hexadecimal SHA-256 values in the order given."""
    digests = [files.sha256_of(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_header(path: Path, what: str, error: type[InputError]) -> ImageHeader:
    """Read a file's header only. ``what`` names the input in messages, ``error`` is raised for an unreadable file."""
    _check_file(path, what, error)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _quiet_itk():
            reader.ReadImageInformation()
    except RuntimeError as exc:
        if "orthonormal" in str(exc):
            raise guards.not_orthogonal(what, error) from exc
        raise error(f"{what} cannot be read: {_content_hint(path, error)}") from exc
    try:
        nifti = read_nifti_header(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    except zlib.error as exc:
        raise error(f"{what} is damaged: {exc}. Copy or export it again.") from exc
    if nifti and min(nifti.pixdim[: reader.GetDimension()]) <= 0:
        guards.check_spacing(what, nifti.pixdim, error)  # ITK makes 1 mm of 0, and an axis reversed of a negative size
    if nifti and nifti.sform is not None and reader.GetDimension() == 3:
        guards.check_geometry(what, nifti.sform, error)  # a sheared sform: ITK would take the qform without a word
    return ImageHeader(
        path=path,
        what=what,
        size_ijk=reader.GetSize(),
        components=_values_per_voxel(reader),
        bytes_per_voxel=_bytes_per_value(reader) * _values_per_voxel(reader),
        ijk_to_ras=affine_of(reader) if reader.GetDimension() == 3 else None,
        metadata={key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()},
        nifti=nifti,
    )


def read_pixels(header: ImageHeader, error: type[InputError]) -> np.ndarray:
    """The voxels as (K, J, I) or (K, J, I, component); ``error`` for a file that is damaged or too short."""
    try:
        if header.nifti:
            return read_nifti_pixels(header.path, header.nifti, header.size_ijk)
        with _quiet_itk():
            return pixels_of(sitk.ReadImage(str(header.path)))
    except (RuntimeError, EOFError, OSError, zlib.error) as exc:
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[-1]
        raise error(f"{header.what} is damaged or incomplete: {reason}. Copy or export it again.") from exc


def pixels_of(image: sitk.Image) -> np.ndarray:
    """The pixels as (K, J, I) or (K, J, I, component) without a copy; do not change ``image`` afterwards."""
    return np.asarray(_PixelBuffer(image))


class _PixelBuffer:
    """Keeps an image alive for as long as the array that NumPy makes on its buffer."""

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        interface = sitk.GetArrayViewFromImage(image).__array_interface__
        address, _ = interface["data"]
        self.__array_interface__ = interface | {"data": (address, False)}  # writable: nobody else holds the image


def affine_of(grid: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """The (4, 4) ijk-to-RAS matrix of a 3D SimpleITK image, in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    affine[:3, 3] = grid.GetOrigin()
    return _LPS_TO_RAS @ affine


def set_affine(image: sitk.Image, ijk_to_ras: np.ndarray) -> None:
    """Give ``image`` the grid of ``ijk_to_ras``."""
    affine = _LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """ITK's own warnings off: what matters to the user is said in our messages."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _values_per_voxel(reader: sitk.ImageFileReader) -> int:
    is_complex = "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID())
    return reader.GetNumberOfComponents() * (2 if is_complex else 1)


def _bytes_per_value(reader: sitk.ImageFileReader) -> int:
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())  # "16-bit signed integer", "vector of 8-bit ..."
    return next((bits // 8 for bits in (16, 32, 64) if f"{bits}-bit" in name), 1)


def _check_file(path: Path, what: str, error: type[InputError]) -> None:
    if not path.exists():
        raise error(f"{what} does not exist: {path.absolute()}. Check the path.")
    try:
        with path.open("rb") as file:
            content = file.read(1)
    except OSError as exc:
        raise error(f"{what} cannot be opened ({exc}). Check the path and who may read it.") from exc
    if not content:
        raise error(f"{what} is empty (0 bytes): {path.absolute()}. Copy or export it again.")


def _content_hint(path: Path, error: type[InputError]) -> str:
    """What the first bytes say a file is, and what to do about it."""
    with path.open("rb") as file:
        start = file.read(512)
    folder = "TotalSegmentator's output folder" if issubclass(error, SegmentationError) else "a DICOM folder"
    remedy = f"Give a file that ends in {', '.join(SUFFIXES)}, or {folder}."
    if start[:2] == b"\x1f\x8b" and not path.name.lower().endswith(".gz"):
        return "it is gzip-compressed. Rename it so that it ends in .nii.gz."
    if start[:4] == b"NRRD":
        return "it is a NRRD file, possibly damaged. Its name should end in .nrrd."
    if is_nifti_2(path):
        return "it is a NIfTI-2 file. Convert it to NIfTI-1 (most tools' default) or NRRD."
    if start[128:132] == b"DICM":
        return "it is a DICOM file. Give the folder that holds the series."
    if start[:2] == b"PK":
        return "it is a zip archive. Unpack it first."
    if b"\0" not in start and all(byte >= 9 for byte in start):
        return f"it is a text file, not an image. {remedy}"
    return f"it is damaged, or not what its name says. {remedy}"

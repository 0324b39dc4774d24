"""Reads a manifest row's CT and mask: what the core reads, and what two public data sets need beyond that."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from CTGroundedVLMLib import guards, image_file
from CTGroundedVLMLib.errors import InputError, SegmentationError, VolumeError
from CTGroundedVLMLib.image_file import set_affine
from CTGroundedVLMLib.segmentation_io import read_segmentation
from CTGroundedVLMLib.types import CTCase, Segmentation, Volume
from CTGroundedVLMLib.volume_io import read_ct

from ..evaluate.grounding import TRUTH, label_map_of, planted_of
from .manifest import Correction, ManifestRow

RAD_CHESTCT_SPACING_MM = 0.8
_NPZ_KEY = "ct"


def read_volume(row: ManifestRow) -> Volume:
    """The CT of a row, in HU, checked by the core's guards.

    Raises:
        VolumeError: it cannot be read, or is not a CT in HU.
        ResourceError: memory does not suffice.
    """
    if row.image.suffix.lower() == ".npz":
        return _read_npz(row.image)
    if row.correction is not None:
        return _read_corrected(row.image, row.correction)
    return read_ct(row.image)


def read_case(row: ManifestRow) -> CTCase:
    """CT and mask of a row that has one; the report is not read here.

    Raises:
        InputError: what :func:`read_volume` and the core's reader of segmentations raise.
    """
    if row.segmentation is None:
        raise InputError(
            f"Case {row.case_id} has no segmentation. Name one in the manifest, or let prepare segment it."
        )
    ct = read_volume(row)
    return CTCase(ct, read_segmentation(row.segmentation, ct))


def read_findings(row: ManifestRow, case: CTCase) -> Segmentation | None:
    """The drawn findings of a row on its CT's grid, named "organ/finding"; None where the row names none.

    Raises:
        SegmentationError: the map is on another grid, or what its values mean (``truth.json``) is missing or damaged.
    """
    if row.findings is None:
        return None
    truth = truth_of(row.findings)
    if not truth.is_file():
        raise SegmentationError(
            f"Case {row.case_id}: {row.findings} has no {TRUTH} beside it that says what its values mean. Keep both files "
            "of the synthetic case together, or leave the manifest's column findings empty."
        )
    names = {planted["label"]: planted["key"] for planted in planted_of(truth)}
    labels_kji = label_map_of(row.findings, case)
    return Segmentation(labels_kji, names, str(row.findings), "")


def truth_of(findings: Path) -> Path:
    """The file that says what the values of a map of findings mean."""
    return findings.parent / TRUTH


def _read_corrected(path: Path, correction: Correction) -> Volume:
    """A file whose values or geometry the manifest corrects (CT-RATE's first version). HU are never rescaled twice.

    Values that are HU already (CT-RATE's second version under the first one's metadata) are left as they are, with a
    warning; values that are HU neither before nor after the rescale are refused.
    """
    what = f"CT {path.name}"
    header = image_file.read_header(path, what, VolumeError)
    guards.check_dimensions(what, header.size_ijk, header.components, VolumeError)
    affine = _corrected_affine(header.ijk_to_ras, correction)
    guards.check_geometry(what, affine, VolumeError)
    guards.check_memory(what, int(np.prod(header.size_ijk)), 2 * header.bytes_per_voxel + 6)
    stored = image_file.read_pixels(header, VolumeError)
    guards.check_finite(what, stored)
    warnings: tuple[str, ...] = ()
    if (correction.slope, correction.intercept) != (1.0, 0.0):
        if _is_hounsfield(what, stored):
            warnings = (
                f"{what}: the values are HU already; the manifest's slope {correction.slope:g} and intercept "
                f"{correction.intercept:g} were not applied a second time.",
            )
        else:
            stored = stored.astype(np.float32) * np.float32(correction.slope) + np.float32(correction.intercept)
    note = "(The manifest's slope and intercept were applied.)" if not warnings else ""
    array, more = guards.prepare_hounsfield(what, stored, note)
    name = f"{path.parent.name}/{path.name}"
    return Volume(array, affine, name, str(path), image_file.sha256_of([path]), warnings + more)


def _is_hounsfield(what: str, array: np.ndarray) -> bool:
    try:
        guards.check_hounsfield(what, array)
    except VolumeError:
        return False
    return True


def _corrected_affine(ijk_to_ras: np.ndarray, correction: Correction) -> np.ndarray:
    """The header's grid with the manifest's spacing, origin and direction in place of its own."""
    import SimpleITK as sitk

    image = sitk.Image(1, 1, 1, sitk.sitkUInt8)
    set_affine(image, ijk_to_ras)
    if correction.spacing_ijk:
        image.SetSpacing(correction.spacing_ijk)
    if correction.origin_lps:
        image.SetOrigin(correction.origin_lps)
    if correction.direction_lps:
        image.SetDirection(correction.direction_lps)
    return image_file.affine_of(image)


def _read_npz(path: Path) -> Volume:
    """A volume of RAD-ChestCT: 0.8 mm voxels, HU cut to [-1000, 1000], axes to inferior, posterior, left.

    Its position in the scanner is not stored: the first voxel is put at 0.
    """
    what = f"CT {path.name}"
    try:
        with np.load(path) as file:
            stored = file[_NPZ_KEY]
    except KeyError:
        raise VolumeError(f"{what} holds no array {_NPZ_KEY!r}, as RAD-ChestCT's volumes do. Check the file.") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise VolumeError(f"{what} cannot be read as .npz ({error}). Download it again.") from error
    guards.check_dimensions(what, stored.shape[::-1], 1, VolumeError)
    # k runs to the feet, j to the back, i to the left; RAS counts to the right, front and head
    affine = np.diag([-RAD_CHESTCT_SPACING_MM] * 3 + [1.0])
    array, warnings = guards.prepare_hounsfield(what, stored)
    return Volume(array, affine, path.stem, str(path), image_file.sha256_of([path]), warnings)

"""Checks that an image is a CT in Hounsfield units that can be analysed. Each raises, naming input, finding and remedy.

``what`` names the input in the message ("CT scan.nii.gz"); ``error`` is the class to raise. Arrays are (K, J, I).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .errors import InputError, ResourceError, VolumeError

MIN_VOXELS = 3  # along each axis: fewer slices hold no organ, and interpolation needs neighbours
SPACING_MM = (0.05, 20.0)
ORTHONORMAL_TOLERANCE = 1e-3  # as ITK's tolerance for direction cosines stored as float32
PADDING_HU = -1500  # scanners fill what lies outside the field of view with -2000, -2048 or -3024
AIR_HU = -1024  # the lowest CT number of a 12-bit scanner
LAST_LABEL = 117  # of TotalSegmentator v2's task 'total'
SAMPLE_VOXELS = 400_000  # bounds the cost of the HU check on any volume


def check_dimensions(
    what: str, size_ijk: tuple[int, ...], components: int, error: type[InputError], minimum: int = MIN_VOXELS
) -> None:
    """Refuse pictures, single slices, time series and colour images. ``size_ijk``: voxels along each axis."""
    size = " × ".join(str(n) for n in size_ijk)
    if components > 1:
        raise error(
            f"{what} holds {components} values per voxel (a colour or vector image); one value per voxel is expected. "
            "Export the original grey-scale series."
        )
    if len(size_ijk) > 3:
        raise error(
            f"{what} has {len(size_ijk)} dimensions ({size}); one 3D volume is expected. "
            "Split the time series or phases and give one of them."
        )
    if len(size_ijk) < 3 or min(size_ijk) < minimum:
        raise error(
            f"{what} is {size} voxels; a volume of at least {minimum} voxels along each of 3 axes is expected. "
            "Give the whole axial series, not a single slice or a scout view."
        )


def check_spacing(what: str, spacing: Sequence[float], error: type[InputError]) -> None:
    """Refuse voxel sizes (mm) that no scanner makes, negative and NaN ones among them."""
    low, high = SPACING_MM
    if not all(low <= size <= high for size in spacing):
        found = " × ".join(f"{size:.6g}" for size in spacing)
        raise error(
            f"{what} has voxels of {found} mm; {low:g} to {high:g} mm are expected along each axis. "
            "Its header is wrong (or in another unit than mm): convert the DICOM series again, or correct the spacing."
        )


def check_geometry(what: str, ijk_to_ras: np.ndarray, error: type[InputError]) -> None:
    """Refuse voxel sizes that no scanner makes and axes that are not at right angles. ``ijk_to_ras``: (4, 4), mm."""
    matrix = np.asarray(ijk_to_ras, float)[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    check_spacing(what, spacing, error)
    axes = matrix / spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        raise not_orthogonal(what, error)


def not_orthogonal(what: str, error: type[InputError]) -> InputError:
    """The error for sheared axes."""
    return error(
        f"{what} has axes that are not at right angles (gantry tilt or shear); a rectangular grid is expected. "
        "Resample it first: 3D Slicer does so when it loads the DICOM series, dcm2niix with its tilt correction."
    )


def check_memory(what: str, voxels: int, bytes_per_voxel: int) -> None:
    """Raise ResourceError if ``voxels`` of ``bytes_per_voxel`` (peak) exceed the free memory."""
    import psutil  # not part of 3D Slicer's Python, where these guards run before packages are installed

    needed, free = voxels * bytes_per_voxel, psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"{what} needs about {needed / 2**30:.1f} GiB of memory to read ({voxels:,} voxels); "
            f"{free / 2**30:.1f} GiB are free. Close other programs, or crop or resample the volume first."
        )


def check_finite(what: str, array: np.ndarray) -> None:
    """Refuse NaN and infinite voxels; integers pass at once."""
    if array.dtype.kind != "f" or np.isfinite(array.min() + array.max()):
        return
    nan = sum(int(np.isnan(slab).sum()) for slab in array)
    infinite = sum(int(np.isinf(slab).sum()) for slab in array)
    if nan or infinite:
        raise VolumeError(
            f"{what} holds {nan:,} NaN and {infinite:,} infinite voxels of {array.size:,}; finite HU are expected. "
            f"Replace them ({AIR_HU} for air outside the field of view) or convert the DICOM series again."
        )


def check_hounsfield(what: str, array: np.ndarray, header_note: str = "") -> None:
    """Refuse values that are not Hounsfield units; looks at a regular subsample of at most SAMPLE_VOXELS.

    The bands are those of human tissue: fat -100, water 0, muscle 50, air -1000 HU. A rescale applied twice puts
    tissue 1024 too low; one never applied, 1024 too high. ``header_note`` is added to the message.
    """
    sample = subsample(array)
    values = sample[sample > PADDING_HU]
    if values.size == 0:
        raise VolumeError(f"{what} holds only values below {PADDING_HU}: padding without an image. Export it again.")
    diagnosis = (
        _scaled_picture(values)
        or _never_rescaled(values)
        or _rescaled_twice(values)
        or _other_units(values)
        or _uneven_padding(sample)
    )
    if diagnosis:
        found, remedy = diagnosis
        if _label_like(values):
            remedy += " This looks like a segmentation: are the CT and --segmentation swapped?"
        raise VolumeError(
            f"{what} is not in Hounsfield units: {found}; air near -1000 and soft tissue near 0 to 100 are expected. "
            f"{remedy}{' ' + header_note if header_note else ''}"
        )


def subsample(array: np.ndarray) -> np.ndarray:
    """At most SAMPLE_VOXELS voxels of a (K, J, I) array on a regular sub-grid, as a flat copy."""
    step = int(np.ceil(max(1.0, array.size / SAMPLE_VOXELS) ** (1 / 3)))
    while int(np.prod([-(-n // step) for n in array.shape])) > SAMPLE_VOXELS:  # steps round up on every axis
        step += 1
    return array[::step, ::step, ::step].ravel()


def _fraction(values: np.ndarray, low: float, high: float) -> float:
    return float(np.count_nonzero((values >= low) & (values < high))) / values.size


def _scaled_picture(values: np.ndarray) -> tuple[str, str] | None:
    low, high = float(values.min()), float(values.max())
    remedy = "Convert the original series without windowing or normalisation."
    if low == high:
        return f"every voxel is {low:g}", "Check that the export finished."
    if high - low < 100:
        return f"all values lie between {low:.4g} and {high:.4g}, as in a normalised image", remedy
    if low >= 0 and high <= 255:
        return f"all values lie between {low:.0f} and {high:.0f}, as in a windowed 8-bit picture", remedy
    return None


def _label_like(values: np.ndarray) -> bool:
    """Whether these are whole numbers from 0 to the last class of TotalSegmentator."""
    return bool(values.min() >= 0 and values.max() <= LAST_LABEL and np.array_equal(values, np.rint(values)))


def _never_rescaled(values: np.ndarray) -> tuple[str, str] | None:
    stored_tissue = _fraction(values, 800, 1300)
    if np.percentile(values, 0.5) >= -150 and stored_tissue >= 0.1:
        found = f"air lies near 0 and {stored_tissue:.0%} of the voxels between 800 and 1300, as in stored DICOM values"
        return found, "Apply the series' RescaleSlope and RescaleIntercept (mostly 1 and -1024) once, then try again."
    return None


def _rescaled_twice(values: np.ndarray) -> tuple[str, str] | None:
    tissue = _fraction(values, -200, 300)
    below_air = _fraction(values, PADDING_HU, -1100)  # where shifted fat lies, and nothing of a true CT
    shifted_bone = _fraction(values, -724, -200)
    if (tissue < 0.05 and below_air > 0.02) or (tissue < 0.015 and shifted_bone > tissue):
        found = f"only {tissue:.1%} of the voxels lie between -200 and 300; tissue lies about 1024 too low"
        remedy = (
            "RescaleSlope and RescaleIntercept were probably applied twice: use the values before the second time "
            "(CT-RATE's train_fixed and valid_fixed are already in HU)."
        )
        return found, remedy
    return None


def _other_units(values: np.ndarray) -> tuple[str, str] | None:
    low, high = float(values.min()), float(np.percentile(values, 99.9))
    if low >= 0:
        remedy = "Give a CT (not an MR or PET image), converted with its RescaleIntercept."
        return f"no voxel is below 0 (lowest {low:.0f}, 99.9th percentile {high:.0f})", remedy
    if high > 20_000:
        remedy = "Padding was probably stored as an unsigned number: convert the DICOM series again."
        return f"more than 0.1% of the voxels lie above 20000 (99.9th percentile {high:.0f})", remedy
    if _fraction(values, -200, 300) < 0.002:
        return f"no soft tissue was found (values {low:.0f} to {high:.0f})", "Check the file and how it was converted."
    return None


def _uneven_padding(sample: np.ndarray) -> tuple[str, str] | None:
    """Padding has one value; interpolation and streaks beside metal make few others."""
    low = sample[sample <= PADDING_HU]
    _, counts = np.unique(low, return_counts=True)
    if low.size and low.size - counts.max() > 0.01 * sample.size:
        spread = (low.size - counts.max()) / sample.size
        found = f"{spread:.1%} of the voxels hold many values between {low.min():g} and {PADDING_HU}"
        return found, "Check how the file was converted: its values seem to be scaled."
    return None


def clip_padding(what: str, array: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Set everything below air to air where the volume holds padding; ``array`` is changed in place."""
    lowest = array.min()
    if lowest > PADDING_HU:
        return array, ()
    np.maximum(array, array.dtype.type(AIR_HU), out=array)
    return array, (f"{what}: values down to {lowest:.0f} (padding outside the field of view) were set to {AIR_HU} HU.",)


def compact(array: np.ndarray) -> np.ndarray:
    """int16 where every value is integral (larger ones end at 32767), else float32; no copy where nothing changes."""
    if array.dtype == np.int16:
        return array
    if array.dtype.kind == "f":
        sample = subsample(array)
        if not np.array_equal(sample, np.rint(sample)) or not all(np.array_equal(s, np.rint(s)) for s in array):
            return array.astype(np.float32, copy=False)
    limits = np.iinfo(np.int16)
    if array.min() < limits.min or array.max() > limits.max:
        array = np.clip(array, limits.min, limits.max)
    return array.astype(np.int16)


def prepare_hounsfield(what: str, array: np.ndarray, header_note: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """Check that ``array`` (K, J, I) holds HU, set padding to air and store it compactly; returns it and warnings."""
    check_finite(what, array)
    check_hounsfield(what, array, header_note)
    array, warnings = clip_padding(what, array)
    return compact(array), warnings

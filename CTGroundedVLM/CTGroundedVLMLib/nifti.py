"""Reads the voxels of a NIfTI file. ITK, which reads its grid, would hide three faults from us:

it turns NaN into 0 (the HU of water), reads a truncated file as zeros, and takes 1 mm for a voxel size of 0.
Layout: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

try:
    from isal import isal_zlib as fast_zlib  # inflates almost twice as fast
except ImportError:  # in 3D Slicer's own Python, before packages are installed
    fast_zlib = zlib

_HEADER_BYTES = 348  # also the header's first number; NIfTI-2, which ITK does not read, has 540
_LAYOUT = {
    "datatype": (70, "h"),
    "pixdim": (80, "3f"),
    "vox_offset": (108, "f"),
    "scale": (112, "2f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "srow": (280, "12f"),
}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_START_BYTES = 1 << 16  # holds the header and its extensions
_PIECE_BYTES = 1 << 17
_GZIP = 31  # zlib's window size that stands for the gzip format; it compares the checksum at the end


@dataclass(frozen=True)
class NiftiHeader:
    """What ITK does not hand on.

    ``pixdim``: voxel size as stored, also where it is not above 0. ``sform``: (4, 4) ijk to RAS, None where it is not set;
    ITK silently takes the qform where the sform is sheared. ``start``: the header's bytes with its extensions.
    """

    dtype: np.dtype
    pixdim: tuple[float, ...]
    vox_offset: int
    slope: float
    intercept: float
    has_orientation: bool
    sform: np.ndarray | None
    start: bytes


def read_nifti_header(path: Path) -> NiftiHeader | None:
    """The header of a .nii or .nii.gz file; None if it is none, or of a voxel type that is not one number.

    Raises zlib.error for damaged compression.
    """
    start = _start(path)
    for order in "<>":
        if len(start) >= _HEADER_BYTES and struct.unpack(f"{order}i", start[:4]) == (_HEADER_BYTES,):
            field = {name: struct.unpack_from(order + form, start, at) for name, (at, form) in _LAYOUT.items()}
            return _header(field, order, start)
    return None


def is_nifti_2(path: Path) -> bool:
    """Whether the content begins as a NIfTI-2 header does."""
    try:
        return _start(path)[:7] in (b"\x1c\x02\0\0n+2", b"\0\0\x02\x1cn+2")
    except zlib.error:
        return False


def _header(field: dict[str, tuple[float, ...]], order: str, start: bytes) -> NiftiHeader | None:
    datatype = _TYPES.get(field["datatype"][0])
    if datatype is None:
        return None
    slope, intercept = field["scale"]
    if slope == 0 or not (math.isfinite(slope) and math.isfinite(intercept)):  # the standard's "no scaling"
        slope, intercept = 1.0, 0.0
    vox_offset = max(int(field["vox_offset"][0]), _HEADER_BYTES)  # as niftilib: some writers leave 0 there
    return NiftiHeader(
        dtype=np.dtype(order + datatype),
        pixdim=field["pixdim"],
        vox_offset=vox_offset,
        slope=slope,
        intercept=intercept,
        sform=np.vstack([np.reshape(field["srow"], (3, 4)), (0, 0, 0, 1)]) if field["sform_code"][0] > 0 else None,
        has_orientation=field["qform_code"][0] > 0 or field["sform_code"][0] > 0,
        start=start[:vox_offset],
    )


def read_nifti_pixels(path: Path, header: NiftiHeader, size_ijk: tuple[int, ...]) -> np.ndarray:
    """(K, J, I) values, the header's scaling applied. Raises EOFError, OSError or zlib.error for a damaged file."""
    stored = np.empty(size_ijk[::-1], header.dtype)
    buffer = memoryview(stored).cast("B")
    position = -header.vox_offset  # of the next piece in the buffer
    for piece in _content(path):
        start = max(0, position)
        used = piece[start - position :][: max(0, len(buffer) - start)]
        buffer[start : start + len(used)] = used
        position += len(piece)
    if position < len(buffer):
        raise EOFError(f"it holds {max(0, position):,} bytes of voxels, its header promises {len(buffer):,}")
    return _scaled(stored.astype(stored.dtype.newbyteorder("="), copy=False), header)


def _scaled(stored: np.ndarray, header: NiftiHeader) -> np.ndarray:
    slope, intercept = header.slope, header.intercept
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if slope == 1.0 and intercept.is_integer() and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
        return stored.astype(np.int32) + int(intercept)
    scaled = stored.astype(np.float32, copy=False)
    scaled *= slope
    scaled += intercept
    return scaled


def _is_compressed(path: Path) -> bool:
    """By the content: names are not to be relied on."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _start(path: Path) -> bytes:
    """The first bytes of the content, as many as a truncated file still holds."""
    with path.open("rb") as file:
        data = file.read(_START_BYTES)
    return _inflate(fast_zlib.decompressobj(_GZIP), data, _START_BYTES) if _is_compressed(path) else data


def _inflate(stream: object, data: bytes, limit: int = 0) -> bytes:
    """One piece of a gzip stream (all of it, or ``limit`` bytes). Raises zlib.error, whichever library inflates."""
    try:
        return stream.decompress(data, limit) if limit else stream.decompress(data)
    except fast_zlib.error as error:
        raise zlib.error(str(error)) from error


def _content(path: Path) -> Iterator[memoryview]:
    """The content piece by piece. Twice as fast as the gzip module of Python 3.11, which inflates 8 KiB at a time."""
    compressed = _is_compressed(path)
    stream = fast_zlib.decompressobj(_GZIP)
    with path.open("rb") as file:
        while data := file.read(_PIECE_BYTES):
            while compressed and data:
                yield memoryview(_inflate(stream, data))
                data = stream.unused_data.lstrip(b"\0")  # another member, as bgzip writes them, or padding
                if stream.eof and data:
                    stream = fast_zlib.decompressobj(_GZIP)
            if not compressed:
                yield memoryview(data)
    if compressed and not stream.eof:
        raise EOFError("it ends in the middle of its compressed data")

"""NIfTI voxels: every number type, byte order and compression gives what was written."""

import gzip
import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib import nifti

SIZE_IJK = (4, 5, 6)
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}


def values(dtype):
    array = np.arange(120).reshape(6, 5, 4)
    return (array - (60 if np.dtype(dtype).kind != "u" else 0)).astype(dtype)


def nifti_1(array, order="<", slope=1.0, intercept=0.0, vox_offset=352.0):
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    struct.pack_into(order + "2h", header, 70, CODES[array.dtype.str[1:]], 8 * array.dtype.itemsize)
    struct.pack_into(order + "8f", header, 76, 1, 0.5, 0.5, 2, 1, 1, 1, 1)
    struct.pack_into(order + "3f", header, 108, vox_offset, slope, intercept)
    struct.pack_into(order + "hh", header, 252, 1, 0)
    header[344:348] = b"n+1\0"
    return bytes(header) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def read(path):
    return nifti.read_nifti_pixels(path, nifti.read_nifti_header(path), SIZE_IJK)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", CODES)
def test_every_number_type_is_read_as_itk_reads_it(tmp_path, dtype, order):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_1(values(dtype), order))
    array = read(path)
    assert array.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(array, values(dtype))
    np.testing.assert_array_equal(array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("order", "<>")
def test_version_2_is_told_apart_for_itk_does_not_read_it(tmp_path, order, compress):
    path = tmp_path / "image.nii"
    path.write_bytes(
        compress(struct.pack(order + "i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(532) + values("i2").tobytes())
    )
    assert nifti.is_nifti_2(path)
    assert nifti.read_nifti_header(path) is None
    path.write_bytes(compress(nifti_1(values("i2"), order)))
    assert not nifti.is_nifti_2(path)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(1, -1024, (1, -1024)), (0.5, 3, (0.5, 3)), (0, 55, (1, 0)), (np.nan, np.nan, (1, 0)), (1, 0.25, (1, 0.25))],
)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_the_header_s_scaling_is_applied_where_there_is_one(tmp_path, dtype, slope, intercept, expected):
    path = tmp_path / "image.nii"
    path.write_bytes(nifti_1(values(dtype), slope=slope, intercept=intercept))
    np.testing.assert_array_equal(read(path), expected[0] * values(dtype).astype(float) + expected[1])


def test_nan_is_not_turned_into_water(tmp_path):
    array = values("f4")
    array[1, 2, 3] = np.nan
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(nifti_1(array)))
    assert np.isnan(read(path)[1, 2, 3])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[1, 2, 3] == 0  # why ITK does not read the voxels


@pytest.mark.parametrize("piece", [1, 7, 64, 1 << 17])
def test_the_size_of_the_pieces_does_not_matter(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(nifti, "_PIECE_BYTES", piece)
    content = nifti_1(values("i2"))
    compressed = tmp_path / "image.nii.gz"
    compressed.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + gzip.compress(b"") + bytes(9))
    plain = tmp_path / "image.nii"
    plain.write_bytes(content + b"trailing bytes")
    for path in (compressed, plain):
        np.testing.assert_array_equal(read(path), values("i2"))


@pytest.mark.parametrize("lost", [1, 8, 50, 100])
def test_the_end_of_a_file_is_missed(tmp_path, lost):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(gzip.compress(nifti_1(values("i2")))[:-lost])
    with pytest.raises(EOFError):
        read(path)
    path.write_bytes(nifti_1(values("i2"))[:-lost])
    with pytest.raises(EOFError, match=f"it holds {240 - lost} bytes of voxels, its header promises 240"):
        read(path)


def test_a_wrong_checksum_is_found(tmp_path):
    data = bytearray(gzip.compress(nifti_1(values("i2"))))
    data[-5] ^= 1
    path = tmp_path / "image.nii.gz"
    path.write_bytes(data)
    with pytest.raises(zlib.error):
        read(path)


def test_a_missing_voxel_offset_means_behind_the_header(tmp_path):
    content = nifti_1(values("i2"), vox_offset=0)
    path = tmp_path / "image.nii"
    path.write_bytes(content[:348] + content[352:])
    np.testing.assert_array_equal(read(path), values("i2"))


@pytest.mark.parametrize("content", [b"", b"text", bytes(600), gzip.compress(b"text", mtime=0)])
def test_what_is_no_nifti_has_no_header(tmp_path, content):
    path = tmp_path / "image.nii.gz"
    path.write_bytes(content)
    assert nifti.read_nifti_header(path) is None

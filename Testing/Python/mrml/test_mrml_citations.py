""" "Series 4, image 112" leads to that slice, by the DICOM headers; and to nowhere rather than to a wrong one."""

from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
import slicer.util
import vtk

from CTGroundedVLMLib import mrml_io
from CTGroundedVLMLib.types import Citation
from dicom_cases import CORONAL, write_series, write_slice
from slicer_scene import add_volume


def load_series(booted, files):
    """As Slicer's DICOM module loads a series, sorted by position; returns the node and the lookup of files."""
    headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in files}
    x, y = np.array(next(iter(headers.values())).ImageOrientationPatient, float).reshape(2, 3)
    ordered = sorted(files, key=lambda path: np.cross(x, y) @ np.array(headers[path].ImagePositionPatient, float))
    names = vtk.vtkStringArray()
    for path in ordered:
        names.InsertNextValue(str(path))
    node = booted.logics["Volumes"].AddArchetypeVolume(str(ordered[0]), "CT", 0, names)
    # the anonymiser of the real series blanked the data sets' UIDs, not those of the meta headers
    uids = [str(headers[p].get("SOPInstanceUID") or headers[p].file_meta.MediaStorageSOPInstanceUID) for p in ordered]
    node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    return node, dict(zip(uids, ordered, strict=True)), headers


def cite(image, series=None):
    return Citation(series, image, 0, 0)


@pytest.fixture
def series(booted, tmp_path):
    """Six slices, whose instance numbers go from the head (11) down to the feet (16)."""
    folder = write_series(tmp_path / "ct", [float(h) for h in range(0, 18, 3)], series="4")
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.InstanceNumber = 16 - round(float(image.ImagePositionPatient[2]) / 3)
        image.save_as(path)
    return load_series(booted, sorted(folder.iterdir()))


def test_an_image_of_the_series_is_found_at_its_height_in_the_middle_of_the_slice(series):
    node, files, _ = series
    # 20 columns of 0.5 mm from -5 LPS and 24 rows of 0.75 mm from -9 LPS
    for image in range(11, 17):
        position = mrml_io.citation_position(node, cite(image, 4), files.get)
        assert np.allclose(position, (5 - 9.5 * 0.5, 9 - 11.5 * 0.75, 3 * (16 - image)))


def test_the_slice_that_is_found_holds_the_images_pixels(series):
    node, files, headers = series
    array = slicer.util.arrayFromVolume(node)
    for path, header in headers.items():
        _, _, z = mrml_io.citation_position(node, cite(int(header.InstanceNumber)), files.get)
        k = round(z / 3)
        hu = pydicom.dcmread(path).pixel_array * 1.0 - 1024
        assert np.array_equal(array[k], hu)


def test_a_citation_of_another_series_or_of_no_image_leads_nowhere(series):
    node, files, _ = series
    assert mrml_io.citation_position(node, cite(12, 3), files.get) is None
    assert mrml_io.citation_position(node, cite(99, 4), files.get) is None


def test_numbered_slices_cost_few_headers(series):
    node, files, _ = series
    asked = []
    mrml_io.citation_position(node, cite(14, 4), lambda uid: asked.append(uid) or files[uid])
    assert len(asked) <= 3


def number(files, *numbers):
    for path, instance in zip(files.values(), numbers, strict=True):
        image = pydicom.dcmread(path)
        image.InstanceNumber = instance
        image.save_as(path)


@pytest.mark.parametrize("numbers", [(16, 15, 14, 13, 12, 11), (11, 13, 15, 17, 19, 21)], ids=["all", "every second"])
def test_an_image_beyond_numbered_slices_costs_few_headers_too(series, numbers):
    node, files, _ = series
    number(files, *numbers)
    for image in (1, 99):
        lookup = Mock(side_effect=files.get)
        assert mrml_io.citation_position(node, cite(image, 4), lookup) is None
        assert lookup.call_count <= 4


@pytest.mark.parametrize(
    "numbers",
    [(7, 31, 2, 18, 4, 90), (7, 31, 2, 18, 4, 92), (1, 3, 5, 2, 4, 6)],
    ids=["none", "none with ends as if", "interleaved"],
)
def test_instance_numbers_without_an_order_are_found_all_the_same(series, numbers):
    node, files, _ = series
    number(files, *numbers)
    heights = [mrml_io.citation_position(node, cite(n, 4), files.get)[2] for n in numbers]
    assert np.allclose(heights, range(0, 18, 3))


def test_it_follows_a_linear_transform_of_the_ct(booted, series):
    node, files, _ = series
    still = mrml_io.citation_position(node, cite(12), files.get)
    transform = booted.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (1, 2, 3)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert np.allclose(np.subtract(mrml_io.citation_position(node, cite(12), files.get), still), (1, 2, 3))


def test_a_volume_that_was_moved_since_leads_nowhere_rather_than_to_a_wrong_slice(series):
    node, files, _ = series
    node.SetOrigin(0, 0, 100)
    assert mrml_io.citation_position(node, cite(12), files.get) is None


def test_a_coronal_series_is_found_along_its_own_axis(booted, tmp_path):
    folder = tmp_path / "coronal"
    for index in range(5):
        write_slice(
            folder / f"{index}.dcm",
            (-5.0, 4.0 * index, 30.0),
            index=index,
            orientation=CORONAL,
            InstanceNumber=index + 1,
        )
    node, files, _ = load_series(booted, sorted(folder.iterdir()))
    ys = [mrml_io.citation_position(node, cite(n), files.get)[1] for n in range(1, 6)]
    assert np.allclose(ys, [0, -4, -8, -12, -16])


def test_without_dicom_or_with_lost_files_there_is_no_link(booted, series):
    node, files, _ = series
    plain = add_volume(booted.scene, np.zeros((3, 3, 3), np.int16), np.eye(4))
    assert mrml_io.citation_position(plain, cite(1), files.get) is None
    assert mrml_io.citation_position(node, cite(12), lambda uid: None) is None
    assert mrml_io.citation_position(node, cite(12), lambda uid: "/no/such/file.dcm") is None
    for path in files.values():
        path.write_bytes(b"damaged")
    assert mrml_io.citation_position(node, cite(12), files.get) is None


def test_the_volume_that_holds_the_cited_series_is_found_among_several(booted, series, tmp_path):
    first, files, _ = series
    folder = write_series(tmp_path / "other", [0.0, 5.0, 10.0], series="7")
    for number, path in enumerate(sorted(folder.iterdir()), 1):
        image = pydicom.dcmread(path)
        image.InstanceNumber = number
        image.save_as(path)
    second, more, _ = load_series(booted, sorted(folder.iterdir()))
    lookup = (files | more).get
    assert mrml_io.find_citation([first, second], cite(2, 7), lookup)[0] is second
    assert mrml_io.find_citation([first, second], cite(12, 4), lookup)[0] is first
    assert mrml_io.find_citation([first, second], cite(12, 9), lookup) is None


def test_the_real_series_leads_to_the_right_slices(booted, test_data):
    files = sorted((test_data / "ct" / "abdomen_dicom" / "series").iterdir())
    node, lookup, headers = load_series(booted, files)
    numbers = []
    for path, header in headers.items():
        x, y, z = mrml_io.citation_position(node, cite(int(header.InstanceNumber)), lookup.get)
        left, back, height = (float(v) for v in header.ImagePositionPatient)
        row, column = (float(v) for v in header.PixelSpacing)
        expected = (-(left + column * 511 / 2), -(back + row * 511 / 2), height)
        assert np.allclose((x, y, z), expected, atol=1e-3)
        k = round(float((np.linalg.inv(slicer.util.arrayFromVTKMatrix(matrix_of(node))) @ [x, y, z, 1])[2]))
        pixels = pydicom.dcmread(path)
        hu = pixels.pixel_array * float(pixels.RescaleSlope) + float(pixels.RescaleIntercept)
        assert np.array_equal(slicer.util.arrayFromVolume(node)[k], hu)
        numbers.append(k)
    assert sorted(numbers) == list(range(20))


def matrix_of(node):
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


@pytest.mark.parametrize("damaged", [b"ab", b"  "])
def test_a_header_whose_position_is_damaged_leads_nowhere(series, damaged):
    node, files, headers = series
    path = next(path for path, header in headers.items() if header.InstanceNumber == 12)
    data = path.read_bytes()
    start = data.index(b"\x20\x00\x32\x00DS") + 8  # Image Position (Patient), explicit little endian
    path.write_bytes(data[:start] + damaged + data[start + 2 :])
    assert mrml_io.citation_position(node, cite(12, 4), files.get) is None

"""DICOM series made by hand: every voxel, position and identifier in them is known."""

import zlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

AXIAL = [1, 0, 0, 0, 1, 0]
CORONAL = [1, 0, 0, 0, 0, -1]
ROOT = "1.2.826.0.1.3680043.8.498."


def slice_hu(index, rows=24, columns=20):
    """Air, a body of 40 HU and one bright voxel that tells where row, column and slice lie."""
    hu = np.full((rows, columns), -1000, np.int16)
    hu[4:20, 3:17] = 40
    hu[5, 4] = 300 + index
    return hu


def write_slice(path, position, *, index=0, series="1", orientation=AXIAL, hu=None, **changes):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"{ROOT}{series}.{zlib.crc32(str(path).encode())}"
    # Anonymisers blank the data set's UIDs, not those of the meta header.
    meta.MediaStorageSOPClassUID = changes.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.SeriesInstanceUID = ROOT + series
    image.StudyInstanceUID = ROOT + "0"
    image.Modality, image.SeriesNumber, image.SeriesDescription = "CT", series, f"series {series}"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.ImagePositionPatient, image.ImageOrientationPatient = list(position), list(orientation)
    image.PixelSpacing = [0.75, 0.5]  # between rows, between columns
    hu = slice_hu(index) if hu is None else hu
    image.Rows, image.Columns = hu.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = 1, -1024
    for keyword, value in changes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", -1024))
    image.PixelData = ((hu - intercept) / slope).astype(np.uint16).tobytes()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image)


def write_series(folder, heights, **options):
    """Slices at ``heights`` (mm), in files whose names are in no useful order."""
    for index, height in enumerate(heights):
        name = f"{options.get('series', '1')}-{(index * 7) % 101:03}-{index}.dcm"
        write_slice(folder / name, (-5.0, -9.0, height), index=index, **options)
    return folder

"""A CT-sized synthetic scan on disk for the benchmarks: ellipsoids and tubes in noise, not an anatomy."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

SIZE_IJK, SPACING_IJK = (512, 512, 250), (0.75, 0.75, 1.25)
# class label of TotalSegmentator v2: centre and half axes in mm from the volume's centre (left, back, up), HU
ELLIPSOIDS = {
    10: ((75, 5, 40), (58, 78, 85), -850),
    11: ((75, 25, -60), (55, 75, 70), -840),
    12: ((-75, 5, 60), (58, 78, 65), -850),
    13: ((-70, -30, -20), (45, 55, 40), -850),
    14: ((-75, 30, -65), (55, 75, 70), -840),
    51: ((20, -25, -30), (48, 45, 50), 45),
}
TUBES = {15: ((5, 60), 9, 20), 52: ((22, 72), 14, 45)}  # label: (left, back) in mm, radius, HU; through the whole scan


def write_scan(folder: Path, size_ijk=SIZE_IJK, seed: int = 0) -> tuple[Path, Path]:
    """CT and label map as .nii.gz, stored to the left, back and head as CT-RATE stores its volumes."""
    rng = np.random.default_rng(seed)
    shape = size_ijk[::-1]
    z, y, x = (
        ((np.arange(n) - n / 2) * s).astype(np.float32).reshape([-1 if a == b else 1 for b in range(3)])
        for a, (n, s) in enumerate(zip(shape, SPACING_IJK[::-1], strict=True))
    )
    body = (x / 170) ** 2 + (y / 120) ** 2 < 1
    hu = np.where(np.broadcast_to(body, shape), np.float32(40), np.float32(-1000))
    labels = np.zeros(shape, np.uint8)
    for label, ((cx, cy, cz), (rx, ry, rz), value) in ELLIPSOIDS.items():
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1
        hu[inside], labels[inside] = value, label
    for label, ((cx, cy), radius, value) in TUBES.items():
        inside = np.broadcast_to((x - cx) ** 2 + (y - cy) ** 2 < radius**2, shape)
        hu[inside], labels[inside] = value, label
    hu += rng.normal(0, 20, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "ct.nii.gz", folder / "segmentation.nii.gz"
    for path, array in zip(paths, (hu.astype(np.int16), labels), strict=True):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING_IJK)
        sitk.WriteImage(image, str(path), True)
    return paths

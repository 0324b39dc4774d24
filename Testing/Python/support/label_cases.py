"""A small label map with a spleen and a liver, and the grid it lies on."""

import numpy as np

SHAPE = (9, 14, 12)
AFFINE = np.array([[-0.8, 0, 0, 30.0], [0, -0.8, 0, 20.0], [0, 0, 3.0, -100.0], [0, 0, 0, 1]])
SPLEEN, LIVER, HEART = 1, 5, 51


def labels() -> np.ndarray:
    """(K, J, I) with TotalSegmentator v2's numbers."""
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 3:9, 2:6] = SPLEEN
    array[4:8, 5:12, 6:11] = LIVER
    return array

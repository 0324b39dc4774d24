"""Heat maps as NIfTI files on the grid of the CT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK

from ..image_file import set_affine
from ..types import Heatmap


def write_heatmap(heatmap: Heatmap, ijk_to_ras: np.ndarray, path: Path) -> None:
    """Write the whole grid as float32 NIfTI; what is not a finite number is written as 0.

    Args:
        ijk_to_ras: (4, 4) of the CT; NIfTI through ITK holds rotations and mirrors, not shears (see ``plan.is_sheared``).
        path: ends in ``.nii.gz``.

    Raises:
        OSError: the file cannot be written.
    """
    finite = replace(heatmap, values_kji=np.nan_to_num(heatmap.values_kji, nan=0.0, posinf=0.0, neginf=0.0))
    image = SimpleITK.GetImageFromArray(finite.to_volume())
    set_affine(image, np.asarray(ijk_to_ras, float))
    try:
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:  # SimpleITK's only exception: it does not say whether the disk is full
        raise OSError(f"{path.name} could not be written (is the disk full?): {error}") from error

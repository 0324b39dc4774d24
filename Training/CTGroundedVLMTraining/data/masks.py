"""Masks that the manifest lacks, made by TotalSegmentator through the core, one per case and kept beside the shards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from CTGroundedVLMLib import segmentation
from CTGroundedVLMLib.anatomy import segment_classes
from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.model.config import ModelConfig
from CTGroundedVLMLib.volume_io import write_label_map

from .manifest import ManifestRow
from .shards import file_name
from .volumes import read_volume
from .workers import DEVICE_VARIABLE


def mask_path(folder: Path, case_id: str) -> Path:
    """Where the mask of a case lies that ``prepare`` has made."""
    return folder / "segmentations" / f"{file_name(case_id)}.nii.gz"


def with_own_mask(row: ManifestRow, folder: Path) -> ManifestRow:
    """The row, with the mask that an earlier run made if the manifest names none."""
    path = mask_path(folder, row.case_id)
    return replace(row, segmentation=path) if row.segmentation is None and path.is_file() else row


def segmented(row: ManifestRow, folder: Path, model: ModelConfig, fast: bool | None) -> ManifestRow:
    """Segment the row's CT (the model's classes only) and return the row with the mask.

    Raises:
        VolumeError: the CT cannot be read.
        SegmentationError: TotalSegmentator failed, or found none of the classes.
        DependencyError: TotalSegmentator or its weights are missing.
        OutputError: the mask cannot be written.
    """
    path = mask_path(folder, row.case_id)
    classes = sorted({segment for segments in model.organs.values() for segment in segments})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be made ({error}); give a writable folder.") from error
    ct = read_volume(row)
    with tempfile.TemporaryDirectory(prefix="ctgvlm-masks-") as cache:  # the mask is kept under the case's name instead
        made = segmentation.segment(
            ct,
            row.image,
            classes=classes,
            device=os.environ.get(DEVICE_VARIABLE, "cpu"),
            fast=fast,
            cache_dir=Path(cache),
        )
    write_label_map(made, ct, path)
    return replace(row, segmentation=path)


def check_segmenter(model: ModelConfig, devices: Sequence[str], fast: bool | None) -> None:
    """Ask once, before a run, whether masks can be made: DependencyError where TotalSegmentator or its weights are missing."""
    segmentation.installed_version()
    classes = {segment for segments in model.organs.values() for segment in segments}
    for device in devices:
        on_cpu = segmentation.device_name(device) == "cpu"
        segmentation.check_weights(fast=on_cpu if fast is None else fast, subset=len(classes) < len(segment_classes()))

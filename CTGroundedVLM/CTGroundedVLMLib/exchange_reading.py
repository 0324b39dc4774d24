"""Reads, in the worker, what ``exchange.CaseWriter`` wrote: memory-mapped, checked, merged on the CT's grid."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import anatomy, guards
from .errors import InputError, SegmentationError, VolumeError
from .types import CTCase, Segmentation, Volume

FORMAT, VERSION = "ctgvlm-case", 1


def read_case(case_json: Path, segment: Callable[[Volume], Segmentation] | None = None) -> CTCase:
    """Read what was handed over. The CT stays memory-mapped where its values need no change.

    Args:
        segment: makes the segmentation where none was handed over.

    Raises:
        InputError: ``case.json`` is missing, damaged or of another version.
        VolumeError, SegmentationError, ReportError, ResourceError: as ``volume_io.load_case``.
    """
    case_json = Path(case_json)
    case = _read_json(case_json)
    with _damage_named(case_json):
        ct = _read_ct(case_json.parent, case)
        segmentation = _read_segmentation(case_json.parent, case, ct) or _made(ct, segment)
        return CTCase(ct, segmentation, case["report_text"], case["report_source"])


def read_ct(case_json: Path) -> Volume:
    """The CT alone of what was handed over. Errors: as ``read_case``."""
    case_json = Path(case_json)
    case = _read_json(case_json)
    with _damage_named(case_json):
        return _read_ct(case_json.parent, case)


def _made(ct: Volume, segment: Callable[[Volume], Segmentation] | None) -> Segmentation:
    if segment is None:
        raise SegmentationError(
            f"No segment of the CT {ct.name} was handed over. Choose a segmentation with at least one known segment, or "
            "let TotalSegmentator make one."
        )
    return segment(ct)


def _read_ct(folder: Path, case: Mapping[str, Any]) -> Volume:
    if "files" in case:
        from . import volume_io

        return volume_io.read_ct(Path(case["files"]["ct"]), series_uid=case["files"]["series"])
    record = case["ct"]
    what = f"CT {record['name']}"
    array, ijk_to_ras = _read_array(folder, record)
    guards.check_dimensions(what, array.shape[::-1], 1, VolumeError)
    guards.check_geometry(what, ijk_to_ras, VolumeError)
    guards.check_memory(what, array.size, 0 if array.dtype == np.int16 else array.itemsize + 2)
    if array.min() <= guards.PADDING_HU:
        array = np.array(array)  # the guards will set padding to air in place, and the file is read-only
    array, warnings = guards.prepare_hounsfield(what, array)
    warnings = (*case["warnings"], *warnings)
    return Volume(array, ijk_to_ras, record["name"], source=record["source"], warnings=warnings)


def _read_segmentation(folder: Path, case: Mapping[str, Any], ct: Volume) -> Segmentation | None:
    from . import segmentation_io

    if "files" in case:
        path = case["files"]["segmentation"]
        return segmentation_io.read_segmentation(Path(path), ct) if path else None
    return _merge_layers(folder, case, ct) if case["layers"] else None


def _merge_layers(folder: Path, case: Mapping[str, Any], ct: Volume) -> Segmentation:
    from . import segmentation_io

    what = f"Segmentation {case['segmentation_name']}".strip()
    warnings: list[str] = []

    def label_maps() -> Iterator[segmentation_io.LabelMap]:
        for record in case["layers"]:
            array, ijk_to_ras = _read_array(folder, record)
            guards.check_geometry(what, ijk_to_ras, SegmentationError)
            labels = segmentation_io.as_labels(array, what)
            mapping = {int(value): anatomy.segment(name).label for value, name in record["names"].items()}
            yield segmentation_io.relabel(labels, mapping, segmentation_io.present_values(labels)), ijk_to_ras

    labels_kji = segmentation_io.merge_maps(label_maps(), ct, what, warnings)
    names = anatomy.label_names()
    present = {value: names[value] for value in segmentation_io.present_values(labels_kji)}
    return Segmentation(labels_kji, present, source=case["segmentation_name"], warnings=tuple(warnings))


def _read_array(folder: Path, record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The array of ``record``, memory-mapped, and its (4, 4) matrix."""
    path = folder / Path(record["file"]).name
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        raise _damaged(path, error) from error
    return array, np.array(record["ijk_to_ras"], float).reshape(4, 4)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        case = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(case, dict) or (case.get("format"), case.get("version")) != (FORMAT, VERSION):
        raise InputError(
            f"{path} is no {FORMAT} of version {VERSION}: this program must have written it. Analyze again."
        )
    return case


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    reason = str(error) or type(error).__name__
    return InputError(
        f"{path} cannot be read ({reason}): it may be incomplete. Analyze again to hand the case over anew."
    )

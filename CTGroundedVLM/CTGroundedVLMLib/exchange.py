"""The private folder through which a case goes to the worker process: ``case.json`` beside one .npy file per array.

Slicer's GUI thread writes it in small steps, the worker memory-maps it, and no voxel goes through a pipe. Nothing heavy is
imported at the top: Slicer has NumPy before any package of ours is installed. ``exchange_reading`` is the worker's side,
``exchange_results`` the way back.

``case.json``::

    {"format": "ctgvlm-case", "version": 1, "ct": {"file": "ct.npy", "ijk_to_ras": [[...]], "name": ..., "source": ...},
     "layers": [{"file": "layer-0.npy", "ijk_to_ras": [[...]], "names": {"1": "liver"}}], "segmentation_name": ...,
     "report_text": ..., "report_source": ..., "warnings": [...]}

or, where the worker is to read the files itself, {"files": {"ct": ..., "segmentation": ..., "series": ...}} in place of
"ct" and "layers".
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import anatomy, guards
from .errors import InputError, OutputError, ReportError, SegmentationError, VolumeError
from .exchange_reading import FORMAT, VERSION, read_case, read_ct
from .exchange_results import (
    Answer,
    ResultReader,
    read_answer,
    read_result,
    read_segmentation,
    write_answer,
    write_result,
    write_segmentation,
)
from .report_sources import REPORT_LIMIT_BYTES

__all__ = [
    "Answer",
    "CaseWriter",
    "ResultReader",
    "read_answer",
    "read_case",
    "read_ct",
    "read_result",
    "read_segmentation",
    "write_answer",
    "write_file_case",
    "write_result",
    "write_segmentation",
]

CASE = "case.json"
SLAB_BYTES = 2 << 20  # copied within a few ms: a GUI thread may do that between two frames


class CaseWriter:
    """Writes one case step by step; whoever drives it does other work between two steps.

    ``write_ct`` and ``write_layer`` are generators: they write while they are iterated over, and yield the fraction done
    (0..1). The folder is made, or must be empty. It is removed when a step fails, and when a generator is closed halfway.

    Raises (any method):
        OutputError: the disk is full, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._ct: dict[str, Any] | None = None
        self._layers: list[dict[str, Any]] = []
        with self._all_or_nothing():
            self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise OutputError(f"{self.folder} is not empty. Name a folder of its own for each case.")

    def write_ct(
        self, array_kji: np.ndarray, ijk_to_ras: np.ndarray, name: str, *, source: str = "", modality: str = ""
    ) -> Iterator[float]:
        """The CT: (K, J, I) HU of any numeric type, and its (4, 4) ijk-to-RAS matrix in mm.

        Args:
            name: what messages and results call it.
            source: its file, where known.
            modality: the DICOM modality; "" where it is not known. The values themselves are checked by the worker.

        Raises:
            VolumeError: it is not a CT, not three-dimensional, or its voxels or axes are not those of a scanner.
        """
        what = f"CT {name}"
        with self._all_or_nothing():
            check_modality(what, modality)
            _check_array(what, array_kji, ijk_to_ras, VolumeError, "iuf", guards.MIN_VOXELS)
            yield from self._write_array("ct.npy", array_kji)
            self._ct = {"file": "ct.npy", "ijk_to_ras": _matrix(ijk_to_ras), "name": name, "source": source}

    def write_layer(self, array_kji: np.ndarray, ijk_to_ras: np.ndarray, names: Mapping[int, str]) -> Iterator[float]:
        """One label map of a segmentation, on any grid; several may overlap (the later one stays).

        Args:
            array_kji: (K, J, I) whole numbers, 0 where there is no segment.
            names: label value -> TotalSegmentator v2 class name. Values without a name are left out.

        Raises:
            SegmentationError: a class is not known, or the array is no label map.
        """
        what = "A layer of the segmentation"
        with self._all_or_nothing():
            classes = {str(int(value)): anatomy.segment(class_name).name for value, class_name in names.items()}
            _check_array(what, array_kji, ijk_to_ras, SegmentationError, "iu", minimum=1)
            file = f"layer-{len(self._layers)}.npy"
            yield from self._write_array(file, array_kji)
            self._layers.append({"file": file, "ijk_to_ras": _matrix(ijk_to_ras), "names": classes})

    def finish(
        self,
        report_text: str,
        report_source: str = "",
        warnings: Sequence[str] = (),
        *,
        segmentation_name: str = "",
    ) -> Path:
        """Write ``case.json`` and return it: only now the case is whole.

        Without a layer, the worker is expected to segment the CT itself.

        Raises:
            ReportError: the report is too long.
        """
        if self._ct is None:
            raise ValueError("finish() before write_ct() has been iterated to its end")
        with self._all_or_nothing():
            check_report(report_text)
            case = {"ct": self._ct, "layers": self._layers, "segmentation_name": segmentation_name}
            return _write_json(self.folder, case, report_text, report_source, warnings)

    def discard(self) -> None:
        """Remove the folder and all that was written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_array(self, file: str, array_kji: np.ndarray) -> Iterator[float]:
        free = shutil.disk_usage(self.folder).free
        if free < array_kji.nbytes:
            raise OutputError(
                f"{self.folder} has {free / 2**20:,.0f} MiB free; {array_kji.nbytes / 2**20:,.0f} MiB are needed to hand "
                "the volume over. Make space on that disk, or choose another folder for temporary files."
            )
        # written, not memory-mapped: a full disk is an error here, and a killed process (SIGBUS) there
        with open(self.folder / file, "wb") as stream:
            header = {"descr": np.lib.format.dtype_to_descr(array_kji.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(stream, header | {"shape": array_kji.shape})
            done = 0
            for slab in _slabs(array_kji):
                stream.write(np.ascontiguousarray(slab).data)
                done += slab.size
                yield done / array_kji.size

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.discard()
            raise OutputError(
                f"The case cannot be written to {self.folder} ({error.strerror or error}). Make space on that disk, or "
                "choose another folder for temporary files."
            ) from error
        except BaseException:  # a refusal, or GeneratorExit: the hand-over was given up
            self.discard()
            raise


def write_file_case(
    folder: Path,
    ct: Path,
    segmentation: Path | None,
    report_text: str = "",
    report_source: str = "",
    *,
    series_uid: str | None = None,
) -> Path:
    """A case whose files the worker reads itself (``volume_io.load_case``): nothing but ``case.json`` is written.

    Raises:
        OutputError, ReportError: as for :class:`CaseWriter`.
    """
    check_report(report_text)
    files = {
        "ct": str(Path(ct).absolute()),
        "segmentation": str(Path(segmentation).absolute()) if segmentation else None,
    }
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        return _write_json(Path(folder), {"files": files | {"series": series_uid}}, report_text, report_source, ())
    except OSError as error:
        raise OutputError(f"The case cannot be written to {folder} ({error}). Make space on that disk.") from error


def check_modality(what: str, modality: str) -> None:
    """Refuse a volume that says it is something else than a CT. ``modality``: DICOM's code, "" where it is not known."""
    if modality.strip().upper() not in ("", "CT"):
        raise VolumeError(f"{what} is of modality {modality.strip()}; a CT is expected. Choose the CT series.")


def check_report(text: str) -> None:
    """Refuse what is far too long for a report."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > REPORT_LIMIT_BYTES:
        raise ReportError(
            f"The report has {size:,} bytes; at most {REPORT_LIMIT_BYTES:,} are expected. Give the report's text alone."
        )


def _slabs(array: np.ndarray) -> Iterator[np.ndarray]:
    """``array`` in pieces of at most SLAB_BYTES along its first axis (or the next one, where one plane is larger)."""
    plane = max(1, array[:1].nbytes)
    if plane > SLAB_BYTES and array.ndim > 1:
        for part in array:
            yield from _slabs(part)
        return
    step = max(1, SLAB_BYTES // plane)
    for start in range(0, len(array), step):
        yield array[start : start + step]


def _check_array(
    what: str, array: np.ndarray, ijk_to_ras: np.ndarray, error: type[InputError], kinds: str, minimum: int
) -> None:
    if array.dtype.kind not in kinds:
        raise error(
            f"{what} holds {array.dtype.name} values; {'numbers' if 'f' in kinds else 'whole numbers'} are expected."
        )
    components = array.shape[3] if array.ndim == 4 else 1
    guards.check_dimensions(what, array.shape[:3][::-1], components, error, minimum)
    if np.shape(ijk_to_ras) != (4, 4) or not np.isfinite(ijk_to_ras).all():
        raise error(f"{what} has no valid position: a finite 4 x 4 ijk-to-RAS matrix is expected.")
    guards.check_geometry(what, ijk_to_ras, error)


def _matrix(ijk_to_ras: np.ndarray) -> list[list[float]]:
    return np.asarray(ijk_to_ras, float).tolist()


def _write_json(
    folder: Path, case: Mapping[str, Any], report_text: str, report_source: str, warnings: Sequence[str]
) -> Path:
    report = {"report_text": report_text, "report_source": report_source, "warnings": list(warnings)}
    partial = folder / f"{CASE}.partial"
    # ASCII: half a surrogate pair, which Qt can hand over, has no UTF-8
    partial.write_text(json.dumps({"format": FORMAT, "version": VERSION} | dict(case) | report), encoding="ascii")
    os.replace(partial, folder / CASE)
    return folder / CASE

"""A shard: one case's volume in one file, compressed, with checksums.

A zip archive without compression of its own, so that its parts can be looked at with any tool::

    case.json         format, version, case_id, shape, fingerprint of what it was made from, statistics
    hu.blosc          int16 (D, H, W), Blosc (zstd, bytes shuffled)
    organ_map.blosc   uint8 (D, H, W)
    finding_map.blosc uint8 (D, H, W), where findings were drawn; its values are 1 + their place in the record's mapped_findings

Texts and labels lie in the index (see ``index.py``): they change more often than volumes. Why a file a case, and this
compression: docs/data.md.
"""

from __future__ import annotations

import io
import json
import math
import urllib.parse
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import DependencyError, InputError, OutputError
from CTGroundedVLMLib.files import atomic_path

from .crop import CroppedCase

FORMAT, VERSION = "ctgvlm-case", 1
SUFFIX = ".case"
_RECORD, _HU, _ORGANS, _FINDINGS = "case.json", "hu.blosc", "organ_map.blosc", "finding_map.blosc"
_DATE = (1980, 1, 1, 0, 0, 0)  # the same input makes the same file (with the same version of zstd)
_LEVEL = 3


@dataclass(frozen=True)
class Shard:
    """What a shard holds. ``record``: case.json."""

    record: dict[str, Any]
    hu_DHW: np.ndarray
    organ_map_DHW: np.ndarray
    finding_map_DHW: np.ndarray | None = None


def file_name(case_id: str) -> str:
    """A file name for any case id: valid, and another one for another id."""
    name = urllib.parse.quote(case_id, safe=" ")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def shard_name(case_id: str) -> str:
    """The path of a case's shard within a prepared folder."""
    return f"cases/{file_name(case_id)}{SUFFIX}"


def write_shard(path: Path, case: CroppedCase, record: dict[str, Any]) -> int:
    """Write a shard; it appears whole or not at all. Returns its size in bytes.

    Raises:
        OutputError: it cannot be written.
    """
    full = {"format": FORMAT, "version": VERSION, "shape": list(case.hu_DHW.shape), **record}
    parts = {
        _RECORD: json.dumps(full).encode(),
        _HU: _codec(shuffle=True).encode(np.ascontiguousarray(case.hu_DHW.astype("<i2", copy=False))),
        _ORGANS: _codec(shuffle=False).encode(np.ascontiguousarray(case.organ_map_DHW)),
    }
    if case.finding_map_DHW is not None:
        parts[_FINDINGS] = _codec(shuffle=False).encode(np.ascontiguousarray(case.finding_map_DHW))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name, _DATE), content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error}). Free space, then run the same command again."
        ) from error
    return buffer.tell()


def read_shard(content: bytes, name: str) -> Shard:
    """A shard from its bytes, with its checksums compared; ``name`` is named in messages.

    Raises:
        InputError: it is damaged, cut short, or no shard of this version.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            record = _checked_record(archive, name)
            shape = tuple(record["shape"])
            hu = _decoded(archive.read(_HU), "<i2", shape)
            organ_map = _decoded(archive.read(_ORGANS), "u1", shape)
            drawn = _FINDINGS in archive.namelist()
            finding_map = _decoded(archive.read(_FINDINGS), "u1", shape) if drawn else None
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, TypeError) as error:
        raise corrupt(name, str(error) or type(error).__name__) from error
    return Shard(record, hu, organ_map, finding_map)


def read_record(path: Path) -> dict[str, Any]:
    """case.json of a shard file, without its volume. Raises InputError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked_record(archive, str(path))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, OSError, TypeError) as error:
        raise corrupt(str(path), str(error) or type(error).__name__) from error


def corrupt(name: str, reason: str) -> InputError:
    """The error for a shard that cannot be read."""
    return InputError(
        f"{name}: the shard is damaged ({reason}). Run `ctgvlm-train prepare` again with --verify: it makes damaged shards "
        "anew, and puts those that it cannot make into quarantine, which training leaves out."
    )


def _checked_record(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    record = json.loads(archive.read(_RECORD))
    if record["format"] != FORMAT or record["version"] != VERSION:
        raise InputError(
            f"{name}: {record['format']} of version {record['version']}; expected {FORMAT} of version {VERSION}. "
            "Prepare the data again with this version of the software."
        )
    return record


def _decoded(content: bytes, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, kind)
    decoded = _codec(shuffle=False).decode(content, array.reshape(-1).view(np.uint8))
    if len(decoded) != math.prod(shape) * array.itemsize:
        raise ValueError(f"{len(decoded)} bytes for an array of {shape}")
    return array


def _codec(*, shuffle: bool) -> Any:
    try:
        from numcodecs import Blosc, blosc
    except ImportError as error:
        raise DependencyError('Shards need numcodecs: pip install "ct-grounded-vlm[training]".') from error
    blosc.use_threads = False  # many processes read at a time: threads would be in each other's way
    return Blosc(cname="zstd", clevel=_LEVEL, shuffle=Blosc.SHUFFLE if shuffle else Blosc.NOSHUFFLE)

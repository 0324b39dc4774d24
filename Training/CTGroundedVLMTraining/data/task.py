"""One case from its manifest row to a shard and a line of the index: what a worker process does."""

from __future__ import annotations

import hashlib
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from CTGroundedVLMLib import __version__
from CTGroundedVLMLib.errors import CTGroundedVLMError, DependencyError, InputError, OutputError, ResourceError
from CTGroundedVLMLib.model.config import ModelConfig

from .crop import crop_case, statistics
from .manifest import ManifestRow
from .masks import segmented
from .shards import read_record, shard_name, write_shard
from .texts import OrganTexts, report_of, texts_by_rules
from .volumes import read_case, read_findings, truth_of


@dataclass(frozen=True)
class CaseTask:
    """``organ_texts``: from a decomposition file; None: by rules. ``redo``: make the shard though one is there.

    ``texts``: ``text_fingerprint``. ``fast``: TotalSegmentator's 3 mm model, see the core's ``segment``.
    """

    row: ManifestRow
    model: ModelConfig
    folder: Path
    organ_texts: OrganTexts | None
    labels: Mapping[str, int]
    texts: str
    redo: bool = False
    fast: bool | None = None


def prepare_case(task: CaseTask) -> dict[str, Any]:
    """The index's line on a case, after its shard is written; with "error" where its input cannot be used.

    A shard of the same input that an earlier run left is taken as it is.

    Raises:
        OutputError: the shard cannot be written (the disk is full): no fault of the case.
        DependencyError: TotalSegmentator is missing on this machine, likewise.
    """
    start = time.monotonic()
    line = {**line_head(task.row), "texts": task.texts}
    try:
        rest = _prepared(task, line)
        return {**line, **rest, "seconds": round(time.monotonic() - start, 3)}
    except (OutputError, DependencyError):
        raise
    except MemoryError:
        reason = f"Memory did not suffice for case {task.row.case_id}. Run with fewer --jobs and --retry."
        return {**line, **failure(ResourceError(reason))}
    except Exception as error:
        # libraries raise whatever they like on a broken file; one of 50,000 must not end a run of days
        if not isinstance(error, CTGroundedVLMError):
            line["trace"] = traceback.format_exc(limit=-3)
        return {**line, **failure(error)}


def _prepared(task: CaseTask, line: dict[str, Any]) -> dict[str, Any]:
    """The rest of the line. ``line`` gets the fingerprint at once: a refused case is known by it, too."""
    row = task.row
    line["volume"] = volume_fingerprint(row)
    report = report_of(row)
    texts = texts_by_rules(report, task.model.organs) if task.organ_texts is None else task.organ_texts
    if row.segmentation is None:
        row = segmented(row, task.folder, task.model, task.fast)
        line["volume"] = volume_fingerprint(row)
    shard = _volume(replace(task, row=row), line["volume"])
    name = shard_name(row.case_id)
    return {
        **{key: shard[key] for key in ("shape", "organ_voxels", "hu_percentiles", "warnings", "sources")},
        "file": name,
        "bytes": (task.folder / name).stat().st_size,
        "report": report,
        "organ_texts": {organ: list(said) for organ, said in texts.items()},
        "labels": dict(task.labels),
        "label_kind": row.label_kind,
    }


def line_head(row: ManifestRow) -> dict[str, Any]:
    """What a line says of every case, used or refused."""
    return {
        "case_id": row.case_id,
        "patient_id": row.patient_id,
        "study_id": row.study_id,
        "split": row.split,
        "source": row.source,
        "image": str(row.image),
    }


def failure(error: Exception) -> dict[str, str]:
    """The part of a line that puts a case into quarantine."""
    return {"error": str(error), "kind": type(error).__name__}


def _volume(task: CaseTask, fingerprint: str) -> Mapping[str, Any]:
    """The shard's record, of a shard that is made or found."""
    path = task.folder / shard_name(task.row.case_id)
    if path.exists() and not task.redo:
        record = _usable(path)
        if record.get("volume") == fingerprint and record.get("case_id") == task.row.case_id:
            return record
    case = read_case(task.row)
    cropped = crop_case(case, task.model, read_findings(task.row, case))
    record = {
        "case_id": task.row.case_id,
        "volume": fingerprint,
        "sources": {"image": case.ct.sha256, "segmentation": case.segmentation.sha256},
        "warnings": list(case.warnings),
        **({} if cropped.finding_map_DHW is None else {"mapped_findings": list(cropped.mapped_findings)}),
        **statistics(cropped, task.model.preprocessing.hu_window[0]),
    }
    write_shard(path, cropped, record)
    return record


def _usable(path: Path) -> Mapping[str, Any]:
    try:
        return read_record(path)
    except InputError:
        return {}  # half a file of another program, or an old version: made anew


def volume_fingerprint(row: ManifestRow) -> str:
    """Changes where the row's image, mask, or map of findings (or what its values mean) becomes another file (name, size, time of
    change), or its correction changes.

    Raises:
        InputError: a file does not exist.
    """
    parts: list[object] = [row.correction.to_json() if row.correction else ""]
    for what, path in (
        ("image", row.image),
        ("segmentation", row.segmentation),
        ("map of findings", row.findings),
    ):
        if path is None:
            continue
        if not path.exists():
            raise InputError(
                f"Case {row.case_id}: its {what} does not exist: {path}. Correct the manifest, or copy the file."
            )
        members = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        if path == row.findings and (truth := truth_of(path)).is_file():
            members.append(truth)
        parts.append([[p.name, (stat := p.stat()).st_size, stat.st_mtime_ns] for p in members])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def text_fingerprint(row: ManifestRow, organ_texts: OrganTexts | None, labels: Mapping[str, int]) -> str:
    """Changes where report, texts, labels, split or patient of a row change: then only its line is made again.

    With texts by rules also where the software's version changes: its rules may have.
    """
    report = row.report_text
    if row.report is not None:
        try:
            stat = row.report.stat()
            report = [row.report.name, stat.st_size, stat.st_mtime_ns]
        except OSError:
            report = [row.report.name]
    texts = __version__ if organ_texts is None else organ_texts
    parts = [line_head(row), row.label_kind, report, texts, labels]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

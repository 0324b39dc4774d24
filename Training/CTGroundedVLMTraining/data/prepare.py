"""From a manifest to shards: in parallel, to be killed and run again at any time, and nothing broken ends it.

A case is done when its line is in the index; its shard was written before. So a run that goes on takes each remaining case
once, makes nothing twice that is whole, and loses none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import ModelConfig

from .crop import grid_settings
from .index import IndexWriter, check_settings
from .manifest import ManifestRow, check_patients, read_manifest
from .masks import check_segmenter, with_own_mask
from .shards import read_shard, shard_name
from .task import CaseTask, failure, line_head, prepare_case, text_fingerprint, volume_fingerprint
from .texts import DecomposedReports, OrganTexts, read_labels
from .workers import Outcome, run_here, run_in_processes, run_on_ray


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    ``jobs``: processes for cases with a mask. ``devices``: for segmentation, one per process ("cuda:0", ...); ``segment_jobs``
    processes share them. ``ray``: a cluster's address, "local" for Ray on this machine, None for no Ray; there each case to
    segment takes a GPU if ``devices`` names one.
    """

    jobs: int = 1
    segment_jobs: int = 1
    devices: tuple[str, ...] = ("cpu",)
    fast: bool | None = None
    ray: str | None = None


@dataclass
class Summary:
    """What a run did. ``refused``: cases in quarantine now, ``shards_remade``: damaged ones found by ``verify``."""

    total: int = 0
    earlier: int = 0
    made: int = 0
    refused_now: int = 0
    refused: int = 0
    shards_remade: int = 0
    without_report: int = 0
    others: int = 0


Progress = Callable[[Summary], None]


def prepare(
    manifest: Path,
    folder: Path,
    model: ModelConfig,
    workers: Workers | None = None,
    *,
    retry: bool = False,
    verify: bool = False,
    progress: Progress = lambda summary: None,
) -> Summary:
    """Make what ``folder`` lacks of the manifest's cases. Cases of other manifests that were prepared there stay.

    Args:
        model: whose grid and organs the data are for.
        retry: try cases in quarantine again; without it they are tried when their input has changed.
        verify: read every shard, and make damaged ones again.

    Raises:
        InputError: the manifest, or a file of texts or labels that it names, cannot be used; the folder holds other data.
        DependencyError: masks are missing, and TotalSegmentator is, too.
        OutputError: the disk is full, or another run works in the folder. What is done stays.
    """
    workers, rows = workers or Workers(), read_manifest(manifest)
    check_settings(folder, {"grid": grid_settings(model)})
    with IndexWriter(folder) as index:
        _check_patients(rows, index.records, str(manifest))
        inputs = _Inputs()
        summary = Summary(total=len(rows), without_report=sum(not row.has_report for row in rows))
        summary.others = len(index.records.keys() - {row.case_id for row in rows})
        damaged = _damaged(folder, rows, index.records, workers, summary) if verify else set()
        tasks, refused = _tasks(rows, folder, model, inputs, workers.fast)
        tasks = [
            replace(task, redo=task.row.case_id in damaged)
            for task in tasks
            if task.row.case_id in damaged or not _is_done(task, index.records.get(task.row.case_id), retry)
        ]
        refused = [r for r in refused if index.records.get(r["case_id"], {}).get("error") != r["error"]]
        summary.earlier = summary.total - len(tasks) - len(refused)
        try:
            for record in refused:
                _finish(index, record, summary, progress)
            for task, result in _run(tasks, workers):
                _finish(index, result if isinstance(result, dict) else _refused(task, result), summary, progress)
        finally:
            summary.refused = index.write_quarantine()
    return summary


def _finish(index: IndexWriter, record: dict[str, Any], summary: Summary, progress: Progress) -> None:
    index.append(record)
    if "error" in record:
        summary.refused_now += 1
    else:
        summary.made += 1
    progress(summary)


def _refused(task: CaseTask, error: Exception) -> dict[str, Any]:
    return {**line_head(task.row), "texts": task.texts, "volume": _fingerprint(task.row), **failure(error)}


def _is_done(task: CaseTask, record: Mapping[str, Any] | None, retry: bool) -> bool:
    if record is None or (retry and "error" in record):
        return False
    same = record["texts"] == task.texts and record.get("volume", "") == _fingerprint(task.row)
    return same and ("error" in record or (task.folder / record["file"]).is_file())


def _fingerprint(row: ManifestRow) -> str:
    """The volume's fingerprint, empty where a file is missing (the case's own run says which)."""
    try:
        return volume_fingerprint(row)
    except InputError:
        return ""


def _check_patients(rows: Sequence[ManifestRow], records: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Patients may not cross splits between this manifest and what was prepared here from others."""
    own = {row.case_id for row in rows}
    others = [
        ManifestRow(case_id, record["patient_id"], record["split"], Path(record["image"]))
        for case_id, record in records.items()
        if case_id not in own
    ]
    check_patients([*rows, *others], f"{what} and what was prepared before")


def _run(tasks: Sequence[CaseTask], workers: Workers) -> Iterator[Outcome]:
    """Cases with a mask on all cores; then those to segment, on as many processes as the GPUs carry."""
    ready = [task for task in tasks if task.row.segmentation is not None]
    bare = [task for task in tasks if task.row.segmentation is None]
    if bare:
        check_segmenter(bare[0].model, workers.devices, workers.fast)
    if workers.ray is not None:
        address = None if workers.ray == "local" else workers.ray
        gpu = any(device.startswith("cuda") for device in workers.devices)
        for part, gpus in ((ready, 0), (bare, int(gpu))):
            if part:
                yield from run_on_ray(prepare_case, part, address, workers.jobs, gpus=gpus)
        return
    for part, jobs, devices in ((ready, workers.jobs, ()), (bare, workers.segment_jobs, workers.devices)):
        if jobs == 1 and devices in ((), ("cpu",)):
            yield from run_here(prepare_case, part)
        elif part:
            yield from run_in_processes(prepare_case, part, jobs, devices)


# --- What the rows name beside their volumes


@dataclass
class _Inputs:
    """Files of texts and labels, read once each."""

    texts: dict[Path, DecomposedReports] = field(default_factory=dict)
    labels: dict[Path, dict[str, dict[str, int]]] = field(default_factory=dict)

    def texts_of(self, row: ManifestRow, organs: Iterable[str]) -> OrganTexts | None:
        """None where rules are to make them."""
        if row.organ_texts is None or not row.has_report:
            return None
        if row.organ_texts not in self.texts:
            self.texts[row.organ_texts] = DecomposedReports(row.organ_texts)
        return self.texts[row.organ_texts].of(row, tuple(organs))

    def labels_of(self, row: ManifestRow) -> Mapping[str, int]:
        if row.labels is None:
            return {}
        if row.labels not in self.labels:
            self.labels[row.labels] = read_labels(row.labels)
        return self.labels[row.labels].get(row.case_id, {})


def _tasks(
    rows: Sequence[ManifestRow], folder: Path, model: ModelConfig, inputs: _Inputs, fast: bool | None
) -> tuple[list[CaseTask], list[dict[str, Any]]]:
    """Tasks, and lines on cases whose decomposed report is missing."""
    tasks, refused = [], []
    for row in rows:
        labels = inputs.labels_of(row)
        try:
            texts = inputs.texts_of(row, model.organs)
        except InputError as error:
            if row.organ_texts not in inputs.texts:
                raise  # the file itself, not one report of it
            refused.append({**line_head(row), "texts": "", "volume": "", **failure(error)})
            continue
        own = with_own_mask(row, folder)
        tasks.append(CaseTask(own, model, folder, texts, labels, text_fingerprint(row, texts, labels), fast=fast))
    return tasks, refused


# --- Damaged shards


def _damaged(
    folder: Path, rows: Sequence[ManifestRow], records: Mapping[str, Any], workers: Workers, summary: Summary
) -> set[str]:
    """Case ids whose shard is missing or damaged."""
    whole = [row.case_id for row in rows if row.case_id in records and "error" not in records[row.case_id]]
    paths = [str(folder / shard_name(case_id)) for case_id in whole]
    run = run_here(is_damaged, paths) if workers.jobs == 1 else run_in_processes(is_damaged, paths, workers.jobs)
    bad = {path for path, damaged in run if damaged is not False}
    summary.shards_remade = len(bad)
    return {case_id for case_id, path in zip(whole, paths, strict=True) if path in bad}


def is_damaged(path: str) -> bool:
    """Whether a shard file cannot be read as a whole."""
    try:
        read_shard(Path(path).read_bytes(), path)
    except (InputError, OSError):
        return True
    return False


# --- The model


def model_config(name: str) -> ModelConfig:
    """The model to prepare for: a recipe's name, a model's or run's config.json, or the folder that holds one.

    Raises:
        InputError: it is neither.
        ModelError: the configuration does not fit this version.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no model configuration can be read ({error}).") from error
        return ModelConfig.from_dict(data.get("model", data))
    try:
        from ..recipes import recipe
    except ImportError as error:
        raise InputError(f"--model {name!r}: no recipes here ({error}); give a config.json.") from error
    return recipe(name).model

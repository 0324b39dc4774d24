"""Scores the cases of a manifest with a model, case by case into a journal; then the score tables and what else was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import cache_folder
from CTGroundedVLMLib.memory import release_freed_memory
from CTGroundedVLMLib.model.find import find_model
from CTGroundedVLMLib.pipeline import AnalysisOptions
from CTGroundedVLMLib.precision import Precision, choose_device, choose_precision

from ..data.manifest import ManifestRow, read_manifest
from .case_journal import CaseJournal, CaseRecord
from .case_scorer import CaseScorer
from .estimates import EvaluationSettings
from .grounding import TOLERANCE_MM, grounding_lines, summarize
from .joining import Dataset, check_labels, hold_out, read_dataset
from .outputs import Extra
from .protocols import Protocol, choose_protocol
from .retrieval import Pairing, retrieval, retrieval_lines
from .score_table import write_scores, write_unscored
from .tables import read_header, volume_key

Progress = Callable[[int, int, str], None]
_GIVE_UP = 10  # so many failures before any success: the cause is not the cases


@dataclass(frozen=True)
class ModelRunOptions:
    """The command's options of the same names."""

    model: str
    manifest: Path
    protocol: str
    output: Path
    split: str = "test"
    validation_split: str | None = None
    hold_out: float | None = None
    seed: int = 0
    labels: Path | None = None
    label_map: str | None = None
    device: str = "auto"
    mode: Literal["shared", "reference"] = "shared"
    grid: Literal["auto", "physical", "release"] = "auto"
    precision: Precision = "auto"
    templates: bool = False
    grounding: bool = False
    heatmap_shifts: int = 1
    retry_failed: bool = False

    def analysis(self) -> AnalysisOptions:
        """How each case is analysed."""
        return AnalysisOptions(
            mode=self.mode,
            grid=self.grid,
            precision=self.precision,
            templates=self.templates,
            heatmap_shifts=self.heatmap_shifts,
            cache_folder=cache_folder(),
            calibrate=False,  # what the model carries is made from raw probabilities, and is to be made anew
        )


@dataclass(frozen=True)
class ModelRun:
    """What a run leaves for the measurement. ``records``: of the split that is measured."""

    protocol: Protocol
    test: Dataset
    validation: Dataset | None
    about: Mapping[str, Any]
    records: tuple[CaseRecord, ...]
    failures: tuple[str, ...]
    pairings: tuple[Pairing, ...] | None
    organs: tuple[str, ...]

    def extra(self, settings: EvaluationSettings) -> Extra | None:
        """Grounding and retrieval, where they were asked for."""
        if self.pairings is None:
            return None
        grounding = summarize(self.records, settings)
        found = retrieval(self.pairings, self.organs, settings)
        lines = [*grounding_lines(grounding), *retrieval_lines(found)]
        return Extra({"grounding": grounding, "retrieval": found}, lines)


def run_model(options: ModelRunOptions, progress: Progress = lambda done, total, case_id: None) -> ModelRun:
    """Score what the journal lacks; write the score tables; read them back with the labels.

    Raises:
        InputError: the manifest, the labels or the journal cannot be used, or no case could be scored.
        ModelError, OutputError: see the parts.
    """
    rows = _rows(options)
    labels = options.labels or _labels_of(rows)
    header = read_header(labels)
    protocol = choose_protocol(options.protocol, header, options.label_map)
    check_labels(protocol, header, labels)  # before hours of scoring
    protocol = protocol.with_templates() if options.templates else protocol
    loaded = find_model(options.model, choose_device(options.device))
    precision = choose_precision(options.precision, loaded.model.device)  # once: "auto" measures
    analysis = replace(options.analysis(), precision=precision)
    scorer = CaseScorer(loaded, protocol, analysis, options.output if options.grounding else None, options.split)
    about = scorer.about() | {"model": options.model, "manifest": str(options.manifest), "labels": str(labels)}
    about |= {"split": options.split, "validation_split": options.validation_split}
    settings = scorer.about() | {"protocol": protocol.to_record(), "grounding": options.grounding}
    # the precision that was asked for: what "auto" measures may differ when a run goes on
    settings |= {
        "heatmap_shifts": options.heatmap_shifts if options.grounding else None,
        "precision": options.precision,
    }
    if options.grounding:
        settings["pointing_tolerance_mm"] = TOLERANCE_MM
        settings["grounded_split"] = options.split  # cases of another one have neither heatmaps nor features
    with CaseJournal(options.output / "cases.jsonl", settings, retry_failed=options.retry_failed) as journal:
        try:
            _score(rows, scorer, journal, progress)
        finally:
            _write_tables(options, rows, journal, scorer, about)
        records = [journal.records[row.case_id] for row in rows]
    return _read_back(options, records, protocol, labels, about, scorer)


def _rows(options: ModelRunOptions) -> list[ManifestRow]:
    wanted = [split for split in (options.split, options.validation_split) if split]
    rows = read_manifest(options.manifest)
    for split in wanted:
        if not any(row.split == split for row in rows):
            has = sorted({row.split for row in rows})
            raise InputError(f"{options.manifest} has no case in the split {split}; it has {', '.join(has)}.")
    return [row for row in rows if row.split in wanted]


def _labels_of(rows: Sequence[ManifestRow]) -> Path:
    paths = {row.labels for row in rows}
    if len(paths) != 1 or None in paths:
        raise InputError(
            f"The manifest names {len(paths - {None})} label tables for these cases; name the one to use with --labels CSV."
        )
    return next(iter(paths))


def _score(rows: Sequence[ManifestRow], scorer: CaseScorer, journal: CaseJournal, progress: Progress) -> None:
    for row in rows:
        before = journal.records.get(row.case_id)
        if before is not None and before.image != str(row.image):
            raise InputError(
                f"{journal.path}: case {row.case_id!r} was read from {before.image}, the manifest says {row.image}. "
                "Name another output folder."
            )
    pending = [row for row in rows if row.case_id not in journal.records]
    failed: list[str] = []
    for done, row in enumerate(pending, 1):
        record = scorer.score(row)
        journal.append(record)
        release_freed_memory()
        progress(done, len(pending), row.case_id)
        failed += [record.error] if record.error else []
        if len(failed) == done == min(_GIVE_UP, len(pending)) and (done == _GIVE_UP or not _any_scored(journal)):
            raise InputError(
                f"None of {done} cases could be scored; the first: {failed[0]} Correct the cause, then go on with --retry-failed."
            )


def _any_scored(journal: CaseJournal) -> bool:
    return any(record.error is None for record in journal.records.values())


def _write_tables(
    options: ModelRunOptions, rows: Sequence[ManifestRow], journal: CaseJournal, scorer: CaseScorer, about: Mapping
) -> None:
    keys = [question.key for question in scorer.asked]
    done = [journal.records[row.case_id] for row in rows if row.case_id in journal.records]
    try:
        for split, name in _tables(options).items():
            write_scores(options.output / name, [r for r in done if r.split == split], keys, about | {"split": split})
        write_unscored(options.output / "not_scored.csv", done)
    except OSError as error:
        raise OutputError(f"{options.output} cannot be written ({error}); free some space, then run again.") from error


def _tables(options: ModelRunOptions) -> dict[str, str]:
    tables = {options.split: "scores.csv"}
    return tables | ({options.validation_split: "validation_scores.csv"} if options.validation_split else {})


def _read_back(
    options: ModelRunOptions,
    records: Sequence[CaseRecord],
    protocol: Protocol,
    labels: Path,
    about: Mapping[str, Any],
    scorer: CaseScorer,
) -> ModelRun:
    data = {}
    for split, name in _tables(options).items():
        patients = {volume_key(r.case_id): r.patient_id for r in records if r.split == split}
        _, data[split] = read_dataset(options.output / name, labels, options.protocol, options.label_map, patients)
    test, validation = data[options.split], data.get(options.validation_split)
    if options.hold_out is not None:
        test, validation = hold_out(test, options.hold_out, options.seed)
        about = {**about, "hold_out": options.hold_out}
    tested = set(test.volumes)
    measured = tuple(r for r in records if r.split == options.split and volume_key(r.case_id) in tested)
    failures = tuple(f"{r.case_id}: {r.error}" for r in records if r.error)
    pairings = None
    if options.grounding:
        pairings = tuple(p for r in measured if (p := scorer.read_pairing(r)) is not None)
    return ModelRun(protocol, test, validation, about, measured, failures, pairings, scorer.organs)

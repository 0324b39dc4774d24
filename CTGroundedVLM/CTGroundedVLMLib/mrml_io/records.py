"""An analysis as JSON in a text node: the content of ``results.json``, and back.

Everything but voxels is in it, so that the panel shows an analysis again after a scene was loaded, without the worker.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import InputError
from ..json_records import from_record, to_record
from ..types import (
    AnalysisResult,
    CTCase,
    FindingScore,
    Heatmap,
    ModelIdentity,
    OrganInfo,
    Report,
    ReportComparison,
    Sentence,
    SentenceLink,
)

SCHEMA, MAJOR_VERSION = "ctgvlm-results", "1"
_PIECE = 40  # entries that are read at a time: a few ms
Record = TypeVar("Record")


@dataclass(frozen=True)
class SavedResult:
    """An ``AnalysisResult`` without its case, read from a scene; fields of the same name mean the same.

    ``record``: the whole content of the text node. ``ct_name``: of the CT that was analysed.
    """

    record: Mapping[str, Any]
    ct_name: str
    report: Report
    model: ModelIdentity
    findings: tuple[FindingScore, ...]
    organs: tuple[OrganInfo, ...]
    links: tuple[SentenceLink, ...]
    heatmaps: tuple[Heatmap, ...]
    settings: Mapping[str, object]
    timings_s: Mapping[str, float]
    warnings: tuple[str, ...]
    versions: Mapping[str, str]
    comparisons: tuple[ReportComparison, ...]

    def with_case(self, case: CTCase) -> AnalysisResult:
        """The whole result, for ``export``; ``case``: read again from the nodes (MrmlCaseSource, exchange.read_case)."""
        shared = {f.name for f in dataclasses.fields(AnalysisResult)} - {"case"}
        return AnalysisResult(case=case, **{name: getattr(self, name) for name in shared})


def text_steps(result: AnalysisResult, heatmaps: Sequence[Mapping[str, Any]]) -> Generator[float, None, str]:
    """The record as JSON, with the entries of its heatmaps (see ``heatmap_entry``), in three steps."""
    from ..export import result_record  # here: a loaded scene is shown without it

    yield 1.0
    # without heatmaps: their ranges were found while they were copied
    record = result_record(dataclasses.replace(result, heatmaps=())) | {"heatmaps": list(heatmaps)}
    yield 1.0
    return dump(record)


def dump(record: Mapping[str, Any]) -> str:
    """ASCII: whatever a report holds, also half a surrogate pair, survives the file."""
    return json.dumps(record, ensure_ascii=True, allow_nan=False)


def load(text: str, what: str) -> dict[str, Any]:
    """The record in a text node; raises InputError where it is none, or one of a later major version."""
    try:
        record = json.loads(text)
        schema, version = record["schema"], record["schema_version"].partition(".")[0]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _not_readable(what, str(error)) from error
    if (schema, version) != (SCHEMA, MAJOR_VERSION):
        raise _not_readable(what, f"{schema} of version {record['schema_version']}, expected {MAJOR_VERSION}.x")
    return record


def read_saved(record: Mapping[str, Any], heatmaps: tuple[Heatmap, ...], what: str) -> SavedResult:
    """The typed content of a record; raises InputError where something is missing or of another kind."""
    try:
        sentences = _all(Sentence, record["sentences"], what)
        return SavedResult(
            record=record,
            ct_name=record["case"]["name"],
            report=Report(record["case"]["report"]["text"], sentences),
            model=_one(ModelIdentity, record["model"], what),
            findings=_all(FindingScore, record["findings"], what),
            organs=_all(OrganInfo, record["organs"], what),
            links=_all(SentenceLink, record["links"], what),
            heatmaps=heatmaps,
            settings=record["settings"],
            timings_s={stage: math.nan if s is None else s for stage, s in record["timings_s"].items()},
            warnings=tuple(record["warnings"]),
            versions=record["versions"],
            comparisons=_all(ReportComparison, record["comparisons"], what),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _not_readable(what, f"{type(error).__name__}: {error}") from error


def add_entries(
    record: dict[str, Any],
    heatmap: Mapping[str, Any],
    score: FindingScore | None,
    comparison: ReportComparison | None,
) -> None:
    """Put a heatmap's entry and what else is given into a record; those of the same organ, finding and source go."""
    _replace(record["heatmaps"], heatmap)
    if score is not None:
        _replace(record["findings"], to_record(score))
    if comparison is not None:
        _replace(record["comparisons"], to_record(comparison))


def score_steps(
    record: Mapping[str, Any], what: str
) -> Generator[float, None, tuple[tuple[FindingScore, ...], tuple[ReportComparison, ...]]]:
    """Scores and comparisons of a record, some at a time; raises InputError where one is not as it should be."""
    found: dict[type, list[Any]] = {FindingScore: [], ReportComparison: []}
    entries = [(FindingScore, entry) for entry in record["findings"]]
    entries += [(ReportComparison, entry) for entry in record["comparisons"]]
    for start in range(0, len(entries), _PIECE):
        for cls, entry in entries[start : start + _PIECE]:
            found[cls].append(_one(cls, entry, what))
        yield min(1.0, (start + _PIECE) / len(entries))
    return tuple(found[FindingScore]), tuple(found[ReportComparison])


def heatmap_entry(heatmap: Heatmap, low: float, high: float) -> dict[str, Any]:
    """As in ``results.json``; the values lie in the volume node. ``low`` <= 0 <= ``high``: least and largest value."""
    texts = {name: getattr(heatmap, name) for name in ("organ", "finding", "source", "method", "unit")}
    return {"file": None, **texts, "min": low, "max": high}


def _replace(entries: list[dict[str, Any]], entry: Mapping[str, Any]) -> None:
    keys = "organ", "finding", "source"
    same = [n for n, other in enumerate(entries) if all(other[key] == entry[key] for key in keys)]
    if same:
        entries[same[0]] = dict(entry)
    else:
        entries.append(dict(entry))


def _all(cls: type[Record], records: list[Mapping[str, Any]], what: str) -> tuple[Record, ...]:
    return tuple(_one(cls, record, what) for record in records)


def _one(cls: type[Record], record: Mapping[str, Any], what: str) -> Record:
    """``results.json`` holds more than the class (a sentence's text), and a later minor version may hold more yet."""
    known = {f.name for f in dataclasses.fields(cls)}
    return from_record(cls, {name: value for name, value in record.items() if name in known}, what)


def _not_readable(what: str, reason: str) -> InputError:
    return InputError(
        f"{what} holds no readable analysis ({reason}). It was edited, or written by a later version: analyze again."
    )

"""An analysis as JSON in a text node: the content of ``results.json``, and back.

Everything but voxels is in it, so that the panel shows an analysis again after a scene was loaded, without the worker.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
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
_PIECE = 100  # entries that are written or read at a time: a few ms; a report of a megabyte has 20,000 sentences
_LISTS = {
    "sentences": Sentence,
    "findings": FindingScore,
    "organs": OrganInfo,
    "links": SentenceLink,
    "comparisons": ReportComparison,
}
_SPACE = re.compile(r"[ \t\n\r]*")
Record = TypeVar("Record")
Steps = Generator[float, None, Record]


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


def text_steps(result: AnalysisResult, heatmaps: Sequence[Mapping[str, Any]]) -> Steps[str]:
    """The record as JSON, with the entries of its heatmaps (see ``heatmap_entry``), in steps of a few ms."""
    from ..export import result_record  # here: a loaded scene is shown without it

    yield 1.0
    # without heatmaps: their ranges were found while they were copied
    bare = dataclasses.replace(result, heatmaps=(), links=(), report=Report(result.report.text))
    record = result_record(bare) | {"heatmaps": list(heatmaps)}
    sentences, links = result.report.sentences, result.links
    empty = dataclasses.replace(bare, findings=(), organs=(), comparisons=())
    for start in range(0, max(len(sentences), len(links)), _PIECE):
        yield 1.0
        some = Report(result.report.text, sentences[start : start + _PIECE])
        piece = result_record(dataclasses.replace(empty, report=some, links=links[start : start + _PIECE]))
        for name in ("sentences", "links"):
            record[name] += piece[name]
    return (yield from dump_steps(record))


def dump_steps(record: Mapping[str, Any]) -> Steps[str]:
    """The record as JSON, some entries of its lists at a time.

    ASCII: whatever a report holds, also half a surrogate pair, survives the file.
    """
    parts = []
    for key, value in record.items():
        entries = value if isinstance(value, list) else [value]
        texts = []
        for start in range(0, len(entries), _PIECE):
            texts += [json.dumps(entry, allow_nan=False) for entry in entries[start : start + _PIECE]]
            yield 1.0
        text = f"[{', '.join(texts)}]" if isinstance(value, list) else texts[0]
        parts.append(f"{json.dumps(key)}: {text}")
    return "{" + ", ".join(parts) + "}"


def load_steps(text: str, what: str) -> Steps[dict[str, Any]]:
    """The record in a text node, some entries of its lists at a time.

    Raises:
        InputError: it is none, or one of a later major version.
    """
    try:
        record = yield from _object_steps(text)
        schema, version = record["schema"], record["schema_version"].partition(".")[0]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
        raise _not_readable(what, str(error)) from error
    if (schema, version) != (SCHEMA, MAJOR_VERSION):
        raise _not_readable(what, f"{schema} of version {record['schema_version']}, expected {MAJOR_VERSION}.x")
    return record


def _object_steps(text: str) -> Steps[dict[str, Any]]:
    """A JSON object whose values are read by ``json``, long lists entry by entry. Raises ValueError or IndexError."""
    decoder = json.JSONDecoder()
    record: dict[str, Any] = {}
    at = _after(text, 0, "{")
    while text[at] != "}":
        at = _after(text, at, ",") if record else at
        key, at = decoder.raw_decode(text, at)
        if not isinstance(key, str):
            raise ValueError(f"a name is expected, not {key!r}")
        at = _after(text, at, ":")
        if text[at] == "[":
            record[key], at = yield from _list_steps(decoder, text, at)
        else:
            record[key], at = decoder.raw_decode(text, at)
        at = _SPACE.match(text, at).end()
    if _after(text, at, "}") != len(text):
        raise ValueError("there is more behind its end")
    return record


def _list_steps(decoder: json.JSONDecoder, text: str, at: int) -> Steps[tuple[list[Any], int]]:
    """The list that begins at ``at``, and where it ends."""
    entries: list[Any] = []
    at = _after(text, at, "[")
    while text[at] != "]":
        at = _after(text, at, ",") if entries else at
        entry, at = decoder.raw_decode(text, at)
        entries.append(entry)
        at = _SPACE.match(text, at).end()
        if len(entries) % _PIECE == 0:
            yield 0.0
    return entries, at + 1


def _after(text: str, at: int, sign: str) -> int:
    """Where the text goes on after a sign and white space around it; raises ValueError where it is another one."""
    at = _SPACE.match(text, at).end()
    if text[at] != sign:
        raise ValueError(f"{sign!r} is expected at character {at}, not {text[at]!r}")
    return _SPACE.match(text, at + 1).end()


def read_steps(record: Mapping[str, Any], what: str) -> Steps[SavedResult]:
    """The typed content of a record without its heatmaps, some entries at a time.

    Raises:
        InputError: something is missing or of another kind.
    """
    try:
        lists: dict[str, tuple[Any, ...]] = {}
        for name, cls in _LISTS.items():
            lists[name] = yield from _all_steps(cls, record[name], what)
        sentences = lists.pop("sentences")
        return SavedResult(
            record=record,
            ct_name=record["case"]["name"],
            report=Report(record["case"]["report"]["text"], sentences),
            model=_one(ModelIdentity, record["model"], what),
            heatmaps=(),
            settings=record["settings"],
            timings_s={stage: math.nan if s is None else s for stage, s in record["timings_s"].items()},
            warnings=tuple(record["warnings"]),
            versions=record["versions"],
            **lists,
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
) -> Steps[tuple[tuple[FindingScore, ...], tuple[ReportComparison, ...]]]:
    """Scores and comparisons of a record, some at a time; raises InputError where one is not as it should be."""
    findings = yield from _all_steps(FindingScore, record["findings"], what)
    comparisons = yield from _all_steps(ReportComparison, record["comparisons"], what)
    return findings, comparisons


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


def _all_steps(cls: type[Record], records: list[Mapping[str, Any]], what: str) -> Steps[tuple[Record, ...]]:
    found: list[Record] = []
    for start in range(0, len(records), _PIECE):
        found += [_one(cls, record, what) for record in records[start : start + _PIECE]]
        yield min(1.0, (start + _PIECE) / len(records))
    return tuple(found)


def _one(cls: type[Record], record: Mapping[str, Any], what: str) -> Record:
    """``results.json`` holds more than the class (a sentence's text), and a later minor version may hold more yet."""
    known = {f.name for f in dataclasses.fields(cls)}
    return from_record(cls, {name: value for name, value in record.items() if name in known}, what)


def _not_readable(what: str, reason: str) -> InputError:
    return InputError(
        f"{what} holds no readable analysis ({reason}). It was edited, or written by a later version: analyze again."
    )

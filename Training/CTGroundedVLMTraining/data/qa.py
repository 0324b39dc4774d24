"""A look at prepared data: what they hold in numbers, and pictures of a few cases. ``OUT/qa/index.html`` and ``summary.json``."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.files import atomic_path

from ..decompose.records import OrganStatus
from .index import INDEX, parse_index, read_settings
from .manifest import SPLITS
from .shards import Shard, read_shard

PICTURES = 12
_STATUSES = get_args(OrganStatus)
_BASICS = ("cases", "patients", "splits", "sources", "without_report", "megabytes", "warnings", "refused", "unusual_hu")
_FAR = 6.0  # a case whose median HU lies that many median deviations off is worth a look
_LEAST_DEVIATION_HU = 10.0
_STYLE = (
    "body{font:14px/1.4 sans-serif;margin:2em;max-width:75em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.2em .8em;text-align:right}td:first-child,th:first-child{text-align:left}"
    "figure{display:inline-block;margin:.5em}figcaption{font-size:12px}img{max-width:100%}"
)


def write_summary(folder: Path, pictures: int = PICTURES) -> Path:
    """Write the summary of a prepared folder; returns the page's path.

    Raises:
        InputError: the folder or a shard that is shown is damaged.
        OutputError: the page cannot be written.
    """
    settings = read_settings(folder)
    content = (folder / INDEX).read_bytes()
    lines = sorted(parse_index(content, str(folder)).values(), key=lambda line: line.case_id)
    records = [json.loads(content[line.offset : line.offset + line.length]) for line in lines]
    organs = tuple(settings["grid"]["organs"])
    numbers = summarize(records, organs)
    figures = [_figure(folder, record, organs) for record in _shown(records, pictures)]
    target = folder / "qa" / "index.html"
    try:
        target.parent.mkdir(exist_ok=True)
        with atomic_path(target) as temporary:
            temporary.write_text(_page(str(folder), numbers, figures), encoding="utf-8")
        with atomic_path(target.with_name("summary.json")) as temporary:
            temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written ({error}). Free space, then run the same command again."
        ) from error
    return target


def summarize(records: Sequence[Mapping[str, Any]], organs: Sequence[str]) -> dict[str, Any]:
    """The numbers: cases, organs with their statuses, labels, HU, and what was refused."""
    good = [record for record in records if "error" not in record]
    refused = [record for record in records if "error" in record]
    reported = [record for record in good if record["report"].strip()]
    return {
        "cases": len(good),
        "patients": len({record["patient_id"] for record in good}),
        "splits": {split: sum(record["split"] == split for record in good) for split in SPLITS},
        "sources": dict(Counter(record["source"] for record in good)),
        "without_report": len(good) - len(reported),
        "megabytes": round(sum(record["bytes"] for record in good) / 1e6, 1),
        "organs": {
            organ: {
                "present": sum(record["organ_voxels"][number] > 0 for record in good),
                **Counter(_status(record, organ) for record in reported),
            }
            for number, organ in enumerate(organs)
        },
        "labels": _label_counts(good),
        "hu_percentiles": _hu_percentiles(good),
        "unusual_hu": _unusual(good),
        "warnings": sum(bool(record["warnings"]) for record in good),
        "refused": dict(Counter(record["kind"] for record in refused)),
        "refused_examples": {record["case_id"]: record["error"] for record in refused[:20]},
    }


def _status(record: Mapping[str, Any], organ: str) -> str:
    return record["organ_texts"].get(organ, ("", "not mentioned"))[1]


def _label_counts(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[int]] = {}
    kinds: dict[str, set[str]] = {}
    for record in records:
        for name, value in record["labels"].items():
            counts.setdefault(name, Counter())[value] += 1
            kinds.setdefault(name, set()).add(record["label_kind"] or "unknown origin")
    return {
        name: {"positive": found[1], "negative": found[0], "kind": ", ".join(sorted(kinds[name]))}
        for name, found in sorted(counts.items())
    }


def _hu_percentiles(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The median over cases of each case's percentiles."""
    known = np.array([record["hu_percentiles"] for record in records if record["hu_percentiles"]])
    if not known.size:
        return {}
    return dict(zip(("1", "25", "50", "75", "99"), np.median(known, axis=0).astype(int).tolist(), strict=True))


def _unusual(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cases whose median HU is far from the others' (padding, another body region, a wrong scale that passed the guards)."""
    known = [(record["case_id"], record["hu_percentiles"][2]) for record in records if record["hu_percentiles"]]
    if len(known) < 5:
        return []
    values = np.array([value for _, value in known], float)
    middle = np.median(values)
    deviation = max(float(np.median(np.abs(values - middle))), _LEAST_DEVIATION_HU)
    return [case_id for case_id, value in known if abs(value - middle) > _FAR * deviation]


# --- Pictures


def _shown(records: Sequence[Mapping[str, Any]], pictures: int) -> list[Mapping[str, Any]]:
    """Evenly over the cases, so that no part of the data goes unseen."""
    good = [record for record in records if "error" not in record]
    if not good or pictures < 1:
        return []
    places = np.unique(np.linspace(0, len(good) - 1, pictures).round().astype(int))
    return [good[place] for place in places]


def _figure(folder: Path, record: Mapping[str, Any], organs: Sequence[str]) -> tuple[str, bytes]:
    """(caption, PNG) of one case."""
    path = folder / record["file"]
    shard = read_shard(path.read_bytes(), str(path))
    said = "; ".join(f"{organ}: {status}" for organ, (_, status) in record["organ_texts"].items())
    shape = " × ".join(map(str, record["shape"]))
    return f"{record['case_id']} ({record['split']}, {shape} voxels). {said or 'no organ in the report'}", draw(
        shard, organs
    )


def draw(shard: Shard, organs: Sequence[str]) -> bytes:
    """An axial and a coronal plane through the middle of the organs, soft-tissue window, organs outlined; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.pyplot import get_cmap

    places = np.argwhere(shard.organ_map_DHW[::4, ::8, ::8]) * (4, 8, 8)
    middle = np.median(places, axis=0).astype(int) if len(places) else np.array(shard.hu_DHW.shape) // 2
    planes = [np.s_[middle[0]], np.s_[::-1, middle[1]]]  # rows of the coronal plane run from head to feet
    figure = Figure(figsize=(5, 2.6), dpi=90, layout="tight")
    FigureCanvasAgg(figure)
    colours = get_cmap("tab20")
    for axes, plane, title in zip(figure.subplots(1, 2), planes, ("axial", "coronal"), strict=True):
        image, labels = shard.hu_DHW[plane], shard.organ_map_DHW[plane]
        axes.imshow(image, cmap="gray", vmin=-200, vmax=300, aspect="auto")
        for number in np.unique(labels[labels > 0]):
            axes.contour(labels == number, [0.5], colors=[colours((number - 1) % 20)], linewidths=0.8)
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


# --- The page


def _page(name: str, numbers: Mapping[str, Any], figures: Sequence[tuple[str, bytes]]) -> str:
    organ_rows = [
        [organ, counts["present"], *(counts.get(status, 0) for status in _STATUSES)]
        for organ, counts in numbers["organs"].items()
    ]
    label_rows = [
        [label, counts["positive"], counts["negative"], f"{_share(counts):.0%}", counts["kind"]]
        for label, counts in numbers["labels"].items()
    ]
    basics = [[key.replace("_", " "), _plain(numbers[key])] for key in _BASICS]
    parts = [
        f"<h1>Prepared data: {html.escape(name)}</h1>",
        _table(("", ""), basics),
        "<h2>Organs: cases that show them, and what their reports say</h2>",
        _table(("organ", "present", *_STATUSES), organ_rows),
        "<h2>Labels</h2>",
        _table(("finding", "positive", "negative", "prevalence", "origin"), label_rows),
        "<h2>HU (median over cases of each percentile, air outside left out)</h2>",
        _table(tuple(numbers["hu_percentiles"]), [list(numbers["hu_percentiles"].values())]),
        "<h2>Refused (the first ones; all in quarantine.csv)</h2>",
        _table(("case", "reason"), [list(item) for item in numbers["refused_examples"].items()]),
        "<h2>Cases</h2>",
        *(
            f'<figure><img alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for caption, png in figures
        ),
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Prepared data</title><style>{_STYLE}</style>'
    return head + "\n".join(parts) + "</html>\n"


def _share(counts: Mapping[str, Any]) -> float:
    return counts["positive"] / max(1, counts["positive"] + counts["negative"])


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key or 'unnamed'}: {number}" for key, number in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return "<p>none</p>"
    cells = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    return f"<table><tr>{names}</tr>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"

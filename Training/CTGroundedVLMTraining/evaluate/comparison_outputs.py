"""What a comparison leaves: comparison.json, comparison.csv, and tables on the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from CTGroundedVLMLib.errors import OutputError

from .comparison import MACRO, METRICS, Comparison, Difference
from .estimates import Estimate, EvaluationSettings
from .outputs import write_text
from .results import Result
from .tables import listed

_COLUMNS = ("finding", "metric", "findings", "count", "a", "a_low", "a_high", "b", "b_low", "b_high",
            "difference", "difference_low", "difference_high", "seeds_a", "seeds_b")  # fmt: skip


def comparison_record(
    comparison: Comparison,
    methods: Mapping[str, Sequence[Result]],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """``comparison.json``; ``methods``: name -> results, A first."""
    return {
        "format": "ctgvlm-comparison",
        "format_version": 1,
        "methods": [
            {
                "name": name,
                "results": [
                    {"folder": str(r.folder), "model_name": r.record["run"].get("model_name"), "model_sha256": r.model}
                    for r in results
                ],
            }
            for name, results in methods.items()
        ],
        "protocol": next(iter(methods.values()))[0].record["protocol"],
        "settings": {name: asdict(settings)[name] for name in ("resamples", "seed", "confidence", "bins")},
        "metrics": METRICS,
        "volumes": comparison.volumes,
        "patients": comparison.patients,
        "left_out": dict(comparison.left_out),
        "notes": list(comparison.notes),
        "differences": [asdict(difference) for difference in comparison.differences],
    }


def comparison_csv(comparison: Comparison) -> str:
    """One row per metric and finding, the means over findings first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for d in comparison.differences:
        row: dict[str, Any] = {name: getattr(d, name) for name in ("finding", "metric", "findings", "count")}
        for name in ("a", "b", "difference"):
            estimate: Estimate = getattr(d, name)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {name: " ".join(map(repr, getattr(d, name))) for name in ("seeds_a", "seeds_b")}
        writer.writerow(row)
    return out.getvalue()


def write_comparison(folder: Path, comparison: Comparison, record: Mapping[str, Any]) -> tuple[Path, Path]:
    """Both files, each whole or not at all. Raises OutputError."""
    paths = folder / "comparison.csv", folder / "comparison.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[0], comparison_csv(comparison))
        write_text(paths[1], json.dumps(record, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error}); free some space, or name another folder.") from error
    return paths


def print_comparison(
    comparison: Comparison, names: Sequence[str], settings: EvaluationSettings, console: Console
) -> None:
    """The means over findings, then each finding's AUC and pointing game; the files have everything."""
    a, b = names
    counted = f"{comparison.volumes} volumes of {comparison.patients} patients"
    how = f"{settings.confidence:.0%} intervals of {settings.resamples} resamples of patients and seeds, seed {settings.seed}"
    console.print(Text(f"{a} (A) against {b} (B): {counted}; {how if settings.resamples else 'no intervals'}."))
    overall = [d for d in comparison.differences if d.finding == MACRO]
    _print("mean over findings", [(METRICS[d.metric], d.findings, d) for d in overall], names, console)
    for metric in ("auc", "pointing"):
        own = [d for d in comparison.differences if d.finding != MACRO and d.metric == metric]
        if own:
            _print(METRICS[metric], [(d.finding, d.count, d) for d in own], names, console)
    notes = list(comparison.notes)
    if comparison.left_out:
        of = listed((f"{key} {count}" for key, count in comparison.left_out.items()), 40)
        notes.append(f"volumes left out, for some model has no score: {of}")
    for note in notes:
        console.print(Text(f"note: {note}"))


def _print(title: str, rows: Sequence[tuple[str, int, Difference]], names: Sequence[str], console: Console) -> None:
    table = Table(title=Text(title), title_justify="left")
    for n, name in enumerate(("", "n", *names, "A - B")):
        table.add_column(Text(name), justify="left" if n == 0 else "right", no_wrap=n > 1)
    for name, count, d in rows:
        table.add_row(Text(name), str(count), _seeds(d.a, d.seeds_a), _seeds(d.b, d.seeds_b), _signed(d.difference))
    console.print(table)


def _seeds(estimate: Estimate, seeds: Sequence[float]) -> Text:
    spread = f" ({min(seeds):.3f} to {max(seeds):.3f})" if len(seeds) > 1 else ""
    return Text(f"{estimate.value:.3f}{spread}")


def _signed(estimate: Estimate) -> Text:
    value = f"{estimate.value:+.3f}"
    return Text(value if estimate.low is None else f"{value} [{estimate.low:+.3f}, {estimate.high:+.3f}]")

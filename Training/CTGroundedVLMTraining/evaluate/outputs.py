"""What an evaluation leaves on disk and on the terminal: metrics.json, metrics.csv, metrics.md, pictures, calibration.json."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.files import atomic_path

from .calibration import asked_by_an_analysis, calibration_record, write_calibration
from .estimates import Estimate
from .evaluation import METRICS, Evaluation, FindingResult, SectionResult
from .joining import Dataset
from .measured import FILE as MEASURED
from .measured import measured_csv
from .pictures import write_pictures
from .tables import listed

FORMAT = "ctgvlm-evaluation"
SECTION_TITLES = {
    "release": "release's rule: missing = 0, threshold fitted on the TEST labels (as papers report it)",
    "left_out": "missing left out, threshold of the release's rule fitted on the TEST labels",
    "youden": "missing left out, threshold from the validation split (Youden)",
    "sensitivity": "missing left out, threshold from the validation split (target sensitivity {target:g})",
}
_SHORT = {
    "auc": "AUC",
    "accuracy": "ACC",
    "sensitivity": "sens",
    "specificity": "spec",
    "precision": "prec",
    "f1_weighted": "wF1",
    "ece": "ECE",
    "brier": "Brier",
    "calibrated_ece": "ECE cal.",
    "calibrated_brier": "Brier cal.",
}


@dataclass(frozen=True)
class Extra:
    """What is measured beside the findings: ``record`` for metrics.json, ``lines`` of markdown."""

    record: Mapping[str, Any]
    lines: Sequence[str]


def evaluation_record(evaluation: Evaluation, run: Mapping[str, Any], extra: Extra | None = None) -> dict[str, Any]:
    """``metrics.json``. ``run``: what the numbers come from (files, model, settings)."""
    settings = asdict(evaluation.settings)
    return {
        "format": FORMAT,
        "format_version": 1,
        "run": dict(run),
        "protocol": evaluation.protocol.to_record(),
        "settings": settings,
        "sections": {
            name: title.format(target=settings["target_sensitivity"]) for name, title in SECTION_TITLES.items()
        },
        "volumes": evaluation.volumes,
        "patients": evaluation.patients,
        "validation": evaluation.validation,
        "macro": {
            section: {m: {**asdict(e), "findings": evaluation.macro_of[section][m]} for m, e in values.items()}
            for section, values in evaluation.macro.items()
        },
        "findings": [_finding_record(result) for result in evaluation.findings],
        "notes": list(evaluation.notes),
        "unmatched": {kind: list(names) for kind, names in evaluation.unmatched.items()},
        **(extra.record if extra else {}),
    }


def _finding_record(result: FindingResult) -> dict[str, Any]:
    counts = ("volumes", "patients", "positives", "positive_patients", "missing", "unknown")
    return {
        "key": result.item.key,
        "finding": result.item.name,
        **{name: getattr(result, name) for name in counts},
        "reason": result.reason,
        "calibration": asdict(result.platt) if result.platt else None,
        "not_calibrated": result.not_calibrated,
        "sections": {name: _section_record(section) for name, section in result.sections.items()},
    }


def _section_record(section: SectionResult) -> dict[str, Any]:
    return {
        "threshold": section.threshold,
        "threshold_fitted_on": section.fitted_on,
        "volumes": section.volumes,
        "positives": section.positives,
        "metrics": {name: asdict(estimate) for name, estimate in section.metrics.items()},
    }


def metrics_csv(evaluation: Evaluation) -> str:
    """One row per finding and section, and the means; empty cells where a metric does not exist.

    The last columns say over how many findings each mean is.
    """
    columns = ["finding", "section", "threshold", "threshold_fitted_on", "volumes", "patients", "positives", "missing"]
    for metric in METRICS:
        columns += [metric, f"{metric}_low", f"{metric}_high"]
    columns += [f"{metric}_findings" for metric in METRICS]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for result in evaluation.findings:
        about = {"finding": result.item.key, "patients": result.patients, "positives": result.positives}
        about |= {"missing": result.missing}
        if result.reason:
            writer.writerow(about | {"section": f"not evaluated: {result.reason}", "volumes": result.volumes})
        for name, section in result.sections.items():
            where = {"section": name, "threshold": section.threshold, "threshold_fitted_on": section.fitted_on}
            writer.writerow(
                about | where | {"volumes": section.volumes, "positives": section.positives} | _cells(section.metrics)
            )
    for name, values in evaluation.macro.items():
        of = {f"{metric}_findings": number for metric, number in evaluation.macro_of[name].items()}
        writer.writerow({"finding": "macro", "section": name} | _cells(values) | of)
    return out.getvalue()


def _cells(values: Mapping[str, Estimate]) -> dict[str, float | None]:
    cells = {}
    for metric, estimate in values.items():
        cells |= {metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    return cells


def tables(evaluation: Evaluation, brief: bool = False) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of each section that has results. ``brief``: intervals of the AUC only.

    The means come last, and after them, where they are not all over equally many findings, over how many each is.
    """
    out = []
    for name, title in SECTION_TITLES.items():
        if name not in evaluation.macro:
            continue
        shown = [metric for metric in METRICS if metric in evaluation.macro[name]]
        header = ["finding", "n", "pos.", "miss.", "thr.", *(_SHORT[metric] for metric in shown)]
        rows = [_row(result, result.sections.get(name), shown, brief) for result in evaluation.findings]
        means = [_shown(evaluation.macro[name][metric], brief and metric != "auc") for metric in shown]
        of = [evaluation.macro_of[name][metric] for metric in shown]
        number = str(of[0]) if min(of) == max(of) else f"{min(of)} to {max(of)}"
        rows.append([f"macro ({number} of {len(evaluation.findings)})", str(evaluation.volumes), "", "", "", *means])
        if min(of) < max(of):
            rows.append(["findings in the mean", "", "", "", "", *map(str, of)])
        out.append((title.format(target=evaluation.settings.target_sensitivity), header, rows))
    return out


def _row(result: FindingResult, section: SectionResult | None, shown: Sequence[str], brief: bool) -> list[str]:
    counted = section or result
    cells = [result.item.key, str(counted.volumes), str(counted.positives)]
    cells.append(str(result.missing))
    if section is None:
        return [*cells, "", *("-" for _ in shown)]
    threshold = "-" if section.threshold is None else f"{section.threshold:.3f}"
    return [*cells, threshold, *(_shown(section.metrics.get(m), brief and m != "auc") for m in shown)]


def _shown(estimate: Estimate | None, brief: bool = False) -> str:
    if estimate is None or estimate.value is None:
        return "-"
    value = f"{estimate.value:.3f}"
    return value if brief or estimate.low is None else f"{value} [{estimate.low:.3f}, {estimate.high:.3f}]"


def heading(evaluation: Evaluation) -> list[str]:
    """What was evaluated, in sentences."""
    protocol, settings = evaluation.protocol, evaluation.settings
    intervals = f"{settings.confidence:.0%} intervals of {settings.resamples} patient resamples, seed {settings.seed}"
    lines = [
        f"Protocol {protocol.name}: {protocol.description}.",
        f"Prompts: {protocol.prompts}. Labels: {protocol.label_map}.",
        f"{evaluation.volumes} volumes of {evaluation.patients} patients; "
        + (intervals if settings.resamples else "no intervals")
        + f"; ECE in {settings.bins} bins.",
    ]
    if evaluation.validation:
        counts = evaluation.validation
        lines.append(f"Validation split: {counts['volumes']} volumes of {counts['patients']} other patients.")
    return lines


def markdown(evaluation: Evaluation, extra: Sequence[str] = (), notice: str = "") -> str:
    """``metrics.md``. ``notice``: the model's own, such as that its weights are random."""
    first = [f"**{notice}**"] if notice else []
    lines = ["# Evaluation", "", *(f"{line}  " for line in [*first, *heading(evaluation)]), ""]
    for title, header, rows in tables(evaluation):
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |"]
        lines += ["|---|" + "---:|" * (len(header) - 1)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]
    lines += [*extra, "## Notes", "", *(f"- {note}" for note in all_notes(evaluation)), "", "Research use only.", ""]
    return "\n".join(lines)


def all_notes(evaluation: Evaluation) -> list[str]:
    """What a reader has to know: joins, findings that are not evaluated or not calibrated."""
    results = evaluation.findings
    alone = [r.reason for r in results if r.reason and r.reason not in evaluation.notes]
    one_class = [r.item.key for r in results if (s := r.sections.get("left_out")) and s.metrics["auc"].value is None]
    uncalibrated = [r.item.key for r in results if r.not_calibrated]
    notes = [*evaluation.notes, *alone]
    if one_class:
        notes.append(f"no AUC, for only one class is there: {listed(one_class, 40)}")
    if uncalibrated:
        notes.append(f"not calibrated (metrics.json says why): {listed(uncalibrated, 40)}")
    return notes


def print_tables(evaluation: Evaluation, console: Console) -> None:
    """Every section, with the intervals of the AUC; the files have all of them."""
    for line in heading(evaluation):
        console.print(Text(line))
    for title, header, rows in tables(evaluation, brief=True):
        table = Table(title=Text(title), title_justify="left")
        for n, name in enumerate(header):
            table.add_column(name, justify="left" if n == 0 else "right", no_wrap=n > 0)
        for n, row in enumerate(rows, 1):
            table.add_row(*map(Text, row), end_section=n == len(evaluation.findings))
        console.print(table)
    for note in all_notes(evaluation):
        console.print(Text(f"note: {note}"))


def write_evaluation(
    folder: Path, evaluation: Evaluation, test: Dataset, record: Mapping[str, Any], extra: Extra | None = None
) -> dict[str, Path]:
    """Write everything; each file appears whole or not at all, ``metrics.json`` (the ``record``) last.

    An earlier result's ``calibration.json`` is removed where there is none now: it belongs to other numbers.

    Returns:
        The files by kind. Raises OutputError where they cannot be written.
    """
    text = json.dumps(record, indent=1, allow_nan=False)
    names = {"table": "metrics.csv", "markdown": "metrics.md", "roc": "roc.png", "reliability": "reliability.png"}
    names["measured"] = MEASURED
    paths = {kind: folder / name for kind, name in names.items()} | {"metrics": folder / "metrics.json"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if evaluation.validation:
            paths["calibration"] = folder / "calibration.json"
            write_calibration(paths["calibration"], _calibration(evaluation, record["run"]))
        else:
            (folder / "calibration.json").unlink(missing_ok=True)
        write_text(paths["table"], metrics_csv(evaluation))
        write_text(paths["measured"], measured_csv([r.item.key for r in evaluation.findings], test))
        write_text(
            paths["markdown"],
            markdown(evaluation, extra.lines if extra else (), record["run"].get("model_notice") or ""),
        )
        write_pictures(evaluation, test, paths["roc"], paths["reliability"])
        write_text(paths["metrics"], text + "\n")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error}); free some space, or name another folder.") from error
    return paths


def write_text(path: Path, text: str) -> None:
    """A text file that appears whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _calibration(evaluation: Evaluation, run: Mapping[str, Any]) -> dict[str, Any]:
    templates = evaluation.protocol.templates
    asked = [result for result in evaluation.findings if asked_by_an_analysis(result.item, templates)]
    fits = {r.item.key: r.platt for r in asked if r.platt}
    points = {
        r.item.key: {name: r.sections[name].threshold for name in ("youden", "sensitivity")} for r in asked if r.platt
    }
    about = {
        "protocol": evaluation.protocol.name,
        "fitted_on": dict(evaluation.validation or {}),
        "target_sensitivity": evaluation.settings.target_sensitivity,
        "not_calibrated": {r.item.key: r.not_calibrated for r in asked if r.not_calibrated},
        "in_other_words": [r.item.key for r in evaluation.findings if r not in asked],
    }
    return calibration_record(fits, points, run.get("model_sha256"), run.get("model_settings") or {}, about)

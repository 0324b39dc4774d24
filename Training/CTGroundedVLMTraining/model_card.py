"""The card of a model: what it was trained on, what it is for, what was measured. Every number comes from a file.

``training.json`` (written by ``export``), ``corpus.json`` (by ``synthesize``) and ``metrics.json`` (by ``evaluate``). The first
line is the model's notice, if it has one: it is what a list of models shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import atomic_path
from CTGroundedVLMLib.model.checkpoint import model_sha256
from CTGroundedVLMLib.model.header import CARD, WEIGHTS, read_header

from .evaluate.outputs import FORMAT as EVALUATION
from .recipes import STARTER_NOTICE, recipe, recipe_names

TRAINING = "training.json"
_MIN_PATIENTS = 10  # judgement: the bootstrap of fewer says nothing of other patients
_METRICS = (
    ("auc", "mean AUC over {findings} findings"),
    ("ece", "mean ECE of the raw probabilities"),
    ("calibrated_ece", "mean ECE after calibration"),
    ("calibrated_brier", "mean Brier score after calibration"),
)
_RESEARCH = """For research on, and demonstration of, the software that it comes with: scores of findings per organ, heatmaps,
the comparison with a report. **Research use only. Not a medical device: not for diagnosis or treatment.**"""
_SYNTHETIC_LIMITS = """- Its training and test patients are phantoms from one generator: simplified organs, simulated findings,
  sentences of one grammar. Results on them say that the method works, not how well it reads scans of people."""
_LIMITS = """- It answers best for the findings in the tables; a question in other words is not calibrated.
- A heatmap is as coarse as the model's tokens and explains the model, not the patient.
- Calibration holds for patients like those it was fitted on, and for one mode, grid and kind of prompt."""


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of: ``header`` of ``config.json``, and the files' content; None: not there."""

    header: Mapping[str, Any]
    training: Mapping[str, Any] | None = None
    corpus: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    planted: Mapping[str, Any] | None = None
    planted_corpus: Mapping[str, Any] | None = None
    bytes: int | None = None


def write_card(
    model: Path, *, corpus: Path | None, evaluation: Path, planted: Path | None, planted_corpus: Path | None
) -> Path:
    """Write ``MODEL_CARD.md`` of a model folder anew.

    Args:
        corpus, planted_corpus: folders of ``synthesize``: what it was trained on; real CTs with planted findings.
        evaluation, planted: folders of ``evaluate`` on their test splits.

    Raises:
        InputError: a file is missing or damaged, or an evaluation is of another model or of training patients.
        ModelError, OutputError: the model's folder cannot be read or written.
    """
    header = read_header(model)
    sha256 = model_sha256(model)
    facts = CardFacts(
        header,
        _record(model / TRAINING, "`ctgvlm-train export`") if (model / TRAINING).is_file() else None,
        _corpus(corpus),
        _evaluation(evaluation, sha256),
        _evaluation(planted, sha256) if planted else None,
        _corpus(planted_corpus),
        (model / WEIGHTS).stat().st_size,
    )
    try:
        with atomic_path(model / CARD) as temporary:
            temporary.write_text(model_card(facts), encoding="utf-8", newline="\n")
    except OSError as error:
        raise OutputError(f"{model / CARD} cannot be written ({error}). Free space, or copy the model.") from error
    return model / CARD


def _record(path: Path, made_by: str) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Name a folder that {made_by} wrote.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} holds no record. Name a folder that {made_by} wrote.")
    return record


def _corpus(folder: Path | None) -> dict[str, Any] | None:
    return _record(folder / "corpus.json", "`ctgvlm-train synthesize`") if folder else None


def _evaluation(folder: Path, sha256: str) -> dict[str, Any]:
    record = _record(folder / "metrics.json", "`ctgvlm-train evaluate`")
    if record.get("format") != EVALUATION:
        raise InputError(
            f"{folder / 'metrics.json'} is no evaluation. Name a folder that `ctgvlm-train evaluate` wrote."
        )
    if record["run"].get("model_sha256") != sha256:
        raise InputError(
            f"{folder} evaluates the model {record['run'].get('model_sha256')}, not {sha256}. Evaluate the exported model."
        )
    if record["run"].get("split") == "train":
        raise InputError(f"{folder} evaluates the patients that the model was trained on. Evaluate its test split.")
    return record


def model_card(facts: CardFacts) -> str:
    """The card as markdown."""
    notice = facts.header.get("notice", "")
    lines = [f"**{notice}**", ""] if notice else []
    lines += [f"# Model card: {facts.header['name']}", "", *_about(facts), "", "## Intended use", "", _RESEARCH, ""]
    if facts.corpus:
        lines += ["## Data", "", *_data(facts.corpus, facts.training), ""]
    if facts.training:
        lines += ["## Training", "", *_training(facts.training), ""]
    lines += ["## Results", ""]
    if facts.evaluation is None:
        lines += ["Not evaluated yet: `ctgvlm-train evaluate`, then `ctgvlm-train card`.", ""]
    else:
        title = "Held-out synthetic patients" if facts.corpus else "Held-out patients"
        lines += [*_results(title, facts.evaluation), ""]
        lines += _not_calibrated(facts.evaluation)
    if facts.planted is not None:
        lines += [*_results("Real CTs with planted findings", facts.planted, facts.planted_corpus), ""]
    limits = [_SYNTHETIC_LIMITS] if facts.corpus or notice == STARTER_NOTICE else []
    return "\n".join([*lines, "## Limits", "", *limits, _LIMITS, ""])


def _about(facts: CardFacts) -> list[str]:
    organs, training = facts.header["model"]["organs"], facts.training
    parameters = f"{training['parameters'] / 1e6:.1f} million parameters, " if training else ""
    size = f"{facts.bytes / 1e6:.1f} MB of weights, " if facts.bytes else ""
    licence = facts.header.get("license") or "none is stated"
    made = f", made with CTGroundedVLM {training['software']}" if training else ""
    return [
        f"A fine-grained vision-language model of CT (fVLM, arXiv:2501.14548){made}: {parameters}{size}{len(organs)} organs.",
        f"Licence: {licence}.",
    ]


def _data(corpus: Mapping[str, Any], training: Mapping[str, Any] | None) -> list[str]:
    spacing = " x ".join(f"{value:g}" for value in corpus["spacing_ijk"])
    train, validation = corpus["splits"]
    shares = f"{train:.0%} train, {validation:.0%} validation, {1 - train - validation:.0%} test"
    cases = f" The run used {training['cases']} cases." if training and training.get("cases") else ""
    low, high = corpus["grades"]
    return [
        f"{corpus['patients']} synthetic patients of `ctgvlm-train synthesize` ({corpus['generator']}), "
        f"seed {corpus['seed']}, voxels of {spacing} mm ± {corpus['spacing_variation']:.0%}, {len(corpus['prevalence'])} kinds "
        f"of findings with conspicuity {low:g} to {high:g}, {corpus['unreported']:.0%} of them not in the report. Patients were "
        f"split into {shares}.{cases}",
    ]


def _training(training: Mapping[str, Any]) -> list[str]:
    name = training["config"]["name"]
    changes = [f"--set {change}" for change in changed_fields(training["config"])]
    lines = [f"Recipe `{name}`, {training['step']} steps:", "", "```"]
    if (several := training.get("processes") or 1) > 1:
        lines[0] = f"Recipe `{name}`, {training['step']} steps of {several} processes, each with batches of that size:"
    lines += [" \\\n  ".join([f"ctgvlm-train train {name} --data PREPARED --run RUN", *changes]), "```"]
    if name.removesuffix("_debug") == "starter":
        lines += [
            "",
            "`Training/runs/starter.sh` reruns everything: corpus, training, calibration, evaluation, this card.",
        ]
    return lines


def changed_fields(config: Mapping[str, Any]) -> list[str]:
    """``field=value`` of what differs from the recipe of that name, as ``--set`` takes it; empty for an unknown recipe."""
    if config["name"] not in recipe_names():
        return []
    ours, theirs = (
        json.loads(json.dumps(one)) for one in (recipe(config["name"]).to_dict(), config)
    )  # tuples are lists
    return [f"{path}={json.dumps(value, separators=(',', ':'))}" for path, value in _differences(ours, theirs, "")]


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in theirs.items():
        if isinstance(value, dict) and isinstance(ours.get(name), dict):
            found += _differences(ours[name], value, f"{prefix}{name}.")
        elif value != ours.get(name):
            found.append((f"{prefix}{name}", value))
    return found


# --- Results


def _results(title: str, record: Mapping[str, Any], corpus: Mapping[str, Any] | None = None) -> list[str]:
    settings, enough = record["settings"], record["patients"] >= _MIN_PATIENTS
    counts = _counted(record)
    if corpus and "planted_into" in corpus:
        scans = _number(len(corpus["planted_into"]), "scans")
        counts += f" ({corpus['patients']} versions of {scans} each; what was not planted counts as absent)"
    if record.get("validation"):
        counts += f". Thresholds and calibration come from {_counted(record['validation'])} of the validation split"
    interval = f"{settings['confidence']:.0%} interval ({settings['resamples']} patient resamples)"
    lines = [
        f"### {title}",
        "",
        f"{counts}.",
        "",
        f"| | value | {interval if enough else 'interval'} |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {value} | {bounds if enough else ''} |" for name, value, bounds in _summary(record)]
    if not enough:
        lines += ["", f"Too few patients for intervals (fewer than {_MIN_PATIENTS})."]
    return [*lines, "", *_finding_table(record, enough)]


def _counted(counts: Mapping[str, int]) -> str:
    return f"{_number(counts['volumes'], 'volumes')} of {_number(counts['patients'], 'patients')}"


def _number(count: int, plural: str) -> str:
    return f"{count} {plural if count != 1 else plural[:-1]}"


def _summary(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    macro, grounding = record["macro"].get("left_out", {}), record.get("grounding") or {}
    rows = [_line(name.format(**macro[metric]), macro[metric]) for metric, name in _METRICS if metric in macro]
    focal = grounding.get("focal")
    if focal:
        rows += [
            _line(f"heatmap peak inside the finding ({focal['findings']} focal findings)", focal["pointing"]),
            _line("the same, mean over kinds of findings", focal["macro_pointing"]),
            ("chance level of the peak: the finding's share of its organ", f"{focal['pointing_chance']:.3f}", ""),
        ]
        if focal["outside_the_organ"]:
            rest = focal["findings"] - focal["outside_the_organ"]
            rows.append(
                _line(f"peak inside, of the {rest} that have voxels in their organ's mask", focal["pointing_in_organ"])
            )
        near = f"at most {focal['tolerance_mm']:g} mm from"
        rows += [
            _line(f"peak {near} the finding (all {focal['findings']})", focal["pointing_near"]),
            (f"chance level: the share of the organ {near} it", f"{focal['pointing_near_chance']:.3f}", ""),
        ]
    retrieval = record.get("retrieval") or {}
    if "image_to_report" in retrieval:
        name = f"retrieval of reports by CT, mean average precision ({retrieval['cases']} cases)"
        rows.append(_line(name, retrieval["image_to_report"]["map"]))
    return rows


def _line(name: str, estimate: Mapping[str, Any]) -> tuple[str, str, str]:
    value, low = estimate["value"], estimate["low"]
    bounds = "" if low is None else f"{low:.3f} to {estimate['high']:.3f}"
    return name, "-" if value is None else f"{value:.3f}", bounds


def _finding_table(record: Mapping[str, Any], intervals: bool) -> list[str]:
    grounding = record.get("grounding") or {}
    lines = [
        "| finding | n | positive | AUC | sens. | spec. | ECE cal. | peak inside | chance | near | chance |",
        "|---|" + "---:|" * 10,
    ]
    without = []
    for finding in record["findings"]:
        section = finding["sections"].get("left_out")
        if not section or not section["volumes"]:
            without.append(finding["key"])
            continue
        metrics, fixed = section["metrics"], finding["sections"].get("youden", {}).get("metrics", {})
        _, auc, bounds = _line("", metrics["auc"])
        columns = ((fixed, "sensitivity"), (fixed, "specificity"), (metrics, "calibrated_ece"))
        cells = [_line("", part[name])[1] if name in part else "-" for part, name in columns]
        pointed = grounding.get(finding["key"])
        at = ["-"] * 4
        if pointed:
            at = [text for name in ("pointing", "pointing_near")
                  for text in (_line("", pointed[name])[1], f"{pointed[name + '_chance']:.3f}")]  # fmt: skip
        about = [finding["key"], str(section["volumes"]), str(section["positives"])]
        lines.append(
            "| " + " | ".join([*about, f"{auc} ({bounds})" if bounds and intervals else auc, *cells, *at]) + " |"
        )
    without_score = (
        ["", f"Not scored, for no volume shows the organ or says it: {', '.join(without)}."] if without else []
    )
    return [
        *lines,
        "",
        "n: volumes with a score. Sensitivity and specificity: at the threshold of highest sensitivity + specificity of the "
        "validation split. Peak inside: the heatmap's highest voxel lies in the planted finding; as coarse as tokens are, "
        "that cannot be so for all (docs/evaluation.md). Near: at most as far from it as the table above says.",
        *without_score,
    ]


def _not_calibrated(record: Mapping[str, Any]) -> list[str]:
    why = [f"- {f['key']}: {f['not_calibrated']}" for f in record["findings"] if f.get("not_calibrated")]
    return ["Not calibrated, so that an analysis shows raw probabilities:", "", *why, ""] if why else []

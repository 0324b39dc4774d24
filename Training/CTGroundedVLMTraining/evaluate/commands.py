"""``ctgvlm-train evaluate``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CTGroundedVLMLib.errors import InputError

from ..options import refuse
from .protocols import label_map_names, protocol_names

if TYPE_CHECKING:
    from .estimates import EvaluationSettings
    from .evaluation import Evaluation
    from .joining import Dataset
    from .outputs import Extra
    from .protocols import Protocol

SOME_FAILED = 8
SPLITS = ("train", "validation", "test")
_WITH_MODEL = (
    *("manifest", "split", "validation_split", "device", "mode", "grid", "precision", "templates", "grounding"),
    *("heatmap_shifts", "retry_failed", "calibrate"),
)
_DESCRIPTION = """Measure a table of scores against labels, or run a model over a manifest's split and measure that.
Writes metrics.json, metrics.csv, metrics.md, roc.png, reliability.png and, with a validation split, calibration.json.
See docs/evaluation.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to ``ctgvlm-train``."""
    p = commands.add_parser("evaluate", help="scores, or a model -> metrics with intervals", description=_DESCRIPTION)
    p.set_defaults(run=evaluate, parser=p)
    p.add_argument("--protocol", choices=protocol_names(), required=True, help="prompts and labels; corpus: every "
                   '"organ/finding" column of the labels')  # fmt: skip
    p.add_argument("--output", type=Path, required=True, metavar="DIR")
    p.add_argument("--labels", type=Path, metavar="CSV", help="required with --scores; else the manifest's")
    p.add_argument("--label-map", choices=label_map_names(), metavar="NAME", help="another label map of the protocol: "
                   "rad-chestct-fibrosis takes fibrosis where rad-chestct takes scarring")  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="no progress")
    p.add_argument("--json", action="store_true", help="print metrics.json instead of tables")
    _add_table_options(p.add_argument_group("from a table of scores"))
    _add_model_options(p.add_argument_group("with a model"))
    _add_statistics(p.add_argument_group("statistics"))


def _add_table_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--scores", type=Path, metavar="CSV", help="as fVLM's release writes them, or as this command does"
    )
    group.add_argument(
        "--validation-scores", type=Path, metavar="CSV", help="of other patients: thresholds, calibration"
    )
    group.add_argument("--validation-labels", type=Path, metavar="CSV", help="default: --labels")


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--model", metavar="M", help="a model folder, or the name of an installed model")
    group.add_argument("--manifest", type=Path, metavar="CSV", help="see docs: one row a volume")
    group.add_argument("--split", choices=SPLITS, default="test", help="what is measured (default test)")
    group.add_argument("--validation-split", choices=SPLITS, help="thresholds and calibration come from it")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    group.add_argument("--mode", choices=("shared", "reference"), default="shared", help="as ctgvlm analyze has it")
    group.add_argument("--grid", choices=("auto", "physical", "release"), default="auto")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    group.add_argument("--templates", action="store_true", help="the mean over the registry's prompt templates")
    group.add_argument("--grounding", action="store_true", help="also heatmaps against planted findings (findings.nii.gz "
                       "and truth.json beside the CT), and retrieval of reports")  # fmt: skip
    group.add_argument("--heatmap-shifts", type=int, default=1, metavar="S", help="for --grounding (default 1: none)")
    group.add_argument("--retry-failed", action="store_true", help="try cases again that failed in an earlier run")
    group.add_argument("--calibrate", action="store_true",
                       help="write the calibration into the model's folder: an analysis then uses it by default")  # fmt: skip


def _add_statistics(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hold-out", type=float, metavar="SHARE", help="make this share of the patients the validation split"
    )
    group.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="patient resamples (default 1000; 0: none)"
    )
    group.add_argument("--confidence", type=float, default=0.95, metavar="C", help="of the intervals (default 0.95)")
    group.add_argument("--seed", type=int, default=0, help="of the resamples and of --hold-out (default 0)")
    group.add_argument(
        "--target-sensitivity", type=float, default=0.9, metavar="S", help="of the validation split (default 0.9)"
    )
    group.add_argument("--bins", type=int, default=15, metavar="N", help="of the ECE and its picture (default 15)")


def evaluate(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train evaluate``."""
    check_arguments(arguments)
    from .estimates import EvaluationSettings

    settings = EvaluationSettings(
        arguments.bootstrap, arguments.seed, arguments.confidence, arguments.bins, arguments.target_sensitivity
    )
    if arguments.model is None:
        _measure(arguments, settings, *_from_tables(arguments))
        return 0
    return _with_model(arguments, settings)


def _with_model(arguments: argparse.Namespace, settings: EvaluationSettings) -> int:
    from .model_run import ModelRunOptions, run_model

    options = ModelRunOptions(**{f.name: getattr(arguments, f.name) for f in fields(ModelRunOptions)})
    run = run_model(options, _Progress(arguments.quiet))
    about, validation = dict(run.about), run.validation
    if arguments.validation_scores is not None:
        validation = _validation_table(arguments, run.protocol, about)
    _measure(arguments, settings, run.protocol, run.test, validation, about, run.extra(settings))
    if arguments.calibrate:
        from .calibration import carry_calibration

        print(f"Calibration: {carry_calibration(Path(arguments.model), arguments.output / 'calibration.json')}")
    for line in run.failures:
        print(f"ctgvlm-train: not scored: {line}", file=sys.stderr)
    return SOME_FAILED if run.failures else 0


def check_arguments(arguments: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing. Raises InputError."""
    given = {name for name in ("scores", "model") if getattr(arguments, name) is not None}
    if len(given) != 1:
        raise InputError("Give either --scores CSV --labels CSV, or --model M --manifest CSV.")
    needs = {"scores": "labels", "model": "manifest"}
    kind = next(iter(given))
    if getattr(arguments, needs[kind]) is None:
        raise InputError(f"--{kind} needs --{needs[kind]} too.")
    if kind == "scores":
        refuse(arguments, _WITH_MODEL, "does not go with --scores: it needs --model M --manifest CSV")
    if not arguments.grounding:
        refuse(arguments, ["heatmap_shifts"], "needs --grounding too")
    if not arguments.validation_scores:
        refuse(arguments, ["validation_labels"], "needs --validation-scores too")
    check_statistics(arguments)
    _check_validation(arguments)


def check_statistics(arguments: argparse.Namespace) -> None:
    """Refuse options of intervals where none are made. Raises InputError."""
    if not arguments.bootstrap:
        drawn = ["confidence"] if getattr(arguments, "hold_out", None) else ["confidence", "seed"]
        refuse(arguments, drawn, "does not go with --bootstrap 0: nothing is drawn, and there are no intervals")


def _check_validation(arguments: argparse.Namespace) -> None:
    if arguments.validation_scores and arguments.validation_split:
        raise InputError("--validation-scores and --validation-split both name validation patients; leave out one.")
    if arguments.hold_out is not None:
        from .joining import check_share

        if arguments.validation_scores or arguments.validation_split:
            raise InputError("--hold-out makes a validation split; leave out the other one.")
        check_share(arguments.hold_out)  # before hours of scoring
    elif not (arguments.validation_scores or arguments.validation_split):
        others = "--validation-scores, --validation-split or --hold-out"
        refuse(arguments, ["target_sensitivity"], f"needs validation patients: {others}")
    if arguments.calibrate:
        if not (arguments.validation_split or arguments.hold_out):
            raise InputError(
                "--calibrate needs --validation-split or --hold-out: other patients than those that are measured."
            )
        if not Path(arguments.model).is_dir():
            raise InputError(f"--calibrate writes into the model's folder; --model {arguments.model} is none.")
    if arguments.validation_split == arguments.split and arguments.model is not None:
        raise InputError(f"The validation split and the split that is measured are both {arguments.split}.")


def _from_tables(arguments: argparse.Namespace) -> tuple[Protocol, Dataset, Dataset | None, dict[str, Any]]:
    from .joining import hold_out, read_dataset
    from .score_table import read_about

    protocol, test = read_dataset(arguments.scores, arguments.labels, arguments.protocol, arguments.label_map)
    about = read_about(arguments.scores) | {"scores": str(arguments.scores), "labels": str(arguments.labels)}
    protocol = protocol.with_templates() if about.get("templates") else protocol
    validation = None
    if arguments.hold_out is not None:
        test, validation = hold_out(test, arguments.hold_out, arguments.seed)
        about["hold_out"] = arguments.hold_out
    elif arguments.validation_scores is not None:
        validation = _validation_table(arguments, protocol, about)
    return protocol, test, validation, about


def _validation_table(arguments: argparse.Namespace, protocol: Protocol, about: dict[str, Any]) -> Dataset:
    """Validation patients from another table, scored by the same model; ``about`` is told of it."""
    from .joining import read_dataset
    from .score_table import read_about

    labels = arguments.validation_labels or Path(about["labels"])
    other, validation = read_dataset(arguments.validation_scores, labels, arguments.protocol, arguments.label_map)
    if [item.key for item in other.items] != [item.key for item in protocol.items]:
        raise InputError(
            f"{labels} and {about['labels']} have different findings; the protocol corpus needs the same columns in both."
        )
    about |= {"validation_scores": str(arguments.validation_scores), "validation_labels": str(labels)}
    made_by = read_about(arguments.validation_scores)
    if any(made_by.get(name) != about.get(name) for name in ("model_sha256", "model_settings")):
        raise InputError(
            f"{arguments.validation_scores} and the measured scores come from different models or settings; score both "
            "with one."
        )
    return validation


def _measure(
    arguments: argparse.Namespace,
    settings: EvaluationSettings,
    protocol: Protocol,
    test: Dataset,
    validation: Dataset | None,
    about: dict[str, Any],
    extra: Extra | None = None,
) -> None:
    from .evaluation import evaluate as run
    from .outputs import evaluation_record, write_evaluation

    result = run(protocol, test, settings, validation)
    record = evaluation_record(result, about, extra)
    paths = write_evaluation(arguments.output, result, test, record, extra)
    if arguments.json:
        print(json.dumps(record, allow_nan=False))
    else:
        _show(result, extra.lines if extra else (), paths)
    if about.get("model_notice"):
        print(f"ctgvlm-train: {about['model_notice']}", file=sys.stderr)


def _show(result: Evaluation, extra: Sequence[str], paths: dict[str, Path]) -> None:
    from rich.console import Console

    from .outputs import print_tables

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    print_tables(result, console)
    for line in extra:
        print(line)
    print(f"Written: {', '.join(str(path) for path in paths.values())}")
    print("Research use only.")


class _Progress:
    """How many cases are done, on stderr, at most every two seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last = quiet, time.monotonic()

    def __call__(self, done: int, total: int, case_id: str) -> None:
        now = time.monotonic()
        if not self._quiet and (now - self._last >= 2 or done == total):
            self._last = now
            print(f"ctgvlm-train: {done} of {total} cases ({case_id})", file=sys.stderr, flush=True)

"""``ctgvlm-train ablate``: does fVLM's objective, and its correction of false negatives, pay? The same recipe trained in
several arms with several seeds on the same data, measured on the same cases, compared in pairs.

::

    OUT/ARM/seed-N/run          the run (docs/training.md)
    OUT/ARM/seed-N/evaluation   metrics on the test split, protocol corpus
    OUT/A-against-B             comparison.json, comparison.csv
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from CTGroundedVLMLib.errors import InputError

from .termination import STOPPED, going_on_after_sigterm

if TYPE_CHECKING:
    from .config import TrainingConfig
    from .evaluate.estimates import EvaluationSettings

PROTOCOL, TEST, VALIDATION = "corpus", "test", "validation"
REPORT_TOKENS = 512  # of the arm of whole images: whole reports are several times as long as an organ's sentences
_SOME_FAILED = 8
_DESCRIPTION = """Train a recipe in several arms with several seeds on one folder of prepared data, measure each model on the test
split, and compare the arms. Run the same command again after an interruption: it goes on. Several of these commands with
other --seeds or --arms may fill one OUT at a time; the last one, with all of them, compares."""


def _corrected(base: TrainingConfig) -> TrainingConfig:
    return replace(base, objective=replace(base.objective, name="fvlm", false_negatives="normal"))


def _uncorrected(base: TrainingConfig) -> TrainingConfig:
    return replace(base, objective=replace(base.objective, name="fvlm", false_negatives="none"))


def whole_images(base: TrainingConfig) -> TrainingConfig:
    """CLIP: one feature per scan against its whole report. The body is what the recipe's organs hold together, so that the
    crop is the same and the same prepared data serve (``PreparedDataset``); texts may be as long as reports are.
    """
    from .objectives.clip import whole_body_organs

    text = base.model.text
    longer = replace(text, positions=max(text.positions, REPORT_TOKENS), max_tokens=max(text.max_tokens, REPORT_TOKENS))
    model = replace(base.model, organs=whole_body_organs(base.model.organs), text=longer)
    return replace(base, model=model, objective=replace(base.objective, name="clip"))


ARMS: dict[str, Callable[[TrainingConfig], TrainingConfig]] = {
    "fvlm": _corrected,
    "fvlm-uncorrected": _uncorrected,
    "clip": whole_images,
}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to ``ctgvlm-train``."""
    p = commands.add_parser("ablate", help="train arms x seeds, measure and compare them", description=_DESCRIPTION)
    p.set_defaults(run=ablate)
    p.add_argument("recipe", metavar="RECIPE", help="what the arms have in common; see `ctgvlm-train recipes`")
    p.add_argument("--data", required=True, metavar="PREPARED", help="prepared for the recipe; serves all arms")
    p.add_argument("--manifest", type=Path, required=True, metavar="MANIFEST", help="the cases to measure, with labels")
    p.add_argument("--output", type=Path, required=True, metavar="OUT")
    p.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=f"of {', '.join(ARMS)}")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="N", help="default 1 2 3")
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help="as `train` has it; "
                   "for all arms")  # fmt: skip
    p.add_argument("--grounding", action="store_true", help="also heatmaps against planted findings")
    p.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples (default 1000; 0: none)")
    p.add_argument("--quiet", action="store_true", help="no progress")


@dataclass(frozen=True)
class _Cell:
    """One arm with one seed."""

    name: str
    config: TrainingConfig
    folder: Path

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"


@going_on_after_sigterm
def ablate(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train ablate``."""
    from .evaluate.compare_commands import compare_folders
    from .evaluate.estimates import EvaluationSettings
    from .parallel import started_by_launcher
    from .run_folder import RunFolder
    from .train_commands import train_and_export

    if started_by_launcher():
        raise InputError(
            "ablate works in one process. Start it without a launcher; several may fill one OUT (--seeds)."
        )
    settings = EvaluationSettings(arguments.bootstrap)
    cells = _cells(arguments)
    failures: list[str] = []
    for number, cell in enumerate(cells, 1):
        if not arguments.quiet:
            print(f"ctgvlm-train: {number} of {len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        run = RunFolder(cell.folder / "run", cell.config)
        if not train_and_export(run, arguments.data, quiet=arguments.quiet).finished:
            print(f"ctgvlm-train: stopped in {cell.name}; run the same command again to go on", file=sys.stderr)
            return STOPPED
        failures += _measured(cell, arguments, settings)
    folders = {arm: [c.evaluation for c in cells if c.folder.parent.name == arm] for arm in arguments.arms}
    for a, b in itertools.combinations(folders, 2):
        compare_folders({a: folders[a], b: folders[b]}, arguments.output / f"{a}-against-{b}", settings)
    for line in failures:
        print(f"ctgvlm-train: not scored: {line}", file=sys.stderr)
    return _SOME_FAILED if failures else 0


def _cells(arguments: argparse.Namespace) -> list[_Cell]:
    """Seed by seed, so that a run that is given up leaves whole sets of arms."""
    from .overrides import with_changes
    from .recipes import recipe

    base = with_changes(recipe(arguments.recipe), arguments.changes)
    cells = []
    for seed, arm in itertools.product(dict.fromkeys(arguments.seeds), dict.fromkeys(arguments.arms)):
        name = f"{base.name}, arm {arm}, seed {seed}"
        config = replace(ARMS[arm](base), name=f"{base.name}_{arm}", seed=seed)
        cells.append(_Cell(name, config, arguments.output / arm / f"seed-{seed}"))
    return cells


def _measured(cell: _Cell, arguments: argparse.Namespace, settings: EvaluationSettings) -> Sequence[str]:
    """Measure the cell's model, or what an earlier run left to do; returns the cases that failed."""
    from .data.manifest import read_manifest
    from .evaluate.evaluation import evaluate
    from .evaluate.model_run import ModelRunOptions, run_model
    from .evaluate.outputs import evaluation_record, write_evaluation

    splits = {row.split for row in read_manifest(arguments.manifest)}
    options = ModelRunOptions(
        str(cell.folder / "run" / "model"),
        arguments.manifest,
        PROTOCOL,
        cell.evaluation,
        TEST,
        VALIDATION if VALIDATION in splits else None,
        precision="fp32",
        grounding=arguments.grounding,
    )
    run = run_model(options)
    extra = run.extra(settings)
    result = evaluate(run.protocol, run.test, settings, run.validation)
    write_evaluation(cell.evaluation, result, run.test, evaluation_record(result, run.about, extra), extra)
    return [f"{cell.name}: {failure}" for failure in run.failures]

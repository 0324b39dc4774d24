"""``ctgvlm-train train``, ``recipes``, ``export`` and ``card``."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from CTGroundedVLMLib.errors import InputError

from .options import refuse
from .termination import STOPPED, going_on_after_sigterm

if TYPE_CHECKING:
    from .run_folder import RunFolder

_TRAIN = """Run a recipe on prepared data. Started by torchrun, it uses all processes. Run the same command again after an
interruption: it continues from the last checkpoint, and ends with the very weights of an uninterrupted run. SIGTERM ends
the run after the step at hand, saved, or at once where no step is under way, with exit code 10. See docs/training.md."""
_CARD = """Write MODEL/MODEL_CARD.md: use, data, training, results, limits. Every number is taken from the files of export,
synthesize and evaluate; an evaluation of another model is refused."""
_SET = "change a field of the recipe, such as optimizer.lr=1e-4 or batch_size=8 (repeatable)"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to ``ctgvlm-train``."""
    p = commands.add_parser("train", help="pre-train a model", description=_TRAIN)
    p.set_defaults(run=train)
    p.add_argument("recipe", metavar="RECIPE", help="see `ctgvlm-train recipes`")
    p.add_argument("--data", required=True, metavar="PREPARED", help="folder (or URL) that `ctgvlm-train prepare` made")
    # --run-folder is for torchrun, which takes --run for an abbreviation of its own --run-path
    p.add_argument(
        *("--run", "--run-folder"),
        type=Path,
        required=True,
        metavar="RUN",
        dest="folder",
        help="new, or one to go on with",
    )
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help=_SET)
    p.add_argument("--quiet", action="store_true", help="no progress")
    p = commands.add_parser("recipes", help="list the recipes, or show one", description="What `train` can run.")
    p.set_defaults(run=recipes)
    p.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="show its configuration, as `ctgvlm-train prepare --model FILE` takes it",
    )
    p.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes", help=_SET)
    p = commands.add_parser("export", help="a run's checkpoint -> a model for `ctgvlm analyze --model`")
    p.set_defaults(run=export)
    p.add_argument("folder", type=Path, metavar="RUN")
    p.add_argument("output", type=Path, metavar="OUT", help="a new folder")
    p.add_argument("--step", type=int, metavar="N", help="default: the last checkpoint")
    p.add_argument("--half", action="store_true", help="weights in fp16: half the size")
    p.add_argument("--peer", action="store_true", help="the second model of a co-teaching run")
    _add_card(commands)


def _add_card(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser("card", help="write a model's card from the files of its evaluation", description=_CARD)
    p.set_defaults(run=card, parser=p)
    p.add_argument("model", type=Path, metavar="MODEL", help="the folder that `export` wrote")
    p.add_argument("--evaluation", type=Path, required=True, metavar="DIR", help="`evaluate` on held-out patients")
    p.add_argument("--corpus", type=Path, metavar="DIR", help="the synthetic corpus that it was trained on")
    p.add_argument("--planted", type=Path, metavar="DIR", help="`evaluate` on real CTs with planted findings")
    p.add_argument("--planted-corpus", type=Path, metavar="DIR", help="the folder of those, of `synthesize --plant`")


@going_on_after_sigterm
def train(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train train``."""
    from .overrides import with_changes
    from .recipes import recipe
    from .run_folder import RunFolder

    config = with_changes(recipe(arguments.recipe), arguments.changes)
    run = RunFolder(arguments.folder, config)
    done = train_and_export(run, arguments.data, quiet=arguments.quiet)
    if done.first and done.finished:
        print(f"{run.model}: the model after step {done.step}")
    elif done.first:
        _say(f"stopped after step {done.step} of {done.total}; run the same command again to go on")
    return 0 if done.finished else STOPPED


@dataclass(frozen=True)
class Trained:
    """How far a run is. ``first``: whether this process is the one of several that writes and tells."""

    step: int
    total: int
    first: bool

    @property
    def finished(self) -> bool:
        """Not so where a SIGTERM ended it, saved."""
        return self.step == self.total


def train_and_export(run: RunFolder, data: str, *, quiet: bool) -> Trained:
    """Train what the run still lacks, in all processes that were started; a finished run gets its model (``RUN/model``).

    Raises:
        InputError, ModelError: configuration, data, initial weights or the run's folder do not fit together.
        NotANumberError: the loss is no number.
        OutputError: the folder cannot be written.
    """
    from .build import make_trainer
    from .export import export as write_model
    from .export import is_exported
    from .loggers import Loggers
    from .parallel import from_all_ranks, process_group, world

    with process_group(run.config.parallel) as device:
        first = world()[0] == 0
        trainer = make_trainer(run.config, data, run, device)  # also of a finished run: are its data still the same?
        total = trainer.total_steps
        if from_all_ranks(is_exported(run, total))[0]:  # its checkpoints may have been removed since
            return Trained(total, total, first)
        start = trainer.resume()
        with Loggers(run.config, run.folder, total, start, quiet=quiet) if first else nullcontext(_nobody) as report:
            trainer.run(report)
    done = Trained(trainer.step, total, first)
    if first and done.finished:
        write_model(run.folder, run.model)
    return done


def _nobody(record: dict[str, Any]) -> None:
    """Who is told of the steps of other ranks."""


def recipes(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train recipes``."""
    from .overrides import with_changes
    from .recipes import description, recipe, recipe_names

    if arguments.recipe:
        config = with_changes(recipe(arguments.recipe), arguments.changes)
        print(json.dumps(config.to_dict(), indent=1))
        return 0
    if arguments.changes:
        raise InputError("--set needs a RECIPE whose fields it changes.")
    for name in recipe_names():
        print(f"{name:20} {description(name)}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train export``."""
    from .export import export as write_model

    step = write_model(
        arguments.folder, arguments.output, step=arguments.step, half=arguments.half, learner=int(arguments.peer)
    )
    print(f"{arguments.output}: the model after step {step}")
    return 0


def card(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train card``."""
    from .model_card import write_card

    if arguments.planted is None:
        refuse(arguments, ["planted_corpus"], "needs --planted too: the evaluation on it")
    names = ("corpus", "evaluation", "planted", "planted_corpus")
    print(write_card(arguments.model, **{name: getattr(arguments, name) for name in names}))
    return 0


def _say(text: str) -> None:
    print(f"ctgvlm-train: {text}", file=sys.stderr, flush=True)

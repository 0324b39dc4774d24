"""``ctgvlm-train train``, ``recipes``, ``export`` and ``card``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

STOPPED = 10
_TRAIN = """Run a recipe on prepared data. Started by torchrun, it uses all processes. Run the same command again after an
interruption: it continues from the last checkpoint, and ends with the very weights of an uninterrupted run. SIGTERM ends
the run after the step at hand, saved, with exit code 10. See docs/training.md."""
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
    p.set_defaults(run=card)
    p.add_argument("model", type=Path, metavar="MODEL", help="the folder that `export` wrote")
    p.add_argument("--evaluation", type=Path, required=True, metavar="DIR", help="`evaluate` on held-out patients")
    p.add_argument("--corpus", type=Path, metavar="DIR", help="the synthetic corpus that it was trained on")
    p.add_argument("--planted", type=Path, metavar="DIR", help="`evaluate` on real CTs with planted findings")
    p.add_argument("--planted-corpus", type=Path, metavar="DIR", help="the folder of those, of `synthesize --plant`")


def train(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train train``."""
    from .build import make_trainer
    from .export import export as write_model
    from .loggers import Loggers
    from .overrides import with_changes
    from .parallel import process_group, world
    from .recipes import recipe
    from .run_folder import RunFolder

    config = with_changes(recipe(arguments.recipe), arguments.changes)
    run = RunFolder(arguments.folder, config)
    with process_group(config.parallel) as device:
        first = world()[0] == 0
        trainer = make_trainer(config, arguments.data, run, device)
        start = trainer.resume()
        if first:
            with Loggers(config, run.folder, trainer.total_steps, start, quiet=arguments.quiet) as report:
                finished = trainer.run(report)
        else:
            finished = trainer.run()
    if not first:
        return 0 if finished else STOPPED
    if not finished:
        _say(f"stopped after step {trainer.step} of {trainer.total_steps}; run the same command again to go on")
        return STOPPED
    if not run.model.exists():
        write_model(run.folder, run.model)
    print(f"{run.model}: the model after step {trainer.step}")
    return 0


def recipes(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train recipes``."""
    from .overrides import with_changes
    from .recipes import description, recipe, recipe_names

    if arguments.recipe:
        config = with_changes(recipe(arguments.recipe), arguments.changes)
        print(json.dumps(config.to_dict(), indent=1))
        return 0
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

    names = ("corpus", "evaluation", "planted", "planted_corpus")
    print(write_card(arguments.model, **{name: getattr(arguments, name) for name in names}))
    return 0


def _say(text: str) -> None:
    print(f"ctgvlm-train: {text}", file=sys.stderr, flush=True)

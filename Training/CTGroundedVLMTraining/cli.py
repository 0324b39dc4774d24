"""``ctgvlm-train``: the command line. A command is a module with ``add_commands(subparsers)``, listed in ``_COMMANDS``.

Such a module imports at its top what its arguments need and in its functions what its work needs, so that ``--help`` and
commands that need no torch stay fast.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from CTGroundedVLMLib import __version__
from CTGroundedVLMLib.command_line import run_command

_COMMANDS = (
    "CTGroundedVLMTraining.synthesize.commands",
    "CTGroundedVLMTraining.decompose.commands",
    "CTGroundedVLMTraining.data.commands",
    "CTGroundedVLMTraining.train_commands",
    "CTGroundedVLMTraining.evaluate.commands",
    "CTGroundedVLMTraining.evaluate.compare_commands",
    "CTGroundedVLMTraining.ablation",
)

EPILOG = """exit codes:
  0  done
  1  unexpected error (a bug: please report it)
  2  wrong usage of the command line
  3  an input cannot be used
  4  a model cannot be used
  5  a component is missing or does not answer (a language model's server)
  6  memory or disk space does not suffice
  7  the output cannot be written
  8  done, but some items failed; they are marked as failed in the output
  9  the loss is no number (the batch is named)
  10  stopped by SIGTERM and saved: run the same command again to go on
  130  interrupted (Ctrl-C): run the same command again to go on

Research use only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("ctgvlm-train", build_parser, argv, "run the same command again to go on")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="ctgvlm-train",
        description="Prepare data for, and pre-train, fine-grained CT vision-language models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ctgvlm-train {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in _COMMANDS:
        import_module(name).add_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

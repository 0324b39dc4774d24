"""``ctgvlm-train``: the command line. A command is a module with ``add_commands(subparsers)``, listed in ``_COMMANDS``.

Such a module imports at its top what its arguments need and in its functions what its work needs, so that ``--help`` and
commands that need no torch stay fast.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from CTGroundedVLMLib import __version__
from CTGroundedVLMLib.errors import CTGroundedVLMError

_COMMANDS = ("CTGroundedVLMTraining.decompose.commands",)

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
  130  interrupted (Ctrl-C): run the same command again to go on

Research use only."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    _quiet_libraries()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return arguments.run(arguments) or 0
    except CTGroundedVLMError as error:
        print(f"ctgvlm-train: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ctgvlm-train: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except MemoryError:
        print("ctgvlm-train: error: not enough memory. Close other programs, or use a smaller batch.", file=sys.stderr)
        return 6
    except BrokenPipeError:
        # whoever read our output has gone (ctgvlm-train ... | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _quiet_libraries() -> None:
    """Their notices are not for our users; and none of them may fetch anything by itself."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


if __name__ == "__main__":
    sys.exit(main())

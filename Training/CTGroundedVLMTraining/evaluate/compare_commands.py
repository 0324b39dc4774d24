"""``ctgvlm-train compare``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from CTGroundedVLMLib.errors import InputError

if TYPE_CHECKING:
    from .estimates import EvaluationSettings

_DESCRIPTION = """Compare two methods on the same volumes, from folders that `ctgvlm-train evaluate` wrote: paired differences
with intervals over patients and, where a method has several folders (seeds), over seeds. See docs/evaluation.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to ``ctgvlm-train``."""
    p = commands.add_parser("compare", help="two methods on the same volumes -> differences", description=_DESCRIPTION)
    p.set_defaults(run=compare, parser=p)
    p.add_argument("--a", type=Path, nargs="+", required=True, metavar="DIR", help="results of one method, one a seed")
    p.add_argument("--b", type=Path, nargs="+", required=True, metavar="DIR", help="results of the other one")
    p.add_argument("--names", nargs=2, default=["A", "B"], metavar=("A", "B"), help="what the methods are called")
    p.add_argument("--output", type=Path, required=True, metavar="DIR")
    p.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="resamples (default 1000; 0: none)")
    p.add_argument("--confidence", type=float, default=0.95, metavar="C", help="of the intervals (default 0.95)")
    p.add_argument("--seed", type=int, default=0, help="of the resamples (default 0)")
    p.add_argument("--bins", type=int, default=15, metavar="N", help="of the ECE (default 15)")
    p.add_argument("--json", action="store_true", help="print comparison.json instead of tables")


def compare(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train compare``."""
    from .commands import check_statistics
    from .estimates import EvaluationSettings

    check_statistics(arguments)
    if arguments.names[0] == arguments.names[1]:
        raise InputError(f"Both methods are called {arguments.names[0]!r}; give --names that tell them apart.")
    settings = EvaluationSettings(arguments.bootstrap, arguments.seed, arguments.confidence, arguments.bins)
    methods = dict(zip(arguments.names, (arguments.a, arguments.b), strict=True))
    compare_folders(methods, arguments.output, settings, as_json=arguments.json)
    return 0


def compare_folders(
    methods: Mapping[str, Sequence[Path]], output: Path, settings: EvaluationSettings, *, as_json: bool = False
) -> None:
    """Compare two methods (name -> folders of results, A first), write the files and print.

    Raises:
        InputError: the folders are no results, or cannot be compared.
        OutputError: the files cannot be written.
    """
    from rich.console import Console

    from .comparison import compare as run
    from .comparison_outputs import comparison_record, print_comparison, write_comparison
    from .results import read_result

    results = {name: [read_result(folder) for folder in folders] for name, folders in methods.items()}
    comparison = run(*results.values(), settings)
    record = comparison_record(comparison, results, settings)
    paths = write_comparison(output, comparison, record)
    if as_json:
        print(json.dumps(record, allow_nan=False))
        return
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    print_comparison(comparison, list(results), settings, console)
    print(f"Written: {', '.join(map(str, paths))}")

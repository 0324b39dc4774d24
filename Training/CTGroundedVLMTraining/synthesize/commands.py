"""``ctgvlm-train synthesize``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..options import refuse
from .kinds import KIND

_DESCRIPTION = """Make a corpus of synthetic CT studies: phantoms with TotalSegmentator v2 labels, findings with voxel masks,
reports, and labels that do not depend on the reports. Run the same command again after an interruption to go on. No scan of a
person goes into it, except with --plant. See docs/synthetic_corpus.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the command to ``ctgvlm-train``."""
    p = commands.add_parser("synthesize", help="make a synthetic corpus", description=_DESCRIPTION)
    p.set_defaults(run=synthesize, parser=p)
    p.add_argument("output", type=Path, metavar="OUT", help="a new folder, or that of an interrupted run")
    p.add_argument("--patients", type=int, default=100, metavar="N", help="default 100")
    p.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    p.add_argument("--jobs", type=int, default=1, metavar="J", help="processes (default 1)")
    p.add_argument("--spacing", type=float, nargs=3, default=(3.0, 3.0, 5.0), metavar=("X", "Y", "Z"),
                   help="voxels in mm, on average (default 3 3 5)")  # fmt: skip
    p.add_argument("--spacing-variation", type=float, default=0.15, metavar="SHARE", help="default 0.15")
    p.add_argument("--prevalence", action="append", default=[], metavar="FINDING=SHARE",
                   help="of one finding (repeatable), or all=SHARE; findings: " + ", ".join(KIND))  # fmt: skip
    p.add_argument("--grades", type=float, nargs=2, default=(0.1, 1.0), metavar=("LOW", "HIGH"),
                   help="range of conspicuity, 0 (subtle) to 1 (obvious); default 0.1 1")  # fmt: skip
    p.add_argument("--unreported", type=float, default=0.03, metavar="SHARE",
                   help="of the findings, which the report leaves out (default 0.03)")  # fmt: skip
    p.add_argument("--splits", type=float, nargs=2, default=(0.8, 0.1), metavar=("TRAIN", "VALIDATION"),
                   help="shares of the patients; the rest is test (default 0.8 0.1)")  # fmt: skip
    real = p.add_argument_group(
        "real CTs", "plant findings into scans with masks; --patients is then the versions of each"
    )
    real.add_argument("--plant", type=Path, action="append", default=[], metavar="CT", help="repeatable")
    real.add_argument("--segmentation", type=Path, action="append", default=[], metavar="MASK",
                      help="TotalSegmentator v2, one for each --plant, in their order")  # fmt: skip
    real.add_argument(
        "--split", choices=("train", "validation", "test"), default="test", help="of all versions (default test)"
    )
    real.add_argument("--present", action="append", default=[], metavar="ORGAN/FINDING",
                      help="what these patients have anyway: unknown where it is not planted (repeatable)")  # fmt: skip
    p.add_argument("--quiet", action="store_true", help="no progress")


def synthesize(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train synthesize``."""
    from CTGroundedVLMLib.errors import InputError

    from .corpus import PhantomCases
    from .corpus import synthesize as run
    from .settings import Settings

    if arguments.jobs < 1:
        raise InputError(f"--jobs {arguments.jobs}: expected 1 or more")
    if arguments.plant:
        refuse(arguments, ["spacing", "spacing_variation"], "does not go with --plant: a scan has its own voxels")
        refuse(arguments, ["splits"], "does not go with --plant: all versions lie in one --split")
    else:
        refuse(arguments, ["segmentation", "split", "present"], "needs --plant: it is about real CTs")
    settings = Settings(
        patients=arguments.patients,
        seed=arguments.seed,
        spacing_ijk=tuple(arguments.spacing),
        spacing_variation=arguments.spacing_variation,
        prevalence=_prevalence(arguments.prevalence),
        grades=tuple(arguments.grades),
        unreported=arguments.unreported,
        splits=tuple(arguments.splits),
    )
    maker = _planted(arguments, settings) if arguments.plant else PhantomCases(settings)
    state = run(arguments.output, maker, arguments.jobs, _Progress(arguments.quiet))
    print(f"{arguments.output}: {state.total} cases, {state.made} made now, {state.earlier} before")
    return 0


def _planted(arguments: argparse.Namespace, settings):
    from CTGroundedVLMLib.errors import InputError

    from .real import PlantedCases, read_scan

    if len(arguments.plant) != len(arguments.segmentation):
        raise InputError(
            f"{len(arguments.plant)} --plant and {len(arguments.segmentation)} --segmentation; expected one mask for each CT"
        )
    scans = tuple(read_scan(*pair) for pair in zip(arguments.plant, arguments.segmentation, strict=True))
    return PlantedCases(settings, scans, arguments.split, tuple(arguments.present))


def _prevalence(options: list[str]) -> dict[str, float]:
    from CTGroundedVLMLib.errors import InputError

    shares: dict[str, float] = {}
    for option in options:
        name, equals, share = option.partition("=")
        try:
            value = float(share)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"--prevalence {option!r}: expected FINDING=SHARE, such as emphysema=0.3")
        shares |= dict.fromkeys(KIND, value) if name == "all" else {name: value}
    return shares


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self, quiet: bool, every_s: float = 5.0) -> None:
        self._quiet, self._every_s, self._start = quiet, every_s, time.monotonic()
        self._last = self._start

    def __call__(self, state) -> None:
        now, done = time.monotonic(), state.made + state.earlier
        if self._quiet or (now - self._last < self._every_s and done < state.total):
            return
        self._last = now
        rate = state.made / max(now - self._start, 1e-9)
        left = f", {(state.total - done) / rate / 60:.0f} min left" if done < state.total else ""
        print(f"ctgvlm-train: {done} of {state.total} cases, {rate:.2f} a second{left}", file=sys.stderr, flush=True)

"""``ctgvlm-train prepare`` and ``manifest``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..options import refuse
from .sources import SOURCES

SOME_FAILED = 8
_MANIFEST = """List a data set's volumes, masks, reports, labels and splits. Nothing is copied: the manifest names the files, and
labels go to a table beside it. See docs/data.md for the layouts that are read."""
_PREPARE = """Turn the manifest's volumes, masks and reports into training data: every CT is checked, brought onto the model's
grid once, cropped to its organs and written as a compressed shard. Run the same command again after an interruption to go on.
Cases that cannot be used go to OUT/quarantine.csv with the reason. See docs/data.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to ``ctgvlm-train``."""
    _add_prepare(commands)
    _add_manifest(commands)


def _add_manifest(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser("manifest", help="a data set's own files -> a manifest", description=_MANIFEST)
    p.set_defaults(run=manifest, parser=p)
    p.add_argument("source", choices=tuple(SOURCES), help="which data set")
    p.add_argument("root", type=Path, metavar="FOLDER", help="where it lies, in its published layout")
    p.add_argument("-o", "--output", type=Path, required=True, metavar="MANIFEST", help=".csv or .parquet")
    p.add_argument("--masks", type=Path, metavar="FOLDER", help="TotalSegmentator's label maps, named as the volumes")
    p.add_argument("--organ-texts", type=Path, metavar="FILE", help="what `ctgvlm-train decompose` made of the reports")
    p.add_argument("--images", type=Path, metavar="FOLDER", help="radgenome: CT-RATE's folder")
    p.add_argument("--reconstructions", choices=("first", "all"), default="first",
                   help="ct-rate, radgenome: of one session (default first)")  # fmt: skip
    p.add_argument("--version", type=int, choices=(1, 2), help="ct-rate, radgenome: 1 (train, valid: stored values) or 2 "
                   "(_fixed: HU); default 2 where it is there")  # fmt: skip
    p.add_argument("--validation", type=float, default=0.05, metavar="SHARE",
                   help="ct-rate, radgenome: of the training patients, for validation (default 0.05)")  # fmt: skip
    p.add_argument("--split-by-patient", type=float, nargs=2, metavar=("TRAIN", "VALIDATION"),
                   help="draw all splits anew, with these shares; the rest is test")  # fmt: skip
    p.add_argument("--seed", type=int, default=0, metavar="S", help="of drawn splits (default 0)")


def manifest(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train manifest``."""
    from .readers.base import ReaderOptions
    from .sources import make_manifest

    _check_manifest(arguments)
    options = ReaderOptions(
        root=arguments.root,
        masks=arguments.masks,
        images=arguments.images,
        reconstructions=arguments.reconstructions,
        version=arguments.version,
        validation=arguments.validation,
        seed=arguments.seed,
    )
    shares = tuple(arguments.split_by_patient) if arguments.split_by_patient else None
    made = make_manifest(arguments.source, options, arguments.output, organ_texts=arguments.organ_texts, shares=shares)
    for line in made:
        print(line)
    return 0


def _check_manifest(arguments: argparse.Namespace) -> None:
    """Refuse options that the data set's reader does not ask for. Raises InputError."""
    source, drawn = arguments.source, arguments.split_by_patient is not None
    if source != "radgenome":
        refuse(arguments, ["images"], "is for radgenome")
    if source == "folder":
        refuse(arguments, ["masks"], "does not go with folder: each case's folder holds its mask")
    if source not in ("ct-rate", "radgenome"):
        refuse(arguments, ["reconstructions", "version", "validation"], "is for ct-rate and radgenome")
        if source != "folder" and not drawn:
            refuse(arguments, ["seed"], f"needs --split-by-patient: {source} has its own splits")
    if source == "rad-chestct":
        refuse(arguments, ["organ_texts"], "does not go with rad-chestct: it has no reports")
    if drawn:
        refuse(arguments, ["validation"], "does not go with --split-by-patient, which draws all splits")


def _add_prepare(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser("prepare", help="volumes, masks and reports -> training data", description=_PREPARE)
    p.set_defaults(run=prepare, parser=p)
    p.add_argument("manifest", type=Path, metavar="MANIFEST", help=".csv or .parquet, see `ctgvlm-train manifest`")
    p.add_argument("output", type=Path, metavar="OUT", help="a new folder, or one to go on with")
    p.add_argument("--model", required=True, metavar="RECIPE|CONFIG", help="a recipe's name, or a model's config.json")
    p.add_argument("--jobs", type=_positive, default=1, metavar="N", help="processes (default 1)")
    p.add_argument("--retry", action="store_true", help="try cases in quarantine again")
    p.add_argument("--verify", action="store_true", help="read all shards, and make damaged ones again")
    p.add_argument("--no-qa", action="store_true", help="no summary with pictures (OUT/qa)")
    p.add_argument("--quiet", action="store_true", help="no progress")
    group = p.add_argument_group("segmentation of cases without a mask (TotalSegmentator)")
    group.add_argument("--device", action="append", metavar="NAME",
                       help="cpu, cuda, cuda:1; repeatable, the processes take them in turn (default cpu)")  # fmt: skip
    group.add_argument("--segment-jobs", type=_positive, metavar="N", help="processes (default one per --device)")
    group.add_argument("--fast", action=argparse.BooleanOptionalAction, default=None,
                       help="the 3 mm model (default on the CPU only)")  # fmt: skip
    group = p.add_argument_group("cluster")
    group.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS",
                       help="work on a Ray cluster (auto: the one around); without ADDRESS on this machine")  # fmt: skip


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def prepare(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train prepare``."""
    from .prepare import Workers, model_config
    from .prepare import prepare as run

    if arguments.ray:
        refuse(arguments, ["segment_jobs"], "does not go with --ray, which shares out the work itself")
    devices = tuple(arguments.device or ("cpu",))
    workers = Workers(
        arguments.jobs, arguments.segment_jobs or len(devices), devices, arguments.fast, arguments.ray
    )  # fmt: skip
    progress = _Progress(arguments.quiet)
    model = model_config(arguments.model)
    done = run(
        arguments.manifest,
        arguments.output,
        model,
        workers,
        retry=arguments.retry,
        verify=arguments.verify,
        progress=progress,
    )
    print(f"{arguments.output}: {done.made} cases made now, {done.earlier} before; {done.refused} in quarantine")
    if done.shards_remade:
        print(f"{done.shards_remade} damaged shards were made again")
    if done.without_report:
        print(f"{done.without_report} cases have no report: objectives that learn from texts leave them out")
    if done.others:
        print(f"{done.others} cases of other manifests are there, too")
    if not arguments.no_qa:
        from .qa import write_summary

        print(f"summary: {write_summary(arguments.output)}")
    if done.refused:
        print(f"ctgvlm-train: {done.refused} cases are in {arguments.output / 'quarantine.csv'}", file=sys.stderr)
    return SOME_FAILED if done.refused else 0


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self, quiet: bool, every_s: float = 5.0) -> None:
        self._quiet, self._every_s, self._start = quiet, every_s, time.monotonic()
        self._last = self._start

    def __call__(self, summary) -> None:
        now, new = time.monotonic(), summary.made + summary.refused_now
        done = new + summary.earlier
        if self._quiet or (now - self._last < self._every_s and done < summary.total):
            return
        self._last = now
        rate = new / max(now - self._start, 1e-9)
        left = f", {(summary.total - done) / rate / 60:.0f} min left" if done < summary.total else ""
        print(
            f"ctgvlm-train: {done} of {summary.total} cases, {summary.refused_now} refused, {rate:.2f} a second{left}",
            file=sys.stderr,
            flush=True,
        )

"""``ctgvlm``: the command line. Its arguments; ``commands.py`` does the work, ``command_line.py`` shows errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .command_line import run_command

EPILOG = """exit codes:
  0  done
  1  unexpected error (a bug: please report it)
  2  wrong usage of the command line
  3  an input (CT, segmentation, report, calibration, prompt) cannot be used
  4  no model, or one that cannot be used
  5  a component is missing (TotalSegmentator, its weights, CUDA)
  6  memory does not suffice
  7  the output cannot be written (disk full, no permission, a folder with other files)
  130  interrupted (Ctrl-C): nothing is left half-written

Research use only. No data leave this computer."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("ctgvlm", build_parser, argv, "nothing was left half-written")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ctgvlm",
        description="Link the segments of a CT to the sentences of its report, score findings per organ, show where they are.",
        epilog=EPILOG,
        formatter_class=formatter,
    )
    parser.add_argument("--version", action="version", version=f"ctgvlm {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_analyze(commands)
    _add_segment(commands)
    _add_parse_reports(commands)
    _add_sample(commands)
    _add_models(commands)
    return parser


def _add_analyze(commands: argparse._SubParsersAction) -> None:
    from . import commands as run

    p = commands.add_parser("analyze", help="analyse one CT", description="Analyse one CT.", epilog=EPILOG,
                            formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.set_defaults(run=run.analyze)
    p.add_argument("ct", type=Path, metavar="CT", help="NIfTI, NRRD or MHA file, or a DICOM folder")
    p.add_argument("--segmentation", type=Path, metavar="S", help="multi-label file, .seg.nrrd, or a TotalSegmentator "
                   "output folder; without it, TotalSegmentator is run")  # fmt: skip
    p.add_argument("--report", type=Path, metavar="R", help="the radiology report: a text file or a DICOM SR")
    p.add_argument("--model", metavar="M", help='a model folder, the name of an installed model, "starter" or "untrained"; '
                   "default: the one that is installed, else the bundled starter model")  # fmt: skip
    p.add_argument("--output", type=Path, metavar="DIR", help="where to write; default: NAME-analysis in this folder")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--prompt", nargs=2, action="append", default=[], metavar=("ORGAN", "TEXT"),
                   help='ask for a finding in your own words, e.g. --prompt lung "ground-glass opacity"')  # fmt: skip
    p.add_argument("--json", action="store_true", help="print the results as JSON; files only with --output")
    p.add_argument("--quiet", action="store_true", help="no progress")
    _add_model_options(p.add_argument_group("model"))
    _add_input_options(p.add_argument_group("input"))
    group = p.add_argument_group("heatmaps")
    group.add_argument("--heatmaps", type=int, default=4, metavar="N",
                       help="how many of the highest scored findings get one (default 4; prompts always do)")  # fmt: skip
    group.add_argument("--heatmap-method", choices=("contribution", "hirescam"), default="contribution")
    group.add_argument("--heatmap-shifts", type=int, default=1, metavar="S",
                       help="average over S^3 shifted windows, each encoded anew, for finer detail (default 1)")  # fmt: skip


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    from .anatomy import finding_sets

    group.add_argument("--mode", choices=("shared", "reference"), default="shared",
                       help="shared: organs share windows (fast); reference: a window per organ, as fVLM's release")  # fmt: skip
    group.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    group.add_argument("--grid", choices=("auto", "physical", "release"), default="auto",
                       help="resampling rule; auto: physical with shared, release (as stored) with reference")  # fmt: skip
    group.add_argument(
        "--findings", choices=("auto", "all", *finding_sets()), default="auto", help="which findings to score"
    )
    group.add_argument("--templates", action="store_true", help="average over several wordings of each prompt")
    calibration = group.add_mutually_exclusive_group()
    calibration.add_argument("--calibration", type=Path, metavar="FILE",
                             help="calibration of this model (Platt, JSON); default: what the model's folder holds")  # fmt: skip
    calibration.add_argument("--no-calibration", action="store_false", dest="calibrate", help="raw probabilities")
    group.add_argument("--min-visible", type=float, metavar="F",
                       help="organs of which less is visible are not scored (default 0.2; 0 with --mode reference)")  # fmt: skip
    group.add_argument("--embedding-links", action="store_true",
                       help="let the text tower guess the segment of sentences that name none; guesses are marked")  # fmt: skip
    group.add_argument("--no-cache", action="store_true", help="keep no text embeddings on disk")


def _add_input_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--series", metavar="UID", help="which DICOM series, where the folder holds several")
    group.add_argument("--totalsegmentator-version", type=int, choices=(1, 2), default=2,
                       help="whose label numbers the segmentation uses (default 2)")  # fmt: skip


def _add_segment(commands: argparse._SubParsersAction) -> None:
    from . import commands as run

    p = commands.add_parser("segment", help="segment a CT with TotalSegmentator")
    p.set_defaults(run=run.segment)
    p.add_argument("ct", type=Path, metavar="CT", help="NIfTI, NRRD or MHA file, or a DICOM folder")
    p.add_argument(
        "output", type=Path, metavar="OUT.nii.gz", help="multi-label file with TotalSegmentator v2's numbers"
    )
    p.add_argument(
        "--organs", default="all", metavar="GROUP", help="an organ group (fvlm4, anatomy36) or all (default)"
    )
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--series", metavar="UID", help="which DICOM series, where the folder holds several")
    p.add_argument("--quiet", action="store_true", help="no progress")


def _add_parse_reports(commands: argparse._SubParsersAction) -> None:
    from . import commands as run

    p = commands.add_parser("parse-reports", help="sentences, segments and findings of reports")
    p.set_defaults(run=run.parse_reports)
    p.add_argument("input", type=Path, metavar="IN.jsonl", help="one JSON object a line, with report_id and text")
    p.add_argument(
        "output",
        type=Path,
        metavar="OUT.jsonl",
        help="the same with sentences: start, end, section, segments, findings",
    )


def _add_sample(commands: argparse._SubParsersAction) -> None:
    from . import commands as run

    p = commands.add_parser("sample", help="write a synthetic CT phantom with mask and report")
    p.set_defaults(run=run.sample)
    p.add_argument("directory", type=Path, metavar="DIR")
    p.add_argument("--seed", type=int, default=0, help="the same seed gives the same patient (default 0)")


def _add_models(commands: argparse._SubParsersAction) -> None:
    from . import commands as run

    p = commands.add_parser("models", help="list and import models")
    actions = p.add_subparsers(required=True, metavar="ACTION")
    p_list = actions.add_parser("list", help="installed and bundled models, and the folder where the former lie")
    p_list.set_defaults(run=run.list_models)
    p_import = actions.add_parser("import-fvlm", help="convert fVLM's released checkpoint")
    p_import.set_defaults(run=run.import_fvlm)
    p_import.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pth")
    p_import.add_argument("--tokenizer", type=Path, required=True, metavar="DIR",
                          help="folder with vocab.txt or tokenizer.json of microsoft/BiomedVLP-CXR-BERT-specialized")  # fmt: skip
    p_import.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model folder to make")
    p_import.add_argument(
        "--organs", default="fvlm4", metavar="GROUP", help="the organ group it was trained with (fvlm4)"
    )


if __name__ == "__main__":
    sys.exit(main())

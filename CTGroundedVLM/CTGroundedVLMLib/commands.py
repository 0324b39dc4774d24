"""What each command of ``ctgvlm`` does. Heavy imports lie inside the functions: ``ctgvlm --help`` must be instant."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Reporter
from .errors import OutputError
from .files import cache_folder, models_folder

if TYPE_CHECKING:
    from .pipeline import AnalysisOptions


def analyze(arguments: argparse.Namespace) -> None:
    """``ctgvlm analyze``."""
    from .export import check_output, result_record

    output = None if arguments.json and not arguments.output else arguments.output or _default_output(arguments.ct)
    if output is not None:
        check_output(output)
    with Reporter(quiet=arguments.quiet) as reporter:
        result, written = _run_analysis(arguments, output, reporter)
    if not arguments.json:
        reporter.summary(result, written)
    elif written:
        print(written["results"].read_text(encoding="utf-8"), end="")
    else:
        print(json.dumps(result_record(result), ensure_ascii=False, allow_nan=False))


def _run_analysis(arguments: argparse.Namespace, output: Path | None, reporter: Reporter):
    clock = _Clock()
    # cheap refusals first: a wrong file must not cost the import of torch, nor a wrong prompt an encoded image
    inputs = _read_inputs(arguments, reporter)
    clock.lap("read input")
    from .export import write_result
    from .model.find import find_model
    from .pipeline import analyze as run
    from .precision import choose_device
    from .prompts import free_prompt

    reporter.stage("load model", 0.02)
    options = _options(arguments)
    loaded = find_model(arguments.model, choose_device(arguments.device))
    for organ, text in options.prompts:
        free_prompt(organ, text, loaded.config.organs, options.templates)
    clock.lap("load model")
    case = _with_segmentation(inputs, arguments, loaded.config.organs, reporter)
    clock.lap("segment")
    result = run(case, loaded, options, reporter.stage)
    result = dataclasses.replace(result, timings_s=clock.seconds | dict(result.timings_s))
    if output is None:
        return result, None
    return result, write_result(result, output, progress=lambda _, done: reporter.stage("write", 0.93 + 0.07 * done))


class _Clock:
    """Seconds of each stage before the analysis itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._start = round(now - self._start, 4), now


def _options(arguments: argparse.Namespace) -> AnalysisOptions:
    from .pipeline import AnalysisOptions

    return AnalysisOptions(
        mode=arguments.mode,
        grid=arguments.grid,
        precision=arguments.precision,
        prompts=tuple((organ, text) for organ, text in arguments.prompt),
        finding_set=arguments.findings,
        templates=arguments.templates,
        calibration=arguments.calibration,
        calibrate=arguments.calibrate,
        heatmaps=arguments.heatmaps,
        heatmap_method=arguments.heatmap_method,
        heatmap_shifts=arguments.heatmap_shifts,
        min_visible=arguments.min_visible,
        embedding_links=arguments.embedding_links,
        cache_folder=None if arguments.no_cache else cache_folder(),
    )


def _read_inputs(arguments: argparse.Namespace, reporter: Reporter):
    """The case, or its CT and report where TotalSegmentator has to make the mask first."""
    from .report_sources import read_report
    from .volume_io import load_case, read_ct

    reporter.stage("read input", 0.0)
    if arguments.segmentation is not None:
        return load_case(
            arguments.ct,
            arguments.segmentation,
            arguments.report,
            series_uid=arguments.series,
            version=arguments.totalsegmentator_version,
        )
    report_text = read_report(arguments.report) if arguments.report else ""
    return read_ct(arguments.ct, series_uid=arguments.series), report_text


def _with_segmentation(case, arguments: argparse.Namespace, organs: dict[str, tuple[str, ...]], reporter: Reporter):
    from .types import CTCase

    if isinstance(case, CTCase):
        return case
    from .segmentation import segment as run_totalsegmentator

    reporter.stage("segment", 0.03)
    ct, report_text = case
    classes = sorted({name for segments in organs.values() for name in segments})
    segmentation = run_totalsegmentator(ct, arguments.ct, classes=classes, device=_device_name(arguments.device))
    return CTCase(ct, segmentation, report_text, str(arguments.report or ""))


def _device_name(name: str) -> str:
    from .precision import choose_device

    return choose_device(name).type


def _default_output(ct: Path) -> Path:
    """NAME-analysis in the current folder; NAME is the CT's file or folder name."""
    name = re.sub(r"\.(nii|nrrd|mha|mhd)(\.gz)?$", "", ct.resolve().name, flags=re.IGNORECASE)
    return Path(f"{name}-analysis")


def segment(arguments: argparse.Namespace) -> None:
    """``ctgvlm segment``."""
    from .anatomy import organ_group, segment_classes
    from .segmentation import segment as run_totalsegmentator
    from .volume_io import read_ct, write_label_map

    if arguments.output.exists():
        raise OutputError(f"{arguments.output} exists already. Choose another name or remove it first.")
    if not arguments.output.absolute().parent.is_dir():
        raise OutputError(f"{arguments.output}: its folder does not exist. Make it first, or choose another one.")
    if not arguments.output.name.endswith((".nii.gz", ".nii", ".nrrd", ".mha")):
        raise OutputError(f"{arguments.output}: expected a name that ends in .nii.gz, .nii, .nrrd or .mha.")
    if arguments.organs == "all":
        classes = [segment_class.name for segment_class in segment_classes()]
    else:
        classes = sorted({name for organ in organ_group(arguments.organs).organs for name in organ.segments})
    with Reporter(quiet=arguments.quiet) as reporter:
        reporter.stage("read input", 0.0)
        ct = read_ct(arguments.ct, series_uid=arguments.series)
        reporter.stage("segment", 0.1)
        result = run_totalsegmentator(ct, arguments.ct, classes=classes, device=_device_name(arguments.device))
        write_label_map(result, ct, arguments.output)
    print(f"Segmentation: {arguments.output}")


def parse_reports(arguments: argparse.Namespace) -> None:
    """``ctgvlm parse-reports``."""
    from .report import parse_jsonl

    print(f"{parse_jsonl(arguments.input, arguments.output)} reports: {arguments.output}")


def sample(arguments: argparse.Namespace) -> None:
    """``ctgvlm sample``."""
    from .sample import write_sample

    paths = write_sample(arguments.directory, arguments.seed)
    print("A synthetic patient (no real anatomy):")
    for field in dataclasses.fields(paths):
        print(f"  {field.name}: {getattr(paths, field.name)}")


def list_models(arguments: argparse.Namespace) -> None:
    """``ctgvlm models list``."""
    from .models_admin import list_models as known_models

    models = known_models()
    print(f"Models folder: {models_folder()}")
    if not any(model.kind == "installed" for model in models):
        print("  none yet: see ctgvlm models import-fvlm --help")
    for model in models:
        print(f"  {model.name}: {model.summary}")


def import_fvlm(arguments: argparse.Namespace) -> None:
    """``ctgvlm models import-fvlm``."""
    from .model.import_fvlm import LICENSE
    from .model.import_fvlm import import_fvlm as run

    config = run(arguments.checkpoint, arguments.tokenizer, arguments.output, arguments.organs)
    print(f"Model for {', '.join(config.organs)}: {arguments.output}\nLicence: {LICENSE}")

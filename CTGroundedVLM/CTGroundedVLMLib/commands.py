"""What each command of ``ctgvlm`` does. Heavy imports lie inside the functions: ``ctgvlm --help`` must be instant."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from pathlib import Path

from .console import Reporter
from .errors import OutputError
from .files import cache_folder, models_folder


def analyze(arguments: argparse.Namespace) -> None:
    """``ctgvlm analyze``."""
    from .pipeline import AnalysisOptions

    output = None if arguments.json and not arguments.output else arguments.output or _default_output(arguments.ct)
    options = AnalysisOptions(
        mode=arguments.mode,
        grid=arguments.grid,
        precision=arguments.precision,
        prompts=tuple((organ, text) for organ, text in arguments.prompt),
        finding_set=arguments.findings,
        templates=arguments.templates,
        calibration=arguments.calibration,
        heatmaps=arguments.heatmaps,
        heatmap_method=arguments.heatmap_method,
        heatmap_shifts=arguments.heatmap_shifts,
        min_visible=arguments.min_visible,
        embedding_links=arguments.embedding_links,
        cache_folder=None if arguments.no_cache else cache_folder(),
    )
    with Reporter(quiet=arguments.quiet) as reporter:
        result, written = _run_analysis(arguments, options, output, reporter)
    if arguments.json:
        from .export import result_record

        print(json.dumps(result_record(result), ensure_ascii=False, allow_nan=False))
    else:
        reporter.summary(result, written)


def _run_analysis(arguments: argparse.Namespace, options, output: Path | None, reporter: Reporter):
    from .export import check_output, write_result
    from .model.find import find_model
    from .pipeline import analyze as run
    from .precision import choose_device
    from .prompts import free_prompt

    if output is not None:
        check_output(output)
    start = time.perf_counter()
    # cheap refusals first: a wrong file or prompt must not cost a loaded model, nor the other way round
    case_without_mask = _read_inputs(arguments, reporter)
    reading = time.perf_counter() - start
    reporter.stage("load model", 0.02)
    loaded = find_model(arguments.model, choose_device(arguments.device))
    for organ, text in options.prompts:
        free_prompt(organ, text, loaded.config.organs, options.templates)
    case = _with_segmentation(case_without_mask, arguments, loaded.config.organs, reporter)
    loading = time.perf_counter() - start - reading
    result = run(case, loaded, options, reporter.stage)
    timings = {"read input": round(reading, 4), "load model": round(loading, 4), **result.timings_s}
    result = dataclasses.replace(result, timings_s=timings)
    if output is None:
        return result, None
    return result, write_result(result, output, progress=lambda _, done: reporter.stage("write", 0.93 + 0.07 * done))


def _read_inputs(arguments: argparse.Namespace, reporter: Reporter):
    """The case, or its CT and report where TotalSegmentator has to make the mask first."""
    from .volume_io import load_case, read_ct, read_report

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
    from .model.find import installed_models

    models = installed_models()
    print(f"Models folder: {models_folder()}")
    for name, header in models.items():
        organs = ", ".join(header["model"]["organs"])
        print(f"  {name}: {organs}" + (f"\n    licence: {header['license']}" if header.get("license") else ""))
    if not models:
        print("  none yet: see ctgvlm models import-fvlm --help, or use --model untrained")


def import_fvlm(arguments: argparse.Namespace) -> None:
    """``ctgvlm models import-fvlm``."""
    from .model.import_fvlm import LICENSE
    from .model.import_fvlm import import_fvlm as run

    config = run(arguments.checkpoint, arguments.tokenizer, arguments.output, arguments.organs)
    print(f"Model for {', '.join(config.organs)}: {arguments.output}\nLicence: {LICENSE}")

"""``analyze()``: the whole job, stage by stage. Read this first.

A :class:`Session` keeps what the model saw, so that a second question about the same CT costs only its text. The worker
process keeps one between requests (``analyze_session``).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from . import __version__
from .discrepancies import compare_with_report
from .embedding_links import link_with_guesses
from .errors import InputError, ResourceError
from .linking import link
from .localization import Method, localize, shifted_windows
from .model.checkpoint import LoadedModel
from .model.fvlm import ImageFeatures, WindowFeatures
from .model.text_cache import TextEncoder
from .model_grid import Grid, release_grid_caveat
from .precision import Precision, choose_precision
from .preprocessing import ModelInput, Preprocessor
from .prompts import Prompt, free_prompt, registry_prompts
from .report import parse_report
from .scoring import Calibration, own_calibration, read_calibration, score_findings, text_direction
from .types import AnalysisResult, CTCase, FindingScore, Heatmap, OrganInfo
from .visibility import MIN_VISIBLE_FRACTION, MIN_VOXELS, describe_organs, organ_warnings

Progress = Callable[[str, float], None]
MAX_KEPT_SHIFTS = 3  # 27 copies of a full-size window's tokens take about 0.4 GB


@dataclasses.dataclass(frozen=True)
class AnalysisOptions:
    """How to analyse.

    ``mode``: "shared" lets organs that fit together share a window (fast); "reference" does what fVLM's release does, one
    organ-centred window per organ, and scores every organ that has a voxel. ``grid``: "physical" handles any orientation
    and pixel shape, "release" copies the release's rule; "auto" takes the one that goes with the mode.
    ``prompts``: (organ, text) questions. ``finding_set``: see ``prompts.registry_prompts``. ``calibration``: a file in place
    of what the model carries; ``calibrate=False``: raw probabilities whatever it carries. ``heatmaps``: how many of
    the highest scored findings get a heatmap; every question of ``prompts`` gets one. ``heatmap_shifts``: see ``localize``.
    ``embedding_links``: guess the segment of a sentence that names none (see ``link_with_guesses``).
    """

    mode: Literal["shared", "reference"] = "shared"
    grid: Literal["auto", "physical", "release"] = "auto"
    precision: Precision = "auto"
    prompts: tuple[tuple[str, str], ...] = ()
    finding_set: str = "auto"
    templates: bool = False
    calibration: Path | None = None
    calibrate: bool = True
    heatmaps: int = 4
    heatmap_method: Method = "contribution"
    heatmap_shifts: int = 1
    min_visible: float | None = None
    min_voxels: int | None = None
    embedding_links: bool = False
    cache_folder: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.heatmap_shifts <= 8:
            raise InputError(f"heatmap_shifts is {self.heatmap_shifts}, expected 1 (none) to 8 (512 extra passes).")
        if self.calibration is not None and not self.calibrate:
            raise InputError(f"calibration is {self.calibration} and calibrate is False: expected one of them.")
        if self.heatmaps < 0:
            raise InputError(f"heatmaps is {self.heatmaps}, expected 0 or more.")
        if self.min_visible is not None and not 0 <= self.min_visible <= 1:
            raise InputError(f"min_visible is {self.min_visible}, expected a fraction between 0 and 1.")

    @property
    def resolved_grid(self) -> Grid:
        """The grid rule that is used."""
        if self.grid == "auto":
            return "release" if self.mode == "reference" else "physical"
        return self.grid

    @property
    def limits(self) -> tuple[float, int]:
        """(min_visible, min_voxels): the release scores whatever is there, so the reference mode does."""
        visible, voxels = (0.0, 1) if self.mode == "reference" else (MIN_VISIBLE_FRACTION, MIN_VOXELS)
        return (
            visible if self.min_visible is None else self.min_visible,
            voxels if self.min_voxels is None else self.min_voxels,
        )


class Session:
    """A case that the model has encoded: scores and heatmaps of any text at the cost of the text.

    Args:
        progress: called with a stage's name and the fraction done (0..1).

    Raises:
        SegmentationError: none of the model's organs is in the mask.
        ResourceError: the device's memory does not suffice.
    """

    def __init__(
        self,
        case: CTCase,
        loaded: LoadedModel,
        options: AnalysisOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.case, self.loaded, self.options = case, loaded, options or AnalysisOptions()
        self.began = time.perf_counter()
        self.timings: dict[str, float] = {}
        self.progress = progress or (lambda stage, fraction: None)
        self.calibration, why_raw = self._read_calibration()
        self.encode_text = TextEncoder(loaded, self.options.cache_folder)
        self._organs = list(loaded.config.organs)
        self._shifted: dict[int, list[WindowFeatures]] = {}
        with self._stage("choose precision", 0.04):
            self.precision = choose_precision(self.options.precision, loaded.model.device)
        with self._stage("preprocess", 0.05):
            self._preprocessor, model_input = self._preprocess()
        with self._stage("encode image", 0.15):
            self.features: ImageFeatures = loaded.model.encode_image(model_input, self.precision)
        self.organs = self._describe(model_input)
        self.warnings = why_raw + self._grid_warnings() + organ_warnings(case, self.organs)

    def _read_calibration(self) -> tuple[Calibration | None, tuple[str, ...]]:
        """The file of the options, else what the model carries; and a warning where that is for other settings."""
        options, loaded = self.options, self.loaded
        settings = {"mode": options.mode, "grid": options.resolved_grid, "templates": options.templates}
        if options.calibration is not None:
            return read_calibration(options.calibration, loaded.identity.sha256, settings), ()
        if not options.calibrate:
            return None, ()
        return own_calibration(loaded.folder, loaded.identity.sha256, settings)

    def _grid_warnings(self) -> tuple[str, ...]:
        caveat = release_grid_caveat(self.case.ct.ijk_to_ras) if self.options.resolved_grid == "release" else ""
        return (caveat,) if caveat else ()

    def _preprocess(self) -> tuple[Preprocessor, ModelInput]:
        config = self.loaded.config
        preprocessor = Preprocessor(
            self.case,
            config.organs,
            config.preprocessing,
            config.vision.patch_size,
            grid=self.options.resolved_grid,
            device=self.loaded.model.device,
        )
        shared = self.options.mode == "shared"
        return preprocessor, preprocessor.shared_windows() if shared else preprocessor.reference_windows()

    def _describe(self, model_input: ModelInput) -> tuple[OrganInfo, ...]:
        tokens = {organ: self.features.organ_tokens(organ) for organ in self.features.organ_features}
        return describe_organs(self.case, self.loaded.config, model_input, tokens, *self.options.limits)

    @contextmanager
    def _stage(self, name: str, fraction: float) -> Iterator[None]:
        self.progress(name, fraction)
        start = time.perf_counter()
        with _memory_errors():
            yield
        self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def score(self, prompts: Sequence[Prompt]) -> tuple[FindingScore, ...]:
        """Probabilities; None with a reason for organs that cannot be scored."""
        features = {self._organs[number]: feature for number, feature in self.features.organ_features.items()}
        reasons = {info.organ: info.reason for info in self.organs if info.reason}
        with self._stage("score", 0.6):
            return score_findings(
                prompts, features, reasons, self.encode_text, self.loaded.model.temperature.item(), self.calibration
            )

    def analysis_prompts(self) -> tuple[Prompt, ...]:
        """What an analysis scores: the registry's findings, then the questions of the options."""
        options, organs = self.options, self.loaded.config.organs
        asked = (self.prompt(organ, text) for organ, text in options.prompts)
        known = self.loaded.findings
        return (*registry_prompts(organs, options.finding_set, options.templates, known), *asked)

    def prompt(self, organ: str, text: str) -> Prompt:
        """A question in free words (see ``prompts.free_prompt``)."""
        return free_prompt(organ, text, self.loaded.config.organs, self.options.templates)

    def heatmap(self, prompt: Prompt) -> Heatmap:
        """Where in the organ the image speaks for the finding.

        Raises:
            InputError: the organ is not scored in this case; the message holds the reason.
        """
        number = self._organs.index(prompt.organ)
        reason = self.organs[number].reason
        if reason:
            raise InputError(f'No heatmap for "{prompt.finding}": {reason}.')
        with self._stage("heatmaps", 0.75):
            return localize(
                self.loaded.model,
                self.case,
                self._windows(self.features.window_of[number]),
                number,
                text_direction(prompt, self.encode_text),
                finding=prompt.finding,
                source=prompt.source,
                method=self.options.heatmap_method,
            )

    def _windows(self, index: int) -> Iterable[WindowFeatures]:
        """A window as scored, or its shifted copies: kept for the next heatmap, unless they are too many for the memory."""
        encoded, shifts = self.features.windows[index], self.options.heatmap_shifts
        if shifts == 1:
            return [encoded]
        if index not in self._shifted:
            copies = shifted_windows(self.loaded.model, encoded, self._preprocessor, shifts, self.precision)
            counted = self._counted(copies, shifts**3)
            if shifts > MAX_KEPT_SHIFTS:
                return counted
            self._shifted[index] = list(counted)
        return self._shifted[index]

    def _counted(self, windows: Iterable[WindowFeatures], total: int) -> Iterator[WindowFeatures]:
        for number, window in enumerate(windows, 1):
            self.progress(f"heatmaps, shift {number} of {total}", 0.75)
            yield window


def analyze(
    case: CTCase, loaded: LoadedModel, options: AnalysisOptions | None = None, progress: Progress | None = None
) -> AnalysisResult:
    """Score, link and localize one case.

    Raises:
        InputError, SegmentationError, ResourceError: see :class:`Session`; a prompt for an organ the model does not know.
    """
    options = options or AnalysisOptions()
    check_questions(options, loaded)
    return analyze_session(Session(case, loaded, options, progress))


def check_questions(options: AnalysisOptions, loaded: LoadedModel) -> None:
    """Refuse a mistyped organ before it costs an encoded image. Raises InputError."""
    for organ, text in options.prompts:
        free_prompt(organ, text, loaded.config.organs, options.templates)


def analyze_session(session: Session) -> AnalysisResult:
    """Score, link and localize what ``session`` has encoded; it stays ready for more questions.

    Raises:
        InputError: a question is for an organ that the model does not know.
    """
    case, loaded, options = session.case, session.loaded, session.options
    prompts = session.analysis_prompts()
    scores = session.score(prompts)
    chosen = _to_localize(prompts, scores, options.heatmaps)
    heatmaps = tuple(session.heatmap(prompt) for prompt in chosen)
    with session._stage("read report", 0.9):
        report = parse_report(case.report_text)
        if options.embedding_links:
            links = link_with_guesses(report, case.segmentation, loaded.config.organs, session.encode_text)
        else:
            links = link(report, case.segmentation, loaded.config.organs)
        comparisons = compare_with_report(scores, report, loaded.config.organs, session.calibration)
    timings = session.timings | {"analysis": time.perf_counter() - session.began}
    return AnalysisResult(
        case=case,
        report=report,
        model=loaded.identity,
        findings=scores,
        organs=session.organs,
        links=links,
        heatmaps=heatmaps,
        settings=_settings(options, session, loaded),
        timings_s={name: round(seconds, 4) for name, seconds in timings.items()},
        warnings=case.warnings + session.warnings + _calibration_warnings(session, prompts),
        versions=_versions(),
        comparisons=comparisons,
    )


def _to_localize(prompts: Sequence[Prompt], scores: Sequence[FindingScore], number: int) -> list[Prompt]:
    """The highest scored findings of the registry, and every question of the user that has a score."""
    scored = [
        (score.probability, prompt) for prompt, score in zip(prompts, scores, strict=True) if score.reason is None
    ]
    ranked = sorted((pair for pair in scored if pair[1].source == "registry"), key=lambda pair: -pair[0])
    return [prompt for _, prompt in scored if prompt.source == "prompt"] + [prompt for _, prompt in ranked[:number]]


def _calibration_warnings(session: Session, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """Misspelt keys of the user's file; what a model carries may well hold more than was asked for."""
    unused = session.calibration.unused(prompts) if session.options.calibration else []
    if not unused:
        return ()
    return (
        f"The calibration file {session.calibration.source} names findings that are not scored: {', '.join(unused)}.",
    )


def _settings(options: AnalysisOptions, session: Session, loaded: LoadedModel) -> dict[str, object]:
    settings = dataclasses.asdict(options)
    settings |= {"grid": options.resolved_grid, "precision": session.precision, "device": str(loaded.model.device)}
    settings |= dict(zip(("min_visible", "min_voxels"), options.limits, strict=True))
    settings["calibration"] = session.calibration.source if session.calibration else None
    settings["windows"] = [list(w.window.image_DHW.shape) for w in session.features.windows]
    del settings["cache_folder"]
    return settings


def _versions() -> dict[str, str]:
    packages = ("torch", "monai", "transformers", "SimpleITK", "numpy")
    return {"ctgvlm": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in packages
    }


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn an allocation failure into a message with the remedy."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_allocation_failure(error):
            raise
        raise ResourceError(
            "Not enough memory for the model on this device. Use the shared mode (--mode shared), bf16 (--precision bf16) "
            "or the CPU (--device cpu), or close other programs."
        ) from error


def _is_allocation_failure(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)

"""What the worker does for each request. Imported in the worker only: torch comes with it.

Arguments and values are what JSON can hold; volumes, results and heatmaps go by files (``exchange``).
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import SimpleITK as sitk
import torch

from . import __version__
from .discrepancies import compare_with_report
from .errors import DependencyError, InputError
from .exchange import Answer, read_case, write_answer, write_result
from .exchange_results import write_segmentation
from .files import cache_folder, models_folder
from .json_records import from_record
from .memory import release_freed_memory
from .model.checkpoint import LoadedModel
from .model.find import find_model
from .model.header import UNTRAINED, WEIGHTS
from .pipeline import AnalysisOptions, Session, analyze_session, check_questions
from .precision import choose_device
from .prompts import Prompt
from .questions import question_finding, question_organ
from .types import CTCase, Report, Segmentation, Volume

Progress = Callable[[str, float], None]
Arguments = Mapping[str, Any]


def make_handlers() -> dict[str, Callable[[Arguments, Progress], Any]]:
    """Request name -> what answers it."""
    _leave_one_core_free()
    _expect_read_only_maps()
    kept = KeptSession()
    return {
        "hello": hello,
        "analyze": kept.analyze,
        "ask": kept.ask,
        "heatmap": kept.heatmap,
        "segment": segment,
    }


def _expect_read_only_maps() -> None:
    """torch warns of tensors on read-only memory. Nothing writes to them: resampling copies (``preprocessing``)."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def _leave_one_core_free() -> None:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, available - 1)
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def hello(arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Versions, and the devices with their memory in bytes. No arguments.

    What is free on a GPU is told (else null) only where this process works already: to ask takes some hundred MB of each.
    """
    memory = psutil.virtual_memory()
    devices = [
        {
            "device": "cpu",
            "name": f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores",
            "free_bytes": memory.available,
            "total_bytes": memory.total,
        }
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0] if torch.cuda.memory_reserved(index) else None
        total = properties.total_memory
        devices.append({"device": f"cuda:{index}", "name": properties.name, "free_bytes": free, "total_bytes": total})
    versions = {"ctgvlm": __version__, "python": platform.python_version(), "torch": torch.__version__}
    return {"versions": versions, "devices": devices}


def segment(arguments: Arguments, progress: Progress) -> dict[str, Any]:
    """Segment the CT of ``case_json`` by TotalSegmentator; "segmentation": its file in ``folder``.

    Optional: ``device``, and ``classes`` (all where it is missing).
    """
    from .exchange import read_ct

    ct = read_ct(Path(arguments["case_json"]))
    made = _segment(ct, arguments.get("classes"), _device(arguments.get("device", "auto")), progress)
    return {"segmentation": str(write_segmentation(made, Path(arguments["folder"])))}


class KeptSession:
    """The model and the case that were analysed last: the next question needs neither to be loaded nor encoded."""

    def __init__(self) -> None:
        self._loaded: LoadedModel | None = None
        self._loaded_key: tuple[Any, ...] = ()
        self._session: Session | None = None
        self._report = Report("")

    def analyze(self, arguments: Arguments, progress: Progress) -> dict[str, Any]:
        """Analyse ``case_json`` with ``model`` on ``device`` by ``options``; "result": its file in ``folder``.

        ``segment``: let TotalSegmentator make the segmentation where the case holds none.
        """
        options = options_of(arguments.get("options") or {})
        device = _device(arguments.get("device", "auto"))
        clock = _Clock()
        self._session = None  # two encoded images need not fit into the memory
        release_freed_memory()
        progress("load model", 0.01)
        loaded = self._load(arguments.get("model"), device)
        check_questions(options, loaded)
        clock.lap("load model")
        progress("read input", 0.02)
        case = self._read(arguments, loaded, device, progress)
        clock.lap("read input")
        session = Session(case, loaded, options, progress)
        result = analyze_session(session)
        progress("hand back", 0.95)
        result = dataclasses.replace(result, timings_s=clock.seconds | dict(result.timings_s))
        path = write_result(result, Path(arguments["folder"]))
        self._session, self._report = session, result.report
        return {"result": str(path)}

    def ask(self, arguments: Arguments, progress: Progress) -> dict[str, Any]:
        """Score ``text`` in ``organ`` (null: the organ that the text names); "answer": its ``file`` in ``folder``."""
        session = self._kept()
        text = str(arguments["text"])
        organ = arguments.get("organ") or question_organ(text, session.loaded.config.organs)
        prompt = session.prompt(organ, question_finding(text))
        return self._answer(session, prompt, arguments, progress)

    def heatmap(self, arguments: Arguments, progress: Progress) -> dict[str, Any]:
        """As ``ask``, for a ``finding`` of the analysis in ``organ``."""
        session = self._kept()
        prompts = {(prompt.organ, prompt.finding): prompt for prompt in session.analysis_prompts()}
        organ, finding = arguments["organ"], arguments["finding"]
        if (organ, finding) not in prompts:
            known = [name for of_organ, name in prompts if of_organ == organ]
            has = (
                f"it has: {', '.join(known)}" if known else f"the organs are: {', '.join(session.loaded.config.organs)}"
            )
            raise InputError(f'The analysis has no finding "{finding}" of {organ}; {has}.')
        return self._answer(session, prompts[organ, finding], arguments, progress)

    def _answer(self, session: Session, prompt: Prompt, arguments: Arguments, progress: Progress) -> dict[str, Any]:
        session.progress = progress
        scores = session.score([prompt])
        compared = compare_with_report(scores, self._report, session.loaded.config.organs, session.calibration)
        answer = Answer(scores[0], session.heatmap(prompt), compared[0] if compared else None)
        path = write_answer(answer, Path(arguments["folder"]), arguments.get("file", "answer"))
        # all seconds since the image was read: those of "encode image" do not grow by a question
        return {"answer": str(path), "timings_s": dict(session.timings)}

    def _kept(self) -> Session:
        if self._session is None:
            raise InputError(
                "There is no analysed image to ask about (the worker was started anew). Analyze the CT first."
            )
        return self._session

    def _load(self, name: str | None, device: torch.device) -> LoadedModel:
        key = (name, str(device), _stamp(name))
        if self._loaded is None or key != self._loaded_key:
            self._loaded = None  # two models need not fit into the memory
            self._loaded = find_model(name, device)
            self._loaded_key = key
        return self._loaded

    def _read(self, arguments: Arguments, loaded: LoadedModel, device: torch.device, progress: Progress) -> CTCase:
        classes = sorted({name for segments in loaded.config.organs.values() for name in segments})

        def make_segmentation(ct: Volume) -> Segmentation:
            return _segment(ct, classes, device, progress)

        return read_case(Path(arguments["case_json"]), make_segmentation if arguments.get("segment") else None)


def options_of(record: Mapping[str, Any]) -> AnalysisOptions:
    """AnalysisOptions from its fields as JSON holds them. The text cache is the user's own unless a field says otherwise.

    Raises:
        InputError: a field is unknown, or has a value that is not possible.
    """
    return from_record(AnalysisOptions, {"cache_folder": str(cache_folder())} | dict(record), "The options")


def _segment(ct: Volume, classes: list[str] | None, device: torch.device, progress: Progress) -> Segmentation:
    from .segmentation import segment as run_totalsegmentator

    progress("segment", 0.03)
    return run_totalsegmentator(ct, classes=classes, device=str(device))


def _device(name: str) -> torch.device:
    try:
        device = choose_device(name)
    except RuntimeError as error:  # torch's own, for a name that it does not know
        raise InputError(f'The device "{name}" is not known; auto, cpu, cuda or cuda:N is expected.') from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise DependencyError(f'The device "{name}" is not there: PyTorch sees {count}. Choose another, or the CPU.')
    return device


def _stamp(name: str | None) -> tuple[Any, ...]:
    """Changes when a model's weights are replaced by others under the same name."""
    if name is None or name == UNTRAINED:
        return ()
    folder = Path(name) if Path(name).is_dir() else models_folder() / name
    weights = folder / WEIGHTS
    return (weights.stat().st_mtime_ns, weights.stat().st_size) if weights.is_file() else ()


class _Clock:
    """Seconds of each stage before the analysis itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._start = round(now - self._start, 4), now

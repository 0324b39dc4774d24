"""Segments a CT with TotalSegmentator, if it and its weights are installed. Nothing is ever downloaded or sent.

The weights are looked for first: without them TotalSegmentator would try to fetch them from the network. Facts about
TotalSegmentator below were read in the source of its version 2.18; a test compares them with the installed one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import anatomy, files, image_file
from .errors import DependencyError, OutputError, SegmentationError
from .image_file import Progress
from .segmentation_io import read_segmentation
from .types import Segmentation, Volume

RELEASE_URL = "https://github.com/wasserth/TotalSegmentator/releases/download"
INSTALL = 'pip install "ct-grounded-vlm[segmentation]"'

# Task ids of "total" by mode (map_tasks_config.TASK_CONFIGS); roi_subset crops by the 6 mm model first (python_api).
_FULL_TASKS = (291, 292, 293, 294, 295)
_FAST_TASKS = (297,)
_CROP_TASK = 298
_WEIGHTS = {
    291: "Dataset291_TotalSegmentator_part1_organs_1559subj",
    292: "Dataset292_TotalSegmentator_part2_vertebrae_1532subj",
    293: "Dataset293_TotalSegmentator_part3_cardiac_1559subj",
    294: "Dataset294_TotalSegmentator_part4_muscles_1559subj",
    295: "Dataset295_TotalSegmentator_part5_ribs_1559subj",
    297: "Dataset297_TotalSegmentator_total_3mm_1559subj",
    298: "Dataset298_TotalSegmentator_total_6mm_1559subj",
}
_WEIGHTS_RELEASE = "v2.0.0-weights"


def segment(
    ct: Volume,
    ct_path: Path | None = None,
    *,
    classes: Sequence[str] | None = None,
    device: str = "cpu",
    fast: bool | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment ``ct`` by TotalSegmentator's task ``total``, or take the result of an earlier run from the cache.

    Args:
        ct_path: the file or folder that messages name; None for a CT that has none.
        classes: v2 class names to segment, None for all 117.
        device: "cpu", "mps", "cuda" or "cuda:1".
        fast: the 3 mm model instead of the 1.5 mm one; None: on the CPU only, where the other takes many minutes.
        cache_dir: where results are kept; None for the user's cache folder.

    Errors: DependencyError (TotalSegmentator or weights missing), SegmentationError (the run failed, found nothing).
    """
    subset = _subset(classes)
    totalsegmentator_device = device_name(device)
    fast = totalsegmentator_device == "cpu" if fast is None else fast
    version = installed_version()
    cached = (cache_dir or files.cache_folder()) / "segmentations" / _cache_name(ct, subset, fast, version)
    if not cached.is_file():
        check_weights(fast=fast, subset=subset is not None)
        disable_usage_statistics()
        options = {"ml": True, "task": "total", "fast": fast, "roi_subset": subset, "device": totalsegmentator_device}
        _run(ct, ct_path.name if ct_path else ct.name, cached, options, progress)
    source = f"TotalSegmentator {version}, {'3' if fast else '1.5'} mm model"
    return replace(read_segmentation(cached, ct, progress=progress), source=source)


def _subset(classes: Sequence[str] | None) -> list[str] | None:
    """TotalSegmentator's ``roi_subset``: None for every class, as naming them all would cost a crop for nothing."""
    if classes is None:
        return None
    names = sorted({anatomy.segment(name).name for name in classes})
    return None if len(names) == len(anatomy.segment_classes()) else names


def installed_version() -> str:
    """TotalSegmentator's version; DependencyError if it is not installed."""
    try:
        return importlib.metadata.version("TotalSegmentator")
    except importlib.metadata.PackageNotFoundError:
        raise DependencyError(
            f"TotalSegmentator is not installed: it is needed to segment a CT. Install it with {INSTALL}, or give a "
            "segmentation made elsewhere."
        ) from None


def device_name(device: str) -> str:
    """A torch device in TotalSegmentator's words: "cuda" -> "gpu", "cuda:1" -> "gpu:1"."""
    name = re.sub(r"^cuda", "gpu", str(device))
    if not re.fullmatch(r"cpu|mps|gpu(:\d+)?", name):
        raise DependencyError(
            f"Device '{device}' is not known to TotalSegmentator; cpu, mps, cuda or cuda:N is expected."
        )
    return name


def weights_folder() -> Path:
    """Where TotalSegmentator looks for weights (its config.get_weights_dir)."""
    if "TOTALSEG_WEIGHTS_PATH" in os.environ:
        return Path(os.environ["TOTALSEG_WEIGHTS_PATH"])
    return home_folder() / "nnunet" / "results"


def home_folder() -> Path:
    """TotalSegmentator's own folder (its config.get_totalseg_dir)."""
    if "TOTALSEG_HOME_DIR" in os.environ:
        return Path(os.environ["TOTALSEG_HOME_DIR"])
    home = Path("/tmp") if str(Path.home()) == "/" else Path.home()
    return home / ".totalsegmentator"


def required_weights(*, fast: bool, subset: bool) -> list[str]:
    """Names of the weight folders that a run needs; each zip of the release is named so, too."""
    tasks = (*(_FAST_TASKS if fast else _FULL_TASKS), *((_CROP_TASK,) if subset else ()))
    return [_WEIGHTS[task] for task in tasks]


def check_weights(*, fast: bool, subset: bool) -> None:
    """DependencyError unless every weight folder holds a checkpoint; says what to download, and where to put it."""
    folder = weights_folder()
    missing = [name for name in required_weights(fast=fast, subset=subset) if not _has_checkpoint(folder / name)]
    if missing:
        urls = "".join(f"\n  - {RELEASE_URL}/{_WEIGHTS_RELEASE}/{name}.zip" for name in missing)
        raise DependencyError(
            f"TotalSegmentator's weights are missing in {folder}: {', '.join(missing)}. Download{urls}\nand unpack "
            f"into {folder}, so that {folder / missing[0]} exists (TOTALSEG_WEIGHTS_PATH names another folder)."
        )


def _has_checkpoint(folder: Path) -> bool:
    """nnU-Net's layout: trainer__plans__configuration/fold_0/checkpoint_final.pth."""
    return any(folder.glob("*/fold_*/checkpoint_final.pth"))


def disable_usage_statistics() -> None:
    """Set ``send_usage_stats`` to false in TotalSegmentator's config.json; its other keys stay."""
    path = home_folder() / "config.json"
    # The keys that TotalSegmentator's config.setup_totalseg writes, without its random id.
    config = {"totalseg_id": "", "prediction_counter": 0, "statistics_disclaimer_shown": True}
    if path.exists():
        try:
            config |= json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, TypeError) as exc:
            raise DependencyError(f"{path} is not valid JSON ({exc}). Delete it, then try again.") from exc
        if config.get("send_usage_stats") is False:
            return
    config["send_usage_stats"] = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_path(path) as temporary:
            temporary.write_text(json.dumps(config, indent=4), encoding="utf-8")
    except OSError as exc:
        raise DependencyError(
            f"{path} cannot be written ({exc}), so TotalSegmentator's usage statistics cannot be turned off. Set "
            "TOTALSEG_HOME_DIR to a folder that can be written."
        ) from exc


def _cache_name(ct: Volume, subset: Sequence[str] | None, fast: bool, version: str) -> str:
    # The voxels rather than the file: Slicer's volumes have no file, and another series of a folder has another hash.
    content = hashlib.sha256(np.ascontiguousarray(ct.array_kji)).hexdigest()
    grid = np.round(ct.ijk_to_ras, 6).tolist()
    key = json.dumps([content, ct.array_kji.shape, grid, subset, fast, version])
    return hashlib.sha256(key.encode()).hexdigest() + ".nii.gz"


def _run(ct: Volume, name: str, target: Path, options: Mapping[str, object], progress: Progress | None) -> None:
    """Run TotalSegmentator on a temporary copy of the CT and put its label map at ``target`` when it is whole."""
    totalsegmentator = _load()
    with _cache_errors(target):  # before the minutes that a run takes
        target.parent.mkdir(parents=True, exist_ok=True)
    if progress:
        progress("TotalSegmentator: segmenting (minutes on a CPU)", 0.0)
    with tempfile.TemporaryDirectory(prefix="ctgvlm-") as folder:
        # A file of our own: TotalSegmentator would read DICOM and unusual headers in its own way.
        source, result = Path(folder) / "ct.nii", Path(folder) / "segmentation.nii.gz"
        image = sitk.GetImageFromArray(ct.array_kji)
        image_file.set_affine(image, ct.ijk_to_ras)
        try:
            sitk.WriteImage(image, str(source))
            with contextlib.redirect_stdout(sys.stderr):  # it prints though told to be quiet; stdout is ours
                totalsegmentator(source, result, quiet=True, **options)
        except Exception as exc:  # nnU-Net and torch raise whatever they like: the user gets one message
            raise SegmentationError(
                f"TotalSegmentator failed on CT {name}: {exc or type(exc).__name__}. Try fast mode or the CPU, or "
                "give a segmentation made elsewhere."
            ) from exc
        if not result.is_file() or not image_file.pixels_of(sitk.ReadImage(str(result))).any():
            classes = ", ".join(options["roi_subset"] or ["any class"])
            raise SegmentationError(
                f"TotalSegmentator did not find {classes} in CT {name}. Check that the CT shows it, or give a "
                "segmentation made elsewhere."
            )
        with _cache_errors(target), files.atomic_path(target) as temporary:
            temporary.write_bytes(result.read_bytes())
    if progress:
        progress("TotalSegmentator: done", 1.0)


@contextlib.contextmanager
def _cache_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise OutputError(
            f"The segmentation cannot be kept in {target.parent} ({exc}). Make space there, or set CTGVLM_CACHE_DIR to "
            "another folder."
        ) from exc


def _load() -> Callable[..., object]:
    """``totalsegmentator.python_api.totalsegmentator``; DependencyError if a package that it needs is missing."""
    try:
        return importlib.import_module("totalsegmentator.python_api").totalsegmentator
    except ImportError as exc:
        raise DependencyError(
            f"TotalSegmentator is installed, but cannot be imported ({exc}). Install it with {INSTALL}."
        ) from exc

"""A whole corpus: cases made in parallel, a run that can be killed and goes on, manifest and labels at the end."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from CTGroundedVLMLib.errors import InputError, OutputError, ResourceError
from CTGroundedVLMLib.files import atomic_path

from .case import Case, case_name, make_case, studies_of
from .case_files import CASES, PARTIAL, write_case
from .kinds import label_columns
from .settings import GENERATOR, Settings

MANIFEST_COLUMNS = (
    *("case_id", "patient_id", "study_id", "split", "image", "segmentation", "report", "labels", "findings", "source"),
)
_RECORD, _LOCK = "corpus.json", ".lock"


@dataclass(frozen=True)
class Progress:
    """How far a run is: cases made by it, made before, and all."""

    made: int
    earlier: int
    total: int


class Maker(Protocol):
    """Where cases come from; it is pickled for the processes."""

    settings: Settings

    def record(self) -> dict[str, Any]:
        """What decides the cases, for corpus.json."""

    def cases(self) -> list[tuple[str, Any]]:
        """Case id and what ``make`` takes, in order."""

    def make(self, key: Any) -> Case:
        """The case."""


@dataclass(frozen=True)
class PhantomCases:
    """Makes phantoms."""

    settings: Settings

    def record(self) -> dict[str, Any]:
        """What decides the cases, for corpus.json."""
        return self.settings.to_record()

    def cases(self) -> list[tuple[str, tuple[int, int]]]:
        """Case id -> (patient, study)."""
        patients = range(self.settings.patients)
        return [(case_name(p, s), (p, s)) for p in patients for s in range(studies_of(self.settings, p))]

    def make(self, key: tuple[int, int]) -> Case:
        """The case of a patient and study."""
        return make_case(self.settings, *key)


def synthesize(
    root: Path, maker: Maker, jobs: int = 1, progress: Callable[[Progress], None] = lambda p: None
) -> Progress:
    """Make every case that ``root`` lacks, then its manifest, labels and summary.

    Raises:
        InputError: ``root`` holds a corpus of other settings, or something else.
        OutputError: a file cannot be written, or another run works in ``root``.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{root}: cannot be made ({error.strerror}); give a folder in a writable place") from error
    with _locked(root):
        _check_settings(root, maker)
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
        wanted = maker.cases()
        missing = [key for name, key in wanted if not (root / CASES / name).is_dir()]
        state = Progress(0, len(wanted) - len(missing), len(wanted))
        for _ in _run(root, maker, missing, jobs):
            state = Progress(state.made + 1, state.earlier, state.total)
            progress(state)
        shutil.rmtree(root / PARTIAL, ignore_errors=True)
        write_tables(root, [name for name, _ in wanted])
    return state


def _run(root: Path, maker: Maker, missing: list[Any], jobs: int) -> Iterator[None]:
    if jobs == 1 or len(missing) < 2:
        for key in missing:
            make_and_write(root, maker, key)
            yield
        return
    # spawn: libraries with threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(root, maker)) as pool:
        waiting: set[Future] = set()
        queue = iter(missing)
        try:
            while True:
                for key in queue:
                    waiting.add(pool.submit(_make_in_process, key))
                    if len(waiting) >= 3 * jobs:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield
        except BrokenProcessPool as error:
            raise ResourceError(
                f"{root}: a process was stopped from outside, maybe for lack of memory; run again with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_process: dict[
    str, Any
] = {}  # what a process works on: a maker may hold scans, which are not to be sent with each case


def _start(root: Path, maker: Maker) -> None:
    import SimpleITK as sitk

    # the processes share the cores; threads within each would only be in each other's way
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too; the parent stops them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _process.update(root=root, maker=maker)


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its processes: they would work on beside the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_in_process(key: Any) -> None:
    make_and_write(_process["root"], _process["maker"], key)


def make_and_write(root: Path, maker: Maker, key: Any) -> None:
    """One case, made and written."""
    write_case(root, maker.make(key), maker.settings.seed)


# --- One run at a time, with the settings of the first


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold ``root``; a lock whose process has ended is taken over."""
    lock = root / _LOCK
    for _ in range(2):
        try:
            with open(lock, "x", encoding="utf-8") as file:
                file.write(str(os.getpid()))
            break
        except FileExistsError:
            owner = lock.read_text(encoding="utf-8").strip()
            if owner.isdigit() and psutil.pid_exists(int(owner)) and int(owner) != os.getpid():
                raise OutputError(f"{root}: process {owner} works there; wait for it, or name another folder") from None
            lock.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{lock}: cannot be written ({error.strerror}); give a writable folder") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _check_settings(root: Path, maker: Maker) -> None:
    """Refuse a folder with another corpus or other things; the number of patients may change."""
    path = root / _RECORD
    record = {"generator": GENERATOR, **maker.record()}
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = sorted(k for k in record if k != "patients" and before.get(k) != record[k])
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: not the record of a corpus; name another folder, or remove it") from error
        if changed:
            was = ", ".join(f"{key}={before.get(key)!r}" for key in changed)
            raise InputError(f"{root}: made with other settings ({was}); use the same, or name another folder")
    elif others := [p.name for p in root.iterdir() if p.name != _LOCK]:
        raise InputError(f"{root} holds other files ({', '.join(sorted(others)[:3])}); name a new or empty folder")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


# --- Tables


def write_tables(root: Path, case_ids: list[str]) -> None:
    """manifest.csv, labels.csv and summary.json of these cases.

    Raises:
        OutputError: they cannot be written.
    """
    truths = [json.loads((root / CASES / name / "truth.json").read_text(encoding="utf-8")) for name in case_ids]
    columns = label_columns()
    labels = [{"case_id": t["case_id"], **{c: t["labels"].get(c, "") for c in columns}} for t in truths]
    try:
        _write_csv(root / "labels.csv", ("case_id", *columns), labels)
        _write_csv(root / "manifest.csv", MANIFEST_COLUMNS, [_manifest_row(t) for t in truths])
        with atomic_path(root / "summary.json") as temporary:
            temporary.write_text(json.dumps(summary(truths), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{root}: the tables cannot be written ({error}); free some space, then run again") from error


def _manifest_row(truth: dict[str, Any]) -> dict[str, str]:
    folder = f"{CASES}/{truth['case_id']}"
    return {
        **{key: truth[key] for key in ("case_id", "patient_id", "study_id", "split")},
        "image": f"{folder}/ct.nii.gz",
        "segmentation": f"{folder}/segmentation.nii.gz",
        "report": f"{folder}/report.txt",
        "labels": "labels.csv",
        "findings": f"{folder}/findings.nii.gz",
        "source": "folder",
    }


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(truths: list[dict[str, Any]]) -> dict[str, Any]:
    """How many cases there are, and of each finding how many are positive, negative, unknown and reported, and how large."""
    findings = {}
    for column in label_columns():
        values = [t["labels"].get(column) for t in truths]
        counts = {"positive": values.count(1), "negative": values.count(0), "unknown": values.count(None)}
        drawn = [f for t in truths for f in t["findings"] if f"{f['organ']}/{f['finding']}" == column]
        if drawn:
            counts["reported"] = sum(f["reported"] for f in drawn)
            counts["median_volume_ml"] = sorted(f["volume_ml"] for f in drawn)[len(drawn) // 2]
        findings[column] = counts
    splits = {split: sum(t["split"] == split for t in truths) for split in ("train", "validation", "test")}
    return {
        "cases": len(truths),
        "patients": len({t["patient_id"] for t in truths}),
        "splits": splits,
        "findings": findings,
    }

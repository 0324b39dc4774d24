"""Preparing again: after a kill, a full disk, a change; and in processes or on Ray."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from CTGroundedVLMLib.errors import OutputError, ResourceError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.prepare import Workers, prepare
from CTGroundedVLMTraining.data.shards import read_shard
from training_data import a_corpus, index_lines, write_case

MODEL = debug_config()
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def corpus(tmp_path):
    return a_corpus(tmp_path / "corpus")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# --- Runs that go on


def test_a_second_run_makes_nothing_again(corpus, out):
    prepare(corpus, out, MODEL)
    before = {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()}
    summary = prepare(corpus, out, MODEL)
    assert (summary.made, summary.earlier) == (0, 4)
    assert {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()} == before
    assert len(index_lines(out)) == 4


def test_a_changed_report_changes_the_texts_and_not_the_volume(corpus, out):
    prepare(corpus, out, MODEL)
    identity = PreparedDataset(out).identity
    before = (out / "cases/case0.case").stat().st_mtime_ns
    (corpus.parent / "cases/case0/report.txt").write_text("FINDINGS: The lungs are normal.")
    assert prepare(corpus, out, MODEL).made == 1
    cases = PreparedDataset(out)
    assert cases[0].organ_texts["lung"].status == "normal"
    assert (out / "cases/case0.case").stat().st_mtime_ns == before
    assert cases.identity != identity


def test_a_changed_volume_is_made_again(corpus, out):
    prepare(corpus, out, MODEL)
    before = PreparedDataset(out)[0].hu_DHW
    write_case(corpus.parent / "cases/case0", seed=99)
    assert prepare(corpus, out, MODEL).made == 1
    assert not np.array_equal(PreparedDataset(out)[0].hu_DHW, before)


def test_a_shard_without_a_line_is_taken_over_and_half_a_line_is_dropped(corpus, out):
    prepare(corpus, out, MODEL)
    lines = (out / "index.jsonl").read_bytes().splitlines(keepends=True)
    (out / "index.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    before = {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()}
    summary = prepare(corpus, out, MODEL)
    assert (summary.made, summary.earlier) == (2, 2)
    assert {path: path.stat().st_mtime_ns for path in (out / "cases").iterdir()} == before
    assert sorted(line["case_id"] for line in index_lines(out)) == ["case0", "case1", "case2", "case3"]


def test_a_run_that_is_killed_goes_on_without_repeating_or_losing_a_case(tmp_path):
    manifest, out = a_corpus(tmp_path / "corpus", cases=12), tmp_path / "out"
    code = (
        "import sys, pathlib; from CTGroundedVLMTraining.data.prepare import *; "
        "from CTGroundedVLMLib.model.config import debug_config; "
        "prepare(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), debug_config(), Workers(jobs=2))"
    )
    paths = os.pathsep.join(str(ROOT / name) for name in ("CTGroundedVLM", "Training"))
    process = subprocess.Popen(
        [sys.executable, "-c", code, manifest, out], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    )
    end = time.monotonic() + 300
    while time.monotonic() < end and not (out.exists() and len(list(out.glob("cases/*.case"))) >= 3):
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert psutil.wait_procs(workers, timeout=60)[1] == [], "no process of the killed run stays"
    done = len(list(out.glob("cases/*.case")))
    assert 3 <= done < 12
    summary = prepare(manifest, out, MODEL)
    assert summary.made + summary.earlier == 12
    assert summary.earlier >= 1
    lines = index_lines(out)
    assert sorted(line["case_id"] for line in lines) == sorted(f"case{n}" for n in range(12))
    cases = PreparedDataset(out)
    assert len(cases) == 12
    assert list(cases.check()) == []


def test_a_full_disk_ends_the_run_and_loses_nothing(corpus, out, monkeypatch):
    from CTGroundedVLMTraining.data import shards

    written = []

    def full_after_two(path):
        written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        return real(path)

    real = shards.atomic_path
    monkeypatch.setattr(shards, "atomic_path", full_after_two)
    with pytest.raises(OutputError, match="No space left on device"):
        prepare(corpus, out, MODEL)
    monkeypatch.undo()
    assert (out / "quarantine.csv").read_text().count("\n") == 1, "the case is not to blame"
    summary = prepare(corpus, out, MODEL)
    assert (summary.earlier, summary.made) == (2, 2)


def test_two_runs_in_one_folder_are_refused(corpus, out):
    pytest.importorskip("fcntl", reason="no file locks on this system")
    from CTGroundedVLMTraining.data.index import IndexWriter

    prepare(corpus, out, MODEL)
    with IndexWriter(out), pytest.raises(OutputError, match="another run prepares data there"):
        prepare(corpus, out, MODEL)


# --- Workers


def test_processes_make_the_same_shards_and_order_as_one_process(corpus, out):
    prepare(corpus, out, MODEL)
    summary = prepare(corpus, out.parent / "two", MODEL, Workers(jobs=2))
    assert summary.made == 4
    for path in (out / "cases").iterdir():
        # what they hold, not their bytes: libraries that this process has loaded may bring another version of zstd
        here, there = (read_shard((folder / "cases" / path.name).read_bytes(), path.name)
                       for folder in (out, out.parent / "two"))  # fmt: skip
        assert here.record == there.record
        assert np.array_equal(here.hu_DHW, there.hu_DHW)
        assert np.array_equal(here.organ_map_DHW, there.organ_map_DHW)
    assert PreparedDataset(out).identity == PreparedDataset(out.parent / "two").identity


def test_ray_on_this_machine_makes_the_same_cases(corpus, out):
    pytest.importorskip("ray", reason="Ray is not installed (the cluster extra)")
    prepare(corpus, out, MODEL)
    assert prepare(corpus, out.parent / "ray", MODEL, Workers(jobs=1, ray="local")).made == 4
    assert PreparedDataset(out).identity == PreparedDataset(out.parent / "ray").identity


class _Ray:
    """Stands for Ray where a machine of the cluster goes away: the result of every item but "fine" is the given exception."""

    def __init__(self, raised):
        names = ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "RaySystemError",
                 "ObjectLostError", "RayTaskError")  # fmt: skip
        kinds = {name: type(name, (Exception,), {}) for name in names}
        self.exceptions, self.raised, self.ended = SimpleNamespace(**kinds), kinds[raised], False

    def remote(self, **options):
        return lambda function: SimpleNamespace(remote=lambda function, item, gpu: (item,))

    def cluster_resources(self):
        return {"CPU": 1}

    def wait(self, references, num_returns):
        return references[:1], references[1:]

    def get(self, reference):
        if reference != ("fine",):
            raise self.raised("the machine went away")
        return "made"

    def shutdown(self):
        self.ended = True


@pytest.mark.parametrize(
    "raised", ["WorkerCrashedError", "NodeDiedError", "LocalRayletDiedError", "RaySystemError", "ObjectLostError"]
)
def test_a_case_whose_machine_left_the_cluster_is_reported_and_the_others_are_done(raised, monkeypatch):
    from CTGroundedVLMTraining.data import workers

    ray = _Ray(raised)
    monkeypatch.setattr(workers, "_connected", lambda address, jobs: ray)
    outcomes = dict(workers.run_on_ray(str, ["gone", "fine"], None, 1))
    assert outcomes["fine"] == "made"
    assert isinstance(outcomes["gone"], ResourceError)
    assert "ended without a message, twice" in str(outcomes["gone"])
    assert "--retry" in str(outcomes["gone"])
    assert ray.ended


def test_ray_has_the_exceptions_that_are_caught():
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed (the cluster extra)")
    from CTGroundedVLMTraining.data.workers import _lost

    assert all(issubclass(kind, exceptions.RayError) for kind in _lost(exceptions))
    assert not any(issubclass(exceptions.RayTaskError, kind) for kind in _lost(exceptions)), "a case's own error"


def test_an_item_that_kills_its_process_twice_is_reported_and_the_others_are_done():
    from CTGroundedVLMTraining.data.workers import run_in_processes

    dies = "__import__('os').kill(__import__('os').getpid(), 9)"  # as the kernel ends a process when memory runs out
    outcomes = dict(run_in_processes(eval, ["1 + 1", dies, "3 + 3"], 2))
    assert (outcomes["1 + 1"], outcomes["3 + 3"]) == (2, 6)
    assert "ended without a message, twice" in str(outcomes[dies])

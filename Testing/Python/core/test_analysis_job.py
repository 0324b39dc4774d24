"""Whole jobs in the real worker process with a small model: the same numbers as in this process, and nothing left behind."""

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from cases import CHEST, a_case, a_small_model
from CTGroundedVLMLib.analysis_job import AnalysisService, JobSettings
from CTGroundedVLMLib.case_sources import ArrayCase, FileCase, ImmediateScheduler
from CTGroundedVLMLib.errors import InputError, ModelError, OutputError, ReportError, ResourceError, VolumeError
from CTGroundedVLMLib.exchange import CaseWriter, read_case
from CTGroundedVLMLib.model.checkpoint import save_checkpoint
from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
from CTGroundedVLMLib.worker_client import WorkerClient, WorkerError, worker_environment
from CTGroundedVLMLib.worker_runner import SubprocessRunner

REPORT = "FINDINGS: No pleural effusion. The heart is enlarged. 肺に結節なし。"
OPTIONS = {"precision": "fp32", "min_visible": 0.0, "heatmaps": 2, "cache_folder": None}


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    loaded = a_small_model()
    save_checkpoint(folder, loaded.model, loaded.tokenizer, name="small", trained=False)
    return folder


@pytest.fixture(scope="module")
def broken_torchvision(tmp_path_factory):
    """The folder of a torchvision that fails as one does that is not of torch's build."""
    folder = tmp_path_factory.mktemp("site-packages")
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    info = folder / "torchvision-0.9.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.9.1\n")
    return folder


@pytest.fixture(scope="module")
def shared_client(broken_torchvision):
    """One worker for the tests of this file, unless one of them ends it: starting one takes seconds.

    A broken torchvision lies beside it, as Slicer's PyTorch extension may leave one: no test here may notice.
    """

    class Beside(SubprocessRunner):
        def start(self, command, environment, *callbacks):
            path = os.pathsep.join([str(broken_torchvision), environment["PYTHONPATH"]])
            super().start(command, dict(environment) | {"PYTHONPATH": path}, *callbacks)

    client = WorkerClient(Beside)
    yield client
    client.close()


@pytest.fixture
def service(shared_client, tmp_path):
    service = AnalysisService(shared_client, ImmediateScheduler(), folder=tmp_path)
    yield service
    service.cancel()


class Outcome:
    """The callbacks of a job, and what came."""

    def __init__(self):
        self.progress, self.done, self.errors, self.cancelled = [], [], [], 0

    def _cancelled(self):
        self.cancelled += 1

    @property
    def callbacks(self):
        return {
            "on_progress": lambda stage, fraction: self.progress.append((stage, fraction)),
            "on_done": self.done.append,
            "on_error": self.errors.append,
        }

    @property
    def with_cancel(self):
        return self.callbacks | {"on_cancelled": self._cancelled}


def settings_of(model, **options):
    return JobSettings(str(model), device="cpu", options=OPTIONS | options)


def analyzed(service, source, settings):
    """The outcome of an analysis, waited for."""
    outcome = Outcome()
    service.analyze(source, settings, **outcome.with_cancel)
    service.wait()
    assert service.state == "idle"
    assert len(outcome.done) + len(outcome.errors) + outcome.cancelled == 1
    return outcome


def asked(service, organ, text):
    outcome = Outcome()
    service.ask(organ, text, **outcome.callbacks)
    service.wait()
    return (outcome.done or outcome.errors)[0]


def ended(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def files_below(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_the_worker_finds_what_an_analysis_in_this_process_finds(service, small_model):
    case = a_case(CHEST, report=REPORT)
    outcome = analyzed(service, ArrayCase(case), settings_of(small_model))
    (result,) = outcome.done
    here = analyze(case, a_small_model(), AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=2))
    for there, own in zip(result.findings, here.findings, strict=True):
        assert there.probability == pytest.approx(own.probability, abs=1e-6)  # threads differ, and so rounding
        assert dataclasses.replace(there, probability=None, margin=None) == dataclasses.replace(
            own, probability=None, margin=None
        )
    assert (result.report, result.links) == (here.report, here.links)
    assert [c.reason for c in result.comparisons] == [c.reason for c in here.comparisons]
    for there, own in zip(result.heatmaps, here.heatmaps, strict=True):
        assert (there.organ, there.finding, there.start_kji) == (own.organ, own.finding, own.start_kji)
        np.testing.assert_allclose(there.values_kji, own.values_kji, atol=1e-6)
    np.testing.assert_array_equal(result.case.segmentation.labels_kji, case.segmentation.labels_kji)
    assert result.case.report_text == REPORT
    fractions = [fraction for _, fraction in outcome.progress]
    assert fractions == sorted(fractions)
    assert (outcome.progress[0][0], fractions[-1]) == ("hand over", 1.0)


def test_a_second_question_is_answered_without_encoding_the_image_again(service, small_model, shared_client, tmp_path):
    analyzed(service, ArrayCase(a_case(CHEST)), settings_of(small_model))
    encoded = []
    for text in ("cyst", "calcified nodule"):
        outcome = Outcome()
        arguments = {"organ": "heart", "text": text, "folder": str(tmp_path)}
        shared_client.request("ask", arguments, **outcome.callbacks)
        shared_client.wait()
        encoded.append(outcome.done[0]["timings_s"]["encode image"])
        assert "encode image" not in [stage for stage, _ in outcome.progress]
    assert encoded[0] == encoded[1]


def test_an_answer_is_the_score_and_heatmap_of_the_question(service, small_model):
    case = a_case(CHEST)
    options = {"prompts": [["lung", "nodule in the left lower lobe"]]}
    (result,) = analyzed(service, ArrayCase(case), settings_of(small_model, **options)).done
    answer = asked(service, None, "Show me a nodule in the left lower lobe")
    heatmap = answer.heatmap
    assert answer.score == next(s for s in result.findings if s.source == "prompt")
    assert answer.comparison is None  # there is no report
    assert (heatmap.organ, heatmap.finding, heatmap.source) == ("lung", "nodule in the left lower lobe", "prompt")
    np.testing.assert_array_equal(heatmap.values_kji, result.heatmaps[0].values_kji)


def test_an_answer_is_compared_with_what_the_report_says(service, small_model):
    (result,) = analyzed(service, ArrayCase(a_case(CHEST, report=REPORT)), settings_of(small_model)).done
    denied = asked(service, "lung", "pleural effusion").comparison
    assert (denied.organ, denied.finding, denied.source) == ("lung", "pleural effusion", "prompt")
    assert denied.report == "absent"
    said = [result.report.text[s.start : s.end] for s in (result.report.sentences[n] for n in denied.sentences)]
    assert said == ["No pleural effusion."]
    silent = asked(service, "lung", "cyst").comparison
    assert (silent.report, silent.sentences) == ("not mentioned", ())


def test_the_heatmap_of_a_finding_is_that_of_the_analysis(service, small_model):
    (result,) = analyzed(service, ArrayCase(a_case(CHEST)), settings_of(small_model)).done
    outcome = Outcome()
    service.heatmap(result.heatmaps[1].organ, result.heatmaps[1].finding, **outcome.callbacks)
    service.wait()
    np.testing.assert_array_equal(outcome.done[0].values_kji, result.heatmaps[1].values_kji)
    service.heatmap("heart", "Hiatal hernia", **outcome.callbacks)
    service.wait()
    assert 'no finding "Hiatal hernia" of heart; it has: ' in str(outcome.errors[0])


@pytest.mark.parametrize(
    ("organ", "text", "message"),
    [
        (None, "meniscal tear", "names no organ of the model. Choose one of: lung, heart, esophagus, aorta"),
        (None, "the heart and the aorta", r"names several organs \(heart, aorta\)"),
        ("knee", "tear", 'no organ "knee". It knows: lung'),
        ("heart", "  ", 'The prompt for "heart" is empty'),
        ("esophagus", "hernia", "esophagus is not in the segmentation"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(service, small_model, organ, text, message):
    if service._kept is None:
        analyzed(service, ArrayCase(a_case(CHEST)), settings_of(small_model))
    error = asked(service, organ, text)
    assert type(error) is InputError
    assert re.search(message, str(error))


def test_a_question_before_any_analysis_is_refused(service):
    assert "Analyze the CT first" in str(asked(service, "heart", "cyst"))


def test_files_and_arrays_give_the_same_result(service, small_model, tmp_path):
    import SimpleITK as sitk

    from CTGroundedVLMLib import image_file

    case = a_case(CHEST)
    for name, array in (("ct", case.ct.array_kji), ("segmentation", case.segmentation.labels_kji)):
        image = sitk.GetImageFromArray(array)
        image_file.set_affine(image, case.ct.ijk_to_ras)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    source = FileCase(tmp_path / "ct.nrrd", tmp_path / "segmentation.nrrd")
    (of_files,) = analyzed(service, source, settings_of(small_model)).done
    (of_arrays,) = analyzed(service, ArrayCase(case), settings_of(small_model)).done
    assert [s.probability for s in of_files.findings] == pytest.approx(
        [s.probability for s in of_arrays.findings], nan_ok=True
    )


@pytest.mark.parametrize(
    ("source", "settings", "kind", "message"),
    [
        ({"ct": "absent.nrrd"}, {}, VolumeError, r"CT absent\.nrrd does not exist"),
        ({"report": "x" * 1_000_001}, {}, ReportError, "at most 1,000,000 are expected"),
        ({}, {"model": "nonsense"}, ModelError, '"nonsense" is neither a folder nor an installed model'),
        ({}, {"device": "abacus"}, InputError, 'device "abacus" is not known'),
        ({}, {"options": {"heatmap": 3}}, InputError, 'The options has no field "heatmap". It has: mode, grid'),
        ({}, {"options": {"mode": "quick"}}, InputError, "\"mode\" is 'quick'; one of 'shared', 'reference'"),
        ({}, {"options": {"heatmaps": 1.5}}, InputError, '"heatmaps" is 1.5; a whole number is expected'),
        ({}, {"options": {"min_visible": 3}}, InputError, "min_visible is 3.0, expected a fraction"),
        ({}, {"options": {"prompts": [["heart"]]}}, InputError, "item 1 has 1 items, 2 are expected"),
        ({}, {"options": {"prompts": [["knee", "tear"]]}}, InputError, 'no organ "knee"'),
    ],
)
def test_a_job_that_cannot_be_done_says_why_and_leaves_nothing(
    service, small_model, tmp_path, source, settings, kind, message
):
    case = ArrayCase(a_case(CHEST, report=source.get("report", "")))
    given = FileCase(tmp_path / source["ct"]) if "ct" in source else case
    outcome = analyzed(service, given, dataclasses.replace(settings_of(small_model), **settings))
    assert type(outcome.errors[0]) is kind
    assert re.search(message, str(outcome.errors[0]))
    assert files_below(tmp_path) == []


def test_a_second_analysis_while_one_runs_is_refused_and_the_first_goes_on(service, small_model):
    first, second = Outcome(), Outcome()
    source = ArrayCase(a_case(CHEST))
    service.analyze(source, settings_of(small_model), **first.with_cancel)
    assert service.state == "running"
    with pytest.raises(InputError, match="An analysis is running: cancel it first"):
        service.analyze(source, settings_of(small_model), **second.with_cancel)
    with pytest.raises(InputError, match="An analysis is running: cancel it first"):
        service.ask("heart", "cyst", **second.callbacks)
    service.wait()
    assert (len(first.done), second.done, second.errors) == (1, [], [])


class Manual:
    """A scheduler whose calls are made by hand, as an event loop makes them between other events."""

    def __init__(self):
        self.calls = []

    def call_soon(self, function):
        self.calls.append(function)


def large_case():
    case = a_case(CHEST)
    return dataclasses.replace(case, ct=dataclasses.replace(case.ct, array_kji=np.zeros((60, 512, 512), np.int16)))


def test_cancelling_the_hand_over_leaves_nothing_and_a_late_step_does_nothing(shared_client, tmp_path):
    scheduler, outcome = Manual(), Outcome()
    service = AnalysisService(shared_client, scheduler, folder=tmp_path)
    service.analyze(ArrayCase(large_case()), JobSettings("untrained"), **outcome.with_cancel)
    assert service.state == "handing over"
    scheduler.calls.pop()()
    assert len(files_below(tmp_path)) == 1
    service.cancel()
    assert (service.state, outcome.cancelled) == ("idle", 1)
    assert shared_client.state != "stopped"
    assert files_below(tmp_path) == []
    for call in scheduler.calls:
        call()
    assert (outcome.done, outcome.errors, outcome.cancelled) == ([], [], 1)


class Disappearing(ArrayCase):
    """A source whose node is deleted during the hand-over."""

    def hand_over(self, folder):
        steps = super().hand_over(folder)
        yield next(steps)
        try:
            raise InputError("The volume CT 4 was deleted during the hand-over. Choose another one.")
        finally:
            steps.close()


def test_a_node_that_disappears_during_the_hand_over_is_an_error_and_leaves_nothing(service, small_model, tmp_path):
    outcome = analyzed(service, Disappearing(large_case()), settings_of(small_model))
    assert "was deleted during the hand-over" in str(outcome.errors[0])
    assert files_below(tmp_path) == []


def test_a_mistake_in_a_source_shows_and_the_next_job_works(service, small_model, tmp_path):
    class Mistaken(ArrayCase):
        def hand_over(self, folder):
            yield 0.1
            raise ZeroDivisionError("a mistake")

    outcome = Outcome()
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        service.analyze(Mistaken(a_case(CHEST)), settings_of(small_model), **outcome.with_cancel)
    assert service.state == "idle"
    assert files_below(tmp_path) == []
    assert analyzed(service, ArrayCase(a_case(CHEST)), settings_of(small_model)).done


class Padded(ArrayCase):
    """300 MB of padding, which is to become air: the worker needs them a second time."""

    def hand_over(self, folder):
        writer, shape = CaseWriter(folder), (420, 420, 420)
        yield from writer.write_ct(np.broadcast_to(np.float32(-2000), shape), self.case.ct.ijk_to_ras, "padded")
        yield from writer.write_layer(np.ones((8, 8, 8), np.uint8), self.case.ct.ijk_to_ras, {1: "heart"})
        writer.finish("")


@pytest.mark.parametrize("spare_bytes", [100_000_000, 400_000_000], ids=["not even mapped", "not copied"])
def test_running_out_of_memory_names_the_remedy_and_the_next_analysis_works(
    service, small_model, shared_client, spare_bytes
):
    """A limit on the worker's address space that the CT exceeds: a real failure to allocate."""
    source, settings = ArrayCase(a_case(CHEST)), settings_of(small_model)
    assert analyzed(service, source, settings).done
    process = psutil.Process(shared_client.pid)
    before = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + spare_bytes, before[1]))
    try:
        outcome = analyzed(service, Padded(source.case), settings)
    finally:
        process.rlimit(psutil.RLIMIT_AS, before)
    assert type(outcome.errors[0]) is ResourceError
    assert "Not enough memory" in str(outcome.errors[0])
    assert "shared mode, or the CPU" in str(outcome.errors[0])
    assert analyzed(service, source, settings).done
    assert psutil.Process(shared_client.pid) == process


def test_a_full_disk_while_the_result_is_written_is_an_error_and_the_next_analysis_works(
    service, small_model, shared_client, tmp_path
):
    source, settings = ArrayCase(a_case(CHEST)), settings_of(small_model)
    assert analyzed(service, source, settings).done
    kept = len(files_below(tmp_path))
    process = psutil.Process(shared_client.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        outcome = analyzed(service, source, settings)
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
    assert type(outcome.errors[0]) is OutputError
    assert "Make space" in str(outcome.errors[0])
    assert len(files_below(tmp_path)) == kept
    assert analyzed(service, source, settings).done


def test_a_temporary_folder_that_cannot_be_made_is_an_error(shared_client, tmp_path):
    service = AnalysisService(shared_client, ImmediateScheduler(), folder=tmp_path / "absent")
    outcome = Outcome()
    service.analyze(ArrayCase(a_case(CHEST)), JobSettings("untrained"), **outcome.with_cancel)
    assert type(outcome.errors[0]) is OutputError
    assert "No temporary folder can be made" in str(outcome.errors[0])


def test_cancel_during_the_analysis_ends_the_worker_and_leaves_nothing(service, small_model, shared_client, tmp_path):
    outcome, pids = Outcome(), []

    def cancel_while_encoding(stage, fraction):
        if stage == "encode image" and not pids:
            pids.append(shared_client.pid)
            service.cancel()

    callbacks = outcome.with_cancel | {"on_progress": cancel_while_encoding}
    service.analyze(ArrayCase(a_case(CHEST)), settings_of(small_model), **callbacks)
    service.wait()
    assert (outcome.cancelled, outcome.done, outcome.errors, service.state) == (1, [], [], "idle")
    end = time.monotonic() + 5
    while not ended(pids[0]):
        assert time.monotonic() < end, "the worker is still there"
        time.sleep(0.02)
    assert files_below(tmp_path) == []
    assert "no analysed image" in str(asked(service, "heart", "cyst"))


def test_a_killed_worker_becomes_a_message_and_the_next_click_works(service, small_model, shared_client, tmp_path):
    outcome, killed = Outcome(), []

    def kill_while_encoding(stage, fraction):
        if stage == "preprocess" and not killed:
            killed.append(shared_client.pid)
            os.kill(shared_client.pid, signal.SIGSTOP)  # so that it cannot be ready first
            os.kill(shared_client.pid, signal.SIGKILL)

    callbacks = outcome.with_cancel | {"on_progress": kill_while_encoding}
    source, settings = ArrayCase(a_case(CHEST)), settings_of(small_model)
    service.analyze(source, settings, **callbacks)
    service.wait()
    assert type(outcome.errors[0]) is WorkerError
    assert "a new worker starts by itself" in str(outcome.errors[0])
    assert files_below(tmp_path) == []
    assert analyzed(service, source, settings).done
    assert shared_client.pid != killed[0]


def test_a_later_analysis_takes_the_place_of_the_earlier_ones_files(service, small_model, tmp_path):
    source, settings = ArrayCase(a_case(CHEST)), settings_of(small_model)
    (first,) = analyzed(service, source, settings).done
    count = len(files_below(tmp_path))
    analyzed(service, source, settings)
    assert len(files_below(tmp_path)) == count
    assert first.case.segmentation.labels_kji.any()  # its maps live on


def test_close_during_a_job_removes_every_temporary_file_and_ends_the_worker(small_model, tmp_path):
    client, outcome = WorkerClient(), Outcome()
    service = AnalysisService(client, ImmediateScheduler(), folder=tmp_path)
    service.analyze(ArrayCase(a_case(CHEST)), settings_of(small_model), **outcome.with_cancel)
    while client.pid is None:
        client.wait(0.05)
    pid = client.pid
    assert files_below(tmp_path)
    service.close()
    assert list(tmp_path.iterdir()) == []
    assert ended(pid)
    assert (client.state, service.state, outcome.cancelled) == ("stopped", "idle", 1)


def test_the_worker_tells_versions_and_devices_and_leaves_one_core_free(shared_client):
    outcome = Outcome()
    shared_client.request("hello", {}, **outcome.callbacks)
    shared_client.wait()
    (cpu, *_) = outcome.done[0]["devices"]
    assert cpu["device"] == "cpu"
    assert 0 < cpu["free_bytes"] < cpu["total_bytes"]
    cores = len(os.sched_getaffinity(0))
    assert cpu["name"] == f"CPU, {max(1, cores - 1)} of {os.cpu_count()} cores"
    assert set(outcome.done[0]["versions"]) == {"ctgvlm", "python", "torch"}


def test_the_worker_works_beside_a_torchvision_that_cannot_be_imported(shared_client, broken_torchvision):
    path = os.pathsep.join([str(broken_torchvision), worker_environment()["PYTHONPATH"]])
    environment = os.environ | worker_environment() | {"PYTHONPATH": path}
    program = (
        "import importlib.util as u\nfrom CTGroundedVLMLib import worker\n"
        "with worker._without_torchvision():\n    print(u.find_spec('torchvision'))\n"
        "print(u.find_spec('torchvision').origin)\nimport torchvision"
    )
    plain = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert plain.stdout.split() == ["None", str(broken_torchvision / "torchvision" / "__init__.py")]
    assert "operator torchvision::nms does not exist" in plain.stderr
    outcome = Outcome()
    shared_client.request("hello", {}, **outcome.callbacks)
    shared_client.wait()
    assert (outcome.errors, len(outcome.done)) == ([], 1)


def test_a_source_of_arrays_hands_over_what_it_holds(tmp_path):
    case = dataclasses.replace(a_case(CHEST, report=REPORT), report_source="paste")
    for _ in ArrayCase(case).hand_over(tmp_path / "case"):
        pass
    read = read_case(tmp_path / "case" / "case.json")
    np.testing.assert_array_equal(read.ct.array_kji, case.ct.array_kji)
    assert (read.report_text, read.report_source) == (REPORT, "paste")


def test_the_state_of_a_service_without_a_job_is_idle(service):
    assert service.state == "idle"
    service.cancel()
    service.wait()

"""The worker's process and its client: every way in which a process ends, breaks, or is not understood."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import light_worker
from CTGroundedVLMLib import worker_client, worker_runner
from CTGroundedVLMLib.errors import CTGroundedVLMError, DependencyError, InputError, ResourceError, SegmentationError
from CTGroundedVLMLib.worker_client import WorkerClient, WorkerError, worker_environment
from CTGroundedVLMLib.worker_runner import UNKNOWN_EXIT, SubprocessRunner, exit_code_of

SCRIPT = light_worker.__file__
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


class LightRunner(SubprocessRunner):
    """Runs ``light_worker`` in place of the worker's module."""

    def start(self, command, *arguments):
        super().start([command[0], SCRIPT], *arguments)


class LauncherRunner(SubprocessRunner):
    """As PythonSlicer does: a launcher whose child is the Python that works."""

    def start(self, command, *arguments):
        super().start([command[0], "-c", LAUNCHER, command[0], SCRIPT], *arguments)


class Answers:
    """The callbacks of a request, and what came."""

    def __init__(self):
        self.progress, self.done, self.errors = [], [], []

    @property
    def callbacks(self):
        return {
            "on_progress": lambda stage, fraction: self.progress.append((stage, fraction)),
            "on_done": self.done.append,
            "on_error": self.errors.append,
        }


@pytest.fixture
def log():
    return []


@pytest.fixture
def client(log):
    client = WorkerClient(LightRunner, on_log=log.append)
    yield client
    client.close()


def asked(client, name, **arguments):
    """The answer to a request, waited for."""
    answers = Answers()
    client.request(name, arguments, **answers.callbacks)
    client.wait(60)
    assert len(answers.done) + len(answers.errors) == 1
    return (answers.done or answers.errors)[0]


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def gone(*pids):
    """Whether none of these processes runs (a zombie that nobody has reaped does not)."""

    def ended(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(ended(pid) for pid in pids)


def test_one_process_answers_one_request_after_the_other(client):
    assert client.state == "stopped"
    first = asked(client, "pid")
    assert client.state == "idle"
    assert client.pid == first
    assert asked(client, "pid") == first


def test_a_request_can_be_sent_while_the_process_is_starting(client):
    client.start()
    assert client.state == "starting"
    assert asked(client, "echo", value=[1, None, "x"]) == [1, None, "x"]


def test_a_second_request_while_busy_is_refused_and_the_first_goes_on(client):
    answers, second = Answers(), Answers()
    client.request("echo", {"value": 1}, **answers.callbacks)
    with pytest.raises(InputError, match="busy with another request: wait for it, or cancel it"):
        client.request("echo", {"value": 2}, **second.callbacks)
    client.wait(60)
    assert (answers.done, second.done, second.errors) == ([1], [], [])


def test_any_text_passes_whole(client):
    text = '肺炎の疑い。 Лёгкие без изменений. \U0001fac1 é\n"quoted" \\ \udc80' + "x" * 1_000_000
    assert asked(client, "echo", value=text) == text


def test_what_is_printed_goes_to_the_log_and_never_into_the_protocol(client, log):
    assert asked(client, "chatter") == "chattered"
    wait_until(lambda: client._runner.wait(0.01) or any("not UTF-8" in line for line in log))
    assert {"to stdout by print", "to stdout by its number", "to stdout by a child"} <= set(log)
    assert "''" in log  # a child that reads stdin gets nothing of ours
    assert any("é 肺" in line for line in log)


def test_an_error_of_the_family_arrives_as_the_nearest_class_that_is_known(client):
    error = asked(client, "fail", kind="family")
    assert type(error) is SegmentationError
    assert str(error) == "Segmentation x.nrrd is empty."


def test_any_other_error_becomes_a_message_and_its_traceback_goes_to_the_log(client, log):
    error = asked(client, "fail", kind="foreign")
    assert type(error) is CTGroundedVLMError
    assert str(error).startswith("Unexpected error: ZeroDivisionError: division by zero. The log holds the details")
    assert asked(client, "echo", value=1) == 1
    assert any("light_worker.py" in line for line in log)


def test_a_missing_package_is_a_dependency_error_with_the_remedy(client):
    error = asked(client, "fail", kind="missing")
    assert type(error) is DependencyError
    assert "No module named 'torch'" in str(error)
    assert "pip install ct-grounded-vlm" in str(error)


def test_a_memory_error_names_the_remedy_and_the_process_lives_on(client):
    before = asked(client, "pid")
    error = asked(client, "exhaust")
    assert type(error) is ResourceError
    assert "shared mode, or the CPU" in str(error)
    assert asked(client, "pid") == before


def test_an_unknown_request_lists_the_known_ones(client):
    assert "knows: echo, pid," in str(asked(client, "sing"))


def test_a_crash_becomes_a_message_and_the_next_request_works(client):
    error = asked(client, "crash")
    assert type(error) is WorkerError
    assert isinstance(error, ResourceError)
    assert "signal SIGABRT" in str(error)
    assert "close other programs" in str(error)
    assert client.state == "stopped"
    assert asked(client, "echo", value="again") == "again"


def test_a_worker_killed_during_a_request_becomes_a_message_and_leaves_no_child(client):
    answers = Answers()
    client.request("children", {}, **answers.callbacks)
    wait_until(lambda: client._runner.wait(0.05) or len(answers.progress) > 1)
    children = [int(pid) for pid in answers.progress[-1][0].split()]
    assert not gone(*children)
    os.kill(client.pid, signal.SIGKILL)
    client.wait(20)
    assert "signal SIGKILL" in str(answers.errors[0])
    wait_until(lambda: gone(*children))
    assert asked(client, "echo", value=1) == 1


def test_a_worker_killed_between_two_requests_is_replaced_unnoticed(client):
    first = asked(client, "pid")
    os.kill(first, signal.SIGKILL)
    assert asked(client, "pid") != first


@pytest.mark.parametrize("runner", [LightRunner, LauncherRunner])
def test_cancel_ends_the_worker_and_every_descendant(runner):
    client, answers = WorkerClient(runner), Answers()
    client.request("children", {}, **answers.callbacks)
    wait_until(lambda: client._runner.wait(0.05) or len(answers.progress) > 1)
    process = client._runner._process
    everything = {client.pid, process.pid, *map(int, answers.progress[-1][0].split())}
    everything |= {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    assert len(everything) == (4 if runner is LauncherRunner else 3)
    assert not gone(*everything)
    started = time.perf_counter()
    client.cancel()
    assert time.perf_counter() - started < 0.05
    assert client.state == "stopped"
    wait_until(lambda: gone(*everything), 2.0)
    client.close()
    assert (answers.done, answers.errors) == ([], [])


def test_after_cancel_the_next_request_starts_another_process_at_once(client):
    answers = Answers()
    client.request("sleep", {}, **answers.callbacks)
    wait_until(lambda: client._runner.wait(0.05) or answers.progress)
    client.cancel()
    assert asked(client, "echo", value=2) == 2
    assert (answers.done, answers.errors) == ([], [])


def test_a_worker_that_hangs_in_foreign_code_is_killed_after_a_grace_period(client, monkeypatch):
    monkeypatch.setattr(worker_runner, "STOP_GRACE_S", 0.2)
    answers = Answers()
    client.request("hang", {}, **answers.callbacks)
    wait_until(lambda: client._runner.wait(0.05) or len(answers.progress) > 1)
    pid = client.pid
    client.cancel()
    wait_until(lambda: gone(pid), 10.0)


def test_the_worker_ends_with_its_parent(tmp_path):
    program = f"""
import sys, time
sys.path[:0] = {[str(Path(SCRIPT).parent), str(Path(worker_client.__file__).parents[1]), str(Path(__file__).parent)]!r}
import test_worker_client as test
client, answers = test.WorkerClient(test.LightRunner), test.Answers()
client.request("children", {{}}, **answers.callbacks)
while len(answers.progress) < 2: client.wait(0.05)
print(client.pid, answers.progress[-1][0], flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 3
    assert not gone(*pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(*pids), 5.0)


def test_close_waits_until_the_process_has_ended(client):
    pid = asked(client, "pid")
    client.close()
    assert gone(pid)
    assert client.state == "stopped"


def test_a_python_that_is_not_there_is_named(log):
    client = WorkerClient(python="/nowhere/PythonSlicer", on_log=log.append)
    error = asked(client, "hello")
    assert type(error) is WorkerError
    assert "could not start (exit code 127; /nowhere/PythonSlicer)" in str(error)
    assert "No such file" in str(error)


def test_a_python_without_the_packages_says_what_to_install(tmp_path):
    """A torch that cannot be imported, found first: as in a Slicer where nothing has been installed."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")

    class Bare(SubprocessRunner):
        def start(self, command, environment, *callbacks):
            path = os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]])
            super().start(command, dict(environment) | {"PYTHONPATH": path}, *callbacks)

    client = WorkerClient(Bare)
    error = asked(client, "hello")
    client.close()
    assert type(error) is DependencyError
    assert "No module named 'torch'" in str(error)
    assert "pip install ct-grounded-vlm" in str(error)


def test_where_the_system_cannot_be_asked_the_end_of_a_child_is_seen_without_its_code(monkeypatch):
    monkeypatch.delattr(os, "waitid", raising=False)  # Windows, and macOS before Python 3.13
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    wait_until(lambda: exit_code_of(ended.pid) == UNKNOWN_EXIT)
    assert ended.wait() == 3
    assert exit_code_of(ended.pid) == UNKNOWN_EXIT
    assert exit_code_of(os.getpid()) is None


def test_the_end_of_a_child_is_seen_without_taking_it_from_who_waits_for_it():
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert exit_code_of(sleeper.pid) is None
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    wait_until(lambda: exit_code_of(ended.pid) == 3)
    assert ended.wait() == 3
    assert exit_code_of(ended.pid) == UNKNOWN_EXIT
    sleeper.kill()
    wait_until(lambda: exit_code_of(sleeper.pid) == -signal.SIGKILL)
    assert sleeper.wait() == -signal.SIGKILL
    assert exit_code_of(os.getppid()) is None  # no child of this process, but it runs
    assert exit_code_of(0) is None


def test_a_worker_that_imports_gives_signs_of_life_until_it_is_ready():
    program = (
        "import time; from CTGroundedVLMLib import worker; worker.PARENT_POLL_S = 0.02; "
        "worker._import_handlers = lambda: time.sleep(0.3); worker.main()"
    )
    close = b'{"id": 1, "name": "close"}\n'
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | worker_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )  # fmt: skip
    process.stdin.write(close)
    process.stdin.flush()
    events = [json.loads(line) for line in process.stdout]
    process.stdin.close()
    assert process.wait() == 0
    assert (events[0]["event"], events[-1]["event"]) == ("started", "ready")
    assert len(events) > 4
    assert all(event == {"event": "progress", "id": None, "stage": "import", "fraction": 0.0} for event in events[1:-1])


class Times:
    """A clock that only waiting advances, the calls that are due by it, and processes that do nothing by themselves."""

    def __init__(self):
        self.now, self.due, self.runners = 0.0, [], []
        self.client = WorkerClient(self.make_runner, call_later=self.call_later, clock=lambda: self.now)

    def make_runner(self):
        self.runners.append(ScriptedRunner(self))
        return self.runners[-1]

    def call_later(self, seconds, function):
        self.due.append((self.now + seconds, function))

    def turn(self, seconds):
        """An event loop for so many seconds."""
        end = self.now + seconds
        while (soonest := min(self.due, key=lambda call: call[0], default=None)) and soonest[0] <= end:
            self.due.remove(soonest)
            self.now = max(self.now, soonest[0])
            soonest[1]()
        self.now = max(self.now, end)

    def hear(self, **event):
        self.runners[-1].on_line(json.dumps(event))


class ScriptedRunner:
    """A ProcessRunner without a process."""

    def __init__(self, times):
        self.times, self.written, self.stopped = times, [], False

    def start(self, command, environment, on_line, on_log, on_exit):
        self.on_line, self.on_log, self.on_exit = on_line, on_log, on_exit

    def write(self, line):
        self.written.append(json.loads(line))

    def stop(self):
        self.stopped = True

    def wait(self, seconds):
        self.times.now += seconds


@pytest.fixture
def times():
    return Times()


@pytest.mark.parametrize("way", ["event loop", "blocking"])
@pytest.mark.parametrize("greetings", [(), ("started",), ("started", "ready")])
def test_a_worker_that_never_answers_is_given_up_and_the_next_request_starts_another(times, way, greetings):
    answers, second = Answers(), Answers()
    times.client.request("echo", {"value": 1}, **answers.callbacks)
    for event in greetings:
        times.hear(event=event, pid=42)
    times.turn(worker_client.SILENCE_S - 1)
    assert answers.errors == []
    times.turn(2 * worker_client.CHECK_S) if way == "event loop" else times.client.wait()
    (error,) = answers.errors
    assert type(error) is WorkerError
    assert "no sign of life for 5 minutes and was ended" in str(error)
    assert "Try again" in str(error)
    assert times.runners[0].stopped
    assert times.client.state == "stopped"
    times.turn(60)
    assert times.due == []
    times.client.request("echo", {"value": 2}, **second.callbacks)
    times.hear(event="result", id=2, value="answered")
    assert (second.done, len(times.runners)) == (["answered"], 2)


def test_a_worker_that_imports_for_an_hour_is_waited_for(times):
    answers = Answers()
    times.client.request("echo", {"value": 1}, **answers.callbacks)
    for _ in range(3600):
        times.turn(1)
        times.hear(event="progress", id=None, stage="import", fraction=0.0)
    for _ in range(30):
        times.turn(worker_client.SILENCE_S - 2 * worker_client.CHECK_S)
        times.runners[-1].on_log("a line of log is a sign of life as well")
    times.hear(event="result", id=1, value="after all")
    assert (answers.done, answers.errors, answers.progress) == (["after all"], [], [])


def test_a_request_that_was_taken_up_may_be_silent_for_hours(times):
    answers = Answers()
    times.client.request("segment", {}, **answers.callbacks)
    times.hear(event="progress", id=1, stage="segment", fraction=0.03)
    times.turn(7200)
    assert times.due == []  # nobody even looks
    times.client.wait(1800)
    times.hear(event="result", id=1, value="done")
    assert (answers.done, answers.errors) == (["done"], [])


def test_time_in_which_nobody_listened_does_not_count(times):
    """Slicer is busy with something else for ten minutes, or the computer sleeps."""
    answers = Answers()
    times.client.request("echo", {"value": 1}, **answers.callbacks)
    for _ in range(5):
        times.now += 600
        times.turn(0)
    assert answers.errors == []
    times.client.cancel()
    times.turn(60)
    assert times.due == []


def test_the_current_folder_cannot_hide_pythons_own_modules(monkeypatch):
    """Our types.py beside a process's start folder would be imported in place of the standard library's."""
    monkeypatch.chdir(Path(worker_client.__file__).parent)
    run = subprocess.run(
        [sys.executable, "-m", "CTGroundedVLMLib.worker"],
        env=os.environ | worker_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert '"event": "started"' in run.stdout
    assert "Error" not in run.stderr


def test_neither_client_nor_job_imports_torch_or_qt_or_slicer():
    code = (
        "import sys; import CTGroundedVLMLib.analysis_job, CTGroundedVLMLib.case_sources; "
        "print([m for m in ('torch', 'SimpleITK', 'qt', 'slicer', 'vtk', 'psutil', 'platformdirs', 'pydicom') if m in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code], env=os.environ | worker_environment(), text=True)
    assert out.strip() == "[]"

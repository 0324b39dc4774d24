"""The runner on QProcess, with PySide6's QProcess in place of PythonQt's: lines, ends and Qt's event loop."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import light_worker
from CTGroundedVLMLib import process_qt
from CTGroundedVLMLib.errors import DependencyError
from CTGroundedVLMLib.process_qt import QProcessRunner, QtScheduler, pythonProgram
from CTGroundedVLMLib.worker_client import WorkerClient, WorkerError
from CTGroundedVLMLib.worker_runner import UNKNOWN_EXIT

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
QtCore = pytest.importorskip("PySide6.QtCore", reason="PySide6 is not installed: pip install PySide6-Essentials")
QtWidgets = pytest.importorskip("PySide6.QtWidgets")
shiboken6 = pytest.importorskip("shiboken6")

LIBRARY = Path(process_qt.__file__).parent
LAUNCHER = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


class ProcessByPythonQt(QtCore.QProcess):
    """Signals by their signature, as PythonQt connects them; without a keyword."""

    def connect(self, signature, function):
        getattr(self, signature.partition("(")[0]).connect(function)


class NoFinished(ProcessByPythonQt):
    """The signal does not arrive, though the QProcess knows of the end."""

    def connect(self, signature, function):
        if not signature.startswith("finished"):
            super().connect(signature, function)


class Unaware(NoFinished):
    """The QProcess itself does not notice the end: for it the process runs on."""

    pid = 0

    def state(self):
        return QtCore.QProcess.ProcessState.Running

    def start(self, *arguments):
        super().start(*arguments)
        self.pid = super().processId()  # now: of a process that has ended, QProcess forgets it

    def processId(self):  # noqa: N802
        return self.pid


def qt_with(process):
    return SimpleNamespace(QProcess=process, QProcessEnvironment=QtCore.QProcessEnvironment, QTimer=QtCore.QTimer)


QT = qt_with(ProcessByPythonQt)


@pytest.fixture(scope="module", autouse=True)
def application():
    """A QApplication, not a QCoreApplication: the tests of widgets may share this process."""
    return QtWidgets.QApplication.instance() or QtWidgets.QApplication([])


class Run:
    """One process by QProcessRunner, and what it gave."""

    def __init__(self, *command, qt=QT, **environment):
        self.runner, self.lines, self.log, self.codes = QProcessRunner(qt=qt), [], [], []
        self.runner.start(command, environment, self.lines.append, self.log.append, self.codes.append)

    def until(self, condition, seconds=20.0):
        """Let Qt's event loop run, as Slicer's does."""
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, (self.lines, self.log, self.codes)
            QtCore.QCoreApplication.processEvents()
            time.sleep(0.005)
        return self


def python(code):
    return sys.executable, "-u", "-c", code


def test_lines_arrive_whole_whatever_the_chunks_are():
    """Half a line, half a character, and a last line without an end."""
    code = """
import os, time
data = "first\\n肺の結節\\r\\nlast".encode()
for part in (data[:3], data[3:8], data[8:10], data[10:]):
    os.write(1, part); time.sleep(0.1)
os.write(2, b"a note\\nanother")
"""
    run = Run(*python(code)).until(lambda run: run.codes)
    assert run.lines == ["first", "肺の結節", "last"]
    assert run.log == ["a note", "another"]
    assert run.codes == [0]


@pytest.mark.parametrize(
    "data",
    [bytes, lambda data: bytes(data).decode() or None, lambda data: bytes(data) or None],
    ids=["bytes", "text", "None"],
)
def test_lines_arrive_whatever_a_build_of_pythonqt_takes_a_qbytearrays_data_for(data):
    """Text, or None where it is empty: as of the log here, which nobody writes to."""

    class OtherBuild(ProcessByPythonQt):
        def readAllStandardOutput(self):  # noqa: N802
            read = super().readAllStandardOutput().data()
            return SimpleNamespace(data=lambda: data(read))

        def readAllStandardError(self):  # noqa: N802
            read = super().readAllStandardError().data()
            return SimpleNamespace(data=lambda: data(read))

    run = Run(*python("import os; os.write(1, '肺'.encode())"), qt=qt_with(OtherBuild)).until(lambda run: run.codes)
    assert (run.lines, run.log, run.codes) == (["肺"], [], [0])


def test_what_is_written_arrives_and_the_environment_is_added_to_the_present_one():
    code = "import os; print(input(), os.environ['ADDED'], len(os.environ['PATH']))"
    run = Run(*python(code), ADDED="肺")
    run.runner.write('{"text": "é"}')
    run.until(lambda run: run.codes)
    assert run.lines == [f'{{"text": "é"}} 肺 {len(os.environ["PATH"])}']


def test_a_given_environment_takes_the_place_of_the_present_one():
    lines, codes = [], []
    runner = QProcessRunner({"ONLY": "this"}, QT)
    code = "import os; print(os.environ.get('ONLY'), os.environ.get('HOME'), os.environ['ADDED'])"
    runner.start(python(code), {"ADDED": "1"}, lines.append, print, codes.append)
    while not codes:
        runner.wait(0.1)
    assert lines == ["this None 1"]


def test_a_crash_gives_a_negative_code_and_an_exit_its_own():
    assert Run(*python("import os; os.kill(os.getpid(), 9)")).until(lambda run: run.codes).codes == [-9]
    assert Run(*python("raise SystemExit(3)")).until(lambda run: run.codes).codes == [3]


def test_a_program_that_is_not_there_exits_with_127_and_is_logged():
    run = Run("/nowhere/PythonSlicer", "-c", "").until(lambda run: run.codes)
    assert run.codes == [127]
    assert "cannot be started" in run.log[0]
    run.runner.write("nothing happens")
    run.runner.stop()
    run.runner.wait(0.0)


def test_stop_kills_a_process_that_does_not_end_with_its_input(monkeypatch):
    monkeypatch.setattr(process_qt, "STOP_GRACE_S", 0.1)
    code = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid); time.sleep(600)"
    run = Run(*python(code)).until(lambda run: run.lines)
    run.runner.stop()
    run.until(lambda run: run.codes)
    run.until(lambda run: is_gone(int(run.lines[0])))  # a killed process takes its time on a machine that is busy


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("process", "codes"), [(NoFinished, [3, -9]), (Unaware, [UNKNOWN_EXIT, UNKNOWN_EXIT])], ids=["untold", "unnoticed"]
)
def test_an_end_that_no_signal_tells_is_found_out(monkeypatch, process, codes):
    monkeypatch.setattr(process_qt, "WATCH_MS", 20)
    monkeypatch.setattr(process_qt, "LOST_S", 0.05)
    programs = ["print('last'); raise SystemExit(3)", "import os; print('last', flush=True); os.kill(os.getpid(), 9)"]
    runs = [Run(*python(code), qt=qt_with(process)).until(lambda run: run.codes) for code in programs]
    assert [run.codes for run in runs] == [[code] for code in codes]
    assert [run.lines for run in runs] == [["last"], ["last"]]
    for run in runs:
        run.until(lambda run: run.runner._process is None)  # and nothing holds the QProcess any more


def test_a_process_that_runs_is_not_taken_for_gone(monkeypatch):
    monkeypatch.setattr(process_qt, "WATCH_MS", 1)
    monkeypatch.setattr(process_qt, "LOST_S", 0.0)
    run = Run(*python("import time; print(1, flush=True); time.sleep(0.3); print(2)")).until(lambda run: run.codes)
    assert (run.lines, run.codes) == (["1", "2"], [0])


def test_the_end_is_told_once_though_it_comes_again_while_the_last_line_is_delivered():
    """First found out, then told: a message box of whoever gets the line has run an event loop."""
    runner, lines, codes = QProcessRunner(qt=QT), [], []

    def on_line(line):
        lines.append(line)
        runner._process.finished.emit(0, QtCore.QProcess.ExitStatus.NormalExit)

    runner.start(python("print('no end of line', end='')"), {}, on_line, print, codes.append)
    end = time.monotonic() + 20
    while runner._process is not None:
        assert time.monotonic() < end
        QtCore.QCoreApplication.processEvents()
        time.sleep(0.005)
    assert (lines, codes) == (["no end of line"], [0])


SLEEP = python("import time; print(1, flush=True); time.sleep(600)")


def test_a_qprocess_that_qt_has_deleted_is_asked_nothing_more_and_its_end_is_told_once(monkeypatch, capfd):
    """The destructor kills the process and emits "finished" when the Python object knows no QProcess any more."""
    monkeypatch.setattr(process_qt, "WATCH_MS", 1)
    run = Run(*SLEEP).until(lambda run: run.lines)
    pid = int(run.runner._process.processId())
    shiboken6.delete(run.runner._process)
    assert run.codes == []  # where the application ends, the event loop does not turn any more
    for call in (lambda: run.runner.write("x"), run.runner.stop, run.runner.kill, lambda: run.runner._release()):
        call()
    run.until(lambda run: run.codes)
    run.runner.wait(0.0)
    for _ in range(5):
        QtCore.QCoreApplication.processEvents()
    assert run.codes == [UNKNOWN_EXIT]
    assert not running(pid)
    assert "Traceback" not in capfd.readouterr().err


def test_who_waits_without_an_event_loop_is_told_of_a_deleted_qprocess_too():
    run = Run(*SLEEP).until(lambda run: run.lines)
    shiboken6.delete(run.runner._process)
    run.runner.wait(0.0)
    run.runner.wait(0.0)
    assert run.codes == [UNKNOWN_EXIT]


def test_another_error_of_the_qprocess_is_not_taken_for_its_end():
    class Refuses(ProcessByPythonQt):
        def write(self, data):
            raise ValueError("Called write() with wrong arguments")

    run = Run(*SLEEP, qt=qt_with(Refuses)).until(lambda run: run.lines)
    with pytest.raises(ValueError, match="wrong arguments"):
        run.runner.write("x")
    run.runner.kill()
    run.until(lambda run: run.codes)


def test_an_application_that_ends_with_a_worker_at_work_leaves_no_traceback():
    script = """
import sys
from PySide6 import QtWidgets
sys.path[:0] = sys.argv[1:]
import test_worker_qt
application = QtWidgets.QApplication([])
run = test_worker_qt.Run(*test_worker_qt.SLEEP).until(lambda run: run.lines)
print("ends")
"""
    paths = [str(Path(__file__).parent), str(Path(light_worker.__file__).parent), str(LIBRARY.parent)]
    ended = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr
    assert "Traceback" not in ended.stderr


class LightQtRunner(QProcessRunner):
    """The real worker process on light requests, by a launcher as PythonSlicer is one."""

    def __init__(self):
        super().__init__(qt=QT)

    def start(self, command, *arguments):
        super().start([command[0], "-c", LAUNCHER, command[0], light_worker.__file__], *arguments)


def test_the_client_works_on_qts_event_loop_and_cancel_ends_launcher_worker_and_children():
    client, progress, done, errors = WorkerClient(LightQtRunner), [], [], []

    def turn_until(condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, (progress, done, errors)
            QtCore.QCoreApplication.processEvents()
            time.sleep(0.005)

    callbacks = {"on_progress": lambda *p: progress.append(p), "on_done": done.append, "on_error": errors.append}
    client.request("echo", {"value": "肺"}, **callbacks)
    turn_until(lambda: done)
    assert done == ["肺"]
    client.request("children", {}, **callbacks)
    turn_until(lambda: len(progress) > 2)
    pids = [client.pid, int(client._runner._process.processId()), *map(int, progress[-1][0].split())]
    assert all(map(psutil.pid_exists, pids))
    started = time.perf_counter()
    client.cancel()
    assert time.perf_counter() - started < 0.05
    turn_until(lambda: not any(map(running, pids)))
    client.request("crash", {}, **callbacks)
    turn_until(lambda: errors)
    assert type(errors[0]) is WorkerError
    client.request("echo", {"value": 2}, **callbacks)
    client.wait(20)  # blocking, as in Slicer's console: no event loop runs
    assert done == ["肺", 2]
    client.close()


def test_a_worker_that_dies_without_a_signal_is_a_message_and_the_next_request_works(monkeypatch):
    monkeypatch.setattr(process_qt, "WATCH_MS", 20)
    monkeypatch.setattr(process_qt, "LOST_S", 0.05)

    class UnawareRunner(QProcessRunner):
        def __init__(self):
            super().__init__(qt=qt_with(Unaware))

        def start(self, command, *arguments):
            super().start([command[0], light_worker.__file__], *arguments)

    client, done, errors = WorkerClient(UnawareRunner), [], []
    callbacks = {"on_progress": lambda *p: None, "on_done": done.append, "on_error": errors.append}
    client.request("crash", {}, **callbacks)
    client.wait(20)
    assert type(errors[0]) is WorkerError
    assert "ended unexpectedly (exit code unknown)" in str(errors[0])
    client.request("echo", {"value": "again"}, **callbacks)
    client.wait(20)
    assert done == ["again"]
    client.close()


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_scheduled_call_comes_when_the_event_loop_runs_and_not_before():
    calls = []
    QtScheduler(QT).call_soon(lambda: calls.append(1))
    assert calls == []
    end = time.monotonic() + 5
    while not calls and time.monotonic() < end:
        QtCore.QCoreApplication.processEvents()
        time.sleep(0.005)
    assert calls == [1]


def test_a_call_for_later_comes_later():
    calls, started = [], time.monotonic()
    QtScheduler(QT).call_later(0.1, lambda: calls.append(time.monotonic() - started))
    while not calls and time.monotonic() < started + 5:
        QtCore.QCoreApplication.processEvents()
        time.sleep(0.005)
    assert 0.09 < calls[0] < 2


def test_slicers_python_is_the_interpreter_on_the_path_else_its_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("PythonSlicer", "python-real"):
        (tmp_path / name).touch(mode=0o755)
        assert pythonProgram() == str(tmp_path / name)


def test_without_a_launcher_it_is_the_running_python_unless_that_is_slicer(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert pythonProgram() == sys.executable
    monkeypatch.setattr(sys, "executable", "/opt/Slicer/bin/SlicerApp-real")
    with pytest.raises(DependencyError, match="PythonSlicer was not found on the PATH"):
        pythonProgram()

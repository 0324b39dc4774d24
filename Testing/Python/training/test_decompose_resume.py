"""The output grows by whole reports: a run that is killed is gone on with, nothing is lost or made twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chat_server import MODEL, Reply, reader, running
from CTGroundedVLMLib.errors import CTGroundedVLMError, InputError, OutputError, ReportError
from CTGroundedVLMTraining import cli
from CTGroundedVLMTraining.decompose.journal import Journal
from CTGroundedVLMTraining.decompose.records import Decomposition, OrganDescription, ReportText

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"method": "rules", "group": "fvlm4", "normality": "status"}
REPORTS = [ReportText(f"r{i}", f"Text {i} \ud800.") for i in range(4)]


def result(report, error=None):
    organs = {} if error else {"lung": OrganDescription("Clear lungs.", "", "normal", ((0, 12),))}
    return Decomposition(report, SETTINGS, organs, error)


def journal(path, **options):
    return Journal(path, SETTINGS, **options)


@pytest.fixture
def written(tmp_path):
    """Three reports, of which the second failed."""
    path = tmp_path / "out.jsonl"
    with journal(path) as j:
        for report, error in zip(REPORTS[:3], (None, "lung, mention: busy, 11 times", None), strict=True):
            j.append(result(report, error))
    return path


def test_finished_reports_are_not_pending(written):
    with journal(written) as j:
        assert j.pending(REPORTS) == [REPORTS[3]]
        j.append(result(REPORTS[3]))
    with journal(written) as j:
        assert j.pending(REPORTS) == []
    assert [json.loads(line)["report_id"] for line in written.read_text().splitlines()] == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize("kept", [1, 5, 40, -1])
def test_half_a_last_line_is_cut_off(written, kept):
    whole = written.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    written.write_bytes(whole[: len(whole) - len(last)] + last[:kept])
    with journal(written) as j:
        assert j.pending(REPORTS) == [REPORTS[2], REPORTS[3]]
        j.append(result(REPORTS[2]))
    assert written.read_bytes() == whole


def test_failed_reports_are_tried_again_only_when_asked(written):
    before = written.read_text().splitlines()
    with journal(written, retry_failed=True) as j:
        assert j.pending(REPORTS) == [REPORTS[1], REPORTS[3]]
    assert written.read_text().splitlines() == [before[0], before[2]]
    assert [p.name for p in written.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize(
    "content", [b"my only notes", b'{"report_id": "a", "text": "x"}\n', b"[1]\n", b"\xff\xfe\n", b'{"sentences": ']
)
def test_a_file_of_another_kind_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ReportError, match=r"notes.txt, line 1: not a decomposed report"):
        journal(path)
    assert path.read_bytes() == content


def test_other_settings_and_changed_texts_are_refused(written):
    with pytest.raises(InputError, match=r"made with other settings .group='fvlm4'."):
        Journal(written, {**SETTINGS, "group": "anatomy36"})
    with journal(written) as j, pytest.raises(InputError, match="'r0' was made from another text"):
        j.pending([ReportText("r0", "changed")])


def test_a_report_that_stands_there_twice_is_told(written):
    written.write_bytes(written.read_bytes() + written.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(ReportError, match="line 4: report 'r0' stands there twice"):
        journal(written)


@pytest.mark.skipif(sys.platform == "win32", reason="no file locks of this kind")
def test_two_runs_do_not_write_one_file(written):
    with journal(written), pytest.raises(OutputError, match="another run is writing it"):
        journal(written)
    journal(written).close()


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        journal(tmp_path / "absent" / "out.jsonl")


def test_an_error_leaves_the_finished_reports(tmp_path, monkeypatch):
    """A bug in a decomposer stops the run; what was finished before stays, and the next run goes on."""
    from CTGroundedVLMTraining.decompose import rules

    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"report_id": f"r{i}", "text": f"Liver cyst {i}."}) + "\n" for i in range(5)))
    real = rules.decompose_by_rules

    def breaks_at_3(text, finder):
        if "3" in text:
            raise CTGroundedVLMError("bug")
        return real(text, finder)

    monkeypatch.setattr(rules, "decompose_by_rules", breaks_at_3)
    arguments = ["decompose", str(source), str(out), "--quiet"]
    assert cli.main(arguments) == 1
    assert len(out.read_text().splitlines()) == 3
    monkeypatch.undo()
    assert cli.main(arguments) == 0
    assert [json.loads(line)["report_id"] for line in out.read_text().splitlines()] == [f"r{i}" for i in range(5)]


def start(source, out, url):
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'CTGroundedVLM')!r}, {str(ROOT / 'Training')!r}]\n"
        "from CTGroundedVLMTraining.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["decompose", source, out, "--method", "llm", "--group", "fvlm4", "--server", url, "--llm-model", MODEL,
                 "--threads", "4", "--retry-wait", "0.01", "--quiet"]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_kill_9_again_and_again_loses_and_repeats_nothing(tmp_path):
    source, out, plain = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "plain.jsonl"
    text = "FINDINGS: Heart size {i} is normal. Nodule {i} in the lung.\nIMPRESSION: Lung nodule {i}."
    ids = [f"r{i}" for i in range(40)]
    source.write_text(
        "".join(json.dumps({"report_id": f"r{i}", "text": text.replace("{i}", str(i))}) + "\n" for i in range(40))
    )

    def slow(prompt, number):
        return Reply(reader(prompt), delay_s=0.02)

    with running(slow) as server:
        for target in (5, 15, 25):
            process = start(source, out, server.url)
            deadline = time.monotonic() + 30
            while lines(out) < target and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.005)
            assert process.poll() is None, process.stderr.read()
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=10)
            done = lines(out)
            assert target <= done < 40
            with open(out, "ab") as file:  # what a kill in the middle of a write leaves
                file.write(b'{"report_id": "r3')
        process = start(source, out, server.url)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        most_asked = max(server.counts.values())
        asked = sum(server.counts.values())
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(r["report_id"] for r in records) == sorted(ids)
    assert all(r["error"] is None for r in records)
    with running(reader) as server:
        process = start(source, plain, server.url)
        process.communicate(timeout=60)
        needed = sum(server.counts.values())
    by_id = {r["report_id"]: r for r in map(json.loads, plain.read_text().splitlines())}
    assert {r["report_id"]: r for r in records} == by_id
    assert needed == 40 * 10
    assert asked <= needed + 3 * 4  # at most what the four threads waited for at each kill
    assert most_asked <= 4


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
def test_an_interrupt_ends_at_once_and_can_be_gone_on_from(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        "".join(json.dumps({"report_id": f"r{i}", "text": f"The lung has nodule {i}."}) + "\n" for i in range(20))
    )

    def hangs_after_some(prompt, number):
        return Reply(reader(prompt), delay_s=20.0 if "nodule 1" in prompt else 0.0)

    with running(hangs_after_some) as server:
        process = start(source, out, server.url)
        deadline = time.monotonic() + 30
        while lines(out) < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
        assert time.monotonic() - asked < 8
    assert process.returncode == 130
    assert b"run the same command again to go on" in errors
    with journal_of(out) as j:
        assert 1 <= len(j.done) < 20


def journal_of(path):
    record = json.loads(path.read_text().splitlines()[0])
    return Journal(path, {"method": record["method"], **record["settings"]})

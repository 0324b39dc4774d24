"""Decomposition by a language model, against a small server on this computer."""

import json
import threading
import time

import pytest

from chat_server import MODEL, Reply, reader, running
from CTGroundedVLMLib.errors import DependencyError, InputError, OutputError
from CTGroundedVLMTraining import cli
from CTGroundedVLMTraining.decompose.asking import Asker, RetryPolicy
from CTGroundedVLMTraining.decompose.cache import AnswerCache
from CTGroundedVLMTraining.decompose.chat import BusyError, ReportFailure
from CTGroundedVLMTraining.decompose.llm import LLMDecomposer
from CTGroundedVLMTraining.decompose.organs import organ_finder
from CTGroundedVLMTraining.decompose.runner import GIVE_UP
from CTGroundedVLMTraining.decompose.server import OpenAIServer

ORGANS = organ_finder("fvlm4").names
TEXT = (
    "TECHNIQUE: {report} Aortic phase.\n"
    "FINDINGS: Heart size is normal. Small pleural effusion {organ}.\n"
    "IMPRESSION: Pleural effusion."
)
QUICK = RetryPolicy(first_s=0.001, longest_s=0.01)
ASK = [{"role": "user", "content": "Is it? yes or no"}]


def yes_or_no(answer):
    return answer if answer in ("yes", "no") else None


class ScriptedModel:
    """Gives its answers in turn; an exception is raised."""

    identity = "scripted"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def complete(self, messages):
        self.asked.append(messages)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def asker(model, cache=None, policy=QUICK):
    return Asker(model, cache or AnswerCache(None), policy, threading.Event())


def client(server, **options):
    return OpenAIServer(server.url, MODEL, **options)


def decompose(answer, text=TEXT):
    with running(answer) as server:
        return LLMDecomposer(asker(client(server)), ORGANS)(text), server


def test_mention_extract_and_normality_make_a_description():
    organs, server = decompose(reader)
    lung, heart = organs["lung"], organs["heart"]
    assert (lung.findings, lung.impression, lung.status) == (
        "Small pleural effusion {organ}.",
        "Pleural effusion.",
        "abnormal",
    )
    assert [TEXT[a:b] for a, b in lung.sentences] == ["Small pleural effusion {organ}.", "Pleural effusion."]
    assert (heart.findings, heart.impression, heart.status) == ("Heart size is normal.", "", "normal")
    assert organs["aorta"].status == organs["esophagus"].status == "not mentioned"
    assert len(server.requests) == 4 + (2 + 1) + (2 + 1)  # mentions; extracts and normality of lung and heart
    assert all(r["temperature"] == 0 and r["model"] == MODEL for r in server.requests)
    assert not any("Aortic phase" in r["messages"][-1]["content"] for r in server.requests)  # technique stays here


def test_the_model_reads_subheadings_and_no_other_section():
    text = (
        "FINDINGS:\nHEART: Normal.\nLUNGS: Clear.\nINDICATION: Mr Miller, cough.\n"
        "IMPRESSION: Nothing new.\nADDENDUM: Small hiatal hernia."
    )
    seen = []

    def answer(prompt, number):
        seen.append(prompt)
        return "yes" if "yes or no" in prompt else "NONE"

    decompose(answer, text)
    extracted = {p.split("\n\nExtract")[0] for p in seen if "Extract" in p}
    assert not any("Miller" in prompt for prompt in seen)
    findings = next(p for p in extracted if p.startswith("Findings"))
    assert "HEART: Normal." in findings
    assert "LUNGS: Clear." in findings
    assert "Small hiatal hernia." in findings
    assert "Nothing new" not in findings
    assert "Impression of a report:\nNothing new." in extracted


@pytest.mark.parametrize(
    "empty",
    [
        "NONE",
        "lung: Not specifically described in the report.",
        "Not mentioned.",
        "No information about the lung in this text.",
        "None.",
    ],
)
def test_an_empty_description_is_not_mentioned(empty):
    def answer(prompt, number):
        return "yes" if "yes or no" in prompt else empty if "Extract" in prompt else "normal"

    organs, _ = decompose(answer)
    assert {(d.status, d.findings, d.impression) for d in organs.values()} == {("not mentioned", "", "")}


@pytest.mark.parametrize("said", ["Yes.", "**yes**", " YES\n", '"Yes"', "Answer: yes", "<think>no? hmm</think>\nyes"])
def test_spellings_of_a_word_are_understood(said):
    organs, _ = decompose(
        lambda prompt, n: said if "yes or no" in prompt else reader(prompt, n) if "Extract" in prompt else "Abnormal."
    )
    assert organs["heart"].status == "abnormal"


@pytest.mark.parametrize("task", ["yes or no", "Extract", "normal or abnormal"])
@pytest.mark.parametrize("garbage", ["Perhaps, it depends.", "", "I'm sorry, I cannot help with that."])
def test_an_invalid_answer_is_a_failure_never_a_text(task, garbage):
    if task == "Extract" and garbage.startswith("Perhaps"):
        garbage = "lorem ipsum " * 100  # more than the report says
    asked = (task, "exactly one word", "from the text above")  # the question, and the reminders after it

    def answer(prompt, number):
        return garbage if any(words in prompt for words in asked) else reader(prompt)

    with pytest.raises(ReportFailure, match=r"^lung, (mention|extract|normality): no valid answer in 3 tries"):
        decompose(answer)


def test_after_an_invalid_answer_the_model_is_reminded():
    model = ScriptedModel("Hm.", "yes")
    assert asker(model).ask(ASK, yes_or_no, "One word!") == "yes"
    assert [m["content"] for m in model.asked[1]] == ["Is it? yes or no", "Hm.", "One word!"]


def test_a_busy_server_is_asked_again_and_a_dead_one_given_up():
    model = ScriptedModel(*[BusyError("busy")] * 10, "no")
    assert asker(model).ask(ASK, yes_or_no, "") == "no"
    with pytest.raises(ReportFailure, match="busy, 11 times"):
        asker(ScriptedModel(*[BusyError("busy")] * 11)).ask(ASK, yes_or_no, "")


def test_waits_double_up_to_the_longest_and_honour_the_server():
    policy = RetryPolicy(first_s=1, longest_s=60)
    assert [0.75 * 2**n <= policy.wait_s(n, None) <= 2**n for n in range(5)] == [True] * 5
    assert policy.wait_s(9, None) == 60
    assert policy.wait_s(0, 17) == 17
    assert policy.wait_s(0, 1e9) == 60
    with pytest.raises(InputError, match="--retries 11: expected 0 to 10"):
        RetryPolicy(retries=11)


def test_stopping_ends_a_wait():
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    start = time.monotonic()
    with pytest.raises(ReportFailure, match="stopped"):
        Asker(ScriptedModel(BusyError("busy")), AnswerCache(None), RetryPolicy(first_s=30), stop).ask(
            ASK, yes_or_no, ""
        )
    assert time.monotonic() - start < 5


def test_valid_answers_are_kept_by_model_and_prompt(tmp_path):
    path = tmp_path / "c.sqlite"
    cache = AnswerCache(path)
    assert asker(ScriptedModel("Hm.", "yes"), cache).ask(ASK, yes_or_no, "") == "yes"
    cache.close()
    again = AnswerCache(path)
    assert asker(ScriptedModel(), again).ask(ASK, yes_or_no, "") == "yes"  # nothing is asked
    other = ScriptedModel("no", "no")
    other.identity = "other"
    assert asker(other, again).ask(ASK, yes_or_no, "") == "no"
    assert asker(other, again).ask([{"role": "user", "content": "else"}], yes_or_no, "") == "no"
    again.close()


def test_a_file_that_is_no_cache_is_refused_and_kept(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes, quite long ones " * 50)
    with pytest.raises(OutputError, match=r"notes.txt: cannot be used as a cache"):
        AnswerCache(path)
    assert path.read_text().startswith("my notes")


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (Reply(status=429, headers={"Retry-After": "7"}), BusyError, "HTTP 429"),
        (Reply(status=503), BusyError, "HTTP 503"),
        (Reply(body=b"<html>garbage"), BusyError, "not the form of a chat completion: <html>garbage"),
        (Reply(body=b'{"choices": []}'), BusyError, "not the form"),
        (Reply(body=b'{"choices": [{"message": {"content": null}}]}'), BusyError, "holds no text"),
        (Reply(text="yes", headers={"Content-Length": "9999"}), BusyError, "no answer"),
        (Reply(text="yes", delay_s=1.5), BusyError, "timed out"),
        (Reply(status=400, body=b"context too long"), ReportFailure, "HTTP 400: context too long"),
        (Reply(text="The lung", finish_reason="length"), ReportFailure, "raise --max-tokens"),
        (Reply(status=401, body=b"bad key"), DependencyError, "refuses the key .HTTP 401: bad key"),
        (Reply(status=404, body=b"no such model"), DependencyError, "HTTP 404: no such model.*Correct --server or --llm-model"),
        (Reply(status=302, headers={"Location": "http://elsewhere.invalid/"}), DependencyError, "redirects to another address"),
    ],
)  # fmt: skip
def test_what_a_server_answers_is_told_apart(reply, error, message):
    with running(lambda prompt, number: reply) as server, pytest.raises(error, match=message) as caught:
        client(server, timeout_s=0.7).complete(ASK)
    assert error is not BusyError or caught.value.retry_after_s == (7 if reply.status == 429 else None)


def test_a_wrong_address_is_told_at_once():
    with running(reader) as server:
        url = server.url
    with pytest.raises(
        DependencyError, match=r"No server answers at http://127.0.0.1:\d+/v1 .*refused.*correct --server"
    ):
        OpenAIServer(url, MODEL).check()


def test_a_model_that_the_server_lacks_is_told_at_once():
    with (
        running(reader, models=("a", "b")) as server,
        pytest.raises(DependencyError, match="no model 'test-model'; it has a, b"),
    ):
        client(server).check()


def test_a_server_without_a_list_of_models_is_taken():
    with running(lambda prompt, n: "yes", models=None) as server:
        client(server).check()
        assert client(server).complete(ASK) == "yes"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("localhost:8000", "http://localhost:8000/v1"),
        ("https://host.invalid/api/v3/", "https://host.invalid/api/v3"),
        ("http://[::1]:9/v1/chat/completions", "http://[::1]:9/v1"),
    ],
)
def test_usual_forms_of_an_address_are_understood(url, base):
    assert OpenAIServer(url, MODEL).url == base


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "http://", "http://user:secret@host/v1", "http://host:99999/v1", "http://h/v1?key=x"]
)
def test_addresses_that_cannot_be_used_are_refused_without_telling_a_password(url):
    with pytest.raises(InputError, match="--server") as caught:
        OpenAIServer(url, MODEL)
    assert "user:secret" not in str(caught.value)


def test_only_this_computers_addresses_are_local():
    urls = (
        "http://localhost:1",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://192.168.0.7:1",
        "https://localhost.example.invalid",
    )
    assert [OpenAIServer(url, MODEL).is_local for url in urls] == [True, True, True, False, False]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"report_id": f"r{i}", "text": TEXT + f" Case {i}."}) + "\n" for i in range(6)))
    return path


def run(source, url, *options):
    out = source.with_name("out.jsonl")
    arguments = ["decompose", source, out, "--method", "llm", "--group", "fvlm4", "--server", url, "--llm-model", MODEL,
                 "--retry-wait", 0.001, "--quiet", *options]  # fmt: skip
    code = cli.main([str(a) for a in arguments])
    return code, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def test_the_command_survives_a_flaky_server(source, monkeypatch):
    def flaky(prompt, number):
        if number == 1:
            return (
                Reply(status=429) if len(prompt) % 3 else Reply(body=b"oops") if len(prompt) % 2 else Reply(status=500)
            )
        return reader(prompt)

    monkeypatch.setenv("CTGVLM_LLM_API_KEY", "sesame\n")
    with running(flaky) as server:
        code, records = run(source, server.url)
    assert code == 0
    assert sorted(r["report_id"] for r in records) == [f"r{i}" for i in range(6)]
    assert {r["organs"]["lung"]["status"] for r in records} == {"abnormal"}
    assert records[0]["method"] == "llm"
    assert records[0]["settings"]["model"] == MODEL
    assert {h["Authorization"] for h in server.headers} == {"Bearer sesame"}


def test_a_failed_report_is_marked_and_can_be_tried_again(source, capsys):
    broken = [True]

    def answer(prompt, number):
        if broken and "Case 3" in prompt and "lung" in prompt.rsplit("\n", 1)[-1]:
            return Reply(status=400, body=b"no")
        return reader(prompt)

    with running(answer) as server:
        code, records = run(source, server.url)
        failed = [r for r in records if r["error"] is not None]
        assert code == 8
        assert [(r["report_id"], r["organs"]) for r in failed] == [("r3", {})]
        assert failed[0]["error"].startswith("lung, mention: the server refused the request (HTTP 400: no)")
        assert "1 reports failed" in capsys.readouterr().err
        broken.clear()
        asked = len(server.requests)
        assert run(source, server.url) == (8, records)  # not without being asked to
        assert len(server.requests) == asked
        code, again = run(source, server.url, "--retry-failed")
    assert code == 0
    assert [r for r in again if r["report_id"] != "r3"] == [r for r in records if r["report_id"] != "r3"]
    assert [(r["report_id"], r["error"], r["organs"]["lung"]["status"]) for r in again if r["report_id"] == "r3"] == [
        ("r3", None, "abnormal")
    ]


def test_equal_reports_are_asked_once_and_no_cache_asks_again(source):
    source.write_text("".join(json.dumps({"report_id": f"r{i}", "text": TEXT}) + "\n" for i in range(3)))
    with running(reader) as server:
        run(source, server.url, "--threads", 1)
        assert len(server.requests) == 10
        source.with_name("out.jsonl").unlink()
        run(source, server.url, "--threads", 1)
        assert len(server.requests) == 10
        source.with_name("out.jsonl").unlink()
        run(source, server.url, "--threads", 1, "--no-cache")
        assert len(server.requests) == 40


def test_a_model_that_never_makes_sense_does_not_use_up_the_corpus(source, capsys):
    source.write_text(
        "".join(json.dumps({"report_id": f"r{i}", "text": TEXT + f" Case {i}."}) + "\n" for i in range(60))
    )
    with running(lambda prompt, number: "Maybe.") as server:
        code, records = run(source, server.url)
    assert code == 5
    assert f"{GIVE_UP} reports in a row failed" in capsys.readouterr().err
    assert len(records) == GIVE_UP
    assert {r["error"] is not None and r["organs"] == {} for r in records} == {True}


def test_a_refused_key_stops_the_run_and_marks_nothing(source, capsys):
    with running(lambda prompt, number: Reply(status=401, body=b"who are you")) as server:
        assert run(source, server.url) == (5, [])
    assert "refuses the key (HTTP 401: who are you)" in capsys.readouterr().err


def test_a_wrong_address_stops_the_command_before_it_begins(source, capsys):
    with running(reader) as server:
        url = server.url
    assert run(source, url) == (5, [])
    assert "No server answers at" in capsys.readouterr().err
    assert not source.with_name("out.jsonl").exists()


def test_a_warning_tells_that_reports_leave_this_computer(source, capsys, monkeypatch):
    monkeypatch.setattr(
        OpenAIServer, "check", lambda self: (_ for _ in ()).throw(DependencyError("not contacted in a test"))
    )
    assert run(source, "http://192.0.2.7/v1")[0] == 5
    warned = capsys.readouterr().err
    assert "http://192.0.2.7/v1 is not this computer: the reports leave it" in warned
    assert "is not encrypted" in warned
    assert run(source, "http://127.0.0.1:9/v1")[0] == 5
    assert "warning" not in capsys.readouterr().err

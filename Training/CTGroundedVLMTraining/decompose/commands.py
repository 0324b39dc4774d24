"""``ctgvlm-train decompose`` and ``score-decomposition``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from CTGroundedVLMLib.anatomy import organ_groups
from CTGroundedVLMLib.errors import InputError

from ..options import refuse
from .runner import Decomposer

SOME_FAILED = 8
_KEY_VARIABLE = "CTGVLM_LLM_API_KEY"
_OF_SERVER = ("llm_model", "api_key_env", "threads", "timeout")
_OF_LLM = (
    *("server", *_OF_SERVER, "transformers_model", "device", "retries", "retry_wait", "max_tokens"),
    *("cache", "no_cache"),
)
_DESCRIPTION = """Turn reports into one description and one explicit status per organ: normal, abnormal, uncertain or
not mentioned. The output grows by one line per finished report; run the same command again after an interruption to
go on. See docs/decompose.md."""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add the commands to ``ctgvlm-train``."""
    _add_decompose(commands)
    p = commands.add_parser("score-decomposition", help="compare a decomposition with annotated reports")
    p.set_defaults(run=score_decomposition)
    p.add_argument("gold", type=Path, metavar="GOLD.jsonl", help="annotated reports")
    p.add_argument("output", type=Path, metavar="OUT.jsonl", help="what decompose has written")
    p.add_argument("--group", choices=organ_groups(), default="anatomy36", help="as for decompose (default anatomy36)")
    p.add_argument("--json", action="store_true", help="print the total as JSON")


def _add_decompose(commands: argparse._SubParsersAction) -> None:
    p = commands.add_parser(
        "decompose", help="reports -> descriptions and normality per organ", description=_DESCRIPTION
    )
    p.set_defaults(run=decompose, parser=p)
    p.add_argument(
        "input", type=Path, metavar="IN", help=".jsonl (report_id, text), or .csv, such as CT-RATE's reports"
    )
    p.add_argument("output", type=Path, metavar="OUT.jsonl")
    p.add_argument("--method", choices=("rules", "llm"), default="rules")
    p.add_argument("--group", choices=organ_groups(), default="anatomy36", help="the organs (default anatomy36)")
    p.add_argument("--normality", choices=("status", "legacy"), default="status",
                   help="legacy: fVLM's release, where a finding outside the impression counts as normal")  # fmt: skip
    p.add_argument("--id-column", metavar="NAME", help="default: report_id, or VolumeName in CT-RATE's table")
    p.add_argument("--text-column", metavar="NAME", help="default: text, or CT-RATE's Findings_EN and Impressions_EN")
    p.add_argument("--retry-failed", action="store_true", help="try reports again that failed in an earlier run")
    p.add_argument("--quiet", action="store_true", help="no progress")
    group = p.add_argument_group("language model (--method llm)")
    group.add_argument("--server", metavar="URL", help="an OpenAI-compatible server, such as http://localhost:8000/v1; "
                       "reports are sent there and nowhere else")  # fmt: skip
    group.add_argument("--llm-model", metavar="NAME", help="the model's name on that server")
    group.add_argument("--api-key-env", metavar="VARIABLE", default=_KEY_VARIABLE,
                       help=f"environment variable with the server's key, if it wants one (default {_KEY_VARIABLE})")  # fmt: skip
    group.add_argument("--transformers-model", type=Path, metavar="DIR", help="instead of a server: a local model")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="for the local model")
    group.add_argument("--threads", type=_positive, default=8, metavar="N", help="reports at a time (default 8)")
    group.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds per request (default 120)")
    group.add_argument("--retries", type=int, default=10, metavar="N", help="per request, 0 to 10 (default 10)")
    group.add_argument(
        "--retry-wait", type=float, default=1.0, metavar="S", help="first wait, doubled each time (default 1)"
    )
    group.add_argument("--max-tokens", type=_positive, default=1024, metavar="N", help="longest answer (default 1024)")
    group.add_argument("--cache", type=Path, metavar="FILE", help="answers already given (default OUT.jsonl.cache)")
    group.add_argument("--no-cache", action="store_true", help="keep no answers")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return value


def decompose(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train decompose``."""
    from .journal import Journal
    from .reports import read_reports
    from .runner import decompose as run

    _check(arguments)
    reports = read_reports(arguments.input, arguments.id_column, arguments.text_column)
    stop = threading.Event()
    method = _llm(arguments, stop) if arguments.method == "llm" else _rules(arguments)
    settings = {
        "method": arguments.method,
        "group": arguments.group,
        "normality": arguments.normality,
        **method.settings,
    }
    try:
        with Journal(arguments.output, settings, retry_failed=arguments.retry_failed, sync_s=method.sync_s) as journal:
            decomposer, progress = _with_normality(method.decomposer, arguments.normality), _Progress(arguments.quiet)
            summary = run(reports, decomposer, journal, settings, threads=method.threads, stop=stop, progress=progress)
            failed = sum(journal.done[report.report_id][1] is not None for report in reports)
    finally:
        method.close()
    print(f"{arguments.output}: {summary.made} reports made now, {summary.earlier} before; {failed} failed")
    if failed:
        print(
            f'ctgvlm-train: {failed} reports failed ("error" in their lines); --retry-failed tries them again',
            file=sys.stderr,
        )
    return SOME_FAILED if failed else 0


@dataclass(frozen=True)
class _Method:
    """How to decompose: what a command line's options come to."""

    decomposer: Decomposer
    settings: Mapping[str, object] = field(default_factory=dict)
    threads: int = 1
    sync_s: float = 1.0  # rules are quick: what a power cut takes is soon made again
    close: Callable[[], None] = lambda: None


def _with_normality(decomposer: Decomposer, normality: str) -> Decomposer:
    from .normality import with_legacy_normality

    return (lambda text: with_legacy_normality(decomposer(text))) if normality == "legacy" else decomposer


def _check(arguments: argparse.Namespace) -> None:
    if arguments.input.resolve() == arguments.output.resolve():
        raise InputError(f"{arguments.output} is the input, too; name another output")
    if arguments.method == "rules":
        refuse(arguments, _OF_LLM, "needs --method llm")
        return
    if bool(arguments.server) == bool(arguments.transformers_model):
        raise InputError("--method llm needs one of --server URL and --transformers-model DIR")
    if arguments.server and not arguments.llm_model:
        raise InputError("--server needs --llm-model NAME, the name of the model on that server")
    if arguments.server:
        refuse(arguments, ["device"], "needs --transformers-model: a server has its own")
    else:
        refuse(arguments, _OF_SERVER, "needs --server: a local model gives one answer at a time")
    if arguments.no_cache:
        refuse(arguments, ["cache"], "does not go with --no-cache")
    if not arguments.timeout > 0:
        raise InputError(f"--timeout {arguments.timeout}: expected more than 0 seconds")


def _rules(arguments: argparse.Namespace) -> _Method:
    from .organs import organ_finder
    from .rules import decompose_by_rules

    finder = organ_finder(arguments.group)
    return _Method(lambda text: decompose_by_rules(text, finder))


def _llm(arguments: argparse.Namespace, stop: threading.Event) -> _Method:
    from .asking import Asker, RetryPolicy
    from .cache import AnswerCache
    from .llm import LLMDecomposer, prompts_version
    from .organs import organ_finder

    policy = RetryPolicy(arguments.retries, arguments.retry_wait)
    if arguments.server:
        model, threads = _server(arguments), arguments.threads
    else:
        from .local_model import TransformersModel

        model = TransformersModel(
            arguments.transformers_model, device=arguments.device, max_tokens=arguments.max_tokens
        )
        threads = 1
    path = (
        None if arguments.no_cache else arguments.cache or arguments.output.with_name(f"{arguments.output.name}.cache")
    )
    cache = AnswerCache(path)
    decomposer = LLMDecomposer(Asker(model, cache, policy, stop), organ_finder(arguments.group).names)
    settings = {"model": model.identity, "prompts": prompts_version()}
    return _Method(decomposer, settings, threads, sync_s=0.0, close=cache.close)


def _server(arguments: argparse.Namespace):
    from .server import OpenAIServer

    key = os.environ.get(arguments.api_key_env, "").strip()
    model = OpenAIServer(
        arguments.server, arguments.llm_model, key=key, timeout_s=arguments.timeout, max_tokens=arguments.max_tokens
    )
    if not model.is_local:
        _warn(f"{model.url} is not this computer: the reports leave it. Make sure that you may send them there.")
        if not model.is_encrypted:
            _warn(f"{model.url} is not encrypted (http): reports and key can be read on their way.")
    model.check()
    return model


def _warn(message: str) -> None:
    print(f"ctgvlm-train: warning: {message}", file=sys.stderr, flush=True)


class _Progress:
    """A line on stderr every few seconds."""

    def __init__(self, quiet: bool, every_s: float = 5.0) -> None:
        self._quiet, self._every_s, self._start = quiet, every_s, time.monotonic()
        self._last = self._start

    def __call__(self, made: int, failed: int, total: int) -> None:
        now = time.monotonic()
        if self._quiet or (now - self._last < self._every_s and made < total):
            return
        self._last = now
        rate = made / max(now - self._start, 1e-9)
        left = f", {(total - made) / rate / 60:.0f} min left" if made < total else ""
        print(
            f"ctgvlm-train: {made} of {total} reports, {failed} failed, {rate:.1f} a second{left}",
            file=sys.stderr,
            flush=True,
        )


def score_decomposition(arguments: argparse.Namespace) -> int:
    """``ctgvlm-train score-decomposition``."""
    from .organs import organ_finder
    from .score import score_files, table

    result = score_files(arguments.gold, arguments.output, organ_finder(arguments.group))
    print(json.dumps(result.to_record()) if arguments.json else table(result))
    return 0

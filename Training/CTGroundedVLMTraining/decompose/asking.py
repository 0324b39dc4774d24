"""One question to a language model until it has a valid answer: cache, retries with growing waits, reminders."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from CTGroundedVLMLib.errors import InputError

from .cache import AnswerCache
from .chat import BusyError, ChatModel, Messages, ReportFailure

_SHOWN = 80


@dataclass(frozen=True)
class RetryPolicy:
    """``retries`` after the first try, each after twice the wait of the one before, up to ``longest_s``."""

    retries: int = 10
    first_s: float = 1.0
    longest_s: float = 60.0
    invalid_answers: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= 10:
            raise InputError(f"--retries {self.retries}: expected 0 to 10")
        if not 0 <= self.first_s <= self.longest_s:
            raise InputError(f"--retry-wait {self.first_s}: expected 0 to {self.longest_s} seconds")

    def wait_s(self, attempt: int, asked_s: float | None) -> float:
        """Wait after failed attempt number ``attempt`` (from 0); at least what the server asked, within ``longest_s``."""
        own = self.first_s * 2**attempt * random.uniform(0.75, 1.0)  # threads must not come back all at once
        return min(max(own, asked_s or 0.0), self.longest_s)


class Asker:
    """Asks one model. Shared by threads; ``stop`` ends waits early."""

    def __init__(self, model: ChatModel, cache: AnswerCache, policy: RetryPolicy, stop: threading.Event) -> None:
        self._model, self._cache, self._policy, self._stop = model, cache, policy, stop
        self.identity = model.identity

    def ask(self, messages: Messages, read: Callable[[str], str | None], reminder: str) -> str:
        """The first answer that ``read`` accepts (it returns None for an invalid one), as ``read`` returns it.

        After an invalid answer the model is shown it with ``reminder``.

        Raises:
            ReportFailure: no valid answer, or none at all, after all tries.
        """
        kept = self._cache.get(self.identity, messages)
        value = read(kept) if kept is not None else None
        if value is not None:
            return value
        conversation = list(messages)
        for _ in range(self._policy.invalid_answers):
            answer = self._complete(conversation)
            value = read(answer)
            if value is not None:
                self._cache.put(self.identity, messages, answer)
                return value
            conversation = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": reminder}]
        shown = answer if len(answer) <= _SHOWN else f"{answer[:_SHOWN]}..."
        raise ReportFailure(f"no valid answer in {self._policy.invalid_answers} tries; the last one was {shown!r}")

    def _complete(self, messages: Messages) -> str:
        for attempt in range(self._policy.retries + 1):
            try:
                return self._model.complete(messages)
            except BusyError as error:
                if attempt == self._policy.retries:
                    raise ReportFailure(f"{error}, {attempt + 1} times") from error
                if self._stop.wait(self._policy.wait_s(attempt, error.retry_after_s)):
                    raise ReportFailure("stopped") from error
        raise AssertionError("unreachable: the loop returns or raises")

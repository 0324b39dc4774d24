"""A language model behind one call, and what can go wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from CTGroundedVLMLib.errors import CTGroundedVLMError

Messages = Sequence[Mapping[str, str]]  # {"role": "system" | "user" | "assistant", "content": text}


class ChatModel(Protocol):
    """Answers a conversation. Called from several threads at once."""

    identity: str  # tells models apart in the cache and in the output

    def complete(self, messages: Messages) -> str:
        """The model's answer.

        Raises:
            BusyError: worth another try later.
            ReportFailure: this conversation will not be answered, others may.
            DependencyError, ModelError: nothing will be answered; the run stops.
        """
        ...


class ReportFailure(CTGroundedVLMError):  # noqa: N818 -- it is an outcome that is recorded, and stops nothing
    """One report cannot be decomposed; the reason is recorded with it."""


class BusyError(CTGroundedVLMError):
    """The model cannot answer now. ``retry_after_s``: what the server asked to wait, or None."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

"""Answers of a language model on disk, so that a killed or repeated run asks nothing twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path

from CTGroundedVLMLib.errors import OutputError

from .chat import Messages


class AnswerCache:
    """SQLite file: hash of model and conversation -> answer. Answers quote reports: keep the file as safe as those.

    Safe with threads and with other runs on the same file.
    """

    def __init__(self, path: Path | None) -> None:
        """None: nothing is kept. Raises OutputError where ``path`` cannot be used."""
        self._path, self._lock, self._database = path, threading.Lock(), None
        if path is None:
            return
        try:
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.Error as error:
            raise self._error(error) from error

    def get(self, model: str, messages: Messages) -> str | None:
        """The answer, or None."""
        if self._database is None:
            return None
        try:
            with self._lock:
                row = self._database.execute(
                    "SELECT answer FROM answers WHERE key = ?", (_key(model, messages),)
                ).fetchone()
        except sqlite3.Error as error:
            raise self._error(error) from error
        return row[0] if row else None

    def put(self, model: str, messages: Messages, answer: str) -> None:
        """Keep an answer."""
        if self._database is None:
            return
        try:
            with self._lock:
                self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_key(model, messages), answer))
        except sqlite3.Error as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            with self._lock:
                self._database.close()

    def _error(self, error: sqlite3.Error) -> OutputError:
        return OutputError(
            f"{self._path}: cannot be used as a cache ({error}); remove it, name another, or use --no-cache"
        )


def _key(model: str, messages: Messages) -> str:
    content = json.dumps([model, [[m["role"], m["content"]] for m in messages]])
    return hashlib.sha256(content.encode()).hexdigest()

"""Small file helpers shared by everything that writes: atomic writes, checksums, cache folders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .folders import cache_folder, models_folder

__all__ = ["atomic_path", "cache_folder", "models_folder", "sha256_of", "share"]

_UMASK = os.umask(0o022)  # it can only be read by setting it, for the whole process: once, before there are threads
os.umask(_UMASK)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside ``target`` that takes its place when the block ends well, and is removed otherwise."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        share(temporary)  # mkstemp makes files that only their owner can read
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Give a file the mode that a new file has."""
    path.chmod(0o666 & ~_UMASK)

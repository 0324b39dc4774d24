"""Small file helpers shared by everything that writes: atomic writes, checksums, cache folders."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

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


def cache_folder() -> Path:
    """Where caches lie: ``CTGVLM_CACHE_DIR``, or the system's cache folder."""
    return Path(os.environ.get("CTGVLM_CACHE_DIR") or platformdirs.user_cache_dir("ctgvlm", appauthor=False))


def models_folder() -> Path:
    """Where named models lie: ``CTGVLM_MODELS_DIR``, or the system's data folder."""
    default = Path(platformdirs.user_data_dir("ctgvlm", appauthor=False)) / "models"
    return Path(os.environ.get("CTGVLM_MODELS_DIR") or default)

"""Where caches and models lie on each system. The standard library alone: Slicer asks before anything is installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PROGRAM = "ctgvlm"


def cache_folder() -> Path:
    """Where caches lie: ``CTGVLM_CACHE_DIR``, or the system's cache folder."""
    if chosen := os.environ.get("CTGVLM_CACHE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return _local_app_data() / _PROGRAM / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / _PROGRAM
    return _xdg("XDG_CACHE_HOME", ".cache") / _PROGRAM


def models_folder() -> Path:
    """Where named models lie: ``CTGVLM_MODELS_DIR``, or the system's data folder. Slicer and ``ctgvlm`` share it."""
    if chosen := os.environ.get("CTGVLM_MODELS_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return _local_app_data() / _PROGRAM / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / _PROGRAM / "models"
    return _xdg("XDG_DATA_HOME", ".local/share") / _PROGRAM / "models"


def bundled_models_folder() -> Path:
    """Where the models lie that come with the software, each a model folder; ``CTGVLM_BUNDLED_MODELS_DIR`` names another place.

    The variable is for those who package the software, and for tests.
    """
    if chosen := os.environ.get("CTGVLM_BUNDLED_MODELS_DIR"):
        return Path(chosen)
    return Path(__file__).resolve().parent / "data" / "models"


def _local_app_data() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")


def _xdg(variable: str, default: str) -> Path:
    """XDG Base Directory Specification: an unset or empty variable means the default below the home folder."""
    return Path(os.environ.get(variable, "").strip() or Path.home() / default)

"""What a checkpoint directory says of itself: read without torch, for the model picker and ``ctgvlm models list``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..folders import bundled_models_folder, models_folder

FORMAT, FORMAT_VERSION = "ctgvlm-model", 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
CARD = "MODEL_CARD.md"  # its first line says what matters most
CALIBRATIONS = "calibration-*.json"  # one per way of running the model: see ``scoring.calibration_name``
STARTER = "starter"  # the bundled model: the default where the user has none and names none
UNTRAINED = "untrained"  # the name by which the model with random weights is asked for
UNTRAINED_ORGANS = "anatomy36"  # the organ group that it knows, so that any CT shows something
UNTRAINED_NOTICE = (
    "UNTRAINED MODEL: random weights. "
    "Every probability and heatmap is meaningless and shows only that the software runs."
)


def read_header(folder: Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint directory, checked for format and version.

    Raises:
        ModelError: the folder holds none, or one of another program or version.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(
            f"{folder} is no model folder: it holds no {CONFIG}. Expected a folder made by this software, "
            'for example with "ctgvlm models import-fvlm".'
        )
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        version = header["format_version"] if header["format"] == FORMAT else None
        complete = isinstance(header.get("name"), str) and isinstance(header.get("trained"), bool)
        complete = complete and isinstance(header.get("model", {}).get("organs"), dict)
        complete = complete and all(isinstance(finding, str) for finding in header.get("findings", []))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is no configuration of this software ({error}).") from error
    if version != FORMAT_VERSION:
        raise ModelError(f"{path} has format version {version}; this software reads version {FORMAT_VERSION}.")
    if not complete:
        raise ModelError(
            f'{path}: expected "name" (text), "trained" (true or false) and "model" with "organs". Copy it again.'
        )
    return header


def notice_of(header: dict[str, Any]) -> str:
    """What every output of this model must say; an untrained one always says so."""
    return header.get("notice") or ("" if header["trained"] else UNTRAINED_NOTICE)


def readable_models(folder: Path) -> dict[str, dict[str, Any]]:
    """Folder name -> header of every readable model directly inside a folder, by name. No folder: no models."""
    found = sorted(path.parent for path in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
    models = {}
    for path in found:
        if path.name.startswith("."):
            continue  # half-made or half-deleted
        try:
            models[path.name] = read_header(path)
        except ModelError:
            continue  # another program's folder: not ours to complain about
    return models


def card_line(folder: Path) -> str:
    """The first line of a model's card as plain text; "" where it has none."""
    try:
        lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return ""  # a model of somebody who wrote none: its header says the rest
    return next((line.strip(" #*_") for line in lines if line.strip(" #*_")), "")


def bundled_models() -> dict[str, dict[str, Any]]:
    """Name -> header of the models that come with the software; none where they were left out of this copy."""
    return readable_models(bundled_models_folder())


def known_folder(name: str) -> Path | None:
    """The folder of a model by name: one of the models folder, else a bundled one; None where there is none."""
    folders = (models_folder(), bundled_models_folder())
    return next((folder / name for folder in folders if name in readable_models(folder)), None)

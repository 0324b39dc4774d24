"""The models that a user can choose: listed with licence and size, imported, deleted. No torch: headers are read only."""

from __future__ import annotations

import os
import re
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .anatomy import organ_group
from .errors import InputError, ModelError, OutputError
from .folders import bundled_models_folder, models_folder
from .model.header import (
    CONFIG,
    STARTER,
    UNTRAINED,
    UNTRAINED_NOTICE,
    UNTRAINED_ORGANS,
    WEIGHTS,
    bundled_models,
    card_line,
    notice_of,
    read_header,
    readable_models,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")
_TRASH = ".deleted-"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")  # either is enough (model/tokenizer.py)
_SOURCE = Path(__file__).resolve().parents[1]  # the folder that holds this package: what PYTHONPATH must name


@dataclass(frozen=True)
class ModelInfo:
    """A model to choose.

    ``choice``: what ``find_model`` takes ("starter", "untrained", an installed name, or a folder's path). ``kind``: "bundled"
    comes with the software, "installed" lies in the models folder, "folder" is anywhere else. ``organs``: what it scores.
    ``notice``: what every output will say. ``bytes``: on disk, 0 for the untrained one, which is computed. ``card``: the
    first line of its model card, "" where it has none.
    """

    choice: str
    name: str
    kind: Literal["bundled", "installed", "folder"]
    folder: Path | None
    organs: tuple[str, ...]
    trained: bool
    license: str
    notice: str
    bytes: int
    card: str = ""

    @property
    def summary(self) -> str:
        """For a list of models: organs, size, whether it is bundled, licence, notice, first line of its card."""
        organs = f"{len(self.organs)} organs" if len(self.organs) > 6 else ", ".join(self.organs)
        size = f" ({self.bytes / 1e6:,.0f} MB)" if self.bytes else ""
        licence = f"Licence: {self.license.rstrip('.')}." if self.license else "No licence is stated."
        bundled = "Bundled with the software." if self.kind == "bundled" else ""
        card = "" if self.card == self.notice else self.card
        parts = (f"{organs}{size}.", bundled, licence if self.trained else "", self.notice, card)
        return " ".join(part for part in parts if part)


def list_models(folder: Path | None = None) -> list[ModelInfo]:
    """The models of the models folder by name, then the bundled ones, the one with random weights last.

    The first is what an analysis takes by default. Broken folders are left out; an installed model hides a bundled one of
    the same name.
    """
    folder = folder or models_folder()
    installed = [_info(folder / name, header, "installed") for name, header in readable_models(folder).items()]
    hidden = {model.name for model in installed}
    bundled = [
        _info(bundled_models_folder() / name, header, "bundled")
        for name, header in bundled_models().items()
        if name not in hidden
    ]
    return [*installed, *bundled, _untrained()]


def describe_folder(path: Path) -> ModelInfo:
    """A model folder anywhere on disk.

    Raises:
        ModelError: it is no model folder, or has no weights.
    """
    header = read_header(path)
    if not (path / WEIGHTS).is_file():
        raise ModelError(f"{path} holds no {WEIGHTS}. Copy the whole model folder again.")
    return _info(path, header, "folder")


def _info(folder: Path, header: Mapping[str, Any], kind: Literal["bundled", "installed", "folder"]) -> ModelInfo:
    return ModelInfo(
        choice=str(folder) if kind == "folder" else folder.name,
        name=folder.name,
        kind=kind,
        folder=folder,
        organs=tuple(header["model"]["organs"]),
        trained=header["trained"],
        license=header.get("license", ""),
        notice=notice_of(dict(header)),
        bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        card=card_line(folder),
    )


def _untrained() -> ModelInfo:
    organs = tuple(organ.name for organ in organ_group(UNTRAINED_ORGANS).organs)
    return ModelInfo(UNTRAINED, UNTRAINED, "bundled", None, organs, False, "", UNTRAINED_NOTICE, 0)


def delete_model(name: str, folder: Path | None = None) -> None:
    """Remove an installed model and everything in its folder.

    It disappears from the list in one step (a rename), then its files are removed: a file that another program holds open
    costs disk space, not a half-deleted model. Such remains are removed by the next call.

    Raises:
        InputError: not the name of a model in the models folder; nothing was touched.
        OutputError: the folder cannot be moved (no permission, open in another program); nothing was lost.
    """
    folder = folder or models_folder()
    if name == UNTRAINED:
        raise InputError("The untrained model is part of the software: it takes no disk space and cannot be deleted.")
    if name in bundled_models() and name not in readable_models(folder):
        raise InputError(f'The model "{name}" comes with the software and cannot be deleted.')
    path = folder / name
    if Path(name).name != name or name.startswith(".") or name not in readable_models(folder):
        known = ", ".join(readable_models(folder)) or "none"
        raise InputError(
            f'"{name}" is no model in {folder} (there: {known}). Only these can be deleted; remove others by hand.'
        )
    trash = folder / f"{_TRASH}{uuid.uuid4().hex}"
    try:
        if path.is_symlink():
            path.unlink()  # only the link is in our folder: what it points to is not ours
        else:
            os.replace(path, trash)
    except OSError as error:
        raise OutputError(
            f"The model {path} cannot be deleted ({error}). Close programs that use it, or remove the folder by hand."
        ) from error
    for left in folder.glob(f"{_TRASH}*"):
        shutil.rmtree(left, ignore_errors=True)


def free_name(wanted: str, folder: Path | None = None) -> str:
    """A name that no model has yet: the wanted one with what file systems refuse replaced, else with a number behind.

    Raises:
        InputError: nothing usable is left of the name.
    """
    folder = folder or models_folder()
    base = re.sub(r"[^A-Za-z0-9._ -]+", "-", wanted).strip(" .-")[:60]
    if not _NAME.fullmatch(base):
        raise InputError(f'"{wanted}" is no name for a model. Use letters, digits, spaces, ".", "-" and "_".')
    taken = {path.name.lower() for path in folder.iterdir()} if folder.is_dir() else set()
    taken |= {UNTRAINED, STARTER}
    names = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name.lower() not in taken)


def make_models_folder(folder: Path | None = None) -> Path:
    """The models folder, made where it is missing: for the button that opens it. Raises OutputError."""
    folder = folder or models_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The models folder {folder} cannot be made ({error}). Set CTGVLM_MODELS_DIR to a folder that you can write."
        ) from error
    return folder


@dataclass(frozen=True)
class ImportCommand:
    """How to convert fVLM's checkpoint in a process of its own (it needs torch): ``output`` appears complete or not at all."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    output: Path


def import_fvlm_command(
    checkpoint: Path,
    tokenizer: Path,
    name: str = "fvlm",
    *,
    python: Sequence[str] | str = "",
    folder: Path | None = None,
) -> ImportCommand:
    """The command that imports fVLM's released checkpoint into the models folder, after the checks that cost nothing.

    Args:
        python: how to start Python: "PythonSlicer" in Slicer; default: this Python. A list where it needs arguments.
        name: the wanted name; a free one like it is taken.

    Raises:
        ModelError: the checkpoint or the tokenizer's files are not there.
        InputError, OutputError: see ``free_name`` and ``make_models_folder``.
    """
    if not checkpoint.is_file():
        raise ModelError(f"{checkpoint} does not exist. Give the path of fVLM's checkpoint (checkpoint_10.pth).")
    if checkpoint.name == CONFIG or checkpoint.suffix == ".safetensors":
        raise ModelError(f"{checkpoint} belongs to a model folder already: choose its folder instead of importing it.")
    if not any((tokenizer / file).is_file() for file in _TOKENIZER_FILES):
        raise ModelError(
            f"{tokenizer} holds neither {' nor '.join(_TOKENIZER_FILES)}. Download the tokenizer files of "
            "microsoft/BiomedVLP-CXR-BERT-specialized into one folder and choose that."
        )
    output = make_models_folder(folder) / free_name(name, folder)
    start = [python] if isinstance(python, str) else list(python)
    command = [*(start if start != [""] else [sys.executable]), "-m", "CTGroundedVLMLib.cli", "models", "import-fvlm"]
    arguments = [str(checkpoint), "--tokenizer", str(tokenizer), "--output", str(output)]
    paths = os.pathsep.join([str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    return ImportCommand((*command, *arguments), {"PYTHONPATH": paths}, output)

"""A run on disk: ``config.json``, ``metrics.jsonl`` and checkpoints (``checkpoints/step-N``), each of them complete."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.files import atomic_path

from .config import TrainingConfig

STATE = "state.pt"


class RunFolder:
    """The folder of one run.

    Raises:
        InputError: the folder holds a run with another configuration.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, config: TrainingConfig) -> None:
        self.folder, self.config = folder, config
        self.checkpoints = folder / "checkpoints"

    def prepare(self) -> None:
        """Make the folder, or check that it holds this very run."""
        path = self.folder / "config.json"
        ours = json.loads(json.dumps(self.config.to_dict()))
        if path.is_file():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            if differing:
                raise InputError(
                    f"{self.folder} holds a run with another configuration ({', '.join(differing)} differ). "
                    "Choose another folder, or the options of that run."
                )
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(ours, indent=1), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written ({error}). Choose another folder.") from error

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write a checkpoint; it appears complete or not at all, and only then are the oldest ones removed.

        Raises:
            OutputError: it cannot be written (disk full): earlier checkpoints stay.
        """
        target = self.checkpoints / f"step-{step:08d}"
        try:
            partial = Path(tempfile.mkdtemp(dir=self.checkpoints, prefix=".partial-"))
            try:
                torch.save(state, partial / STATE)
                partial.chmod(0o755)
                if target.exists():  # the same step again, after a resume: the same content
                    shutil.rmtree(target)
                os.replace(partial, target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError on a full disk
            raise OutputError(
                f"The checkpoint of step {step} cannot be written to {self.checkpoints} ({error}). Free space, then run the "
                "same command again: it continues from the last complete checkpoint."
            ) from error
        for old in self.steps()[: -self.config.keep]:
            shutil.rmtree(self.checkpoints / f"step-{old:08d}", ignore_errors=True)
        return target

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, in order."""
        found = self.checkpoints.glob("step-*") if self.checkpoints.is_dir() else []
        return sorted(int(path.name[5:]) for path in found if (path / STATE).is_file())

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state of the last checkpoint; None where there is none."""
        steps = self.steps()
        if not steps:
            return None
        path = self.checkpoints / f"step-{steps[-1]:08d}" / STATE
        try:
            return torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # a damaged file makes the unpickler fail in any way
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}). Remove its folder: the run then continues from the "
                "checkpoint before it."
            ) from error

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

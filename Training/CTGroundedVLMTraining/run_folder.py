"""A run on disk.

::

    config.json        the configuration, whole
    data.json          which data: where, how many cases, a hash of them
    tokenizer/         as the model will carry it
    checkpoints/step-N/state.pt    weights, optimiser, averages, random numbers of each rank; each of them complete
    metrics.jsonl      one line a step
    tensorboard/       the same numbers
    model/             when the run is done: what ``ctgvlm analyze --model`` takes
"""

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
        self.tokenizer, self.model = folder / "tokenizer", folder / "model"

    def prepare(self) -> None:
        """Make the folder, or check that it holds this very run, and remove what a killed process left unfinished.

        For rank 0 before its first ``save``: another rank must not, and nothing may be being written there.
        """
        ours = json.loads(json.dumps(self.config.to_dict()))
        theirs = read_json(self.folder / "config.json")
        if theirs is not None:
            # of a version that lacked a field: it had what is now the default
            theirs = json.loads(json.dumps(TrainingConfig.from_dict(theirs).to_dict()))
            differing = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
            if differing:
                raise InputError(
                    f"{self.folder} holds a run with another configuration ({', '.join(differing)} differ). "
                    "Choose another folder, or the options of that run."
                )
            for partial in self.checkpoints.glob(".partial-*"):  # cut off by a SIGKILL; as large as a checkpoint each
                shutil.rmtree(partial, ignore_errors=True)
            return
        self.write_json("config.json", ours)

    def check_data(self, data: dict[str, Any]) -> None:
        """Keep what the run learns from, or check that it is still that; where it lies does not matter."""
        before = read_json(self.folder / "data.json")
        if before is None:
            self.write_json("data.json", data)
        elif before["identity"] != data["identity"]:
            raise InputError(
                f"{self.folder} was started on other data ({before['cases']} cases in {before['location']}; now "
                f"{data['cases']} in {data['location']}). Continue it with those, or choose another folder for a new run."
            )

    def data(self) -> dict[str, Any]:
        """What the run learns from, as ``check_data`` keeps it; empty where it has not begun."""
        return read_json(self.folder / "data.json") or {}

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """One of the small files beside the checkpoints."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.folder / name) as temporary:
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
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
                with open(partial / STATE, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
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

    def load(self, step: int | None = None) -> dict[str, Any] | None:
        """The state of a step, on the CPU; of the last checkpoint by default; None where there is none."""
        steps = self.steps()
        if step is not None and step not in steps:
            raise InputError(
                f"{self.folder} has no checkpoint of step {step}; it has {', '.join(map(str, steps)) or 'none'}."
            )
        if not steps:
            return None
        path = self.checkpoints / f"step-{steps[-1] if step is None else step:08d}" / STATE
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes the unpickler fail in any way
            raise InputError(
                f"{path} cannot be read ({type(error).__name__}). Remove its folder: the run then continues from the "
                "checkpoint before it."
            ) from error

    def forget_metrics_after(self, step: int) -> None:
        """Steps after the checkpoint that a run continues from are done again: their lines go."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        if len(kept) < len(lines):
            try:
                with atomic_path(path) as temporary:
                    temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            except OSError as error:
                raise self._full(path, error) from error

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to ``metrics.jsonl``."""
        try:
            with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise self._full(self.folder / "metrics.jsonl", error) from error

    @staticmethod
    def _full(path: Path, error: OSError) -> OutputError:
        return OutputError(f"{path} cannot be written ({error}). Free space, then run the same command again.")


def open_run(folder: Path) -> RunFolder:
    """A run that exists. Raises InputError."""
    content = read_json(folder / "config.json")
    if content is None:
        raise InputError(
            f"{folder} holds no run: there is no config.json. Give the folder that `ctgvlm-train train` wrote."
        )
    return RunFolder(folder, TrainingConfig.from_dict(content))


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a small file of a run; None where there is none. Raises InputError where it is damaged."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}). Restore it, or choose another folder.") from error

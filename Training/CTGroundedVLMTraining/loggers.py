"""Where the record of each step goes beside ``metrics.jsonl``: TensorBoard, Weights & Biases, the terminal."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from CTGroundedVLMLib.errors import DependencyError

from .config import TrainingConfig

Logger = Callable[[dict[str, Any]], None]


class Loggers:
    """All that the configuration asks for, on rank 0. Use as a context manager.

    Args:
        first_step: the step that a run continues from: what was logged after it is taken back.
    """

    def __init__(self, config: TrainingConfig, folder: Path, total_steps: int, first_step: int, *, quiet: bool) -> None:
        self._loggers: list[Any] = []
        if config.tensorboard:
            self._loggers.append(TensorBoardLog(folder / "tensorboard", first_step))
        if config.wandb:
            self._loggers.append(WandbLog(config, folder))
        if not quiet:
            self._loggers.append(Terminal(total_steps, first_step))

    def __enter__(self) -> Loggers:
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        for logger in self._loggers:
            logger(record)

    def __exit__(self, *exc: object) -> None:
        for logger in self._loggers:
            logger.close()


class TensorBoardLog:
    """Event files; a slash in a name ("organ/lung") makes a group. Raises DependencyError where TensorBoard is not installed."""

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                'TensorBoard is not installed: pip install "ct-grounded-vlm[training]", or --set tensorboard=false.'
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)

    def __call__(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name if "/" in name else f"run/{name}", value, record["step"])

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class WandbLog:
    """Weights & Biases, which sends numbers and configuration to its server (WANDB_MODE=offline keeps them).

    Raises:
        DependencyError: it is not installed.
    """

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise DependencyError("wandb is not installed: pip install wandb, or --set wandb=false.") from error
        self._run = wandb.init(
            project="ct-grounded-vlm",
            name="/".join(folder.absolute().parts[-3:]),
            id=_own_id(folder / "wandb_id"),
            dir=str(folder),
            config=config.to_dict(),
            resume="allow",
        )

    def __call__(self, record: dict[str, Any]) -> None:
        self._run.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def close(self) -> None:
        """Send what is pending."""
        self._run.finish()


def _own_id(path: Path) -> str:
    """Kept with the run, which goes on under it; folders of several runs are often called the same ("run")."""
    if not path.is_file():
        path.write_text(uuid.uuid4().hex[:16], encoding="utf-8")
    return path.read_text(encoding="utf-8")


class Terminal:
    """A bar on a terminal; elsewhere a line every few seconds (on stderr)."""

    def __init__(self, total_steps: int, first_step: int, every_s: float = 10.0) -> None:
        self._total, self._every_s, self._last = total_steps, every_s, -every_s
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task("", total=total_steps, completed=first_step)
            self._progress.start()

    def __call__(self, record: dict[str, Any]) -> None:
        text = _in_words(record)
        if self._progress:
            self._progress.update(self._task, completed=record["step"], description=text)
        now = time.monotonic()
        validated = any(name.startswith("validation/") for name in record)
        due = now - self._last >= self._every_s or record["step"] == self._total or validated
        if not self._progress and due:
            print(f"ctgvlm-train: step {record['step']} of {self._total}, {text}", file=sys.stderr, flush=True)
            self._last = now

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress:
            self._progress.stop()


def _in_words(record: dict[str, Any]) -> str:
    text = f"loss {record['loss']:.3f}, {record['samples_per_s']:.2f} cases/s, {record['data_wait_s']:.2f} s waiting for data"
    if "mfu" in record:
        text += f", MFU {100 * record['mfu']:.0f} %"
    for name in ("validation/loss", "validation/auc"):
        if name in record:
            text += f", {name} {record[name]:.3f}"
    return text

"""The learning rate of each step."""

from __future__ import annotations

import math

from .config import OptimizerConfig


def learning_rate(step: int, steps_per_epoch: int, total_steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up over the first steps, then cosine from ``lr`` to ``min_lr``.

    With ``cosine="epoch"`` as in fVLM's release (LAVIS' LinearWarmupCosineLRScheduler): within the first epoch the warm-up from
    ``min_lr``; from then on (lr - min_lr) (1 + cos(pi epoch / epochs)) / 2 + min_lr.
    """
    epoch = step // steps_per_epoch
    warming = step < config.warmup_steps and (config.cosine == "step" or epoch == 0)
    if warming:
        return config.min_lr + (config.lr - config.min_lr) * step / config.warmup_steps
    if config.cosine == "epoch":
        done = epoch / math.ceil(total_steps / steps_per_epoch)
    else:
        done = min((step - config.warmup_steps) / max(total_steps - config.warmup_steps, 1), 1.0)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * done)) / 2

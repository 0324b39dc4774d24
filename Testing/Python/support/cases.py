"""Synthetic cases with known answers (no anatomy), and a small model."""

import numpy as np

from CTGroundedVLMLib.anatomy import label_names
from CTGroundedVLMLib.model.config import ModelConfig, debug_config
from CTGroundedVLMLib.model.untrained import untrained_model
from CTGroundedVLMLib.types import CTCase, Segmentation, Volume

LPS = np.diag([-1.0, -1.0, 1.0])  # columns i, j, k in RAS: i to the left, j to the back, k to the head
LABEL = {name: value for value, name in label_names().items()}


def a_case(
    boxes: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]],
    shape=(40, 120, 140),
    spacing=(1.0, 1.0, 3.0),
    directions=LPS,
    report: str = "",
    seed: int = 0,
) -> CTCase:
    """Noise with a gradient, and organs as boxes: class name -> (first, last + 1) in k, j, i; spacing in i, j, k."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(-900, 300, shape[0] * shape[1] * shape[2]).reshape(shape)
    hu = (ramp + rng.normal(0, 60, shape)).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    for name, (low, high) in boxes.items():
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = LABEL[name]
    affine = np.eye(4)
    affine[:3, :3] = directions * np.float32(spacing)  # the precision in which files store it
    affine[:3, 3] = (10.0, -20.0, 30.0)
    names = {int(v): label_names()[int(v)] for v in np.unique(labels) if v}
    return CTCase(Volume(hu, affine, "box case"), Segmentation(labels, names), report)


CHEST = {
    "lung_lower_lobe_right": ((8, 20, 15), (34, 100, 55)),
    "lung_lower_lobe_left": ((8, 20, 85), (34, 100, 125)),
    "heart": ((10, 30, 60), (24, 75, 84)),
    "aorta": ((5, 80, 66), (36, 95, 80)),
}


def a_small_model(config: ModelConfig | None = None):
    """The debug architecture with deterministic random weights."""
    return untrained_model(config or debug_config())

"""What a scanner makes of ideal HU: point spread, slice profile, noise that depends on dose, kernel and body size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Kernel -> (standard deviation of the point spread in mm, smoothing passes of the noise, share of low frequencies taken out)
KERNELS = {"soft": (1.7, 2, 0.0), "standard": (1.2, 1, 0.0), "sharp": (0.7, 0, 0.45)}


@dataclass(frozen=True)
class Technique:
    """``noise_hu``: standard deviation in the middle of an average slice. ``kernel``: of ``KERNELS``."""

    kernel: str
    noise_hu: float

    @staticmethod
    def draw(rng: np.random.Generator) -> Technique:
        """Soft to sharp kernels, low to high dose."""
        kernel = str(rng.choice(list(KERNELS), p=(0.3, 0.5, 0.2)))
        noise = float(np.exp(rng.uniform(np.log(4), np.log(15)))) * (1.4 if kernel == "sharp" else 1.0)
        return Technique(kernel, round(noise, 1))


def scan(
    hu: np.ndarray, spacing_ijk: tuple[float, float, float], technique: Technique, rng: np.random.Generator
) -> np.ndarray:
    """Int16 HU (K, J, I) as a scanner would give them."""
    sigma, passes, high_pass = KERNELS[technique.kernel]
    for axis, spacing in ((1, spacing_ijk[1]), (2, spacing_ijk[0])):
        hu = smooth(hu, axis, min((sigma / spacing) ** 2 / 2, 1 / 3))
    hu = smooth(hu, 0, 0.12)  # neighbouring slices overlap
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    for _ in range(passes):
        noise = smooth(smooth(noise, 1, 0.25), 2, 0.25)
    if high_pass:
        noise = noise - np.float32(high_pass) * smooth(smooth(noise, 1, 1 / 3), 2, 1 / 3)
    noise = smooth(noise, 0, 0.1)
    noise *= np.float32(technique.noise_hu / noise.std())
    noise *= _loss(hu)
    offset = np.float32(rng.normal(0, 1.5))  # calibration
    return np.clip(np.rint(hu + noise + offset), -1024, 3071).astype(np.int16)


def smooth(array: np.ndarray, axis: int, weight: float) -> np.ndarray:
    """Each value mixed with its two neighbours along an axis, of ``weight`` each; the ends are repeated."""
    before, after = np.roll(array, 1, axis), np.roll(array, -1, axis)
    first, last = [slice(None)] * 3, [slice(None)] * 3
    first[axis], last[axis] = 0, -1
    before[tuple(first)], after[tuple(last)] = array[tuple(first)], array[tuple(last)]
    w = np.float32(weight)
    return (1 - 2 * w) * array + w * (before + after)


def _loss(hu: np.ndarray) -> np.ndarray:
    """Factor on the noise: more in thick slices and in the middle of the body, less in the air around."""
    dense = np.clip((hu + 1000) / 1000, 0, 1.6)
    thickness = dense.sum(axis=(1, 2), keepdims=True)
    per_slice = np.sqrt(np.clip(thickness / max(float(np.median(thickness)), 1.0), 0.3, 2.5))
    j, i = (np.linspace(-1, 1, n, dtype=np.float32) for n in hu.shape[1:])
    radial = 1.15 - 0.4 * np.minimum(j[:, None] ** 2 + i[None] ** 2, 1)
    return (per_slice * radial).astype(np.float32) * np.where(hu < -940, np.float32(0.45), np.float32(1))

"""Where a model that is right token by token would point: the best that heatmaps of a token grid can do in the pointing game.

The map holds, for each token of the organ, how much of the planted finding lies in it; it is brought onto the CT, confined to the
organ's mask and measured as a model's heatmap is (``evaluate.grounding``, ``localization.localize``).
"""

import itertools
import json
from pathlib import Path

import numpy as np
import torch

from CTGroundedVLMLib.localization import organ_mask
from CTGroundedVLMLib.model.fvlm import organ_token_mask
from CTGroundedVLMLib.preprocessing import ModelWindow, Preprocessor
from CTGroundedVLMLib.types import CTCase, Heatmap
from CTGroundedVLMLib.volume_io import load_case
from CTGroundedVLMTraining.evaluate.grounding import TOLERANCE_MM, measure, read_label_map, read_truth
from CTGroundedVLMTraining.recipes import recipe

SHIFTS = (1, 2, 3)


def limit_lines(corpus: Path, cases: int, name: str = "starter") -> list[str]:
    """A markdown table: by heatmap shifts, how often the peak is inside, and within the tolerance."""
    model = recipe(name).model
    measured = {shifts: [] for shifts in SHIFTS}
    for folder in _test_cases(corpus)[:cases]:
        image = folder / "ct.nii.gz"
        case = load_case(image, folder / "segmentation.nii.gz")
        labels_kji = read_label_map(image, case)
        windows = Preprocessor(case, model.organs, model.preprocessing, model.vision.patch_size).shared_windows()
        for planted in read_truth(image):
            organ = planted["key"].partition("/")[0]
            if planted["focal"] and organ in model.organs:
                finding_kji = labels_kji == planted["label"]
                for shifts in SHIFTS:
                    measured[shifts].append(_measured(case, windows.windows, model, organ, finding_kji, shifts))
    mm = np.multiply(model.vision.patch_size, model.preprocessing.spacing_mm)
    lines = [
        f"A token of {name}: {' x '.join(f'{v:g}' for v in mm)} mm. A heatmap that is right token by token:",
        "",
        f"| `--heatmap-shifts` | focal findings | peak inside | chance | peak within {TOLERANCE_MM:g} mm | chance |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for shifts, records in measured.items():
        found = [r for r in records if r and "hit" in r]
        means = [np.mean([r[key] for r in found]) for key in ("hit", "chance", "near", "near_chance")]
        lines.append(f"| {shifts} | {len(found)} | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    outside = np.mean([not r["reachable"] for r in measured[1] if r and "hit" in r])
    return [
        *lines,
        "",
        f"{outside:.0%} of the findings have no voxel in their organ's mask: the peak cannot be inside.",
    ]


def _test_cases(corpus: Path) -> list[Path]:
    folders = sorted((corpus / "cases").iterdir())
    return [f for f in folders if json.loads((f / "truth.json").read_text(encoding="utf-8"))["split"] == "test"]


def _measured(
    case: CTCase, windows: tuple[ModelWindow, ...], model, organ: str, finding_kji: np.ndarray, shifts: int
) -> dict | None:
    """The record of ``evaluate.grounding.measure``; None where the organ is not in the scan."""
    number = list(model.organs).index(organ)
    window = next((w for w in windows if number in w.organs), None)
    found = organ_mask(case, model.organs[organ])
    if window is None or found is None or not finding_kji.any():
        return None
    mask, box = found
    points = window.transform.to_model(np.argwhere(finding_kji))
    patch, shape = np.array(model.vision.patch_size), window.organ_map_DHW.shape
    total = weight = np.zeros(mask.shape, np.float32)
    # as localization.shifted_windows moves them
    steps = [[round(p * ((i + 0.5) / shifts - 0.5)) for i in range(shifts)] for p in patch.tolist()]
    for shift in itertools.product(*steps):
        moved = _moved(window.organ_map_DHW, shift)
        inside = organ_token_mask(moved, [number], tuple(patch.tolist()))[0].numpy().reshape(shape // patch)
        tokens = ((np.round(points).astype(int) - shift) // patch)[:, None]
        tokens = tokens[((tokens >= 0) & (tokens < inside.shape)).all((1, 2)), 0]
        values = np.zeros(inside.shape, np.float32)
        np.add.at(values, tuple(tokens.T), 1)
        transform = window.transform.moved(shift, shape)
        total = total + transform.map_to_ct(np.where(inside, values, 0), tuple(patch.tolist()), box)
        weight = weight + transform.map_to_ct(inside.astype(np.float32), tuple(patch.tolist()), box)
    values = np.divide(total, weight, out=np.zeros_like(total), where=(weight > 1e-6) & mask)
    start = tuple(s.start for s in box)
    heatmap = Heatmap(organ, "planted", "contribution", values, start, case.ct.array_kji.shape)
    return measure(case, heatmap, model.organs[organ], finding_kji)


def _moved(organ_map_DHW: torch.Tensor, shift: tuple[int, ...]) -> torch.Tensor:
    """The map of a window that begins ``shift`` voxels later; what comes in is empty."""
    out = torch.zeros_like(organ_map_DHW)
    sizes = organ_map_DHW.shape
    target = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(shift, sizes, strict=True))
    source = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(shift, sizes, strict=True))
    out[target] = organ_map_DHW[source]
    return out

"""Do heatmaps point to the finding? Against planted findings whose voxels are known (``findings.nii.gz``, ``truth.json``).

pointing game  is the heatmap's highest voxel inside the finding (Zhang et al., IJCV 2018; here without their tolerance)
energy inside  share of the positive heatmap that lies inside the finding (Score-CAM, CVPRW 2020)

Chance level of both: the finding's share of the organ's voxels, for the heatmap is confined to the organ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from CTGroundedVLMLib.errors import SegmentationError

from .bootstrap import patient_weights
from .estimates import Estimate, EvaluationSettings, mean_estimate, means, shown, with_interval
from .metrics import nan_mean

if TYPE_CHECKING:
    from CTGroundedVLMLib.types import CTCase, Heatmap

    from .case_journal import CaseRecord

LABEL_MAP, TRUTH = "findings.nii.gz", "truth.json"


def read_truth(image: Path) -> list[dict[str, Any]] | None:
    """The planted findings of the case whose CT is ``image``; None where it has no truth beside it.

    Raises:
        SegmentationError: the file is damaged.
    """
    path = image.parent / TRUTH
    if not path.is_file() or not (image.parent / LABEL_MAP).is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["findings"]
        return [
            {"key": f"{f['organ']}/{f['finding']}", "label": int(f["label"]), "focal": bool(f["focal"])} for f in found
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SegmentationError(
            f"{path} cannot be used ({type(error).__name__}: {error}). Make the case again."
        ) from error


def read_label_map(image: Path, case: CTCase) -> np.ndarray:
    """``findings.nii.gz`` (K, J, I), on the CT's grid. Raises SegmentationError."""
    from CTGroundedVLMLib import image_file

    path = image.parent / LABEL_MAP
    header = image_file.read_header(path, f"label map {path}", SegmentationError)
    labels_kji = image_file.read_pixels(header, SegmentationError)
    same = labels_kji.shape == case.ct.array_kji.shape and np.allclose(header.ijk_to_ras, case.ct.ijk_to_ras, atol=1e-2)
    if not same:
        raise SegmentationError(f"{path} is not on the grid of {image}. Make the case again.")
    return labels_kji


def measure_case(
    case: CTCase,
    truth: Sequence[Mapping[str, Any]],
    labels_kji: np.ndarray,
    heatmap_of: Callable[[str], tuple[Heatmap, tuple[str, ...]] | str],
) -> list[dict[str, Any]]:
    """One record per planted finding.

    Args:
        heatmap_of: key -> heatmap and the segments of its organ, or why there is none.
    """
    records = []
    for planted in truth:
        made = heatmap_of(planted["key"])
        about = {"key": planted["key"], "focal": planted["focal"]}
        if isinstance(made, str):
            records.append(about | {"reason": made})
            continue
        heatmap, segments = made
        records.append(about | measure(case, heatmap, segments, labels_kji == planted["label"]))
    return records


def measure(case: CTCase, heatmap: Heatmap, segments: tuple[str, ...], finding_kji: np.ndarray) -> dict[str, Any]:
    """``hit``, ``energy``, ``chance`` and ``distance_mm`` (highest voxel to the finding) of one heatmap.

    Of several highest voxels each counts in part. ``reachable``: whether the finding has voxels in the organ's mask;
    without (an effusion beside the lung's mask) it cannot be hit.
    """
    from CTGroundedVLMLib.localization import organ_mask

    found = organ_mask(case, segments)
    if found is None or not finding_kji.any():
        return {"reason": "the finding has no voxel of its own" if found else "the organ is not in the segmentation"}
    organ, box = found
    inside, values = finding_kji[box] & organ, heatmap.values_kji
    peak = organ & (values == values[organ].max())
    positive = np.where(organ, values, 0).clip(min=0).astype(np.float64)
    total = positive.sum()
    return {
        "hit": float(inside[peak].mean()),
        "energy": float(positive[inside].sum() / total) if total > 0 else 0.0,
        "chance": float(inside.sum() / organ.sum()),
        "distance_mm": _distance_mm(peak, box, finding_kji, case),
        "reachable": bool(inside.any()),
    }


def _distance_mm(peak: np.ndarray, box: tuple[slice, ...], finding_kji: np.ndarray, case: CTCase) -> float:
    """From the first of the highest voxels to the finding's nearest one."""
    start = np.array([s.start for s in box])
    place = np.argwhere(peak)[0] + start
    offsets_ijk = (np.argwhere(finding_kji) - place)[:, ::-1]
    return float(np.linalg.norm(offsets_ijk @ case.ct.ijk_to_ras[:3, :3].T, axis=1).min())


# --- Over cases


def summarize(records: Sequence[CaseRecord], settings: EvaluationSettings) -> dict[str, Any]:
    """By finding, and over "focal" and "all" findings: means with patient bootstrap intervals.

    ``macro_pointing`` of a group is the mean over its findings, so that frequent ones do not decide it alone.
    """
    rows = [(r.patient_id, g) for r in records if r.error is None for g in r.grounding]
    measured = [(patient, g) for patient, g in rows if "hit" in g]
    if not measured:
        return {}
    weights_RN = patient_weights([patient for patient, _ in measured], settings.resamples, settings.seed)
    keys = np.array([g["key"] for _, g in measured])
    focal = np.array([g["focal"] for _, g in measured])
    values = {n: np.array([float(g[n]) for _, g in measured]) for n in ("hit", "energy", "chance", "distance_mm")}
    reachable = np.array([g["reachable"] for _, g in measured])
    groups = {"all": np.ones(len(keys), bool), "focal": focal} | {key: keys == key for key in sorted(set(keys))}
    out: dict[str, Any] = {}
    for name, chosen in groups.items():
        if not chosen.any():
            continue
        weights, own, inside = weights_RN[:, chosen], {n: v[chosen] for n, v in values.items()}, reachable[chosen]
        skipped = sum("hit" not in g and _in_group(name, g) for _, g in rows)
        out[name] = {
            "findings": int(chosen.sum()),
            "patients": len({patient for (patient, _), c in zip(measured, chosen, strict=True) if c}),
            "focal": bool(focal[chosen].all()),
            "without_heatmap": skipped,
            "outside_the_organ": int((~inside).sum()),
            "pointing": mean_estimate(own["hit"], weights, settings).to_record(),
            "pointing_in_organ": _of_chosen(own["hit"], inside, weights, settings),
            "pointing_chance": float(own["chance"].mean()),
            "pointing_in_organ_chance": float(own["chance"][inside].mean()) if inside.any() else None,
            "energy": mean_estimate(own["energy"], weights, settings).to_record(),
            "median_distance_mm": float(np.median(own["distance_mm"])),
        }
        if name in ("all", "focal"):
            out[name]["macro_pointing"] = _macro(own["hit"], keys[chosen], weights, settings).to_record()
    return out


def _in_group(name: str, record: Mapping[str, Any]) -> bool:
    return name == "all" or (name == "focal" and record["focal"]) or name == record["key"]


def _of_chosen(
    values_N: np.ndarray, chosen_N: np.ndarray, weights_RN: np.ndarray, settings: EvaluationSettings
) -> dict[str, Any]:
    if not chosen_N.any():
        return Estimate(None, reason="every finding lies outside its organ's mask").to_record()
    return mean_estimate(values_N[chosen_N], weights_RN[:, chosen_N], settings).to_record()


def _macro(hit_N: np.ndarray, keys_N: np.ndarray, weights_RN: np.ndarray, settings: EvaluationSettings) -> Estimate:
    names = sorted(set(keys_N))
    mean = float(np.mean([hit_N[keys_N == name].mean() for name in names]))
    drawn_R = nan_mean(np.stack([means(hit_N[keys_N == n], weights_RN[:, keys_N == n]) for n in names]), axis=0)
    return with_interval(mean, drawn_R, settings)


def grounding_lines(summary: Mapping[str, Any]) -> list[str]:
    """A markdown table."""
    if not summary:
        return ["## Grounding", "", "No case has planted findings that the model can be asked for.", ""]
    lines = [
        "## Grounding: heatmaps against planted findings",
        "",
        "| finding | n | peak inside | chance | outside organ | others: peak inside | chance | energy inside | mm |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, group in summary.items():
        chance = group["pointing_in_organ_chance"]
        lines.append(
            f"| {name} | {group['findings']} | {shown(group['pointing'])} | {group['pointing_chance']:.3f} | "
            f"{group['outside_the_organ']} | {shown(group['pointing_in_organ'])} | "
            f"{'-' if chance is None else f'{chance:.3f}'} | {shown(group['energy'])} | "
            f"{group['median_distance_mm']:.0f} |"
        )
    macro = [f"{n}: {shown(summary[n]['macro_pointing'])}" for n in ("all", "focal") if n in summary]
    outside = (
        "A finding outside its organ's mask cannot be hit, for the heatmap is confined to the organ. "
        "mm: median distance of the peak from the finding."
    )
    return [*lines, "", f"Mean over findings of the peak inside: {', '.join(macro)}. {outside}", ""]

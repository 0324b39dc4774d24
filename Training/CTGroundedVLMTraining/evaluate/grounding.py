"""Do heatmaps point to the finding? Against planted findings whose voxels are known (``findings.nii.gz``, ``truth.json``).

pointing game  is the heatmap's highest voxel inside the finding, or within ``TOLERANCE_MM`` of it (Zhang et al., IJCV 2018)
energy inside  share of the positive heatmap that lies inside the finding (Score-CAM, CVPRW 2020)

Chance level of pointing: the share of the organ's voxels that would be a hit, for the heatmap is confined to the organ; that of
energy: the finding's share of the organ. The highest voxel lies near the middle of a token, so that a finding smaller than a
token, or beside the organ's mask, is missed by a model that finds the right token: hence the tolerance.
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

TOLERANCE_MM = (
    15.0  # Zhang et al. take 15 pixels of images that are a few hundred wide; a patient is 300 to 400 mm wide
)
_ROUNDING = 1e-5  # relative; voxels that are nearest to the same token differ by the rounding of the interpolation
LABEL_MAP, TRUTH = "findings.nii.gz", "truth.json"


def read_truth(image: Path) -> list[dict[str, Any]] | None:
    """The planted findings of the case whose CT is ``image``; None where it has no truth beside it.

    Raises:
        SegmentationError: the file is damaged.
    """
    path = image.parent / TRUTH
    return planted_of(path) if path.is_file() and (image.parent / LABEL_MAP).is_file() else None


def planted_of(path: Path) -> list[dict[str, Any]]:
    """The findings of a truth file: "key" ("organ/finding"), "label" (value in the label map) and "focal".

    Raises:
        SegmentationError: the file is damaged.
    """
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
    """``findings.nii.gz`` (K, J, I) beside ``image``, on the CT's grid. Raises SegmentationError."""
    return label_map_of(image.parent / LABEL_MAP, case)


def label_map_of(path: Path, case: CTCase) -> np.ndarray:
    """A file of whole numbers (K, J, I) on the CT's grid.

    Raises:
        SegmentationError: it cannot be read, is on another grid, or holds no whole numbers.
    """
    from CTGroundedVLMLib import image_file

    header = image_file.read_header(path, f"label map {path}", SegmentationError)
    labels_kji = image_file.read_pixels(header, SegmentationError)
    same = labels_kji.shape == case.ct.array_kji.shape and np.allclose(header.ijk_to_ras, case.ct.ijk_to_ras, atol=1e-2)
    if not same:
        raise SegmentationError(f"{path} is not on the grid of {case.ct.source or case.ct.name}. Make the case again.")
    if labels_kji.dtype.kind not in "iu":
        raise SegmentationError(
            f"{path} holds {labels_kji.dtype} values; expected whole numbers. Save it as a label map."
        )
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
    """``hit`` (peak inside), ``near`` (peak within ``TOLERANCE_MM``), both with ``chance``; ``energy``; ``distance_mm``.

    Of several highest voxels each counts in part; ``distance_mm`` is from the first of them to the finding. ``reachable``:
    whether the finding has voxels in the organ's mask; without (an effusion beside the lung's mask) it can only be "near".
    """
    from CTGroundedVLMLib.localization import organ_mask

    found = organ_mask(case, segments)
    if found is None or not finding_kji.any():
        return {"reason": "the finding has no voxel of its own" if found else "the organ is not in the segmentation"}
    organ, box = found
    inside, values = finding_kji[box] & organ, heatmap.values_kji
    near = within(finding_kji, TOLERANCE_MM, case)[box] & organ
    highest = values[organ].max()
    peak = organ & (values >= highest - _ROUNDING * abs(highest))
    positive = np.where(organ, values, 0).clip(min=0).astype(np.float64)
    total = positive.sum()
    return {
        "hit": float(inside[peak].mean()),
        "near": float(near[peak].mean()),
        "energy": float(positive[inside].sum() / total) if total > 0 else 0.0,
        "chance": float(inside.sum() / organ.sum()),
        "near_chance": float(near.sum() / organ.sum()),
        "distance_mm": _distance_mm(peak, box, finding_kji, case),
        "reachable": bool(inside.any()),
    }


def within(finding_kji: np.ndarray, tolerance_mm: float, case: CTCase) -> np.ndarray:
    """Voxels (K, J, I) whose centre lies at most ``tolerance_mm`` from that of a voxel of the finding."""
    import SimpleITK as sitk

    spacing_kji = np.linalg.norm(case.ct.ijk_to_ras[:3, :3], axis=0)[::-1]
    voxels = np.argwhere(finding_kji)
    reach = np.ceil(tolerance_mm / spacing_kji).astype(int)
    first, last = np.maximum(voxels.min(0) - reach, 0), voxels.max(0) + reach
    around = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))  # far voxels need no distance
    image = sitk.GetImageFromArray(finding_kji[around].astype(np.uint8))
    image.SetSpacing(spacing_kji[::-1].tolist())
    distances = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    out = np.zeros(finding_kji.shape, bool)
    out[around] = sitk.GetArrayViewFromImage(distances) <= tolerance_mm + 1e-3
    return out


def _distance_mm(peak: np.ndarray, box: tuple[slice, ...], finding_kji: np.ndarray, case: CTCase) -> float:
    """From the first of the highest voxels to the finding's nearest one."""
    start = np.array([s.start for s in box])
    place = np.argwhere(peak)[0] + start
    offsets_ijk = (np.argwhere(finding_kji) - place)[:, ::-1]
    return float(np.linalg.norm(offsets_ijk @ case.ct.ijk_to_ras[:3, :3].T, axis=1).min())


# --- Over cases


_VALUES = ("hit", "near", "energy", "chance", "near_chance", "distance_mm")


def summarize(records: Sequence[CaseRecord], settings: EvaluationSettings) -> dict[str, Any]:
    """By finding, and over "focal" and "all" findings: means with patient bootstrap intervals.

    ``macro_pointing`` (and ``..._near``) of a group is the mean over its findings, so that frequent ones do not decide alone.
    """
    rows = [(r.patient_id, g) for r in records if r.error is None for g in r.grounding]
    measured = [(patient, g) for patient, g in rows if "hit" in g]
    if not measured:
        return {}
    weights_RN = patient_weights([patient for patient, _ in measured], settings.resamples, settings.seed)
    keys = np.array([g["key"] for _, g in measured])
    focal = np.array([g["focal"] for _, g in measured])
    values = {n: np.array([float(g[n]) for _, g in measured]) for n in _VALUES}
    reachable = np.array([g["reachable"] for _, g in measured])
    groups = {"all": np.ones(len(keys), bool), "focal": focal} | {key: keys == key for key in sorted(set(keys))}
    out: dict[str, Any] = {}
    for name, chosen in groups.items():
        if not chosen.any():
            continue
        weights, own, inside = weights_RN[:, chosen], {n: v[chosen] for n, v in values.items()}, reachable[chosen]
        out[name] = {
            "findings": int(chosen.sum()),
            "patients": len({patient for (patient, _), c in zip(measured, chosen, strict=True) if c}),
            "focal": bool(focal[chosen].all()),
            "without_heatmap": sum("hit" not in g and _in_group(name, g) for _, g in rows),
            "outside_the_organ": int((~inside).sum()),
            "pointing": mean_estimate(own["hit"], weights, settings).to_record(),
            "pointing_in_organ": _of_chosen(own["hit"], inside, weights, settings),
            "pointing_chance": float(own["chance"].mean()),
            "pointing_near": mean_estimate(own["near"], weights, settings).to_record(),
            "pointing_near_chance": float(own["near_chance"].mean()),
            "tolerance_mm": TOLERANCE_MM,
            "pointing_in_organ_chance": float(own["chance"][inside].mean()) if inside.any() else None,
            "energy": mean_estimate(own["energy"], weights, settings).to_record(),
            "median_distance_mm": float(np.median(own["distance_mm"])),
        }
        if name in ("all", "focal"):
            for macro, value in (("macro_pointing", "hit"), ("macro_pointing_near", "near")):
                out[name][macro] = _macro(own[value], keys[chosen], weights, settings).to_record()
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
        f"| finding | n | peak inside | chance | within {TOLERANCE_MM:g} mm | chance | outside organ | others: peak inside "
        "| chance | energy inside | mm |",
        "|---|" + "---:|" * 10,
    ]
    for name, group in summary.items():
        chance = group["pointing_in_organ_chance"]
        lines.append(
            f"| {name} | {group['findings']} | {shown(group['pointing'])} | {group['pointing_chance']:.3f} | "
            f"{shown(group['pointing_near'])} | {group['pointing_near_chance']:.3f} | "
            f"{group['outside_the_organ']} | {shown(group['pointing_in_organ'])} | "
            f"{'-' if chance is None else f'{chance:.3f}'} | {shown(group['energy'])} | "
            f"{group['median_distance_mm']:.0f} |"
        )
    inside, near = (
        ", ".join(f"{n}: {shown(summary[n][value])}" for n in ("all", "focal") if n in summary)
        for value in ("macro_pointing", "macro_pointing_near")
    )
    means_of = f"Mean over findings of the peak inside: {inside}; within {TOLERANCE_MM:g} mm: {near}."
    outside = (
        "The peak cannot be inside a finding outside its organ's mask, for the heatmap is confined to the organ. "
        "mm: median distance of the peak from the finding."
    )
    return [*lines, "", f"{means_of} {outside}", ""]

"""A synthetic CT with segmentation, report and ground truth, for demonstrations and tests: ``ctgvlm sample DIR``.

Every shape is drawn from formulas and random numbers; no scan of a person went into it. It looks like an unenhanced CT
of the chest and upper abdomen, and is stored as CT-RATE's scans are: LPS, the first axis to the patient's left. The
same seed gives the same arrays (on one machine; elsewhere the last bit of a float may round an HU differently).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..anatomy import findings as registry_findings
from ..errors import InputError, OutputError
from .abdomen import Abdomen
from .body import Body
from .canvas import ORIGIN_LPS, SPACING_IJK, Canvas
from .chest import Chest
from .findings import ABDOMEN_KINDS, CHEST_KINDS, PlantedFinding, Planter, choose_kinds
from .report import write_report
from .skeleton import Skeleton
from .trunk import Trunk

GENERATOR = "CTGroundedVLM synthetic sample"
_NOISE_HU = 9.0
_NAMES = {"ct": "ct.nii.gz", "segmentation": "segmentation.nii.gz", "report": "report.txt", "truth": "truth.json"}


@dataclass(frozen=True)
class Phantom:
    """The sample in memory.

    ``hu_kji``: int16 (K, J, I). ``labels_kji``: uint8, TotalSegmentator v2. ``ijk_to_ras``: (4, 4) in mm.
    ``sentences``: for each kind of planted finding, the sentence of the report that describes it.
    """

    seed: int
    hu_kji: np.ndarray
    labels_kji: np.ndarray
    ijk_to_ras: np.ndarray
    findings: tuple[PlantedFinding, ...]
    report: str
    sentences: dict[str, str]


@dataclass(frozen=True)
class SamplePaths:
    """The files of a sample."""

    directory: Path
    ct: Path
    segmentation: Path
    report: Path
    truth: Path


def make_phantom(seed: int = 0, kinds: Sequence[str] | None = None) -> Phantom:
    """Draw the synthetic patient of a seed, with findings, and a report that tells of them.

    Takes about six seconds. ``kinds``: the findings, of ``CHEST_KINDS`` and ``ABDOMEN_KINDS``; by default the seed
    chooses three to five.

    Raises:
        InputError: an unknown kind, or a negative seed.
    """
    if seed < 0:
        raise InputError(f"seed {seed} is negative; expected 0 or more")
    rng = np.random.default_rng(seed)
    chosen = choose_kinds(rng)  # drawn in any case: the anatomy depends on the seed alone
    kinds = chosen if kinds is None else tuple(kinds)
    for kind in kinds:
        if kind not in CHEST_KINDS + ABDOMEN_KINDS:
            known = ", ".join(CHEST_KINDS + ABDOMEN_KINDS)
            raise InputError(f"{kind!r} cannot be planted; expected some of {known}")
    canvas = Canvas(rng, scale=float(rng.uniform(0.95, 1.03)))
    trunk = Trunk(canvas, Body(fat_mm=float(rng.uniform(10, 20))))
    chest = Chest(canvas, trunk, size=float(rng.uniform(0.87, 0.94)))
    trunk.draw()
    chest.draw()
    Abdomen(canvas, trunk).draw()
    Skeleton(canvas, trunk).draw()
    planter = Planter(canvas, trunk, chest)
    planted = tuple(planter.plant(kind) for kind in kinds)
    report, sentences = write_report(planted, rng, seed)
    affine = np.diag([-SPACING_IJK[0], -SPACING_IJK[1], SPACING_IJK[2], 1.0])
    affine[:3, 3] = [-ORIGIN_LPS[0], -ORIGIN_LPS[1], ORIGIN_LPS[2]]
    return Phantom(seed, _scan(canvas), canvas.labels, affine, planted, report, sentences)


def write_sample(directory: Path, seed: int = 0) -> SamplePaths:
    """Write ``ct.nii.gz``, ``segmentation.nii.gz``, ``report.txt`` and ``truth.json`` of a seed into a folder.

    The folder is made where it is missing. Files of an earlier sample are replaced, anything else never.

    Raises:
        OutputError: a file of one of these names is there that no sample wrote (or that was changed since), or the
            folder cannot be written.
    """
    directory = Path(directory)
    paths = SamplePaths(directory, **{key: directory / name for key, name in _NAMES.items()})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_ours(paths)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".sample-") as folder:
            scratch = SamplePaths(Path(folder), **{key: Path(folder) / name for key, name in _NAMES.items()})
            _write(make_phantom(seed), scratch)
            for key in _NAMES:
                os.replace(getattr(scratch, key), getattr(paths, key))
    except (OSError, RuntimeError) as error:  # SimpleITK reports a full disk as RuntimeError
        raise OutputError(f"{directory}: the sample cannot be written ({error}); choose a folder with room") from error
    return paths


def _scan(canvas: Canvas) -> np.ndarray:
    """What a scanner would make of it: blurred in the plane by its point spread, with correlated noise; int16 HU."""
    hu = canvas.hu
    for axis in (1, 2):
        hu = 0.5 * hu + 0.25 * (np.roll(hu, 1, axis) + np.roll(hu, -1, axis))
    noise = canvas.rng.standard_normal(hu.shape, dtype=np.float32)
    for axis in (1, 2):
        noise = noise + np.roll(noise, 1, axis)
    noise *= np.float32(_NOISE_HU / noise.std())
    noise *= np.where(hu < -910, np.float32(0.3), np.float32(1))  # less radiation is lost in air
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def _check_ours(paths: SamplePaths) -> None:
    """Refuse files that are not exactly those that the folder's ``truth.json`` says it wrote."""
    present = [path for path in (paths.ct, paths.segmentation, paths.report, paths.truth) if path.exists()]
    if not present:
        return
    try:
        truth = json.loads(paths.truth.read_text(encoding="utf-8"))
        ours = truth["sha256"] if truth["generator"] == GENERATOR else {}
    except (OSError, ValueError, KeyError, TypeError):
        ours = {}
    for path in present:
        unchanged = path == paths.truth or ours.get(path.name) == _sha256(path)
        if not ours or not unchanged:
            raise OutputError(
                f"{path} exists and is not an unchanged file of a sample; expected an empty folder or one with a "
                "sample. Choose another folder, or move the file away"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(phantom: Phantom, paths: SamplePaths) -> None:
    for array, path in ((phantom.hu_kji, paths.ct), (phantom.labels_kji, paths.segmentation)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(SPACING_IJK)
        image.SetOrigin(ORIGIN_LPS)
        sitk.WriteImage(image, str(path), useCompression=True)
    paths.report.write_text(phantom.report, encoding="utf-8", newline="\n")
    truth = _truth(phantom) | {"sha256": {p.name: _sha256(p) for p in (paths.ct, paths.segmentation, paths.report)}}
    paths.truth.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8", newline="\n")


def _truth(phantom: Phantom) -> dict[str, Any]:
    """What is planted where; centres as voxel (i, j, k) and in RAS mm."""
    prompts = {(f.organ, f.name): f for f in registry_findings()}
    entries = []
    for f in phantom.findings:
        centre = f.centre_kji[::-1]
        hu = phantom.hu_kji[f.box][f.mask]
        entries.append(
            {
                "organ": f.organ,
                "finding": f.finding,
                "term": prompts[f.organ, f.finding].term,
                "segments": list(f.segments),
                "centre_ijk": [int(x) for x in centre],
                "centre_ras_mm": [round(float(x), 1) for x in (phantom.ijk_to_ras @ [*centre, 1])[:3]],
                "sizes_mm": list(f.sizes_mm),
                "volume_ml": round(float(f.mask.sum() * np.prod(SPACING_IJK) / 1000), 2),
                "mean_hu": round(float(hu.mean()), 1),
                "sentence": phantom.sentences[f.kind],
            }
        )
    return {"generator": GENERATOR, "synthetic": True, "seed": phantom.seed, "findings": entries}

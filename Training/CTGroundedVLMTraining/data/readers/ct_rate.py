"""CT-RATE (and the volumes of RadGenome-ChestCT): chest CTs in several reconstructions, reports in tables, silver labels.

Layout, below ``root`` or ``root/dataset``::

    train[_fixed]/train_1/train_1_a/train_1_a_1.nii.gz, valid[_fixed]/...
    radiology_text_reports/{train,validation}_reports.csv      VolumeName, Findings_EN, Impressions_EN, ...
    metadata/{train,validation}_metadata.csv                   VolumeName, RescaleSlope, XYSpacing, ...
    metadata/no_chest_{train,valid}.txt                        heads and others, left out
    multi_abnormality_labels/{train,valid}_predicted_labels.csv

Version 1 (``train``) stores raw values and an empty geometry: the metadata's slope, intercept, spacing, position and direction
are written into the manifest, as the release's ``fix_data.py`` applies them. Version 2 (``train_fixed``) is in HU with a right
header: nothing is applied. A file is never rescaled twice: ``prepare`` looks at the values before it applies a slope.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from CTGroundedVLMLib.errors import InputError

from ...decompose.reports import read_reports
from ...evaluate.protocols import published_protocol
from ..manifest import Correction, ManifestRow, Split, split_by_patient
from .base import Labels, Masks, ReaderOptions, Reading, existing, facts, read_table

_VOLUME = re.compile(r"(?P<patient>(?P<half>train|valid)_\d+)_(?P<scan>[a-z]+)_(?P<reconstruction>\d+)")
_HALVES: tuple[tuple[str, str, Split], ...] = (("train", "train", "train"), ("valid", "validation", "test"))
_GEOMETRY = (
    "XYSpacing",
    "ZSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def read_ct_rate(options: ReaderOptions) -> Reading:
    """Rows of both published halves: "train" gives train and validation (by patient), "valid" is the test split.

    Raises:
        InputError: a file or column of the layout is missing.
    """
    root = dataset_folder(options.root)
    rows: list[ManifestRow] = []
    labels: Labels = {}
    notes = [
        "labels are silver: a classifier read them out of the reports (4% of the validation cases disagree on a rerun)"
    ]
    masks = Masks(options.masks)
    for half, table, split in _HALVES:
        volumes, version = volumes_of(root, half, options)
        if not volumes:
            notes.append(f"no volumes of {half}")
            continue
        notes.append(f"{half}: version {version} of the files" + (" (already in HU)" if version == 2 else ""))
        if version == 2 and options.version is None:
            notes += _not_taken(root, half, options, volumes)
        volumes = _chosen(volumes, root, half, options, notes)
        reports = _reports(root / "radiology_text_reports" / f"{table}_reports.csv")
        corrections = _corrections(root / "metadata" / f"{table}_metadata.csv", volumes) if version == 1 else {}
        labels |= _labels(root / "multi_abnormality_labels" / f"{half}_predicted_labels.csv", volumes)
        rows += [_row(name, path, split, reports, corrections, version, masks) for name, path in volumes.items()]
    if not rows:
        raise InputError(
            f"{root}: no volumes below train, train_fixed, valid or valid_fixed. Check the data set's folder."
        )
    return Reading(with_validation(rows, options), labels, notes)


def dataset_folder(root: Path) -> Path:
    """``root/dataset`` where it exists (the published layout), else ``root``."""
    return root / "dataset" if (existing(root, "a data set") / "dataset").is_dir() else root


def volumes_of(root: Path, half: str, options: ReaderOptions) -> tuple[dict[str, Path], int]:
    """Volumes by name, and which version of the files they are; the corrected ones where both are there."""
    for version in (options.version,) if options.version else (2, 1):
        folder = root / (f"{half}_fixed" if version == 2 else half)
        found = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.rglob("*.nii.gz"))}
        volumes = {name: path for name, path in found.items() if _VOLUME.fullmatch(name)}
        if volumes:  # an empty folder, of a download that has not begun, hides nothing
            return volumes, version
    return {}, options.version or 2


def _not_taken(root: Path, half: str, options: ReaderOptions, taken: Iterable[str]) -> list[str]:
    """A note on the volumes that only version 1 has: a download of version 2 that is not complete leaves them out."""
    others = volumes_of(root, half, replace(options, version=1))[0].keys() - set(taken)
    if not others:
        return []
    return [
        f"{half}: {len(others)} volumes that only version 1 has are not taken; complete {half}_fixed, or name --version 1"
    ]


def parts(volume: str) -> tuple[str, str]:
    """(patient, session) of a volume's name: "train_1_a_2" -> "train_1", "train_1_a"."""
    match = _VOLUME.fullmatch(volume)
    if match is None:
        raise InputError(f"{volume!r} is no volume of CT-RATE; names like train_1_a_1 are expected.")
    return match["patient"], f"{match['patient']}_{match['scan']}"


def with_validation(rows: Sequence[ManifestRow], options: ReaderOptions) -> list[ManifestRow]:
    """Some patients of the train split become the validation split."""
    train = [row for row in rows if row.split == "train"]
    moved = {
        row.case_id: row for row in split_by_patient(train, (1 - options.validation, options.validation), options.seed)
    }
    return [moved.get(row.case_id, row) for row in rows]


def _chosen(
    volumes: dict[str, Path], root: Path, half: str, options: ReaderOptions, notes: list[str]
) -> dict[str, Path]:
    """Without volumes that show no chest or are known to be broken; the first reconstruction of each session, or all."""
    listed = root / "metadata" / f"no_chest_{half}.txt"
    if listed.is_file():
        no_chest = _names(listed.read_text(encoding="utf-8").splitlines())
    else:
        no_chest = set()
        notes.append(f"{half}: {listed.name} is missing, so that heads and other regions are not left out")
    broken = facts()["ct-rate"]["broken"]
    kept = {
        name: path
        for name, path in volumes.items()
        if not {name, parts(name)[1]} & no_chest and name not in broken and parts(name)[1] not in broken
    }
    notes.append(f"{half}: {len(volumes) - len(kept)} volumes left out (no chest, or known to be broken)")
    if options.reconstructions == "all":
        return kept
    first: dict[str, str] = {}
    for name in sorted(kept, key=lambda name: (parts(name)[1], int(name.rsplit("_", 1)[1]))):
        first.setdefault(parts(name)[1], name)
    notes.append(f"{half}: one reconstruction of each of {len(first)} sessions")
    return {name: kept[name] for name in first.values()}


def _names(lines: Iterable[str]) -> set[str]:
    """Names without folders and endings; the lists hold either."""
    return {line.strip().replace("\\", "/").rstrip("/").split("/")[-1].removesuffix(".nii.gz") for line in lines} - {""}


def _reports(path: Path) -> dict[str, str]:
    found = read_reports(existing(path, "CT-RATE's table of reports"))
    return {report.report_id.removesuffix(".nii.gz"): report.text for report in found}


def _corrections(path: Path, volumes: Iterable[str]) -> dict[str, Correction]:
    """Of these volumes, from the metadata that version 1 needs. Raises InputError that names line and column."""
    corrections = {}
    wanted = set(volumes)
    for place, row in read_table(existing(path, "CT-RATE's metadata"), ("VolumeName", *_GEOMETRY)):
        name = row["VolumeName"].removesuffix(".nii.gz")
        if name not in wanted:  # what its line lacks does not matter
            continue
        numbers = {column: [float(n) for n in _NUMBER.findall(row[column])] for column in _GEOMETRY}
        lengths = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6}
        for column, found in numbers.items():
            least = lengths.get(column, 1)
            if len(found) < least or (column in lengths and len(found) != least):
                raise InputError(f"{place}, column {column!r}: {row[column]!r}; expected {least} number(s).")
        across, down = numbers["ImageOrientationPatient"][:3], numbers["ImageOrientationPatient"][3:]
        normal = _cross(across, down)
        xy = numbers["XYSpacing"]
        corrections[name] = Correction(
            slope=numbers["RescaleSlope"][0],
            intercept=numbers["RescaleIntercept"][0],
            spacing_ijk=(xy[0], xy[-1], numbers["ZSpacing"][0]),
            origin_lps=tuple(numbers["ImagePositionPatient"]),
            direction_lps=tuple(v for axis in zip(across, down, normal, strict=True) for v in axis),
        )
    return corrections


def _cross(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _labels(path: Path, volumes: Iterable[str]) -> Labels:
    """The 16 of CT-RATE's 18 labels that an organ of the registry holds."""
    if not path.is_file():
        return {}
    columns = {item.labels[0]: item.key for item in published_protocol("fvlm16").items}
    wanted = set(volumes)
    return {
        name: {key: _label(place, row, column) for column, key in columns.items()}
        for place, row in read_table(path, ("VolumeName", *columns))
        if (name := row["VolumeName"].removesuffix(".nii.gz")) in wanted
    }


def _label(place: str, row: dict[str, str], column: str) -> int | None:
    text = row[column].strip()
    if text not in ("0", "1", "0.0", "1.0", ""):
        raise InputError(f"{place}, column {column!r}: {text!r}; expected 0 or 1.")
    return int(float(text)) if text else None


def _row(
    name: str,
    path: Path,
    split: Split,
    reports: dict[str, str],
    corrections: dict[str, Correction],
    version: int,
    masks: Masks,
) -> ManifestRow:
    patient, session = parts(name)
    row = ManifestRow(
        name,
        patient,
        split,
        path,
        session,
        masks.of(name),
        report_text=reports.get(name, ""),
        label_kind="silver",
        source=f"ct-rate v{version}",
    )
    if version == 1:
        if name not in corrections:
            raise InputError(
                f"{path}: the metadata have no line on this volume, and version 1's values are no HU without it. Download the "
                "metadata again, or use version 2 (the _fixed folders)."
            )
        row = replace(row, correction=corrections[name])
    return row

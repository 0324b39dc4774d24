"""RadGenome-ChestCT: CT-RATE's volumes with one line per sentence and region; the report is put together from them.

Layout, below ``root`` or ``root/dataset``: ``radgenome_files/{train,validation}_region_report.csv`` with ``Volumename, Anatomy,
Sentence`` (an empty Anatomy: a sentence on the whole scan). Its own masks are of ten regions, not TotalSegmentator's classes:
give masks of those, or let ``prepare`` make them. Its ``*_preprocessed`` volumes are not in HU: CT-RATE's are read.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from CTGroundedVLMLib.errors import InputError

from .base import ReaderOptions, Reading, existing, read_table
from .ct_rate import dataset_folder, read_ct_rate

_COLUMNS = ("Volumename", "Anatomy", "Sentence")
_WHOLE = ("", "nan")


def read_radgenome(options: ReaderOptions) -> Reading:
    """CT-RATE's rows (``options.images``) that RadGenome has sentences on, with these as report.

    Raises:
        InputError: a file or column is missing, or no volume has sentences.
    """
    if options.images is None:
        raise InputError("RadGenome-ChestCT describes CT-RATE's volumes: name CT-RATE's folder with --images.")
    folder = existing(dataset_folder(options.root) / "radgenome_files", "RadGenome's folder of tables")
    reports: dict[str, str] = {}
    for half in ("train", "validation"):
        path = folder / f"{half}_region_report.csv"
        if path.is_file():
            reports |= region_reports(path)
    reading = read_ct_rate(replace(options, root=options.images, images=None))
    rows = [
        replace(row, report_text=reports[row.case_id], source=row.source.replace("ct-rate", "radgenome, ct-rate"))
        for row in reading.rows
        if row.case_id in reports
    ]
    if not rows:
        raise InputError(f"{folder}: no sentences on any volume of {options.images}. Check both folders.")
    notes = [*reading.notes, f"{len(reading.rows) - len(rows)} volumes of CT-RATE have no sentences in RadGenome"]
    return Reading(rows, {row.case_id: reading.labels.get(row.case_id, {}) for row in rows}, notes)


def region_reports(path: Path) -> dict[str, str]:
    """By volume: a findings section with a paragraph per region, in the order of the table."""
    regions: dict[str, dict[str, list[str]]] = {}
    for _, row in read_table(path, _COLUMNS):
        anatomy = "" if row["Anatomy"].strip().lower() in _WHOLE else row["Anatomy"].strip()
        volume = row["Volumename"].strip().removesuffix(".nii.gz")
        if sentence := row["Sentence"].strip():
            regions.setdefault(volume, {}).setdefault(anatomy, []).append(sentence)
    return {
        volume: "FINDINGS:\n" + "\n".join(_paragraph(anatomy, said) for anatomy, said in found.items())
        for volume, found in regions.items()
    }


def _paragraph(anatomy: str, sentences: list[str]) -> str:
    text = " ".join(s if s.endswith((".", "!", "?")) else f"{s}." for s in dict.fromkeys(sentences))
    return f"{anatomy.capitalize()}: {text}" if anatomy else text

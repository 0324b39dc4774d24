"""Where report text comes from: a text file, a DICOM structured report (SR), or the reports of a study in a DICOM database.

``structured_report.py`` turns a structured report's content tree into text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import ReportError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

REPORT_LIMIT_BYTES = 1_000_000
_SR_LIMIT_BYTES = 20_000_000  # an SR of a megabyte of text, with its codes; a CT slice or a video is no report
_TAGS = {
    "modality": "0008,0060",
    "class": "0008,0016",
    "description": "0008,103E",
    "date": "0008,0023",
    "time": "0008,0033",
    "verification": "0040,A493",
}
# PS3.4 B.5: radiation dose and implantation plan SRs, key object selections, CAD: no report that somebody wrote
_NO_REPORT = (
    "1.2.840.10008.5.1.4.1.1.88.40",  # Procedure Log
    "1.2.840.10008.5.1.4.1.1.88.50",  # Mammography CAD SR
    "1.2.840.10008.5.1.4.1.1.88.59",  # Key Object Selection Document
    "1.2.840.10008.5.1.4.1.1.88.65",  # Chest CAD SR
    "1.2.840.10008.5.1.4.1.1.88.67",  # X-Ray Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.68",  # Radiopharmaceutical Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.69",  # Colon CAD SR
    "1.2.840.10008.5.1.4.1.1.88.70",  # Implantation Plan SR
    "1.2.840.10008.5.1.4.1.1.88.71",  # Acquisition Context SR
    "1.2.840.10008.5.1.4.1.1.88.73",  # Patient Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.74",  # Planned Imaging Agent Administration SR
    "1.2.840.10008.5.1.4.1.1.88.75",  # Performed Imaging Agent Administration SR
    "1.2.840.10008.5.1.4.1.1.88.76",  # Enhanced X-Ray Radiation Dose SR
)


def read_report(path: Path) -> str:
    """Read a report: a text file, or a DICOM structured report.

    Text: UTF-8 (with or without a byte order mark), UTF-16 with one, else cp1252 or Latin-1. Raises ReportError.
    """
    path = Path(path)
    what = f"Report {path.name or path}"
    if path.is_dir():
        raise ReportError(
            f"{what} is a folder; a file is expected. Give the report's file inside it (.txt or DICOM SR)."
        )
    if not path.is_file():
        raise ReportError(f"{what} does not exist: {path.absolute()}. Check the path.")
    structured = _is_dicom(path)
    size, limit = path.stat().st_size, _SR_LIMIT_BYTES if structured else REPORT_LIMIT_BYTES
    if size > limit:
        raise ReportError(f"{what} has {size:,} bytes; at most {limit:,} are expected. Give the report's text alone.")
    if structured:
        return _read_structured(path, what)
    data = path.read_bytes()
    text = _decode(data)
    if not text.strip():
        raise ReportError(f"{what} is empty. Give a file with the report's text, or leave the report out.")
    if "\0" in text or data.startswith((b"%PDF", b"PK\x03\x04", b"{\\rtf")):
        raise ReportError(f"{what} is not plain text. Save it as a .txt file in UTF-8.")
    return text


def _is_dicom(path: Path) -> bool:
    """PS3.10 7.1: 128 bytes of preamble, then DICM."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_structured(path: Path, what: str) -> str:
    import pydicom  # half a second: only for those who have an SR
    from pydicom.errors import InvalidDicomError

    from .structured_report import structured_text

    try:
        document = pydicom.dcmread(path)
        _check_whole(document)
        if document.get("SOPClassUID") in _NO_REPORT:
            raise ReportError(f"{what} is DICOM {document.SOPClassUID.name}; a report that somebody wrote is expected.")
        text = structured_text(document, what)
    except (InvalidDicomError, OSError, ValueError, LookupError, TypeError, AttributeError, NotImplementedError,
            RecursionError) as error:  # fmt: skip
        # pydicom decodes elements when they are asked for, and a damaged one can fail in any of these ways
        raise ReportError(f"{what} cannot be read as DICOM ({error}). It may be damaged: export it again.") from error
    if len(text.encode()) > REPORT_LIMIT_BYTES:
        raise ReportError(f"{what} holds more than {REPORT_LIMIT_BYTES:,} bytes of text. Give the report's text alone.")
    return text


def _check_whole(document: Dataset) -> None:
    """pydicom reads a file that was cut off without a word; half a report must not pass for a whole one."""
    for tag in document.keys():  # noqa: SIM118 (iterating the data set itself would decode every element)
        raw = document.get_item(tag)
        value, length = getattr(raw, "value", None), getattr(raw, "length", None)
        if isinstance(value, bytes) and length is not None and length < 0xFFFFFFFF and len(value) < length:
            raise ValueError(f"element {tag} is cut off: {len(value):,} of {length:,} bytes")


def _decode(data: bytes) -> str:
    unicode = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    for encoding in (unicode, "cp1252", "latin-1"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes every byte")


class DicomDatabase(Protocol):
    """What is used of ``slicer.dicomDatabase`` (ctkDICOMDatabase)."""

    def seriesForStudy(self, studyUID: str) -> Sequence[str]: ...  # noqa: N802
    def filesForSeries(self, seriesUID: str) -> Sequence[str]: ...  # noqa: N802
    def fileValue(self, fileName: str, tag: str) -> str: ...  # noqa: N802
    def instanceValue(self, sopInstanceUID: str, tag: str) -> str: ...  # noqa: N802


@dataclass(frozen=True)
class StudyReport:
    """A structured report of a study. ``date``: YYYYMMDD or empty; ``verified``: somebody has signed it."""

    path: Path
    description: str
    date: str
    time: str
    verified: bool

    @property
    def label(self) -> str:
        """For a list to choose from, e.g. "CT report, 2024-05-17 (not verified)"."""
        day = f", {self.date[:4]}-{self.date[4:6]}-{self.date[6:8]}" if len(self.date) == 8 else ""
        return f"{self.description or 'Report'}{day}{'' if self.verified else ' (not verified)'}"


def study_of(database: DicomDatabase, instance_uid: str) -> str:
    """The study's UID of an image, or "" where the database does not know it (a volume that was loaded from a file)."""
    return database.instanceValue(instance_uid, "0020,000D") or "" if instance_uid else ""


def find_reports(database: DicomDatabase, study_uid: str) -> list[StudyReport]:
    """The structured reports of a study, signed ones first, the newest first. Dose reports and CAD results are none."""
    found = []
    for series in database.seriesForStudy(study_uid) if study_uid else ():
        for name in database.filesForSeries(series):
            value = {key: database.fileValue(name, tag) or "" for key, tag in _TAGS.items()}
            if value["modality"] != "SR":
                break  # a series has one modality
            if value["class"] not in _NO_REPORT:
                verified = value["verification"] == "VERIFIED"
                found.append(StudyReport(Path(name), value["description"], value["date"], value["time"], verified))
    newest_first = sorted(found, key=lambda report: (report.date, report.time), reverse=True)
    return sorted(newest_first, key=lambda report: not report.verified)

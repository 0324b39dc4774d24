"""DICOM structured reports as text: headings, sentences, measurements and codes are kept, everything else is left out."""

import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from CTGroundedVLMLib.errors import ReportError
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.report_sources import find_reports, read_report, study_of
from CTGroundedVLMLib.volume_io import read_report as read_report_of_the_command_line

BASIC_TEXT, ENHANCED, COMPREHENSIVE = (f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (11, 22, 33))
DOSE, KEY_OBJECTS = (f"1.2.840.10008.5.1.4.1.1.88.{n}" for n in (67, 59))


def code(meaning, value="1", scheme="99TEST"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return [item]


def item(kind, name, *children, relation="CONTAINS", **values):
    content = Dataset()
    content.RelationshipType, content.ValueType = relation, kind
    if name:
        content.ConceptNameCodeSequence = code(name)
    if children:
        content.ContentSequence = list(children)
    for keyword, value in values.items():
        setattr(content, keyword, value)
    return content


def section(name, *children, **values):
    return item("CONTAINER", name, *children, ContinuityOfContent="SEPARATE", **values)


def text(name, value, *children, **values):
    return item("TEXT", name, *children, TextValue=value, **values)


def coded(name, meaning, *children, **values):
    return item("CODE", name, *children, ConceptCodeSequence=code(meaning), **values)


def number(name, value, unit, **values):
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = value, code(unit, unit, "UCUM")
    return item("NUM", name, MeasuredValueSequence=[measured], **values)


def write_sr(path, *content, sop_class=BASIC_TEXT, modality="SR", character_set="ISO_IR 192", **values):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    document = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    document.SpecificCharacterSet = character_set
    document.SOPClassUID, document.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    document.Modality, document.ValueType = modality, "CONTAINER"
    document.ConceptNameCodeSequence = code("CT Report")
    if content:
        document.ContentSequence = list(content)
    for keyword, value in values.items():
        setattr(document, keyword, value)
    pydicom.dcmwrite(path, document)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "report.dcm"


def test_sections_become_headings_and_text_items_their_text(path):
    write_sr(
        path,
        section("History", text("History", "Cough.")),
        section("Findings", text("Finding", "No pleural effusion."), text("Finding", "Liver is normal.")),
        section("Impressions", text("Impression", "1. Stable.\r\n2. No nodule.")),
    )
    assert read_report(path) == (
        "History:\nCough.\n\nFindings:\nNo pleural effusion.\nLiver is normal.\n\nImpressions:\n1. Stable.\n2. No nodule.\n"
    )


def test_the_report_parser_finds_sections_and_findings_in_it(path):
    write_sr(
        path,
        section("Findings", text("Finding", "There is a small left pleural effusion.")),
        section("Impression", text("Impression", "Left pleural effusion.")),
    )
    sentences = parse_report(read_report(path)).sentences
    assert [sentence.section for sentence in sentences] == ["findings", "impression"]
    assert {finding.name for sentence in sentences for finding in sentence.findings} == {"pleural effusion"}


def test_text_items_without_a_section_get_a_heading_once(path):
    write_sr(path, text("Findings", "No nodule."), text("Findings", "No effusion."), text("Impression", "Normal."))
    assert read_report(path) == "Findings:\nNo nodule.\nNo effusion.\n\nImpression:\nNormal.\n"


def test_measurements_have_units_and_codes_their_meaning_with_site_and_side(path):
    write_sr(
        path,
        section(
            "Findings",
            coded(
                "Abnormality",
                "Nodule",
                coded("Finding site", "Upper lobe of lung", relation="HAS PROPERTIES"),
                coded("Laterality", "Left", relation="HAS CONCEPT MOD"),
                number("Diameter", "12.5", "mm", relation="HAS PROPERTIES"),
            ),
            number("Volume", "0.81", "ml"),
            number("Agatston score", "112", "1"),
            number("Ratio", "0.4", "{ratio}"),
        ),
        sop_class=COMPREHENSIVE,
    )
    assert read_report(path) == (
        "Findings:\nAbnormality: Nodule, Upper lobe of lung, Left, Diameter 12.5 mm.\nVolume: 0.81 ml.\n"
        "Agatston score: 112.\nRatio: 0.4.\n"
    )


def test_the_site_of_a_group_of_measurements_is_kept(path):
    """As TID 1500 has it: the site belongs to the group, identifiers are context."""
    write_sr(
        path,
        section(
            "Imaging Measurements",
            section(
                "Measurement Group",
                text("Tracking Identifier", "Lesion 1", relation="HAS OBS CONTEXT"),
                coded(
                    "Finding Site",
                    "Liver",
                    coded("Laterality", "Right", relation="HAS CONCEPT MOD"),
                    relation="HAS CONCEPT MOD",
                ),
                number("Long axis", "21", "mm"),
            ),
        ),
        sop_class=COMPREHENSIVE,
    )
    assert read_report(path) == (
        "Imaging Measurements:\n\nMeasurement Group:\nFinding Site: Liver, Right.\nLong axis: 21 mm.\n"
    )


def test_a_measurement_that_was_not_taken_is_left_out(path):
    missing = item("NUM", "Diameter", MeasuredValueSequence=[])
    write_sr(path, section("Findings", text("Finding", "Nodule."), missing), sop_class=ENHANCED)
    assert read_report(path) == "Findings:\nNodule.\n"


def test_observers_images_and_names_are_left_out(path):
    observer = item("PNAME", "Person Observer Name", relation="HAS OBS CONTEXT", PersonName="Doe^Jane")
    write_sr(
        path,
        observer,
        coded("Language", "English", relation="HAS CONCEPT MOD"),
        section(
            "Findings", text("Finding", "Cyst."), item("PNAME", "Seen by", PersonName="Roe^Rick"), item("IMAGE", "")
        ),
    )
    assert read_report(path) == "Findings:\nCyst.\n"


@pytest.mark.parametrize(
    ("character_set", "words"),
    [
        ("ISO_IR 100", "Röntgenbefund: kein Erguß."),
        ("ISO_IR 192", "胸部CT所見:異常なし。"),
        ("ISO_IR 144", "Лёгкие без изменений."),
        (["", "ISO 2022 IR 87"], "肺に結節。"),
    ],
)
def test_texts_of_any_character_set_are_read(path, character_set, words):
    write_sr(path, section("Findings", text("Finding", words)), character_set=character_set)
    assert read_report(path) == f"Findings:\n{words}\n"


def test_nested_sections_keep_their_headings(path):
    write_sr(path, section("Findings", section("Lungs", text("Finding", "Clear.")), section("Empty")))
    assert read_report(path) == "Findings:\n\nLungs:\nClear.\n"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"content": (section("Findings", section("Lungs")),)}, "is a structured report without text"),
        ({"content": ()}, "is a structured report without text"),
        (
            {"content": (text("Protocol", "Dose"),), "sop_class": DOSE},
            "is DICOM X-Ray Radiation Dose SR Storage; a report",
        ),
        (
            {"content": (), "modality": "CT", "sop_class": "1.2.840.10008.5.1.4.1.1.2"},
            "is DICOM of modality CT; a structured",
        ),
        (
            {
                "content": (),
                "modality": "DOC",
                "sop_class": "1.2.840.10008.5.1.4.1.1.104.1",
                "EncapsulatedDocument": b"%PDF",
            },
            "is DICOM an encapsulated document (PDF)",
        ),
    ],
)
def test_what_is_no_report_is_refused(path, written, message):
    write_sr(path, *written.pop("content"), **written)
    with pytest.raises(ReportError) as caught:
        read_report(path)
    assert str(caught.value).startswith("Report report.dcm ")
    assert message in str(caught.value)


@pytest.mark.filterwarnings("ignore:End of file reached before delimiter")
def test_a_damaged_file_is_refused(path):
    write_sr(path, section("Findings", text("Finding", "Cyst. " * 50)))
    path.write_bytes(path.read_bytes()[:-120])
    with pytest.raises(ReportError, match=r"Report report\.dcm "):
        read_report(path)
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 500)
    with pytest.raises(ReportError, match=r"Report report\.dcm "):
        read_report(path)


def test_a_report_of_more_than_a_megabyte_is_refused(path):
    write_sr(path, section("Findings", text("Finding", "No effusion. " * 80_000)))
    with pytest.raises(ReportError, match="more than 1,000,000 bytes of text"):
        read_report(path)


def test_a_tree_that_is_nested_without_end_is_refused(path):
    deep = text("Finding", "Cyst.")
    for _ in range(60):
        deep = section("Lungs", deep)
    write_sr(path, deep)
    with pytest.raises(ReportError, match="more than 40 levels deep"):
        read_report(path)


def test_the_command_line_reads_reports_by_the_same_function():
    assert read_report_of_the_command_line is read_report


class DatabaseStandIn:
    """Answers as ctkDICOMDatabase does, from a dictionary: series -> files -> values by tag."""

    def __init__(self, series):
        self._series, self.asked = series, set()

    def seriesForStudy(self, studyUID):  # noqa: N802
        return tuple(self._series) if studyUID == "1.2" else ()

    def filesForSeries(self, seriesUID):  # noqa: N802
        return tuple(self._series[seriesUID])

    def fileValue(self, fileName, tag):  # noqa: N802
        self.asked.add(fileName)
        for files in self._series.values():
            if fileName in files:
                return files[fileName].get(tag, "")
        raise AssertionError(f"asked for an unknown file {fileName}")

    def instanceValue(self, sopInstanceUID, tag):  # noqa: N802
        return "1.2" if (sopInstanceUID, tag) == ("1.2.3.4", "0020,000D") else ""


def values(sop_class, date, verified="VERIFIED", modality="SR", description="CT report"):
    return {"0008,0060": modality, "0008,0016": sop_class, "0008,103E": description, "0008,0023": date, "0008,0033": "1200",
            "0040,A493": verified}  # fmt: skip


def test_the_reports_of_a_study_are_found_signed_and_newest_first():
    database = DatabaseStandIn(
        {
            "images": {f"{n}.dcm": values("1.2.840.10008.5.1.4.1.1.2", "20240101", modality="CT") for n in range(3)},
            "dose": {"dose.dcm": values(DOSE, "20240105")},
            "keys": {"keys.dcm": values(KEY_OBJECTS, "20240105", modality="KO")},
            "reports": {
                "old.dcm": values(BASIC_TEXT, "20240102"),
                "draft.dcm": values(BASIC_TEXT, "20240104", verified="UNVERIFIED", description=""),
                "new.dcm": values(COMPREHENSIVE, "20240103"),
            },
        }
    )
    found = find_reports(database, study_of(database, "1.2.3.4"))
    assert [report.path.name for report in found] == ["new.dcm", "old.dcm", "draft.dcm"]
    assert [report.label for report in found] == [
        "CT report, 2024-01-03",
        "CT report, 2024-01-02",
        "Report, 2024-01-04 (not verified)",
    ]


def test_a_volume_that_the_database_does_not_know_has_no_reports():
    database = DatabaseStandIn({"reports": {"a.dcm": values(BASIC_TEXT, "20240102")}})
    assert study_of(database, "") == study_of(database, "9.9") == ""
    assert find_reports(database, "") == []


def test_only_the_first_file_of_an_image_series_is_asked_for():
    files = {f"{n}.dcm": values("1.2.840.10008.5.1.4.1.1.2", "20240101", modality="CT") for n in range(2000)}
    database = DatabaseStandIn({"images": files})
    assert find_reports(database, "1.2") == []
    assert database.asked == {"0.dcm"}

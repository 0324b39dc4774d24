"""Report files: common encodings are read, and what is no text is refused in words."""

import pytest

from CTGroundedVLMLib.errors import ReportError
from CTGroundedVLMLib.report_sources import read_report

REPORT = "FINDINGS: Ödem – no effusion.\nIMPRESSION: Stable.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_reports_are_read_in_common_encodings(tmp_path, encoding):
    path = tmp_path / "report.txt"
    path.write_bytes(REPORT.encode(encoding))
    assert read_report(path) == REPORT


def test_bytes_that_cp1252_lacks_are_read_as_latin_1(tmp_path):
    path = tmp_path / "report.txt"
    path.write_bytes(b"Lungs clear. \xe9\x81")
    assert read_report(path) == "Lungs clear. é\x81"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"abc\0def", "is not plain text. Save it as a .txt file in UTF-8"),
        (b"%PDF-1.7 ...", "is not plain text"),
        (b"PK\x03\x04 a Word file", "is not plain text"),
        (rb"{\rtf1 Lungs clear}", "is not plain text"),
        (b"a" * 1_000_001, "has 1,000,001 bytes; at most 1,000,000 are expected"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, content, found):
    path = tmp_path / "report.txt"
    path.write_bytes(content)
    with pytest.raises(ReportError) as caught:
        read_report(path)
    assert str(caught.value).startswith("Report report.txt ")
    assert found in str(caught.value)


def test_a_missing_report_is_named(tmp_path):
    with pytest.raises(ReportError) as caught:
        read_report(tmp_path / "none.txt")
    assert str(caught.value) == f"Report none.txt does not exist: {tmp_path / 'none.txt'}. Check the path."


def test_a_folder_is_no_report(tmp_path):
    with pytest.raises(ReportError) as caught:
        read_report(tmp_path)
    assert str(caught.value).startswith(f"Report {tmp_path.name} is a folder; a file is expected")
    assert "does not exist" not in str(caught.value)

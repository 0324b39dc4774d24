"""Reading reports for decomposition: JSON lines and CSV."""

import json

import pytest

from CTGroundedVLMLib.errors import ReportError
from CTGroundedVLMTraining.decompose.records import ReportText
from CTGroundedVLMTraining.decompose.reports import read_reports

CT_RATE = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN\r\n"


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_json_lines_keep_order_and_text(tmp_path):
    rows = [{"report_id": "b", "text": "Liver:\u2028 é \r\n normal."}, {"report_id": "a", "text": "", "exam": 3}]
    path = write(tmp_path / "r.jsonl", "\ufeff" + "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n\n")
    assert read_reports(path) == [ReportText("b", "Liver:\u2028 é \r\n normal."), ReportText("a", "")]


def test_ct_rate_columns_become_a_report_with_headings(tmp_path):
    rows = 'train_1_a_1.nii.gz,Cough,"CT, thin","Heart ""normal"".\nLungs clear.",Normal CT.\r\ntrain_2_a_1.nii.gz,,,,Nodule.\r\n'
    reports = read_reports(write(tmp_path / "t.CSV", CT_RATE + rows))
    assert reports[0] == ReportText(
        "train_1_a_1.nii.gz", 'FINDINGS:\nHeart "normal".\nLungs clear.\n\nIMPRESSION:\nNormal CT.'
    )
    assert reports[1].text == "IMPRESSION:\nNodule."


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "t.csv", "accession,body\n7,Normal.\n")
    assert read_reports(path, "accession", "body") == [ReportText("7", "Normal.")]


def test_a_text_column_overrides_ct_rate_sections(tmp_path):
    path = write(tmp_path / "t.csv", CT_RATE + "v1,c,t,f,i\n")
    assert read_reports(path, text_column="Impressions_EN") == [ReportText("v1", "i")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.jsonl",
            '{"report_id": "a", "text": "x"}\n{"report_id": "a", "text": "y"}\n',
            "line 2: report id 'a' occurs twice",
        ),
        (
            "r.jsonl",
            '{"report_id": "a"}\n',
            "'text' is missing .found: report_id.; name the right one with --text-column",
        ),
        ("r.jsonl", '{"report_id": 5, "text": "x"}\n', "'report_id' is int, not text"),
        ("r.jsonl", '{"report_id": "", "text": "x"}\n', "'report_id' is empty"),
        ("r.jsonl", '["a"]\n', "expected an object with report_id and text, found list"),
        ("r.jsonl", '{"report_id": "a"\n', "line 1: not JSON"),
        ("r.jsonl", "\n", "no reports"),
        ("r.csv", "id,text\n1,x\n", "'report_id' is missing .found: id, text.; name the right one with --id-column"),
        ("r.csv", "report_id,text\n1\n", "'text' is NoneType"),
        ("r.csv", 'report_id,text\n1,"x" y\n', "not a CSV table"),
    ],
)
def test_unusable_files_say_what_is_wrong(tmp_path, name, content, message):
    with pytest.raises(ReportError, match=message):
        read_reports(write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl"])
def test_wrong_encoding_and_absent_files_are_named(tmp_path, name):
    with pytest.raises(ReportError, match="not UTF-8"):
        read_reports(write(tmp_path / name, 'report_id,text\n1,"é"\n', "latin-1"))
    with pytest.raises(ReportError, match=r"absent.*cannot be read"):
        read_reports(tmp_path / f"absent-{name}")

"""The JSON-lines form of parsed reports: content, errors and atomic writing."""

import json

import pytest

from CTGroundedVLMLib.errors import OutputError, ReportError
from CTGroundedVLMLib.report import parse_jsonl, parse_report, to_record


def write(path, *items):
    path.write_text(
        "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items), encoding="utf-8"
    )
    return path


def test_a_record_holds_what_an_annotation_holds():
    assert to_record(parse_report("IMPRESSION: Possible hepatic cyst."), "r1") == {
        "report_id": "r1",
        "text": "IMPRESSION: Possible hepatic cyst.",
        "sentences": [
            {
                "start": 12,
                "end": 34,
                "section": "impression",
                "segments": ["liver"],
                "findings": [{"name": "hepatic cyst", "status": "uncertain"}],
            }
        ],
    }


def test_reports_are_written_one_per_line_in_order(tmp_path):
    source = write(
        tmp_path / "in.jsonl", {"report_id": "b", "text": "Liver \u2028 normal."}, "", {"report_id": "a", "text": ""}
    )
    assert parse_jsonl(source, tmp_path / "out.jsonl") == 2
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [r["report_id"] for r in records] == ["b", "a"]
    assert [len(r["sentences"]) for r in records] == [1, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "not JSON"), ('["a"]', "found list"), ('{"report_id": "x"}', "'text' is missing"),
        ('{"text": "x"}', "'report_id' is missing"), ('{"report_id": 3, "text": "x"}', "'report_id' is int"),
        ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_file_and_number_and_nothing_is_written(tmp_path, line, message):
    source = write(tmp_path / "in.jsonl", {"report_id": "a", "text": "Liver normal."}, line)
    target = write(tmp_path / "out.jsonl", "kept")
    with pytest.raises(ReportError, match=r"in\.jsonl, line 2") as error:
        parse_jsonl(source, target)
    assert message in str(error.value)
    assert target.read_text(encoding="utf-8") == "kept\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_missing_file_and_one_that_is_not_text_are_report_errors(tmp_path):
    with pytest.raises(ReportError, match="cannot be read"):
        parse_jsonl(tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="UTF-8"):
        parse_jsonl(tmp_path / "binary.jsonl", tmp_path / "out.jsonl")


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    source = write(tmp_path / "in.jsonl", {"report_id": "a", "text": "Liver normal."})
    with pytest.raises(OutputError, match="cannot be written"):
        parse_jsonl(source, tmp_path / "none" / "out.jsonl")

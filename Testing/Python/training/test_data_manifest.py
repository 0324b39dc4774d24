"""The manifest: what is read, what is written, and what is refused and why."""

from dataclasses import replace
from pathlib import Path

import pytest

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMTraining.data.manifest import (
    Correction,
    ManifestRow,
    check_patients,
    read_manifest,
    split_by_patient,
    write_manifest,
)

HEADER = "case_id,patient_id,split,image,segmentation,report\n"


def a_manifest(folder, *lines, header=HEADER, name="manifest.csv"):
    path = folder / name
    path.write_text(header + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows_of(folder):
    """One row with everything, one with what is required."""
    full = ManifestRow(
        "a", "p1", "train", folder / "cases/a/ct.nii.gz", "s1", folder / "cases/a/seg.nii.gz", folder / "a.txt",
        'Two lines,\n"quoted" words.', folder / "texts.jsonl", folder / "labels.csv", "silver",
        Correction(1, -1024, (0.7, 0.7, 1.5), direction_lps=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)), "ct-rate",
    )  # fmt: skip
    return [full, ManifestRow("b", "p2", "test", Path("/elsewhere/b.nii.gz"), "b")]


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_what_was_written_is_read_again(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (the training extra)")
    rows = rows_of(tmp_path)
    write_manifest(tmp_path / name, rows)
    assert read_manifest(tmp_path / name) == rows


def test_paths_are_relative_to_the_manifest_wherever_it_is_moved_to(tmp_path):
    (tmp_path / "one").mkdir()
    write_manifest(tmp_path / "one/m.csv", rows_of(tmp_path / "one"))
    assert "cases/a/ct.nii.gz" in (tmp_path / "one/m.csv").read_text()
    assert str(tmp_path) not in (tmp_path / "one/m.csv").read_text()
    (tmp_path / "one").rename(tmp_path / "two")
    assert read_manifest(tmp_path / "two/m.csv")[0].image == tmp_path / "two/cases/a/ct.nii.gz"


def test_columns_that_no_row_uses_are_left_out(tmp_path):
    write_manifest(tmp_path / "m.csv", [ManifestRow("b", "p2", "test", tmp_path / "b.nii.gz", "b")])
    assert (tmp_path / "m.csv").read_text() == "case_id,patient_id,split,image,study_id\nb,p2,test,b.nii.gz,b\n"


def test_a_row_without_a_report_is_allowed_and_says_so(tmp_path):
    rows = read_manifest(a_manifest(tmp_path, "a,p,train,a.nii,,", "b,p,train,b.nii,,b.txt"))
    assert [row.has_report for row in rows] == [False, True]
    assert rows[0].report is None
    assert rows[0].segmentation is None


def test_every_problem_is_named_with_its_line_and_column(tmp_path):
    path = a_manifest(tmp_path, "a,p,trian,a.nii,,", ",p,train,b.nii,,", "c,p,train,,,")
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert "line 2, column 'split': 'trian' is none of train, validation, test" in message
    assert "line 3, column 'case_id': is empty" in message
    assert "line 4, column 'image': is empty" in message
    assert str(path) in message


def test_a_case_id_may_stand_there_once(tmp_path):
    path = a_manifest(tmp_path, "a,p,train,a.nii,,", "b,p,train,b.nii,,", "a,p,train,c.nii,,")
    with pytest.raises(InputError, match=r"line 4, column 'case_id': 'a' stands in line 2 already"):
        read_manifest(path)
    with pytest.raises(InputError, match=r"case ids 'b' occur twice"):
        write_manifest(tmp_path / "new.csv", [rows_of(tmp_path)[1]] * 2)
    assert not (tmp_path / "new.csv").exists()


def test_a_patient_in_two_splits_is_refused_by_name(tmp_path):
    path = a_manifest(tmp_path, "a,Ann,train,a.nii,,", "b,Bob,train,b.nii,,", "c,Ann,test,c.nii,,")
    with pytest.raises(
        InputError, match=r"patient 'Ann' \('a' in train, 'c' in test\) in more than one split"
    ) as caught:
        read_manifest(path)
    assert "Bob" not in str(caught.value)


def test_a_row_with_too_many_cells_is_refused_rather_than_shifted(tmp_path):
    path = a_manifest(tmp_path, "a,p,train,a.nii,,,too,many")
    with pytest.raises(InputError, match=r"line 2: more cells than the header"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("header", "line", "expected"),
    [
        ("case_id,split,image\n", "a,train,a.nii", r"column\(s\) patient_id are missing \(found: case_id, split, image\)"),
        ("case_id,patient_id,split,image,segmentations\n", "a,p,train,a.nii,", "is 'segmentation' meant"),
        ("case_id,patient_id,split,image,correction\n", 'a,p,train,a.nii,"{""slop"": 1}"', "column 'correction': expected an object"),
        ("case_id,patient_id,split,image,correction\n", 'a,p,train,a.nii,"{""spacing_ijk"": [1, 1]}"', r"spacing_ijk: expected 3 number"),
        ("case_id,patient_id,split,image,label_kind\n", "a,p,train,a.nii,bronze", "'bronze' is none of truth, expert, silver"),
        (HEADER, "", "no rows"),
    ],
)  # fmt: skip
def test_a_table_that_is_no_manifest_is_refused(tmp_path, header, line, expected):
    with pytest.raises(InputError, match=expected):
        read_manifest(a_manifest(tmp_path, line, header=header))


def test_columns_of_the_user_s_own_are_let_be(tmp_path):
    path = a_manifest(tmp_path, "a,p,train,a.nii,63,F", header="case_id,patient_id,split,image,age,sex\n")
    assert read_manifest(path)[0].case_id == "a"


@pytest.mark.parametrize("name", ["missing.csv", "m.xlsx"])
def test_a_file_that_cannot_be_a_manifest_is_named(tmp_path, name):
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_manifest(tmp_path / name)


def test_a_broken_parquet_file_is_named(tmp_path):
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (the training extra)")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"m\.parquet: cannot be read as Parquet"):
        read_manifest(tmp_path / "m.parquet")


def test_numbers_in_parquet_are_refused_with_row_and_column(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow (the training extra)")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"case_id": ["a", "b"], "patient_id": [1, 2], "split": ["train"] * 2, "image": ["a", "b"]})
    parquet.write_table(table, tmp_path / "m.parquet")
    with pytest.raises(InputError, match=r"row 1, column 'patient_id': 1 is int, not text"):
        read_manifest(tmp_path / "m.parquet")


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "m.csv").mkdir()
    with pytest.raises(OutputError, match=r"m\.csv: cannot be written"):
        write_manifest(tmp_path / "m.csv", rows_of(tmp_path))


def some_rows(patients):
    return [ManifestRow(f"{p}-{s}", f"p{p}", "train", Path("/x.nii")) for p in range(patients) for s in range(2)]


def test_splitting_keeps_patients_together_and_meets_the_shares():
    rows = split_by_patient(some_rows(2000), (0.7, 0.2), seed=3)
    check_patients(rows)
    share = {split: sum(row.split == split for row in rows) / len(rows) for split in ("train", "validation", "test")}
    assert share["train"] == pytest.approx(0.7, abs=0.03)
    assert share["validation"] == pytest.approx(0.2, abs=0.03)


def test_a_patient_s_split_hangs_on_seed_and_name_alone():
    before = {row.case_id: row.split for row in split_by_patient(some_rows(50))}
    after = {row.case_id: row.split for row in split_by_patient(list(reversed(some_rows(80))))}
    assert all(after[case] == split for case, split in before.items())
    other = {row.case_id: row.split for row in split_by_patient(some_rows(50), seed=1)}
    assert other != before


def test_shares_above_one_are_refused():
    with pytest.raises(InputError, match=r"0\.9 and 0\.2"):
        split_by_patient(some_rows(2), (0.9, 0.2))


def test_check_patients_names_only_the_first_of_many():
    rows = some_rows(20)
    rows += [replace(row, case_id=f"{row.case_id} again", split="test") for row in rows]
    with pytest.raises(InputError, match="and 15 more"):
        check_patients(rows)

"""Score and label tables of several makes, joined; protocols; what finds no match is named."""

from dataclasses import replace

import numpy as np
import pytest

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMTraining.evaluate.evaluation import EvaluationSettings, evaluate
from CTGroundedVLMTraining.evaluate.joining import check_no_patient_in_both, hold_out, read_dataset
from CTGroundedVLMTraining.evaluate.protocols import choose_protocol, published_protocol
from CTGroundedVLMTraining.evaluate.tables import volume_key

QUICK = EvaluationSettings(resamples=0)
CT_RATE = [
    "Medical material",
    "Arterial wall calcification",
    "Cardiomegaly",
    "Pericardial effusion",
    "Coronary artery wall calcification",
    "Hiatal hernia",
    "Lymphadenopathy",
    "Emphysema",
    "Atelectasis",
    "Lung nodule",
    "Lung opacity",
    "Pulmonary fibrotic sequela",
    "Pleural effusion",
    "Mosaic attenuation pattern",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Interlobular septal thickening",
]


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of lines and gives its path."""

    def write(name: str, *lines: str):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


def joined(table, scores, labels, protocol="fvlm16", **options):
    return read_dataset(table("scores.csv", *scores), table("labels.csv", *labels), protocol, **options)


def test_fvlm16_asks_what_the_release_asks():
    release = {
        "lung": {
            n: n
            for n in (
                "Emphysema",
                "Pleural effusion",
                "Mosaic attenuation pattern",
                "Peribronchial thickening",
                "Consolidation",
                "Bronchiectasis",
                "Interlobular septal thickening",
            )
        }
        | {
            "Atelectasis": "Atelectatic",
            "Lung nodule": "Nodule",
            "Lung opacity": "Opacity",
            "Pulmonary fibrotic sequela": "Pulmonary fibrotic",
        },
        "heart": {n: n for n in ("Cardiomegaly", "Pericardial effusion", "Coronary artery wall calcification")},
        "esophagus": {"Hiatal hernia": "Hiatal hernia"},
        "aorta": {"Arterial wall calcification": "Arterial wall calcification"},
    }
    expected = {
        (o, f, f"{words}.", f"Not {words}.", (f,)) for o, named in release.items() for f, words in named.items()
    }
    items = published_protocol("fvlm16").items
    assert {(q.organ, q.finding, q.positive, q.negative, i.labels) for i in items for q in i.questions} == expected
    assert len(items) == 16


def test_ctrate18_asks_ct_clips_prompts_for_all_labels_in_their_order():
    items = published_protocol("ctrate18").items
    assert [item.name for item in items] == CT_RATE
    assert [(q.positive, q.negative) for q in items[2].questions] == [
        ("Cardiomegaly is present.", "Cardiomegaly is not present.")
    ]
    assert [item.name for item in items if item.questions[0].organ is None] == ["Medical material", "Lymphadenopathy"]


def test_radchest16_takes_the_higher_calcification_score_and_drops_mosaic_and_coronary():
    items = {item.name: item for item in published_protocol("radchest16").items}
    assert list(items) == [
        n for n in CT_RATE if n not in ("Mosaic attenuation pattern", "Coronary artery wall calcification")
    ]
    assert [q.key for q in items["Arterial wall calcification"].questions] == [
        "aorta/Arterial wall calcification",
        "heart/Coronary artery wall calcification",
    ]
    assert items["Lung nodule"].labels == ("nodule", "nodulegr1cm")
    assert items["Hiatal hernia"].labels == ("hernia",)
    assert items["Pulmonary fibrotic sequela"].labels == ("scarring",)
    assert len(items["Medical material"].labels) == 11
    assert all(len(item.questions) == 1 for name, item in items.items() if name != "Arterial wall calcification")


def test_radchest15_has_fvlms_findings_with_calcification_twice():
    items = {item.name: item for item in published_protocol("radchest15").items}
    assert len(items) == 15
    assert (
        items["Arterial wall calcification"].labels
        == items["Coronary artery wall calcification"].labels
        == ("calcification",)
    )
    assert items["Lung opacity"].questions[0].positive == "Opacity."


def test_the_fibrosis_label_map_changes_one_column():
    usual, other = (published_protocol("radchest15", name) for name in (None, "rad-chestct-fibrosis"))
    changed = [(a.labels, b.labels) for a, b in zip(usual.items, other.items, strict=True) if a.labels != b.labels]
    assert changed == [(("scarring",), ("fibrosis",))]
    assert "HLIP" in other.label_map
    with pytest.raises(InputError, match="fvlm16 has no label map 'rad-chestct'; expected ct-rate"):
        published_protocol("fvlm16", "rad-chestct")


def test_templates_change_the_prompts_and_say_so():
    protocol = published_protocol("fvlm16").with_templates()
    record = protocol.to_record()
    assert record["templates"] is True
    assert "7 prompt templates" in record["prompts"]
    assert "There is no emphysema." in record["findings"][0]["questions"][0]["negative"]


def test_the_corpus_protocol_takes_the_label_columns_that_the_registry_knows():
    protocol = choose_protocol("corpus", ["case_id", "lung/Emphysema", "liver/Hepatic cyst", "liver/no such thing"])
    assert [item.key for item in protocol.items] == ["lung/Emphysema", "liver/Hepatic cyst"]
    with pytest.raises(InputError, match='no column "organ/finding"'):
        choose_protocol("corpus", ["VolumeName", "Emphysema"])
    with pytest.raises(InputError, match="corpus takes the label table's own columns; --label-map ct-rate does not"):
        choose_protocol("corpus", ["case_id", "lung/Emphysema"], "ct-rate")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("valid_1_a_1.nii.gz", "valid_1_a_1"),
        (" valid_1_a_1 ", "valid_1_a_1"),
        ("x/y/valid_1_a_1.NII.GZ", "valid_1_a_1"),
        ("C:\\d\\v.nii", "v"),
        ("trn0001.npz", "trn0001"),
        ("a/b", "a/b"),
        ("v1.2", "v1.2"),
    ],
)
def test_a_volume_is_known_with_and_without_its_ending(name, key):
    assert volume_key(name) == key


RELEASE_COLUMN = "lung_Emphysema_Not Emphysema._Emphysema."


@pytest.mark.parametrize(
    "column",
    [RELEASE_COLUMN, "lung/Emphysema", "Emphysema", "emphysema", "Lung/emphysema", RELEASE_COLUMN.upper()],
)
def test_scores_of_any_make_are_joined_by_volume_whatever_the_order(table, column):
    scores = [f"file_name,{column}", "valid_2_a_1.nii.gz,0.2", "valid_1_a_1.nii.gz,0.9", "valid_1_b_1,"]
    labels = ["VolumeName,Emphysema", "valid_1_a_1.nii.gz,1", "valid_1_b_1.nii.gz,0", "valid_2_a_1,0"]
    _, data = joined(table, scores, labels)
    assert data.volumes == ("valid_2_a_1", "valid_1_a_1", "valid_1_b_1")
    assert data.patients == ("valid_2", "valid_1", "valid_1")
    np.testing.assert_array_equal(data.scores_NF[:, 0], [0.2, 0.9, np.nan])
    np.testing.assert_array_equal(data.labels_NF[:, 0], [0, 1, 0])
    assert "CT-RATE's volume names" in data.patient_rule


@pytest.mark.parametrize(
    ("scored", "labelled"),
    [
        (["/data/valid_1_a_1", "/data/valid_2_a_1"], ["valid_1_a_1.nii.gz", "valid_2_a_1.nii.gz"]),
        (["VALID_1_A_1", "VALID_2_A_1"], ["valid_1_a_1", "valid_2_a_1"]),
        (["valid_1_a_1", "valid_2_a_1"], ["C:\\ct\\Valid_1_a_1", "D:\\Valid_2_a_1\\"]),
    ],
    ids=["folders", "case", "both"],
)
def test_names_that_differ_in_folders_and_case_only_are_joined_with_a_note(table, scored, labelled):
    _, data = joined(
        table,
        ["file_name,lung/Emphysema", *(f"{name},0.{n + 1}" for n, name in enumerate(scored))],
        ["VolumeName,Emphysema", *(f"{name},{n}" for n, name in reversed(list(enumerate(labelled))))],
    )
    assert data.volumes == tuple(scored)
    assert data.patients == ("valid_1", "valid_2")
    column = data.scores_NF[:, ~np.isnan(data.scores_NF).all(0)]
    assert column.ravel().tolist() == [0.1, 0.2]
    assert data.labels_NF[:, ~np.isnan(data.labels_NF).all(0)].ravel().tolist() == [0.0, 1.0]
    assert any("2 volumes joined without folders and in any case" in note for note in data.notes())


def test_names_are_joined_loosely_only_where_none_matches_and_none_becomes_another_s(table):
    labels = ["VolumeName,Emphysema", "a,1", "b,0"]
    _, data = joined(table, ["file_name,lung/Emphysema", "a,0.1", "B,0.2"], labels)
    assert data.volumes == ("a",)
    assert not any("joined without folders" in note for note in data.notes())
    with pytest.raises(InputError, match=r"No volume .*: p1/a, p2/a against a, b\. Are they"):
        joined(table, ["file_name,lung/Emphysema", "p1/a,0.1", "p2/a,0.2"], labels)


@pytest.mark.parametrize(("yes", "no"), [("True", "False"), ("true", "FALSE"), (" TRUE ", "0")])
def test_true_and_false_are_labels(table, yes, no):
    _, data = joined(
        table, ["file_name,lung/Emphysema", "a,0.1", "b,0.2"], ["VolumeName,Emphysema", f"a,{yes}", f"b,{no}"]
    )
    assert data.labels_NF[:, ~np.isnan(data.labels_NF).all(0)].ravel().tolist() == [1.0, 0.0]


def test_rows_and_columns_without_a_match_are_named(table):
    scores = [
        f"file_name,{RELEASE_COLUMN},lung_Atelectasis_No X._X.,liver_Cyst_Not Cyst._Cyst.",
        "a,0.2,0.1,0.5",
        "b,0.9,0.3,0.5",
        "lost,0.4,0.1,0.5",
    ]
    labels = ["VolumeName,Emphysema,Atelectasis", "a,1,0", "b,0,1", "extra,0,0"]
    _, data = joined(table, scores, labels)
    notes = "\n".join(data.notes())
    assert "1 volumes with scores but without labels, left out: lost" in notes
    assert "1 volumes with labels but without scores, left out: extra" in notes
    assert "1 score columns that the protocol does not use: liver_Cyst_Not Cyst._Cyst." in notes
    assert "made with other prompts than the protocol's: lung_Atelectasis_No X._X." in notes
    assert "every volume counts as a patient of its own" in notes
    assert "heart/Cardiomegaly: " in data.reasons["heart/Cardiomegaly"]
    assert "has no column Cardiomegaly" in data.reasons["heart/Cardiomegaly"]


def test_a_finding_without_score_column_is_reported_and_left_out_of_the_mean(table):
    labels = ["VolumeName,Emphysema,Cardiomegaly", "a,1,0", "b,0,1"]
    protocol, data = joined(table, ["file_name,lung/Emphysema", "a,0.9", "b,0.1"], labels)
    result = evaluate(protocol, data, QUICK)
    by_key = {finding.item.key: finding for finding in result.findings}
    assert "has no column for heart/Cardiomegaly" in by_key["heart/Cardiomegaly"].reason
    assert by_key["heart/Cardiomegaly"].sections == {}
    assert result.macro["release"]["auc"].value == 1.0
    assert result.macro_of["release"]["auc"] == 1


def test_rad_chestct_labels_are_positive_at_any_location(table):
    labels = [
        "NoteAcc_DEID,nodule*right_upper,nodule*lung,nodulegr1cm*lung,calcification*aorta,calcification*heart",
        "t1,0,0,0,0,1",
        "t2,0,1,0,0,0",
        "t3,0,,0,,0",
        "t4,1,,0,0,0",
    ]
    scores = [
        "volume_name,Lung nodule,Arterial wall calcification,Coronary artery wall calcification",
        "t1.npz,0.1,0.2,0.7",
        "t2.npz,0.8,0.4,0.3",
        "t3.npz,0.3,,0.9",
        "t4.npz,0.6,0.5,0.5",
    ]
    protocol, data = joined(table, scores, labels, "radchest16")
    column = {item.name: n for n, item in enumerate(protocol.items)}
    np.testing.assert_array_equal(data.labels_NF[:, column["Lung nodule"]], [0, 1, np.nan, 1])
    np.testing.assert_array_equal(data.labels_NF[:, column["Arterial wall calcification"]], [1, 0, np.nan, 0])
    # the higher of both; missing where one is missing
    np.testing.assert_array_equal(data.scores_NF[:, column["Arterial wall calcification"]], [0.7, 0.4, np.nan, 0.5])


SEQUELA = "lung/Pulmonary fibrotic sequela"


@pytest.mark.parametrize("column", [SEQUELA, "Pulmonary fibrotic sequela", "pulmonary fibrotic sequela"])
def test_a_finding_s_own_label_column_stands_for_the_usual_label_map_only(table, column):
    scores = [f"case_id,{SEQUELA},lung/Emphysema", "a,0.9,0.8", "b,0.1,0.2"]
    labels = [f"case_id,{column},Emphysema", "a,1,1", "b,0,0"]
    protocol, data = joined(table, scores, labels, "radchest15")
    assert SEQUELA not in data.reasons
    number = [item.key for item in protocol.items].index(SEQUELA)
    np.testing.assert_array_equal(data.labels_NF[:, number], [1, 0])
    assert f"1 label columns taken by the finding's own name, instead of the label map's: {column}" in data.notes()
    _, other = joined(table, scores, labels, "radchest15", label_map="rad-chestct-fibrosis")
    assert "has no column fibrosis" in other.reasons[SEQUELA]
    assert np.isnan(other.labels_NF[:, number]).all(), "scarring is not fibrosis"
    with pytest.raises(InputError, match=r"Nothing can be evaluated .*no column emphysema, .*\(--label-map\)"):
        joined(table, scores, [f"case_id,{column}", "a,1", "b,0"], "radchest15", label_map="rad-chestct-fibrosis")


@pytest.mark.parametrize(("protocol", "count"), [("radchest16", 16), ("radchest15", 15)])
def test_rad_chestct_labels_under_ct_rate_s_names_are_all_evaluated(table, protocol, count):
    scores = ["case_id," + ",".join(CT_RATE), "a" + ",0.9" * 18, "b" + ",0.1" * 18]
    _, data = joined(table, scores, ["case_id," + ",".join(CT_RATE), "a" + ",1" * 18, "b" + ",0" * 18], protocol)
    assert (len(data.reasons), data.labels_NF.shape[1]) == (0, count)
    np.testing.assert_array_equal(data.labels_NF[0], np.ones(count))


def test_missing_scores_are_zero_by_the_releases_rule_and_left_out_otherwise(table):
    scores = ["file_name,lung/Emphysema", "a,0.9", "b,0.8", "c,NaN", "d,0.1", "e,0.2"]
    labels = ["VolumeName,Emphysema", "a,1", "b,1", "c,1", "d,0", "e,0"]
    protocol, data = joined(table, scores, labels)
    finding = evaluate(protocol, data, QUICK).findings[0]
    assert (finding.volumes, finding.missing, finding.positives) == (5, 1, 3)
    assert finding.sections["release"].metrics["auc"].value == pytest.approx(4 / 6)
    assert finding.sections["left_out"].metrics["auc"].value == 1
    assert finding.sections["left_out"].volumes == 4


def test_of_two_columns_of_an_item_the_release_s_rule_takes_the_missing_one_for_zero_before_the_higher(table):
    scores = ["file_name,aorta/Arterial wall calcification,heart/Coronary artery wall calcification",
              "a,0.9,", "b,0.2,0.4", "c,,", "d,0.1,0.7"]  # fmt: skip
    labels = ["NoteAcc_DEID,calcification*aorta", "a,1", "b,0", "c,0", "d,1"]
    protocol, data = joined(table, scores, labels, "radchest16")
    number = next(n for n, item in enumerate(protocol.items) if len(item.questions) == 2)
    result = evaluate(protocol, data.select(np.arange(4)), QUICK).findings[number]
    release, left_out = result.sections["release"], result.sections["left_out"]
    assert (release.volumes, left_out.volumes, result.missing) == (4, 2, 2)
    # scores 0.9, 0.4, 0, 0.7: both positives lie above both negatives, as they do not with a's 0.9 lost
    assert release.metrics["auc"].value == 1.0
    assert release.metrics["sensitivity"].value == 1.0
    assert left_out.metrics["auc"].value == 1.0
    assert np.array_equal(data.filled_NF[:, number], [0.9, 0.4, 0.0, 0.7])
    assert np.array_equal(np.isnan(data.scores_NF[:, number]), [True, False, True, False])


def test_one_class_gives_no_auc_and_the_reason(table):
    protocol, data = joined(
        table,
        ["file_name,lung/Emphysema,heart/Cardiomegaly", "a,0.9,0.2", "b,0.1,0.4"],
        ["VolumeName,Emphysema,Cardiomegaly", "a,0,0", "b,0,1"],
    )
    result = evaluate(protocol, data, QUICK)
    auc = result.findings[0].sections["release"].metrics["auc"]
    assert (auc.value, auc.reason) == (None, "only one class is there")
    assert result.macro["release"]["auc"].value == 1.0  # of cardiomegaly alone
    assert result.macro_of["release"]["auc"] == 1


def test_unknown_labels_are_left_out(table):
    protocol, data = joined(
        table, ["file_name,lung/Emphysema", "a,0.9", "b,0.8", "c,0.1"], ["VolumeName,Emphysema", "a,1", "b,", "c,0"]
    )
    finding = evaluate(protocol, data, QUICK).findings[0]
    assert (finding.volumes, finding.unknown) == (2, 1)
    assert finding.sections["release"].metrics["auc"].value == 1


@pytest.mark.parametrize(
    ("scores", "labels", "words"),
    [
        (["file_name,lung/Emphysema", "a,1.2"], ["VolumeName,Emphysema", "a,1"], r"line 2 \(a\), column 'lung/Emphysema': '1.2' is not a probability"),
        (["file_name,lung/Emphysema", "a,x"], ["VolumeName,Emphysema", "a,1"], "'x' is not a probability from 0 to 1"),
        (["file_name,lung/Emphysema", "a,0.2"], ["VolumeName,Emphysema", "a,2"], r"column 'Emphysema': '2' is not 1, 0 \(or true, false\), or nothing"),
        (["file_name,lung/Emphysema", "a,0.2", "a.nii.gz,0.3"], ["VolumeName,Emphysema", "a,1"], "line 3: 'a' stands in line 2 already"),
        (["file_name,lung/Emphysema", "a,0.2"], ["VolumeName,Emphysema", "a,1", "a,1"], "labels.csv, line 3: 'a' stands in line 2 already"),
        (["file_name,lung/Emphysema", "a,0.2"], ["VolumeName,Emphysema", "b,1"], "No volume of .*scores.csv has a row in .*labels.csv: a against b"),
        (["name,lung/Emphysema", "a,0.2"], ["VolumeName,Emphysema", "a,1"], "no column with volume names; expected one of case_id, file_name"),
        (["file_name,lung/Emphysema,lung/Emphysema", "a,0.2,0.2"], ["VolumeName,Emphysema", "a,1"], "lung/Emphysema has 2 columns"),
        (["file_name,lung/Emphysema", "a,0.2,7"], ["VolumeName,Emphysema", "a,1"], "line 2: 3 cells under 2 columns"),
        (["file_name,lung/Emphysema", ",0.2"], ["VolumeName,Emphysema", "a,1"], "line 2: the volume's name is empty"),
        (["file_name,lung/Emphysema"], ["VolumeName,Emphysema", "a,1"], "no rows"),
        (["file_name,liver/Cyst", "a,0.2"], ["VolumeName,Emphysema", "a,1"], "Nothing can be evaluated by the protocol fvlm16: .*no column for lung/Emphysema"),
        (["file_name,lung/Emphysema", "a,0.2"], ["VolumeName,emph", "a,1"], "Nothing can be evaluated by the protocol fvlm16: .*has no column Emphysema"),
        (["file_name,lung/Emphysema", "a,0.2"], ["VolumeName,patient_id,Emphysema", "a,,1"], "column 'patient_id': no patient for a"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused_with_its_place(table, scores, labels, words):
    with pytest.raises(InputError, match=words):
        joined(table, scores, labels)


def test_a_file_that_is_missing_or_no_text_is_named(table, tmp_path):
    good = table("labels.csv", "VolumeName,Emphysema", "a,1")
    (tmp_path / "bad.csv").write_bytes(b"file_name,lung/Emphysema\nb\xff,0.1\n")
    with pytest.raises(InputError, match=r"bad\.csv: not UTF-8"):
        read_dataset(tmp_path / "bad.csv", good, "fvlm16")
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_dataset(tmp_path / "none.csv", good, "fvlm16")


def test_patients_come_from_a_column_where_there_is_one(table):
    labels = ["VolumeName,patient_id,Emphysema", "valid_1_a_1,x,1", "valid_2_a_1,x,0"]
    _, data = joined(table, ["file_name,lung/Emphysema", "valid_1_a_1,0.3", "valid_2_a_1,0.4"], labels)
    assert data.patients == ("x", "x")
    assert "column patient_id" in data.patient_rule


def many(table, patients=12):
    rows = [f"valid_{p}_a_{r}" for p in range(patients) for r in (1, 2)]
    return joined(
        table,
        ["file_name,lung/Emphysema", *(f"{r},0.{n + 10}" for n, r in enumerate(rows))],
        ["VolumeName,Emphysema", *(f"{r},{n % 2}" for n, r in enumerate(rows))],
    )


def test_a_patient_in_both_splits_is_refused_by_name(table):
    protocol, data = many(table)
    first, second = data.select(np.arange(5)), data.select(np.arange(4, 24))
    with pytest.raises(InputError, match="1 patients are in the validation and in the test split: valid_2"):
        evaluate(protocol, first, QUICK, second)


def test_one_other_name_leaves_the_patients_of_ct_rate_s_names_grouped(table):
    rows = ["valid_1_a_1", "valid_1_b_1", "odd"]
    _, data = joined(
        table,
        ["file_name,lung/Emphysema", *(f"{row},0.5" for row in rows)],
        ["VolumeName,Emphysema", *(f"{row},{n % 2}" for n, row in enumerate(rows))],
    )
    assert data.patients == ("valid_1", "valid_1", "odd")
    assert "of 1 volumes with other names not known" in data.patient_rule
    assert "(odd)" in data.patient_rule


def of_volumes(table, name, volumes, patients=None):
    """The joined tables of these volumes, with a column of patients where they are given."""
    column, cells = ("", [""] * len(volumes)) if patients is None else (",patient_id", [f",{p}" for p in patients])
    scores = [f"{v}{c},0.{n + 1}" for n, (v, c) in enumerate(zip(volumes, cells, strict=True))]
    labels = [f"{v},{n % 2}" for n, v in enumerate(volumes)]
    return read_dataset(
        table(f"{name}.csv", f"case_id{column},lung/Emphysema", *scores),
        table(f"{name}_labels.csv", "case_id,Emphysema", *labels),
        "fvlm16",
    )


@pytest.mark.parametrize(
    ("test", "validation", "words"),
    [
        ((["valid_1_a_1", "valid_1_b_1"], ["x", "x"]), (["valid_1_a_1", "valid_2_a_1"], None), "1 volumes are in .*: valid_1_a_1"),
        ((["valid_1_a_1", "valid_2_a_1"], ["x", "y"]), (["valid_1_b_1", "valid_3_a_1"], None), "cannot be told. .*column patient_id of .*Give both"),
        ((["valid_1_a_1", "valid_2_a_1"], None), (["valid_1_b_1", "valid_3_a_1"], ["x", "y"]), "cannot be told"),
        ((["valid_1_a_1", "odd"], None), (["valid_1_b_1", "valid_3_a_1"], None), "1 patients are in .*: valid_1"),
    ],
    ids=["the same volume", "test names patients", "validation names patients", "an odd name"],
)  # fmt: skip
def test_tested_patients_are_refused_as_validation_whatever_names_them(table, test, validation, words):
    protocol, tested = of_volumes(table, "t", *test)
    _, held = of_volumes(table, "v", *validation)
    with pytest.raises(InputError, match=words):
        evaluate(protocol, tested, QUICK, held)


def test_columns_of_patients_in_both_tables_are_compared(table):
    protocol, tested = of_volumes(table, "t", ["a", "b"], ["x", "y"])
    _, held = of_volumes(table, "v", ["c", "d"], ["z", "w"])
    assert evaluate(protocol, tested, QUICK, held).validation["patients"] == 2


def test_the_validation_split_is_known_by_a_hash_of_its_volumes_scores_and_labels(table):
    volumes = ["valid_7_a_1", "valid_8_a_1", "valid_9_a_1"]
    protocol, tested = of_volumes(table, "t", ["valid_1_a_1", "valid_2_a_1"])
    _, held = of_volumes(table, "v", volumes)
    sha256 = evaluate(protocol, tested, QUICK, held).validation["sha256"]
    assert len(sha256) == 64
    assert held.select(np.array([2, 0, 1])).sha256() == sha256, "in whatever order the table has them"
    scores_NF, labels_NF = held.scores_NF.copy(), held.labels_NF.copy()
    scores_NF[1] = np.nextafter(scores_NF[1], 1)
    labels_NF[2, protocol.items.index(next(i for i in protocol.items if i.key == "lung/Emphysema"))] = np.nan
    others = [
        replace(held, scores_NF=scores_NF),
        replace(held, labels_NF=labels_NF),
        replace(held, volumes=("valid_7_a_2", *held.volumes[1:])),
    ]
    assert len({sha256, *(other.sha256() for other in others)}) == 4


@pytest.mark.parametrize("share", [float("nan"), float("inf"), 0.0, 1.0, -0.5])
def test_a_share_that_is_none_is_refused(table, share):
    with pytest.raises(InputError, match="expected a share of the patients above 0 and below 1"):
        hold_out(many(table)[1], share, 0)


def test_holding_out_splits_by_patient_and_by_seed(table):
    _, data = many(table)
    test, held = hold_out(data, 0.5, seed=0)
    check_no_patient_in_both(test, held)
    assert (len(set(held.patients)), len(test.volumes) + len(held.volumes)) == (6, 24)
    assert hold_out(data, 0.5, 0)[1].volumes == held.volumes != hold_out(data, 0.5, 1)[1].volumes
    with pytest.raises(InputError, match="leaves one split empty"):
        hold_out(data, 0.01, 0)

"""Readers of other data sets: small look-alikes with the published layout and column names. Everything in them is synthetic."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from CTGroundedVLMLib.errors import InputError, VolumeError
from CTGroundedVLMTraining.data.manifest import read_manifest
from CTGroundedVLMTraining.data.readers.base import ReaderOptions
from CTGroundedVLMTraining.data.readers.radgenome import region_reports
from CTGroundedVLMTraining.data.sources import make_manifest, read_source
from CTGroundedVLMTraining.data.texts import read_labels, texts_by_rules
from CTGroundedVLMTraining.data.volumes import read_volume
from training_data import CT_RATE_VOLUMES, ct_rate_like, write_case, write_lines

# --- RadGenome-ChestCT


def test_radgenome_s_sentences_become_the_report_of_ct_rate_s_volume(tmp_path):
    images = ct_rate_like(tmp_path / "ct-rate", CT_RATE_VOLUMES)
    write_lines(
        tmp_path / "radgenome/dataset/radgenome_files/train_region_report.csv",
        "Volumename,Anatomy,Sentence",
        [
            "train_1_a_1.nii.gz,lung,There is a nodule in the right lung",
            "train_1_a_1.nii.gz,heart,The heart is normal.",
            "train_1_a_1.nii.gz,lung,No consolidation.",
            "train_1_a_1.nii.gz,,Limited examination.",
        ],
    )
    reading = read_source("radgenome", ReaderOptions(tmp_path / "radgenome", images=images, validation=0.0))
    assert [row.case_id for row in reading.rows] == ["train_1_a_1"]
    text = reading.rows[0].report_text
    assert text == (
        "FINDINGS:\nLung: There is a nodule in the right lung. No consolidation.\nHeart: The heart is normal.\nLimited examination."
    )
    texts = texts_by_rules(text, {"lung": ("lung_lower_lobe_right", "lung_upper_lobe_right"), "heart": ("heart",)})
    assert {organ: status for organ, (_, status) in texts.items()} == {"lung": "abnormal", "heart": "normal"}


def test_radgenome_needs_ct_rate_s_volumes(tmp_path):
    with pytest.raises(InputError, match="--images"):
        read_source("radgenome", ReaderOptions(tmp_path))


def test_a_table_of_another_layout_is_refused_with_what_it_holds(tmp_path):
    write_lines(tmp_path / "t.csv", "Volumename,Region,Text", [])
    with pytest.raises(InputError, match=r"Anatomy, Sentence are missing \(found: Volumename, Region, Text\)"):
        region_reports(tmp_path / "t.csv")


# --- Merlin


def merlin_like(root, rows):
    openpyxl = pytest.importorskip("openpyxl", reason="Merlin's table needs openpyxl (the training extra)")
    book = openpyxl.Workbook()
    book.active.append(["study id", "Findings", "Split", "Few Shot"])
    for row in rows:
        book.active.append(row)
    root.mkdir(exist_ok=True)
    book.save(root / "reports_final.xlsx")
    for study, *_ in rows[:3]:
        (root / "merlin_data").mkdir(exist_ok=True)
        (root / f"merlin_data/{study}.nii.gz").touch()
    write_lines(
        root / "zero_shot_findings_disease_cls.csv",
        "study id,renal_cyst,ascites,splenomegaly,pleural_effusion",
        ["AC1,1,1,0,-1", "AC2,-1,0,-1,-1", "AC9,1,1,1,1"],
    )
    return root


MERLIN = [("AC1", "Renal cyst. IMPRESSION: Cyst.", "train", 0), ("AC2", "Normal.", "val", 0), ("AC3", None, "test", 1)]


def test_merlin_s_minus_one_is_unknown_and_never_negative(tmp_path):
    reading = read_source("merlin", ReaderOptions(merlin_like(tmp_path / "m", [*MERLIN, ("AC4", "x", "train", 0)])))
    assert [(row.case_id, row.split, row.has_report) for row in reading.rows] == [
        ("AC1", "train", True),
        ("AC2", "validation", True),
        ("AC3", "test", False),
    ]
    known = {key: value for key, value in reading.labels["AC1"].items() if value is not None}
    assert known == {"kidney/Renal cyst": 1, "spleen/Splenomegaly": 0}
    assert all(value is None for value in reading.labels["AC2"].values())
    assert any("1 studies of the table have no volume" in note for note in reading.notes)
    assert any("names no patients" in note for note in reading.notes)


def test_merlin_s_labels_are_empty_cells_in_the_table_where_unknown(tmp_path):
    make_manifest("merlin", ReaderOptions(merlin_like(tmp_path / "m", MERLIN)), tmp_path / "merlin.csv")
    rows = read_manifest(tmp_path / "merlin.csv")
    assert [row.label_kind for row in rows] == ["silver", "", ""], "a case without any known label has none"
    assert read_labels(tmp_path / "merlin.labels.csv")["AC1"] == {"kidney/Renal cyst": 1, "spleen/Splenomegaly": 0}


def test_a_split_that_merlin_does_not_have_is_refused_with_its_row(tmp_path):
    rows = [MERLIN[0], ("AC2", "Normal.", "dev", 0), MERLIN[2]]
    with pytest.raises(InputError, match=r"row 3, column 'Split': 'dev'; expected train, val or test"):
        read_source("merlin", ReaderOptions(merlin_like(tmp_path / "m", rows)))


@pytest.mark.parametrize("damage", ["cut off", "no archive", "a sheet's bytes"])
def test_a_damaged_table_of_merlin_is_named(tmp_path, damage):
    path = merlin_like(tmp_path / "m", MERLIN) / "reports_final.xlsx"
    whole = path.read_bytes()
    if damage == "cut off":
        path.write_bytes(whole[:-100])
    elif damage == "no archive":
        path.write_bytes(b"<html>404</html>")
    else:
        with zipfile.ZipFile(path) as archive:
            sheet = archive.getinfo("xl/worksheets/sheet1.xml")
        middle = sheet.header_offset + 30 + len(sheet.filename) + sheet.compress_size // 2
        path.write_bytes(whole[:middle] + bytes(16) + whole[middle + 16 :])
    with pytest.raises(InputError, match=r"reports_final\.xlsx: cannot be read as an Excel table .*Download it again"):
        read_source("merlin", ReaderOptions(tmp_path / "m"))


def test_every_label_that_merlin_s_table_maps_to_is_one_of_the_registry(tmp_path):
    from CTGroundedVLMLib.anatomy import findings
    from CTGroundedVLMTraining.data.readers.base import facts

    known = {f"{finding.organ}/{finding.name}" for finding in findings()}
    assert set(facts()["merlin"]["labels"].values()) <= known


# --- RAD-ChestCT


def rad_chestct_like(root):
    """Two volumes with axes to inferior, posterior, left; a bright block marks the patient's head, front and right."""
    root.mkdir()
    for name in ("trn00001", "tst00002"):
        volume = np.full((20, 24, 28), -1000, np.int16)
        volume[3:17, 4:20, 4:24] = 40
        volume[3:6, 4:8, 4:9] = 900
        np.savez_compressed(root / f"{name}.npz", ct=volume)
    header = "NoteAcc_DEID,calcification*aorta,calcification*heart,nodule*lung,nodulegr1cm*lung,scarring*lung,mass*lung"
    write_lines(root / "imgtrain_Abnormality_and_Location_Labels.csv", header, ["trn00001,0,1,0,1,0,1"])
    write_lines(root / "imgtest_Abnormality_and_Location_Labels.csv", header, ["tst00002,0,0,0,0,0,0"])
    write_lines(root / "CT_Scan_Metadata_Complete_35747.csv", "MRN_DEID,NoteAcc_DEID", ["P7,trn00001", "P8,tst00002"])
    return root


def test_rad_chestct_s_labels_are_positive_where_any_location_is(tmp_path):
    reading = read_source("rad-chestct", ReaderOptions(rad_chestct_like(tmp_path / "r")))
    assert [(row.case_id, row.patient_id, row.split, row.has_report) for row in reading.rows] == [
        ("trn00001", "P7", "train", False),
        ("tst00002", "P8", "test", False),
    ]
    labels = reading.labels["trn00001"]
    assert labels["lung/Lung nodule"] == 1
    assert labels["aorta/Arterial wall calcification"] == 1
    assert labels["lung/Pulmonary fibrotic sequela"] == 0
    assert labels["lung/Emphysema"] is None, "no column of this table says"
    assert reading.labels["tst00002"]["lung/Lung nodule"] == 0


@pytest.mark.parametrize(
    ("nodule", "nodule_gr_1cm", "label"),
    [
        ("0", "0", 0),
        ("", "0", None),
        ("nan", "0", None),
        ("-1", "0", None),
        ("-1", "1", 1),
        ("", "1.0", 1),
        ("", "", None),
    ],
)
def test_rad_chestct_s_unknown_cells_are_never_negative(tmp_path, nodule, nodule_gr_1cm, label):
    root = rad_chestct_like(tmp_path / "r")
    path = root / "imgtrain_Abnormality_and_Location_Labels.csv"
    write_lines(path, path.read_text().splitlines()[0], [f"trn00001,0,0,{nodule},{nodule_gr_1cm},0,1"])
    assert read_source("rad-chestct", ReaderOptions(root)).labels["trn00001"]["lung/Lung nodule"] == label


def test_rad_chestct_s_volumes_are_read_the_right_way_round(tmp_path):
    volume = read_volume(read_source("rad-chestct", ReaderOptions(rad_chestct_like(tmp_path / "r"))).rows[0])
    assert np.allclose(volume.spacing_ijk, 0.8)
    k, j, i = np.argwhere(volume.array_kji > 800).mean(axis=0)
    block = volume.ijk_to_ras @ (i, j, k, 1)
    centre = volume.ijk_to_ras @ (*(np.array(volume.array_kji.shape[::-1]) / 2), 1)
    right, front, head = (block - centre)[:3]
    assert (right > 0, front > 0, head > 0) == (True, True, True)


def test_an_npz_file_of_another_kind_is_refused(tmp_path):
    root = rad_chestct_like(tmp_path / "r")
    np.savez(root / "trn00001.npz", other=np.zeros(3))
    row = read_source("rad-chestct", ReaderOptions(root)).rows[0]
    with pytest.raises(VolumeError, match="holds no array 'ct'"):
        read_volume(row)
    row.image.write_bytes(row.image.read_bytes()[:40])
    with pytest.raises(VolumeError, match=r"cannot be read as \.npz"):
        read_volume(row)


# --- A plain folder


def test_a_plain_folder_becomes_a_manifest_with_splits_by_patient(tmp_path):
    for number in range(6):
        write_case(tmp_path / f"cases/c{number}", report=None if number == 5 else "Normal.", shape=(8, 16, 20),
                   boxes={"aorta": ((2, 4, 4), (6, 8, 8))})  # fmt: skip
    (tmp_path / "cases/c4/segmentation.nii.gz").unlink()
    write_lines(tmp_path / "patients.csv", "case_id,patient_id", ["c0,Ann", "c1,Ann"])
    write_lines(tmp_path / "labels.csv", "case_id,lung/Emphysema", ["c0,1", "c1,"])
    told = make_manifest("folder", ReaderOptions(tmp_path, shares=(0.5, 0.2)), tmp_path / "m.csv")
    rows = read_manifest(tmp_path / "m.csv")
    assert [row.patient_id for row in rows] == ["Ann", "Ann", "c2", "c3", "c4", "c5"]
    assert rows[0].split == rows[1].split
    assert rows[4].segmentation is None
    assert not rows[5].has_report
    assert rows[0].labels == tmp_path / "m.labels.csv"
    assert any("4 cases name no patient" in line for line in told)
    assert any("drawn by patient" in line for line in told)


def test_a_synthetic_corpus_keeps_its_patients_splits_and_labels(tmp_path):
    write_case(tmp_path / "cases/s1", shape=(8, 16, 20), boxes={"aorta": ((2, 4, 4), (6, 8, 8))})
    truth = {
        "patient_id": "p",
        "study_id": "st",
        "split": "validation",
        "labels": {"lung/Emphysema": 1, "liver/Cirrhosis": None},
    }
    (tmp_path / "cases/s1/truth.json").write_text(json.dumps(truth))
    reading = read_source("folder", ReaderOptions(tmp_path))
    row = reading.rows[0]
    assert (row.patient_id, row.study_id, row.split, row.label_kind) == ("p", "st", "validation", "truth")
    assert reading.labels == {"s1": {"lung/Emphysema": 1, "liver/Cirrhosis": None}}


def test_a_case_without_a_ct_is_named(tmp_path):
    (tmp_path / "cases/empty").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty holds no ct\.nii\.gz"):
        read_source("folder", ReaderOptions(tmp_path))


@pytest.mark.parametrize("source", ["ct-rate", "merlin", "rad-chestct", "folder"])
def test_a_folder_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(InputError, match="gone does not exist"):
        read_source(source, ReaderOptions(Path(tmp_path / "gone")))

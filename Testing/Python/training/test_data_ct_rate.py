"""The reader of CT-RATE on a synthetic look-alike: which volumes, how they become HU, labels, splits, the manifest."""

import numpy as np
import pytest

from CTGroundedVLMLib.errors import InputError, VolumeError
from CTGroundedVLMTraining.data.manifest import read_manifest
from CTGroundedVLMTraining.data.readers.base import Masks, ReaderOptions
from CTGroundedVLMTraining.data.sources import make_manifest, read_source
from CTGroundedVLMTraining.data.texts import read_labels
from CTGroundedVLMTraining.data.volumes import read_volume
from training_data import CT_RATE_AFFINE, CT_RATE_VOLUMES, ct_rate_like, hu_volume, write_image


def test_ct_rate_gives_one_reconstruction_a_session_without_heads_and_broken_volumes(tmp_path):
    reading = read_source("ct-rate", ReaderOptions(ct_rate_like(tmp_path, CT_RATE_VOLUMES), validation=0.0))
    assert [row.case_id for row in reading.rows] == ["train_1_a_1", "train_2_a_2", "train_2_b_1", "valid_1_a_1"]
    row = reading.rows[0]
    assert (row.patient_id, row.study_id, row.split, row.label_kind) == ("train_1", "train_1_a", "train", "silver")
    assert row.report_text == "FINDINGS:\nNodule in the right lung, train_1_a_1.\n\nIMPRESSION:\nLung nodule."
    assert reading.rows[-1].split == "test", "the published validation half is everybody's test set"
    assert any("2 volumes left out" in note for note in reading.notes)
    assert any("silver" in note for note in reading.notes)


def test_ct_rate_gives_all_reconstructions_on_demand(tmp_path):
    options = ReaderOptions(ct_rate_like(tmp_path, CT_RATE_VOLUMES), reconstructions="all")
    names = [row.case_id for row in read_source("ct-rate", options).rows]
    assert names == ["train_1_a_1", "train_1_a_2", "train_2_a_2", "train_2_b_1", "valid_1_a_1"]


def test_ct_rate_s_labels_go_under_the_organs_that_hold_them(tmp_path):
    labels = read_source("ct-rate", ReaderOptions(ct_rate_like(tmp_path, CT_RATE_VOLUMES))).labels["train_1_a_1"]
    assert labels["heart/Cardiomegaly"] == 1
    assert labels["aorta/Arterial wall calcification"] == 0
    assert len(labels) == 16, "medical material and lymphadenopathy have no organ"


def test_ct_rate_takes_validation_patients_from_training(tmp_path):
    volumes = [f"train_{n}_{scan}_1" for n in range(4, 64) for scan in "ab"] + ["valid_1_a_1"]
    root = tmp_path / "many"
    ct_rate_like(root, ["train_1_a_1", "valid_1_a_1"])
    for name in volumes:  # the reader looks at names only
        patient = "_".join(name.split("_")[:2])
        path = root / f"dataset/{name.split('_')[0]}_fixed/{patient}/{name[:-2]}/{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    rows = read_source("ct-rate", ReaderOptions(root, validation=0.3)).rows
    splits = {}
    for row in rows:
        splits.setdefault(row.patient_id, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    drawn = sum(found == {"validation"} for found in splits.values())
    assert 8 <= drawn <= 28
    assert splits["valid_1"] == {"test"}


def test_version_2_is_preferred_and_never_rescaled(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1"], version=1)
    ct_rate_like(root, ["train_1_a_1"], version=2)
    row = read_source("ct-rate", ReaderOptions(root)).rows[0]
    assert row.image.parts[-4] == "train_fixed"
    assert row.correction is None
    assert np.array_equal(read_volume(row).array_kji, hu_volume())
    assert read_source("ct-rate", ReaderOptions(root, version=1)).rows[0].image.parts[-4] == "train"


def test_an_empty_folder_of_version_2_does_not_hide_version_1(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1"], version=1)
    (root / "dataset/train_fixed").mkdir()
    reading = read_source("ct-rate", ReaderOptions(root))
    assert [row.source for row in reading.rows] == ["ct-rate v1"]
    with pytest.raises(InputError, match="no volumes below"):
        read_source("ct-rate", ReaderOptions(root, version=2))


def test_volumes_that_only_version_1_has_are_counted_in_a_note(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1", "train_4_a_1", "train_5_a_1"], version=1)
    ct_rate_like(root, ["train_1_a_1", "train_6_a_1"], version=2)
    reading = read_source("ct-rate", ReaderOptions(root))
    assert [row.case_id for row in reading.rows] == ["train_1_a_1", "train_6_a_1"]
    assert any(note.startswith("train: 2 volumes that only version 1 has are not taken") for note in reading.notes)
    asked = read_source("ct-rate", ReaderOptions(root, version=2))
    assert not any("only version 1" in note for note in asked.notes), "who names a version knows of the other"


def test_an_incomplete_metadata_line_matters_for_volumes_that_are_there_only(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1"], version=1)
    path = root / "dataset/metadata/train_metadata.csv"
    complete = path.read_text()
    path.write_text(complete + "train_9_a_1.nii.gz,X,,,,,,\n")
    assert read_source("ct-rate", ReaderOptions(root)).rows[0].correction.slope == 1
    path.write_text(complete.replace("[-160.0, -150.5, 30]", "[-160.0, 30]"))
    with pytest.raises(InputError, match=r"line 2, column 'ImagePositionPatient': '\[-160.0, 30\]'; expected 3"):
        read_source("ct-rate", ReaderOptions(root))


def test_version_1_gets_its_values_and_geometry_from_the_metadata(tmp_path):
    names = ["train_1_a_1", "train_4_a_1", "train_5_a_1"]
    rows = read_source("ct-rate", ReaderOptions(ct_rate_like(tmp_path, names, version=1))).rows
    assert [row.case_id for row in rows if row.correction is not None] == names
    volume = read_volume(rows[0])
    assert np.array_equal(volume.array_kji, hu_volume())
    assert volume.array_kji.dtype == np.int16
    expected = np.array([[-0.7, 0, 0, 160.0], [0, -0.7, 0, 150.5], [0, 0, 1.5, 30], [0, 0, 0, 1]])
    assert np.allclose(volume.ijk_to_ras, expected)


def test_version_1_metadata_on_version_2_values_are_not_applied_a_second_time(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1"], version=1)
    row = read_source("ct-rate", ReaderOptions(root)).rows[0]
    write_image(row.image, hu_volume(), CT_RATE_AFFINE)
    volume = read_volume(row)
    assert np.array_equal(volume.array_kji, hu_volume())
    assert "were not applied a second time" in volume.warnings[0]


def test_values_that_are_hu_neither_before_nor_after_the_rescale_are_refused(tmp_path):
    row = read_source("ct-rate", ReaderOptions(ct_rate_like(tmp_path, ["train_1_a_1"], version=1))).rows[0]
    write_image(row.image, ((hu_volume() + 1024) // 5).astype(np.uint8), CT_RATE_AFFINE)
    with pytest.raises(VolumeError, match="not in Hounsfield units"):
        read_volume(row)


def test_a_version_1_volume_without_metadata_is_refused(tmp_path):
    root = ct_rate_like(tmp_path, ["train_1_a_1"], version=1)
    path = root / "dataset/metadata/train_metadata.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="no line on this volume"):
        read_source("ct-rate", ReaderOptions(root))
    path.write_text("VolumeName,XYSpacing\n")
    with pytest.raises(InputError, match=r"ZSpacing, ImagePositionPatient, .* are missing"):
        read_source("ct-rate", ReaderOptions(root))


def test_a_manifest_of_ct_rate_is_written_with_masks_texts_and_labels(tmp_path):
    root = ct_rate_like(tmp_path / "ct-rate", CT_RATE_VOLUMES)
    write_image(tmp_path / "masks/train_1_a_1.nii.gz", np.ones((12, 24, 28), np.uint8), CT_RATE_AFFINE)
    output = tmp_path / "out/manifest.csv"
    told = make_manifest("ct-rate", ReaderOptions(root, masks=tmp_path / "masks", validation=0.0), output,
                         organ_texts=tmp_path / "texts.jsonl")  # fmt: skip
    rows = read_manifest(output)
    assert rows[0].segmentation == tmp_path / "masks/train_1_a_1.nii.gz"
    assert rows[1].segmentation is None
    assert rows[0].organ_texts == tmp_path / "texts.jsonl"
    assert read_labels(rows[0].labels)["train_2_b_1"]["heart/Cardiomegaly"] == 1
    assert any("4 volumes of 3 patients (3 train, 0 validation, 1 test)" in line for line in told)
    assert any("3 volumes without a mask" in line for line in told)


def test_masks_are_found_by_name_as_files_and_as_totalsegmentator_s_folders(tmp_path):
    for name in ("deep/er/train_1_a_1.nii.gz", "train_2_a_1/aorta.nii.gz", "train_2_a_1/heart.nii.gz", "x/seg_y.nii"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    masks = Masks(tmp_path)
    assert masks.of("train_1_a_1") == tmp_path / "deep/er/train_1_a_1.nii.gz"
    assert masks.of("train_2_a_1") == tmp_path / "train_2_a_1"
    assert masks.of("train_9_a_1") is None

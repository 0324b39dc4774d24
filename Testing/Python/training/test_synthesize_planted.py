"""Findings planted into a CT that comes from elsewhere: only the findings change, the grid stays, labels are honest."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMTraining.synthesize.case import make_case
from CTGroundedVLMTraining.synthesize.case_files import write_volume
from CTGroundedVLMTraining.synthesize.corpus import synthesize
from CTGroundedVLMTraining.synthesize.kinds import KIND, KINDS
from CTGroundedVLMTraining.synthesize.real import PlantedCases, read_scan
from CTGroundedVLMTraining.synthesize.settings import Settings


def settings(*names, patients=1, **changes):
    prevalence = {kind.name: float(kind.name in names) for kind in KINDS}
    return Settings(patients=patients, prevalence=prevalence, **({"grades": (0.7, 0.7), "unreported": 0.0} | changes))


@pytest.fixture(scope="module")
def a_ct_on_disk(tmp_path_factory):
    """A healthy phantom stands for the CT of a person; stored RAS, turned by 8 degrees."""
    folder = tmp_path_factory.mktemp("scan")
    case = make_case(
        Settings(
            prevalence={k.name: 0 for k in KINDS}, spacing_ijk=(4, 4, 6), coverages=(1, 0, 0, 0), phases=(1, 0, 0)
        ),
        0,
        0,
    )
    angle = np.deg2rad(8)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for name, array in (("ct", case.hu_kji), ("mask", case.labels_kji)):
        write_volume(folder / f"{name}.nii.gz", array, case)
        image = sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        image.SetDirection(turn.ravel().tolist())
        sitk.WriteImage(sitk.DICOMOrient(image, "RAS"), str(folder / f"{name}.nii.gz"))
    return folder / "ct.nii.gz", folder / "mask.nii.gz", case


def test_planting_changes_the_voxels_of_the_findings_and_their_edges_only(a_ct_on_disk):
    ct, mask, case = a_ct_on_disk
    scan = read_scan(ct, mask)
    assert np.array_equal(scan.hu, case.hu_kji), "turned back into LPS storage order"
    maker = PlantedCases(settings("hepatic cyst", "lung nodule", "renal stone"), (scan,))
    planted = maker.make((0, 0))
    assert {d.kind.name for d in planted.drawn} == {"hepatic cyst", "lung nodule", "renal stone"}
    changed = np.abs(planted.hu_kji.astype(float) - scan.hu) > 0.5
    masks = np.any([d.mask for d in planted.drawn], axis=0)
    near = sitk.GetArrayFromImage(sitk.BinaryDilate(sitk.GetImageFromArray(masks.astype(np.uint8)), [2, 2, 2])) > 0
    assert changed[masks].mean() > 0.95
    assert not changed[~near].any()
    cyst = next(d for d in planted.drawn if d.kind.name == "hepatic cyst")
    assert abs(planted.hu_kji[cyst.mask].mean() - 8) < 15
    assert planted.hu_kji[cyst.mask].std() > 0.4 * scan.hu[cyst.mask].std(), "as noisy as the scan"


def test_versions_of_a_scan_are_one_patient_of_one_split_on_its_own_grid(a_ct_on_disk, tmp_path):
    ct, mask, _ = a_ct_on_disk
    maker = PlantedCases(settings("hepatic cyst", patients=2), (read_scan(ct, mask),), split="validation")
    state = synthesize(tmp_path / "c", maker, jobs=1)
    assert state.total == 2
    lines = (tmp_path / "c" / "manifest.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len({line.split(",")[1] for line in lines}) == 1
    assert {line.split(",")[3] for line in lines} == {"validation"}
    folder = tmp_path / "c" / "cases" / lines[0].split(",")[0]
    image, base = sitk.ReadImage(str(folder / "ct.nii.gz")), sitk.DICOMOrient(sitk.ReadImage(str(ct)), "LPS")
    assert image.GetDirection() == pytest.approx(base.GetDirection(), abs=1e-6)
    assert image.GetOrigin() == pytest.approx(base.GetOrigin(), abs=1e-3)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    r, a, s = truth["findings"][0]["centre_ras"]
    found = sitk.ReadImage(str(folder / "findings.nii.gz"))
    index = found.TransformPhysicalPointToIndex((-r, -a, s))
    assert found[index] == KIND["hepatic cyst"].label
    assert truth["planted_into"] == lines[0].split(",")[1]
    assert truth["absent_means"] == "not planted; nobody read the scan for it"


def test_labels_of_what_cannot_be_planted_or_is_known_stay_open(a_ct_on_disk):
    ct, mask, _ = a_ct_on_disk
    maker = PlantedCases(
        settings("hepatic cyst"), (read_scan(ct, mask),), present=("aorta/Arterial wall calcification",)
    )
    labels = maker.make((0, 0)).labels
    assert labels["liver/Hepatic cyst"] == labels["liver/Hypoattenuating liver lesion"] == 1
    assert labels["liver/Liver metastasis"] == 0
    assert "heart/Cardiomegaly" not in labels
    assert "aorta/Arterial wall calcification" not in labels


def test_what_a_known_finding_implies_stays_open_too(a_ct_on_disk):
    maker = PlantedCases(
        settings(), (read_scan(*a_ct_on_disk[:2]),), present=("lung/Consolidation", "aorta/Arterial wall calcification")
    )
    labels = maker.make((0, 0)).labels
    implied = {"lung/Lung opacity", "aorta/Aortic calcification", "aorta/Atherosclerosis"}
    assert not implied & labels.keys()
    assert labels["lung/Lung nodule"] == labels["kidney/Hypoattenuating renal lesion"] == 0


def test_unknown_findings_and_equal_names_are_refused(a_ct_on_disk):
    scan = read_scan(*a_ct_on_disk[:2])
    with pytest.raises(InputError, match="--present 'liver/Unicorn': no such finding"):
        PlantedCases(settings(), (scan,), present=("liver/Unicorn",))
    with pytest.raises(InputError, match="two CTs have the same name"):
        PlantedCases(settings(), (scan, scan))


def test_findings_of_the_abdomen_can_be_planted_into_a_real_ct(test_data):
    scan = read_scan(test_data / "ct/abdomen/ct.nii.gz", test_data / "ct/abdomen/segmentation.nii.gz")
    names = ("hepatic cyst", "renal cyst", "gallstone", "adrenal nodule", "aortic calcification")
    case = PlantedCases(settings(*names), (scan,)).make((0, 0))
    assert {d.kind.name for d in case.drawn} == set(names)
    means = {d.kind.name: case.hu_kji[d.mask].mean() for d in case.drawn}
    assert abs(means["hepatic cyst"]) < 25
    assert means["gallstone"] > 90
    assert means["aortic calcification"] > 150
    assert case.spacing_ijk == pytest.approx((3, 3, 3), abs=0.01)

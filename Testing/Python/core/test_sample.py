"""The synthetic sample: what is in it is what its labels, its truth file and its report say."""

import re

import numpy as np
import pytest

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.sample import make_phantom
from CTGroundedVLMLib.sample.canvas import SPACING_IJK
from CTGroundedVLMLib.sample.findings import ABDOMEN_KINDS, CHEST_KINDS, choose_kinds
from CTGroundedVLMLib.sample.report import size_text

VOXEL_ML = float(np.prod(SPACING_IJK)) / 1000
# Findings that do not share a place, so that two phantoms hold every kind.
FIRST = (
    *("pleural effusion", "lung nodule", "emphysema", "coronary calcification", "aortic calcification"),
    *("hiatal hernia", "hepatic cyst", "gallstone", "renal cyst", "adrenal nodule"),
)
SECOND = ("pericardial effusion", "hepatic steatosis", "renal stone")
# HU of what was planted, and of what surrounds it at least so much lower (positive) or higher (negative).
CONTRAST = {
    "pleural effusion": ((-60, 20), None),
    "lung nodule": ((-300, 45), 400),
    "emphysema": ((-1000, -880), -60),
    "coronary calcification": ((250, 800), 300),
    "aortic calcification": ((250, 800), 250),
    "pericardial effusion": ((-60, 30), None),
    "hiatal hernia": ((-400, 60), None),
    "hepatic cyst": ((0, 20), -35),
    "hepatic steatosis": ((0, 30), None),
    "gallstone": ((150, 380), 120),
    "renal cyst": ((0, 15), None),
    "renal stone": ((250, 900), 200),
    "adrenal nodule": ((-30, 15), None),
}


@pytest.fixture(scope="module")
def phantoms():
    """Two phantoms that hold every kind of finding between them."""
    return make_phantom(3, FIRST), make_phantom(4, SECOND)


@pytest.fixture(scope="module")
def planted(phantoms):
    """Kind of finding -> (phantom, finding)."""
    return {f.kind: (phantom, f) for phantom in phantoms for f in phantom.findings}


def full_mask(phantom, finding):
    mask = np.zeros(phantom.hu_kji.shape, bool)
    mask[finding.box] = finding.mask
    return mask


def around(mask, voxels):
    """The voxels at most ``voxels`` away along the axes, without the mask's own."""
    grown = mask.copy()
    for _ in range(voxels):
        step = grown.copy()
        for axis in range(3):
            step |= np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
        grown = step
    return grown & ~mask


def organ(phantom, *names):
    return np.isin(phantom.labels_kji, [anatomy.segment(name).label for name in names])


# --- Anatomy


def test_every_label_is_a_totalsegmentator_class_and_the_organs_of_the_trunk_are_there(phantoms):
    names = anatomy.label_names()
    for phantom in phantoms:
        labels = set(np.unique(phantom.labels_kji).tolist()) - {0}
        assert labels <= names.keys()
        present = {names[label] for label in labels}
        expected = {f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)}
        expected |= {f"vertebrae_T{n}" for n in range(1, 13)} | {"vertebrae_L1", "vertebrae_L2", "vertebrae_L3"}
        expected |= set(anatomy.organ_group("fvlm4").organs[0].segments)
        expected |= {"heart", "atrial_appendage_left", "aorta", "esophagus", "trachea", "sternum", "spinal_cord"}
        expected |= {"liver", "spleen", "stomach", "pancreas", "gallbladder", "duodenum", "colon", "kidney_left"}
        expected |= {"kidney_right", "adrenal_gland_left", "adrenal_gland_right", "inferior_vena_cava"}
        assert expected <= present


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("lung_upper_lobe_left", -880, -780),
        ("lung_lower_lobe_right", -880, -740),
        ("heart", 30, 55),
        ("aorta", 25, 60),
        ("liver", 50, 66),
        ("spleen", 40, 55),
        ("gallbladder", 0, 20),
        ("autochthon_left", 40, 60),
        ("trachea", -1024, -900),
        ("vertebrae_T8", 180, 600),
        ("rib_left_6", 200, 700),
    ],
)
def test_median_hu_of_an_organ_is_that_of_an_unenhanced_ct(phantoms, name, low, high):
    assert low < np.median(phantoms[0].hu_kji[organ(phantoms[0], name)]) < high


@pytest.mark.parametrize(
    ("names", "low", "high"),
    [
        (anatomy.organ_group("fvlm4").organs[0].segments, 2500, 5500),
        (("heart",), 300, 800),
        (("liver",), 1000, 2000),
        (("spleen",), 80, 300),
        (("kidney_left",), 80, 220),
        (("kidney_right",), 80, 220),
        (("aorta",), 120, 320),
    ],
)
def test_the_volume_of_an_organ_in_ml_is_a_human_s(phantoms, names, low, high):
    assert low < organ(phantoms[1], *names).sum() * VOXEL_ML < high


def test_left_and_right_front_and_back_are_where_the_orientation_says(phantoms):
    phantom = phantoms[0]
    assert np.array_equal(np.sign(np.diag(phantom.ijk_to_ras)), [-1, -1, 1, 1]), "stored LPS"

    def centre(name):
        k, j, i = np.argwhere(organ(phantom, name)).mean(0)
        return phantom.ijk_to_ras @ [i, j, k, 1]

    assert centre("liver")[0] > 20
    assert centre("spleen")[0] < -20
    assert centre("sternum")[1] > centre("heart")[1] > centre("vertebrae_T8")[1]
    assert centre("trachea")[2] > centre("heart")[2] > centre("liver")[2]


def test_noise_is_there_and_correlated(phantoms):
    inside = organ(phantoms[0], "autochthon_left")
    hu = phantoms[0].hu_kji.astype(float)
    here = inside & np.roll(inside, 1, 2) & (abs(hu - 55) < 45) & (abs(np.roll(hu, 1, 2) - 55) < 45)
    step = (hu - np.roll(hu, 1, 2))[here]
    assert 4 < step.std() < 14
    assert step.std() < np.sqrt(2) * hu[here].std(), "neighbours vary together"


# --- Findings


@pytest.mark.parametrize("kind", CHEST_KINDS + ABDOMEN_KINDS)
def test_a_planted_finding_is_seen_in_hu(planted, kind):
    phantom, finding = planted[kind]
    mask = full_mask(phantom, finding)
    (low, high), step = CONTRAST[kind]
    mean = phantom.hu_kji[mask].mean()
    assert low < mean < high
    if step is not None:
        shell = around(around(mask, 1) | mask, 2)
        if finding.organ != "lung":
            shell &= np.abs(phantom.hu_kji) < 150  # not the lung beside the heart or aorta
        difference = mean - phantom.hu_kji[shell].mean()
        assert difference > step if step > 0 else difference < step


def test_fluid_lies_between_lung_or_fat_and_the_chest_wall(planted):
    phantom, finding = planted["pleural effusion"]
    mask = full_mask(phantom, finding)
    assert (phantom.labels_kji[mask] == 0).all(), "an effusion is no lung"
    shell = around(mask, 2)
    lungs = anatomy.organ_group("fvlm4").organs[0].segments
    assert organ(phantom, *lungs)[shell].mean() > 0.15
    phantom, finding = planted["pericardial effusion"]
    assert organ(phantom, "heart")[around(full_mask(phantom, finding), 2)].mean() > 0.2


def test_a_fatty_liver_is_darker_than_the_spleen(planted):
    phantom, _ = planted["hepatic steatosis"]
    liver, spleen = (np.median(phantom.hu_kji[organ(phantom, name)]) for name in ("liver", "spleen"))
    assert liver < spleen - 15


def test_cyst_and_hernia_have_their_labels(planted):
    phantom, finding = planted["renal cyst"]
    cyst = finding.segments[1]
    assert cyst.startswith("kidney_cyst_")
    assert np.array_equal(organ(phantom, cyst), full_mask(phantom, finding))
    phantom, finding = planted["hiatal hernia"]
    assert organ(phantom, "stomach")[full_mask(phantom, finding)].mean() > 0.95
    assert finding.centre_kji[0] > np.argwhere(organ(phantom, "spleen"))[:, 0].mean(), "above the spleen"


@pytest.mark.parametrize("kind", ["lung nodule", "hepatic cyst", "gallstone", "renal stone"])
def test_the_stated_diameter_is_that_of_a_ball_of_the_planted_volume(planted, kind):
    _, finding = planted[kind]
    diameter = (finding.mask.sum() * VOXEL_ML * 1000 * 6 / np.pi) ** (1 / 3)
    assert diameter == pytest.approx(finding.sizes_mm[0], rel=0.08, abs=0.6)


@pytest.mark.parametrize("kind", ["renal cyst", "adrenal nodule", "hiatal hernia"])
def test_the_stated_size_is_the_extent_in_the_slices(planted, kind):
    _, finding = planted[kind]
    voxels = np.argwhere(finding.mask)
    extents = (np.ptp(voxels, axis=0)[1:] + 1) * SPACING_IJK[0]
    assert extents.max() == pytest.approx(finding.sizes_mm[0], abs=4)


def test_the_thickness_of_an_effusion_is_stated(planted):
    for kind in ("pleural effusion", "pericardial effusion"):
        _, finding = planted[kind]
        assert 7 <= finding.sizes_mm[0] <= 36
        assert finding.mask.sum() * VOXEL_ML > 20


def test_findings_name_registry_findings_and_segments_that_have_voxels(planted):
    registry = {(f.organ, f.name) for f in anatomy.findings()}
    for phantom, finding in planted.values():
        assert (finding.organ, finding.finding) in registry
        for name in finding.segments:
            assert organ(phantom, name).any()
        k, j, i = finding.centre_kji
        assert full_mask(phantom, finding)[k, j, i], "the centre is a voxel of the finding"


def test_every_seed_plants_three_to_five_findings_of_chest_and_abdomen():
    chosen = [choose_kinds(np.random.default_rng(seed)) for seed in range(60)]
    for kinds in chosen:
        assert 3 <= len(set(kinds)) == len(kinds) <= 5
        assert set(kinds) & set(CHEST_KINDS)
        assert set(kinds) & set(ABDOMEN_KINDS)
        assert not {"renal cyst", "renal stone"} <= set(kinds)
    assert {kind for kinds in chosen for kind in kinds} == set(CHEST_KINDS + ABDOMEN_KINDS)
    assert len(set(chosen)) > 30


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="'unicorn' cannot be planted; expected some of pleural effusion"):
        make_phantom(0, ["unicorn"])


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="seed -1 is negative; expected 0 or more"):
        make_phantom(-1)


# --- Report


def test_the_report_tells_of_each_finding_with_its_size(planted):
    for phantom, finding in planted.values():
        sentence = phantom.sentences[finding.kind]
        assert sentence in phantom.report.split("IMPRESSION")[0].split("FINDINGS:")[1]
        if finding.sizes_mm:
            size = finding.sizes_mm[0]
            assert size_text(size, True) in sentence or size_text(size, False) in sentence
        if side := finding.words.get("side"):
            assert side in sentence


def test_the_report_denies_what_was_not_planted(phantoms):
    first, second = (phantom.report.lower() for phantom in phantoms)
    assert re.search(r"no pericardial effusion", first)
    assert re.search(r"no (?:lung|pulmonary) nodule", second)
    assert re.search(r"no pleural effusion", second)
    assert "adrenal glands are normal" in second or "no adrenal nodule" in second
    assert not re.search(r"no (?:lung|pulmonary) nodule|no pleural effusion|no emphysema", first)


def test_the_report_has_its_sections_and_says_that_the_patient_is_synthetic(phantoms):
    for phantom in phantoms:
        text = phantom.report
        headings = re.findall(r"^(INDICATION|TECHNIQUE|COMPARISON|FINDINGS|IMPRESSION):", text, re.MULTILINE)
        assert headings == ["INDICATION", "TECHNIQUE", "COMPARISON", "FINDINGS", "IMPRESSION"]
        technique = re.search(r"TECHNIQUE:(.*)", text)[1]
        assert "Synthetic patient" in technique
        assert len(re.findall(r"^\d+\. ", text.split("IMPRESSION:")[1], re.MULTILINE)) == len(phantom.findings)
        assert not re.search(r"[{}_]", text)
        assert not re.search(r"\ba (?:8|11|18)\b", text, re.IGNORECASE)

"""A case of the synthetic corpus: what is drawn is seen in HU, labels and masks, and depends on nothing but its seed."""

import numpy as np
import pytest

from CTGroundedVLMLib import anatomy
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.sample.canvas import Grid, smooth_noise
from CTGroundedVLMTraining.synthesize.case import finding_map, make_case, split_of, truth_labels
from CTGroundedVLMTraining.synthesize.kinds import KIND, KINDS, LOBES, TOGETHER
from CTGroundedVLMTraining.synthesize.scene import Drawn
from CTGroundedVLMTraining.synthesize.settings import Settings

COARSE = (4.0, 4.0, 6.0)
# Kind -> HU range of its voxels' mean, unenhanced, at grade 0.8
HU = {
    "cardiomegaly": (30, 60),
    "splenomegaly": (35, 60),
    "aortic aneurysm": (20, 60),
    "vertebral fracture": (100, 600),
    "steatosis": (-10, 35),
    "emphysema": (-1000, -850),
    "pleural effusion": (-120, 25),
    "pneumothorax": (-1010, -900),
    "pericardial effusion": (-120, 40),
    "ground-glass opacity": (-700, -200),
    "consolidation": (-350, 60),
    "atelectasis": (-450, 80),
    "lung nodule": (-450, 60),
    "hiatal hernia": (-700, 60),
    "liver metastasis": (10, 50),
    "hepatic cyst": (-5, 30),
    "renal cyst": (-40, 25),
    "hydronephrosis": (-50, 30),
    "pancreatic cyst": (-40, 30),
    "adrenal nodule": (-50, 30),
    "gallstone": (60, 420),
    "renal stone": (100, 1000),
    "coronary calcification": (100, 1000),
    "aortic calcification": (100, 900),
}


def settings(only=(), **changes):
    """Coarse, unenhanced, chest and abdomen, with exactly these findings."""
    prevalence = {kind.name: float(kind.name in only) for kind in KINDS}
    defaults = {"spacing_ijk": COARSE, "grades": (0.8, 0.8), "coverages": (1, 0, 0, 0), "phases": (1, 0, 0)}
    return Settings(prevalence=prevalence, **(defaults | changes))


@pytest.fixture(scope="module")
def one_of_each():
    """Kind -> (case, finding); four cases hold all kinds between them."""
    found = {}
    for n in range(4):
        names = [kind.name for kind in KINDS[n::4]]
        case = make_case(settings(names, seed=n), 0, 0)
        found |= {d.kind.name: (case, d) for d in case.drawn}
    return found


@pytest.fixture(scope="module")
def a_healthy_case():
    return make_case(settings(), 3, 0)


def organ(case, *names):
    return np.isin(case.labels_kji, [anatomy.segment(name).label for name in names])


# --- The catalogue


def test_there_are_at_least_sixteen_findings_of_eight_organs_and_the_registry_knows_them():
    registry = {(f.organ, f.name) for f in anatomy.findings()}
    known = [kind for kind in KINDS if (kind.organ, kind.finding) in registry]
    assert len(known) >= 22
    assert len({kind.organ for kind in known}) >= 10
    for kind in KINDS:
        assert {tuple(key.split("/")) for key in kind.implies} <= registry
        assert len({k.label for k in KINDS}) == len(KINDS)
    assert {name for pair in TOGETHER for name in pair} <= set(KIND)
    order = [kind.name for kind in KINDS]
    assert all(order.index(first) < order.index(second) for first, second in TOGETHER), "the second asks for the first"


# --- Findings


@pytest.mark.parametrize("name", HU)
def test_a_finding_has_voxels_whose_hu_are_its_own(one_of_each, name):
    case, drawn = one_of_each[name]
    low, high = HU[name]
    assert low < case.hu_kji[drawn.mask].mean() < high
    assert (case.findings_kji == drawn.kind.label).any()
    assert case.labels[drawn.kind.key] == 1


def test_findings_lie_in_or_at_their_organ(one_of_each):
    for name, (case, drawn) in one_of_each.items():
        names = drawn.kind.needs
        near = organ(case, *names) | drawn.mask
        low, high = (f(np.argwhere(organ(case, *names)), axis=0) for f in (np.min, np.max))
        centre = np.argwhere(drawn.mask).mean(0)
        assert ((centre >= low - 12) & (centre <= high + 12)).all(), name
        assert near.any()
        assert all(organ(case, segment).any() for segment in drawn.segments), name


def test_fluid_and_air_in_the_pleura_are_no_lung(one_of_each):
    for name in ("pleural effusion", "pneumothorax"):
        case, drawn = one_of_each[name]
        assert not (organ(case, *LOBES) & drawn.mask).any()
    case, drawn = one_of_each["pleural effusion"]
    y = np.argwhere(drawn.mask)[:, 1].mean()
    assert y > np.argwhere(organ(case, *LOBES))[:, 1].mean(), "the patient lies on the back"
    case, drawn = one_of_each["pneumothorax"]
    assert np.argwhere(drawn.mask)[:, 1].mean() < np.argwhere(organ(case, *LOBES))[:, 1].mean()


def test_a_renal_cyst_has_its_own_label_and_a_steatotic_liver_is_darker_than_the_spleen(one_of_each):
    case, drawn = one_of_each["renal cyst"]
    assert (organ(case, *(n for n in drawn.segments if "cyst" in n)) & drawn.mask).sum() > 0.7 * drawn.mask.sum()
    case, _ = one_of_each["steatosis"]
    assert np.median(case.hu_kji[organ(case, "liver")]) < np.median(case.hu_kji[organ(case, "spleen")]) - 8


def test_enlarged_organs_are_larger_than_those_of_the_same_patient_without_the_finding():
    sick = make_case(settings(("cardiomegaly", "splenomegaly", "aortic aneurysm"), seed=5), 0, 0)
    well = make_case(settings(seed=5), 0, 0)
    voxel = np.prod(sick.spacing_ijk) / np.prod(well.spacing_ijk)
    for name, factor in (("heart", 1.5), ("spleen", 2.0), ("aorta", 1.2)):
        assert organ(sick, name).sum() * voxel > factor * organ(well, name).sum(), name


def test_conspicuity_grows_with_the_grade():
    subtle, obvious = (
        make_case(settings(("lung nodule", "hepatic cyst", "pericardial effusion"), seed=8, grades=(g, g)), 0, 0)
        for g in (0.1, 0.9)
    )
    for low, high in zip(subtle.drawn, obvious.drawn, strict=True):
        assert low.kind == high.kind
        assert low.mask.sum() * 1.5 < high.mask.sum(), low.kind.name
        assert low.sizes_mm[0] < high.sizes_mm[0]


def test_a_healthy_patient_has_no_finding_and_normal_organs(a_healthy_case):
    assert a_healthy_case.drawn == ()
    assert not a_healthy_case.findings_kji.any()
    assert set(a_healthy_case.labels.values()) == {0}
    medians = {
        n: np.median(a_healthy_case.hu_kji[organ(a_healthy_case, n)]) for n in ("liver", "spleen", "heart", "aorta")
    }
    assert 45 < medians["liver"] < 75
    assert 35 < medians["spleen"] < 62
    assert 30 < medians["heart"] < 58
    assert set(np.unique(a_healthy_case.labels_kji)) - {0} <= anatomy.label_names().keys()


def test_contrast_agent_brightens_vessels_and_kidneys(a_healthy_case):
    venous = make_case(settings(phases=(0, 1, 0)), 3, 0)
    arterial = make_case(settings(phases=(0, 0, 1)), 3, 0)
    aorta = [np.median(c.hu_kji[organ(c, "aorta")]) for c in (a_healthy_case, venous, arterial)]
    assert aorta[0] < 60 < 100 < aorta[1] < aorta[2]
    assert np.median(venous.hu_kji[organ(venous, "liver")]) > 90
    assert arterial.about["phase"] == "arterial"


# --- Coverage and labels


def test_what_the_scan_does_not_show_is_unknown_never_absent():
    chest = make_case(settings(("lung nodule", "hepatic cyst"), seed=2, coverages=(0, 1, 0, 0)), 4, 0)
    assert not organ(chest, "kidney_left", "kidney_right").any() or chest.about["visible"]["kidney"] < 0.9
    assert chest.labels["heart/Cardiomegaly"] == 0
    abdomen = make_case(settings(seed=2, coverages=(0, 0, 1, 0)), 4, 0)
    assert abdomen.about["visible"]["lung"] < 0.5
    assert "lung/Emphysema" not in abdomen.labels
    assert abdomen.labels["liver/Hepatic cyst"] == 0


def drawn_kind(name):
    return Drawn(KIND[name], 0.5, np.ones((1, 1, 1), bool), ())


def test_labels_follow_what_was_drawn_and_what_it_implies():
    seen = {kind.organ: 1.0 for kind in KINDS}
    labels = truth_labels((drawn_kind("consolidation"),), {"consolidation": 0.5}, seen)
    assert labels["lung/Consolidation"] == labels["lung/Lung opacity"] == 1
    assert labels["lung/Emphysema"] == 0
    planned_but_not_seen = truth_labels((), {"hepatic cyst": 0.5}, seen)
    assert "liver/Hepatic cyst" not in planned_but_not_seen
    assert "liver/Hypoattenuating liver lesion" not in planned_but_not_seen, "a cyst may be outside the scan"
    assert planned_but_not_seen["liver/Liver metastasis"] == 0
    hidden = truth_labels((), {}, seen | {"kidney": 0.1})
    assert not any(key.startswith("kidney/") for key in hidden)


@pytest.mark.filterwarnings("error")
def test_a_finding_that_the_voxels_are_too_large_for_is_left_out_and_its_label_is_unknown():
    case = make_case(settings(("coronary calcification", "pleural effusion"), spacing_ijk=(10.0, 10.0, 12.0)), 2, 0)
    assert [d.kind.name for d in case.drawn] == ["pleural effusion"]
    assert case.labels["lung/Pleural effusion"] == 1
    assert "heart/Coronary artery wall calcification" not in case.labels
    assert case.labels["heart/Cardiomegaly"] == 0


def test_noise_on_one_voxel_is_nothing_and_on_more_it_has_the_deviation_1():
    rng = np.random.default_rng(0)
    one, many = (
        smooth_noise(rng, 8.0, Grid(shape, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))) for shape in ((1, 1, 1), (9, 20, 20))
    )
    assert one.tolist() == [[[0.0]]]
    assert many.std() == pytest.approx(1, abs=1e-3)


def test_the_finding_map_gives_a_shared_voxel_to_the_later_finding():
    mask = np.ones((1, 1, 2), bool)
    cyst = Drawn(KIND["hepatic cyst"], 0.5, np.array([[[True, False]]]), ())
    steatosis = Drawn(KIND["steatosis"], 0.5, mask, ())
    assert finding_map((steatosis, cyst), (1, 1, 2)).ravel().tolist() == [
        KIND["hepatic cyst"].label,
        KIND["steatosis"].label,
    ]


# --- Seeds


def test_a_case_is_the_same_whatever_else_the_corpus_holds():
    first = make_case(Settings(patients=2, spacing_ijk=COARSE, seed=9), 1, 0)
    again = make_case(Settings(patients=500, spacing_ijk=COARSE, seed=9), 1, 0)
    other = make_case(Settings(patients=2, spacing_ijk=COARSE, seed=10), 1, 0)
    assert np.array_equal(first.hu_kji, again.hu_kji)
    assert np.array_equal(first.findings_kji, again.findings_kji)
    assert first.report.text == again.report.text
    assert first.labels == again.labels
    assert first.hu_kji.shape != other.hu_kji.shape or not np.array_equal(first.hu_kji, other.hu_kji)


def test_splits_have_about_their_shares_and_depend_on_the_patient_alone():
    few, many = Settings(patients=10), Settings(patients=3000)
    splits = [split_of(many, p) for p in range(3000)]
    assert [split_of(few, p) for p in range(10)] == splits[:10]
    assert splits.count("train") / 3000 == pytest.approx(0.8, abs=0.03)
    assert splits.count("validation") / 3000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 3000 == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patients": 0}, "0 patients, seed 0: expected at least 1 patient"),
        ({"seed": -1}, "seed -1"),
        ({"spacing_ijk": (0.1, 1, 1)}, r"spacing \(0.1, 1, 1\): expected three values from 0.4 to 12 mm"),
        ({"prevalence": {"unicorn": 0.1}}, "prevalence of 'unicorn': no such finding; expected some of cardiomegaly"),
        ({"prevalence": {"emphysema": 1.5}}, "prevalence of 'emphysema' is 1.5; expected a share"),
        ({"unreported": -0.1}, "unreported is -0.1"),
        ({"grades": (0.8, 0.2)}, "grades 0.8 to 0.2: expected an increasing range"),
        ({"splits": (0.8, 0.4)}, "splits"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Settings(**changes)

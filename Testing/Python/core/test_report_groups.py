"""Groups of classes (the spine, all ribs, both lungs) are linked only where a sentence really speaks of the group."""

import pytest

from CTGroundedVLMLib.report import parse_report

CERVICAL = {f"vertebrae_C{n}" for n in range(1, 8)}
THORACIC = {f"vertebrae_T{n}" for n in range(1, 13)}
RIBS = {f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)}
LEFT_LUNG = {"lung_upper_lobe_left", "lung_lower_lobe_left"}
RIGHT_LUNG = {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"}
APICES = {"lung_upper_lobe_left", "lung_upper_lobe_right"}
BASES = {"lung_lower_lobe_left", "lung_lower_lobe_right"}


def last(text: str) -> set[str]:
    """Segments of the last sentence."""
    return set(parse_report(text).sentences[-1].segments)


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("This is a CT of the thoracic spine on a man with known myeloma who fell. No fracture.", "indication"),
        ("72-year-old lady with rib pain. No fracture.", "indication"),
        ("CT lumbar spine. No fracture.", "technique"),
        ("No previous imaging of the spine to compare with. No fracture.", "comparison"),
    ],
)
def test_what_is_said_before_the_findings_links_nothing(text, section):
    first, second = parse_report(text).sentences
    assert (first.section, first.segments, second.section) == (section, (), "findings")


def test_a_patient_with_a_finding_is_no_preamble():
    sentence = parse_report("The patient has had a left nephrectomy.").sentences[0]
    assert (sentence.section, sentence.segments) == ("findings", ("kidney_left",))


def test_an_examination_named_among_the_findings_is_no_preamble():
    assert [s.section for s in parse_report("Liver normal. This CT shows a 5 cm splenic cyst.").sentences] == [
        "findings",
        "findings",
    ]


@pytest.mark.parametrize(
    "second",
    ["Transmural spread is possible.", "No other lesion.", "No prior imaging.", "No soft tissue mass.", "T3 N1 M0."],
)
def test_a_group_of_bones_is_not_continued_by_a_finding_of_its_own(second):
    assert last(f"Metastases in the thoracic spine and ribs. {second}") == set()


@pytest.mark.parametrize("second", ["Unchanged.", "They have grown.", "These are new.", "It is unchanged."])
def test_a_group_of_bones_is_continued_by_a_sentence_that_points_back(second):
    assert last(f"Metastases in the thoracic spine and ribs. {second}") == THORACIC | RIBS


def test_a_list_of_organs_is_not_continued_by_a_finding():
    assert last("Liver, spleen, pancreas and kidneys are unremarkable. Small hernia.") == set()


def test_a_part_is_one_of_the_organ_that_has_it():
    assert last("The duodenum, gallbladder and head of the pancreas were resected. The tail is swollen.") == {
        "pancreas"
    }


def test_a_vertebra_beside_a_part_of_the_spine_is_one_of_that_part():
    assert last("Thoracic kyphosis, no vertebral collapse.") == THORACIC
    assert last("Cervical spondylosis without vertebral collapse.") == CERVICAL


def test_a_vertebral_artery_is_no_vertebra():
    assert last("The left vertebral arises from the aortic arch.") == {"aorta"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left pneumothorax displacing the heart to the right, with collapse of the left lung.", LEFT_LUNG | {"heart"}),
        ("Basal fibrosis, worse on the right.", BASES),
        ("Effusions, larger on the left.", LEFT_LUNG | RIGHT_LUNG),
        ("The lung apices show fibrosis and a cavity on the right.", APICES),
        ("Consolidation, apical segment LLL.", {"lung_lower_lobe_left"}),
        ("Heart: apical thinning of the left ventricle.", {"heart"}),
        ("HEART:\nApical thinning.", {"heart"}),
        ("Apical thinning and calcification of the left ventricle.", {"heart"}),
        ("Honeycombing at the bases.", BASES),
        ("RUL mass invading the 2nd rib.", {"lung_upper_lobe_right", "rib_right_2"}),
    ],
)
def test_a_side_or_a_pole_narrows_the_lungs_only_where_it_is_theirs(text, expected):
    assert last(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("D2/D3 oedematous.", {"duodenum"}),
        ("D2/D3 disc protrusion.", {"vertebrae_T2", "vertebrae_T3"}),
        ("Subcapital fracture of the right femoral neck.", {"femur_right"}),
        ("Left renal stenosis and right lower pole scar.", {"kidney_left", "kidney_right"}),
        ("R kidney 15 cm with dilated calyces.", {"kidney_right"}),
        ("A gallstone is impacted in the ileum.", {"small_bowel"}),
        ("Left iliac limb patent; right limb kinked in the iliac artery.", {"iliac_artery_left", "iliac_artery_right"}),
        ("Thoracotomy on the right with resected fifth rib.", {"rib_right_5"}),
    ],
)
def test_a_side_belongs_to_its_own_term(text, expected):
    assert last(text) == expected


def test_the_longest_line_of_a_report_in_telegram_style_ends_where_it_ends():
    text = "Report:\nR kidney 15 cm, staghorn calculus and dilated calyces (bear paw)\nGas in the collecting system\nNo hydro"
    assert [text[s.start : s.end].split()[0] for s in parse_report(text).sentences] == ["R", "Gas", "No"]

"""Links that depend on the rest of the sentence, its label or the sentence before: organs and sides that yield to others."""

import pytest

from CTGroundedVLMLib.report import parse_report

LEFT_LUNG = {"lung_upper_lobe_left", "lung_lower_lobe_left"}
RIGHT_LUNG = {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"}
LUNGS = LEFT_LUNG | RIGHT_LUNG


def segments(text: str) -> set[str]:
    """Segments of the last sentence."""
    return set(parse_report(text).sentences[-1].segments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Emphysematous pyelonephritis on the left.", {"kidney_left"}),
        ("Emphysematous lungs.", LUNGS),
        ("Plaques along the right costal pleura.", RIGHT_LUNG),
        ("The wedge-shaped splenic lesion is a chronic infarct.", {"spleen"}),
        ("Remote infarct in the left parietal region of the brain.", {"brain"}),
        ("Right hip osteoarthritis, no effusion.", {"hip_right", "femur_right"}),
        ("Annular pancreas with no ductal dilatation.", {"pancreas"}),
        ("No ductal dilatation.", {"liver"}),
        ("FINDINGS:\nBladder: Intramural air.", {"urinary_bladder"}),
        ("Intramural air in the cecum.", {"colon"}),
        ("Contracted gallbladder.", {"gallbladder"}),
        ("GB: hemobilia suspected.", {"gallbladder"}),
        ("Splenic vein: occluded, with perisplenic collaterals.", {"portal_vein_and_splenic_vein"}),
        ("Right iliac DVT.", {"iliac_vena_right"}),
    ],
)
def test_what_a_finding_implies_yields_to_the_organ_it_is_said_of(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Right pleural effusion is seen, pneumothorax was not detected.", LUNGS),
        ("Pleural plaques and new right lower lobe atelectasis.", LUNGS),
        ("Nodular pleural thickening surrounds the left lung.", LEFT_LUNG),
        ("Left acetabular fracture, subluxation of the femoral head.", {"hip_left", "femur_left"}),
        ("Left pyelonephritis in a horseshoe kidney.", {"kidney_left", "kidney_right"}),
        ("Scarring of the left kidney, and on the right a 3 mm stone.", {"kidney_left", "kidney_right"}),
        ("Ribs: left 2nd-4th fractured, flail segment at 3-4.", {f"rib_left_{n}" for n in (2, 3, 4)}),
        ("Ribs: right 5th and left 6-7 fractures.", {"rib_right_5", "rib_left_6", "rib_left_7"}),
        ("Ribs: 2 old fractures on the left.", {f"rib_left_{n}" for n in range(1, 13)}),
    ],
)
def test_a_side_reaches_only_as_far_as_grammar_carries_it(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left total hip arthroplasty. The femoral stem is loose.", {"femur_left"}),
        ("Atrophy of the left gluteus medius and minimus. Both muscles are preserved on the right.",
         {"gluteus_medius_right", "gluteus_minimus_right"}),
        ("The aortic sac has grown. It is supplied by a left lumbar artery.", {"aorta"}),
        ("FINDINGS:\nKidneys: The right is scarred. Stone of the left kidney. 2 cm collection in its lower pole.",
         {"kidney_left"}),
    ],
)  # fmt: skip
def test_a_reference_to_the_sentence_before_takes_its_structures_and_side(text, expected):
    assert segments(text) == expected


def test_telling_a_person_at_the_end_keeps_the_finding_of_the_sentence():
    sentence = parse_report("IMPRESSION: Acute appendicitis, the surgeon Dr. Smith was called at 2:15.").sentences[-1]
    assert sentence.segments == ("colon",)
    assert [f.status for f in sentence.findings] == ["present"]


def test_a_line_that_ends_in_a_preposition_goes_on_in_the_next_one():
    text = "FINDINGS: The spinal canal is wide and there is a broad disc protrusion at\nL5-S1."
    assert [text[s.start : s.end] for s in parse_report(text).sentences] == [text.removeprefix("FINDINGS: ")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dual-chamber device with the lead tip at the RV apex.", {"heart"}),
        ("Calcified left ventricular apical aneurysm.", {"heart"}),
        ("Mass at the base of the bladder.", {"urinary_bladder"}),
        ("Scarring at the right apex.", {"lung_upper_lobe_right"}),
        ("Contusions in both inferior frontal lobes.", {"brain"}),
        ("An IUD lies in the cervical canal.", set()),
        ("At the level of the hypopharynx the airway is narrowed.", set()),
        ("The airway is narrowed.", {"trachea"}),
        ("D2 diverticulum.", {"duodenum"}),
        ("Wedge fracture of the D2 vertebra.", {"vertebrae_T2"}),
    ],
)
def test_a_word_of_several_meanings_takes_that_of_the_words_beside_it(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The esophagus is patulous with an air-fluid level.", {"esophagus"}),
        ("Air-fluid levels.", {"small_bowel", "colon"}),
        ("Stomach intrathoracic, no volvulus.", {"stomach"}),
        ("Milk of calcium in the gallbladder.", {"gallbladder"}),
        ("Fatty infiltration of the pancreas.", {"pancreas"}),
        ("Opacification of the maxillary sinus.", set()),
        ("Heart enlarged, small opacity on the left.", {"heart"} | LEFT_LUNG),
        ("Terminal ileitis with a fistula to the sigmoid.", {"small_bowel", "colon"}),
    ],
)
def test_a_finding_of_many_organs_lies_in_the_one_that_is_named(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Left adrenal nodule. For MDT.", set()),
        ("No bowel obstruction. Ultrasound is recommended.", set()),
        ("Left adrenal nodule. CT is recommended.", {"adrenal_gland_left"}),
        ("Hip prosthesis on the left. No effusion.", {"hip_left", "femur_left"}),
        ("FINDINGS:\nPANCREAS: Cyst in the tail. Mass in the head.", {"pancreas"}),
        ("FINDINGS:\nSPINAL CANAL: Severe stenosis at L2-3.", {"spinal_cord", "vertebrae_L2", "vertebrae_L3"}),
        ("Left rib fracture with a small right effusion.", RIGHT_LUNG | {f"rib_left_{n}" for n in range(1, 13)}),
    ],
)
def test_a_continuation_takes_over_only_what_it_speaks_of(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Spleen small.", {"present"}),
        ("Liver normal; fatty pancreas.", {"absent", "present"}),
        ("Caecal tumour ?T4a N2.", {"present", "uncertain"}),
        ("Aortic sac 68 mm, previously 61 mm.", {"present"}),
        ("Left-sided adenoma, 1.7 cm; right gland normal.", {"present", "absent"}),
        ("Perifissural nodule RUL; lungs otherwise clear.", {"present", "absent"}),
        ("Ovaries atrophic, appropriate for age.", {"absent"}),
        ("No dilated small bowel, colon has wall thickening.", {"absent", "present"}),
        ("A cavity is present, aspergilloma can't be ruled out.", {"present", "uncertain"}),
        ("The stomach is distended so delayed emptying is likely.", {"present", "uncertain"}),
        ("Pocket of fluid, infection or seroma, hard to say.", {"present", "uncertain"}),
        ("There is a collection next to the hepaticojejunostomy.", {"present"}),
        ("Gastric band in place.", {"present"}),
    ],
)
def test_a_status_holds_for_what_it_is_said_of(text, expected):
    assert {f.status for f in parse_report(f"Findings:\n{text}").sentences[-1].findings} == expected

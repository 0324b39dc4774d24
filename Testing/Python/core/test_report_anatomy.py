"""Which segments a sentence is linked to."""

import re

import pytest

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.report.lexicon import LEVELS, load_lexicon

LEFT_LUNG = {"lung_upper_lobe_left", "lung_lower_lobe_left"}
RIGHT_LUNG = {"lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"}
LUNGS = LEFT_LUNG | RIGHT_LUNG
LOWER_LOBES = {"lung_lower_lobe_left", "lung_lower_lobe_right"}
UPPER_LOBES = {"lung_upper_lobe_left", "lung_upper_lobe_right"}


def segments(text: str) -> set[str]:
    """Segments of the last sentence."""
    return set(parse_report(text).sentences[-1].segments)


def levels(*names: str) -> set[str]:
    return {f"vertebrae_{name}" for name in names}


def ribs(side: str, *numbers: int) -> set[str]:
    return {f"rib_{side}_{n}" for n in numbers}


@pytest.mark.parametrize(
    "text",
    [
        "Liver function tests are elevated.", "The heart rate is 60.", "Tumor stage T3 N1 M0.", "Breast implants are intact.",
        "Enlarged para-aortic and splenic hilar lymph nodes.", "Discuss at lung MDT.", "Vocal cord palsy.",
        "A 3 cm femoral artery aneurysm.", "T2 hyperintense uterine fibroid.", "The pulmonary artery is dilated.",
        "Free fluid in the pelvis.", "No lymph nodes in the iliac chains.", "D-dimer is raised.", "Ascites.",
        "No pulmonary embolism.", "Bones are unremarkable.",
    ],
)  # fmt: skip
def test_words_that_only_look_like_anatomy_link_nothing(text):
    assert segments(text) == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The hepatic flexure is thickened.", {"colon"}),
        ("The splenic flexure is redundant.", {"colon"}),
        ("Aortic valve calcification.", {"heart"}),
        ("Splenic vein thrombosis.", {"portal_vein_and_splenic_vein"}),
        ("The splenic artery is tortuous.", {"spleen"}),
        ("Pulmonary vein thrombus.", {"pulmonary_vein"}),
        ("Renal pelvis dilatation on the left.", {"kidney_left"}),
        ("The left atrial appendage is clear.", {"atrial_appendage_left"}),
        ("The gallbladder is distended.", {"gallbladder"}),
        ("Hiatal hernia.", {"esophagus", "stomach"}),
        ("Fractured odontoid process.", {"vertebrae_C2"}),
        ("Cervical ribs at C7.", {"vertebrae_C7"}),
        ("Hypodense focus in segments 4A and VI.", {"liver"}),
        ("Stone at the right VUJ.", {"kidney_right", "urinary_bladder"}),
        ("The celiac trunk and SMA are patent.", {"aorta"}),
        ("Seminal vesicles are normal.", {"prostate"}),
        ("Hepatosplenomegaly.", {"liver", "spleen"}),
        ("Oesophageal and caecal thickening.", {"esophagus", "colon"}),
        ("The rigth adrenal is thickenned.", {"adrenal_gland_right"}),
        ("Osteoarthritis of the right hip.", {"hip_right", "femur_right"}),
        ("Left acromioclavicular joint separation.", {"clavicula_left", "scapula_left"}),
        ("Right sacroiliac joint is fused.", {"sacrum", "hip_right"}),
        ("The spinal canal is narrow.", {"spinal_cord"}),
        ("Simple cyst of the left kidney.", {"kidney_left", "kidney_cyst_left"}),
        ("Mesenteric vessels and omentum are normal.", set()),
    ],
)  # fmt: skip
def test_a_structure_links_to_its_class_or_to_the_one_that_holds_it(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUL nodule.", {"lung_upper_lobe_right"}),
        ("Nodule in the lingula.", {"lung_upper_lobe_left"}),
        ("The right lung is clear.", RIGHT_LUNG),
        ("Clear lung bases.", LOWER_LOBES),
        ("Scarring at both apices.", UPPER_LOBES),
        ("Nodule in the lower lobe of the right lung.", {"lung_lower_lobe_right"}),
        ("In the left lung upper lobe a nodule is seen.", {"lung_upper_lobe_left"}),
        ("Right upper, middle and lower lobe opacities.", RIGHT_LUNG),
        ("Opacities in the left upper and both lower lobes.", {"lung_upper_lobe_left"} | LOWER_LOBES),
        ("RUL apical segment nodule.", {"lung_upper_lobe_right"}),
        ("No pneumothorax.", LUNGS),
        ("Small right effusion.", RIGHT_LUNG),
        ("Bilateral lower lobe contusions without pneumothorax.", LUNGS),
        ("Nodule along the minor fissure.", RIGHT_LUNG),
        ("Small bilateral effusions with bibasilar atelectasis.", LUNGS),
        ("Upper lobe predominant emphysema.", UPPER_LOBES),
        ("Biapical scarring.", UPPER_LOBES),
        ("The main bronchi are patent.", {"trachea"}),
        ("Pulmonary embolus in the left lower lobe artery.", {"lung_lower_lobe_left"}),
    ],
)
def test_lungs_lobes_and_pleura(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Adrenals are normal.", {"adrenal_gland_left", "adrenal_gland_right"}),
        ("The right and left kidneys are normal.", {"kidney_left", "kidney_right"}),
        ("Right hydronephrosis and nephrolithiasis.", {"kidney_right"}),
        ("Right renal cyst and splenomegaly.", {"kidney_right", "kidney_cyst_right", "spleen"}),
        ("Left renal and adrenal masses.", {"kidney_left", "adrenal_gland_left"}),
        ("R kidney normal.", {"kidney_right"}),
        ("Perinephric stranding left.", {"kidney_left"}),
        ("Both scapulae and the right humerus.", {"scapula_left", "scapula_right", "humerus_right"}),
        ("Left common carotid and subclavian arteries.", {"common_carotid_artery_left", "subclavian_artery_left"}),
        ("The brachiocephalic and left subclavian veins.", {"brachiocephalic_vein_left", "brachiocephalic_vein_right"}),
        ("Adrenals: left 2 cm adenoma.", {"adrenal_gland_left"}),
        ("The stone in the middle calyx of the right kidney.", {"kidney_right"}),
        ("Left external iliac vein and artery.", {"iliac_vena_left", "iliac_artery_left"}),
        ("KIDNEYS: Stone, left lower pole.", {"kidney_left"}),
        ("Left iliopsoas and gluteus medius muscles.", {"iliopsoas_left", "gluteus_medius_left"}),
        ("Right gluteus medius + minimus.", {"gluteus_medius_right", "gluteus_minimus_right"}),
        ("Right and left 3rd ribs.", {"rib_right_3", "rib_left_3"}),
        ("Right renal artery narrowed; left: stent.", {"kidney_right", "kidney_left"}),
    ],
)
def test_a_side_holds_for_its_own_phrase_and_for_the_list_that_shares_it(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fracture of L3.", levels("L3")),
        ("Disc bulge at L4/5.", levels("L4", "L5")),
        ("Disc bulges L3-4 through L5-S1.", levels("L3", "L4", "L5", "S1")),
        ("Metastases T11-L1.", levels("T11", "T12", "L1")),
        ("Fractures from T4 to T6.", levels("T4", "T5", "T6")),
        ("C3, C4 and C7: no fracture.", levels("C3", "C4", "C7")),
        ("Collapse of D12 vertebra.", levels("T12")),
        ("Tarlov cyst at S2.", {"sacrum"}),
        ("Height loss of the third lumbar vertebra.", levels("L3")),
        ("Lumbar spine scoliosis.", levels("L1", "L2", "L3", "L4", "L5")),
        ("Degenerative change of the thoracic and lumbar spine.", levels(*(n for n in LEVELS if n[0] in "TL"))),
        ("The T8 vertebral body is sclerotic.", levels("T8")),
        ("Vertebral body heights are preserved.", levels(*LEVELS)),
    ],
)
def test_vertebral_levels_and_ranges(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Fracture of the left 5th rib.", ribs("left", 5)),
        ("Fractures of the 5th to 7th left ribs.", ribs("left", 5, 6, 7)),
        ("Right ribs 9-12 are fractured.", ribs("right", 9, 10, 11, 12)),
        ("Left 1st and 2nd rib fractures.", ribs("left", 1, 2)),
        (
            "Fractures of the right 3rd, 4th and 5th ribs and the left 7th-9th ribs.",
            ribs("right", 3, 4, 5) | ribs("left", 7, 8, 9),
        ),
        ("Two left rib fractures.", ribs("left", *range(1, 13))),
        ("No rib destruction.", ribs("left", *range(1, 13)) | ribs("right", *range(1, 13))),
        ("A 6 mm lesion of the right rib.", ribs("right", *range(1, 13))),
        ("Old fracture of the second rib.", ribs("left", 2) | ribs("right", 2)),
    ],
)
def test_ribs_by_number_range_and_side(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 cm liver cyst. It measures 12 mm.", {"liver"}),
        ("Left renal mass. Unchanged from the prior.", {"kidney_left"}),
        ("Left renal mass. MRI is recommended.", {"kidney_left"}),
        ("Left renal mass. A smaller one is seen on the right.", {"kidney_right"}),
        ("The liver is normal. No ascites.", set()),
        ("The bladder is normal. No acute fracture.", set()),
        ("RLL mass. Large pleural effusion with atelectasis adjacent to the mass.", LUNGS),
        ("PANCREAS: No ductal dilatation.", {"pancreas"}),
        ("LUNG BASES: Mild atelectasis.", LOWER_LOBES),
        ("LUNG BASES: Small right pleural effusion.", RIGHT_LUNG),
        ("FINDINGS: Liver cyst.\nIMPRESSION: Stable.", set()),
        ("Brain: No haemorrhage. The ventricles are normal.", {"brain"}),
        ("Liver cyst. Findings were discussed with Dr. Moss.", set()),
    ],
)
def test_a_sentence_without_anatomy_continues_its_heading_or_the_sentence_before(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Small R effusion, trace L.", LUNGS),
        ("Large right and small left effusions.", LUNGS),
        ("R>L effusions.", LUNGS),
        ("Right greater than left pleural effusions.", LUNGS),
        ("Simple right renal cyst and a denser one on the left.",
         {"kidney_right", "kidney_left", "kidney_cyst_right", "kidney_cyst_left"}),
        ("Two stones in the left kidney, none on the right.", {"kidney_left", "kidney_right"}),
        ("Mass of the left kidney, extending to the right of midline.", {"kidney_left"}),
        ("Small right effusion. Moderate on the left.", LEFT_LUNG),
        ("Sclerosis of the left ischium and the right 9th rib.", {"hip_left", "rib_right_9"}),
    ],
)  # fmt: skip
def test_a_side_that_stands_alone_is_the_other_one_of_the_same_organ(text, expected):
    assert segments(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The portal, splenic and superior mesenteric veins are patent.", {"portal_vein_and_splenic_vein"}),
        ("Hepatic and splenic veins are patent.", {"liver", "portal_vein_and_splenic_vein"}),
        ("Splenic v. is patent.", {"portal_vein_and_splenic_vein"}),
        ("Tip at the cavoatrial jn.", {"superior_vena_cava", "heart"}),
        ("R 10th + 11th rib fractures.", ribs("right", 10, 11)),
        ("The first ribs and the right clavicle are intact.", {"rib_left_1", "rib_right_1", "clavicula_right"}),
        ("Fracture of the left 4th costal arch.", ribs("left", 4)),
        ("Collapse of BWK 12 and Th8.", levels("T12", "T8")),
        ("No leakage into the canal at L1.", {"spinal_cord", "vertebrae_L1"}),
        ("Effusion in the Douglas pouch.", set()),
        ("Right hip arthroplasty with lysis of the right acetabulum.", {"hip_right", "femur_right"}),
        ("LEFT ILIAC ARTERIES:\nThe external iliac artery is occluded.", {"iliac_artery_left"}),
        ("Bibasal bronchiectasis. Tree-in-bud opacities accompany these changes.", LOWER_LOBES),
        ("Left renal mass. Surgeon (Mr. Kay) aware 21:15.", set()),
        ("Left renal mass. A surgical opinion is advised.", {"kidney_left"}),
        ("Biliary ways and suprahepatic veins are permeable.", {"liver"}),
        ("Excretory cavities are not dilated.", {"kidney_left", "kidney_right"}),
    ],
)  # fmt: skip
def test_lists_abbreviations_and_literal_translations(text, expected):
    assert segments(text) == expected


def test_every_class_of_the_vocabulary_can_be_named_and_all_117_are_covered():
    lexicon = load_lexicon()
    reachable = {name for s in lexicon.structures.values() for side in ("left", "right") for name in s.segments(side)}
    reachable |= {f"kidney_cyst_{side}" for side in ("left", "right")}  # named through a cyst of a kidney
    assert len(reachable) == 117
    assert all(re.fullmatch(r"[a-zA-Z]+(_[a-zA-Z0-9]+)*", name) for name in reachable)


def test_the_classes_are_those_of_totalsegmentator():
    mapping = pytest.importorskip("totalsegmentator.map_to_binary").class_map["total"]
    lexicon = load_lexicon()
    reachable = {name for s in lexicon.structures.values() for side in ("left", "right") for name in s.segments(side)}
    assert reachable | {"kidney_cyst_left", "kidney_cyst_right"} == set(mapping.values())

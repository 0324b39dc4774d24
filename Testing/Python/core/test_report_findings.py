"""Findings of a sentence: names, status and scope of negation, doubt and history; measurements and citations."""

import pytest

from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import Citation


def findings(text: str) -> dict[str, str]:
    return {f.name: f.status for f in parse_report(text).sentences[-1].findings}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No mass, consolidation, effusion or pneumothorax.",
         {"mass": "absent", "consolidation": "absent", "pleural effusion": "absent", "pneumothorax": "absent"}),
        ("No pneumothorax, small effusion.", {"pneumothorax": "absent", "pleural effusion": "present"}),
        ("No hydronephrosis; 4 mm right renal stone.", {"hydronephrosis": "absent", "renal calculus": "present"}),
        ("No pleural effusion, but pericardial effusion.", {"pleural effusion": "absent", "pericardial effusion": "present"}),
        ("Pericardial or pleural effusion was not observed.", {"pericardial effusion": "absent", "pleural effusion": "absent"}),
        ("Cholelithiasis without cholecystitis.", {"gallstone": "present", "cholecystitis": "absent"}),
        ("No wall thickening of the stomach suggestive of recurrence.",
         {"gastric wall thickening": "absent", "tumor recurrence": "absent"}),
        ("Cardiac chambers are not enlarged.", {"cardiomegaly": "absent"}),
        ("Spleen not enlarged, cysts of both kidneys.", {"splenomegaly": "absent", "renal cyst": "present"}),
        ("Effusion is not provable.", {"pleural effusion": "absent"}),
        ("No lymphadenopathy, allowing for a small hepatic cyst.", {"lymphadenopathy": "absent", "hepatic cyst": "present"}),
        ("The right effusion seen last time has resolved.", {"pleural effusion": "historical"}),
    ],
)  # fmt: skip
def test_a_negation_holds_for_its_list_and_no_further(text, expected):
    assert findings(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "No significant interval change in the right adrenal nodule.", "The right adrenal nodule has not changed.",
        "Right adrenal nodule, without change.", "The right adrenal nodule was not present on the prior exam.",
    ],
)  # fmt: skip
def test_an_unchanged_or_new_finding_is_present(text):
    assert findings(text) == {"adrenal nodule": "present"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pneumothorax cannot be excluded.", {"pneumothorax": "uncertain"}),
        ("Possible colitis.", {"colitis": "uncertain"}),
        ("Colitis versus ischemic bowel.", {"colitis": "uncertain", "bowel ischemia": "uncertain"}),
        ("RLL opacity, likely pneumonia.", {"lung opacity": "present", "pneumonia": "uncertain"}),
        ("Focus in T8, ?bone island ?met", {"bone island": "uncertain", "bone metastasis": "uncertain"}),
        ("Pericardial fluid, likely physiologic.", {"pericardial effusion": "present"}),
        (
            "Hydronephrosis, likely related to a distended bladder.",
            {"hydronephrosis": "present", "bladder distention": "present"},
        ),
        ("Liver lesion consistent with hemangioma.", {"liver lesion": "present", "hepatic hemangioma": "present"}),
        ("Liver lesion suspicious for metastasis.", {"liver lesion": "present", "liver metastasis": "uncertain"}),
        ("Pneumonitis possible.", {"pneumonitis": "uncertain"}),
    ],
)
def test_doubt_belongs_to_what_is_doubted(text, expected):
    assert findings(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Status post cholecystectomy.", {"cholecystectomy": "historical"}),
        ("The gallbladder is surgically absent.", {"cholecystectomy": "historical"}),
        ("GALLBLADDER: Absent.", {"cholecystectomy": "historical"}),
        ("The LUL nodule is no longer visible.", {"lung nodule": "historical"}),
        ("A LLL nodule, previously 5 mm, is no longer seen.", {"lung nodule": "historical"}),
        ("Pleural effusion has resolved.", {"pleural effusion": "historical"}),
        ("Resolution of the previously seen consolidation.", {"consolidation": "historical"}),
        ("Old healed fracture of the left clavicle.", {"clavicle fracture": "present"}),
        ("Partially resolved pneumonia.", {"pneumonia": "present"}),
    ],
)
def test_what_is_over_is_historical(text, expected):
    assert findings(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "The liver is unremarkable.",
        "Liver, spleen and pancreas are normal.",
        "SVC patent",
        "Bowel NAD.",
        "GB: WNL.",
        "Adrenals fine.",
    ],
)
def test_a_normal_structure_has_an_absent_abnormality(text):
    assert findings(text) == {"abnormality": "absent"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The pancreas is atrophic, and the spleen is normal.",
            {"pancreatic atrophy": "present", "abnormality": "absent"},
        ),
        ("Left adrenal nodule, right adrenal normal.", {"adrenal nodule": "present", "abnormality": "absent"}),
        ("The aorta is normal in caliber with calcified plaque.", {"aortic atherosclerosis": "present"}),
    ],
)
def test_normality_counts_beside_findings_of_another_structure_only(text, expected):
    assert findings(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Spleen 11.2 cm (prev. 15 cm).", "Main pulmonary artery is 2.9 cm.", "Skull base not imaged.",
        "Left renal mass. Recommend MRI.", "Follow-up of the liver lesion is recommended.",
        "Discussed with Dr. R. Moss at 02:17 hrs.",
        "The stomach is collapsed and could not be evaluated optimally.", "Urethral injury not assessed.",
    ],
)  # fmt: skip
def test_a_measurement_limitation_recommendation_or_message_asserts_nothing(text):
    assert findings(text) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Hepatic cyst.", "hepatic cyst"), ("Cysts in the liver.", "hepatic cyst"), ("Oedematous pancreas.", "pancreatic edema"),
        ("The spleen is enlarged.", "splenomegaly"), ("The aorta is dilated.", "aortic dilatation"),
        ("Nodules in the thyroid.", "thyroid nodule"), ("Ground-glass opacities.", "ground-glass opacity"),
        ("Colonic diverticula.", "diverticulosis"), ("Haemangioma of the liver.", "hepatic hemangioma"),
        ("Pleural effusions.", "pleural effusion"), ("Enlarged mediastinal lymph nodes.", "lymphadenopathy"),
    ],
)  # fmt: skip
def test_names_are_singular_standard_wording(text, name):
    assert findings(text) == {name: "present"}


def test_it_asserts_the_finding_of_the_sentence_before_again():
    assert findings("A nodule in the RUL. It has smooth margins.") == {"lung nodule": "present"}


def test_an_operation_in_the_indication_is_not_reported_as_a_finding():
    assert findings("INDICATION: Status post nephrectomy.") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A 2.3 x 1.4 cm mass.", [(23.0, 14.0)]), ("A 12 mm nodule.", [(12.0,)]), ("Spleen 14,5 cm.", [(145.0,)]),
        ("A 9-mm stone and a 1-cm cyst.", [(9.0,), (10.0,)]), ("3.8 x 2.9 x 3.1 cm abscess", [(38.0, 29.0, 31.0)]),
        ("6x5 mm nodule", [(6.0, 5.0)]), ("2.4 cm x 9 mm node", [(24.0, 9.0)]), ("5 × 4 mm", [(5.0, 4.0)]),
        ("2 nodules in segment 4", []), ("40 mm² area", []), ("attenuation 12 HU", []),
    ],
)  # fmt: skip
def test_measurements_are_in_mm(text, expected):
    sentence = parse_report(text).sentences[0]
    assert [m.values_mm for m in sentence.measurements] == expected


@pytest.mark.parametrize(
    ("text", "series", "image", "cited"),
    [
        ("Nodule (series 4, image 112).", 4, 112, "series 4, image 112"), ("Nodule (4/156).", 4, 156, "(4/156)"),
        ("Nodule (3:201).", 3, 201, "(3:201)"), ("Nodule, Se 3 Im 45.", 3, 45, "Se 3 Im 45"),
        ("Nodule (ser. 3, img. 203).", 3, 203, "ser. 3, img. 203"), ("Herd (Serie 4, Bild 12).", 4, 12, "Serie 4, Bild 12"),
        ("Nodule on image 7.", None, 7, "image 7"), ("Nodule, image 88 of series 2.", 2, 88, "image 88 of series 2"),
    ],
)  # fmt: skip
def test_citations_name_series_and_image(text, series, image, cited):
    (citation,) = parse_report(text).sentences[0].citations
    assert citation == Citation(series, image, text.index(cited), text.index(cited) + len(cited))


def test_a_date_is_no_citation():
    assert parse_report("Nodule, unchanged since 3/14/2022.").sentences[0].citations == ()


def test_a_sentence_that_only_compares_is_marked():
    sentences = parse_report("Left renal mass. Unchanged from the prior.").sentences
    assert [s.comparison_only for s in sentences] == [False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Celiac axis tight at its origin, ?MALS.", {"present", "uncertain"}),
        ("Liver lesion, metastasis until proven otherwise.", {"present", "uncertain"}),
        ("The stomach holds food residue but is otherwise normal.", {"absent"}),
        ("Ultrasound of the left kidney to sort out the lesion.", set()),
        ("A cyst was considered in favor of endometrioma.", {"present", "uncertain"}),
    ],
)
def test_what_the_vocabulary_lacks_keeps_the_status_of_its_cue(text, expected):
    assert set(findings(text).values()) == expected

"""Sections, headings and sentence bounds of reports in the layouts that radiologists use."""

import pytest

from CTGroundedVLMLib.report import parse_report


def sentences(text: str) -> list[tuple[str, str]]:
    return [(s.section, text[s.start : s.end]) for s in parse_report(text).sentences]


def texts(text: str) -> list[str]:
    return [sentence for _, sentence in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It measures 2.3 x 1.4 cm. Unchanged.", ["It measures 2.3 x 1.4 cm.", "Unchanged."]),
        ("A 5.5 cm. collection is seen. No gas.", ["A 5.5 cm. collection is seen.", "No gas."]),
        ("Discussed with Dr. A. Moss at 3 p.m. by phone.", ["Discussed with Dr. A. Moss at 3 p.m. by phone."]),
        ("Signs of disease, e.g. nodes. Spleen normal.", ["Signs of disease, e.g. nodes.", "Spleen normal."]),
        ("Seen since Jan. 12, 2022. Stable.", ["Seen since Jan. 12, 2022.", "Stable."]),
        ("Cyst (ser. 3, img. 203). Liver normal.", ["Cyst (ser. 3, img. 203).", "Liver normal."]),
        ("Nodule, metastasis? Bone lesion ?met", ["Nodule, metastasis?", "Bone lesion ?met"]),
        ("Liver normal.The spleen is large.", ["Liver normal.", "The spleen is large."]),
        ("THE CYST IS 2.1 CM. THE LIVER IS NORMAL.", ["THE CYST IS 2.1 CM.", "THE LIVER IS NORMAL."]),
        ("Cysts up to 1.6 cm. 1.1-cm myelolipoma.", ["Cysts up to 1.6 cm.", "1.1-cm myelolipoma."]),
        ("Shift to the R. Loculated fluid on L.", ["Shift to the R.", "Loculated fluid on L."]),
        ("Reported to R. Smith today.", ["Reported to R. Smith today."]),
        ("Old trauma. and then the liver is large.", ["Old trauma.", "and then the liver is large."]),
    ],
)
def test_a_full_stop_inside_a_number_unit_or_abbreviation_ends_no_sentence(text, expected):
    assert texts(text) == expected


@pytest.mark.parametrize("break_", ["\n", "\r\n", "\r"])
def test_hard_wrapped_lines_are_one_sentence(break_):
    text = break_.join(
        (
            "FINDINGS: The heart is enlarged. There is a small pericardial",
            "effusion. The lungs demonstrate bibasilar atelectasis with small",
            "bilateral pleural effusions.",
        )
    )
    assert [t.split()[0] for t in texts(text)] == ["The", "There", "The"]


def test_lines_of_a_terse_report_are_sentences_of_their_own():
    assert texts("Findings\nRight lung clear\nSVC patent\n\nConclusion\nNormal study") == [
        "Right lung clear",
        "SVC patent",
        "Normal study",
    ]


@pytest.mark.parametrize("bullet", ["- ", "* ", "• ", "1. ", "(1) ", "1) ", "1-) ", "\t- "])
def test_bullets_and_numbers_belong_to_no_sentence(bullet):
    assert sentences(f"IMPRESSION:\n{bullet}Hepatic cyst.") == [("impression", "Hepatic cyst.")]


def test_numbers_of_a_list_on_one_line_are_left_out():
    assert texts("IMPRESSION: 1. Hepatic cyst. 2. Gallstone.") == ["Hepatic cyst.", "Gallstone."]


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("REASON FOR EXAM", "indication"), ("Clinical details", "indication"), ("Technique", "technique"),
        ("COMPARISON", "comparison"), ("Report", "findings"), ("Findings (CT chest)", "findings"), ("Opinion", "impression"),
        ("Conclusion", "impression"), ("Result", "impression"), ("## Impression", "impression"), ("**IMPRESSION**", "impression"),
        ("4. IMPRESSION", "impression"), ("ADDENDUM (Dr. Vega, 11/10)", "other"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["{}: Stable.", "{}:\nStable."])
def test_a_heading_opens_its_section(heading, section, form):
    assert sentences(form.format(heading)) == [(section, "Stable.")]


def test_headings_in_the_middle_of_a_line_open_sections():
    text = "Findings: the liver is normal. Spleen is large. Impression: Splenomegaly."
    assert [section for section, _ in sentences(text)] == ["findings", "findings", "impression"]


def test_a_structured_template_gives_no_sentence_for_its_labels():
    report = parse_report("LIVER: Normal.\nSPLEEN: Not enlarged. No lesion.")
    assert [s.segments for s in report.sentences] == [("liver",), ("spleen",), ("spleen",)]
    assert texts(report.text) == ["Normal.", "Not enlarged.", "No lesion."]


def test_an_inline_label_in_a_bullet_belongs_to_the_sentence():
    assert texts("Findings:\n* Left psoas: normal.") == ["Left psoas: normal."]


def test_title_and_patient_data_are_no_sentences():
    text = "CT ABDOMEN AND PELVIS\nPatient: A. Smith\nMRN: 123\n\nINDICATION: Pain.\n\nFINDINGS:\nLiver normal."
    assert sentences(text) == [("indication", "Pain."), ("findings", "Liver normal.")]


def test_a_report_in_capitals_is_read_like_any_other():
    text = "TECHNIQUE: HELICAL CT.\nFINDINGS: THE LIVER IS NORMAL. NO ASCITES.\nIMPRESSION: NORMAL LIVER."
    assert [section for section, _ in sentences(text)] == ["technique", "findings", "findings", "impression"]


def test_a_dictated_report_goes_from_the_comparison_to_findings_without_a_heading():
    text = "Comparison is made to the CT of January 4th. There is a left pleural effusion. the liver is normal."
    assert [section for section, _ in sentences(text)] == ["comparison", "findings", "findings"]


def test_findings_after_a_blank_line_need_no_heading():
    text = "Indication: cough\n\nThere is a nodule in the right upper lobe."
    assert [section for section, _ in sentences(text)] == ["indication", "findings"]


def test_indication_technique_and_comparison_have_no_links_and_no_findings():
    report = parse_report("INDICATION: Liver cyst.\nTECHNIQUE: Portal phase.\nCOMPARISON: CT liver 2020.")
    assert [s.section for s in report.sentences] == ["indication", "technique", "comparison"]
    assert all(s.segments == () and s.findings == () for s in report.sentences)


def test_an_empty_report_has_no_sentences():
    assert parse_report("").sentences == ()
    assert parse_report(" \n\t\r\n ...").sentences == ()


def test_a_statement_that_begins_within_a_wrapped_line_goes_on_in_the_next_one():
    wrapped = "FINDINGS:\nFLUID TRACKS INTO THE LEFT FISSURE. CARDIAC\nENLARGEMENT IS PRESENT. THE LIVER IS DENSE."
    assert texts(wrapped) == [
        "FLUID TRACKS INTO THE LEFT FISSURE.", "CARDIAC\nENLARGEMENT IS PRESENT.", "THE LIVER IS DENSE.",
    ]  # fmt: skip

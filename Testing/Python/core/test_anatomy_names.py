"""Names and codes of other tools lead to the right TotalSegmentator class."""

import pytest

from CTGroundedVLMLib import anatomy


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("liver", "liver"),
        ("LIVER", "liver"),
        ("left kidney", "kidney_left"),
        ("Kidney_L", "kidney_left"),
        ("kidney left", "kidney_left"),
        ("LeftKidney", "kidney_left"),
        ("Kidneys-Right", "kidney_right"),
        ("L1 vertebra", "vertebrae_L1"),
        ("Vertebra T12", "vertebrae_T12"),
        ("rib left 05", "rib_left_5"),
        ("Right 3rd rib", "rib_right_3"),
        ("eleventh rib, right", "rib_right_11"),
        ("Upper lobe of lung Left", "lung_upper_lobe_left"),
        ("RML", "lung_middle_lobe_right"),
        ("heart_atrium_left", "heart"),
        ("left atrial appendage", "atrial_appendage_left"),
        ("IVC", "inferior_vena_cava"),
        ("Portal vein and splenic vein", "portal_vein_and_splenic_vein"),
        ("Cyst Kidney Left", "kidney_cyst_left"),
        ("Oesophagus", "esophagus"),
        ("erector spinae left", "autochthon_left"),
        ("Pancreas", "pancreas"),
        ("urinary bladder", "urinary_bladder"),
    ],
)
def test_a_segment_name_of_another_tool_is_recognised(text, name):
    assert anatomy.match_segment_name(text) == name


@pytest.mark.parametrize("text", ["", "kidney", "rib", "left", "Segment_1", "pulmonary artery", "face", "tumor", "L"])
def test_a_name_that_means_no_single_class_matches_nothing(text):
    assert anatomy.match_segment_name(text) is None


def test_every_name_display_and_synonym_leads_back_to_its_class():
    for c in anatomy.segment_classes():
        for text in (c.name, c.display, c.display.upper(), c.name.replace("_", " "), *c.synonyms):
            assert anatomy.match_segment_name(text) == c.name, text


def test_every_class_is_found_by_its_codes():
    for c in anatomy.segment_classes():
        codes = {k: code.value for k, code in c.terminology.items()}
        assert anatomy.match_terminology(**codes) == c.name
        assert anatomy.match_terminology(**(codes | {"category": ""})) == c.name


def test_codes_are_matched_with_their_side_and_category():
    assert anatomy.match_terminology("123037004", "23451007", "7771000") == "adrenal_gland_left"
    assert anatomy.match_terminology("123037004", "10200004", None) == "liver"
    assert anatomy.match_terminology("123037004", "10200004", "7771000") is None, "there is no left liver"
    assert anatomy.match_terminology("123037004", "64033007", "") is None, "a kidney without a side is no class"
    assert anatomy.match_terminology("49755003", "10200004", None) is None, "another category"
    assert anatomy.match_terminology(None, "72481006", "24028007") == "lung_middle_lobe_right"

"""The organ registry against TotalSegmentator's numbers, SNOMED CT, fVLM's release and RADAR's list of findings."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from CTGroundedVLMLib import anatomy, anatomy_data
from CTGroundedVLMLib.errors import InputError, SegmentationError

LUNG = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)
# How many of RADAR's 146 findings each organ has, counted in its published list.
RADAR_COUNTS = {
    "aorta": 4,
    "duodenum": 5,
    "large bowel": 18,
    "small bowel": 13,
    "heart": 2,
    "rib": 3,
    "liver": 18,
    "lung": 10,
    "kidney": 14,
    "adrenal gland": 6,
    "stomach": 6,
    "gallbladder": 14,
    "pancreas": 10,
    "spleen": 8,
    "bladder": 6,
    "portal vein": 3,
    "esophagus": 5,
    "sacrum": 1,
}


@pytest.fixture
def a_changed_copy(tmp_path):
    """A function that copies a data file, lets the test change its content, and returns the copy's path."""

    def copy(name, change):
        content = json.loads((anatomy.DATA / name).read_text(encoding="utf-8"))
        change(content)
        path = tmp_path / name
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return copy


# --- Segments


def test_labels_are_those_of_the_total_task_version_2():
    names = anatomy.label_names()
    assert list(names) == list(range(1, 118))
    assert [names[i] for i in range(10, 15)] == list(LUNG)
    expected = {1: "spleen", 5: "liver", 15: "esophagus", 51: "heart", 52: "aorta", 61: "atrial_appendage_left"}
    expected |= {92: "rib_left_1", 115: "rib_right_12", 117: "costal_cartilages"}
    assert {label: names[label] for label in expected} == expected


def test_labels_of_version_1_map_to_names_of_version_2():
    names = anatomy.label_names(version=1)
    expected = {1: "spleen", 7: "aorta", 13: "lung_upper_lobe_left", 42: "esophagus", 92: "sacrum"}
    expected |= {104: "urinary_bladder", 58: "rib_left_1", 41: "vertebrae_C1"}
    assert {label: names[label] for label in expected} == expected
    assert [label for label, name in names.items() if name == "heart"] == [44, 45, 46, 47, 48]
    assert set(range(1, 105)) - set(names) == {49, 93}, "pulmonary artery and face have no class in v2's total task"


def test_v1_fields_of_a_class_agree_with_the_v1_label_table():
    names = anatomy.label_names(version=1)
    for c in anatomy.segment_classes():
        assert (c.v1_label is None) == (c.v1_name is None)
        if c.v1_label is not None:
            assert names[c.v1_label] == c.name
    assert anatomy.segment("aorta").v1_label == 7
    assert anatomy.segment("heart").v1_label is None


def test_another_version_of_totalsegmentator_is_refused():
    with pytest.raises(SegmentationError, match="version 3 is not known; expected 1 or 2"):
        anatomy.label_names(version=3)


def test_labels_equal_those_of_an_installed_totalsegmentator():
    class_map = pytest.importorskip("totalsegmentator.map_to_binary").class_map
    assert anatomy.label_names() == class_map["total"]
    lacking = {"face", "pulmonary_artery"}
    v1 = {label: name for label, name in class_map["total_v1"].items() if name not in lacking}
    ours = anatomy.label_names(version=1)
    assert ours.keys() == v1.keys()
    assert all(
        ours[label] == name or (ours[label] == "heart" and name.startswith("heart_")) for label, name in v1.items()
    )


def test_all_24_ribs_and_25_vertebrae_are_there():
    names = {c.name for c in anatomy.segment_classes()}
    assert {f"rib_{side}_{i}" for side in ("left", "right") for i in range(1, 13)} <= names
    levels = {f"C{i}" for i in range(1, 8)} | {f"T{i}" for i in range(1, 13)} | {f"L{i}" for i in range(1, 6)} | {"S1"}
    assert {n.removeprefix("vertebrae_") for n in names if n.startswith("vertebrae_")} == levels


def test_display_names_are_unique_and_readable():
    displays = [c.display for c in anatomy.segment_classes()]
    assert len(set(displays)) == 117
    assert all(text[0].isupper() and "_" not in text for text in displays)
    assert anatomy.segment("adrenal_gland_left").display == "Left adrenal gland"


@pytest.mark.parametrize(
    ("name", "key", "code"),
    [
        ("liver", "type", ("SCT", "10200004", "Liver")),
        ("aorta", "type", ("SCT", "15825003", "Aorta")),
        ("kidney_left", "modifier", ("SCT", "7771000", "Left")),
        ("kidney_right", "modifier", ("SCT", "24028007", "Right")),
        ("liver", "category", ("SCT", "123037004", "Anatomical Structure")),
        ("kidney_cyst_left", "category", ("SCT", "49755003", "Morphologically Altered Structure")),
        ("kidney_cyst_left", "region", ("SCT", "64033007", "Kidney")),
        ("kidney_cyst_left", "region_modifier", ("SCT", "7771000", "Left")),
    ],
)
def test_terminology_holds_the_snomed_code(name, key, code):
    assert anatomy.segment(name).terminology[key] == code


def test_every_class_has_a_color_in_range_and_the_aorta_its_own():
    assert all(len(c.color) == 3 and all(0 <= x <= 255 for x in c.color) for c in anatomy.segment_classes())
    assert anatomy.segment("aorta").color == (216, 108, 54)


def test_an_unknown_segment_is_refused_with_a_suggestion():
    with pytest.raises(SegmentationError, match=r"'kidny_left'.*did you mean kidney_left"):
        anatomy.segment("kidny_left")


def test_segment_classes_can_be_keys_of_a_dictionary():
    assert len({c: c.label for c in anatomy.segment_classes()}) == 117


# --- Organ groups


def test_fvlm4_is_the_release_s_order_and_labels():
    group = anatomy.organ_group("fvlm4")
    assert group.names == ("lung", "heart", "esophagus", "aorta")
    labels = [[anatomy.segment(name).label for name in organ.segments] for organ in group.organs]
    assert labels == [[10, 11, 12, 13, 14], [51, 61], [15], [52]]


def test_anatomy36_uses_each_of_the_104_classes_of_v1_once():
    group = anatomy.organ_group("anatomy36")
    assert len(group.organs) == 36
    assert group.names[:6] == ("adrenal gland", "aorta", "erector spinae muscle", "brain", "clavicle", "large bowel")
    assert group.names[12:14] == ("heart", "hip joint")
    assert group.names[33:] == ("cervical vertebrae", "lumbar vertebrae", "thoracic vertebrae")
    used = [name for organ in group.organs for name in organ.v1_segments]
    assert len(used) == len(set(used)) == 104
    organs = dict(zip(group.names, group.organs, strict=True))
    assert len(organs["heart"].v1_segments) == 5
    assert organs["heart"].segments == ("heart", "atrial_appendage_left")
    assert len(organs["rib"].segments) == 24
    assert organs["face"].segments == organs["pulmonary artery"].segments == ()
    assert "no face and no pulmonary artery" in group.description


def test_an_unknown_organ_group_is_refused_with_the_known_ones():
    assert anatomy.organ_groups() == ("fvlm4", "anatomy36")
    with pytest.raises(InputError, match="expected one of fvlm4, anatomy36"):
        anatomy.organ_group("fvlm5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g: g["groups"][0]["organs"][3].update(segments=["aortta"]),
            r"'aortta' is not known.*did you mean aorta",
        ),
        (lambda g: g["groups"][0]["organs"][3].update(name="lung"), r"organ 'lung' occurs twice"),
        (lambda g: g["groups"][0]["organs"][3].update(segments=["heart"]), r"v2 class 'heart' occurs twice"),
        (lambda g: g["groups"][0]["organs"][3].update(segments=[], v1_segments=[]), r"'aorta' of fvlm4 has no class"),
        (lambda g: g["groups"][1].update(name="fvlm4"), r"group 'fvlm4' occurs twice"),
        (lambda g: g["groups"][0]["organs"][3].pop("v1_segments"), r"entry 3 of \"organs\" lacks v1_segments"),
        (lambda g: g.pop("groups"), r"expected a list under \"groups\""),
    ],
)
def test_a_wrong_organ_group_is_refused_naming_the_file(a_changed_copy, change, message):
    path = a_changed_copy("organ_groups.json", change)
    v2, v1 = anatomy.label_names().values(), anatomy._v1_labels().keys()
    with pytest.raises(InputError, match=message) as error:
        anatomy_data.read_organ_groups(path, v2=set(v2), v1=v1)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["segments"][1].update(label=1), "label 1 occurs twice"),
        (lambda s: s["segments"][1].update(name="spleen"), "class 'spleen' occurs twice"),
        (lambda s: s["segments"][1].update(display="Spleen"), "display name 'Spleen' occurs twice"),
        (lambda s: s["segments"][4]["terminology"].pop("type"), "liver needs a terminology with category and type"),
    ],
)
def test_a_wrong_segment_table_is_refused_naming_the_file(a_changed_copy, change, message):
    path = a_changed_copy("segments.json", change)
    with pytest.raises(InputError, match=message) as error:
        anatomy_data.read_segments(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_no_json_is_refused_naming_it(tmp_path):
    path = tmp_path / "segments.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"segments\.json: cannot be read as JSON"):
        anatomy_data.read_segments(path)


# --- Findings


def test_the_16_prompt_pairs_are_the_release_s(parity_dir: Path):
    items = np.load(parity_dir / "expected_abdomen.npz")["items"].tolist()
    ours = [[f.organ, f.name, f.negative, f.positive] for f in anatomy.findings(in_set="fvlm16")]
    assert len(ours) == 16
    assert ours == items


def test_prompts_of_the_release_are_written_as_there():
    prompts = {f.name: (f.negative, f.positive) for f in anatomy.findings(in_set="fvlm16")}
    assert prompts["Emphysema"] == ("Not Emphysema.", "Emphysema.")
    assert prompts["Atelectasis"] == ("Not Atelectatic.", "Atelectatic.")
    assert prompts["Pulmonary fibrotic sequela"] == ("Not Pulmonary fibrotic.", "Pulmonary fibrotic.")


def test_radar146_holds_every_organ_with_its_number_of_findings():
    found = anatomy.findings(in_set="radar146")
    assert {organ: sum(f.organ == organ for f in found) for organ in {f.organ for f in found}} == RADAR_COUNTS
    assert len(found) == 146


def test_findings_belong_to_organs_of_a_group_and_have_two_different_prompts():
    organs = set(anatomy.organ_group("anatomy36").names)
    for f in anatomy.findings():
        assert f.organ in organs
        assert f.positive != f.negative
        assert f.positive.endswith(".")
        assert f.negative.endswith(".")
        assert f.positive[0].isupper()
        assert f.term == f.term.lower()
        assert all(s == s.lower() == s.strip() for s in f.synonyms)


def test_findings_are_chosen_by_organ_and_set():
    assert [f.name for f in anatomy.findings("heart", "fvlm16")] == [
        "Cardiomegaly",
        "Pericardial effusion",
        "Coronary artery wall calcification",
    ]
    assert anatomy.findings("trachea") == ()
    assert anatomy.finding_sets() == ("fvlm16", "radar146", "additional")
    with pytest.raises(InputError, match=r"'livr'; did you mean liver"):
        anatomy.findings("livr")
    with pytest.raises(InputError, match="expected one of fvlm16, radar146, additional"):
        anatomy.findings(in_set="fvlm17")


def test_report_wordings_are_among_the_synonyms():
    by_name = {f.name: f for f in anatomy.findings()}
    assert {"coronary artery calcification", "coronary calcification"} <= set(
        by_name["Coronary artery wall calcification"].synonyms
    )
    assert "aortic atherosclerosis" in by_name["Arterial wall calcification"].synonyms
    assert "renal stone" in by_name["Nephrolithiasis"].synonyms
    assert by_name["Hepatic cyst"].focal
    assert not by_name["Hepatic steatosis"].focal


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["findings"][0].update(organ="lunge"), r"'lunge', no organ of any group; did you mean lung"),
        (lambda f: f["findings"][0].update(sets=["other"]), r"is in sets \('other',\)"),
        (lambda f: f["findings"][1].update(name="Emphysema"), r"finding \('lung', 'Emphysema'\) occurs twice"),
        (
            lambda f: f["findings"][1]["synonyms"].append("emphysema"),
            r"wording \('fvlm16', 'lung', 'emphysema'\) occurs twice",
        ),
    ],
)
def test_a_wrong_finding_is_refused_naming_the_file(a_changed_copy, change, message):
    path = a_changed_copy("findings.json", change)
    with pytest.raises(InputError, match=message) as error:
        anatomy_data.read_findings(path, anatomy.organ_group("anatomy36").names)
    assert str(path) in str(error.value)


# --- Templates and import


def test_the_seven_templates_take_a_term():
    templates = anatomy.prompt_templates()
    assert len(templates) == 7
    texts = [(p.format(finding="pleural effusion"), n.format(finding="pleural effusion")) for p, n in templates]
    assert texts[0] == ("pleural effusion.", "No pleural effusion.")
    assert texts[2] == ("There is pleural effusion.", "There is no pleural effusion.")
    assert texts[4] == ("pleural effusion.", "Not pleural effusion.")
    assert len(set(texts)) == 7


def test_a_template_without_its_field_is_refused(a_changed_copy):
    path = a_changed_copy("prompt_templates.json", lambda t: t["templates"][0].update(negative="No."))
    with pytest.raises(InputError, match=r"prompt_templates\.json: template 'No\.' must hold \{finding\} once"):
        anatomy_data.read_prompt_templates(path)


def test_importing_the_registry_loads_no_heavy_library():
    code = "import sys; import CTGroundedVLMLib.anatomy as a; a.findings(); print(*sys.modules)"
    package_root = str(anatomy.DATA.parents[1])
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=package_root
    ).stdout.split()
    assert "CTGroundedVLMLib.anatomy" in loaded
    assert not {"numpy", "torch", "SimpleITK", "qt", "slicer"} & set(loaded)

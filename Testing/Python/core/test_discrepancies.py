"""Report against image: what counts as a disagreement, and how it is ranked."""

import dataclasses
import math

import pytest

from CTGroundedVLMLib.discrepancies import compare_with_report
from CTGroundedVLMLib.scoring import Calibration
from CTGroundedVLMLib.types import FindingScore, Report, ReportFinding, Sentence

LOBES = (
    "lung_lower_lobe_left", "lung_lower_lobe_right", "lung_middle_lobe_right", "lung_upper_lobe_left", "lung_upper_lobe_right",
)  # fmt: skip
ORGANS = {"lung": LOBES, "heart": ("heart", "atrial_appendage_left")}


def a_score(finding, probability, organ="lung", calibrated=False, reason=None):
    return FindingScore(organ, finding, probability, 0.0, calibrated, reason, ("p",), ("n",))


def a_report(*sentences, text="x" * 1000, section="findings"):
    """(finding name, status, segments) per sentence."""
    made = [
        Sentence(10 * i, 10 * i + 9, section, tuple(segments), (ReportFinding(name, status),))
        for i, (name, status, segments) in enumerate(sentences)
    ]
    return Report(text, tuple(made))


def only(scores, report, calibration=None):
    (comparison,) = compare_with_report(scores, report, ORGANS, calibration)
    return comparison


@pytest.mark.parametrize(
    ("status", "probability", "discrepancy"),
    [
        ("present", 0.9, False),
        ("present", 0.1, True),
        ("absent", 0.9, True),
        ("absent", 0.1, False),
        ("uncertain", 0.9, False),
        ("uncertain", 0.1, False),
        ("historical", 0.9, False),
    ],
)
def test_a_statement_is_held_against_the_image(status, probability, discrepancy):
    comparison = only([a_score("Pleural effusion", probability)], a_report(("pleural effusion", status, LOBES)))
    assert comparison.report == status
    assert comparison.sentences == (0,)
    assert comparison.discrepancy is discrepancy
    assert (comparison.severity > 0) is discrepancy


def test_what_is_not_mentioned_is_never_called_normal():
    comparison = only([a_score("Emphysema", 0.2)], a_report(("pleural effusion", "absent", LOBES)))
    assert (comparison.report, comparison.image, comparison.discrepancy) == ("not mentioned", "negative", False)
    assert "does not mention it" in comparison.reason
    assert "normal" not in comparison.reason


def test_a_finding_seen_but_not_mentioned_is_a_discrepancy_of_lesser_weight():
    report = a_report(("pleural effusion", "absent", LOBES))
    denied, unmentioned = compare_with_report(
        [a_score("Emphysema", 0.9), a_score("Pleural effusion", 0.9)], report, ORGANS
    )
    assert (denied.finding, unmentioned.finding) == ("Pleural effusion", "Emphysema")
    assert denied.severity == pytest.approx(math.log(9))
    assert unmentioned.severity == pytest.approx(0.5 * math.log(9))


def test_lungs_called_clear_deny_every_lung_finding():
    comparison = only([a_score("Emphysema", 0.9)], a_report(("abnormality", "absent", LOBES)))
    assert (comparison.report, comparison.discrepancy) == ("absent", True)
    assert "calls the lung normal without naming it" in comparison.reason


def test_one_clear_lobe_does_not_deny_a_finding_of_the_lung():
    comparison = only([a_score("Emphysema", 0.9)], a_report(("abnormality", "absent", LOBES[:1])))
    assert comparison.report == "not mentioned"


def test_the_same_finding_in_another_organ_does_not_count():
    comparison = only([a_score("Pleural effusion", 0.9)], a_report(("pleural effusion", "present", ("liver",))))
    assert comparison.report == "not mentioned"


def test_synonyms_of_the_registry_count():
    report = a_report(("coronary artery calcification", "present", ("heart",)))
    comparison = only([a_score("Coronary artery wall calcification", 0.9, "heart")], report)
    assert comparison.report == "present"


def test_a_narrower_finding_affirms_but_does_not_deny():
    affirmed = only([a_score("Pleural effusion", 0.9)], a_report(("loculated pleural effusion", "present", LOBES)))
    assert affirmed.report == "present"
    denied = only([a_score("Pleural effusion", 0.9)], a_report(("loculated pleural effusion", "absent", LOBES)))
    assert denied.report == "not mentioned"


def test_a_positive_statement_outweighs_a_denial_elsewhere():
    report = a_report(("lung nodule", "absent", LOBES[:1]), ("lung nodule", "present", LOBES[1:2]))
    comparison = only([a_score("Lung nodule", 0.9)], report)
    assert (comparison.report, comparison.sentences) == ("present", (1,))


def test_an_organ_that_is_not_scored_has_no_image_side():
    score = a_score("Emphysema", None, reason="lung is not in the segmentation")
    comparison = only([score], a_report(("emphysema", "present", LOBES)))
    assert (comparison.image, comparison.discrepancy, comparison.severity) == (None, False, 0.0)
    assert "lung is not in the segmentation" in comparison.reason


def test_the_threshold_of_a_calibrated_finding_comes_from_the_calibration():
    calibration = Calibration({}, {"lung/Emphysema": 0.15})
    report = a_report(("emphysema", "absent", LOBES))
    calibrated = only([a_score("Emphysema", 0.2, calibrated=True)], report, calibration)
    assert (calibrated.threshold, calibrated.threshold_source, calibrated.image) == (0.15, "calibration", "positive")
    raw = only([a_score("Emphysema", 0.2)], report, calibration)
    assert (raw.threshold, raw.threshold_source, raw.image) == (0.5, "default", "negative")


def test_a_heart_of_normal_size_may_have_an_effusion():
    report = a_report(("abnormality", "absent", ("heart",)), text="Size ok.  " + "x" * 100)
    assert only([a_score("Pericardial effusion", 0.9, "heart")], report).report == "not mentioned"
    whole = a_report(("abnormality", "absent", ("heart",)), text="Heart ok. " + "x" * 100)
    assert only([a_score("Pericardial effusion", 0.9, "heart")], whole).report == "absent"


def test_air_under_the_skin_is_no_emphysema_of_the_lung():
    report = a_report(("subcutaneous emphysema", "present", ()))
    assert only([a_score("Emphysema", 0.1)], report).report == "not mentioned"


def test_a_denial_on_one_side_leaves_the_other_open():
    left = [lobe for lobe in LOBES if lobe.endswith("left")]
    comparison = only([a_score("Lung nodule", 0.9)], a_report(("lung nodule", "absent", left)))
    assert (comparison.report, comparison.discrepancy) == ("uncertain", False)
    assert "for a part of the lung only" in comparison.reason
    both = a_report(("lung nodule", "absent", left), ("lung nodule", "absent", set(LOBES) - set(left)))
    assert only([a_score("Lung nodule", 0.9)], both).report == "absent"


def test_the_users_own_words_are_read_as_a_sentence_of_a_report():
    score = dataclasses.replace(a_score("Basal atelectasis", 0.9), source="prompt")
    assert only([score], a_report(("atelectasis", "present", LOBES))).report == "present"
    unknown = dataclasses.replace(a_score("velvet sign", 0.9), source="prompt")
    assert "as far as your words are recognised" in only([unknown], a_report(("atelectasis", "present", LOBES))).reason


def test_the_indication_says_nothing_of_this_scan():
    report = a_report(("emphysema", "present", LOBES), section="indication")
    assert only([a_score("Emphysema", 0.1)], report).report == "not mentioned"


def test_without_a_report_there_is_nothing_to_compare():
    assert compare_with_report([a_score("Emphysema", 0.9)], Report(""), ORGANS) == ()


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.1, "probability 0.10 is below 0.50 ("),
        (0.497, "probability 0.497 is below 0.500 ("),
        (0.50004, "probability 0.50004 is at or above 0.50000 ("),
        (0.5, "probability 0.50 is at or above 0.50 ("),
    ],
)
def test_the_reason_has_digits_enough_to_see_on_which_side_of_the_threshold_a_probability_is(probability, said):
    comparison = only([a_score("Emphysema", probability)], a_report(("Emphysema", "present", LOBES)))
    assert said in comparison.reason

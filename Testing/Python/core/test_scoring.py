"""Probabilities, prompts, calibration, and reasons instead of zeros."""

import json
import math

import pytest
import torch

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.prompts import Prompt, free_prompt, registry_prompts
from CTGroundedVLMLib.scoring import read_calibration, score_findings, sigmoid

ORGANS = {"lung": (), "liver": ()}


def encode(texts):
    """A stand-in for the text tower: a unit vector whose angle is the text's length."""
    return torch.stack([torch.tensor([math.cos(len(t) / 10), math.sin(len(t) / 10)]) for t in texts])


def test_the_probability_is_the_softmax_share_of_the_positive_prompt():
    feature = torch.tensor([0.6, 0.8])
    prompt = free_prompt("lung", "nodule", ORGANS)
    (score,) = score_findings([prompt], {"lung": feature}, {}, encode, 0.07)
    negative, positive = (encode(["Not nodule.", "nodule."]) @ feature / 0.07).tolist()
    assert score.margin == pytest.approx(positive - negative, rel=1e-5)
    assert score.probability == pytest.approx(math.exp(positive) / (math.exp(positive) + math.exp(negative)), rel=1e-5)
    assert score.calibrated is False
    assert (score.positive, score.negative, score.source) == (("nodule.",), ("Not nodule.",), "prompt")


def test_an_organ_that_cannot_be_scored_is_none_with_its_reason():
    prompt = free_prompt("liver", "cyst", ORGANS)
    (score,) = score_findings([prompt], {}, {"liver": "liver is not in the segmentation"}, encode, 0.07)
    assert score.probability is None
    assert score.margin is None
    assert score.reason == "liver is not in the segmentation"


def test_templates_average_the_margins():
    feature = torch.tensor([0.6, 0.8])
    prompt = free_prompt("lung", "nodule", ORGANS, templates=True)
    (score,) = score_findings([prompt], {"lung": feature}, {}, encode, 0.07)
    margins = (encode(prompt.positive) - encode(prompt.negative)) @ feature / 0.07
    assert len(margins) == 7
    assert score.margin == pytest.approx(float(margins.mean()), rel=1e-4)


def test_extreme_margins_do_not_overflow():
    assert sigmoid(1e4) == 1.0
    assert sigmoid(-1e4) == 0.0
    assert sigmoid(0) == 0.5


SETTINGS = {"mode": "shared", "grid": "physical", "templates": False}
SETTINGS_OTHER = SETTINGS | {"mode": "reference"}


def a_calibration(tmp_path, **changes):
    content = {
        "format": "ctgvlm-calibration",
        "model_sha256": "abc",
        "settings": SETTINGS,
        "findings": {"lung/nodule": {"a": 0.5, "b": -1.0, "threshold": 0.3}},
    }
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_calibration_is_platt_scaling_of_the_margin_and_marked(tmp_path):
    calibration = read_calibration(a_calibration(tmp_path), "abc", SETTINGS)
    prompts = [
        Prompt("lung", "nodule", ("Nodule.",), ("Not nodule.",)),
        Prompt("lung", "mass", ("Mass.",), ("Not mass.",)),
    ]
    known, unknown = score_findings(prompts, {"lung": torch.tensor([0.6, 0.8])}, {}, encode, 0.07, calibration)
    assert known.calibrated
    assert known.probability == pytest.approx(1 / (1 + math.exp(-(0.5 * known.margin - 1.0))))
    assert not unknown.calibrated
    assert calibration.thresholds == {"lung/nodule": 0.3}


def test_the_users_own_words_are_never_calibrated(tmp_path):
    calibration = read_calibration(a_calibration(tmp_path), "abc", SETTINGS)
    own = free_prompt("lung", "nodule", ORGANS)
    (score,) = score_findings([own], {"lung": torch.tensor([0.6, 0.8])}, {}, encode, 0.07, calibration)
    assert not score.calibrated
    assert score.probability == pytest.approx(sigmoid(score.margin))
    assert calibration.unused([own]) == ["lung/nodule"]


def test_a_model_output_that_is_no_number_is_not_scored():
    (score,) = score_findings(
        [free_prompt("lung", "nodule", ORGANS)], {"lung": torch.tensor([math.nan, 0.0])}, {}, encode, 0.07
    )
    assert (score.probability, score.margin) == (None, None)
    assert "not a finite number" in score.reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_sha256": "other"}, "made for model other"),
        ({"settings": SETTINGS_OTHER}, "fitted with mode 'reference' instead of 'shared'"),
        ({"findings": {"lung/nodule": {"a": 1, "b": 1, "threshold": 3}}}, "between 0 and 1"),
        ({"format": "something"}, 'must have format "ctgvlm-calibration"'),
        ({"findings": {"lung/nodule": {"a": 1}}}, "KeyError: 'b'"),
        ({"findings": {"lung/nodule": {"a": 1, "b": math.inf}}}, "finite"),
        ({"findings": []}, "cannot be used"),
    ],
)
def test_a_calibration_file_that_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_calibration(a_calibration(tmp_path, **changes), "abc", SETTINGS)


def test_a_missing_calibration_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.json cannot be used"):
        read_calibration(tmp_path / "nothing.json", "abc", SETTINGS)


@pytest.mark.parametrize(
    ("organ", "text", "message"),
    [
        ("brain", "mass", 'no organ "brain". It knows: lung, liver'),
        ("liver", "  . ", "is empty"),
        ("liver", "x" * 2000, "has 2000 characters"),
    ],
)
def test_a_question_that_cannot_be_asked_says_why(organ, text, message):
    with pytest.raises(InputError, match=message):
        free_prompt(organ, text, ORGANS)


def test_a_question_takes_the_form_of_the_releases_prompts():
    prompt = free_prompt("liver", "  hypodense \n lesion. ", ORGANS)
    assert (prompt.positive, prompt.negative) == (("hypodense lesion.",), ("Not hypodense lesion.",))


def test_auto_takes_the_released_set_where_it_covers_the_organ_and_all_findings_elsewhere():
    lung = registry_prompts(["lung"])
    assert [p.finding for p in lung][:2] == ["Emphysema", "Atelectasis"]
    assert len(lung) == 11
    liver = registry_prompts(["liver"])
    assert len(liver) >= 18
    assert registry_prompts(["liver"], "fvlm16") == ()
    assert registry_prompts(["an organ of my own"]) == ()

"""A model that carries its calibration: used by default for the settings it was fitted with, in scores and thresholds."""

import dataclasses
import json
import math

import pytest

from bundled_models import NAME, PLATT, SETTINGS, a_starter, write_calibration
from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.checkpoint import load_checkpoint, model_sha256
from CTGroundedVLMLib.pipeline import AnalysisOptions, Session, analyze

QUICK = AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_checkpoint(a_starter(tmp_path_factory.mktemp("bundled")) / "starter")


def analysed(loaded, report="", **options):
    return analyze(a_case(CHEST, report=report), loaded, dataclasses.replace(QUICK, **options))


def scores(result):
    return {f"{f.organ}/{f.finding}": f for f in result.findings}


def test_probabilities_are_the_calibrated_ones_and_marked(loaded):
    found = scores(analysed(loaded))
    emphysema = found["lung/Emphysema"]
    assert emphysema.calibrated
    assert emphysema.probability == pytest.approx(1 / (1 + math.exp(-(0.5 * emphysema.margin - 1.0))))
    raw = found["lung/Pneumothorax"]
    assert not raw.calibrated
    assert raw.probability == pytest.approx(1 / (1 + math.exp(-raw.margin)))


def test_an_analysis_asks_for_what_the_model_was_evaluated_on_and_for_more_on_demand(loaded):
    assert set(scores(analysed(loaded))) == {"lung/Emphysema", "lung/Pneumothorax", "heart/Cardiomegaly"}
    assert len(scores(analysed(loaded, finding_set="fvlm16"))) == 16


def test_the_comparison_with_the_report_uses_its_thresholds_where_there_are_some(loaded):
    compared = {c.finding: c for c in analysed(loaded, "FINDINGS: No emphysema. No pneumothorax.").comparisons}
    assert (compared["Emphysema"].threshold, compared["Emphysema"].threshold_source) == (0.3, "calibration")
    assert (compared["Pneumothorax"].threshold, compared["Pneumothorax"].threshold_source) == (0.5, "default")
    assert "0.30 (threshold from calibration)" in compared["Emphysema"].reason


def test_a_question_in_free_words_stays_raw(loaded):
    session = Session(a_case(CHEST), loaded, QUICK)
    assert [s.calibrated for s in session.score([session.prompt("lung", "Emphysema")])] == [False]


def test_raw_probabilities_can_be_asked_for(loaded):
    result = analysed(loaded, calibrate=False)
    assert not any(f.calibrated for f in result.findings)
    assert result.settings["calibration"] is None
    assert not any("calibration" in warning for warning in result.warnings)


@pytest.mark.parametrize("change", [{"mode": "reference"}, {"grid": "release"}, {"templates": True}])
def test_other_settings_are_not_calibrated_and_the_result_says_so(loaded, change):
    result = analysed(loaded, **change)
    assert not any(f.calibrated for f in result.findings)
    assert any(f"own calibration is for other settings ({NAME}" in warning for warning in result.warnings)


def test_a_file_of_the_user_goes_before_it(loaded, tmp_path):
    record = json.loads((loaded.folder / NAME).read_text())
    record["findings"] = {"lung/Emphysema": PLATT | {"b": 2.0}}
    (tmp_path / "mine.json").write_text(json.dumps(record))
    result = analysed(loaded, calibration=tmp_path / "mine.json")
    emphysema = scores(result)["lung/Emphysema"]
    assert emphysema.probability == pytest.approx(1 / (1 + math.exp(-(0.5 * emphysema.margin + 2.0))))
    assert not scores(result)["heart/Cardiomegaly"].calibrated
    assert result.settings["calibration"] == str(tmp_path / "mine.json")
    with pytest.raises(InputError, match="expected one of them"):
        AnalysisOptions(calibration=tmp_path / "mine.json", calibrate=False)


@pytest.mark.parametrize(
    "damage", [{"model_sha256": "other"}, {"findings": []}, {"settings": SETTINGS | {"mode": "reference"}}]
)
def test_a_calibration_that_does_not_fit_its_model_is_refused_with_the_remedy(tmp_path, damage):
    model = a_starter(tmp_path) / "starter"
    write_calibration(model, **damage)
    with pytest.raises(InputError, match=rf"{NAME}(.|\n)*run with --no-calibration"):
        analysed(load_checkpoint(model))
    assert not any(f.calibrated for f in analysed(load_checkpoint(model), calibrate=False).findings)


def test_calibration_findings_and_card_do_not_change_which_model_it_is(tmp_path):
    model = a_starter(tmp_path) / "starter"
    before = model_sha256(model)
    for name in (NAME, "MODEL_CARD.md"):
        (model / name).unlink()
    header = json.loads((model / "config.json").read_text())
    del header["findings"]
    (model / "config.json").write_text(json.dumps(header))
    assert model_sha256(model) == before == load_checkpoint(model).identity.sha256

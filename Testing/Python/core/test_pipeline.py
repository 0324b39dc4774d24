"""The whole analysis on synthetic cases, and what is said of organs that cannot be scored."""

import json

import numpy as np
import pytest
import torch

from cases import CHEST, LPS, a_case, a_small_model
from CTGroundedVLMLib import precision
from CTGroundedVLMLib.errors import DependencyError, InputError, ResourceError, VolumeError
from CTGroundedVLMLib.pipeline import AnalysisOptions, Session, analyze
from CTGroundedVLMLib.precision import choose_device, choose_precision
from CTGroundedVLMLib.types import CTCase, Segmentation

REPORT = "FINDINGS: No pleural effusion. The heart is enlarged. Calcified plaque in the aorta. The spleen is normal."


@pytest.fixture(scope="module")
def loaded():
    return a_small_model()


def scores_of(result):
    return {(score.organ, score.finding): score for score in result.findings}


def test_one_analysis_scores_links_and_localizes(loaded):
    options = AnalysisOptions(precision="fp32", prompts=(("aorta", "calcified plaque"),), min_visible=0.0, heatmaps=2)
    result = analyze(a_case(CHEST, report=REPORT), loaded, options)
    scores = scores_of(result)
    assert len(result.findings) == 17
    assert all(0 < score.probability < 1 for (organ, _), score in scores.items() if organ != "esophagus")
    hernia = scores["esophagus", "Hiatal hernia"]
    assert (hernia.probability, hernia.margin) == (None, None)
    assert hernia.reason == "esophagus is not in the segmentation"
    assert (result.heatmaps[0].organ, result.heatmaps[0].finding) == ("aorta", "calcified plaque")
    assert len(result.heatmaps) == 3
    linked = {
        result.report.text[s.start : s.end]: link
        for link in result.links
        for s in [result.report.sentences[link.sentence]]
    }
    assert linked["The heart is enlarged."].segments == ("heart",)
    assert linked["The heart is enlarged."].organs == ("heart",)
    assert linked["The spleen is normal."].segments == ()
    assert linked["The spleen is normal."].missing_segments == ("spleen",)
    i, j, k = linked["The heart is enlarged."].centre_ijk
    assert result.case.segmentation.labels_kji[k, j, i] == 51
    assert {"preprocess", "encode image", "score", "analysis"} <= result.timings_s.keys()
    assert result.settings["windows"]
    assert not result.model.trained


def test_the_heatmaps_are_those_of_the_highest_scores(loaded):
    result = analyze(a_case(CHEST), loaded, AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=3))
    ranked = sorted((s for s in result.findings if s.reason is None), key=lambda s: -s.probability)
    assert [(h.organ, h.finding) for h in result.heatmaps] == [(s.organ, s.finding) for s in ranked[:3]]


def test_the_same_input_gives_the_same_numbers(loaded):
    options = AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=1)
    first, second = (analyze(a_case(CHEST), loaded, options) for _ in range(2))
    assert first.findings == second.findings
    assert np.array_equal(first.heatmaps[0].values_kji, second.heatmaps[0].values_kji)


def test_both_modes_agree_where_one_window_shows_everything(loaded):
    """With windows as large as the volume, an organ's own crop and the shared one are the same picture."""
    boxes = {"heart": ((6, 20, 30), (20, 50, 60)), "aorta": ((8, 30, 65), (22, 45, 75))}
    case = a_case(boxes, shape=(30, 64, 96))
    scores = []
    for mode in ("shared", "reference"):
        options = AnalysisOptions(mode=mode, precision="fp32", min_visible=0.0, heatmaps=0)
        scores.append([s.probability for s in analyze(case, loaded, options).findings])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6, nan_ok=True)


def test_a_second_question_needs_no_image_pass(loaded, monkeypatch):
    session = Session(a_case(CHEST), loaded, AnalysisOptions(precision="fp32", min_visible=0.0))
    monkeypatch.setattr(loaded.model.vision, "forward", lambda *_: pytest.fail("the image was encoded again"))
    (score,) = session.score([session.prompt("heart", "wall motion abnormality")])
    assert 0 < score.probability < 1
    assert session.heatmap(session.prompt("heart", "wall motion abnormality")).values_kji.any()


def test_bf16_stays_close_to_fp32(loaded):
    values = []
    for name in ("fp32", "bf16"):
        options = AnalysisOptions(precision=name, min_visible=0.0, heatmaps=0)
        values.append([s.probability for s in analyze(a_case(CHEST), loaded, options).findings if s.probability])
    assert np.abs(np.subtract(*values)).max() < 0.05


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ({"aorta": ((10, 50, 50), (12, 53, 53))}, r"aorta is too small: 18 voxels on the model's grid, at least 100"),
        # 30 x 10 x 10 voxels of 3 mm3: 9 ml, and the mask ends where the scan ends
        ({"aorta": ((10, 50, 50), (40, 60, 60))}, r"aorta is cut off at the border of the scan: about 9% of it"),
        ({"heart": ((10, 30, 60), (24, 75, 84))}, "aorta is not in the segmentation"),
    ],
)
def test_an_organ_that_cannot_be_scored_says_why(loaded, boxes, reason):
    result = analyze(a_case(boxes), loaded, AnalysisOptions(precision="fp32", heatmaps=0))
    score = scores_of(result)["aorta", "Arterial wall calcification"]
    assert score.probability is None
    assert score.reason.startswith(reason.replace("\\", ""))


def test_a_cut_organ_is_scored_with_a_warning_where_enough_of_it_is_visible(loaded):
    # 30 x 18 x 30 voxels of 3 mm3: 49 ml of at least 100
    result = analyze(
        a_case({"aorta": ((10, 50, 50), (40, 68, 80))}), loaded, AnalysisOptions(precision="fp32", heatmaps=0)
    )
    assert scores_of(result)["aorta", "Arterial wall calcification"].probability is not None
    assert result.warnings == ("aorta touches the border of the scan and may be cut off: about 49% is visible.",)
    (aorta,) = (info for info in result.organs if info.organ == "aorta")
    assert (aorta.voxels, aorta.touches_border) == (30 * 18 * 30, True)
    assert aorta.visible_fraction == pytest.approx(0.486, abs=1e-3)


def test_the_reference_mode_scores_whatever_is_there(loaded):
    options = AnalysisOptions(mode="reference", precision="fp32", heatmaps=0)
    result = analyze(a_case({"aorta": ((38, 50, 50), (40, 53, 53))}), loaded, options)
    assert scores_of(result)["aorta", "Arterial wall calcification"].probability is not None
    assert result.settings["grid"] == "release"


def test_a_question_about_an_unknown_organ_is_refused_before_the_image_is_encoded(loaded, monkeypatch):
    monkeypatch.setattr(loaded.model.vision, "forward", lambda *_: pytest.fail("the image was encoded"))
    with pytest.raises(InputError, match='no organ "knee"'):
        analyze(a_case(CHEST), loaded, AnalysisOptions(prompts=(("knee", "meniscal tear"),)))


def test_a_heatmap_of_an_unscored_organ_is_refused_with_the_reason(loaded):
    session = Session(a_case(CHEST), loaded, AnalysisOptions(precision="fp32", min_visible=0.0))
    with pytest.raises(InputError, match="esophagus is not in the segmentation"):
        session.heatmap(session.prompt("esophagus", "hernia"))


def test_running_out_of_memory_names_the_remedy(loaded, monkeypatch):
    def exhausted(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.model.vision, "forward", exhausted)
    with pytest.raises(ResourceError, match="--device cpu"):
        Session(a_case(CHEST), loaded, AnalysisOptions(precision="fp32"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heatmap_shifts": 0}, "heatmap_shifts is 0"),
        ({"heatmaps": -1}, "heatmaps is -1"),
        ({"min_visible": 2.0}, "min_visible is 2.0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        AnalysisOptions(**options)


def test_labels_without_a_name_are_no_organ(loaded):
    case = a_case(CHEST)
    labels = case.segmentation.labels_kji.copy()
    labels[0, 0, 0] = 200
    strange = CTCase(case.ct, Segmentation(labels, case.segmentation.names))
    options = AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=0)
    assert analyze(strange, loaded, options).findings == analyze(case, loaded, options).findings


@pytest.mark.parametrize(("speedup", "expected"), [(0.5, "fp32"), (1.05, "fp32"), (2.0, "bf16")])
def test_auto_precision_takes_bf16_where_the_machine_is_faster_with_it(monkeypatch, speedup, expected):
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)
    assert choose_precision("auto", torch.device("cpu")) == expected
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"


def test_the_speed_of_bf16_is_measured_against_fp32(monkeypatch):
    seconds = {torch.float32: 0.2, torch.bfloat16: 0.05}
    monkeypatch.setattr(precision, "_matmul_seconds", seconds.get)
    assert precision.bf16_speedup.__wrapped__() == pytest.approx(4.0)


def test_the_release_grid_warns_of_a_volume_that_is_stored_another_way(loaded):
    ras = a_case(CHEST, directions=np.eye(3))
    options = AnalysisOptions(mode="reference", precision="fp32", heatmaps=0)
    assert "mirrored" in analyze(ras, loaded, options).warnings[0]
    assert not any("mirrored" in w for w in analyze(a_case(CHEST), loaded, options).warnings)
    physical = AnalysisOptions(mode="reference", grid="physical", precision="fp32", heatmaps=0)
    assert not any("mirrored" in w for w in analyze(ras, loaded, physical).warnings)


def test_the_release_grid_refuses_a_sagittal_volume_and_names_the_remedy(loaded):
    sagittal = a_case(CHEST, directions=LPS[:, [2, 1, 0]])
    with pytest.raises(VolumeError, match="--grid physical"):
        analyze(sagittal, loaded, AnalysisOptions(mode="reference", precision="fp32"))


def test_a_mask_with_far_too_little_of_an_organ_is_reported(loaded):
    # 14 x 14 x 14 voxels of 3 mm3: 8 ml inside the scan, of at least 100
    result = analyze(
        a_case({"aorta": ((10, 50, 50), (24, 64, 64))}), loaded, AnalysisOptions(precision="fp32", heatmaps=0)
    )
    assert result.warnings == (
        "aorta has 8 ml in the segmentation, far less than a normal adult's (at least about 100 ml): the mask may be incomplete.",
    )


def test_a_calibration_key_that_fits_nothing_is_reported(loaded, tmp_path):
    settings = {"mode": "shared", "grid": "physical", "templates": False}
    findings = {"lung/Emphysma": {"a": 1, "b": 0}, "lung/Emphysema": {"a": 1, "b": 0}}
    content = {
        "format": "ctgvlm-calibration",
        "model_sha256": loaded.identity.sha256,
        "settings": settings,
        "findings": findings,
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    options = AnalysisOptions(precision="fp32", min_visible=0.0, heatmaps=0, calibration=tmp_path / "c.json")
    result = analyze(a_case(CHEST), loaded, options)
    assert any(w.endswith("not scored: lung/Emphysma.") for w in result.warnings)
    assert [f.finding for f in result.findings if f.calibrated] == ["Emphysema"]


def test_cuda_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DependencyError, match="No CUDA device"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("free_gib", "held_gib", "expected"),
    [
        ((8.0,), (0.0,), "cuda:0"),
        ((0.5, 6.0), (0.0, 0.0), "cuda:1"),
        ((0.5,), (3.0,), "cuda:0"),
        ((0.5, 1.0), (0, 0), "cpu"),
    ],
)
def test_the_automatic_device_is_a_gpu_with_free_memory_else_the_cpu_and_says_so(
    monkeypatch, caplog, free_gib, held_gib, expected
):
    # a stand-in for GPUs, of which there is none here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gib))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (int(free_gib[index] * 1024**3), 10 * 1024**3))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: int(held_gib[index] * 1024**3))
    assert choose_device("auto") == torch.device(expected)
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if expected != "cpu" else [said[0]])
    if expected == "cpu":
        assert "No GPU has 2.0 GiB of free memory (at most 1.0): the CPU is used." in said[0]

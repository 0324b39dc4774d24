"""The bootstrap at once against one resample at a time, patients drawn whole, and calibration."""

import json

import numpy as np
import pytest

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.prompts import Prompt
from CTGroundedVLMLib.scoring import read_calibration, sigmoid
from CTGroundedVLMTraining.evaluate import bootstrap, metrics
from CTGroundedVLMTraining.evaluate.calibration import Platt, calibration_record, fit_platt, margins, write_calibration

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    patients = [f"p{n}" for n in rng.integers(0, 25, 60)]
    labels = (rng.random(60) < 0.4).astype(float)
    return patients, labels, np.round(0.6 * rng.random(60) + 0.3 * labels * rng.random(60), 2)


def test_a_patients_volumes_are_drawn_together():
    weights = bootstrap.patient_weights(["a", "b", "a", "c", "b", "a"], 50, seed=1)
    assert weights.shape == (50, 6)
    assert (weights[:, [0]] == weights[:, [2, 5]]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(1) == 3).all()  # as many patients as there are
    assert len(np.unique(weights, axis=0)) > 5


def test_the_seed_decides_the_resamples(data):
    first, again, other = (bootstrap.patient_weights(data[0], 30, seed) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_each_resample_has_the_metrics_of_its_repeated_rows(data):
    patients, labels, scores = data
    weights = bootstrap.patient_weights(patients, 25, seed=0)
    ranked = bootstrap.RankedResamples(weights, labels, scores)
    auc, release, fixed = ranked.area_under_roc(), ranked.release_rule(), ranked.at_threshold(0.35)
    calibration = bootstrap.calibration_resamples(weights, labels, scores, 10)
    for r, weight in enumerate(weights):
        rows = np.repeat(np.arange(60), weight.astype(int))
        y, s = labels[rows], scores[rows]
        assert auc[r] == pytest.approx(sklearn_metrics.roc_auc_score(y, s), abs=1e-12)
        expected = metrics.operating_metrics(metrics.counts_of(y, s > metrics.release_threshold(y, s)))
        assert {n: v[r] for n, v in release.items()} == pytest.approx({n: float(v) for n, v in expected.items()})
        expected = metrics.operating_metrics(metrics.counts_of(y, s >= 0.35))
        assert {n: v[r] for n, v in fixed.items()} == pytest.approx({n: float(v) for n, v in expected.items()})
        assert calibration["ece"][r] == pytest.approx(metrics.expected_calibration_error(y, s, 10))
        assert calibration["brier"][r] == pytest.approx(metrics.brier_score(y, s))


def test_weights_mean_what_scikit_learns_sample_weights_mean(data):
    _, labels, scores = data
    weights = np.random.default_rng(2).integers(0, 5, (4, 60)).astype(float)
    auc = bootstrap.RankedResamples(weights, labels, scores).area_under_roc()
    expected = [sklearn_metrics.roc_auc_score(labels, scores, sample_weight=weight) for weight in weights]
    assert auc == pytest.approx(np.array(expected), abs=1e-12)


def test_a_resample_without_positives_is_undefined_and_left_out_of_the_interval():
    labels, scores = np.array([1.0, 0.0, 0.0]), np.array([0.9, 0.1, 0.2])
    weights = np.array([[0.0, 1, 2], [1, 1, 1], [2, 1, 0]])
    ranked = bootstrap.RankedResamples(weights, labels, scores)
    auc = ranked.area_under_roc()
    assert np.isnan(auc).tolist() == [True, False, False]
    assert np.isnan(ranked.release_rule()["accuracy"]).tolist() == [True, False, False]
    assert bootstrap.interval(auc, 0.95) == (1.0, 1.0)
    assert bootstrap.interval(np.array([np.nan]), 0.95) is None


def test_intervals_are_percentiles_and_those_of_the_ece_lie_around_its_value():
    values = np.arange(1001) / 1000
    assert bootstrap.interval(values, 0.9) == pytest.approx((0.05, 0.95))
    assert bootstrap.interval(values / 10 + 0.05, 0.9, around=0.08) == pytest.approx((0.035, 0.125))
    assert bootstrap.interval(values, 0.9, around=0.1)[0] == 0  # never below 0


def test_the_interval_covers_the_true_auc_about_as_often_as_it_says():
    # two normals one apart: AUC = Phi(1 / sqrt 2) = 0.7602
    rng, hits = np.random.default_rng(0), 0
    for seed in range(60):
        labels = np.repeat([0.0, 1.0], 60)
        scores = rng.normal(labels)
        drawn = bootstrap.RankedResamples(
            bootstrap.patient_weights([str(n) for n in range(120)], 200, seed), labels, scores
        )
        low, high = bootstrap.interval(drawn.area_under_roc(), 0.9)
        hits += low <= 0.7602 <= high
    assert 48 <= hits <= 59  # 54 expected, standard deviation 2.3


# --- Calibration


def miscalibrated(rng, volumes=600, slope=0.5, shift=-1.2):
    """Scores whose true probability is sigmoid(slope * margin + shift)."""
    margin = rng.normal(1.0, 2.0, volumes)
    labels = (rng.random(volumes) < 1 / (1 + np.exp(-(slope * margin + shift)))).astype(float)
    return labels, 1 / (1 + np.exp(-margin))


def test_platt_scaling_finds_the_true_slope_and_shift():
    labels, probabilities = miscalibrated(np.random.default_rng(3), 20000)
    fit = fit_platt(labels, probabilities)
    assert fit.a == pytest.approx(0.5, abs=0.03)
    assert fit.b == pytest.approx(-1.2, abs=0.06)


def test_platt_scaling_is_at_the_minimum_of_platts_loss():
    labels, probabilities = miscalibrated(np.random.default_rng(5), 80)
    fit = fit_platt(labels, probabilities)
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))

    def loss(a, b):
        z = a * margins(probabilities) + b
        return np.sum(np.logaddexp(0, z) - targets * z)

    assert all(loss(fit.a, fit.b) <= loss(fit.a + da, fit.b + db) for da in (-1e-3, 0, 1e-3) for db in (-1e-3, 0, 1e-3))


def test_platt_scaling_on_other_patients_lowers_the_calibration_error():
    rng = np.random.default_rng(6)
    fit = fit_platt(*miscalibrated(rng, 1500))
    labels, probabilities = miscalibrated(rng, 1500)
    assert metrics.expected_calibration_error(labels, probabilities, 15) > 0.2
    assert metrics.expected_calibration_error(labels, fit(probabilities), 15) < 0.04
    assert metrics.area_under_roc(labels, fit(probabilities)) == pytest.approx(
        metrics.area_under_roc(labels, probabilities)
    )


def test_separable_scores_get_a_finite_slope_even_at_0_and_1():
    fit = fit_platt(np.repeat([0.0, 1.0], 10), np.repeat([0.0, 1.0], 10))
    assert 0 < fit.a < 10
    assert 0 < float(fit(0.0)) < 0.15
    assert 0.85 < float(fit(1.0)) < 1


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([1, 1, 1, 1, *[0] * 20], np.linspace(0.1, 0.9, 24), "4 positive and 20 negative"),
        ([0] * 10 + [1] * 10, np.full(20, 0.3), "all scores of the validation split are the same"),
        ([1] * 10 + [0] * 10, np.linspace(0.1, 0.9, 20), "rank the wrong way round"),
    ],
)
def test_there_is_a_reason_where_nothing_can_be_fitted(labels, probabilities, words):
    assert words in fit_platt(np.array(labels, float), np.asarray(probabilities))


def test_an_analysis_reads_the_file_and_calibrates_alike(tmp_path):
    settings = {"mode": "shared", "grid": "physical", "templates": False}
    record = calibration_record(
        {"lung/Emphysema": Platt(0.7, -0.4)},
        {"lung/Emphysema": {"youden": 0.3, "sensitivity": 0.1}},
        "abc",
        settings,
        {"protocol": "fvlm16"},
    )
    path = tmp_path / "calibration.json"
    write_calibration(path, record)
    calibration = read_calibration(path, "abc", settings)
    prompt = Prompt("lung", "Emphysema", ("Emphysema.",), ("Not Emphysema.",))
    for margin in (-3.0, 0.2, 5.0):
        assert calibration.apply(prompt, margin) == pytest.approx(float(Platt(0.7, -0.4)(sigmoid(margin))))
    # the operating point decides on the calibrated probability as it did on the raw one
    assert calibration.thresholds["lung/Emphysema"] == pytest.approx(sigmoid(0.7 * np.log(0.3 / 0.7) - 0.4))
    assert json.loads(path.read_text())["findings"]["lung/Emphysema"]["operating_points"].keys() == {
        "youden",
        "sensitivity",
    }
    with pytest.raises(InputError, match="was made for model abc"):
        read_calibration(path, "other", settings)


def test_without_a_known_model_no_analysis_takes_the_file(tmp_path):
    write_calibration(tmp_path / "c.json", calibration_record({}, {}, None, {}, {}))
    with pytest.raises(InputError, match="was made for model None"):
        read_calibration(tmp_path / "c.json", "abc", {})

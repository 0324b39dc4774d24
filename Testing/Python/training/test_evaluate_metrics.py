"""Metrics and threshold rules against hand-computed values, scikit-learn, and a transcription of the release's rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CTGroundedVLMTraining.evaluate import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 0, 1, 0])
SCORES = np.array([0.1, 0.2, 0.35, 0.4, 0.35, 0.6, 0.9, 0.6, 0.8, 0.05])


def release_find_threshold(probabilities, true_labels):
    """What fVLM's release does, step by step."""
    best_threshold, best_distance = 0, 10000
    for threshold in np.linspace(0, 1, 100):
        confusion = sklearn_metrics.confusion_matrix(true_labels, (probabilities > threshold).astype(int))
        true_positive, true_negative, false_positive, false_negative = (
            confusion[1, 1],
            confusion[0, 0],
            confusion[0, 1],
            confusion[1, 0],
        )
        sensitivity = true_positive / (true_positive + false_negative)
        false_positive_rate = false_positive / (false_positive + true_negative)
        distance = math.sqrt((1 - sensitivity) ** 2 + false_positive_rate**2)
        if distance <= best_distance:
            best_distance, best_threshold = distance, threshold
    return best_threshold


def random_case(seed: int, decimals: int | None = None):
    rng = np.random.default_rng(seed)
    labels = (rng.random(80) < 0.3).astype(int)
    scores = rng.random(80) * 0.7 + 0.3 * labels * rng.random(80)
    return labels, scores if decimals is None else scores.round(decimals)


def test_auc_counts_ordered_pairs_and_ties_by_half():
    # positives .35 .6 .9 .8; negatives .1 .2 .35 .4 .6 .05: 3.5 + 5.5 + 6 + 6 of 24 pairs
    assert metrics.area_under_roc(LABELS, SCORES) == pytest.approx(21 / 24, abs=1e-12)


def test_operating_metrics_by_hand():
    counts = metrics.counts_of(LABELS, SCORES > 0.5)  # tp 3 (.6 .9 .8), fp 1 (.6), tn 5, fn 1
    assert [int(c) for c in counts] == [3, 1, 5, 1]
    got = {name: float(value) for name, value in metrics.operating_metrics(counts).items()}
    assert got == pytest.approx(
        {
            "accuracy": 0.8,
            "sensitivity": 0.75,
            "specificity": 5 / 6,
            "precision": 0.75,
            "f1_weighted": (4 * 6 / 8 + 6 * 10 / 12) / 10,
        }
    )


@pytest.mark.parametrize("threshold", [-0.1, 0.2, 0.5, 1.0])
def test_operating_metrics_are_those_of_scikit_learn(threshold):
    labels, scores = random_case(1)
    predicted = scores > threshold
    got = metrics.operating_metrics(metrics.counts_of(labels, predicted))
    assert float(got["accuracy"]) == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert float(got["sensitivity"]) == pytest.approx(sklearn_metrics.recall_score(labels, predicted))
    assert float(got["specificity"]) == pytest.approx(sklearn_metrics.recall_score(labels, predicted, pos_label=0))
    assert float(got["precision"]) == pytest.approx(sklearn_metrics.precision_score(labels, predicted, zero_division=0))
    assert float(got["f1_weighted"]) == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="weighted"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decimals", [None, 2, 1])
def test_the_release_threshold_is_the_one_that_its_loop_finds(seed, decimals):
    labels, scores = random_case(seed, decimals)
    assert metrics.release_threshold(labels, scores) == release_find_threshold(scores, labels)


def test_of_equally_near_thresholds_the_release_takes_the_last():
    # perfectly told between .2 and .8: every grid value from there to just below .8 has distance 0
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    assert metrics.release_threshold(labels, scores) == 79 / 99


def test_a_score_equal_to_the_release_threshold_is_negative():
    labels, scores = np.array([0, 1]), np.array([0.0, 1.0])
    assert metrics.release_threshold(labels, scores) == 98 / 99  # at 1.0 the positive would be missed


def test_scores_that_cannot_tell_get_the_last_threshold_as_in_the_release():
    labels, scores = np.array([0, 1, 0, 1]), np.full(4, 0.5)
    assert metrics.release_threshold(labels, scores) == 1.0 == release_find_threshold(scores, labels)


@pytest.mark.parametrize("only", [0, 1])
def test_one_class_has_neither_auc_nor_thresholds(only):
    labels, scores = np.full(4, only), np.array([0.1, 0.2, 0.3, 0.4])
    assert math.isnan(metrics.area_under_roc(labels, scores))
    assert math.isnan(metrics.release_threshold(labels, scores))
    assert math.isnan(metrics.youden_threshold(labels, scores))
    assert math.isnan(metrics.sensitivity_threshold(labels, scores, 0.9))


def test_youden_by_hand():
    # sorted: .05- .1- .2- .35-+ .4- .6-+ .8+ .9+; best: >= .35 has sens 1, spec 3/6; >= .6 has 3/4 + 5/6 = 1.583
    assert metrics.youden_threshold(LABELS, SCORES) == pytest.approx((0.4 + 0.6) / 2)


def test_youden_prefers_the_more_sensitive_of_equals():
    # >= .2: sens 1, spec 1/2; >= .4: sens 1/2, spec 1
    assert metrics.youden_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.15)


def test_rounding_does_not_tell_equal_thresholds_apart():
    # >= .3: sens 1, spec 2/6; >= .5: sens 1/2, spec 5/6; the sums 4/3 differ in the last bit
    labels, scores = np.array([0, 0, 0, 0, 0, 0, 1, 1]), np.array([0.3, 0.3, 0, 0.6, 0.3, 0, 0.3, 0.5])
    threshold = metrics.youden_threshold(labels, scores)
    assert threshold == pytest.approx(0.15)
    assert ((scores >= threshold) == (scores >= 0.3)).all()


@pytest.mark.parametrize(
    ("target", "threshold"), [(1.0, (0.2 + 0.35) / 2), (0.75, (0.4 + 0.6) / 2), (0.6, 0.5), (0.5, 0.7), (0.25, 0.85)]
)
def test_the_sensitivity_threshold_is_the_highest_that_reaches_the_target(target, threshold):
    found = metrics.sensitivity_threshold(LABELS, SCORES, target)
    assert found == pytest.approx(threshold)
    assert (SCORES[LABELS == 1] >= found).mean() >= target


def test_adjacent_floats_are_told_apart_by_a_threshold_between_them():
    low, high = 0.5, np.nextafter(0.5, 1)
    threshold = metrics.youden_threshold(np.array([0, 1]), np.array([low, high]))
    assert low < threshold <= high


def test_ece_and_brier_by_hand():
    labels = np.array([0, 1, 1, 0])
    probabilities = np.array([0.1, 0.15, 0.9, 1.0])  # two bins of [0, .5) and [.5, 1]
    # bin 1: mean p .125, share .5; bin 2: mean p .95, share .5
    assert metrics.expected_calibration_error(labels, probabilities, 2) == pytest.approx(0.5 * 0.375 + 0.5 * 0.45)
    assert metrics.brier_score(labels, probabilities) == pytest.approx((0.01 + 0.7225 + 0.01 + 1) / 4)
    assert metrics.brier_score(labels, probabilities) == pytest.approx(
        sklearn_metrics.brier_score_loss(labels, probabilities)
    )


def test_ece_of_perfectly_calibrated_bins_is_zero():
    assert metrics.expected_calibration_error(np.array([0, 1, 0, 0]), np.array([0.5, 0.5, 0.0, 0.0]), 10) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=4, max_size=40),
    st.sampled_from([lambda x: x**3, lambda x: np.exp(5 * x), lambda x: 2 * x - 7, np.arctan]),
)
def test_a_monotone_map_of_the_scores_leaves_auc_and_decisions_as_they_are(rows, monotone):
    labels = np.array([int(label) for label, _ in rows])
    scores = np.array([score / 20 for _, score in rows])
    before, after = metrics.area_under_roc(labels, scores), metrics.area_under_roc(labels, monotone(scores))
    assert before == pytest.approx(after, abs=1e-12, nan_ok=True)
    if len(set(labels)) == 2:
        decided = scores >= metrics.youden_threshold(labels, scores)
        assert (decided == (monotone(scores) >= metrics.youden_threshold(labels, monotone(scores)))).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10)), min_size=2, max_size=30))
def test_swapping_the_classes_turns_the_auc_round(rows):
    labels, scores = np.array([int(label) for label, _ in rows]), np.array([float(score) for _, score in rows])
    assert metrics.area_under_roc(1 - labels, scores) == pytest.approx(
        1 - metrics.area_under_roc(labels, scores), nan_ok=True
    )

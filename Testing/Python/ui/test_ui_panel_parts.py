"""The rows of the findings table: order, filter, what is not scored; no worker, no scene."""

import pytest

from CTGroundedVLMLib.types import FindingScore, ReportComparison
from CTGroundedVLMLib.widget.finding_rows import filtered, finding_rows, ordered


class Result:
    """The part of an analysis that the table reads."""

    def __init__(self, *pairs):
        self.findings = tuple(score for score, _ in pairs)
        self.comparisons = tuple(comparison for _, comparison in pairs if comparison)


def scored(organ, finding, probability, report=None, discrepancy=False, severity=0.0):
    """A score and what the report says of it."""
    reason = None if probability is not None else f"{organ} is cut off"
    score = FindingScore(organ, finding, probability, probability, False, reason, ("X.",), ("Not X.",))
    if report is None:
        return score, None
    image = None if probability is None else "positive" if probability >= 0.5 else "negative"
    comparison = ReportComparison(
        organ, finding, report, (2,), probability, 0.5, "default", image, discrepancy, severity, f"why {finding}"
    )
    return score, comparison


@pytest.fixture
def rows():
    return finding_rows(
        Result(
            scored("liver", "cyst", 0.9, "present"),
            scored("lung", "nodule", None, "present"),
            scored("heart", "effusion", 0.2, "absent"),
            scored("lung", "emphysema", 0.8, "absent", True, 1.5),
            scored("lung", "mass", 0.3, "present", True, 2.5),
            scored("spleen", "cyst", 0.4, "not mentioned"),
            scored("aorta", "aneurysm", 0.6),
        )
    )


def test_discrepancies_come_first_then_probabilities_then_what_is_not_scored(rows):
    assert [row.finding for row in rows] == ["mass", "emphysema", "cyst", "aneurysm", "cyst", "effusion", "nodule"]
    assert [row.agreement for row in rows] == ["no", "no", "yes", "–", "open", "yes", "–"]


def test_what_is_not_scored_is_a_dash_and_its_reason_never_zero(rows):
    assert rows[-1].cells == ("lung", "nodule", "–", "present", "–")
    (unread,) = finding_rows(Result(scored("lung", "nodule", None)))
    assert unread.reason == "Not scored: lung is cut off."


def test_the_filter_takes_words_of_any_column_in_any_order(rows):
    assert [row.organ for row in filtered(rows, "CYST", False)] == ["liver", "spleen"]
    assert [row.organ for row in filtered(rows, "silent cyst", False)] == ["spleen"]
    assert [row.finding for row in filtered(rows, "", True)] == ["mass", "emphysema"]
    assert filtered(rows, "no such words", False) == []


def test_what_is_not_scored_stays_last_in_both_orders_of_the_probability(rows):
    assert [row.probability for row in ordered(rows, 2, True)] == [0.9, 0.8, 0.6, 0.4, 0.3, 0.2, None]
    assert [row.probability for row in ordered(rows, 2, False)] == [0.2, 0.3, 0.4, 0.6, 0.8, 0.9, None]
    assert [row.organ for row in ordered(rows, 0, False)][:2] == ["aorta", "heart"]
    assert ordered(rows, None, False) == rows

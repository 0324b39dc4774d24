"""The fallback for sentences that name no segment, with a text tower of known vectors."""

import pytest
import torch

from cases import CHEST, a_case
from CTGroundedVLMLib.embedding_links import guess_segments, link_with_guesses
from CTGroundedVLMLib.types import Report, ReportFinding, Sentence

TEXT = "Blurred contour. Fatty change. Nothing else. The aorta is wide."
ORGANS = {"heart": ("heart",), "lung": ("lung_lower_lobe_left", "lung_lower_lobe_right")}


def a_report():
    finding = (ReportFinding("change", "present"),)
    return Report(
        TEXT,
        (
            Sentence(0, 16, "findings", (), finding),
            Sentence(17, 30, "findings", (), finding),
            Sentence(31, 44, "findings"),
            Sentence(45, 63, "findings", ("aorta",), finding),
        ),
    )


def encode(texts):
    """A stand-in for the text tower: the first sentence lies near the heart, the second between all segments."""
    axis = {"Heart.": 0, "Aorta.": 1, "Left lung lower lobe.": 2, "Right lung lower lobe.": 3, "Blurred contour.": 0}
    vectors = []
    for text in texts:
        vector = torch.full((4,), 0.5) if text not in axis else torch.full((4,), 0.1)
        if text in axis:
            vector[axis[text]] = 1.0
        vectors.append(vector / vector.norm())
    return torch.stack(vectors)


def test_only_a_clear_winner_is_guessed_and_only_for_findings_without_a_segment():
    assert guess_segments(a_report(), a_case(CHEST).segmentation, encode) == {0: ("heart",)}


def test_a_guess_becomes_a_marked_link_and_other_links_stay():
    links = link_with_guesses(a_report(), a_case(CHEST).segmentation, ORGANS, encode)
    assert [(x.sentence, x.segments, x.organs, x.source) for x in links] == [
        (0, ("heart",), ("heart",), "embedding"),
        (3, ("aorta",), (), "words"),
    ]


def test_a_report_whose_sentences_all_name_a_segment_needs_no_text_tower():
    report = Report(TEXT, a_report().sentences[3:])
    assert guess_segments(report, a_case(CHEST).segmentation, lambda _: pytest.fail("encoded")) == {}

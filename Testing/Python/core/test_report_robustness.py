"""Any text gives a report: offsets hold, time is bounded, and importing costs little."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import CTGroundedVLMLib
from CTGroundedVLMLib.report import parse_report

WORDS = ["liver", "No", "rib", "5th", "L4", "-", "to", "and", ",", ".", "left", "FINDINGS:", "\n", "\r\n", "1.", "not seen",
         "lobe", "upper", "?", "(", ")", ":", "series 3", "2.3 x 4", "cm", "\t", "İ", "it", "cyst",
         "T3", "resolved", "IMPRESSION"]  # fmt: skip


def check(text: str) -> None:
    report = parse_report(text)
    assert report.text == text
    end = 0
    for sentence in report.sentences:
        assert end <= sentence.start < sentence.end <= len(text)
        assert text[sentence.start : sentence.end].strip() == text[sentence.start : sentence.end]
        assert list(sentence.segments) == sorted(set(sentence.segments))
        for part in (*sentence.measurements, *sentence.citations):
            assert sentence.start <= part.start < part.end <= sentence.end
        end = sentence.end


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_any_text_gives_ordered_sentences_that_slice_it(text):
    check(text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))
def test_any_mix_of_report_words_gives_ordered_sentences_that_slice_it(text):
    check(text)


SLOWEST = ("rib 1 ", "L4-", "a.")  # the units that took longest; the rest is tried on a tenth of the length
OTHERS = ("(", "1.", "\n", "- ", "x: ", "İ", "series ", "1 x ", "A", ". FINDINGS: ", "1) ", "no liver, ", "left right ")


@pytest.mark.parametrize(("unit", "size"), [*((u, 1_000_000) for u in SLOWEST), *((u, 100_000) for u in OTHERS)])
def test_nonsense_of_up_to_a_megabyte_is_read_in_bounded_time(unit, size):
    text = unit * (size // len(unit))
    begin = time.process_time()
    check(text)
    assert (
        time.process_time() - begin < size / 10_000
    )  # seconds; a guard against quadratic steps, far above what is usual


def test_time_grows_with_the_length_of_the_text():
    def seconds(copies: int) -> float:
        begin = time.process_time()
        parse_report("There is a 5 mm nodule in the left upper lobe, no effusion. " * copies)
        return time.process_time() - begin

    seconds(10)  # loads the vocabulary
    assert seconds(2000) < 12 * max(seconds(400), 0.05)  # five times the text; a quadratic step would take 25 times


def test_the_parser_needs_neither_torch_nor_a_language_toolkit():
    code = (
        "import sys; import CTGroundedVLMLib.report as r; r.parse_report('Liver normal.');"
        "print([m for m in ('torch', 'spacy', 'nltk', 'transformers', 'qt', 'slicer') if m in sys.modules])"
    )
    root = str(Path(CTGroundedVLMLib.__file__).parents[1])
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root).stdout
    assert output.strip() == "[]"

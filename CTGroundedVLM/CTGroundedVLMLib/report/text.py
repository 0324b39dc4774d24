"""Characters and tokens of a report. Offsets always refer to the original text.

``fold`` keeps the length, so that an offset into the folded text is an offset into the report.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_FOLD = str.maketrans(
    {
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys("‘’ʼ`´", "'"),
        **dict.fromkeys("“”", '"'),
        **dict.fromkeys("        ", " "),
        "×": "x",
        "：": ":",
        "；": ";",
        "，": ",",
    }
)
# A number, a word (with an apostrophe inside), or one other character. Each alternative is linear.
_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W_]+)?|[^\w\s]")
_HYPHEN = re.compile("[-—]")

DASH = "--"  # lemma of a dash between phrases, unlike the hyphen "-" of a range


def fold(text: str) -> str:
    """Lower case with plain quotes, dashes and spaces; character by character, so that the length is kept."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters grow in lower case (U+0130): those stay as they are
        lower = "".join(low if len(low := char.lower()) == 1 else char for char in text)
    return lower.translate(_FOLD)


def tokenize(
    folded: str, start: int, end: int, lemma: Callable[[str], str], prefixes: frozenset[str]
) -> tuple[list[str], list[str]]:
    """Lemmas of ``folded[start:end]`` and the words that they stand for, one of each per token.

    A lemma is lower case, US spelling, singular. Hyphens inside words are dropped, those of ranges ("L4-5") kept. A prefix
    is joined with its word ("peri-aortic" gives "periaortic"), so that the word does not match by itself.
    """
    if _HYPHEN.search(folded, start, end) is None:
        words = _TOKEN.findall(folded, start, end)
        return list(map(lemma, words)), words
    raw = [(m[0], *m.span()) for m in _TOKEN.finditer(folded, start, end)]
    lemmas: list[str] = []
    words = []
    index = 0
    while index < len(raw):
        word, _, _ = raw[index]
        index += 1
        if word in "-—":
            if kept := _hyphen(raw, index - 1, word):
                lemmas.append(kept)
                words.append(word)
            continue
        while word in prefixes and index + 1 < len(raw) and _joined(raw, index):
            word += raw[index + 1][0]
            index += 2
        lemmas.append(lemma(word))
        words.append(word)
    return lemmas, words


def _joined(raw: list[tuple[str, int, int]], index: int) -> bool:
    """Whether ``raw[index]`` is a hyphen with letters directly on both sides."""
    before, hyphen, after = raw[index - 1], raw[index], raw[index + 1]
    return hyphen[0] == "-" and before[2] == hyphen[1] and hyphen[2] == after[1] and after[0].isalpha()


def _hyphen(raw: list[tuple[str, int, int]], index: int, sign: str) -> str:
    """Lemma of the hyphen or dash at ``index``; empty where it only joins words."""
    if sign == "—":
        return DASH
    _, first, last = raw[index]
    left = raw[index - 1] if index and raw[index - 1][2] == first else None
    right = raw[index + 1] if index + 1 < len(raw) and raw[index + 1][1] == last else None
    if left is None and right is None:
        return DASH
    if any(side is not None and side[0][-1:].isdigit() for side in (left,)) or (right and right[0][:1].isdigit()):
        return "-"
    return ""

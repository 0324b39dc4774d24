"""Headings of reports: which section they open, and what tells a heading from a statement."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from ..types import Section
from .lexicon import load_lexicon, read_data
from .text import fold

LONGEST_HEADING = 60  # characters
MARKUP = re.compile(r"[#*_=~`\s|]+")


@dataclass(frozen=True, slots=True)
class Headings:
    section: Mapping[str, Section]
    skip: frozenset[str]
    sub: frozenset[str]
    title_words: frozenset[str]
    leads: Mapping[str, Section]


@lru_cache(maxsize=1)
def headings() -> Headings:
    data = read_data("headings")
    section = {name: kind for kind, names in data["sections"].items() for name in names}
    return Headings(
        section, frozenset(data["skip"]), frozenset(data["subheadings"]), frozenset(data["title_words"]), data["leads"]
    )


@lru_cache(maxsize=1024)
def heading_key(label: str) -> str:
    """A label as it stands in the vocabulary: folded, without markup, numbers and trailing signs."""
    key = MARKUP.sub(" ", fold(label)).strip(" .:-()[]")
    key = re.sub(r"^\d{1,2}[.)]?\s+", "", key)
    return key.replace(" & ", " and ").replace("tumour", "tumor").replace("oncological", "oncologic")


@lru_cache(maxsize=1024)
def section_of(label: str, exact: bool = False) -> Section | None:
    """The section that a heading opens, if it opens one ("FINDINGS (CT chest)" opens findings).

    Unless ``exact``, more words may follow the name of the section ("Findings in the abdomen:").
    """
    names = headings().section
    key = heading_key(re.sub(r"\s*[(\[][^()\[\]]*[)\]]\s*", " ", label))
    if key in names:
        return names[key]
    first = re.match(r"(findings|impression|conclusion|technique|comparison|indication)s?\b", key)
    if first and len(key.split()) <= 6 and not exact:
        return names[first.group(1)]
    return None


def is_plain_label(label: str) -> bool:
    """A heading names things: no number, no sentence, few words."""
    words = label.split()
    return len(words) <= 7 and not any(c.isdigit() for c in label) and not re.search(r"[.!?]\s", label)


def states_something(key: str, findings: bool = True) -> bool:
    """Whether a line without a full stop is a statement rather than a heading; a name of a finding is one if ``findings``."""
    lexicon = load_lexicon()
    kinds = {k for mention in lexicon.find(lexicon.lemmas(key)) for k in mention.kinds}
    return bool(kinds & {"normal", "negation_before", "negation_after"}) or (findings and "finding" in kinds)

"""The wordings of the reports: templates with alternatives, chosen at random and filled in."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_GROUP = re.compile(r"\[([^\[\]]*)\]")
_FILE = Path(__file__).with_name("grammar.json")
_ARTICLE = re.compile(r"\b([Aa])n? (?=(\S+))")
_VOWEL = re.compile(r"(?:8|11\b|18\b|[aeiou])", re.IGNORECASE)  # 8, 11 and 18 are spoken with one


@functools.cache
def grammar() -> dict[str, Any]:
    """The content of grammar.json."""
    return json.loads(_FILE.read_text(encoding="utf-8"))


def expand(template: str, rng: np.random.Generator) -> str:
    """Choose one part of each [a|b], inner ones first."""
    found = 1
    while found:
        template, found = _GROUP.subn(lambda group: _choose(group[1].split("|"), rng), template)
    return template


def _choose(parts: list[str], rng: np.random.Generator) -> str:
    return parts[int(rng.integers(len(parts)))]


def count_wordings(template: str) -> int:
    """In how many ways a template can be read (counted before slots are filled)."""
    # per open group: readings of the parts before, and of the part that is being read
    groups = [[0, 1]]
    for character in template:
        if character == "[":
            groups.append([0, 1])
        elif character == "|":
            groups[-1] = [sum(groups[-1]), 1]
        elif character == "]":
            readings = sum(groups.pop())
            groups[-1][1] *= readings
    return groups[0][1]


def say(templates: list[str], words: Mapping[str, str], rng: np.random.Generator) -> str:
    """A sentence: one of the templates, expanded, filled with ``words``, its articles right, its first letter capital."""
    text = expand(_choose(templates, rng), rng)
    slots = dict(words)
    slots |= {key.capitalize(): value[:1].upper() + value[1:] for key, value in words.items()}
    slots |= {key.upper(): value.upper() for key, value in words.items()}
    text = " ".join(text.format(**slots).split()).replace(" ,", ",").replace(" .", ".").replace("the both ", "both ")
    text = _ARTICLE.sub(lambda m: f"{m[1]}{'n' if _VOWEL.match(m[2]) else ''} ", text)
    return text[:1].upper() + text[1:]

"""A place in the body that a sentence speaks of, with the segments that it stands for."""

from __future__ import annotations

from dataclasses import dataclass

from .lexicon import FindingTerm, Structure
from .sentence_tokens import TokenizedSentence

_REACH = 12  # tokens


@dataclass(slots=True)
class Site:
    """Anatomy at tokens ``first`` to ``last``: named (``finding`` is None) or implied by a finding.

    ``elliptic``: only a side is said, of the organ named before ("the left one").
    """

    structure: Structure | None
    family: str
    segments: frozenset[str]
    first: int
    last: int
    side: str | None = None
    adjectival: bool = False
    finding: FindingTerm | None = None
    numbered: bool = False
    plural: bool = False
    elliptic: bool = False

    @property
    def id(self) -> str:
        """Identity of the structure, for names of findings."""
        return self.structure.id if self.structure else self.family


def gap_between(sentence: TokenizedSentence, one: Site, other: Site) -> list[str] | None:
    """Lemmas between two sites; None where they overlap or stand far apart."""
    first, second = sorted((one, other), key=lambda s: s.first)
    if second.first < first.last or second.first - first.last > _REACH:
        return None
    return sentence.lemmas[first.last : second.first]

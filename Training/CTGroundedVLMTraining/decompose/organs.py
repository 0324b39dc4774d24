"""Which organs of a group a sentence speaks of: by its segments, or by words for organs without a segment."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from CTGroundedVLMLib.anatomy import OrganGroup, organ_group
from CTGroundedVLMLib.report import parse_report

_ALL_VERTEBRAE = 10


@functools.cache
def organ_finder(group: str) -> OrganFinder:
    """The finder of that organ group. Raises InputError for an unknown group."""
    return OrganFinder(organ_group(group))


class OrganFinder:
    """Organs of one group by segments and words."""

    def __init__(self, group: OrganGroup) -> None:
        self.names = group.names
        self.segmented = tuple(organ.name for organ in group.organs if organ.segments)
        self._by_segment = {segment: organ.name for organ in group.organs for segment in organ.segments}
        terms = json.loads((Path(__file__).parent / "organ_terms.json").read_text(encoding="utf-8"))["terms"]
        self._words = {
            organ.name: re.compile(rf"\b(?:{'|'.join(terms[organ.name])})\b", re.IGNORECASE)
            for organ in group.organs
            if not organ.segments and organ.name in terms
        }
        self._of_finding = functools.cache(self._organs_of_name)

    def by_segments(self, segments: Iterable[str]) -> tuple[str, ...]:
        """Organs that hold one of ``segments``, in the group's order.

        S1 does not count where "the spine" is meant (ten vertebrae or more): whether it belongs to it is a matter of taste.
        """
        kept = set(segments)
        if sum(name.startswith("vertebrae_") for name in kept) >= _ALL_VERTEBRAE:
            kept.discard("vertebrae_S1")
        found = {self._by_segment.get(name) for name in kept}
        return tuple(name for name in self.names if name in found)

    def find(self, text: str, segments: Iterable[str]) -> tuple[str, ...]:
        """Organs of a sentence: by its segments, and by its words where an organ has no segment."""
        found = {*self.by_segments(segments), *(name for name, words in self._words.items() if words.search(text))}
        return tuple(name for name in self.names if name in found)

    def of_finding(self, name: str) -> tuple[str, ...]:
        """Organs that a finding's own name tells ("hepatic cyst": liver), empty where it tells none ("mass")."""
        return self._of_finding(name)

    def _organs_of_name(self, name: str) -> tuple[str, ...]:
        segments = {segment for sentence in parse_report(name).sentences for segment in sentence.segments}
        return self.find(name, segments)

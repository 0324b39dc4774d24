"""``parse_report``: sentences of a report with their section, segments, findings, measurements and citations.

The steps, one module each: layout (``sections``), sentences, tokens and terms (``sentence_tokens``, ``lexicon``), anatomy
(``anatomy_mentions``, ``laterality``, ``levels``), what an unnamed sentence continues (``inheritance``), findings and
their status (``findings``, ``assertion``), measurements. No step backtracks: the time grows with the length of the text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..types import Report, Section, Sentence
from .anatomy_mentions import find_sites
from .findings import find_findings
from .inheritance import Context, inherited_finding, inherited_sites, settle_ventricles
from .lexicon import SIDES, FindingTerm, load_lexicon
from .measurements import find_citations, find_measurements
from .preamble import preamble_section
from .sections import Passage, read_layout
from .sentence_tokens import TokenizedSentence, read_sentence
from .sentences import split_sentences
from .sites import Site
from .text import fold

_CHANGE = frozenset({
    "unchanged", "stable", "change", "changed", "prior", "previous", "previously", "interval", "compared", "comparison",
    "increased", "decreased", "since", "similar",
})  # fmt: skip
_DIGIT = re.compile(r"\d")
_ASSERTING = frozenset({"anatomy", "stem", "finding", "normal"})
_LINKED: tuple[Section, ...] = ("findings", "impression", "other")


def parse_report(text: str) -> Report:
    """Sentences in order, without overlap; offsets slice ``text``. Any string gives a report, maybe without sentences."""
    folded = fold(text)
    reader = _SentenceReader(folded)
    sentences = []
    for passage in read_layout(text):
        reader.enter(passage)
        for start, end in split_sentences(text, passage.start, passage.end):
            sentences.append(reader.read(start, end, passage))
    return Report(text, tuple(sentences))


class _SentenceReader:
    """Reads sentences in order and remembers what the next one may continue."""

    def __init__(self, folded: str) -> None:
        self._folded = folded
        self._lexicon = load_lexicon()
        self._context = Context()
        self._section: Section | None = None
        self._label: tuple[int, int] | None = None
        self._preamble = True  # so far the report tells only of the patient and the examination

    def enter(self, passage: Passage) -> None:
        """A new section or heading: earlier anatomy is no longer continued; that of the heading is."""
        if passage.section == self._section and passage.label == self._label:
            return
        if passage.section == "other" and self._section == "impression" and passage.label is None:
            self._section = passage.section
            return
        self._section, self._label, self._context = passage.section, passage.label, Context()
        if passage.label is not None:
            named, self._context.side = _read_heading(self._folded[slice(*passage.label)])
            self._context.heading = list(named) or None

    def read(self, start: int, end: int, passage: Passage) -> Sentence:
        """One sentence; its anatomy becomes what the next one may continue."""
        section = self._section_of(start, end, passage)
        if self._preamble and section == "findings":
            section = self._section_before_findings(start, end, passage)
        numbers = _DIGIT.search(self._folded, start, end) is not None
        measurements = find_measurements(self._folded, start, end) if numbers else ()
        citations = find_citations(self._folded, start, end) if numbers else ()
        if section not in _LINKED:
            return Sentence(start, end, section, measurements=measurements, citations=citations)
        sentence = read_sentence(self._lexicon, self._folded, start, end)
        if section == "impression" and sentence.is_communication and not passage.bullet:
            section = "other"
        sites = find_sites(sentence)
        settle_ventricles(sentence, sites, self._context)
        inherited = inherited_sites(sentence, sites, self._context)
        findings = find_findings(sentence, sites, inherited)
        findings = (*inherited_finding(sentence, findings, self._context), *findings)
        linked = [] if sentence.is_communication else [*sites, *inherited]
        if findings:
            self._context.asserted = any(f.status != "absent" for f in findings)
        self._context.finding = findings[0] if findings else self._context.finding
        self._context.previous, self._context.fresh = linked, False
        return Sentence(
            start, end, section, segments=_segments(sentence, linked), findings=findings, measurements=measurements,
            citations=citations, comparison_only=_compares_only(sentence, sites, findings),
        )  # fmt: skip

    def _section_before_findings(self, start: int, end: int, passage: Passage) -> Section:
        """The section of a sentence before any heading; "findings" from the first one on that asserts something."""
        if not passage.before_headings:
            self._preamble = False
            return passage.section
        sentence = read_sentence(self._lexicon, self._folded, start, end)
        before = preamble_section(sentence)
        self._preamble = before is not None or sentence.all_kinds.isdisjoint(_ASSERTING)
        return before or passage.section

    def _section_of(self, start: int, end: int, passage: Passage) -> Section:
        """The section of the passage; a dictated "Comparison is made to ..." goes on with findings in the next sentence."""
        if passage.section in _LINKED or (start <= passage.start and passage.opens_section):
            return passage.section
        if passage.section == "indication" and not passage.lead:
            return passage.section
        sentence = read_sentence(self._lexicon, self._folded, start, end)
        kinds = {k for m in sentence.mentions for k in m.kinds}
        if any(isinstance(f := m.kinds.get("finding"), FindingTerm) and f.structures for m in sentence.mentions):
            kinds.add("anatomy")
        dated = any(w.isdigit() and len(w) == 4 for w in sentence.lemmas)
        if {"anatomy", "stem"} & kinds and {"finding", "normal"} & kinds and not dated:
            passage.section = "findings"
        return passage.section


@lru_cache(maxsize=1024)
def _read_heading(heading: str) -> tuple[tuple[Site, ...], str | None]:
    """Structures that a heading names, and its only side; kept, as the same few headings stand in every report."""
    lexicon = load_lexicon()
    sentence = read_sentence(lexicon, heading, 0, len(heading))
    named = tuple(s for s in find_sites(sentence) if s.structure is None or not s.structure.region)
    sides = {lexicon.sides[w] for w in sentence.lemmas if w in lexicon.sides}
    return named, sides.pop() if len(sides) == 1 and sides < set(SIDES) else None


def _segments(sentence: TokenizedSentence, sites: list[Site]) -> tuple[str, ...]:
    names = {name for site in sites for name in site.segments}
    return tuple(sorted(names | _cyst_classes(sentence, names)))


def _cyst_classes(sentence: TokenizedSentence, names: set[str]) -> set[str]:
    """The cyst classes of the kidneys that the sentence links, when it names a cyst."""
    if names.isdisjoint(("kidney_left", "kidney_right")):
        return set()
    cyst = any(isinstance(f := m.kinds.get("finding"), FindingTerm) and f.cyst for m in sentence.mentions)
    return {f"kidney_cyst_{side}" for side in ("left", "right") if cyst and f"kidney_{side}" in names}


def _compares_only(sentence: TokenizedSentence, sites: list[Site], findings: tuple) -> bool:
    """Whether the sentence only says how things have changed ("Unchanged from the prior.")."""
    return not sites and not findings and any(w in _CHANGE for w in sentence.lemmas)

"""What a sentence without anatomy speaks of: the heading above it, or the sentence before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..types import ReportFinding
from .continuation import ALL_OF_THEM, BONE_FAMILIES, SPINE_FAMILIES, opens_anew, plausible
from .homonyms import is_bare_pole, names_lung
from .implied_anatomy import same_joint
from .laterality import free_sides
from .levels import ribs_under_heading
from .lexicon import FindingTerm
from .sentence_tokens import TokenizedSentence
from .sites import Site

_DEMONSTRATIVES = frozenset({"this", "these", "that", "those"})
_POINTERS = _DEMONSTRATIVES | {"there"}
_PHRASE_ENDS = frozenset({"", ".", ",", ";", ")", "--"})
_AMOUNT_LENGTH = 7  # tokens
_SPREADS = (["extend"], ["extends"], ["extending"], ["involves"], ["invades"], ["encases"], ["reaches"])
_PARTS = (["head"], ["neck"], ["body"], ["back"])
_CLASS_NOUN_REACH = 4  # tokens
_CLASS_NOUNS = frozenset(
    {"muscle", "artery", "vein", "vessel", "kidney", "bone", "joint", "organ", "lobe", "gland", "level"}
)
_WITH_APEX = frozenset({"heart", "prostate", "urinary bladder"})
_MIRROR = {"left": "right", "right": "left"}


@dataclass(slots=True)
class Context:
    """Anatomy that the next sentence may continue. ``heading``: None where the heading names no structure."""

    heading: list[Site] | None = None
    previous: list[Site] = field(default_factory=list)
    side: str | None = None  # the only side in the heading
    fresh: bool = True  # no sentence stands under the heading yet
    finding: ReportFinding | None = None  # what the sentence before found first
    asserted: bool = True  # whether the sentences before found anything that is not denied


def inherited_sites(sentence: TokenizedSentence, sites: list[Site], context: Context) -> list[Site]:
    """Sites that the sentence takes over; empty where it names or implies anatomy of its own.

    Implied sites that the heading contradicts or narrows are changed in ``sites``.
    """
    _settle_by_context(sentence, sites, context)
    named = [s for s in sites if s.finding is None]
    if sentence.is_communication:
        return []
    if not any(s.segments for s in sites) and _refers_to_class(sentence) and context.previous:
        return _on_side(sentence, context.previous)
    if named:
        if context.heading and _goes_with_heading(sentence, named, context.heading):
            return list(context.heading)
        return list(context.previous) if _only_unsegmented(sentence, named) else []
    if _moves_to_joint(sites, context):
        sites.clear()
        return list(context.previous)
    if not context.asserted and sentence.has_remark("recommendation"):
        return []  # nothing was found that it could refer to
    if ribs := _ribs_of_heading(sentence, sites, context):
        return ribs
    findings = [f for m in sentence.mentions if isinstance(f := m.kinds.get("finding"), FindingTerm)]
    if any(f.structures == () for f in findings):
        return []
    source = _source(sentence, context, findings)
    if opens_anew(sentence):
        source = []
    if context.heading:
        _drop_contradicted(sites, context.heading)
    if sites:
        return _narrowed(sites, source, sentence, context)
    if source is context.previous:
        source = plausible(sentence, source, findings)
    return _continued(sentence, source, findings)


def _settle_by_context(sentence: TokenizedSentence, sites: list[Site], context: Context) -> None:
    """Narrow what the sentence names by the heading and the sentence before; changed in place."""
    if context.side is not None:
        _take_side_of_heading(sites, context.side)
    if sites and context.previous:
        refers_back = _points_back(sentence)
        if refers_back or _continues(sentence):
            _narrow_by_previous(sites, context.previous, plural=refers_back)
        _take_side_of_previous(sentence, sites, context.previous)
    if sites and (context.heading or context.previous):
        _settle_poles(sentence, sites, context.heading or context.previous)
        sites[:] = [s for s in sites if not _is_bare_part(sentence, s)]


def _drop_contradicted(sites: list[Site], heading: Sequence[Site]) -> None:
    """ "No ductal dilatation" under "PANCREAS:": the finding has a name there, so that it does not lie in its usual place."""
    ids, families = {s.id for s in heading}, {s.family for s in heading}
    sites[:] = [s for s in sites if s.family in families or ids.isdisjoint(s.finding.names)]


def _continued(sentence: TokenizedSentence, source: list[Site], findings: Sequence[FindingTerm]) -> list[Site]:
    """What a sentence without anatomy takes over; findings of bones only from bones, those of the spine else imply it."""
    if any(f.spinal for f in findings) and not any(s.family in SPINE_FAMILIES for s in source):
        spine = sentence.lexicon.structures["spine"]
        return [Site(spine, spine.family, spine.segments(None), 0, 0)]
    if any(f.bone for f in findings) and not any(s.family in BONE_FAMILIES for s in source):
        return []
    return _on_side(sentence, source)


def _goes_with_heading(sentence: TokenizedSentence, named: Sequence[Site], heading: Sequence[Site]) -> bool:
    """ "Severe stenosis at L2-3" under "SPINAL CANAL:", "All three veins and the cava" under "HEPATIC VEINS AND CAVA:"."""
    families = {s.family for s in heading}
    if all(s.numbered and s.family == "vertebra" for s in named):
        findings = [f for m in sentence.mentions if isinstance(f := m.kinds.get("finding"), FindingTerm)]
        return not (findings and findings[0].bone) and families.isdisjoint(BONE_FAMILIES)
    opening = range(min(_CLASS_NOUN_REACH, len(sentence.lemmas)))
    return any(
        sentence.lemmas[i] in _CLASS_NOUNS and sentence.plural[i] and sentence.owner[i] is None for i in opening
    ) and not families.isdisjoint(s.family for s in named)


def _is_bare_part(sentence: TokenizedSentence, site: Site) -> bool:
    """ "Mass in the head" under "PANCREAS:", "lucency of the neck" after a femur: a part of what was spoken of."""
    return not site.segments and sentence.lemmas[site.first : site.last] in _PARTS


def _moves_to_joint(sites: Sequence[Site], context: Context) -> bool:
    """ "No effusion." after a hip prosthesis is said of the joint."""
    if not sites or not context.previous or context.heading is not None:
        return False
    implied = all(s.finding is not None and s.finding.whole and s.side is None for s in sites)
    return implied and all("joint" in sites[0].finding.names.get(s.id, "") for s in context.previous)


def inherited_finding(
    sentence: TokenizedSentence, own: Sequence[ReportFinding], context: Context
) -> list[ReportFinding]:
    """ "It has smooth margins." and "The largest is 8 mm." assert the finding of the sentence before once more."""
    opening = sentence.lemmas[:2]
    subject = opening[:1] == ["it"] or opening[:1] == ["they"] or "largest" in opening
    subject = subject or (not own and (_is_amount_on_a_side(sentence) or opening[:1] in _SPREADS))
    if not subject or context.finding is None or any(f.status != "absent" for f in own):
        return []
    return [context.finding] if context.finding.status == "present" else []


def _is_amount_on_a_side(sentence: TokenizedSentence) -> bool:
    """ "Moderate on the left." after a small right effusion."""
    short = len(sentence.lemmas) <= _AMOUNT_LENGTH and len(free_sides(sentence)) == 1
    return short and not sentence.lexicon.grammar["amounts"].isdisjoint(sentence.lemmas)


def _continues(sentence: TokenizedSentence) -> bool:
    """Whether the sentence goes on about the same thing: "Extends into ...", "It ...", "... adjacent to the effusion"."""
    grammar, opening = sentence.lexicon.grammar, sentence.lemmas[:1]
    if opening and (
        opening[0] in grammar["anaphora"] or opening[0] in grammar["verbs"] or opening[0].startswith("extend")
    ):
        return True
    for mention in sentence.mentions:
        finding = mention.kinds.get("finding")
        definite = mention.first > 0 and sentence.lemmas[mention.first - 1] == "the"
        if definite and isinstance(finding, FindingTerm) and finding.structures:
            return True
    return False


def _settle_poles(sentence: TokenizedSentence, sites: list[Site], previous: Sequence[Site]) -> None:
    """ "Apex spared." after the prostate: the pole of what was spoken of, where nothing speaks of the lung."""
    organs = {s.family for s in previous if s.segments}
    if not organs or not organs <= _WITH_APEX or any(not is_bare_pole(sentence, s) for s in sites):
        return
    if sites and not any(names_lung(m) for m in sentence.mentions):
        sites.clear()


def _only_unsegmented(sentence: TokenizedSentence, named: Sequence[Site]) -> bool:
    """ "It is supplied by a lumbar artery": what is named has no class, and "it" is what was spoken of before."""
    return sentence.lemmas[:1] == ["it"] and not any(s.segments for s in named)


def _ribs_of_heading(sentence: TokenizedSentence, sites: list[Site], context: Context) -> list[Site]:
    """Ribs that are named by number alone under "RIBS:"; they take the place of those that findings imply in ``sites``."""
    heading = next((s for s in context.heading or () if s.id == "rib"), None)
    segments = ribs_under_heading(sentence) if heading is not None else frozenset()
    if heading is None or not segments:
        return []
    sites[:] = [s for s in sites if s.family != heading.family]
    return [Site(heading.structure, heading.family, segments, 0, 0, numbered=True)]


def _refers_to_class(sentence: TokenizedSentence) -> bool:
    """ "Both muscles ...", "These arteries ...": the structures of the sentence before, by their kind."""
    opening = sentence.lemmas[:2]
    return len(opening) == 2 and opening[0] in ALL_OF_THEM and opening[1] in _CLASS_NOUNS and sentence.plural[1]


def _take_side_of_previous(sentence: TokenizedSentence, sites: Sequence[Site], previous: Sequence[Site]) -> None:
    """ "The femoral stem is well fixed" after a left hip prosthesis: the definite bone is the one spoken of before."""
    for site in sites:
        definite = sentence.lemmas[max(0, site.first - 1) : site.first] == ["the"]
        if not definite or site.side is not None or site.plural or site.structure is None or not site.structure.paired:
            continue
        sides = {s.side or _side_of_segments(s) for s in previous if same_joint(s, site)}
        if len(sides) == 1 and (side := sides.pop()) in _MIRROR:
            site.side, site.segments = side, site.segments & site.structure.segments(side)


def _side_of_segments(site: Site) -> str | None:
    sides = {side for side in _MIRROR if any(f"_{side}" in segment for segment in site.segments)}
    return sides.pop() if len(sides) == 1 else None


def _points_back(sentence: TokenizedSentence) -> bool:
    """ "... accompany these changes", "... also there": the place is that of the sentence before."""
    lemmas, grammar = sentence.lemmas, sentence.lexicon.grammar
    if _POINTERS.isdisjoint(lemmas):
        return False
    for index, word in enumerate(lemmas):
        following = lemmas[index + 1] if index + 1 < len(lemmas) else ""
        if word in _DEMONSTRATIVES and (following in grammar["general_nouns"] or following in _PHRASE_ENDS):
            return index > 0
        if word == "there" and index > 0 and (following in _PHRASE_ENDS or lemmas[index - 1] == "also"):
            return following not in grammar["verbs"]
    return False


def _narrow_by_previous(sites: list[Site], previous: Sequence[Site], plural: bool) -> None:
    """Keep of a general term what the sentence before spoke of; of plural terms only where ``plural``."""
    for site in sites:
        same = frozenset().union(*(s.segments for s in previous if s.family == site.family))
        if site.side is None and (plural or not site.plural) and same and same < site.segments:
            site.segments = same


def _take_side_of_heading(sites: list[Site], side: str) -> None:
    """Under "LEFT ILIAC ARTERIES:" the external iliac artery is the left one."""
    for site in sites:
        if site.side is None and not site.plural and not site.numbered and site.structure and site.structure.paired:
            site.side, site.segments = side, site.segments & site.structure.segments(side)


def settle_ventricles(sentence: TokenizedSentence, sites: list[Site], context: Context) -> None:
    """ "The ventricles" are those of the brain where the brain is spoken of."""
    if "ventricle" not in sentence.lemmas:
        return
    near = [*sites, *context.previous, *(context.heading or ())]
    if not any(s.id == "ventricle" for s in sites) or not any(s.family == "brain" for s in near):
        return
    brain = sentence.lexicon.structures["brain"]
    for site in sites:
        if site.id == "ventricle":
            site.structure, site.family, site.segments = brain, "brain", brain.segments(None)


def _source(sentence: TokenizedSentence, context: Context, findings: Sequence[FindingTerm]) -> list[Site]:
    grammar = sentence.lexicon.grammar
    opening = sentence.lemmas[:2]
    refers_back = (
        "its" in sentence.lemmas
        or any(w in grammar["anaphora"] for w in opening)
        or bool(opening and opening[0] == "the")
        or not findings
    )
    if context.heading is not None and (context.fresh or not refers_back):
        return context.heading
    return context.previous


def _narrowed(
    sites: Sequence[Site], source: Sequence[Site], sentence: TokenizedSentence, context: Context
) -> list[Site]:
    """Under "LUNG BASES:" an implied lung is the lung bases. Sites that the finding implies are replaced in place."""
    opening = sentence.lemmas[0] if sentence.lemmas else ""
    may = context.heading is not None or opening in sentence.lexicon.grammar["associated"]
    for site in sites:
        same = [s for s in source if s.family == site.family and s.segments and s.segments < site.segments]
        if may and same and site.finding is not None and not site.finding.whole and site.side is None:
            site.segments = frozenset().union(*(s.segments for s in same))
    return []


def _on_side(sentence: TokenizedSentence, source: Sequence[Site]) -> list[Site]:
    """The inherited sites on the only side that the sentence names ("Simple cyst, left lower pole" under "KIDNEYS:")."""
    sides = free_sides(sentence)
    if len(sides) > 1 and _refers_to_class(sentence):
        sides -= {"both"}  # of "both muscles ... on the right"
    side = next(iter(sides)) if len(sides) == 1 else None
    if side not in _MIRROR:
        return list(source)
    kept = []
    for site in source:
        if site.structure is None or not site.structure.paired:
            kept.append(site)
            continue
        on_side = frozenset(s for s in site.segments if s in site.structure.segments(side))
        there = site.structure.segments(side)
        segments = on_side or frozenset(_mirrored(s, side) for s in site.segments) & there or there
        kept.append(Site(site.structure, site.family, segments, site.first, site.last, side))
    return kept


def _mirrored(segment: str, side: str) -> str:
    return segment.replace(_MIRROR[side], side)

"""Anatomy that findings imply ("hydronephrosis": the kidneys) and sides that are said once for several terms."""

from __future__ import annotations

from .assertion import is_negated_before
from .laterality import side_of
from .lexicon import SIDES, FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site, gap_between

_SIDED_VESSELS = frozenset({"iliac artery", "iliac vein", "iliac vessel", "subclavian artery", "common carotid artery",
                            "brachiocephalic vein", "other vessel"})  # fmt: skip


def implied_sites(sentence: TokenizedSentence, named: list[Site]) -> list[Site]:
    """Anatomy that findings imply ("hydronephrosis": the kidneys), where the sentence does not name it more narrowly."""
    implied: list[Site] = []
    for mention in sentence.mentions:
        finding = mention.kinds.get("finding")
        if not isinstance(finding, FindingTerm) or not finding.structures:
            continue
        for structure in finding.structures:
            side = finding.side
            if structure.paired and side is None:
                side = side_of(sentence, mention.first, mention.last, weak=True) or _side_of_neighbour(
                    sentence, mention
                )
            site = Site(
                structure,
                structure.family,
                structure.segments(side),
                mention.first,
                mention.last,
                side,
                finding=finding,
            )
            if not _is_named_already(sentence, site, named, implied):
                implied.append(site)
    return implied


def _side_of_neighbour(sentence: TokenizedSentence, mention: Mention) -> str | None:
    """ "Elevated right hemidiaphragm with overlying atelectasis": the side of what the finding accompanies."""
    before = sentence.lemmas[max(0, mention.first - 3) : mention.first]
    accompanies = "with" in before and not is_negated_before(sentence, mention.first)
    if not accompanies and not any(w in sentence.lexicon.grammar["associated"] for w in before):
        return None
    sides = {sentence.lexicon.sides[w] for w in sentence.lemmas[: mention.first] if w in sentence.lexicon.sides}
    return sides.pop() if len(sides) == 1 else None


def follow_side(sites: list[Site]) -> None:
    """A singular term without a side takes the only side that its structure, or its vessel, has before it in the sentence."""
    for site in sites:
        if site.side is not None or site.plural or site.structure is None or not site.structure.paired or site.numbered:
            continue
        related = [s for s in sites if s.first < site.first and _same_group(s, site)]
        sides = {s.side for s in related if s.side is not None}
        if len(sides) == 1 and (side := sides.pop()) in SIDES and site.segments & site.structure.segments(side):
            site.side, site.segments = side, site.segments & site.structure.segments(side)


def _same_group(one: Site, other: Site) -> bool:
    return one.family == other.family or (one.id in _SIDED_VESSELS and other.id in _SIDED_VESSELS)


def _is_named_already(sentence: TokenizedSentence, site: Site, named: list[Site], implied: list[Site]) -> bool:
    """Whether the sentence names the anatomy of an implied site itself, or names another one that the finding may lie in."""
    finding = site.finding
    if any(s.id in finding.names and s.family != site.family and _governs(sentence, s, site) for s in named):
        return True
    family = [s for s in named if s.family == site.family and s.segments]
    if any(
        (s.first < site.last and site.first < s.last) or (s.numbered and _same_clause(sentence, s, site))
        for s in family
    ):
        return True
    if finding.whole:
        return _is_pleural_elsewhere(sentence, site, family, implied)
    if site.side == "both":
        return any(_is_attached(sentence, site, s) or _is_beside(s, site) for s in family)
    if site.side is not None:
        return any(s.segments <= site.segments for s in family if _same_clause(sentence, site, s))
    for other in family:
        gap = (gap_between(sentence, site, other) or []) if other.first > site.first else []
        if not any(w in sentence.lexicon.grammar["partial"] for w in gap):
            return True
    return any(s.family == site.family and s.side in SIDES and _same_clause(sentence, site, s) for s in implied)


def _is_beside(named: Site, site: Site) -> bool:
    """ "... in both lower lobes, probable NSIP", "opacities basal on both sides": what is named tells where on both sides."""
    return (named.side == "both" and named.last <= site.first) or named.first == site.last


def _is_pleural_elsewhere(sentence: TokenizedSentence, site: Site, family: list[Site], implied: list[Site]) -> bool:
    """A denied effusion or pneumothorax is denied on both sides, whatever lobe the sentence names."""
    if any(_is_attached(sentence, site, s) and site.side in (None, s.side) for s in family):
        return True
    if site.side is not None or is_negated_before(sentence, site.first):
        return False
    return bool(family) or any(s.side in SIDES for s in implied if s.family == site.family)


def _governs(sentence: TokenizedSentence, other: Site, site: Site) -> bool:
    """Whether the finding is said of ``other``: attached to it, or nothing else is found between the two."""
    if _is_attached(sentence, site, other):
        return True
    between = {id(m): m for m in sentence.owner[other.last : site.first] if m is not None}.values()
    return (
        other.last <= site.first
        and _same_clause(sentence, site, other)
        and not any({"finding", "anatomy", "normal", "stem"} & set(m.kinds) for m in between)
    )


def _same_clause(sentence: TokenizedSentence, one: Site, other: Site) -> bool:
    return sentence.clauses[one.first] == sentence.clauses[other.first]


def _is_attached(sentence: TokenizedSentence, site: Site, other: Site) -> bool:
    """Whether ``other`` stands right before the finding or follows it after a preposition."""
    if other.last <= site.first:
        gap = sentence.lemmas[other.last : site.first]
        return len(gap) <= 3 and not any(w in (",", ";", ":", "and", "or", "with", "without", "no") for w in gap)
    gap = sentence.lemmas[site.last : other.first]
    if len(gap) > 6 or not gap:
        return False
    return any(w in sentence.lexicon.grammar["location_prepositions"] for w in gap) and not any(
        w in (",", ";", ":", "and", "or", "with", "without", "no") for w in gap
    )

"""Anatomy that findings imply ("hydronephrosis": the kidneys) and sides that are said once for several terms."""

from __future__ import annotations

from .assertion import is_negated_before, status_of
from .laterality import side_of
from .lexicon import SIDES, FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site, gap_between

_SIDED_VESSELS = frozenset({"iliac artery", "iliac vein", "iliac vessel", "subclavian artery", "common carotid artery",
                            "brachiocephalic vein", "other vessel"})  # fmt: skip
_HIP = frozenset({"hip", "femur", "iliopsoas", "gluteal"})  # families around one joint, which share its side
_SHOULDER = frozenset({"shoulder", "humerus", "scapula", "clavicle", "sternum"})
_GUT = frozenset({"esophagus", "stomach", "duodenum", "bowel"})
_AROUND_THE_LUNG = frozenset({"mediastinum", "diaphragm", "pulmonary artery", "great vessel", "body", "axilla"})
_PARTS = frozenset({"calyx", "calix", "cavity"})  # an organ of one side has several
_LODGED = frozenset({"impacted", "lodged", "migrated", "ectopic"})
_LABEL_LENGTH = 5  # tokens


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
                _narrow_to_subject(sentence, site, named)
                implied.append(site)
    return implied


def _narrow_to_subject(sentence: TokenizedSentence, site: Site, named: list[Site]) -> None:
    """ "The apices show fibrosis and a cavity on the right": the subject on the side of the finding."""
    if site.side not in SIDES or site.finding.whole:
        return
    for subject in named:
        both = subject.side in (None, "both") and subject.last <= site.first and subject.family == site.family
        common = subject.segments & site.segments if both else frozenset()
        if common and common < site.segments and _same_clause(sentence, subject, site):
            site.segments = common
            return


def _side_of_neighbour(sentence: TokenizedSentence, mention: Mention) -> str | None:
    """ "Elevated right hemidiaphragm with overlying atelectasis": the side of what the finding accompanies."""
    before = sentence.lemmas[max(0, mention.first - 3) : mention.first]
    accompanies = "with" in before and not is_negated_before(sentence, mention.first)
    if not accompanies and not any(w in sentence.lexicon.grammar["associated"] for w in before):
        return None
    sides = {sentence.lexicon.sides[w] for w in sentence.lemmas[: mention.first] if w in sentence.lexicon.sides}
    return sides.pop() if len(sides) == 1 else None


def follow_side(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """A singular term without a side takes the only side that its structure, or its vessel, has before it in the sentence."""
    for site in sites:
        part = site.plural and sentence.lemmas[site.last - 1] in _PARTS
        if (
            site.side is not None
            or (site.plural and not part)
            or site.structure is None
            or not site.structure.paired
            or site.numbered
        ):
            continue
        if site.finding is not None and site.finding.whole and _is_denied(sentence, site):
            continue  # "left effusion, pneumothorax was not detected": on neither side
        related = [s for s in sites if s.first < site.first and _same_group(s, site)]
        sides = {s.side for s in related if s.side is not None}
        if side := _side_of_clause(sentence, related, site):
            sides = {side}
        if len(sides) == 1 and (side := sides.pop()) in SIDES and site.segments & site.structure.segments(side):
            site.side, site.segments = side, site.segments & site.structure.segments(side)


def _side_of_clause(sentence: TokenizedSentence, related: list[Site], site: Site) -> str | None:
    """ "Left iliac limb patent; right limb kinked in the iliac artery": the side that opens the clause, of an unnamed part."""
    if not related or sentence.clauses[related[-1].first] == sentence.clauses[site.first]:
        return None
    for index in range(related[-1].last, site.first - 1):
        if sentence.clauses[index] == sentence.clauses[site.first] and sentence.lemmas[index] in sentence.lexicon.sides:
            return sentence.lexicon.sides[sentence.lemmas[index]] if sentence.owner[index + 1] is None else None
    return None


def _is_denied(sentence: TokenizedSentence, site: Site) -> bool:
    return status_of(sentence, Mention({}, site.first, site.last), site.finding) == "absent"


def _same_group(one: Site, other: Site) -> bool:
    if one.family == other.family or (one.id in _SIDED_VESSELS and other.id in _SIDED_VESSELS):
        return True
    return same_joint(one, other)


def same_joint(one: Site, other: Site) -> bool:
    """Whether both lie around one joint ("left acetabular fracture, dislocation of the femoral head")."""
    return any(one.family in joint and other.family in joint for joint in (_HIP, _SHOULDER))


def _is_named_already(sentence: TokenizedSentence, site: Site, named: list[Site], implied: list[Site]) -> bool:
    """Whether the sentence names the anatomy of an implied site itself, or names another one that the finding may lie in."""
    finding = site.finding
    others = [s for s in [*named, *implied] if s.family != site.family]
    if any(s.id in finding.names and _governs(sentence, s, site) for s in others):
        return True
    lodged = site.family == "gallbladder" and not _LODGED.isdisjoint(sentence.lemmas)  # a gallstone in the ileum
    if (finding.weak or lodged) and _lies_in_subject(sentence, site, named):
        return True
    if _describes_next(sentence, site):
        return True
    family = [s for s in named if s.family == site.family and not s.segments.isdisjoint(site.segments)]
    family = [s for s in family if s.first < site.first or not _premodifies(sentence, site, s)]
    family = [s for s in family if s.first < site.first or not _is_of_another_finding(sentence, site, s)]
    if any(
        (s.first < site.last and site.first < s.last)
        or (s.numbered and sentence.clauses[s.last - 1] == sentence.clauses[site.first])
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
    if site.side is not None or _is_denied(sentence, site):
        return False
    return bool(family) or any(s.side in SIDES for s in implied if s.family == site.family)


def _lies_in_subject(sentence: TokenizedSentence, site: Site, named: list[Site]) -> bool:
    """Whether a finding that many organs have ("air-fluid level") lies in a named one rather than in its usual place."""
    others = [s for s in named if s.structure is None or not (s.structure.region or s.id in _AROUND_THE_LUNG)]
    if any(s.family == site.family for s in others):
        return False
    if any(_is_attached(sentence, site, s) or _is_label(sentence, s) for s in others):
        return True
    before = [s for s in others if s.last <= site.first and _same_clause(sentence, site, s)]
    if not before:
        return False
    gap = range(before[-1].last, site.first)
    separate = any(sentence.lemmas[i] in (",", "and") and sentence.is_new_phrase(i + 1) for i in gap)
    if site.family == "lung":  # "distended stomach with aspiration": what the lung has may accompany anything
        separate = separate or "with" in sentence.lemmas[before[-1].last : site.first]
    return not separate or {before[-1].family, site.family} <= _GUT


def _governs(sentence: TokenizedSentence, other: Site, site: Site) -> bool:
    """Whether the finding is said of ``other``: attached to it, or nothing else is found between the two."""
    if _is_attached(sentence, site, other) or _is_label(sentence, other):
        return True
    if (
        "joint" in site.finding.names.get(other.id, "")
        and other.last <= site.first
        and _same_clause(sentence, site, other)
    ):
        return True  # "hip osteoarthritis without effusion"
    between = {id(m): m for m in sentence.owner[other.last : site.first] if m is not None}.values()
    return (
        other.last <= site.first
        and _same_clause(sentence, site, other)
        and not any({"finding", "anatomy", "normal", "stem"} & set(m.kinds) for m in between)
    )


def _is_label(sentence: TokenizedSentence, site: Site) -> bool:
    """ "GB: layering blood, ?haemobilia": what stands before the colon is the subject of the sentence."""
    return ":" in sentence.lemmas[site.last : site.last + 3] and site.last <= _LABEL_LENGTH


def _describes_next(sentence: TokenizedSentence, site: Site) -> bool:
    """ "Emphysematous pyelitis": a finding right before that of another organ only tells its kind."""
    after = sentence.owner[site.last] if site.last < len(sentence.owner) else None
    following = after.kinds.get("finding") if after is not None else None
    if not isinstance(following, FindingTerm) or not following.structures:
        return False
    return all(s.family != site.family for s in following.structures)


def _premodifies(sentence: TokenizedSentence, site: Site, other: Site) -> bool:
    """ "Plaques and stable left lower lobe atelectasis": the lobe belongs to the finding after it, not to the one before."""
    gap = sentence.lemmas[site.last : other.first]
    if "and" not in gap or not sentence.lexicon.grammar["location_prepositions"].isdisjoint(gap):
        return False
    after = sentence.lemmas[other.last : other.last + 3]
    kinds = sentence.kinds[other.last : other.last + len(after)]
    return any("finding" in k for k in kinds) and sentence.lexicon.grammar["prepositions"].isdisjoint(after)


def _is_of_another_finding(sentence: TokenizedSentence, site: Site, other: Site) -> bool:
    """ "No consolidation, a granuloma in the left apex": the place is that of what is found, not of what is denied."""
    if not _is_denied(sentence, site):
        return False
    between = {id(m): m for m in sentence.owner[site.last : other.first] if m is not None and "finding" in m.kinds}
    found = [(m, m.kinds["finding"]) for m in between.values()]
    return any(isinstance(f, FindingTerm) and status_of(sentence, m, f) == "present" for m, f in found)


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

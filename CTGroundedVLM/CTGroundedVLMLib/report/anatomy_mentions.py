"""From the words of a sentence to the segments that it names."""

from __future__ import annotations

from itertools import pairwise

from .ellipsis import elliptic_sites
from .homonyms import is_part_of_other_organ, may_name_poles, settle_homonyms
from .implied_anatomy import follow_side, implied_sites
from .laterality import mention_structure, side_of
from .levels import Numbered, find_duodenum, find_levels, find_liver_segments, find_ribs, number_of
from .lexicon import LEVELS, SIDES, FindingTerm, Mention, Stem, Structure
from .lymph_nodes import landmarks
from .narrowing import narrow_label, narrow_spine, settle_lobes
from .sentence_tokens import HEAD_REACH, TokenizedSentence, head_places
from .sites import Site, gap_between

_LUNG_GENERAL = frozenset({"lung", "pleura", "fissure", "bronchus", "interstitium"})
_LOBES = frozenset({"upper lobe", "lower lobe", "bases"})
_WHOLE_SPINE = len(LEVELS)
_PARTS_OF_LUNG = frozenset({"bronchus", "interstitium"})
_PLACES = frozenset({"anatomy", "stem", "finding"})
_NUMBERED = frozenset(
    {"rib", "costal", "costa", "segment", "seg"}
)  # may be numbered in words ("fifth rib", "segment IV")
_VESSELS = frozenset({"vein", "artery", "vessel"})
_SPINE_REGIONS = {"cervical spine": "C", "thoracic spine": "T", "lumbar spine": "L"}


def find_sites(sentence: TokenizedSentence) -> list[Site]:
    """All anatomy that the sentence names or implies, in order, each with its side and segments."""
    if not sentence.numbers and _PLACES.isdisjoint(sentence.all_kinds) and _NUMBERED.isdisjoint(sentence.lemmas):
        return []
    sites = _named(sentence)
    if "finding" in sentence.all_kinds:
        stations = landmarks(sentence)
        sites = sorted((s for s in sites + _inside_findings(sentence) if s.first not in stations), key=_first_token)
    settle_homonyms(sentence, sites)
    if len(sites) > 1:
        _combine(sentence, sites)
    sites = _add_numbered(sentence, sites)
    narrow_label(sentence, sites)
    if "finding" in sentence.all_kinds:
        sites = sorted(sites + implied_sites(sentence, sites), key=_first_token)
    if not sites or sentence.sideless:
        return sites
    follow_side(sentence, sites)
    other_sides = elliptic_sites(sentence, sites)
    return sorted(sites + other_sides, key=_first_token) if other_sides else sites


def _first_token(site: Site) -> int:
    return site.first


def _named(sentence: TokenizedSentence) -> list[Site]:
    sites: list[Site] = []
    taken: set[int] = set()
    poles = may_name_poles(sentence)
    for mention in sentence.mentions:
        if mention.first in taken or mention.kinds.keys().isdisjoint(("anatomy", "stem")):
            continue
        adjectival = False
        if _names_collaterals(sentence, mention) or (poles and is_part_of_other_organ(sentence, mention)):
            continue
        if "stem" not in mention.kinds and "anatomy" in mention.kinds:
            structure, adjectival = mention.kinds["anatomy"]
            if adjectival:
                structure = _noun_of_list(sentence, mention) or structure
            elif structure.id in _PARTS_OF_LUNG:
                adjectival = _is_modifier(sentence, mention)
        else:
            structure, head = _resolve_stem(sentence, mention)
            if head is not None and (owner := sentence.owner[head]) is not None and "anatomy" in owner.kinds:
                named = mention_structure(owner)
                if structure is not None and named is not None and named.family == structure.family:
                    taken.add(owner.first)
            adjectival = True
        if structure is not None:
            sites.append(_site(sentence, structure, mention, adjectival))
            sites += _accompanying_vessel(sentence, mention, sites[-1])
    return sites


def _accompanying_vessel(sentence: TokenizedSentence, mention: Mention, site: Site) -> list[Site]:
    """ "Vein" in "left external iliac artery and vein", "superior mesenteric artery and vein": of the same name."""
    lemmas, last = sentence.lemmas, mention.last
    if last + 1 >= len(lemmas):
        return []
    if "stem" in mention.kinds and lemmas[last : last + 1] and lemmas[last] in _VESSELS:
        last += 1
    words = lemmas[mention.first : last]
    if words[-1] not in _VESSELS or lemmas[last : last + 1] not in (["and"], ["or"], ["/"], ["&"], ["+"]):
        return []
    if lemmas[last + 1 : last + 2] not in (["vein"], ["artery"]) or sentence.owner[last + 1] is not None:
        return []
    terms = sentence.lexicon.find([*words[:-1], lemmas[last + 1]])
    if not terms or terms[0].first:
        return []
    stem = terms[0].kinds.get("stem")
    structure = stem.heads.get(lemmas[last + 1]) if isinstance(stem, Stem) else mention_structure(terms[0])
    if structure is None or (not isinstance(stem, Stem) and terms[0].last < len(words)):
        return []
    return [Site(structure, structure.family, structure.segments(site.side), last + 1, last + 2, site.side)]


def _names_collaterals(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Perigastric collaterals": the vessels around an organ say nothing of the organ."""
    if not sentence.lemmas[mention.first].startswith(("peri", "para")):
        return False
    after = sentence.owner[mention.last] if mention.last < len(sentence.owner) else None
    finding = after.kinds.get("finding") if after is not None else None
    return isinstance(finding, FindingTerm) and finding.name == "varix"


def _site(sentence: TokenizedSentence, structure: Structure, mention: Mention, adjectival: bool) -> Site:
    side = None
    if structure.paired or structure.id == "other vessel":
        term = " ".join(sentence.lemmas[mention.first : mention.last])
        side = "both" if term in structure.both_terms else side_of(sentence, mention.first, mention.last)
    segments = structure.segments(side)
    plural = sentence.plural[mention.last - 1]
    return Site(structure, structure.family, segments, mention.first, mention.last, side, adjectival, plural=plural)


def _resolve_stem(sentence: TokenizedSentence, mention: Mention) -> tuple[Structure | None, int | None]:
    """Structure of a stem by the head noun that follows it, and the token of that head."""
    stem: Stem = mention.kinds["stem"]
    grammar = sentence.lexicon.grammar
    for index in head_places(sentence.lemmas, mention.last):
        word, owner = sentence.lemmas[index], sentence.owner[index]
        if word in stem.heads:
            structure = stem.heads[word]
            if _heads_other_anatomy(owner, structure):
                return None, index
            if structure is not None and structure.id in _SPINE_REGIONS:
                structure = _numbered_region(sentence, mention, structure)
            return structure, index
        if word in grammar["verbs"] or word in grammar["prepositions"] or word in (".", ";", ":", "(", ")", "--"):
            break
        if owner is not None and not {"stem", "anatomy", "normal"} & set(owner.kinds):
            break
    return stem.default, None


def _heads_other_anatomy(owner: Mention | None, structure: Structure | None) -> bool:
    """ "Inferior frontal lobe": the head belongs to a term of another organ."""
    named = mention_structure(owner) if owner is not None and "anatomy" in owner.kinds else None
    return named is not None and structure is not None and structure.family == "lung" and named.family != "lung"


def _noun_of_list(sentence: TokenizedSentence, mention: Mention) -> Structure | None:
    """ "Splenic" in "splenic and superior mesenteric veins", "costal" in "costal and mediastinal pleura": an adjective that
    shares the noun at the end of its list."""
    lemmas, lexicon, index = sentence.lemmas, sentence.lexicon, mention.last
    if index >= len(lemmas) or lemmas[index] not in lexicon.grammar["conjunctions"]:
        return None
    while index < min(mention.last + HEAD_REACH, len(lemmas)):
        word, owner = lemmas[index], sentence.owner[index]
        if index > mention.last and (word in _VESSELS or _ends_term(owner, index)):
            terms = lexicon.find([*lemmas[mention.first : mention.last], word])
            whole = terms and terms[0].last > mention.last - mention.first
            return mention_structure(terms[0]) if whole else None
        if owner is None and word not in lexicon.grammar["conjunctions"] and word not in lexicon.sides:
            return None
        if owner is not None and owner.kinds.keys().isdisjoint(("anatomy", "stem", "negation_before")):
            return None
        index += 1
    return None


def _ends_term(owner: Mention | None, index: int) -> bool:
    """Whether the token is the head noun of an anatomy term of several words."""
    noun = owner is not None and "anatomy" in owner.kinds and not owner.kinds["anatomy"][1]
    return noun and owner.last == index + 1 and owner.first < index


def _is_modifier(sentence: TokenizedSentence, mention: Mention) -> bool:
    """Whether the term stands right before a finding, whose kind it tells rather than its place ("small airway disease")."""
    after = sentence.owner[mention.last] if mention.last < len(sentence.owner) else None
    return after is not None and "finding" in after.kinds


def _numbered_region(sentence: TokenizedSentence, mention: Mention, region: Structure) -> Structure:
    """ "Fifth lumbar vertebra" and "third and fourth thoracic vertebrae" name levels, not the region."""
    numbers, index = set(), mention.first - 1
    while index >= 0 and (sentence.lemmas[index] in ("and", ",", "/") or number_of(sentence.lemmas[index])):
        numbers.add(number_of(sentence.lemmas[index]))
        index -= 1
    names = {f"{_SPINE_REGIONS[region.id]}{n}" for n in numbers if n}
    segments = frozenset(f"vertebrae_{name}" for name in names if name in LEVELS)
    if not segments:
        return region
    return Structure(
        "vertebra", "vertebra", "vertebral", "vertebral", {"left": segments, "right": segments}, frozenset()
    )


def _inside_findings(sentence: TokenizedSentence) -> list[Site]:
    """Anatomy inside the terms of findings: "rib destruction" names the ribs, "dilated small bowel loop" the small bowel.

    Where the finding implies a structure, only a part of that structure counts ("pulmonary embolism" names no lung).
    """
    sites: list[Site] = []
    for mention in sentence.mentions:
        finding = mention.kinds.get("finding")
        if not isinstance(finding, FindingTerm) or mention.last - mention.first < 2 or finding.node:
            continue
        for inner in _inner_anatomy(sentence, mention):
            structure, adjectival = inner.kinds["anatomy"]
            implied = None if finding.structures is None else _all_segments(finding.structures)
            if implied is None or (structure.segments(None) and structure.segments(None) < implied):
                sites.append(_site(sentence, structure, inner, adjectival))
    return sites


def _inner_anatomy(sentence: TokenizedSentence, mention: Mention) -> list[Mention]:
    """Longest anatomy terms strictly inside a longer term."""
    first = mention.first
    inside = sentence.lexicon.find_inside(sentence.lemmas[first : mention.last])
    return [Mention(inner.kinds, first + inner.first, first + inner.last) for inner in inside]


def _all_segments(structures: tuple[Structure, ...]) -> frozenset[str]:
    return frozenset().union(*(s.segments(None) for s in structures))


def _combine(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """Terms of one structure narrow each other: "lower lobe of the right lung", "calyx of the right kidney"."""
    by_family: dict[str, list[Site]] = {}
    for site in sites:
        if site.family == "lung" or (site.structure is not None and site.structure.paired):
            by_family.setdefault(site.family, []).append(site)
    narrow_spine(sentence, sites)
    settle_lobes(sentence, by_family.get("lung", []))
    for family in by_family.values():
        for one, other in [*pairwise(family), *pairwise(family)]:  # twice: a side given last reaches the first term
            _combine_pair(sentence, one, other)
            _combine_pair(sentence, other, one)
        if len(family) > 1:
            _drop_general(sentence, family)


def _combine_pair(sentence: TokenizedSentence, site: Site, other: Site) -> None:
    """Narrow ``site`` by ``other`` where they stand in one phrase; a lobe also takes the side of a lung named near it."""
    gap = gap_between(sentence, site, other)
    if gap is None:
        return
    joined = all(w in _JOINING or w in sentence.lexicon.sides for w in gap) and "and" not in gap
    if site.id in _LOBES and site.side is None and other.id in _LUNG_GENERAL and other.side in SIDES:
        near = not any(w in (";", "but", "--") for w in gap) and (joined or "and" not in gap)
        if near:
            site.side, site.segments = other.side, site.structure.segments(other.side)
    common = site.segments & other.segments
    partial = any(w in sentence.lexicon.grammar["partial"] for w in gap)
    open_to_it = site.side is None or (site.id in _LUNG_GENERAL and other.id not in _LUNG_GENERAL)
    part_of = site.side is None and other.side in SIDES and other.first > site.first and site.family != "lung"
    if part_of and "of" in gap and _BREAKS.isdisjoint(gap) and not any(w[0].isdigit() for w in gap):
        joined = True  # "subcapital fracture of the right femoral neck"
    leads_to = site.adjectival and site.id in _LUNG_GENERAL and other.side in SIDES and other.first > site.first
    if leads_to and _BREAKS.isdisjoint(gap):  # "a pleural rind encases the right lung"
        joined = True
    if site.id in _LUNG_GENERAL and other.first > site.first and not _SHOWING.isdisjoint(gap) and "and" not in gap:
        joined = True  # "the left lung shows consolidation in the lower lobe"
    if joined and not partial and common and len(common) < len(site.segments) and open_to_it:
        site.segments = common


def _drop_general(sentence: TokenizedSentence, family: list[Site]) -> None:
    """A general adjective beside a specific term of the same structure says nothing more ("bronchovascular" beside a lobe)."""
    specific = [s for s in family if s.id not in _LUNG_GENERAL]
    for site in family:
        general = site.adjectival and site.side is None and site.id in _LUNG_GENERAL - {"pleura"}
        if general and specific:
            site.segments = frozenset()


_BREAKS = frozenset({",", ";", "--", "and", "or", "but", "with", "without", "than", "no", "from"})
_SHOWING = frozenset({"show", "shows", "demonstrate", "demonstrates", "contain", "contains", "reveal", "reveals"})
_JOINING = frozenset({
    "lobe", "lobar", "basal", "pole", "lower", "upper", "middle", "of", "the", "in", "at", ",", "segment", "anterior",
    "posterior", "superior", "inferior", "lateral", "medial", "and", "both", "within", "region", "zone", "level", "area", "part",
    "section", "portion", "third", "field", "compartment", "base", "basilar", "dorsal", "central", "peripheral", "segments",
})  # fmt: skip


def _add_numbered(sentence: TokenizedSentence, sites: list[Site]) -> list[Site]:
    levels, ribs = find_levels(sentence) if sentence.numbers else [], find_ribs(sentence)
    if "rib" in sentence.lemmas and "cervical rib" in " ".join(sentence.lemmas):
        sites = [s for s in sites if s.id != "rib"]
    named_levels = [s for s in sites if s.id == "vertebra" and len(s.segments) < _WHOLE_SPINE]
    if named_levels:  # "endplate fracture of the twelfth thoracic vertebra"
        sites = [s for s in sites if s.id != "vertebra" or s in named_levels]
    if levels:
        sites = [s for s in sites if not (s.family == "vertebra" and _is_replaced(sentence, s, levels))]
    if ribs:
        sites = [s for s in sites if s.id != "rib" or not any(r.first <= s.first < r.last for r in ribs)]
    liver = [] if any(s.family in ("lung", "liver") for s in sites) else find_liver_segments(sentence)
    duodenum = find_duodenum(sentence, [s.family for s in sites])
    _take_side_of_lung(ribs, sites)
    for numbered in levels + ribs + liver + duodenum:
        structure = sentence.lexicon.structures[numbered.kind]
        sites.append(Site(structure, numbered.kind, numbered.segments, numbered.first, numbered.last, numbered=True))
    return sorted(sites, key=_first_token)


def _take_side_of_lung(ribs: list[Numbered], sites: list[Site]) -> None:
    """ "RUL mass invading the 2nd rib": a rib without a side is on that of the lobe, where only one is spoken of."""
    lobes = frozenset().union(*(s.segments for s in sites if s.family == "lung")) if ribs else frozenset()
    for side in SIDES:
        if lobes and all(lobe.endswith(side) for lobe in lobes):
            for rib in ribs:
                rib.segments = frozenset(s for s in rib.segments if f"_{side}_" in s) or rib.segments


def _is_replaced(sentence: TokenizedSentence, site: Site, levels: list[Numbered]) -> bool:
    """ "Vertebral body" beside a level is that level; "cervical spine" only where the level follows at once ("spine at C5")."""
    if site.id in ("vertebra", "dens", "atlas"):
        return site.id == "vertebra"
    for level in levels:
        gap = (
            sentence.lemmas[site.last : level.first]
            if level.first >= site.last
            else sentence.lemmas[level.last : site.first]
        )
        if len(gap) <= 2 and all(w in ("at", "of", "the", "(", "level", "in", "from") for w in gap):
            return True
    return False

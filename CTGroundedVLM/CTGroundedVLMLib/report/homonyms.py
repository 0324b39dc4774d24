"""Words that name different anatomy beside different words: the apex of the lung or of the heart, the canal, the airway."""

from __future__ import annotations

from .laterality import mention_structure
from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site

_POLES = frozenset(
    {"upper lobe", "lower lobe", "bases"}
)  # structures whose names also say which part of another organ is meant
_PARTS = frozenset({"apex", "apical", "base", "basal", "basilar", "tip", "basis", "summit"})
_NEAR_LUNG = frozenset({"mediastinum", "chest wall", "axilla"})
_HOMONYMS = frozenset({"canal", "airway", "vertebral"})
_OF_ARTERIES = frozenset({
    "artery", "carotid", "dissection", "dominant", "codominant", "origin", "ostium", "patent", "arch", "v1", "v2", "v3", "v4",
    "basilar", "subclavian", "arises", "arising",
})  # fmt: skip
_OF_THE_UTERUS = frozenset({
    "iud", "intrauterine", "uterus", "uterine", "endometrium", "endometrial", "pessary", "nabothian", "vagina",
})  # fmt: skip
_NECK = frozenset({"neck"})
_REACH = 8  # tokens


def settle_homonyms(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """Take the segments from sites that mean something else here: the canal of the cervix, the airway in the pharynx."""
    if _HOMONYMS.isdisjoint(sentence.lemmas):
        return
    if "vertebral" in sentence.lemmas:
        _settle_vertebral_arteries(sentence, sites)
    for site in sites:
        term = sentence.lemmas[site.first : site.last]
        canal = site.id == "spinal cord" and "canal" in term and not _OF_THE_UTERUS.isdisjoint(sentence.lemmas)
        airway = site.id == "trachea" and "airway" in term and any(s.id in _NECK for s in sites)
        if canal or airway:
            site.segments = frozenset()


def _settle_vertebral_arteries(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """ "The left vertebral arises from the arch": an adjective without a noun, where arteries are spoken of."""
    if _OF_ARTERIES.isdisjoint(sentence.lemmas):
        return
    for site in sites:
        if site.id == "vertebra" and sentence.lemmas[site.first : site.last] == ["vertebral"]:
            site.segments = frozenset()


def may_name_poles(sentence: TokenizedSentence) -> bool:
    """Whether the sentence holds a word like "apex" or "basal" at all."""
    return not _PARTS.isdisjoint(sentence.lemmas)


def is_part_of_other_organ(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "RV apex", "apical aneurysm of the left ventricle", "base of the bladder": no apex or base of the lung."""
    structure = mention_structure(mention)
    if (
        structure is None
        or structure.id not in _POLES
        or _PARTS.isdisjoint(sentence.lemmas[mention.first : mention.last])
    ):
        return False
    if sentence.lemmas[mention.first : mention.last] == ["base"] and not sentence.plural[mention.first]:
        return True  # "the bases" are those of the lungs, a base may be of anything
    before = sentence.owner[mention.first - 1] if mention.first else None
    if before is not None and _is_other_organ(before):
        return True
    if _is_under_other_label(sentence, mention):
        return True
    index = _next_of(sentence, mention.last)
    if index is None:
        return False
    while index < len(sentence.lemmas) and (
        sentence.lemmas[index] in ("of", "in", "the", "a") or sentence.lemmas[index] in sentence.lexicon.sides
    ):
        index += 1
    after = sentence.owner[index] if index < len(sentence.owner) else None
    return after is not None and _is_other_organ(after)


def _next_of(sentence: TokenizedSentence, first: int) -> int | None:
    """The "of" after the term, or after what the term describes ("apical thinning and calcification of ...")."""
    grammar = sentence.lexicon.grammar
    for index in range(first, min(first + _REACH, len(sentence.lemmas))):
        word, owner = sentence.lemmas[index], sentence.owner[index]
        if word in ("of", "in"):
            return index
        if not word.isalpha() or word in grammar["prepositions"] or word in grammar["verbs"]:
            return None
        if owner is not None and ("anatomy" in owner.kinds or names_lung(owner)):
            return None
    return None


def is_bare_pole(sentence: TokenizedSentence, site: Site) -> bool:
    """Whether the site is an apex or base without the word "lung" or "lobe"."""
    words = sentence.lemmas[site.first : site.last]
    return site.id in _POLES and len(words) == 1 and words[0] in _PARTS


def names_lung(mention: Mention) -> bool:
    """Whether a finding is one of the lung."""
    finding = mention.kinds.get("finding")
    return isinstance(finding, FindingTerm) and any(s.family == "lung" for s in finding.structures or ())


def _is_under_other_label(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Heart: apical thinning": the label names the organ, up to the next clause."""
    if ":" not in sentence.lemmas[: min(_REACH, mention.first)]:
        return False
    colon = sentence.lemmas.index(":")
    labels = {m.first: m for m in sentence.mentions if m.last <= colon and "anatomy" in m.kinds}
    if ";" in sentence.lemmas[colon : mention.first] or not labels or not all(map(_is_other_organ, labels.values())):
        return False
    after = sentence.owner[mention.last] if mention.last < len(sentence.owner) else None
    return after is None or not names_lung(after)


def _is_other_organ(mention: Mention) -> bool:
    structure = mention_structure(mention)
    return (
        structure is not None and structure.family != "lung" and not structure.region and structure.id not in _NEAR_LUNG
    )

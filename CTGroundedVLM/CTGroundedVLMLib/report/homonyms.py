"""Words that name different anatomy beside different words: the apex of the lung or of the heart, the canal, the airway."""

from __future__ import annotations

from .laterality import mention_structure
from .lexicon import Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site

_POLES = frozenset(
    {"upper lobe", "lower lobe", "bases"}
)  # structures whose names also say which part of another organ is meant
_PARTS = frozenset({"apex", "apical", "base", "basal", "basilar", "tip", "basis", "summit"})
_NEAR_LUNG = frozenset({"mediastinum", "chest wall", "axilla"})
_HOMONYMS = frozenset({"canal", "airway"})
_OF_THE_UTERUS = frozenset({
    "iud", "intrauterine", "uterus", "uterine", "endometrium", "endometrial", "pessary", "nabothian", "vagina",
})  # fmt: skip
_NECK = frozenset({"neck"})


def settle_homonyms(sentence: TokenizedSentence, sites: list[Site]) -> None:
    """Take the segments from sites that mean something else here: the canal of the cervix, the airway in the pharynx."""
    if _HOMONYMS.isdisjoint(sentence.lemmas):
        return
    for site in sites:
        term = sentence.lemmas[site.first : site.last]
        canal = site.id == "spinal cord" and "canal" in term and not _OF_THE_UTERUS.isdisjoint(sentence.lemmas)
        airway = site.id == "trachea" and "airway" in term and any(s.id in _NECK for s in sites)
        if canal or airway:
            site.segments = frozenset()


def is_part_of_other_organ(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "RV apex", "apical aneurysm of the left ventricle", "base of the bladder": no apex or base of the lung."""
    structure = mention_structure(mention)
    if (
        structure is None
        or structure.id not in _POLES
        or _PARTS.isdisjoint(sentence.lemmas[mention.first : mention.last])
    ):
        return False
    before = sentence.owner[mention.first - 1] if mention.first else None
    if before is not None and _is_other_organ(before):
        return True
    index = mention.last
    if sentence.lemmas[index : index + 1] != ["of"]:
        return False
    while index < len(sentence.lemmas) and (
        sentence.lemmas[index] in ("of", "the", "a") or sentence.lemmas[index] in sentence.lexicon.sides
    ):
        index += 1
    after = sentence.owner[index] if index < len(sentence.owner) else None
    return after is not None and _is_other_organ(after)


def _is_other_organ(mention: Mention) -> bool:
    structure = mention_structure(mention)
    return (
        structure is not None and structure.family != "lung" and not structure.region and structure.id not in _NEAR_LUNG
    )

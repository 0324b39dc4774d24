"""How far a sentence that names no anatomy may continue the one before it: an organ easily, a list or a group seldom."""

from __future__ import annotations

from collections.abc import Sequence

from .lexicon import FindingTerm
from .preamble import tells_what_is_compared
from .sentence_tokens import TokenizedSentence
from .sites import Site
from .unlisted import is_content, is_stage

BONE_FAMILIES = frozenset({
    "vertebra", "rib", "sacrum", "hip", "femur", "humerus", "scapula", "clavicle", "sternum", "skull", "bone", "costal cartilage",
    "sacroiliac joint", "shoulder",
})  # fmt: skip
SPINE_FAMILIES = frozenset({"vertebra", "sacrum"})
_ELSE = frozenset({"other", "further", "additional", "more"})
_OF_SPINE = frozenset({"alignment", "curvature", "height", "listhesis", "endplate", "facet"})
_LIST_LENGTH = 3  # organs
_LARGEST_ORGAN = 5  # classes; what has more is a group of bones ("thoracic spine", "ribs")
_PARTS_OF = {
    "tail": frozenset({"pancreas"}), "uncinate": frozenset({"pancreas"}), "pole": frozenset({"kidney", "spleen", "thyroid"}),
    "calyx": frozenset({"kidney"}), "antrum": frozenset({"stomach"}), "fundus": frozenset({"stomach", "gallbladder"}),
    "lobe": frozenset({"lung", "thyroid", "liver"}), "isthmus": frozenset({"thyroid"}),
}  # fmt: skip
ALL_OF_THEM = frozenset({"both", "all", "these", "those"})


def opens_anew(sentence: TokenizedSentence) -> bool:
    """ "No other lesion.", "No prior imaging.": what is said of everything continues nothing."""
    opening = sentence.lemmas[:2]
    if all(is_stage(w) for w in opening):
        return True
    return len(opening) == 2 and opening[0] == "no" and (opening[1] in _ELSE or tells_what_is_compared(sentence))


def plausible(sentence: TokenizedSentence, previous: list[Site], findings: Sequence[FindingTerm]) -> list[Site]:
    """What a sentence that names no anatomy may continue: the organ of a part ("the tail"), not a whole list or group of bones.

    A list or a group is continued by a sentence that points back to it, or that only says how it is ("Unchanged.").
    """
    if len(previous) > 1:
        parts = frozenset().union(*(_PARTS_OF[w] for w in sentence.lemmas if w in _PARTS_OF))
        if organs := [s for s in previous if s.family in parts]:
            return organs
    opening = sentence.lemmas[0] if sentence.lemmas else ""
    if opening in sentence.lexicon.grammar["anaphora"] or opening in ALL_OF_THEM or opening == "the":
        return previous
    families = {s.family for s in previous if s.segments}
    if len(families) >= _LIST_LENGTH and not sentence.has_remark("recommendation"):
        return []
    if not _OF_SPINE.isdisjoint(sentence.lemmas) and any(s.family in SPINE_FAMILIES for s in previous):
        return [s for s in previous if s.family in SPINE_FAMILIES]
    if findings or any(is_content(sentence, i, w) for i, w in enumerate(sentence.lemmas)):
        return [s for s in previous if len(s.segments) <= _LARGEST_ORGAN or _concerns(sentence, s, findings)]
    return previous


def _concerns(sentence: TokenizedSentence, site: Site, findings: Sequence[FindingTerm]) -> bool:
    """Whether a finding of bones may go on about this group of bones."""
    denied = "negation_before" in sentence.all_kinds  # "No lytic lesion." is said of all bones
    return site.family in BONE_FAMILIES and not denied and any(f.bone or f.spinal for f in findings)

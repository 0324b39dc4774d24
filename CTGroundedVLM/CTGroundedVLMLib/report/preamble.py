"""Sentences before the first heading that tell of the patient or the examination, in dictated reports without headings."""

from __future__ import annotations

import re

from ..types import Section
from .sentence_tokens import TokenizedSentence

_EXAMINATION = frozenset({
    "ct", "mri", "mr", "scan", "study", "examination", "exam", "imaging", "tomogram", "tomography", "hrct", "cta", "ctpa", "pet",
    "radiograph", "film", "image", "reconstruction",
})  # fmt: skip
_EARLIER = frozenset({"previous", "prior", "comparison", "compare", "compared", "earlier", "old"})
_PERSON = frozenset({
    "gentleman", "lady", "man", "woman", "patient", "boy", "girl", "male", "female", "year", "yo", "who", "child", "infant",
    "retiree",
})  # fmt: skip
_COMPLAINT = frozenset({
    "presented", "presenting", "presents", "complaining", "complains", "referred", "referral", "fell", "fall", "pain", "fever",
    "admitted", "came", "question", "query", "history", "known", "investigated", "undergoing", "assaulted", "struck", "collapsed",
    "symptom", "breathless", "asked", "cough", "suspected", "here",
})  # fmt: skip
_MADE = frozenset({
    "performed", "obtained", "acquired", "administered", "protocol", "phase", "reconstruction", "contrast", "slice", "sequence",
    "done", "given", "injected", "iv", "reformat",
})  # fmt: skip
_AGE = re.compile(r"\d{1,3}(?:m|f|yo|y|yr)$")
_SHOWS = frozenset({"this", "these", "that", "it"})
_OPENING = 8  # tokens
_SEEN = frozenset({"finding", "normal"})


def tells_what_is_compared(sentence: TokenizedSentence) -> bool:
    """ "No previous imaging to compare with.", "Comparison with the CT of 3 May." """
    lemmas = sentence.lemmas
    if _EXAMINATION.isdisjoint(lemmas) or _EARLIER.isdisjoint(lemmas) or not sentence.all_kinds.isdisjoint(_SEEN):
        return False
    return sentence.lexicon.grammar["change_words"].isdisjoint(lemmas)


def preamble_section(sentence: TokenizedSentence) -> Section | None:
    """The section of a sentence before any heading; None where the findings begin.

    A sentence about a person counts only with a complaint or an age: "The patient has had a hysterectomy" is a finding.
    """
    lemmas = set(sentence.lemmas)
    opening = sentence.lemmas[:_OPENING]
    examination = not _EXAMINATION.isdisjoint(opening)
    if examination and tells_what_is_compared(sentence):
        return "comparison"
    person = not _PERSON.isdisjoint(lemmas) or any(map(_AGE.match, opening[:2]))
    told = person and (not lemmas.isdisjoint(_COMPLAINT) or any(map(_AGE.match, opening[:2])))
    aged = {"year", "old"}.issubset(lemmas)
    if (told or aged) and (examination or not _PERSON.isdisjoint(opening) or any(map(_AGE.match, opening))):
        return "indication"
    if not examination or not sentence.all_kinds.isdisjoint(_SEEN):
        return None
    title = opening[0] in _EXAMINATION and sentence.lexicon.grammar["verbs"].isdisjoint(lemmas)
    return "technique" if title or opening[0] in _SHOWS or not lemmas.isdisjoint(_MADE) else None

"""Findings that the vocabulary lacks: named by the words of the sentence, with the status of its cues."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ..types import ReportFinding
from .assertion import is_pseudo_negation
from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site

_CUE_STATUS = (
    ("uncertain_after", "uncertain"), ("negation_before", "absent"), ("negation_after", "absent"),
    ("historical_after", "historical"), ("uncertain_before", "uncertain"), ("historical_before", "historical"),
)  # fmt: skip
_AUXILIARIES = frozenset({"is", "are", "was", "were", "has", "have", "seen", "noted", ","})
_EXAMINATIONS = frozenset({
    "ultrasound", "mri", "mr", "ct", "pet", "biopsy", "endoscopy", "colonoscopy", "gastroscopy", "bronchoscopy", "cystoscopy",
    "laryngoscopy", "echocardiography", "scintigraphy", "angiography", "mammography", "repeat", "dedicated", "targeted",
})  # fmt: skip
_OF_EXAMINATION = frozenset({"of", "with", "for", "to", "in", "ct", "mri", "ultrasound", "or"})
_NO_CONTENT = (
    "verbs", "prepositions", "new_phrase", "measure_words", "anaphora", "pass_over", "change_words", "partial", "associated",
    "positions",
)  # fmt: skip
_ORGAN_STATES = frozenset({
    "small", "tiny", "large", "big", "bulky", "prominent", "flat", "narrow", "wide", "irregular", "lobulated",
    "elongated", "fatty", "ectopic", "dense", "swollen", "tense", "floppy", "shallow", "globular", "slit",
})  # fmt: skip
_LINKS = frozenset(
    {
        "is",
        "are",
        "appear",
        "appears",
        "look",
        "looks",
        "remain",
        "remains",
        "rather",
        "quite",
        "very",
        "a",
        "bit",
        "somewhat",
    }
)
_STATE_ENDS = ([], [","], [";"], ["."], ["and"], ["but"], ["for"], ["("])
_STAGE = re.compile(r"(?:y?[pc])?[tnm][0-4x][a-d]?$")
_SAY_NOTHING = frozenset({"focus", "density"})  # neutral findings that what follows them only names
_PARTICLES = frozenset(
    {
        "down",
        "through",
        "onward",
        "onwards",
        "thru",
        "until",
        "till",
        "also",
        "again",
        "here",
        "very",
        "quite",
        "rather",
    }
)
_PART_ENDS = frozenset({",", ";"})
_NAME_LENGTH = 4  # words
_ENDS = frozenset({",", ";", ":", ".", "(", ")", "--", "and", "but", "with", "in", "on", "at", "from", "due", "given"})
_STATES = frozenset({
    "finding", "normal", "negation_before", "negation_after", "uncertain_before", "uncertain_after", "historical_before",
    "historical_after", "absent_organ", "not_normal", "not_negation", "scope_end", "cause",
})  # fmt: skip


def unlisted_after_doubt(sentence: TokenizedSentence, stated: Collection[str]) -> list[ReportFinding]:
    """ "Tight at its origin, ?MALS": what a doubt is about, where no listed finding is. ``stated``: statuses found so far."""
    if "uncertain" in stated or "uncertain_before" not in sentence.all_kinds or is_plan(sentence):
        return []
    if any(map(sentence.has_remark, ("recommendation", "limitation", "global_statement"))):
        return []
    for mention in sentence.mentions:
        if "uncertain_before" in mention.kinds and (words := _words_after(sentence, mention)):
            return [ReportFinding(" ".join(words[:_NAME_LENGTH]), "uncertain")]
    return []


def _words_after(sentence: TokenizedSentence, cue: Mention) -> list[str]:
    """Words without a meaning of their own from the cue to the end of its phrase; none where a known term stands there."""
    words = []
    for index in range(cue.last, len(sentence.lemmas)):
        if sentence.lemmas[index] in _ENDS:
            break
        if not sentence.kinds[index].isdisjoint(_STATES):
            return []
        if is_content(sentence, index, sentence.lemmas[index], shortest=3) or is_stage(
            sentence.lemmas[index]
        ):  # "?MALS" too
            words.append(sentence.lemmas[index])
    return words


def unlisted_at_start(sentence: TokenizedSentence, stated: Collection[str]) -> list[ReportFinding]:
    """ "Fatty lobulation, no ductal dilatation": what the first part of a sentence asserts whose rest denies or doubts."""
    if not stated or not set(stated) <= {"absent", "uncertain"} or is_plan(sentence) or sentence.remarks:
        return []
    end = next((i for i, word in enumerate(sentence.lemmas) if word in _PART_ENDS), len(sentence.lemmas))
    rest = sentence.kinds[end + 1] if end + 1 < len(sentence.lemmas) else frozenset()
    if sentence.lemmas[end : end + 1] != [";"] and rest.isdisjoint(("negation_before", "uncertain_before")):
        return []
    words = []
    for index, word in enumerate(sentence.lemmas[:end]):
        kinds, owner = sentence.kinds[index], sentence.owner[index]
        finding = owner.kinds.get("finding") if owner is not None else None
        if isinstance(finding, FindingTerm) and finding.neutral and finding.name not in _SAY_NOTHING:
            words.append(word)
        elif not kinds.isdisjoint(_STATES):
            return []
        elif is_content(sentence, index, word):
            words.append(word)
    return [ReportFinding(" ".join(words[:_NAME_LENGTH]), "present")] if words else []


def states_of_organs(sentence: TokenizedSentence, sites: Sequence[Site]) -> list[ReportFinding]:
    """ "Spleen small.", "Bulky uterus.": what an adjective says of an organ, where it is all that is said of it."""
    if _ORGAN_STATES.isdisjoint(sentence.lemmas) or is_plan(sentence) or sentence.has_remark("recommendation"):
        return []
    found = []
    for site in sites:
        if site.finding is not None or site.adjectival or site.structure is None or not site.segments:
            continue
        if word := _state_after(sentence, site.last) or _state_before(sentence, site):
            found.append(ReportFinding(f"{word} {site.structure.noun}", "present"))
    return found


def _state_after(sentence: TokenizedSentence, index: int) -> str | None:
    lemmas = sentence.lemmas
    while index < len(lemmas) and (lemmas[index] in _LINKS or lemmas[index].endswith("ly")):
        index += 1
    state = index < len(lemmas) and lemmas[index] in _ORGAN_STATES and sentence.owner[index] is None
    return lemmas[index] if state and lemmas[index + 1 : index + 2] in _STATE_ENDS else None


def _state_before(sentence: TokenizedSentence, site: Site) -> str | None:
    index = site.first - 1
    if index >= 0 and sentence.lemmas[index] in sentence.lexicon.sides:
        index -= 1
    state = index >= 0 and sentence.lemmas[index] in _ORGAN_STATES and sentence.owner[index] is None
    opens = index == 0 or (index > 0 and sentence.lemmas[index - 1] in (",", ";", ":", "a"))
    ends = sentence.lemmas[site.last : site.last + 1] in _STATE_ENDS
    return sentence.lemmas[index] if state and opens and ends else None


def is_plan(sentence: TokenizedSentence) -> bool:
    """ "For drainage." and "Ultrasound of the kidney to sort out the lesion." recommend without a verb."""
    lemmas = sentence.lemmas
    if not _AUXILIARIES.isdisjoint(lemmas):
        return False
    examines = lemmas[:1] and lemmas[0] in _EXAMINATIONS and lemmas[1:2] and lemmas[1] in _OF_EXAMINATION
    return lemmas[:1] == ["for"] or bool(examines and not {"to", "for"}.isdisjoint(lemmas))


def unlisted(sentence: TokenizedSentence, sites: Sequence[Site], context: Sequence[Site]) -> list[ReportFinding]:
    """A finding that the vocabulary lacks: named by the words of the sentence, with the status of its cues."""
    if is_plan(sentence) or any(map(sentence.has_remark, ("recommendation", "limitation", "global_statement"))):
        return []
    if not sites and not context:
        return []
    words = [w for i, w in enumerate(sentence.lemmas) if is_content(sentence, i, w)]
    if not words:
        return []
    kinds = {k for m in sentence.mentions for k in m.kinds}
    if any("negation_before" in m.kinds and is_pseudo_negation(sentence, m) for m in sentence.mentions):
        return []
    name = " ".join(words[:_NAME_LENGTH])
    for kind, status in _CUE_STATUS:
        if kind in kinds and "not_negation" not in kinds:
            return [ReportFinding(name, status)]
    return [ReportFinding(name, "present")]


def is_stage(word: str) -> bool:
    """Whether the word is a stage of a tumor ("T4b", "N2")."""
    return _STAGE.match(word) is not None


def is_content(sentence: TokenizedSentence, index: int, word: str, shortest: int = 4) -> bool:
    """Whether the word names something, and no term of the vocabulary holds it."""
    grammar, owner = sentence.lexicon.grammar, sentence.owner[index]
    if (
        owner is not None
        or word in _PARTICLES
        or len(word) < shortest
        or not word.isalpha()
        or word in sentence.lexicon.sides
    ):
        return False
    return not any(word in grammar[name] for name in _NO_CONTENT)

"""Whether a finding is present, absent, uncertain or historical: cues with a scope, after NegEx and ConText.

Chapman et al., "A simple algorithm for identifying negated findings and diseases" (J Biomed Inform 2001; 34:301-310) and
Harkema et al., "ConText" (J Biomed Inform 2009; 42:839-851): trigger terms before and after a finding, pseudo-triggers and
terms that end a scope. Considered instead: negspacy and medspaCy's ConText bring spaCy with tens of compiled packages, too
heavy for Slicer's Python; negex.py runs one regular expression per trigger and sentence and has windows of a few tokens, which
break off the long lists of radiology ("no nodule, mass, consolidation, effusion or pneumothorax"). They end a scope at fixed
words, not where a list ends and a statement begins ("no pneumothorax, small effusion"), so the rules are written out here.
"""

from __future__ import annotations

from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .text import DASH

_REACH_BEFORE, _REACH_AFTER = 45, 24  # tokens
_AUXILIARY = frozenset(
    {"is", "are", "was", "were", "be", "been", "has", "have", "had", "appear", "appears", "remain", "remains"}
)
_BREAKS = frozenset({",", "and"})
_ENDS_NEGATION = frozenset({"scope_end", "negation_after", "not_negation", "historical_after"})
_ENDS_LOOK_AHEAD = _ENDS_NEGATION - {"not_negation"} | {"uncertain_after", "negation_before", "normal", "cause"}
_AFTER_DOUBT = frozenset({
    "", ".", ",", ";", ")", "and", "or", "but", "in", "at", "on", "given", "due", "between",
    "as", "because", "based", "for", "over", "--",
})  # fmt: skip


def status_of(sentence: TokenizedSentence, mention: Mention, finding: FindingTerm) -> str:
    """Status of ``finding`` at ``mention``; the nearest scope that holds it decides, a doubted negation is a doubt."""
    if _after(sentence, mention.last, "uncertain_after"):
        return "uncertain"
    if _after(sentence, mention.last, "historical_after"):
        return "historical"
    if _after(sentence, mention.last, "negation_after") or is_negated_before(sentence, mention.first):
        return "absent"
    if _historical_before(sentence, mention.first):
        return "historical"
    if _uncertain_before(sentence, mention):
        return "uncertain"
    return finding.status


def is_pseudo_negation(sentence: TokenizedSentence, cue: Mention) -> bool:
    """ "No significant interval change in ...": the negation belongs to the change."""
    grammar = sentence.lexicon.grammar
    for index in range(cue.last, min(cue.last + 8, len(sentence.lemmas))):
        word = sentence.lemmas[index]
        if word in grammar["change_words"]:
            if sentence.lemmas[index - 1] in ("degenerative", "postsurgical"):
                return False
            return word != "enlargement" and not (
                word in ("growth", "increase") and sentence.lemmas[cue.first] == "not"
            )
        if word not in grammar["change_modifiers"]:
            return False
    return False


def is_negated_before(sentence: TokenizedSentence, first: int) -> bool:
    """Whether a negation before token ``first`` holds for what begins there."""
    if "negation_before" not in sentence.all_kinds:
        return False
    lowest = max(-1, first - _REACH_BEFORE)
    index = first - 1
    while index > lowest:
        kinds = sentence.kinds[index]
        if "negation_before" in kinds:
            cue = sentence.owner[index]
            return not is_pseudo_negation(sentence, cue) and not _is_not_verb_phrase(sentence, cue, first)
        if kinds & _ENDS_NEGATION and sentence.lemmas[index] != ":":
            return False
        if sentence.lemmas[index] == DASH:
            return False
        if sentence.lemmas[index] in _BREAKS and _breaks_list(sentence, index, first):
            return False
        index -= 1
    return False


def _is_not_verb_phrase(sentence: TokenizedSentence, cue: Mention, first: int) -> bool:
    """ "Not enlarged with a small cyst", "not widened, sclerosis of the wall": only the adjective is denied."""
    between = sentence.lemmas[cue.last : first]
    if sentence.lemmas[cue.first] != "not":
        return False
    return "with" in between or ("," in between and "or" not in sentence.lemmas[cue.last :] and "nor" not in between)


def _breaks_list(sentence: TokenizedSentence, index: int, first: int) -> bool:
    """Whether the comma or "and" at ``index`` begins a new statement rather than the next item of a denied list."""
    if index + 1 >= len(sentence.lemmas):
        return False
    following = sentence.lemmas[index + 1]
    if _begins_statement(sentence, index + 1):
        return True
    if following in ("or", "nor", "and", ",") or not sentence.is_new_phrase(index + 1):
        return False
    # "No nodule, mass, or enlarged lymph node": an "or" between here and the finding keeps the list together.
    return "or" not in sentence.lemmas[index + 1 : first] or following in (
        "there",
        "with",
        "is",
        "are",
        "has",
        "a",
        "the",
    )


def _begins_statement(sentence: TokenizedSentence, index: int) -> bool:
    """ "No dilated small bowel, colon has wall thickening": an organ with a verb of its own."""
    owner = sentence.owner[index]
    if owner is None or "anatomy" not in owner.kinds or sentence.lemmas[index - 1] != ",":
        return False
    return sentence.lemmas[owner.last : owner.last + 1] in (
        ["has"],
        ["have"],
        ["show"],
        ["shows"],
        ["contain"],
        ["contains"],
    )


def _after(sentence: TokenizedSentence, last: int, kind: str) -> bool:
    """Whether a cue that acts backwards follows, with nothing between that begins another statement."""
    if kind not in sentence.all_kinds:
        return False
    grammar, colon, commas = sentence.lexicon.grammar, False, 0
    for index in range(last, min(last + _REACH_AFTER, len(sentence.lemmas))):
        word, kinds = sentence.lemmas[index], sentence.kinds[index]
        if kind in kinds and not kinds & {"not_negation", "not_historical"}:
            return sentence.owner[index].first == index and _cue_applies(sentence, sentence.owner[index], last, kind)
        if word == ":" and not colon and index == last:
            colon = True
            continue
        if kinds & _ENDS_LOOK_AHEAD:
            return False
        if word == ")" and "(" not in sentence.lemmas[last:index]:
            return False
        if word == "so" and kind == "uncertain_after":
            return False  # "the stomach is distended, so delayed emptying is likely"
        if word == "(" and kind == "uncertain_after":
            return False
        if word == ",":
            commas += 1
            apposition = commas > 1 and index + 1 < len(sentence.lemmas) and sentence.lemmas[index + 1] in _AUXILIARY
            if kind == "uncertain_after" and _ends_in(sentence, index + 1, kind):
                return True
            if not apposition and (sentence.is_new_phrase(index + 1) or kind == "uncertain_after"):
                return False
            continue
        if word == "and" and sentence.is_new_phrase(index + 1):
            return False
        # In "effusion seen last time has resolved" the participle without an auxiliary only describes.
        describes = kind == "historical_after" and sentence.lemmas[index - 1] not in _AUXILIARY
        if word in grammar["verbs"] and word not in _AUXILIARY and not describes:
            return False
    return False


def _ends_in(sentence: TokenizedSentence, index: int, kind: str) -> bool:
    """ "Infection or seroma, hard to say.": a cue after the comma that ends the sentence holds for the list before it."""
    cue = sentence.owner[index] if index < len(sentence.owner) else None
    whole = cue is not None and kind in cue.kinds and cue.first == index and cue.last - cue.first > 1
    return whole and sentence.lemmas[cue.last :] in ([], ["."])


def _cue_applies(sentence: TokenizedSentence, cue: Mention, last: int, kind: str) -> bool:
    if kind == "historical_after":
        return "not" not in sentence.lemmas[last : cue.first]
    if kind != "uncertain_after":
        return True
    following = sentence.lemmas[cue.last] if cue.last < len(sentence.lemmas) else ""
    if sentence.lemmas[cue.last : cue.last + 2] == ["in", "favor"]:
        return False  # "a cyst was considered in favor of endometrioma": the cyst is seen
    ends = (
        following in _AFTER_DOUBT
        or following.endswith("ly")
        or following in sentence.lexicon.grammar["location_prepositions"]
    )
    return ends and cue.first - last <= 12


def _historical_before(sentence: TokenizedSentence, first: int) -> bool:
    if "historical_before" not in sentence.all_kinds:
        return False
    for index in range(first - 1, max(-1, first - 9), -1):
        word, kinds = sentence.lemmas[index], sentence.kinds[index]
        if "historical_before" in kinds and not kinds & {"not_historical"}:
            reach = {"prior": 4, "previous": 4, "previously": 1}.get(word, 9)
            if first - index <= reach:
                return True
            continue
        if kinds & {"scope_end", "not_historical", "uncertain_before", "negation_before"}:
            return False
        if word in (",", ".", "(") or (word in ("and", "with") and sentence.is_new_phrase(index + 1)) or word == "with":
            return False
        if word in _AUXILIARY:
            return False
    return False


def _uncertain_before(sentence: TokenizedSentence, mention: Mention) -> bool:
    if mention.last < len(sentence.lemmas) and sentence.lemmas[mention.last] in ("versus", "vs"):
        return True
    first = mention.first
    if "uncertain_before" not in sentence.all_kinds:
        return False
    for index in range(first - 1, max(-1, first - _REACH_AFTER), -1):
        word, kinds = sentence.lemmas[index], sentence.kinds[index]
        if "uncertain_before" in kinds:
            return not _only_describes(sentence, sentence.owner[index], first)
        if "cause" in kinds and not _doubts_cause(sentence, sentence.owner[index]):
            return False
        if kinds & {"scope_end", "negation_after", "historical_after", "uncertain_after"}:
            return False
        if word == "with" or (word == "and" and sentence.is_new_phrase(index + 1)):
            return False
        if word == "," and not _continues_alternatives(sentence, index, first, mention.last):
            return False
    return False


def _doubts_cause(sentence: TokenizedSentence, cause: Mention) -> bool:
    """ "Possibly due to cystitis" doubts the cystitis; "likely related to a distended bladder" only the relation."""
    before = sentence.owner[cause.first - 1] if cause.first else None
    if before is None or "uncertain_before" not in before.kinds:
        return False
    return sentence.lemmas[cause.first] in ("due", "secondary", "from")


def _continues_alternatives(sentence: TokenizedSentence, index: int, first: int, last: int) -> bool:
    """ "Suspicious for A, B or C": a comma stays in scope when the list ends in "or" or "versus"."""
    following = sentence.lemmas[index + 1] if index + 1 < len(sentence.lemmas) else ""
    if following in ("or", "versus", "vs", "and/or"):
        return True
    return not sentence.is_new_phrase(index + 1) and "or" in sentence.lemmas[last : last + 6]


def _only_describes(sentence: TokenizedSentence, cue: Mention, first: int) -> bool:
    """ "Likely reactive thickening": the doubt is about the adjective when a comma or "and" follows it."""
    between = sentence.lemmas[cue.last : first]
    return (
        bool(between)
        and between[0] in sentence.lexicon.grammar["uncertain_adjectival"]
        and any(w in (",", "and", "to", "from") for w in between)
    )

"""What a sentence asserts: its findings with their status, and statements that a structure is normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ..types import ReportFinding
from .assertion import status_of
from .finding_names import names_of
from .laterality import side_of
from .lexicon import SIDES, FindingTerm, Mention
from .sentence_tokens import TokenizedSentence
from .sites import Site
from .unlisted import is_plan, states_of_organs, unlisted, unlisted_after_doubt, unlisted_at_start

NORMAL = ReportFinding("abnormality", "absent")
_ABSENCE_VERBS = frozenset({
    "is", "are", "was", "were", "has", "have", "been", "surgically", "also", "partially", ":", "not", "observed",
    "seen", "visualized", "in", "its", "location", "localization", "(", "due", "to", "secondary", "and",
})  # fmt: skip
_SEPARATORS = frozenset({"--", ",", "and"})
_PLACING = frozenset({"to", "at", "near", "with", "around", "by", "above", "below", "behind", "beside"})
_DISCOURSE = frozenset({"ok", "okay", "fine", "good", "well"})


@dataclass(slots=True)
class _Found:
    """A finding of the vocabulary in the sentence, with its status.

    ``where``: the segments (or structures without one) that it speaks of, in a sentence that calls something normal.
    """

    mention: Mention
    finding: FindingTerm
    status: str
    where: set[str] = field(default_factory=set)


def find_findings(
    sentence: TokenizedSentence, sites: Sequence[Site], context: Sequence[Site]
) -> tuple[ReportFinding, ...]:
    """Findings in order, without repetition. ``sites``: anatomy of the sentence; ``context``: what it inherits."""
    if sentence.is_communication:
        return ()
    found = _asserted(sentence, sites)
    result: dict[ReportFinding, None] = {}
    for item in found:
        for name in names_of(item.finding, item.mention, sites, context, sentence):
            result[ReportFinding(name, item.status)] = None
    for echo in _of_other_side(sentence, sites, found):
        result[echo] = None
    for name in _removed_organs(sentence, sites, context, found):
        result[ReportFinding(name, "historical")] = None
    if _says_normal(sentence, sites, found, bool(result)):
        result[NORMAL] = None
    if not result and "".join(sentence.lemmas).strip(".") in ("none", "nil", "negative"):
        result[NORMAL] = None
    if not result:
        result = dict.fromkeys(states_of_organs(sentence, sites) or unlisted(sentence, sites, context))
    else:
        stated = {f.status for f in result}
        if "uncertain_before" in sentence.all_kinds:
            result |= dict.fromkeys(unlisted_after_doubt(sentence, stated))
        if "present" not in stated:
            result |= dict.fromkeys(unlisted_at_start(sentence, stated))
            result |= dict.fromkeys(states_of_organs(sentence, sites))
    return _with_enlarged_nodes(tuple(result))


def _of_other_side(sentence: TokenizedSentence, sites: Sequence[Site], found: Sequence[_Found]) -> list[ReportFinding]:
    """ "The right effusion has resolved and the left one is tiny": the finding once more, with a status of its own."""
    echoes = []
    for site in sites:
        before = [item for item in found if item.mention.last <= site.first] if site.elliptic else []
        if before:
            item = before[-1]
            status = status_of(sentence, Mention({}, site.first, site.last), item.finding)
            names = names_of(item.finding, item.mention, sites, (), sentence)
            echoes += [ReportFinding(name, status) for name in names]
    return echoes


def _with_enlarged_nodes(findings: tuple[ReportFinding, ...]) -> tuple[ReportFinding, ...]:
    """ "Enlarged lymph node" is lymphadenopathy, however far apart the two words stand."""
    names = ("lymph node", "enlargement", "lymph node enlargement")
    grown = [f.status for f in findings if f.name in names[1:]]
    if not grown or not any(f.name == "lymph node" for f in findings):
        return findings
    renamed = [ReportFinding("lymphadenopathy", grown[0]) if f.name in names else f for f in findings]
    return tuple(dict.fromkeys(renamed))


def _asserted(sentence: TokenizedSentence, sites: Sequence[Site]) -> list[_Found]:
    found, neutral = [], []
    for mention in sentence.mentions:
        finding = mention.kinds.get("finding")
        if not isinstance(finding, FindingTerm) or "not_anatomy" in mention.kinds:
            continue
        status = status_of(sentence, mention, finding)
        if status in ("present", "historical") and _in_recommendation(sentence, mention):
            continue
        if _is_item_number(sentence, mention) or _is_not_assessed(sentence, mention):
            continue
        if _is_usual_at_age(sentence, mention) or (
            finding.status == "historical" and _is_only_a_place(sentence, mention)
        ):
            continue
        where = _where(sentence, mention, finding, sites) if "normal" in sentence.all_kinds else set()
        item = _Found(mention, finding, status, where)
        (neutral if finding.neutral else found).append(item)
    if any(item.finding.node for item in found):  # nodes that "are likely reactive" are a finding of their own
        found = sorted(found + [n for n in neutral if n.finding.node], key=lambda item: item.mention.first)
    _share_status(found)
    if found:
        return found
    normal = any("normal" in m.kinds for m in sentence.mentions)
    return [] if normal or sentence.has_remark("limitation") else neutral


def _in_recommendation(sentence: TokenizedSentence, mention: Mention) -> bool:
    """Whether the finding is only what a recommendation refers to ("follow-up of the nodule is recommended").

    "For drainage." is a plan too.
    """
    if is_plan(sentence):
        return True
    strong = [r for r in sentence.remarks if "recommendation_strong" in r.kinds]
    for remark in strong:
        first, last = sorted((remark.first, mention.first))
        between = sentence.lemmas[first:last]
        if not any(w in (",", ";", "--", ".", "and", "but") for w in between):
            return True
        if remark.first == 0:
            return True
    return False


def _is_item_number(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Nodule 3: ..." numbers an item of a list."""
    after = sentence.lemmas[mention.last : mention.last + 2]
    return mention.first == 0 and len(after) == 2 and after[0].isdigit() and after[1] == ":"


def _is_not_assessed(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Urethral injury not assessed" asserts nothing."""
    for remark in sentence.remarks:
        if "limitation" in remark.kinds and mention.last <= remark.first <= mention.last + 2:
            words = sentence.lemmas[remark.first : remark.last]
            return bool({"assessed", "evaluated", "included", "imaged"} & set(words))
    return False


def _is_usual_at_age(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Ovaries atrophic, appropriate for age" calls them normal."""
    for index in range(mention.last, min(mention.last + 2, len(sentence.lemmas))):
        owner = sentence.owner[index]
        if owner is not None and owner.first == index and "normal" in owner.kinds:
            return "age" in sentence.lemmas[owner.first : owner.last]
    return False


def _is_only_a_place(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "A collection next to the pancreaticojejunostomy": an operation that only tells where something is."""
    before = sentence.lemmas[max(0, mention.first - 2) : mention.first]
    return len(before) == 2 and before[1] == "the" and before[0] in _PLACING


def _share_status(found: Sequence[_Found]) -> None:
    """A finding right before another one describes it ("infiltrating mass", "calcified nodule") and shares its status."""
    for item, following in reversed(list(pairwise(found))):
        if item.mention.last == following.mention.first:
            item.status = following.status


def _where(sentence: TokenizedSentence, mention: Mention, finding: FindingTerm, sites: Sequence[Site]) -> set[str]:
    """Anatomy of the finding: named in its part of the sentence, else implied by it, else named before it."""
    first, last = _part(sentence, mention.first, mention.last)
    named = [s for s in sites if s.finding is None and first <= s.first < last]
    if finding.structures is not None:
        families = {s.family for s in finding.structures} | set(finding.names)
        named = [s for s in named if s.family in families]
        implied = [s for s in sites if s.finding is finding]
        return _places(named or implied) or {s.family for s in finding.structures}
    places = _places(named) or _places([s for s in sites if s.last <= mention.first][-1:])
    side = side_of(sentence, mention.first, mention.last, weak=True)
    on_side = {p for p in places if f"_{side}" in p} if side in SIDES else set()
    return on_side or places


def _places(sites: Sequence[Site]) -> set[str]:
    return set().union(*(s.segments or {s.family} for s in sites))


def _part(sentence: TokenizedSentence, first: int, last: int) -> tuple[int, int]:
    """The stretch around a term up to the commas or conjunctions that begin other statements."""
    start = first
    lemmas, kinds = sentence.lemmas, sentence.kinds
    while start > 0:
        if (lemmas[start - 1] in _SEPARATORS or "scope_end" in kinds[start - 1]) and _separates(sentence, start - 1):
            break
        start -= 1
    while last < len(lemmas):
        if (lemmas[last] in _SEPARATORS or "scope_end" in kinds[last]) and _separates(sentence, last):
            break
        last += 1
    return start, last


def _separates(sentence: TokenizedSentence, index: int) -> bool:
    owner, word = sentence.owner[index], sentence.lemmas[index]
    if word == "otherwise" and index and "anatomy" in sentence.kinds[index - 1]:
        return False  # "lungs otherwise clear"
    if word == "--" or (owner is not None and "scope_end" in owner.kinds and word != ":"):
        return True
    if word not in (",", "and"):
        return False
    return sentence.is_new_phrase(index + 1) or _another_subject(sentence, index)


def _another_subject(sentence: TokenizedSentence, index: int) -> bool:
    """ "Bladder fine, prostate enlarged": after what was said of one structure comes the next structure."""
    before = next((m for m in reversed(sentence.owner[max(0, index - 6) : index]) if m is not None), None)
    after = next((m for m in sentence.owner[index + 1 : index + 5] if m is not None), None)
    if before is None or after is None or not {"normal", "finding"} & set(before.kinds):
        return False
    return "anatomy" in after.kinds or "stem" in after.kinds


def _removed_organs(
    sentence: TokenizedSentence, sites: Sequence[Site], context: Sequence[Site], found: Sequence[_Found]
) -> list[str]:
    """ "The gallbladder is surgically absent": the operation, by the organ."""
    names: list[str] = []
    if "absent_organ" not in sentence.all_kinds:
        return names
    operations = sentence.lexicon.surgical_absence
    for mention in sentence.mentions:
        if "absent_organ" not in mention.kinds:
            continue
        before = [s for s in sites if s.finding is None and s.last <= mention.first and s.id in operations]
        if before:
            gap = sentence.lemmas[before[-1].last : mention.first]
            if all(w in _ABSENCE_VERBS or w in sentence.lexicon.sides for w in gap):
                names.append(operations[before[-1].id])
        elif mention.first == 0 and not found:
            names += [operations[s.id] for s in context if s.id in operations][:1]
    return names


def _says_normal(sentence: TokenizedSentence, sites: Sequence[Site], found: Sequence[_Found], others: bool) -> bool:
    """Whether the sentence calls a structure normal, and has no finding of that structure."""
    if "normal" not in sentence.all_kinds:
        return False
    for mention in sentence.mentions:
        if "normal" not in mention.kinds or set(mention.kinds) & {"not_normal", "absent_organ"}:
            continue
        if _is_denied(sentence, mention) or _opens_speech(sentence, mention):
            continue
        if not others:
            return True
        subject, other_side = _subject(sentence, mention, sites)
        if other_side or subject - set().union(*(item.where for item in found)):
            return True
    return False


def _opens_speech(sentence: TokenizedSentence, mention: Mention) -> bool:
    """ "Okay, chest first ..." calls nothing normal."""
    opening = mention.first == 0 and sentence.lemmas[0] in _DISCOURSE and mention.last == 1
    return opening and len(sentence.lemmas) > 3  # "Fine." and "OK ." are statements


def _is_denied(sentence: TokenizedSentence, mention: Mention) -> bool:
    before = sentence.lemmas[max(0, mention.first - 3) : mention.first]
    return bool({"not", "than", "abnormally", "without"} & set(before))


def _subject(sentence: TokenizedSentence, mention: Mention, sites: Sequence[Site]) -> tuple[set[str], bool]:
    """What is called normal: named before the word in its part of the sentence, else after it; and whether only a side is."""
    first, last = _part(sentence, mention.first, mention.last)
    named = [s for s in sites if s.finding is None]
    before = [s for s in named if first <= s.first < mention.first]
    subject = _places(before or [s for s in named if mention.last <= s.first < min(last, mention.last + 6)])
    previous = sentence.lemmas[max(first, mention.first - 2) : mention.first]  # "right normal", "right gland normal"
    return subject, not subject and any(sentence.lexicon.sides.get(w) in SIDES for w in previous)

"""Which side a term is on: the side before it in its noun phrase, carried over a list, or after it ("on the left")."""

from __future__ import annotations

from .lexicon import SIDES, Mention, Structure
from .sentence_tokens import TokenizedSentence

_MORE = frozenset({
    "worse", "worst", "greater", "greatest", "larger", "more", "predominantly", "especially", "particularly", "mainly", "mostly",
    "bigger", "predominant", "notably", "maximal",
})  # fmt: skip
_REACH_OF_MORE = 4  # tokens
_REACH = 14  # tokens
_REACH_AFTER = 18  # tokens
_MUSCLES = frozenset({"iliopsoas", "gluteal", "paraspinal"})
_AFTER_WITH = frozenset({
    "a", "an", "diameter", "size", "length", "width", "thickness", "dimension", "maximum", "maximal", "approximate",
})  # fmt: skip
_BETWEEN_SIDES = frozenset({"and", "or", "/", "&", "+", ">", "<", "than"})
_COMPARING = frozenset({
    ">", "<", "greater", "more", "worse", "than", "larger", "predominant", "dominant", "facing", "sided", "convex",
})  # fmt: skip


def mention_structure(mention: Mention) -> Structure | None:
    """The structure that an anatomy mention names."""
    value = mention.kinds.get("anatomy")
    return value[0] if value else None


def side_of(sentence: TokenizedSentence, first: int, last: int, weak: bool = False) -> str | None:
    """Side of the term at tokens ``first`` to ``last``: "left", "right", "both" or None.

    ``weak``: the term is a finding that implies its structure ("hydronephrosis"); it shares the side of a finding that it is
    coordinated with ("right hydronephrosis and nephrolithiasis"), whereas an organ does not ("right renal cyst and adrenals").
    """
    inside = _inside(sentence, first, last)
    return inside or _side_before(sentence, first, last, weak) or _side_after(sentence, last)


def _inside(sentence: TokenizedSentence, first: int, last: int) -> str | None:
    for index in range(first, last):
        if side := sentence.lexicon.sides.get(sentence.lemmas[index]):
            return side
    return None


def _side_before(sentence: TokenizedSentence, first: int, last: int, weak: bool) -> str | None:
    grammar, lemmas = sentence.lexicon.grammar, sentence.lemmas
    crossed, seen_finding, listed = False, False, False
    for index in range(first - 1, max(-1, first - 1 - _REACH), -1):
        word, owner = lemmas[index], sentence.owner[index]
        side = sentence.lexicon.sides.get(word)
        if side and (owner is None or "anatomy" in owner.kinds or "finding" in owner.kinds):
            if side == "both" and listed and not any(sentence.plural[first:last]):
                return None  # "both columns, femoral head"
            return "both" if _opposite_before(sentence, index, side) else side
        if word in grammar["conjunctions"]:
            if any(sentence.plural[first:last]) and not weak and not _shares_head(sentence, index, first):
                return None
            if index + 1 < first and sentence.is_new_phrase(index + 1):
                return None
            crossed, listed = True, listed or word == ","
            continue
        if _ends_phrase(sentence, index, crossed):
            return None
        if owner is not None and "finding" in owner.kinds:
            seen_finding = True
            if not crossed or not weak:
                return None
        elif owner is not None and "anatomy" in owner.kinds and crossed and not seen_finding:
            structure = mention_structure(owner)
            if structure is not None and not structure.paired:
                return None
    return None


def _opposite_before(sentence: TokenizedSentence, index: int, side: str) -> bool:
    """ "Right and left kidneys", "R > L effusions", "right greater than left effusions"."""
    lemmas = sentence.lemmas
    if index < 2 or lemmas[index - 1] not in _BETWEEN_SIDES:
        return False
    reach = 3 if lemmas[index - 1] == "than" else 1
    others = {sentence.lexicon.sides.get(w) for w in lemmas[max(0, index - 1 - reach) : index - 1]} - {None}
    return bool(others) and others != {side}


def _shares_head(sentence: TokenizedSentence, index: int, first: int) -> bool:
    """Whether the term before a conjunction waits for the plural head after it ("left iliacus and psoas muscles")."""
    before, after = sentence.owner[index - 1] if index else None, sentence.owner[first]
    if before is None and index and sentence.lemmas[index - 1] in sentence.lexicon.grammar["positions"]:
        return True  # "left superior and inferior pubic rami"
    if before is None or after is None:
        return False
    if "stem" in before.kinds or (before.kinds.get("anatomy") or (None, False))[1]:
        return True
    one, other = mention_structure(before), mention_structure(after)
    if one is None or other is None:
        return False
    return one.family == other.family or {one.family, other.family} <= _MUSCLES


def _ends_phrase(sentence: TokenizedSentence, index: int, crossed: bool) -> bool:
    grammar, word = sentence.lexicon.grammar, sentence.lemmas[index]
    if sentence.owner[index] is not None and "scope_end" in sentence.owner[index].kinds:
        return True
    if word in grammar["prepositions"] or word in grammar["verbs"]:
        return True
    return word in (";", ":", ".", "(", ")", "--") or (crossed and word in ("the", "a", "an"))


def _side_after(sentence: TokenizedSentence, last: int) -> str | None:
    """ "... on the left", "..., right" or "... bilaterally" after the term, unless that side belongs to another one."""
    lemmas, found = sentence.lemmas, None
    for index in range(last, min(len(lemmas), last + _REACH_AFTER)):
        word, owner = lemmas[index], sentence.owner[index]
        side = sentence.lexicon.sides.get(word)
        if side and (owner is None or not {"anatomy", "stem"} & set(owner.kinds)):
            following = lemmas[index + 1] if index + 1 < len(lemmas) else ""
            if following in _COMPARING or is_compared(sentence, index):
                return None
            if side_is_free(sentence, index):
                found = side
                break
            return None
        if word == "with" and _AFTER_WITH.issuperset(lemmas[index + 1 : index + 3]):
            continue  # "with a diameter of 19 mm"
        if word in ("and", "or", "but", "with", "without", ";", ":", "--") or (owner and "scope_end" in owner.kinds):
            break
        if owner is not None and "anatomy" in owner.kinds and index > last:
            structure = mention_structure(owner)
            if structure is not None and structure.paired:
                break
    return found


def is_compared(sentence: TokenizedSentence, index: int) -> bool:
    """ "Basal fibrosis, worse on the right": the side where there is more of it does not leave out the other one."""
    before = sentence.lemmas[max(0, index - _REACH_OF_MORE) : index]
    return not _MORE.isdisjoint(before)


def side_is_free(sentence: TokenizedSentence, index: int) -> bool:
    """Whether the side at ``index`` modifies no other anatomy or finding right after it."""
    grammar = sentence.lexicon.grammar
    for later in range(index + 1, min(index + 5, len(sentence.lemmas))):
        word, owner = sentence.lemmas[later], sentence.owner[later]
        if (
            word in grammar["prepositions"]
            or word in grammar["verbs"]
            or word in (",", ";", ".", ")", "and", "or", "(", "--")
        ):
            return True
        if owner is not None and {"anatomy", "finding", "stem"} & set(owner.kinds):
            return False
        if word == "side":
            return True
    return True


def free_sides(sentence: TokenizedSentence) -> set[str]:
    """Sides that modify no paired anatomy of the sentence: they narrow what a label or heading names."""
    found: set[str] = set()
    for index, word in enumerate(sentence.lemmas):
        side = sentence.lexicon.sides.get(word)
        owner = sentence.owner[index]
        free = side and (owner is None or not {"anatomy", "finding"} & set(owner.kinds))
        if free:
            found |= {*SIDES} if is_compared(sentence, index) else {side}
    return found

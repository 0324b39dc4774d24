"""The vocabulary: ``data/report_*.json`` as one prefix tree over lemmas, so that a sentence is read in one pass.

Every term of every kind lies in the same tree and the longest match wins: "liver function" (no anatomy) hides "liver".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .spelling import Words
from .text import fold, tokenize

DATA = Path(__file__).resolve().parents[1] / "data"
SIDES = ("left", "right")
_REGION_SIZES = {"C": 7, "T": 12, "L": 5, "S": 1}
LEVELS = tuple(f"{region}{n}" for region, size in _REGION_SIZES.items() for n in range(1, size + 1))
_LEVEL_RANGE = re.compile(r"vertebrae_([CTLS]\d+)\.\.([CTLS]?\d+)$")
_CUE_KINDS = (
    "negation_before", "negation_after", "not_negation", "uncertain_before", "uncertain_after", "historical_before",
    "historical_after", "not_historical", "absent_organ", "normal", "not_normal", "scope_end", "cause",
)  # fmt: skip
_REMARK_KINDS = (
    "limitation", "recommendation", "recommendation_strong", "communication", "global_statement", "neighbor",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Structure:
    """An anatomical structure. ``by_side``: classes of the left and the right one; the same set where it is unpaired."""

    id: str
    family: str
    noun: str
    adjective: str
    by_side: Mapping[str, frozenset[str]]
    both_terms: frozenset[str]
    region: bool = False

    @property
    def paired(self) -> bool:
        """Whether the two sides have classes of their own."""
        return self.by_side["left"] != self.by_side["right"]

    def segments(self, side: str | None) -> frozenset[str]:
        """Class names of a side; of both sides where none is given."""
        return self.by_side[side] if side in SIDES else self.by_side["left"] | self.by_side["right"]


@dataclass(frozen=True, slots=True, eq=False)
class FindingTerm:
    """A finding of the vocabulary; see the head of ``report_findings.json`` for the fields."""

    name: str
    names: Mapping[str, str]
    structures: tuple[Structure, ...] | None
    status: str
    whole: bool
    bone: bool
    node: bool
    cyst: bool
    neutral: bool
    weak: bool
    spinal: bool
    side: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Stem:
    """A word that names anatomy only together with a head noun that may stand further on ("upper and lower lobes")."""

    heads: Mapping[str, Structure | None]
    default: Structure | None


@dataclass(slots=True)
class Mention:
    """A term in a sentence: tokens ``first`` to ``last`` (exclusive). ``kinds``: kind -> value of that kind."""

    kinds: Mapping[str, object]
    first: int
    last: int


Node = dict[str, object]
_LEAF = ""  # key of the terms that end at a node; no token is empty


@dataclass(slots=True)
class Lexicon:
    """All vocabularies; ``tree`` for anatomy, findings and cues, ``remarks`` for what a sentence as a whole is.

    ``inner``: results of ``find_inside``, at most one per term of the vocabulary.
    """

    words: Words
    prefixes: frozenset[str]
    structures: dict[str, Structure]
    surgical_absence: Mapping[str, str]
    grammar: Mapping[str, frozenset[str]]
    sides: Mapping[str, str]
    tree: Node = field(default_factory=dict)
    remarks: Node = field(default_factory=dict)
    inner: dict[tuple[str, ...], list[Mention]] = field(default_factory=dict)

    def find(self, lemmas: list[str], remarks: bool = False) -> list[Mention]:
        """Longest terms from left to right, without overlap."""
        root = self.remarks if remarks else self.tree
        found: list[Mention] = []
        if root.keys().isdisjoint(lemmas):
            return found
        end, size, get = 0, len(lemmas), root.get
        for first, lemma in enumerate(lemmas):
            node = get(lemma)
            if node is None or first < end:
                continue
            kinds, position = None, first + 1
            while node is not None:
                if _LEAF in node:
                    end, kinds = position, node[_LEAF]
                if position >= size:
                    break
                node = node.get(lemmas[position])
                position += 1
            if kinds is not None:
                found.append(Mention(kinds, first, end))
        return found

    def find_inside(self, term: list[str]) -> list[Mention]:
        """Longest anatomy terms strictly inside a longer ``term``; kept, as the terms of findings come again."""
        key = tuple(term)
        if key not in self.inner:
            found, first = [], 0
            while first < len(term):
                last = len(term) - (first == 0)
                inner = next((m for m in self.find(term[first:last]) if "anatomy" in m.kinds), None)
                if inner is None and first == 0:  # "contracted gallbladder": the anatomy ends the term
                    first = 1
                    continue
                if inner is None:
                    break
                found.append(Mention(inner.kinds, first + inner.first, first + inner.last))
                first += inner.last
            self.inner[key] = found
        return self.inner[key]

    def lemmas(self, term: str, exact: bool = True) -> list[str]:
        """Lemmas of a term; ``exact`` without the correction of slips."""
        folded = fold(term)
        lemma = self.words.base if exact else self.words.lemma
        return tokenize(folded, 0, len(folded), lemma, self.prefixes)[0]

    def add(self, kind: str, terms: Iterable[str], value: object, remarks: bool = False) -> None:
        """Put ``terms`` into the tree; of two values of one kind the first stays."""
        for term in terms:
            node: Node = self.remarks if remarks else self.tree
            for lemma in self.lemmas(term):
                node = node.setdefault(lemma, {})
            node.setdefault(_LEAF, {}).setdefault(kind, value)


def read_data(name: str) -> dict[str, object]:
    """One of the vocabulary files beside the library."""
    return json.loads((DATA / f"report_{name}.json").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def load_lexicon() -> Lexicon:
    """The vocabulary, read once per process (a few hundredths of a second)."""
    words_data, anatomy, cues, findings = (read_data(n) for n in ("words", "anatomy", "cues", "findings"))
    structures = {entry["id"]: _structure(entry) for entry in anatomy["structures"]}
    lexicon = Lexicon(
        words=Words(words_data),
        prefixes=frozenset(words_data["prefixes"]),
        structures=structures,
        surgical_absence=findings["surgical_absence"],
        grammar={name: frozenset(v) for name, v in cues.items() if isinstance(v, list)},
        sides=cues["sides"],
    )
    for entry in findings["findings"]:
        if entry["name"] == "{term}":
            for term in entry["terms"]:
                lexicon.add("finding", [term], _finding(entry | {"name": term}, structures))
        else:
            lexicon.add("finding", entry["terms"], _finding(entry, structures))
    for entry in anatomy["structures"]:
        lexicon.add("anatomy", _with_short_vessels(_with_signs(entry["terms"])), (structures[entry["id"]], False))
        lexicon.add("anatomy", entry.get("adjectives", ()), (structures[entry["id"]], True))
    for entry in anatomy["stems"]:
        heads = {head: structures[name] if name else None for head, name in entry["heads"].items()}
        lexicon.add("stem", entry["terms"], Stem(heads, structures.get(entry.get("default"))))
    lexicon.add("not_anatomy", anatomy["not_anatomy"], True)
    for kind in _CUE_KINDS:
        lexicon.add(kind, cues[kind], True)
    for kind in _REMARK_KINDS:
        lexicon.add(kind, cues[kind], True, remarks=True)
    grammar_words = set().union(*lexicon.grammar.values(), cues["sides"])
    lexicon.words.set_vocabulary({w for w in (_tree_words(lexicon.tree) | grammar_words) if w.isalpha()})
    return lexicon


def _with_signs(terms: Iterable[str]) -> Iterator[str]:
    """The terms, and those that join two names with another sign ("gluteus medius + minimus")."""
    for term in terms:
        yield term
        if " and " in term:
            yield from (term.replace(" and ", f" {sign} ") for sign in ("or", "+", "&", "/"))


def _with_short_vessels(terms: Iterable[str]) -> Iterator[str]:
    """The terms, and "splenic v", "hepatic a." for "splenic vein", "hepatic artery"."""
    for term in terms:
        yield term
        if term.endswith(" vein"):
            yield term[: -len("ein")]
        elif term.endswith(" artery"):
            yield f"{term[: -len('rtery')]} ."


def _tree_words(node: Node) -> set[str]:
    found: set[str] = set()
    stack = [node]
    while stack:
        for word, child in stack.pop().items():
            if word != _LEAF:
                found.add(word)
                stack.append(child)
    return found


def _structure(entry: Mapping[str, object]) -> Structure:
    by_side = {}
    for side in SIDES:
        patterns = entry.get(side, entry.get("segments", ()))
        by_side[side] = frozenset(name for p in patterns for name in _expand(p.replace("{side}", side)))
    name = entry["id"]
    return Structure(
        id=name,
        family=entry.get("family", name),
        noun=entry.get("noun", name),
        adjective=entry.get("adjective", name),
        by_side=by_side,
        both_terms=frozenset(entry.get("both", ())),
        region=bool(entry.get("region")),
    )


def _expand(pattern: str) -> list[str]:
    """``vertebrae_T1..T12`` and ``rib_left_1..12`` as the classes that they stand for."""
    if match := _LEVEL_RANGE.match(pattern):
        first, last = LEVELS.index(match.group(1)), LEVELS.index(match.group(2))
        return [f"vertebrae_{level}" for level in LEVELS[first : last + 1]]
    if ".." in pattern:
        stem, numbers = pattern.rsplit("_", 1)
        low, high = map(int, numbers.split(".."))
        return [f"{stem}_{n}" for n in range(low, high + 1)]
    return [pattern]


def _finding(entry: Mapping[str, object], structures: Mapping[str, Structure]) -> FindingTerm:
    where = entry.get("in")
    return FindingTerm(
        name=entry["name"],
        names=entry.get("names", {}),
        structures=None if where is None else tuple(structures[name] for name in where),
        status=entry.get("status", "present"),
        side=entry.get("side"),
        **{flag: bool(entry.get(flag)) for flag in ("whole", "bone", "node", "cyst", "neutral", "weak", "spinal")},
    )

"""Standard names of findings: the head noun with the anatomy that it is attached to ("cyst" in the liver: "hepatic cyst")."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .anatomy_mentions import Site
from .lexicon import FindingTerm, Mention
from .sentence_tokens import TokenizedSentence

_SLOT = re.compile(r"\{(noun|adjective)\} ?")


def names_of(finding: FindingTerm, mention: Mention, sites: Sequence[Site], context: Sequence[Site], sentence: TokenizedSentence) -> list[str]:
    """Names of ``finding``: one per structure where structures share it ("pleural or pericardial effusion")."""
    attached = _attached(mention, sites, sentence)
    if not attached and "{" in finding.name:
        attached = [s for s in context if s.structure is not None][:1]
    names = dict.fromkeys(_name(finding, site) for site in attached)
    return list(names) or [_plain(finding)]


def _plain(finding: FindingTerm) -> str:
    if finding.structures:
        return _name_of_structure(finding, finding.structures[0].id, finding.structures[0].noun, finding.structures[0].adjective)
    return _SLOT.sub("", finding.name)


def _name(finding: FindingTerm, site: Site) -> str:
    structure = site.structure
    if structure is None or not site.segments and structure.id not in finding.names and structure.id in ("body", "chest", "abdomen", "pelvis", "bone", "great vessel", "mediastinum", "neck", "head"):
        return finding.names.get(site.id, _plain(finding) if not finding.structures else _SLOT.sub("", finding.name))
    return _name_of_structure(finding, structure.id, structure.noun, structure.adjective, structure.family)


def _name_of_structure(finding: FindingTerm, identity: str, noun: str, adjective: str, family: str = "") -> str:
    if identity in finding.names:
        return finding.names[identity]
    if family in finding.names:
        return finding.names[family]
    return finding.name.replace("{noun}", noun).replace("{adjective}", adjective)


def _attached(mention: Mention, sites: Sequence[Site], sentence: TokenizedSentence) -> list[Site]:
    """Sites before the finding in its noun phrase, else after a preposition, else the subject of its clause."""
    named = [s for s in sites if s.finding is None and s.structure is not None and not mention.first <= s.first < mention.last]
    before = _modifiers(mention, named, sentence)
    if before:
        return before
    clause = sentence.clauses[mention.first]
    same = [s for s in named if sentence.clauses[s.first] == clause]
    after = [s for s in same if s.first >= mention.last and _reaches(sentence, mention.last, s.first)]
    if after:
        return after[:1]
    subject = [s for s in same if s.last <= mention.first]
    if subject:
        return subject[-1:]
    earlier = [s for s in named if s.last <= mention.first]
    return earlier[-1:]


def _modifiers(mention: Mention, named: Sequence[Site], sentence: TokenizedSentence) -> list[Site]:
    grammar, found, end = sentence.lexicon.grammar, [], mention.first
    for site in reversed([s for s in named if s.last <= mention.first]):
        gap = sentence.lemmas[site.last : end]
        if len(gap) > 4 or any(w in grammar["prepositions"] or w in grammar["verbs"] or w in (";", ":", ".", "the", "a", "an", "no", "not") for w in gap):
            break
        if any(sentence.owner[i] is not None and "finding" in sentence.owner[i].kinds for i in range(site.last, end)):
            break
        joined = any(w in (",", "and", "or", "/", "&") for w in gap)
        if joined and not (found and site.adjectival):
            break
        found.append(site)
        end = site.first
    return found[::-1]


def _reaches(sentence: TokenizedSentence, first: int, last: int) -> bool:
    """Whether a preposition leads from the finding to the site, with no other statement between."""
    gap, grammar = sentence.lemmas[first:last], sentence.lexicon.grammar
    if len(gap) > 10 or any(w in (",", ";", ":", "and", "or", "with", "without", "no") for w in gap):
        return False
    return any(w in grammar["location_prepositions"] for w in gap)

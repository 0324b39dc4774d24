"""The report of a synthetic case: what it tells, in which words and layout. The truth is kept apart from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .grammar import grammar, say
from .kinds import ASSESSABLE, KIND, KINDS
from .scene import Drawn

STYLES = ("regions", "organs", "prose", "list", "short")
_STYLE_WEIGHTS = (0.3, 0.2, 0.25, 0.1, 0.15)
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


@dataclass(frozen=True)
class ReportPlan:
    """What a report is written from. ``visible``: organ -> share of it that the scan shows."""

    drawn: tuple[Drawn, ...]
    visible: Mapping[str, float]
    phase: str
    coverage: str
    spacing_ijk: tuple[float, float, float]
    unreported: float
    no_gallbladder: bool = False
    phantom: bool = True  # False: a real scan; nothing is said of what was not drawn


@dataclass(frozen=True)
class Statement:
    """A sentence of the report and what it is meant to say. ``status``: present, uncertain, absent or normal.

    ``kinds``: the kinds of findings it is about. ``organ``: the organ that it calls normal, or that of its first kind.
    ``start`` and ``end`` slice the report's text.
    """

    text: str
    status: str
    kinds: tuple[str, ...]
    organ: str
    impression: bool = False
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class WrittenReport:
    """``unreported``: kinds that are in the image and that the report leaves out. ``style``: of ``STYLES``."""

    text: str
    statements: tuple[Statement, ...]
    unreported: tuple[str, ...]
    style: str


def write_report(plan: ReportPlan, rng: np.random.Generator) -> WrittenReport:
    """Write a report. A finding is left out at the rate ``plan.unreported``; everything else that it says is true."""
    style = str(rng.choice(STYLES, p=_STYLE_WEIGHTS))
    in_cm = bool(rng.random() < 0.35)
    told = [d for d in plan.drawn if rng.random() >= plan.unreported]
    words = {d.kind.name: _words(d, in_cm, rng) for d in told}
    statements = [_of_finding(d, words[d.kind.name], rng) for d in told]
    if plan.phantom:
        statements += _of_what_is_not_there(plan, rng, talkative=float(rng.uniform(0.25, 0.95)))
    impression = [_of_impression(d, words[d.kind.name], rng) for d in told if _is_summed_up(d, rng)]
    blocks = _before_findings(plan, rng)
    blocks.append(_findings_block(plan, statements, style, rng))
    if style != "short" and (impression or rng.random() < 0.8):
        blocks.append(_impression_block(impression, statements, rng))
    text = "\n\n".join(block for block in blocks if block) + "\n"
    left_out = tuple(d.kind.name for d in plan.drawn if d.kind.name not in words)
    return WrittenReport(text, _placed(text, [*statements, *impression]), left_out, style)


def size_text(millimetres: int, in_cm: bool) -> str:
    """A measurement as a report writes it: "12 mm", or "1.2 cm"."""
    return f"{millimetres / 10:.1f} cm" if in_cm else f"{millimetres} mm"


# --- Sentences


def _words(drawn: Drawn, in_cm: bool, rng: np.random.Generator) -> dict[str, str]:
    words = dict(drawn.words)
    if drawn.sizes_mm:
        size = drawn.sizes_mm[0]
        if size > 15 and rng.random() < 0.3:
            size = max(size + int(rng.integers(-1, 2)), 1)  # readers measure differently
        words["size"] = size_text(size, in_cm)
    if "many" in words:
        words["count"] = _NUMBERS.get(int(words["many"]), "multiple")
    return words


def _variant(entry: Mapping[str, list[str]], words: Mapping[str, str]) -> list[str]:
    name = "default"
    if words.get("side") == "bilateral":
        name = "bilateral"
    elif words.get("lobe") == "both lungs":
        name = "both"
    elif int(words.get("many", "1")) > 1:
        name = "many"
    return entry.get(name, entry["default"])


def _of_finding(drawn: Drawn, words: dict[str, str], rng: np.random.Generator) -> Statement:
    entry = grammar()["findings"][drawn.kind.name]
    unsure = drawn.grade < 0.3 and rng.random() < 0.2
    status = "uncertain" if unsure else "present"
    return Statement(say(_variant(entry[status], words), words, rng), status, (drawn.kind.name,), drawn.kind.organ)


def _of_impression(drawn: Drawn, words: dict[str, str], rng: np.random.Generator) -> Statement:
    entry = grammar()["findings"][drawn.kind.name]
    text = say(_variant(entry["impression"], words), words, rng)
    return Statement(text, "present", (drawn.kind.name,), drawn.kind.organ, impression=True)


def _is_summed_up(drawn: Drawn, rng: np.random.Generator) -> bool:
    return drawn.grade >= 0.3 and bool(rng.random() < 0.55 + 0.4 * drawn.grade)


def _of_what_is_not_there(plan: ReportPlan, rng: np.random.Generator, talkative: float) -> list[Statement]:
    """Organs called normal, findings denied one by one or together; much is left unmentioned."""
    there = {d.kind.name for d in plan.drawn}
    about = grammar()
    statements: list[Statement] = []
    deniable = [k.name for k in KINDS if k.name not in there and plan.visible[k.organ] >= ASSESSABLE]
    for group in about["absent_together"]:
        if set(group["kinds"]) <= set(deniable) and rng.random() < 0.4 * talkative:
            deniable = [name for name in deniable if name not in group["kinds"]]
            text = say(group["texts"], {}, rng)
            statements.append(Statement(text, "absent", tuple(group["kinds"]), KIND[group["kinds"][0]].organ))
    for organ, templates in about["normal"].items():
        kinds = {k.name for k in KINDS if k.organ == organ}
        # an organ that only part of the scan shows is not called normal
        if not kinds & there and plan.visible[organ] >= 0.6 and rng.random() < 0.55 * talkative:
            statements.append(Statement(say(templates, {}, rng), "normal", (), organ))
            deniable = [name for name in deniable if name not in kinds or rng.random() < 0.2]
    for name in deniable:
        if rng.random() < 0.4 * talkative:
            text = say(about["findings"][name]["absent"]["default"], {}, rng)
            statements.append(Statement(text, "absent", (name,), KIND[name].organ))
    if plan.no_gallbladder and plan.coverage != "chest" and rng.random() < 0.7:
        statements.append(Statement(say(about["removed_gallbladder"], {}, rng), "other", (), "gallbladder"))
    return statements


# --- Layout


def _before_findings(plan: ReportPlan, rng: np.random.Generator) -> list[str]:
    frame = grammar()["frame"]
    contrast = "without contrast" if plan.phase == "unenhanced" else "with intravenous contrast"
    region = {"chest": "chest", "abdomen": "abdomen"}.get(plan.coverage, "chest and abdomen")
    words = {
        "region": region,
        "contrast": contrast if rng.random() < 0.5 else contrast.replace("intravenous ", "IV "),
        "thickness": f"{plan.spacing_ijk[2]:.1f}".removesuffix(".0"),
    }
    blocks = [say(frame["title"], words, rng)]
    upper = rng.random() < 0.6
    for heading in ("indication", "technique", "comparison"):
        if heading == "technique" or rng.random() < 0.6:
            name = heading.upper() if upper else heading.capitalize()
            key = heading if plan.phantom or heading != "technique" else "technique_planted"
            blocks.append(f"{name}: {say(frame[key], words, rng)}")
    return blocks


def _findings_block(plan: ReportPlan, statements: list[Statement], style: str, rng: np.random.Generator) -> str:
    regions = grammar()["regions"]
    order = [str(r) for r in ("chest", "heart", "abdomen", "bones")]
    by_region: dict[str, list[str]] = {region: [] for region in order}
    for organ, group in _by_organ(statements, rng).items():
        by_region[regions[organ]] += [f"{_organ_heading(organ)}{s}" for s in group] if style == "organs" else group
    if plan.phantom:
        _add_other(plan, by_region, style, rng)
    if not any(by_region.values()):
        by_region["chest"].append(say(grammar()["frame"]["nothing"], {}, rng))
    head = str(rng.choice(["FINDINGS", "Findings"]))
    if style == "organs":
        return f"{head}:\n" + "\n".join(line for region in order for line in by_region[region])
    if style == "list":
        return f"{head}:\n" + "\n".join(f"- {line}" for region in order for line in by_region[region])
    if style == "regions":
        headings = grammar()["headings"]
        lines = [
            f"{headings[region][int(rng.integers(len(headings[region])))]}: {' '.join(by_region[region])}"
            for region in order
            if by_region[region]
        ]
        return f"{head}:\n" + "\n".join(lines)
    between = " " if style == "short" or rng.random() < 0.5 else "\n\n"
    return f"{head}:\n" + between.join(" ".join(by_region[region]) for region in order if by_region[region])


def _by_organ(statements: Sequence[Statement], rng: np.random.Generator) -> dict[str, list[str]]:
    """Sentences of each organ: what is there first, or in any order."""
    groups: dict[str, list[Statement]] = {}
    for statement in statements:
        groups.setdefault(statement.organ, []).append(statement)
    order = sorted(groups, key=list(grammar()["regions"]).index)
    mixed = rng.random() < 0.3
    return {
        organ: [s.text for s in (rng.permutation(np.array(groups[organ], object)) if mixed else groups[organ])]
        for organ in order
    }


def _organ_heading(organ: str) -> str:
    return f"{grammar()['organ_headings'][organ]}: "


def _add_other(plan: ReportPlan, by_region: dict[str, list[str]], style: str, rng: np.random.Generator) -> None:
    """Sentences on structures that have no findings in the corpus."""
    for region, templates in grammar()["other"].items():
        seen = {"chest": plan.coverage != "abdomen", "abdomen": plan.coverage != "chest"}.get(region, True)
        for template in templates:
            if seen and style != "organs" and rng.random() < 0.25:
                by_region["heart" if region == "chest" else region].append(say([template], {}, rng))


def _impression_block(impression: list[Statement], statements: list[Statement], rng: np.random.Generator) -> str:
    head = str(rng.choice(["IMPRESSION", "Impression", "CONCLUSION"]))
    lines = [s.text for s in impression]
    if not lines:
        if any(s.status in ("present", "uncertain") for s in statements):
            return ""
        lines = [say(grammar()["frame"]["nothing"], {}, rng)]
    if len(lines) > 1 and rng.random() < 0.7:
        return f"{head}:\n" + "\n".join(f"{n}. {line}" for n, line in enumerate(lines, 1))
    return f"{head}:\n" + " ".join(lines)


def _placed(text: str, statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """Statements with their place in the text; those that the layout left out are dropped."""
    placed = []
    split = max(text.rfind(f"{head}:\n") for head in ("IMPRESSION", "Impression", "CONCLUSION"))
    for statement in statements:
        start = text.find(statement.text, split if statement.impression and split > 0 else 0)
        if start >= 0:
            placed.append(replace(statement, start=start, end=start + len(statement.text)))
    return tuple(placed)

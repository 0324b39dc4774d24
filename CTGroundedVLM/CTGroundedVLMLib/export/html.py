"""``index.html``: one page that shows a result, with nothing outside it. Template, style and script lie in ``data/``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import jinja2

from ..types import Sentence, SentenceLink
from .canvas import SEGMENT_COLOURS, shorten
from .labels import (
    RESEARCH_NOTICE,
    anatomical,
    finite,
    organ_display,
    score_reason,
    segment_display,
    short_hash,
)
from .plan import ExportPlan, PlannedPicture, probability_words

_DATA = Path(__file__).parents[1] / "data"
_MARKS = {"present": "+", "absent": "−", "uncertain": "?", "historical": "↺"}


def page_html(plan: ExportPlan, document: dict[str, object], pictures: Sequence[bytes]) -> bytes:
    """The page as UTF-8.

    Args:
        document: of ``tables.results_document``.
        pictures: one WebP per picture of the plan, in its order.

    The page's content security policy allows only its own style and script, by their hashes, and data pictures.
    """
    style, script = _asset("results_page.css"), _asset("results_page.js")
    page = _template().render(
        d=document,
        style=style,
        script=script,
        policy=_policy(style, script),
        research_notice=RESEARCH_NOTICE,
        model_hash=short_hash(plan.result.model.sha256),
        marks=_MARKS,
        lines=_lines(plan),
        details=[_detail(plan, link) for link in plan.result.links],
        scores=_scores(plan),
        compared=bool(plan.result.comparisons),
        organs=[
            {"info": o, "display": organ_display(o.organ), "segments": anatomical(o.segments)}
            for o in plan.result.organs
        ],
        organ_names=sorted({(s.organ, organ_display(s.organ)) for s in plan.result.findings}),
        figures=[_figure(plan, p, data) for p, data in zip(plan.pictures, pictures, strict=True)],
    )
    return page.encode("utf-8", "xmlcharrefreplace")


def _lines(plan: ExportPlan) -> list[list[dict[str, object]]]:
    """The whole report text, in order, as lines of runs: sentences, and what lies between them.

    A line ends with the last line break between two sentences. Each is a block of the page: a browser lays out a
    report of a megabyte as one block again and again while it loads.
    """
    report = plan.result.report
    linked = {link.sentence: link for link in plan.result.links}
    lines: list[list[dict[str, object]]] = [[]]
    position = 0
    for number, sentence in enumerate(report.sentences):
        _add_between(lines, report.text[position : sentence.start])
        lines[-1].append(_sentence_run(plan, number, sentence, linked.get(number)))
        position = sentence.end
    _add_between(lines, report.text[position:])
    return [line for line in lines if line]


def _add_between(lines: list[list[dict[str, object]]], text: str) -> None:
    head, break_, tail = text.rpartition("\n")
    if break_:
        lines[-1].append({"text": head + break_, "sentence": None})
        lines.append([])
    if tail:
        lines[-1].append({"text": tail, "sentence": None})


def _sentence_run(plan: ExportPlan, number: int, sentence: Sentence, link: SentenceLink | None) -> dict[str, object]:
    statuses = dict.fromkeys(f.status for f in sentence.findings)
    return {
        "text": plan.result.report.text[sentence.start : sentence.end],
        "sentence": number,
        "linked": link is not None,
        "figure": plan.picture_of_sentence.get(number),
        "colour": _colour(plan, anatomical(link.segments)[0]) if link and link.segments else None,
        "marks": " ".join(_MARKS[s] for s in statuses),
    }


def _detail(plan: ExportPlan, link: SentenceLink) -> dict[str, object]:
    """What the page says beside the picture of a sentence."""
    sentence = plan.result.report.sentences[link.sentence]
    return {
        "sentence": link.sentence,
        "section": sentence.section,
        "excerpt": shorten(plan.result.report.text[sentence.start : sentence.end], 220),
        "segments": [
            {"number": n, "display": segment_display(name), "name": name, "colour": _colour(plan, name)}
            for n, name in enumerate(anatomical(link.segments), 1)
        ],
        "guessed": link.source == "embedding",
        "missing": [segment_display(name) for name in anatomical(link.missing_segments)],
        "findings": [{"name": f.name, "status": f.status, "mark": _MARKS[f.status]} for f in sentence.findings],
        "measurements": [" × ".join(f"{v:g}" for v in m.values_mm) + " mm" for m in sentence.measurements],
        "citations": [
            f"image {c.image}" if c.series is None else f"series {c.series}, image {c.image}"
            for c in sentence.citations
        ],
        "comparison_only": sentence.comparison_only,
        "organs": link.organs,
    }


def _scores(plan: ExportPlan) -> list[dict[str, object]]:
    """The rows of the table: disagreements with the report first, the worst first; what was not scored last."""
    rows = [_score(plan, place) for place in range(len(plan.result.findings))]
    return sorted(rows, key=lambda row: (row["probability"] is None, -row["severity"]))


def _score(plan: ExportPlan, place: int) -> dict[str, object]:
    score = plan.result.findings[place]
    heatmap = plan.heatmap_of_score.get(place)
    comparison = plan.comparison_of_score.get(place)
    return {
        "comparison": comparison,
        "severity": comparison.severity if comparison else 0.0,
        "organ": score.organ,
        "organ_display": organ_display(score.organ),
        "finding": score.finding,
        "probability": finite(score.probability),
        "reason": score_reason(score),
        "margin": finite(score.margin),
        "calibrated": score.calibrated,
        "source": score.source,
        "positive": score.positive,
        "negative": score.negative,
        "figure": None if heatmap is None else plan.picture_of_heatmap.get(heatmap),
    }


def _figure(plan: ExportPlan, picture: PlannedPicture, data: bytes) -> dict[str, object]:
    source = "data:image/webp;base64," + base64.b64encode(data).decode("ascii")
    if picture.heatmap is None:
        names = ", ".join(segment_display(s) for s in anatomical(picture.segments))
        sentences = f" (sentence {', '.join(str(n + 1) for n in picture.sentences)})" if picture.sentences else ""
        title = f"{shorten(names, 80)}{sentences if len(sentences) < 40 else ''}"
        alt = f"Axial, coronal and sagittal CT slices with outlines of {names}"
        return {"kind": "Segments", "title": title, "alt": alt, "source": source, "file": picture.file}
    heatmap = plan.result.heatmaps[picture.heatmap]
    words = probability_words(plan.score_of_heatmap.get(picture.heatmap))
    title = f"{organ_display(heatmap.organ)}: {heatmap.finding}"
    alt = f"Axial, coronal and sagittal CT slices with the heat map of {heatmap.finding} in {heatmap.organ}. {words}"
    return {"kind": "Heat maps", "title": title, "alt": alt.strip(), "source": source, "file": picture.file}


def _colour(plan: ExportPlan, segment: str) -> int:
    return plan.colours[segment] % len(SEGMENT_COLOURS)


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


@lru_cache(maxsize=8)
def _asset(name: str) -> str:
    return (_DATA / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("results_page.html"))

"""Does a CT find its report among all, and a report its CT?

A model of organs compares each organ's image feature with what a report says of that organ; a CT and a report are as similar as
their organs are on average, over the organs that the CT shows and the report mentions. A model of the whole patient compares its
one feature with the whole report. Shapes: N cases, O organs, E embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import patient_weights
from .estimates import EvaluationSettings, mean_estimate, shown

RANKS = (1, 5, 10, 50)


@dataclass(frozen=True)
class Pairing:
    """A case's features by organ: of the image, and of what its report says; ``report`` tells equal reports."""

    patient_id: str
    image: Mapping[str, np.ndarray]
    text: Mapping[str, np.ndarray]
    report: str


def similarities(cases: Sequence[Pairing], organs: Sequence[str]) -> np.ndarray:
    """(N, N): image of case i (rows) against report of case k; -inf where they share no organ."""
    size = next(len(v) for case in cases for v in (*case.image.values(), *case.text.values()))
    image_NOE, text_NOE = np.zeros((2, len(cases), len(organs), size))
    seen_NO, said_NO = np.zeros((2, len(cases), len(organs)))
    for n, case in enumerate(cases):
        for o, organ in enumerate(organs):
            if organ in case.image:
                image_NOE[n, o], seen_NO[n, o] = case.image[organ], 1
            if organ in case.text:
                text_NOE[n, o], said_NO[n, o] = case.text[organ], 1
    total_NN = image_NOE.reshape(len(cases), -1) @ text_NOE.reshape(len(cases), -1).T
    shared_NN = seen_NO @ said_NO.T
    return np.divide(total_NN, shared_NN, out=np.full(total_NN.shape, -np.inf), where=shared_NN > 0)


def ranking(similarity_NN: np.ndarray, relevant_NN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query (row): the rank of the first relevant item, from 1, and the average precision.

    Of equally similar items the relevant ones come last: a model that cannot tell gains nothing.
    """
    order_NN = np.lexsort((relevant_NN, -similarity_NN), axis=1)
    sorted_NN = np.take_along_axis(relevant_NN, order_NN, axis=1)
    place_N = np.arange(1, sorted_NN.shape[1] + 1)
    precision_NN = np.cumsum(sorted_NN, axis=1) / place_N
    return sorted_NN.argmax(1) + 1, (precision_NN * sorted_NN).sum(1) / sorted_NN.sum(1)


def retrieval(cases: Sequence[Pairing], organs: Sequence[str], settings: EvaluationSettings) -> dict[str, Any]:
    """Recall at ``RANKS`` and mean average precision, both ways; equal reports are equally right.

    Intervals resample the patients of the queries; the gallery stays whole. {} with fewer than two different reports.
    """
    cases = [case for case in cases if case.image and case.text]
    reports = np.array([case.report for case in cases])
    if len(set(reports)) < 2:
        return {}
    similarity_NN = similarities(cases, organs)
    relevant_NN = reports[:, None] == reports[None]
    weights_RN = patient_weights([case.patient_id for case in cases], settings.resamples, settings.seed)
    out: dict[str, Any] = {"cases": len(cases), "different_reports": len(set(reports))}
    for name, matrix in (("image_to_report", similarity_NN), ("report_to_image", similarity_NN.T)):
        first_N, precision_N = ranking(matrix, relevant_NN)
        out[name] = {"map": mean_estimate(precision_N, weights_RN, settings).to_record()}
        for rank in RANKS:
            if rank < len(cases):
                hits_N = (first_N <= rank).astype(float)
                found = mean_estimate(hits_N, weights_RN, settings).to_record()
                out[name][f"recall@{rank}"] = found | {"chance": _chance(relevant_NN, rank)}
    return out


def _chance(relevant_NN: np.ndarray, rank: int) -> float:
    """Recall of a random order: 1 - C(N - m, rank) / C(N, rank) with m relevant of N, averaged over queries."""
    number, relevant_N = relevant_NN.shape[1], relevant_NN.sum(1)
    miss_N = np.ones(len(relevant_N))
    for drawn in range(rank):
        miss_N *= np.clip(number - relevant_N - drawn, 0, None) / (number - drawn)
    return float((1 - miss_N).mean())


def retrieval_lines(result: Mapping[str, Any]) -> list[str]:
    """A markdown table."""
    if not result:
        return ["## Retrieval", "", "Fewer than two different reports: nothing to retrieve.", ""]
    ranks = [name for name in result["image_to_report"] if name.startswith("recall")]
    lines = [
        f"## Retrieval among {result['cases']} cases with {result['different_reports']} different reports",
        "",
        "| query | MAP | " + " | ".join(ranks) + " |",
        "|---|---:|" + "---:|" * len(ranks),
    ]
    for name, title in (("image_to_report", "image -> report"), ("report_to_image", "report -> image")):
        row = result[name]
        cells = [shown(row["map"]), *(f"{shown(row[r])} (chance {row[r]['chance']:.3f})" for r in ranks)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*lines, ""]

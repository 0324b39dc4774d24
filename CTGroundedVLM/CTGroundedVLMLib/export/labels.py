"""What every exported file says the same way: notices, display names, file names, numbers that JSON can hold."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from .. import anatomy
from ..errors import SegmentationError
from ..types import FindingScore, ModelIdentity

RESEARCH_NOTICE = "Research use only. Not a medical device: not for diagnosis or treatment."
UNTRAINED_NOTICE = "UNTRAINED model (random weights): probabilities and heat maps mean nothing."
_SLUG_LENGTH = 48


def notice(model: ModelIdentity) -> str:
    """The text that goes with every number of this model: UNTRAINED where it is so, and research use only."""
    own = [model.notice] if model.notice else []
    if model.trained:
        return " ".join([RESEARCH_NOTICE, *own])
    if model.notice.startswith("UNTRAINED"):
        return f"{model.notice} {RESEARCH_NOTICE}"
    return " ".join([UNTRAINED_NOTICE, RESEARCH_NOTICE, *own])


def short_hash(sha256: str) -> str:
    """The first ten digits of a checksum; empty where there is none, as for random weights."""
    return sha256[:10] if re.fullmatch(r"[0-9a-fA-F]{64}", sha256) else ""


def segment_display(name: str) -> str:
    """A segment's name for readers: the registry's; for a class that is not in it, its name without underscores."""
    try:
        return anatomy.segment(name).display
    except SegmentationError:
        return organ_display(name)


def anatomical(names: Iterable[str]) -> tuple[str, ...]:
    """Segments in TotalSegmentator's label order, which follows the body (T12, T11, … T1); unknown ones last."""
    labels = _labels()
    return tuple(sorted(names, key=lambda name: labels.get(name, len(labels) + 1)))


@lru_cache(maxsize=1)
def _labels() -> dict[str, int]:
    return {name: label for label, name in anatomy.label_names().items()}


def organ_display(name: str) -> str:
    """An organ's name for readers: ``small_bowel`` -> "Small bowel"."""
    words = name.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def slug(text: str) -> str:
    """An ASCII file-name part for any text: ``pleural effusion`` -> ``pleural-effusion``. Accents are dropped.

    A text that loses more than spaces and accents ("<5 mm" against ">5 mm", Chinese), or is longer than 48 characters,
    ends in eight digits of its SHA-256: different texts keep different names.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in decomposed if not unicodedata.combining(c)).lower()
    name = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    if name and len(name) <= _SLUG_LENGTH and re.fullmatch(r"[a-z0-9 _-]+", plain):
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{name[:_SLUG_LENGTH].strip('-') or 'text'}-{digest}"


def unique(names: Iterable[str]) -> list[str]:
    """The names in order, repeated ones numbered: ``a, a, b`` -> ``a, a-2, b``."""
    result: list[str] = []
    taken: set[str] = set()
    for stem in names:
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        result.append(name)
    return result


def finite(value: float | None) -> float | None:
    """The number as a float; None for None, NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def score_reason(score: FindingScore) -> str | None:
    """Why a finding has no probability, in words; None where it has one."""
    if finite(score.probability) is not None:
        return None
    if score.reason:
        return score.reason
    return "no reason given" if score.probability is None else "the model's output was not a finite number"


def jsonable(value: object) -> object:
    """``value`` as strict JSON holds it: NaN and infinity become None, arrays lists, anything unknown its ``str``."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, float):
        return finite(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in (sorted(value, key=str) if isinstance(value, (set, frozenset)) else value)]
    return str(value)

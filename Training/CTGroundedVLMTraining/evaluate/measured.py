"""``measured.csv``: the very scores and labels that a result was computed from, one row a volume.

With it a folder of results can be compared with another one (``comparison``) wherever the tables it came from have gone.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from CTGroundedVLMLib.errors import InputError

from .joining import Dataset
from .tables import labels, probabilities, read_table

FILE = "measured.csv"
_LABEL = "label of "


def measured_csv(keys: Sequence[str], data: Dataset) -> str:
    """``case_id, patient_id``, then of each key its score, with all digits, and "label of" it; empty where unknown."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case_id", "patient_id", *keys, *(f"{_LABEL}{key}" for key in keys)])
    for volume, patient, scores_F, labels_F in zip(
        data.volumes, data.patients, data.scores_NF.tolist(), data.labels_NF.tolist(), strict=True
    ):
        scores = ["" if math.isnan(score) else repr(score) for score in scores_F]
        known = ["" if math.isnan(label) else str(int(label)) for label in labels_F]
        writer.writerow([volume, patient, *scores, *known])
    return out.getvalue()


def read_measured(folder: Path, keys: Sequence[str]) -> Dataset:
    """The volumes of a result, in the order of their names.

    Raises:
        InputError: the file is not there (a result of an older version), or is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {FILE}: an older version made it. Run its `ctgvlm-train evaluate` again; scores that are there "
            "are taken as they are."
        )
    table = read_table(path, lambda header: [c for c in header if c != "case_id"])
    lacking = [key for key in keys if key not in table.columns or f"{_LABEL}{key}" not in table.columns]
    if lacking or "patient_id" not in table.columns:
        raise InputError(f"{path} has no column {(lacking or ['patient_id'])[0]!r}. Run `ctgvlm-train evaluate` again.")
    data = Dataset(
        table.keys,
        table.columns["patient_id"],
        np.stack([probabilities(table, key) for key in keys], 1),
        np.stack([labels(table, f"{_LABEL}{key}") for key in keys], 1),
        {},
        "as measured",
        {},
    )
    return data.select(np.argsort(data.volumes))

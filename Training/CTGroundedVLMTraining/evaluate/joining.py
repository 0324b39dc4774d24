"""Scores and labels brought together by volume, and everything that did not find its match.

Shapes: N volumes, F items of the protocol.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from CTGroundedVLMLib.errors import InputError

from .protocols import Item, Protocol, Question, choose_protocol
from .tables import (
    PATIENT_COLUMNS,
    Patients,
    Table,
    id_column_of,
    labels,
    listed,
    loosen,
    probabilities,
    read_header,
    read_table,
)

_JOINED_LOOSELY = "volumes joined without folders and in any case, for no volume has the same name in both tables"
_CT_RATE_NAME = re.compile(r"^([a-z]+_\d+)_[a-z]+_\d+$")


@dataclass(frozen=True)
class Dataset:
    """The volumes that have a row in both tables, named as the scores name them.

    ``scores_NF``: NaN where there is no score. ``labels_NF``: 1, 0, NaN where unknown. ``unmatched``: by kind, what found no
    match. ``patient_rule``: how patients were told. ``reasons``: item key -> why it has no scores or no labels at all.
    ``patients_from_names``: they were told by volume names, so that they cannot be compared with a table's own names of patients.
    ``filled_NF``: the scores with missing ones as 0 (fVLM's release), before an item takes the highest of several columns.
    """

    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    scores_NF: np.ndarray
    labels_NF: np.ndarray
    unmatched: Mapping[str, tuple[str, ...]]
    patient_rule: str
    reasons: Mapping[str, str]
    patients_from_names: bool = False
    filled_NF: np.ndarray | None = None

    def select(self, chosen_N: np.ndarray) -> Dataset:
        """The volumes that the mask or the indices name."""
        numbers = np.arange(len(self.volumes))[chosen_N]
        return replace(
            self,
            volumes=tuple(self.volumes[n] for n in numbers),
            patients=tuple(self.patients[n] for n in numbers),
            scores_NF=self.scores_NF[numbers],
            labels_NF=self.labels_NF[numbers],
            filled_NF=None if self.filled_NF is None else self.filled_NF[numbers],
        )

    def sha256(self) -> str:
        """Of volumes in the order of their names, their scores and labels (float64, little-endian; NaN is one value)."""
        order = np.argsort(self.volumes)
        digest = hashlib.sha256(json.dumps([self.volumes[n] for n in order]).encode())
        for values_NF in (self.scores_NF, self.labels_NF):
            ordered_NF = np.where(np.isnan(values_NF), np.nan, values_NF)[order]
            digest.update(np.ascontiguousarray(ordered_NF, "<f8").tobytes())
        return digest.hexdigest()

    def notes(self) -> list[str]:
        """What a reader of the numbers has to know, one sentence each."""
        notes = [f"{len(names)} {kind}: {listed(names)}" for kind, names in self.unmatched.items() if names]
        return [*notes, *self.reasons.values(), f"patients: {self.patient_rule}"]


def read_dataset(
    scores: Path,
    labels_path: Path,
    protocol_name: str,
    label_map: str | None = None,
    patients: Mapping[str, str] | None = None,
) -> tuple[Protocol, Dataset]:
    """The protocol and the joined tables.

    Args:
        patients: volume key -> patient, where it is known from elsewhere (a manifest); volumes that it lacks are left out.

    Raises:
        InputError: a table cannot be read, or nothing of the two tables matches.
    """
    label_header = read_header(labels_path)
    protocol = choose_protocol(protocol_name, label_header, label_map)
    check_labels(protocol, label_header, labels_path)
    wanted = [c for item in protocol.items for c in label_columns(item, label_header)]
    label_table = read_table(labels_path, lambda header: [*wanted, *_patient_columns(header)])
    score_header = read_header(scores)
    found = {question: score_column(question, score_header, scores) for question in protocol.questions}
    used = [column for column in found.values() if column]
    score_table = read_table(scores, lambda header: [*used, *_patient_columns(header)])
    return protocol, _join(protocol, score_table, label_table, found, patients)


def _patient_columns(header: Sequence[str]) -> list[str]:
    return [name for name in header if name in PATIENT_COLUMNS][:1]


def score_column(question: Question, header: Sequence[str], path: Path) -> str | None:
    """The column with the question's scores, in any case: ours, the release's, or the finding's plain name.

    Raises:
        InputError: two columns hold it.
    """
    ours, release, plain = _score_names(question)
    prefix = f"{question.organ}_{question.finding}_".lower()
    other_prompts = [name.lower() for name in header if name.lower().startswith(prefix)]
    for names in ([ours], [release], other_prompts, [plain]):
        held = [name for name in header if name.lower() in names]
        if len(held) > 1:
            raise InputError(f"{path}: {question.key} has {len(held)} columns: {listed(held)}. Remove all but one.")
        if held:
            return held[0]
    return None


def _score_names(question: Question) -> tuple[str, str, str]:
    release = f"{question.organ}_{question.finding}_{question.negative}_{question.positive}"
    return question.key.lower(), release.lower(), question.finding.lower()


def label_columns(item: Item, header: Sequence[str]) -> list[str]:
    """The columns of which any makes the item positive: of that name, or "name*location" as RAD-ChestCT has them.

    Where there is none, the first one that has the finding's own name (``Item.own_labels``).
    """
    lower = [name.lower() for name in item.labels]
    exact = [name for name in header if name.lower() in lower]
    located = [name for name in header if "*" in name and name.partition("*")[0].strip().lower() in lower]
    own = (name for wanted in item.own_labels for name in header if name.lower() == wanted.lower())
    return exact + located or list(own)[:1]


def check_labels(protocol: Protocol, header: Sequence[str], path: Path) -> None:
    """Raises InputError where the table has no column for any item of the protocol."""
    if not any(label_columns(item, header) for item in protocol.items):
        names = dict.fromkeys(name for item in protocol.items for name in item.labels)
        raise InputError(
            f"Nothing can be evaluated by the protocol {protocol.name}: {path} has no column {listed(names)}. Name other "
            "labels, another protocol, or another of its label maps (--label-map)."
        )


def _join(
    protocol: Protocol,
    scores: Table,
    label_table: Table,
    columns: Mapping[Question, str | None],
    patients: Patients,
) -> Dataset:
    names = scores.keys
    (scores, label_table, patients), loosely = _matching(scores, label_table, patients)
    known = _known(label_table, patients)
    label_rows = {key: n for n, key in enumerate(label_table.keys)}
    kept = [n for n, key in enumerate(scores.keys) if key in known]
    volumes = tuple(scores.keys[n] for n in kept)
    score_values = {q: probabilities(scores, c) for q, c in columns.items() if c}
    rows = [label_rows[volume] for volume in volumes]
    score_NF, filled_NF = (
        np.stack([_item_scores(item, values, len(scores.keys))[kept] for item in protocol.items], 1)
        for values in (score_values, {q: np.nan_to_num(v) for q, v in score_values.items()})
    )
    label_NF = np.stack([_item_labels(item, label_table)[rows] for item in protocol.items], 1)
    reasons = _reasons(protocol, columns, score_NF, label_table, scores.path)
    if len(reasons) == len(protocol.items):
        raise InputError(f"Nothing can be evaluated by the protocol {protocol.name}: {next(iter(reasons.values()))}.")
    told = _told_patients(volumes, scores, label_table, patients)
    own, rule = told or _patients_by_name(volumes)
    volumes = tuple(names[n] for n in kept)
    unmatched = {_JOINED_LOOSELY: volumes if loosely else ()}
    unmatched |= _unmatched(scores, label_table, columns, known) | _other_labels(protocol, label_table)
    return Dataset(volumes, own, score_NF, label_NF, unmatched, rule, reasons, told is None, filled_NF)


def _matching(scores: Table, label_table: Table, patients: Patients) -> tuple[tuple[Table, Table, Patients], bool]:
    """The same with keys by which volumes match, and whether these are the loose ones. Raises InputError: there are none."""
    strict = (scores, label_table, patients)
    for loosely, found in enumerate((strict, loosen(*strict))):
        if not _known(*found[1:]).isdisjoint(found[0].keys):
            return found, bool(loosely)
    raise InputError(
        f"No volume of {scores.path} has a row in {label_table.path}: {listed(scores.keys, 2)} against "
        f"{listed(label_table.keys, 2)}. Are they of the same data set?"
    )


def _known(label_table: Table, patients: Patients) -> set[str]:
    return set(label_table.keys) if patients is None else set(label_table.keys) & patients.keys()


def _item_scores(item: Item, values: Mapping[Question, np.ndarray], length: int) -> np.ndarray:
    """The highest of its questions' scores; NaN where one of them is, for a maximum over fewer means something else."""
    if any(question not in values for question in item.questions):
        return np.full(length, np.nan)
    return np.max([values[question] for question in item.questions], axis=0)


def _item_labels(item: Item, table: Table) -> np.ndarray:
    """1 where any column is 1, else NaN where one is unknown, else 0."""
    names = label_columns(item, table.header)
    if not names:
        return np.full(len(table.keys), np.nan)
    values = np.stack([labels(table, name) for name in names])
    return np.where((values == 1).any(0), 1.0, values.max(0))


def _reasons(
    protocol: Protocol, columns: Mapping[Question, str | None], scores_NF: np.ndarray, label_table: Table, path: Path
) -> dict[str, str]:
    reasons = {}
    for n, item in enumerate(protocol.items):
        lacking = [question.key for question in item.questions if columns[question] is None]
        if not label_columns(item, label_table.header):
            reasons[item.key] = f"{item.key}: {label_table.path} has no column {listed(item.labels)}"
        elif lacking:
            reasons[item.key] = f"{item.key}: {path} has no column for {listed(lacking)}"
        elif np.isnan(scores_NF[:, n]).all():
            reasons[item.key] = f"{item.key}: no volume has a score"
    return reasons


def _unmatched(
    scores: Table, label_table: Table, columns: Mapping[Question, str | None], known: set[str]
) -> dict[str, tuple[str, ...]]:
    scored, used = set(scores.keys), set(columns.values())
    aside = {id_column_of(scores.header), *PATIENT_COLUMNS, "", "Unnamed: 0"}
    return {
        "volumes with scores but without labels, left out": tuple(k for k in scores.keys if k not in known),
        "volumes with labels but without scores, left out": tuple(
            k for k in label_table.keys if k in known and k not in scored
        ),
        "score columns that the protocol does not use": tuple(
            c for c in scores.header if c not in used and c not in aside
        ),
        "score columns made with other prompts than the protocol's": tuple(
            column for question, column in columns.items() if column and _other_prompts(question, column)
        ),
    }


def _other_prompts(question: Question, column: str) -> bool:
    return column.lower() not in _score_names(question)


def _other_labels(protocol: Protocol, table: Table) -> dict[str, tuple[str, ...]]:
    """Label columns of the finding's own name: whether they mean what the label map says, the table does not tell."""
    mapped = [item for item in protocol.items if item.name not in item.labels]
    own = [
        column
        for item in mapped
        for column in label_columns(item, table.header)
        if column.lower() in [name.lower() for name in item.own_labels] and column.lower() not in item.labels
    ]
    return {"label columns taken by the finding's own name, instead of the label map's": tuple(own)}


def _told_patients(
    volumes: Sequence[str], scores: Table, label_table: Table, given: Mapping[str, str] | None
) -> tuple[tuple[str, ...], str] | None:
    """Patients by the manifest or a column of a table, and which; None where neither names them."""
    if given is not None:
        return tuple(given[volume] for volume in volumes), "as the manifest says"
    for table in (label_table, scores):
        for name in PATIENT_COLUMNS:
            if name in table.columns:
                of = dict(zip(table.keys, table.columns[name], strict=True))
                empty = [volume for volume in volumes if not of[volume].strip()]
                if empty:
                    raise InputError(f"{table.path}, column {name!r}: no patient for {listed(empty)}. Fill it in.")
                return tuple(of[volume].strip() for volume in volumes), f"column {name} of {table.path}"
    return None


def _patients_by_name(volumes: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Volume by volume, so that one other name leaves the rest grouped: as CT-RATE names them, else each its own patient."""
    matches = [_CT_RATE_NAME.match(volume) for volume in volumes]
    patients = tuple(match[1] if match else volume for match, volume in zip(matches, volumes, strict=True))
    others = [volume for match, volume in zip(matches, volumes, strict=True) if not match]
    by_name = "from CT-RATE's volume names (split_patient_scan_reconstruction)"
    if not others:
        return patients, by_name
    unknown = "not known, so every volume counts as a patient of its own"
    if len(others) < len(volumes):
        unknown = f"{by_name}; of {len(others)} volumes with other names {unknown} ({listed(others)})"
    rule = f"{unknown}: intervals are too narrow where patients have several"
    return patients, f"{rule}. A column {PATIENT_COLUMNS[0]} in either table tells them"


def check_no_patient_in_both(test: Dataset, validation: Dataset) -> None:
    """Thresholds and calibration from patients that are tested would flatter.

    Raises:
        InputError: patients or volumes are in both, or it cannot be told, for the splits name patients by different rules.
    """
    both = sorted(set(test.patients) & set(validation.patients))
    if both:
        raise InputError(
            f"{len(both)} patients are in the validation and in the test split: {listed(both)}. Split by patient "
            "(--hold-out SHARE does)."
        )
    if shared := sorted(set(test.volumes) & set(validation.volumes)):
        raise InputError(
            f"{len(shared)} volumes are in the validation and in the test split: {listed(shared)}. Take them out of one, with "
            "all volumes of their patients (--hold-out SHARE does)."
        )
    if test.patients_from_names != validation.patients_from_names:
        raise InputError(
            f"Whether a patient is in both splits cannot be told. Patients of the test split: {test.patient_rule}. Of the "
            f"validation split: {validation.patient_rule}. Give both splits a column {PATIENT_COLUMNS[0]}."
        )


def check_share(share: float) -> None:
    """Raises InputError where it is no share of the patients that can be held out."""
    if not 0 < share < 1:  # also where it is no number
        raise InputError(f"--hold-out {share:g}: expected a share of the patients above 0 and below 1, such as 0.5.")


def hold_out(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """(test, validation): ``share`` of the patients, drawn by ``seed``, becomes the validation split.

    Raises:
        InputError: the share leaves one of the two without patients.
    """
    check_share(share)
    patients = sorted(set(data.patients))
    number = round(share * len(patients))
    if not 0 < number < len(patients):
        raise InputError(
            f"--hold-out {share:g} of {len(patients)} patients leaves one split empty; give a share nearer to 0.5."
        )
    drawn = set(np.random.default_rng(seed).permutation(patients)[:number].tolist())
    held_N = np.array([patient in drawn for patient in data.patients])
    return data.select(~held_N), data.select(held_N)

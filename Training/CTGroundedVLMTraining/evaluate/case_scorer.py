"""One case of an evaluation: read, scored by the same code path as ``ctgvlm analyze``, its heatmaps and features measured."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError, OutputError, ResourceError
from CTGroundedVLMLib.files import atomic_path
from CTGroundedVLMLib.model.checkpoint import LoadedModel
from CTGroundedVLMLib.pipeline import AnalysisOptions, Session
from CTGroundedVLMLib.prompts import Prompt
from CTGroundedVLMLib.types import Heatmap

from ..data.manifest import ManifestRow
from ..data.texts import DecomposedReports, report_of, texts_by_rules
from ..data.volumes import read_case
from ..objectives.clip import WHOLE_BODY
from .case_journal import CaseRecord
from .grounding import measure_case, read_label_map, read_truth
from .protocols import Protocol, Question
from .retrieval import Pairing
from .tables import listed


class CaseScorer:
    """Reads a case, asks the model all that the protocol asks, measures heatmaps.

    Args:
        features_in: folder for the features that retrieval needs; None: neither heatmaps nor retrieval.
        grounded_split: the split whose cases get them; None: all.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        protocol: Protocol,
        options: AnalysisOptions,
        features_in: Path | None = None,
        grounded_split: str | None = None,
    ) -> None:
        self.loaded, self.options, self._grounded_split = loaded, options, grounded_split
        self._features = features_in / "features" if features_in else None
        self.organs = tuple(loaded.config.organs)
        self._prompts = {q.key: _prompt(q, self.organs, options.templates) for q in protocol.questions}
        self.asked = tuple(question for question in protocol.questions if self._prompts[question.key])
        if not self.asked:
            raise InputError(
                f"The model has none of the protocol's organs: it knows {listed(self.organs, 40)}; the protocol {protocol.name} "
                f"asks for {listed(sorted({q.organ or 'the whole patient' for q in protocol.questions}), 40)}."
            )

    def about(self) -> dict[str, Any]:
        """What decides a score, for the tables and the calibration file."""
        options = self.options
        return {
            "model_name": self.loaded.identity.name,
            "model_sha256": self.loaded.identity.sha256,
            "model_notice": self.loaded.identity.notice,
            "model_settings": {
                "mode": options.mode,
                "grid": options.resolved_grid,
                "templates": options.templates,
            },
            "precision": options.precision,
            "templates": options.templates,
        }

    def score(self, row: ManifestRow) -> CaseRecord:
        """One case; what is wrong with it becomes its ``error``, never a score."""
        start = time.perf_counter()
        fields: dict[str, Any] = {}
        try:
            case = read_case(row)
            session = Session(case, self.loaded, self.options)
            scores = session.score([self._prompts[question.key] for question in self.asked])
            fields["scores"] = {
                question.key: {"reason": score.reason}
                if score.reason
                else {"probability": score.probability, "margin": score.margin}
                for question, score in zip(self.asked, scores, strict=True)
            }
            if self._features and self._grounded_split in (None, row.split):
                fields["grounding"] = tuple(self._grounding(row, session))
                fields["report_error"] = self._keep_features(row, session)
        except (InputError, ResourceError) as error:
            fields = {"error": str(error)}
        seconds = round(time.perf_counter() - start, 3)
        return CaseRecord(row.case_id, row.patient_id, row.split, str(row.image), seconds=seconds, **fields)

    # --- Grounding

    def _grounding(self, row: ManifestRow, session: Session) -> list[dict[str, Any]]:
        truth = read_truth(row.image)
        if not truth:
            return []
        reasons = {info.organ: info.reason for info in session.organs if info.reason}

        def heatmap_of(key: str) -> tuple[Heatmap, tuple[str, ...]] | str:
            prompt = self._prompts.get(key)
            if prompt is None:
                return f"the model is not asked for {key}"
            if prompt.organ in reasons:
                return reasons[prompt.organ]
            return session.heatmap(prompt), self.loaded.config.organs[prompt.organ]

        return measure_case(session.case, truth, read_label_map(row.image, session.case), heatmap_of)

    # --- Retrieval

    def _keep_features(self, row: ManifestRow, session: Session) -> str | None:
        """Write the case's image and text features; returns why there are no text features, or None."""
        unscored = {info.organ for info in session.organs if info.reason}
        features = {self.organs[n]: feature for n, feature in session.features.organ_features.items()}
        arrays = {f"image/{o}": f.float().cpu().numpy() for o, f in features.items() if o not in unscored}
        why, report, texts = None, "", {}
        try:
            report = report_of(row)
            texts = self._texts(row, report)
        except InputError as error:
            why = str(error)
        if texts:
            encoded = session.encode_text(list(texts.values())).float().cpu().numpy()
            arrays |= {f"text/{organ}": feature for organ, feature in zip(texts, encoded, strict=True)}
        arrays["report"] = np.array(hashlib.sha256(" ".join(report.split()).encode()).hexdigest())
        try:
            self._features.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._path(row.case_id)) as temporary, open(temporary, "wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise OutputError(
                f"{self._features} cannot be written ({error}); free some space, then run again."
            ) from error
        return why or (None if texts else "no report")

    def _texts(self, row: ManifestRow, report: str) -> dict[str, str]:
        """Organ -> what the report says of it; of the whole patient it says the whole report."""
        if self.organs == (WHOLE_BODY,):
            return {WHOLE_BODY: report.strip()} if report.strip() else {}
        if row.organ_texts is not None:
            said = self._decomposed(row.organ_texts).of(row, self.loaded.config.organs)
        else:
            said = texts_by_rules(report, self.loaded.config.organs)
        return {organ: text for organ, (text, _) in said.items() if text.strip()}

    def _decomposed(self, path: Path) -> DecomposedReports:
        if path not in self._read_reports:
            self._read_reports[path] = DecomposedReports(path)
        return self._read_reports[path]

    @cached_property
    def _read_reports(self) -> dict[Path, DecomposedReports]:
        return {}

    def _path(self, case_id: str) -> Path:
        return self._features / f"{hashlib.sha256(case_id.encode()).hexdigest()[:32]}.npz"

    def read_pairing(self, record: CaseRecord) -> Pairing | None:
        """The features that ``score`` kept; None for a failed case, or one without a report."""
        if record.error or record.report_error:
            return None
        try:
            with np.load(self._path(record.case_id), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError) as error:
            raise InputError(
                f"The features of {record.case_id} cannot be read ({error}). Remove the output folder and run again."
            ) from error
        image, text = (
            {name.removeprefix(kind): a for name, a in arrays.items() if name.startswith(kind)}
            for kind in ("image/", "text/")
        )
        return Pairing(record.patient_id, image, text, str(arrays["report"]))


def _prompt(question: Question, organs: Sequence[str], templates: bool) -> Prompt | None:
    """The question as a prompt for this model; None where it has no such organ. A model of the whole patient gets all."""
    organ = WHOLE_BODY if tuple(organs) == (WHOLE_BODY,) else question.organ
    if organ not in organs:
        return None
    return Prompt(organ, question.finding, *question.pairs(templates))

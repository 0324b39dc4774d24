"""Prepared cases by number, read on demand from a disk or an object store.

``cases[number]`` reads one file. The order is that of the case ids, whatever order they were prepared in, so that a loader whose
batches follow from the step alone (``loader.py``) takes the same cases in every run and on every machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import ModelConfig

from ..types import OrganText, PreparedCase
from .crop import grid_settings
from .index import INDEX, SETTINGS, IndexLine, parse_index, parse_settings
from .shards import corrupt, read_shard


class PreparedDataset(Sequence[PreparedCase]):
    """The cases of one prepared folder.

    Args:
        location: a folder, or a URL that fsspec knows (``s3://bucket/prepared``; ``filecache::s3://bucket/prepared`` keeps files
            that were read once on the local disk).
        split: "train", "validation" or "test"; None for all.
        with_report: leave out cases without a report. They have no texts, which must not be read as normal; take them in for
            objectives that learn from labels alone.
        model: refuse data that were prepared for another grid or other organs. A model of one organ that holds the classes of all
            organs of the data (the baseline of whole images) takes them as that organ: what is prepared serves both.
        skip_corrupt: read every shard now and leave out damaged ones (``corrupt`` names them), instead of an error when one is
            met in training.

    Raises:
        InputError: no prepared data there, prepared for another model, or no case is left.
    """

    def __init__(
        self,
        location: Path | str,
        split: str | None = None,
        *,
        with_report: bool = True,
        model: ModelConfig | None = None,
        skip_corrupt: bool = False,
    ) -> None:
        self.location = str(location).rstrip("/")
        self._files = _Files(self.location)
        self.settings = parse_settings(self._files.read(SETTINGS), self.location)
        self.organs: tuple[str, ...] = tuple(self.settings["grid"]["organs"])
        self._joined = model is not None and _is_joined(model.organs, self.settings["grid"]["organs"])
        if model is not None:
            self._check_model(model)
            self.organs = tuple(model.organs)
        self._index = self._files.read(INDEX)
        lines = sorted(parse_index(self._index, self.location).values(), key=lambda line: line.case_id)
        wanted = [line for line in lines if not line.failed and split in (None, line.split)]
        self._lines = [line for line in wanted if line.has_report or not with_report]
        self.without_report = len(wanted) - len(self._lines)
        self.corrupt: dict[str, str] = {}
        if skip_corrupt:
            self.corrupt = dict(self.check())
            self._lines = [line for line in self._lines if line.case_id not in self.corrupt]
        if not self._lines:
            raise InputError(self._nothing(split, lines, with_report))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> PreparedCase:
        """Read a case. Raises InputError that names the file where its shard is missing or damaged."""
        return self._read(self._lines[number])

    @property
    def case_ids(self) -> tuple[str, ...]:
        """In the order of their numbers."""
        return tuple(line.case_id for line in self._lines)

    @property
    def identity(self) -> str:
        """A hash of cases, volumes and texts in their order: a resumed run can tell whether its data are still the same."""
        digest = hashlib.sha256()
        for line in self._lines:
            record = self._record(line)
            parts = (record["case_id"], record["volume"], record["report"], record["organ_texts"], record["labels"])
            digest.update(json.dumps(parts).encode())
        return digest.hexdigest()

    def texts(self) -> Iterator[str]:
        """Reports and organ texts of the cases, without reading a volume: what a run's tokenizer is made from."""
        for line in self._lines:
            record = self._record(line)
            yield record["report"]
            yield from (text for text, _ in record["organ_texts"].values())

    def check(self) -> Iterator[tuple[str, str]]:
        """(case id, what is wrong) of every damaged shard; reads them all."""
        for line in self._lines:
            try:
                self._read(line)
            except InputError as error:
                yield line.case_id, str(error)

    def _record(self, line: IndexLine) -> dict[str, Any]:
        return json.loads(self._index[line.offset : line.offset + line.length])

    def _read(self, line: IndexLine) -> PreparedCase:
        record = self._record(line)
        name = f"{self.location}/{record['file']}"
        shard = read_shard(self._files.read(record["file"]), name)
        if (shard.record["case_id"], shard.record["volume"]) != (line.case_id, record["volume"]):
            raise corrupt(name, f"it holds case {shard.record['case_id']!r} of other input than the index says")
        organ_map, texts = shard.organ_map_DHW, record["organ_texts"]
        if self._joined:  # what was said of one organ is no text of all of them
            organ_map, texts = np.minimum(organ_map, 1), {}
        return PreparedCase(
            case_id=line.case_id,
            patient_id=record["patient_id"],
            hu_DHW=shard.hu_DHW,
            organ_map_DHW=organ_map,
            organs=self.organs,
            organ_texts={organ: OrganText(text, status) for organ, (text, status) in texts.items()},
            report=record["report"],
            labels=record["labels"],
            finding_map_DHW=shard.finding_map_DHW,
            mapped_findings=tuple(shard.record.get("mapped_findings", ())),
        )

    def _check_model(self, model: ModelConfig) -> None:
        wanted, found = grid_settings(model), self.settings["grid"]
        if self._joined:  # the same voxels are organ, so the crop is the same
            wanted["organs"] = found["organs"]
        wrong = [key for key in wanted if wanted[key] != found.get(key)]
        if list(wanted["organs"]) != list(found["organs"]):
            wrong = ["organs", *(key for key in wrong if key != "organs")]
        if wrong:
            raise InputError(
                f"{self.location} was prepared for another model: {', '.join(wrong)} differ. Prepare the data again for this "
                "one (`ctgvlm-train prepare MANIFEST OUT --model ...`)."
            )

    def _nothing(self, split: str | None, lines: Sequence[IndexLine], with_report: bool) -> str:
        counts = f"{len(lines)} cases, {sum(line.failed for line in lines)} of them in quarantine"
        reports = f", {self.without_report} left out as they have no report" if with_report else ""
        which = f"split {split!r}" if split else "any split"
        return f"{self.location}: no case of {which} ({counts}{reports}, {len(self.corrupt)} damaged)."


def _is_joined(organs: Mapping[str, Sequence[str]], prepared: Mapping[str, Sequence[str]]) -> bool:
    """Whether ``organs`` is one that holds the classes of all that the data were prepared for."""
    classes = {name for segments in prepared.values() for name in segments}
    return len(organs) == 1 < len(prepared) and set(*organs.values()) == classes


class _Files:
    """Reads files of one folder; a remote one is connected to anew in each process."""

    def __init__(self, location: str) -> None:
        self._location, self._remote, self._process = location, None, 0

    def read(self, name: str) -> bytes:
        path = f"{self._location}/{name}"
        try:
            if "://" not in self._location:
                return Path(path).read_bytes()
            filesystem, root = self._connection()
            return filesystem.cat_file(f"{root}/{name}")
        except FileNotFoundError as error:
            hint = " It holds no prepared data." if name == SETTINGS else ""
            raise InputError(
                f"{path} does not exist.{hint} Check the path, or run `ctgvlm-train prepare` again."
            ) from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error}). Check the disk or the connection.") from error

    def _connection(self) -> tuple[Any, str]:
        if self._remote is None or self._process != os.getpid():  # a forked worker inherits one that works here only
            import fsspec

            try:
                self._remote, self._process = fsspec.core.url_to_fs(self._location), os.getpid()
            except (ImportError, ValueError) as error:
                raise InputError(f"{self._location}: cannot be opened ({error}).") from error
        return self._remote

    def __getstate__(self) -> dict[str, Any]:
        return {"_location": self._location, "_remote": None, "_process": 0}  # connections do not survive elsewhere

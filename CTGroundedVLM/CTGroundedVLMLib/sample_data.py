"""The generated phantom as a source of Slicer's module Sample Data: made on this computer, no network is used.

SampleData offers it; Slicer's readers load it, so that it is there where SampleData is disabled, too. Before that the SHA-256
that the generator recorded is verified, and a damaged sample made anew. (A checksum for all computers cannot be given:
compressed bytes depend on the zlib build.) Slicer is passed in, never imported; the generator runs in a process of its own:
``python -m CTGroundedVLMLib.sample_data``.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .anatomy import label_names
from .errors import CTGroundedVLMError, OutputError
from .folders import cache_folder
from .process_qt import pythonProgram

SAMPLE_NAME = "CTGroundedVLMPhantom"
CATEGORY = "CTGroundedVLM"
_SOURCE = Path(__file__).resolve().parents[1]
# file of the sample -> name in Slicer's cache, node name, file type of the reader
_FILES = {
    "ct.nii.gz": (f"{SAMPLE_NAME}_CT.nii.gz", "PhantomCT", "VolumeFile"),
    "segmentation.nii.gz": (f"{SAMPLE_NAME}_Segmentation.nii.gz", "PhantomSegmentation", "SegmentationFile"),
    "report.txt": (f"{SAMPLE_NAME}_Report.txt", "PhantomReport", "TextFile"),
}
_RUNNING: set[Path] = set()  # folders that a generator works on: an impatient second click must not start another


@dataclass(frozen=True)
class SampleNodes:
    """The loaded phantom: vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode (segments named), vtkMRMLTextNode."""

    volume: Any
    segmentation: Any
    report: Any


def sample_folder() -> Path:
    """Where the generated files lie: they can be removed at any time."""
    return cache_folder() / "sample"


def recorded_checksums(folder: Path) -> dict[str, str] | None:
    """File name -> SHA-256 as the generator recorded it; None where a file is missing or was changed."""
    try:
        recorded = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["sha256"]
        intact = all(_sha256(folder / name) == recorded[name] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {name: recorded[name] for name in _FILES} if intact else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PhantomSample:
    """Registers the phantom with SampleData, makes it when it is asked for, and loads it.

    Args:
        slicer: the ``slicer`` module. Used of ``util``: ``launchConsoleProcess``, ``logProcessOutput``, ``loadNodeFromFile``,
            ``errorDisplay``.
        folder: where to generate; default: ``sample_folder()``.
    """

    def __init__(
        self,
        slicer: Any,
        *,
        folder: Path | None = None,
        import_module: Callable[[str], ModuleType] = importlib.import_module,
    ) -> None:
        self._slicer = slicer
        self._folder = folder or sample_folder()
        self._import = import_module

    def register(self, thumbnail: str = "") -> None:
        """Add the source to SampleData; call it on ``startupCompleted()``. Registering twice does nothing.

        Raises:
            ImportError: SampleData is disabled, or no part of this application.
        """
        names, nodes, types = (list(column) for column in zip(*_FILES.values(), strict=True))
        self._import("SampleData").SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            customDownloader=self.on_clicked,  # a click calls nothing else
            thumbnailFileName=thumbnail or None,
            sampleName=SAMPLE_NAME,
            uris=[(self._folder / name).absolute().as_uri() for name in _FILES],
            fileNames=names,
            nodeNames=nodes,
            loadFileType=types,
        )

    def on_clicked(self, source: Any = None) -> None:
        """SampleData's button: generates in the background, then loads. Nobody above would show an error: it is shown here."""
        try:
            self.load(blocking=False)
        except CTGroundedVLMError as error:
            self._slicer.util.errorDisplay(str(error))

    def load(
        self,
        *,
        blocking: bool = True,
        on_done: Callable[[SampleNodes], None] | None = None,
        on_error: Callable[[CTGroundedVLMError], None] | None = None,
    ) -> SampleNodes | None:
        """The phantom's nodes; None where they follow by ``on_done`` (not blocking, and it has to be generated first).

        What goes wrong in the background goes to ``on_error``; without one, into a message box.

        Raises:
            OutputError: the phantom cannot be generated or loaded.
            DependencyError: Slicer's Python is not found.
        """
        if self._folder in _RUNNING:
            return None
        if recorded_checksums(self._folder) is None:
            if not blocking:
                show = on_error or (lambda error: self._slicer.util.errorDisplay(str(error)))
                self._generate_in_background(on_done or (lambda nodes: None), show)
                return None
            self._generate()
        nodes = self._load()
        if on_done is not None:
            on_done(nodes)
        return nodes

    def _generate(self) -> None:
        process = self._launch(blocking=True)
        try:
            self._slicer.util.logProcessOutput(process)
        except subprocess.CalledProcessError as error:
            raise OutputError(self._failed(error.returncode)) from error

    def _generate_in_background(
        self, on_done: Callable[[SampleNodes], None], on_error: Callable[[CTGroundedVLMError], None]
    ) -> None:
        def completed(return_code: int) -> None:
            _RUNNING.discard(self._folder)
            try:
                if return_code != 0:
                    raise OutputError(self._failed(return_code))
                nodes = self._load()
            except CTGroundedVLMError as error:
                on_error(error)
                return
            on_done(nodes)

        _RUNNING.add(self._folder)
        try:
            self._launch(blocking=False, completedCallback=completed)
        except CTGroundedVLMError:
            _RUNNING.discard(self._folder)
            raise

    def _launch(self, **options: Any) -> Any:
        command = [pythonProgram(), "-m", "CTGroundedVLMLib.sample_data", str(self._folder)]
        paths = os.pathsep.join([str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
        try:
            return self._slicer.util.launchConsoleProcess(
                command, useStartupEnvironment=False, updateEnvironment={"PYTHONPATH": paths}, **options
            )
        except OSError as error:
            raise OutputError(f"The phantom's generator cannot be started ({error}). Install Slicer again.") from error

    def _failed(self, return_code: int) -> str:
        return (
            f"The phantom could not be generated in {self._folder} (code {return_code}; Slicer's Python console says why). "
            "Make room on that disk, or set CTGVLM_CACHE_DIR to another folder."
        )

    def _load(self) -> SampleNodes:
        try:
            nodes = [
                self._slicer.util.loadNodeFromFile(str(self._folder / name), file_type, {"name": node_name})
                for name, (_, node_name, file_type) in _FILES.items()
            ]
        except RuntimeError as error:  # Slicer's reader has failed
            raise OutputError(
                f"Slicer could not load the phantom from {self._folder} ({error}). Remove that folder and try again."
            ) from error
        loaded = SampleNodes(*nodes)
        name_segments(loaded.segmentation)
        return loaded


def name_segments(segmentation_node: Any) -> None:
    """Name the segments of a label map with TotalSegmentator's numbers; a NIfTI file cannot hold names."""
    names, segmentation = label_names(), segmentation_node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        if segment.GetLabelValue() in names:
            segment.SetName(names[segment.GetLabelValue()])


def main(argv: Sequence[str] | None = None) -> int:
    """Write the phantom into the folder that is named: the generator process."""
    from .sample import write_sample

    (folder,) = sys.argv[1:] if argv is None else argv
    path = Path(folder)
    if path.resolve().is_relative_to(cache_folder().resolve()) and recorded_checksums(path) is None:
        shutil.rmtree(path, ignore_errors=True)  # damaged or half-made, in a cache of ours; anywhere else it is refused
    write_sample(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

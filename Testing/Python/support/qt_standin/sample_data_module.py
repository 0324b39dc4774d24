"""Stand-in for Slicer's module ``SampleData``: keeps what is registered, loads local files with Slicer's real logics."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

import hashlib
import types
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import slicer

registered: list[tuple[str, Any]] = []  # (category, source)


class SampleDataSource:
    """One sample: files with the names of their nodes and the kind of each."""

    def __init__(
        self,
        sampleName: str | None = None,
        sampleDescription: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        checksums: Any = None,
        loadFileType: Any = None,
        loadFiles: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileProperties: Any = None,
    ) -> None:
        self.sampleName, self.customDownloader, self.thumbnailFileName = sampleName, customDownloader, thumbnailFileName
        self.uris, self.fileNames, self.nodeNames = uris, fileNames, nodeNames
        self.checksums, self.loadFileTypes = checksums, loadFileType


class SampleDataLogic:
    """Registers and loads samples."""

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **arguments: Any) -> None:
        registered.append((category, SampleDataSource(**arguments)))

    def downloadFromSource(self, source: SampleDataSource, *_limits: Any) -> list[Any]:
        """The nodes; a file whose checksum differs is not loaded, as in Slicer."""
        paths = [Path(url2pathname(urlparse(uri).path)) for uri in source.uris]
        for path, checksum in zip(paths, source.checksums or [], strict=False):
            kind, _, digest = checksum.partition(":")
            assert hashlib.new(kind, path.read_bytes()).hexdigest() == digest, f"checksum of {path}"
        return [
            _LOADERS[kind](path, name)
            for path, name, kind in zip(paths, source.nodeNames, source.loadFileTypes, strict=True)
        ]


def _volume(path: Path, name: str) -> Any:
    return slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, 0)


def _segmentation(path: Path, name: str) -> Any:
    label_map = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, 1)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(label_map)
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_map, node)
    slicer.mrmlScene.RemoveNode(label_map)
    return node


def _text(path: Path, name: str) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name)
    node.SetText(path.read_text(encoding="utf-8"))
    return node


_LOADERS = {"VolumeFile": _volume, "SegmentationFile": _segmentation, "TextFile": _text}


def make() -> types.ModuleType:
    """The module ``SampleData``."""
    module = types.ModuleType("SampleData", __doc__)
    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    return module

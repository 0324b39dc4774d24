"""Stand-in for Slicer's module ``SampleData``: keeps what is registered."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

import types
from typing import Any

registered: list[tuple[str, types.SimpleNamespace]] = []  # (category, source)


class SampleDataLogic:
    """Registers samples; a click on one calls its ``customDownloader``."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: str | None = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: str | None = None,
        loadFileType: Any = None,
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        source = types.SimpleNamespace(sampleName=sampleName, uris=uris, customDownloader=customDownloader)
        registered.append((category, source))


def make() -> types.ModuleType:
    """The module ``SampleData``."""
    module = types.ModuleType("SampleData", __doc__)
    module.SampleDataLogic = SampleDataLogic
    return module

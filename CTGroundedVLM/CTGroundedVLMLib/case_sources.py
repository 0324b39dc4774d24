"""Cases for an AnalysisService outside 3D Slicer: files, or arrays in memory; and a scheduler without an event loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import SegmentationError, VolumeError
from .exchange import CaseWriter, check_report, write_file_case
from .types import CTCase


@dataclass(frozen=True)
class FileCase:
    """A CaseSource of files, which the worker reads itself. ``segmentation``: None to let TotalSegmentator make one."""

    ct: Path
    segmentation: Path | None = None
    report_text: str = ""
    report_source: str = ""
    series_uid: str | None = None

    def check(self) -> None:
        """See CaseSource."""
        check_report(self.report_text)
        for path, what, error in ((self.ct, "CT", VolumeError), (self.segmentation, "Segmentation", SegmentationError)):
            if path is not None and not Path(path).exists():
                raise error(f"{what} {Path(path).name} does not exist: {Path(path).absolute()}. Check the path.")

    def hand_over(self, folder: Path) -> Iterator[float]:
        """See CaseSource."""
        write_file_case(
            folder, self.ct, self.segmentation, self.report_text, self.report_source, series_uid=self.series_uid
        )
        yield 1.0


@dataclass(frozen=True)
class ArrayCase:
    """A CaseSource of a CTCase in memory."""

    case: CTCase

    def check(self) -> None:
        """See CaseSource."""
        check_report(self.case.report_text)

    def hand_over(self, folder: Path) -> Iterator[float]:
        """See CaseSource."""
        case, writer = self.case, CaseWriter(folder)
        ct, segmentation = case.ct, case.segmentation
        for fraction in writer.write_ct(ct.array_kji, ct.ijk_to_ras, ct.name, source=ct.source):
            yield 0.7 * fraction
        for fraction in writer.write_layer(segmentation.labels_kji, ct.ijk_to_ras, segmentation.names):
            yield 0.7 + 0.3 * fraction
        writer.finish(case.report_text, case.report_source, case.warnings, segmentation_name=segmentation.source)


class ImmediateScheduler:
    """A Scheduler that calls at once, one call after the other: what is scheduled by a call comes after it."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._running = False

    def call_soon(self, function: Callable[[], None]) -> None:
        """See Scheduler."""
        self._calls.append(function)
        if self._running:
            return
        self._running = True
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            self._calls.clear()
            self._running = False

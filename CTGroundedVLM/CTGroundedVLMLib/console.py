"""What ``ctgvlm`` shows while it works and when it is done: bars on a terminal, plain lines otherwise (on stderr)."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from .types import AnalysisResult

SHOWN = 12


class Reporter:
    """Progress of one run, and the summary at its end. Use as a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._last = ""
        self._progress: Progress | None = None
        if not quiet and sys.stderr.isatty():
            columns = (TextColumn("{task.description:<14}"), BarColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task("starting", total=1.0)

    def __enter__(self) -> Reporter:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress:
            self._progress.stop()

    def stage(self, name: str, fraction: float) -> None:
        """A stage begins; ``fraction`` (0..1) of all the work is done."""
        if self._progress:
            self._progress.update(self._task, description=name, completed=fraction)
        elif not self._quiet and name != self._last:
            print(f"ctgvlm: {name} ...", file=sys.stderr, flush=True)
        self._last = name

    def summary(self, result: AnalysisResult, written: dict[str, Path] | None) -> None:
        """The highest scores, what was not scored, links, warnings, and where the page lies (on stdout)."""
        console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
        if result.model.notice:
            console.print(Text(result.model.notice, style="yellow" if result.model.trained else "bold red"))
        self._findings(console, result)
        absent = [info.organ for info in result.organs if info.reason and not info.voxels]
        if absent:
            console.print(Text(f"not in the segmentation: {', '.join(absent)}"))
        for info in result.organs:
            if info.reason and info.voxels:
                console.print(Text(f"not scored: {info.reason}"))
        linked = sum(bool(link.segments) for link in result.links)
        console.print(Text(f"report: {len(result.report.sentences)} sentences, {linked} linked to segments of this CT"))
        for warning in result.warnings:
            console.print(Text(f"warning: {warning}", style="yellow"))
        if written:
            # a path must stay in one piece to be copied
            console.print(Text(f"results: {written['page'].resolve()}"), soft_wrap=True)
        console.print(Text("Research use only."))

    def _findings(self, console: Console, result: AnalysisResult) -> None:
        scored = sorted((f for f in result.findings if f.probability is not None), key=lambda f: -f.probability)
        shown = [f for f in scored if f.source == "prompt"] + [f for f in scored if f.source == "registry"][:SHOWN]
        if not shown:
            return
        table = Table(
            title=Text(f"Findings of {result.case.ct.name} (model: {result.model.name})"), title_justify="left"
        )
        for column in ("organ", "finding", "probability", "calibrated"):
            table.add_column(column, justify="right" if column == "probability" else "left")
        for f in shown:
            table.add_row(Text(f.organ), Text(f.finding), f"{f.probability:.3f}", "yes" if f.calibrated else "no")
        console.print(table)
        if len(scored) > len(shown):
            console.print(Text(f"and {len(scored) - len(shown)} more, in findings.csv"))

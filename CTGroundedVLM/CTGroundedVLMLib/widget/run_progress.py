"""What the panel shows of a run: stage, fraction done, time; and the log."""

from __future__ import annotations

import time

import qt
from slicer.i18n import tr as _

TICK_MS = 500


class RunProgress:
    """Drives the progress bar, the line below it and the log."""

    def __init__(self, box: qt.QWidget, bar: qt.QProgressBar, label: qt.QLabel, log: qt.QPlainTextEdit) -> None:
        self._box, self._bar, self._label, self._log = box, bar, label, log
        self._stage, self._start = "", 0.0
        self._timer = qt.QTimer(box)
        self._timer.setInterval(TICK_MS)
        self._timer.connect("timeout()", self._show_time)
        box.visible = False

    def start(self, stage: str) -> None:
        """A run begins."""
        self._start, self._stage = time.monotonic(), ""
        self._bar.visible = True
        self._box.visible = True
        self._timer.start()
        self.stage(stage, 0.0)

    def stage(self, name: str, fraction: float) -> None:
        """A stage begins or goes on; ``fraction`` (0..1) of all the work is done."""
        if name != self._stage:
            self._stage = name
            self.log(name)
        self._bar.value = round(100 * min(max(fraction, 0.0), 1.0))
        self._show_time()

    def finish(self, text: str) -> None:
        """The run is over; ``text`` stays."""
        self._timer.stop()
        self._bar.visible = False
        self._label.text = text
        self._box.visible = bool(text)
        self.log(text)

    def log(self, text: str) -> None:
        """Add a line to the log."""
        if text:
            self._log.appendPlainText(f"{time.strftime('%H:%M:%S')}  {text}")

    @property
    def current(self) -> str:
        """The stage that the run is in, or was in last."""
        return self._stage

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self._start

    def _show_time(self) -> None:
        self._label.text = _("{stage} · {seconds:.0f} s").format(stage=self._stage, seconds=self.seconds)

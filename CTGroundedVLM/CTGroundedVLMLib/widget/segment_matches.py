"""The table of segments and what each is read as, to be corrected by hand; in a QTableWidget."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from .. import anatomy
from ..mrml_io.segments import SegmentMatch, choose_match, clear_match, match_segments
from .errors import shown_errors

_SOURCES = {"chosen": "you", "code": "code", "name": "name", "none": "–"}


class SegmentMatchTable:
    """Shows the matches of one segmentation node.

    ``on_chosen(segment_id)`` is called when the user goes to a row, ``on_changed()`` when a match was corrected.
    """

    def __init__(
        self,
        table: qt.QTableWidget,
        combo: qt.QComboBox,
        automatic_button: qt.QPushButton,
        *,
        on_chosen: Callable[[str], None],
        on_changed: Callable[[], None],
    ) -> None:
        self._table, self._combo, self._automatic = table, combo, automatic_button
        self._on_chosen, self._on_changed = on_chosen, on_changed
        self._node: slicer.vtkMRMLSegmentationNode | None = None
        self._matches: list[SegmentMatch] = []
        self._filling = False
        self._classes = [None, *sorted(anatomy.segment_classes(), key=lambda c: c.display.casefold())]
        combo.addItem(_("nothing: leave it out"))
        for segment_class in self._classes[1:]:
            combo.addItem(segment_class.display)
        self._prepare_table()
        combo.connect("activated(int)", self._on_class)
        automatic_button.connect("clicked()", self._on_automatic)
        self.show(None)

    def _prepare_table(self) -> None:
        table = self._table
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Segment"), _("Read as"), _("By")])
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(22)
        table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.Stretch)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)
        table.horizontalHeader().setSectionResizeMode(2, qt.QHeaderView.ResizeToContents)
        table.connect("currentCellChanged(int,int,int,int)", self._on_current)

    @property
    def matches(self) -> tuple[SegmentMatch, ...]:
        """The matches as they stand in the table."""
        return tuple(self._matches)

    def show(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the segments of this node; None shows none."""
        if node is not self._node:
            self.select(None)  # the same ID is another segment there
        self._node = node
        self.refresh()

    def refresh(self) -> None:
        """Match the segments anew: they, their names or their codes have changed."""
        current = self._current()
        self._matches = match_segments(self._node) if self._node is not None else []
        self._filling = True
        self._table.setRowCount(len(self._matches))
        for row, match in enumerate(self._matches):
            read_as = anatomy.segment(match.class_name).display if match.class_name else "–"
            for column, text in enumerate((match.segment_name, read_as, _SOURCES[match.source])):
                item = qt.QTableWidgetItem(text)
                if match.class_name is None:
                    item.setForeground(qt.QBrush(qt.QColor(128, 128, 128)))
                self._table.setItem(row, column, item)
        self._filling = False
        self.select(current.segment_id if current else None)

    def select(self, segment_id: str | None) -> None:
        """Mark a segment's row without calling ``on_chosen``."""
        row = next((n for n, match in enumerate(self._matches) if match.segment_id == segment_id), -1)
        self._filling = True
        self._table.setCurrentCell(row, 0 if row >= 0 else -1)
        self._filling = False
        self._show_class()

    def _current(self) -> SegmentMatch | None:
        row = self._table.currentRow()
        return self._matches[row] if 0 <= row < len(self._matches) else None

    def _show_class(self) -> None:
        match = self._current()
        self._combo.enabled = match is not None
        self._automatic.enabled = match is not None and match.source == "chosen"
        names = [segment_class.name if segment_class else None for segment_class in self._classes]
        self._combo.setCurrentIndex(names.index(match.class_name) if match is not None else -1)

    def _on_current(self, row: int, _column: int, former_row: int, _former_column: int) -> None:
        if self._filling or row == former_row:
            return
        self._show_class()
        match = self._current()
        if match is not None:
            self._on_chosen(match.segment_id)

    def _on_class(self, index: int) -> None:
        match, chosen = self._current(), self._classes[index]
        if match is None or (chosen.name if chosen else None) == match.class_name:
            return
        with shown_errors(_("The match was not changed.")):
            choose_match(self._node, match.segment_id, chosen.name if chosen else None)
            self._changed()

    def _on_automatic(self) -> None:
        match = self._current()
        if match is not None:
            with shown_errors(_("The match was not changed.")):
                clear_match(self._node, match.segment_id)
                self._changed()

    def _changed(self) -> None:
        self.refresh()
        self._on_changed()

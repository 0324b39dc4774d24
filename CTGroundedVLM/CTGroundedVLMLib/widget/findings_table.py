"""The findings table: filter, order by a click on a column, one row per finding; in a QTableWidget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt

from .finding_rows import AGREEMENT, COLUMNS, PROBABILITY, FindingRow, filtered, ordered

_TIPS = (
    "The organ of the model",
    "What was looked for",
    "The model's probability. Raw ones are no frequencies",
    "What the report says of it. Where it is silent, it denies nothing",
    "Whether report and image agree; discrepancies come first",
)
PIECE = 40  # rows that are filled at a time: the model's 141 at once would stall the application
_COLOURS = {"no": (198, 40, 40), "yes": (46, 125, 50)}
_GREY = (128, 128, 128)


class FindingsTable:
    """Shows :class:`FindingRow` objects. ``on_chosen(row)`` is called when the user goes to a row."""

    def __init__(
        self,
        table: qt.QTableWidget,
        filter_edit: qt.QLineEdit,
        discrepancies_box: qt.QCheckBox,
        on_chosen: Callable[[FindingRow], None],
    ) -> None:
        self._table, self._filter, self._only, self._on_chosen = table, filter_edit, discrepancies_box, on_chosen
        self._rows: list[FindingRow] = []
        self._shown: list[FindingRow] = []
        self._column: int | None = None
        self._descending = False
        self._filling = False
        self._generation = 0
        self._prepare_columns()
        filter_edit.connect("textChanged(QString)", self._refill)
        discrepancies_box.connect("toggled(bool)", self._refill)
        table.connect("currentCellChanged(int,int,int,int)", self._on_current)
        table.connect("cellClicked(int,int)", self._on_clicked)

    def _prepare_columns(self) -> None:
        table = self._table
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels(COLUMNS)
        for column, tip in enumerate(_TIPS):
            table.horizontalHeaderItem(column).setToolTip(f"{tip}. Click to sort; a third click restores the order.")
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(22)
        header = table.horizontalHeader()
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setResizeContentsPrecision(0)  # by the visible rows: all of them would be measured at every change
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        header.setSectionsClickable(True)
        header.connect("sectionClicked(int)", self._on_header)

    @property
    def shown(self) -> tuple[FindingRow, ...]:
        """The rows as they stand in the table."""
        return tuple(self._shown)

    def show(self, rows: Sequence[FindingRow]) -> None:
        """Show these rows, discrepancies first."""
        self._rows = list(rows)
        self._column, self._descending = None, False
        self._refill()

    def select(self, key: tuple[str, str] | None) -> None:
        """Mark the row of (organ, finding) without calling ``on_chosen``; None marks no row."""
        number = next((n for n, row in enumerate(self._shown) if row.key == key), None)
        self._filling = True
        if number is None:
            self._table.setCurrentCell(-1, -1)
            self._table.clearSelection()
        else:
            self._table.setCurrentCell(number, 0)
        self._filling = False

    def _refill(self) -> None:
        current = self._current_key()
        rows = filtered(self._rows, self._filter.text, self._only.checked)
        self._shown = ordered(rows, self._column, self._descending)
        self._filling = True
        self._table.setRowCount(len(self._shown))
        self._filling = False
        self._generation += 1  # a piece of the former rows that a timer still holds is dropped
        self._fill(0, self._generation)
        self.select(current)

    def _fill(self, start: int, generation: int) -> None:
        if generation != self._generation:
            return
        self._filling = True
        model = self._table.model()
        model.blockSignals(True)  # the header would measure all columns again at each cell
        for number, row in enumerate(self._shown[start : start + PIECE], start):
            for column, text in enumerate(row.cells):
                self._table.setItem(number, column, self._cell(row, column, text))
        model.blockSignals(False)
        self._table.horizontalHeader().setSectionResizeMode(0, qt.QHeaderView.ResizeToContents)  # measures them once
        self._table.viewport().update()
        self._filling = False
        if start + PIECE < len(self._shown):
            qt.QTimer.singleShot(0, lambda: self._fill(start + PIECE, generation))

    def _current_key(self) -> tuple[str, str] | None:
        number = self._table.currentRow()
        return self._shown[number].key if 0 <= number < len(self._shown) else None

    def _cell(self, row: FindingRow, column: int, text: str) -> qt.QTableWidgetItem:
        item = qt.QTableWidgetItem(text)
        item.setToolTip(row.reason)
        colour = _GREY if row.probability is None else _COLOURS.get(row.agreement) if column == AGREEMENT else None
        if colour:
            item.setForeground(qt.QBrush(qt.QColor(*colour)))
        if column in (PROBABILITY, AGREEMENT):
            item.setTextAlignment(qt.Qt.AlignCenter)
        return item

    def _on_header(self, column: int) -> None:
        """First click: the column ascending (probability: the highest first); second: the other way; third: none."""
        first_descending = column == PROBABILITY
        if self._column != column:
            self._column, self._descending = column, first_descending
        elif self._descending == first_descending:
            self._descending = not first_descending
        else:
            self._column = None
        header = self._table.horizontalHeader()
        header.setSortIndicatorShown(self._column is not None)
        if self._column is not None:
            header.setSortIndicator(column, qt.Qt.DescendingOrder if self._descending else qt.Qt.AscendingOrder)
        self._refill()

    def _on_current(self, row: int, _column: int, former_row: int, _former_column: int) -> None:
        if row != former_row:
            self._choose(row)

    def _on_clicked(self, row: int, _column: int) -> None:
        self._choose(row)  # also the row that is current already: its heatmap may be hidden meanwhile

    def _choose(self, row: int) -> None:
        if not self._filling and 0 <= row < len(self._shown):
            self._on_chosen(self._shown[row])

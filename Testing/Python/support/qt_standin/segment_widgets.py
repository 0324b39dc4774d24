"""Stand-in for ``qMRMLSegmentsTableView`` and its ``qMRMLSegmentsModel`` over a real segmentation node."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from qt_standin import errors
from qt_standin.node_combo_box import SceneObserver
from qt_standin.qt_properties import start, stored
from qt_standin.ui_loader import custom_widget

_ID = QtCore.Qt.ItemDataRole.UserRole
_FLAG = QtCore.QItemSelectionModel.SelectionFlag


@custom_widget
class qMRMLSegmentsTableView(QtWidgets.QWidget):
    """The Segments list: a row per segment, with a selection of segment IDs.

    As in Slicer the selection changes without anybody clicking: a list that is filled anew restores it row by row, and the
    row of a segment that is removed leaves it.
    """

    selectionChanged = QtCore.Signal(QtCore.QItemSelection, QtCore.QItemSelection)
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        state = start(self)
        state.scene, state.node = None, None
        state.observer = SceneObserver()
        state.table = QtWidgets.QTableWidget(0, 1, self)
        state.table.setHorizontalHeaderLabels(["Name"])
        state.table.horizontalHeader().setStretchLastSection(True)
        state.table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(state.table)
        state.table.selectionModel().selectionChanged.connect(self._on_selection)
        self.destroyed.connect(state.observer.release)

    def setMRMLScene(self, scene: Any) -> None:
        self._d.scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._d.scene

    def segmentationNode(self) -> Any:
        return self._d.node

    # ------------------------------------------------------------------ rows
    def setSegmentationNode(self, node: Any) -> None:
        state = self._d
        if node is state.node:
            return
        state.observer.release()
        state.node = node
        self._rebuild()
        if node is not None:
            for event, function in (
                (slicer.vtkSegmentation.SegmentAdded, self._insert_new),
                (slicer.vtkSegmentation.SegmentRemoved, self._remove_gone),
                (slicer.vtkSegmentation.SegmentModified, self._rename),
                (node.SegmentationChangedEvent, self._rebuild),
            ):
                state.observer.observe(node, event, lambda _node, function=function: function(), with_node=False)

    def _rebuild(self) -> None:
        """What a reset of the model does, with the selection that the view restores after it."""
        state, table = self._d, self._d.table
        blocked = table.blockSignals(True)
        former = self.selectedSegmentIDs()
        if state.node is None:
            former = [""] * len(former)  # the model has no node already, and without one its rows name no segments
        table.setRowCount(0)
        self._insert_new()
        table.blockSignals(blocked)
        self.setSelectedSegmentIDs(former)

    def _insert_new(self) -> None:
        state = self._d
        segmentation = state.node.GetSegmentation() if state.node is not None else None
        for row, segment_id in enumerate(segmentation.GetSegmentIDs() if segmentation is not None else ()):
            if self.rowForSegmentID(segment_id) < 0:
                item = QtWidgets.QTableWidgetItem(segmentation.GetSegment(segment_id).GetName())
                item.setData(_ID, segment_id)
                state.table.insertRow(row)
                state.table.setItem(row, 0, item)

    def _remove_gone(self) -> None:
        left = self._d.node.GetSegmentation().GetSegmentIDs()
        for row in reversed(range(self.segmentCount)):
            if self.segmentIDForRow(row) not in left:
                self._d.table.removeRow(row)

    def _rename(self) -> None:
        segmentation = self._d.node.GetSegmentation()
        for row, segment_id in enumerate(self.displayedSegmentIDs()):
            if segmentation.GetSegment(segment_id) is not None:
                self._d.table.item(row, 0).setText(segmentation.GetSegment(segment_id).GetName())

    def tableWidget(self) -> QtWidgets.QTableView:
        return self._d.table

    def displayedSegmentIDs(self) -> list[str]:
        return [self.segmentIDForRow(row) for row in range(self.segmentCount)]

    def rowForSegmentID(self, segment_id: str) -> int:
        ids = self.displayedSegmentIDs()
        return ids.index(segment_id) if segment_id in ids else -1

    def segmentIDForRow(self, row: int) -> str:
        item = self._d.table.item(row, 0)
        return item.data(_ID) if item is not None else ""

    # ------------------------------------------------------------------ selection
    def _on_selection(self, new: QtCore.QItemSelection, old: QtCore.QItemSelection) -> None:
        if not self._d.table.signalsBlocked():
            self.selectionChanged.emit(new, old)

    def selectedSegmentIDs(self) -> list[str]:
        """In the order of the rows, whatever was selected first."""
        chosen = self._d.table.selectionModel()
        rows = range(self.segmentCount)
        return [self.segmentIDForRow(row) for row in rows if chosen.isRowSelected(row, QtCore.QModelIndex())]

    def setSelectedSegmentIDs(self, ids: list[str]) -> None:
        """One row after the other, each with a signal of its own."""
        if self._d.node is None and ids:
            errors.record("qMRMLSegmentsTableView::setSelectedSegmentIDs failed: segmentation node is not set")
            return
        if tuple(ids) == tuple(self.selectedSegmentIDs()):
            return
        table = self._d.table
        rows = [row for row in map(self.rowForSegmentID, ids) if row >= 0]
        for number, row in enumerate(rows):
            flag = _FLAG.Select if number else _FLAG.ClearAndSelect
            table.selectionModel().select(table.model().index(row, 0), flag | _FLAG.Rows)
        if not rows:
            table.selectionModel().clearSelection()

    def clearSelection(self) -> None:
        self._d.table.clearSelection()

    def setSelectionMode(self, mode: int) -> None:
        self._d.table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(mode))

    segmentCount = QtCore.Property(int, lambda self: self._d.table.rowCount)
    headerVisible = stored(bool, "headerVisible", True)
    visibilityColumnVisible = stored(bool, "visibilityColumnVisible", True)
    colorColumnVisible = stored(bool, "colorColumnVisible", True)
    opacityColumnVisible = stored(bool, "opacityColumnVisible", True)
    statusColumnVisible = stored(bool, "statusColumnVisible", False)
    layerColumnVisible = stored(bool, "layerColumnVisible", False)
    readOnly = stored(bool, "readOnly", False)
    filterBarVisible = stored(bool, "filterBarVisible", False)
    jumpToSelectedSegmentEnabled = stored(bool, "jumpToSelectedSegmentEnabled", False)

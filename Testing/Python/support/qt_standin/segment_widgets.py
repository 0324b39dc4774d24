"""Stand-in for ``qMRMLSegmentsTableView`` over a real segmentation node."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from qt_standin.node_combo_box import SceneObserver
from qt_standin.qt_properties import start, stored
from qt_standin.ui_loader import custom_widget


@custom_widget
class qMRMLSegmentsTableView(QtWidgets.QWidget):
    """The Segments list: a row per segment, with a selection of segment IDs."""

    selectionChanged = QtCore.Signal(QtCore.QItemSelection, QtCore.QItemSelection)
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        state = start(self)
        state.scene, state.node, state.ids = None, None, []
        state.observer = SceneObserver()
        state.table = QtWidgets.QTableWidget(0, 1, self)
        state.table.setHorizontalHeaderLabels(["Name"])
        state.table.horizontalHeader().setStretchLastSection(True)
        state.table.setSelectionBehavior(QtWidgets.QAbstractItemView.SelectionBehavior.SelectRows)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(state.table)
        state.table.selectionModel().selectionChanged.connect(lambda new, old: self.selectionChanged.emit(new, old))
        self.destroyed.connect(state.observer.release)

    def setMRMLScene(self, scene: Any) -> None:
        self._d.scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._d.scene

    def segmentationNode(self) -> Any:
        return self._d.node

    def setSegmentationNode(self, node: Any) -> None:
        state = self._d
        state.observer.release()
        state.node = node
        if node is not None:
            segmentation = node.GetSegmentation()
            for event in (segmentation.SegmentAdded, segmentation.SegmentRemoved, segmentation.SegmentModified):
                state.observer.observe(segmentation, event, lambda _n: self._refresh(), with_node=False)
        self._refresh()

    def _refresh(self) -> None:
        state = self._d
        segmentation = state.node.GetSegmentation() if state.node is not None else None
        state.ids = list(segmentation.GetSegmentIDs()) if segmentation is not None else []
        state.table.setRowCount(len(state.ids))
        for row, segment_id in enumerate(state.ids):
            state.table.setItem(row, 0, QtWidgets.QTableWidgetItem(segmentation.GetSegment(segment_id).GetName()))

    def tableWidget(self) -> QtWidgets.QTableView:
        return self._d.table

    def selectedSegmentIDs(self) -> list[str]:
        return [self._d.ids[i.row()] for i in self._d.table.selectionModel().selectedRows()]

    def setSelectedSegmentIDs(self, ids: list[str]) -> None:
        table = self._d.table
        selection = QtCore.QItemSelection()
        for row, segment_id in enumerate(self._d.ids):
            if segment_id in ids:
                index = table.model().index(row, 0)
                selection.select(index, index)
        table.selectionModel().select(selection, QtCore.QItemSelectionModel.SelectionFlag.ClearAndSelect)

    def clearSelection(self) -> None:
        self._d.table.clearSelection()

    def displayedSegmentIDs(self) -> list[str]:
        return list(self._d.ids)

    def rowForSegmentID(self, segment_id: str) -> int:
        return self._d.ids.index(segment_id) if segment_id in self._d.ids else -1

    def segmentIDForRow(self, row: int) -> str:
        return self._d.ids[row] if 0 <= row < len(self._d.ids) else ""

    def setSelectionMode(self, mode: int) -> None:
        self._d.table.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode(mode))

    segmentCount = QtCore.Property(int, lambda self: len(self._d.ids))
    headerVisible = stored(bool, "headerVisible", True)
    visibilityColumnVisible = stored(bool, "visibilityColumnVisible", True)
    colorColumnVisible = stored(bool, "colorColumnVisible", True)
    opacityColumnVisible = stored(bool, "opacityColumnVisible", True)
    statusColumnVisible = stored(bool, "statusColumnVisible", False)
    layerColumnVisible = stored(bool, "layerColumnVisible", False)
    readOnly = stored(bool, "readOnly", False)
    filterBarVisible = stored(bool, "filterBarVisible", False)
    jumpToSelectedSegmentEnabled = stored(bool, "jumpToSelectedSegmentEnabled", False)

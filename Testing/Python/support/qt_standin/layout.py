"""Stand-in for Slicer's layout manager: real slice nodes and slice logics, no windows."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

from typing import Any

import slicer
import vtk

_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}


class SliceWidget:
    """What ``layoutManager().sliceWidget("Red")`` answers, without a window."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self) -> Any:
        return self._logic.GetSliceCompositeNode()


class ThreeDView:
    """A 3D view that only counts what it is asked."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self.resets = 0

    def mrmlViewNode(self) -> Any:
        return self._node

    def resetFocalPoint(self) -> None:
        self.resets += 1

    def forceRender(self) -> None:
        """Nothing is rendered here."""


class ThreeDWidget:
    """What ``layoutManager().threeDWidget(0)`` answers."""

    def __init__(self, node: Any) -> None:
        self._view = ThreeDView(node)

    def threeDView(self) -> ThreeDView:
        return self._view

    def mrmlViewNode(self) -> Any:
        return self._view.mrmlViewNode()


class LayoutManager:
    """Three slice views and one 3D view; made when first asked for, so that scenes without views stay small."""

    def __init__(self, booted: Any) -> None:
        self._booted = booted
        self._slices: dict[str, SliceWidget] = {}
        self._three_d: ThreeDWidget | None = None
        self.layout = 4

    def _made(self) -> dict[str, SliceWidget]:
        if not self._slices:
            logics = self._booted.application.GetSliceLogics() or vtk.vtkCollection()
            slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self._booted.scene)
            for name, orientation in _ORIENTATIONS.items():
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self._booted.application)
                logic.SetMRMLScene(self._booted.scene)
                logic.AddSliceNode(name)
                logic.GetSliceNode().SetOrientation(orientation)
                logics.AddItem(logic)
                self._slices[name] = SliceWidget(logic)
            self._booted.application.SetSliceLogics(logics)
        return self._slices

    def sliceViewNames(self) -> tuple[str, ...]:
        return tuple(self._made())

    def sliceWidget(self, name: str) -> SliceWidget | None:
        return self._made().get(name)

    def mrmlSliceLogics(self) -> vtk.vtkCollection:
        self._made()
        return self._booted.application.GetSliceLogics()

    @property
    def threeDViewCount(self) -> int:
        return 1

    def threeDWidget(self, index: int) -> ThreeDWidget | None:
        if self._three_d is None:
            node = self._booted.scene.AddNewNodeByClass("vtkMRMLViewNode", "View1")
            self._three_d = ThreeDWidget(node)
        return self._three_d if index == 0 else None

    def setLayout(self, layout: int) -> None:
        self.layout = layout

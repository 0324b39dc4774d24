"""Keeps what analyses made out of the selectors of inputs: heatmaps are no CTs, records no reports."""

from __future__ import annotations

from collections.abc import Sequence

import slicer
import slicer.util
import vtk

from ..mrml_io import is_input


class InputNodes(slicer.util.VTKObservationMixin):
    """Hides nodes in selectors, and there only: the Data module and all others show them.

    ``qMRMLNodeComboBox.addAttribute`` could only ask for an attribute, which the user's own nodes lack; so the nodes are
    named one by one, whenever the scene has others.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, selectors: Sequence[slicer.qMRMLNodeComboBox]) -> None:
        super().__init__()
        self._scene, self._selectors = scene, selectors
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.addObserver(scene, event, self._update)
        self._update()

    def _update(self, _caller: vtk.vtkObject | None = None, _event: str = "") -> None:
        if self._scene.IsBatchProcessing():
            return  # a scene is being loaded or closed: its end is told
        hidden = [
            node.GetID()
            for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLTextNode")
            for node in slicer.util.getNodesByClass(kind, self._scene)
            if not is_input(node)
        ]
        for selector in self._selectors:
            selector.sortFilterProxyModel().hiddenNodeIDs = hidden

    def close(self) -> None:
        """Follow the scene no longer."""
        self.removeObservers()

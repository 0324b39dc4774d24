"""Hands the CT and the segmentation of the scene over to the worker, from the memory where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk

from ..errors import InputError
from ..exchange import CaseWriter, check_report
from . import geometry
from .checks import check_in_scene, check_segmentation, check_volume, modality_of


@dataclass(frozen=True)
class MrmlCaseSource:
    """A CT, its segmentation (None: the worker makes one) and the report (may be empty), as ``analysis_job.CaseSource``.

    ``report_source``: where the text is from, a file's or node's name. ``notes``: warnings to go with the case.
    """

    volume_node: slicer.vtkMRMLScalarVolumeNode | None
    segmentation_node: slicer.vtkMRMLSegmentationNode | None = None
    report_text: str = ""
    report_source: str = ""
    notes: Sequence[str] = ()

    def check(self) -> None:
        """Refuse what cannot be analysed; milliseconds, and the scene is left as it is.

        Raises:
            VolumeError, SegmentationError, ReportError: see ``checks``.
        """
        self._checked()

    def hand_over(self, folder: Path) -> Iterator[float]:
        """Write the case to ``folder`` in steps of a few milliseconds; yields the fraction done.

        Nothing but the case's file is copied: slabs are written from the volume's memory and that of the segmentation's
        layers. Nodes may change or go between two steps.

        Raises:
            VolumeError, SegmentationError, ReportError: as ``check``.
            InputError: a node was changed or deleted, or the scene closed, between two steps.
            OutputError: the disk is full.
        """
        ct_to_world, layers, warnings = self._checked()
        scene = self.volume_node.GetScene()
        name = self.volume_node.GetName()
        watches = [_Watch("CT", self.volume_node, scene, self.volume_node.GetImageData())]
        watches += [_Watch("Segmentation", self.segmentation_node, scene, layer.image) for layer, _ in layers]
        writer = CaseWriter(folder)
        arrays = [geometry.image_array(watch.image) for watch in watches]
        details = {"source": _file_of(self.volume_node), "modality": modality_of(self.volume_node)}
        writing = [writer.write_ct(arrays[0], ct_to_world, name, **details)]
        writing += [
            writer.write_layer(array, to_world, layer.names)
            for array, (layer, to_world) in zip(arrays[1:], layers, strict=True)
        ]
        try:
            yield from _in_turn(writing, [array.nbytes for array in arrays], lambda: [w.check() for w in watches])
        except BaseException:
            writer.discard()
            raise
        segmentation_name = self.segmentation_node.GetName() if layers else ""
        writer.finish(self.report_text, self.report_source, warnings, segmentation_name=segmentation_name)
        yield 1.0

    def _checked(self) -> tuple[np.ndarray, list, tuple[str, ...]]:
        """The CT's matrix, the placed layers, and warnings."""
        ct_to_world = check_volume(self.volume_node)
        check_report(self.report_text)
        layers, warnings = [], ()
        if self.segmentation_node is not None:
            layers, warnings = check_segmentation(self.segmentation_node, self.volume_node, ct_to_world)
        if not self.report_text.strip():
            warnings += ("There is no report: findings are scored, but not compared with one.",)
        return ct_to_world, layers, (*self.notes, *warnings)


class _Watch:
    """Notices that an image is no longer the one that is being read: its memory must not be touched then."""

    def __init__(
        self, what: str, node: slicer.vtkMRMLNode, scene: slicer.vtkMRMLScene, image: vtk.vtkImageData
    ) -> None:
        self.image = image
        self._what, self._node, self._scene, self._name = what, node, scene, node.GetName()
        self._scalars = image.GetPointData().GetScalars()
        self._modified = self._scalars.GetMTime()

    def check(self) -> None:
        """Raises InputError where the node was deleted or its voxels changed."""
        check_in_scene(self._node, self._scene, self._what)
        same_image = not self._node.IsA("vtkMRMLVolumeNode") or self._node.GetImageData() is self.image
        same_scalars = self.image.GetPointData().GetScalars() is self._scalars
        if not same_image or not same_scalars or self._scalars.GetMTime() != self._modified:
            raise InputError(f"{self._what} {self._name} was changed while it was read. Analyze again.")


def _in_turn(writing: Sequence[Iterator[float]], sizes: Sequence[int], check: Callable[[], object]) -> Iterator[float]:
    """Run one generator after the other; yields the fraction of all, and checks before each further step."""
    done, total = 0, sum(sizes)
    for steps, size in zip(writing, sizes, strict=True):
        for fraction in steps:
            yield (done + fraction * size) / total
            check()
        done += size


def _file_of(volume_node: slicer.vtkMRMLVolumeNode) -> str:
    storage = volume_node.GetStorageNode()
    return (storage.GetFileName() or "") if storage else ""

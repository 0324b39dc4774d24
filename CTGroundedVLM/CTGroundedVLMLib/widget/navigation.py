"""Linked navigation: a sentence, a finding or a segment is chosen somewhere, and every view shows what belongs to it.

The panel's parts are told at once; the views follow in steps of some milliseconds, so that the application stays responsive;
another choice drops the steps that are left. No Qt here: the panel's parts are told by a callback, the slice and 3D views by
MRML nodes (``mrml_io.display``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import slicer
import slicer.util

from ..errors import CTGroundedVLMError
from ..mrml_io import display, geometry
from ..mrml_io.segment_box import segment_centre
from ..mrml_io.segments import match_segments, segment_ids_of
from ..types import AnalysisResult, SentenceLink

Key = tuple[str, str]  # organ, finding
Place = Callable[[], Sequence[float] | None]  # where to go (RAS, mm), found when it is its turn; None: nowhere


@dataclass(frozen=True)
class Selection:
    """What the parts of the panel mark."""

    sentences: tuple[int, ...] = ()
    finding: Key | None = None
    segment_ids: tuple[str, ...] = ()


class LinkedNavigation:
    """Shows one analysis in the views.

    ``on_selection`` is told what to mark; ``request_heatmap(organ, finding)`` is asked for one that the scene lacks, and is
    answered by ``heatmap_ready``; ``call_soon`` runs a function when other events had their turn; ``on_error`` is told what
    could not be shown.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        *,
        on_selection: Callable[[Selection], None],
        request_heatmap: Callable[[str, str], None],
        call_soon: Callable[[Callable[[], None]], None],
        on_error: Callable[[CTGroundedVLMError], None],
    ) -> None:
        self._scene, self._call_soon, self._on_error = scene, call_soon, on_error
        self._on_selection, self._request_heatmap = on_selection, request_heatmap
        self._result: AnalysisResult | None = None
        self._nodes = None
        self._wanted: Key | None = None
        self._to_peak = True
        self._ids: list[str] = []  # the chosen segments
        self._steps: Iterator[None] | None = None
        self.opacity = 0.5
        self.heatmap_visible = True
        self.surfaces_visible = True

    @property
    def busy(self) -> bool:
        """Whether the views still lack something of what was chosen."""
        return self._steps is not None

    @property
    def wanted(self) -> Key | None:
        """The heatmap that is shown, or will be as soon as it is there."""
        return self._wanted

    def open(self, result: AnalysisResult, nodes) -> None:
        """Navigate in this result; ``nodes``: its ``mrml_io.AnalysisNodes``."""
        self.close()
        self._result, self._nodes = result, nodes

    def update(self, result: AnalysisResult) -> None:
        """The same analysis with a further answer; what is shown stays."""
        self._result = result

    def close(self) -> None:
        """Give the views back as they were."""
        self._steps = None
        self._result = self._nodes = self._wanted = None
        self._ids = []
        display.restore_display(self._scene)

    def forget(self) -> None:
        """The scene is being closed: touch nothing any more."""
        self._steps = None
        self._result = self._nodes = self._wanted = None
        self._ids = []

    # ---------------------------------------------------------------- choices

    def choose_sentence(self, index: int, *, go_there: bool = True) -> None:
        """Highlight the sentence's segments, go there, and show the heatmap of its finding.

        ``go_there`` False: the slices stay, for they are at an image that the sentence cites.
        """
        link = next((link for link in self._result.links if link.sentence == index), None)
        ids = self._segment_ids(link.segments if link else ())
        finding = self._finding_of(index)
        self._on_selection(Selection((index,), finding, tuple(ids)))
        self._want(finding, ids, to_peak=go_there)
        self._show(self._views(lambda: self._centre_of(link) if go_there else None))

    def choose_finding(self, organ: str, finding: str) -> None:
        """Show the finding's heatmap, the organ's segments and the sentences that speak of it."""
        ids = self._segment_ids(self._classes_of(organ))
        compared = [c for c in self._result.comparisons if (c.organ, c.finding) == (organ, finding)]
        sentences = tuple(dict.fromkeys(n for comparison in compared for n in comparison.sentences))
        self._on_selection(Selection(sentences, (organ, finding), tuple(ids)))
        scored = any(
            (s.organ, s.finding) == (organ, finding) and s.probability is not None for s in self._result.findings
        )
        self._want((organ, finding) if scored else None, ids)
        self._show(self._views(to_peak=True))

    def choose_segments(self, segment_ids: Iterable[str]) -> None:
        """Highlight segments, go to the first one, and mark the sentences that speak of one of them."""
        ids = tuple(segment_ids)
        segmentation = self._segmentation()
        if segmentation is None or not ids:
            return
        classes = {m.class_name for m in match_segments(segmentation) if m.segment_id in ids} - {None}
        links = self._result.links if self._result else ()
        sentences = tuple([link.sentence for link in links if not classes.isdisjoint(link.segments)])
        self._on_selection(Selection(sentences, None, ids))
        self._want(None, ids)
        self._show(self._views(lambda: segment_centre(segmentation, ids[0])))

    def clear(self) -> None:
        """Nothing is chosen any more; the views are as before."""
        self._steps = self._wanted = None
        self._ids = []
        display.restore_display(self._scene)
        self._on_selection(Selection())

    # ---------------------------------------------------------------- heatmap

    def heatmap_ready(self, key: Key) -> None:
        """A heatmap that was requested is in the scene now; shown if it is still wanted."""
        if key == self._wanted:
            self._show(self._heatmap_steps(to_peak=self._to_peak))

    def set_opacity(self, opacity: float) -> None:
        """0..1."""
        self.opacity = opacity
        display.set_heatmap_opacity(self._scene, opacity)

    def set_heatmap_visible(self, visible: bool) -> None:
        """Show or hide the heatmap of the choice."""
        self.heatmap_visible = visible
        if not visible:
            display.hide_heatmap(self._scene)
        elif self._wanted is not None:
            self._show(self._heatmap_steps())

    def set_surfaces_visible(self, visible: bool) -> None:
        """Show or hide the chosen segments in 3D."""
        self.surfaces_visible = visible
        if not visible:
            display.hide_surfaces(self._scene)
        if self._nodes is not None:  # after the steps that are left, which may be past what has changed
            self._show(chain(self._steps or (), self._surface_steps()))

    def _want(self, key: Key | None, ids: Iterable[str], *, to_peak: bool = True) -> None:
        """The segments and the heatmap that are to be shown; a heatmap that the scene lacks is requested.

        ``to_peak``: the views go to it when it comes.
        """
        self._wanted, self._ids, self._to_peak = key, list(ids), to_peak
        if key is not None and self._heatmap_node() is None:
            self._request_heatmap(*key)

    def _heatmap_node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        node = self._nodes.heatmaps.get(self._wanted) if self._nodes is not None and self._wanted else None
        return node if self._is_there(node) else None

    # ---------------------------------------------------------------- views, step by step

    def _show(self, steps: Iterator[None]) -> None:
        self._steps = steps
        self._call_soon(lambda: self._next(steps))

    def _next(self, steps: Iterator[None]) -> None:
        if steps is not self._steps:
            return  # something else was chosen meanwhile
        try:
            next(steps)
        except StopIteration:
            self._steps = None
            return
        except CTGroundedVLMError as error:
            self._steps = None
            self._on_error(error)
            return
        except BaseException:
            self._steps = None
            raise
        self._call_soon(lambda: self._next(steps))

    def _views(self, place: Place = lambda: None, *, to_peak: bool = False) -> Iterator[None]:
        """Outlines in the slices first (a heatmap may lie below them), the place, the heatmap, and surfaces one by one."""
        display.highlight_segments(self._segmentation(), self._ids, fill=False, surfaces=False)
        yield
        centre = place()
        if centre is not None:
            display.jump_to(self._scene, centre)
            yield
        yield from self._heatmap_steps(to_peak=to_peak)

    def _heatmap_steps(self, *, to_peak: bool = False) -> Iterator[None]:
        """The wanted heatmap over the CT, or none without one; then the surfaces."""
        node, key = self._heatmap_node(), self._wanted
        if node is None:
            display.hide_heatmap(self._scene)
            yield
        elif to_peak:
            self._jump_to_peak(node)
            yield
        if node is not None and self.heatmap_visible:
            title = f"{key[0].replace('_', ' ')}: {key[1]}"
            volume = self._nodes.volume if self._is_there(self._nodes.volume) else None
            display.show_heatmap(self._scene, node, opacity=self.opacity, title=title, volume_node=volume)
            yield
        yield from self._surface_steps()

    def _surface_steps(self) -> Iterator[None]:
        """The organ's surfaces with the wanted heatmap's evidence, else those of the chosen segments; or none at all."""
        node = self._heatmap_node()
        if not self.surfaces_visible:
            display.hide_surfaces(self._scene)
            yield
        elif node is not None:
            ids = self._segment_ids(self._classes_of(self._wanted[0]))
            yield from display.evidence_steps(self._segmentation(), ids, node)
        elif self._ids:
            yield from display.surface_steps(self._segmentation(), self._ids)

    def _centre_of(self, link: SentenceLink | None) -> tuple[float, ...] | None:
        if link is None or link.centre_ijk is None or not self._is_there(self._nodes.volume):
            return None
        return geometry.voxel_position(self._nodes.volume, link.centre_ijk)

    def _jump_to_peak(self, node: slicer.vtkMRMLScalarVolumeNode) -> None:
        values_kji = slicer.util.arrayFromVolume(node)
        if values_kji.size and values_kji.max() > 0:
            k, j, i = np.unravel_index(int(values_kji.argmax()), values_kji.shape)
            display.jump_to(self._scene, geometry.voxel_position(node, (int(i), int(j), int(k))))

    def _finding_of(self, sentence: int) -> Key | None:
        """The scored finding that the sentence speaks of: one with a heatmap first, then the most severe one."""
        here = [c for c in self._result.comparisons if sentence in c.sentences and c.probability is not None]
        here.sort(key=lambda c: ((c.organ, c.finding) not in self._nodes.heatmaps, -c.severity, -c.probability))
        return (here[0].organ, here[0].finding) if here else None

    # ---------------------------------------------------------------- segments

    def _segmentation(self) -> slicer.vtkMRMLSegmentationNode | None:
        node = self._nodes.segmentation if self._nodes is not None else None
        return node if self._is_there(node) else None

    def _is_there(self, node: slicer.vtkMRMLNode | None) -> bool:
        return node is not None and node.GetScene() is self._scene

    def _classes_of(self, organ: str) -> tuple[str, ...]:
        return next((info.segments for info in self._result.organs if info.organ == organ), ())

    def _segment_ids(self, classes: Iterable[str]) -> list[str]:
        segmentation = self._segmentation()
        return segment_ids_of(segmentation, classes) if segmentation is not None else []

"""The results: findings table, report, question, heatmap and segments, linked with each other and with the views."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import qt
import slicer
from slicer.i18n import tr as _

from ..errors import CTGroundedVLMError
from ..exchange import Answer
from ..mrml_io.segments import match_segments
from ..types import AnalysisResult, Citation, Heatmap, ReportComparison
from .finding_rows import FindingRow, finding_rows
from .findings_table import FindingsTable
from .navigation import LinkedNavigation, Selection
from .question_box import QuestionBox
from .report_spans import sentence_details
from .report_view import Colour, ReportView
from .segment_matches import SegmentMatchTable

OnAnswer = Callable[[Answer], None]
OnError = Callable[[CTGroundedVLMError], None]


class Backend(Protocol):
    """What the panel asks for; the module's logic. The heatmap is in the scene when ``on_done`` is called."""

    def ask(self, organ: str | None, text: str, onDone: OnAnswer, onError: OnError) -> None: ...
    def requestHeatmap(self, organ: str, finding: str, onDone: Callable[[Heatmap], None], onError: OnError) -> None: ...  # noqa: N802
    def goToCitation(self, volume: Any, citation: Citation) -> None: ...  # noqa: N802


class ResultsPanel:
    """``ui``: the widgets of the .ui file. ``on_matches_changed`` is called when a segment's match was corrected."""

    def __init__(
        self, ui: Any, scene: slicer.vtkMRMLScene, backend: Backend, *, on_matches_changed: Callable[[], None]
    ) -> None:
        self._ui, self._backend = ui, backend
        self._result: AnalysisResult | None = None
        self._busy, self._queued = False, None
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None  # the result's; the lists may show another one
        self._chosen_ids: tuple[str, ...] = ()
        self._marked: frozenset[str] = frozenset()  # what the list of segments marked when it was looked at last
        self._list_changed = qt.QTimer(ui.segmentsTable)
        self._list_changed.setSingleShot(True)
        self._list_changed.setInterval(0)
        self._list_changed.connect("timeout()", self._on_segments_list)
        self.table = FindingsTable(
            ui.findingsTable, ui.findingsFilterEdit, ui.discrepanciesOnlyCheckBox, self._on_finding
        )
        self.report = ReportView(ui.reportBrowser, self._on_sentence, self._on_citation)
        self.question = QuestionBox(
            ui.questionLineEdit, ui.questionOrganComboBox, ui.askButton, ui.answerLabel, self._on_asked
        )
        self.matches = SegmentMatchTable(
            ui.segmentMatchTable,
            ui.segmentClassComboBox,
            ui.automaticMatchButton,
            on_chosen=lambda segment_id: self._go_to_segments([segment_id]),
            on_changed=on_matches_changed,
        )
        self.navigation = LinkedNavigation(
            scene,
            on_selection=self._on_selection,
            request_heatmap=self._request_heatmap,
            call_soon=lambda function: qt.QTimer.singleShot(0, function),
            on_error=lambda error: self.question.say(str(error), trouble=True),
        )
        ui.segmentsTable.connect("selectionChanged(QItemSelection,QItemSelection)", lambda: self._list_changed.start())
        ui.opacitySlider.connect("valueChanged(double)", self.navigation.set_opacity)
        ui.heatmapVisibleCheckBox.connect("toggled(bool)", self.navigation.set_heatmap_visible)
        ui.surfacesVisibleCheckBox.connect("toggled(bool)", self.navigation.set_surfaces_visible)
        self.clear()

    # ---------------------------------------------------------------- what is shown

    def show(self, result: AnalysisResult, nodes: Any, *, can_ask: bool) -> None:
        """Show an analysis. ``nodes``: its ``mrml_io.AnalysisNodes``; ``can_ask``: the worker still holds its image."""
        self._result, self._busy, self._queued = result, False, None
        self._volume, self._segmentation = nodes.volume, nodes.segmentation
        self.navigation.open(result, nodes)
        self.navigation.opacity = self._ui.opacitySlider.value
        self.table.show(finding_rows(result))
        self.report.show(result.report, result.links, self._colour_of(nodes.segmentation))
        self.question.set_organs([info.organ for info in result.organs if info.reason is None])
        self.question.say("")
        self.set_can_ask(can_ask)
        self._ui.resultNoticeLabel.text = result.model.notice
        self._ui.resultNoticeLabel.visible = bool(result.model.notice)
        self._ui.summaryLabel.text = _summary(result)
        self._ui.summaryLabel.toolTip = "\n".join(result.warnings)
        self._ui.reportBrowser.visible = bool(result.report.text.strip())
        self._on_selection(Selection())

    def clear(self, *, scene_is_closing: bool = False) -> None:
        """Show no analysis; give the views back unless the scene is being closed."""
        self._result, self._busy, self._queued = None, False, None
        self._volume = self._segmentation = None
        if scene_is_closing:
            self.navigation.forget()
        else:
            self.navigation.close()
        self.table.show([])
        self.report.clear()
        self.question.set_organs([])
        self.question.say("")
        self.set_can_ask(False)
        self._ui.resultNoticeLabel.visible = False
        self._ui.summaryLabel.text = _("No analysis yet.")
        self._ui.summaryLabel.toolTip = ""
        self._on_selection(Selection())

    def show_segmentation(self, node: slicer.vtkMRMLSegmentationNode | None) -> None:
        """The segments of the input."""
        table = self._ui.segmentsTable
        another = table.segmentationNode() is not node
        if another:
            table.setSelectedSegmentIDs([])  # or Slicer marks the rows that have the same IDs there
        table.setSegmentationNode(node)
        self.matches.show(node)
        if another:
            self._mark_list()

    def set_can_ask(self, can_ask: bool) -> None:
        """Whether the worker holds the encoded image of what is shown. Where not, no answer is to come any more."""
        if self._busy and not can_ask:
            self._busy, self._queued = False, None
            self.question.say("")
        no_result = _("Analyze a CT first.")
        gone = _("The encoded image is no longer in memory: analyze again to ask more.")
        self._no_questions = "" if can_ask else no_result if self._result is None else gone
        self.question.set_refusal(self._no_questions)

    @property
    def result(self) -> AnalysisResult | None:
        """The analysis that is shown."""
        return self._result

    # ---------------------------------------------------------------- the user goes somewhere

    def _on_finding(self, row: FindingRow) -> None:
        self.navigation.choose_finding(*row.key)

    def _on_sentence(self, index: int) -> None:
        self.navigation.choose_sentence(index)

    def _on_citation(self, sentence: int, index: int) -> None:
        self.navigation.choose_sentence(sentence, go_there=False)
        try:
            self._backend.goToCitation(self._volume, self._result.report.sentences[sentence].citations[index])
        except CTGroundedVLMError as error:
            self._show_detail(self._ui.sentenceDetailLabel, [str(error)])

    def _on_segments_list(self) -> None:
        """Look what the list marks, a turn after it has changed, and take what differs for a click.

        Slicer fills the list anew by itself, and restores its marks row by row; only the last of these states counts.
        """
        table = self._ui.segmentsTable
        ids = tuple(table.selectedSegmentIDs())
        left = self._marked.intersection(table.displayedSegmentIDs())  # a marked segment that was removed is no click
        self._marked = frozenset(ids)
        if ids and self._marked != left and table.visible:
            self._go_to_segments(ids)

    def _go_to_segments(self, ids: Iterable[str]) -> None:
        if self._lists_show_result():
            self.navigation.choose_segments(ids)

    def _lists_show_result(self) -> bool:
        """Whether the segments that are listed are those of the result: only then their IDs mean the same."""
        return self._segmentation is not None and self._ui.segmentsTable.segmentationNode() is self._segmentation

    def _mark_list(self) -> None:
        table = self._ui.segmentsTable
        table.setSelectedSegmentIDs(list(self._chosen_ids) if self._lists_show_result() else [])
        self._marked = frozenset(table.selectedSegmentIDs())
        self._list_changed.stop()  # nobody has clicked

    def _on_selection(self, selection: Selection) -> None:
        self.table.select(selection.finding)
        self.report.mark(selection.sentences)
        self._chosen_ids = tuple(selection.segment_ids)
        self.matches.select(self._chosen_ids[0] if self._chosen_ids and self._lists_show_result() else None)
        self._mark_list()
        row = next((row for row in self.table.shown if row.key == selection.finding), None)
        self._show_detail(self._ui.findingDetailLabel, [row.reason] if row else [])
        self._show_detail(self._ui.sentenceDetailLabel, self._sentence_lines(selection))

    def _sentence_lines(self, selection: Selection) -> list[str]:
        if len(selection.sentences) == 1 and self._result is not None:
            (index,) = selection.sentences
            link = next((link for link in self._result.links if link.sentence == index), None)
            return sentence_details(self._result.report.sentences[index], link)
        if selection.segment_ids and not selection.sentences and self._result is not None:
            return [_("No sentence of the report speaks of it.")]
        return []

    def _show_detail(self, label: qt.QLabel, lines: list[str]) -> None:
        label.text = "\n".join(lines)
        label.visible = bool(lines)

    # ---------------------------------------------------------------- questions and heatmaps

    def _on_asked(self, organ: str | None, text: str) -> None:
        self._start()
        self._backend.ask(organ, text, self._on_answer, self._on_trouble)

    def _on_answer(self, answer: Answer) -> None:
        self._result = result = _with_answer(self._result, answer)
        self.navigation.update(result)
        self.question.answer(answer)
        self._done()
        # a turn later: the scene has just been changed, which took its time
        qt.QTimer.singleShot(0, lambda: self._show_answer(result, answer))

    def _show_answer(self, result: AnalysisResult, answer: Answer) -> None:
        if result is self._result:
            self.table.show(finding_rows(result))
            self.navigation.choose_finding(answer.score.organ, answer.score.finding)

    def _request_heatmap(self, organ: str, finding: str) -> None:
        if self._busy:
            self._queued = (organ, finding)
            return
        if self._no_questions:
            self.question.say(_("No heatmap of it is saved. {why}").format(why=self._no_questions))
            return
        self._start()
        self.question.say(_("Computing the heatmap of {finding}…").format(finding=finding))
        self._backend.requestHeatmap(organ, finding, self._on_heatmap, self._on_trouble)

    def _on_heatmap(self, heatmap: Heatmap) -> None:
        self.question.say("")
        self._done()
        self.navigation.heatmap_ready((heatmap.organ, heatmap.finding))

    def _on_trouble(self, error: CTGroundedVLMError) -> None:
        self.question.say(str(error), trouble=True)
        self._done()

    def _start(self) -> None:
        self._busy = True
        self.question.set_refusal(_("The last question is being answered."))

    def _done(self) -> None:
        self._busy = False
        self.question.set_refusal(self._no_questions)
        queued, self._queued = self._queued, None
        if queued is not None and queued == self.navigation.wanted:
            self._request_heatmap(*queued)

    def _colour_of(self, node: slicer.vtkMRMLSegmentationNode | None) -> Callable[[str], Colour | None]:
        """Class name -> the colour that Slicer shows its segment in."""
        colours: dict[str, Colour] = {}
        for match in match_segments(node) if node is not None else ():
            if match.class_name:
                colour = node.GetSegmentation().GetSegment(match.segment_id).GetColor()
                colours.setdefault(match.class_name, tuple(round(255 * part) for part in colour))
        return colours.get


def _with_answer(result: AnalysisResult, answer: Answer) -> AnalysisResult:
    """The result with the answer to a question in place of an earlier one to the same; discrepancies first."""
    score, comparison = answer.score, answer.comparison
    key = score.organ, score.finding, score.source

    def others(items: Iterable[Any]) -> list[Any]:
        return [item for item in items if (item.organ, item.finding, item.source) != key]

    comparisons: list[ReportComparison] = others(result.comparisons) + ([comparison] if comparison else [])
    comparisons.sort(key=lambda c: (not c.discrepancy, -c.severity))
    return dataclasses.replace(result, findings=(*others(result.findings), score), comparisons=tuple(comparisons))


def _summary(result: AnalysisResult) -> str:
    scored = sum(score.probability is not None for score in result.findings)
    discrepancies = sum(comparison.discrepancy for comparison in result.comparisons)
    linked = sum(bool(link.segments) for link in result.links)
    parts = [_("{scored} of {all} findings scored").format(scored=scored, all=len(result.findings))]
    if result.report.sentences:
        parts.append(_("{n} discrepancies").format(n=discrepancies))
        parts.append(_("{n} of {all} sentences linked").format(n=linked, all=len(result.report.sentences)))
    else:
        parts.append(_("no report"))
    if result.warnings:
        parts.append(_("{n} warnings (log)").format(n=len(result.warnings)))
    return " · ".join(parts)

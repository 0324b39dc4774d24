"""The panel in one piece: choose nodes, click Analyze (a real worker, the tiny model), click a sentence, ask, save, load."""

import dataclasses

import numpy as np
import pytest
import slicer
from PIL import Image

from CTGroundedVLMLib.mrml_io import display
from CTGroundedVLMLib.types import Citation
from panel_session import REPORT, open_panel
from qt_standin import a_session, dialogs


@pytest.fixture(scope="module")
def analysed(models, tmp_path_factory):
    """A panel whose Analyze button was clicked for the box case, when it is done; tests leave it as they found it."""
    with pytest.MonkeyPatch.context() as patch, a_session(tmp_path_factory.mktemp("slicer")) as session:
        patch.setenv("CTGVLM_MODELS_DIR", str(models))
        patch.setenv("CTGVLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        panel = open_panel(session)
        panel.analyze()
        yield panel


def test_the_result_is_shown_after_one_click(analysed):
    ui, result = analysed.ui, analysed.results.result
    assert result.report.text == REPORT
    assert ui.findingsTable.rowCount == len(result.findings) == 16
    assert "sentences linked" in ui.summaryLabel.text
    assert ui.stageLabel.text.startswith("Done in")
    assert ui.analyzeButton.text == "Analyze"
    assert ui.analyzeButton.enabled
    assert not ui.resultsCollapsibleButton.collapsed
    assert "UNTRAINED" in ui.resultNoticeLabel.text
    assert "encode image" in ui.logTextEdit.toPlainText()


def test_the_panel_with_its_results_can_be_grabbed_as_a_picture(analysed, tmp_path):
    analysed.representation.resize(640, 1400)
    analysed.session.process_events()
    assert analysed.representation.grab().save(str(tmp_path / "panel.png"))
    with Image.open(tmp_path / "panel.png") as picture:
        size, pixels = picture.size, np.asarray(picture.convert("L"))
    assert size == (analysed.representation.width, analysed.representation.height)
    assert min(size) >= 400
    shades, counts = np.unique(pixels, return_counts=True)
    assert len(shades) > 32  # letters with smoothed edges
    assert 1 - counts.max() / pixels.size > 0.005  # and not a few of them


def test_discrepancies_come_first_and_the_worst_before_the_others(analysed):
    rows = analysed.results.table.shown
    disagree = [row for row in rows if row.agreement == "no"]
    assert disagree
    assert rows[: len(disagree)] == tuple(sorted(disagree, key=lambda row: -row.severity))


def test_the_table_filters_by_words_and_sorts_by_a_clicked_column(analysed):
    ui, table = analysed.ui, analysed.results.table
    everything = len(table.shown)
    ui.findingsFilterEdit.text = "LUNG effus"
    assert {row.organ for row in table.shown} == {"lung"}
    assert all("effusion" in row.finding.lower() for row in table.shown)
    ui.findingsFilterEdit.text = ""
    ui.discrepanciesOnlyCheckBox.checked = True
    assert {row.agreement for row in table.shown} == {"no"}
    ui.discrepanciesOnlyCheckBox.checked = False
    assert len(table.shown) == everything
    header = ui.findingsTable.horizontalHeader()
    default = table.shown
    header.sectionClicked.emit(2)
    scored = [row.probability for row in table.shown if row.probability is not None]
    assert scored == sorted(scored, reverse=True)
    header.sectionClicked.emit(2)
    assert [row.probability for row in table.shown if row.probability is not None] == sorted(scored)
    header.sectionClicked.emit(2)
    assert table.shown == default


def test_a_clicked_sentence_highlights_its_segments_and_moves_the_slices_there(analysed):
    results = analysed.results
    index = analysed.click_sentence("heart is enlarged")
    link = next(link for link in results.result.links if link.sentence == index)
    assert link.segments == ("heart",)
    (heart,) = [m.segment_id for m in results.matches.matches if m.class_name == "heart"]
    shown = analysed.segmentation.GetDisplayNode()
    assert shown.GetSegmentOpacity3D(heart) == 1
    others = [m.segment_id for m in results.matches.matches if m.class_name != "heart"]
    assert all(shown.GetSegmentOpacity3D(other) < 0.5 for other in others)
    expected = results.result.case.ct.ijk_to_ras @ [*link.centre_ijk, 1]
    axial = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(expected[2], abs=1e-3)
    assert results.report.marked == {index}
    assert list(analysed.ui.segmentsTable.selectedSegmentIDs()) == [heart]
    assert "Heart" in analysed.ui.sentenceDetailLabel.text


def test_a_clicked_sentence_shows_the_heatmap_of_its_finding(analysed):
    index = analysed.click_sentence("Emphysema in the lungs")
    node = display.shown_heatmap(slicer.mrmlScene)
    assert node.GetAttribute("CTGroundedVLM.Organ") == "lung"
    assert node.GetAttribute("CTGroundedVLM.Finding") == "Emphysema"
    row = analysed.results.table.shown[analysed.ui.findingsTable.currentRow()]
    assert row.key == ("lung", "Emphysema")
    assert index in row.sentences


def test_a_clicked_finding_shows_its_heatmap_its_surfaces_and_its_sentences(analysed):
    ui, results = analysed.ui, analysed.results
    number = analysed.row_of("heart", "Cardiomegaly")
    ui.findingsTable.setCurrentCell(number, 1)
    analysed.finish()
    node = display.shown_heatmap(slicer.mrmlScene)
    assert node is not None
    assert node.GetAttribute("CTGroundedVLM.Finding") == "Cardiomegaly"
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert red.GetForegroundVolumeID() == node.GetID()
    assert red.GetForegroundOpacity() == pytest.approx(ui.opacitySlider.value)
    assert results.report.marked == set(results.table.shown[number].sentences) != set()
    surfaces = [m for m in slicer.util.getNodesByClass("vtkMRMLModelNode") if m.GetAttribute("CTGroundedVLM.Segment")]
    assert [m.GetName() for m in surfaces if m.GetDisplayVisibility()] == ["heart surface"]
    assert ui.findingDetailLabel.text == results.table.shown[number].reason


def test_the_slider_sets_the_opacity_and_the_box_hides_the_heatmap(analysed):
    ui = analysed.ui
    ui.findingsTable.setCurrentCell(analysed.row_of("heart", "Cardiomegaly"), 0)
    analysed.finish()
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    ui.opacitySlider.value = 0.25
    assert red.GetForegroundOpacity() == pytest.approx(0.25)
    assert analysed.parameters.heatmapOpacity == pytest.approx(0.25)
    ui.heatmapVisibleCheckBox.checked = False
    assert display.shown_heatmap(slicer.mrmlScene) is None
    ui.heatmapVisibleCheckBox.checked = True
    analysed.finish()
    assert display.shown_heatmap(slicer.mrmlScene) is not None
    ui.opacitySlider.value = 0.5


def test_a_clicked_segment_marks_its_sentences(analysed):
    results = analysed.results
    aorta = next(m.segment_id for m in results.matches.matches if m.class_name == "aorta")
    expected = {link.sentence for link in results.result.links if "aorta" in link.segments}
    analysed.ui.segmentsCollapsibleButton.collapsed = False
    analysed.session.process_events()
    segments = analysed.ui.segmentsTable
    segments.tableWidget().selectRow(segments.rowForSegmentID(aorta))
    analysed.finish()
    assert results.report.marked == expected != set()
    heart_row = next(n for n, m in enumerate(results.matches.matches) if m.class_name == "heart")
    analysed.ui.segmentMatchTable.setCurrentCell(heart_row, 0)
    analysed.finish()
    assert results.report.marked == {link.sentence for link in results.result.links if "heart" in link.segments}


def test_a_question_is_answered_with_a_heatmap_at_once(analysed):
    ui, results = analysed.ui, analysed.results
    ui.questionLineEdit.text = "show me a calcified plaque in the aorta"
    assert ui.askButton.enabled
    ui.askButton.click()
    analysed.finish()
    (score,) = [s for s in results.result.findings if s.source == "prompt"]
    assert score.organ == "aorta"
    assert f"{score.probability:.2f}" in ui.answerLabel.text
    node = display.shown_heatmap(slicer.mrmlScene)
    assert node.GetAttribute("CTGroundedVLM.Finding") == score.finding
    (row,) = [row for row in results.table.shown if row.key == (score.organ, score.finding)]
    assert row.report == "absent"  # "The aorta is normal."
    assert row.agreement in ("no", "yes")
    assert "calls the aorta normal" in row.reason
    assert "report: absent" in ui.answerLabel.text
    ui.questionLineEdit.text = ""
    assert not ui.askButton.enabled


def test_a_question_that_names_no_organ_is_refused_in_the_panel_and_not_by_a_dialog(analysed):
    ui = analysed.ui
    ui.questionLineEdit.text = "something odd"
    ui.askButton.click()
    analysed.finish()
    assert "names no organ" in ui.answerLabel.text
    assert dialogs.shown == []
    ui.questionLineEdit.text = ""


def test_a_citation_that_no_volume_holds_says_so_in_the_panel(analysed, monkeypatch):
    database = type("Database", (), {"fileForInstance": lambda self, uid: ""})()
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    result = analysed.results.result
    sentence = next(n for n, s in enumerate(result.report.sentences) if s.citations)
    assert dataclasses.astuple(result.report.sentences[sentence].citations[0])[:2] == (4, 12)
    assert isinstance(result.report.sentences[sentence].citations[0], Citation)
    analysed.click_link(f"citation:{sentence}:0")
    assert "Image 12 of series 4" in analysed.ui.sentenceDetailLabel.text


def test_the_scene_is_saved_and_shows_the_same_analysis_when_it_is_loaded_again(analysed, tmp_path):
    results = analysed.results
    rows, text = results.table.shown, results.result.report.text
    heatmaps = {
        key: np.array(slicer.util.arrayFromVolume(n))
        for key, n in analysed.widget.logic.analysis.nodes.heatmaps.items()
    }
    analysed.session.booted.save_mrb(tmp_path / "scene.mrb")
    analysed.session.booted.load_mrb(tmp_path / "scene.mrb")
    analysed.finish()
    assert results.result.report.text == text
    assert [row.cells for row in results.table.shown] == [row.cells for row in rows]
    assert not analysed.ui.askButton.enabled
    assert "analyze again" in analysed.ui.askButton.toolTip
    parameters = analysed.parameters
    assert parameters.inputVolume.GetName() == "box case"
    assert parameters.reportNode.GetText() == REPORT
    key = next(iter(heatmaps))
    analysed.ui.findingsTable.setCurrentCell(analysed.row_of(*key), 0)
    analysed.finish()
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(display.shown_heatmap(slicer.mrmlScene)), heatmaps[key])

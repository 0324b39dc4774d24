"""One panel, one worker, one analysis after the other: without a report, in another script, after nodes were deleted."""

import numpy as np
import pytest
import slicer
import slicer.util

import qt_standin
from panel_session import open_panel


@pytest.fixture(scope="module")
def panel(models, tmp_path_factory):
    """An open panel with the box case; its worker lives on from test to test."""
    with pytest.MonkeyPatch.context() as patch, qt_standin.a_session(tmp_path_factory.mktemp("slicer")) as session:
        patch.setenv("CTGVLM_MODELS_DIR", str(models))
        patch.setenv("CTGVLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield open_panel(session)


def test_without_a_report_findings_are_scored_and_nothing_is_linked(panel):
    panel.ui.reportTextEdit.setPlainText("  \n")
    panel.analyze()
    assert panel.results.result.links == ()
    assert "no report" in panel.ui.summaryLabel.text
    assert not panel.ui.reportBrowser.visible
    assert {row.agreement for row in panel.results.table.shown} == {"–"}


def test_a_report_in_another_script_is_shown_as_it_is(panel):
    import qt

    text = "所見: 肝臓は正常。\n😀 Emphysema in the lungs.\n"
    panel.ui.reportTextEdit.setPlainText(text)
    panel.analyze()
    assert panel.ui.reportBrowser.toPlainText() == text
    panel.click_sentence("Emphysema")
    cursor = panel.ui.reportBrowser.textCursor()
    cursor.setPosition(text.index("Emph") + 1)  # an emoji is two of Qt's units
    cursor.setPosition(text.index("lungs.") + 7, qt.QTextCursor.KeepAnchor)
    assert cursor.selectedText() == "Emphysema in the lungs."
    assert cursor.charFormat().anchorHref().startswith("sentence:")
    assert cursor.charFormat().fontUnderline()


def test_a_heatmap_that_was_deleted_is_made_again_on_the_next_click(panel):
    panel.analyze()
    key, node = next(iter(panel.widget.logic.analysis.nodes.heatmaps.items()))
    values = np.array(slicer.util.arrayFromVolume(node))
    slicer.mrmlScene.RemoveNode(node)
    panel.ui.findingsTable.setCurrentCell(panel.row_of(*key), 0)
    panel.finish()
    made = panel.widget.logic.analysis.nodes.heatmaps[key]
    assert made is not node
    np.testing.assert_allclose(slicer.util.arrayFromVolume(made), values, atol=1e-6)


def test_another_analysis_replaces_the_nodes_of_the_former_one_and_no_others(panel):
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Mine")
    panel.analyze()
    first = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")}
    panel.analyze()
    second = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLStorableNode")}
    assert len(first) == len(second)
    assert other.GetScene() is slicer.mrmlScene
    assert {panel.volume.GetID(), panel.segmentation.GetID(), other.GetID()} <= first & second
    assert first - second  # the tables, the record and the heatmaps are new ones


def test_the_mode_and_the_number_of_heatmaps_are_taken_from_the_panel(panel):
    panel.ui.heatmapCountSpinBox.value = 2
    panel.ui.modeComboBox.setCurrentIndex(1)
    panel.analyze()
    assert panel.results.result.settings["mode"] == "reference"
    assert len(panel.results.result.heatmaps) == 2

"""The list of segments: a click goes to a segment; what Slicer does to the list by itself is no click."""

import dataclasses

import pytest
import slicer
from PySide6 import QtCore, QtTest

import slicer_scene
from CTGroundedVLMLib import mrml_io
from CTGroundedVLMLib.mrml_io import display
from export_cases import a_result
from panel_session import open_empty_panel

FINDING = "liver", "hepatic steatosis"


@pytest.fixture
def shown(session):
    """A panel that shows an analysis, with the list of segments unfolded; the organ liver is of two segments."""
    panel = open_empty_panel(session)
    slicer.app.layoutManager().sliceViewNames()
    result = a_result()
    liver = dataclasses.replace(result.organs[0], segments=("liver", "gallbladder"))
    result = dataclasses.replace(result, organs=(liver, *result.organs[1:]))
    panel.volume, panel.segmentation = slicer_scene.add_case(session.booted, result.case)
    mrml_io.show_result(result, slicer.mrmlScene, panel.volume, panel.segmentation)
    panel.ui.inputVolumeSelector.setCurrentNode(panel.volume)
    panel.ui.inputSegmentationSelector.setCurrentNode(panel.segmentation)
    panel.panel.show_saved_analysis()
    panel.finish()
    panel.ui.segmentsCollapsibleButton.collapsed = False
    session.process_events()
    return panel


def id_of(panel, class_name):
    return next(m.segment_id for m in mrml_io.match_segments(panel.segmentation) if m.class_name == class_name)


def choose_finding(panel):
    """Click the finding of two segments; returns what the panel shows then."""
    panel.ui.findingsTable.setCurrentCell(panel.row_of(*FINDING), 0)
    panel.finish()
    state = state_of(panel)
    assert state["heatmap"] is not None
    assert state["marked"]
    return state


def state_of(panel):
    """What another choice would change."""
    return {
        "heatmap": display.shown_heatmap(slicer.mrmlScene),
        "marked": set(panel.results.report.marked),
        "finding": panel.ui.findingsTable.currentRow(),
    }


def click(panel, class_name, *modifiers):
    """A real click on a segment's row."""
    table = panel.ui.segmentsTable.tableWidget()
    row = panel.ui.segmentsTable.rowForSegmentID(id_of(panel, class_name))
    place = table.visualRect(table.model().index(row, 0)).center()
    keys = modifiers[0] if modifiers else QtCore.Qt.KeyboardModifier.NoModifier
    QtTest.QTest.mouseClick(table.viewport(), QtCore.Qt.MouseButton.LeftButton, keys, place)
    panel.finish()


def selected(panel):
    return set(panel.ui.segmentsTable.selectedSegmentIDs())


def fill_anew(panel):
    """What an undo of the scene does: the node gets another vtkSegmentation of the same segments."""
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(panel.segmentation.GetSegmentation())
    panel.segmentation.SetAndObserveSegmentation(copy)


def test_a_clicked_row_marks_its_sentences_and_takes_the_heatmap_off(shown):
    choose_finding(shown)
    click(shown, "spleen")
    assert shown.results.report.marked == {2}
    assert display.shown_heatmap(slicer.mrmlScene) is None
    click(shown, "lung_lower_lobe_right", QtCore.Qt.KeyboardModifier.ControlModifier)
    assert selected(shown) == {id_of(shown, "spleen"), id_of(shown, "lung_lower_lobe_right")}
    assert shown.results.report.marked == {1, 2}
    click(shown, "spleen", QtCore.Qt.KeyboardModifier.ControlModifier)
    assert shown.results.report.marked == {1}


def test_a_list_that_slicer_fills_anew_is_no_click(shown):
    state = choose_finding(shown)
    two = {id_of(shown, "liver"), id_of(shown, "gallbladder")}
    assert selected(shown) == two
    steps = []
    shown.ui.segmentsTable.connect(
        "selectionChanged(QItemSelection,QItemSelection)", lambda: steps.append(selected(shown))
    )
    fill_anew(shown)
    assert len(steps) == 2, "the rows are restored one by one"
    assert steps[-1] == two
    shown.finish()
    assert state_of(shown) == state
    assert selected(shown) == two
    click(shown, "spleen")
    assert shown.results.report.marked == {2}


def test_a_marked_segment_that_is_removed_is_no_click(shown):
    state = choose_finding(shown)
    shown.segmentation.GetSegmentation().RemoveSegment(id_of(shown, "gallbladder"))
    shown.finish()
    assert state_of(shown) == state
    assert selected(shown) == {id_of(shown, "liver")}
    click(shown, "liver", QtCore.Qt.KeyboardModifier.ControlModifier)
    click(shown, "liver")
    assert state_of(shown) != state


@pytest.mark.parametrize("hidden", ["the section is folded", "the user is in another module"])
def test_what_happens_to_a_list_that_nobody_sees_is_no_click(shown, hidden):
    state = choose_finding(shown)
    if hidden == "the section is folded":
        shown.ui.segmentsCollapsibleButton.collapsed = True
    else:
        shown.session.leave()
    shown.ui.segmentsTable.setSelectedSegmentIDs([id_of(shown, "spleen")])  # as a script, or an undo, would
    shown.finish()
    assert state_of(shown) == state


def test_without_a_chosen_segmentation_no_row_is_asked_for_and_the_rest_is_shown(shown):
    choose_finding(shown)
    shown.ui.inputSegmentationSelector.setCurrentNode(None)
    shown.click_sentence("The spleen is normal.")
    assert shown.results.report.marked == {2}
    assert selected(shown) == set()
    # the session's end asserts that Slicer has logged no "segmentation node is not set"


def test_the_same_ids_in_another_segmentation_are_neither_marked_nor_looked_up(shown):
    choose_finding(shown)
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of another reader")
    other.GetSegmentation().DeepCopy(shown.segmentation.GetSegmentation())
    shown.ui.inputSegmentationSelector.setCurrentNode(other)
    assert selected(shown) == set()
    assert shown.ui.segmentMatchTable.currentRow() == -1
    state = choose_finding(shown)
    assert selected(shown) == set()
    assert shown.ui.segmentMatchTable.currentRow() == -1
    click(shown, "spleen")
    assert state_of(shown) == state
    shown.ui.segmentMatchTable.setCurrentCell(1, 0)
    shown.finish()
    assert state_of(shown) == state
    shown.ui.inputSegmentationSelector.setCurrentNode(shown.segmentation)
    assert selected(shown) == {id_of(shown, "liver"), id_of(shown, "gallbladder")}

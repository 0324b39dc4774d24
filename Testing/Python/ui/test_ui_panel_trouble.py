"""Bad input and bad luck in the panel: each gives a message with the remedy, once, and leaves the scene as it was.

The tests that end the worker follow each other, for its start takes seconds.
"""

import os
import shutil
import signal

import psutil
import slicer

import slicer_scene
from cases import CHEST, a_case
from panel_session import contents, open_empty_panel, open_panel
from qt_standin import dialogs


def refused(panel):
    """Click Analyze, expect one message; returns it."""
    before = contents(slicer.mrmlScene)
    panel.analyze()
    assert len(dialogs.shown) == 1
    assert contents(slicer.mrmlScene) == before
    assert panel.ui.analyzeButton.text == "Analyze"
    assert panel.ui.analyzeButton.enabled
    return dialogs.shown.pop()


def wait_for_stage(panel, *stages):
    panel.session.wait_until(lambda: panel.panel.progress.current in stages, 120, f"stage {stages}")


# ---------------------------------------------------------------- input


def test_the_button_says_what_is_missing(session):
    panel = open_empty_panel(session)
    ui = panel.ui
    assert not ui.analyzeButton.enabled
    assert "Choose a CT." in ui.analyzeButton.toolTip
    assert "Choose a segmentation" in ui.analyzeButton.toolTip
    volume, segmentation = slicer_scene.add_case(session.booted, a_case(CHEST))
    ui.inputVolumeSelector.setCurrentNode(volume)
    assert "Choose a CT." not in ui.analyzeButton.toolTip
    assert not ui.analyzeButton.enabled
    ui.segmentAutomaticallyCheckBox.checked = True
    assert ui.analyzeButton.enabled
    ui.segmentAutomaticallyCheckBox.checked = False
    ui.inputSegmentationSelector.setCurrentNode(segmentation)
    assert ui.analyzeButton.enabled
    panel.parameters.model = "a model that is gone"
    assert not ui.analyzeButton.enabled
    assert ui.analyzeButton.toolTip == "Choose a model."


def test_an_mr_is_refused(session):
    panel = open_panel(session)
    slicer_scene.add_to_study(session.booted, panel.volume, "MR")
    assert "modality MR; a CT is expected" in refused(panel)


def test_the_segmentation_of_another_patient_is_refused(session):
    panel = open_panel(session)
    elsewhere = a_case(CHEST)
    elsewhere.ct.ijk_to_ras[:3, 3] += 5000
    _, other = slicer_scene.add_case(session.booted, elsewhere)
    panel.parameters.inputSegmentation = other
    assert "does not overlap the CT" in refused(panel)


def test_a_report_of_more_than_a_megabyte_is_refused(session):
    assert "at most" in refused(open_panel(session, report="The liver is normal. " * 60_000))


def test_a_full_disk_is_named_and_nothing_remains(session, monkeypatch):
    panel = open_panel(session)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert "MiB free" in refused(panel)


# ---------------------------------------------------------------- while it runs


def test_a_second_click_cancels_and_leaves_the_scene_as_it_was(session):
    panel = open_panel(session)
    before = contents(slicer.mrmlScene)
    panel.ui.analyzeButton.click()
    assert panel.ui.analyzeButton.text == "Cancel"
    wait_for_stage(panel, "encode image", "score", "heatmaps", "read report", "hand back")
    pid = panel.widget.logic.workerPid
    panel.ui.analyzeButton.click()
    assert panel.ui.analyzeButton.text == "Analyze"
    assert "Cancelled" in panel.ui.stageLabel.text
    session.wait_until(lambda: not alive(pid), 10, "the worker's end")
    assert contents(slicer.mrmlScene) == before
    assert panel.results.result is None
    assert dialogs.shown == []
    panel.analyze()
    assert panel.results.result is not None


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_cancel_while_the_volumes_are_handed_over_leaves_nothing(session):
    panel = open_panel(session)
    before = contents(slicer.mrmlScene)
    panel.ui.analyzeButton.click()
    session.process_events()
    assert panel.widget.logic.analysis.analyzing
    panel.ui.analyzeButton.click()
    panel.finish()
    assert contents(slicer.mrmlScene) == before


def test_a_ct_that_is_deleted_during_the_run_stops_it(session):
    panel = open_panel(session)
    panel.ui.analyzeButton.click()
    wait_for_stage(panel, "start the worker", "load model", "read input", "preprocess", "encode image")
    slicer.mrmlScene.RemoveNode(panel.volume)
    panel.finish()
    assert len(dialogs.shown) == 1
    assert "The CT box case was deleted while it was analysed" in dialogs.shown[0]
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLTableNode") == 0
    assert "Choose a CT." in panel.ui.analyzeButton.toolTip


def test_a_segmentation_that_is_deleted_during_the_run_stops_it(session):
    panel = open_panel(session)
    panel.ui.analyzeButton.click()
    wait_for_stage(panel, "start the worker", "load model", "read input", "preprocess", "encode image")
    slicer.mrmlScene.RemoveNode(panel.segmentation)
    before = contents(slicer.mrmlScene)
    panel.finish()
    (message,) = dialogs.shown
    assert "The segmentation Segmentation was deleted while it was analysed" in message
    assert contents(slicer.mrmlScene) == before


def test_a_scene_that_is_closed_during_the_run_stops_it_quietly(session):
    panel = open_panel(session)
    panel.ui.analyzeButton.click()
    wait_for_stage(panel, "start the worker", "load model", "read input", "preprocess", "encode image")
    slicer.mrmlScene.Clear(False)
    panel.finish()
    assert dialogs.shown == []
    assert not panel.ui.analyzeButton.enabled
    assert panel.ui.analyzeButton.text == "Analyze"
    assert panel.ui.reportTextEdit.toPlainText() == ""
    panel.parameters.inputVolume, panel.parameters.inputSegmentation = slicer_scene.add_case(
        session.booted, a_case(CHEST)
    )
    panel.analyze()
    assert panel.results.result is not None


def test_a_worker_that_is_killed_becomes_a_message_and_the_next_click_works(session):
    panel = open_panel(session)
    before = contents(slicer.mrmlScene)
    panel.ui.analyzeButton.click()
    wait_for_stage(panel, "load model", "read input", "choose precision", "preprocess", "encode image")
    os.kill(panel.widget.logic.workerPid, signal.SIGKILL)
    panel.finish()
    assert "memory" in dialogs.shown.pop()
    assert contents(slicer.mrmlScene) == before
    panel.analyze()
    assert panel.results.result is not None
    nodes = len(contents(slicer.mrmlScene))
    panel.analyze()
    assert len(contents(slicer.mrmlScene)) == nodes  # the second analysis replaced the nodes of the first

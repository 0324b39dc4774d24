"""More bad input and bad luck through the panel with the real worker; the commoner cases are in test_ui_panel_trouble.py.

After each the scene is compared by all that would be saved of it, and by voxels, texts and segments.
"""

import hashlib
import re
from contextlib import contextmanager

import numpy as np
import pytest
import slicer.util

from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError
from panel_session import REPORT, open_panel
from qt_standin import dialogs
from slicer_scene import add_case, add_volume

resource = pytest.importorskip("resource", reason="the system has no limits on what a process may write")


def fingerprint(scene):
    """The scene's MRML text without the panel's own parameter node, and what the nodes hold in memory."""
    scene.SetSaveToXMLString(1)
    scene.Commit()
    scene.SetSaveToXMLString(0)
    nodes = [scene.GetNthNode(i) for i in range(scene.GetNumberOfNodes())]
    text = re.sub(r"<ScriptedModule.*?</ScriptedModule>", "", scene.GetSceneXMLString(), flags=re.DOTALL)
    return text, [content(node) for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode")]


def content(node):
    if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
        return digest(slicer.util.arrayFromVolume(node))
    if node.IsA("vtkMRMLTextNode"):
        return node.GetText()
    if node.IsA("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        ids = segmentation.GetSegmentIDs()
        return [
            (i, segmentation.GetSegment(i).GetName(), segmentation.GetSegment(i).GetColor(), voxels(node, i))
            for i in ids
        ]
    return None


def voxels(node, segment_id):
    return digest(slicer.util.arrayFromSegmentInternalBinaryLabelmap(node, segment_id))


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def panel(session):
    """The panel with a CT, its segmentation and report chosen."""
    return open_panel(session)


def refused(panel):
    """Click Analyze: one message comes up, the scene is as it was, and the panel can go on. Returns the message."""
    before = fingerprint(panel.session.scene)
    panel.analyze()
    (message,) = dialogs.shown
    assert fingerprint(panel.session.scene) == before
    assert (panel.ui.analyzeButton.text, panel.ui.analyzeButton.enabled) == ("Analyze", True)
    assert panel.results.result is None
    return message


def started(panel):
    """Click Analyze and run until the worker has begun with the case."""
    panel.ui.analyzeButton.click()
    stages = ("load model", "read input", "preprocess", "encode image")
    panel.session.wait_until(lambda: panel.panel.progress.current in stages, 120, "the worker")


# ------------------------------------------------------------------ inputs
def test_an_mr_without_dicom_is_refused_by_its_values(panel):
    array = np.abs(np.random.default_rng(1).normal(300, 200, (40, 120, 140))).astype(np.int16)
    panel.parameters.inputVolume = add_volume(panel.session.scene, array, a_case(CHEST).ct.ijk_to_ras, "T1")
    message = refused(panel)
    assert "CT T1 is not in Hounsfield units" in message
    assert "not an MR" in message


def test_the_ct_of_another_patient_is_refused_before_a_worker_is_started(panel):
    far = a_case(CHEST)
    far.ct.ijk_to_ras[:3, 3] += 5000
    panel.parameters.inputVolume = add_case(panel.session.booted, far)[0]
    assert "does not overlap the CT" in refused(panel)
    assert panel.widget.logic.workerPid is None


def test_segments_that_nobody_knows_are_refused_by_name(panel):
    segmentation = panel.segmentation.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(index).SetName(f"Segment_{index}")
    message = refused(panel)
    assert "no segment that is known; found 'Segment_0'" in message
    assert "TotalSegmentator" in message


def test_a_report_of_nearly_a_megabyte_is_read_in_full(session):
    sentence = "There is consolidation in the right lower lobe.\n"
    text = sentence * (990_000 // len(sentence))
    panel = open_panel(session, report=text)
    panel.analyze()
    assert dialogs.shown == []
    assert len(panel.results.result.report.sentences) == 990_000 // len(sentence)
    assert panel.parameters.reportNode.GetText() == text
    session.wait_until(
        lambda: len(panel.ui.reportBrowser.toPlainText()) >= len(text.strip()), 60, "the report's last piece"
    )


def test_many_scripts_in_one_report_are_kept_and_link_nothing_wrong(session):
    lines = [
        "Справа в нижней доле инфильтрат. Выпота нет.",
        "右肺下叶实变。无胸腔积液。",
        "لا يوجد انصباب جنبي.",
        "🫁\ufeff Ohne Befund: Ödem, Verschleiß.",
    ]
    panel = open_panel(session, report="\n".join([*lines, "Consolidation in the right lower lobe."]))
    panel.analyze()
    assert dialogs.shown == []
    result = panel.results.result
    sentences = [result.report.sentences[link.sentence] for link in result.links if link.segments]
    assert [result.report.text[s.start : s.end] for s in sentences] == ["Consolidation in the right lower lobe."]
    shown = panel.ui.reportBrowser.toPlainText()
    assert all(line.replace("\ufeff", "") in shown.replace("\ufeff", "") for line in lines)


# ------------------------------------------------------------------ during a run
def test_the_ct_is_deleted_while_it_is_handed_over(panel):
    panel.ui.analyzeButton.click()
    panel.session.scene.RemoveNode(panel.volume)
    before = fingerprint(panel.session.scene)
    panel.finish()
    (message,) = dialogs.shown
    assert "CT box case was deleted" in message
    assert fingerprint(panel.session.scene) == before


def test_the_report_node_is_deleted_during_a_run_and_the_analysis_of_its_text_ends_well(panel):
    started(panel)
    panel.session.scene.RemoveNode(panel.parameters.reportNode)
    panel.finish()
    assert dialogs.shown == []
    assert panel.results.result.report.text == REPORT


def test_a_script_that_starts_a_second_analysis_is_told_to_wait(panel):
    started(panel)
    with pytest.raises(InputError, match="An analysis is running"):
        panel.widget.logic.analyze(panel.volume, panel.segmentation, model="tiny")
    panel.finish()
    assert panel.results.result is not None


def test_a_disk_that_takes_no_more_of_the_case_is_named_and_the_next_click_works(panel, tmp_path):
    with limited_files(200_000):
        message = refused(panel)
    assert "The case cannot be written" in message
    assert "Make space on that disk" in message
    assert [p for p in (tmp_path / "temporary").rglob("*") if p.is_file()] == []
    panel.session.wait_until(
        lambda: panel.widget.logic.workerPid is not None, 60, "the worker, which was started already"
    )
    resource.prlimit(panel.widget.logic.workerPid, resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE))
    dialogs.shown.clear()
    panel.analyze()
    assert dialogs.shown == []
    assert panel.results.result is not None


@contextmanager
def limited_files(size):
    """The system refuses to write more than ``size`` bytes into a file."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_disk_that_takes_no_more_of_the_result_is_named_and_the_earlier_analysis_stays(panel):
    panel.analyze()
    before, pid = fingerprint(panel.session.scene), panel.widget.logic.workerPid
    former = resource.prlimit(pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    panel.analyze()
    (message,) = dialogs.shown
    assert "The result cannot be written" in message
    assert fingerprint(panel.session.scene) == before
    assert panel.ui.findingsTable.rowCount > 0
    resource.prlimit(pid, resource.RLIMIT_FSIZE, former)
    dialogs.shown.clear()
    panel.analyze()
    assert dialogs.shown == []

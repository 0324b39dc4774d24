"""What analyses made is not offered as an input, everything of the user's is; a saved analysis is shown step by step."""

import dataclasses

import numpy as np
import pytest
import slicer
import slicer.util

import slicer_scene
from CTGroundedVLMLib import mrml_io
from CTGroundedVLMLib.mrml_io.nodes import RECORD
from CTGroundedVLMLib.types import Report
from export_cases import a_result
from panel_session import open_empty_panel


@pytest.fixture
def empty(session):
    """The opened panel and an empty scene."""
    return open_empty_panel(session)


def shown_by(selector):
    return [node.GetName() for node in selector.nodes()]


def analysed(panel, result=None):
    """The nodes of an analysis that was put into the scene as a worker's."""
    result = result or a_result()
    volume, segmentation = slicer_scene.add_case(panel.session.booted, result.case)
    return mrml_io.show_result(result, slicer.mrmlScene, volume, segmentation)


def test_heatmaps_and_records_are_not_offered_and_the_users_own_nodes_are(empty):
    nodes = analysed(empty)
    bare = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "no attributes, no voxels")
    noted = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "attributes of others")
    noted.SetAttribute("Organ", "liver")
    noted.SetAttribute("CTGroundedVLM.Analysis", nodes.analysis_id)
    text = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "my report")
    assert len(nodes.heatmaps) == 2
    assert shown_by(empty.ui.inputVolumeSelector) == ["box case", bare.GetName(), noted.GetName()]
    assert shown_by(empty.ui.reportTextSelector) == [nodes.report_text.GetName(), text.GetName()]
    assert all(not node.GetHideFromEditors() for node in (*nodes.heatmaps.values(), nodes.links_text))


def test_a_record_is_never_offered_also_not_while_an_analysis_is_being_added(empty):
    result = a_result()
    volume, segmentation = slicer_scene.add_case(empty.session.booted, result.case)
    for _ in mrml_io.show_steps(result, slicer.mrmlScene, volume, segmentation):
        assert not [name for name in shown_by(empty.ui.reportTextSelector) if name.endswith("links")]
        assert shown_by(empty.ui.inputVolumeSelector) == ["box case"]


def test_copies_of_a_heatmap_and_of_a_record_are_not_offered_either(empty):
    nodes = analysed(empty)
    for node in (next(iter(nodes.heatmaps.values())), nodes.links_text):
        copy = slicer.mrmlScene.CreateNodeByClass(node.GetClassName())
        copy.UnRegister(None)
        copy.Copy(node)
        slicer.mrmlScene.AddNode(copy)
    assert shown_by(empty.ui.inputVolumeSelector) == ["box case"]
    assert shown_by(empty.ui.reportTextSelector) == [nodes.report_text.GetName()]


def test_a_record_of_a_scene_that_an_earlier_version_saved_is_not_offered(empty):
    nodes = analysed(empty)
    nodes.links_text.RemoveAttribute(RECORD)
    path = empty.session.booted.save_mrb(empty.session.booted.folder / "old.mrb")
    empty.session.booted.load_mrb(path)
    empty.finish()
    assert shown_by(empty.ui.reportTextSelector) == [nodes.report_text.GetName()]
    assert shown_by(empty.ui.inputVolumeSelector) == ["box case"]


def test_a_ct_that_gets_the_id_of_a_former_heatmap_is_offered(empty):
    identifiers = {node.GetID() for node in analysed(empty).heatmaps.values()}
    slicer.mrmlScene.Clear(False)
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"CT {n}") for n in range(4)]
    assert identifiers <= {volume.GetID() for volume in volumes}  # the scene counts anew
    assert shown_by(empty.ui.inputVolumeSelector) == ["CT 0", "CT 1", "CT 2", "CT 3"]


def test_the_first_ct_is_chosen_and_never_a_heatmap_that_comes_before_it(session):
    affine = np.eye(4)
    heatmap = slicer_scene.add_volume(session.scene, np.zeros((4, 4, 4), np.float32), affine, "a heatmap")
    for name in ("Organ", "Finding", "Source"):
        heatmap.SetAttribute(f"CTGroundedVLM.{name}", "x")
    volume = slicer_scene.add_volume(session.scene, np.zeros((4, 4, 4), np.int16), affine, "a CT")
    panel = open_empty_panel(session)
    assert panel.parameters.inputVolume is volume
    assert shown_by(panel.ui.inputVolumeSelector) == ["a CT"]


def test_nodes_that_the_selectors_cannot_show_are_not_chosen(session):
    nodes = {}
    for name in ("hidden", "shown"):
        nodes[name] = slicer_scene.add_case(session.booted, a_result().case)
        for node in nodes[name]:
            node.SetHideFromEditors(name == "hidden")
    panel = open_empty_panel(session)
    assert (panel.parameters.inputVolume, panel.parameters.inputSegmentation) == nodes["shown"]
    assert panel.ui.inputVolumeSelector.currentNode() is nodes["shown"][0]
    assert panel.ui.inputSegmentationSelector.currentNode() is nodes["shown"][1]


# ---------------------------------------------------------------- a saved analysis


def a_long_result():
    result = a_result()
    text = "Consolidation in the right lower lobe.\n"
    sentence = result.report.sentences[1]
    sentences = tuple(
        dataclasses.replace(sentence, start=n * len(text), end=(n + 1) * len(text) - 1) for n in range(900)
    )
    return dataclasses.replace(result, report=Report(text * 900, sentences), links=())


def test_a_saved_analysis_is_read_over_several_turns_of_the_event_loop(empty):
    result = a_long_result()
    analysed(empty, result)
    turns = 0
    empty.panel.show_saved_analysis()
    while empty.results.result is None:
        empty.session.process_events()
        turns += 1
        assert turns < 500
    assert turns >= 3
    assert empty.results.result.report == result.report
    assert not empty.ui.resultsCollapsibleButton.collapsed


def test_a_scene_that_is_closed_while_its_analysis_is_read_shows_none(empty):
    analysed(empty, a_long_result())
    empty.panel.show_saved_analysis()
    slicer.mrmlScene.Clear(False)
    for _ in range(30):
        empty.session.process_events()
    assert empty.results.result is None
    assert empty.ui.summaryLabel.text == "No analysis yet."


def test_a_saved_analysis_that_was_edited_is_named_in_the_log(empty):
    nodes = analysed(empty)
    nodes.links_text.SetText("{}")
    empty.panel.show_saved_analysis()
    assert "holds no readable analysis" in empty.ui.logTextEdit.toPlainText()
    assert empty.results.result is None

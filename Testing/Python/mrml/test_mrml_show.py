"""An analysis in the scene: its nodes, all or nothing, replaced by the next one, saved and loaded again."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import slicer
import slicer.util

from CTGroundedVLMLib import export, mrml_io
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.export.labels import notice
from CTGroundedVLMLib.mrml_io import display, scene_edit, show
from CTGroundedVLMLib.types import FindingScore, Heatmap
from export_cases import HOSTILE, a_heatmap, a_hostile_result, a_result
from slicer_scene import add_case, add_to_study, add_volume, snapshot

OBLIQUE = np.array([[0.0, 0.6, -0.8], [-1.0, 0, 0], [0, 0.8, 0.6]])


@pytest.fixture
def result():
    return a_result(directions=OBLIQUE)


@pytest.fixture
def shown(booted, result):
    """(nodes, volume, segmentation), the CT being in a study."""
    volume, segmentation = add_case(booted, result.case)
    add_to_study(booted, volume)
    return mrml_io.show_result(result, booted.scene, volume, segmentation), volume, segmentation


def own_nodes(booted):
    nodes = slicer.util.getNodesByClass("vtkMRMLNode", booted.scene)
    return {node.GetName() for node in nodes if node.GetAttribute("CTGroundedVLM.Analysis")}


def texts(table, column):
    index = table.GetColumnIndex(column)
    return [table.GetCellText(row, index) for row in range(table.GetNumberOfRows())]


def without_nan(items):
    """JSON has no NaN: it becomes None, as in results.json."""
    return tuple(
        dataclasses.replace(
            i, **{k: None for k in ("probability", "margin") if getattr(i, k, None) != getattr(i, k, None)}
        )
        for i in items
    )


def test_the_nodes_are_there_and_refer_to_the_ct_and_the_segmentation(booted, shown):
    nodes, volume, segmentation = shown
    assert (nodes.volume, nodes.segmentation) == (volume, segmentation)
    assert nodes.findings_table.GetNumberOfRows() == 5
    assert nodes.organs_table.GetNumberOfRows() == 3
    assert nodes.report_text.GetText().startswith("FINDINGS:\nLiver  is of low")
    assert set(nodes.heatmaps) == {("liver", "hepatic steatosis"), ("lung", "Lung nodule")}
    assert json.loads(nodes.links_text.GetText())["schema"] == "ctgvlm-results"


def test_disagreements_come_first_in_the_table_and_what_is_not_scored_has_no_number(shown):
    table = shown[0].findings_table
    assert texts(table, "finding")[:2] == ["Lung nodule", "hepatic steatosis"]
    assert texts(table, "agreement")[:2] == ["disagrees", "agrees"]
    probabilities = dict(zip(texts(table, "finding"), texts(table, "probability"), strict=True))
    assert probabilities["hepatic steatosis"] == "0.8125"
    assert np.isnan(float(probabilities["Hiatal hernia"]))
    assert texts(table, "sentences")[:2] == ["2", "1, 4"]


def test_every_row_of_the_findings_says_what_the_model_is_and_what_it_is_for(result, shown):
    (said,) = set(texts(shown[0].findings_table, "notice"))
    assert said == notice(result.model)
    assert "Research use only" in said


def test_columns_have_titles_units_and_descriptions(shown):
    for table in (shown[0].findings_table, shown[0].organs_table):
        for index in range(table.GetNumberOfColumns()):
            name = table.GetColumnName(index)
            assert table.GetColumnTitle(name)
            assert table.GetColumnDescription(name).endswith(".")
    findings, organs = shown[0].findings_table, shown[0].organs_table
    units = {name: findings.GetColumnUnitLabel(name) for name in ("probability", "severity", "organ")}
    assert units == {"probability": "1", "severity": "logit", "organ": ""}
    assert organs.GetColumnUnitLabel("volume") == "mL"
    assert float(texts(organs, "volume")[0]) == 4000 * 2.0 * 2.5 * 4.0 / 1000


def test_a_heatmap_is_the_organs_box_on_the_cts_lattice(booted, result, shown):
    nodes, volume, _ = shown
    heatmap = result.heatmaps[0]
    node = nodes.heatmaps["liver", "hepatic steatosis"]
    array = slicer.util.arrayFromVolume(node)
    assert array.dtype == np.float32
    assert np.array_equal(array, heatmap.values_kji)
    first = tuple(float(x) for x in heatmap.start_kji[::-1])
    assert np.allclose(mrml_io.voxel_position(node, (0, 0, 0)), mrml_io.voxel_position(volume, first))
    peak = [int(n) for n in np.argwhere(heatmap.to_volume() == 0.5)[0][::-1]]
    in_box = [int(n) for n in np.argwhere(array == 0.5)[0][::-1]]
    assert np.allclose(mrml_io.voxel_position(node, in_box), mrml_io.voxel_position(volume, peak), atol=1e-4)
    assert node.GetDisplayNode().GetLevel() == 0
    assert node.GetDisplayNode().GetWindow() == 1.0


def test_a_heatmap_moves_with_a_transformed_ct(booted, result):
    volume, segmentation = add_case(booted, result.case)
    transform = booted.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (10, 20, 30)
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    node = mrml_io.show_result(result, booted.scene, volume, segmentation).heatmaps["liver", "hepatic steatosis"]
    start = tuple(float(x) for x in result.heatmaps[0].start_kji[::-1])
    assert np.allclose(mrml_io.voxel_position(node, (0, 0, 0)), mrml_io.voxel_position(volume, start))
    assert node.GetParentTransformNode() is transform


def test_all_lie_in_one_folder_beside_the_ct_under_its_study(booted, shown):
    nodes, volume, _ = shown
    hierarchy = booted.hierarchy
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(nodes.links_text))
    assert hierarchy.GetItemName(folder) == "box case: CTGroundedVLM"
    assert hierarchy.GetItemParent(folder) == hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volume))
    everything = [nodes.findings_table, nodes.organs_table, nodes.report_text, *nodes.heatmaps.values()]
    assert {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in everything} == {folder}


def test_an_empty_report_makes_no_report_node(booted, result):
    silent = dataclasses.replace(result, report=type(result.report)(""), links=(), comparisons=())
    volume, segmentation = add_case(booted, result.case)
    assert mrml_io.show_result(silent, booted.scene, volume, segmentation).report_text is None


# --- once more ---------------------------------------------------------------------------------------------------


def test_analyzing_again_replaces_the_nodes_of_this_ct_and_no_others(booted, result, shown):
    nodes, volume, segmentation = shown
    hierarchy = booted.hierarchy
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(nodes.links_text))
    other_volume = add_volume(booted.scene, result.case.ct.array_kji, result.case.ct.ijk_to_ras, "box case")
    other = mrml_io.show_result(result, booted.scene, other_volume, segmentation)
    table = booted.scene.AddNewNodeByClass("vtkMRMLTableNode", "box case findings")  # the user's, of the same name
    copied = booted.scene.CopyNode(nodes.heatmaps["liver", "hepatic steatosis"])
    copied_record = booted.scene.CopyNode(nodes.links_text)
    old = [nodes.findings_table, nodes.organs_table, nodes.report_text, nodes.links_text, *nodes.heatmaps.values()]
    count = booted.scene.GetNumberOfNodes()

    fresh = mrml_io.show_result(
        dataclasses.replace(result, heatmaps=result.heatmaps[:1]), booted.scene, volume, segmentation
    )
    assert [node.GetScene() for node in old] == [None] * 6
    kept = [volume, segmentation, table, copied, copied_record, other.links_text, *other.heatmaps.values()]
    assert all(node.GetScene() is booted.scene for node in kept)
    assert booted.scene.GetNumberOfNodes() == count - 2  # one heatmap less, and its display node
    assert list(fresh.heatmaps) == [("liver", "hepatic steatosis")]
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(fresh.links_text)) == folder
    assert {found.links_text for found in mrml_io.find_analyses(booted.scene)} == {fresh.links_text, other.links_text}


def test_the_users_own_report_node_stays_the_users(booted, result):
    volume, segmentation = add_case(booted, result.case)
    report = booted.scene.AddNewNodeByClass("vtkMRMLTextNode", "my report")
    report.SetText(result.report.text)
    for _ in range(2):
        nodes = mrml_io.show_result(result, booted.scene, volume, segmentation, report)
        assert nodes.report_text is report
    mrml_io.remove_analysis(nodes, booted.scene)
    assert report.GetScene() is booted.scene
    assert own_nodes(booted) == set()


def test_the_report_that_an_analysis_made_can_be_the_input_of_the_next_one(booted, result, shown):
    nodes, volume, segmentation = shown
    again = mrml_io.show_result(result, booted.scene, volume, segmentation, nodes.report_text)
    assert again.report_text is nodes.report_text
    assert again.report_text.GetScene() is booted.scene
    third = mrml_io.show_result(result, booted.scene, volume, segmentation)
    assert again.report_text.GetScene() is None  # still the extension's own, and so replaced
    assert third.report_text.GetScene() is booted.scene


def test_removing_an_analysis_leaves_the_scene_as_before(booted, result):
    volume, segmentation = add_case(booted, result.case)
    before = snapshot(booted)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    mrml_io.remove_analysis(nodes, booted.scene)
    assert snapshot(booted) == before


# --- all or nothing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["fill_organs_table", "fill_findings_table", "_add_text", "HeatmapImage._add_display"]
)
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_halfway_leaves_the_scene_as_before(booted, result, monkeypatch, place, earlier):
    volume, segmentation = add_case(booted, result.case)
    if earlier:
        mrml_io.show_result(result, booted.scene, volume, segmentation)
    before = snapshot(booted)

    def fail(*args):
        raise MemoryError(place)

    monkeypatch.setattr(f"{show.__name__}.{place}", fail)
    with pytest.raises(MemoryError, match=place):
        mrml_io.show_result(result, booted.scene, volume, segmentation)
    assert snapshot(booted) == before


def test_a_failure_while_the_folder_is_filled_leaves_none(booted, result, monkeypatch):
    volume, segmentation = add_case(booted, result.case)
    before = snapshot(booted)
    hierarchy_of = scene_edit._hierarchy

    class Failing:
        def __init__(self, hierarchy):
            self._hierarchy = hierarchy

        def __getattr__(self, name):
            return getattr(self._hierarchy, name)

        def CreateItem(self, folder, node):  # noqa: N802
            if node.IsA("vtkMRMLScalarVolumeNode"):
                raise MemoryError("full")
            return self._hierarchy.CreateItem(folder, node)

    monkeypatch.setattr(scene_edit, "_hierarchy", lambda scene: Failing(hierarchy_of(scene)))
    with pytest.raises(MemoryError):
        mrml_io.show_result(result, booted.scene, volume, segmentation)
    monkeypatch.undo()
    assert snapshot(booted) == before


def test_showing_in_steps_can_be_given_up_at_any_of_them(booted, result):
    big = Heatmap("liver", "big", "contribution", np.ones((20, 40, 50), np.float32), (0, 0, 0), (20, 40, 50))
    result = dataclasses.replace(result, heatmaps=(big,))
    volume, segmentation = add_case(booted, result.case)
    before = snapshot(booted)
    for taken in itertools.count(1):
        steps = mrml_io.show_steps(result, booted.scene, volume, segmentation)
        fractions = list(itertools.islice(steps, taken))
        assert fractions == sorted(fractions)
        assert mrml_io.find_analyses(booted.scene) == [] or len(fractions) < taken
        steps.close()
        if len(fractions) < taken:
            break
        assert snapshot(booted) == before
    assert taken > 6
    assert len(mrml_io.find_analyses(booted.scene)) == 1


def test_a_shown_heatmap_is_taken_off_before_its_node_goes(booted, result):
    volume, segmentation = add_case(booted, result.case)
    red = booted.scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    display.show_heatmap(booted.scene, next(iter(nodes.heatmaps.values())))
    mrml_io.show_result(result, booted.scene, volume, segmentation)
    assert red.GetForegroundVolumeID() is None
    legends = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode", booted.scene)
    assert [legend for legend in legends if legend.GetVisibility()] == []


@pytest.mark.parametrize("happening", ["closed", "deleted", "resized", "given up"])
def test_what_happens_between_two_steps_leaves_nothing_of_the_result(booted, result, happening):
    volume, segmentation = add_case(booted, result.case)
    steps = mrml_io.show_steps(result, booted.scene, volume, segmentation)
    next(steps)
    if happening == "given up":
        steps.close()
    else:
        if happening == "closed":
            booted.scene.Clear(False)
        elif happening == "deleted":
            booted.scene.RemoveNode(volume)
        else:
            volume.SetAndObserveImageData(
                add_volume(booted.scene, np.zeros((3, 3, 3), np.int16), np.eye(4)).GetImageData()
            )
        with pytest.raises(InputError, match="meanwhile"):
            list(steps)
    assert own_nodes(booted) == set()


def test_a_segmentation_that_was_deleted_meanwhile_does_not_lose_the_result(booted, result):
    volume, segmentation = add_case(booted, result.case)
    booted.scene.RemoveNode(segmentation)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    assert nodes.segmentation is None
    assert nodes.findings_table.GetNumberOfRows() == 5


# --- saved and loaded --------------------------------------------------------------------------------------------


def loaded(booted):
    booted.load_mrb(booted.save_mrb(booted.folder / "saved.mrb"))
    (nodes,) = mrml_io.find_analyses(booted.scene)
    return nodes


def test_everything_is_there_again_after_saving_and_loading(booted, result, shown):
    before = {
        name: texts(shown[0].findings_table, name)
        for name in ("finding", "probability", "reason", "agreement", "notice")
    }
    nodes = loaded(booted)
    assert nodes.volume.GetName() == "box case"
    assert nodes.segmentation.GetSegmentation().GetNumberOfSegments() == 4
    assert nodes.report_text.GetText() == result.report.text
    table = nodes.findings_table
    assert {name: texts(table, name) for name in before} == before
    assert table.GetColumnUnitLabel("probability") == "1"
    assert table.GetColumnTitle("visible_fraction") == ""
    assert nodes.organs_table.GetColumnTitle("visible_fraction") == "Visible fraction"
    assert nodes.organs_table.GetColumnDescription("volume") == "Volume of the organ in the segmentation."
    assert table.GetTable().GetColumnByName("probability").IsNumeric()
    hierarchy = booted.hierarchy
    folder = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(nodes.links_text))
    assert hierarchy.GetItemName(hierarchy.GetItemParent(folder)) == "Study"


def test_the_typed_result_is_read_back_from_a_loaded_scene(booted, result, shown):
    restored = mrml_io.restore_result(loaded(booted))
    for name in ("report", "model", "organs", "links", "settings", "warnings", "versions"):
        assert getattr(restored, name) == getattr(result, name), name
    assert tuple(dataclasses.replace(f, reason=None) for f in restored.findings) == tuple(
        dataclasses.replace(f, reason=None) for f in without_nan(result.findings)
    )
    assert restored.comparisons == without_nan(result.comparisons)
    assert restored.ct_name == "box case"
    for there, original in zip(restored.heatmaps, result.heatmaps, strict=True):
        assert np.array_equal(there.to_volume(), original.to_volume())
        assert dataclasses.replace(there, values_kji=None) == dataclasses.replace(original, values_kji=None)


def test_a_restored_result_with_its_case_exports_as_the_first_one_did(booted, result, shown, tmp_path):
    restored = mrml_io.restore_result(loaded(booted)).with_case(result.case)
    again, first = export.result_record(restored), export.result_record(result)
    changing = ("created", "timings_s")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in first.items() if k not in changing
    }


def test_the_record_is_what_results_json_holds(result, shown):
    record = json.loads(shown[0].links_text.GetText())
    assert {**export.result_record(result), "created": ""} == {**record, "created": ""}


def test_an_analysis_loaded_beside_the_same_one_is_another_analysis(booted, result, shown):
    path = booted.save_mrb(booted.folder / "saved.mrb")
    assert booted.scene.ReadFromMRB(str(path), False)
    first, second = mrml_io.find_analyses(booted.scene)
    assert first.volume is shown[1]
    assert second.volume is not first.volume
    assert set(second.heatmaps) == set(first.heatmaps)
    mrml_io.show_result(result, booted.scene, second.volume, second.segmentation)
    assert first.links_text.GetScene() is booted.scene
    assert second.links_text.GetScene() is None


def test_analyzing_again_after_loading_replaces_what_was_loaded(booted, result, shown):
    nodes = loaded(booted)
    mrml_io.show_result(result, booted.scene, nodes.volume, nodes.segmentation)
    assert nodes.links_text.GetScene() is None
    assert len(mrml_io.find_analyses(booted.scene)) == 1


def test_strangers_text_survives_saving_and_does_not_break_tables(booted):
    result = a_hostile_result()
    tabs = dataclasses.replace(
        result.findings[0],
        finding='a\tb\n"quoted", and, commas \u0441\u0435\u0440\u0434\u0446\u0435 肝',
        source="prompt",
    )
    result = dataclasses.replace(result, findings=(result.findings[0], tabs), comparisons=())
    volume, segmentation = add_case(booted, a_result().case)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    shown = {name: texts(nodes.findings_table, name) for name in ("finding", "source", "probability")}
    assert HOSTILE.replace('"', "\u201d") in shown["finding"]
    nodes = loaded(booted)
    assert {name: texts(nodes.findings_table, name) for name in shown} == shown
    assert mrml_io.restore_result(nodes).findings == result.findings  # the exact texts
    assert mrml_io.restore_result(nodes).report == result.report


def test_half_a_surrogate_pair_which_would_abort_vtk_is_restored_exactly_in_the_report(booted, result):
    text = result.report.text + " \ud83e end"
    odd = dataclasses.replace(result.heatmaps[0], finding="\ud83e\0")
    score = dataclasses.replace(result.findings[0], finding="\ud83e\0")
    result = dataclasses.replace(
        result, report=dataclasses.replace(result.report, text=text), heatmaps=(odd,), findings=(score,)
    )
    volume, segmentation = add_case(booted, result.case)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    assert nodes.report_text.GetText() == result.report.text.replace("\ud83e", "?")
    restored = mrml_io.restore_result(loaded(booted))
    assert restored.report.text == text
    assert restored.findings == (score,)
    assert restored.heatmaps[0].finding == "?\N{REPLACEMENT CHARACTER}"


def test_a_record_that_was_edited_is_refused_with_the_remedy(booted, shown):
    nodes = shown[0]
    for text in (
        "",
        "{}",
        "[]",
        '{"schema": "ctgvlm-results", "schema_version": "2.0"}',
        '{"schema": "ctgvlm-results", "schema_version": "1.0"}',
    ):
        nodes.links_text.SetText(text)
        with pytest.raises(InputError, match="box case links holds no readable analysis"):
            mrml_io.restore_result(nodes)


def test_an_analysis_survives_the_loss_of_any_of_its_nodes(booted, result, shown):
    nodes, volume, segmentation = shown
    for node in (nodes.findings_table, nodes.heatmaps["lung", "Lung nodule"], nodes.report_text, volume, segmentation):
        booted.scene.RemoveNode(node)
    (found,) = mrml_io.find_analyses(booted.scene)
    assert (found.findings_table, found.report_text, found.volume, found.segmentation) == (None,) * 4
    assert list(found.heatmaps) == [("liver", "hepatic steatosis")]
    assert mrml_io.restore_result(found).links == result.links


# --- questions ---------------------------------------------------------------------------------------------------

QUESTION = FindingScore("liver", "focal fat", 0.7, 0.8, False, None, ("Focal fat.",), ("Not focal fat.",), "prompt")


def a_comparison():
    return a_result().comparisons[0]


def an_answer(peak=0.4):
    box = ((2, 10, 5), (12, 30, 25))
    return dataclasses.replace(a_heatmap("liver", "focal fat", box, peak), source="prompt")


def test_an_answer_joins_its_analysis_and_is_saved_with_it(booted, shown):
    nodes = shown[0]
    compared = dataclasses.replace(
        a_comparison(), organ="liver", finding="focal fat", source="prompt", report="absent", discrepancy=True
    )
    node = mrml_io.add_heatmap(nodes, an_answer(), booted.scene, QUESTION, compared)
    assert nodes.heatmaps["liver", "focal fat"] is node
    row = texts(nodes.findings_table, "finding").index("focal fat")
    assert texts(nodes.findings_table, "report")[row] == "absent"
    assert texts(nodes.findings_table, "agreement")[row] == "disagrees"
    hierarchy = booted.hierarchy
    parents = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in (node, nodes.links_text)}
    assert len(parents) == 1
    again = loaded(booted)
    restored = mrml_io.restore_result(again)
    assert restored.findings[-1] == QUESTION
    assert restored.comparisons[-1] == compared
    assert np.array_equal(restored.heatmaps[-1].values_kji, an_answer().values_kji)
    assert ("liver", "focal fat") in again.heatmaps


def test_the_same_question_again_replaces_its_heatmap(booted, shown):
    nodes = shown[0]
    first = mrml_io.add_heatmap(nodes, an_answer(), booted.scene, QUESTION)
    count = booted.scene.GetNumberOfNodes()
    second = mrml_io.add_heatmap(nodes, an_answer(0.9), booted.scene, dataclasses.replace(QUESTION, probability=0.9))
    assert first.GetScene() is None
    assert booted.scene.GetNumberOfNodes() == count
    assert slicer.util.arrayFromVolume(second).max() == np.float32(0.9)
    assert texts(nodes.findings_table, "finding").count("focal fat") == 1
    assert len(set(texts(nodes.findings_table, "notice"))) == 1
    assert [f.probability for f in mrml_io.restore_result(nodes).findings if f.finding == "focal fat"] == [0.9]


def test_a_question_named_as_a_finding_keeps_the_findings_heatmap(booted, shown):
    nodes = shown[0]
    finding = nodes.heatmaps["liver", "hepatic steatosis"]
    node = mrml_io.add_heatmap(nodes, dataclasses.replace(an_answer(), finding="hepatic steatosis"), booted.scene)
    assert finding.GetScene() is booted.scene
    (found,) = mrml_io.find_analyses(booted.scene)
    assert found.heatmaps["liver", "hepatic steatosis"] is node
    assert len(mrml_io.restore_result(found).heatmaps) == 3


@pytest.mark.parametrize("gone", ["volume", "links_text"])
def test_an_answer_to_an_analysis_that_is_gone_is_refused_and_changes_nothing(booted, shown, gone):
    nodes = shown[0]
    booted.scene.RemoveNode(getattr(nodes, gone))
    before = snapshot(booted)
    with pytest.raises(InputError, match="was deleted, or the scene closed"):
        mrml_io.add_heatmap(nodes, an_answer(), booted.scene, QUESTION)
    assert snapshot(booted) == before


def test_display_and_storage_nodes_go_with_their_nodes(booted, result):
    volume, segmentation = add_case(booted, result.case)
    booted.save_mrb(booted.folder / "before.mrb")  # makes storage nodes
    before = booted.scene.GetNumberOfNodes()
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    booted.save_mrb(booted.folder / "after.mrb")
    assert booted.scene.GetNumberOfNodes() == before + 6 + 2 + 6  # nodes, display and storage nodes
    mrml_io.remove_analysis(nodes, booted.scene)
    assert booted.scene.GetNumberOfNodes() == before

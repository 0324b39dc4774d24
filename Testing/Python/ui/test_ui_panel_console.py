"""The module's logic from Slicer's Python console: blocks or calls back, returns typed results, shows no dialogs."""

import numpy as np
import pytest
import slicer
import slicer.util

import qt_standin
import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib.errors import InputError, ModelError, VolumeError
from CTGroundedVLMLib.mrml_io import find_analyses
from CTGroundedVLMLib.types import AnalysisResult, Heatmap
from panel_session import MODULE, REPORT, contents
from qt_standin import dialogs


@pytest.fixture(scope="module")
def console(models, tmp_path_factory):
    """The module loaded, its panel never opened; ``logic`` as a script makes it; a case in the scene."""
    with pytest.MonkeyPatch.context() as patch, qt_standin.a_session(tmp_path_factory.mktemp("slicer")) as session:
        patch.setenv("CTGVLM_MODELS_DIR", str(models))
        patch.setenv("CTGVLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        session.load(MODULE)
        from CTGroundedVLM import CTGroundedVLMLogic

        session.volume, session.segmentation = slicer_scene.add_case(session.booted, a_case(CHEST))
        session.logic = CTGroundedVLMLogic()
        try:
            yield session
        finally:
            session.logic.close()


def test_analyze_blocks_and_returns_the_typed_result_with_its_nodes(console):
    result = console.logic.analyze(console.volume, console.segmentation, report=REPORT)
    assert isinstance(result, AnalysisResult)
    assert result.model.name == "tiny"
    assert result.report.text == REPORT
    assert {link.segments for link in result.links} >= {("heart",), ("aorta",)}
    (nodes,) = find_analyses(slicer.mrmlScene)
    assert nodes.volume is console.volume
    assert nodes.segmentation is console.segmentation
    assert set(nodes.heatmaps) == {(h.organ, h.finding) for h in result.heatmaps}
    assert nodes.report_text.GetText() == REPORT
    assert dialogs.shown == []


def test_a_question_blocks_and_returns_the_heatmap_whose_node_is_in_the_scene(console):
    result = console.logic.analyze(console.volume, console.segmentation, report=REPORT)
    heatmap = console.logic.heatmap(result, "heart", "coronary calcification")
    assert isinstance(heatmap, Heatmap)
    assert (heatmap.organ, heatmap.finding) == ("heart", "coronary calcification")
    node = console.logic.analysis.nodes.heatmaps["heart", "coronary calcification"]
    np.testing.assert_allclose(slicer.util.arrayFromVolume(node), heatmap.values_kji, atol=1e-6)
    answer = console.logic.answer(result, "heart", "coronary calcification")
    score, same = answer.score, answer.heatmap
    assert 0 < score.probability < 1
    np.testing.assert_array_equal(same.values_kji, heatmap.values_kji)


def test_a_result_of_an_earlier_analysis_cannot_be_asked_any_more(console):
    former = console.logic.analyze(console.volume, console.segmentation)
    console.logic.analyze(console.volume, console.segmentation)
    with pytest.raises(InputError, match="no longer in memory"):
        console.logic.heatmap(former, "heart", "calcification")


def test_options_and_a_text_node_are_taken(console):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "My report")
    node.SetText("The heart is enlarged.")
    options = {"heatmaps": 1, "prompts": [["lung", "cavity"]]}
    result = console.logic.analyze(
        console.volume, console.segmentation, report=node, model="tiny", device="cpu", options=options
    )
    assert {(h.organ, h.finding) for h in result.heatmaps} >= {("lung", "cavity")}
    assert len(result.heatmaps) == 2
    assert result.case.report_source == "My report"
    assert find_analyses(slicer.mrmlScene)[0].report_text is node


def test_errors_are_raised_and_the_scene_stays(console):
    before = contents(slicer.mrmlScene)
    with pytest.raises(VolumeError, match="No CT volume is chosen"):
        console.logic.analyze(None, console.segmentation)
    with pytest.raises(ModelError, match="neither a folder nor an installed model"):
        console.logic.analyze(console.volume, console.segmentation, model="no such model")
    assert contents(slicer.mrmlScene) == before
    assert not console.logic.busy


def test_with_a_callback_it_returns_at_once_and_reports_stages(console):
    done, stages = [], []
    returned = console.logic.analyze(
        console.volume,
        console.segmentation,
        onDone=done.append,
        onProgress=lambda stage, fraction: stages.append(stage),
    )
    assert returned is None
    assert done == []
    with pytest.raises(InputError, match="is running"):
        console.logic.analyze(console.volume, console.segmentation, onDone=done.append)
    console.wait_until(lambda: done, 120)
    assert isinstance(done[0], AnalysisResult)
    assert stages.index("hand over") < stages.index("encode image") < stages.index("show")
    failed = []
    console.logic.analyze(None, onDone=done.append, onError=failed.append)
    assert [type(error) for error in failed] == [VolumeError]

"""An analysis of nodes, with the worker's part faked: the scene gets the whole result, or stays as it was."""

import dataclasses

import numpy as np
import pytest

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib.analysis_job import JobSettings
from CTGroundedVLMLib.errors import InputError, ResourceError
from CTGroundedVLMLib.exchange import Answer
from CTGroundedVLMLib.mrml_io import match_segments
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import AnalysisResult, FindingScore, Heatmap, ModelIdentity, OrganInfo
from CTGroundedVLMLib.widget.scene_analysis import Inputs, Listener, SceneAnalysis
from panel_session import contents


class Queue:
    """A scheduler that runs what it was given when it is told to."""

    def __init__(self):
        self.waiting = []

    def call_soon(self, function):
        self.waiting.append(function)

    def run(self, turns=1000):
        while self.waiting and turns:
            self.waiting.pop(0)()
            turns -= 1


class Service:
    """Stands in for AnalysisService: notes the job, and answers when the test says so."""

    def __init__(self):
        self.state, self.callbacks, self.settings = "idle", {}, None

    def analyze(self, source, settings, **callbacks):
        self.state, self.settings, self.callbacks = "running", settings, callbacks

    ask = heatmap = analyze

    def answer(self, name, *values):
        self.state = "idle"
        self.callbacks[name](*values)

    def cancel(self):
        self.answer("on_cancelled")

    def close(self):
        self.state = "idle"


@pytest.fixture
def case():
    return a_case(CHEST, report="The heart is enlarged.")


@pytest.fixture
def result(case):
    values = np.full((4, 5, 6), 0.5, np.float32)
    heatmap = Heatmap("heart", "Cardiomegaly", "contribution", values, (10, 30, 60), case.ct.array_kji.shape)
    score = FindingScore("heart", "Cardiomegaly", 0.7, 0.8, False, None, ("X.",), ("Not X.",))
    organ = OrganInfo("heart", ("heart",), 100, 20, 1.0, False, None)
    identity = ModelIdentity("a model", "", True)
    return AnalysisResult(case, parse_report(case.report_text), identity, (score,), (organ,), (), (heatmap,), {}, {})


class Scene:
    """The nodes, the analysis, and what it told."""

    def __init__(self, booted, case):
        self.scene, self.service, self.queue, self.told = booted.scene, Service(), Queue(), []
        self.volume, self.segmentation = slicer_scene.add_case(booted, case)
        self.analysis = SceneAnalysis(self.service, self.queue, booted.scene)

    def start(self, segmentation=None):
        names = ("on_progress", "on_done", "on_error", "on_cancelled")
        listener = Listener(**{name: lambda *values, name=name: self.told.append((name, *values)) for name in names})
        self.analysis.analyze(Inputs(self.volume, segmentation), JobSettings("a model"), listener)

    @property
    def ends(self):
        return [name for name, *_ in self.told if name != "on_progress"]


@pytest.fixture
def scene(case, tmp_path):
    with slicer_scene.a_scene(tmp_path) as booted:
        yield Scene(booted, case)


def test_a_segmentation_that_the_worker_made_becomes_a_node_with_the_result(scene, result):
    scene.start()
    assert scene.service.settings.segment
    scene.service.answer("on_done", result)
    scene.queue.run()
    assert scene.ends == ["on_done"]
    made = scene.analysis.nodes.segmentation
    assert made is not scene.segmentation
    assert made.GetName() == "box case segmentation"
    assert {m.class_name for m in match_segments(made)} == set(CHEST)


def test_a_given_segmentation_is_used_and_none_is_made(scene, result):
    scene.start(scene.segmentation)
    assert not scene.service.settings.segment
    scene.service.answer("on_done", result)
    scene.queue.run()
    assert scene.analysis.nodes.segmentation is scene.segmentation
    assert scene.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_cancel_while_the_result_is_shown_leaves_the_scene_as_it_was(scene, result):
    before = contents(scene.scene)
    scene.start()
    scene.service.answer("on_done", result)
    scene.queue.run(turns=2)
    assert scene.analysis.busy
    scene.analysis.cancel()
    scene.queue.run()
    assert scene.ends == ["on_cancelled"]
    assert contents(scene.scene) == before
    assert not scene.analysis.busy
    assert scene.analysis.nodes is None


def test_a_ct_that_was_replaced_meanwhile_is_refused_and_the_scene_stays(scene, result):
    before = set(contents(scene.scene))
    scene.start()
    smaller = dataclasses.replace(result.case.ct, array_kji=result.case.ct.array_kji[:-1])
    wrong = dataclasses.replace(result, case=dataclasses.replace(result.case, ct=smaller))
    scene.service.answer("on_done", wrong)
    scene.queue.run()
    assert scene.ends == ["on_error"]
    assert set(contents(scene.scene)) == before


def test_a_deleted_input_ends_the_job_at_once_with_one_message(scene):
    scene.start(scene.segmentation)
    scene.scene.RemoveNode(scene.segmentation)
    assert scene.ends == ["on_error"]
    assert scene.service.state == "idle"
    ((_, error),) = scene.told
    assert isinstance(error, InputError)
    assert "The segmentation Segmentation was deleted" in str(error)
    scene.scene.RemoveNode(scene.volume)
    assert scene.ends == ["on_error"]


def test_an_error_of_the_worker_is_passed_on_and_the_next_job_may_start(scene, result):
    scene.start(scene.segmentation)
    with pytest.raises(InputError, match="is running"):
        scene.start(scene.segmentation)
    scene.service.answer("on_error", ResourceError("it ended"))
    assert scene.ends == ["on_error"]
    scene.start(scene.segmentation)
    scene.service.answer("on_done", result)
    scene.queue.run()
    assert scene.ends == ["on_error", "on_done"]


def test_an_answer_to_an_analysis_that_was_cancelled_meanwhile_is_refused(scene, result):
    failed = []
    scene.start(scene.segmentation)
    scene.service.answer("on_done", result)
    scene.queue.run()
    score, heatmap = result.findings[0], result.heatmaps[0]
    scene.analysis.ask("heart", "x", lambda answer: None, failed.append)
    scene.analysis.nodes = None
    scene.service.answer("on_done", Answer(score, heatmap))
    assert "is gone" in str(failed[0])

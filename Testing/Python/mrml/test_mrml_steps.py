"""How much is done in one step of what the GUI thread drives: counted, for times would tell of the machine.

A report of a megabyte has some 20,000 sentences, a surface 10,000 points; what is done with all of them at once stalls Slicer.
"""

import dataclasses
import json

import numpy as np
import pytest
import slicer

import slicer_scene
from cases import CHEST, a_case
from CTGroundedVLMLib import export, mrml_io
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.mrml_io import display, display_segment_surface, display_surfaces, records, show
from CTGroundedVLMLib.types import Report
from export_cases import a_result
from slicer_scene import add_case

COUNT = 1050
MOST = 2 * 100  # records._PIECE of sentences, and as many links


def a_long_result(count=COUNT):
    """``count`` sentences, each with a link."""
    result = a_result()
    text = "Consolidation in the right lower lobe.\n"
    sentence, link = result.report.sentences[1], result.links[1]
    sentences = tuple(
        dataclasses.replace(sentence, start=n * len(text), end=(n + 1) * len(text) - 1) for n in range(count)
    )
    links = tuple(dataclasses.replace(link, sentence=n) for n in range(count))
    return dataclasses.replace(result, report=Report(text * count, sentences), links=links)


class Work:
    """Counts what functions do, step by step."""

    def __init__(self, monkeypatch):
        self._patch, self.done = monkeypatch, []

    def count(self, owner, name, amount=lambda *args, **kwargs: 1):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            self.done.append((name, amount(*args, **kwargs)))
            return original(*args, **kwargs)

        self._patch.setattr(owner, name, counted)

    def of_steps(self, steps):
        """Run a generator; what was done in each of its steps, as a list of {name: amount}, and its value."""
        per_step = []
        while True:
            self.done.clear()
            try:
                next(steps)
            except StopIteration as end:
                per_step.append(self._sums())
                return per_step, end.value
            per_step.append(self._sums())

    def _sums(self):
        return {name: sum(n for other, n in self.done if other == name) for name, _ in self.done}


@pytest.fixture
def work(monkeypatch):
    return Work(monkeypatch)


def most(per_step, *names):
    return max(sum(step.get(name, 0) for name in names) for step in per_step)


def test_the_record_of_a_long_report_is_made_and_written_some_entries_at_a_time(work):
    result = a_long_result()
    work.count(export.tables, "_sentence")
    work.count(export.tables, "jsonable")
    work.count(json, "dumps")
    per_step, text = work.of_steps(records.text_steps(result, []))
    assert sum(step.get("_sentence", 0) for step in per_step) == COUNT
    assert 0 < most(per_step, "_sentence") <= MOST
    assert 0 < most(per_step, "dumps") <= MOST + 30
    whole = export.result_record(dataclasses.replace(result, heatmaps=()))
    assert {**json.loads(text), "created": ""} == {**whole, "created": ""}


def test_the_record_of_a_long_report_is_read_some_entries_at_a_time(booted, work):
    result = a_long_result()
    volume, segmentation = add_case(booted, result.case)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    work.count(json.JSONDecoder, "raw_decode")
    work.count(records, "from_record")
    per_step, restored = work.of_steps(mrml_io.restore_steps(nodes))
    assert sum(step.get("from_record", 0) for step in per_step) > 2 * COUNT
    assert 0 < most(per_step, "from_record") <= MOST
    assert 0 < most(per_step, "raw_decode") <= MOST + 30
    assert (restored.report, restored.links) == (result.report, result.links)


def test_an_answer_is_put_into_a_long_record_some_entries_at_a_time(booted, work):
    result = a_long_result()
    volume, segmentation = add_case(booted, result.case)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    work.count(json.JSONDecoder, "raw_decode")
    work.count(json, "dumps")
    score = dataclasses.replace(result.findings[0], finding="focal fat", source="prompt", reason=None)
    heatmap = dataclasses.replace(result.heatmaps[0], finding="focal fat", source="prompt")
    per_step, _ = work.of_steps(show.add_heatmap_steps(nodes, heatmap, booted.scene, score))
    assert 0 < most(per_step, "raw_decode", "dumps") <= MOST + 30
    assert "focal fat" in [finding.finding for finding in mrml_io.restore_result(nodes).findings]


def test_a_record_that_leaves_the_scene_while_it_is_read_is_an_error(booted):
    result = a_long_result(300)
    volume, segmentation = add_case(booted, result.case)
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    steps = mrml_io.restore_steps(nodes)
    next(steps)
    booted.scene.RemoveNode(nodes.links_text)
    with pytest.raises(InputError, match="was deleted"):
        list(steps)


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("{}", {}),
        (' {"a" :[ ] ,\n"b":{"c":[1,2]}} \n', {"a": [], "b": {"c": [1, 2]}}),
        ('{"a": [1, "]", {"x": null}], "b": "},["}', {"a": [1, "]", {"x": None}], "b": "},["}),
        (json.dumps({"a": list(range(250)), "b": 1.5}, indent=2), {"a": list(range(250)), "b": 1.5}),
    ],
)
def test_a_record_that_was_laid_out_in_another_way_reads_the_same(text, record):
    assert show.finished(records._object_steps(text)) == record == json.loads(text)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a"', '{"a": [1, 2', '{"a": [1 2]}', '{"a": [1,]}', "{1: 2}", '{"a": 1} x', '{"a": 1,}']
)
def test_a_record_that_is_no_json_object_is_refused(text):
    with pytest.raises(InputError, match="The text node x holds no readable analysis"):
        show.finished(records.load_steps(text, "The text node x"))


def test_a_surface_is_cut_out_converted_and_given_normals_in_steps_of_their_own(booted, work):
    _, segmentation = add_case(booted, a_case(CHEST))
    ids = list(segmentation.GetSegmentation().GetSegmentIDs())
    stages = ("thinned_box", "_converted", "_with_normals")
    for stage in stages:
        work.count(display_segment_surface, stage)
    work.count(display_surfaces, "_new_model")
    per_step, models = work.of_steps(display.surface_steps(segmentation, ids))
    assert [model.GetAttribute("CTGroundedVLM.Segment") for model in models] == ids
    for stage in stages:
        assert sum(step.get(stage, 0) for step in per_step) == len(ids)
    assert most(per_step, *stages, "_new_model") == 1


def test_evidence_is_looked_up_for_some_points_at_a_time(booted, work, monkeypatch):
    case = a_case(CHEST)
    _, segmentation = add_case(booted, case)
    heart = next(
        i for i in segmentation.GetSegmentation().GetSegmentIDs() if segmentation_name(segmentation, i) == "heart"
    )
    heatmap = slicer_scene.add_volume(
        booted.scene, np.ones(case.ct.array_kji.shape, np.float32), case.ct.ijk_to_ras, "Evidence"
    )
    (model,) = display.paint_evidence(segmentation, [heart], heatmap)
    whole = slicer.util.arrayFromModelPointData(model, "evidence").copy()
    monkeypatch.setattr(display_surfaces, "_POINTS", 50)
    work.count(display_surfaces, "_nearest", lambda values, places: len(places))
    per_step, (again,) = work.of_steps(display.evidence_steps(segmentation, [heart], heatmap))
    depths = len(display_surfaces._DEPTHS_MM)
    assert again is model
    assert sum(step.get("_nearest", 0) for step in per_step) == depths * len(whole) > depths * 100
    assert most(per_step, "_nearest") == depths * 50
    np.testing.assert_array_equal(slicer.util.arrayFromModelPointData(model, "evidence"), whole)


def segmentation_name(segmentation, segment_id):
    return segmentation.GetSegmentation().GetSegment(segment_id).GetName()


def test_a_segment_that_is_deleted_while_its_surface_is_made_gets_none(booted):
    _, segmentation = add_case(booted, a_case(CHEST))
    ids = list(segmentation.GetSegmentation().GetSegmentIDs())[:2]
    steps = display.surface_steps(segmentation, ids)
    next(steps)  # the former ones are hidden
    next(steps)  # the first one's voxels are read
    segmentation.GetSegmentation().RemoveSegment(ids[0])
    assert [model.GetAttribute("CTGroundedVLM.Segment") for model in show.finished(steps)] == ids[1:]

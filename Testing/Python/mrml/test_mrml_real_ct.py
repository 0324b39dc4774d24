"""Real CTs through the scene: the same case and the same result as through files; shown, saved and restored."""

import dataclasses

import numpy as np
import pytest
import slicer.util

from cases import a_small_model
from CTGroundedVLMLib import anatomy, mrml_io, volume_io
from CTGroundedVLMLib.exchange import read_case
from CTGroundedVLMLib.export import write_result
from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
from slicer_scene import add_segmentation

REPORT = "FINDINGS:\nThe liver is enlarged. No splenomegaly.\nThe left kidney has a 12 mm cyst.\n"


@pytest.fixture
def abdomen(booted, test_data):
    """Folder, CT and segmentation node of the real abdomen, loaded by Slicer's own readers."""
    folder = test_data / "ct" / "abdomen"
    volume = booted.logics["Volumes"].AddArchetypeVolume(str(folder / "ct.nii.gz"), "abdomen", 0)
    label_map = booted.logics["Volumes"].AddArchetypeVolume(str(folder / "segmentation.nii.gz"), "labels", 1)
    labels = slicer.util.arrayFromVolume(label_map).astype(np.uint8)
    segmentation = add_segmentation(booted, volume, labels, anatomy.label_names(), "TotalSegmentator", terminology=True)
    return folder, volume, segmentation


def test_scene_and_files_give_the_same_case(abdomen, tmp_path):
    folder, volume, segmentation = abdomen
    list(mrml_io.MrmlCaseSource(volume, segmentation, REPORT).hand_over(tmp_path / "case"))
    handed = read_case(tmp_path / "case" / "case.json")
    read = volume_io.load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz", report_text=REPORT)
    assert np.array_equal(handed.ct.array_kji, read.ct.array_kji)
    assert np.abs(handed.ct.ijk_to_ras - read.ct.ijk_to_ras).max() < 1e-4
    assert np.array_equal(handed.segmentation.labels_kji, read.segmentation.labels_kji)
    assert handed.segmentation.names == read.segmentation.names
    assert len(handed.segmentation.names) == 41


def test_a_real_analysis_is_shown_saved_and_restored(booted, abdomen, tmp_path):
    _, volume, segmentation = abdomen
    list(mrml_io.MrmlCaseSource(volume, segmentation, REPORT, "pasted").hand_over(tmp_path / "case"))
    result = analyze(read_case(tmp_path / "case" / "case.json"), a_small_model(), AnalysisOptions(heatmaps=2))
    nodes = mrml_io.show_result(result, booted.scene, volume, segmentation)
    booted.load_mrb(booted.save_mrb(tmp_path / "scene.mrb"))
    (nodes,) = mrml_io.find_analyses(booted.scene)
    restored = mrml_io.restore_result(nodes)
    for name in ("report", "model", "findings", "organs", "links", "comparisons", "versions", "timings_s"):
        assert getattr(restored, name) == getattr(result, name), name
    assert len(nodes.heatmaps) == len(result.heatmaps) >= 1
    for heatmap in result.heatmaps:
        node = nodes.heatmaps[heatmap.organ, heatmap.finding]
        assert np.array_equal(slicer.util.arrayFromVolume(node), heatmap.values_kji)
        assert set(restored.links[0].segments) <= set(result.case.segmentation.names.values())
        k, j, i = np.argwhere(heatmap.to_volume())[0]
        world = mrml_io.voxel_position(nodes.volume, (i, j, k))
        box = np.subtract((i, j, k), heatmap.start_kji[::-1])
        assert np.allclose(mrml_io.voxel_position(node, box), world, atol=1e-3)
    shown = nodes.findings_table.GetNumberOfRows()
    assert shown == len(result.findings)
    segments = mrml_io.segment_ids_of(nodes.segmentation, restored.links[0].segments)
    assert [nodes.segmentation.GetSegmentation().GetSegment(s).GetName() for s in segments] == ["liver"]


def test_a_link_leads_into_its_segment(booted, abdomen, tmp_path):
    _, volume, segmentation = abdomen
    list(mrml_io.MrmlCaseSource(volume, segmentation, REPORT).hand_over(tmp_path / "case"))
    case = read_case(tmp_path / "case" / "case.json")
    result = analyze(case, a_small_model(), AnalysisOptions(heatmaps=0))
    assert result.links
    for link in result.links:
        i, j, k = link.centre_ijk
        assert case.segmentation.names[int(case.segmentation.labels_kji[k, j, i])] in link.segments
        ras = mrml_io.voxel_position(volume, link.centre_ijk)
        assert np.allclose(ras, (case.ct.ijk_to_ras @ [i, j, k, 1])[:3], atol=1e-3)


def test_the_case_read_again_from_a_loaded_scene_exports_as_the_first_one(booted, abdomen, tmp_path):
    _, volume, segmentation = abdomen
    list(mrml_io.MrmlCaseSource(volume, segmentation, REPORT).hand_over(tmp_path / "first"))
    result = analyze(read_case(tmp_path / "first" / "case.json"), a_small_model(), AnalysisOptions(heatmaps=1))
    mrml_io.show_result(result, booted.scene, volume, segmentation)
    booted.load_mrb(booted.save_mrb(tmp_path / "scene.mrb"))
    (nodes,) = mrml_io.find_analyses(booted.scene)
    restored = mrml_io.restore_result(nodes)
    source = mrml_io.MrmlCaseSource(nodes.volume, nodes.segmentation, restored.report.text)
    list(source.hand_over(tmp_path / "again"))
    again = restored.with_case(read_case(tmp_path / "again" / "case.json"))
    assert np.array_equal(again.case.segmentation.labels_kji, result.case.segmentation.labels_kji)
    assert dataclasses.replace(again, case=None, heatmaps=(), settings={}) == dataclasses.replace(
        result, case=None, heatmaps=(), settings={}
    )
    written = [write_result(r, tmp_path / n, pictures=False) for r, n in ((result, "a"), (again, "b"))]
    assert written[0]["findings"].read_bytes() == written[1]["findings"].read_bytes()

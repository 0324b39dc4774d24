"""The module's start and the panel's end where something is missing or fails."""

import hashlib
import json
import logging
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from CTGroundedVLMLib.sample_data import sample_folder
from CTGroundedVLMLib.widget.scene_analysis import Listener, SceneAnalysis
from panel_session import MODULE, open_empty_panel
from qt_standin import dialogs, sample_data_module


def test_the_sample_data_is_registered_at_the_start(session):
    session.load(MODULE).pythonModule().onStartupCompleted()
    assert [source.sampleName for _, source in sample_data_module.registered] == ["CTGroundedVLMPhantom"]


def test_an_application_without_sampledata_starts_without_a_message_box(session, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "SampleData", None)  # which makes the import fail
    with caplog.at_level(logging.INFO):
        session.load(MODULE).pythonModule().onStartupCompleted()
    assert dialogs.shown == []
    assert [r.levelname for r in caplog.records if "sample data of CTGroundedVLM" in r.message] == ["INFO"]


@pytest.fixture
def a_generated_sample(session):
    """Small files in the place of the phantom's, with the checksums that the generator would record."""
    folder = sample_folder()
    folder.mkdir()
    labels_kji = np.zeros((6, 8, 8), np.uint8)
    labels_kji[2:4, 2:6, 2:6] = 5
    sitk.WriteImage(sitk.GetImageFromArray(labels_kji.astype(np.int16) * 20), str(folder / "ct.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(labels_kji), str(folder / "segmentation.nii.gz"))
    (folder / "report.txt").write_text("The liver is normal.")

    def record():
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        (folder / "truth.json").write_text(json.dumps({"sha256": sums}))

    record()
    return folder, record


def test_where_sampledata_is_disabled_the_button_loads_the_patient_all_the_same(
    session, monkeypatch, a_generated_sample
):
    monkeypatch.setitem(sys.modules, "SampleData", None)
    panel = open_empty_panel(session)
    panel.ui.sampleDataButton.click()
    assert dialogs.shown == []
    assert panel.parameters.inputVolume.GetName() == "PhantomCT"
    assert panel.parameters.inputSegmentation.GetSegmentation().GetNthSegment(0).GetName() == "liver"
    assert panel.parameters.reportNode.GetText() == "The liver is normal."


def test_a_sample_that_slicer_cannot_read_is_a_message_with_the_remedy(session, a_generated_sample):
    folder, record = a_generated_sample
    (folder / "truth.json").unlink()
    (folder / "segmentation.nii.gz").write_bytes(b"no image")
    record()
    panel = open_empty_panel(session)
    panel.ui.sampleDataButton.click()
    (message,) = dialogs.shown
    assert "The sample data was not loaded." in message
    assert "segmentation.nii.gz" in message
    assert "Remove that folder and try again" in message
    assert "error of the module" not in message


@pytest.mark.parametrize("part", ["set_parameter_node", "report.forget", "models.close", "results.clear"])
def test_the_worker_is_ended_first_and_observers_go_whatever_else_fails(session, monkeypatch, part):
    panel = open_empty_panel(session)
    ended = []

    def fail(*_arguments):
        ended.append("part")
        raise RuntimeError("a part that cannot be ended")

    with monkeypatch.context() as patch:
        patch.setattr(panel.widget.logic, "close", lambda: ended.append("worker"))
        owner, _, name = part.rpartition(".")
        patch.setattr(getattr(panel.panel, owner) if owner else panel.panel, name, fail)
        with pytest.raises(RuntimeError, match="cannot be ended"):
            panel.widget.cleanup()
    assert ended == ["worker", "part"]
    assert list(panel.widget.Observations) == []
    assert list(panel.panel._input_nodes.Observations) == []


def test_a_worker_that_does_not_end_keeps_no_observer(session, monkeypatch):
    panel = open_empty_panel(session)

    def fail():
        raise OSError("no such process")

    with monkeypatch.context() as patch:
        patch.setattr(panel.widget.logic, "close", fail)
        with pytest.raises(OSError, match="no such process"):
            panel.widget.cleanup()
    assert list(panel.widget.Observations) == []
    assert list(panel.panel._input_nodes.Observations) == []


def test_the_service_is_closed_also_where_a_listener_of_its_end_fails():
    class Service:
        state, closed = "idle", False

        def close(self):
            self.closed = True

    def fail():
        raise RuntimeError("a listener's mistake")

    service = Service()
    analysis = SceneAnalysis(service, None, None)
    analysis._listener = Listener(print, print, print, fail)
    with pytest.raises(RuntimeError, match="mistake"):
        analysis.close()
    assert service.closed

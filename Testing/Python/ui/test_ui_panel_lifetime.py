"""The module's start and the panel's end where something is missing or fails."""

import logging
import sys

import pytest

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

"""Fixtures for tests of the panel on the stand-in for PythonQt (``support/qt_standin``)."""

import pytest

pytest.importorskip("PySide6", reason="the panel's tests need PySide6-Essentials: pip install ct-grounded-vlm[test]")
pytest.importorskip("slicer", reason="the panel's tests need slicer-core: pip install ct-grounded-vlm[test]")

from panel_session import SharedRunner, copy_models, make_models_folder, open_panel
from qt_standin import a_session


@pytest.fixture(scope="session", autouse=True)
def shared_worker():
    """One worker for all tests that do not end theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("CTGroundedVLMLib.process_qt.QProcessRunner", SharedRunner)
        yield
        SharedRunner.end()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A models folder that holds one model, "tiny": the debug architecture with random weights."""
    return make_models_folder(tmp_path_factory.mktemp("models"), "tiny")


@pytest.fixture
def session(models, tmp_path, monkeypatch):
    """A running Slicer (stand-in application, real scene) with folders of its own.

    The test fails if any slot, observer or connection failed, or if temporary files of ours remain.
    """
    for name in ("slicer", "temporary", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(models))
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with a_session(tmp_path / "slicer") as running:
        yield running
    assert not list((tmp_path / "temporary").glob("ctgvlm-*")), "temporary files remain"


@pytest.fixture(scope="session")
def two_models(tmp_path_factory):
    """A models folder that holds "a model" and "tiny"."""
    return make_models_folder(tmp_path_factory.mktemp("models"), "a model", "tiny")


@pytest.fixture
def panel(two_models, tmp_path, monkeypatch):
    """An open panel with the box case, and a models folder that the test may change."""
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(copy_models(two_models, tmp_path / "models")))
    (tmp_path / "slicer").mkdir()
    with a_session(tmp_path / "slicer") as session:
        yield open_panel(session)

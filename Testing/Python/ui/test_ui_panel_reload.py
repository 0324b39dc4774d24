"""Developer mode's Reload: the module's file and the library that it imports are loaded anew."""

import importlib
import sys

import pytest

from panel_session import open_panel


def modules_of_ours():
    return {
        name: m for name, m in sys.modules.items() if f"{name}.".startswith(("CTGroundedVLMLib.", "CTGroundedVLM."))
    }


@pytest.fixture
def library_put_back():
    """The other tests go on with what they have imported."""
    before = modules_of_ours()
    yield
    for name in modules_of_ours():
        del sys.modules[name]
    sys.modules.update(before)


def test_reload_loads_the_library_anew_and_keeps_the_choices(library_put_back, session):
    panel = open_panel(session)
    old, library = panel.widget, modules_of_ours()
    old.onReload()
    session.process_events()
    new = panel.representation.self()
    assert new is not old
    assert type(new.panel) is not type(old.panel)
    assert type(new.panel).__name__ == "Panel"
    assert sys.modules["CTGroundedVLMLib.widget.panel"] is not library["CTGroundedVLMLib.widget.panel"]
    assert not [name for name, module in modules_of_ours().items() if library.get(name) is module]
    assert new.ui.inputVolumeSelector.currentNode() is panel.volume
    assert new.ui.inputSegmentationSelector.currentNode() is panel.segmentation
    assert new.ui.analyzeButton.enabled


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "import CTGroundedVLMLib.anatomy\nraise RuntimeError('at file scope')\n"]
)
def test_a_file_that_does_not_load_leaves_the_panel_with_its_own_modules(
    library_put_back, session, tmp_path, monkeypatch, text
):
    panel = open_panel(session)
    importlib.import_module("CTGroundedVLMLib.widget.reloading")  # as the click does: it belongs to what is put back
    before = modules_of_ours()
    broken = tmp_path / "CTGroundedVLM.py"
    broken.write_text(text)
    module = session.app.moduleManager().module("CTGroundedVLM")
    monkeypatch.setattr(sys, "path", [*sys.path])
    path, module.path = module.path, str(broken)
    with pytest.raises((SyntaxError, RuntimeError)):
        panel.widget.onReload()
    module.path = path
    assert modules_of_ours() == before
    assert panel.representation.self() is panel.widget
    panel.ui.inputVolumeSelector.setCurrentNode(None)
    assert "Choose a CT." in panel.ui.analyzeButton.toolTip

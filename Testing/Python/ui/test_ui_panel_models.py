"""The panel's model picker: installed models, folders, licence and notice, deleting, importing; no analysis runs."""

import json
import logging
from types import SimpleNamespace

import pytest
import slicer

from panel_session import choose, items, open_empty_panel
from qt_standin import dialogs

FOLDERS = "CTGroundedVLM/ModelFolders"
CHOOSERS = ["fVLM's checkpoint", "Folder of the tokenizer's files"]  # the dialogs that an import always shows


def test_installed_models_are_listed_before_the_untrained_one_with_notice(panel):
    assert items(panel.ui.modelComboBox) == ["a model", "tiny", "untrained"]
    assert panel.parameters.model == "a model"
    choose(panel.ui.modelComboBox, "untrained")
    assert panel.parameters.model == "untrained"
    assert "UNTRAINED" in panel.ui.modelNoticeLabel.text
    assert panel.ui.modelNoticeLabel.visible


def test_the_licence_of_a_trained_model_is_shown(panel, two_models, tmp_path):
    folder = tmp_path / "somewhere" / "lung model"
    folder.mkdir(parents=True)
    for file in (two_models / "tiny").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(header | {"trained": True, "notice": "", "license": "CC-BY-NC-SA-4.0"})
    )
    dialogs.answer(folder)
    panel.panel.models.open_folder()
    assert panel.ui.modelComboBox.currentText == "lung model"
    assert panel.parameters.model == str(folder)
    assert panel.ui.modelLicenseLabel.text == "Licence: CC-BY-NC-SA-4.0"
    assert not panel.ui.modelNoticeLabel.visible
    panel.panel.models.refresh("tiny")
    assert "lung model" in items(panel.ui.modelComboBox), "a folder that was opened stays in the list"


def test_a_folder_without_a_model_is_explained(panel, tmp_path):
    dialogs.answer(tmp_path)
    panel.panel.models.open_folder()
    assert "is no model folder" in dialogs.shown[-1]
    assert panel.parameters.model == "a model"


def test_a_model_is_deleted_after_a_question_only(panel, tmp_path):
    import qt

    dialogs.answer(qt.QMessageBox.Cancel)
    panel.panel.models.delete_chosen()
    assert (tmp_path / "models" / "a model").exists()
    dialogs.answer(qt.QMessageBox.Ok)
    panel.panel.models.delete_chosen()
    assert "Delete the model a model" in dialogs.shown[-1]
    assert not (tmp_path / "models" / "a model").exists()
    assert items(panel.ui.modelComboBox) == ["tiny", "untrained"]
    assert panel.parameters.model == "tiny"


def test_the_untrained_model_cannot_be_deleted(panel):
    choose(panel.ui.modelComboBox, "untrained")
    (delete,) = [a for a in panel.ui.modelMenuButton.menu().actions() if a.text.startswith("Delete")]
    assert not delete.enabled
    choose(panel.ui.modelComboBox, "tiny")
    assert delete.enabled


def test_an_import_without_a_tokenizer_is_refused_before_a_process_starts(panel, tmp_path):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"PK")
    dialogs.answer(tmp_path / "checkpoint_10.pth", tmp_path)
    panel.panel.models.import_checkpoint()
    assert "holds neither" in dialogs.shown[-1]


def test_a_checkpoint_that_is_none_is_reported_with_the_log(panel, tmp_path):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"this is no checkpoint")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    dialogs.answer(tmp_path / "checkpoint_10.pth", tmp_path)
    panel.panel.warmed_up = True  # no worker is wanted here: its imports would take the processor from the import
    panel.panel.models.import_checkpoint()
    panel.session.wait_until(lambda: dialogs.shown[-1:] and "was not imported" in dialogs.shown[-1], 60)
    assert "checkpoint_10.pth" in panel.ui.logTextEdit.toPlainText()
    assert items(panel.ui.modelComboBox) == ["a model", "tiny", "untrained"]


def test_an_import_that_the_panels_end_has_killed_says_nothing(panel, tmp_path, monkeypatch):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"this is no checkpoint")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    dialogs.answer(tmp_path / "checkpoint_10.pth", tmp_path)
    ends, killed = [], []
    runner = SimpleNamespace(start=lambda *arguments: ends.append(arguments[-1]), kill=lambda: killed.append(True))
    monkeypatch.setattr(panel.panel.models, "_make_runner", lambda: runner)
    panel.panel.models.import_checkpoint()
    panel.panel.models.close()
    assert killed == [True]
    ends[0](-9)
    assert dialogs.shown == CHOOSERS


@pytest.mark.parametrize(("outcome", "started"), [("ready", 1), ("declined", 0), ("restarting", 0)])
def test_an_import_starts_only_where_the_python_packages_are_there(panel, tmp_path, monkeypatch, outcome, started):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"PK")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    dialogs.answer(tmp_path / "checkpoint_10.pth", tmp_path)
    starts = []
    runner = SimpleNamespace(start=lambda *arguments: starts.append(arguments), kill=lambda: None)
    monkeypatch.setattr(panel.panel.models, "_make_runner", lambda: runner)
    monkeypatch.setattr(
        "CTGroundedVLMLib.dependencies.DependencyInstaller", lambda module: SimpleNamespace(ensure=lambda: outcome)
    )
    panel.panel.models.import_checkpoint()
    assert len(starts) == started
    assert dialogs.shown == CHOOSERS


def test_nobody_is_asked_to_install_packages_for_a_checkpoint_that_cannot_be_imported(panel, tmp_path, monkeypatch):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"PK")
    dialogs.answer(tmp_path / "checkpoint_10.pth", tmp_path)
    asked = []
    monkeypatch.setattr(
        "CTGroundedVLMLib.dependencies.DependencyInstaller",
        lambda module: SimpleNamespace(ensure=lambda: asked.append(True)),
    )
    panel.panel.models.import_checkpoint()
    assert "holds neither" in dialogs.shown[-1]
    assert asked == []


@pytest.mark.parametrize("damaged", ["{not json", "7", '["/a", 7]', ["/a", "/b"]])
def test_the_panel_opens_where_the_remembered_folders_are_damaged(session, caplog, damaged):
    slicer.app.userSettings().setValue(FOLDERS, damaged)
    with caplog.at_level(logging.WARNING):
        panel = open_empty_panel(session)
    assert items(panel.ui.modelComboBox)[0] == "tiny"
    assert FOLDERS in caplog.text


def test_folders_are_remembered_in_the_store_that_they_are_read_from(panel, two_models, tmp_path, monkeypatch):
    """With --disable-settings the application's settings are others than QSettings() finds."""
    from PySide6 import QtCore

    own = QtCore.QSettings(str(tmp_path / "disabled.ini"), QtCore.QSettings.Format.IniFormat)
    monkeypatch.setattr(type(slicer.app), "userSettings", lambda self: own)
    folder = tmp_path / "elsewhere"
    folder.symlink_to(two_models / "tiny")
    dialogs.answer(folder)
    panel.panel.models.open_folder()
    panel.panel.models.refresh("tiny")
    assert "elsewhere" in items(panel.ui.modelComboBox)
    assert not QtCore.QSettings().contains(FOLDERS)


def test_a_panel_that_could_not_be_set_up_is_opened_and_left_without_another_error(session, monkeypatch):
    class NoPanel:
        def __init__(self, *arguments):
            raise RuntimeError("no panel")

    widget = open_empty_panel(session).widget
    another = type(widget)(widget.parent)
    with monkeypatch.context() as patch:
        patch.setattr("CTGroundedVLMLib.widget.panel.Panel", NoPanel)
        with pytest.raises(RuntimeError, match="no panel"):
            another.setup()
    another.enter()
    another.exit()
    another.cleanup()
    assert another.panel is None


def test_the_question_offers_to_take_the_organ_from_the_words_and_not_any_organ(panel):
    panel.panel.results.question.set_organs(["left_kidney"])
    assert items(panel.ui.questionOrganComboBox) == ["as written", "left kidney"]

"""The panel's model picker: installed models, folders, licence and notice, deleting, importing; no analysis runs."""

import json

from panel_session import choose, items
from qt_standin import dialogs


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

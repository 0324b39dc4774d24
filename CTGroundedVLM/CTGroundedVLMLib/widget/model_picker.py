"""The model picker: installed models, model folders, the import of fVLM's checkpoint, the models folder; licence and notice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import slicer.util
from slicer.i18n import tr as _

from ..errors import CTGroundedVLMError, ModelError
from ..models_admin import (
    ModelInfo,
    delete_model,
    describe_folder,
    import_fvlm_command,
    list_models,
    make_models_folder,
)
from ..process_qt import pythonProgram
from ..worker_client import ProcessRunner
from .errors import shown_errors

FOLDERS_SETTING = "CTGroundedVLM/ModelFolders"


class ModelPicker:
    """Fills the combo box and its menu.

    ``on_chosen(choice)`` is called when the user takes a model; ``make_runner`` starts the import's process; ``log`` takes
    its output. ``folder``: the models folder, None for the usual one.
    """

    def __init__(
        self,
        combo: qt.QComboBox,
        menu_button: qt.QToolButton,
        license_label: qt.QLabel,
        notice_label: qt.QLabel,
        *,
        on_chosen: Callable[[str], None],
        make_runner: Callable[[], ProcessRunner],
        log: Callable[[str], None],
    ) -> None:
        self._combo, self._license, self._notice = combo, license_label, notice_label
        self._on_chosen, self._make_runner, self._log = on_chosen, make_runner, log
        self._models: list[ModelInfo] = []
        self._import_runner: ProcessRunner | None = None
        self._menu = qt.QMenu(menu_button)
        self._actions: list[qt.QAction] = []
        self.add_action(_("Open a model folder…"), self.open_folder)
        self.add_action(_("Import fVLM's checkpoint…"), self.import_checkpoint)
        self.add_action(_("Show the models folder"), self.show_models_folder)
        self._delete = self.add_action(_("Delete the chosen model…"), self.delete_chosen)
        menu_button.setMenu(self._menu)
        combo.connect("activated(int)", self._on_activated)

    def add_action(self, text: str, function: Callable[[], None]) -> qt.QAction:
        """Add an entry to the menu."""
        action = self._menu.addAction(text)
        action.connect("triggered()", function)
        self._actions.append(action)
        return action

    @property
    def chosen(self) -> ModelInfo | None:
        """The model that the combo box shows."""
        index = self._combo.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def refresh(self, choice: str) -> None:
        """List the models anew and show ``choice``; "" takes the first one."""
        self._models = [*list_models(), *_known_folders()]
        known = [model.choice for model in self._models]
        if choice and choice not in known and Path(choice).is_dir():
            self._models += _described([choice])
            known = [model.choice for model in self._models]
        self._combo.clear()
        for index, model in enumerate(self._models):
            self._combo.addItem(model.name)
            self._combo.setItemData(index, model.summary, qt.Qt.ToolTipRole)
        self.show(choice if choice in known else known[0])

    def show(self, choice: str) -> None:
        """Show a model without calling ``on_chosen``; a folder joins the list, and what is gone shows none."""
        known = [model.choice for model in self._models]
        if choice not in known and choice and Path(choice).is_dir() and _described([choice]):
            self.refresh(choice)
            return
        self._combo.setCurrentIndex(known.index(choice) if choice in known else -1)
        model = self.chosen
        self._notice.text = model.notice if model else _("The model {name} is not here.").format(name=choice)
        self._notice.visible = bool(self._notice.text)
        self._license.text = _license_text(model) if model else ""
        self._license.visible = bool(self._license.text)
        self._delete.enabled = bool(model and model.kind == "installed")

    def _on_activated(self, index: int) -> None:
        if 0 <= index < len(self._models):
            self._take(self._models[index].choice)

    def _take(self, choice: str) -> None:
        self.show(choice)
        self._on_chosen(choice)

    def open_folder(self) -> None:
        """Let the user choose a model folder anywhere; it stays in the list."""
        chosen = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Choose a model folder"))
        if not chosen:
            return
        with shown_errors(_("This folder cannot be used.")):
            model = describe_folder(Path(chosen))
            _remember_folder(model.choice)
            self.refresh(model.choice)
            self._take(model.choice)

    def show_models_folder(self) -> None:
        """Open the models folder in the system's file browser."""
        with shown_errors(_("The models folder cannot be opened.")):
            qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(make_models_folder())))

    def delete_chosen(self) -> None:
        """Remove the chosen model from the disk, after a question."""
        model = self.chosen
        if model is None or model.kind != "installed":
            return
        question = _("Delete the model {name} ({size:.0f} MB) from {folder}? This cannot be undone.")
        text = question.format(name=model.name, size=model.bytes / 1e6, folder=model.folder)
        if not slicer.util.confirmOkCancelDisplay(text, _("Delete the model")):
            return
        with shown_errors(_("The model was not deleted.")):
            delete_model(model.choice)
            self.refresh("")
            self._take(self.chosen.choice)

    def import_checkpoint(self) -> None:
        """Convert fVLM's released checkpoint in a process of its own."""
        from ..dependencies import DependencyInstaller

        window = slicer.util.mainWindow()
        checkpoint = qt.QFileDialog.getOpenFileName(
            window, _("fVLM's checkpoint"), "", _("Checkpoint (*.pth *.pt);;All files (*)")
        )
        tokenizer = checkpoint and qt.QFileDialog.getExistingDirectory(window, _("Folder of the tokenizer's files"))
        if not checkpoint or not tokenizer:
            return
        with shown_errors(_("The checkpoint was not imported.")):
            # its checks come before anybody is asked to install something for it
            job = import_fvlm_command(Path(checkpoint), Path(tokenizer), python=pythonProgram())
            if DependencyInstaller(slicer).ensure() != "ready":  # it needs torch
                return
            if self._import_runner is not None:  # maybe begun while packages were being installed
                raise ModelError("Another checkpoint is being imported: wait until it is done.")
            self._log(f"Importing {checkpoint}; this takes about a minute.")
            self._import_runner = self._make_runner()
            self._import_runner.start(
                job.command,
                job.environment,
                self._log,
                self._log,
                lambda code: self._on_imported(code, job.output),
            )

    def _on_imported(self, code: int, output: Path) -> None:
        if self._import_runner is None:  # the panel was closed meanwhile
            return
        self._import_runner = None
        with shown_errors(_("The checkpoint was not imported.")):
            if code != 0:
                raise ModelError(f"The import ended with code {code}. The log says why.")
            self._log(f"The model is in {output}.")
            self.refresh(output.name)
            self._take(output.name)

    def close(self) -> None:
        """End an import that still runs; nothing half-made remains."""
        if self._import_runner is not None:
            self._import_runner.kill()  # it reads no input, whose end would tell it, and no event loop may be left to wait in
            self._import_runner = None


def _license_text(model: ModelInfo) -> str:
    """What stands below the picker: of a bundled model also that it is one, and its card where that says more."""
    if not model.trained:
        return ""
    licence = _("Licence: {licence}").format(licence=model.license or _("none is stated"))
    bundled = _("Bundled with the software.") if model.kind == "bundled" else ""
    card = model.card if model.card != model.notice else ""
    return " ".join(part for part in (bundled, card, licence) if part)


def _known_folders() -> list[ModelInfo]:
    return _described(_remembered_folders())


def _described(folders: list[str]) -> list[ModelInfo]:
    models = []
    for folder in folders:
        try:
            models.append(describe_folder(Path(folder)))
        except CTGroundedVLMError:
            continue  # moved or deleted meanwhile: it comes back when the folder does
    return models


def _remembered_folders() -> list[str]:
    """Of the user's settings, as ``_remember_folder`` wrote them; none where somebody else wrote something else there."""
    value = slicer.app.userSettings().value(FOLDERS_SETTING, "[]")
    try:
        folders = json.loads(value)
    except (TypeError, ValueError):
        folders = None
    if isinstance(folders, list) and all(isinstance(folder, str) for folder in folders):
        return folders
    logging.warning("The setting %s is damaged and taken for empty: %.200r", FOLDERS_SETTING, value)
    return []


def _remember_folder(folder: str) -> None:
    known = [*(k for k in _remembered_folders() if k != folder), folder]
    slicer.app.userSettings().setValue(FOLDERS_SETTING, json.dumps(known))

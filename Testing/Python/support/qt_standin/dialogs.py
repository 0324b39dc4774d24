"""Modal dialogs without a user: a test says beforehand what is answered, and an unexpected dialog is a fault."""

# ruff: noqa: N802  (names as in Qt and Slicer)

from __future__ import annotations

from collections import deque
from typing import Any

from PySide6 import QtWidgets

from qt_standin.members import cpp

_answers: deque[Any] = deque()
shown: list[str] = []  # the texts of all dialogs so far


class UnexpectedDialogError(AssertionError):
    """A dialog came up for which the test gave no answer; in Slicer it would wait for the user."""


def answer(*values: Any) -> None:
    """What the next dialogs return: a path, a button such as ``qt.QMessageBox.Ok``, an item."""
    _answers.extend(values)


def reset() -> list[Any]:
    """Forget all; returns the answers that no dialog asked for."""
    left = list(_answers)
    _answers.clear()
    shown.clear()
    return left


def _ask(text: str) -> Any:
    shown.append(text)
    if not _answers:
        raise UnexpectedDialogError(f"a dialog came up and the test gave no answer for it: {text}")
    return _answers.popleft()


@cpp
class QFileDialog(QtWidgets.QFileDialog):
    """PythonQt returns the path alone, PySide6 a pair with the filter; several paths are a tuple."""

    @staticmethod
    def getOpenFileName(parent=None, caption="", directory="", filters="", *_rest) -> str:
        return str(_ask(caption))

    @staticmethod
    def getSaveFileName(parent=None, caption="", directory="", filters="", *_rest) -> str:
        return str(_ask(caption))

    @staticmethod
    def getExistingDirectory(parent=None, caption="", directory="", *_rest) -> str:
        return str(_ask(caption))

    @staticmethod
    def getOpenFileNames(parent=None, caption="", directory="", filters="", *_rest) -> tuple[str, ...]:
        return tuple(map(str, _ask(caption)))


@cpp
class QInputDialog(QtWidgets.QInputDialog):
    """PythonQt returns the value alone, "" or the start value when cancelled."""

    @staticmethod
    def getText(parent=None, title="", label="", *_rest) -> str:
        return str(_ask(f"{title}: {label}"))

    @staticmethod
    def getItem(parent=None, title="", label="", *_rest) -> str:
        return str(_ask(f"{title}: {label}"))


@cpp
class QMessageBox(QtWidgets.QMessageBox):
    """The static questions and ``exec_`` take the prepared answer."""

    def exec(self) -> Any:
        text = QtWidgets.QMessageBox.text(self)
        buttons = QtWidgets.QMessageBox.standardButtons(self)
        if buttons in (QtWidgets.QMessageBox.StandardButton.Ok, QtWidgets.QMessageBox.StandardButton.NoButton):
            shown.append(text)  # nothing to choose: the user reads it, whether a test expected it or not
            if _answers and _answers[0] == QtWidgets.QMessageBox.StandardButton.Ok:
                _answers.popleft()
            return QtWidgets.QMessageBox.StandardButton.Ok
        return _ask(text)

    @staticmethod
    def question(parent=None, title="", text="", *_rest) -> Any:
        return _ask(text)

    information = warning = critical = question


def exec_dialog(dialog: QtWidgets.QDialog) -> int:
    """``exec`` of any other dialog: the prepared answer may be a function, which is then called with the dialog."""
    value = _ask(QtWidgets.QWidget.windowTitle(dialog) or type(dialog).__name__)
    return value(dialog) if callable(value) else value

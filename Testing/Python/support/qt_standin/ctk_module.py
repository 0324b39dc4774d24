"""The module ``ctk``: stand-ins for the Common Toolkit's widgets that a panel may use."""

# ruff: noqa: N801, N802  (names as in Qt and Slicer)

from __future__ import annotations

import types

from PySide6 import QtCore, QtGui, QtWidgets

from qt_standin import dialogs
from qt_standin.members import cpp
from qt_standin.qt_properties import start, stored
from qt_standin.ui_loader import custom_widget

_HEADER = 24  # height of a collapsible button's header in pixels


@custom_widget
class ctkCollapsibleButton(QtWidgets.QWidget):
    """A header that shows or hides what lies below it."""

    contentsCollapsed = QtCore.Signal(bool)
    clicked = QtCore.Signal(bool)

    def __init__(self, text: str | QtWidgets.QWidget | None = None, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent if isinstance(text, str) else text)
        start(self).folded = []
        self.setContentsMargins(0, _HEADER, 0, 0)
        if isinstance(text, str):
            self.text = text

    def _apply(self) -> None:
        collapsed = self.collapsed
        widgets = [child for child in QtCore.QObject.children(self) if child.isWidgetType()]
        shown, self._d.folded = self._d.folded, [w for w in widgets if collapsed and not w.isHidden()]
        for widget in self._d.folded if collapsed else shown:
            widget.setVisible(not collapsed)
        self.setMaximumHeight(_HEADER if collapsed else 16777215)
        self.update()
        self.contentsCollapsed.emit(collapsed)

    collapsed = stored(bool, "collapsed", False, lambda self: self._apply())
    text = stored(str, "text", "", lambda self: self.update())
    flat = stored(bool, "flat", False)
    contentsLineWidth = stored(int, "contentsLineWidth", 1)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, _HEADER - 2)
        option.text = ("▸ " if self.collapsed else "▾ ") + self.text
        painter = QtGui.QPainter(self)
        self.style().drawControl(QtWidgets.QStyle.ControlElement.CE_PushButton, option, painter, self)
        painter.end()

    def mousePressEvent(self, event: QtGui.QMouseEvent) -> None:
        if event.position().y() < _HEADER:
            self.collapsed = not self.collapsed
            self.clicked.emit(self.collapsed)


@custom_widget
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box that can be folded."""

    def __init__(self, title: str | QtWidgets.QWidget | None = None, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent if isinstance(title, str) else title)
        start(self)
        if isinstance(title, str):
            self.setTitle(title)

    def _apply(self) -> None:
        self.setMaximumHeight(_HEADER if self.collapsed else 16777215)

    collapsed = stored(bool, "collapsed", False, lambda self: self._apply())


@custom_widget
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider beside a spin box, on real numbers."""

    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        state = start(self)
        state.slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        state.spin_box = QtWidgets.QDoubleSpinBox(self)
        state.spin_box.setRange(0, 100)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(state.slider)
        layout.addWidget(state.spin_box)
        state.slider.setRange(0, 1000)
        state.spin_box.valueChanged.connect(self._spin_box_changed)
        state.slider.sliderMoved.connect(self._slider_moved)

    def _spin_box_changed(self, value: float) -> None:
        span = self.maximum - self.minimum
        self._d.slider.setValue(round(1000 * (value - self.minimum) / span) if span else 0)
        self.valueChanged.emit(value)

    def _slider_moved(self, position: int) -> None:
        self._d.spin_box.setValue(self.minimum + position / 1000 * (self.maximum - self.minimum))

    def setValue(self, value: float) -> None:
        self._d.spin_box.setValue(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._d.spin_box.setRange(minimum, maximum)

    value = QtCore.Property(float, lambda self: self._d.spin_box.value, setValue)
    minimum = QtCore.Property(
        float, lambda self: self._d.spin_box.minimum, lambda self, v: self._d.spin_box.setMinimum(v)
    )
    maximum = QtCore.Property(
        float, lambda self: self._d.spin_box.maximum, lambda self, v: self._d.spin_box.setMaximum(v)
    )
    singleStep = QtCore.Property(
        float, lambda self: self._d.spin_box.singleStep, lambda self, v: self._d.spin_box.setSingleStep(v)
    )
    decimals = QtCore.Property(
        int, lambda self: self._d.spin_box.decimals, lambda self, v: self._d.spin_box.setDecimals(v)
    )
    suffix = QtCore.Property(str, lambda self: self._d.spin_box.suffix, lambda self, v: self._d.spin_box.setSuffix(v))
    pageStep = stored(float, "pageStep", 10.0)
    tickInterval = stored(float, "tickInterval", 0.0)
    tracking = stored(bool, "tracking", True)


@custom_widget
class ctkPathLineEdit(QtWidgets.QWidget):
    """A path with a history and a browse button."""

    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        state = start(self)
        state.edit = QtWidgets.QLineEdit(self)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(state.edit)
        state.edit.textChanged.connect(lambda text: self.currentPathChanged.emit(text))

    def setCurrentPath(self, path: str) -> None:
        self._d.edit.setText(path)

    def addCurrentPathToHistory(self) -> None:
        self._d.values.setdefault("history", []).append(self.currentPath)

    currentPath = QtCore.Property(str, lambda self: self._d.edit.text, setCurrentPath)
    nameFilters = stored("QStringList", "nameFilters", [])
    settingKey = stored(str, "settingKey", "")
    showHistoryButton = stored(bool, "showHistoryButton", True)
    showBrowseButton = stored(bool, "showBrowseButton", True)


@custom_widget
class ctkDirectoryButton(QtWidgets.QWidget):
    """A button that names and chooses a folder."""

    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        start(self)

    directory = stored(str, "directory", "", lambda self: self.directoryChanged.emit(self.directory))
    caption = stored(str, "caption", "")


@custom_widget
class ctkSearchBox(QtWidgets.QLineEdit):
    """A line edit with a magnifying glass."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        start(self)

    showSearchIcon = stored(bool, "showSearchIcon", False)


@custom_widget
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):
    """A text browser as high as its text."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        start(self)

    collapsed = stored(bool, "collapsed", False)
    collapsible = stored(bool, "collapsible", True)


@cpp
class ctkMessageBox(dialogs.QMessageBox):
    """A message box that can be told not to show again; answered as :mod:`qt_standin.dialogs` says."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        start(self)

    dontShowAgainSettingsKey = stored(str, "dontShowAgainSettingsKey", "")


_NAMES = (
    ctkCollapsibleButton, ctkCollapsibleGroupBox, ctkSliderWidget, ctkPathLineEdit, ctkDirectoryButton, ctkSearchBox,
    ctkFittedTextBrowser, ctkMessageBox,
)  # fmt: skip


def make() -> types.ModuleType:
    """The module object to put into ``sys.modules``."""
    module = types.ModuleType("ctk", __doc__)
    for cls in _NAMES:
        setattr(module, cls.__name__, cls)
    return module

"""Our Qt code holds PythonQt's rules, which the stand-in cannot all refuse; and nothing heavy or foreign is loaded with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qt_standin import file_scope_lint, install, pythonqt_lint, qt_knowledge

MODULE = Path(__file__).resolve().parents[3] / "CTGroundedVLM"
LIBRARY = MODULE / "CTGroundedVLMLib"
UI_FILE = MODULE / "Resources" / "UI" / "CTGroundedVLM.ui"
QT_FILES = [MODULE / "CTGroundedVLM.py", LIBRARY / "process_qt.py", LIBRARY / "dependencies.py"]
QT_FILES += sorted((LIBRARY / "widget").glob("*.py"))
SLICER_FILES = sorted((LIBRARY / "mrml_io").glob("*.py"))


def name_of(path):
    return str(path.relative_to(MODULE))


@pytest.fixture(scope="module", autouse=True)
def _qt_is_there():
    install()


@pytest.fixture(scope="module")
def ui():
    return qt_knowledge.widgets_of(UI_FILE)


# ------------------------------------------------------------------ our code
@pytest.mark.parametrize("path", QT_FILES, ids=name_of)
def test_our_qt_code_works_on_pythonqt_as_far_as_can_be_read(path, ui):
    assert pythonqt_lint.find(path.read_text(encoding="utf-8"), name_of(path), ui) == []


@pytest.mark.parametrize("path", QT_FILES + SLICER_FILES, ids=name_of)
def test_file_scope_is_as_the_extensions_index_wants_it(path):
    assert file_scope_lint.find(path.read_text(encoding="utf-8"), name_of(path)) == []


def test_only_the_named_files_import_qt():
    for path in LIBRARY.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path not in QT_FILES:
            assert "import qt" not in text, f"{name_of(path)} imports qt"
            assert "import ctk" not in text, f"{name_of(path)} imports ctk"


def test_every_widget_class_of_the_ui_file_is_declared_and_known(ui):
    unknown = {cls for cls in ui.values() if qt_knowledge.qt_class(cls) is None}
    assert unknown == set()


HEAVY = {"torch", "monai", "transformers", "matplotlib", "einops", "PIL", "jinja2", "rich", "psutil", "hypothesis"}
SHIPPED = {"SimpleITK", "scipy", "pydicom"}  # with Slicer, but slow to import; the stand-in itself needs some
IN_A_FRESH_PROCESS = """
import json, sys, tempfile
from pathlib import Path
sys.path[:0] = {paths}
import qt_standin
with tempfile.TemporaryDirectory() as folder, qt_standin.a_session(Path(folder)) as session:
    before = set(sys.modules)
    module = session.load(Path({module!r}))
    late = []
    if {open_it}:
        widget = session.open(module)
        for _ in range(20):
            session.process_events()
        opened = set(sys.modules)
        widget.logic.analysis  # what a click on Analyze makes, and what it calls before and after the worker
        from CTGroundedVLMLib import dependencies, export, models_admin
        late = sorted(set(sys.modules) - opened)
    top = lambda names: sorted({{name.partition(".")[0] for name in names}})
    print("RESULT", json.dumps([top(sys.modules), top(set(sys.modules) - before), late]))
"""


@pytest.mark.parametrize("open_it", [False, True], ids=["loading the module", "opening the panel"])
def test_nothing_heavy_is_imported_by(open_it, tmp_path):
    paths = [str(MODULE.parent / "Testing" / "Python" / "support"), str(MODULE)]
    script = IN_A_FRESH_PROCESS.format(paths=paths, module=str(MODULE / "CTGroundedVLM.py"), open_it=open_it)
    environment = {**os.environ, "CTGVLM_CACHE_DIR": str(tmp_path), "CTGVLM_MODELS_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    loaded, added, late = map(set, json.loads(ran.stdout.partition("RESULT ")[2]))
    assert loaded & HEAVY == set()
    assert added & SHIPPED == set()
    assert "CTGroundedVLM" in added
    assert late == set(), "a click on Analyze waits for these imports"


# ------------------------------------------------------------------ the rules themselves: what each catches, and what not
TYPED = "import qt\ndef f(button: qt.QPushButton, table: qt.QTableWidget, item: qt.QTableWidgetItem):\n    "
CASES = [
    ("keywords", "qt.QPushButton('x', toolTip='y')", "qt.QPushButton('x')"),
    ("keywords", "button.setText(text='x')", "self.show_it(button, text='x')"),
    ("keywords", "x.addWidget(button, stretch=1)", "x.addWidget(button, 1)"),
    ("keywords", "self._edit.setText(text='x')", "self.setText(text='x')"),
    ("keywords", "qt.QTimer.singleShot(0, slot=f)", "slicer.util.errorDisplay('x', detailedText='y')"),
    ("keywords", "slicer.qMRMLNodeComboBox(parent=button)", "slicer.vtkMRMLTextNode()"),
    ("isinstance", "isinstance(button, qt.QWidget)", "isinstance(button, slicer.vtkMRMLNode)"),
    ("isinstance", "isinstance(x, (str, ctk.ctkSliderWidget))", "isinstance(x, (str, int))"),
    ("property_called", "button.text()", "item.text()"),
    ("property_called", "table.rowCount()", "table.currentRow()"),
    ("property_called", "self.ui.findingsTable.rowCount()", "self.ui.findingsTable.rowCount"),
    ("property_called", "self.ui.opacitySlider.value()", "self.numbers.value()"),
    ("property_called", "anything.currentText()", "anything.text()"),
    (
        "method_not_called",
        "if self.ui.discrepanciesOnlyCheckBox.isChecked: pass",
        "if self.ui.discrepanciesOnlyCheckBox.checked: pass",
    ),
    ("method_not_called", "x = edit.toPlainText", "x = edit.toPlainText()"),
    ("dialog_returns_path", "path, kind = qt.QFileDialog.getOpenFileName()", "path = qt.QFileDialog.getOpenFileName()"),
    ("dialog_returns_path", "qt.QFileDialog.getOpenFileName(None, 'x')[0]", "paths[0]"),
    (
        "super_of_qt_class",
        "class W(qt.QWidget):\n        def show(self): super().show()",
        "class W(Base):\n        def show(self): super().show()",
    ),
    ("threads", "threading.Thread(None, f).start()", "qt.QTimer.singleShot(0, f)"),
    ("other_binding", "from PySide6 import QtCore", "from slicer import util"),
    ("unknown_name", "qt.QRegExp('x')", "qt.QRegularExpression('x')"),
    ("unknown_name", "qt.Signal(int)", "qt.QObject()"),
    ("enum", "x = qt.Qt.AlignCenter.value", "x = qt.Qt.AlignCenter"),
    ("enum", "x = qt.QMessageBox.StandardButton.Ok", "x = qt.QMessageBox.Ok"),
    ("new_attribute", "button.finding = 'edema'", "button.toolTip = 'edema'"),
    ("new_attribute", "item.finding = 'edema'", "self.finding = 'edema'"),
    ("new_attribute", "self.ui.analyzeButton.run = 1", "self.ui.analyzeButton.enabled = True"),
    ("signal_overload", "box.currentIndexChanged[int].connect(f)", "handlers[0].connect(f)"),
    ("signature", "button.connect('clicked(QString)', f)", "button.connect('clicked(bool)', f)"),
    (
        "signature",
        "self.ui.deviceComboBox.connect('currentIndexChanged(QString)', f)",
        "self.ui.deviceComboBox.connect('currentIndexChanged(int)', f)",
    ),
    (
        "signature",
        "x.connect('currentNodeChanged(vtkMRMLNode)', f)",
        "x.connect('currentNodeChanged(vtkMRMLNode*)', f)",
    ),
    ("signature", "box.connect('checkStateChanged(Qt::CheckState)', f)", "box.connect('stateChanged(int)', f)"),
    ("signal_attribute", "button.clickd.connect(f)", "button.clicked.connect(f)"),
    ("signal_attribute", "box.checkStateChanged.connect(f)", "box.stateChanged.connect(f)"),
    ("signal_blocker", "with qt.QSignalBlocker(button): pass", "with slicer.util.tryWithErrorDisplay('x'): pass"),
    ("tuple_results", "table.selectedItems().sort()", "sorted(table.selectedItems())"),
    ("tuple_results", "x = table.selectedItems() == []", "x = table.selectedItems() == ()"),
    ("tuple_results", "x = splitter.sizes() + [1]", "x = [*splitter.sizes(), 1]"),
]


@pytest.mark.parametrize(("rule", "bad", "good"), CASES, ids=[f"{c[0]} {c[1][:40]}" for c in CASES])
def test_each_rule_catches_what_it_is_for_and_nothing_else(rule, bad, good, ui):
    found = pythonqt_lint.find(TYPED + bad, "x.py", ui)
    assert [m.split(": ")[1] for m in found] == [rule], found
    assert pythonqt_lint.find(TYPED + good, "x.py", ui) == []


def test_every_rule_has_a_case():
    rules = {name.removeprefix("_rule_") for name in dir(pythonqt_lint._Checker) if name.startswith("_rule_")}
    assert rules == {case[0] for case in CASES}


def test_the_class_of_a_widget_is_followed_through_self(ui):
    source = (
        "import qt\nclass Table:\n def __init__(self, table: qt.QTableWidget, edit: qt.QLineEdit):\n"
        "  self._table, self._edit = table, edit\n def rows(self):\n  return self._table.rowCount(), self._edit.text()\n"
    )
    found = pythonqt_lint.find(source, "x.py", ui)
    assert [m.split(": ")[1:] for m in found] == [
        ["property_called", "self._edit.text() calls a property", "write self._edit.text"],
        ["property_called", "self._table.rowCount() calls a property", "write self._table.rowCount"],
    ]


def test_a_name_of_two_classes_has_none(ui):
    source = "import qt\ndef f(x):\n a = qt.QLabel()\n a = qt.QTableWidgetItem()\n return a.text()"
    assert pythonqt_lint.find(source, "x.py", ui) == []


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ("import torch", "import numpy as np"),
        ("from pydicom import dcmread", "from .errors import InputError"),
        ("cache = {}", "CHOICES = {'a': 1}"),
        ("logger = make_logger()", "logger = logging.getLogger(__name__)"),
        ("print('loaded')", "'''Docstring.'''"),
        ("for x in y: pass", "def f():\n    for x in y: pass"),
        ("if DEBUG: run()", "if TYPE_CHECKING:\n    import torch"),
        ("try:\n    import torch\nexcept ImportError: pass", "class A: pass"),
    ],
)
def test_file_scope_rules_catch_what_they_are_for(bad, good):
    assert len(file_scope_lint.find(bad)) >= 1
    assert file_scope_lint.find(good) == []

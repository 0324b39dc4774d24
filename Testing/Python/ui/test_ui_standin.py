"""The stand-in for PythonQt behaves as PythonQt, CTK and Slicer do where our panel touches them, and refuses what they refuse."""

import sys
import textwrap

import pytest

from qt_standin import a_session, dialogs, errors, packaging_module

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Tiny</class>
 <widget class="qMRMLWidget" name="Tiny"><layout class="QVBoxLayout" name="box">
  <item><widget class="ctkCollapsibleButton" name="inputsButton"><property name="text"><string>Inputs</string></property>
   <layout class="QFormLayout" name="form"><item row="0" column="1">
    <widget class="qMRMLNodeComboBox" name="volumeSelector">
     <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
     <property name="showChildNodeTypes"><bool>false</bool></property>
     <property name="noneEnabled"><bool>true</bool></property>
     <property name="SlicerParameterName" stdset="0"><string>volume</string></property>
    </widget></item></layout></widget></item>
  <item><widget class="QCheckBox" name="fastCheckBox">
   <property name="SlicerParameterName" stdset="0"><string>fast</string></property></widget></item>
  <item><widget class="ctkSliderWidget" name="opacitySlider">
   <property name="SlicerParameterName" stdset="0"><string>opacity</string></property></widget></item>
  <item><widget class="QComboBox" name="modeComboBox">
   <property name="SlicerParameterName" stdset="0"><string>mode</string></property></widget></item>
  <item><widget class="QLineEdit" name="noteEdit">
   <property name="SlicerParameterName" stdset="0"><string>note</string></property></widget></item>
 </layout></widget>
 <customwidgets>
  <customwidget><class>qMRMLWidget</class><extends>QWidget</extends><header>qMRMLWidget.h</header><container>1</container></customwidget>
  <customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends><header>qMRMLNodeComboBox.h</header></customwidget>
  <customwidget><class>ctkCollapsibleButton</class><extends>QWidget</extends><header>ctkCollapsibleButton.h</header><container>1</container></customwidget>
  <customwidget><class>ctkSliderWidget</class><extends>QWidget</extends><header>ctkSliderWidget.h</header></customwidget>
 </customwidgets>
 <connections><connection><sender>Tiny</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
  <receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>
</ui>"""

MODULE = """
from typing import Annotated
import slicer, vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.ScriptedLoadableModule import *
from slicer.parameterNodeWrapper import parameterNodeWrapper, WithinRange, Choice
from slicer.util import VTKObservationMixin

class Tiny(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "Tiny"
        self.parent.categories = ["Informatics"]

@parameterNodeWrapper
class TinyParameters:
    volume: vtkMRMLScalarVolumeNode
    fast: bool = True
    opacity: Annotated[float, WithinRange(0, 1)] = 0.5
    mode: Annotated[str, Choice(["full", "small"])] = "full"
    note: str

class TinyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.calls.append("setup")
        widget = slicer.util.loadUI(self.resourcePath("UI/Tiny.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = TinyLogic()
        self.parameters = TinyParameters(self.logic.getParameterNode())

    def enter(self):
        self.calls.append("enter")
        widgets = {w.property("SlicerParameterName"): w for w in vars(self.ui).values()}
        widgets.pop(None)
        self.tag = self.parameters.connectParametersToGui(widgets)

    def exit(self):
        self.calls.append("exit")
        self.parameters.disconnectGui(self.tag)

    def cleanup(self):
        self.calls.append("cleanup")
        self.removeObservers()

class TinyLogic(ScriptedLoadableModuleLogic):
    pass
"""


@pytest.fixture
def qt(session):
    import qt

    return qt


@pytest.fixture
def tiny(session, tmp_path):
    """A small scripted module of our own, opened as Slicer opens one."""
    folder = tmp_path / "Tiny"
    (folder / "Resources" / "UI").mkdir(parents=True)
    (folder / "Resources" / "UI" / "Tiny.ui").write_text(UI)
    (folder / "Tiny.py").write_text(MODULE)
    module = session.load(folder / "Tiny.py")
    yield session.open(module)
    sys.path.remove(str(folder))
    del sys.modules["Tiny"]


# ------------------------------------------------------------------ attributes and methods
def test_a_property_is_an_attribute_and_cannot_be_called(qt):
    button = qt.QPushButton("Analyze")
    assert (button.text, button.enabled, button.isEnabled()) == ("Analyze", True, True)
    button.text = "Cancel"
    assert button.text == "Cancel"
    with pytest.raises(TypeError, match="not callable"):
        button.text()
    table = qt.QTableWidget(3, 2)
    with pytest.raises(TypeError, match="not callable"):
        table.rowCount()
    assert (table.rowCount, table.currentRow()) == (3, -1)


def test_sizes_that_layouts_ask_for_are_attributes_too(qt):
    widget = qt.QWidget()
    layout = qt.QVBoxLayout(widget)
    layout.spacing = 7
    layout.addWidget(qt.QLabel("a label"))
    assert layout.spacing == 7
    assert widget.sizeHint.width() > 20


def test_name_is_the_object_name(qt):
    label = qt.QLabel()
    label.name = "stageLabel"
    assert label.objectName == label.name == "stageLabel"


@pytest.mark.parametrize("value", [3, None])
def test_a_property_of_text_refuses_what_is_not_text(qt, value):
    with pytest.raises(AttributeError, match="does not accept"):
        qt.QLabel().text = value


def test_keywords_are_refused(qt):
    with pytest.raises(TypeError, match="keyword"):
        qt.QPushButton("Analyze", toolTip="x")
    with pytest.raises(TypeError, match="keyword"):
        qt.QVBoxLayout().addWidget(qt.QLabel(), stretch=1)


def test_a_cpp_object_takes_no_new_attribute_but_a_python_subclass_does(qt):
    for thing in (qt.QPushButton(), qt.QTableWidgetItem("x")):
        with pytest.raises(AttributeError, match="new attributes on C\\+\\+ objects"):
            thing.finding = "edema"

    class Button(qt.QPushButton):
        def __init__(self, finding):
            qt.QPushButton.__init__(self)
            self.finding = finding

    assert Button("edema").finding == "edema"


def test_a_slot_cannot_be_overwritten(qt):
    with pytest.raises(AttributeError, match="overwritten"):
        qt.QPushButton().click = print


def test_lists_come_back_as_tuples(qt):
    table = qt.QListWidget()
    table.addItem("a")
    table.setCurrentRow(0)
    assert type(table.selectedItems()) is tuple
    assert [i.text() for i in table.selectedItems()] == ["a"]
    assert type(table.children()) is tuple
    assert type(qt.QSplitter().sizes()) is tuple


def test_isinstance_of_a_base_class_is_false(qt):
    button = qt.QPushButton()
    assert isinstance(button, qt.QPushButton)
    assert not isinstance(button, qt.QWidget)
    assert button.inherits("QWidget")
    assert button.isWidgetType()


def test_a_child_is_found_by_its_name_as_an_attribute(qt):
    parent = qt.QWidget()
    child = qt.QLabel(parent)
    child.name = "inner"
    assert parent.inner is child


def test_a_signal_blocker_is_no_context_manager_and_pyside_names_are_absent(qt):
    label = qt.QLabel()
    with pytest.raises(TypeError), qt.QSignalBlocker(label):
        pass
    with pytest.raises(AttributeError, match="no attribute 'Slot'"):
        qt.Slot()


# ------------------------------------------------------------------ signals
def test_slots_get_as_many_arguments_as_they_name(qt):
    button, got = qt.QPushButton(), []
    button.checkable = True

    class Panel:
        def on_click(self, checked):
            got.append(("method", checked))

    button.connect("clicked()", lambda: got.append("signature"))
    button.clicked.connect(lambda: got.append("none"))
    button.clicked.connect(lambda checked=None: got.append(("default", checked)))
    button.clicked.connect(lambda *all_of_them: got.append(("all", all_of_them)))
    panel = Panel()
    button.clicked.connect(panel.on_click)
    button.click()
    assert got == ["signature", "none", ("default", True), ("all", (True,)), ("method", True)]
    assert button.clicked.disconnect(panel.on_click) is True
    got.clear()
    button.click()
    assert ("method", False) not in got
    assert len(got) == 4
    assert button.disconnect("clicked()") is True
    assert button.clicked.disconnect() is True
    got.clear()
    button.click()
    assert got == []


def test_an_unknown_signature_only_prints_and_is_collected(qt):
    assert qt.QComboBox().connect("currentIndexChanged(QString)", print) is False
    assert "No such signal QComboBox" in errors.take()[0]
    with pytest.raises(AttributeError):
        qt.QPushButton().clickd.connect(print)


def test_exceptions_in_slots_timers_and_observers_are_collected(qt, session):
    def fail(*_arguments):
        raise ValueError("from a slot")

    button = qt.QPushButton()
    button.clicked.connect(fail)
    button.click()
    assert "from a slot" in "".join(errors.take())
    qt.QTimer.singleShot(0, fail)
    session.wait_until(lambda: errors.collected, 5, "the timer")
    assert "from a slot" in "".join(errors.take())
    node = session.scene.AddNewNodeByClass("vtkMRMLTextNode")
    node.AddObserver("ModifiedEvent", fail)
    node.Modified()
    assert "from a slot" in "".join(errors.take())


def test_a_session_with_a_fault_fails(tmp_path):
    def faulty():
        with a_session(tmp_path):
            import qt

            qt.QPushButton().connect("clicked(QString)", print)

    with pytest.raises(AssertionError, match="No such signal"):
        faulty()


# ------------------------------------------------------------------ dialogs, processes, packages
def test_file_dialogs_return_the_path_alone(qt, tmp_path):
    dialogs.answer(tmp_path / "report.txt", "")
    assert qt.QFileDialog.getOpenFileName(None, "Open report", "", "*.txt") == str(tmp_path / "report.txt")
    assert qt.QFileDialog.getExistingDirectory(None, "Models") == ""


def test_messages_are_kept_and_questions_need_an_answer(qt, session):
    import slicer

    slicer.util.errorDisplay("The CT is empty.")
    assert dialogs.shown == ["The CT is empty."]
    with pytest.raises(dialogs.UnexpectedDialogError, match="Delete it"):
        slicer.util.confirmOkCancelDisplay("Delete it?")
    dialogs.answer(qt.QMessageBox.Cancel)
    assert slicer.util.confirmOkCancelDisplay("Delete it?") is False


def test_a_modal_dialog_without_an_answer_is_an_error_not_a_hanging_test(qt):
    dialog = qt.QDialog()
    dialog.windowTitle = "Correct the match"
    with pytest.raises(dialogs.UnexpectedDialogError, match="Correct the match"):
        dialog.exec_()
    dialogs.answer(lambda shown: shown is dialog, 0)
    assert (dialog.exec_(), dialog.exec_()) == (True, 0)


def test_a_process_is_read_as_in_pythonqt(qt, session):
    process, read, codes = qt.QProcess(), [], []
    process.readyReadStandardOutput.connect(lambda: read.append(process.readAllStandardOutput().data()))
    process.finished.connect(lambda code, status: codes.append(code))
    process.start(sys.executable, ["-c", "print('ready')"])
    session.wait_until(lambda: codes, 20, "the process")
    assert (b"".join(read).strip(), codes) == (b"ready", [0])


def test_packages_are_asked_for_once_and_only_noted(qt, session):
    import slicer

    slicer.packaging.pip_ensure("pytest", requester="test")
    assert packaging_module.calls == []
    dialogs.answer(qt.QMessageBox.Cancel, qt.QMessageBox.Ok)
    with pytest.raises(RuntimeError, match="declined"):
        slicer.packaging.pip_ensure(["not-installed-here>=1"], requester="test")
    slicer.packaging.pip_ensure(["not-installed-here>=1"], requester="test")
    assert [call["requirements"] for call in packaging_module.calls] == [["not-installed-here>=1"]]


# ------------------------------------------------------------------ MRML widgets
def test_the_node_selector_follows_the_scene(tiny, session):
    selector, changes, valid = tiny.ui.volumeSelector, [], []
    selector.currentNodeChanged.connect(lambda node: changes.append(node and node.GetName()))
    selector.connect("currentNodeChanged(bool)", valid.append)
    ct = session.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    session.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "a child class, not shown")
    assert (selector.nodeCount(), selector.currentNode()) == (1, None)
    selector.setCurrentNode(ct)
    assert selector.currentNodeID == ct.GetID()
    session.scene.RemoveNode(ct)
    assert (changes, valid) == (["CT", None], [True, False])
    assert selector.nodeCount() == 0


def test_a_selector_without_none_takes_the_first_node_and_all_are_gone_when_the_scene_closes(tiny, session):
    selector = tiny.ui.volumeSelector
    selector.noneEnabled = False
    ct = session.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    assert selector.currentNode() is ct
    session.scene.Clear(False)
    assert selector.currentNode() is None


def test_an_unknown_widget_of_a_ui_file_is_a_fault(session, tmp_path):
    import slicer

    path = tmp_path / "x.ui"
    path.write_text(UI.replace("ctkSliderWidget", "ctkRangeSlider"))
    with pytest.raises(RuntimeError, match="Could not load UI file"):
        slicer.util.loadUI(str(path))
    assert "no stand-in for ['ctkRangeSlider']" in errors.take()[0]


def test_segments_are_listed_and_selected_by_id(session):
    import slicer

    node = session.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    ids = [node.GetSegmentation().AddEmptySegment("", name) for name in ("liver", "spleen")]
    view, selections = slicer.qMRMLSegmentsTableView(), []
    view.selectionChanged.connect(lambda new, old: selections.append(view.selectedSegmentIDs()))
    view.setSegmentationNode(node)
    assert view.segmentCount == 2
    view.setSelectedSegmentIDs([ids[1]])
    assert view.selectedSegmentIDs() == (ids[1],)
    assert selections[-1] == (ids[1],)


def test_segments_that_are_listed_anew_are_selected_again_row_by_row(session):
    import slicer

    node = session.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    ids = [node.GetSegmentation().AddEmptySegment("", name) for name in ("liver", "spleen", "aorta")]
    view, selections = slicer.qMRMLSegmentsTableView(), []
    view.setSegmentationNode(node)
    view.setSelectedSegmentIDs([ids[2], ids[0]])
    view.selectionChanged.connect(lambda new, old: selections.append(view.selectedSegmentIDs()))
    node.InvokeEvent(node.SegmentationChangedEvent)
    assert selections == [(ids[0],), (ids[0], ids[2])]
    node.GetSegmentation().RemoveSegment(ids[0])
    assert selections[2:] == [(ids[2],)]
    assert view.displayedSegmentIDs() == (ids[1], ids[2])


def test_without_a_segmentation_no_row_can_be_selected(session):
    import slicer

    node = session.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    segment_id = node.GetSegmentation().AddEmptySegment("", "liver")
    view = slicer.qMRMLSegmentsTableView()
    view.setSelectedSegmentIDs([])
    view.setSelectedSegmentIDs([segment_id])
    assert "segmentation node is not set" in errors.take()[0]
    view.setSegmentationNode(node)
    view.setSelectedSegmentIDs([segment_id])
    view.setSegmentationNode(None)
    assert "segmentation node is not set" in errors.take()[0], "Slicer restores rows that it cannot name any more"


# ------------------------------------------------------------------ module and parameter node
def test_a_module_lives_as_in_slicer(session, tiny):
    import slicer

    assert slicer.modules.tiny.title == "Tiny"
    assert slicer.util.getModuleWidget("Tiny") is tiny
    assert slicer.util.getModuleLogic("Tiny") is tiny.logic
    session.leave()
    session.unload()
    assert tiny.calls == ["setup", "enter", "exit", "cleanup"]


def test_widgets_and_parameters_follow_each_other_until_disconnected(session, tiny):
    ui, parameters = tiny.ui, tiny.parameters
    assert (ui.fastCheckBox.checked, ui.opacitySlider.value, ui.modeComboBox.currentText) == (True, 0.5, "full")
    ui.fastCheckBox.checked = False
    ui.modeComboBox.setCurrentIndex(1)
    ui.noteEdit.text = "größer"
    ct = session.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    ui.volumeSelector.setCurrentNode(ct)
    assert (parameters.fast, parameters.mode, parameters.note, parameters.volume) == (False, "small", "größer", ct)
    parameters.opacity = 0.25
    assert ui.opacitySlider.value == 0.25
    session.leave()
    parameters.opacity = 0.75
    assert ui.opacitySlider.value == 0.25


def test_connect_gui_finds_the_same_widgets_and_as_in_slicer_cannot_be_undone(session, tiny):
    session.leave()
    assert tiny.parameters.connectGui(tiny.ui) is None
    tiny.parameters.disconnectGui(None)
    tiny.parameters.opacity = 0.125
    assert tiny.ui.opacitySlider.value == 0.13  # two decimals are shown


def test_values_are_kept_in_the_node_as_slicer_keeps_them(session, tiny):
    ct = session.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    tiny.parameters.volume = ct
    node = session.scene.GetSingletonNode("Tiny", "vtkMRMLScriptedModuleNode")
    assert [node.GetParameter(n) for n in ("fast", "opacity", "mode", "volume")] == ["True", "0.5", "full", ""]
    assert node.GetNodeReferenceID("volume") == ct.GetID()
    session.scene.RemoveNode(ct)
    assert tiny.parameters.volume is None
    assert tiny.ui.volumeSelector.currentNode() is None


def test_values_are_checked(tiny):
    with pytest.raises(ValueError, match="within range"):
        tiny.parameters.opacity = 2.0
    with pytest.raises(ValueError, match="one of"):
        tiny.parameters.mode = "huge"
    with pytest.raises(TypeError, match="must be of type"):
        tiny.parameters.note = 3
    assert (tiny.parameters.opacity, tiny.parameters.mode, tiny.parameters.note) == (0.5, "full", "")


def test_a_widget_that_slicer_cannot_tie_is_refused(qt, tiny):
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        tiny.parameters.connectParametersToGui({"note": qt.QPlainTextEdit()})
    with pytest.raises(RuntimeError, match="Choice"):
        tiny.parameters.connectParametersToGui({"note": qt.QComboBox()})


def test_a_reserved_or_unknown_parameter_is_refused(session):
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    with pytest.raises(ValueError, match="reserved name 'connectGui'"):

        @parameterNodeWrapper
        class Reserved:
            connectGui: str

    with pytest.raises(TypeError, match="does not know"):

        @parameterNodeWrapper
        class Unknown:
            things: set[int]


def test_parameters_survive_saving_and_loading(session, tiny, tmp_path):
    tiny.parameters.note = textwrap.dedent("two\nlines")
    path = session.booted.save_mrb(tmp_path / "scene.mrb")
    session.leave()
    session.booted.load_mrb(path)
    node = tiny.logic.getParameterNode()
    assert type(tiny.parameters)(node).note == "two\nlines"

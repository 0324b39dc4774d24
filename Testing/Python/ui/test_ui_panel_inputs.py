"""The panel's inputs: the report from a box, a file or the study, segment matches, device, parameters; no worker runs."""
# ruff: noqa: N802 (DICOM database and extension have Slicer's names)

import dataclasses
import sys
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import slicer
import slicer.util

import qt_standin
import slicer_scene
from CTGroundedVLMLib.errors import DependencyError, InputError
from CTGroundedVLMLib.mrml_io import match_segments
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import Citation, SentenceLink
from dicom_cases import write_slice
from export_cases import a_result
from panel_session import REPORT, choose, items, open_empty_panel
from qt_standin import dialogs


def text_nodes():
    return [n for n in slicer.util.getNodesByClass("vtkMRMLTextNode") if not n.GetHideFromEditors()]


# ---------------------------------------------------------------- report


def test_a_pasted_report_becomes_a_text_node_that_is_saved(panel):
    (node,) = text_nodes()
    assert node.GetText() == REPORT
    assert panel.parameters.reportNode is node
    assert node.GetForceCreateStorageNode() == node.CreateStorageNodeAlways


def test_typing_changes_the_same_node_after_a_moment(panel):
    panel.ui.reportTextEdit.setPlainText("The spleen is normal.")
    (node,) = text_nodes()
    assert node.GetText() == REPORT
    panel.session.wait_until(lambda: node.GetText() != REPORT, 5)
    assert node.GetText() == "The spleen is normal."
    assert text_nodes() == [node]


def test_half_a_surrogate_pair_in_a_report_is_replaced_before_it_reaches_a_node(panel, monkeypatch):
    report = panel.panel.report
    # Qt holds such a text, but PySide drops the half pair on the way in
    monkeypatch.setattr(type(report), "text", property(lambda self: "Emphysema \ud83d in the lungs."))
    report._on_edited()
    report.flush()
    (node,) = text_nodes()
    assert node.GetText() == "Emphysema ? in the lungs."
    monkeypatch.undo()
    report.set_report("Opened \ud83d from a file.", "half \udc00 a name")
    assert panel.parameters.reportNode.GetText() == "Opened \N{REPLACEMENT CHARACTER} from a file."
    assert panel.parameters.reportNode.GetName() == "half ? a name"


def test_a_node_that_a_script_changes_or_the_user_selects_is_shown(panel):
    (first,) = text_nodes()
    first.SetText("Changed by a script.")
    assert panel.ui.reportTextEdit.toPlainText() == "Changed by a script."
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "Other")
    other.SetText("Another report.")
    panel.ui.reportTextSelector.setCurrentNode(other)
    assert panel.ui.reportTextEdit.toPlainText() == "Another report."
    panel.ui.reportTextSelector.setCurrentNode(None)
    assert panel.ui.reportTextEdit.toPlainText() == ""
    assert first.GetText() == "Changed by a script."


def test_a_text_file_is_opened_into_a_node_of_its_own(panel, tmp_path):
    (tmp_path / "findings.txt").write_text("Für: Lebercyste é", encoding="latin-1")
    dialogs.answer(tmp_path / "findings.txt")
    panel.ui.openReportButton.click()
    assert panel.parameters.reportNode.GetName() == "findings"
    assert panel.parameters.reportNode.GetText() == "Für: Lebercyste é"
    assert panel.ui.reportTextEdit.toPlainText() == "Für: Lebercyste é"
    assert {n.GetText() for n in text_nodes()} == {REPORT, "Für: Lebercyste é"}


def test_a_cancelled_file_dialog_changes_nothing_and_a_bad_file_is_explained(panel, tmp_path):
    dialogs.answer("")
    panel.ui.openReportButton.click()
    assert panel.ui.reportTextEdit.toPlainText() == REPORT
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.7 \x00")
    dialogs.answer(tmp_path / "scan.pdf")
    panel.ui.openReportButton.click()
    assert "is not plain text" in dialogs.shown[-1]
    assert panel.ui.reportTextEdit.toPlainText() == REPORT


class StudyDatabase:
    """What the panel asks of ctkDICOMDatabase, for one study with one CT series and structured reports."""

    def __init__(self, reports):
        self._files = {f"report-{n}": path for n, path in enumerate(reports)}

    def instanceValue(self, uid, tag):
        return "study" if uid == "slice" and tag == "0020,000D" else ""

    def seriesForStudy(self, study):
        return [*self._files, "ct"] if study == "study" else []

    def filesForSeries(self, series):
        return [str(self._files[series])] if series in self._files else ["ct.dcm"]

    def fileValue(self, name, tag):
        if name == "ct.dcm":
            return {"0008,0060": "CT"}.get(tag, "")
        return {"0008,0060": "SR", "0008,103E": "CT report", "0040,A493": "VERIFIED", "0008,0023": "20240517"}.get(
            tag, ""
        )


def write_sr(path, text):
    """A Basic Text SR with one paragraph."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def code(value, scheme, meaning):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return item

    paragraph = Dataset()
    paragraph.RelationshipType, paragraph.ValueType, paragraph.TextValue = "CONTAINS", "TEXT", text
    paragraph.ConceptNameCodeSequence = [code("121071", "DCM", "Finding")]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    report = Dataset()
    report.file_meta = meta
    report.SOPClassUID, report.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    report.Modality, report.ValueType, report.ContinuityOfContent = "SR", "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [code("18748-4", "LN", "Diagnostic Imaging Report")]
    report.ContentSequence = [paragraph]
    report.save_as(path, enforce_file_format=True)
    return path


def test_the_structured_report_of_the_study_is_taken(panel, tmp_path, monkeypatch):
    path = write_sr(tmp_path / "sr.dcm", "Emphysema in the lungs.")
    monkeypatch.setattr(slicer, "dicomDatabase", StudyDatabase([path]), raising=False)
    panel.volume.SetAttribute("DICOM.instanceUIDs", "slice")
    panel.ui.studyReportButton.click()
    assert "Emphysema in the lungs." in panel.parameters.reportNode.GetText()
    assert panel.parameters.reportNode.GetName() == "CT report"


def test_one_of_several_reports_is_chosen_from_a_list(panel, tmp_path, monkeypatch):
    paths = [write_sr(tmp_path / f"{n}.dcm", f"Report number {n}.") for n in (1, 2)]
    monkeypatch.setattr(slicer, "dicomDatabase", StudyDatabase(paths), raising=False)
    panel.volume.SetAttribute("DICOM.instanceUIDs", "slice")
    dialogs.answer("2. CT report, 2024-05-17")
    panel.ui.studyReportButton.click()
    assert "Report number 2." in panel.parameters.reportNode.GetText()
    dialogs.answer("(none)")  # what QInputDialog gives when it is cancelled
    panel.ui.studyReportButton.click()
    assert "Report number 2." in panel.parameters.reportNode.GetText()


@pytest.mark.parametrize(
    ("uids", "message"), [("", "was not loaded from the DICOM database"), ("slice", "holds no structured report")]
)
def test_a_study_without_a_report_is_explained(panel, monkeypatch, uids, message):
    monkeypatch.setattr(slicer, "dicomDatabase", StudyDatabase([]), raising=False)
    panel.volume.SetAttribute("DICOM.instanceUIDs", uids)
    panel.ui.studyReportButton.click()
    assert message in dialogs.shown[-1]
    assert panel.parameters.reportNode.GetText() == REPORT


# ---------------------------------------------------------------- segments, device, parameters


def test_a_wrong_match_is_corrected_and_taken_back(panel):
    ui, table = panel.ui, panel.results.matches
    row = next(n for n, m in enumerate(table.matches) if m.class_name == "heart")
    ui.segmentMatchTable.setCurrentCell(row, 0)
    assert ui.segmentClassComboBox.currentText == "Heart"
    assert not ui.automaticMatchButton.enabled
    choose(ui.segmentClassComboBox, "Spleen")
    assert match_segments(panel.segmentation)[row].class_name == "spleen"
    assert [ui.segmentMatchTable.item(row, column).text() for column in range(3)] == ["heart", "Spleen", "you"]
    ui.automaticMatchButton.click()
    assert match_segments(panel.segmentation)[row].class_name == "heart"
    choose(ui.segmentClassComboBox, items(ui.segmentClassComboBox)[0])
    assert match_segments(panel.segmentation)[row].class_name is None


def test_devices_are_named_with_their_memory_and_the_choice_is_kept(panel):
    devices = [
        {"device": "cpu", "name": "CPU, 15 of 16 cores", "free_bytes": 100 << 30, "total_bytes": 128 << 30},
        {"device": "cuda:0", "name": "Some GPU", "free_bytes": 5 << 30, "total_bytes": 8 << 30},
    ]
    panel.panel.devices.set_devices(devices, "auto")
    assert items(panel.ui.deviceComboBox)[1:] == ["CPU, 15 of 16 cores: 100 of 128 GB free", "Some GPU: 5 of 8 GB free"]
    choose(panel.ui.deviceComboBox, "Some GPU: 5 of 8 GB free")
    assert panel.parameters.device == "cuda:0"


def test_a_device_of_another_computer_stays_chosen_and_is_shown(panel):
    panel.parameters.device = "cuda:3"
    assert panel.ui.deviceComboBox.currentText == "cuda:3"


def test_widgets_and_parameters_follow_each_other(panel):
    ui, parameters = panel.ui, panel.parameters
    ui.modeComboBox.setCurrentIndex(1)
    assert parameters.mode.name == "reference"
    parameters.heatmapCount = 7
    assert ui.heatmapCountSpinBox.value == 7
    ui.segmentAutomaticallyCheckBox.checked = True
    assert parameters.segmentAutomatically
    assert not ui.inputSegmentationSelector.enabled


def test_a_panel_that_was_left_does_not_follow_and_catches_up_when_it_is_opened_again(panel):
    parameters = panel.parameters
    panel.session.leave()
    parameters.heatmapCount = 9
    assert panel.ui.heatmapCountSpinBox.value == 4
    panel.representation.enter()
    assert panel.ui.heatmapCountSpinBox.value == 9
    panel.ui.heatmapCountSpinBox.value = 2
    assert parameters.heatmapCount == 2


def test_the_sample_button_loads_the_synthetic_patient_and_chooses_it(two_models, tmp_path, monkeypatch):
    (tmp_path / "slicer").mkdir()
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(two_models))
    with qt_standin.a_session(tmp_path / "slicer") as session:
        panel = open_empty_panel(session)
        nodes = SimpleNamespace(
            volume=slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT"),
            segmentation=slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "S"),
            report=slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", "R"),
        )
        sample = SimpleNamespace(load=lambda blocking, on_done, on_error: on_done(nodes))
        monkeypatch.setattr("CTGroundedVLMLib.sample_data.PhantomSample", lambda slicer_module: sample)
        panel.ui.sampleDataButton.click()
        assert panel.parameters.inputVolume is nodes.volume
        assert panel.parameters.inputSegmentation is nodes.segmentation
        assert panel.parameters.reportNode is nodes.report
        assert panel.ui.analyzeButton.enabled


def test_a_question_that_an_analysis_has_ended_is_not_waited_for(panel, monkeypatch):
    results = panel.results
    monkeypatch.setattr(results, "_backend", SimpleNamespace(ask=lambda *arguments: None))
    results.set_can_ask(True)
    panel.ui.questionLineEdit.text = "cyst"
    panel.ui.askButton.click()
    assert "being answered" in panel.ui.askButton.toolTip
    results.set_can_ask(False)  # as the start of an analysis does, which cancels the question
    assert panel.ui.answerLabel.text == ""
    results._request_heatmap("liver", "cyst")
    assert "No heatmap of it is saved" in panel.ui.answerLabel.text


def test_a_click_on_a_citation_ends_at_the_cited_image_and_not_in_the_middle_of_the_segment(panel, monkeypatch):
    report = parse_report(REPORT)
    sentence = next(number for number, said in enumerate(report.sentences) if said.citations)
    link = SentenceLink(sentence, ("heart",), (), (), (70.0, 60.0, 20.0))
    result = dataclasses.replace(a_result(), report=report, links=(link,), comparisons=())
    nodes = SimpleNamespace(volume=panel.volume, segmentation=panel.segmentation, heatmaps={})
    places = []
    monkeypatch.setattr("CTGroundedVLMLib.mrml_io.display.jump_to", lambda scene, ras: places.append("segment"))
    monkeypatch.setattr(
        panel.results, "_backend", SimpleNamespace(goToCitation=lambda *arguments: places.append("image"))
    )
    panel.results.show(result, nodes, can_ask=False)
    panel.click_link(f"citation:{sentence}:0")
    assert places == ["image"]
    panel.click_link(f"sentence:{sentence}")
    assert places == ["image", "segment"]


def test_packages_are_installed_from_a_folder_of_wheels_that_is_chosen(panel, tmp_path, monkeypatch):
    asked = []

    class Installer:
        """Stands in for DependencyInstaller: notes the folder, and fails for an empty one."""

        def __init__(self, slicer_module):
            pass

        def ensure(self, *, wheels):
            asked.append(wheels)
            if not any(wheels.iterdir()):
                raise DependencyError("no wheel of torch")
            return "ready"

    monkeypatch.setattr("CTGroundedVLMLib.dependencies.DependencyInstaller", Installer)
    (action,) = [a for a in panel.panel.models._actions if "folder of wheels" in a.text]
    dialogs.answer(tmp_path)
    action.trigger()
    assert asked == [tmp_path]
    assert "are installed" in dialogs.shown.pop()
    (tmp_path / "empty").mkdir()
    dialogs.answer(tmp_path / "empty")
    action.trigger()
    assert "no wheel of torch" in dialogs.shown.pop()


def test_the_worker_is_started_once_all_inputs_are_chosen_and_the_packages_are_there(panel, monkeypatch):
    started = []
    monkeypatch.setattr(panel.widget.logic, "startWorker", lambda: started.append(1))
    panel.panel._warm_up.setInterval(1)
    panel.ui.inputSegmentationSelector.setCurrentNode(None)
    panel.session.process_events()
    assert not panel.panel._warm_up.isActive()
    panel.ui.inputSegmentationSelector.setCurrentNode(panel.segmentation)
    panel.session.wait_until(lambda: started, 10, "the worker's start")
    panel.ui.inputSegmentationSelector.setCurrentNode(None)
    panel.ui.inputSegmentationSelector.setCurrentNode(panel.segmentation)
    assert not panel.panel._warm_up.isActive()
    assert started == [1]


def test_the_totalsegmentator_extension_makes_the_segmentation_that_is_analysed(panel, monkeypatch):
    class Logic:
        """Stands in for the extension's logic: one segment, or what its setup may raise."""

        fails = False

        def setupPythonRequirements(self):
            if self.fails:
                raise RuntimeError("pip failed")

        def process(self, volume, segmentation, fast, task):
            assert (volume, fast, task) == (panel.volume, True, "total")
            segmentation.GetSegmentation().AddEmptySegment("liver", "liver")

    monkeypatch.setattr(slicer.modules, "totalsegmentator", object(), raising=False)
    monkeypatch.setitem(sys.modules, "TotalSegmentator", SimpleNamespace(TotalSegmentatorLogic=Logic))
    started = []
    callbacks = {}

    def analyze(*arguments, **called):
        started.append(arguments)
        callbacks.update(called)

    monkeypatch.setattr(panel.widget.logic, "analyze", analyze)
    panel.ui.segmentAutomaticallyCheckBox.checked = True
    panel.ui.analyzeButton.click()
    ((volume, made, report, *_rest),) = started
    assert volume is panel.volume
    assert made.GetSegmentation().GetSegmentIDs() == ("liver",)
    assert report is panel.parameters.reportNode
    # minutes of work: kept and chosen although the analysis is cancelled, which is said
    callbacks["onCancelled"]()
    assert panel.parameters.inputSegmentation is made
    assert not panel.parameters.segmentAutomatically
    assert f"as it was before, but for the new segmentation {made.GetName()}" in panel.ui.stageLabel.text
    panel.ui.analyzeButton.click()
    assert started.pop()[1] is made
    callbacks["onCancelled"]()
    assert "The scene is as it was before." in panel.ui.stageLabel.text
    panel.ui.segmentAutomaticallyCheckBox.checked = True
    monkeypatch.setattr(Logic, "fails", True)
    before = slicer.mrmlScene.GetNumberOfNodes()
    panel.ui.analyzeButton.click()
    assert "TotalSegmentator could not be set up or run" in dialogs.shown[-1]
    assert slicer.mrmlScene.GetNumberOfNodes() == before
    assert len(started) == 1


def test_without_totalsegmentator_the_button_says_so_and_nothing_is_installed_for_what_cannot_be_analysed(
    panel, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        "CTGroundedVLMLib.dependencies.DependencyInstaller",
        lambda module: SimpleNamespace(ensure=lambda: asked.append(1) or "ready"),
    )
    monkeypatch.setattr("CTGroundedVLMLib.widget.segmenting.importlib.util.find_spec", lambda name: None)
    panel.ui.segmentAutomaticallyCheckBox.checked = True
    assert not panel.ui.analyzeButton.enabled
    assert "Install the TotalSegmentator extension" in panel.ui.analyzeButton.toolTip
    panel.ui.segmentAutomaticallyCheckBox.checked = False
    assert panel.ui.analyzeButton.enabled
    panel.volume.SetAndObserveImageData(None)
    panel.ui.analyzeButton.click()
    assert "holds no voxels" in dialogs.shown[-1]
    assert asked == []


def test_a_cited_image_is_shown_also_when_another_loaded_series_holds_it(panel, tmp_path, monkeypatch):
    files = {}
    for series, heights in (("1", (0.0, 2.0, 4.0)), ("4", (100.0, 103.0, 106.0))):
        for number, height in enumerate(heights, 1):
            path = tmp_path / f"{series}-{number}.dcm"
            write_slice(path, (-5.0, -9.0, height), index=number, series=series, InstanceNumber=number)
            files[pydicom.dcmread(path).SOPInstanceUID] = path
    volumes = {}
    for series, height, step in (("1", 0.0, 2.0), ("4", 100.0, 3.0)):
        matrix = np.array([[-0.5, 0, 0, 5], [0, -0.75, 0, 9], [0, 0, step, height], [0, 0, 0, 1]])
        volumes[series] = slicer_scene.add_volume(
            slicer.mrmlScene, np.zeros((3, 24, 20), np.int16), matrix, f"series {series}"
        )
        uids = [uid for uid, path in files.items() if path.name.startswith(series)]
        volumes[series].SetAttribute("DICOM.instanceUIDs", " ".join(uids))
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=files.get), raising=False)
    axial = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    panel.widget.logic.goToCitation(volumes["1"], Citation(None, 2, 0, 1))
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(2.0)
    panel.widget.logic.goToCitation(volumes["1"], Citation(4, 3, 0, 1))
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(106.0)
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert red.GetBackgroundVolumeID() == volumes["4"].GetID()
    with pytest.raises(InputError, match="Image 9 of series 4 is in none of the loaded volumes"):
        panel.widget.logic.goToCitation(volumes["1"], Citation(4, 9, 0, 1))

"""The phantom in Slicer's module Sample Data: generated here by a process of its own, verified, loaded with named segments.

SampleDataStandIn and UtilStandIn take the place of Slicer's module and of ``slicer.util``, with their documented signatures.
"""

import hashlib
import shutil
import subprocess
import types
import urllib.request
from pathlib import Path

import pytest

from CTGroundedVLMLib import sample_data
from CTGroundedVLMLib.errors import OutputError
from CTGroundedVLMLib.sample_data import CATEGORY, SAMPLE_NAME, PhantomSample, main, name_segments, recorded_checksums


class Segment:
    def __init__(self, value):
        self._value, self.name = value, f"Segment_{value}"

    def GetLabelValue(self):  # noqa: N802
        return self._value

    def SetName(self, name):  # noqa: N802
        self.name = name


class SegmentationNode:
    def __init__(self, *values):
        self.segments = [Segment(value) for value in values]

    def GetSegmentation(self):  # noqa: N802
        return types.SimpleNamespace(
            GetNumberOfSegments=lambda: len(self.segments), GetNthSegment=self.segments.__getitem__
        )


class SampleDataStandIn:
    """Slicer's module SampleData: notes what is registered."""

    def __init__(self):
        self.sources = []
        outer = self

        class SampleDataLogic:
            @staticmethod
            def registerCustomSampleDataSource(category="Custom", sampleName=None, uris=None, fileNames=None, nodeNames=None,  # noqa: N802
                                               customDownloader=None, thumbnailFileName=None, loadFileType="VolumeFile",
                                               loadFiles=None, loadFileProperties=None, checksums=None):  # fmt: skip
                files = list(zip(uris, fileNames, nodeNames, loadFileType, strict=True))
                source = types.SimpleNamespace(
                    name=sampleName, files=files, checksums=checksums, downloader=customDownloader
                )
                outer.sources.append((category, source))

        self.SampleDataLogic = SampleDataLogic


class UtilStandIn:
    """slicer.util: runs the process for real (``finish`` ends a background process); what is loaded is only noted."""

    def __init__(self):
        self.started, self.shown, self.loaded, self.fails = [], [], [], False
        self.errorDisplay = self.shown.append

    def launchConsoleProcess(self, args, useStartupEnvironment=True, updateEnvironment=None, cwd=None, blocking=True,  # noqa: N802
                             logCallback=None, completedCallback=None):  # fmt: skip
        assert not useStartupEnvironment, "the started Python must see Slicer's own environment"
        process = subprocess.Popen(
            args, env=updateEnvironment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.started.append((process, completedCallback))
        return process

    def logProcessOutput(self, proc, logCallback=None):  # noqa: N802
        output = proc.communicate()[0]
        if proc.returncode:
            raise subprocess.CalledProcessError(proc.returncode, proc.args, output)

    def loadNodeFromFile(self, filename, filetype=None, properties={}, returnNode=False):  # noqa: N802, B006
        if self.fails:
            raise RuntimeError(f"Failed to load node from file: {filename}")
        assert Path(filename).is_file()
        self.loaded.append((properties["name"], filetype))
        return SegmentationNode(5, 10, 200) if filetype == "SegmentationFile" else object()

    def finish(self):
        process, completed = self.started[-1]
        process.communicate()
        completed(process.returncode)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "sample"
    main([str(folder)])
    return folder


@pytest.fixture
def phantom(tmp_path):
    module, util = SampleDataStandIn(), UtilStandIn()
    slicer = types.SimpleNamespace(util=util)

    def again():
        return PhantomSample(
            slicer, folder=tmp_path / "sample", import_module=lambda name: {"SampleData": module}[name]
        )

    return types.SimpleNamespace(sample=again(), again=again, module=module, util=util, folder=tmp_path / "sample")


@pytest.fixture
def ready_phantom(phantom, generated):
    shutil.copytree(generated, phantom.folder)
    return phantom


def test_the_generator_records_the_checksums_of_its_files(generated):
    checksums = recorded_checksums(generated)
    assert sorted(checksums) == ["ct.nii.gz", "report.txt", "segmentation.nii.gz"]
    for name, digest in checksums.items():
        assert hashlib.sha256((generated / name).read_bytes()).hexdigest() == digest


def test_the_source_is_registered_with_local_files_and_the_generator(ready_phantom):
    ready_phantom.sample.register(thumbnail="icon.png")
    ((category, source),) = ready_phantom.module.sources
    assert (category, source.name, source.downloader) == (CATEGORY, SAMPLE_NAME, ready_phantom.sample.on_clicked)
    assert [Path(urllib.request.url2pathname(uri.removeprefix("file://"))).is_file() for uri, *_ in source.files] == [
        True
    ] * 3
    assert source.checksums is None  # to hash the files at every start of Slicer would take a while
    assert [file[3] for file in source.files] == ["VolumeFile", "SegmentationFile", "TextFile"]


def test_before_it_was_generated_the_source_is_there_without_checksums(phantom):
    phantom.sample.register()
    assert phantom.module.sources[0][1].checksums is None


def test_a_generated_phantom_is_loaded_with_named_segments(ready_phantom):
    nodes = ready_phantom.sample.load()
    assert ready_phantom.util.loaded == [
        ("PhantomCT", "VolumeFile"),
        ("PhantomSegmentation", "SegmentationFile"),
        ("PhantomReport", "TextFile"),
    ]
    assert [segment.name for segment in nodes.segmentation.segments] == ["liver", "lung_upper_lobe_left", "Segment_200"]
    assert ready_phantom.util.started == []


def test_a_click_generates_in_the_background_once_and_then_loads(phantom):
    done = []
    assert phantom.sample.load(blocking=False, on_done=done.append) is None
    phantom.again().on_clicked()  # an impatient second click
    assert len(phantom.util.started) == 1
    assert done == phantom.util.loaded == []
    phantom.util.finish()
    assert len(phantom.util.loaded) == 3
    assert done[0].segmentation.segments[0].name == "liver"
    phantom.sample.on_clicked()
    assert len(phantom.util.started) == 1
    assert len(phantom.util.loaded) == 6


def test_a_changed_file_is_noticed_and_the_phantom_made_anew(ready_phantom, generated, monkeypatch):
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(ready_phantom.folder.parent))
    with open(ready_phantom.folder / "ct.nii.gz", "r+b") as file:
        file.write(b"damaged")
    assert recorded_checksums(ready_phantom.folder) is None
    # drawing takes seconds and is tested above; copytree fails where the damaged folder was not removed
    monkeypatch.setattr("CTGroundedVLMLib.sample.write_sample", lambda folder: shutil.copytree(generated, folder))
    monkeypatch.setattr(UtilStandIn, "launchConsoleProcess", lambda self, args, **options: args)
    monkeypatch.setattr(UtilStandIn, "logProcessOutput", lambda self, args: main(args[3:]))
    ready_phantom.sample.load()
    assert recorded_checksums(ready_phantom.folder) == recorded_checksums(generated)


def test_files_of_somebody_else_are_never_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ct.nii.gz").write_bytes(b"a patient")
    monkeypatch.setattr("CTGroundedVLMLib.sample.make_phantom", lambda seed: pytest.fail("drawn for nothing"))
    with pytest.raises(OutputError, match="is not an unchanged file of a sample"):
        main([str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "ct.nii.gz").read_bytes() == b"a patient"


def test_a_generator_that_fails_is_told_and_the_next_click_works(phantom, monkeypatch, tmp_path):
    damaged = tmp_path / "damaged"  # an installation that does not work, found before any other
    (damaged / "CTGroundedVLMLib").mkdir(parents=True)
    (damaged / "CTGroundedVLMLib" / "__init__.py").touch()
    (damaged / "CTGroundedVLMLib" / "sample_data.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(sample_data, "_SOURCE", damaged)
    with pytest.raises(OutputError, match=r"could not be generated in .*Make room on that disk"):
        phantom.sample.load()
    for clicks in (1, 2):
        phantom.sample.on_clicked()
        phantom.util.finish()
        assert len(phantom.util.started) == 1 + clicks
        assert len(phantom.util.shown) == clicks
        assert "could not be generated" in phantom.util.shown[-1]
    assert phantom.util.loaded == []


def test_where_sampledata_is_disabled_the_phantom_is_loaded_all_the_same(ready_phantom):
    def disabled(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sample = PhantomSample(
        types.SimpleNamespace(util=ready_phantom.util), folder=ready_phantom.folder, import_module=disabled
    )
    with pytest.raises(ImportError, match="SampleData"):
        sample.register()
    nodes = sample.load()
    assert [name for name, _ in ready_phantom.util.loaded] == ["PhantomCT", "PhantomSegmentation", "PhantomReport"]
    assert nodes.segmentation.segments[0].name == "liver"


def test_a_phantom_that_slicer_cannot_load_is_told(ready_phantom):
    ready_phantom.util.fails = True
    with pytest.raises(OutputError, match="Remove that folder and try again"):
        ready_phantom.sample.load()
    ready_phantom.sample.on_clicked()
    assert "Remove that folder and try again" in ready_phantom.util.shown[0]


def test_segments_are_named_in_a_real_segmentation_node():
    slicer = pytest.importorskip("slicer", reason="slicer-core is not installed")
    logic = slicer.vtkSlicerSegmentationsModuleLogic()  # knows how a label map is represented
    scene = slicer.vtkMRMLScene()
    logic.SetMRMLScene(scene)
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for value in (5, 51):
        segment = slicer.vtkSegment()
        segment.SetLabelValue(value)
        node.GetSegmentation().AddSegment(segment, f"Segment_{value}")
    name_segments(node)
    assert [node.GetSegmentation().GetNthSegment(n).GetName() for n in range(2)] == ["liver", "heart"]

"""The folder through which a case goes to the worker and its result comes back: what arrives, and what is refused."""

import dataclasses
import itertools
import json
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cases import CHEST, LABEL, a_case
from CTGroundedVLMLib import exchange, volume_io
from CTGroundedVLMLib.errors import InputError, OutputError, ReportError, SegmentationError, VolumeError
from CTGroundedVLMLib.exchange import (
    Answer,
    CaseWriter,
    ResultReader,
    read_answer,
    read_case,
    read_result,
    read_segmentation,
    write_answer,
    write_file_case,
    write_result,
    write_segmentation,
)
from CTGroundedVLMLib.report import parse_report
from CTGroundedVLMLib.types import (
    AnalysisResult,
    FindingScore,
    Heatmap,
    ModelIdentity,
    OrganInfo,
    ReportComparison,
    Segmentation,
    SentenceLink,
)

REPORT = "FINDINGS: No pleural effusion. The heart is enlarged, 5 cm (series 4, image 112)."


@pytest.fixture
def case():
    return a_case(CHEST, report=REPORT)


def hand_over(folder, case, layers=None, report=REPORT, **finish):
    """Write ``case``; ``layers``: (array, matrix, names) of its segmentation, else its own label map."""
    writer = CaseWriter(folder)
    for _ in writer.write_ct(case.ct.array_kji, case.ct.ijk_to_ras, "thorax", source="/data/ct.nrrd"):
        pass
    own = [(case.segmentation.labels_kji, case.ct.ijk_to_ras, case.segmentation.names)]
    for layer in own if layers is None else layers:
        for _ in writer.write_layer(*layer):
            pass
    return writer.finish(report, **finish)


def exhaust(steps):
    for _ in steps:
        pass


# --- the case ----------------------------------------------------------------------------------------------------


def test_a_case_arrives_as_it_was_written_and_stays_memory_mapped(tmp_path, case):
    path = hand_over(tmp_path / "case", case, report_source="RIS", warnings=("cropped",), segmentation_name="liver seg")
    read = read_case(path)
    assert isinstance(read.ct.array_kji, np.memmap)
    np.testing.assert_array_equal(read.ct.array_kji, case.ct.array_kji)
    np.testing.assert_array_equal(read.ct.ijk_to_ras, case.ct.ijk_to_ras)
    np.testing.assert_array_equal(read.segmentation.labels_kji, case.segmentation.labels_kji)
    assert read.segmentation.names == case.segmentation.names
    assert (read.ct.name, read.ct.source, read.ct.warnings) == ("thorax", "/data/ct.nrrd", ("cropped",))
    assert (read.report_text, read.report_source) == (REPORT, "RIS")
    assert read.segmentation.source == "liver seg"


def test_files_are_read_by_the_worker_itself(tmp_path, case):
    import SimpleITK as sitk

    for name, array in (("ct", case.ct.array_kji), ("segmentation", case.segmentation.labels_kji)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"{name}.nrrd"))
    path = write_file_case(tmp_path / "case", tmp_path / "ct.nrrd", tmp_path / "segmentation.nrrd", REPORT)
    read, loaded = read_case(path), volume_io.load_case(tmp_path / "ct.nrrd", tmp_path / "segmentation.nrrd")
    np.testing.assert_array_equal(read.ct.array_kji, loaded.ct.array_kji)
    np.testing.assert_array_equal(read.segmentation.labels_kji, loaded.segmentation.labels_kji)
    assert read.ct.sha256 == loaded.ct.sha256 != ""
    assert read.report_text == REPORT
    assert [p.name for p in (tmp_path / "case").iterdir()] == ["case.json"]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, np.float32, np.float64])
def test_any_numeric_type_gives_the_same_hounsfield_units(tmp_path, case, dtype):
    if np.dtype(dtype).kind == "u":
        case = dataclasses.replace(
            case, ct=dataclasses.replace(case.ct, array_kji=case.ct.array_kji.clip(-1024) + 1024)
        )
        with pytest.raises(VolumeError, match="not in Hounsfield units"):  # values as stored in DICOM files
            read_case(
                hand_over(
                    tmp_path / "case",
                    dataclasses.replace(
                        case, ct=dataclasses.replace(case.ct, array_kji=case.ct.array_kji.astype(dtype))
                    ),
                )
            )
        return
    array = case.ct.array_kji.astype(dtype)
    read = read_case(
        hand_over(tmp_path / "case", dataclasses.replace(case, ct=dataclasses.replace(case.ct, array_kji=array)))
    )
    assert read.ct.array_kji.dtype == np.int16
    np.testing.assert_array_equal(read.ct.array_kji, case.ct.array_kji)


def test_an_array_in_any_memory_order_arrives_the_same(tmp_path, case):
    turned = np.asfortranarray(case.ct.array_kji)
    read = read_case(
        hand_over(tmp_path / "case", dataclasses.replace(case, ct=dataclasses.replace(case.ct, array_kji=turned)))
    )
    np.testing.assert_array_equal(read.ct.array_kji, case.ct.array_kji)


def test_padding_becomes_air_with_a_warning_and_the_file_stays_as_it_was(tmp_path, case):
    array = case.ct.array_kji.copy()
    array[:, :10] = -2000
    path = hand_over(tmp_path / "case", dataclasses.replace(case, ct=dataclasses.replace(case.ct, array_kji=array)))
    read = read_case(path)
    assert (read.ct.array_kji[:, :10] == -1024).all()
    assert any("padding" in warning for warning in read.ct.warnings)
    np.testing.assert_array_equal(np.load(path.parent / "ct.npy"), array)


def test_layers_on_their_own_grids_are_merged_and_the_later_one_stays(tmp_path, case):
    """Two boxes, each in a small array of its own, whose values are not TotalSegmentator's; they share one voxel."""
    offset = np.eye(4)
    offset[:3, 3] = (20, 30, 10)  # i, j, k
    matrix = case.ct.ijk_to_ras @ offset
    first, second = np.zeros((2, 5, 5), np.int16), np.zeros((2, 5, 5), np.uint8)
    first[0, 0, :2] = 7
    second[0, 0, 1:3] = 1
    second[1, 1, 1] = 9  # a segment without a class
    layers = [(first, matrix, {7: "liver"}), (second, matrix, {1: "spleen"})]
    read = read_case(hand_over(tmp_path / "case", case, layers))
    labels = read.segmentation.labels_kji
    assert labels[10, 30, 20:24].tolist() == [LABEL["liver"], LABEL["spleen"], LABEL["spleen"], 0]
    assert np.count_nonzero(labels) == 3
    assert read.segmentation.names == {LABEL["liver"]: "liver", LABEL["spleen"]: "spleen"}


def test_a_layer_on_another_grid_is_resampled_with_a_warning(tmp_path, case):
    matrix = case.ct.ijk_to_ras.copy()
    matrix[:3, :3] *= 0.7
    layer = (np.ones((20, 60, 60), np.uint8), matrix, {1: "liver"})
    read = read_case(hand_over(tmp_path / "case", case, [layer]))
    assert any("resampled" in warning for warning in read.segmentation.warnings)
    inside = np.count_nonzero(read.segmentation.labels_kji)
    assert inside == pytest.approx(20 * 60 * 60 * 0.7**3, rel=0.03)


def test_a_segmentation_of_another_patient_is_refused(tmp_path, case):
    matrix = case.ct.ijk_to_ras.copy()
    matrix[:3, 3] += 5000
    layer = (np.ones((5, 5, 5), np.uint8), matrix, {1: "liver"})
    path = hand_over(tmp_path / "case", case, [layer], segmentation_name="of Smith")
    with pytest.raises(
        SegmentationError, match=r"Segmentation of Smith does not overlap the CT thorax.*segmentation of this CT"
    ):
        read_case(path)


def test_an_empty_segmentation_is_refused(tmp_path, case):
    path = hand_over(tmp_path / "case", case, [(np.zeros((5, 5, 5), np.uint8), case.ct.ijk_to_ras, {1: "liver"})])
    with pytest.raises(SegmentationError, match="is empty"):
        read_case(path)


def test_without_a_segmentation_the_given_function_makes_it(tmp_path, case):
    path = hand_over(tmp_path / "case", case, [])
    with pytest.raises(SegmentationError, match=r"No segment of the CT thorax.*TotalSegmentator"):
        read_case(path)
    assert read_case(path, lambda ct: case.segmentation).segmentation is case.segmentation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "MR"}, "CT head is of modality MR; a CT is expected"),
        ({"array_kji": np.zeros((5, 5), np.int16)}, "3 axes is expected"),
        ({"array_kji": np.zeros((5, 5, 5, 3), np.uint8)}, "3 values per voxel"),
        ({"array_kji": np.zeros((5, 5, 5), bool)}, "holds bool values"),
        ({"ijk_to_ras": np.full((4, 4), np.nan)}, "no valid position"),
        ({"ijk_to_ras": np.diag([100.0, 1, 1, 1])}, "voxels of 100 × 1 × 1 mm"),
    ],
)
def test_what_is_no_ct_is_refused_before_anything_is_handed_over(tmp_path, change, message):
    given = {"array_kji": np.zeros((5, 5, 5), np.int16), "ijk_to_ras": np.eye(4), "modality": "CT"} | change
    writer = CaseWriter(tmp_path / "case")
    with pytest.raises(VolumeError, match=message):
        exhaust(writer.write_ct(given["array_kji"], given["ijk_to_ras"], "head", modality=given["modality"]))
    assert not (tmp_path / "case").exists()


def test_an_mr_that_does_not_say_so_is_refused_by_its_values(tmp_path, case):
    values = np.random.default_rng(0).integers(0, 700, case.ct.array_kji.shape).astype(np.int16)
    path = hand_over(tmp_path / "case", dataclasses.replace(case, ct=dataclasses.replace(case.ct, array_kji=values)))
    with pytest.raises(VolumeError, match=r"not in Hounsfield units.*not an MR or PET image"):
        read_case(path)


def test_a_class_that_is_not_known_is_refused(tmp_path, case):
    writer = CaseWriter(tmp_path / "case")
    with pytest.raises(SegmentationError, match="no TotalSegmentator v2 class is called 'livr'"):
        exhaust(writer.write_layer(case.segmentation.labels_kji, case.ct.ijk_to_ras, {1: "livr"}))


def test_any_report_text_arrives_unchanged(tmp_path, case):
    text = "Лёгкие без изменений. 肺に結節あり。 \U0001fac1 half a pair: \udc80\r\n" + "x" * 900_000
    assert read_case(hand_over(tmp_path / "case", case, report=text)).report_text == text


def test_a_report_of_more_than_a_megabyte_is_refused(tmp_path, case):
    with pytest.raises(ReportError, match="1,000,002 bytes; at most 1,000,000"):
        hand_over(tmp_path / "case", case, report="é" * 500_001)
    assert not (tmp_path / "case").exists()


def test_every_step_stays_small(tmp_path):
    array = np.zeros((50, 1024, 1024), np.int16)  # 2 MiB a slice
    writer = CaseWriter(tmp_path / "case")
    fractions = list(writer.write_ct(array, np.eye(4), "long"))
    assert len(fractions) == 50  # a slice each
    assert fractions[-1] == 1.0
    assert round(max(np.diff([0, *fractions])) * array.nbytes) <= exchange.SLAB_BYTES  # fractions are rounded


def test_a_slice_larger_than_a_step_is_divided_too(tmp_path):
    array = np.arange(3 * 2048 * 3000, dtype=np.int32).reshape(3, 2048, 3000)
    writer = CaseWriter(tmp_path / "case")
    steps = np.diff([0, *writer.write_ct(array, np.eye(4), "wide")])
    assert len(steps) == 3 * 12  # 174 of 2048 rows fit
    assert max(steps) * array.nbytes <= exchange.SLAB_BYTES
    np.testing.assert_array_equal(np.load(tmp_path / "case" / "ct.npy"), array)


def test_a_hand_over_that_is_given_up_leaves_nothing(tmp_path):
    writer = CaseWriter(tmp_path / "case")
    steps = writer.write_ct(np.zeros((50, 1024, 1024), np.int16), np.eye(4), "long")
    next(steps)
    assert (tmp_path / "case" / "ct.npy").exists()
    steps.close()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_files():
    """No file of this process may grow over 1 MB: writing fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's own choice
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_an_error_with_the_remedy_and_leaves_no_half_folder(tmp_path):
    writer = CaseWriter(tmp_path / "case")
    with pytest.raises(OutputError, match=r"cannot be written to .*case .*Make space on that disk"):
        exhaust(writer.write_ct(np.zeros((50, 512, 512), np.int16), np.eye(4), "long"))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_enough_space_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = exchange.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(exchange.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    writer = CaseWriter(tmp_path / "case")
    with pytest.raises(OutputError, match="has 1 MiB free; 25 MiB are needed"):
        exhaust(writer.write_ct(np.zeros((50, 512, 512), np.int16), np.eye(4), "long"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_keeps_it(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="is not empty"):
        CaseWriter(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


@pytest.mark.parametrize(
    "content",
    [None, "", "{", "[]", '{"format": "ctgvlm-case", "version": 9}', '{"format": "ctgvlm-case", "version": 1}'],
)
def test_a_case_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "case.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"case\.json (cannot be read|is no ctgvlm-case).*Analyze again"):
        read_case(path)


def test_a_truncated_array_is_named(tmp_path, case):
    path = hand_over(tmp_path / "case", case)
    data = (path.parent / "ct.npy").read_bytes()
    (path.parent / "ct.npy").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"ct\.npy cannot be read .*incomplete"):
        read_case(path)


# --- the result --------------------------------------------------------------------------------------------------


@pytest.fixture
def result(case):
    """One of everything, with the values that are easily lost: None, tuples, a float that has no short form."""
    report = parse_report(REPORT)
    return AnalysisResult(
        case=case,
        report=report,
        model=ModelIdentity("small", "ab12", trained=False, notice="UNTRAINED", license="CC"),
        findings=(
            FindingScore("heart", "Cardiomegaly", 0.1 + 0.2, -1e-17, True, None, ("A.",), ("Not A.",)),
            FindingScore("lung", "肺結節", None, None, False, "lung is cut off", ("A.", "B."), ("C.", "D."), "prompt"),
        ),
        organs=(OrganInfo("heart", ("heart", "atrial_appendage_left"), 100, 5, 1 / 3, True, None),),
        links=(
            SentenceLink(1, ("heart",), (), ("heart",), (3, 2, 1), "embedding"),
            SentenceLink(0, (), ("x",), (), None),
        ),
        heatmaps=(
            Heatmap(
                "heart",
                "Cardiomegaly",
                "contribution",
                np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32),
                (1, 2, 3),
                (40, 120, 140),
            ),
        ),
        settings={
            "prompts": (("heart", "a"),),
            "windows": [[1, 2]],
            "calibration": None,
            "min_visible": 0.2,
            "templates": False,
        },
        timings_s={"score": np.float64(0.25)},
        warnings=("w",),
        versions={"torch": "2"},
        comparisons=(
            ReportComparison("heart", "Cardiomegaly", "present", (1,), 0.3, 0.5, "default", "negative", True, 0.7, "r"),
        ),
    )


def assert_same(a, b):
    """Equal in every field, arrays by values and type."""
    assert type(a) is type(b) or isinstance(b, np.ndarray)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def test_a_result_comes_back_without_loss(tmp_path, result):
    read = read_result(write_result(result, tmp_path / "result"))
    assert_same(dataclasses.replace(result, timings_s={"score": 0.25}), read)
    assert isinstance(read.case.ct.array_kji, np.memmap)
    assert isinstance(read.heatmaps[0].values_kji, np.memmap)


def test_the_ct_of_a_handed_over_case_is_named_and_not_copied(tmp_path, result, case):
    read = read_case(hand_over(tmp_path / "case", case))
    path = write_result(dataclasses.replace(result, case=read), tmp_path / "result")
    files = {p.name: p.stat().st_size for p in path.parent.iterdir()}
    assert max(size for name, size in files.items() if name.endswith(".npy")) < 1000  # the heatmap
    back = read_result(path)
    np.testing.assert_array_equal(back.case.ct.array_kji, case.ct.array_kji)
    np.testing.assert_array_equal(back.case.segmentation.labels_kji, case.segmentation.labels_kji)


def test_a_part_of_a_memory_map_is_copied_and_not_mistaken_for_its_file(tmp_path, result, case):
    read = read_case(hand_over(tmp_path / "case", case))
    part = dataclasses.replace(read, ct=dataclasses.replace(read.ct, array_kji=read.ct.array_kji[5:20]))
    back = read_result(write_result(dataclasses.replace(result, case=part), tmp_path / "result"))
    np.testing.assert_array_equal(back.case.ct.array_kji, case.ct.array_kji[5:20])


def test_a_result_with_thousands_of_sentences_is_read_in_small_steps(tmp_path, result):
    sentences = tuple(itertools.islice(itertools.cycle(result.report.sentences), 12_000))
    long = dataclasses.replace(result, report=dataclasses.replace(result.report, sentences=sentences))
    reader = ResultReader(write_result(long, tmp_path / "result"))
    times = [time.process_time()]  # of this process alone: a busy machine is not the reader's fault
    for _ in reader.steps():
        times.append(time.process_time())
    assert len(times) > 300
    assert np.median(np.diff(times)) < 0.01
    assert reader.result.report.sentences == sentences


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_an_incomplete_result_is_named(tmp_path, result, keep):
    path = write_result(result, tmp_path / "result")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:keep]))
    with pytest.raises(InputError, match=r"result\.jsonl"):
        read_result(path)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_while_the_result_is_written_leaves_nothing(tmp_path, result):
    with pytest.raises(OutputError, match=r"The result cannot be written to .*Make space"):
        write_result(result, tmp_path / "result")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_and_a_segmentation_come_back_without_loss(tmp_path, result):
    answer = Answer(result.findings[0], result.heatmaps[0], result.comparisons[0])
    segmentation = result.case.segmentation
    assert_same(answer, read_answer(write_answer(answer, tmp_path, "first")))
    alone = dataclasses.replace(answer, comparison=None)
    assert_same(alone, read_answer(write_answer(alone, tmp_path, "alone")))
    assert_same(segmentation, read_segmentation(write_segmentation(segmentation, tmp_path)))
    with pytest.raises(InputError, match=r"The answer .*second\.json cannot be read"):
        read_answer(tmp_path / "second.json")


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_while_an_answer_is_written_leaves_nothing(tmp_path, result):
    large = dataclasses.replace(result.heatmaps[0], values_kji=np.zeros((100, 100, 100), np.float32))
    with pytest.raises(OutputError, match="The answer cannot be written"):
        write_answer(Answer(result.findings[0], large), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_segmentation_array_comes_back(tmp_path):
    empty = Segmentation(np.zeros((0, 4, 4), np.uint8), {})
    assert_same(empty, read_segmentation(write_segmentation(empty, tmp_path)))


def test_a_field_that_is_not_known_is_refused(tmp_path, result):
    path = write_answer(Answer(result.findings[0], result.heatmaps[0]), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    with pytest.raises(InputError, match=r'has no field "colour". It has: score, heatmap, comparison'):
        read_answer(path)


def test_the_reader_closes_its_file_when_it_is_given_up(tmp_path, result):
    reader = ResultReader(write_result(result, tmp_path / "result"))
    steps = reader.steps()
    next(steps)
    steps.close()
    assert reader.result is None
    assert not [link for link in Path("/proc/self/fd").iterdir() if "result.jsonl" in str(link.resolve())]

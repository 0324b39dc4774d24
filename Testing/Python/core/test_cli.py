"""The command line as a user meets it: what it prints, writes and exits with; nothing is written on failure."""

import gzip
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from cases import CHEST, a_case, a_small_model
from CTGroundedVLMLib import cli, image_file
from CTGroundedVLMLib.model.checkpoint import save_checkpoint

REPORT = "FINDINGS: No pleural effusion. The heart is enlarged.\nIMPRESSION: Cardiomegaly."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    small = a_small_model()
    save_checkpoint(folder, small.model, small.tokenizer, name="small", trained=True)
    return folder


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Each test in a folder of its own, with its own caches."""
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(tmp_path / "no-models"))
    monkeypatch.chdir(tmp_path)


def write_image(path, array, affine, kind=None):
    image = sitk.GetImageFromArray(array if kind is None else array.astype(kind))
    image_file.set_affine(image, affine)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def files(tmp_path):
    """ct.nii.gz, seg.nii.gz and report.txt of a small case."""
    case = a_case(CHEST)
    folder = tmp_path / "in put é"
    folder.mkdir()
    ct = write_image(folder / "ct.nii.gz", case.ct.array_kji, case.ct.ijk_to_ras)
    seg = write_image(folder / "seg.nii.gz", case.segmentation.labels_kji, case.ct.ijk_to_ras)
    report = folder / "report.txt"
    report.write_text(REPORT)
    return ct, seg, report


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def listing(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts
    )


def test_analyze_writes_everything_and_says_where(files, model, tmp_path, capsys):
    ct, seg, report = files
    output = tmp_path / "out"
    code = run(
        "analyze", ct, "--segmentation", seg, "--report", report, "--model", model, "--output", output,
        "--prompt", "heart", "enlarged heart", "--heatmaps", 1, "--min-visible", 0,
    )  # fmt: skip
    assert code == 0
    results = json.loads((output / "results.json").read_text())
    assert {"index.html", "results.json", "findings.csv", "links.csv"} <= set(listing(output))
    asked = [f for f in results["findings"] if f["source"] == "prompt"]
    assert [(f["organ"], f["finding"]) for f in asked] == [("heart", "enlarged heart")]
    assert 0 < asked[0]["probability"] < 1
    absent = [f for f in results["findings"] if f["organ"] == "esophagus"]
    assert absent[0]["probability"] is None
    assert "not in the segmentation" in absent[0]["reason"]
    assert len(list((output / "heatmaps").glob("*.nii.gz"))) == 2
    printed = capsys.readouterr()
    assert str(output / "index.html") in printed.out
    assert "Research use only" in printed.out
    assert "ctgvlm: encode image ..." in printed.err


def test_a_heatmap_file_lies_on_the_grid_of_the_ct(files, model, tmp_path):
    ct, seg, _ = files
    run("analyze", ct, "--segmentation", seg, "--model", model, "--output", tmp_path / "out", "--heatmaps", 0,
        "--prompt", "heart", "enlarged heart", "--quiet")  # fmt: skip
    (path,) = (tmp_path / "out" / "heatmaps").glob("*.nii.gz")
    heatmap, original = sitk.ReadImage(str(path)), sitk.ReadImage(str(ct))
    assert heatmap.GetSize() == original.GetSize()
    assert np.allclose(heatmap.GetOrigin(), original.GetOrigin(), atol=1e-4)
    assert np.allclose(heatmap.GetSpacing(), original.GetSpacing(), atol=1e-5)
    assert np.allclose(heatmap.GetDirection(), original.GetDirection(), atol=1e-5)
    values, labels = (sitk.GetArrayFromImage(x) for x in (heatmap, sitk.ReadImage(str(seg))))
    assert not values[labels != 51].any()
    assert (values[labels == 51] != 0).mean() > 0.99


def test_json_goes_to_standard_output_and_nothing_to_the_disk(files, model, tmp_path, capsys):
    ct, seg, _ = files
    before = listing(tmp_path)
    assert run("analyze", ct, "--segmentation", seg, "--model", model, "--json", "--quiet", "--no-cache") == 0
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert len(results["findings"]) == 16
    assert printed.err == ""
    assert listing(tmp_path) == before


def test_json_beside_an_output_folder_is_the_record_in_it(files, model, tmp_path, capsys):
    ct, seg, _ = files
    arguments = (
        "analyze",
        ct,
        "--segmentation",
        seg,
        "--model",
        model,
        "--json",
        "--quiet",
        "--output",
        tmp_path / "out",
    )
    assert run(*arguments, "--min-visible", 0, "--heatmaps", 1) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "results.json").read_text())
    assert printed["files"]


def test_names_that_look_like_markup_are_shown_as_they_are(files, model, tmp_path, capsys):
    ct, seg, _ = files
    renamed = ct.rename(ct.with_name("scan[bold red] x[_v2].nii.gz"))
    arguments = (
        "--segmentation",
        seg,
        "--model",
        model,
        "--output",
        tmp_path / "out",
        "--heatmaps",
        0,
        "--min-visible",
        0,
    )
    assert run("analyze", renamed, *arguments) == 0
    assert "scan[bold red] x[_v2]" in capsys.readouterr().out


def test_the_default_output_folder_is_named_after_the_ct(files, model, tmp_path):
    ct, seg, _ = files
    assert run("analyze", ct, "--segmentation", seg, "--model", model, "--heatmaps", 0, "--quiet") == 0
    assert (tmp_path / "ct-analysis" / "index.html").is_file()


def test_an_untrained_model_is_marked_everywhere(files, tmp_path, capsys, monkeypatch):
    ct, seg, report = files
    from CTGroundedVLMLib.model import find

    monkeypatch.setattr(find, "untrained_model", lambda device: a_small_model())  # the full-size one runs in make demo
    output = tmp_path / "out"
    assert (
        run("analyze", ct, "--segmentation", seg, "--report", report, "--model", "untrained", "--output", output) == 0
    )
    assert "UNTRAINED" in capsys.readouterr().out
    for name in ("results.json", "findings.csv", "links.csv", "index.html"):
        assert "UNTRAINED" in (output / name).read_text(), name


def test_a_report_that_repeats_the_analysis_replaces_it_and_keeps_other_files(files, model, tmp_path):
    ct, seg, _ = files
    arguments = ("analyze", ct, "--segmentation", seg, "--model", model, "--output", tmp_path / "out", "--quiet")
    assert run(*arguments, "--heatmaps", 2, "--min-visible", 0) == 0
    (tmp_path / "out" / "note.txt").write_text("mine")
    assert run(*arguments, "--heatmaps", 0) == 0
    assert (tmp_path / "out" / "note.txt").read_text() == "mine"
    assert not list((tmp_path / "out").glob("heatmaps/*"))


def a_truncated(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))


def replaced(array_of):
    def change(path):
        image = sitk.ReadImage(str(path))
        other = sitk.GetImageFromArray(array_of(sitk.GetArrayFromImage(image)))
        other.SetSpacing(image.GetSpacing())
        other.SetOrigin(image.GetOrigin())
        other.SetDirection(image.GetDirection())
        sitk.WriteImage(other, str(path))

    return change


def with_header(*edits):
    """Overwrite float32 fields of a NIfTI header: (offset, value)."""

    def change(path):
        data = bytearray(gzip.decompress(path.read_bytes()))
        for offset, value in edits:
            struct.pack_into("<f", data, offset, value)
        path.write_bytes(gzip.compress(bytes(data)))

    return change


def four_dimensional(path):
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(path))


def coloured(path):
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkUInt8)
    sitk.WriteImage(sitk.Compose(image, image, image), str(path))


BAD_CTS = {
    "4D": (four_dimensional, "4D|time|dimensions"),
    "colour": (coloured, "colour|components|values per voxel"),
    "a text file": (lambda path: path.write_text("hello"), "ct.nii.gz"),
    "rescaled twice": (replaced(lambda a: a - 1024), "HU|Hounsfield|rescale"),
    "never rescaled": (replaced(lambda a: a + 1024), "HU|Hounsfield|rescale"),
    "zero spacing": (with_header((80, 0.0)), "spacing|voxel size"),
    "absurd spacing": (with_header((80, 900.0), (280, -900.0)), "spacing|voxel size"),
    "sheared": (with_header((284, 0.7)), "orthonormal|shear|perpendicular|right angles"),
    "one slice": (replaced(lambda a: a[:1]), "slice"),
    "missing": (lambda path: path.unlink(), "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (a_truncated, "truncated|incomplete|ends"),
    "not HU": (replaced(lambda a: ((a + 1024.0) / 2000).astype(np.float32)), "HU|Hounsfield"),
    "NaN": (replaced(lambda a: np.where(a > 200, np.nan, a).astype(np.float32)), "NaN"),
}


@pytest.mark.parametrize("name", BAD_CTS)
def test_a_bad_ct_exits_with_3_and_writes_nothing(name, files, model, tmp_path, capsys):
    ct, seg, _ = files
    change, message = BAD_CTS[name]
    change(ct)
    before = listing(tmp_path)
    assert run("analyze", ct, "--segmentation", seg, "--model", model, "--output", tmp_path / "out") == 3
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "ct.nii.gz" in error
    assert "Traceback" not in error
    assert listing(tmp_path) == before


def elsewhere(path):
    image = sitk.ReadImage(str(path))
    image.SetOrigin((5000.0, 5000.0, 5000.0))
    sitk.WriteImage(image, str(path))


BAD_ARGUMENTS = {
    "another patient's mask": (3, "overlap", elsewhere, ()),
    "truncated mask": (3, "seg.nii.gz", a_truncated, ()),
    "empty mask": (3, "mask|segmentation", replaced(lambda a: np.zeros_like(a)), ()),
    "no known class": (3, "class", replaced(lambda a: np.where(a > 0, 200, 0).astype(np.uint8)), ()),
    "organs the model lacks": (
        3,
        "none of the model's organs",
        replaced(lambda a: np.where(a > 0, 5, 0).astype(np.uint8)),
        (),
    ),
    "unknown organ": (3, 'no organ "knee"', None, ("--prompt", "knee", "tear")),
    "empty prompt": (3, "is empty", None, ("--prompt", "heart", " ")),
    "missing report": (3, "does not exist", None, ("--report", "nothing.txt")),
    "missing calibration": (3, "nothing.json cannot be used", None, ("--calibration", "nothing.json")),
    "unknown model": (4, "neither a folder nor an installed model", None, ("--model", "nothing")),
    "foreign output": (7, "holds no former result", None, ("--output", ".")),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_other_bad_input_has_its_exit_code_and_writes_nothing(name, files, model, tmp_path, capsys):
    ct, seg, _ = files
    code, message, change, extra = BAD_ARGUMENTS[name]
    if change:
        change(seg)
    before = listing(tmp_path)
    arguments = ["analyze", ct, "--segmentation", seg, "--model", model, "--output", tmp_path / "out", *extra]
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert listing(tmp_path) == before


def test_a_ct_larger_than_the_memory_exits_with_6(files, model, tmp_path, capsys, monkeypatch):
    import psutil

    ct, seg, _ = files
    free = type("Memory", (), {"available": 1000})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    before = listing(tmp_path)
    assert run("analyze", ct, "--segmentation", seg, "--model", model, "--output", tmp_path / "out") == 6
    assert re.search(r"GiB|MiB|GB|MB", capsys.readouterr().err)
    assert listing(tmp_path) == before


def test_without_a_model_the_message_tells_three_ways_to_get_one(files, capsys):
    ct, seg, _ = files
    assert run("analyze", ct, "--segmentation", seg) == 4
    error = capsys.readouterr().err
    assert "import-fvlm" in error
    assert "--model untrained" in error


def test_without_totalsegmentators_weights_it_says_so_at_once(files, model, tmp_path, capsys, monkeypatch):
    pytest.importorskip("totalsegmentator", reason="TotalSegmentator is not installed")
    monkeypatch.setenv("TOTALSEG_HOME_DIR", str(tmp_path / "nowhere"))
    ct, _, _ = files
    start = time.perf_counter()
    assert run("analyze", ct, "--model", model) == 5
    error = capsys.readouterr().err
    assert "weights" in error
    assert str(tmp_path / "nowhere") in error
    assert time.perf_counter() - start < 60


def test_wrong_usage_exits_with_2(capsys):
    with pytest.raises(SystemExit) as exit_:
        run("analyze")
    assert exit_.value.code == 2
    assert "CT" in capsys.readouterr().err


def test_help_names_every_exit_code(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    printed = capsys.readouterr().out
    for code in ("0", "1", "2", "3", "4", "5", "6", "7", "130"):
        assert f"\n  {code}  " in printed


def test_help_needs_no_heavy_import():
    """Users ask for help first; it must not wait for torch."""
    code = "import sys; from CTGroundedVLMLib import cli; cli.build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=a_shell())
    assert done.stdout.strip() == "False"


def a_shell():
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_analysis_leaves_nothing_half_written(files, model, tmp_path, number):
    ct, seg, _ = files
    before = listing(tmp_path)
    command = [sys.executable, "-m", "CTGroundedVLMLib.cli", "analyze", ct, "--segmentation", seg, "--model", model,
               "--output", tmp_path / "out", "--heatmap-shifts", "8", "--min-visible", "0", "--no-cache"]  # fmt: skip
    process = subprocess.Popen(
        [str(c) for c in command], stderr=subprocess.PIPE, text=True, env=a_shell(), cwd=tmp_path
    )
    for line in process.stderr:
        if "heatmaps" in line:
            process.send_signal(number)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "interrupted; nothing was left half-written" in rest
    assert listing(tmp_path) == before


def test_models_can_be_listed(model, tmp_path, monkeypatch, capsys):
    assert run("models", "list") == 0
    assert "none yet" in capsys.readouterr().out
    shutil.copytree(model, tmp_path / "no-models" / "small")
    assert run("models", "list") == 0
    assert "small: lung, heart, esophagus, aorta" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x02junk", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, capsys, model, content):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    assert run("models", "import-fvlm", path, "--tokenizer", model, "--output", tmp_path / "new") == 4
    error = capsys.readouterr().err
    assert "cannot be read as a PyTorch checkpoint" in error
    assert "weights_only" not in error  # PyTorch's own text advises the unsafe thing
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, capsys, model):
    import torch

    class Malicious:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"model": Malicious()}, tmp_path / "checkpoint.pth")
    code = run("models", "import-fvlm", tmp_path / "checkpoint.pth", "--tokenizer", model, "--output", tmp_path / "new")
    assert code == 4
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_with_missing_and_strange_keys_names_them(tmp_path, capsys, model):
    import torch

    state = {
        f"vision_projs.{i}.{part}": torch.zeros((256, 768) if part == "weight" else 256)
        for i in range(4)
        for part in ("weight", "bias")
    }
    state |= {"temp": torch.tensor(0.07), "strange.weight": torch.zeros(2), "query_tokens": torch.zeros(3, 768)}
    torch.save({"model": state}, tmp_path / "checkpoint.pth")
    assert (
        run("models", "import-fvlm", tmp_path / "checkpoint.pth", "--tokenizer", model, "--output", tmp_path / "new")
        == 4
    )
    error = capsys.readouterr().err
    assert "unexpected: strange.weight" in error
    assert "missing: text.bert.embeddings.word_embeddings.weight" in error
    assert "missing: vision.norm.weight" in error
    assert "pooling.queries: shape (3, 768), expected (4, 768)" in error


def test_reports_are_parsed_line_by_line(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps({"report_id": "a", "text": REPORT}) + "\n")
    assert run("parse-reports", tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["report_id"] == "a"
    heart = [s for s in record["sentences"] if s["segments"] == ["heart"]]
    assert REPORT[heart[0]["start"] : heart[0]["end"]] == "The heart is enlarged."
    assert heart[0]["section"] == "findings"


def test_a_malformed_report_line_is_named_and_nothing_written(tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps({"report_id": "a", "text": "x"}) + "\n{broken\n")
    assert run("parse-reports", tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 3
    error = capsys.readouterr().err
    assert "in.jsonl" in error
    assert "2" in error
    assert not (tmp_path / "out.jsonl").exists()


def test_a_sample_can_be_written_and_analysed(tmp_path, model, capsys):
    assert run("sample", tmp_path / "sample", "--seed", 3) == 0
    sample = tmp_path / "sample"
    code = run("analyze", sample / "ct.nii.gz", "--segmentation", sample / "segmentation.nii.gz", "--report",
               sample / "report.txt", "--model", model, "--output", tmp_path / "out", "--heatmaps", 1)  # fmt: skip
    assert code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert sum(f["probability"] is not None for f in results["findings"]) == 16
    assert sum(bool(link["segments"]) for link in results["links"]) >= 5

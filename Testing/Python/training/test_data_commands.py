"""``ctgvlm-train manifest`` and ``prepare`` from the command line."""

import argparse
import json
from pathlib import Path

import pytest

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMTraining.data.commands import add_commands
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.manifest import read_manifest
from training_data import a_corpus, ct_rate_like, write_lines


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return parsed.run(parsed)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model": debug_config().to_dict()}))
    return path


def test_a_folder_becomes_training_data_with_two_commands(tmp_path, model, capsys):
    a_corpus(tmp_path / "corpus", cases=2)
    (tmp_path / "corpus/manifest.csv").unlink()
    manifest, out = tmp_path / "m.csv", tmp_path / "out"
    assert run("manifest", "folder", tmp_path / "corpus", "-o", manifest, "--split-by-patient", 1, 0) == 0
    assert "2 volumes of 2 patients (2 train, 0 validation, 0 test)" in capsys.readouterr().out
    assert run("prepare", manifest, out, "--model", model) == 0
    told = capsys.readouterr()
    assert "2 cases made now, 0 before; 0 in quarantine" in told.out
    assert "2 of 2 cases, 0 refused" in told.err
    assert (out / "qa/index.html").is_file()
    assert PreparedDataset(out, "train").case_ids == ("case0", "case1")


@pytest.mark.parametrize("output", ["m.csv", "out/m.csv", "out/deep/m.csv", "../beside/m.csv"])
def test_relative_paths_are_below_the_working_folder_wherever_the_manifest_goes(tmp_path, monkeypatch, output):
    work = tmp_path / "work"
    a_corpus(work / "corpus", cases=1)
    monkeypatch.chdir(work)
    Path("texts.jsonl").touch()
    assert run("manifest", "folder", "corpus", "-o", output, "--organ-texts", "texts.jsonl") == 0
    (row,) = read_manifest(Path(output))
    case = work / "corpus/cases/case0"
    assert (row.image, row.segmentation) == (case / "ct.nii.gz", case / "segmentation.nii.gz")
    assert (row.report, row.organ_texts) == (case / "report.txt", work / "texts.jsonl")
    assert row.labels == Path(output).absolute().parent.resolve() / "m.labels.csv"
    assert row.labels.is_file()


def test_relative_masks_and_images_of_radgenome_are_found_again(tmp_path, monkeypatch):
    ct_rate_like(tmp_path / "ct-rate", ["train_1_a_1"])
    regions = tmp_path / "radgenome/radgenome_files/train_region_report.csv"
    write_lines(regions, "Volumename,Anatomy,Sentence", ["train_1_a_1.nii.gz,lung,No nodule."])
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/train_1_a_1.nii.gz").touch()
    monkeypatch.chdir(tmp_path)
    run("manifest", "radgenome", "radgenome", "--images", "ct-rate", "--masks", "masks", "-o", "out/m.csv")
    (row,) = read_manifest(tmp_path / "out/m.csv")
    assert row.segmentation == tmp_path / "masks/train_1_a_1.nii.gz"
    assert row.image.is_file()
    assert row.image.is_relative_to(tmp_path / "ct-rate")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["folder", "--images", "x"], "--images is for radgenome."),
        (["ct-rate", "--images", "x"], "--images is for radgenome."),
        (["folder", "--masks", "x"], "--masks does not go with folder: each case's folder holds its mask."),
        (["merlin", "--version", "1"], "--version is for ct-rate and radgenome."),
        (["folder", "--reconstructions", "all"], "--reconstructions is for ct-rate and radgenome."),
        (["rad-chestct", "--validation", "0.1"], "--validation is for ct-rate and radgenome."),
        (["merlin", "--seed", "1"], "--seed needs --split-by-patient: merlin has its own splits."),
        (
            ["ct-rate", "--validation", "0.1", "--split-by-patient", "0.8", "0.1"],
            "--validation does not go with --split-by-patient",
        ),
        (["rad-chestct", "--organ-texts", "t.jsonl"], "--organ-texts does not go with rad-chestct: it has no reports."),
    ],
)
def test_an_option_that_the_data_set_s_reader_would_not_ask_for_is_refused(arguments, words, tmp_path):
    source, *options = arguments
    with pytest.raises(InputError, match=words):
        run("manifest", source, tmp_path, "-o", tmp_path / "m.csv", *options)


def test_processes_for_segmentation_are_not_chosen_for_ray(tmp_path):
    with pytest.raises(InputError, match="--segment-jobs does not go with --ray"):
        run("prepare", tmp_path / "m.csv", tmp_path, "--model", "x", "--ray", "--segment-jobs", "2")


def test_refused_cases_give_exit_code_8_and_name_the_list(tmp_path, model, capsys):
    manifest = a_corpus(tmp_path / "corpus", cases=2)
    (tmp_path / "corpus/cases/case1/ct.nii.gz").write_bytes(b"no image")
    assert run("prepare", manifest, tmp_path / "out", "--model", model, "--no-qa", "--quiet") == 8
    told = capsys.readouterr()
    assert "1 cases made now, 0 before; 1 in quarantine" in told.out
    assert "quarantine.csv" in told.err
    assert not (tmp_path / "out/qa").exists()


def test_a_recipe_s_name_stands_for_its_model(tmp_path):
    manifest = a_corpus(tmp_path / "corpus", cases=1)
    assert run("prepare", manifest, tmp_path / "out", "--model", "fvlm_release_debug", "--no-qa", "--quiet") == 0
    from CTGroundedVLMTraining.recipes import recipe

    assert len(PreparedDataset(tmp_path / "out", model=recipe("fvlm_release_debug").model)) == 1
    with pytest.raises(InputError, match="no_such_recipe"):
        run("prepare", manifest, tmp_path / "out", "--model", "no_such_recipe")


def test_a_number_of_jobs_below_one_is_refused_by_the_parser(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("prepare", "m.csv", tmp_path, "--model", "x", "--jobs", 0)
    assert "0: expected 1 or more" in capsys.readouterr().err

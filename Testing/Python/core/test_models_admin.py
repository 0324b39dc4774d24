"""The models that a user can choose: listed, described, deleted and imported, without torch in the asking process."""

import json
import os
import subprocess
import sys

import pytest

from cases import a_small_model
from CTGroundedVLMLib import folders
from CTGroundedVLMLib.errors import InputError, ModelError, OutputError
from CTGroundedVLMLib.model.checkpoint import save_checkpoint
from CTGroundedVLMLib.models_admin import (
    delete_model,
    describe_folder,
    free_name,
    import_fvlm_command,
    list_models,
    make_models_folder,
)


def a_model_folder(path, *, name="mine", trained=True, weights=b"1234", **details):
    path.mkdir(parents=True)
    header = {"format": "ctgvlm-model", "format_version": 1, "name": name, "trained": trained, **details}
    (path / "config.json").write_text(
        json.dumps(header | {"model": {"organs": {"lung": ["lung_upper_lobe_left"], "heart": ["heart"]}}})
    )
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return path


def names(folder):
    return [model.name for model in list_models(folder)]


def test_models_are_listed_by_name_with_organs_licence_and_size(tmp_path):
    a_model_folder(tmp_path / "second", license="CC-BY-NC-SA-4.0", weights=b"x" * 3_000_000)
    a_model_folder(tmp_path / "first", notice="Trained on 12 patients.")
    (tmp_path / "other-program").mkdir()
    first, second, untrained = list_models(tmp_path)
    assert (first.choice, first.kind, first.organs, first.trained) == ("first", "installed", ("lung", "heart"), True)
    assert first.summary == "lung, heart (0 MB). No licence is stated. Trained on 12 patients."
    assert second.license == "CC-BY-NC-SA-4.0"
    assert 3_000_000 < second.bytes < 3_001_000
    assert second.summary == "lung, heart (3 MB). Licence: CC-BY-NC-SA-4.0."
    assert (untrained.choice, untrained.kind, untrained.folder, untrained.trained) == (
        "untrained",
        "bundled",
        None,
        False,
    )
    assert len(untrained.organs) == 36
    assert untrained.summary.startswith("36 organs. Bundled with the software. UNTRAINED MODEL: random weights.")


def test_without_a_models_folder_only_the_untrained_model_is_there(tmp_path):
    assert names(tmp_path / "none") == ["untrained"]


def test_a_model_that_was_written_by_this_software_is_listed_as_it_is(tmp_path):
    small = a_small_model()
    save_checkpoint(tmp_path / "small", small.model, small.tokenizer, name="small", trained=False)
    model = list_models(tmp_path)[0]
    assert model.organs == tuple(small.config.organs)
    assert model.notice.startswith("UNTRAINED MODEL")
    assert model.bytes == sum(path.stat().st_size for path in (tmp_path / "small").iterdir())


def test_a_folder_anywhere_is_described_and_chosen_by_its_path(tmp_path):
    folder = a_model_folder(tmp_path / "elsewhere" / "mine")
    model = describe_folder(folder)
    assert (model.choice, model.kind) == (str(folder), "folder")


@pytest.mark.parametrize("damage", ["no weights", "no config", "another program's config"])
def test_a_folder_that_is_no_model_is_refused(tmp_path, damage):
    folder = a_model_folder(tmp_path / "mine", weights=None if damage == "no weights" else b"1")
    if damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "another program's config":
        (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ModelError, match="mine"):
        describe_folder(folder)


def test_a_deleted_model_and_its_files_are_gone_and_nothing_else(tmp_path):
    for name in ("first", "second"):
        a_model_folder(tmp_path / name)
    (tmp_path / "notes.txt").write_text("mine")
    delete_model("first", tmp_path)
    assert names(tmp_path) == ["second", "untrained"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "second"]


@pytest.mark.parametrize("name", ["untrained", "none", "../outside", ".", "..", "", "notes", "sub/../second"])
def test_only_installed_models_can_be_deleted(tmp_path, name):
    models = tmp_path / "models"
    a_model_folder(models / "second")
    a_model_folder(tmp_path / "outside")
    (models / "notes").mkdir()
    with pytest.raises(InputError):
        delete_model(name, models)
    assert sorted(path.name for path in models.iterdir()) == ["notes", "second"]
    assert (tmp_path / "outside" / "config.json").is_file()


def test_an_absolute_path_cannot_be_deleted(tmp_path):
    outside = a_model_folder(tmp_path / "outside")
    (tmp_path / "models").mkdir()
    with pytest.raises(InputError, match="is no model in"):
        delete_model(str(outside), tmp_path / "models")
    assert outside.is_dir()


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="needs symbolic links")
def test_of_a_linked_model_only_the_link_is_deleted(tmp_path):
    outside = a_model_folder(tmp_path / "outside")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "linked").symlink_to(outside)
    delete_model("linked", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    assert (outside / "model.safetensors").is_file()


def test_what_an_interrupted_deletion_left_is_not_listed_and_is_removed_by_the_next(tmp_path):
    a_model_folder(tmp_path / ".deleted-123")
    a_model_folder(tmp_path / "mine")
    assert names(tmp_path) == ["mine", "untrained"]
    delete_model("mine", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_moved_stays_as_it_was(tmp_path, monkeypatch):
    a_model_folder(tmp_path / "mine")

    def refuse(source, target):
        raise PermissionError("open in another program")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot be deleted \(open in another program\)"):
        delete_model("mine", tmp_path)
    assert names(tmp_path) == ["mine", "untrained"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("new", "new"),
        ("Mine", "Mine-3"),
        ("fVLM: CT/RATE", "fVLM- CT-RATE"),
        ("untrained", "untrained-2"),
        ("..x", "x"),
    ],
)
def test_a_free_name_is_found_for_a_new_model(tmp_path, wanted, expected):
    a_model_folder(tmp_path / "mine")
    a_model_folder(tmp_path / "mine-2")
    assert free_name(wanted, tmp_path) == expected


@pytest.mark.parametrize("wanted", ["", "...", "肺"])
def test_a_name_without_letters_is_refused(tmp_path, wanted):
    with pytest.raises(InputError, match="is no name for a model"):
        free_name(wanted, tmp_path)


def an_import(tmp_path, **options):
    (tmp_path / "checkpoint_10.pth").write_bytes(b"no checkpoint")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    models = tmp_path / "models"
    return import_fvlm_command(tmp_path / "checkpoint_10.pth", tmp_path / "tokenizer", folder=models, **options)


def test_the_import_takes_a_free_name_and_names_the_python_that_runs_it(tmp_path):
    a_model_folder(tmp_path / "models" / "fvlm")
    command = an_import(tmp_path, python="PythonSlicer")
    assert command.output == tmp_path / "models" / "fvlm-2"
    assert command.command[:5] == ("PythonSlicer", "-m", "CTGroundedVLMLib.cli", "models", "import-fvlm")
    assert command.command[-2:] == ("--output", str(command.output))


def test_the_import_command_runs_and_reports_a_file_that_is_no_checkpoint(tmp_path):
    command = an_import(tmp_path)
    done = subprocess.run(
        command.command, env=os.environ | command.environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == ModelError.exit_code
    assert "checkpoint_10.pth cannot be read as a PyTorch checkpoint" in done.stderr
    assert list((tmp_path / "models").iterdir()) == []


def test_an_import_without_its_files_is_refused_before_a_process_starts(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        import_fvlm_command(tmp_path / "none.pth", tmp_path, folder=tmp_path)
    (tmp_path / "checkpoint.pth").write_bytes(b"")
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor vocab\.txt"):
        import_fvlm_command(tmp_path / "checkpoint.pth", tmp_path, folder=tmp_path)


def test_the_models_folder_is_made_and_a_folder_that_cannot_be_made_is_told(tmp_path):
    assert make_models_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="CTGVLM_MODELS_DIR"):
        make_models_folder(tmp_path / "file" / "models")


@pytest.mark.parametrize(
    ("platform", "models", "cache"),
    [
        ("win32", "AppData/Local/ctgvlm/models", "AppData/Local/ctgvlm/Cache"),
        ("darwin", "Library/Application Support/ctgvlm/models", "Library/Caches/ctgvlm"),
        ("linux", ".local/share/ctgvlm/models", ".cache/ctgvlm"),
    ],
)
def test_the_folders_are_those_of_the_system(monkeypatch, tmp_path, platform, models, cache):
    for name in ("CTGVLM_MODELS_DIR", "CTGVLM_CACHE_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(folders.sys, "platform", platform)
    monkeypatch.setattr(folders.Path, "home", lambda: tmp_path)
    assert folders.models_folder() == tmp_path / models
    assert folders.cache_folder() == tmp_path / cache


def test_listing_models_imports_no_torch(tmp_path):
    a_model_folder(tmp_path / "mine")
    program = (
        "import sys; from CTGroundedVLMLib.models_admin import list_models; from pathlib import Path; "
        "print([m.name for m in list_models(Path(sys.argv[1]))], sorted({'torch', 'transformers', 'platformdirs'} & set(sys.modules)))"
    )
    path = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.split("\n")[0] == "['mine', 'untrained'] []"

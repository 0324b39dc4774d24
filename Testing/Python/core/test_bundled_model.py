"""The model that comes with the software: the default, listed with licence and card, never deleted, named wherever it is shown."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundled_models import CARD, NOTICE, a_starter
from cases import CHEST, a_case
from CTGroundedVLMLib import cli
from CTGroundedVLMLib.errors import InputError, ModelError
from CTGroundedVLMLib.folders import bundled_models_folder
from CTGroundedVLMLib.model.find import find_model
from CTGroundedVLMLib.models_admin import delete_model, free_name, list_models
from training_data import write_image

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def starter(tmp_path_factory):
    return a_starter(tmp_path_factory.mktemp("bundled"))


@pytest.fixture
def bundled(starter, tmp_path, monkeypatch):
    """A copy of the software with the starter model, and an empty models folder."""
    monkeypatch.setenv("CTGVLM_BUNDLED_MODELS_DIR", str(starter))
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return starter


def install(starter, models, name):
    models.mkdir(exist_ok=True)
    (models / name).symlink_to(starter / "starter")
    return models


def test_without_a_name_the_bundled_model_is_taken(bundled):
    assert find_model(None).folder == find_model("starter").folder == bundled / "starter"


def test_an_installed_model_goes_before_the_bundled_one_and_several_ask_for_a_choice(bundled, tmp_path):
    models = install(bundled, tmp_path / "models", "mine")
    assert find_model(None).folder == models / "mine"
    install(bundled, models, "other")
    with pytest.raises(ModelError, match="mine, other"):
        find_model(None)


def test_a_folder_of_results_that_is_called_like_the_model_does_not_hide_it(bundled, tmp_path):
    (tmp_path / "starter").mkdir()
    assert find_model("starter").folder == bundled / "starter"
    (tmp_path / "starter" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"starter/config\.json"):
        find_model("starter")


@pytest.mark.parametrize("name", [None, "starter"])
def test_a_copy_without_it_says_so_and_how_to_get_a_model(bundled, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CTGVLM_BUNDLED_MODELS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"starter model.*not in this copy(.|\n)*import-fvlm(.|\n)*--model untrained"):
        find_model(name)
    assert [model.name for model in list_models()] == ["untrained"]


def test_it_is_listed_before_the_untrained_one_with_licence_notice_and_size(bundled, tmp_path):
    install(bundled, tmp_path / "models", "mine")
    mine, starter, untrained = list_models()
    assert [mine.choice, starter.choice, untrained.choice] == ["mine", "starter", "untrained"]
    assert (starter.kind, starter.license, starter.card, starter.trained) == ("bundled", "Apache-2.0", NOTICE, True)
    assert starter.summary == (
        f"lung, heart, esophagus, aorta ({starter.bytes / 1e6:.0f} MB). Bundled with the software. "
        f"Licence: Apache-2.0. {NOTICE}"
    )


def test_the_first_line_of_a_card_that_says_more_than_the_notice_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "CTGVLM_MODELS_DIR", str(a_starter(tmp_path / "models", card="\n# Only *chests* of 12 patients\nx"))
    )
    assert list_models()[0].card == "Only *chests* of 12 patients"
    assert list_models()[0].summary.endswith(f"{NOTICE} Only *chests* of 12 patients")


def test_an_installed_model_of_the_same_name_hides_it_and_can_be_deleted(bundled, tmp_path):
    models = install(bundled, tmp_path / "models", "starter")
    assert [(m.choice, m.kind) for m in list_models()] == [("starter", "installed"), ("untrained", "bundled")]
    assert find_model("starter").folder == models / "starter"
    delete_model("starter")
    assert [(m.choice, m.kind) for m in list_models()] == [("starter", "bundled"), ("untrained", "bundled")]


def test_it_cannot_be_deleted_and_its_name_is_taken(bundled):
    with pytest.raises(InputError, match='"starter" comes with the software'):
        delete_model("starter")
    assert (bundled / "starter" / "model.safetensors").is_file()
    assert free_name("starter") == "starter-2"


def test_an_analysis_takes_it_by_default_and_every_output_says_what_it_was_trained_on(bundled, tmp_path, capsys):
    case = a_case(CHEST)
    for name, array in (("ct", case.ct.array_kji), ("mask", case.segmentation.labels_kji)):
        write_image(tmp_path / f"{name}.nii.gz", array, case.ct.ijk_to_ras)
    (tmp_path / "report.txt").write_text("FINDINGS: The heart is enlarged. No emphysema.")
    arguments = ["ct.nii.gz", "--segmentation", "mask.nii.gz", "--report", "report.txt", "--min-visible", "0"]
    assert cli.main(["analyze", *arguments, "--output", "out", "--heatmaps", "0"]) == 0
    assert NOTICE in " ".join(capsys.readouterr().out.split())
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["model"]["name"], results["model"]["notice"], results["model"]["license"]) == (
        "starter",
        NOTICE,
        "Apache-2.0",
    )
    assert results["settings"]["calibration"] == "calibration-shared-physical.json of the model"
    assert {(f["organ"], f["finding"]): f["calibrated"] for f in results["findings"]} == {
        ("lung", "Emphysema"): True,
        ("lung", "Pneumothorax"): False,
        ("heart", "Cardiomegaly"): True,
    }
    for name in ("results.json", "findings.csv", "links.csv", "index.html"):
        assert NOTICE in (tmp_path / "out" / name).read_text(encoding="utf-8"), name
    assert cli.main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "none yet" in listed
    assert f"starter: {list_models()[0].summary}\n" in listed


def test_a_worker_takes_it_by_default_and_calibrates(bundled, tmp_path):
    from CTGroundedVLMLib.exchange import write_file_case
    from CTGroundedVLMLib.exchange_results import read_answer, read_result
    from CTGroundedVLMLib.worker_requests import KeptSession

    case = a_case(CHEST)
    for name, array in (("ct", case.ct.array_kji), ("mask", case.segmentation.labels_kji)):
        write_image(tmp_path / f"{name}.nii.gz", array, case.ct.ijk_to_ras)
    written = write_file_case(tmp_path / "case", tmp_path / "ct.nii.gz", tmp_path / "mask.nii.gz", "No emphysema.")
    folder = {"folder": str(tmp_path / "case")}
    kept, options = KeptSession(), {"precision": "fp32", "min_visible": 0.0, "heatmaps": 0}
    done = kept.analyze({"case_json": str(written), "options": options, **folder}, lambda stage, part: None)
    result = read_result(Path(done["result"]))
    assert (result.model.name, result.model.notice) == ("starter", NOTICE)
    assert [f.finding for f in result.findings if f.calibrated] == ["Emphysema", "Cardiomegaly"]
    asked = kept.heatmap({"organ": "lung", "finding": "Emphysema", **folder}, lambda stage, part: None)
    answer = read_answer(Path(asked["answer"]))
    assert answer.score.calibrated
    assert answer.comparison.threshold_source == "calibration"
    options["calibrate"] = False
    done = kept.analyze(
        {"case_json": str(written), "model": "starter", "options": options, **folder}, lambda stage, part: None
    )
    assert not any(f.calibrated for f in read_result(Path(done["result"])).findings)


def test_pictures_say_what_the_model_was_trained_on(monkeypatch):
    from CTGroundedVLMLib.export import pictures
    from export_cases import a_result

    footers = []
    monkeypatch.setattr(pictures, "Sheet", lambda title, caption, footer, **how: footers.append(footer))
    box = pictures.Field((0.0, 0.0, 0.0), 100.0)
    for trained, notice in ((True, NOTICE), (True, ""), (False, "UNTRAINED")):
        pictures.Scene(a_result().case, "starter 0123456789", trained, notice=notice).sheet("t", "c", box, 100)
    assert NOTICE in footers[0]
    assert len(footers[0]) < 170, "longer than the sheet is wide"
    assert footers[1] == footers[2]
    assert pictures.RESEARCH_NOTICE in footers[1]


def test_an_interrupted_or_foreign_folder_is_no_bundled_model(tmp_path, monkeypatch):
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "config.json").write_text("{")
    monkeypatch.setenv("CTGVLM_BUNDLED_MODELS_DIR", str(tmp_path))
    assert [model.name for model in list_models(tmp_path / "none")] == ["untrained"]


def test_it_lies_inside_the_package_so_that_wheel_and_extension_carry_it(monkeypatch):
    monkeypatch.delenv("CTGVLM_BUNDLED_MODELS_DIR")
    assert bundled_models_folder() == ROOT / "CTGroundedVLM" / "CTGroundedVLMLib" / "data" / "models"


def test_a_wheel_holds_the_bundled_models_that_the_tree_holds(starter, tmp_path):
    """Built from a copy of the packaging files and of a package of two files, so that it takes a second."""
    tree = tmp_path / "tree"
    package = tree / "CTGroundedVLM" / "CTGroundedVLMLib"
    package.mkdir(parents=True)
    (tree / "Training" / "CTGroundedVLMTraining").mkdir(parents=True)
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        (tree / name).write_bytes((ROOT / name).read_bytes())
    (package / "__init__.py").write_text('__version__ = "1.0"\n')
    (package / "data" / "models").mkdir(parents=True)
    (package / "data" / "models" / "starter").symlink_to(starter / "starter", target_is_directory=True)
    program = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=tree, capture_output=True, text=True, timeout=120
    )
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("needs setuptools")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name.rpartition("/")[2] for name in wheel.namelist() if "/data/models/starter/" in name}
        card = wheel.read("CTGroundedVLMLib/data/models/starter/MODEL_CARD.md").decode()
    assert held == {path.name for path in (starter / "starter").iterdir()}
    assert card == CARD

"""The starter model as it ships; skipped in a copy without the weights."""

from pathlib import Path

import pytest
from safetensors import safe_open

import CTGroundedVLMLib
from CTGroundedVLMLib.files import sha256_of
from CTGroundedVLMLib.model.checkpoint import load_checkpoint
from CTGroundedVLMLib.model.find import find_model
from CTGroundedVLMLib.model.header import WEIGHTS, card_line
from CTGroundedVLMLib.models_admin import list_models
from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
from CTGroundedVLMLib.sample import write_sample
from CTGroundedVLMLib.volume_io import load_case

FOLDER = Path(CTGroundedVLMLib.__file__).parent / "data" / "models" / "starter"
LARGEST_MB = 25
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"this copy comes without the starter model ({FOLDER})")


@pytest.fixture(autouse=True)
def _shipped(monkeypatch, tmp_path):
    monkeypatch.delenv("CTGVLM_BUNDLED_MODELS_DIR")
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(tmp_path / "none"))


@pytest.fixture(scope="module")
def loaded():
    return load_checkpoint(FOLDER)


def test_the_folder_is_small_and_holds_nothing_that_could_run():
    files = sorted(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) <= LARGEST_MB * 1e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}
    assert all(path.is_file() for path in files)
    with safe_open(FOLDER / WEIGHTS, framework="pt") as file:
        assert len(list(file.keys())) > 50


def test_it_is_the_default_and_says_what_it_was_trained_on(loaded):
    info = list_models()[0]
    assert (info.choice, info.kind, info.license, info.trained) == ("starter", "bundled", "Apache-2.0", True)
    assert find_model(None).identity.sha256 == loaded.identity.sha256
    assert card_line(FOLDER) == loaded.identity.notice
    assert "synthetic patients only" in loaded.identity.notice


def test_its_card_holds_use_data_training_results_and_limits_but_no_folder_of_the_machine_that_made_it():
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    for title in (
        "## Intended use",
        "## Data",
        "## Training",
        "## Results",
        "### Held-out synthetic patients",
        "## Limits",
    ):
        assert title in card
    assert "Not evaluated yet" not in card
    for path in FOLDER.glob("*.json"):
        assert not any(
            f'"{root}' in path.read_text(encoding="utf-8") for root in ("/tmp", "/home", "/root", "/work")
        ), path


def test_its_tokenizer_knows_the_words_of_what_it_is_asked(loaded):
    from CTGroundedVLMLib.prompts import registry_prompts

    prompts = registry_prompts(loaded.config.organs, evaluated=loaded.findings)
    unknown = loaded.tokenizer.unk_token_id
    assert len(prompts) >= 16
    assert len({prompt.organ for prompt in prompts}) >= 8
    assert not any(unknown in loaded.tokenizer(text)["input_ids"] for prompt in prompts for text in prompt.texts)


def test_an_analysis_of_the_phantom_gives_calibrated_probabilities(loaded, tmp_path):
    paths = write_sample(tmp_path / "sample")
    before = sha256_of(FOLDER / "config.json")
    case = load_case(paths.ct, paths.segmentation, paths.report)
    result = analyze(case, loaded, AnalysisOptions(heatmaps=1))
    scored = [f for f in result.findings if f.probability is not None]
    assert len(scored) >= 16
    assert sum(f.calibrated for f in scored) >= 16
    assert {c.threshold_source for c in result.comparisons if c.image} >= {"calibration"}
    assert result.model.notice == loaded.identity.notice
    assert sha256_of(FOLDER / "config.json") == before

"""The released model's numbers, from its own unmodified code (fixtures beside the test data)."""

import runpy

import numpy as np
import pytest
import torch

from CTGroundedVLMLib.model.checkpoint import load_checkpoint
from CTGroundedVLMLib.model.import_fvlm import import_fvlm
from CTGroundedVLMLib.model.text_cache import TextEncoder
from CTGroundedVLMLib.model_grid import GridTransform
from CTGroundedVLMLib.pipeline import AnalysisOptions, Session
from CTGroundedVLMLib.preprocessing import ModelWindow
from CTGroundedVLMLib.prompts import registry_prompts
from CTGroundedVLMLib.volume_io import load_case

ORGANS = ["lung", "heart", "esophagus", "aorta"]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def imported_folder(parity_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvlm")
    main = runpy.run_path(str(parity_dir / "make_checkpoint.py"))["main"]
    main(str(folder / "checkpoint_10.pth"))
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_bytes((parity_dir / "vocab.txt").read_bytes())
    import_fvlm(folder / "checkpoint_10.pth", tokenizer, folder / "model")
    (folder / "checkpoint_10.pth").unlink()
    return folder / "model"


@pytest.fixture(scope="module")
def imported(imported_folder):
    return load_checkpoint(imported_folder)


@pytest.fixture(scope="module")
def expected(parity_dir):
    return np.load(parity_dir / "expected_abdomen.npz")


def test_the_importer_keeps_organs_temperature_and_licence(imported):
    assert list(imported.config.organs) == ORGANS
    assert float(imported.model.temperature) == pytest.approx(0.07)
    assert imported.identity.trained
    assert "non-commercial" in imported.identity.license


def test_text_features_equal_the_release_although_prompts_are_not_padded_to_384(imported, expected):
    encode = TextEncoder(imported)
    features = torch.stack([encode([str(negative), str(positive)]) for _, _, negative, positive in expected["items"]])
    assert np.abs(features.numpy() - expected["text_feat"]).max() < TOLERANCE


def test_our_sixteen_prompt_pairs_are_those_of_the_release_in_its_order(expected):
    prompts = registry_prompts(ORGANS, "fvlm16")
    ours = [[p.organ, p.finding, p.negative[0], p.positive[0]] for p in prompts]
    assert ours == expected["items"].tolist()


def test_tokens_of_every_level_equal_the_release(imported, parity_dir):
    tiny = np.load(parity_dir / "tiny.npz")
    image = torch.from_numpy(tiny["image_u8"].astype(np.float32) / 255)
    with torch.no_grad():
        levels = imported.model.vision(image)
    for i, level in enumerate(levels):
        assert np.abs(level.numpy() - tiny[f"level{i}"]).max() < TOLERANCE


def test_organ_tokens_features_and_probabilities_equal_the_release(imported, parity_dir, expected):
    tiny = np.load(parity_dir / "tiny.npz")
    image = torch.from_numpy(tiny["image_u8"][0].astype(np.float32) / 255)
    organ_map = torch.from_numpy(tiny["seg"][0].astype(np.uint8))
    transform = GridTransform((0, 1, 2), (1, 1, 1), (0, 0, 0), tuple(image.shape), tuple(image.shape))
    model, encode = imported.model, TextEncoder(imported)
    with torch.no_grad():
        encoded = model.encode_window(ModelWindow(image, organ_map, (0, 1, 2, 3), (0, 0, 0), transform))
        features_OE = model.pool(encoded)
    for number, organ in enumerate(ORGANS):
        assert np.flatnonzero(encoded.token_mask_ON[number].numpy()).tolist() == tiny[f"tokens/{organ}"].tolist()
        assert np.abs(features_OE[number].numpy() - tiny[f"{organ}/feat/{organ}"][0]).max() < TOLERANCE
        for row, (item_organ, _, negative, positive) in enumerate(expected["items"]):
            if item_organ == organ:
                logits = encode([str(negative), str(positive)]) @ features_OE[number] / model.temperature
                got = logits.softmax(0).detach().numpy()
                assert np.abs(got - tiny[f"{organ}/probs"][row]).max() < TOLERANCE


@pytest.mark.parametrize("mode", ["reference", "shared"])
def test_a_real_ct_is_scored_as_the_release_scores_it(imported, expected, test_data, mode):
    folder = test_data / "ct" / "abdomen"
    case = load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz")
    options = AnalysisOptions(
        mode=mode, grid="release", precision="fp32", finding_set="fvlm16", min_visible=0.0, heatmaps=0
    )
    session = Session(case, imported, options)
    assert [session._preprocessor.organ_voxels[i] for i in range(4)] == expected["whole_organ_sizes"].tolist()
    for organ in ("lung", "aorta"):
        got = session.features.organ_features[ORGANS.index(organ)].numpy()
        assert np.abs(got - expected[f"image_feat/{organ}"][0]).max() < TOLERANCE
    scores = session.score(registry_prompts(ORGANS, "fvlm16"))
    for score, row, want in zip(scores, expected["items"], expected["probs"], strict=True):
        assert (score.organ, score.finding) == tuple(row[:2])
        if np.isnan(want[1]):
            assert score.probability is None
            assert f"{score.organ} is not in the segmentation" in score.reason
        else:
            assert score.probability == pytest.approx(want[1], abs=TOLERANCE)


def test_windows_equal_those_of_the_release(imported, expected, test_data):
    folder = test_data / "ct" / "abdomen"
    case = load_case(folder / "ct.nii.gz", folder / "segmentation.nii.gz")
    session = Session(case, imported, AnalysisOptions(mode="reference", precision="fp32"))
    for encoded, row, mean in zip(session.features.windows, expected["windows"], expected["window_mean"], strict=True):
        window = encoded.window
        assert [window.organs[0], *window.image_DHW.shape] == row[:4].tolist()
        assert int((window.organ_map_DHW == window.organs[0] + 1).sum()) == row[4]
        assert float(window.image_DHW.mean()) == pytest.approx(mean, abs=1e-6)

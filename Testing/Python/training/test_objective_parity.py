"""One training step of fVLM's unmodified release (four samples, dropout 0): losses, gradients, AdamW (fixture train.npz)."""

import json
import runpy

import numpy as np
import pytest
import torch

from CTGroundedVLMLib.model.checkpoint import load_checkpoint
from CTGroundedVLMLib.model.fvlm import organ_token_mask
from CTGroundedVLMLib.model.import_fvlm import import_fvlm
from CTGroundedVLMTraining.objectives import Features, OrganContrast
from CTGroundedVLMTraining.types import Batch, text_key

ORGANS = ["lung", "heart", "esophagus", "aorta"]
RENAMED = {
    "vision.": "visual_encoder.",
    "text.bert.": "text_encoder.",
    "text_projection.": "text_proj.",
    "pooling.attention.": "attention.",
}


def encoded_text(organ: str, caption: str) -> str:
    """The release deletes its template unless it is the whole text."""
    template = f"{organ} shows no significant abnormalities."
    return caption if caption == template else caption.replace(template, "")


@pytest.fixture(scope="module")
def fixture(parity_dir):
    with np.load(parity_dir / "train.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def loaded(parity_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fvlm")
    runpy.run_path(str(parity_dir / "make_checkpoint.py"))["main"](str(folder / "checkpoint_10.pth"))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_bytes((parity_dir / "vocab.txt").read_bytes())
    import_fvlm(folder / "checkpoint_10.pth", folder / "tokenizer", folder / "model")
    (folder / "checkpoint_10.pth").unlink()
    return load_checkpoint(folder / "model")


@pytest.fixture(scope="module")
def the_batch(fixture, loaded, parity_dir):
    captions = json.loads((parity_dir / "train_captions.json").read_text())
    texts = [[encoded_text(organ, captions[organ][b]) for organ in ORGANS] for b in range(4)]
    different = sorted({text for row in texts for text in row})
    tokens = loaded.tokenizer(different, padding=True, return_tensors="pt")
    organ_maps = torch.from_numpy(fixture["seg"].astype(np.uint8))
    patch = loaded.config.vision.patch_size
    return Batch(
        case_ids=tuple("abcd"),
        image_BDHW=torch.from_numpy(fixture["image_u8"].astype(np.float32) / 255),
        token_mask_BON=torch.stack([organ_token_mask(m, range(4), patch) for m in organ_maps]),
        valid_BO=torch.ones(4, 4, dtype=torch.bool),
        status_BO=torch.from_numpy(fixture["organ_abnormal_flags"].astype(np.int8)),
        text_ids_PT=tokens["input_ids"],
        text_mask_PT=tokens["attention_mask"],
        text_of_BO=torch.tensor([[different.index(text) for text in row] for row in texts]),
        text_key_BO=torch.tensor([[text_key(text) for text in row] for row in texts]),
        report_of_B=torch.full((4,), -1),
        labels_BF=torch.empty(4, 0),
    )


@pytest.fixture(scope="module")
def step(loaded, the_batch):
    """The model after backward (evaluation mode: dropout 0), its features and losses."""
    model = loaded.model.eval().requires_grad_(True)
    model.text.bert.embeddings.token_type_embeddings.weight.requires_grad_(False)
    features = Features.of(model, the_batch)
    losses = OrganContrast(ORGANS)(features, the_batch)
    sum(losses.values()).backward()
    return model, features, losses


def released_tensors(model):
    """(release's key, our parameter's value or gradient getter)."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("pooling.projection_"):
            for o in range(len(ORGANS)):
                yield f"vision_projs.{o}.{name.removeprefix('pooling.projection_')}", parameter, o
        elif name == "pooling.queries":
            yield "query_tokens", parameter, None
        elif name == "temperature":
            yield "temp", parameter, None
        else:
            old = next(prefix for prefix in RENAMED if name.startswith(prefix))
            yield name.replace(old, RENAMED[old], 1), parameter, None


def strided(values: torch.Tensor) -> np.ndarray:
    flat = values.detach().flatten().numpy()
    return flat[:: max(1, len(flat) // 16)][:16]


def test_the_losses_of_each_organ_equal_the_release_and_an_organ_normal_in_all_is_skipped(step, fixture):
    _, _, losses = step
    assert set(losses) == {"organ/lung", "organ/heart", "organ/esophagus"}
    for organ in ORGANS[:3]:
        assert losses[f"organ/{organ}"].item() == pytest.approx(float(fixture[f"loss/{organ}_itc"]), abs=2e-5)
    assert sum(losses.values()).item() == pytest.approx(float(fixture["loss"]), abs=5e-5)


def test_image_and_text_features_equal_the_release(step, fixture, the_batch):
    _, features, _ = step
    for o, organ in enumerate(ORGANS[:3]):
        assert np.abs(features.organs_BOE[:, o].detach().numpy() - fixture[f"image_feat/{organ}"]).max() < 1e-5
        texts = features.texts_PE[the_batch.text_of_BO[:, o]].detach().numpy()
        assert np.abs(texts - fixture[f"text_feat/{organ}"]).max() < 1e-5


def test_gradients_of_every_parameter_equal_the_release(step, fixture):
    model = step[0]
    compared = 0
    without = set(fixture["no_grad"].tolist())
    for key, parameter, part in released_tensors(model):
        gradient = parameter.grad if part is None else parameter.grad[part]
        if key in without:
            assert not gradient.any(), key
            continue
        norm = float(fixture[f"gnorm/{key}"])
        assert gradient.norm().item() == pytest.approx(norm, rel=2e-3, abs=1e-6), key
        assert np.allclose(strided(gradient), fixture[f"gslice/{key}"], rtol=2e-3, atol=2e-5 + 1e-3 * norm), key
        compared += 1
    assert compared > 330


def test_one_step_of_adamw_gives_the_release_s_parameters(step, fixture):
    model = step[0]
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, weight_decay=0.01)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    compared = 0
    try:
        for key, parameter, part in released_tensors(model):
            if f"after/{key}" in fixture and f"gslice/{key}" in fixture:
                value = parameter if part is None else parameter[part]
                # Adam's first step is +-lr whatever the gradient's size: where that is rounding noise, so is the sign
                clear = np.abs(fixture[f"gslice/{key}"]) > 1e-6
                assert np.abs(strided(value) - fixture[f"after/{key}"])[clear].max(initial=0) < 2e-6, key
                compared += clear.sum()
        assert compared > 3000
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(before[name])

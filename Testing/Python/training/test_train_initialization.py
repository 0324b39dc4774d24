"""What a run starts from: small models, MAE's weights, BERT's weights; what does not fit is named."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from CTGroundedVLMLib.errors import InputError, ModelError
from CTGroundedVLMLib.model.fvlm import FVLM
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.config import InitialWeights
from CTGroundedVLMTraining.initialization import initial_model, mae_position_embedding
from CTGroundedVLMTraining.recipes import recipe
from CTGroundedVLMTraining.vocabulary import corpus_tokenizer, tokenizer_of
from training_cases import MODEL, a_config, some_cases

TEXTS = ["nodule of 3 mm.", "clear lungs.", "a large pleural effusion on the left."]


def scratch():
    return initial_model(MODEL, InitialWeights("scratch", tokenizer="registry"), 0).eval()


def mean_text_cosine(model):
    tokens = registry_tokenizer()(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        features = model.encode_tokens(tokens["input_ids"], tokens["attention_mask"])
    return float((features @ features.T)[[0, 0, 1], [1, 2, 2]].mean())


def cosine_of_bright_and_dark(model):
    images = torch.stack([torch.full(MODEL.vision.image_size, value) for value in (0.2, 0.8)])
    mask = torch.ones(2, 2, 8, dtype=torch.bool)
    ids = torch.zeros(1, 2, dtype=torch.long)
    with torch.no_grad():
        organs, _, _ = model(images, mask, ids, torch.ones_like(ids))
    return float(organs[0, 0] @ organs[1, 0])


def test_scratch_scales_tell_texts_and_brightness_apart_where_the_usual_ones_do_not():
    torch.manual_seed(0)
    usual, ours = FVLM(MODEL).eval(), scratch()
    torch.nn.init.normal_(usual.pooling.queries, std=0.02)
    assert mean_text_cosine(usual) > 0.999
    assert mean_text_cosine(ours) < 0.98
    assert cosine_of_bright_and_dark(usual) > 0.9
    assert cosine_of_bright_and_dark(ours) < 0.5


def test_a_patch_of_mean_intensity_gives_a_zero_embedding():
    conv = scratch().vision.patch_embedding.patch_embeddings
    patch = torch.full((1, conv.weight[0].numel()), 0.5)
    assert torch.nn.functional.linear(patch, conv.weight.flatten(1), conv.bias).abs().max() < 1e-5


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    one, two, other = (initial_model(MODEL, InitialWeights(tokenizer="registry"), seed) for seed in (3, 3, 4))
    key = "vision.blocks.0.mlp.linear1.weight"
    assert torch.equal(one.state_dict()[key], two.state_dict()[key])
    assert not torch.equal(one.state_dict()[key], other.state_dict()[key])


def mae_file(folder, **changes):
    """A file with the names of MAE's published encoder, as wide as the small model."""
    width, random = MODEL.vision.hidden_size, torch.Generator().manual_seed(5)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 14 * 14, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    shapes |= {"patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}
    for i in range(MODEL.vision.blocks):
        block = {
            "norm1": width,
            "norm2": width,
            "attn.qkv": 3 * width,
            "attn.proj": width,
            "mlp.fc1": 2 * width,
            "mlp.fc2": width,
        }
        for name, out in block.items():
            inside = () if name.startswith("norm") else (2 * width if name == "mlp.fc2" else width,)
            shapes |= {f"blocks.{i}.{name}.weight": (out, *inside), f"blocks.{i}.{name}.bias": (out,)}
    state = {key: torch.randn(shape, generator=random) for key, shape in shapes.items()}
    state = {key: value for key, value in (state | changes).items() if value is not None}
    torch.save({"model": state}, folder / "mae.pth")
    return folder / "mae.pth", state


def test_mae_weights_fill_blocks_norm_and_position_and_leave_the_patch_embedding_random(tmp_path):
    path, state = mae_file(tmp_path)
    model = initial_model(MODEL, InitialWeights("mae", str(path), tokenizer="registry"), 0)
    plain = initial_model(MODEL, InitialWeights(tokenizer="registry"), 0)
    vision = model.vision.state_dict()
    assert torch.equal(vision["blocks.1.attn.out_proj.weight"], state["blocks.1.attn.proj.weight"])
    assert torch.equal(vision["blocks.0.attn.qkv.bias"], state["blocks.0.attn.qkv.bias"])
    assert torch.equal(vision["blocks.1.mlp.linear2.weight"], state["blocks.1.mlp.fc2.weight"])
    assert torch.equal(vision["norm.weight"], state["norm.weight"])
    expected = mae_position_embedding(state["pos_embed"], MODEL.vision.grid)
    assert torch.equal(vision["patch_embedding.position_embeddings"], expected)
    key = "patch_embedding.patch_embeddings.weight"
    assert torch.equal(vision[key], plain.vision.state_dict()[key])


def test_the_position_embedding_equals_the_release_s(parity_dir):
    with np.load(parity_dir / "mae_position_embeddings.npz") as file:
        found = mae_position_embedding(torch.from_numpy(file["mae_pos_embed"]), (7, 16, 11)).numpy()
        assert np.abs(found - file["position_embeddings"]).max() < 1e-6


def test_every_missing_unexpected_and_misshapen_key_of_mae_is_named(tmp_path):
    path, _ = mae_file(
        tmp_path, **{"blocks.1.norm1.bias": None, "blocks.7.norm1.bias": torch.zeros(3), "norm.weight": torch.zeros(5)}
    )
    with pytest.raises(ModelError) as caught:
        initial_model(MODEL, InitialWeights("mae", str(path), tokenizer="registry"), 0)
    message = str(caught.value)
    assert "missing: blocks.1.norm1.bias" in message
    assert "unexpected: blocks.7.norm1.bias" in message
    assert re.search(r"norm\.weight: shape \(5,\), expected \(32,\)", message)


def bert_folder(folder, **changes):
    """As a BERT with its heads is published: names with a prefix, a token-type embedding, a head."""
    source = initial_model(MODEL, InitialWeights(tokenizer="registry"), 8).text.bert.state_dict()
    state = {f"bert.{key}": value.clone() for key, value in source.items()}
    state["bert.embeddings.token_type_embeddings.weight"] = torch.ones(2, MODEL.text.hidden_size)
    state |= {"cls.predictions.bias": torch.zeros(4), "bert.pooler.dense.bias": torch.zeros(4)}
    state = {key: value for key, value in (state | changes).items() if value is not None}
    save_file(state, folder / "model.safetensors")
    registry_tokenizer().save_pretrained(folder)
    return folder, source


def test_a_bert_folder_fills_the_text_tower_without_its_heads_and_token_types(tmp_path):
    folder, source = bert_folder(tmp_path)
    initial = InitialWeights(text_model=str(folder))
    found = initial_model(MODEL, initial, 0).text.bert.state_dict()
    for key, value in source.items():
        assert torch.equal(found[key], value), key
    assert not found["embeddings.token_type_embeddings.weight"].any()
    assert len(tokenizer_of(initial, [], 1024)) == len(registry_tokenizer())


def test_a_bert_that_does_not_fit_is_named_key_by_key(tmp_path):
    words = "bert.embeddings.word_embeddings.weight"
    folder, _ = bert_folder(tmp_path, **{words: torch.zeros(7, 32), "bert.extra": torch.zeros(1)})
    with pytest.raises(
        ModelError, match=r"(?s)unexpected: extra.*word_embeddings\.weight: shape \(7, 32\), expected \(1024, 32\)"
    ):
        initial_model(MODEL, InitialWeights(text_model=str(folder)), 0)


@pytest.mark.parametrize(("content", "message"), [(b"PK nonsense", "cannot be read"), (None, "does not exist")])
def test_a_file_that_is_no_weights_is_named(content, message, tmp_path):
    if content:
        (tmp_path / "mae.pth").write_bytes(content)
    with pytest.raises(ModelError, match=rf"mae\.pth {message}"):
        initial_model(MODEL, InitialWeights("mae", str(tmp_path / "mae.pth"), tokenizer="registry"), 0)


def test_what_a_recipe_leaves_open_is_asked_for_with_its_remedy():
    with pytest.raises(InputError, match=r"--set initial\.mae_weights=FILE"):
        recipe("fvlm_release").initial.check_complete()
    with pytest.raises(InputError, match=r"--set initial\.text_model=FOLDER"):
        a_config(initial=InitialWeights()).initial.check_complete()


def test_a_corpus_tokenizer_knows_the_commonest_words_of_the_corpus_up_to_its_size():
    texts = ["There is a xylophone. There is a zebra.", "There was 1 zebra"]
    registry = len(registry_tokenizer())
    tokenizer = corpus_tokenizer(texts, registry + 2)
    assert len(tokenizer) == registry + 2
    assert tokenizer.tokenize("there zebra 87") == ["there", "zebra", "8", "##7"]
    assert tokenizer.tokenize("xylophone")[0] == "x"
    assert len(tokenizer_of(InitialWeights(tokenizer="corpus"), some_cases(), 1024)) > registry


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_with_its_remedy():
    with pytest.raises(InputError, match=r"--set model\.text\.vocabulary_size=\d+"):
        tokenizer_of(InitialWeights(tokenizer="registry"), [], 100)

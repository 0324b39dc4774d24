"""Model parts against plain re-statements; checkpoint directory; untrained model; text cache."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import plain_fvlm
from cases import CHEST, a_case, a_small_model
from CTGroundedVLMLib.errors import ModelError, OutputError
from CTGroundedVLMLib.model.checkpoint import load_checkpoint, save_checkpoint
from CTGroundedVLMLib.model.config import (
    ModelConfig,
    PreprocessingConfig,
    TextConfig,
    VisionConfig,
    debug_config,
    fvlm_config,
)
from CTGroundedVLMLib.model.find import find_model
from CTGroundedVLMLib.model.header import readable_models
from CTGroundedVLMLib.model.pooling import OrganPooling
from CTGroundedVLMLib.model.text_cache import TextEncoder
from CTGroundedVLMLib.model.tokenizer import tokenize
from CTGroundedVLMLib.preprocessing import Preprocessor


@pytest.fixture(scope="module")
def small():
    return a_small_model()


@pytest.fixture
def saved(small, tmp_path):
    folder = tmp_path / "model"
    save_checkpoint(folder, small.model, small.tokenizer, name="small", trained=True, license="none")
    return folder


def a_preprocessor(config):
    return Preprocessor(a_case(CHEST), config.organs, config.preprocessing, config.vision.patch_size)


def test_vision_tokens_equal_monais_eager_vit(small):
    plain = plain_fvlm.PlainFVLM(small)
    for shape in ((48, 64, 96), (32, 80, 128)):  # the trained grid, and another one
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours = small.model.vision(image[None])
        for level, expected in zip(ours, plain.levels(image), strict=True):
            assert torch.allclose(level[0], expected, atol=1e-5)


def test_tokens_that_are_wanted_of_the_last_level_do_not_depend_on_leaving_the_others_out(small):
    image = torch.rand((2, 48, 64, 96), generator=torch.Generator().manual_seed(2))
    wanted = torch.rand(36, generator=torch.Generator().manual_seed(3)) < 0.4
    with torch.no_grad():
        everything, some = small.model.vision(image), small.model.vision(image, wanted)
    for full, part in zip(everything[:-1], some[:-1], strict=True):
        assert torch.equal(full, part)
    assert torch.allclose(some[-1][:, wanted], everything[-1][:, wanted], atol=1e-5)
    assert not some[-1][:, ~wanted].any()


def test_vision_gradients_equal_monais_eager_vit(small):
    from monai.networks.nets.vit import ViT

    v = small.config.vision
    plain = ViT(1, v.image_size, v.patch_size, v.hidden_size, v.mlp_size, v.blocks, v.heads, qkv_bias=True)
    plain.load_state_dict(small.model.vision.state_dict(), strict=False)
    image = torch.rand((2, *v.image_size), generator=torch.Generator().manual_seed(1))
    small.model.vision(image)[-1].square().sum().backward()
    plain(image[:, None])[0].square().sum().backward()
    expected = dict(plain.named_parameters())
    for name, parameter in small.model.vision.named_parameters():
        assert torch.allclose(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-3), name
    small.model.zero_grad()


def test_dropout_acts_in_training_and_never_at_evaluation(small):
    image = torch.rand((1, 48, 64, 96))
    with torch.no_grad():
        assert torch.equal(small.model.vision(image)[-1], small.model.vision(image)[-1])
        small.model.train()
        try:
            assert all(block.attn.dropout_rate == 0.1 for block in small.model.vision.blocks)
            assert not torch.equal(small.model.vision(image)[-1], small.model.vision(image)[-1])
        finally:
            small.model.eval()


def a_pooling():
    torch.manual_seed(0)
    pooling = OrganPooling(organs=3, hidden_size=16, embedding_size=8, heads=4, dropout=0.0).eval()
    torch.nn.init.normal_(pooling.queries)
    torch.nn.init.normal_(pooling.attention.in_proj_bias)
    tokens = torch.randn(2, 20, 16)
    mask = torch.rand(2, 3, 20) < 0.4
    mask[:, :, 0] = True
    return pooling, tokens, mask


def looped(pooling, tokens, mask):
    """One nn.MultiheadAttention call per case and organ, as in the release."""
    out = torch.zeros(2, 3, 8)
    for case in range(2):
        for organ in range(3):
            keys = tokens[case, mask[case, organ]][None]
            pooled, _ = pooling.attention(pooling.queries[organ][None, None], keys, keys)
            projected = torch.nn.functional.linear(
                pooled[0, 0], pooling.projection_weight[organ], pooling.projection_bias[organ]
            )
            out[case, organ] = torch.nn.functional.normalize(projected, dim=-1)
    return out


def test_pooling_all_organs_at_once_equals_the_loop_forward_and_gradient():
    pooling, tokens, mask = a_pooling()
    weight = torch.randn(2, 3, 8)
    results = []
    for function in (pooling, lambda t, m: looped(pooling, t, m)):
        leaf = tokens.clone().requires_grad_()
        out = function(leaf, mask)
        gradients = torch.autograd.grad((out * weight).sum(), [leaf, *pooling.parameters()])
        results.append((out, gradients))
    (fast, fast_gradients), (slow, slow_gradients) = results
    assert torch.allclose(fast, slow, atol=1e-5)
    for a, b in zip(fast_gradients, slow_gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_an_organ_without_tokens_is_zero_and_leaves_finite_gradients():
    pooling, tokens, mask = a_pooling()
    mask[0, 1] = False
    leaf = tokens.clone().requires_grad_()
    out = pooling(leaf, mask)
    assert torch.equal(out[0, 1], torch.zeros(8))
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    assert torch.isfinite(gradient).all()
    mask[0, 1, 0] = True
    assert torch.allclose(pooling(tokens, mask)[1], out[1])


def test_image_features_equal_the_plain_evaluation(small):
    config = small.config
    case = a_case(CHEST)
    merged = plain_fvlm.merge_labels(case.segmentation.labels_kji, dict(case.segmentation.names), config.organs)
    image, labels = plain_fvlm.resize(
        case.ct.array_kji.transpose(2, 1, 0), merged.transpose(2, 1, 0), case.ct.ijk_to_ras, config.preprocessing
    )
    image, labels = plain_fvlm.crop_and_pad(image, labels, config.preprocessing)
    expected = plain_fvlm.PlainFVLM(small).image_features(image, labels)
    features = small.model.encode_image(a_preprocessor(config).reference_windows()).organ_features
    assert sorted(features) == sorted(expected) == [0, 1, 3]
    for organ, feature in features.items():
        assert torch.allclose(feature, expected[organ], atol=1e-5)


def test_text_features_do_not_depend_on_padding_or_token_types(small):
    plain = plain_fvlm.PlainFVLM(small)
    features = TextEncoder(small)(["Not pleural effusion.", "Pleural effusion, large, on the left side.", "Cyst."])
    expected = plain.text_pair("Not pleural effusion.", "Pleural effusion, large, on the left side.")
    assert torch.allclose(features[:2], expected, atol=1e-5)
    assert not small.model.text.bert.embeddings.token_type_embeddings.weight.any()


def test_a_very_long_text_is_truncated_to_the_models_maximum(small):
    ids, mask = tokenize(small.tokenizer, ["lung " * 5000], small.config.text.max_tokens)
    assert ids.shape == mask.shape == (1, 128)


def test_a_checkpoint_directory_gives_the_same_model_back(small, saved):
    loaded = load_checkpoint(saved)
    assert loaded.config == small.config
    assert loaded.identity.trained
    assert loaded.identity.license == "none"
    texts = ["Nodule.", "Not Nodule."]
    assert torch.equal(TextEncoder(loaded)(texts), TextEncoder(small)(texts))
    window = a_preprocessor(small.config).shared_windows().windows[0]
    with torch.no_grad():
        assert torch.equal(loaded.model.encode_window(window).tokens_TC, small.model.encode_window(window).tokens_TC)


def test_the_identity_changes_with_the_weights(small, saved, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(saved, other)
    state = load_file(other / "model.safetensors")
    state["temperature"] = torch.tensor(0.1)
    save_file(state, other / "model.safetensors")
    assert load_checkpoint(saved).identity.sha256 != load_checkpoint(other).identity.sha256


def test_the_identity_changes_with_the_tokenizer(saved, tmp_path):
    before = load_checkpoint(saved).identity.sha256
    path = saved / "tokenizer.json"
    path.write_text(path.read_text().replace('"nodule"', '"nodulus"'))
    assert load_checkpoint(saved).identity.sha256 != before


def test_half_precision_weights_are_read_as_fp32(small, saved):
    state = {key: tensor.bfloat16() for key, tensor in load_file(saved / "model.safetensors").items()}
    save_file(state, saved / "model.safetensors")
    loaded = load_checkpoint(saved)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    features = TextEncoder(loaded)(["Nodule."])
    assert torch.allclose(features, TextEncoder(small)(["Nodule."]), atol=0.05)


def test_an_untrained_checkpoint_is_marked_without_its_makers_help(small, tmp_path):
    save_checkpoint(tmp_path / "model", small.model, small.tokenizer, name="x", trained=False)
    assert load_checkpoint(tmp_path / "model").identity.notice.startswith("UNTRAINED")


def test_weights_can_be_read_by_colleagues_as_the_umask_allows(saved):
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(saved):
    header = json.loads((saved / "config.json").read_text())
    header["model"]["text"]["vocabulary_size"] = 50
    (saved / "config.json").write_text(json.dumps(header))
    state = load_file(saved / "model.safetensors")
    key = "text.bert.embeddings.word_embeddings.weight"
    save_file(state | {key: state[key][:50].clone()}, saved / "model.safetensors")
    with pytest.raises(ModelError, match="tokens, the model only 50"):
        load_checkpoint(saved)


def test_every_missing_unexpected_and_misshapen_key_is_named(saved):
    state = load_file(saved / "model.safetensors")
    del state["vision.norm.weight"]
    state["text_projection.bias"] = torch.zeros(3)
    state["surplus"] = torch.zeros(1)
    save_file(state, saved / "model.safetensors")
    with pytest.raises(ModelError) as error:
        load_checkpoint(saved)
    assert "missing: vision.norm.weight" in str(error.value)
    assert "unexpected: surplus" in str(error.value)
    assert "text_projection.bias: shape (3,), expected (24,)" in str(error.value)


def test_a_truncated_weights_file_is_named(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "no configuration of this software"),
        ("not json", "no configuration of this software"),
        (
            '{"format": "ctgvlm-model", "format_version": 1, "name": "x", "trained": true, "model": "y"}',
            "no configuration",
        ),
        (
            '{"format": "ctgvlm-model", "format_version": 1, "name": "x", "trained": "false", "model": {"organs": {}}}',
            "true or false",
        ),
        ('{"format": "ctgvlm-model", "format_version": 99}', "format version 99; this software reads version 1"),
    ],
)
def test_a_foreign_configuration_is_refused(saved, content, message):
    (saved / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_checkpoint(saved)


def test_an_unknown_field_of_the_configuration_is_named(saved):
    header = json.loads((saved / "config.json").read_text())
    header["model"]["vision"]["colour"] = 1
    (saved / "config.json").write_text(json.dumps(header))
    with pytest.raises(ModelError, match="colour"):
        load_checkpoint(saved)


def test_a_missing_tokenizer_is_named(saved):
    for name in ("tokenizer.json", "vocab.txt"):
        (saved / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="No tokenizer in"):
        load_checkpoint(saved)


def test_saving_over_something_is_refused_and_leaves_it(small, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        save_checkpoint(tmp_path, small.model, small.tokenizer, name="x", trained=True)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_failed_save_leaves_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "CTGroundedVLMLib.model.checkpoint.save_file", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OutputError, match="disk full"):
        save_checkpoint(tmp_path / "model", small.model, small.tokenizer, name="x", trained=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionConfig(image_size=(100, 256, 352)), "image_size.*multiples of the patch size"),
        (lambda: VisionConfig(levels=(3, 12)), "levels"),
        (lambda: TextConfig(max_tokens=600), r"max_tokens is 600, expected at most text\.positions"),
        (lambda: ModelConfig(organs={}), "organs"),
        (lambda: ModelConfig(organs={"lung": ("lungs",)}), "lungs.*class names of TotalSegmentator"),
        (lambda: PreprocessingConfig(spacing_mm=(1.0, 1.0)), "spacing_mm.*three values"),
        (lambda: ModelConfig(organs={"liver": ("liver",)}, pooling_heads=5), "pooling_heads"),
    ],
)
def test_a_wrong_configuration_names_the_field(make, message):
    with pytest.raises(ModelError, match=message):
        make()


def test_a_configuration_survives_json():
    for config in (fvlm_config(), fvlm_config("anatomy36"), debug_config()):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_untrained_model_is_the_same_every_time_and_says_so(small):
    again = a_small_model()
    for name, tensor in small.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
    assert not small.identity.trained
    assert "UNTRAINED" in small.identity.notice


def test_cached_text_embeddings_are_reused_and_damaged_ones_made_anew(small, tmp_path):
    trained = dataclasses.replace(small, identity=dataclasses.replace(small.identity, trained=True, sha256="a" * 64))
    first = TextEncoder(trained, tmp_path)(["Nodule.", "Cyst."])
    files = sorted(tmp_path.rglob("*.npy"))
    assert len(files) == 2
    np.save(files[0], np.full(24, np.nan, np.float32))
    files[1].write_bytes(b"")
    assert torch.equal(TextEncoder(trained, tmp_path)(["Nodule.", "Cyst."]), first)
    marker = np.zeros(24, np.float32)
    for path in files:
        np.save(path, marker)
    assert torch.equal(TextEncoder(trained, tmp_path)(["Cyst."])[0], torch.zeros(24))  # it did come from the disk


def test_without_a_model_the_message_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(tmp_path))
    with pytest.raises(ModelError, match=r"import-fvlm(.|\n)*--model untrained"):
        find_model(None)
    with pytest.raises(ModelError, match='"nonsense" is neither a folder nor an installed model'):
        find_model("nonsense")


def test_an_installed_model_is_found_by_name_and_alone_without_one(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CTGVLM_MODELS_DIR", str(tmp_path))
    save_checkpoint(tmp_path / "mine", small.model, small.tokenizer, name="mine", trained=True)
    assert list(readable_models(tmp_path)) == ["mine"]
    assert find_model("mine").identity.name == find_model(None).identity.name == "mine"
    shutil.copytree(tmp_path / "mine", tmp_path / "second")
    with pytest.raises(ModelError, match="mine, second"):
        find_model(None)

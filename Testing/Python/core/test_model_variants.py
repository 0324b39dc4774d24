"""What the release does not have: no background tokens, narrow windows, a stem; and the margins of single tokens."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from cases import a_case, a_small_model
from CTGroundedVLMLib.errors import ModelError
from CTGroundedVLMLib.model.checkpoint import load_checkpoint, save_checkpoint
from CTGroundedVLMLib.model.config import ModelConfig, VisionConfig, debug_config
from CTGroundedVLMLib.model.fvlm import organ_token_mask
from CTGroundedVLMLib.preprocessing import Preprocessor

DEBUG = debug_config()  # crops of 48 x 64 x 96, patches of 16 x 16 x 32: 3 x 4 x 3 tokens
FAR_APART = {"lung_lower_lobe_right": ((4, 10, 10), (14, 30, 40)), "heart": ((24, 80, 90), (34, 100, 120))}
NEW_FIELDS = {"background_tokens": False, "narrow_windows": ((0.68, 0.92), (0.1, 0.4)), "stem": (3, 5)}


def a_model(**vision):
    return a_small_model(replace(DEBUG, vision=replace(DEBUG.vision, **vision)))


@pytest.fixture(scope="module")
def sparse():
    return a_model(background_tokens=False)


def random_image(shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def some_tokens(count, seed=1):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.4


def of_patches(mask_N, grid, patch):
    """True for the voxels of these tokens (D, H, W)."""
    mask = mask_N.view(grid)
    for axis, length in enumerate(patch):
        mask = mask.repeat_interleave(length, axis)
    return mask


def embedded(vision, image_DHW):
    """Tokens (N, C) of a model without stem and narrow windows: torch's strided convolution, interpolated positions."""
    conv = vision.patch_embedding.patch_embeddings
    tokens = F.conv3d(image_DHW[None, None], conv.weight, conv.bias, stride=conv.kernel_size)
    position = vision.patch_embedding.position_embeddings[0].T.view(1, -1, *vision.config.grid)
    if tokens.shape[2:] != position.shape[2:]:
        position = F.interpolate(position, size=tokens.shape[2:], mode="trilinear")
    return (tokens + position)[0].flatten(1).T


def through_blocks(vision, tokens_NC):
    """The levels of these tokens, block by block with attention written out."""
    levels = []
    for i, block in enumerate(vision.blocks):
        heads, width = block.attn.num_heads, tokens_NC.shape[1]
        q, k, v = (
            part.view(-1, heads, width // heads).transpose(0, 1)
            for part in block.attn.qkv(block.norm1(tokens_NC)).chunk(3, -1)
        )
        weights = (q @ k.transpose(1, 2) / (width // heads) ** 0.5).softmax(-1)
        tokens_NC = tokens_NC + block.attn.out_proj((weights @ v).transpose(0, 1).flatten(1))
        tokens_NC = tokens_NC + block.mlp(block.norm2(tokens_NC))
        if i in vision.config.levels:
            levels.append(tokens_NC)
    return [*levels, vision.norm(tokens_NC)]


# --- Without background tokens


@pytest.mark.parametrize("shape", [(48, 64, 96), (32, 80, 128)], ids=["the trained size", "another size"])
def test_without_background_the_blocks_see_the_tokens_of_organs_alone(sparse, shape):
    vision = sparse.model.vision
    images, count = random_image((2, *shape)), 36 if shape[0] == 48 else 2 * 5 * 4
    kept = torch.stack([some_tokens(count, 1), some_tokens(count, 2)])
    with torch.no_grad():
        levels = vision(images, organs_BN=kept)
        for case in range(2):
            expected = through_blocks(vision, embedded(vision, images[case])[kept[case]])
            for level, of_case in zip(levels, expected, strict=True):
                assert torch.allclose(level[case, kept[case]], of_case, atol=1e-5)
                assert not level[case, ~kept[case]].any()


def test_without_background_voxels_of_other_tokens_change_nothing_and_with_it_they_do(sparse):
    image, kept = random_image((1, 48, 64, 96)), some_tokens(36)
    background = ~of_patches(kept, (3, 4, 3), (16, 16, 32))
    changed = torch.where(background, 1 - image, image)
    dense = a_model().model.vision
    with torch.no_grad():
        before, after = (sparse.model.vision(x, organs_BN=kept[None]) for x in (image, changed))
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert not torch.allclose(dense(image)[-1][:, kept], dense(changed)[-1][:, kept], atol=1e-5)
        one_voxel = image.clone()
        one_voxel[0][~background] = 0.5
        assert not torch.allclose(before[-1], sparse.model.vision(one_voxel, organs_BN=kept[None])[-1], atol=1e-5)


def test_the_model_asks_for_the_tokens_of_organs_where_it_needs_them(sparse):
    with pytest.raises(ValueError, match="needs organs_BN"):
        sparse.model.vision(random_image((1, 48, 64, 96)))


@pytest.mark.parametrize("kind", ["shared_windows", "reference_windows"])
def test_a_window_is_encoded_with_the_tokens_of_all_organs_that_it_shows(sparse, kind):
    """Organs of a window that are not asked for in it are no background, as in training."""
    config, vision = sparse.config, sparse.model.vision
    preprocessor = Preprocessor(a_case(FAR_APART), config.organs, config.preprocessing, config.vision.patch_size)
    for window in getattr(preprocessor, kind)().windows:
        encoded = sparse.model.encode_window(window)
        grid, patch = encoded.grid, config.vision.patch_size
        in_any = F.max_pool3d((window.organ_map_DHW > 0).float()[None], patch).flatten() > 0
        asked = torch.stack(
            [F.max_pool3d((window.organ_map_DHW == o + 1).float()[None], patch).flatten() > 0 for o in window.organs]
        )
        assert torch.equal(encoded.token_mask_ON, asked)
        assert 0 < in_any.sum() < len(in_any)
        with torch.no_grad():
            expected = through_blocks(vision, embedded(vision, window.image_DHW)[in_any])
        levels = encoded.tokens_TC.view(len(expected), len(in_any), -1)
        for level, of_kept in zip(levels[:-1], expected[:-1], strict=True):
            assert torch.allclose(level[in_any], of_kept, atol=1e-5)
            assert not level[~in_any].any()
        of_asked = asked.any(0)
        assert torch.allclose(levels[-1][of_asked], expected[-1][of_asked[in_any]], atol=1e-5)
        assert not levels[-1][~of_asked].any()
        noisy = torch.where(of_patches(in_any, grid, patch), window.image_DHW, random_image(window.image_DHW.shape))
        again = sparse.model.encode_window(replace(window, image_DHW=noisy))
        assert torch.equal(again.tokens_TC, encoded.tokens_TC)
        assert torch.equal(sparse.model.pool(again), sparse.model.pool(encoded))


def test_a_case_without_tokens_of_organs_keeps_the_graph_and_leaves_others_as_they_are(sparse):
    model = sparse.model
    images, ids = random_image((2, 48, 64, 96)), torch.randint(5, 99, (2, 6))
    mask = torch.zeros(2, len(DEBUG.organs), 36, dtype=torch.bool)
    mask[0, :, 10:20] = True
    both, _, _ = model(images, mask, ids, torch.ones_like(ids))
    alone, _, _ = model(images[:1], mask[:1], ids, torch.ones_like(ids))
    assert torch.allclose(both[0], alone[0], atol=1e-6)
    assert not both[1].any()
    organs, texts, temperature = model(images[1:], mask[1:], ids, torch.ones_like(ids))
    (organs.sum() + texts.sum() + temperature).backward()
    try:
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert [name for name, g in gradients.items() if g is None] == []
        assert all(g.isfinite().all() for g in gradients.values())
        assert not any(g.any() for name, g in gradients.items() if name.startswith("vision."))
    finally:
        model.zero_grad(set_to_none=True)


# --- Narrow windows and the stem


def plain_patches(vision, image_BDHW):
    """Stacked channels, then torch's convolutions, one after the other."""
    x = torch.stack([image_BDHW, *((image_BDHW - a) / (b - a) for a, b in vision.config.narrow_windows)], dim=1)
    x = x.clip(0, 1)
    for i, stride in enumerate(vision.config.stem_strides):
        x = F.conv3d(x, vision.stem[2 * i].weight, vision.stem[2 * i].bias, stride, padding=1).clip(min=0)
    conv = vision.patch_embedding.patch_embeddings
    return F.conv3d(x, conv.weight, conv.bias, stride=conv.kernel_size).flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "vision",
    [
        {"narrow_windows": ((0.68, 0.92),)},
        {"stem": (3, 5)},
        {"narrow_windows": ((0.68, 0.92), (0.1, 0.4)), "stem": (4, 6, 7)},
    ],
    ids=["windows", "stem", "both"],
)
@pytest.mark.parametrize("shape", [(48, 64, 96), (32, 80, 128)], ids=["the trained size", "another size"])
def test_patches_equal_torchs_convolutions_of_stacked_channels(vision, shape):
    tower = a_model(**vision).model.vision
    for name, parameter in tower.named_parameters():  # biases start at zero: a lost one would not show
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    image = random_image((2, *shape))
    with torch.no_grad():
        expected = plain_patches(tower, image)
        assert expected.std() > 1e-3
        assert torch.allclose(tower._patch_tokens(image), expected, atol=1e-5)


def test_a_narrow_window_fills_0_to_1_with_its_part_of_the_hu_window():
    tower = a_model(narrow_windows=((0.5, 0.75),), patch_size=(1, 1, 1), image_size=(1, 1, 5)).model.vision
    conv = tower.patch_embedding.patch_embeddings
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand_as(conv.weight))
        conv.bias.zero_()
        tokens = tower._patch_tokens(torch.tensor([0.2, 0.5, 0.6, 0.75, 0.9]).view(1, 1, 1, 5))
    assert tokens[0, :, 0].tolist() == pytest.approx([0, 0, 0.4, 1, 1])


@pytest.mark.parametrize(
    ("patch", "channels", "strides", "left"),
    [
        ((4, 8, 8), 2, ((1, 2, 2), (2, 2, 2)), (2, 2, 2)),
        ((16, 16, 32), 3, ((1, 1, 2), (2, 2, 2), (2, 2, 2)), (4, 4, 4)),
        ((3, 6, 12), 3, ((1, 1, 2), (1, 2, 2), (1, 1, 1)), (3, 3, 3)),
        ((1, 1, 1), 1, ((1, 1, 1),), (1, 1, 1)),
    ],
)
def test_a_stem_halves_the_longest_even_axes_of_the_patch(patch, channels, strides, left):
    config = VisionConfig(tuple(4 * p for p in patch), patch, 8, 8, 1, 1, levels=(), stem=(2,) * channels)
    assert config.stem_strides == strides
    tower = a_model(patch_size=patch, image_size=config.image_size, stem=config.stem).model.vision
    assert tower.patch_embedding.patch_embeddings.kernel_size == left
    with torch.no_grad():
        assert tower(random_image((1, *config.image_size)))[-1].shape == (1, 64, DEBUG.vision.hidden_size)


# --- Configuration and checkpoint


def test_a_configuration_of_before_these_fields_still_loads_as_the_release_s_model(tmp_path):
    made = a_model()
    folder = tmp_path / "model"
    save_checkpoint(folder, made.model, made.tokenizer, name="old", trained=True)
    header = json.loads((folder / "config.json").read_text())
    for name in NEW_FIELDS:
        del header["model"]["vision"][name]
    (folder / "config.json").write_text(json.dumps(header))
    loaded = load_checkpoint(folder)
    assert loaded.config == made.config
    vision = loaded.config.vision
    assert (vision.background_tokens, vision.narrow_windows, vision.stem) == (True, (), ())
    assert loaded.model.state_dict().keys() == made.model.state_dict().keys()
    assert not any("stem" in name for name in loaded.model.state_dict())
    image = random_image((1, 48, 64, 96))
    with torch.no_grad():
        assert torch.equal(loaded.model.vision(image)[-1], made.model.vision(image)[-1])


def test_a_checkpoint_with_all_of_it_gives_the_same_model_back(tmp_path):
    made = a_model(**NEW_FIELDS)
    save_checkpoint(tmp_path / "model", made.model, made.tokenizer, name="new", trained=True)
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.config == made.config
    assert loaded.config.vision.narrow_windows == ((0.68, 0.92), (0.1, 0.4))
    state = loaded.model.state_dict()
    assert state["vision.stem.0.weight"].shape == (3, 3, 3, 3, 3), "one wide and two narrow windows"
    assert all(torch.equal(value, state[name]) for name, value in made.model.state_dict().items())
    image, kept = random_image((1, 48, 64, 96)), some_tokens(36)[None]
    with torch.no_grad():
        ours, theirs = (x.model.vision(image, organs_BN=kept)[-1] for x in (made, loaded))
    assert torch.equal(ours, theirs)


def test_nested_tuples_survive_json():
    config = replace(DEBUG, vision=replace(DEBUG.vision, **NEW_FIELDS))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"narrow_windows": ((0.5, 0.2),)}, r"vision\.narrow_windows.*0 <= lower < upper <= 1"),
        ({"narrow_windows": ((0.5, 1.2),)}, r"vision\.narrow_windows"),
        ({"narrow_windows": ((0.1, 0.2, 0.3),)}, r"vision\.narrow_windows"),
        ({"stem": (8, 0)}, r"vision\.stem.*above 0"),
    ],
)
def test_windows_and_stems_that_cannot_be_are_named(values, message):
    with pytest.raises(ModelError, match=message):
        replace(DEBUG.vision, **values)


# --- Margins of single tokens


def own_margin(model, images, case, organ, token, pair, ids):
    """The model's margin of an organ that consists of this token."""
    mask = torch.zeros(1, len(DEBUG.organs), 36, dtype=torch.bool)
    mask[0, organ, token] = True
    organs, texts, temperature = model(images[case][None], mask, ids, torch.ones_like(ids))
    return organs[0, organ] @ (texts[pair[0]] - texts[pair[1]]) / temperature


@pytest.mark.parametrize("levels", [(), (1, 2)], ids=["one level", "three levels"])
def test_a_token_s_margin_is_that_of_an_organ_of_this_token(levels):
    """With several levels where the organ attends to all of them alike: its query is zero."""
    model = a_model(levels=levels).model
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for bias in (model.pooling.projection_bias, model.pooling.attention.out_proj.bias):
            bias.normal_(0, 0.05, generator=generator)
        model.pooling.attention.in_proj_bias[-DEBUG.vision.hidden_size :].normal_(0, 0.1, generator=generator)
        if levels:
            model.pooling.queries.zero_()
    images, ids = random_image((2, 48, 64, 96)), torch.randint(5, 99, (5, 6), generator=generator)
    mask = torch.rand(2, len(DEBUG.organs), 36, generator=generator) < 0.1
    mask[1, 2] = False
    organ_of_F, prompts = torch.tensor([2, 0, 2]), torch.tensor([[3, 1], [0, 4], [2, 3]])
    with torch.no_grad():
        organs, texts, tau, *located = model(images, mask, ids, torch.ones_like(ids), organ_of_F, prompts)
        plain = model(images, mask, ids, torch.ones_like(ids))
        assert all(torch.equal(a, b) for a, b in zip((organs, texts, tau), plain, strict=True))
        margins, cases, questions, places = located
        expected_places = {
            (case, f, token)
            for f, organ in enumerate(organ_of_F.tolist())
            for case, token in mask[:, organ].nonzero().tolist()
        }
        found = list(zip(cases.tolist(), questions.tolist(), places.tolist(), strict=True))
        assert len(found) == len(set(found)) > 10
        assert set(found) == expected_places
        for margin, (case, f, token) in list(zip(margins, found, strict=True))[::3]:
            expected = own_margin(model, images, case, int(organ_of_F[f]), token, prompts[f], ids)
            assert margin.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)
    assert margins.std() > 1e-2


def test_questions_of_a_batch_without_any_token_give_no_margins_and_a_graph():
    model = a_model().model
    mask, ids = torch.zeros(1, len(DEBUG.organs), 36, dtype=torch.bool), torch.randint(5, 99, (2, 6))
    question, pair = torch.tensor([1]), torch.tensor([[0, 1]])
    margins, *numbers = model(random_image((1, 48, 64, 96)), mask, ids, torch.ones_like(ids), question, pair)[3:]
    assert margins.shape == (0,)
    assert margins.requires_grad
    assert all(n.shape == (0,) for n in numbers)


# --- Which tokens lie in which organ


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_token_masks_are_max_pooled_organ_masks_up_to_the_last_number(dtype):
    generator = torch.Generator().manual_seed(5)
    organ_map = torch.randint(0, 256, (6, 8, 12), generator=generator).to(dtype)
    organ_map[:, :4] = 0
    organ_map[5, 7, 11] = 255
    organs = (254, 0, 7, 100)
    found = organ_token_mask(organ_map, organs, (2, 4, 3))
    for row, organ in zip(found, organs, strict=True):
        expected = F.max_pool3d((organ_map == organ + 1).float()[None], (2, 4, 3)).flatten() > 0
        assert torch.equal(row, expected)
    assert found[0, -1]
    assert found[0].sum() < found.shape[1]

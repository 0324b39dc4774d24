"""Crops, which organs they show, and which text goes with which organ."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.data.collate import Collator, TextConfig, text_and_status
from CTGroundedVLMTraining.data.views import ViewConfig, take_view
from CTGroundedVLMTraining.types import ABNORMAL, NORMAL, SKIP, OrganText, PreparedCase, text_key

MODEL = debug_config()  # crops of 48 x 64 x 96, patches of 16 x 16 x 32, four organs
ORGANS = tuple(MODEL.organs)


def a_case(shape=(60, 80, 120), box=None, name="a", **how):
    """An organ map with lung in ``box`` (a slice triple) and a ramp of HU along W."""
    hu = np.broadcast_to(np.linspace(-1150, 350, shape[2]).astype(np.int16), shape).copy()
    organ_map = np.zeros(shape, np.uint8)
    organ_map[box or (slice(20, 40), slice(20, 40), slice(30, 60))] = 1
    return PreparedCase(name, f"patient {name}", hu, organ_map, ORGANS, how.pop("texts", {}), **how)


def view_of(case, config=None, seed=0):
    return take_view(case, MODEL, config or ViewConfig(), np.random.default_rng(seed))


def test_a_view_is_a_crop_of_the_windowed_volume():
    view = view_of(a_case())
    assert view.image_DHW.shape == MODEL.vision.image_size
    assert view.image_DHW.dtype == torch.float32
    step = 1 / 119
    differences = view.image_DHW[0, 0].diff()
    assert np.abs(differences.numpy() - step).max() < 1.5 / 1500 + step / 20
    assert 0 <= view.image_DHW.min() < view.image_DHW.max() <= 1


def test_a_small_volume_is_padded_with_air_on_both_sides_and_keeps_its_organs():
    case = a_case((40, 60, 90), (slice(10, 20), slice(10, 20), slice(10, 20)))
    view = view_of(case)
    assert view.image_DHW[:4].max() == 0
    assert view.image_DHW[-4:].max() == 0
    assert view.image_DHW[4:-4, 2:-2, 3:-3].max() > 0.9
    # padded by (4, 2, 3): the organ's voxels 14..23, 12..21, 13..22 lie in patches (0..1, 0..1, 0)
    tokens = view.token_mask_ON[0].view(3, 4, 3).nonzero().tolist()
    assert tokens == [[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]


def test_the_same_random_state_gives_the_same_view_and_another_one_another():
    case = a_case()
    first, again, other = view_of(case, seed=1), view_of(case, seed=1), view_of(case, seed=2)
    assert torch.equal(first.image_DHW, again.image_DHW)
    assert not torch.equal(first.image_DHW, other.image_DHW)


def test_a_translation_moves_image_and_masks_together_and_shows_air_beyond_the_volume():
    shape = MODEL.vision.image_size
    case = a_case(shape, (slice(20, 30), slice(20, 30), slice(40, 50)))
    case = replace(case, finding_map_DHW=case.organ_map_DHW, mapped_findings=("lung/Lung nodule",))
    case.hu_DHW[:], case.hu_DHW[case.organ_map_DHW > 0] = -900, 300
    starts = set()
    for seed in range(30):
        view = view_of(case, ViewConfig(translation=(3, 0, 8)), seed)
        bright = (view.image_DHW > 0.9).nonzero()
        start = (bright.min(0).values - torch.tensor([20, 20, 40])).tolist()
        starts.add(tuple(start))
        assert bright.max(0).values.tolist() == [29 + start[0], 29 + start[1], 49 + start[2]]
        patches = sorted({tuple((voxel // torch.tensor([16, 16, 32])).tolist()) for voxel in bright})
        assert [tuple(place) for place in view.token_mask_ON[0].view(3, 4, 3).nonzero().tolist()] == patches
        assert torch.equal(view.finding_tokens_KN[0], view.token_mask_ON[0])
        empty = (view.image_DHW == 0).sum().item()
        assert empty == 48 * 64 * 96 - (48 - abs(start[0])) * 64 * (96 - abs(start[2]))
    d, h, w = ({start[axis] for start in starts} for axis in range(3))
    assert (min(d), max(d), h) == (-3, 3, {0})
    assert min(w) < -4
    assert max(w) > 4


def test_without_a_translation_a_crop_draws_the_numbers_it_always_drew():
    case, size = a_case(), MODEL.vision.image_size
    random = np.random.default_rng(5)
    start = [int(random.integers(n - s + 1)) for n, s in zip(case.hu_DHW.shape, size, strict=True)]
    hu = case.hu_DHW[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))]
    low, high = MODEL.preprocessing.hu_window
    expected = torch.from_numpy((hu.astype(np.float32) - low) / (high - low)).clamp(0, 1)
    assert torch.equal(view_of(case, seed=5).image_DHW, expected)


def test_a_crop_that_was_moved_out_of_the_volume_shows_air_and_no_organ():
    view = view_of(a_case((10, 10, 10), (slice(0, 10),) * 3), ViewConfig(translation=(500, 500, 500)), seed=1)
    assert view.image_DHW.max() == 0
    assert not view.token_mask_ON.any()
    assert not view.visible_O.any()


def test_views_for_validation_keep_the_rule_of_visible_organs_and_nothing_random():
    config = ViewConfig((0.5,) * 3, "drop", 0.7, 50, noise_hu=1.0, scale=0.1, shift_hu=2.0, translation=(1, 2, 3))
    assert config.without_augmentation() == ViewConfig(partial_organs="drop", min_visible=0.7, min_voxels=50)


@pytest.mark.parametrize("translation", [(1, 2), (-1, 0, 0)])
def test_a_translation_that_is_none_is_refused(translation):
    with pytest.raises(ValueError, match=r"translation is .* expected three numbers of voxels"):
        ViewConfig(translation=translation)


def test_an_organ_on_the_crop_s_border_is_dropped_by_the_release_s_rule():
    shape = MODEL.vision.image_size
    inside = a_case(shape, (slice(1, 47), slice(1, 63), slice(1, 95)))
    touching = a_case(shape, (slice(1, 47), slice(1, 63), slice(1, 96)))
    config = ViewConfig(partial_organs="drop")
    assert view_of(inside, config).visible_O.tolist() == [True, False, False, False]
    assert view_of(touching, config).visible_O.tolist() == [False] * 4


@pytest.mark.parametrize(("depth", "visible"), [(96, True), (97, False), (200, False)])
def test_an_organ_counts_while_half_of_it_is_in_the_crop(depth, visible):
    """The organ fills a column of ``depth`` planes, of which the crop shows 48."""
    case = a_case((depth, 64, 96), (slice(None), slice(10, 20), slice(10, 20)))
    assert view_of(case).visible_O[0].item() is visible


def test_a_few_voxels_of_an_organ_are_no_organ():
    case = a_case((48, 64, 96), (slice(10, 11), slice(10, 20), slice(10, 19)))  # 90 voxels
    assert not view_of(case).visible_O[0]
    assert view_of(case, ViewConfig(min_voxels=90)).visible_O[0]


def test_flips_turn_image_and_organs_together():
    case = a_case((48, 64, 96), (slice(0, 16), slice(0, 16), slice(0, 32)))
    view = view_of(case, ViewConfig(flips=(1, 0, 1)))
    assert view.token_mask_ON[0].view(3, 4, 3).nonzero().tolist() == [[2, 0, 2]]
    assert view.image_DHW[0, 0, 0] > view.image_DHW[0, 0, -1]


def test_intensity_augmentation_changes_the_image_but_not_the_organs():
    case = a_case((48, 64, 96))
    plain, noisy = view_of(case), view_of(case, ViewConfig(noise_hu=15.0, scale=0.02, shift_hu=10))
    assert torch.equal(plain.token_mask_ON, noisy.token_mask_ON)
    assert 0.003 < (plain.image_DHW - noisy.image_DHW).abs().mean() < 0.05


def test_a_case_prepared_for_other_organs_is_refused():
    case = a_case()
    other = PreparedCase(**{**vars(case), "organs": ("liver",)})
    with pytest.raises(ValueError, match=r"case a was prepared for the organs liver; .*Prepare the data again"):
        view_of(other)


@pytest.mark.parametrize(
    ("said", "config", "expected"),
    [
        (None, TextConfig(), ("lung shows no significant abnormalities.", NORMAL)),
        (None, TextConfig(unmentioned="skip"), ("", SKIP)),
        (OrganText("Clear lungs.", "normal"), TextConfig(), ("Clear lungs.", NORMAL)),
        (
            OrganText("Clear lungs.", "normal"),
            TextConfig(normal_text="template"),
            ("lung shows no significant abnormalities.", NORMAL),
        ),
        (OrganText("", "normal"), TextConfig(), ("lung shows no significant abnormalities.", NORMAL)),
        (OrganText(" Nodule. ", "abnormal"), TextConfig(), ("Nodule.", ABNORMAL)),
        (OrganText("", "abnormal"), TextConfig(), ("", SKIP)),
        (OrganText("Possible nodule.", "uncertain"), TextConfig(), ("Possible nodule.", ABNORMAL)),
        (OrganText("Possible nodule.", "uncertain"), TextConfig(uncertain="skip"), ("", SKIP)),
        # an abnormality that begins with the release's prefix for normal organs stays abnormal
        (
            OrganText("lung shows no significant abnormalities. Nodule.", "abnormal"),
            TextConfig(),
            ("lung shows no significant abnormalities. Nodule.", ABNORMAL),
        ),
    ],
)
def test_text_and_status_of_an_organ(said, config, expected):
    assert text_and_status("lung", said, config) == expected


def two_views():
    first = a_case(
        name="a",
        texts={"lung": OrganText("Nodule.", "abnormal"), "heart": OrganText("Normal heart.", "normal")},
        report="Nodule. Normal heart.",
        labels={"lung/Emphysema": 0},
    )
    second = a_case(name="b", texts={"lung": OrganText("Nodule.", "abnormal")}, labels={"lung/Emphysema": 1})
    return [view_of(first), view_of(second)]


def test_a_batch_holds_each_text_once_and_only_texts_of_organs_in_the_crop():
    tokenizer = registry_tokenizer()
    batch = Collator(tokenizer, 16, findings=("lung/Emphysema", "lung/Lung nodule"))(two_views())
    assert batch.text_of_BO.tolist() == [[0, -1, -1, -1], [0, -1, -1, -1]]
    assert tokenizer.batch_decode(batch.text_ids_PT, skip_special_tokens=True) == ["nodule."]
    assert batch.text_key_BO[0, 0] == text_key("Nodule.")
    assert batch.valid_BO.tolist() == [[True, False, False, False]] * 2
    assert batch.status_BO[:, 0].tolist() == [ABNORMAL, ABNORMAL]
    assert batch.labels_BF[:, 0].tolist() == [0, 1]
    assert batch.labels_BF[:, 1].isnan().all()


def test_reports_are_encoded_where_the_objective_needs_them():
    batch = Collator(registry_tokenizer(), 16, organ_texts=False, reports=True)(two_views())
    assert batch.report_of_B.tolist() == [0, -1]
    assert (batch.text_of_BO == -1).all()
    assert len(batch.text_ids_PT) == 1


def test_a_batch_without_any_text_still_has_one_to_encode():
    batch = Collator(registry_tokenizer(), 16, organ_texts=False)(two_views())
    assert batch.text_ids_PT.shape[0] == 1
    assert (batch.text_of_BO == -1).all()


def test_long_texts_are_cut():
    case = a_case(texts={"lung": OrganText("nodule " * 50, "abnormal")})
    assert Collator(registry_tokenizer(), 16)([view_of(case)]).text_ids_PT.shape == (1, 16)


def test_text_keys_are_the_same_in_every_run():
    assert text_key("Nodule.") == 6548112385305995065
    assert text_key("Nodule.") == text_key("Nod" + "ule.")
    assert text_key("Nodule.") != text_key("Nodules.")

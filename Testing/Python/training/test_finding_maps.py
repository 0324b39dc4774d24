"""Voxels of findings from the manifest to a batch: they stay on their place in the CT, and what is broken is named."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from CTGroundedVLMLib.anatomy import findings as registry_findings
from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.tokenizer import tokenize
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMLib.preprocessing import Preprocessor
from CTGroundedVLMLib.types import Segmentation
from CTGroundedVLMTraining.data.collate import Collator
from CTGroundedVLMTraining.data.crop import crop_case
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.manifest import read_manifest, write_manifest
from CTGroundedVLMTraining.data.prepare import prepare
from CTGroundedVLMTraining.data.readers.base import ReaderOptions
from CTGroundedVLMTraining.data.shards import read_shard, shard_name, write_shard
from CTGroundedVLMTraining.data.sources import make_manifest
from CTGroundedVLMTraining.data.views import ViewConfig, take_view
from CTGroundedVLMTraining.objectives.clip import whole_body_organs
from training_data import a_corpus, write_case, write_image

MODEL = debug_config()  # crops of 48 x 64 x 96, patches of 16 x 16 x 32
NODULE, EFFUSION = "lung/Lung nodule", "heart/Pericardial effusion"
DENSE, THIN = 3000, 2000  # HU that nothing else of the case has
BOXES = {3: (slice(10, 17), slice(14, 30), slice(9, 20)), 5: (slice(9, 15), slice(18, 30), slice(32, 39))}  # k, j, i
FINDINGS = (EFFUSION, "lung/Emphysema", NODULE)


def plant(folder, seed=0, values=((3, "lung", "Lung nodule"), (5, "heart", "Pericardial effusion"))):
    """A case with two findings of their own HU, their map and its meaning."""
    case = write_case(folder, seed=seed)
    hu, drawn = case.ct.array_kji.copy(), np.zeros(case.ct.array_kji.shape, np.uint8)
    for value, box in BOXES.items():
        drawn[box] = value
    hu[drawn == 3], hu[drawn == 5] = DENSE, THIN
    write_image(folder / "ct.nii.gz", hu, case.ct.ijk_to_ras)
    write_image(folder / "findings.nii.gz", drawn, case.ct.ijk_to_ras)
    write_truth(folder, values)
    return replace(case, ct=replace(case.ct, array_kji=hu)), drawn


def write_truth(folder, values):
    found = [{"organ": organ, "finding": name, "label": value, "focal": True} for value, organ, name in values]
    (folder / "truth.json").write_text(json.dumps({"findings": found}))


@pytest.fixture
def corpus(tmp_path):
    """Two cases; the findings of the first are drawn."""
    manifest = a_corpus(tmp_path / "corpus", cases=2)
    folder = tmp_path / "corpus" / "cases" / "case0"
    plant(folder)
    rows = read_manifest(manifest)
    write_manifest(manifest, [replace(rows[0], findings=folder / "findings.nii.gz"), replace(rows[1], split="train")])
    return manifest


def refusals(folder):
    with open(folder / "quarantine.csv", newline="", encoding="utf-8") as file:
        return {row["case_id"]: row["reason"] for row in csv.DictReader(file)}


def inner(mask):
    """Without the outermost voxels along each axis."""
    for axis in range(3):
        mask = mask & np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask


# --- On its place


DIRECTIONS = {"supine": np.diag([-1.0, -1.0, 1.0]), "turned": np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_hu_under_the_map_are_those_of_the_finding(tmp_path, name):
    """Whichever way the CT's axes point, and with padding up to the model's crop."""
    case, drawn = plant(tmp_path)
    affine = case.ct.ijk_to_ras.copy()
    affine[:3, :3] = DIRECTIONS[name] * (2.0, 2.0, 4.0)
    case = replace(case, ct=replace(case.ct, ijk_to_ras=affine))
    cropped = crop_case(case, MODEL, Segmentation(drawn, {3: NODULE, 5: EFFUSION}))
    assert cropped.mapped_findings == (EFFUSION, NODULE)
    assert cropped.finding_map_DHW.dtype == np.uint8
    assert cropped.finding_map_DHW.shape == cropped.hu_DHW.shape == cropped.organ_map_DHW.shape
    for number, hu in ((1, THIN), (2, DENSE)):
        mask = cropped.finding_map_DHW == number
        core = inner(inner(mask))  # at the surface HU are interpolated
        assert core.sum() > 30
        assert (cropped.hu_DHW[core] == hu).all()
        assert mask[cropped.hu_DHW == hu].all()
    assert (cropped.hu_DHW[cropped.finding_map_DHW > 0] > 350).mean() > 0.9
    plain = crop_case(case, MODEL)
    assert np.array_equal(plain.hu_DHW, cropped.hu_DHW)
    assert (plain.finding_map_DHW, plain.mapped_findings) == (None, ())


def test_the_map_s_crop_is_that_of_nearest_voxels_of_the_organ_map(tmp_path):
    """A map that equals the segmentation gives the organ map itself."""
    case, _ = plant(tmp_path)
    same = Segmentation(case.segmentation.labels_kji, dict(case.segmentation.names))
    cropped = crop_case(case, MODEL, same)
    organ_of = {segment: o + 1 for o, segments in enumerate(MODEL.organs.values()) for segment in segments}
    table = np.array([0, *(organ_of[name] for name in cropped.mapped_findings)])
    assert np.array_equal(table[cropped.finding_map_DHW], cropped.organ_map_DHW)


def test_a_finding_comes_from_the_manifest_to_the_batch(corpus, tmp_path):
    assert prepare(corpus, tmp_path / "out", MODEL).made == 2
    cases = PreparedDataset(tmp_path / "out", "train", model=MODEL)
    drawn, undrawn = cases
    assert (drawn.case_id, drawn.mapped_findings) == ("case0", (EFFUSION, NODULE))
    assert (undrawn.finding_map_DHW, undrawn.mapped_findings) == (None, ())
    views = [take_view(case, MODEL, ViewConfig(), np.random.default_rng(3)) for case in cases]
    # HU of the view tell which tokens hold the finding: 2/3 of the nodule's HU or more are nowhere else
    high = (replace_window(drawn, 2500.0) > 0).float()
    seen = F.max_pool3d(high[None], MODEL.vision.patch_size).flatten() > 0
    assert 0 < seen.sum() < 36
    assert (views[0].finding_tokens_KN[1] | ~seen).all(), "every token with the nodule's HU is the nodule's"
    assert views[1].finding_tokens_KN is None
    tokenizer = registry_tokenizer()
    batch = Collator(tokenizer, 64, findings=FINDINGS, questions=True, places=True)(views)
    asked = batch.questions
    assert asked.mapped_B.tolist() == [True, False]
    assert torch.equal(asked.tokens_BFN[0, 0], views[0].finding_tokens_KN[0])
    assert torch.equal(asked.tokens_BFN[0, 2], views[0].finding_tokens_KN[1])
    assert not asked.tokens_BFN[0, 1].any()
    assert not asked.tokens_BFN[1].any()
    organs = list(MODEL.organs)
    assert asked.organ_of_F.tolist() == [organs.index("heart"), organs.index("lung"), organs.index("lung")]
    known = {f"{f.organ}/{f.name}": f for f in registry_findings()}
    for name, pair in zip(FINDINGS, asked.prompt_of_F2, strict=True):
        ids, mask = tokenize(tokenizer, [known[name].positive, known[name].negative], 64)
        for row, own_ids, own_mask in zip(pair, ids, mask, strict=True):
            length = int(own_mask.sum())
            assert batch.text_ids_PT[row][:length].tolist() == own_ids[:length].tolist()
            assert int(batch.text_mask_PT[row].sum()) == length
    unplaced = Collator(tokenizer, 64, findings=FINDINGS, questions=True)(views).questions
    assert (unplaced.tokens_BFN, unplaced.mapped_B) == (None, None)
    assert torch.equal(unplaced.prompt_of_F2, asked.prompt_of_F2)
    assert Collator(tokenizer, 64, findings=FINDINGS)(views).questions is None


def replace_window(case, lowest):
    """The same view's voxels as shares above ``lowest`` HU."""
    wide = replace(MODEL, preprocessing=replace(MODEL.preprocessing, hu_window=(lowest, 3071.0)))
    return take_view(case, wide, ViewConfig(), np.random.default_rng(3)).image_DHW


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_moves_map_and_image_alike(tmp_path, axis):
    case, drawn = plant(tmp_path)
    cropped = crop_case(case, MODEL, Segmentation(drawn, {3: NODULE, 5: EFFUSION}))
    fitted = prepared(cropped)
    # off the middle, so that a flip along any axis shows
    hu, organ_map, drawn = (np.roll(a, 16, 0) for a in (fitted.hu_DHW, fitted.organ_map_DHW, fitted.finding_map_DHW))
    fitted = replace(fitted, hu_DHW=hu, organ_map_DHW=organ_map, finding_map_DHW=drawn)
    plain, flipped = (
        take_view(fitted, MODEL, ViewConfig(flips=tuple(float(flip and a == axis) for a in range(3))),
                  np.random.default_rng(0))
        for flip in (False, True)
    )  # fmt: skip
    assert torch.equal(flipped.image_DHW, plain.image_DHW.flip(axis))
    for view in (plain, flipped):
        assert view.finding_tokens_KN.any(1).all()
    expected = plain.finding_tokens_KN.view(2, 3, 4, 3).flip(axis + 1).flatten(1)
    assert torch.equal(flipped.finding_tokens_KN, expected)
    assert not torch.equal(flipped.finding_tokens_KN, plain.finding_tokens_KN)


def prepared(cropped):
    """A case as large as the view, around the first finding, so that a view has no choice."""
    from CTGroundedVLMTraining.types import PreparedCase

    size = MODEL.vision.image_size
    places = np.argwhere(cropped.finding_map_DHW > 0)
    start = [
        max(0, min(int(low) - 2, n - s)) for low, n, s in zip(places.min(0), cropped.hu_DHW.shape, size, strict=True)
    ]
    box = tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))
    organs = tuple(MODEL.organs)
    return PreparedCase("a", "p", cropped.hu_DHW[box], cropped.organ_map_DHW[box], organs, {},
                        finding_map_DHW=cropped.finding_map_DHW[box], mapped_findings=cropped.mapped_findings)  # fmt: skip


def test_a_padded_view_pads_the_map_as_the_image(tmp_path):
    case, drawn = plant(tmp_path)
    whole = prepared(crop_case(case, MODEL, Segmentation(drawn, {3: NODULE, 5: EFFUSION})))
    small = replace(whole, hu_DHW=whole.hu_DHW[8:40], organ_map_DHW=whole.organ_map_DHW[8:40],
                    finding_map_DHW=whole.finding_map_DHW[8:40])  # fmt: skip
    blank = whole.finding_map_DHW.copy()
    blank[:8] = blank[40:] = 0
    views = [take_view(c, MODEL, ViewConfig(), np.random.default_rng(0)).finding_tokens_KN
             for c in (small, replace(whole, finding_map_DHW=blank))]  # fmt: skip
    assert views[0].any()
    assert torch.equal(*views)


def test_a_case_in_which_nothing_was_planted_is_drawn_all_the_same(corpus, tmp_path):
    write_truth(corpus.parent / "cases" / "case0", ())
    prepare(corpus, tmp_path / "out", MODEL)
    case = PreparedDataset(tmp_path / "out", "train", model=MODEL)[0]
    assert case.mapped_findings == ()
    assert not case.finding_map_DHW.any()
    view = take_view(case, MODEL, ViewConfig(), np.random.default_rng(0))
    assert view.finding_tokens_KN.shape == (0, 36)
    asked = Collator(registry_tokenizer(), 64, findings=FINDINGS, questions=True, places=True)([view]).questions
    assert asked.mapped_B.tolist() == [True]
    assert not asked.tokens_BFN.any()


def test_a_plain_folder_s_manifest_names_the_maps_of_findings_that_have_a_truth(tmp_path):
    """As `ctgvlm-train synthesize` lays them out: its folder makes the same column as its own manifest."""
    a_corpus(tmp_path / "corpus", cases=3)
    folders = [tmp_path / "corpus" / "cases" / f"case{n}" for n in range(3)]
    plant(folders[0])
    plant(folders[1], seed=1)
    (folders[1] / "truth.json").unlink()
    (folders[2] / "truth.json").write_text('{"labels": {}, "findings": []}')  # a label map that nobody has written
    told = make_manifest("folder", ReaderOptions(tmp_path / "corpus", shares=(1.0, 0.0)), tmp_path / "m.csv")
    assert [row.findings for row in read_manifest(tmp_path / "m.csv")] == [folders[0] / "findings.nii.gz", None, None]
    assert "1 cases have findings.nii.gz without truth.json that says what its values mean: not taken" in told
    assert "1 volumes with drawn findings" in told
    assert prepare(tmp_path / "m.csv", tmp_path / "out", MODEL).made == 3
    cases = PreparedDataset(tmp_path / "out", "train", model=MODEL)
    assert [case.mapped_findings for case in cases] == [(EFFUSION, NODULE), (), ()]
    assert [case.finding_map_DHW is None for case in cases] == [False, True, True]


# --- Who can be asked


def test_a_model_of_the_whole_body_asks_its_one_organ_and_others_must_have_the_finding_s(corpus, tmp_path):
    body = replace(MODEL, organs=whole_body_organs(MODEL.organs))
    assert set(body.organs) == {"body"}
    assert set(body.organs["body"]) == {s for names in MODEL.organs.values() for s in names}
    prepare(corpus, tmp_path / "out", MODEL)
    case = PreparedDataset(tmp_path / "out", "train", model=body)[0]
    assert case.mapped_findings == (EFFUSION, NODULE)
    view = take_view(case, body, ViewConfig(), np.random.default_rng(0))
    collator = Collator(registry_tokenizer(), 64, findings=FINDINGS, questions=True)
    assert collator([view]).questions.organ_of_F.tolist() == [0, 0, 0]
    lung = replace(view, case=replace(case, organs=("lung",)))
    with pytest.raises(InputError, match=rf"no organ for the findings {EFFUSION} \(its organs: lung\)"):
        collator([lung])


# --- Broken and changed files


def test_a_map_of_any_name_is_read_and_another_one_beside_it_is_not(corpus, tmp_path):
    folder = corpus.parent / "cases" / "case0"
    rows = read_manifest(corpus)
    (folder / "findings.nii.gz").rename(folder / "lesions.nii.gz")
    case, drawn = write_case(folder.parent / "other"), np.zeros((30, 60, 70), np.uint8)
    write_image(folder / "findings.nii.gz", drawn, case.ct.ijk_to_ras)
    write_manifest(corpus, [replace(rows[0], findings=folder / "lesions.nii.gz"), rows[1]])
    prepare(corpus, tmp_path / "out", MODEL)
    case = PreparedDataset(tmp_path / "out", "train")[0]
    assert set(np.unique(case.finding_map_DHW)) == {0, 1, 2}


def break_truth(folder, text):
    (folder / "truth.json").write_text(text)


def another_grid(folder):
    write_image(folder / "findings.nii.gz", np.zeros((30, 60, 70), np.uint8), np.diag([3.0, 3.0, 3.0, 1.0]))


def fractions(folder):
    case, drawn = plant(folder)
    write_image(folder / "findings.nii.gz", drawn.astype(np.float32) / 2, case.ct.ijk_to_ras)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "truth.json").unlink(), "has no truth.json beside it that says what its values mean"),
        (lambda folder: break_truth(folder, "{"), "truth.json cannot be used (JSONDecodeError"),
        (
            lambda folder: break_truth(folder, '{"findings": [{"organ": "lung"}]}'),
            "cannot be used (KeyError: 'finding')",
        ),
        (another_grid, "findings.nii.gz is not on the grid of "),
        (fractions, "findings.nii.gz holds float32 values; expected whole numbers"),
        (lambda folder: (folder / "findings.nii.gz").unlink(), "its map of findings does not exist: "),
    ],
    ids=["no truth", "half a truth", "truth without names", "another grid", "no whole numbers", "no map"],
)
def test_a_map_that_cannot_be_used_is_named_and_the_others_are_made(corpus, tmp_path, spoil, message):
    spoil(corpus.parent / "cases" / "case0")
    summary = prepare(corpus, tmp_path / "out", MODEL)
    assert (summary.made, summary.refused) == (1, 1)
    reasons = refusals(tmp_path / "out")
    assert list(reasons) == ["case0"]
    assert message in reasons["case0"]
    assert "not on the grid" not in message or "ct.nii.gz" in reasons["case0"]


def test_a_map_or_its_meaning_that_changes_is_read_again_and_nothing_else_is(corpus, tmp_path):
    out, folder = tmp_path / "out", corpus.parent / "cases" / "case0"
    prepare(corpus, out, MODEL)
    assert prepare(corpus, out, MODEL).made == 0
    before = PreparedDataset(out, "train")[0].finding_map_DHW
    case, drawn = plant(tmp_path / "elsewhere")
    moved = np.roll(drawn, 4, axis=1)
    write_image(folder / "findings.nii.gz", moved, case.ct.ijk_to_ras)
    summary = prepare(corpus, out, MODEL)
    assert (summary.made, summary.earlier) == (1, 1)
    after = PreparedDataset(out, "train")[0].finding_map_DHW
    assert not np.array_equal(before, after)
    assert (after == 2).sum() == pytest.approx((before == 2).sum(), rel=0.2)
    write_truth(folder, ((5, "lung", "Lung nodule"),))
    assert prepare(corpus, out, MODEL).made == 1
    case = PreparedDataset(out, "train")[0]
    assert case.mapped_findings == (NODULE,)
    assert np.array_equal(case.finding_map_DHW == 1, after == 1), (
        "label 5 was the first by name, and is the only one now"
    )


# --- Data of before


def test_a_manifest_and_data_of_before_maps_still_serve(corpus, tmp_path):
    lines = list(csv.DictReader(corpus.read_text().splitlines()))
    columns = [name for name in lines[0] if name != "findings"]
    with open(corpus, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    out = tmp_path / "out"
    assert prepare(corpus, out, MODEL).made == 2
    case = PreparedDataset(out, "train", model=MODEL)[0]
    assert (case.finding_map_DHW, case.mapped_findings) == (None, ())
    shard = read_shard((out / shard_name("case0")).read_bytes(), "case0")
    assert "mapped_findings" not in shard.record
    view = take_view(case, MODEL, ViewConfig(), np.random.default_rng(0))
    asked = Collator(registry_tokenizer(), 64, findings=FINDINGS, questions=True, places=True)([view]).questions
    assert asked.mapped_B.tolist() == [False]


def test_a_shard_holds_its_map_and_a_cut_one_is_damaged(tmp_path):
    case, drawn = plant(tmp_path)
    cropped = crop_case(case, MODEL, Segmentation(drawn, {3: NODULE, 5: EFFUSION}))
    path = tmp_path / "a.case"
    write_shard(path, cropped, {"case_id": "a", "volume": "v", "mapped_findings": list(cropped.mapped_findings)})
    content = path.read_bytes()
    assert np.array_equal(read_shard(content, "a").finding_map_DHW, cropped.finding_map_DHW)
    place = content.index(b"finding_map.blosc") + 60
    with pytest.raises(InputError, match="the shard is damaged"):
        read_shard(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :], "a")


def test_the_crop_is_that_of_inference_with_or_without_findings(tmp_path):
    case, drawn = plant(tmp_path)
    cropped = crop_case(case, MODEL, Segmentation(drawn, {3: NODULE}))
    large = replace(MODEL.preprocessing, window_size=(1000, 1000, 1000))
    window = Preprocessor(case, MODEL.organs, large, (1, 1, 1)).reference_windows().windows[0]
    assert cropped.mapped_findings == (NODULE,)
    assert set(np.unique(cropped.finding_map_DHW)) == {0, 1}, "a value that nobody names is no finding"
    assert np.array_equal(cropped.organ_map_DHW, window.organ_map_DHW.numpy())

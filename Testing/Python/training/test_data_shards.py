"""Shards and the data set of them: what is written is read, damage is noticed and named, order hangs on the cases alone."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.data import qa
from CTGroundedVLMTraining.data.collate import Collator
from CTGroundedVLMTraining.data.crop import CroppedCase
from CTGroundedVLMTraining.data.dataset import PreparedDataset
from CTGroundedVLMTraining.data.loader import BatchOrder, TrainingLoader
from CTGroundedVLMTraining.data.prepare import prepare
from CTGroundedVLMTraining.data.shards import read_record, read_shard, shard_name, write_shard
from CTGroundedVLMTraining.data.views import ViewConfig
from training_data import a_corpus

MODEL = debug_config()


def a_cropped_case(shape=(20, 30, 40), seed=0):
    random = np.random.default_rng(seed)
    hu = random.integers(-1150, 3071, shape).astype(np.int16)
    return CroppedCase(hu, random.integers(0, 5, shape).astype(np.uint8), (1, 2, 3, 4))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four prepared cases; tests that change them take a copy."""
    root = tmp_path_factory.mktemp("prepared")
    prepare(a_corpus(root / "corpus"), root / "out", MODEL)
    return root / "out"


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "out")


def flip_a_bit(path, share=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 16
    path.write_bytes(content)


# --- One shard


def test_a_shard_holds_what_was_written_and_the_same_case_makes_the_same_file(tmp_path):
    case = a_cropped_case()
    size = write_shard(tmp_path / "a.case", case, {"case_id": "a", "volume": "v"})
    write_shard(tmp_path / "b.case", case, {"case_id": "a", "volume": "v"})
    assert (tmp_path / "a.case").stat().st_size == size
    assert (tmp_path / "a.case").read_bytes() == (tmp_path / "b.case").read_bytes()
    shard = read_shard((tmp_path / "a.case").read_bytes(), "a")
    assert np.array_equal(shard.hu_DHW, case.hu_DHW)
    assert np.array_equal(shard.organ_map_DHW, case.organ_map_DHW)
    assert (shard.hu_DHW.dtype, shard.organ_map_DHW.dtype) == (np.int16, np.uint8)
    assert shard.record["case_id"] == "a"
    assert read_record(tmp_path / "a.case") == shard.record


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_flipped_bit_is_noticed_and_the_file_and_the_remedy_are_named(tmp_path, share):
    write_shard(tmp_path / "a.case", a_cropped_case(), {"case_id": "a", "volume": "v"})
    flip_a_bit(tmp_path / "a.case", share)
    with pytest.raises(InputError, match=r"a\.case: the shard is damaged .* --verify: .*quarantine") as caught:
        read_shard((tmp_path / "a.case").read_bytes(), str(tmp_path / "a.case"))
    assert "skip_corrupt" not in str(caught.value), "no option of a command"


@pytest.mark.parametrize("length", [0, 10, 5000, -1])
def test_a_shard_that_is_cut_short_is_refused(tmp_path, length):
    write_shard(tmp_path / "a.case", a_cropped_case(), {"case_id": "a", "volume": "v"})
    with pytest.raises(InputError, match="damaged"):
        read_shard((tmp_path / "a.case").read_bytes()[:length], "a")


def test_a_shard_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.case").mkdir()
    with pytest.raises(OutputError, match=r"a\.case: cannot be written"):
        write_shard(tmp_path / "a.case", a_cropped_case(), {"case_id": "a", "volume": "v"})
    assert [p.name for p in tmp_path.iterdir()] == ["a.case"]


def test_any_case_id_makes_a_file_name_of_its_own():
    ids = ["a", "A b", "a/b", "a%2Fb", "../up", ".hidden", "ä:*?", ""]
    names = [shard_name(case_id) for case_id in ids]
    assert len(set(names)) == len(ids)
    assert all(name.count("/") == 1 and not name.split("/")[1].startswith("..") for name in names)


# --- The data set


def test_damage_is_an_error_that_names_the_file_when_the_case_is_read(copy):
    flip_a_bit(copy / "cases/case1.case")
    cases = PreparedDataset(copy)
    assert cases[0].case_id == "case0"
    with pytest.raises(InputError, match=r"case1\.case: the shard is damaged"):
        cases[1]
    (copy / "cases/case2.case").unlink()
    with pytest.raises(InputError, match=r"case2\.case does not exist"):
        cases[2]


def test_damaged_shards_are_left_out_on_demand_and_named(copy):
    flip_a_bit(copy / "cases/case1.case")
    cases = PreparedDataset(copy, skip_corrupt=True)
    assert cases.case_ids == ("case0", "case2", "case3")
    assert list(cases.corrupt) == ["case1"]
    assert "damaged" in cases.corrupt["case1"]


def test_a_shard_of_another_case_under_this_name_is_noticed(copy):
    shutil.copy(copy / "cases/case0.case", copy / "cases/case1.case")
    with pytest.raises(InputError, match=r"holds case 'case0'"):
        PreparedDataset(copy)[1]


def test_verify_makes_damaged_shards_again(made, copy):
    flip_a_bit(copy / "cases/case1.case")
    manifest = made.parent / "corpus/manifest.csv"
    assert prepare(manifest, copy, MODEL).made == 0
    summary = prepare(manifest, copy, MODEL, verify=True)
    assert (summary.shards_remade, summary.made, summary.earlier) == (1, 1, 3)
    assert (copy / "cases/case1.case").read_bytes() == (made / "cases/case1.case").read_bytes()


def test_verify_puts_what_cannot_be_made_again_into_quarantine_which_is_left_out(made, copy, tmp_path):
    flip_a_bit(copy / "cases/case1.case")
    corpus = shutil.copytree(made.parent / "corpus", tmp_path / "corpus")
    next(corpus.glob("**/case1/ct*")).unlink()
    summary = prepare(corpus / "manifest.csv", copy, MODEL, verify=True)
    assert (summary.shards_remade, summary.refused) == (1, 1)
    assert PreparedDataset(copy).case_ids == ("case0", "case2", "case3")


def test_the_order_is_that_of_case_ids_whatever_order_they_were_made_in(made, copy):
    lines = (copy / "index.jsonl").read_text().splitlines(keepends=True)
    (copy / "index.jsonl").write_text("".join(reversed(lines)))
    assert PreparedDataset(copy).case_ids == PreparedDataset(made).case_ids
    assert PreparedDataset(copy).identity == PreparedDataset(made).identity


def test_a_damaged_line_of_the_index_is_named(copy):
    lines = (copy / "index.jsonl").read_text().splitlines(keepends=True)
    (copy / "index.jsonl").write_text("".join([lines[0], "{broken\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"index\.jsonl, line 2: damaged"):
        PreparedDataset(copy)


def test_a_folder_without_prepared_data_and_an_empty_split_are_told_apart(made, tmp_path):
    with pytest.raises(InputError, match="holds no prepared data"):
        PreparedDataset(tmp_path)
    with pytest.raises(InputError, match=r"no case of split 'validation' \(4 cases, 0 of them in quarantine"):
        PreparedDataset(made, "validation")


def test_cases_are_read_from_an_object_store_through_fsspec(made):
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    store.put(str(made), "/bucket/prepared", recursive=True)
    try:
        remote, local = PreparedDataset("memory://bucket/prepared", "train"), PreparedDataset(made, "train")
        assert np.array_equal(remote[1].hu_DHW, local[1].hu_DHW)
        assert remote.identity == local.identity
        assert pickle.loads(pickle.dumps(remote))[0].case_id == "case0"
        store.rm("/bucket/prepared/cases/case2.case")
        with pytest.raises(InputError, match=r"memory://bucket/prepared/cases/case2\.case does not exist"):
            remote[2]
    finally:
        store.rm("/bucket", recursive=True)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork there")
def test_a_worker_connects_anew_to_an_object_store(made):
    """Clients of s3 or gs refuse to work in a forked process, as torch's workers are on Linux."""
    asyn = pytest.importorskip("fsspec.asyn")
    fsspec = pytest.importorskip("fsspec")

    class Store(asyn.AsyncFileSystem):
        protocol = "teststore"

        async def _cat_file(self, path, start=None, end=None, **kwargs):
            return Path(path).read_bytes()

    fsspec.register_implementation("teststore", Store, clobber=True)
    cases = PreparedDataset(f"teststore://{made}")
    parent = cases._files._connection()[0]
    loader = TrainingLoader(
        cases, MODEL, ViewConfig(), Collator(registry_tokenizer(), 64), BatchOrder(4, 2, 3), workers=1
    )
    assert len(next(loader.batches()).case_ids) == 2
    assert cases._files._connection()[0] is parent, "this process keeps its own"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_is_damaged_in_training_is_named_without_a_traceback(copy, workers):
    cases = PreparedDataset(copy)
    flip_a_bit(copy / shard_name("case1"))
    loader = TrainingLoader(
        cases, MODEL, ViewConfig(), Collator(registry_tokenizer(), 64), BatchOrder(4, 4, 3), workers=workers
    )
    with pytest.raises(InputError, match=r"case1.*the shard is damaged") as caught:
        next(loader.batches())
    assert "Traceback" not in str(caught.value)


def test_batches_from_shards_are_the_same_after_a_resume_with_other_workers(made):
    def batches(first, steps, workers=0):
        collate = Collator(registry_tokenizer(), 64)
        order = BatchOrder(len(cases), 2, seed=3)
        loader = TrainingLoader(cases, MODEL, ViewConfig(flips=(0.5, 0.5, 0.5)), collate, order, workers=workers)
        found = loader.batches(first)
        return [next(found) for _ in range(steps)]

    cases = PreparedDataset(made)
    whole, resumed = batches(0, 4), batches(3, 1, workers=2)
    assert resumed[0].case_ids == whole[3].case_ids
    assert torch.equal(resumed[0].image_BDHW, whole[3].image_BDHW)
    assert torch.equal(resumed[0].text_ids_PT, whole[3].text_ids_PT)


# --- The summary


def test_the_summary_counts_organs_statuses_labels_and_refusals(made, copy):
    records = [json.loads(line) for line in (copy / "index.jsonl").read_text().splitlines()]
    records.append({"case_id": "bad", "patient_id": "x", "split": "train", "error": "no CT", "kind": "VolumeError"})
    numbers = qa.summarize(records, tuple(MODEL.organs))
    assert (numbers["cases"], numbers["patients"], numbers["splits"]["test"]) == (4, 4, 1)
    assert numbers["organs"]["lung"] == {"present": 4, "abnormal": 2, "normal": 2}
    assert numbers["organs"]["heart"] == {"present": 4, "normal": 2, "not mentioned": 2}
    assert numbers["organs"]["esophagus"]["present"] == 0
    assert numbers["labels"] == {"lung/Lung nodule": {"positive": 2, "negative": 2, "kind": "truth"}}
    assert numbers["refused"] == {"VolumeError": 1}
    assert numbers["hu_percentiles"]["1"] < numbers["hu_percentiles"]["50"] < numbers["hu_percentiles"]["99"]


def test_a_case_with_unusual_hu_is_pointed_out(made):
    record = json.loads((made / "index.jsonl").read_text().splitlines()[0])
    records = [{**record, "case_id": f"c{n}", "hu_percentiles": [-999, -400, -100 + n, 50, 400]} for n in range(9)]
    records.append({**record, "case_id": "odd", "hu_percentiles": [-999, 0, 900, 1000, 1100]})
    assert qa.summarize(records, tuple(MODEL.organs))["unusual_hu"] == ["odd"]


def test_the_page_has_pictures_and_tells_nothing_as_markup(copy):
    lines = (copy / "index.jsonl").read_text()
    (copy / "index.jsonl").write_text(lines.replace('"source": "folder"', '"source": "<script>alert(1)</script>"'))
    page = qa.write_summary(copy, pictures=2).read_text(encoding="utf-8")
    assert page.count('<img alt="" src="data:image/png;base64,iVBOR') == 2
    assert "case0" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert json.loads((copy / "qa/summary.json").read_text())["cases"] == 4

"""The model card and the calibration that a model folder carries: every number is that of the evaluation's files."""

import json
import math

import pytest

from bundled_models import NOTICE
from cases import a_small_model
from CTGroundedVLMLib.model.checkpoint import load_checkpoint, model_sha256, save_checkpoint
from CTGroundedVLMLib.model.header import card_line
from CTGroundedVLMTraining import cli, model_card
from CTGroundedVLMTraining.evaluate.calibration import asked_by_an_analysis
from CTGroundedVLMTraining.evaluate.protocols import corpus_protocol, published_protocol
from CTGroundedVLMTraining.model_card import changed_fields
from CTGroundedVLMTraining.recipes import STARTER_NOTICE, recipe

pytest.importorskip("sklearn")
KEYS = ("lung/Emphysema", "heart/Cardiomegaly")


def test_the_stand_in_for_the_starter_has_the_starters_notice():
    assert NOTICE == STARTER_NOTICE == recipe("starter").notice


@pytest.fixture
def model(tmp_path):
    small = a_small_model()
    folder = tmp_path / "model"
    save_checkpoint(
        folder, small.model, small.tokenizer, name="small", trained=True, notice=NOTICE, license="Apache-2.0"
    )
    return folder


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high, "reason": None}


def an_evaluation(folder, sha256, *, patients=40, split="test", **changes):
    """``metrics.json`` with numbers that are found nowhere else."""
    section = {
        "volumes": 37,
        "positives": 11,
        "metrics": {"auc": estimate(0.9123, 0.8765, 0.9481), "calibrated_ece": estimate(0.0456)},
    }
    fixed = {"metrics": {"sensitivity": estimate(0.811), "specificity": estimate(0.722)}}
    pointing = estimate(0.7531, 0.6, 0.9)
    group = {
        "findings": 31,
        "outside_the_organ": 7,
        "pointing": pointing,
        "pointing_chance": 0.0613,
        "pointing_in_organ": estimate(0.8642),
        "macro_pointing": estimate(0.7089),
        "pointing_near": estimate(0.9317, 0.88, 0.97),
        "pointing_near_chance": 0.2468,
        "tolerance_mm": 15.0,
    }
    record = {
        "format": "ctgvlm-evaluation",
        "run": {"model_sha256": sha256, "split": split},
        "settings": {"confidence": 0.95, "resamples": 1000},
        "volumes": 44,
        "patients": patients,
        "validation": {"volumes": 52, "patients": 50},
        "macro": {
            "left_out": {
                "auc": estimate(0.9234, 0.9012, 0.9456) | {"findings": 27},
                "calibrated_ece": estimate(0.0347, 0.03, 0.04) | {"findings": 26},
            }
        },
        "findings": [
            {"key": KEYS[0], "not_calibrated": None, "sections": {"left_out": section, "youden": fixed}},
            {"key": KEYS[1], "not_calibrated": "too few positives", "sections": {}},
        ],
        "grounding": {"focal": group, KEYS[0]: group},
    }
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(record | changes))
    return folder


def card(model, *options):
    return cli.main(["card", str(model), *map(str, options)])


def test_a_card_says_first_what_the_model_has_seen_and_holds_the_numbers_of_the_files(model, tmp_path):
    evaluation = an_evaluation(tmp_path / "evaluation", model_sha256(model))
    assert card(model, "--evaluation", evaluation) == 0
    lines = (model / "MODEL_CARD.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == f"**{NOTICE}**"
    assert card_line(model) == NOTICE
    for line in (
        "Licence: Apache-2.0.",
        "44 volumes of 40 patients. Thresholds and calibration come from 52 volumes of 50 patients of the validation split.",
        "| mean AUC over 27 findings | 0.923 | 0.901 to 0.946 |",
        "| mean ECE after calibration | 0.035 | 0.030 to 0.040 |",
        "| heatmap peak inside the finding (31 focal findings) | 0.753 | 0.600 to 0.900 |",
        "| the same, mean over kinds of findings | 0.709 |  |",
        "| chance level of the peak: the finding's share of its organ | 0.061 |  |",
        "| peak inside, of the 24 that have voxels in their organ's mask | 0.864 |  |",
        "| peak at most 15 mm from the finding (all 31) | 0.932 | 0.880 to 0.970 |",
        "| chance level: the share of the organ at most 15 mm from it | 0.247 |  |",
        "| lung/Emphysema | 37 | 11 | 0.912 (0.876 to 0.948) | 0.811 | 0.722 | 0.046 | 0.753 | 0.061 | 0.932 | 0.247 |",
        "Not scored, for no volume shows the organ or says it: heart/Cardiomegaly.",
        "- heart/Cardiomegaly: too few positives",
    ):
        assert line in lines, line
    titles = [line for line in lines if line.startswith("#")]
    assert titles == ["# Model card: small", "## Intended use", "## Results", "### Held-out patients", "## Limits"]


def test_a_card_tells_the_corpus_and_real_cts_with_planted_findings_apart(model, tmp_path):
    sha256 = model_sha256(model)
    corpus = {
        "generator": "corpus 7", "patients": 4321, "seed": 11, "spacing_ijk": [3.0, 3.0, 5.0], "spacing_variation": 0.15,
        "splits": [0.8, 0.1], "grades": [0.1, 1.0], "unreported": 0.03, "prevalence": {"a": 0.1, "b": 0.2},
    }  # fmt: skip
    for name, content in (
        ("corpus", corpus),
        ("planted", corpus | {"patients": 20, "planted_into": {"one": "f", "two": "e"}}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "corpus.json").write_text(json.dumps(content))
    held_out = an_evaluation(tmp_path / "held_out", sha256)
    real = an_evaluation(tmp_path / "real", sha256, patients=2)
    options = ["--planted", real, "--planted-corpus", tmp_path / "planted", "--corpus", tmp_path / "corpus"]
    assert card(model, "--evaluation", held_out, *options) == 0
    text = (model / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert (
        "4321 synthetic patients of `ctgvlm-train synthesize` (corpus 7), seed 11, voxels of 3 x 3 x 5 mm ± 15%" in text
    )
    assert "80% train, 10% validation, 10% test" in text
    assert "phantoms from one generator" in text
    first, second = text.split("### Real CTs with planted findings")
    assert "### Held-out synthetic patients" in first
    assert "44 volumes of 2 patients (20 versions of 2 scans each; what was not planted counts as absent)." in second
    assert "| mean AUC over 27 findings | 0.923 |  |" in second, "two patients have no interval"
    assert "Too few patients for intervals" in second
    assert "Too few patients for intervals" not in first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "other"}, "evaluates the model other, not"),
        ({"split": "train"}, "evaluates the patients that the model was trained on"),
        ({"format": "something"}, "is no evaluation"),
    ],
)
def test_an_evaluation_of_another_model_or_of_training_patients_is_refused(model, tmp_path, capsys, change, message):
    change = {"sha256": model_sha256(model)} | change
    evaluation = an_evaluation(tmp_path / "evaluation", change.pop("sha256"), **change)
    assert card(model, "--evaluation", evaluation) == 3
    assert message in capsys.readouterr().err
    assert not (model / "MODEL_CARD.md").exists()


def test_a_missing_evaluation_and_a_missing_model_are_named(model, tmp_path, capsys):
    assert card(model, "--evaluation", tmp_path / "none") == 3
    assert "none/metrics.json cannot be read" in capsys.readouterr().err
    assert card(tmp_path / "none", "--evaluation", tmp_path) == 4
    assert "is no model folder" in capsys.readouterr().err


def test_the_card_lists_what_was_changed_in_the_recipe_as_the_command_line_takes_it():
    from CTGroundedVLMTraining.overrides import with_changes

    changes = ["batch_size=64", "optimizer.lr=0.0003", "model.vision.levels=[1]"]
    config = json.loads(json.dumps(with_changes(recipe("starter"), changes).to_dict()))
    assert sorted(changed_fields(config)) == sorted(changes)
    assert sorted(changed_fields(with_changes(recipe("starter"), changes).to_dict())) == sorted(
        changes
    )  # export's tuples
    assert (
        with_changes(recipe("starter"), changed_fields(config)).to_dict()
        == with_changes(recipe("starter"), changes).to_dict()
    )
    assert changed_fields(config | {"name": "mine"}) == []


def test_the_card_says_of_how_many_processes_the_batches_were():
    training = {"config": recipe("starter").to_dict(), "step": 7}
    assert model_card._training(training | {"processes": 2})[0].startswith(
        "Recipe `starter`, 7 steps of 2 processes, each"
    )
    assert model_card._training(training | {"processes": 1})[0] == "Recipe `starter`, 7 steps:"


# --- Calibration


def test_only_findings_that_an_analysis_asks_in_the_same_words_are_calibrated():
    asked = {item.key: asked_by_an_analysis(item, False) for item in corpus_protocol(["lung/Emphysema"]).items}
    assert asked == {"lung/Emphysema": True}
    assert all(asked_by_an_analysis(item, False) for item in published_protocol("fvlm16").items)
    assert not any(asked_by_an_analysis(item, False) for item in published_protocol("ctrate18").items)
    assert asked_by_an_analysis(corpus_protocol(["lung/Emphysema"]).items[0], True)


@pytest.fixture
def cases(tmp_path):
    """24 box cases of as many patients, half for validation, half for the test; a normal and a darker lung in turn."""
    import numpy as np

    from cases import CHEST, a_case
    from CTGroundedVLMLib.anatomy import label_names
    from training_data import write_image

    lung = [value for value, name in label_names().items() if name.startswith("lung_")]
    rows, labels = [], ["case_id,lung/Emphysema,heart/Cardiomegaly"]
    for number in range(24):
        case, ill = a_case(CHEST, seed=number), number % 2
        hu = case.ct.array_kji.copy()
        hu[np.isin(case.segmentation.labels_kji, lung)] += -300 * ill
        name = f"case{number}"
        write_image(tmp_path / name / "ct.nii.gz", hu, case.ct.ijk_to_ras)
        write_image(tmp_path / name / "mask.nii.gz", case.segmentation.labels_kji, case.ct.ijk_to_ras)
        split = "validation" if number < 12 else "test"
        rows.append(f"{name},p{number},{split},{name}/ct.nii.gz,{name}/mask.nii.gz,,labels.csv")
        labels.append(f"{name},{ill},{int(number in (3, 17))}")
    header = "case_id,patient_id,split,image,segmentation,report,labels"
    (tmp_path / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    return tmp_path / "manifest.csv"


def evaluate(model, manifest, output, *more):
    arguments = [
        "--protocol",
        "corpus",
        "--model",
        model,
        "--manifest",
        manifest,
        "--output",
        output,
        "--bootstrap",
        "0",
    ]
    return cli.main(
        ["evaluate", *map(str, arguments), "--precision", "fp32", "--device", "cpu", "--quiet", *map(str, more)]
    )


def test_evaluate_puts_the_calibration_into_the_model_and_an_analysis_uses_it(
    model, cases, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CTGVLM_CACHE_DIR", str(tmp_path / "cache"))
    from CTGroundedVLMLib.pipeline import AnalysisOptions, analyze
    from CTGroundedVLMLib.volume_io import load_case

    before = model_sha256(model)
    first = tmp_path / "first"
    assert evaluate(model, cases, first, "--validation-split", "validation", "--calibrate") == 0
    assert f"Calibration: {model / 'calibration-shared-physical.json'}" in capsys.readouterr().out
    carried = json.loads((model / "calibration-shared-physical.json").read_text())
    assert carried == json.loads((first / "calibration.json").read_text())
    assert carried["about"]["not_calibrated"].keys() | carried["findings"].keys() == set(KEYS)
    loaded = load_checkpoint(model)
    assert (loaded.identity.sha256, loaded.findings) == (before, tuple(sorted(KEYS)))
    folder = cases.parent / "case20"
    result = analyze(
        load_case(folder / "ct.nii.gz", folder / "mask.nii.gz"), loaded, AnalysisOptions(precision="fp32", heatmaps=0)
    )
    assert {f"{f.organ}/{f.finding}" for f in result.findings} == set(KEYS)
    for found in result.findings:
        fit = carried["findings"].get(f"{found.organ}/{found.finding}")
        assert found.calibrated == (fit is not None)
        expected = found.margin if fit is None else fit["a"] * found.margin + fit["b"]
        assert found.probability == pytest.approx(1 / (1 + math.exp(-expected)))
    # evaluated again, the model that carries a calibration is measured by its raw scores, and calibrated alike
    assert evaluate(model, cases, tmp_path / "again", "--validation-split", "validation", "--calibrate") == 0
    assert (tmp_path / "again" / "scores.csv").read_text() == (first / "scores.csv").read_text()
    assert json.loads((model / "calibration-shared-physical.json").read_text())["findings"] == carried["findings"]
    # other patients are measured with the calibration of the first ones
    table = ["--validation-scores", first / "validation_scores.csv", "--validation-labels", cases.parent / "labels.csv"]
    assert evaluate(model, cases, tmp_path / "table", *table) == 0
    from_table, at_once = (json.loads((d / "metrics.json").read_text()) for d in (tmp_path / "table", first))
    assert from_table["findings"] == at_once["findings"]
    assert from_table["validation"] == at_once["validation"]
    assert at_once["validation"] == {"volumes": 12, "patients": 12, "sha256": carried["about"]["fitted_on"]["sha256"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--calibrate"], "--calibrate needs --validation-split or --hold-out"),
        (
            ["--calibrate", "--hold-out", "0.5", "--model", "an installed one"],
            "--calibrate writes into the model's folder",
        ),
        (["--validation-split", "validation", "--validation-scores", "v.csv"], "both name validation patients"),
    ],
)
def test_a_calibration_without_other_patients_or_a_folder_is_refused(model, tmp_path, capsys, options, message):
    assert evaluate(model, tmp_path / "manifest.csv", tmp_path / "out", *options) == 3
    assert message in capsys.readouterr().err

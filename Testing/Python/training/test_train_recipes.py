"""Recipes, what --set changes in them, and the configuration on disk."""

import json

import pytest
import torch

from CTGroundedVLMLib.errors import InputError
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.build import make_learners, make_objective
from CTGroundedVLMTraining.config import InitialWeights, ObjectiveConfig, TrainingConfig
from CTGroundedVLMTraining.overrides import with_changes
from CTGroundedVLMTraining.recipes import STARTER_NOTICE, description, recipe, recipe_names
from CTGroundedVLMTraining.run_folder import RunFolder
from CTGroundedVLMTraining.trainer import Trainer
from training_cases import a_config, some_cases

DEBUG = [name for name in recipe_names() if name.endswith("_debug")]


def test_every_recipe_has_a_twin():
    assert recipe_names() == tuple(
        n for name in ("fvlm_release", "fvlm", "clip", "supervised", "starter") for n in (name, f"{name}_debug")
    )


@pytest.mark.parametrize("name", DEBUG)
def test_a_twin_runs_through_and_learns_with_the_recipe_s_objective(name, tmp_path):
    config = with_changes(recipe(name), ["tensorboard=false"])
    full = recipe(name.removesuffix("_debug"))
    assert (config.objective, config.model.organs) == (full.objective, full.model.organs)
    learners = make_learners(
        config, some_cases(4, tuple(config.model.organs)), registry_tokenizer(), torch.device("cpu")
    )
    before = {key: value.clone() for key, value in learners[0].model.state_dict().items()}
    trainer = Trainer(learners, RunFolder(tmp_path, config))
    trainer.resume()
    assert trainer.run()
    record = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    losses = {"clip": "image-report", "supervised": "labels"}
    assert losses.get(config.objective.name, "organ/lung") in record
    changed = [key for key, value in learners[0].model.state_dict().items() if not torch.equal(value, before[key])]
    assert "vision.blocks.0.attn.qkv.weight" in changed


def test_fvlm_release_has_what_the_release_has_in_effect():
    config = recipe("fvlm_release")
    assert list(config.model.organs) == ["lung", "heart", "esophagus", "aorta"]
    assert (config.views.flips, config.views.partial_organs) == ((0.2, 0.2, 0.2), "drop")
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.warmup_steps, optimizer.cosine) == (1e-4, 1e-6, 377, "epoch")
    assert (optimizer.weight_decay, optimizer.betas, optimizer.clip_norm) == (0.01, (0.9, 0.999), None)
    assert (config.batch_size, config.epochs, config.precision, config.seed) == (14, 20, "fp32", 42)
    assert (config.model.temperature, config.objective.false_negatives) == (0.07, "normal")


def test_the_starter_says_that_it_has_seen_synthetic_patients_only():
    assert recipe("starter").notice == STARTER_NOTICE
    assert "synthetic patients only" in STARTER_NOTICE


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(InputError, match="no recipe 'fvml'; there are fvlm_release, "):
        recipe("fvml")


def test_every_recipe_is_described_in_a_line():
    assert all(20 < len(description(name)) < 120 for name in recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_a_configuration_survives_json(name):
    config = recipe(name)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_set_changes_fields_at_any_depth():
    changes = [
        "optimizer.lr=3e-4",
        "model.vision.levels=[0, 1]",
        "model.vision.narrow_windows=[[0.1, 0.2], [0.5, 1]]",
        "ema=none",
        "compile=true",
        "batch_size=3",
        "peak_tflops=7",
        "initial.method=random",
        "initial.tokenizer=/a folder/with=sign",
    ]
    config = with_changes(recipe("starter"), changes)
    assert (config.optimizer.lr, config.model.vision.levels, config.ema) == (3e-4, (0, 1), None)
    assert config.model.vision.narrow_windows == ((0.1, 0.2), (0.5, 1))
    assert (config.compile, config.batch_size, config.peak_tflops) == (True, 3, 7.0)
    assert config.initial == InitialWeights("random", tokenizer="/a folder/with=sign")
    assert config.optimizer.weight_decay == recipe("starter").optimizer.weight_decay


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lrr=1", r"optimizer\.lrr: there is no such field; is optimizer\.lr meant\?"),
        ("zzz=1", r"zzz: there is no such field: it has name, model,"),
        ("batch_size", r"expected FIELD=VALUE"),
        ("batch_size=many", r"batch_size=many: expected int"),
        ("batch_size=true", r"expected int"),
        ("steps=1.5", r"steps=1\.5: expected int or none"),
        ("model=3", r"set its fields one by one"),
        ("ema.decay=1", r"ema has no fields of its own"),
        ("precision=fp16", r"precision is 'fp16', expected one of fp32, bf16"),
        ("views.flips=[2, 0, 0]", r"views\.flips: flips is \(2, 0, 0\), expected three probabilities"),
        ("model.vision.patch_size=[5, 5, 5]", r"multiples of the patch size"),
    ],
)
def test_a_set_that_does_not_fit_is_refused_by_field_and_expectation(change, message):
    with pytest.raises(InputError, match=message):
        with_changes(recipe("starter"), [change])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0, expected 1 or more"),
        ({"steps": 0}, "steps is 0, expected 1 or more, or none"),
        ({"precision": "fp16"}, "precision is 'fp16', expected one of fp32, bf16"),
        ({"ema": 1.5}, "ema is 1.5"),
        ({"objective": ObjectiveConfig("supervised")}, "findings is"),
    ],
)
def test_a_wrong_value_is_refused_by_field_and_remedy(changes, message):
    with pytest.raises(InputError, match=message):
        a_config(**changes)


def test_an_objective_that_does_not_fit_the_model_is_refused():
    with pytest.raises(InputError, match="needs a model of one organ, the whole body; it has 2"):
        make_objective(a_config(objective=ObjectiveConfig("clip")))
    with pytest.raises(InputError, match="findings of organs that the model does not have: liver/Hepatic steatosis"):
        make_objective(a_config(objective=ObjectiveConfig("supervised"), findings=("liver/Hepatic steatosis",)))

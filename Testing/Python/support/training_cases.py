"""Training runs for tests: a model so small that a step takes milliseconds, and cases with a known answer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from CTGroundedVLMLib.model.config import debug_config
from CTGroundedVLMLib.model.untrained import registry_tokenizer
from CTGroundedVLMTraining.build import make_learners
from CTGroundedVLMTraining.config import InitialWeights, OptimizerConfig, TrainingConfig
from CTGroundedVLMTraining.data.crop import CroppedCase, grid_settings
from CTGroundedVLMTraining.data.index import IndexWriter, check_settings
from CTGroundedVLMTraining.data.shards import shard_name, write_shard
from CTGroundedVLMTraining.run_folder import RunFolder
from CTGroundedVLMTraining.trainer import Trainer
from CTGroundedVLMTraining.types import OrganText, PreparedCase

_DEBUG = debug_config()
ORGANS = ("lung", "heart")
SIZE = (32, 32, 64)
MODEL = replace(
    _DEBUG,
    organs={organ: _DEBUG.organs[organ] for organ in ORGANS},
    vision=replace(_DEBUG.vision, image_size=SIZE, hidden_size=32, mlp_size=64, blocks=2, heads=2, levels=(0,)),
    text=replace(_DEBUG.text, vocabulary_size=1024, hidden_size=32, blocks=1, heads=2, max_tokens=32, positions=32),
    preprocessing=replace(_DEBUG.preprocessing, minimum_size=SIZE, window_size=SIZE),
)

# without dropout: at this width it drowns what there is to learn
CALM = replace(
    MODEL, vision=replace(MODEL.vision, dropout=0.0), text=replace(MODEL.text, dropout=0.0), pooling_dropout=0.0
)


def some_cases(count=4, organs=ORGANS):
    """Odd cases have a dense lung and say so, even ones an aerated one; most hearts are large."""
    random = np.random.default_rng(0)
    number = {organ: organs.index(organ if organ in organs else organs[0]) + 1 for organ in ORGANS}
    cases = []
    for i in range(count):
        hu = random.integers(-1000, 300, (34, 33, 68)).astype(np.int16)
        organ_map = np.zeros(hu.shape, np.uint8)
        organ_map[2:30, 18:30, 4:60] = number["heart"]
        organ_map[2:30, 2:15, 4:60] = number["lung"]
        hu[2:30, 2:15, 4:60] = (-800, 100)[i % 2] + 10 * i
        texts = {
            "lung": OrganText(f"nodule of {i} mm." if i % 2 else "clear lungs.", "abnormal" if i % 2 else "normal"),
            "heart": OrganText(f"cardiomegaly grade {i}." if i % 3 else "", "abnormal" if i % 3 else "normal"),
        }
        labels = {"lung/Emphysema": i % 2, "heart/Cardiomegaly": int(bool(i % 3))}
        report = " ".join(text.text for text in texts.values())
        texts = {organ: text for organ, text in texts.items() if organ in organs}
        cases.append(PreparedCase(f"case{i}", f"p{i}", hu, organ_map, organs, texts, report, labels))
    return cases


def write_prepared(folder: Path, model, **splits):
    """A folder as ``ctgvlm-train prepare`` makes it, with the given cases by split."""
    check_settings(folder, {"grid": grid_settings(model)})
    with IndexWriter(folder) as index:
        for split, cases in splits.items():
            for case in cases:
                record = {"case_id": f"{split}-{case.case_id}", "volume": case.case_id}
                name = shard_name(record["case_id"])
                write_shard(folder / name, CroppedCase(case.hu_DHW, case.organ_map_DHW, ()), record)
                texts = {organ: [said.text, said.status] for organ, said in case.organ_texts.items()}
                line = {"split": split, "patient_id": case.patient_id, "file": name, "report": case.report}
                index.append(record | line | {"organ_texts": texts, "labels": dict(case.labels)})
    return folder


def a_config(**changes):
    """Four cases make two steps of an epoch; four steps in all."""
    defaults = {
        "name": "test",
        "model": MODEL,
        "initial": InitialWeights(tokenizer="registry"),
        "batch_size": 2,
        "epochs": 2,
        "checkpoint_every": 2,
        "workers": 0,
        "tensorboard": False,
        "optimizer": OptimizerConfig(lr=1e-3, warmup_steps=3),
    }
    return TrainingConfig(**(defaults | changes))


def a_learner(config, cases=None):
    """The first learner of the configuration."""
    return make_learners(config, cases or some_cases(), registry_tokenizer(), torch.device("cpu"))[0]


def a_trainer(folder: Path, config, learners=None, validate=None):
    """A trainer, not started."""
    learners = learners or make_learners(config, some_cases(), registry_tokenizer(), torch.device("cpu"))
    return Trainer(learners, RunFolder(folder, config), validate)


def train(folder: Path, config, learners=None, report=lambda record: None, validate=None):
    """Resume and run; ``finished`` tells how it ended."""
    trainer = a_trainer(folder, config, learners, validate)
    trainer.resume()
    trainer.finished = trainer.run(report)
    return trainer


def weights(trainer, learner=0):
    """A copy of a learner's weights."""
    return {k: v.clone() for k, v in trainer.learners[learner].model.state_dict().items()}

"""From a configuration and a folder of prepared data to a trainer that is ready to run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from CTGroundedVLMLib.errors import InputError, OutputError
from CTGroundedVLMLib.model.tokenizer import load_tokenizer

from .config import TrainingConfig
from .data.collate import Collator, organ_numbers
from .data.dataset import PreparedDataset
from .data.loader import BatchOrder, TrainingLoader
from .initialization import initial_model
from .learner import Learner
from .objectives import ImageReportContrast, Objective, OrganContrast, SupervisedHead, WithQuestions
from .parallel import from_all_ranks, world
from .recipes import registry_findings
from .run_folder import RunFolder
from .trainer import Trainer
from .types import PreparedCase
from .validation import Validation
from .vocabulary import tokenizer_of


def open_data(location: str, config: TrainingConfig, split: str) -> PreparedDataset:
    """Prepared cases of a split that this run can learn from.

    Raises:
        InputError: no such data, or data of another grid or other organs.
    """
    if location.endswith((".csv", ".parquet")):
        raise InputError(
            f"{location} is a manifest: training reads prepared data. Make them once with `ctgvlm-train prepare {location} "
            f"FOLDER --model {config.name}`, then give FOLDER."
        )
    return PreparedDataset(location, split, with_report=config.objective.name != "supervised", model=config.model)


def make_trainer(config: TrainingConfig, data: str, run: RunFolder, device: torch.device) -> Trainer:
    """A trainer on the prepared data in ``data`` (folder or URL).

    Raises:
        InputError, ModelError: configuration, data, initial weights or the run's folder do not fit together.
    """
    config.initial.check_complete()
    cases = open_data(data, config, "train")
    if world()[0] == 0:
        run.prepare()
        run.check_data({"location": data, "cases": len(cases), "identity": cases.identity, "processes": world()[1]})
    tokenizer = run_tokenizer(config, cases, run)
    learners = make_learners(config, cases, tokenizer, device)
    validate = None
    if config.validate_every:
        validate = make_validation(config, open_data(data, config, "validation"), tokenizer)
    return Trainer(learners, run, validate)


def run_tokenizer(config: TrainingConfig, cases: Sequence[PreparedCase], run: RunFolder) -> PreTrainedTokenizerBase:
    """The tokenizer in the run's folder; rank 0 puts it there when a run starts, so that a resumed run has the same."""
    if world()[0] == 0 and not run.tokenizer.is_dir():
        tokenizer = tokenizer_of(config.initial, cases, config.model.text.vocabulary_size)
        partial = run.folder / ".tokenizer.partial"
        try:
            tokenizer.save_pretrained(partial)
            partial.rename(run.tokenizer)
        except OSError as error:
            raise OutputError(f"{run.folder} cannot be written ({error}). Free space or choose a folder.") from error
    from_all_ranks(None)  # wait for rank 0
    return load_tokenizer(run.tokenizer)


def make_learners(
    config: TrainingConfig, cases: Sequence[PreparedCase], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> list[Learner]:
    """One, or for co-teaching two of other initial weights, data order and augmentation."""
    learners = []
    models = 2 if config.objective.false_negatives == "normal+coteach" else 1
    for seed in range(config.seed, config.seed + models):
        model = initial_model(config.model, config.initial, seed).to(device)
        objective = make_objective(config).to(device)
        order = _order(len(cases), config.batch_size, seed, config.accumulate)
        collator = make_collator(config, tokenizer, objective)
        loader = TrainingLoader(cases, config.model, config.views, collator, order, workers=config.workers)
        learners.append(Learner(model, objective, loader, config))
    torch.manual_seed(config.seed * 1000 + world()[0])  # from here on dropout: other numbers on each rank
    return learners


def _order(cases: int, batch_size: int, seed: int, passes: int = 1) -> BatchOrder:
    try:
        return BatchOrder(cases, batch_size, seed, *world(), passes)
    except ValueError as error:
        raise InputError(f"{error} (--set batch_size=N).") from error


def make_objective(config: TrainingConfig) -> Objective:
    """The objective by name. Raises InputError where it does not fit the model."""
    chosen, model = config.objective, config.model
    if chosen.name == "clip":
        if len(model.organs) != 1:
            raise InputError(
                f"The objective clip needs a model of one organ, the whole body; it has {len(model.organs)}."
            )
        return _with_questions(ImageReportContrast(), config)
    try:
        if chosen.name == "supervised":
            return SupervisedHead(list(model.organs), config.findings, model.embedding_size)
        contrast = OrganContrast(
            list(model.organs), chosen.false_negatives, alpha=chosen.alpha, momentum=chosen.momentum
        )
    except ValueError as error:
        raise InputError(f"The objective does not fit: {error}.") from error
    return _with_questions(contrast, config)


def _with_questions(base: Objective, config: TrainingConfig) -> Objective:
    chosen = config.objective
    if not chosen.asks:
        return base
    organ_numbers(config.findings, list(config.model.organs))  # refuses what cannot be asked before a run starts
    return WithQuestions(base, chosen.presence, chosen.location)


def make_collator(
    config: TrainingConfig,
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    findings: Sequence[str] | None = None,
) -> Collator:
    """Batches with the texts and labels that the objective needs."""
    return Collator(
        tokenizer,
        config.model.text.max_tokens,
        config.texts,
        findings=config.findings if findings is None else findings,
        organ_texts=objective.needs_organ_texts,
        reports=objective.needs_reports,
        questions=objective.needs_questions,
        places=objective.needs_places,
    )


def make_validation(
    config: TrainingConfig, cases: Sequence[PreparedCase], tokenizer: PreTrainedTokenizerBase
) -> Validation:
    """On all cases of the validation split but an incomplete last batch."""
    findings = config.findings or registry_findings(config.model)
    size = min(config.batch_size, max(len(cases) // world()[1], 1))
    order = _order(len(cases), size, config.seed)
    collator = make_collator(config, tokenizer, make_objective(config), findings)
    loader = TrainingLoader(cases, config.model, config.views.without_augmentation(), collator, order)
    return Validation(loader, findings, tokenizer, config.model.text.max_tokens)

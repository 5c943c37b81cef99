"""run(): data, a route and a strategy in; a trained, calibrated and scored classifier out.

This file knows the order of the steps. It does not know how a stage is trained, nor what the files of a run are.
"""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlptransfer import distributed
from nlptransfer.classifier import Classifier, note_results
from nlptransfer.data import Data, Split
from nlptransfer.evaluation import default_metric, fit_temperature, fit_thresholds, to_probabilities
from nlptransfer.experiments.environment import machine, peak_memory_mb, texts_per_second, versions
from nlptransfer.experiments.fitting import Learning
from nlptransfer.experiments.scoring import score_splits
from nlptransfer.experiments.stages import Learned, run_stages
from nlptransfer.experiments.task import Task, tasks_of, with_copies
from nlptransfer.files import no_empty_folder, size_mb
from nlptransfer.memo import shared_work
from nlptransfer.models import TOKENS, SomeRows, predict_logits, reorder
from nlptransfer.results import (
    Cost,
    DataSummary,
    Fit,
    RunConfig,
    RunResult,
    TransferSummary,
    begin_run,
    card_results,
    claim,
    plain,
    remove_checkpoints,
)
from nlptransfer.routes import Built
from nlptransfer.training import TARGET
from nlptransfer.transfer import Direct, Sides, pretrained_base

log = logging.getLogger("nlptransfer")

VERIFIED_TEXTS = 8
"""Training texts on which the saved classifier is compared with the live one."""
TRUNCATED_WARNING = 0.05
"""Share of training texts that are not read whole, from which the log warns."""


def run(config: RunConfig, folder: Path, overwrite: bool = False, save_model: bool = True) -> RunResult:
    """Train, score and save; resume what was interrupted in the folder, and return a finished run as it is.

    All processes call this together.

    Args:
        config: all that decides what is learned.
        folder: of the run.
        overwrite: whether a run with other settings in that folder is deleted.
        save_model: whether the classifier is saved, verified, and its speed and size measured.

    Raises:
        SettingError: settings that do not fit each other or the data.
        RunFolderError: the folder holds a run with other settings, or other files.
    """
    # Wrong settings show before a folder is claimed; some only when the base is known.
    config.transfer.check_fits(config.route, _sides(config))
    tasks, question = tasks_of(config), config.question()
    with no_empty_folder(folder), shared_work({TOKENS}):
        if claim(folder, question, overwrite):
            return RunResult.load(folder)
        result = _train_and_score(config, tasks, folder, question)
    if distributed.is_main():
        if save_model:
            result = _saved(config, result)
        result.save()
        if not config.training.keep_checkpoints:
            remove_checkpoints(folder)
    distributed.barrier()
    # Several processes hold one classifier together: it is read from the folder where one of them asks for it.
    return result if distributed.world_size() == 1 else RunResult.load(folder)


def _train_and_score(
    config: RunConfig, tasks: Mapping[str, Task], folder: Path, question: Mapping[str, Any]
) -> RunResult:
    distributed.quiet_others()
    _log_beginning(config, folder)
    built, source_learned = _build(config)
    truncated = _truncated(config, built) if distributed.is_main() else {}
    tasks = with_copies(tasks, config)
    if distributed.is_main():
        begin_run(folder, question)
    agree = config.source is None or config.source.agrees(config.data)
    learning = Learning(config.route, config.transfer, config.training, tasks, built, folder, agree)
    learned = run_stages(learning, source_learned=source_learned)
    _log_forgetting(learned, default_metric(config.data.labels))
    calibrated = _calibrate(config, built)
    return _scored(config, folder, calibrated, learned, DataSummary.of(config.data, truncated), question)


def _sides(config: RunConfig) -> Sides:
    names = config.data.labels.names
    return Sides(names, names, agree=True, has_rows=True) if config.source is None else config.source.sides(config.data)


def _log_beginning(config: RunConfig, folder: Path) -> None:
    log.info("%s: %s -> %s", config.route.name, config.data, folder)
    if config.source is not None:
        log.info("%s from %s", config.transfer.name, config.source.data or config.source.name)


def _log_forgetting(learned: Learned, metric: str) -> None:
    for role, found in learned.scores.items():
        parts = [f"{when} {found[when][metric]:.4f}" for when in ("before", "after") if metric in found.get(when, {})]
        log.info("%s (%s): %s %s", role, found["split"], metric, ", ".join(parts))


def _build(config: RunConfig) -> tuple[Built, bool]:
    """Build the model that the first stage begins with; return whether it has learned the source already."""
    route, data, source, training = config.route, config.data, config.source, config.training
    seed = training.seed if training.init_seed is None else training.init_seed
    if source is not None and source.classifier is not None:
        saved = source.classifier
        built = Built(deepcopy(saved.model), saved.tokenizer, (saved.record or {}).get("base", {}))
        labels = data.labels if source.agrees(data) else source.labels
        reorder(built.model, route.head(built.model), source.labels, labels)
        return built, True
    first: Data = data
    others: list[Data] = []
    further: Sequence[str] = data.unlabeled
    if source is not None and source.data is not None:
        first, others, further = source.data, [source.data], [*data.train.texts, *data.unlabeled]
        labeled = next(stage for stage in config.transfer.stages if stage.learns != "language")
        if labeled.roles[0] == TARGET and not config.transfer.label_free:
            first, further = data, [*source.data.train.texts, *data.unlabeled]
    base, revision = pretrained_base(config.transfer, route, config.base, config.revision, data, others, seed)
    built = route.build(first, base, revision, seed, further)
    built.model.to(distributed.state().device)
    return built, False


def _truncated(config: RunConfig, built: Built) -> dict[str, float]:
    """Return by split the share of its texts that are not read to their end."""
    route, tokenizer = config.route, built.tokenizer
    splits = {name: split.texts for name, split in config.data.splits.items() if len(split)}
    found = {name: route.truncated(tokenizer, texts) / len(texts) for name, texts in splits.items()}
    if found.get("train", 0.0) > TRUNCATED_WARNING:
        log.warning(
            "%.0f%% of the training texts have more than %d tokens and are not read whole: long_text=windows reads "
            "all of a text, head_tail its end too, a larger max_length more of it at once",
            100 * found["train"],
            tokenizer.model_max_length,
        )
    return found


@dataclass(frozen=True)
class _Calibrated:
    """A classifier whose last layer was divided by a temperature."""

    classifier: Classifier
    temperature: float = 1.0


def _calibrate(config: RunConfig, built: Built) -> _Calibrated:
    """Fit temperature and thresholds on calibration rows; the temperature goes into the weights of the last layer."""
    data, source, model = config.data, config.source, built.model.eval()
    classifier = Classifier(
        config.route,
        model,
        built.tokenizer,
        data.labels,
        record={"base": built.record},
        normalization=config.data_settings.normalization,
    )
    rows = _calibration_rows(config)
    if rows is None:
        # A saved classifier is used as it is.
        saved = source.classifier if source is not None else None
        return _Calibrated(replace(classifier, thresholds=saved.thresholds if saved is not None else None))
    if not len(rows):
        return _Calibrated(classifier)
    logits = classifier.logits(rows.texts, share=True)
    temperature = fit_temperature(logits, rows.targets, data.labels.multi_label)
    with torch.no_grad():
        # In the weights, so that whatever loads the folder gives calibrated probabilities.
        for parameter in config.route.head(model).parameters():
            parameter.div_(temperature)
    record = {"base": built.record, "calibration": {"rows": len(rows), "temperature": temperature}}
    thresholds = None
    if data.labels.multi_label:
        found = fit_thresholds(to_probabilities(logits / temperature, data.labels), rows.targets)
        thresholds = tuple(found.tolist())
    return _Calibrated(replace(classifier, record=record, thresholds=thresholds), temperature)


def _calibration_rows(config: RunConfig) -> Split | None:
    """Return the rows to calibrate by; None where no labeled row is learned from."""
    if not config.transfer.label_free and any(TARGET in stage.roles for stage in config.transfer.stages):
        return config.data.calibration
    return config.source.data.calibration if config.source is not None and config.source.data is not None else None


def _scored(
    config: RunConfig,
    folder: Path,
    calibrated: _Calibrated,
    learned: Learned,
    data: DataSummary,
    question: Mapping[str, Any],
) -> RunResult:
    """Score the classifier on all splits, and put together all that is known of the run."""
    classifier = calibrated.classifier

    def probabilities_of(name: str, rows: int) -> np.ndarray:
        if name == "validation" and learned.logits is not None:
            # The classifier itself has learned from these rows by now.
            return to_probabilities(learned.logits / calibrated.temperature, config.data.labels)
        texts = config.data.splits[name].texts
        # All rows of the split, as they were for training: their features are in the cache.
        taken = config.route.rows(classifier.model, classifier.tokenizer, texts, share=True)
        if rows < len(texts):
            taken = SomeRows(taken, np.arange(rows))
        return to_probabilities(predict_logits(classifier.model, taken, share=True), config.data.labels)

    scores, predictions = score_splits(config.data, probabilities_of, classifier.thresholds, config.further_metrics)
    record = classifier.record or {}
    return RunResult(
        folder=folder,
        data=data,
        settings=plain(_settings(config, learned)),
        question=question,
        command=config.command(),
        base=record["base"],
        scores=scores,
        cost=_cost(classifier, learned.fit),
        training=learned.fit,
        processes=distributed.world_size(),
        machine=machine(),
        versions=versions(),
        transfer=_transfer_summary(config, learned),
        calibration=record.get("calibration"),
        thresholds=classifier.thresholds,
        predictions=predictions,
        live=classifier,
    )


def _settings(config: RunConfig, learned: Learned) -> dict[str, Any]:
    stages = learned.settings
    settings: dict[str, Any] = {
        "data": asdict(config.data_settings),
        "route": {"name": config.route.name, **config.route.recorded()},
        "training": asdict([*stages.values()][-1] if stages else config.training),
        "augment": asdict(config.augment),
    }
    if not isinstance(config.transfer, Direct):
        settings["stages"] = {name: asdict(one) for name, one in stages.items()}
    return settings


def _transfer_summary(config: RunConfig, learned: Learned) -> TransferSummary | None:
    if isinstance(config.transfer, Direct):
        return None
    source = config.source
    return TransferSummary(
        name=config.transfer.name,
        label_free=config.transfer.label_free,
        settings=plain(config.transfer_settings()),
        source=None if source is None else source.name if source.data is None else DataSummary.of(source.data),
        stages=learned.stages,
        scores=learned.scores,
        distance_from_source=learned.distance_from_source,
        similarity=learned.similarity,
    )


def _cost(classifier: Classifier, fit: Fit) -> Cost:
    parameters = [(p.numel(), p.requires_grad) for p in classifier.model.parameters()]
    return Cost(
        train_seconds=round(fit.seconds, 3),
        examples_per_second=round(fit.examples / fit.seconds, 1) if fit.seconds else 0.0,
        trainable_parameters=sum(size for size, learned in parameters if learned),
        total_parameters=sum(size for size, _ in parameters),
        peak_memory_mb=round(peak_memory_mb(), 1),
    )


def _saved(config: RunConfig, result: RunResult) -> RunResult:
    """Save the classifier with what its model card says of the run, and measure its speed and size."""
    data, classifier, model = config.data, result.classifier, result.model_folder
    classifier = _with_results(classifier, card_results(result))
    classifier.save_pretrained(model, (data.train.texts or data.unlabeled)[:VERIFIED_TEXTS])
    texts = data.test.texts or data.validation.texts or data.unlabeled
    speed, size = round(texts_per_second(classifier, texts), 1), round(size_mb(model), 3)
    result = replace(result, cost=replace(result.cost, texts_per_second=speed, size_mb=size))
    note_results(model, {"cost": result.cost.to_record()})
    return replace(result, live=_with_results(classifier, card_results(result)))


def _with_results(classifier: Classifier, results: Mapping[str, Any]) -> Classifier:
    return replace(classifier, record={**(classifier.record or {}), "results": results})

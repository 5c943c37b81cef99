"""run(): the order of the steps from a configuration to a trained, calibrated and scored classifier."""

import logging
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlptransfer import distributed
from nlptransfer.classifier import Classifier, note_results
from nlptransfer.data import Data, Split
from nlptransfer.errors import TrainingError, first_line
from nlptransfer.evaluation import MIN_POSITIVES, default_metric, metric_name, to_probabilities, within_reach
from nlptransfer.experiments.baselines import quick_baselines
from nlptransfer.experiments.environment import cost_of, machine, texts_per_second, versions, with_wall_seconds
from nlptransfer.experiments.fitting import Learning
from nlptransfer.experiments.opening import opening_lines
from nlptransfer.experiments.scoring import calibrate, score_splits
from nlptransfer.experiments.stages import Learned, run_stages
from nlptransfer.experiments.task import Task, tasks_of, with_copies
from nlptransfer.files import no_empty_folder, size_mb
from nlptransfer.hub import UNKNOWN
from nlptransfer.memo import shared_work
from nlptransfer.models import NGRAMS, TOKENS, SomeRows, is_out_of_memory, predict_logits, reorder
from nlptransfer.progress import waiting
from nlptransfer.results import (
    Baseline,
    DataSummary,
    RunConfig,
    RunResult,
    TransferSummary,
    begin_run,
    card_results,
    claim,
    learned_hashes,
    plain,
    remove_checkpoints,
    to_record,
    write_learned,
)
from nlptransfer.routes import Built, Route
from nlptransfer.training import SOURCE, TARGET
from nlptransfer.transfer import Direct, pretrained_base

log = logging.getLogger("nlptransfer")

VERIFIED_TEXTS = 8
"""Training texts on which the saved classifier is compared with the live one."""
TRUNCATED_WARNING = 0.05
"""Share of training texts that are not read whole, from which the log warns."""


def run(
    config: RunConfig,
    folder: Path,
    overwrite: bool = False,
    save_model: bool = True,
    *,
    baseline: bool = False,
    started: float | None = None,
) -> RunResult:
    """Train, score and save; resume what was interrupted in the folder, and return a finished run as it is.

    All processes call this together. With ``overwrite`` a run with other settings in that folder is deleted; without
    ``save_model`` no classifier is saved and verified, nor its speed and size measured. With ``baseline`` baselines are
    scored too. It has taken the time since ``started``, of :func:`time.monotonic`; None: since this call.
    """
    started = time.monotonic() if started is None else started
    # Wrong settings show before a folder is claimed; some only when the base is known.
    config.transfer.check_fits(config.route, config.sides())
    tasks, question = tasks_of(config), config.question()
    with no_empty_folder(folder), shared_work({TOKENS, NGRAMS, UNKNOWN}):
        is_finished = claim(folder, question, overwrite)
        result = RunResult.load(folder) if is_finished else _train_and_score(config, tasks, folder, question)
        if baseline and not is_finished and distributed.is_main():
            with waiting("scoring the baselines"):
                result = replace(result, baselines=baselines_of(config))
    if distributed.is_main():
        if not is_finished:
            if save_model:
                result = _saved(config, result)
                note_learned(config, folder)
            result = replace(result, cost=with_wall_seconds(result.cost, started))
            result.save()
        # Of a finished run too: it may have been killed just before.
        if not result.settings["training"]["keep_checkpoints"]:
            remove_checkpoints(folder)
    distributed.barrier()
    # Several processes hold one classifier together: it is read from the folder where one of them asks for it.
    return result if distributed.world_size() == 1 else RunResult.load(folder)


def _train_and_score(
    config: RunConfig, tasks: Mapping[str, Task], folder: Path, question: Mapping[str, Any]
) -> RunResult:
    data, transfer = config.data, config.transfer
    distributed.quiet_others()
    for line in opening_lines(config, folder):
        log.info("%s", line)
    built, source_learned, pretrained = _build(config)
    truncated = _truncated(config, built) if distributed.is_main() else {}
    tasks = with_copies(tasks, config)
    begin_run(folder, question, warnings=data.warnings)
    learning = Learning(config.route, transfer, config.training, tasks, built, folder, config.labels_agree, pretrained)
    learned = run_stages(learning, source_learned=source_learned)
    route, fit = config.route.finish(built.model), learned.fit
    if route.is_frozen:
        # Its features are computed when it is built.
        fit = replace(fit, seconds=fit.seconds + built.seconds)
    metric = default_metric(data.labels)
    names = {TARGET: data.name, SOURCE: config.source.name if config.source is not None else ""}
    words = {"before": "before learning from the target", "after": "in the end"}
    for role, scores in learned.scores.items():
        parts = [f"{scores[when][metric]:.4f} {words[when]}" for when in words if metric in scores.get(when, {})]
        rows = f"{scores['split']} rows of the {role}, {names[role]}"
        log.info("%s on the %s: %s", metric_name(metric), rows, ", ".join(parts))

    classifier, temperature = _calibrated(config, route, built)

    def probabilities_of(name: str, rows: int) -> np.ndarray:
        if name == "validation" and learned.logits is not None:
            # The classifier itself has learned from these rows by now.
            return to_probabilities(learned.logits / temperature, data.labels)
        texts = data.splits[name].texts
        if rows < len(texts) and not config.route.caches_features:
            texts = texts[:rows]
        # All rows of the split where their features are in the cache, as they were for training.
        inputs = classifier.route.rows(classifier.model, classifier.tokenizer, texts, share=True)
        if rows < len(texts):
            inputs = SomeRows(inputs, np.arange(rows))
        return to_probabilities(
            predict_logits(classifier.model, inputs, share=True, shown=f"scoring {name}"), data.labels
        )

    scores, predictions = score_splits(data, probabilities_of, classifier.thresholds, config.further_metrics)
    parameters = [*classifier.model.parameters()]
    trainable = sum(one.numel() for one in parameters if one.requires_grad)
    return RunResult(
        folder=folder,
        data=DataSummary.of(data, truncated),
        settings=plain(_settings(config, route, learned)),
        question=question,
        command=config.command(),
        repeat=config.repeat,
        base=classifier.record["base"],
        scores=scores,
        cost=cost_of(fit, trainable, sum(one.numel() for one in parameters)),
        training=fit,
        processes=distributed.world_size(),
        machine=machine(),
        versions=versions(),
        transfer=_transfer_summary(config, learned),
        calibration=classifier.record.get("calibration"),
        thresholds=classifier.thresholds,
        predictions=predictions,
        live=classifier,
    )


def note_learned(config: RunConfig, folder: Path) -> None:
    """Note the texts that a run has learned from, or was chosen by, as hashes: none is new to its classifier."""
    sources = [] if config.source is None or config.source.data is None else [config.source.data]
    splits = [split for data in (config.data, *sources) for name, split in data.splits.items() if name != "test"]
    write_learned(folder, learned_hashes(chain.from_iterable(split.texts for split in splits)))


def baselines_of(config: RunConfig) -> dict[str, Baseline]:
    """Score baselines on the run's test rows; they learn from its rows, or, where it sees no label of these, from those
    of the source."""
    if not config.transfer.label_free:
        return quick_baselines(config.data)
    source = None if config.source is None else config.source.data
    return {} if source is None else quick_baselines(replace(source, test=config.data.test))


def _build(config: RunConfig) -> tuple[Built, bool, dict[str, Any] | None]:
    """Build the model that the first stage begins with; return whether it has learned the source already.

    The third is the record of a stage that has trained its word vectors.
    """
    route, data, source, seed = config.route, config.data, config.source, config.training.initialization_seed
    if source is not None and (saved := source.classifier) is not None:
        built = Built(deepcopy(saved.model), saved.tokenizer, saved.record.get("base", {}))
        labels = data.labels if config.labels_agree else source.labels
        reorder(built.model, route.head(built.model), source.labels, labels)
        return built, True, None
    first: Data = data
    others: list[Data] = []
    if source is not None and source.data is not None:
        others = [source.data]
        labeled = next(stage for stage in config.transfer.stages if stage.learns != "language")
        if labeled.roles[0] != TARGET or config.transfer.label_free:
            first = source.data
    extra = [text for one in (data, *others) if one is not first for text in one.train.texts]
    base, revision, pretrained = pretrained_base(
        config.transfer, route, config.base, config.revision, data, others, seed
    )
    try:
        started = time.monotonic()
        built = route.build(first, base, revision, seed, [*extra, *data.unlabeled])
        built.model.to(distributed.state().device)
        built = replace(built, seconds=time.monotonic() - started)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        what = f"expected a model that memory holds, found {first_line(error)[:200]}"
        raise TrainingError(f"{what}: take a smaller base, or smaller sizes in the settings of the route") from error
    return built, False, pretrained


def _truncated(config: RunConfig, built: Built) -> dict[str, float]:
    route, tokenizer = config.route, built.tokenizer
    splits = {name: split.texts for name, split in config.data.splits.items() if len(split)}
    shares = {name: route.truncated(tokenizer, texts) / len(texts) for name, texts in splits.items()}
    if shares.get("train", 0.0) > TRUNCATED_WARNING:
        log.warning(
            "%.0f%% of the training texts have more than %d tokens and are not read whole: long_text=windows reads "
            "all of a text, head_tail its end too, a larger max_length more of it at once",
            100 * shares["train"],
            tokenizer.model_max_length,
        )
    return shares


def _calibrated(config: RunConfig, route: Route, built: Built) -> tuple[Classifier, float]:
    """Return the classifier and its temperature; that and thresholds are fitted on calibration rows, if any."""
    labels, source, model = config.data.labels, config.source, built.model.eval()
    record: dict[str, Any] = {"base": built.record}
    classifier = Classifier(
        route,
        model,
        built.tokenizer,
        labels,
        record=record,
        normalization=config.data_settings.normalization,
        text_columns=config.data.columns.text if config.data.columns is not None else (),
    )
    if not config.transfer.label_free and any(TARGET in stage.roles for stage in config.transfer.stages):
        data = config.data
    elif source is not None and source.data is not None:
        data = source.data
    else:
        # A saved classifier is used as it is.
        saved = source.classifier if source is not None else None
        return replace(classifier, thresholds=saved.thresholds if saved is not None else None), 1.0
    if not len(rows := data.calibration):
        return classifier, 1.0
    logits = classifier.logits(rows.texts, share=True, shown="calibrating")
    temperature, thresholds = calibrate(logits, rows, labels)
    with torch.no_grad():
        # In the weights, so that whatever loads the folder gives calibrated probabilities.
        for parameter in route.head(model).parameters():
            parameter.div_(temperature)
    record["calibration"] = {"rows": len(rows), "temperature": temperature}
    if thresholds is not None:
        held_out = to_probabilities(logits / temperature, labels), rows.targets
        thresholds = _within_reach(thresholds, held_out, classifier, data.train, whole=config.route.is_frozen)
    return replace(classifier, thresholds=thresholds), temperature


def _within_reach(
    thresholds: tuple[float, ...],
    held_out: tuple[np.ndarray, np.ndarray],
    classifier: Classifier,
    train: Split,
    *,
    whole: bool,
) -> tuple[float, ...]:
    """Lower the thresholds of labels that few calibration rows have, so that a training row is given each of them.

    With ``whole`` all training rows are asked, whose features are at hand where nothing but the head learns.
    """
    few = classifier.labels.count(held_out[1]) < MIN_POSITIVES
    if not few.any():
        return thresholds
    some = train if whole else train.take(np.flatnonzero(train.targets[:, few].any(axis=1)))
    learned = to_probabilities(classifier.logits(some.texts, share=True), classifier.labels), some.targets
    return tuple(np.where(few, within_reach(thresholds, learned, held_out), thresholds).tolist())


def _settings(config: RunConfig, route: Route, learned: Learned) -> dict[str, Any]:
    stages = {name: asdict(one) for name, one in learned.settings.items()}
    settings: dict[str, Any] = {
        "data": asdict(config.data_settings) | (config.data.columns.as_settings() if config.data.columns else {}),
        "route": {"name": route.name, **route.recorded()},
        "training": [asdict(config.training), *stages.values()][-1],
        "augment": asdict(config.augment),
    }
    return settings if isinstance(config.transfer, Direct) else {**settings, "stages": stages}


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


def _saved(config: RunConfig, result: RunResult) -> RunResult:
    """Save the classifier with what its model card says of the run, and measure its speed and size."""
    data, model, classifier = config.data, result.model_folder, _with_results(result)
    classifier.save_pretrained(model, (data.train.texts or data.unlabeled)[:VERIFIED_TEXTS])
    texts = data.test.texts or data.validation.texts or data.unlabeled
    speed, size = round(texts_per_second(classifier, texts), 1), round(size_mb(model), 3)
    result = replace(result, cost=replace(result.cost, texts_per_second=speed, size_mb=size))
    note_results(model, {"cost": to_record(result.cost)})
    return replace(result, live=_with_results(result))


def _with_results(result: RunResult) -> Classifier:
    return replace(result.classifier, record={**result.classifier.record, "results": card_results(result)})

"""The datasets of a run, each with its loss and metric. This file knows no model."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from nlptransfer.data import Data, Labels, Split
from nlptransfer.evaluation import default_metric, higher_is_better, known_score, score_predictions, to_probabilities
from nlptransfer.results import RunConfig
from nlptransfer.training import SOURCE, TARGET, UNLABELED, LabelLoss, TrainingSettings, augment, class_weights
from nlptransfer.vectors import vectors_for

log = logging.getLogger("nlptransfer")

UNSEEN = -1
ONE_SIDED = 1.645
"""Standard errors above which a normal variable is in 5% of the cases."""


@dataclass(frozen=True)
class Task:
    """A dataset with its training loss and validation metric."""

    data: Data
    criterion: LabelLoss
    score: Callable[[np.ndarray, np.ndarray], float]
    """(targets, logits) -> score, higher is better"""
    metric: str
    """the score's name"""
    weights: np.ndarray | None = None
    """(training rows,) float32, besides those of the classes; None: all 1"""
    has_copies: bool = False
    """whether altered copies of rows are among the training rows"""

    @classmethod
    def of(cls, data: Data, settings: TrainingSettings, weights: np.ndarray | None = None) -> "Task":
        """Make a task; raise a SettingError where class weights or metric make no sense for the labels.

        ``weights`` (training rows,) multiply those that the rows have in the data.
        """
        if data.train.weights is not None:
            weights = data.train.weights if weights is None else weights * data.train.weights
        of_classes = class_weights(settings.class_weights, data.labels, data.train.targets)
        metric = known_score(settings.metric_for_best_model or default_metric(data.labels), data.labels)
        criterion = LabelLoss(data.labels, of_classes, settings.label_smoothing)
        return cls(data, criterion, _scorer(data.labels, metric), metric, weights)

    @classmethod
    def unlabeled(cls, data: Data) -> "Task":
        """Make a task of the texts without labels."""
        labels, count = data.labels, len(data.unlabeled)
        none = Split([], labels.encode([]))
        shape = (count, labels.num_labels) if labels.multi_label else count
        unseen = np.full(shape, np.nan, np.float32) if labels.multi_label else np.full(shape, UNSEEN)
        texts = replace(data, train=Split([*data.unlabeled], unseen), validation=none, calibration=none)
        metric = default_metric(labels)
        return cls(texts, LabelLoss(labels), _scorer(labels, metric), metric)

    def beats_one_label(self, targets: np.ndarray, logits: np.ndarray) -> bool:
        """Tell whether surely more of these rows are right than if all were given the label most of them have.

        A one-sided paired test at 5%, McNemar's (1947) where classes weigh the same; rows weigh what they do in the
        loss by their class.
        """
        weights = self.criterion.class_weights.double().cpu().numpy()[targets]
        most = np.bincount(targets, weights).argmax()
        apart = weights * ((logits.argmax(axis=1) == targets).astype(float) - (targets == most))
        return bool(apart.sum() > ONE_SIDED * math.sqrt((apart**2).sum()))

    def majority_score(self) -> float | None:
        """Score the most frequent label for every validation row; None where that says nothing."""
        data = self.data
        if not len(data.validation) or data.labels.multi_label or len(set(data.train.targets.tolist())) < 2:
            return None
        counts = np.bincount(data.train.targets, minlength=data.labels.num_labels)
        logits = np.tile(np.log(counts + 1e-9).astype(np.float32), (len(data.validation), 1))
        return self.score(data.validation.targets, logits)


def tasks_of(config: RunConfig) -> dict[str, Task]:
    """Return the tasks of a run by role, as far as there are such rows."""
    data, source, training = config.data, config.source, config.training
    tasks = {} if config.transfer.label_free else {TARGET: Task.of(data, training)}
    if data.unlabeled:
        tasks[UNLABELED] = Task.unlabeled(data)
    if source is not None and source.data is not None:
        if not config.labels_agree and not isinstance(training.class_weights, str):
            # Weights by name are of the target's labels.
            training = replace(training, class_weights=None)
        tasks[SOURCE] = Task.of(source.data, training, source.weights)
    return tasks


def with_copies(tasks: Mapping[str, Task], config: RunConfig) -> dict[str, Task]:
    """Add altered copies of the target's training rows, if asked for."""
    if not config.augment.augment_copies:
        return dict(tasks)
    data, training, vectors = config.data, config.training, None
    if config.augment.augment_synonyms:
        vectors, _ = vectors_for(data.train.texts, config.base, config.revision)
    train = augment(data.train, config.augment, training.order_seed, vectors)
    log.info(
        "%d altered copies of the %d training texts are learned too", len(train) - len(data.train), len(data.train)
    )
    target = tasks[TARGET]
    task = replace(target, data=replace(target.data, train=train), weights=train.weights, has_copies=True)
    return {**tasks, TARGET: task}


def _scorer(labels: Labels, metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    sign = 1.0 if higher_is_better(metric) else -1.0

    def score(targets: np.ndarray, logits: np.ndarray) -> float:
        return float(sign * score_predictions(targets, to_probabilities(logits, labels), labels, resamples=0)[metric])

    return score

"""One side of a transfer: its rows, what they cost, and how outputs for them are judged."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from nlptransfer.data import Data, Labels, Split
from nlptransfer.evaluation import default_metric, higher_is_better, known_score, score_predictions, to_probabilities
from nlptransfer.training import LabelLoss, TrainingSettings, class_weights

UNSEEN = -1
"""In place of a label that nobody sees."""


@dataclass(frozen=True)
class Task:
    """One side of a transfer: its rows, what they cost, and how outputs for them are judged."""

    data: Data
    criterion: LabelLoss
    judge: Callable[[np.ndarray, np.ndarray], float]
    """(targets, logits) -> score, higher is better"""
    weights: np.ndarray | None = None
    """(training rows,) float32, what each counts besides its class; None: all 1"""
    has_copies: bool = False
    """whether altered copies of its rows are among the training rows"""

    @classmethod
    def of(cls, data: Data, settings: TrainingSettings, weights: np.ndarray | None = None) -> "Task":
        """A task in the settings of a training.

        Raises:
            SettingError: a class weight or a metric that makes no sense for these labels.
        """
        of_classes = class_weights(settings.class_weights, data.labels, data.train.targets)
        judge = _judge(data.labels, settings.metric_for_best_model)
        return cls(data, LabelLoss(data.labels, of_classes, settings.label_smoothing), judge, weights)

    @classmethod
    def unlabeled(cls, data: Data) -> "Task":
        """The texts of a task whose labels nobody sees: targets that no loss takes."""
        none = Split([], data.labels.encode([]))
        shape = (len(data.unlabeled), data.labels.num_labels) if data.labels.multi_label else len(data.unlabeled)
        unseen = np.full(shape, np.nan, np.float32) if data.labels.multi_label else np.full(shape, UNSEEN)
        texts = replace(data, train=Split([*data.unlabeled], unseen), validation=none, calibration=none)
        return cls(texts, LabelLoss(data.labels), _judge(data.labels, None))

    def majority_score(self) -> float | None:
        """The validation score of the most frequent label for every row; None where there is nothing to tell."""
        data = self.data
        if not len(data.validation) or data.labels.multi_label or len(set(data.train.targets.tolist())) < 2:
            return None
        counts = np.bincount(data.train.targets, minlength=data.labels.num_labels)
        logits = np.tile(np.log(counts + 1e-9).astype(np.float32), (len(data.validation), 1))
        return self.judge(data.validation.targets, logits)


def _judge(labels: Labels, metric: str | None) -> Callable[[np.ndarray, np.ndarray], float]:
    name = known_score(metric or default_metric(labels), labels)
    sign = 1.0 if higher_is_better(name) else -1.0

    def judge(targets: np.ndarray, logits: np.ndarray) -> float:
        return sign * score_predictions(targets, to_probabilities(logits, labels), labels, resamples=0)[name]

    return judge

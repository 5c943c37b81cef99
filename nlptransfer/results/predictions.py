"""The predictions of a run for the rows of one split, as arrays, without texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from nlptransfer.data import Labels, Split
from nlptransfer.evaluation import answer_probabilities, confidence, predicted


@dataclass(frozen=True, eq=False)
class Predictions:
    """The rows of one split and what was predicted for them."""

    labels: Labels
    ids: np.ndarray
    """(n,) int64 places in the split"""
    targets: np.ndarray
    """(n,) int64 label ids, or (n, labels) 0 and 1 for several labels a row"""
    predicted: np.ndarray
    """in the shape of ``targets``"""
    probabilities: np.ndarray
    """(n, labels) float64"""
    thresholds: np.ndarray
    """(labels,) probability from which a label is given, for several labels a row"""

    @classmethod
    def of(
        cls, split: Split, probabilities: np.ndarray, labels: Labels, thresholds: Sequence[float] | None
    ) -> "Predictions":
        """Predict the rows of a split from probabilities (n, labels); where thresholds are None they are 0.5."""
        predictions = predicted(probabilities, labels, thresholds)
        limits = np.asarray(thresholds or [0.5] * labels.num_labels)
        # As precise as they are saved.
        rounded = probabilities.astype(np.float32).astype(np.float64)
        return cls(labels, np.arange(len(split)), split.targets.astype(np.int64), predictions, rounded, limits)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def right(self) -> np.ndarray:
        """(n,) bool: whether every label of the row is right."""
        same = self.targets == self.predicted
        return cast(np.ndarray, same.all(axis=1) if self.labels.multi_label else same)

    @cached_property
    def answer_probabilities(self) -> np.ndarray:
        """(n,) probability of the predicted label, or (n, labels) of each yes or no for several labels a row."""
        return answer_probabilities(self.probabilities, self.predicted, multi_label=self.labels.multi_label)

    @cached_property
    def confidences(self) -> np.ndarray:
        """(n,) probability of the predicted label; for several labels a row the lowest of its yes and no."""
        return confidence(self.probabilities, self.predicted, multi_label=self.labels.multi_label)

    @cached_property
    def mistake_confidences(self) -> np.ndarray:
        """(n,) highest probability of a wrong answer; -1 where all is right."""
        if not self.labels.multi_label:
            return np.where(self.right, -1.0, self.answer_probabilities)
        return cast(np.ndarray, np.where(self.targets == self.predicted, -1.0, self.answer_probabilities).max(axis=1))

    @cached_property
    def margins(self) -> np.ndarray:
        """(n,) from the highest probability to the second; for several labels a row from one to its threshold."""
        if self.labels.multi_label:
            return cast(np.ndarray, np.abs(self.probabilities - self.thresholds).min(axis=1))
        if self.labels.num_labels == 1:
            return np.ones(len(self))
        top = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        return top[:, 1] - top[:, 0]

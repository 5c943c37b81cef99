"""What the folder of a run holds, read back: its records, and the rows of one split with what was predicted."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.data import Labels
from nlptransfer.evaluation import answer_probabilities, checked_probabilities, confidence
from nlptransfer.files import read_json


@dataclass(frozen=True)
class Judged:
    """The rows of one split with what was predicted."""

    split: str
    labels: Labels
    ids: np.ndarray
    targets: np.ndarray
    guesses: np.ndarray
    probabilities: np.ndarray
    thresholds: np.ndarray
    """(labels,), for several labels"""

    @cached_property
    def right(self) -> np.ndarray:
        """(n,) of booleans: whether all is right."""
        same = self.targets == self.guesses
        return same.all(axis=1) if self.labels.multi_label else same

    @cached_property
    def sureness(self) -> np.ndarray:
        """The probability of each answer that was given: (n,), or (n, labels) for several, a yes or no for each."""
        return answer_probabilities(self.probabilities, self.guesses, multi_label=self.labels.multi_label)

    @property
    def confidences(self) -> np.ndarray:
        """(n,): of a row; with several labels of its least sure answer."""
        return confidence(self.probabilities, self.guesses, multi_label=self.labels.multi_label)

    @property
    def regrets(self) -> np.ndarray:
        """(n,): how sure a wrong answer was, the surest with several labels; -1 where all is right."""
        if not self.labels.multi_label:
            return np.where(self.right, -1.0, self.sureness)
        return np.where(self.targets == self.guesses, -1.0, self.sureness).max(axis=1)

    @property
    def margins(self) -> np.ndarray:
        """(n,): from the likeliest label to the next; with several from a probability to its threshold."""
        if self.labels.multi_label:
            return np.abs(self.probabilities - self.thresholds).min(axis=1)
        if self.labels.num_labels == 1:
            return np.ones(len(self.ids))
        top = np.partition(self.probabilities, -2, axis=1)[:, -2:]
        return top[:, 1] - top[:, 0]


@dataclass(frozen=True)
class Evidence:
    """What the folder of one run holds; of a rung that trains nothing less than that."""

    folder: Path
    record: Mapping[str, Any]
    """experiment.json, or at least its data"""

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Scores by split, and the cost."""
        return read_if_there(self.folder / "metrics.json")

    @cached_property
    def saved(self) -> dict[str, Any]:
        """The record that the saved classifier has of its making."""
        return read_if_there(self.folder / "model" / "nlptransfer.json")

    @property
    def labels(self) -> Labels:
        """Those of the data."""
        return Labels(tuple(self.record["data"]["labels"]), self.record["data"]["multi_label"])

    @cached_property
    def judged(self) -> Judged | None:
        """The test rows, or without any the validation rows."""
        import pyarrow.parquet as pq

        path = self.folder / "predictions.parquet"
        if not path.exists():
            return None
        columns = pq.read_table(path).to_pydict()
        split = next((name for name in ("test", "validation") if name in columns["split"]), None)
        if split is None:
            return None
        rows = [row for row, name in enumerate(columns["split"]) if name == split]
        taken = {name: [values[row] for row in rows] for name, values in columns.items()}
        labels = self.labels
        targets, guesses = (labels.encode(taken[name]).astype(np.int64) for name in ("true", "predicted"))
        thresholds = np.asarray(self.saved.get("thresholds") or [0.5] * labels.num_labels)
        probabilities = checked_probabilities(taken["probabilities"])
        return Judged(split, labels, np.asarray(taken["id"]), targets, guesses, probabilities, thresholds)


def read_if_there(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where there is none."""
    return read_json(path) if path.exists() else {}

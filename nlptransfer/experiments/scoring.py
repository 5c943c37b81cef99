"""Score probabilities on the splits of a dataset. It does not know what gave them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlptransfer.data import Data
from nlptransfer.evaluation import score_predictions
from nlptransfer.results import Predictions

SCORED_TRAINING_ROWS = 2000
"""Training scores are taken on at most this many rows: they are a check, and cost a forward pass."""


def score_splits(
    data: Data,
    probabilities_of: Callable[[str, int], np.ndarray],
    thresholds: Sequence[float] | None,
    further_metrics: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, Predictions]]:
    """Return the scores of train, validation and test, and the predictions of the last two; an empty split has none.

    Args:
        probabilities_of: (split, rows) -> (rows, labels) for the first rows of the split.
        thresholds: for several labels a row, the probability from which each is given; None: 0.5.
    """
    scores, predictions = dict[str, dict[str, Any]](), dict[str, Predictions]()
    for name in ("train", "validation", "test"):
        split = data.splits[name]
        if name == "train" and len(split) > SCORED_TRAINING_ROWS:
            split = split.take(range(SCORED_TRAINING_ROWS))
        if not len(split):
            continue
        probabilities = probabilities_of(name, len(split))
        scores[name] = {"rows": len(split)} | score_predictions(
            split.targets, probabilities, data.labels, thresholds=thresholds, metrics=further_metrics
        )
        if name != "train":
            predictions[name] = Predictions.of(split, probabilities, data.labels, thresholds)
    return scores, predictions

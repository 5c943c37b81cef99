"""Calibrate logits and score probabilities on the splits of a dataset. This file does not know what gave them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nlptransfer.data import Data, Labels, Split
from nlptransfer.evaluation import fit_temperature, fit_thresholds, score_predictions, to_probabilities
from nlptransfer.results import Predictions

SCORED_TRAINING_ROWS = 2000
"""Training scores are taken on at most this many rows: they are a check, and cost a forward pass."""


def calibrate(logits: np.ndarray, rows: Split, labels: Labels) -> tuple[float, tuple[float, ...] | None]:
    """Fit the temperature on the logits of these rows, and for several labels a row the thresholds."""
    temperature = fit_temperature(logits, rows.targets, labels.multi_label)
    if not labels.multi_label:
        return temperature, None
    return temperature, tuple(fit_thresholds(to_probabilities(logits / temperature, labels), rows.targets).tolist())


def score_splits(
    data: Data,
    probabilities_of: Callable[[str, int], np.ndarray],
    thresholds: Sequence[float] | None,
    further_metrics: Sequence[str] = (),
) -> tuple[dict[str, dict[str, Any]], dict[str, Predictions]]:
    """Return the scores of train, validation and test, and the predictions of the last two; an empty split has none.

    ``probabilities_of`` gives (rows, labels) for a split and a number of its first rows; None for thresholds is 0.5.
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

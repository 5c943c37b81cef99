"""Predictions that are wrong in a share of the rows, and their scores by scikit-learn."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn import metrics as sk

from nlptransfer.data.labels import Labels


def flipped(rng: np.random.Generator, targets: np.ndarray, share: float, k: int = 2) -> np.ndarray:
    """Predictions that are wrong in about that share of the rows (or of the cells), each by itself."""
    return np.where(rng.random(targets.shape) < share, (targets + rng.integers(1, k, targets.shape)) % k, targets)


def targets_and_runs(
    seed: int, labels: Labels, wrong: Sequence[float], rows: int = 60
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Targets, and for each share of wrong rows or cells the predictions of a run."""
    rng = np.random.default_rng(seed)
    k = 2 if labels.multi_label else labels.num_labels
    targets = rng.integers(k, size=(rows, labels.num_labels) if labels.multi_label else rows)
    return targets, [flipped(rng, targets, share, k) for share in wrong]


def score_of(metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The score of that name by scikit-learn."""
    if metric in ("accuracy", "subset_accuracy"):
        return sk.accuracy_score
    if metric == "mcc":
        return sk.matthews_corrcoef
    name, average = metric.split("_")
    function = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}[name]
    return lambda targets, guesses: function(targets, guesses, average=average, zero_division=0)


def quick_f1_macro(targets: np.ndarray, guesses: np.ndarray) -> float:
    """Macro F1 over all labels up to the highest id, for loops in which scikit-learn takes too long."""
    ids = range(max(targets.max(), guesses.max()) + 1)
    both = [((targets == i) & (guesses == i)).sum() for i in ids]
    either = [(targets == i).sum() + (guesses == i).sum() for i in ids]
    return float(2 * np.divide(both, either).mean())

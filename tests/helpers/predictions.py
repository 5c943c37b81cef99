"""Predictions that are wrong in a share of the rows, probabilities, and their scores by scikit-learn."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import expit, softmax
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


def single_rows(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets over some of the labels, and probabilities that lean towards them."""
    targets = rng.choice(rng.choice(k, size=rng.integers(1, k + 1), replace=False), size=n)
    return targets, softmax(rng.normal(size=(n, k)) + 1.5 * np.eye(k)[targets] * rng.integers(0, 2), axis=1)


def multi_rows(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    targets = (rng.random((n, k)) < rng.random(k) * rng.integers(0, 2, k)).astype(float)
    return targets, expit(rng.normal(size=(n, k)) + 2 * targets - 1)


def score_of(metric: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """The score of that name by scikit-learn; macro means are over the labels that a row has."""
    if metric in ("accuracy", "subset_accuracy"):
        return sk.accuracy_score
    if metric == "mcc":
        return sk.matthews_corrcoef
    if metric == "mae":
        return sk.mean_absolute_error
    if metric == "quadratic_kappa":
        return lambda targets, guesses: sk.cohen_kappa_score(targets, guesses, weights="quadratic")
    name, average = metric.split("_")
    function = {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}[name]

    def score(targets: np.ndarray, guesses: np.ndarray) -> float:
        labels = None
        if average == "macro":
            labels = np.unique(targets) if np.ndim(targets) == 1 else np.flatnonzero(np.any(targets, axis=0))
            if not len(labels):
                return 0.0
        return function(targets, guesses, labels=labels, average=average, zero_division=0)

    return score


def quick_f1_macro(targets: np.ndarray, guesses: np.ndarray) -> float:
    """Macro F1 over the labels that a row has, for loops in which scikit-learn takes too long."""
    ids = np.unique(targets)
    both = [((targets == i) & (guesses == i)).sum() for i in ids]
    either = [(targets == i).sum() + (guesses == i).sum() for i in ids]
    return float(2 * np.divide(both, either).mean())

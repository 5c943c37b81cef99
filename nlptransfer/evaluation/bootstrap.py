"""Resample scores over runs and rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from nlptransfer.data import Labels
from nlptransfer.errors import DataError, SettingError
from nlptransfer.evaluation.metrics import averages, checked_targets, known_score, tally

# How many drawn counts are held at once (64-bit: 32 MiB).
_BLOCK = 2**22


def measure(metric: str, labels: Labels) -> str:
    """The metric, if a gain can be measured by it.

    Raises:
        SettingError: an unknown score or one that needs probabilities.
    """
    known_score(metric, labels)
    row = np.zeros((1, labels.num_labels) if labels.multi_label else 1, dtype=np.int64)
    possible = averages(np.ones((1, 1)) @ tally(row, row, labels), 1, labels)
    if metric not in possible:
        raise SettingError(
            f"metric={metric!r}: expected a score of predicted labels, found one that needs probabilities; "
            f"choose one of {', '.join(possible)}"
        )
    return metric


def checked_rows(targets: ArrayLike, labels: Labels) -> np.ndarray:
    """The targets of test rows as integers: ids (rows,), or 0/1 (rows, labels) for several labels.

    Raises:
        DataError: no rows, or values that are no such targets.
    """
    rows = len(np.atleast_1d(targets))
    if not rows:
        raise DataError("targets: expected at least one test row, found none")
    return checked_targets(targets, (rows, labels.num_labels), labels.multi_label)


def checked_runs(name: str, runs: Sequence[ArrayLike], y: np.ndarray, labels: Labels) -> list[np.ndarray]:
    """What each seed's run predicted, in the shape of the checked targets ``y``; ``name`` is for messages.

    Raises:
        DataError: another shape, or values that are no such targets.
    """
    for index, guesses in enumerate(runs):
        if np.shape(guesses) != y.shape:
            raise DataError(
                f"{name}[{index}]: expected predictions of shape {y.shape}, as the targets have it, found "
                f"{np.shape(guesses)}; give one array of predicted targets for each seed, all of the same test rows"
            )
    shape = (len(y), labels.num_labels)
    return [checked_targets(run, shape, labels.multi_label, f"{name}[{index}]") for index, run in enumerate(runs)]


def outcomes(y: np.ndarray, runs: Sequence[np.ndarray], labels: Labels) -> tuple[np.ndarray, list[sparse.csr_array]]:
    """Rows that differ in what is true or predicted: how often each kind occurs (m,), and each run's tally of one."""
    together = np.column_stack([y, *runs])
    _, first, counts = np.unique(together, axis=0, return_index=True, return_counts=True)
    # In the order of the rows, runs can change places without changing what is drawn.
    order = np.argsort(first)
    first = first[order]
    return counts[order], [tally(y[first], guesses[first], labels) for guesses in runs]


def scores(draws: np.ndarray, tables: Sequence[sparse.csr_array], labels: Labels, metric: str) -> np.ndarray:
    """Each run's score in each resample, (runs, resamples), from how often each outcome was drawn (resamples, m)."""
    rows = int(draws[0].sum())
    return np.array([averages(draws @ table, rows, labels)[metric] for table in tables])


def resampled_scores(
    rng: np.random.Generator,
    counts: np.ndarray,
    tables: Sequence[sparse.csr_array],
    labels: Labels,
    metric: str,
    resamples: int,
) -> np.ndarray:
    """Each run's score on rows drawn with replacement, (runs, resamples); all runs are scored on the same draws.

    Drawing how often each outcome occurs is drawing rows, only faster; ``counts`` and ``tables`` are of ``outcomes``.
    """
    rows, step, found = int(counts.sum()), max(1, _BLOCK // max(tables[0].shape)), []
    for start in range(0, resamples, step):
        draws = rng.multinomial(rows, counts / rows, size=min(step, resamples - start))
        found.append(scores(draws, tables, labels, metric))
    return np.concatenate(found, axis=1)


def rounded(differences: np.ndarray | float) -> np.ndarray:
    """Differences of scores without the error of floats: 0 but for rounding must not look like a gain, nor like -0."""
    return np.round(differences, 12) + 0.0

"""Predictions of made-up candidates whose true expected score is known, as hard to tell apart as those of real ones."""

import numpy as np
from scipy.special import ndtri

# How much of what makes a row right or wrong is the row's own, the candidate's, and the seed's: right answers of two
# candidates then correlate by about .3, of two seeds of a candidate by about .45.
ROW, CANDIDATE, SEED = 0.5, 0.2, 0.3


def simulated(
    rng: np.random.Generator,
    candidates: int,
    seeds: int | tuple[int, ...],
    rows: int,
    accuracy: float = 0.85,
    spread: float | tuple[float, ...] = 0.0,
    classes: int = 2,
) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """Targets (rows,), and for each candidate the predictions of each seed, all of the same expected accuracy.

    Every seed's model has an accuracy of its own, normal around ``accuracy`` with the standard deviation ``spread``
    (one for all candidates, or one for each). A row is right where the model's threshold is above a normal variable
    made of the row's difficulty, which all share, of what this candidate finds hard in it, and of what this seed does.
    A wrong row has any other label, so that with equally common classes the macro F1 of a population is the accuracy.
    """
    targets = rng.integers(classes, size=rows)
    difficulty = np.sqrt(ROW) * rng.standard_normal(rows)
    sides = []
    for candidate in range(candidates):
        count = seeds if isinstance(seeds, int) else seeds[candidate]
        width = spread if isinstance(spread, float) else spread[candidate]
        own = difficulty + np.sqrt(CANDIDATE) * rng.standard_normal(rows)
        accuracies = np.clip(rng.normal(accuracy, width, size=count), 0.001, 0.999)
        right = own + np.sqrt(SEED) * rng.standard_normal((count, rows)) < ndtri(accuracies)[:, None]
        wrong = (targets + rng.integers(1, classes, size=(count, rows))) % classes
        sides.append(list(np.where(right, targets, wrong)))
    return targets, sides


# Labels, Zipf's exponent of their shares, how often a row of the commonest and of the rarest is right, rows.
LONG_TAILS = {
    "even": (2, 0.0, 0.8, 0.8, 100),
    "some hard": (6, 1.5, 0.8, 0.3, 100),
    "rare ones as good": (6, 1.5, 0.8, 0.8, 100),
    "two or three rows each": (20, 1.0, 0.8, 0.3, 200),
    "one rules": (4, 3.0, 0.95, 0.4, 100),
    "many rows": (6, 1.5, 0.8, 0.3, 1000),
}


def long_tailed(name: str, rng: np.random.Generator, sets: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw sets of rows with rare labels, (sets, labels, labels) counts by true and predicted; also those expected."""
    classes, tail, of_commonest, of_rarest, rows = LONG_TAILS[name]
    shares = np.arange(1, classes + 1) ** -tail
    shares /= shares.sum()
    right = np.linspace(of_commonest, of_rarest, classes)
    wrong = shares * (1 - np.eye(classes))
    expected = shares[:, None] * (np.diag(right) + (1 - right)[:, None] * wrong / wrong.sum(axis=1, keepdims=True))
    return rng.multinomial(rows, expected.ravel(), size=sets).reshape(sets, classes, classes), expected


def rows_of(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return targets and predictions of counts by true and predicted label, (labels, labels)."""
    true, guessed = np.indices(counts.shape)
    return np.repeat(true, counts.ravel()), np.repeat(guessed, counts.ravel())


def macro_f1_of(expected: np.ndarray, judged: np.ndarray) -> float:
    """Compute the macro F1 of a population of rows, over some labels, in closed form."""
    f1 = 2 * np.diag(expected) / (expected.sum(axis=0) + expected.sum(axis=1))
    return float(f1[judged].mean())

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

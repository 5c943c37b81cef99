"""Resample rows and seeds with replacement (Efron & Tibshirani 1993, ch. 13), whatever it is that is scored."""

from collections.abc import Callable

import numpy as np

BLOCK = 2**22
"""Numbers that are held at a time (64-bit: 32 MiB)."""


def resampled_scores(
    rng: np.random.Generator,
    counts: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    resamples: int,
    *,
    width: int = 1,
) -> np.ndarray:
    """Score rows drawn with replacement, as many as there are: (..., resamples).

    Instead of rows it draws how often each distinct row occurs, (m,) ``counts``, which is the same and takes one draw a
    resample. ``score`` maps counts (draws, m) to scores (..., draws), by way of ``width`` numbers a draw; draws depend
    on neither scores nor blocks.
    """
    rows, block = counts.sum(), max(1, BLOCK // max(len(counts), width))
    sizes = (min(block, resamples - start) for start in range(0, resamples, block))
    return np.concatenate([score(rng.multinomial(rows, counts / rows, size=size)) for size in sizes], axis=-1)


def seed_shares(rng: np.random.Generator, seeds: int, resamples: int) -> np.ndarray:
    """Draw seeds with replacement: the share (resamples, seeds) that each has of a resample."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds


def percentile_interval(draws: np.ndarray) -> tuple[float, float]:
    """Compute the 95% percentile interval of resampled scores (resamples,)."""
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return low, high


def rounded(differences: np.ndarray | float) -> np.ndarray:
    """Round off the error of floats: a difference of 0 must not look like a gain, nor like -0."""
    return np.round(differences, 12) + 0.0

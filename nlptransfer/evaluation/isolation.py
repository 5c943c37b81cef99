"""Find rows whose features are far from those of all their labels. Does not know what the features are of."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 4096
"""Rows that are in memory as float32 at a time, and by which directions and their spread are known."""
DIRECTIONS, ROWS_OF_DIRECTION = 128, 10
"""Most directions in which distances are measured, and rows that there are for each."""
FAR_OUT = 2.5
"""Ranges between the quartiles above the third one, beyond which a distance is far out."""
LEAST_ROWS = 50
"""Rows of a label from which one of them can be far from the others."""


@dataclass(frozen=True, eq=False)
class Isolation:
    """Rows that are far from the mean of each of their labels, in standard deviations."""

    rows: np.ndarray
    """(found,) their places, the farthest first"""
    distances: np.ndarray
    """(found,) from the nearest of their labels' means"""
    usual: float
    """median of such distances"""
    bound: float
    """distance beyond which a row is isolated"""


def isolated(features: np.ndarray, targets: np.ndarray) -> Isolation | None:
    """Find rows that are farther from the means of their labels than nearly all are.

    Mahalanobis distances, over the square root of the number of directions, in the principal directions of what
    differs within labels. Far is more than the third quartile by ``FAR_OUT`` ranges between the quartiles (after Tukey
    1977). Memory is bounded and computing linear in rows. None where labels have too few rows, or all the same.

    Args:
        features: (rows, width), memory-mapped or not: a block of them is in memory at a time.
        targets: (rows,) label numbers, or (rows, labels) of 0 and 1.
    """
    from sklearn.decomposition import PCA

    labels = targets > 0 if targets.ndim == 2 else targets[:, None] == np.arange(targets.max(initial=0) + 1)
    labels = labels & (labels.sum(axis=0) >= LEAST_ROWS)
    eligible = np.flatnonzero(labels.any(axis=1))
    dimensions = min(DIRECTIONS, features.shape[1], min(len(eligible), BLOCK) // ROWS_OF_DIRECTION)
    if not dimensions:
        return None
    some = np.sort(np.random.default_rng(0).choice(eligible, min(len(eligible), BLOCK), replace=False))
    values = features[some].astype(np.float32)
    # What float16 rounds is no spread.
    spread = np.maximum(values.std(axis=0), 1e-3 * np.maximum(1, np.abs(values).max(axis=0)))
    means = np.zeros((labels.shape[1], features.shape[1]), np.float32)
    for block in _blocks(len(features)):
        means += labels[block].astype(np.float32).T @ (features[block].astype(np.float32) / spread)
    means /= np.maximum(labels.sum(axis=0), 1)[:, None]
    of_some = labels[some].astype(np.float32)
    within = values / spread - of_some / of_some.sum(axis=1, keepdims=True) @ means
    if not within.any():
        return None
    pca = PCA(dimensions, svd_solver="randomized", random_state=0).fit(within)
    axes = (pca.components_ / np.sqrt(np.maximum(pca.explained_variance_, 1e-6) * dimensions)[:, None]).T
    centers, distances = means @ axes, np.zeros(len(features), np.float32)
    for block in _blocks(len(features)):
        places = features[block].astype(np.float32) / spread @ axes
        squares = (places**2).sum(axis=1)[:, None] + (centers**2).sum(axis=1) - 2 * places @ centers.T
        distances[block] = np.sqrt(np.where(labels[block], squares, np.inf).min(axis=1).clip(0))
    first, median, third = np.quantile(distances[eligible], [0.25, 0.5, 0.75]).tolist()
    bound = third + FAR_OUT * (third - first)
    found = eligible[distances[eligible] > bound]
    found = found[np.argsort(-distances[found], kind="stable")]
    return Isolation(found, distances[found], median, bound)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))

"""Find the most similar of many rows by their features. Knows arrays, not texts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DIMENSIONS = 256
"""Of a random projection (Johnson & Lindenstrauss 1984), by which candidates are found."""
SLACK = 0.06
"""How far the cosine of projections may be from that of features: 3.5 standard deviations at .85."""
TILE = 2048, 8192
"""Rows and neighbors whose products are in memory at a time (float32: 64 MiB)."""
BLOCK = 8192
"""Rows whose features are in memory at a time as float32."""


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Rows among which the most similar to others is looked for, by the cosine of features less their mean.

    The mean is taken away as features of one encoder share most of their direction (Ethayarajh 2019).
    """

    features: np.ndarray
    """(neighbors, width) of any float type; may be memory-mapped"""
    mean: np.ndarray
    projection: np.ndarray
    """(width, DIMENSIONS)"""
    projected: np.ndarray
    """(neighbors, DIMENSIONS) float16, of length 1: all that is in memory of them"""

    @classmethod
    def of(cls, features: np.ndarray) -> "Neighbors":
        total = np.zeros(features.shape[1])
        for rows in _slices(len(features), BLOCK):
            total += features[rows].sum(axis=0, dtype=np.float64)
        mean = (total / max(len(features), 1)).astype(np.float32)
        projection = np.random.default_rng(0).standard_normal((len(mean), DIMENSIONS), np.float32)
        return cls(features, mean, projection, _projected(features, mean, projection))

    def most_similar(
        self, features: np.ndarray, groups: np.ndarray, own_groups: np.ndarray, least: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find for each row the neighbor with the highest cosine, if that is at least ``least``.

        Args:
            features: (rows, width); the neighbors' own, where they are compared with each other.
            groups, own_groups: (rows,) and (neighbors,) integers: rows and neighbors of one group are not compared.

        Returns:
            (rows,) places of neighbors, -1 where there is none, and their cosines, 0 there.
        """
        is_own = features is self.features
        ours = self.projected if is_own else _projected(features, self.mean, self.projection)
        best, cosines = np.full(len(ours), -1), np.full(len(ours), least - SLACK, np.float32)
        for columns in _slices(len(self.projected), TILE[1]):
            theirs = self.projected[columns].astype(np.float32).T
            for rows in _slices(len(ours), TILE[0]):
                products = ours[rows].astype(np.float32) @ theirs
                products[groups[rows, None] == own_groups[None, columns]] = -1
                place = products.argmax(axis=1)
                highest = products[np.arange(len(place)), place]
                is_better = highest > cosines[rows]
                best[rows][is_better] = columns.start + place[is_better]
                cosines[rows][is_better] = highest[is_better]
        found = np.flatnonzero(best >= 0)
        cosines[best < 0] = 0
        for block in _slices(len(found), BLOCK):
            some = found[block]
            pairs = _units(features[some], self.mean), _units(self.features[best[some]], self.mean)
            cosines[some] = np.einsum("rw,rw->r", *pairs)
        best[cosines < least] = -1
        return best, np.where(best < 0, np.float32(0), cosines)


def _projected(features: np.ndarray, mean: np.ndarray, projection: np.ndarray) -> np.ndarray:
    parts = [np.zeros((0, projection.shape[1]), np.float16)]
    for rows in _slices(len(features), BLOCK):
        parts.append(_units(_units(features[rows], mean) @ projection, 0.0).astype(np.float16))
    return np.concatenate(parts)


def _units(values: np.ndarray, mean: np.ndarray | float) -> np.ndarray:
    centered = values.astype(np.float32) - mean
    units: np.ndarray = centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), np.float32(1e-9))
    return units


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))

"""Which pairs of labels a model separates better than chance, by its scores of rows that it has not learned from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from scipy import sparse

from nlptransfer.evaluation.significance import holm

SEEN_SEPARATION, SEEN_SHARE = 0.75, 0.9
"""A separation that so large a share of the tests would notice: a pair of fewer rows is not tested."""
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Separability:
    """Pairs of labels, and how well each is separated; arrays of (pairs,)."""

    pairs: np.ndarray
    """(pairs, 2) label ids, of the pairs that have enough rows to be tested"""
    rows: np.ndarray
    """(pairs, 2) rows of one label and not of the other"""
    separation: np.ndarray
    """how often the score puts a row of each in the right order, .5 being chance: the area under the ROC curve"""
    p_values: np.ndarray
    """one-sided, of chance, corrected for the number of pairs (Holm 1979)"""

    @property
    def overlapping(self) -> np.ndarray:
        """Whether nothing says that a pair is separated."""
        return self.p_values > LEVEL


def separability(scores: np.ndarray, targets: np.ndarray) -> Separability:
    """Test each pair of labels by Mann and Whitney's (1947) test of how the difference of their scores orders rows.

    A pair is tested where its rows are enough to notice a separation of .75 nine times out of ten, at the strictest
    level that the correction for the number of pairs may ask. Of several labels a row those rows count that have
    exactly one of the two.

    Args:
        scores: (rows, labels) log probabilities, or logits.
        targets: (rows,) label ids, or (rows, labels) of 0 and 1.
    """
    k = scores.shape[1]
    has = targets > 0 if targets.ndim == 2 else targets[:, None] == np.arange(k)
    marked = sparse.csr_array(has, dtype=np.int64)
    shared = (marked.T @ marked).toarray()
    # Rows with the label and without the other one.
    alone = shared.diagonal()[:, None] - shared
    pairs = np.column_stack(np.triu_indices(k, 1))
    rows = np.column_stack([alone[pairs[:, 0], pairs[:, 1]], alone[pairs[:, 1], pairs[:, 0]]])
    # Under chance, the spread of a separation.
    spread = np.sqrt((rows.sum(axis=1) + 1) / (12 * np.maximum(rows.prod(axis=1), 1e-9)))
    noticed = scipy.stats.norm.isf(LEVEL / len(pairs)) + scipy.stats.norm.ppf(SEEN_SHARE)
    is_tested = noticed * spread <= SEEN_SEPARATION - 0.5
    pairs, rows, spread = pairs[is_tested], rows[is_tested], spread[is_tested]
    places = [np.flatnonzero(column) for column in has.T]
    separation = np.array([_separation(scores, has, places, *pair) for pair in pairs.tolist()])
    return Separability(pairs, rows, separation, np.array(holm(scipy.stats.norm.sf((separation - 0.5) / spread))))


def _separation(scores: np.ndarray, has: np.ndarray, places: Sequence[np.ndarray], one: int, other: int) -> float:
    first, second = places[one][~has[places[one], other]], places[other][~has[places[other], one]]
    rows = np.concatenate([first, second])
    ranks = scipy.stats.rankdata(scores[rows, one] - scores[rows, other])
    return float((ranks[: len(first)].mean() - (len(first) + 1) / 2) / len(second))

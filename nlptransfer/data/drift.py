"""Compare the words of two samples of texts: which are in another share of the one than of the other. No labels."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from nlptransfer.data.splitting import text_groups
from nlptransfer.data.terms import words_of

DRIFT_TEXTS = 5_000
"""Most texts of a split whose words are counted."""
DRIFT_ROWS = 5
"""Least texts with a word that each split would have if they did not differ."""
DRIFT_SHARE = 0.01
"""Least difference between the shares of texts that have a word: among many texts less is beyond chance too."""
DRIFT_P = 0.01
"""How often at most a word is named of splits that differ by chance alone."""


class DriftingWord(NamedTuple):
    """A word, and the share of the texts of either sample that have it."""

    word: str
    first: float
    second: float


def drifting_words(first: Sequence[str], second: Sequence[str]) -> list[DriftingWord]:
    """Find words that more texts of one sample have than of the other, beyond chance; the surest first.

    Chi-square with Yates' correction, one degree of freedom; Bonferroni's bound for all words that are frequent enough.
    Copies count once, and of very many texts some are looked at.
    """
    samples = [_spread(first), _spread(second)]
    counts = [Counter(chain.from_iterable(map(words_of, texts))) for texts in samples]
    words = [*counts[0].keys() | counts[1].keys()]
    if not all(samples) or not words:
        return []
    found = np.array([[count[word] for word in words] for count in counts], np.float64)
    rows = np.array([len(texts) for texts in samples])[:, None]
    expected = found.sum(axis=0) * rows / rows.sum()
    is_frequent = (expected >= DRIFT_ROWS).all(axis=0)
    gap = np.maximum(0, np.abs(found - expected)[0] - 0.5)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(is_frequent, gap**2 * (1 / expected + 1 / (rows - expected)).sum(axis=0), 0)
    shares = found / rows
    least = NormalDist().inv_cdf(DRIFT_P / 2 / max(1, is_frequent.sum())) ** 2
    apart = (statistic > least) & (np.abs(shares[0] - shares[1]) >= DRIFT_SHARE)
    most = sorted(np.flatnonzero(apart).tolist(), key=lambda place: (-statistic[place], words[place]))
    return [DriftingWord(words[place], *shares[:, place].tolist()) for place in most]


def _spread(texts: Sequence[str]) -> list[str]:
    """Return texts each once, spread evenly if they are many."""
    rows = np.sort(np.unique(text_groups(texts), return_index=True)[1])
    some = rows[np.linspace(0, len(rows) - 1, min(DRIFT_TEXTS, len(rows))).astype(int)]
    return [texts[row] for row in some.tolist()]

"""Hashes of the texts that a run has learned from, which tell what is not new to it. This file knows no file names."""

import hashlib
from collections.abc import Iterable

import numpy as np

from nlptransfer.data import folded

MOST = 100_000
"""Hashes that are kept, the smallest: of more texts these are a sample, and the same one of any other texts."""


def hashes_of(texts: Iterable[str]) -> np.ndarray:
    """Hash texts, (texts,) uint64, without what copies of a text differ in."""
    digests = b"".join(hashlib.blake2b(folded(text).encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8")


def learned_hashes(texts: Iterable[str]) -> np.ndarray:
    """Return the hashes that are kept of the texts that a run has learned from, in their order."""
    return np.unique(hashes_of(texts))[:MOST]


def share_learned(learned: np.ndarray, texts: Iterable[str]) -> float:
    """Return the share of texts that are among those that were learned from; an estimate where these are many."""
    found = hashes_of(texts)
    found = found[found <= learned[-1]] if len(learned) == MOST else found
    return float(np.isin(found, learned).mean()) if len(found) else 0.0

"""What a process that was spawned, and one that it forked, compute by classifiers of their own."""

import multiprocessing
from collections.abc import Mapping, Sequence

import numpy as np

from nlptransfer import Classifier

Logits = dict[str, np.ndarray]
_classifiers: dict[str, Classifier] = {}
"""What a forked process finds in memory."""


def spawned(classifiers: Mapping[str, Classifier], texts: Mapping[str, Sequence[str]]) -> tuple[Logits, Logits]:
    """Return logits by classifier, computed here and in a process that is forked after that."""
    _classifiers.update(classifiers)
    here = _of_all(texts)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return here, pool.apply_async(_of_all, (texts,)).get(timeout=60)


def _of_all(texts: Mapping[str, Sequence[str]]) -> Logits:
    return {name: classifier.logits(texts[name]) for name, classifier in _classifiers.items()}

"""Warn of what makes scores on data less than they seem: leaks, conflicts, imbalance. Does not know the scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nlptransfer.data.dataset import Data
from nlptransfer.errors import abridged

IMBALANCE = 10
"""Least ratio of the rows of the most frequent label to those of the rarest that is warned of."""
FEW_OF_A_LABEL = 10
"""Labels with fewer training rows than this are named."""
NAMED = 5
"""Labels named in one sentence."""


def data_warnings(data: Data) -> list[str]:
    """Return a sentence on each thing that makes scores on this data less than they seem.

    Texts are alike if they differ in case and blanks at most. Labels of test are looked at to count conflicts alone.
    """
    keys = {name: [" ".join(text.casefold().split()) for text in split.texts] for name, split in data.splits.items()}
    return [*_leaks(keys), *_conflicts(data, keys), *_imbalance(data)]


def _leaks(keys: Mapping[str, Sequence[str]]) -> list[str]:
    warnings = []
    for name, seen, so in (
        ("test", "train", "scores on them are too good"),
        ("validation", "train", "choices made by them are too hopeful"),
        ("calibration", "train", "choices made by them are too hopeful"),
        ("test", "validation", "choices have seen them"),
    ):
        others = {*keys[seen]}
        if shared := sum(key in others for key in keys[name]):
            warnings.append(f"leak: {_counted(shared, len(keys[name]), f'{name} texts')} in {seen} too: {so}")
    return warnings


def _conflicts(data: Data, keys: Mapping[str, Sequence[str]]) -> list[str]:
    first, conflicting = dict[str, Any](), set[str]()
    for name, split in data.splits.items():
        several = data.labels.multi_label
        targets = [row.tobytes() for row in split.targets > 0] if several else split.targets.tolist()
        for key, target in zip(keys[name], targets, strict=True):
            if first.setdefault(key, target) != target:
                conflicting.add(key)
    if not conflicting:
        return []
    rows = Counter(chain.from_iterable(keys.values()))
    counted = _counted(sum(rows[key] for key in conflicting), rows.total(), "rows")
    texts = f"{len(conflicting):,} {'text' if len(conflicting) == 1 else 'texts'}"
    return [f"conflicting labels: {counted} of texts that have different labels in different rows ({texts})"]


def _imbalance(data: Data) -> list[str]:
    targets, names, counts = data.train.targets, data.labels.names, data.labels.count(data.train.targets)
    warnings, order = [], np.argsort(counts, kind="stable")
    rarest, most = int(order[0]), int(order[-1])
    if counts[most] >= IMBALANCE * max(1, counts[rarest]):
        warnings.append(
            f"imbalance: {names[most]!r} has {int(counts[most]):,} of the {len(targets):,} training rows, "
            f"{names[rarest]!r} {int(counts[rarest]):,}: look at macro F1 and at the scores per class"
        )
    if few := [int(label) for label in order if counts[label] < FEW_OF_A_LABEL]:
        named = abridged([f"{names[label]!r} ({int(counts[label])})" for label in few], NAMED)
        warnings.append(f"few rows: fewer than {FEW_OF_A_LABEL} training rows of {named}")
    return warnings


def _counted(count: int, all_: int, what: str) -> str:
    return f"{count:,} of the {all_:,} {what} ({count / all_:.1%}) are"

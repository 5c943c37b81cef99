"""Warn of what makes scores on data less than they seem: leaks, conflicts, imbalance. Does not know the scores."""

from collections import Counter, defaultdict

import numpy as np

from nlptransfer.data.dataset import Data, Split
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
    return [*_leaks(data), *_conflicts(data), *_imbalance(data)]


def _leaks(data: Data) -> list[str]:
    warnings = []
    for name, seen, so in (
        ("test", "train", "scores on them are too good"),
        ("validation", "train", "choices made by them are too hopeful"),
        ("calibration", "train", "choices made by them are too hopeful"),
        ("test", "validation", "choices have seen them"),
    ):
        keys, others = _keys(data.splits[name]), {*_keys(data.splits[seen])}
        if shared := sum(key in others for key in keys):
            warnings.append(f"leak: {_counted(shared, len(keys), f'{name} texts')} in {seen} too: {so}")
    return warnings


def _conflicts(data: Data) -> list[str]:
    labels, rows = defaultdict[str, set[tuple[float, ...]]](set), Counter[str]()
    for split in data.splits.values():
        for key, target in zip(_keys(split), split.targets, strict=True):
            labels[key].add(tuple(np.atleast_1d(target).tolist()))
            rows[key] += 1
    conflicting = [key for key, targets in labels.items() if len(targets) > 1]
    if not conflicting:
        return []
    counted = _counted(sum(rows[key] for key in conflicting), rows.total(), "rows")
    texts = f"{len(conflicting):,} {'text' if len(conflicting) == 1 else 'texts'}"
    return [f"conflicting labels: {counted} of texts that have different labels in different rows ({texts})"]


def _imbalance(data: Data) -> list[str]:
    targets, names = data.train.targets, data.labels.names
    counts = targets.sum(axis=0) if data.labels.multi_label else np.bincount(targets, minlength=len(names))
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


def _keys(split: Split) -> list[str]:
    return [" ".join(text.casefold().split()) for text in split.texts]


def _counted(count: int, all_: int, what: str) -> str:
    return f"{count:,} of the {all_:,} {what} ({count / all_:.1%}) are"

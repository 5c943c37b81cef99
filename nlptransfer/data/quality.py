"""What the reader of a score should know of the data: leaks, labels at odds, labels out of balance."""

from collections import Counter, defaultdict
from collections.abc import Iterable

import numpy as np

from nlptransfer.data.dataset import Data, Split

IMBALANCE = 10
"""The most frequent label is called heavy from so many times the rows of the rarest on."""
FEW_ROWS = 10
"""A label of fewer training rows is named."""
NAMED = 5
"""Labels named in one sentence."""


def data_warnings(data: Data) -> list[str]:
    """Sentences on what makes scores on this data less than they seem; empty where nothing was found.

    Texts are alike if they differ in case and blanks at most. Labels of test are looked at to count conflicts, and
    nothing else is made of them.
    """
    return [*_leaks(data), *_conflicts(data), *_imbalance(data)]


def _leaks(data: Data) -> list[str]:
    train, found = set(_keys(data.train)), []
    for name in ("test", "validation", "calibration"):
        keys = _keys(getattr(data, name))
        shared = sum(key in train for key in keys)
        if shared:
            beyond = "scores on them are too good" if name == "test" else "choices made by them are too hopeful"
            found.append(f"leak: {_counted(shared, len(keys), f'{name} texts')} in train too: {beyond}")
    validation = set(_keys(data.validation))
    if shared := sum(key in validation for key in _keys(data.test)):
        told = _counted(shared, len(data.test), "test texts")
        found.append(f"leak: {told} in validation too: choices have seen them")
    return found


def _conflicts(data: Data) -> list[str]:
    labels, rows = defaultdict[str, set[tuple[float, ...]]](set), Counter[str]()
    for split in data.splits.values():
        for key, target in zip(_keys(split), split.targets, strict=True):
            labels[key].add(tuple(np.atleast_1d(target).tolist()))
            rows[key] += 1
    at_odds = [key for key, given in labels.items() if len(given) > 1]
    if not at_odds:
        return []
    count = sum(rows[key] for key in at_odds)
    return [
        f"labels at odds: {_counted(count, sum(rows.values()), 'rows')} of texts that have different labels in "
        f"different rows ({len(at_odds):,} {'text' if len(at_odds) == 1 else 'texts'})"
    ]


def _imbalance(data: Data) -> list[str]:
    targets, names = data.train.targets, data.labels.names
    counts = targets.sum(axis=0) if data.labels.multi_label else np.bincount(targets, minlength=len(names))
    found, order = [], np.argsort(counts, kind="stable")
    rarest, most = int(order[0]), int(order[-1])
    if counts[most] >= IMBALANCE * max(1, counts[rarest]):
        found.append(
            f"imbalance: {names[most]!r} has {int(counts[most]):,} of the {len(targets):,} training rows, "
            f"{names[rarest]!r} {int(counts[rarest]):,}: look at macro F1 and at the scores per class"
        )
    if few := [int(label) for label in order if counts[label] < FEW_ROWS]:
        named = ", ".join(f"{names[label]!r} ({int(counts[label])})" for label in few[:NAMED])
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        found.append(f"few rows: fewer than {FEW_ROWS} training rows of {named}{more}")
    return found


def _keys(split: Split) -> list[str]:
    return list(_folded(split.texts))


def _folded(texts: Iterable[str]) -> Iterable[str]:
    return (" ".join(text.casefold().split()) for text in texts)


def _counted(count: int, all_: int, what: str) -> str:
    return f"{count:,} of the {all_:,} {what} ({count / all_:.1%}) are"

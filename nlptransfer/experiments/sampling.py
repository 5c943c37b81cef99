"""Take some rows of many, of each label an equal share."""

import numpy as np

from nlptransfer.data import Split


def some_rows(split: Split, rows: int) -> Split:
    """Return at most so many rows, of each label an equal share."""
    return split.take(places_of_some(split, rows))


def places_of_some(split: Split, rows: int) -> np.ndarray:
    """Return the places of at most so many rows, of each label an equal share, in their order."""
    order = np.lexsort(split.targets.reshape(len(split), -1).T)
    return np.sort(order[np.linspace(0, len(split) - 1, min(rows, len(split))).round().astype(int)])

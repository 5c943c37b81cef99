"""Check targets and probabilities, and turn logits into probabilities and those into predictions, but score nothing.

Targets and predictions are label ids (n,), or 0/1 (n, k) for several labels; logits and probabilities are (n, k).
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, softmax

from nlptransfer.data import Labels
from nlptransfer.errors import DataError
from nlptransfer.settings import check


def checked_matrix(values: ArrayLike, what: str) -> np.ndarray:
    """Convert numbers (n, k) to float64; another shape, no rows, or numbers that are not finite are a DataError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise DataError(f"{what}: expected at least one row and one column a label, found shape {array.shape}")
    if not np.isfinite(array).all():
        row, column = np.argwhere(~np.isfinite(array))[0]
        raise DataError(f"{what}: expected finite numbers, found {array[row, column]} in row {row}, column {column}")
    return array


def checked_probabilities(probabilities: ArrayLike, columns: int | None = None) -> np.ndarray:
    """Convert probabilities (n, k) to float64, or raise a DataError for another shape or values outside [0, 1]."""
    p = checked_matrix(probabilities, "probabilities")
    # Half precision can round a softmax a little above 1.
    if p.min() < 0 or p.max() > 1.001:
        raise DataError(
            f"probabilities: expected numbers in [0, 1], found {p.min():.4g} to {p.max():.4g}; "
            "take the softmax or sigmoid of logits first"
        )
    if columns not in (None, p.shape[1]):
        raise DataError(f"probabilities: expected {columns} columns, one a label, found {p.shape[1]}")
    return p


def checked_targets(targets: ArrayLike, shape: tuple[int, ...], multi_label: bool, what: str = "targets") -> np.ndarray:
    """Convert targets to integers, or raise a DataError for values or a shape that do not fit ``shape``, (n, k)."""
    y, expected = np.asarray(targets), shape if multi_label else shape[:1]
    if y.shape != expected:
        raise DataError(f"{what}: expected shape {expected} to go with the predictions, found {y.shape}")
    top = 1 if multi_label else shape[1] - 1
    kind = "0 or 1" if multi_label else f"label ids from 0 to {top}"
    if y.dtype.kind not in "biuf":
        raise DataError(f"{what}: expected {kind}, found values of type {y.dtype}")
    y = y.astype(np.float64)
    wrong = (y < 0) | (y > top) | (y != np.floor(y))
    if wrong.any():
        raise DataError(f"{what}: expected {kind}, found {y[wrong][0]} in row {np.argwhere(wrong)[0][0]}")
    return y.astype(np.int64)


def checked_rows(
    targets: ArrayLike, probabilities: ArrayLike, multi_label: bool, columns: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Convert targets and probabilities that go together, or raise a DataError."""
    p = checked_probabilities(probabilities, columns)
    return checked_targets(targets, p.shape, multi_label), p


def to_probabilities(logits: np.ndarray, labels: Labels) -> np.ndarray:
    """Turn logits (n, k) into probabilities: softmax, or a sigmoid for each of several labels."""
    return np.asarray(expit(logits) if labels.multi_label else softmax(logits, axis=1))


def predicted(probabilities: ArrayLike, labels: Labels, thresholds: ArrayLike | None = None) -> np.ndarray:
    """Predict the likeliest label's id, or with several labels each one that reaches its threshold, by default .5.

    Probabilities of another shape, outside [0, 1] or not finite are a DataError, thresholds that are not (k,), or for
    single-label data, a SettingError.
    """
    p = checked_probabilities(probabilities, labels.num_labels)
    if not labels.multi_label:
        check(thresholds is None, "thresholds", thresholds, "none where each row has one label")
        return np.asarray(p.argmax(axis=1))
    limits = np.full(p.shape[1], 0.5) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    check(limits.shape == (p.shape[1],), "thresholds", thresholds, f"{p.shape[1]} numbers, one a label")
    return (p >= limits).astype(np.int64)

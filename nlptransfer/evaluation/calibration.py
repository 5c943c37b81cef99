"""How far probabilities can be trusted: their temperature and thresholds, likelihood, Brier score, calibration error,
and what abstaining buys.

``fit_temperature`` and ``fit_thresholds`` belong on rows that trained nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_softmax, logit, softmax

from nlptransfer.evaluation.metrics import checked_matrix, checked_probabilities, checked_targets

BINS = 15
TEMPERATURES = (0.05, 20.0)
MIN_POSITIVES = 5


def fit_temperature(logits: ArrayLike, targets: ArrayLike, multi_label: bool = False) -> float:
    """The temperature T in [0.05, 20] that makes softmax(logits / T), or sigmoid, likeliest (Guo et al. 2017).

    One row's worth of the n rows' targets is shared out among all labels, as Platt (1999) smooths his: a few rows that
    are all predicted right would otherwise ask for certainty. Convex in 1/T, so that one bounded search over log T is
    enough. Predictions of single labels do not change.

    Args:
        logits: (n, k), of rows that trained nothing.
        targets: ids (n,), or 0/1 (n, k) with ``multi_label``.
        multi_label: each label by itself, by sigmoid.

    Returns:
        T; 1.0 where no other does better.

    Raises:
        DataError: no rows, logits that are not finite, or targets that do not fit them.
    """
    from scipy.optimize import minimize_scalar

    z = checked_matrix(logits, "logits")
    y = checked_targets(targets, z.shape, multi_label)
    rows, k = z.shape
    shares = (rows * (y if multi_label else np.eye(k)[y]) + (0.5 if multi_label else 1 / k)) / (rows + 1)

    def loss(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        if multi_label:
            return float((np.logaddexp(0, scaled) - shares * scaled).mean())
        return float(-(shares * log_softmax(scaled, axis=1)).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-4})
    # Logits that say nothing lose the same at any T: they are left as they are.
    return float(np.exp(found.x)) if found.fun < loss(0.0) - 1e-12 else 1.0


def fit_thresholds(probabilities: ArrayLike, targets: ArrayLike) -> np.ndarray:
    """For each label the threshold with the best F1 on these rows.

    Candidates lie midway between neighboring scores; of equally good ones the nearest to .5 is taken. Fewer than 5
    positives say too little about a label's own threshold (one row can move it anywhere), so that such a label takes
    the one with the best micro F1 when all labels share it, or .5 if nothing is positive. Rare labels have a fallback
    of this kind in SCutFBR too (Yang 2001).

    Args:
        probabilities: (n, k), of rows that trained nothing.
        targets: 0/1 (n, k).

    Returns:
        (k,); a label is predicted where its probability is at least its threshold.

    Raises:
        DataError: no rows, probabilities outside [0, 1] or not finite, or targets that do not fit them.
    """
    p = checked_probabilities(probabilities)
    y = checked_targets(targets, p.shape, multi_label=True)
    shared = _best_cuts(p.reshape(-1, 1), y.reshape(-1, 1))
    return np.where(y.sum(axis=0) < MIN_POSITIVES, shared, _best_cuts(p, y))


def _best_cuts(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    order = np.argsort(-p, axis=0, kind="stable")
    upper = np.take_along_axis(p, order, axis=0)
    lower = np.vstack([upper[1:], np.zeros((1, p.shape[1]))])
    middle = lower + (upper - lower) / 2
    # Between two neighboring floats there is no middle; then the upper one parts them.
    cuts = np.where(middle > lower, middle, upper)
    found = np.take_along_axis(y, order, axis=0).cumsum(axis=0)
    f1 = 2 * found / (np.arange(1, len(p) + 1)[:, None] + y.sum(axis=0))
    # Equal scores cannot be parted: only the last of a run is a candidate.
    f1[:-1][upper[:-1] == upper[1:]] = -1.0
    best = f1 >= f1.max(axis=0) - 1e-12
    nearest_to_half = np.where(best, np.abs(cuts - 0.5), np.inf).argmin(axis=0)
    return np.where(y.any(axis=0), np.take_along_axis(cuts, nearest_to_half[None], axis=0)[0], 0.5)


@dataclass(frozen=True)
class Reliability:
    """Forecasts by bins of equal width over [0, 1]; empty bins are left out."""

    confidence: np.ndarray
    """(bins,): mean probability that was given"""
    frequency: np.ndarray
    """(bins,): share of the forecasts that came true"""
    count: np.ndarray
    """(bins,): forecasts"""

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of both over the forecasts."""
        return float(np.average(np.abs(self.confidence - self.frequency), weights=self.count))


def reliability_curve(
    targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False, bins: int = BINS
) -> Reliability:
    """What was forecast beside what came true (Guo et al. 2017, section 2).

    With one label a row the forecast is the probability of the likeliest label; with several each label of each row is
    a forecast of its own. A bin holds its upper edge.

    Args:
        targets: ids (n,), or 0/1 (n, k) for several labels.
        probabilities: (n, k).
        multi_label: whether a row has several labels.
        bins: how many, of equal width.

    Raises:
        DataError: no rows, or targets or probabilities that do not fit.
    """
    p, y = _checked(targets, probabilities, multi_label)
    forecast, came = (p.ravel(), y.ravel()) if multi_label else (p.max(axis=1), p.argmax(axis=1) == y)
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], forecast, side="left")
    count = np.bincount(place, minlength=bins)
    filled = count > 0
    sums = [np.bincount(place, weights=values, minlength=bins)[filled] for values in (forecast, came)]
    return Reliability(sums[0] / count[filled], sums[1] / count[filled], count[filled])


def expected_calibration_error(
    targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False, bins: int = BINS
) -> float:
    """The mean distance between what was forecast and what came true, by bins (Guo et al. 2017, eq. 3).

    Arguments and errors are those of :func:`reliability`.
    """
    return reliability_curve(targets, probabilities, multi_label=multi_label, bins=bins).error


def brier_score(targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False) -> float:
    """The mean squared distance from the truth, 0 at best.

    With one label a row it is summed over the labels (Brier 1950), 2 at worst; with several it is the mean over rows
    and labels, 1 at worst.

    Args:
        targets: ids (n,), or 0/1 (n, k) for several labels.
        probabilities: (n, k).
        multi_label: whether a row has several labels.

    Raises:
        DataError: no rows, or targets or probabilities that do not fit.
    """
    p, y = _checked(targets, probabilities, multi_label)
    if multi_label:
        return float(((p - y) ** 2).mean())
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean())


def negative_log_likelihood(targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False) -> float:
    """Minus the mean log of the probability that the truth was given, in nats: the loss of ``metrics.score``.

    With several labels the mean is over rows and labels. Probabilities are clipped 2.2e-16 away from 0 and 1.

    Args:
        targets: ids (n,), or 0/1 (n, k) for several labels.
        probabilities: (n, k).
        multi_label: whether a row has several labels.

    Raises:
        DataError: no rows, or targets or probabilities that do not fit.
    """
    p, y = _checked(targets, probabilities, multi_label)
    given = np.where(y == 1, p, 1 - p) if multi_label else p[np.arange(len(y)), y]
    tiny = np.finfo(np.float64).eps
    return float(-np.log(np.clip(given, tiny, 1 - tiny)).mean())


def untempered(probabilities: ArrayLike, temperature: float, *, multi_label: bool = False) -> np.ndarray:
    """The probabilities (n, k) as they were before their logits were divided by a temperature.

    Logits are known from probabilities but for what softmax does not see, so that nothing is computed by the model
    again.

    Raises:
        DataError: probabilities of another shape, outside [0, 1] or not finite.
    """
    p = checked_probabilities(probabilities)
    # As close to 0 and 1 as the float32 that is saved can tell.
    low = np.finfo(np.float32).tiny
    if multi_label:
        return expit(temperature * logit(np.clip(p, low, 1 - np.finfo(np.float32).epsneg / 2)))
    return softmax(temperature * np.log(np.maximum(p, low)), axis=1)


def answer_probabilities(probabilities: ArrayLike, given: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """The probability of each answer that was given: (n,), or (n, k) for several labels, a yes or no for each.

    Args:
        probabilities: (n, k).
        given: what is predicted, ids (n,), or 0/1 (n, k) for several labels.
        multi_label: whether a row has several labels.
    """
    # As float64, so that a saved row and a live one lie on the same side of a limit.
    p = np.asarray(probabilities, dtype=np.float64)
    return np.where(given == 1, p, 1 - p) if multi_label else np.take_along_axis(p, given[:, None], axis=1)[:, 0]


def confidence(probabilities: ArrayLike, given: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """(n,): how sure each row's answer is; with several labels its least sure yes or no.

    Arguments are those of :func:`sureness`.
    """
    found = answer_probabilities(probabilities, given, multi_label=multi_label)
    return found.min(axis=1) if multi_label else found


def coverage_curve(confidences: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is gained where the least confident rows are left to somebody else (El-Yaniv and Wiener 2010).

    Args:
        confidences: (n,), at least one.
        right: (n,) of booleans.

    Returns:
        For each distinct confidence, from the highest: itself, the share of rows with at least that, and the share of
        these that are right. The last are all rows.
    """
    confidences, right = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    order = np.argsort(-confidences, kind="stable")
    sorted_ones = confidences[order]
    # Equal confidences cannot be parted: only the last of a run is a place to cut.
    last = np.append(np.flatnonzero(np.diff(sorted_ones)), len(sorted_ones) - 1)
    kept = last + 1
    return sorted_ones[last], kept / len(sorted_ones), right[order].cumsum()[last] / kept


def _checked(targets: ArrayLike, probabilities: ArrayLike, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    p = checked_probabilities(probabilities)
    return p, checked_targets(targets, p.shape, multi_label)

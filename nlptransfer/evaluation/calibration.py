"""How far probabilities can be trusted: their temperature and thresholds, Brier score, calibration error, and what
abstaining buys.

``fit_temperature`` and ``fit_thresholds`` belong on rows that trained nothing. Targets and predictions are label ids
(n,), or 0/1 (n, k) with ``multi_label``; logits and probabilities are (n, k). A DataError is raised where there are no
rows, where these do not fit each other, or where numbers are not finite or outside [0, 1].
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, log_softmax, logit, softmax

from nlptransfer.evaluation.inputs import checked_matrix, checked_probabilities, checked_rows, checked_targets

BINS = 15
TEMPERATURES = (0.05, 20.0)
MIN_POSITIVES = 5


def fit_temperature(logits: ArrayLike, targets: ArrayLike, multi_label: bool = False) -> float:
    """Fit the temperature T in [0.05, 20] that makes softmax(logits / T), or sigmoid, likeliest (Guo et al. 2017).

    Targets are smoothed by one row's worth over all labels, as Platt (1999) does: a few rows that are all predicted
    right would otherwise ask for certainty. The loss is convex in 1/T: one bounded search over log T is enough. Where
    no other T does better it is 1.0.
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
    """Fit for each of several labels the threshold with the best F1 on these rows: (k,).

    Thresholds lie midway between neighboring scores, the nearest to .5 of equally good ones. A label of fewer than 5
    positives, where one row can move the threshold anywhere, takes the one with the best micro F1 when all labels share
    it, or .5 if nothing is positive; SCutFBR has a fallback of this kind too (Yang 2001).
    """
    y, p = checked_rows(targets, probabilities, multi_label=True)
    shared = _best_threshold(p.ravel(), y.ravel())
    rare = y.sum(axis=0) < MIN_POSITIVES
    return np.array([shared if few else _best_threshold(*both) for few, *both in zip(rare, p.T, y.T, strict=True)])


def within_reach(
    thresholds: ArrayLike, learned: tuple[ArrayLike, ArrayLike], held_out: tuple[ArrayLike, ArrayLike]
) -> np.ndarray:
    """Lower each threshold that no row with the label reaches, so that one of the rows does: (k,).

    Of a label that few rows have, calibration rows may say nothing, and no probability reach what others share. It is
    lowered only where no held-out row without the label would be given it: else the label was not learned.

    Args:
        thresholds: (k,)
        learned: probabilities and targets of rows that were learned from, each (n, k).
        held_out: the same of others.
    """
    (p, y), (others, without) = ((np.asarray(part, np.float64) for part in rows) for rows in (learned, held_out))
    limits = np.asarray(thresholds, dtype=np.float64)
    # A hundredth below the highest probability leaves room for rounding.
    reached = 0.99 * np.where(y == 1, p, 0).max(axis=0)
    highest_wrong = np.where(without == 1, 0, others).max(axis=0)
    return np.where((reached > highest_wrong) & (reached < limits), reached, limits)


def _best_threshold(p: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import precision_recall_curve

    if not y.any():
        return 0.5
    precision, recall, scores = (values[::-1] for values in precision_recall_curve(y, p))
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-9))[1:]
    lower = np.append(scores[1:], 0.0)
    middle = lower + (scores - lower) / 2
    # Between two neighboring floats there is no middle; then the upper one separates them.
    best = np.where(middle > lower, middle, scores)[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])


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
        """The expected calibration error: mean distance of confidence and frequency over the forecasts (eq. 3)."""
        return float(np.average(np.abs(self.confidence - self.frequency), weights=self.count))


def reliability_curve(targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False) -> Reliability:
    """Compare forecasts with how often they came true, by bins that hold their upper edge (Guo et al. 2017, section 2).

    A forecast is the probability of a row's likeliest label; with several labels, each label of each row is one.
    """
    from sklearn.calibration import calibration_curve

    y, p = checked_rows(targets, probabilities, multi_label)
    forecast, came = (p.ravel(), y.ravel()) if multi_label else (p.max(axis=1), p.argmax(axis=1) == y)
    forecast = forecast.clip(max=1)
    frequency, confidence = calibration_curve(came, forecast, n_bins=BINS)
    # What scikit-learn does not return: how many forecasts are in each of its bins.
    count = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], forecast))
    return Reliability(confidence, frequency, count[count > 0])


def brier_score(targets: ArrayLike, probabilities: ArrayLike, *, multi_label: bool = False) -> float:
    """Compute the mean squared distance from the truth, 0 at best; 2 at worst, or 1 with several labels (Brier 1950).

    It is summed over the labels, or with several averaged. scikit-learn's ``brier_score_loss`` warns of rows whose
    float32 sum is not quite 1.
    """
    y, p = checked_rows(targets, probabilities, multi_label)
    errors = (p - (y if multi_label else np.eye(p.shape[1])[y])) ** 2
    return float(errors.mean() if multi_label else errors.sum(axis=1).mean())


def untempered(probabilities: ArrayLike, temperature: float, *, multi_label: bool = False) -> np.ndarray:
    """Compute probabilities before temperature scaling: they give logits up to a constant, which softmax ignores."""
    p = checked_probabilities(probabilities)
    # As close to 0 and 1 as the float32 that is saved can tell.
    low = np.finfo(np.float32).tiny
    if multi_label:
        return np.asarray(expit(temperature * logit(np.clip(p, low, 1 - np.finfo(np.float32).epsneg / 2))))
    return np.asarray(softmax(temperature * np.log(np.maximum(p, low)), axis=1))


def answer_probabilities(probabilities: ArrayLike, guesses: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """Look up the probability of each prediction: (n,), or (n, k) for several labels, of a yes or no for each."""
    # A saved row and a live one lie on the same side of a limit.
    p = np.asarray(probabilities, dtype=np.float64)
    return np.where(guesses == 1, p, 1 - p) if multi_label else np.take_along_axis(p, guesses[:, None], axis=1)[:, 0]


def confidence(probabilities: ArrayLike, guesses: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """Compute the confidence of each row's prediction, (n,); with several labels that of its least sure yes or no."""
    found = answer_probabilities(probabilities, guesses, multi_label=multi_label)
    return found.min(axis=1) if multi_label else found


def coverage_curve(confidences: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute accuracy over coverage, where the least confident rows are left unanswered (El-Yaniv and Wiener 2010).

    Each distinct confidence from the highest on, the share of rows with at least that, and of these that are right.
    """
    confidences, right = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    values, place, count = np.unique(confidences, return_inverse=True, return_counts=True)
    covered, correct = count[::-1].cumsum(), np.bincount(place, weights=right)[::-1].cumsum()
    return values[::-1], covered / len(right), correct / covered

"""Is the difference real? Intervals of scores over seeds and rows, paired tests, and which candidate they recommend.

A candidate is trained with several seeds and scored on the same test rows as all others. What is estimated is its
expected score: over the seeds and the rows that might have been drawn. This file does not know what a candidate is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from nlptransfer.data import Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation.bootstrap import resampled_scores, rounded
from nlptransfer.evaluation.inputs import checked_targets
from nlptransfer.evaluation.metrics import averages, measure, outcomes


@dataclass(frozen=True)
class ScoreInterval:
    """How good one candidate is."""

    metric: str
    """name of the score"""
    mean: float
    """mean score over seeds"""
    spread: float | None
    """sample standard deviation over seeds; None of one seed"""
    interval: tuple[float, float]
    """95% interval of the expected score; of one seed, of that one model's"""
    seeds: int
    """models"""
    rows: int
    """test rows"""


@dataclass(frozen=True)
class Difference:
    """How much better one candidate is than another on the same test rows."""

    metric: str
    """name of the score"""
    one: float
    """mean score over the one's seeds"""
    other: float
    """mean score over the other's seeds"""
    difference: float
    """one less other"""
    interval: tuple[float, float]
    """95% interval of the difference"""
    p_value: float
    """two-sided, of no difference; below .05 where the interval leaves 0 out"""
    mcnemar_p_value: float
    """exact McNemar, of the first seed's models"""
    seeds: tuple[int, int]
    """models of the one and of the other"""
    rows: int
    """test rows"""


@dataclass(frozen=True, eq=False)
class ScoredCandidate:
    """What a recommendation needs to know of a candidate."""

    name: str
    """what it is called"""
    predictions: Sequence[ArrayLike]
    """for each seed, of the test rows"""
    validation: float
    """mean score over seeds on validation"""


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to take, and why."""

    candidate: str | None
    """its name; None where no route beats the majority"""
    best: str
    """name of the best on validation"""
    reason: str
    """one sentence with the figures"""
    against_best: dict[str, Difference]
    """each other candidate less the best"""
    against_majority: dict[str, Difference]
    """each other candidate less the majority; empty where the majority is no candidate"""


@dataclass(frozen=True, eq=False)
class SeedScores:
    """One candidate's scores on all rows and on rows drawn with replacement."""

    scores: np.ndarray
    """(seeds,)"""
    resampled: np.ndarray
    """(seeds, resamples)"""

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(self.scores.mean())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the seeds."""
        return len(self.scores) - 1

    @cached_property
    def seed_variance(self) -> float:
        """Variance of the mean that is due to the seeds, beyond what the draws of rows have of it."""
        if not self.freedom:
            return 0.0
        of_rows = (self.resampled - self.scores[:, None]).var(axis=0, ddof=1).mean()
        return max(0.0, float(rounded(self.scores.var(ddof=1) - of_rows))) / len(self.scores)


def score_seeds(
    rng: np.random.Generator,
    targets: ArrayLike,
    candidates: Mapping[str, Sequence[ArrayLike]],
    labels: Labels,
    metric: str,
    resamples: int,
) -> list[SeedScores]:
    """Score each seed of some candidates on all test rows and on the same rows drawn with replacement.

    Args:
        rng: draws the rows.
        targets: ids (rows,), or 0/1 (rows, labels) for several labels.
        candidates: for each seed its predictions, in the shape of ``targets``, by the candidate's name for messages.
        labels: the labels.
        metric: a score that needs no probabilities.
        resamples: bootstrap resamples.

    Raises:
        DataError: no seeds, no rows, or shapes or values that do not fit the targets.
    """
    shape = (len(np.atleast_1d(targets)), labels.num_labels)
    if not shape[0]:
        raise DataError("targets: expected at least one test row, found none")
    y = checked_targets(targets, shape, labels.multi_label)
    runs = []
    for name, predictions in candidates.items():
        if not len(predictions):
            raise DataError(f"{name}: expected the predictions of at least one seed, found none")
        for index, run in enumerate(predictions):
            runs.append(checked_targets(run, shape, labels.multi_label, f"{name}[{index}]"))
    counts, tables = outcomes(y, runs, labels)

    def scores(draws: np.ndarray) -> np.ndarray:
        return np.array([averages(draws @ table, len(y), labels)[metric] for table in tables])

    on_all, resampled = scores(counts[None])[:, 0], resampled_scores(rng, counts, scores, resamples)
    starts = np.cumsum([len(predictions) for predictions in candidates.values()])[:-1]
    return [SeedScores(*both) for both in zip(np.split(on_all, starts), np.split(resampled, starts), strict=True)]


def score_interval(
    targets: ArrayLike,
    predictions: Sequence[ArrayLike],
    labels: Labels,
    metric: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> ScoreInterval:
    """Compute the mean score over seeds, its spread, and the 95% interval of the expected score.

    The interval is a bootstrap's over seeds and rows. Rows are drawn with replacement, the same for all seeds. Seeds
    drawn with replacement say too little when they are few: the spread of such means is too small by
    sqrt((S - 1) / S), of 3 seeds there are only 10 different draws, and the spread itself is hardly known. Each
    resample is instead moved by Student's t with S - 1 degrees of freedom times the seeds' own standard error, which is
    what Fisher's solution of the Behrens-Fisher problem does for the sum of a mean with a well-known and one with an
    ill-known variance; like Banerjee's (1960, Sankhya 22) it errs towards wide. What two seeds' scores differ by
    because they err on different rows is in the draws of rows already, and is taken out of the seeds' variance (the
    term that the pigeonhole bootstrap of Owen 2007 counts twice).

    In simulations (tests/benchmarks/coverage.py) it covers 94 to 96%, of one seed as of 3 seeds with a spread of 2
    points, where a plain bootstrap over 3 seeds covers 92, 88 and 80% with 872, 2,000 and 8,000 rows. Below some 30
    rows it is too narrow, and of one model without any error it has no width: see :func:`wilson_interval`.

    Args:
        targets: ids (rows,), or 0/1 (rows, labels) for several labels.
        predictions: for each seed, in the shape of ``targets``; of one seed the interval is over rows alone.
        labels: the labels.
        metric: a score of ``score_predictions`` that needs no probabilities: accuracy, mcc (one label a row),
            subset_accuracy (several), or f1, precision, recall, each _macro, _micro and _weighted.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: no seeds, no rows, or shapes or values that do not fit the targets.
        SettingError: an unknown score or one that needs probabilities.
    """
    rng = np.random.default_rng(seed)
    sides = score_seeds(rng, targets, {"predictions": predictions}, labels, measure(metric, labels), resamples)
    found = sides[0]
    draws = _moved_by_seeds(found.mean, found.resampled.mean(axis=0), sides, rng)
    spread = float(found.scores.std(ddof=1)) if found.freedom else None
    interval = _interval(draws, -1.0 if metric == "mcc" else 0.0, 1.0)
    return ScoreInterval(metric, found.mean, spread, interval, len(predictions), len(np.asarray(targets)))


def paired(
    targets: ArrayLike,
    one: Sequence[ArrayLike],
    other: Sequence[ArrayLike],
    labels: Labels,
    metric: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Difference:
    """Compute the mean score of one candidate less that of another, with its 95% interval and two tests.

    The bootstrap draws the same rows for both sides, so that what makes a row hard cancels out, and each side's seeds
    by themselves, as in :func:`score_interval`. Where both sides vary with the seed, the seeds' part is normal and the
    whole is widened to Student's t with the degrees of freedom of Welch and Satterthwaite (1946). A side of one seed
    counts as one that does not vary: the difference is then about that one model.

    McNemar's test asks whether two models err equally often (on a row all labels must be right). It is made on the
    first seed of each side: models that exist and were chosen before any score was known. The counts of several seeds
    added up would count a row several times as if it were several rows, and a vote over seeds is another classifier,
    which nobody trained. It knows nothing of other seeds, so that under a spread over seeds it finds differences
    between these two models that are none between the candidates.

    In simulations without a true difference (tests/benchmarks/coverage.py) the bootstrap finds one in 4 to 6%, of one
    seed as of 3 seeds a side with a spread of 2 points; exact McNemar, where seeds do not matter, in at most 5%.

    Args:
        targets: ids (rows,), or 0/1 (rows, labels) for several labels.
        one: for each seed the predictions, in the shape of ``targets``.
        other: the same of the other candidate, with as many seeds or not.
        labels: the labels.
        metric: as in :func:`score_interval`.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: no seeds, no rows, or shapes or values that do not fit the targets.
        SettingError: an unknown score or one that needs probabilities.
    """
    rng = np.random.default_rng(seed)
    sides = score_seeds(rng, targets, {"one": one, "other": other}, labels, measure(metric, labels), resamples)
    first, second = sides
    difference = float(rounded(first.mean - second.mean))
    draws = _moved_by_seeds(difference, first.resampled.mean(axis=0) - second.resampled.mean(axis=0), sides, rng)
    most = 2.0 if metric == "mcc" else 1.0
    right, also = (right_rows(targets, runs[0]) for runs in (one, other))
    return Difference(
        metric=metric,
        one=first.mean,
        other=second.mean,
        difference=difference,
        interval=_interval(draws, -most, most),
        p_value=_two_sided(draws),
        mcnemar_p_value=mcnemar(int((right & ~also).sum()), int((also & ~right).sum())),
        seeds=(len(one), len(other)),
        rows=len(right),
    )


def right_rows(targets: ArrayLike, predictions: ArrayLike) -> np.ndarray:
    """Compare predictions with targets of the same shape: booleans (rows,), whether all labels of a row are right."""
    same = np.asarray(targets) == np.asarray(predictions)
    return cast(np.ndarray, same.reshape(len(same), -1).all(axis=1))


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Compute Wilson's (1927) 95% interval of one model's accuracy; it has a width even where no row is wrong.

    Args:
        right: rows that are right.
        rows: rows in all, at least one.
    """
    found = stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_one: int, only_other: int) -> float:
    """Compute exact McNemar's two-sided p-value of rows that only one of two models has right, and only the other."""
    return float(stats.binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979), in their order; each is at least what it was, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return cast(list[float], corrected.tolist())


def recommended(
    targets: ArrayLike,
    candidates: Sequence[ScoredCandidate],
    labels: Labels,
    metric: str,
    *,
    majority: str | None = None,
    delta: float = 0.01,
    resamples: int = 2000,
    seed: int = 0,
) -> Recommendation:
    """Recommend the cheapest candidate that, by its paired interval, loses no more than ``delta`` against the best.

    The best is that on validation, and of equals the cheapest: the best on test would have been chosen by the luck of
    the very rows that the intervals are about, and all others would look worse against it than they are. The majority
    is never recommended; where no other candidate's interval against it lies above 0, nothing is.

    Args:
        targets: of the test rows: ids (rows,), or 0/1 (rows, labels) for several labels.
        candidates: in the order of cost, the cheapest first; at least one that is not the majority.
        labels: the labels.
        metric: as in :func:`score_interval`.
        majority: name of the candidate that always predicts the commonest label; None where there is none.
        delta: the loss that a cheaper candidate may have, in units of the score.
        resamples: bootstrap resamples of each pair.
        seed: of the bootstrap.

    Raises:
        DataError: predictions that do not fit the targets.
        SettingError: what :func:`paired` refuses.
    """
    routes = [candidate for candidate in candidates if candidate.name != majority]
    best = max(routes, key=lambda candidate: candidate.validation)

    def against(other: ScoredCandidate) -> dict[str, Difference]:
        return {
            one.name: paired(
                targets, one.predictions, other.predictions, labels, metric, resamples=resamples, seed=seed
            )
            for one in candidates
            if one is not other
        }

    over_best = against(best)
    over_majority = {} if majority is None else against(next(one for one in candidates if one.name == majority))
    if majority is not None and not any(found.interval[0] > 0 for found in over_majority.values()):
        nearest = max(over_majority, key=lambda name: over_majority[name].difference)
        reason = f"no route beats the majority: the nearest, {nearest}, has {_figures(over_majority[nearest])}"
        return Recommendation(None, best.name, reason, over_best, over_majority)
    chosen = next(one.name for one in routes if one is best or over_best[one.name].interval[0] >= -delta)
    reason = _reason(chosen, best.name, [one.name for one in routes], over_best, metric, delta)
    return Recommendation(chosen, best.name, reason, over_best, over_majority)


def rows_to_reach(curve_one: Mapping[int, float], curve_other: Mapping[int, float]) -> float | None:
    """Estimate the training rows with which one candidate reaches the score that another has with all its rows.

    Between two sizes the score is taken to be straight over the logarithm of rows. Where the smallest size is enough
    that size is returned: fewer rows were not tried.

    Args:
        curve_one: rows -> score of the candidate that is to reach.
        curve_other: rows -> score of the other; that at its largest size counts.

    Returns:
        Rows, not rounded; None where no size reaches it.
    """
    goal = curve_other[max(curve_other)]
    before = None
    for rows in sorted(curve_one):
        if curve_one[rows] >= goal:
            if before is None:
                return float(rows)
            share = (goal - curve_one[before]) / (curve_one[rows] - curve_one[before])
            return float(before * (rows / before) ** share)
        before = rows
    return None


def _moved_by_seeds(
    estimate: float, of_rows: np.ndarray, sides: Sequence[SeedScores], rng: np.random.Generator
) -> np.ndarray:
    """Add the seeds' part to resamples of the rows (resamples,), once up and once down: (2 * resamples,)."""
    varying = [side for side in sides if side.seed_variance]
    if not varying:
        return rounded(of_rows)
    variance = sum(side.seed_variance for side in varying)
    if len(varying) == 1:
        moves = np.sqrt(variance) * rng.standard_t(varying[0].freedom, size=len(of_rows))
        return np.concatenate([of_rows + moves, of_rows - moves])
    # Welch & Satterthwaite; the rows' own degrees of freedom are too many to matter.
    whole = variance + of_rows.var()
    freedom = whole**2 / sum(side.seed_variance**2 / side.freedom for side in varying)
    moves = np.sqrt(variance) * rng.standard_normal(len(of_rows))
    # A normal variable over the root of a mean square is Student's t.
    widened = np.sqrt(freedom / rng.chisquare(freedom, size=len(of_rows)))
    centered = of_rows - estimate
    return estimate + np.concatenate([(centered + moves) * widened, (centered - moves) * widened])


def _interval(draws: np.ndarray, lowest: float, highest: float) -> tuple[float, float]:
    # "weibull" counts ranks out of one more than there are, as the p-value does.
    low, high = np.clip(np.quantile(draws, [0.025, 0.975], method="weibull"), lowest, highest).tolist()
    return low, high


def _two_sided(draws: np.ndarray) -> float:
    """Double the share of draws on the rarer side of 0, the data counted as a draw (Davison & Hinkley 1997, ch. 4)."""
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(draws) + 1))


def _reason(
    chosen: str, best: str, routes: Sequence[str], over_best: Mapping[str, Difference], metric: str, delta: float
) -> str:
    loss = f"a loss of more than {delta * 100:g} point{'' if delta == 0.01 else 's'} of {metric}"
    if chosen != best:
        against = f"whose 95% interval against {best}, the best on validation, excludes {loss}"
        return f"{chosen} is the cheapest route {against}: it has {_figures(over_best[chosen])}"
    cheaper = routes[: routes.index(best)]
    if not cheaper:
        return f"{best} is the best on validation, and no route is cheaper"
    nearest = max(cheaper, key=lambda name: over_best[name].interval[0])
    tried = f"of no cheaper route does the 95% interval against it exclude {loss}"
    return f"{best} is the best on validation, and {tried}: the nearest, {nearest}, has {_figures(over_best[nearest])}"


def _figures(found: Difference) -> str:
    low, high = found.interval
    means = f"{found.metric} {found.one:.3f} against {found.other:.3f}"
    return f"{means} on test, a difference of {found.difference:+.3f} [{low:+.3f}, {high:+.3f}]"

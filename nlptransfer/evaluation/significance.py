"""Is the difference real? Intervals of scores over seeds and rows, paired tests, and which rung they recommend.

A rung is one way to a classifier, trained with several seeds and judged on the same test rows as all other rungs. What
is estimated is its expected score: over the seeds that might have been drawn, and over the rows that might have been
asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from nlptransfer.data import Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation.bootstrap import (
    checked_rows,
    checked_runs,
    measure,
    outcomes,
    resampled_scores,
    rounded,
    scores,
)
from nlptransfer.settings import check


@dataclass(frozen=True)
class ScoreInterval:
    """How good one rung is."""

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

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return {**asdict(self), "interval": list(self.interval)}


@dataclass(frozen=True)
class Difference:
    """How much better one rung is than another on the same test rows."""

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

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        return {**asdict(self), "interval": list(self.interval), "seeds": list(self.seeds)}


@dataclass(frozen=True, eq=False)
class ScoredCandidate:
    """What a recommendation needs to know of one rung."""

    name: str
    """what it is called"""
    predictions: Sequence[ArrayLike]
    """for each seed what it predicted on the test rows"""
    validation: float
    """mean score over seeds on validation"""


@dataclass(frozen=True)
class Recommendation:
    """Which rung to take, and why."""

    rung: str | None
    """its name; None where no route beats the majority"""
    best: str
    """name of the best on validation"""
    reason: str
    """one sentence with the figures"""
    against_best: dict[str, Difference]
    """each other rung less the best"""
    against_majority: dict[str, Difference]
    """each other rung less the majority; empty where the majority is no rung"""

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON."""
        sides = {"against_best": self.against_best, "against_majority": self.against_majority}
        plain = {side: {name: found.to_dict() for name, found in pairs.items()} for side, pairs in sides.items()}
        return {"rung": self.rung, "best": self.best, "reason": self.reason, **plain}


def rung_interval(
    targets: ArrayLike,
    predictions: Sequence[ArrayLike],
    labels: Labels,
    metric: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> ScoreInterval:
    """The mean score over seeds, its spread, and the 95% interval of the expected score.

    The interval is a bootstrap's (Efron & Tibshirani 1993, ch. 13) over seeds and rows. Rows are drawn with
    replacement, the same for all seeds. Seeds drawn with replacement say too little when they are few: the spread of
    such means is too small by sqrt((S - 1) / S), of 3 seeds there are only 10 different draws, and the spread itself
    is hardly known. Each resample is instead moved by Student's t with S - 1 degrees of freedom times the seeds' own
    standard error, which is what Fisher's solution of the Behrens-Fisher problem does for the sum of a mean with a
    well-known and one with an ill-known variance; like Banerjee's (1960, Sankhya 22) it errs towards wide. What two
    seeds' scores differ by because they err on different rows is in the draws of rows already, and is taken out of
    the seeds' variance (the term that the pigeonhole bootstrap of Owen 2007 counts twice).

    In simulations (tests/benchmarks/coverage.py) it covers 94 to 96%, of one seed as of 3 seeds with a spread of 2
    points, where a plain bootstrap over 3 seeds covers 92, 88 and 80% with 872, 2,000 and 8,000 rows. Below some 30
    rows it is too narrow, and of one model without any error it has no width: see :func:`wilson_interval`.

    Args:
        targets: ids (rows,), or 0/1 (rows, labels) for several labels.
        predictions: for each seed what was predicted, in the shape of ``targets``; of one seed the interval is over
            rows alone.
        labels: the labels.
        metric: a score of ``score`` that needs no probabilities: accuracy, mcc (one label a row), subset_accuracy
            (several), or f1, precision, recall, each _macro, _micro and _weighted.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: no seeds, no rows, or shapes or values that do not fit the targets.
        SettingError: an unknown score or one that needs probabilities; fewer than 1 resample.
    """
    check(resamples >= 1, "resamples", resamples, "1 or more")
    y = checked_rows(targets, labels)
    runs = _runs("predictions", predictions, y, labels)
    rng = np.random.default_rng(seed)
    (side,) = _sides(y, [runs], labels, measure(metric, labels), resamples, rng)
    draws = _moved_by_seeds(side.mean, side.resampled.mean(axis=0), [side], rng)
    lowest = -1.0 if metric == "mcc" else 0.0
    spread = float(side.scores.std(ddof=1)) if len(runs) > 1 else None
    return ScoreInterval(metric, side.mean, spread, _interval(draws, lowest, 1.0), len(runs), len(y))


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
    """The mean score of one rung less that of another, with its 95% interval and two tests.

    The bootstrap draws the same rows for both sides, so that what makes a row hard cancels out, and each side's seeds
    by themselves, as in :func:`rung_interval`. Where both sides vary with the seed, the seeds' part is normal and the
    whole is widened to Student's t with the degrees of freedom of Welch and Satterthwaite (1946). A side of one seed
    counts as one that does not vary: the difference is then about that one model.

    McNemar's test asks whether two given models err equally often (on a row all labels must be right). It is made on
    the first seed of each side: models that exist and were chosen before any score was known. The counts of several
    seeds added up would count a row several times as if it were several rows, and a vote over seeds is another
    classifier, which nobody trained. It knows nothing of other seeds, so that under a spread over seeds it finds
    differences between these two models that are none between the rungs.

    In simulations without a true difference (tests/benchmarks/coverage.py) the bootstrap finds one in 4 to 6%, of one
    seed as of 3 seeds a side with a spread of 2 points; exact McNemar, where seeds do not matter, in at most 5%.

    Args:
        targets: ids (rows,), or 0/1 (rows, labels) for several labels.
        one: for each seed what was predicted, in the shape of ``targets``.
        other: the same of the other rung, with as many seeds or not.
        labels: the labels.
        metric: as in :func:`rung_interval`.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        DataError: no seeds, no rows, or shapes or values that do not fit the targets.
        SettingError: an unknown score or one that needs probabilities; fewer than 1 resample.
    """
    check(resamples >= 1, "resamples", resamples, "1 or more")
    y = checked_rows(targets, labels)
    runs = [_runs("one", one, y, labels), _runs("other", other, y, labels)]
    rng = np.random.default_rng(seed)
    first, second = sides = _sides(y, runs, labels, measure(metric, labels), resamples, rng)
    difference = float(rounded(first.mean - second.mean))
    of_rows = first.resampled.mean(axis=0) - second.resampled.mean(axis=0)
    draws = _moved_by_seeds(difference, of_rows, sides, rng)
    most = 2.0 if metric == "mcc" else 1.0
    return Difference(
        metric,
        first.mean,
        second.mean,
        difference,
        _interval(draws, -most, most),
        _two_sided(draws),
        mcnemar(*_only_one_right(y, runs[0][0], runs[1][0])),
        (len(runs[0]), len(runs[1])),
        len(y),
    )


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Wilson's (1927) 95% interval of one model's accuracy; it has a width even where no row is wrong.

    Args:
        right: rows that are right.
        rows: rows in all.

    Raises:
        SettingError: no rows, or not between 0 and ``rows`` right.
    """
    check(rows >= 1, "rows", rows, "1 or more")
    check(0 <= right <= rows, "right", right, f"0 to {rows}, the number of rows")
    found = stats.binomtest(int(right), int(rows)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_one: int, only_other: int) -> float:
    """Exact McNemar: the two-sided p-value of rows that only one of two models has right, and only the other.

    It is 2 BinomCDF(min(b, c); b + c, 1/2), at most 1.

    Raises:
        SettingError: a count below 0.
    """
    check(only_one >= 0, "only_one", only_one, "0 or more rows")
    check(only_other >= 0, "only_other", only_other, "0 or more rows")
    return float(min(1.0, 2 * stats.binom.cdf(min(only_one, only_other), only_one + only_other, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in the order given; each is at least what it was, at most 1.

    Raises:
        SettingError: a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64).reshape(-1)
    check(bool(((p >= 0) & (p <= 1)).all()), "p_values", list(p_values), "numbers from 0 to 1")
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(value) for value in corrected]


def recommended(
    targets: ArrayLike,
    rungs: Sequence[ScoredCandidate],
    labels: Labels,
    metric: str,
    *,
    majority: str | None = None,
    delta: float = 0.01,
    resamples: int = 2000,
    seed: int = 0,
) -> Recommendation:
    """The cheapest rung that, by its paired interval, loses no more than ``delta`` against the best.

    The best is that on validation, and of equals the cheapest: the best on test would have been chosen by the luck of
    the very rows that the intervals are about, and all others would look worse beside it than they are. The majority is
    never recommended; where no other rung's interval against it lies above 0, nothing is.

    Args:
        targets: of the test rows: ids (rows,), or 0/1 (rows, labels) for several labels.
        rungs: in the order of cost, the cheapest first.
        labels: the labels.
        metric: as in :func:`rung_interval`.
        majority: name of the rung that always predicts the commonest label; None where there is none.
        delta: the loss that a cheaper rung may have, in units of the score.
        resamples: bootstrap resamples of each comparison.
        seed: of the bootstrap.

    Raises:
        DataError: no rung but the majority, a name twice, predictions that do not fit the targets.
        SettingError: ``majority`` is no rung, a negative ``delta``, a validation score that is no number, or what
            :func:`paired` refuses.
    """
    by_name = _by_name(rungs, majority)
    check(delta >= 0, "delta", delta, "0 or more")
    routes = [rung for rung in rungs if rung.name != majority]
    best = max(routes, key=lambda rung: rung.validation)

    def against(other: ScoredCandidate) -> dict[str, Difference]:
        return {
            rung.name: paired(
                targets, rung.predictions, other.predictions, labels, metric, resamples=resamples, seed=seed
            )
            for rung in rungs
            if rung is not other
        }

    over_best = against(best)
    over_majority = {} if majority is None else against(by_name[majority])
    if majority is not None and not any(found.interval[0] > 0 for found in over_majority.values()):
        nearest = max(over_majority, key=lambda name: over_majority[name].difference)
        reason = f"no route beats the majority: the nearest, {nearest}, has {_figures(over_majority[nearest])}"
        return Recommendation(None, best.name, reason, over_best, over_majority)
    kept = (rung for rung in routes if rung is best or over_best[rung.name].interval[0] >= -delta)
    chosen = next(kept).name
    reason = _reason(chosen, best.name, [rung.name for rung in routes], over_best, metric, delta)
    return Recommendation(chosen, best.name, reason, over_best, over_majority)


def rows_to_reach(curve_one: Mapping[int, float], curve_other: Mapping[int, float]) -> float | None:
    """The training rows with which one rung reaches the score that another has with all its rows.

    Between two sizes the score is taken to be straight over the logarithm of rows. Where the smallest size is enough
    already that size is returned: what fewer rows would do was not measured.

    Args:
        curve_one: rows -> score of the rung that is to reach.
        curve_other: rows -> score of the rung to be reached; that at its largest size counts.

    Returns:
        Rows, not rounded; None where no size reaches it.

    Raises:
        DataError: a curve without a size, a size below 1, or a score that is no number.
    """
    for name, curve in (("curve_one", curve_one), ("curve_other", curve_other)):
        if not curve or min(curve) < 1 or not np.isfinite(list(curve.values())).all():
            raise DataError(f"{name}: expected scores by rows, at least one, of 1 row or more, found {dict(curve)}")
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


@dataclass(frozen=True, eq=False)
class _Side:
    """One rung's scores on all rows and on drawn rows."""

    scores: np.ndarray
    """(seeds,)"""
    resampled: np.ndarray
    """(seeds, resamples)"""

    @property
    def mean(self) -> float:
        return float(self.scores.mean())

    @property
    def freedom(self) -> int:
        return len(self.scores) - 1

    @cached_property
    def seed_variance(self) -> float:
        """What the variance of the mean owes to the seeds beyond what the draws of rows have of it."""
        if not self.freedom:
            return 0.0
        of_rows = (self.resampled - self.scores[:, None]).var(axis=0, ddof=1).mean()
        return max(0.0, float(rounded(self.scores.var(ddof=1) - of_rows))) / len(self.scores)


def _runs(name: str, predictions: Sequence[ArrayLike], y: np.ndarray, labels: Labels) -> list[np.ndarray]:
    if not len(predictions):
        raise DataError(f"{name}: expected the predictions of at least one seed, found none")
    return checked_runs(name, predictions, y, labels)


def _sides(
    y: np.ndarray,
    runs: Sequence[list[np.ndarray]],
    labels: Labels,
    metric: str,
    resamples: int,
    rng: np.random.Generator,
) -> list[_Side]:
    counts, tables = outcomes(y, [run for side in runs for run in side], labels)
    found = scores(counts[None], tables, labels, metric)[:, 0]
    drawn = resampled_scores(rng, counts, tables, labels, metric, resamples)
    starts = np.cumsum([len(side) for side in runs])[:-1]
    return [_Side(*both) for both in zip(np.split(found, starts), np.split(drawn, starts), strict=True)]


def _moved_by_seeds(
    estimate: float, of_rows: np.ndarray, sides: Sequence[_Side], rng: np.random.Generator
) -> np.ndarray:
    """Resamples of the rows (resamples,) with the seeds' part added, once up and once down: (2 * resamples,)."""
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
    """Twice the share of draws on the rarer side of 0, the data counted as a draw (Davison & Hinkley 1997, ch. 4)."""
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(draws) + 1))


def _only_one_right(y: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    right, also = ((y == guesses).reshape(len(y), -1).all(axis=1) for guesses in (one, other))
    return int((right & ~also).sum()), int((also & ~right).sum())


def _by_name(rungs: Sequence[ScoredCandidate], majority: str | None) -> dict[str, ScoredCandidate]:
    by_name = {rung.name: rung for rung in rungs}
    names = [rung.name for rung in rungs]
    if len(by_name) < len(names):
        raise DataError(f"rungs: expected every name once, found {', '.join(names)}")
    if not by_name.keys() - {majority}:
        raise DataError(f"rungs: expected at least one beside the majority, found {', '.join(names) or 'none'}")
    check(majority is None or majority in by_name, "majority", majority, f"one of {', '.join(names)}")
    for rung in rungs:
        check(bool(np.isfinite(rung.validation)), f"validation of {rung.name}", rung.validation, "a number")
    return by_name


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

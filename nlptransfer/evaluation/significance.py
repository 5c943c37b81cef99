"""Is the difference real? Intervals of scores over seeds and rows, paired tests, and which candidate they recommend.

A candidate is trained with several seeds and scored on the same test rows as all others. What is estimated is its
expected score: over the seeds and the rows that might have been drawn. Targets are ids (rows,), or 0/1 (rows, labels)
for several labels; predictions, one a seed, have their shape. The metric is a score that ``measure`` takes; any other
is a SettingError. No seeds, no rows, or values that do not fit the targets are a DataError. ``resamples`` and ``seed``
are the bootstrap's. This file does not know what a candidate is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from nlptransfer.data import Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation.bootstrap import percentile_interval, rounded, seed_shares
from nlptransfer.evaluation.inputs import checked_targets
from nlptransfer.evaluation.metrics import (
    averages,
    higher_is_better,
    measure,
    outcomes,
    resampled_averages,
    score_range,
)

LEAST_SEEDS = 3
"""Two seeds say so little of how much seeds matter that an interval would be all that is possible."""


@dataclass(frozen=True)
class ScoreInterval:
    """How good one candidate is."""

    mean: float
    """over seeds"""
    spread: float | None
    """sample standard deviation over seeds; None for one seed"""
    interval: tuple[float, float]
    """95%, of the expected score; for one seed, of that one model's"""


@dataclass(frozen=True)
class Difference:
    """How much better one candidate is than another on the same test rows; scores are means over seeds."""

    one: float
    other: float
    difference: float
    """one less other"""
    interval: tuple[float, float]
    """95% interval of the difference"""
    p_value: float
    """two-sided, of no difference; below .05 where the interval leaves 0 out"""
    mcnemar_p_value: float
    """exact McNemar, of the first seed's models"""


@dataclass(frozen=True)
class Gain:
    """What a transfer gained over training without a source."""

    direct: float
    """mean score over seeds without the source"""
    with_source: float
    """mean score over seeds with it"""
    gain: float
    """with_source less direct"""
    interval: tuple[float, float]
    """95% interval of the gain"""
    verdict: Literal["helps", "no evidence", "hurts"]
    """"helps" or "hurts" where the whole interval is on the better or the worse side of 0, else "no evidence\""""
    metric: str
    seeds: int
    """runs on each side"""
    rows: int
    """test rows"""


@dataclass(frozen=True, eq=False)
class ScoredCandidate:
    """What a recommendation needs to know of a candidate."""

    name: str
    predictions: Sequence[ArrayLike]
    validation: float
    """mean score over seeds on validation"""
    has_interval: bool = True
    """whether its seeds are enough for one: three, or one where no seed moves it"""


@dataclass(frozen=True)
class Recommendation:
    """Which candidate to take, and why."""

    candidate: str | None
    """None where no route beats the majority"""
    best: str
    """the best on validation"""
    reason: str
    """one sentence with the figures"""


@dataclass(frozen=True, eq=False)
class SeedScores:
    """One candidate's scores on all rows and on rows drawn with replacement."""

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
        """Variance of the mean that is due to the seeds: what the draws of rows show already is taken out."""
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
    """Score each seed of some candidates, by name, on all test rows and on the same rows drawn with replacement."""
    measure(metric, labels)
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
    on_all = np.array([averages(counts @ table, len(y), labels)[metric] for table in tables])
    resampled = resampled_averages(rng, counts, tables, labels, [metric], resamples)[:, 0]
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

    The bootstrap draws rows with replacement, the same for all seeds. To draw seeds as well says too little when they
    are few: 3 seeds have only 10 different draws. Instead each resample is moved by Student's t with S - 1 degrees of
    freedom times the seeds' own standard error: Fisher's solution of the Behrens-Fisher problem, which like Banerjee's
    (1960, Sankhya 22) errs towards wide. By how much seeds differ because they err on different rows is in the draws of
    rows already, and is taken out of the seeds' variance (the pigeonhole bootstrap of Owen 2007 counts it twice).

    In simulations (tests/benchmarks/coverage.py) it covers 94 to 96%, where a plain bootstrap over 3 seeds covers 80 to
    92%. Below some 30 rows it is too narrow, and for one model without any error it has no width: see
    :func:`wilson_interval`. With one seed it is over rows alone.
    """
    rng = np.random.default_rng(seed)
    sides = score_seeds(rng, targets, {"predictions": predictions}, labels, metric, resamples)
    found = sides[0]
    draws = _moved_by_seeds(found.mean, found.resampled.mean(axis=0), sides, rng)
    spread = float(found.scores.std(ddof=1)) if found.freedom else None
    return ScoreInterval(found.mean, spread, _interval(draws, *score_range(metric, labels)))


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
    first seed of each side: added up over seeds a row would count as if it were several, and a vote over seeds is
    another classifier. Under a spread over seeds its differences between these two may be none between the candidates.

    In simulations without a true difference (tests/benchmarks/coverage.py) the bootstrap finds one in 4 to 6%; exact
    McNemar, where seeds do not matter, in at most 5%.

    Arguments are those of :func:`score_interval`; ``one`` and ``other`` need not have as many seeds.
    """
    rng = np.random.default_rng(seed)
    sides = score_seeds(rng, targets, {"one": one, "other": other}, labels, metric, resamples)
    first, second = sides
    difference = float(rounded(first.mean - second.mean))
    draws = _moved_by_seeds(difference, first.resampled.mean(axis=0) - second.resampled.mean(axis=0), sides, rng)
    lowest, highest = score_range(metric, labels)
    most = highest - lowest
    y = np.asarray(targets)
    right, also = ((y == runs[0]).reshape(len(y), -1).all(axis=1) for runs in (one, other))
    return Difference(
        one=first.mean,
        other=second.mean,
        difference=difference,
        interval=_interval(draws, -most, most),
        p_value=_two_sided(draws),
        mcnemar_p_value=mcnemar(int((right & ~also).sum()), int((also & ~right).sum())),
    )


def transfer_gain(
    targets: ArrayLike,
    direct: Sequence[ArrayLike],
    transfer: Sequence[ArrayLike],
    labels: Labels,
    metric: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Gain:
    """Compute the gain of a transfer over the same route, rows, budget and seeds without a source.

    Both sides, ``direct`` without the source and ``transfer`` with it, have seeds, in the same order, and rows in
    common, so that what makes a row hard or a seed lucky cancels out. The interval is that of a bootstrap over seeds
    and, independently, over test rows, which all seeds of a resample share (the pigeonhole bootstrap of Owen 2007,
    which errs towards wide). Below some 30 rows it is too narrow.

    With one seed the verdict is about these two models and not about the transfer. Where runs differ by luck with a
    standard deviation of 2 points, simulations without a true gain (2,000 rows, accuracy .85) end in a verdict all the
    same in about 57, 23, 15, 11 and 5% of the cases with 1, 2, 3, 5 and 10 seeds; without luck in at most 6%.
    """
    if len(direct) != len(transfer):
        raise DataError(
            "transfer_gain: expected predictions of the same seeds on both sides, found "
            f"{len(direct)} of direct and {len(transfer)} of transfer; run what is missing"
        )
    for_rows, for_seeds = np.random.default_rng(seed).spawn(2)
    sides = {"direct": direct, "transfer": transfer}
    before, after = score_seeds(for_rows, targets, sides, labels, metric, resamples)
    shares = seed_shares(for_seeds, len(direct), resamples)
    low, high = percentile_interval(rounded((shares * (after.resampled - before.resampled).T).sum(axis=1)))
    return Gain(
        direct=before.mean,
        with_source=after.mean,
        gain=float(rounded(after.mean - before.mean)),
        interval=(low, high),
        verdict="no evidence" if low <= 0 <= high else "helps" if (low > 0) == higher_is_better(metric) else "hurts",
        metric=metric,
        seeds=len(direct),
        rows=len(np.asarray(targets)),
    )


def wilson_interval(right: int, rows: int) -> tuple[float, float]:
    """Compute Wilson's (1927) 95% interval of one model's accuracy; it has a width even where no row is wrong."""
    found = scipy.stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(only_one: int, only_other: int) -> float:
    """Compute exact McNemar's two-sided p-value from the rows that only the one model, or the other, has right."""
    return float(scipy.stats.binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979), in their order; each is at least what it was, at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in corrected[np.argsort(order)]]


def recommended(
    targets: ArrayLike,
    candidates: Sequence[ScoredCandidate],
    labels: Labels,
    metric: str,
    *,
    majority: str | None = None,
    delta: float = 0.01,
) -> Recommendation:
    """Recommend the cheapest candidate that, by its paired interval, loses no more than ``delta`` against the best.

    The best is that on validation, and of equals the cheapest: the best on test would have been chosen by the luck of
    the very rows that the intervals are about. Candidates come cheapest first, at least one besides the ``majority``,
    the name of one that always predicts the commonest label. That is never recommended; where no other candidate's
    interval against it lies above 0, nothing is. ``delta`` is in units of the score. Where a candidate has no interval,
    it is the best on validation.
    """
    sign = 1 if higher_is_better(metric) else -1
    routes = [candidate for candidate in candidates if candidate.name != majority]
    best = max(routes, key=lambda candidate: sign * candidate.validation)
    if unsure := [one.name for one in routes if not one.has_interval]:
        few = f"fewer than {LEAST_SEEDS} seeds give no interval of {', '.join(unsure)}"
        reason = f"{best.name} is the best on validation; {few}, so that no difference on test is sure"
        return Recommendation(best.name, best.name, reason)

    def against(other: ScoredCandidate) -> dict[str, Difference]:
        return {
            one.name: paired(targets, one.predictions, other.predictions, labels, metric)
            for one in candidates
            if one is not other
        }

    def least_gain(found: Difference) -> float:
        """The worse end of the interval, where more is better."""
        return min(sign * end for end in found.interval)

    def figures(found: Difference) -> str:
        low, high = found.interval
        means = f"{metric} {found.one:.3f} against {found.other:.3f} on test"
        return f"has {means}, a difference of {found.difference:+.3f} [{low:+.3f}, {high:+.3f}]"

    if majority is not None:
        over_majority = against(next(one for one in candidates if one.name == majority))
        if not any(least_gain(found) > 0 for found in over_majority.values()):
            nearest = max(over_majority, key=lambda name: sign * over_majority[name].difference)
            reason = f"no route beats the majority: the nearest, {nearest}, {figures(over_majority[nearest])}"
            return Recommendation(None, best.name, reason)
    over_best = against(best)
    chosen = next(one.name for one in routes if one is best or least_gain(over_best[one.name]) >= -delta)
    points = f"{delta:g}" if metric == "mae" else f"{delta * 100:g} point{'' if delta == 0.01 else 's'}"
    loss = f"a loss of more than {points} of {metric}"
    cheaper = [one.name for one in routes[: routes.index(best)]]
    if chosen != best.name:
        interval = f"whose 95% interval against {best.name}, the best on validation, excludes {loss}"
        reason = f"{chosen} is the cheapest route {interval}: it {figures(over_best[chosen])}"
    elif not cheaper:
        reason = f"{chosen} is the best on validation, and no route is cheaper"
    else:
        nearest = max(cheaper, key=lambda name: least_gain(over_best[name]))
        tried = f"of no cheaper route does the 95% interval against it exclude {loss}"
        compared = f"the nearest, {nearest}, {figures(over_best[nearest])}"
        reason = f"{chosen} is the best on validation, and {tried}: {compared}"
    return Recommendation(chosen, best.name, reason)


def rows_to_reach(curve_one: Mapping[int, float], curve_other: Mapping[int, float]) -> float | None:
    """Estimate the training rows with which one candidate reaches the score that another has with all its rows.

    Both curves are rows -> score, more being better, and between two sizes taken to be straight over the logarithm of
    rows. The result is not
    rounded; it is the smallest size where that is enough, None where no size is.
    """
    goal = curve_other[max(curve_other)]
    sizes = sorted(curve_one)
    for before, rows in zip([None, *sizes], sizes, strict=False):
        if curve_one[rows] >= goal:
            if before is None:
                return float(rows)
            share = (goal - curve_one[before]) / (curve_one[rows] - curve_one[before])
            return float(before * (rows / before) ** share)
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

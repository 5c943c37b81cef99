"""Intervals against closed forms and Welch's, tests against scipy and statsmodels, and how often all are right."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from helpers.folders import ROOT
from helpers.predictions import score_of, targets_and_runs
from helpers.simulated_candidates import simulated
from nlptransfer.data.labels import Labels
from nlptransfer.evaluation.significance import (
    Recommendation,
    ScoredCandidate,
    holm,
    mcnemar,
    paired,
    recommended,
    rows_to_reach,
    score_interval,
    wilson_interval,
)

TWO = Labels(("a", "b"))
SIX = Labels(tuple("abcdef"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


def right_in(*shares: float, rows: int = 1000, start: int = 0) -> list[np.ndarray]:
    """For each share a run that is right (predicts 0) in that share of the rows, one unbroken run of rows."""
    return [np.roll(np.arange(rows) >= round(share * rows), start).astype(int) for share in shares]


@pytest.mark.parametrize(
    ("labels", "metric"), [(SIX, "accuracy"), (SIX, "f1_macro"), (SIX, "mcc"), (SEVERAL, "f1_micro")]
)
def test_mean_and_spread_are_those_of_scikit_learns_scores(labels: Labels, metric: str) -> None:
    targets, runs = targets_and_runs(0, labels, [0.3] * 4)
    expected = [score_of(metric)(targets, run) for run in runs]
    found = score_interval(targets, runs, labels, metric, resamples=50)
    assert (found.mean, found.spread) == pytest.approx((np.mean(expected), np.std(expected, ddof=1)))
    assert found.interval[0] < found.mean < found.interval[1]


def test_one_seeds_interval_is_over_the_rows_alone() -> None:
    targets, (run, *_) = targets_and_runs(1, TWO, [0.3], 2000)
    found = score_interval(targets, [run], TWO, "accuracy", resamples=20_000)
    half = 1.96 * np.sqrt(found.mean * (1 - found.mean) / 2000)
    assert found.interval == pytest.approx((found.mean - half, found.mean + half), abs=0.05 * half)
    assert found.spread is None


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "mcc"])
def test_seeds_that_agree_leave_the_interval_to_the_rows(metric: str) -> None:
    targets, runs = targets_and_runs(2, SIX, [0.3])
    one, three = (score_interval(targets, runs * seeds, SIX, metric) for seeds in (1, 3))
    assert three.interval == pytest.approx(one.interval)
    assert three.spread == pytest.approx(0)


def test_seeds_that_differ_only_by_the_rows_they_err_on_add_nothing() -> None:
    # Equally good seeds with errors of their own: the mean is as good as that of independent rows.
    targets, (runs,) = simulated(np.random.default_rng(0), 1, 10, 2000)
    found = score_interval(targets, runs, TWO, "accuracy")
    half = 1.96 * np.mean([run == targets for run in runs], axis=0).std() / np.sqrt(2000)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("shares", [(0.5, 0.7), (0.6, 0.7, 0.75), (0.7, 0.72, 0.8, 0.83, 0.9)])
def test_where_rows_are_many_the_interval_is_students(shares: tuple[float, ...]) -> None:
    targets = np.zeros(200_000, dtype=int)
    found = score_interval(targets, right_in(*shares, rows=200_000), TWO, "accuracy", resamples=50_000)
    expected = stats.t.interval(0.95, len(shares) - 1, np.mean(shares), stats.sem(shares))
    assert found.interval == pytest.approx(np.clip(expected, 0, 1), rel=0.05)


def test_intervals_stay_where_scores_can_be() -> None:
    targets = np.zeros(100, dtype=int)
    two = right_in(0.5, 1.0, rows=100)
    assert score_interval(targets, two, TWO, "accuracy").interval == (0.0, 1.0)
    apart = paired(targets, two, right_in(0.1, 0.5, rows=100), TWO, "accuracy").interval
    assert -1 <= apart[0] < 0 and apart[1] == 1
    assert score_interval(np.arange(100) % 2, targets_and_runs(0, TWO, [0.3] * 2, 100)[1], TWO, "mcc").interval[0] >= -1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0.6, 0.7, 0.75), (0.5, 0.52, 0.6)),
        ((0.8, 0.7, 0.6, 0.5), (0.61, 0.63)),
        ((0.7, 0.8), (0.7, 0.82)),
        ((0.6, 0.7, 0.75), (0.6,)),
    ],
)
def test_where_rows_are_many_a_difference_is_welchs_or_beside_one_seed_students(
    one: tuple[float, ...], other: tuple[float, ...]
) -> None:
    targets, sides = np.zeros(50_000, dtype=int), [right_in(*side, rows=50_000) for side in (one, other)]
    found = paired(targets, *sides, TWO, "accuracy", resamples=50_000)
    reference = stats.ttest_1samp(one, *other) if len(other) == 1 else stats.ttest_ind(one, other, equal_var=False)
    low, high = np.subtract(reference.confidence_interval(), other if len(other) == 1 else 0)
    assert found.interval == pytest.approx((low, high), abs=0.05 * (high - low))
    assert found.p_value == pytest.approx(reference.pvalue, abs=0.01)
    assert (found.one, found.other) == (np.mean(one), np.mean(other))


@pytest.mark.parametrize("shift", [0, 20, 200])
def test_of_one_seed_the_difference_is_a_paired_mean(shift: int) -> None:
    # The same rows in both runs cancel out: only what is right in one alone counts.
    targets, one, other = np.zeros(1000, dtype=int), right_in(0.8), right_in(0.75, start=shift)
    found = paired(targets, one, other, TWO, "accuracy", resamples=20_000)
    differences = (one[0] == 0).astype(float) - (other[0] == 0)
    half = 1.96 * differences.std() / np.sqrt(1000)
    assert found.difference == pytest.approx(0.05)
    assert found.interval == pytest.approx((0.05 - half, 0.05 + half), abs=0.05 * half)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.05 / (half / 1.96)), abs=0.005)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    seeds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rows=st.integers(1, 40),
    several=st.booleans(),
    metric=st.sampled_from(["accuracy", "f1_macro", "precision_weighted"]),
)
def test_changing_places_negates_the_difference_and_tests_agree_with_intervals(
    seed: int, seeds: tuple[int, int], rows: int, several: bool, metric: str
) -> None:
    labels = SEVERAL if several else SIX
    targets, runs = targets_and_runs(seed, labels, [0.3] * sum(seeds), rows)
    one, other = runs[: seeds[0]], runs[seeds[0] :]
    there = paired(targets, one, other, labels, metric, resamples=200)
    back = paired(targets, other, one, labels, metric, resamples=200)
    assert (back.one, back.other, back.difference) == (there.other, there.one, pytest.approx(-there.difference))
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-9)
    assert (back.p_value, back.mcnemar_p_value) == pytest.approx((there.p_value, there.mcnemar_p_value), abs=0.01)
    low, high = there.interval
    assert -1 <= low <= high <= 1
    assert 0 < there.p_value <= 1
    # Within one draw of .05 the two may differ.
    assert abs(there.p_value - 0.05) < 0.011 or (there.p_value < 0.05) == (low > 0 or high < 0)


def test_results_depend_on_the_seed_alone() -> None:
    targets, runs = targets_and_runs(4, SIX, [0.3] * 6)
    arguments: Any = (targets, runs[:3], runs[3:], SIX, "f1_macro")
    assert paired(*arguments) == paired(*arguments) != paired(*arguments, seed=1)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (3, 3), (2, 9), (9, 2), (40, 61), (0, 20)])
def test_mcnemar_is_that_of_statsmodels(b: int, c: int) -> None:
    assert mcnemar(b, c) == pytest.approx(reference_mcnemar([[5, b], [c, 7]], exact=True).pvalue)


def test_mcnemar_is_made_of_the_first_seeds_and_of_whole_rows() -> None:
    targets = np.zeros(100, dtype=int)
    first, second = right_in(0.9, rows=100), right_in(0.8, rows=100)
    assert paired(targets, [*first, *second], [*second, *first], TWO, "accuracy").mcnemar_p_value == mcnemar(10, 0)
    rows = np.array([[1, 0, 1]] * 20)
    half_wrong = rows.copy()
    half_wrong[:8, 1] = 1
    half_wrong[:8, 2] = 0
    assert paired(rows, [rows], [half_wrong], SEVERAL, "f1_micro").mcnemar_p_value == mcnemar(8, 0)


@pytest.mark.parametrize(("right", "rows"), [(0, 1), (1, 1), (0, 30), (30, 30), (17, 20), (850, 1000)])
def test_wilson_is_that_of_statsmodels(right: int, rows: int) -> None:
    assert wilson_interval(right, rows) == pytest.approx(proportion_confint(right, rows, method="wilson"), abs=1e-12)


@pytest.mark.parametrize("count", [0, 1, 3, 20])
def test_holm_is_that_of_statsmodels(count: int) -> None:
    draw = np.random.default_rng(count)
    # Some are equal, and some far from chance.
    p_values = draw.choice([0.0, 0.01, 0.05, 1.0, *draw.random(count), *draw.random(count) ** 8], count).tolist()
    # Few, as the reference collects garbage in each call, which takes longer than all else.
    expected = multipletests(p_values, method="holm")[1].tolist() if p_values else []
    assert holm(p_values) == pytest.approx(expected)


TARGETS = np.zeros(2000, dtype=int)


def candidate(name: str, validation: float, *shares: float, start: int = 0) -> ScoredCandidate:
    return ScoredCandidate(name, right_in(*shares, rows=2000, start=start), validation)


MAJORITY = candidate("majority", 0.5, 0.5)


def interval(one: ScoredCandidate, other: ScoredCandidate) -> tuple[float, float]:
    return paired(TARGETS, one.predictions, other.predictions, TWO, "accuracy").interval


def advice(*candidates: ScoredCandidate, **options: Any) -> Recommendation:
    return recommended(TARGETS, candidates, TWO, "accuracy", **options)


def test_the_cheapest_that_surely_loses_little_is_recommended() -> None:
    cheap, good = candidate("tfidf", 0.8, 0.80, 0.80), candidate("probe", 0.89, 0.898, 0.898, 0.898)
    best = candidate("full", 0.9, 0.9, 0.9)
    found = advice(MAJORITY, cheap, good, candidate("lora", 0.89, 0.9), best, majority="majority")
    assert (found.candidate, found.best) == ("probe", "full")
    low, high = interval(good, best)
    assert found.reason == (
        "probe is the cheapest route whose 95% interval against full, the best on validation, excludes a loss of more "
        "than 1 point of accuracy: it has accuracy 0.898 against 0.900 on test, "
        f"a difference of -0.002 [{low:+.3f}, {high:+.3f}]"
    )


def test_a_difference_that_is_small_but_unsure_is_no_reason_to_save() -> None:
    unsure, best = candidate("probe", 0.89, 0.898, start=500), candidate("full", 0.9, 0.9)
    found = advice(unsure, best)
    low, high = interval(unsure, best)
    assert found.candidate == "full" and low < -0.01 < 0 < high
    assert found.reason == (
        "full is the best on validation, and of no cheaper route does the 95% interval against it exclude a loss of "
        "more than 1 point of accuracy: the nearest, probe, has accuracy 0.898 against 0.900 on test, "
        f"a difference of -0.002 [{low:+.3f}, {high:+.3f}]"
    )
    assert advice(unsure, best, delta=0.05).candidate == "probe"


def test_the_best_is_chosen_on_validation_and_not_on_test() -> None:
    found = advice(candidate("probe", 0.9, 0.8), candidate("full", 0.8, 0.9))
    assert (found.candidate, found.best) == ("probe", "probe")
    assert found.reason == "probe is the best on validation, and no route is cheaper"
    assert advice(candidate("lora", 0.9, 0.7), candidate("full", 0.9, 0.9)).best == "lora"


def test_a_loss_of_just_delta_is_no_larger_one() -> None:
    # Seeds and rows alike, so that the interval is the loss itself.
    assert advice(candidate("probe", 0.8, 0.0), candidate("full", 0.9, 1.0), delta=1.0).candidate == "probe"
    assert advice(candidate("probe", 0.8, 0.0), candidate("full", 0.9, 1.0), delta=0.99).candidate == "full"


def test_where_less_is_better_the_least_is_the_best() -> None:
    scale, targets = Labels(("1", "2", "3", "4", "5")), np.arange(1000) % 5
    guesses = {"majority": np.full(1000, 2), "tfidf": np.clip(targets + 1, 0, 4), "probe": targets}
    guesses["probe"] = np.where(np.arange(1000) < 100, guesses["tfidf"], targets)
    errors = {name: float(np.abs(run - targets).mean()) for name, run in guesses.items()}
    candidates = [ScoredCandidate(name, [run], errors[name]) for name, run in guesses.items()]
    found = recommended(targets, candidates, scale, "mae", majority="majority")
    assert (found.candidate, found.best) == ("probe", "probe") and "a loss of more than 0.01 of mae" in found.reason
    assert recommended(targets, candidates, scale, "mae", majority="majority", delta=1.0).candidate == "tfidf"
    assert recommended(targets, candidates[:2], scale, "mae", majority="tfidf").candidate is None
    assert score_interval(targets, [guesses["tfidf"]], scale, "mae").mean == pytest.approx(0.8)


def test_where_seeds_are_too_few_for_an_interval_the_best_on_validation_is_recommended() -> None:
    targets = np.arange(200) % 2
    guesses = [targets.copy(), 1 - targets]
    one, other = (
        ScoredCandidate(name, [predicted], validation, has_interval=name == "cheap")
        for name, predicted, validation in (("cheap", guesses[0], 0.6), ("dear", guesses[1], 0.7))
    )
    found = recommended(targets, [one, other], TWO, "accuracy")
    assert (found.candidate, found.best) == ("dear", "dear")
    assert found.reason.startswith("dear is the best on validation; fewer than 3 seeds give no interval of dear")


def test_routes_that_guess_are_not_recommended() -> None:
    best = candidate("full", 0.7, 0.505, start=40)
    found = advice(MAJORITY, candidate("probe", 0.6, 0.49), best, majority="majority")
    low, high = interval(best, MAJORITY)
    assert (found.candidate, found.best) == (None, "full")
    assert found.reason == (
        "no route beats the majority: the nearest, full, has accuracy 0.505 against 0.500 on test, "
        f"a difference of +0.005 [{low:+.3f}, {high:+.3f}]"
    )


def test_the_majority_itself_is_never_recommended() -> None:
    good, best = candidate("majority", 0.9, 0.895), candidate("probe", 0.9, 0.9)
    assert interval(good, best)[0] > -0.01
    assert advice(good, best, majority="majority").candidate == "probe"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({100: 0.6, 1000: 0.8}, {100: 0.5, 1000: 0.7}, 10**2.5),
        ({100: 0.6, 1000: 0.8}, {1000: 0.8}, 1000.0),
        ({1000: 0.8, 100: 0.6}, {300: 0.6}, 100.0),
        ({50: 0.9, 100: 0.6}, {300: 0.6, 100: 0.9}, 50.0),
        ({10: 0.5, 100: 0.4, 1000: 0.6}, {10: 0.5}, 10.0),
        ({10: 0.3, 100: 0.4, 1000: 0.6, 10000: 0.2}, {10: 0.55}, 10**2.75),
        ({100: 0.6, 1000: 0.8}, {100: 0.81}, None),
    ],
)
def test_rows_to_reach_a_score(one: dict[int, float], other: dict[int, float], expected: float | None) -> None:
    assert rows_to_reach(one, other) == (expected if expected is None else pytest.approx(expected))


def covering(seeds: int, rows: int, spread: float, sets: int = 150) -> float:
    """How many of so many intervals cover the true accuracy, .85."""
    found = []
    for index in range(sets):
        y, (runs,) = simulated(np.random.default_rng([1, index]), 1, seeds, rows, 0.85, spread)
        found.append(score_interval(y, runs, TWO, "accuracy", resamples=300, seed=index).interval)
    return float(np.mean([low <= 0.85 <= high for low, high in found]))


# The bounds are three standard errors around what 2,000 sets give: see tests/benchmarks/coverage.py.
@pytest.mark.parametrize(("seeds", "rows", "spread"), [(1, 500, 0.0), (3, 2000, 0.02)])
def test_intervals_cover_the_true_score(seeds: int, rows: int, spread: float) -> None:
    assert 0.9 <= covering(seeds, rows, spread) <= 0.995


@pytest.mark.parametrize(("seeds", "spread", "sets"), [(1, 0.0, 200), (3, 0.02, 100)])
def test_without_a_true_difference_tests_seldom_find_one(seeds: int, spread: float, sets: int) -> None:
    p_values = []
    for index in range(sets):
        y, sides = simulated(np.random.default_rng([2, index]), 2, seeds, 500, 0.85, spread)
        found = paired(y, *sides, TWO, "accuracy", resamples=300, seed=index)
        p_values.append((found.p_value, found.mcnemar_p_value))
    rejected, by_mcnemar = (np.array(p_values) < 0.05).mean(axis=0)
    assert 0 < rejected <= 0.12
    if not spread:
        assert by_mcnemar <= 0.09


def test_the_table_of_coverage_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "tests" / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.path", [])
    spec.loader.exec_module(script)
    monkeypatch.setattr("sys.argv", ["coverage.py", "--sets", "1", "--resamples", "20"])
    script.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert all(line.count("|") == lines[0].count("|") for line in lines[:14])
    assert sum("| 3 | 2.0% | 2,000 |" in line for line in lines) == 2
    assert sum("| 3 and 3 | 2% and 2% |" in line for line in lines) == 3

"""Gains against scikit-learn, intervals against closed forms and a naive bootstrap, verdicts against McNemar."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.predictions import flipped, quick_f1_macro, score_of, targets_and_runs
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError, SettingError
from nlptransfer.evaluation import bootstrap
from nlptransfer.evaluation.significance import paired, score_interval, transfer_gain

TWO = Labels(("a", "b"))
THREE = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


def sides(
    seed: int, labels: Labels, seeds: int = 3, rows: int = 80, wrong: tuple[float, float] = (0.4, 0.3)
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Targets, and the runs of some seeds without the source and with it."""
    targets, runs = targets_and_runs(seed, labels, np.repeat(wrong, seeds).tolist(), rows)
    return targets, runs[:seeds], runs[seeds:]


# scikit-learn warns of data with one class, which can be drawn here.
@pytest.mark.filterwarnings("ignore:.*single label:UserWarning")
@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        *((THREE, metric) for metric in ("accuracy", "mcc", "f1_macro")),
        *((SEVERAL, metric) for metric in ("subset_accuracy", "precision_weighted")),
    ],
    ids=lambda value: value if isinstance(value, str) else "several" if value.multi_label else "one",
)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32), seeds=st.integers(1, 3), rows=st.integers(1, 30))
def test_scores_are_the_means_of_scikit_learns(labels: Labels, metric: str, seed: int, seeds: int, rows: int) -> None:
    targets, direct, transfer = sides(seed, labels, seeds, rows)
    found = transfer_gain(targets, direct, transfer, labels, metric, resamples=5)
    before, after = (np.mean([score_of(metric)(targets, run) for run in side]) for side in (direct, transfer))
    assert (found.direct, found.with_source, found.gain) == pytest.approx((before, after, after - before))
    assert (found.metric, found.seeds, found.rows) == (metric, seeds, rows)


def test_where_less_is_better_a_fall_is_a_gain() -> None:
    scale = Labels(("1", "2", "3", "4", "5"))
    targets = np.arange(500) % 5
    near = np.clip(targets + 1, 0, 4)
    helped = transfer_gain(targets, [(targets + 2) % 5], [near], scale, "mae")
    assert helped.verdict == "helps" and helped.interval[1] < 0 and helped.with_source == pytest.approx(0.8)
    assert transfer_gain(targets, [near], [(targets + 2) % 5], scale, "mae").verdict == "hurts"
    assert transfer_gain(targets, [near], [near], scale, "mae").verdict == "no evidence"
    assert transfer_gain(targets, [near], [targets], scale, "quadratic_kappa").verdict == "helps"
    # Two answers are up to 4 steps apart.
    worst = paired(targets % 2 * 4, [4 - targets % 2 * 4], [targets % 2 * 4], scale, "mae")
    assert worst.difference == 4.0 and worst.interval == (4.0, 4.0)


@pytest.mark.parametrize("wrong", [(0.4, 0.2), (0.1, 0.3), (0.2, 0.2)])
def test_one_seeds_accuracy_has_the_interval_of_a_paired_mean(wrong: tuple[float, float]) -> None:
    targets, direct, transfer = sides(3, TWO, 1, 2000, wrong)
    found = transfer_gain(targets, direct, transfer, TWO, "accuracy", resamples=20_000)
    differences = (transfer[0] == targets).astype(float) - (direct[0] == targets)
    half = 1.96 * differences.std() / np.sqrt(2000)
    assert found.gain == pytest.approx(differences.mean(), abs=1e-12)
    assert found.interval == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.04 * half)


@pytest.mark.parametrize(("lost", "won"), [(20, 60), (60, 20), (5, 20), (44, 40), (15, 18), (0, 9), (0, 0)])
def test_verdicts_of_one_seed_go_with_mcnemars_test(lost: int, won: int) -> None:
    targets = np.zeros(300, dtype=int)
    direct, transfer = targets.copy(), targets.copy()
    transfer[:lost], direct[lost : lost + won] = 1, 1
    found = transfer_gain(targets, [direct], [transfer], TWO, "accuracy")
    p = stats.binomtest(won, lost + won).pvalue if lost + won else 1.0
    assert p < 0.02 or p > 0.2
    assert found.verdict == ("no evidence" if p > 0.2 else "helps" if won > lost else "hurts")


def quick_f1_micro(targets: np.ndarray, guesses: np.ndarray) -> float:
    return float(2 * (targets & guesses).sum() / (targets.sum() + guesses.sum()))


def quick_mcc(targets: np.ndarray, guesses: np.ndarray) -> float:
    return float(np.corrcoef(targets, guesses)[0, 1])


@pytest.mark.parametrize(
    ("labels", "metric", "score"),
    [(THREE, "f1_macro", quick_f1_macro), (TWO, "mcc", quick_mcc), (SEVERAL, "f1_micro", quick_f1_micro)],
    ids=["f1_macro", "mcc", "f1_micro"],
)
def test_intervals_agree_with_a_naive_bootstrap(
    labels: Labels, metric: str, score: Callable[[np.ndarray, np.ndarray], float]
) -> None:
    targets, direct, transfer = sides(5, labels, rows=60)
    # Seeds that differ: one that the transfer spoils.
    transfer[0] = flipped(np.random.default_rng(0), targets, 0.6, 2 if labels.multi_label else labels.num_labels)
    rng, drawn = np.random.default_rng(7), []
    for _ in range(1000):
        seeds, rows = rng.integers(3, size=3), rng.integers(60, size=60)
        pairs = [(transfer[seed][rows], direct[seed][rows]) for seed in seeds]
        drawn.append(np.mean([score(targets[rows], after) - score(targets[rows], before) for after, before in pairs]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = transfer_gain(targets, direct, transfer, labels, metric, resamples=20_000)
    assert found.interval == pytest.approx((low, high), abs=0.1 * (high - low))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    seeds=st.integers(1, 4),
    rows=st.integers(1, 40),
    several=st.booleans(),
    metric=st.sampled_from(["accuracy", "f1_macro", "f1_micro", "precision_weighted"]),
)
def test_changing_places_negates_the_gain(seed: int, seeds: int, rows: int, several: bool, metric: str) -> None:
    labels = SEVERAL if several else THREE
    targets, direct, transfer = sides(seed, labels, seeds, rows)
    there = transfer_gain(targets, direct, transfer, labels, metric, resamples=50)
    back = transfer_gain(targets, transfer, direct, labels, metric, resamples=50)
    assert (back.direct, back.with_source) == (there.with_source, there.direct)
    assert back.gain == pytest.approx(-there.gain, abs=1e-12)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), abs=1e-12)
    assert {there.verdict, back.verdict} in ({"helps", "hurts"}, {"no evidence"})
    assert -1 <= there.interval[0] <= there.interval[1] <= 1
    low, high = there.interval
    assert there.verdict == ("helps" if low > 0 else "hurts" if high < 0 else "no evidence")


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "mcc"])
def test_runs_that_agree_leave_the_interval_to_the_rows(metric: str) -> None:
    targets, direct, transfer = sides(1, THREE, 1)
    one = transfer_gain(targets, direct, transfer, THREE, metric)
    three = transfer_gain(targets, direct * 3, transfer * 3, THREE, metric)
    assert three.interval == pytest.approx(one.interval, abs=1e-9)
    assert one.interval[0] < one.interval[1]
    assert three.seeds == 3


def test_what_both_sides_share_cancels_out() -> None:
    targets, direct, _ = sides(2, THREE, 3, 90)
    for share, run in zip((0.1, 0.4, 0.7), range(3), strict=True):
        direct[run] = flipped(np.random.default_rng(run), targets, share, 3)
    found = transfer_gain(targets, direct, [run.copy() for run in direct], THREE, "f1_macro")
    assert (found.gain, found.interval, found.verdict) == (0.0, (0.0, 0.0), "no evidence")


def test_seeds_that_disagree_widen_the_interval() -> None:
    targets = np.zeros(1000, dtype=int)
    right, wrong = targets, np.r_[np.ones(100, dtype=int), np.zeros(900, dtype=int)]
    steady = transfer_gain(targets, [wrong] * 4, [right] * 4, TWO, "accuracy")
    torn = transfer_gain(targets, [wrong, wrong, right, right], [right, right, right, wrong], TWO, "accuracy")
    assert (steady.verdict, torn.verdict) == ("helps", "no evidence")
    # Of four seeds that gain .1, .1, 0 and -.1 a mean of -.05 or less is drawn in 5% of the resamples.
    assert torn.interval[0] == pytest.approx(-0.05, abs=0.02)


def test_sums_that_are_zero_but_for_rounding_are_no_gain() -> None:
    # Gains of .3, -.1 and -.2 in all rows alike would sum to 2.8e-17.
    targets = np.zeros(10, dtype=int)
    worse = [np.r_[np.ones(wrong, dtype=int), np.zeros(10 - wrong, dtype=int)] for wrong in range(4)]
    direct, transfer = [worse[3], worse[0], worse[0]], [worse[0], worse[1], worse[2]]
    found = transfer_gain(targets, direct, transfer, TWO, "accuracy")
    assert (found.gain, found.verdict) == (0.0, "no evidence")


def test_intervals_depend_on_the_seed_alone_and_not_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: Any = (*sides(4, THREE), THREE, "f1_macro")
    found = transfer_gain(*arguments)
    assert transfer_gain(*arguments) == found
    assert transfer_gain(*arguments, seed=1).interval != found.interval
    monkeypatch.setattr(bootstrap, "BLOCK", 2000)
    assert transfer_gain(*arguments) == found


def test_two_thousand_resamples_take_a_fraction_of_a_second() -> None:
    arguments: Any = (*sides(0, Labels(tuple("abcdef")), 3, 2000), Labels(tuple("abcdef")), "f1_macro")
    start = time.process_time()
    transfer_gain(*arguments)
    assert time.process_time() - start < 1.0


ROW = np.array([0, 1, 0])


@pytest.mark.parametrize(
    ("targets", "direct", "transfer", "message"),
    [
        (ROW, [], [], r"direct: expected the predictions of at least one seed, found none"),
        (ROW, [ROW, ROW], [ROW], r"found 2 of direct and 1 of transfer; run what is missing"),
        ([], [[]], [[]], r"targets: expected at least one test row, found none"),
        (ROW, [ROW], [ROW[:2]], r"transfer\[0\]: expected shape \(3,\).*found \(2,\)"),
        (ROW, [ROW], [ROW + 1], r"transfer\[0\]: expected label ids from 0 to 1, found 2.0 in row 1"),
        (ROW / 2, [ROW], [ROW], r"targets: expected label ids from 0 to 1, found 0.5 in row 1"),
    ],
)
def test_what_does_not_fit_is_refused(targets: Any, direct: Any, transfer: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        transfer_gain(targets, direct, transfer, TWO, "accuracy")


@pytest.mark.parametrize(
    ("labels", "metric", "message"),
    [
        (
            THREE,
            "loss",
            r"metric='loss': expected a score of predicted labels.*choose one of accuracy, f1_macro, .*, mcc$",
        ),
        (SEVERAL, "lrap", r"metric='lrap': expected .*choose one of accuracy, subset_accuracy, f1_macro"),
        (THREE, "acuracy", r"unknown score 'acuracy': did you mean 'accuracy'\?"),
        (SEVERAL, "mcc", r"unknown score 'mcc'"),
    ],
)
def test_other_scores_are_refused(labels: Labels, metric: str, message: str) -> None:
    targets, direct, transfer = sides(0, labels)
    for refused in (transfer_gain, paired):
        with pytest.raises(SettingError, match=message):
            refused(targets, direct, transfer, labels, metric)
    with pytest.raises(SettingError, match=message):
        score_interval(targets, direct, labels, metric)

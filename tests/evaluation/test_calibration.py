"""Calibration figures against scikit-learn, closed forms and loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as sk

from helpers.predictions import multi_rows, single_rows
from nlptransfer.data.labels import Labels
from nlptransfer.errors import DataError
from nlptransfer.evaluation import inputs
from nlptransfer.evaluation.calibration import (
    answer_probabilities,
    brier_score,
    confidence,
    coverage_curve,
    fit_temperature,
    fit_thresholds,
    reliability_curve,
    untempered,
    within_reach,
)
from nlptransfer.evaluation.metrics import negative_log_likelihood


def error_by_loops(forecast: np.ndarray, came: np.ndarray, bins: int) -> float:
    """The definition, bin by bin: a bin is (low, high], the first one holds 0 too."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = (forecast > low) & (forecast <= high) | ((number == 0) & (forecast == 0))
        if inside.any():
            total += inside.sum() * abs(forecast[inside].mean() - came[inside].mean())
    return total / len(forecast)


@pytest.mark.parametrize("several", [False, True])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60), k=st.integers(1, 6))
def test_figures_are_those_of_scikit_learn_and_of_loops(several: bool, seed: int, n: int, k: int) -> None:
    k = max(k, 2 - several)
    targets, p = (multi_rows if several else single_rows)(np.random.default_rng(seed), n, k)
    if several:
        # Each label of each row is a forecast of its own.
        forecasts, came, brier = p.ravel(), targets.ravel(), sk.mean_squared_error(targets, p)
        loss = sk.log_loss(came, forecasts, labels=[0, 1])
    else:
        forecasts, came = p.max(axis=1), p.argmax(axis=1) == targets
        brier, loss = k * sk.mean_squared_error(np.eye(k)[targets], p), sk.log_loss(targets, p, labels=range(k))
    assert brier_score(targets, p, multi_label=several) == pytest.approx(brier)
    assert negative_log_likelihood(targets, p, multi_label=several) == pytest.approx(loss)
    expected = error_by_loops(forecasts, came, 15)
    assert reliability_curve(targets, p, multi_label=several).error == pytest.approx(expected)


def test_reliability_of_a_few_rows_by_hand() -> None:
    # Two rows at .9, one of them right, and one at .6, on the edge of the 9th of 15 bins, right.
    found = reliability_curve([0, 1, 0], [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]])
    assert found.confidence.tolist() == pytest.approx([0.6, 0.9])
    assert found.frequency.tolist() == [1.0, 0.5]
    assert found.count.tolist() == [1, 2]
    assert found.error == pytest.approx((0.4 + 2 * 0.4) / 3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), temperature=st.floats(0.5, 5), multi_label=st.booleans())
def test_what_a_temperature_did_is_undone(seed: int, temperature: float, multi_label: bool) -> None:
    logits = np.random.default_rng(seed).normal(0, 2, (20, 4))

    def probabilities(z: np.ndarray) -> np.ndarray:
        return expit(z) if multi_label else softmax(z, axis=1)

    saved = probabilities(logits / temperature).astype(np.float32)
    found = untempered(saved, temperature, multi_label=multi_label)
    np.testing.assert_allclose(found, probabilities(logits), atol=2e-3)


@pytest.mark.parametrize("multi_label", [False, True])
def test_certain_probabilities_stay_numbers_without_their_temperature(multi_label: bool) -> None:
    found = untempered([[1.0, 0.0], [0.0, 1.0]], 0.05, multi_label=multi_label)
    assert np.isfinite(found).all()
    assert (found.argmax(axis=1) == [0, 1]).all()


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_coverage_by_trying_every_cut(rows: list[tuple[float, bool]]) -> None:
    confidences, right = (np.array(column) for column in zip(*rows, strict=True))
    cuts, coverage, accuracy = coverage_curve(confidences, right)
    assert cuts.tolist() == sorted(set(confidences.tolist()), reverse=True)
    for cut, share, correct in zip(cuts, coverage, accuracy, strict=True):
        answered = confidences >= cut
        assert share == pytest.approx(answered.mean())
        assert correct == pytest.approx(right[answered].mean())
    assert coverage[-1] == 1


@pytest.mark.parametrize("figure", [reliability_curve, brier_score, negative_log_likelihood])
def test_rows_that_do_not_fit_are_refused(figure: Any) -> None:
    with pytest.raises(DataError, match=r"targets: expected shape \(1,\)"):
        figure([0, 1], [[0.5, 0.5]])
    with pytest.raises(DataError, match=r"expected numbers in \[0, 1\]"):
        figure([0], [[1.5, -0.5]])


@pytest.mark.parametrize("multi_label", [False, True])
def test_confidence_is_that_of_the_answer_and_of_several_the_least(multi_label: bool) -> None:
    _, p = (multi_rows if multi_label else single_rows)(np.random.default_rng(1), 300, 4)
    labels = Labels(("a", "b", "c", "d"), multi_label)
    given = inputs.predicted(p, labels, (0.2, 0.5, 0.6, 0.9) if multi_label else None)
    if multi_label:
        answers = [[q if yes else 1 - q for q, yes in zip(*row, strict=True)] for row in zip(p, given, strict=True)]
        assert answer_probabilities(p, given, multi_label=True).tolist() == answers
        assert confidence(p, given, multi_label=True).tolist() == [min(row) for row in answers]
    else:
        assert confidence(p, given).tolist() == answer_probabilities(p, given).tolist() == p.max(axis=1).tolist()


# Temperature and thresholds


def smoothed_nll(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    """Loss of the rows, and of one more row that every label has an equal share of, spread over their logits."""
    logs = np.log(softmax(logits / temperature, axis=1))
    return -logs[np.arange(len(targets)), targets].sum() - logs.mean()


def test_temperature_is_the_best_of_a_grid() -> None:
    rng = np.random.default_rng(4)
    logits, targets = 3 * rng.normal(size=(80, 5)), rng.integers(5, size=80)
    logits[np.arange(80), targets] += 2
    best = min(np.geomspace(0.05, 20, 2000), key=lambda t: smoothed_nll(logits, targets, t))
    assert fit_temperature(logits, targets) == pytest.approx(best, rel=5e-3)


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize("multi_label", [False, True])
def test_temperature_that_made_logits_miscalibrated_is_found(true_temperature: float, multi_label: bool) -> None:
    rng = np.random.default_rng(5)
    logits = 2 * rng.normal(size=(30000, 3))
    if multi_label:
        targets = (rng.random(logits.shape) < expit(logits)).astype(float)
    else:
        targets = (rng.random((len(logits), 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert fit_temperature(logits * true_temperature, targets, multi_label) == pytest.approx(true_temperature, rel=0.05)


@pytest.mark.parametrize("n", [2, 20, 400])
@pytest.mark.parametrize("multi_label", [False, True])
def test_rows_that_are_all_right_do_not_make_a_model_certain(n: int, multi_label: bool) -> None:
    # n rows right and one of either label: the likeliest share of right ones is (n + 1/2) / (n + 1).
    targets = np.arange(n) % 2
    logits = np.where(targets[:, None] == [0, 1], 1.0, -1.0)
    expected = (2.0 if not multi_label else 1.0) / np.log(2 * n + 1)
    given = np.eye(2)[targets] if multi_label else targets
    assert fit_temperature(logits, given, multi_label) == pytest.approx(expected, rel=1e-3)


def test_temperature_at_its_bounds_and_where_nothing_helps() -> None:
    assert fit_temperature([[2.0, 0.0], [0.0, 2.0]], [1, 0]) == pytest.approx(20, rel=1e-3)
    assert fit_temperature(1e4 * np.eye(3), [0, 1, 2]) == pytest.approx(20, rel=1e-3)
    assert 0.05 <= fit_temperature(1e-3 * np.eye(3), [0, 1, 2]) < 0.051
    assert fit_temperature(np.zeros((4, 3)), [0, 1, 2, 0]) == 1.0
    with pytest.raises(DataError, match="at least one row"):
        fit_temperature(np.zeros((0, 3)), [])


def best_f1_by_trying(p: np.ndarray, y: np.ndarray) -> float:
    return max(2 * y[p >= cut].sum() / ((p >= cut).sum() + y.sum()) for cut in [*p, 0.0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 40), ties=st.booleans())
def test_thresholds_are_the_best_by_brute_force(seed: int, n: int, ties: bool) -> None:
    targets, probabilities = multi_rows(np.random.default_rng(seed), n, 4)
    probabilities = probabilities.round(1) if ties else probabilities
    thresholds = fit_thresholds(probabilities, targets)
    guesses = (probabilities >= thresholds).astype(int)
    rare = targets.sum(axis=0) < 5
    for j in np.flatnonzero(~rare):
        found = sk.f1_score(targets[:, j], guesses[:, j], zero_division=0)
        assert found == pytest.approx(best_f1_by_trying(probabilities[:, j], targets[:, j]))
    for shared in set(thresholds[rare]):
        found = sk.f1_score(targets.ravel(), (probabilities >= shared).ravel(), zero_division=0)
        assert found == pytest.approx(best_f1_by_trying(probabilities.ravel(), targets.ravel()))


def test_thresholds_lie_midway_and_near_a_half_and_rare_labels_share_one() -> None:
    p = np.array([[0.9, 0.9]] * 5 + [[0.2, 0.2]] * 5)
    y = np.array([[1, 0]] * 5 + [[0, 1]] * 2 + [[0, 0]] * 3)
    assert fit_thresholds(p[:, :1], y[:, :1]) == pytest.approx([0.55])
    # Alone, the second label would be best off with .1; with 2 positives it takes what is best for both together.
    assert fit_thresholds(p, y) == pytest.approx([0.55, 0.55])
    assert fit_thresholds(p, np.zeros_like(y)).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("scores", "expected"), [((0.7, 0.5, 0.2, 0.1), 0.6), ((0.9, 0.6, 0.4, 0.3), 0.35)])
def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken(scores: tuple[float, ...], expected: float) -> None:
    # 4 of 6 positives without a mistake, or all 6 with 3 mistakes: F1 is .8 either way.
    p = np.repeat(scores, [4, 3, 2, 5])[:, None]
    assert fit_thresholds(p, np.repeat([1, 0, 1, 0], [4, 3, 2, 5])[:, None]) == pytest.approx([expected])


def test_a_threshold_that_no_row_reaches_is_lowered_to_one_that_does() -> None:
    learned = np.array([[0.6, 0.2, 0.3], [0.9, 0.1, 0.8]]), np.array([[1, 1, 0], [0, 0, 0]])
    held_out = np.array([[0.1, 0.1, 0.1], [0.1, 0.4, 0.1]]), np.array([[0, 0, 0], [0, 1, 0]])
    assert within_reach([0.5, 0.5, 0.5], learned, held_out) == pytest.approx([0.5, 0.99 * 0.2, 0.5])
    assert within_reach([0.5, 0.1, 0.5], learned, held_out).tolist() == [0.5, 0.1, 0.5]
    # A row without the label would be given it.
    assert within_reach([0.5] * 3, learned, (held_out[0], np.zeros((2, 3)))).tolist() == [0.5] * 3


def test_thresholds_between_neighboring_floats_part_them() -> None:
    # Halfway rounds to the even one, so one of these two pairs rounds down.
    for low in (0.3, np.nextafter(0.3, 1)):
        p, y = np.array([[np.nextafter(low, 1)]] * 5 + [[low]] * 5), np.array([[1]] * 5 + [[0]] * 5)
        assert (p >= fit_thresholds(p, y)).astype(int).tolist() == y.tolist()

"""Choices without a label of the target: the evidence against closed forms, and what is chosen by it."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nlptransfer.data.labels import Labels
from nlptransfer.transfer.model_selection import LARGE_SHIFT, Evidence, choose, label_shift, row_losses, warn_of_shift
from nlptransfer.transfer.self_training import pseudo_labels

TWO, THREE = Labels(("bad", "good"), False), Labels(("a", "b", "c"), False)
SEVERAL = Labels(("x", "y"), True)


def rows_of(labels: Labels, rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(rows, labels.num_labels)) * 2
    if labels.multi_label:
        return logits, (draw.random((rows, labels.num_labels)) < 0.4).astype(np.float32)
    return logits, draw.integers(labels.num_labels, size=rows)


@pytest.mark.parametrize("labels", [TWO, THREE, SEVERAL])
def test_losses_of_rows_are_torchs(labels):
    logits, targets = rows_of(labels, 20)
    given = torch.from_numpy(logits), torch.from_numpy(targets)
    if labels.multi_label:
        losses = functional.binary_cross_entropy_with_logits(given[0], given[1].double(), reduction="none")
        expected = losses.mean(dim=1)
    else:
        expected = functional.cross_entropy(*given, reduction="none")
    np.testing.assert_allclose(row_losses(logits, targets), expected, rtol=1e-9)


def test_risk_is_that_of_the_target_where_the_weights_are_the_densities_ratio():
    draw = np.random.default_rng(0)
    # x ~ N(0, 1) in the source and N(1, 1) in the target: the ratio is exp(x - 1/2).
    source, target = draw.normal(size=200_000), draw.normal(size=200_000) + 1

    def logits(x: np.ndarray) -> np.ndarray:
        return np.stack([-x, x], axis=1)

    labels_of = [(draw.random(len(x)) < 1 / (1 + np.exp(-3 * x))).astype(int) for x in (source, target)]
    found = Evidence.of(TWO, logits(source), labels_of[0], np.exp(source - 0.5), logits(target))
    expected = row_losses(logits(target), labels_of[1]).mean()
    assert row_losses(logits(source), labels_of[0]).mean() > expected + 0.05
    assert found.risk == pytest.approx(expected, abs=0.01)
    assert found.deep_embedded == pytest.approx(expected, abs=0.01)


def test_weights_that_are_all_alike_change_nothing():
    logits, targets = rows_of(THREE, 50)
    found = Evidence.of(THREE, logits, targets, np.full(50, 3.0), logits)
    assert found.risk == found.deep_embedded == pytest.approx(row_losses(logits, targets).mean())


def test_a_few_tiny_losses_do_not_make_the_risk_certain():
    targets = np.arange(50) % 2
    logits = 8.0 * np.eye(2)[targets]
    found = Evidence.of(TWO, logits, targets, np.ones(50), logits)
    assert found.risk < 1e-3 and found.risk_error == pytest.approx(1 / 50)
    logits, targets = rows_of(TWO, 50)
    spread = row_losses(logits, targets).std()
    assert Evidence.of(TWO, logits, targets, np.ones(50), logits).risk_error == pytest.approx(spread / 50**0.5)


def test_entropy_margin_and_information():
    sure, torn = np.array([[9e3, 0.0], [0.0, 9e3]]), np.zeros((2, 2))
    logits, targets = rows_of(TWO, 10)
    certain, unsure, one_sided = (
        Evidence.of(TWO, logits, targets, np.ones(10), given) for given in (sure, torn, sure[[0, 0]])
    )
    assert certain.entropy == pytest.approx(0, abs=1e-9) and certain.margin == pytest.approx(1)
    assert certain.information == pytest.approx(np.log(2))
    assert unsure.entropy == pytest.approx(np.log(2)) and unsure.margin == unsure.information == pytest.approx(0)
    # To say the same of every text tells nothing of any.
    assert one_sided.information == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_shares_of_labels_are_found_where_only_they_differ(share):
    draw = np.random.default_rng(1)

    def rows(count: int, good: float) -> tuple[np.ndarray, np.ndarray]:
        targets = (draw.random(count) < good).astype(int)
        scores = draw.normal(size=count) + 1.5 * (2 * targets - 1)
        return np.stack([-scores, scores], axis=1), targets

    logits, targets = rows(50_000, 0.5)
    unlabeled, truth = rows(50_000, share)
    found, _, least = label_shift(TWO, logits, targets, unlabeled)
    assert found.sum() == pytest.approx(1)
    assert found[1] == pytest.approx(truth.mean(), abs=0.01)
    assert Evidence.of(TWO, logits, targets, np.ones(50_000), unlabeled).label_shift == pytest.approx(
        abs(share - 0.5), abs=0.015
    )
    assert abs(share - 0.5) - 0.03 < least <= abs(truth.mean() - targets.mean())


def test_shares_of_several_labels():
    logits, targets = rows_of(SEVERAL, 30_000)
    logits = logits + 4 * (targets - 0.5)
    few = np.flatnonzero((targets[:, 0] == 0) | (np.arange(30_000) % 4 == 0))
    found, shift, _ = label_shift(SEVERAL, logits, targets, logits[few])
    assert shift == pytest.approx(np.abs(found - targets.mean(axis=0)).max())
    np.testing.assert_allclose(found, targets[few].mean(axis=0), atol=0.02)


def test_a_label_that_no_row_has_is_no_error():
    logits, _ = rows_of(THREE, 40)
    found, _, _ = label_shift(THREE, logits, logits[:, :2].argmax(axis=1), logits)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()


def guesses(labels: int, rows: int, shares: np.ndarray, seed: int, hits: float = 2.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that is right in most rows, and their targets, in these shares."""
    draw = np.random.default_rng(seed)
    targets = draw.choice(labels, size=rows, p=shares)
    return draw.normal(size=(rows, labels)) + hits * np.eye(labels)[targets], targets


def shifts(labels: int, source: np.ndarray, target: np.ndarray, rows: int = 40, sets: int = 100) -> np.ndarray:
    """The estimated shifts (sets, 2) and their bounds by few labeled rows, 400 texts."""
    names = Labels(tuple(map(str, range(labels))))
    found = []
    for seed in range(sets):
        (logits, targets), (unlabeled, _) = (
            guesses(labels, rows, source, seed),
            guesses(labels, 400, target, sets + seed),
        )
        found.append(label_shift(names, logits, targets, unlabeled)[1:])
    return np.array(found)


@pytest.mark.parametrize("labels", [2, 6])
def test_by_few_rows_labels_that_have_not_shifted_seem_to_and_never_surely_do(labels: int) -> None:
    even = np.full(labels, 1 / labels)
    estimates, least = shifts(labels, even, even).T
    # The larger of two numbers that should be equal is a shift of some size, whatever it is.
    assert estimates.mean() > 0.06 and (least > 0).mean() <= 0.06 and (least <= LARGE_SHIFT).all()


@pytest.mark.parametrize("source", [(0.8, 0.2), (0.2, 0.8), (0.6, 0.2, 0.1, 0.1)])
def test_the_bound_is_below_the_true_shift_in_nineteen_of_twenty(source: tuple[float, ...]) -> None:
    target = np.array(source)[::-1]
    true = float(np.abs(target - source).sum() / 2)
    estimates, least = shifts(len(source), np.array(source), target).T
    # Three standard errors of 100 sets.
    assert (least <= true).mean() >= 0.88
    assert (estimates > LARGE_SHIFT).mean() > 0.9


def test_planted_shifts_are_seen_in_nine_of_ten_by_four_hundred_rows() -> None:
    for source in ((0.8, 0.2), (0.2, 0.8)):
        _, least = shifts(2, np.array(source), np.array(source)[::-1], rows=370, sets=60).T
        assert (least > LARGE_SHIFT).mean() >= 0.9


def test_a_model_that_tells_no_labels_apart_tells_of_no_shift() -> None:
    _, targets = guesses(3, 40, np.array([0.7, 0.2, 0.1]), 0)
    shares, *shift = label_shift(THREE, np.tile([0.0, 1.0, 0.0], (40, 1)), targets, np.tile([0.0, 1.0, 0.0], (90, 1)))
    np.testing.assert_allclose(shares, np.bincount(targets) / 40, atol=1e-6)
    assert shift == pytest.approx([0, 0], abs=1e-6)


def test_mistakes_are_counted_on_further_rows_too() -> None:
    (few, targets), (many, others) = (guesses(2, rows, np.array([0.5, 0.5]), rows) for rows in (20, 400))
    unlabeled, _ = guesses(2, 400, np.array([0.85, 0.15]), 1)
    alone = Evidence.of(TWO, few, targets, np.ones(20), unlabeled)
    both = Evidence.of(TWO, few, targets, np.ones(20), unlabeled, (many, others))
    assert alone.least_label_shift < 0.2 < both.least_label_shift < 0.35 and alone.risk == both.risk
    merged = np.concatenate([few, many]), np.concatenate([targets, others])
    assert both.label_shift == Evidence.of(TWO, *merged, np.ones(420), unlabeled).label_shift


EVEN = Evidence(1.0, 0.1, 1.0, 0.5, 0.5, 0.1, (0.5, 0.5), 0.0)


def test_more_information_is_taken_only_at_like_risk():
    worse, like = replace(EVEN, risk=1.2, information=0.5), replace(EVEN, risk=1.05, information=0.3)
    assert choose([EVEN, worse], "information") == 0
    assert choose([EVEN, worse, like], "information") == 2
    assert choose([EVEN, EVEN], "information") == 0


@pytest.mark.parametrize(
    ("by", "name", "better"),
    [
        ("importance_weighted", "risk", 0.9),
        ("deep_embedded", "deep_embedded", 0.9),
        ("entropy", "entropy", 0.4),
        ("margin", "margin", 0.6),
    ],
)
def test_other_ways_to_choose(by, name, better):
    worse = 2 * getattr(EVEN, name) - better
    found = [EVEN, replace(EVEN, **{name: worse}), replace(EVEN, **{name: better})]
    assert choose(found, by) == 2 and choose(found[:2], by) == 0


def test_a_large_shift_of_labels_keeps_the_model_as_it_was():
    unsure = replace(EVEN, label_shift=LARGE_SHIFT + 0.1, least_label_shift=LARGE_SHIFT - 0.1)
    shifted = replace(unsure, least_label_shift=LARGE_SHIFT + 0.05)
    better = replace(shifted, information=0.9)
    assert choose([shifted, better], "information", whatever_shift=False) == 0
    assert choose([shifted, better], "information", whatever_shift=True) == 1
    assert choose([EVEN, better], "information", whatever_shift=False) == 1
    assert choose([unsure, better], "information", whatever_shift=False) == 1


@pytest.mark.parametrize("whatever", [True, False])
def test_a_large_shift_of_labels_is_said(whatever, caplog):
    unsure = replace(EVEN, label_shift=LARGE_SHIFT + 0.1, label_shares=(0.15, 0.85))
    shifted = replace(unsure, least_label_shift=LARGE_SHIFT + 0.05)
    with caplog.at_level(logging.WARNING, "nlptransfer"):
        for one in (EVEN, unsure):
            warn_of_shift(one, TWO.names, whatever_shift=whatever)
        assert not caplog.text
        warn_of_shift(shifted, TWO.names, whatever_shift=whatever)
    assert "about 35% of its texts, at least 30%" in caplog.text
    assert "bad 0.15, good 0.85" in caplog.text and ("allow_label_shift" in caplog.text) is not whatever


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
def test_pseudo_labels_have_the_labeled_rows_shares_whatever_the_model_leans_to(seed, kept):
    draw = np.random.default_rng(seed)
    shares = np.array([0.2, 0.5, 0.3])
    truth = draw.choice(3, size=600, p=shares)
    lean = draw.normal(size=3) * 3
    places, targets = pseudo_labels(6 * np.eye(3)[truth] + lean + draw.normal(size=(600, 3)) * 0.1, shares, kept)
    assert (np.diff(places) > 0).all()
    assert (targets == truth[places]).mean() > 0.97
    counts = np.bincount(targets, minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), np.bincount(truth) / 600, atol=0.07)
    assert abs(len(places) - kept * 600) <= 0.03 * 600 + 3


def test_the_most_confident_texts_are_kept():
    places, targets = pseudo_labels(np.array([[4.0, 0], [1.0, 0], [0, 5.0], [0, 2.0]]), np.array([0.5, 0.5]), 0.5)
    assert places.tolist() == [0, 2] and targets.tolist() == [0, 1]

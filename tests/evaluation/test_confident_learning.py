"""Confident learning beside the library of its authors, closed forms, and labels that were made wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer.evaluation import estimated_joint, likely_errors, margins
from nlptransfer.evaluation.confident_learning import class_thresholds, confident_joint

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def noisy(rows: int, labels: int, rate: float, seed: int, signal: float = 2.0) -> Rows:
    """Probabilities, given labels, of which about a share is drawn anew, and true ones."""
    rng = np.random.default_rng(seed)
    true = rng.integers(labels, size=rows)
    given = np.where(rng.random(rows) < rate, rng.integers(labels, size=rows), true)
    logits = rng.normal(size=(rows, labels)) + signal * np.eye(labels)[true]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), given, true


def named_of(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return likely_errors(estimated_joint(p, y), p, y)


def test_as_cleanlab_does() -> None:
    """cleanlab 2.9.0 printed these, of the same rows, by

    get_confident_thresholds(y, p); compute_confident_joint(y, p, calibrate=False)
    """
    p, y, _ = noisy(120, 3, 0.3, 7)
    assert class_thresholds(p, y).round(6).tolist() == [0.623841, 0.612729, 0.614608]
    assert confident_joint(p, y).tolist() == [[21, 2, 3], [2, 24, 5], [0, 5, 24]]
    # Calibrated to whole rows there: [[27, 3, 4], [3, 36, 7], [0, 7, 33]].
    assert np.abs(estimated_joint(p, y) - [[27, 3, 4], [3, 36, 7], [0, 7, 33]]).max() < 0.5


def test_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8], [0.7, 0.3]])
    y = np.array([0, 0, 0, 1, 1, 1])
    assert class_thresholds(p, y) == pytest.approx([0.6, 0.6])
    assert confident_joint(p, y).tolist() == [[2, 1], [1, 2]]
    assert named_of(p, y).tolist() == [False, False, True, False, False, True]
    margin, other = margins(p, y)
    assert margin == pytest.approx([0.8, 0.6, -0.8, 0.4, 0.6, -0.4]) and other.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_row_counts_for_the_likeliest_of_the_labels_that_reach_their_threshold() -> None:
    # Label 0 is the likeliest of the last row, but rows of it are surer than that.
    p = np.array([[0.98, 0.01, 0.01], [0.02, 0.9, 0.08], [0.1, 0.1, 0.8], [0.55, 0.4, 0.05]])
    y = np.array([0, 1, 2, 1])
    assert class_thresholds(p, y) == pytest.approx([0.98, 0.65, 0.8])
    assert confident_joint(p, y).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    p[3] = [0.985, 0.01, 0.005]
    assert confident_joint(p, y).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_probabilities_that_are_right_give_back_the_joint() -> None:
    """Where each true label is certain, the joint is that of given and true labels, and all errors are named."""
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=1000)
    given = np.where(rng.random(1000) < 0.2, (true + 1) % 4, true)
    p = np.full((1000, 4), 0.01)
    p[np.arange(1000), true] = 0.97
    joint = np.zeros((4, 4))
    np.add.at(joint, (given, true), 1)
    np.testing.assert_allclose(estimated_joint(p, given), joint)
    assert (named_of(p, given) == (given != true)).all()


@pytest.mark.parametrize("labels", [5, 100])
def test_labels_made_wrong_are_named(labels: int) -> None:
    """Of 100 labels too, where two of them are in each other's place less than once."""
    p, given, true = noisy(4000, labels, 0.25, 1, signal=3.5 if labels == 5 else 6.0)
    named, wrong = named_of(p, given), given != true
    assert (named & wrong).sum() / named.sum() > 0.95 and (named & wrong).sum() / wrong.sum() > 0.9
    joint = estimated_joint(p, given)
    assert 1 - np.trace(joint) / 4000 == pytest.approx(wrong.mean(), abs=0.03)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 1000))
def test_whatever_the_rows(rows: int, labels: int, seed: int) -> None:
    p, given, _ = noisy(rows, labels, 0.4, seed)
    joint = estimated_joint(p, given)
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(given, minlength=labels))
    margin, other = margins(p, given)
    assert (other != given).all() and (np.abs(margin) <= 1).all()
    named = named_of(p, given)
    assert (margin[named] < 0).all()
    # The least margins of each label are named, as many as the joint has of others there.
    for label, expected in enumerate(joint.sum(axis=1) - joint.diagonal()):
        of_label = given == label
        least, most = margin[of_label & ~named], margin[of_label & named]
        assert len(most) == min(round(expected), (margin[of_label] < 0).sum())
        assert not len(least) or not len(most) or most.max() <= least.min()

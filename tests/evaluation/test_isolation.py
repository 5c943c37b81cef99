"""Rows that are far from all of their label, by distances that NumPy computes as well."""

import numpy as np
import pytest

from nlptransfer.evaluation import isolated

CENTERS = np.array([[9.0] * 6 + [0.0] * 6, [0.0] * 6 + [9.0] * 6])


def drawn(rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    targets = np.arange(rows) % 2
    return CENTERS[targets] + draw.normal(size=(rows, 12)) * np.linspace(1, 3, 12), targets


def test_planted_rows_are_found_and_normal_ones_are_not():
    features, targets = drawn(4000)
    found = isolated(features.astype(np.float16), targets)
    assert len(found.rows) <= 4 and found.usual < found.bound
    features[[7, 300]] += 40
    features[[7]] += 40
    # In the midst of the other label.
    features[11] = CENTERS[1 - targets[11]]
    found = isolated(features.astype(np.float16), targets)
    assert found.rows[:2].tolist() == [7, 300] and {7, 300, 11} <= {*found.rows.tolist()} and len(found.rows) <= 7
    assert (np.diff(found.distances) <= 0).all() and found.distances.min() > found.bound


def test_distances_are_those_of_mahalanobis():
    features, targets = drawn()
    features[5] += 60
    found = isolated(features, targets)
    means = np.stack([features[targets == label].mean(axis=0) for label in (0, 1)])
    within = features - means[targets]
    inverse = np.linalg.inv(np.cov(within, rowvar=False))
    squares = np.einsum("ij,jk,ik->i", within, inverse, within) / 12
    assert found.rows[0] == 5 and found.distances[0] == pytest.approx(squares[5] ** 0.5, rel=1e-3)
    assert found.usual == pytest.approx(np.median(squares**0.5), rel=1e-3)


def test_of_several_labels_the_nearest_counts():
    features, targets = drawn()
    several = np.zeros((400, 3), np.float32)
    several[np.arange(400), targets] = 1
    assert 4 not in isolated(features, several).rows
    features[4] = CENTERS[1] * 2
    assert 4 in isolated(features, several).rows
    several[4, 1] = 1
    alone = isolated(features, several).distances
    features[6] += 60
    several[6] = [0, 0, 1]
    # No other row has its label, and one without a label is far from none.
    several[8] = 0
    features[8] += 90
    assert not {6, 8} & {*isolated(features, several).rows.tolist()} and len(alone) <= 2


def test_few_rows():
    features, targets = drawn(40)
    assert isolated(features, targets) is None
    assert isolated(np.zeros((0, 12)), np.zeros(0, np.int64)) is None
    assert isolated(np.zeros((200, 12), np.float16), np.arange(200) % 2) is None

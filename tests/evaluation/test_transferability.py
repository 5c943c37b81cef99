"""LogME against the exact density of a Gaussian, the H-score against its definition, and both on iris."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_iris

from nlptransfer.evaluation import h_score, logme

FEATURES, TARGETS = load_iris(return_X_y=True)


def most_evidence(features: np.ndarray, labels: np.ndarray) -> float:
    """The highest log density of the labels over the two variances, a row, found by a general optimizer."""
    gram = features @ features.T

    def negative(logs: np.ndarray) -> float:
        covariance = np.exp(logs[0]) * np.eye(len(labels)) + np.exp(logs[1]) * gram
        return -multivariate_normal.logpdf(labels, cov=covariance, allow_singular=True)

    return -minimize(negative, [-2.0, -2.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9}).fun / len(
        labels
    )


def test_known_values_of_iris() -> None:
    assert logme(FEATURES, TARGETS) == pytest.approx(-0.160060, abs=1e-6)
    assert h_score(FEATURES, TARGETS) == pytest.approx(1.177842, abs=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(40, 5), (30, 30), (20, 50)])
def test_logme_is_the_highest_evidence(rows: int, width: int) -> None:
    draw = np.random.default_rng(rows)
    features = draw.normal(size=(rows, width))
    targets = (features[:, 0] + draw.normal(size=rows) > 0).astype(int)
    expected = np.mean([most_evidence(features, (targets == label).astype(float)) for label in (0, 1)])
    assert logme(features, targets) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_logme_of_labels_that_more_features_than_rows_explain_without_noise(seed: int) -> None:
    features, targets = 0.01 * np.random.default_rng(seed).normal(size=(30, 80)), np.repeat([0, 1], 15)
    features[:, 0], features[:, 1] = targets, 1 - targets
    # Without noise the variance of the weights that is likeliest is y'(FF')^-1 y / n.
    gram, expected = features @ features.T, []
    for labels in (targets, 1 - targets):
        variance = labels @ np.linalg.solve(gram, labels) / 30
        expected.append(multivariate_normal.logpdf(labels, cov=variance * gram) / 30)
    assert logme(features, targets) == pytest.approx(np.mean(expected), abs=1e-5)


def test_several_labels_a_row_are_columns_on_their_own() -> None:
    columns = (TARGETS[:, None] == np.arange(3)).astype(np.int64)
    assert logme(FEATURES, columns) == pytest.approx(logme(FEATURES, TARGETS))
    apart = [h_score(FEATURES, column) for column in columns.T]
    assert h_score(FEATURES, columns) == pytest.approx(np.mean(apart))


def test_a_label_that_no_row_has_or_all_changes_nothing() -> None:
    columns = (TARGETS[:, None] == np.arange(3)).astype(np.int64)
    more = np.concatenate([columns, np.zeros((150, 1), int), np.ones((150, 1), int)], axis=1)
    assert logme(FEATURES, more) == logme(FEATURES, columns) and h_score(FEATURES, more) == h_score(FEATURES, columns)
    assert h_score(FEATURES, TARGETS * 5 + 2) == pytest.approx(h_score(FEATURES, TARGETS))


def test_h_score_by_its_definition() -> None:
    draw = np.random.default_rng(1)
    features, targets = draw.normal(size=(60, 8)), draw.integers(0, 3, 60)
    features[:, 1] += targets
    means = np.array([features[targets == label].mean(axis=0) for label in targets])
    covariance, shrinkage = ledoit_wolf(features)
    between = sum(np.outer(row, row) for row in means - means.mean(axis=0)) / 59
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert h_score(features, targets) == pytest.approx(expected)


def test_more_features_than_rows_look_no_better_than_they_are() -> None:
    draw = np.random.default_rng(2)
    noise, targets = draw.normal(size=(100, 400)), draw.integers(0, 2, 100)
    useful = noise.copy()
    useful[:, 0] += 4 * targets
    assert logme(noise, targets) < logme(useful, targets)
    assert h_score(noise, targets) < h_score(useful, targets) < 1

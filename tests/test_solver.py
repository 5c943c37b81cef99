import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.labels import Labels
from nlptransfer.objectives import Supervised
from nlptransfer.solver import choose_strength, solve

ONE = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


@pytest.fixture(autouse=True)
def one_thread():
    # On tiny matrices, threads that wait for each other take most of the time.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(rows=300, width=6, seed=0):
    """Correlated, standardised features with one constant column, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, width)) @ draw.normal(size=(width, width))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    features[:, -1] = 0
    scores = features @ draw.normal(size=(width, 3))
    single = (scores + draw.gumbel(size=scores.shape)).argmax(axis=1)
    several = (scores + draw.logistic(size=scores.shape) > 0).astype(np.float32)
    return features.astype(np.float32), single, several


def supervised(labels, weights=None, smoothing=0.0):
    return Supervised(nn.Linear(1, 1), labels, weights, smoothing)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [10.0, 1.0, 0.01])
def test_one_label_is_sklearns_logistic_regression(strength):
    features, targets, _ = problem()
    weight, bias = solve(supervised(ONE), features, targets, strength)
    peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(features, targets)
    # Adding the same vector to every label's weights changes no probability; the penalty settles it at mean 0.
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(softmax(features @ weight.T + bias), peer.predict_proba(features), atol=2e-4)
    assert weight.dtype == bias.dtype == np.float32


def test_class_weights_are_sklearns_up_to_the_scale_of_the_loss():
    features, targets, _ = problem()
    weights = np.array([0.5, 1.0, 3.0])
    weight, _ = solve(supervised(ONE, weights), features, targets, 1.0)
    # Ours divides the loss by the rows' weights, sklearn sums it.
    c = len(targets) / weights[targets].sum()
    peer = LogisticRegression(C=c, class_weight=dict(enumerate(weights)), tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(weight, peer.fit(features, targets).coef_, atol=2e-3)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 3.0])])
def test_several_labels_are_one_logistic_regression_each(weights):
    features, _, targets = problem()
    weight, bias = solve(supervised(SEVERAL, weights), features, targets, 1.0)
    for label in range(3):
        row_weights = np.where(targets[:, label] > 0, 1.0 if weights is None else weights[label], 1.0)
        # The loss is averaged over labels, which makes the penalty three times as strong.
        peer = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000).fit(features, targets[:, label], row_weights)
        np.testing.assert_allclose(weight[label], peer.coef_[0], atol=2e-3)
        np.testing.assert_allclose(bias[label], peer.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_the_gradient_of_what_is_minimised_vanishes_at_the_solution(labels):
    features, single, several = problem()
    targets = several if labels.multi_label else single
    objective = supervised(labels, np.array([1.0, 2.0, 3.0]), smoothing=0.1)
    weight, bias = (torch.tensor(part).double().requires_grad_() for part in solve(objective, features, targets, 2.0))
    y = torch.from_numpy(targets)
    logits = torch.from_numpy(features).double() @ weight.t() + bias
    value = objective.row_losses(logits, y).sum() / objective.row_weights(y).sum()
    value = value + 2.0 / (2 * len(features)) * weight.square().sum()
    for gradient in torch.autograd.grad(value, (weight, bias)):
        assert gradient.abs().max() < 2e-5


def test_a_warm_start_ends_where_a_cold_one_does():
    features, targets, _ = problem()
    warm = solve(supervised(ONE), features, targets, 0.1, solve(supervised(ONE), features, targets, 10.0))
    cold = solve(supervised(ONE), features, targets, 0.1)
    np.testing.assert_allclose(warm[0], cold[0], atol=2e-3)


def test_rows_that_a_plane_separates_are_solved_without_a_penalty_too():
    features = np.array([[-1.0], [1.0]], dtype=np.float32)
    weight, bias = solve(supervised(Labels(("a", "b"))), features, np.array([0, 1]), 0.0)
    assert np.isfinite(weight).all()
    assert (features @ weight.T + bias).argmax(axis=1).tolist() == [0, 1]


def test_the_best_strength_is_kept_with_its_own_solution():
    features, targets, _ = problem()
    seen = []

    def score(weight, bias):
        seen.append(np.abs(weight).sum())
        return {0: 0.1, 1: 0.7, 2: 0.9, 3: 0.9, 4: 0.2}[len(seen) - 1]

    best = choose_strength(supervised(ONE), features, targets, score, (1.0, 100.0, 10.0, 0.01, 0.1))
    # Strongest first, weights growing; of two equals the stronger penalty.
    assert seen == sorted(seen)
    assert best.strength == 1.0
    assert best.scores == {100.0: 0.1, 10.0: 0.7, 1.0: 0.9, 0.1: 0.9, 0.01: 0.2}
    np.testing.assert_allclose(best.weight, solve(supervised(ONE), features, targets, 1.0)[0], atol=2e-3)


def test_what_cannot_be_solved_is_refused():
    features, targets, _ = problem(rows=10)
    with pytest.raises(SettingError, match=r"strengths=\(\): expected at least one"):
        choose_strength(supervised(ONE), features, targets, lambda *_: 0.0, ())
    with pytest.raises(SettingError, match=r"strength=-1.0: expected a number from 0"):
        solve(supervised(ONE), features, targets, -1.0)
    with pytest.raises(TrainingError, match="finite validation score, found nan: choose another"):
        choose_strength(supervised(ONE), features, targets, lambda *_: float("nan"))
    with pytest.raises(TrainingError, match=r"shape \(0, 6\): expected rows of finite numbers, found none"):
        solve(supervised(ONE), features[:0], targets[:0], 1.0)
    features[3, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN or infinity"):
        solve(supervised(ONE), features, targets, 1.0)

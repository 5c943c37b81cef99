from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from nlptransfer.data.labels import Labels
from nlptransfer.errors import TrainingError
from nlptransfer.training.lbfgs import RARE_L2, RARE_ROWS, Features, fit, principal_axes
from nlptransfer.training.losses import LabelLoss

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
    """Correlated, standardized features with one constant column, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(rows, width)) @ draw.normal(size=(width, width))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    features[:, -1] = 0
    scores = features @ draw.normal(size=(width, 3))
    single = (scores + draw.gumbel(size=scores.shape)).argmax(axis=1)
    several = (scores + draw.logistic(size=scores.shape) > 0).astype(np.float32)
    return features.astype(np.float32), single, several


def criterion(labels, weights=None, smoothing=0.0):
    return LabelLoss(labels, weights, smoothing)


def fitted(objective, features, targets, l2, start=None, *, weights=None, ngrams=None, ftol=1e-9, **options):
    return fit(objective, Features(features, targets, weights, ngrams), l2, start=start, ftol=ftol, **options)


def targets_of(labels, single, several):
    return several if labels.multi_label else single


def some_head(width=6, seed=5):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(3, width)).astype(np.float32), draw.normal(size=3).astype(np.float32)


@pytest.fixture
def count_steps(monkeypatch):
    """Makes an objective say what it judges: a list that grows by one with each."""

    def count(objective):
        calls, losses = [], objective.row_losses
        monkeypatch.setattr(objective, "row_losses", lambda *rows: calls.append(0) or losses(*rows))
        return calls

    return count


def minimized(parts, penalty, towards=None, has_bias=True):
    """The minimizer, written out and found by scipy, of a sum of mean losses + penalty / 2 * distance^2.

    Each of ``parts`` is how much its loss counts, features, targets, and a weight for each row.
    """
    width = parts[0][1].shape[1]
    weight, bias = (np.zeros((3, width)), np.zeros(3)) if towards is None else towards
    center = np.hstack([weight, (bias * has_bias)[:, None]]).astype(np.float64)
    pull = penalty * np.ones_like(center)
    pull[:, -1] *= towards is not None

    def loss(flat):
        head = flat.reshape(3, -1)
        value, gradient = (pull * (head - center) ** 2).sum() / 2, pull * (head - center)
        for share, features, targets, weights in parts:
            features = np.hstack([features, np.full((len(features), 1), has_bias)]).astype(np.float64)
            logits, weights = features @ head.T, weights[:, None] / weights.sum()
            if targets.ndim == 1:
                hits, chances = np.eye(3)[targets], softmax(logits)
                losses = -hits * np.log(chances)
            else:
                hits, chances = targets / 3, 1 / (1 + np.exp(-logits)) / 3
                losses = (np.logaddexp(0, logits) - targets * logits) / 3
            value += share * (weights * losses).sum()
            gradient += share * (weights * (chances - hits)).T @ features
        return value, gradient.ravel()

    head = minimize(loss, center.ravel(), jac=True, method="BFGS", options={"gtol": 1e-8}).x.reshape(3, -1)
    return head[:, :-1], head[:, -1]


def assert_same_head(found, expected, atol=2e-3):
    for part, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(part, other, atol=atol)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("l2", [10.0, 1.0, 0.01])
def test_one_label_is_sklearns_logistic_regression(l2):
    features, targets, _ = problem()
    weight, bias = fitted(criterion(ONE), features, targets, l2)
    peer = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(features, targets)
    # Adding the same vector to every label's weights changes no probability; the penalty settles it at mean 0.
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(softmax(features @ weight.T + bias), peer.predict_proba(features), atol=2e-4)
    assert weight.dtype == bias.dtype == np.float32


def test_class_weights_are_sklearns_up_to_the_scale_of_the_loss():
    features, targets, _ = problem()
    weights = np.array([0.5, 1.0, 3.0])
    weight, _ = fitted(criterion(ONE, weights), features, targets, 1.0)
    # Ours divides the loss by the rows' weights, sklearn sums it.
    c = len(targets) / weights[targets].sum()
    peer = LogisticRegression(C=c, class_weight=dict(enumerate(weights)), tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(weight, peer.fit(features, targets).coef_, atol=2e-3)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 3.0])])
def test_several_labels_are_one_logistic_regression_each(weights):
    features, _, targets = problem()
    weight, bias = fitted(criterion(SEVERAL, weights), features, targets, 1.0)
    for label in range(3):
        row_weights = np.where(targets[:, label] > 0, 1.0 if weights is None else weights[label], 1.0)
        # The loss is averaged over labels, which makes the penalty three times as strong.
        peer = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000).fit(features, targets[:, label], row_weights)
        np.testing.assert_allclose(weight[label], peer.coef_[0], atol=2e-3)
        np.testing.assert_allclose(bias[label], peer.intercept_[0], atol=2e-3)


def test_rare_ones_of_several_labels_are_held_less():
    features, _, targets = problem()
    targets[10:, 1] = 0
    assert (targets.sum(axis=0) < RARE_ROWS).tolist() == [False, True, False]
    weight, _ = fitted(criterion(SEVERAL), features, targets, 1.0)
    for label, l2 in enumerate((1.0, RARE_L2, 1.0)):
        peer = LogisticRegression(C=1 / (3 * l2), tol=1e-10, max_iter=10_000).fit(features, targets[:, label])
        np.testing.assert_allclose(weight[label], peer.coef_[0], atol=5e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_the_gradient_of_what_is_minimized_vanishes_at_the_solution(labels):
    features, single, several = problem()
    targets = several if labels.multi_label else single
    objective = criterion(labels, np.array([1.0, 2.0, 3.0]), smoothing=0.1)
    weight, bias = (torch.tensor(part).double().requires_grad_() for part in fitted(objective, features, targets, 2.0))
    y = torch.from_numpy(targets)
    logits = torch.from_numpy(features).double() @ weight.t() + bias
    value = objective.row_losses(logits, y).sum() / objective.row_weights(y).sum()
    value = value + 2.0 / (2 * len(features)) * weight.square().sum()
    for gradient in torch.autograd.grad(value, (weight, bias)):
        assert gradient.abs().max() < 2e-5


def test_axes_of_some_of_the_rows_serve_for_all():
    features, targets, _ = problem(rows=500, width=300)
    axes = principal_axes(Features(features[:400], targets[:400]))
    assert_same_head(
        fitted(criterion(ONE), features, targets, 10.0, axes=axes), fitted(criterion(ONE), features, targets, 10.0)
    )


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 2, 400)])
def test_principal_axes_are_those_of_an_exact_decomposition(weights):
    draw = np.random.default_rng(0)
    features = (draw.normal(size=(400, 160)) * 0.9 ** np.arange(160)).astype(np.float32)
    axes = principal_axes(Features(features, np.zeros(400, np.int64), weights))
    shares = np.full(400, 1 / 400) if weights is None else weights / weights.sum()
    variances = np.linalg.eigvalsh((features.T * shares) @ features)[::-1]
    np.testing.assert_allclose(axes.variances[:100], variances[:100], rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(axes.directions.T @ axes.directions, np.eye(128), atol=1e-4)
    assert axes.rest == pytest.approx(variances[128:].mean(), rel=0.05, abs=1e-7)


def test_features_without_finite_rows_are_refused():
    features, targets, _ = problem(rows=10)
    with pytest.raises(TrainingError, match=r"shape \(0, 6\): expected rows of finite numbers, found none"):
        fitted(criterion(ONE), features[:0], targets[:0], 1.0)
    features[3, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN or infinity"):
        fitted(criterion(ONE), features, targets, 1.0)


def test_a_warm_start_ends_where_a_cold_one_does():
    features, targets, _ = problem()
    warm = fitted(criterion(ONE), features, targets, 0.1, fitted(criterion(ONE), features, targets, 10.0))
    cold = fitted(criterion(ONE), features, targets, 0.1)
    np.testing.assert_allclose(warm[0], cold[0], atol=2e-3)


@pytest.mark.parametrize(("rows", "width"), [(700, 300), (120, 300), (40, 20)])
@pytest.mark.parametrize("l2", [10.0, 0.1])
def test_features_of_all_sizes_and_a_rare_label_end_at_the_minimum(rows, width, l2):
    draw = np.random.default_rng(4)
    features = problem(rows, width)[0] * 10 ** draw.uniform(-3, 1, size=width).astype(np.float32)
    targets = (features @ draw.normal(size=(width, 2)) > 0).sum(axis=1) % 2
    targets[:5] = 2
    weight, bias = fitted(criterion(ONE), features, targets, l2)
    np.testing.assert_allclose(weight.sum(axis=0), 0, atol=1e-4)

    def objective(flat):
        head = flat.reshape(3, width + 1)
        logits = features @ head[:, :-1].T + head[:, -1]
        losses = logsumexp(logits, axis=1) - logits[np.arange(rows), targets]
        gaps = np.column_stack([features, np.ones(rows)]).T @ (softmax(logits) - np.eye(3)[targets])
        penalty = np.column_stack([head[:, :-1], np.zeros(3)])
        return (losses.sum() + l2 / 2 * (penalty**2).sum()) / rows, (gaps.T + l2 * penalty).ravel() / rows

    found = np.column_stack([weight, bias]).astype(np.float64).ravel()
    # In twice the digits, from there on.
    least = minimize(objective, found, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 0, "gtol": 1e-9})
    assert objective(found)[0] == pytest.approx(least.fun, rel=0, abs=5e-6)


def test_a_rare_label_takes_no_more_steps(count_steps):
    features, targets, _ = problem(rows=2000, width=30)
    objective = criterion(ONE)
    calls, steps = count_steps(objective), []
    for kept in (np.arange(2000), np.flatnonzero((targets > 0) | (np.arange(2000) < 30))):
        fitted(objective, features[kept], targets[kept], 10.0, fitted(objective, features[kept], targets[kept], 1000.0))
        steps.append(len(calls))
        calls.clear()
    assert steps[1] <= 1.5 * steps[0]


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_bias_stays_out_where_there_is_none(multi_label):
    features, *targets = problem()
    labels = SEVERAL if multi_label else ONE
    targets = targets_of(labels, *targets)
    found = fitted(criterion(labels), features, targets, 1.0, some_head(), has_bias=False)
    assert not found[1].any()
    assert_same_head(found, fitted(criterion(labels), features, targets, 1.0, has_bias=False))


def test_rows_that_a_plane_separates_are_fitted_without_a_penalty_too():
    features = np.array([[-1.0], [1.0]], dtype=np.float32)
    weight, bias = fitted(criterion(Labels(("a", "b"))), features, np.array([0, 1]), 0.0)
    assert np.isfinite(weight).all()
    assert (features @ weight.T + bias).argmax(axis=1).tolist() == [0, 1]


@pytest.mark.parametrize("classes", [np.ones(3), np.array([0.5, 1.0, 3.0])])
def test_row_weights_are_sklearns_up_to_the_scale_of_the_loss(classes):
    features, targets, _ = problem()
    weights = np.random.default_rng(1).exponential(size=len(targets))
    weight, bias = fitted(criterion(ONE, classes), features, targets, 1.0, weights=weights)
    whole = weights * classes[targets]
    peer = LogisticRegression(C=len(targets) / whole.sum(), tol=1e-10, max_iter=10_000)
    peer.fit(features, targets, whole)
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(softmax(features @ weight.T + bias), peer.predict_proba(features), atol=1e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("width", [6, 300])
def test_a_row_that_weighs_two_is_two_rows(labels, width):
    features, *targets = problem(width=width)
    targets = targets_of(labels, *targets)
    # The rows that weigh most lie along an axis of their own, which unweighted rows hardly show.
    features[:3] *= 20
    weights = np.ones(len(features), dtype=int)
    weights[:3] = 200
    objective = criterion(labels)
    weighted = fitted(objective, features, targets, 30.0, weights=0.1 * weights)
    rows = np.repeat(features, weights, axis=0), np.repeat(targets, weights, axis=0)
    assert_same_head(weighted, fitted(objective, *rows, 30 * weights.sum() / len(weights)))


def test_weights_all_alike_change_nothing_and_rows_of_weight_0_are_not_there():
    features, targets, _ = problem()
    plain = fitted(criterion(ONE), features, targets, 1.0)
    alike = fitted(criterion(ONE), features, targets, 1.0, weights=np.full(len(targets), 0.7))
    others = np.concatenate([3 * features[:50], features]), np.concatenate([targets[:50], targets])
    absent = fitted(criterion(ONE), *others, 1.0, weights=np.repeat([0.0, 2.0], [50, len(targets)]))
    for other in (alike, absent):
        assert_same_head(other, plain, atol=1e-4)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", [None, 0, 1])
def test_joint_weights_minimize_alpha_times_source_loss_plus_beta_times_target_loss(labels, seed, end, monkeypatch):
    monkeypatch.setattr("nlptransfer.training.lbfgs.RARE_ROWS", 0)
    classes = np.ones(3) if labels.multi_label else np.array([0.5, 1.0, 2.0])
    shares = np.random.default_rng(seed).uniform(0.05, 3, size=2)
    if end is not None:
        shares[end] = 0
    parts, weights = [], []
    for share, rows, draw in zip(shares, (90, 40), (seed, seed + 50), strict=True):
        features, *targets = problem(rows, width=4, seed=draw)
        targets = targets_of(labels, *targets)
        counts = np.ones(rows) if labels.multi_label else classes[targets]
        parts.append((share, features, targets, counts))
        weights.append(np.full(rows, share / counts.sum()))
    features, targets = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    found = fitted(criterion(labels, classes), features, targets, 2.0, weights=np.concatenate(weights))
    # The whole is divided by alpha + beta, and the penalty counts the rows that weigh something.
    rows = sum(len(part[1]) for part in parts if part[0])
    assert_same_head(found, minimized(parts, shares.sum() * 2.0 / rows))


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("l2", [0.5, 20.0, 500.0])
def test_towards_a_head_is_the_minimum_with_the_distance_from_it_as_the_penalty(labels, has_bias, l2):
    features, *targets = problem()
    targets, source = targets_of(labels, *targets), some_head()
    weights = np.random.default_rng(2).exponential(size=len(targets))
    found = fitted(criterion(labels), features, targets, l2, has_bias=has_bias, weights=weights, towards=source)
    expected = minimized([(1, features, targets, weights)], l2 / len(targets), source, has_bias)
    assert_same_head(found, expected)
    assert has_bias or not found[1].any()


@pytest.mark.parametrize("width", [6, 300])
def test_the_strongest_pull_ends_at_the_source(width, count_steps):
    features, targets, _ = problem(width=width)
    objective, source = criterion(ONE), some_head(width)
    calls = count_steps(objective)
    for start in (None, (np.ones((3, width)), np.full(3, 5.0))):
        near = fitted(objective, features, targets, 1e6, start, towards=source)
        assert_same_head(near, source, atol=1e-3)
    # The penalty is all that curves it, the bias too, and that is scaled away.
    assert len(calls) <= 15
    # There the source's head itself is where the steps begin, and end.
    assert_same_head(fitted(criterion(ONE), features, targets, 1e12, towards=source), source, atol=0)


def test_a_start_at_the_solution_ends_there():
    features, targets, _ = problem()
    objective, source = criterion(ONE), some_head()
    found = fitted(objective, features, targets, 10.0, towards=source)
    again = fitted(objective, features, targets, 10.0, found, towards=source, ftol=1e-7)
    assert_same_head(again, found, atol=1e-4)


def test_without_l2_there_is_no_pull():
    features, targets, _ = problem()
    free = fitted(criterion(ONE), features, targets, 0.0)
    pulled = fitted(criterion(ONE), features, targets, 0.0, towards=some_head())
    chances = [softmax(features @ weight.T + bias) for weight, bias in (free, pulled)]
    np.testing.assert_allclose(*chances, atol=1e-3)


@given(
    seed=st.integers(0, 1000),
    powers=st.lists(st.floats(-2, 6), min_size=2, max_size=4),
    multi_label=st.booleans(),
    has_bias=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_stronger_pull_ends_nearer_to_the_source(seed, powers, multi_label, has_bias):
    features, *targets = problem(rows=40, width=4, seed=seed)
    labels = SEVERAL if multi_label else ONE
    weight, bias = some_head(4, seed)
    towards = weight, bias * has_bias
    distances = []
    for power in sorted(powers):
        found = fitted(
            criterion(labels),
            features,
            targets_of(labels, *targets),
            10.0**power,
            has_bias=has_bias,
            towards=towards,
        )
        distances.append(np.sqrt(sum(((part - at) ** 2).sum() for part, at in zip(found, towards, strict=True))))
    assert all(later <= 1.001 * earlier + 1e-3 for earlier, later in pairwise(distances))


# N-grams


def with_ngrams(rows=150, count=90, seed=0):
    """Features, n-grams as a dense matrix and as a sparse one, most of them in one row alone or none; and labels."""
    draw = np.random.default_rng(seed)
    dense = draw.random((rows, count)) * (draw.random((rows, count)) < draw.choice([0.005, 0.01, 0.1], count))
    dense[:9] = 0
    # One row has six that no other has.
    dense[:, :6] = 0
    dense[20, :6] = draw.random(6)
    in_rows = (dense > 0).sum(axis=0)
    assert (in_rows == 0).any() and (in_rows == 1).sum() > 15 and (in_rows > 1).sum() > 25
    dense = dense.astype(np.float32)
    features = problem(rows, seed=seed)[0]
    scores = 3 * dense @ draw.normal(size=(count, 3)) + features[:, :3]
    single = (scores + draw.gumbel(size=scores.shape)).argmax(axis=1)
    several = (scores + draw.logistic(size=scores.shape) > 0).astype(np.float32)
    return features, dense, sparse.csr_array(dense), single, several


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l2", [3.0, 0.3])
def test_ngrams_are_fitted_as_further_columns(l2, weighted):
    features, dense, ngrams, targets, _ = with_ngrams()
    weights = np.random.default_rng(1).exponential(size=len(targets)) if weighted else np.ones(len(targets))
    weights[30:35] = 0 if weighted else 1
    both = np.hstack([features, dense])
    found = fitted(criterion(ONE), features, targets, l2, ngrams=ngrams, weights=weights if weighted else None)
    counted = np.count_nonzero(weights)
    peer = LogisticRegression(C=counted / weights.sum() / l2, tol=1e-10, max_iter=10_000).fit(both, targets, weights)
    weight, bias = found
    assert weight.shape == (3, both.shape[1]) and weight.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(weight, peer.coef_, atol=5e-3)
    np.testing.assert_allclose(softmax(both @ weight.T + bias), peer.predict_proba(both), atol=1e-3)
    assert not weight[:, 6:][:, ~dense[weights > 0].any(axis=0)].any()


@pytest.mark.parametrize("weights", [None, np.linspace(0.2, 2, 150)])
def test_several_labels_with_ngrams_are_one_logistic_regression_each(weights):
    features, dense, ngrams, _, targets = with_ngrams()
    weight, bias = fitted(criterion(SEVERAL), features, targets, 0.5, ngrams=ngrams, weights=weights)
    both = np.hstack([features, dense])
    c = 1 / (3 * 0.5) * (1 if weights is None else len(weights) / weights.sum())
    for label in range(3):
        peer = LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(both, targets[:, label], weights)
        np.testing.assert_allclose(weight[label], peer.coef_[0], atol=5e-3)
        np.testing.assert_allclose(bias[label], peer.intercept_[0], atol=5e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_ngrams_are_pulled_to_a_source_too(labels):
    features, dense, ngrams, *targets = with_ngrams(count=60)
    targets, source = targets_of(labels, *targets), some_head(6 + 60)
    weights = np.random.default_rng(2).exponential(size=len(targets))
    found = fitted(criterion(labels), features, targets, 5.0, ngrams=ngrams, weights=weights, towards=source)
    expected = minimized([(1, np.hstack([features, dense]), targets, weights)], 5.0 / len(targets), source)
    assert_same_head(found, expected, atol=5e-3)
    # What no row has stays as the source has it.
    absent = np.flatnonzero(~dense.any(axis=0)) + 6
    np.testing.assert_allclose(found[0][:, absent], source[0][:, absent], atol=1e-5)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("kind", ["in one row alone", "without a value", "of no term"])
def test_ngrams_of_odd_kinds(labels, kind):
    features, dense, _, *targets = with_ngrams()
    targets = targets_of(labels, *targets)
    if kind == "in one row alone":
        dense = dense[:, (dense > 0).sum(axis=0) == 1]
    elif kind == "of no term":
        dense = dense[:, :0]
    elif kind == "without a value":
        dense = np.zeros_like(dense)
    found = fitted(criterion(labels), features, targets, 1.0, ngrams=sparse.csr_array(dense))
    both = np.hstack([features, dense])
    assert_same_head(found, fitted(criterion(labels), both, targets, 1.0), atol=5e-3)


@given(
    rows=st.integers(3, 10),
    count=st.integers(0, 12),
    seed=st.integers(0, 1000),
    share=st.sampled_from([0.05, 0.2, 0.7]),
    multi_label=st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_whatever_ngrams_there_are_they_are_fitted_as_columns(rows, count, seed, share, multi_label):
    draw = np.random.default_rng(seed)
    dense = (draw.normal(size=(rows, count)) * (draw.random((rows, count)) < share)).astype(np.float32)
    features, targets = draw.normal(size=(rows, 2)).astype(np.float32), np.arange(rows) % 3
    targets = np.eye(3, dtype=np.float32)[targets] if multi_label else targets
    objective = criterion(SEVERAL if multi_label else ONE)
    found = fitted(objective, features, targets, 1.0, ngrams=sparse.csr_array(dense))
    assert_same_head(found, fitted(objective, np.hstack([features, dense]), targets, 1.0), atol=1e-2)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_a_start_with_ngrams_changes_nothing(labels):
    features, _, ngrams, *targets = with_ngrams()
    targets = targets_of(labels, *targets)
    cold = fitted(criterion(labels), features, targets, 1.0, ngrams=ngrams)
    warm = fitted(criterion(labels), features, targets, 1.0, some_head(6 + 90), ngrams=ngrams)
    assert_same_head(warm, cold, atol=5e-3)


def test_a_solution_with_ngrams_is_reached_at_once_from_itself(count_steps):
    features, _, ngrams, targets, _ = with_ngrams()
    objective = criterion(ONE)
    found = fitted(objective, features, targets, 1.0, ngrams=ngrams)
    calls = count_steps(objective)
    assert_same_head(fitted(objective, features, targets, 1.0, found, ngrams=ngrams, ftol=1e-7), found, atol=1e-3)
    assert len(calls) <= 3


def test_rows_with_ngrams_are_joined_taken_and_masked_as_dense_ones():
    features, dense, ngrams, targets, _ = with_ngrams()
    rows, head = Features(features, targets, ngrams=ngrams), some_head(6 + 90)
    both = np.hstack([features, dense])
    np.testing.assert_allclose(rows.logits(head), both @ head[0].T + head[1], atol=1e-4)
    some, places = rows[np.array([40, 3, 20])] + rows[100:], [40, 3, 20, *range(100, 150)]
    assert len(some) == 53 and some.targets.tolist() == targets[places].tolist()
    np.testing.assert_array_equal(some.ngrams.toarray(), dense[places])
    columns = np.random.default_rng(0).random(96) < 0.5
    # All that row 20 has alone.
    columns[6:12] = False
    masked = rows.masked(columns)
    np.testing.assert_array_equal(np.hstack([masked.values, masked.ngrams.toarray()]), both * columns)
    # What is left fits as it does without the others.
    found = fit(criterion(ONE), masked, 1.0, ftol=1e-9)
    assert np.abs(found[0][:, ~columns]).max() < 1e-6
    np.testing.assert_allclose(
        found[0][:, columns], fitted(criterion(ONE), both[:, columns], targets, 1.0)[0], atol=5e-3
    )

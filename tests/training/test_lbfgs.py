from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold

from nlptransfer.data.labels import Labels
from nlptransfer.errors import SettingError, TrainingError
from nlptransfer.training import lbfgs
from nlptransfer.training.lbfgs import STRENGTHS, TOWARDS_STRENGTHS, choose_strength, cross_validated, solve
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


def accuracy(targets, logits):
    return (logits.argmax(axis=1) == targets).mean()


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


@pytest.mark.parametrize("strength", [10.0, 1.0, 0.01])
def test_one_label_is_sklearns_logistic_regression(strength):
    features, targets, _ = problem()
    weight, bias = solve(criterion(ONE), features, targets, strength)
    peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(features, targets)
    # Adding the same vector to every label's weights changes no probability; the penalty settles it at mean 0.
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(softmax(features @ weight.T + bias), peer.predict_proba(features), atol=2e-4)
    assert weight.dtype == bias.dtype == np.float32


def test_class_weights_are_sklearns_up_to_the_scale_of_the_loss():
    features, targets, _ = problem()
    weights = np.array([0.5, 1.0, 3.0])
    weight, _ = solve(criterion(ONE, weights), features, targets, 1.0)
    # Ours divides the loss by the rows' weights, sklearn sums it.
    c = len(targets) / weights[targets].sum()
    peer = LogisticRegression(C=c, class_weight=dict(enumerate(weights)), tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(weight, peer.fit(features, targets).coef_, atol=2e-3)


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0, 3.0])])
def test_several_labels_are_one_logistic_regression_each(weights):
    features, _, targets = problem()
    weight, bias = solve(criterion(SEVERAL, weights), features, targets, 1.0)
    for label in range(3):
        row_weights = np.where(targets[:, label] > 0, 1.0 if weights is None else weights[label], 1.0)
        # The loss is averaged over labels, which makes the penalty three times as strong.
        peer = LogisticRegression(C=1 / 3, tol=1e-10, max_iter=10_000).fit(features, targets[:, label], row_weights)
        np.testing.assert_allclose(weight[label], peer.coef_[0], atol=2e-3)
        np.testing.assert_allclose(bias[label], peer.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_the_gradient_of_what_is_minimized_vanishes_at_the_solution(labels):
    features, single, several = problem()
    targets = several if labels.multi_label else single
    objective = criterion(labels, np.array([1.0, 2.0, 3.0]), smoothing=0.1)
    weight, bias = (torch.tensor(part).double().requires_grad_() for part in solve(objective, features, targets, 2.0))
    y = torch.from_numpy(targets)
    logits = torch.from_numpy(features).double() @ weight.t() + bias
    value = objective.row_losses(logits, y).sum() / objective.row_weights(y).sum()
    value = value + 2.0 / (2 * len(features)) * weight.square().sum()
    for gradient in torch.autograd.grad(value, (weight, bias)):
        assert gradient.abs().max() < 2e-5


def test_a_warm_start_ends_where_a_cold_one_does():
    features, targets, _ = problem()
    warm = solve(criterion(ONE), features, targets, 0.1, solve(criterion(ONE), features, targets, 10.0))
    cold = solve(criterion(ONE), features, targets, 0.1)
    np.testing.assert_allclose(warm[0], cold[0], atol=2e-3)


@pytest.mark.parametrize(("rows", "width"), [(700, 300), (120, 300), (40, 20)])
@pytest.mark.parametrize("strength", [10.0, 0.1])
def test_features_of_all_sizes_and_a_rare_label_end_where_the_gradient_vanishes(rows, width, strength):
    draw = np.random.default_rng(4)
    features = problem(rows, width)[0] * 10 ** draw.uniform(-3, 1, size=width).astype(np.float32)
    targets = (features @ draw.normal(size=(width, 2)) > 0).sum(axis=1) % 2
    targets[:5] = 2
    weight, bias = solve(criterion(ONE), features, targets, strength)
    gaps = (softmax(features @ weight.T.astype(np.float64) + bias) - np.eye(3)[targets]) / rows
    assert np.abs(gaps.T @ features + strength / rows * weight).max() < 5e-5 and np.abs(gaps.sum(axis=0)).max() < 5e-5
    np.testing.assert_allclose(weight.sum(axis=0), 0, atol=1e-4)


def test_a_rare_label_takes_no_more_steps(count_steps):
    features, targets, _ = problem(rows=2000, width=30)
    objective = criterion(ONE)
    calls, steps = count_steps(objective), []
    for kept in (np.arange(2000), np.flatnonzero((targets > 0) | (np.arange(2000) < 30))):
        solve(objective, features[kept], targets[kept], 10.0, solve(objective, features[kept], targets[kept], 1000.0))
        steps.append(len(calls))
        calls.clear()
    assert steps[1] <= 1.5 * steps[0]


def test_a_solution_is_gone_on_from_by_its_own_axes_with_some_rows_more(monkeypatch):
    features, targets, _ = problem(rows=500, width=300)
    chosen = choose_strength(criterion(ONE), features[:450], targets[:450], lambda *_: 0.0, (10.0,))
    cold = solve(criterion(ONE), features, targets, 10.0)
    monkeypatch.setattr(lbfgs, "_principal_axes", None)
    warm = solve(criterion(ONE), features, targets, 10.0, chosen)
    assert_same_head(warm, cold, atol=2e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"weights": np.linspace(0.5, 1.5, 320)}, {"towards": (np.full((3, 30), 0.1), np.zeros(3))}],
    ids=["plain", "weights", "towards"],
)
def test_a_solution_is_gone_on_from_where_some_rows_more_make_the_features_large(options, monkeypatch):
    features, targets, _ = problem(rows=320, width=30)
    monkeypatch.setattr(lbfgs, "LARGE", features[:300].size)
    fewer = {name: value[:300] if name == "weights" else value for name, value in options.items()}
    chosen = choose_strength(criterion(ONE), features[:300], targets[:300], lambda *_: 0.0, (10.0,), **fewer)
    warm = solve(criterion(ONE), features, targets, 10.0, chosen, **options)
    # Large features are multiplied in another precision, and their steps end earlier.
    assert_same_head(warm, solve(criterion(ONE), features, targets, 10.0, **options), atol=2e-2)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_bias_stays_out_where_there_is_none(multi_label):
    features, *targets = problem()
    labels = SEVERAL if multi_label else ONE
    targets = targets_of(labels, *targets)
    found = solve(criterion(labels), features, targets, 1.0, some_head(), has_bias=False)
    assert not found[1].any()
    assert_same_head(found, solve(criterion(labels), features, targets, 1.0, has_bias=False))


def test_rows_that_a_plane_separates_are_solved_without_a_penalty_too():
    features = np.array([[-1.0], [1.0]], dtype=np.float32)
    weight, bias = solve(criterion(Labels(("a", "b"))), features, np.array([0, 1]), 0.0)
    assert np.isfinite(weight).all()
    assert (features @ weight.T + bias).argmax(axis=1).tolist() == [0, 1]


def test_the_best_strength_is_kept_with_its_own_solution():
    features, targets, _ = problem()
    seen = []

    def score(weight, bias):
        seen.append(np.abs(weight).sum())
        return {0: 0.1, 1: 0.7, 2: 0.9, 3: 0.9, 4: 0.2}[len(seen) - 1]

    best = choose_strength(criterion(ONE), features, targets, score, (1.0, 100.0, 10.0, 0.01, 0.1))
    # Strongest first, weights growing; of two equals the stronger penalty.
    assert seen == sorted(seen)
    assert best.strength == 1.0
    assert best.scores == {100.0: 0.1, 10.0: 0.7, 1.0: 0.9, 0.1: 0.9, 0.01: 0.2}
    np.testing.assert_allclose(best.weight, solve(criterion(ONE), features, targets, 1.0)[0], atol=2e-3)


def test_what_cannot_be_solved_is_refused():
    features, targets, _ = problem(rows=10)
    with pytest.raises(SettingError, match=r"strengths=\(\): expected at least one"):
        choose_strength(criterion(ONE), features, targets, lambda *_: 0.0, ())
    with pytest.raises(SettingError, match=r"strength=-1.0: expected a number from 0"):
        solve(criterion(ONE), features, targets, -1.0)
    with pytest.raises(TrainingError, match="finite validation score, found nan: choose another"):
        choose_strength(criterion(ONE), features, targets, lambda *_: float("nan"))
    with pytest.raises(TrainingError, match=r"shape \(0, 6\): expected rows of finite numbers, found none"):
        solve(criterion(ONE), features[:0], targets[:0], 1.0)
    features[3, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN or infinity"):
        solve(criterion(ONE), features, targets, 1.0)


@pytest.mark.parametrize("classes", [np.ones(3), np.array([0.5, 1.0, 3.0])])
def test_row_weights_are_sklearns_up_to_the_scale_of_the_loss(classes):
    features, targets, _ = problem()
    weights = np.random.default_rng(1).exponential(size=len(targets))
    weight, bias = solve(criterion(ONE, classes), features, targets, 1.0, weights=weights)
    whole = weights * classes[targets]
    peer = LogisticRegression(C=len(targets) / whole.sum(), tol=1e-10, max_iter=10_000)
    peer.fit(features, targets, whole)
    np.testing.assert_allclose(weight, peer.coef_, atol=2e-3)
    np.testing.assert_allclose(softmax(features @ weight.T + bias), peer.predict_proba(features), atol=1e-3)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("width", [6, 300])
def test_a_row_that_weighs_two_is_two_rows_also_in_the_number_of_steps(labels, width, count_steps):
    features, *targets = problem(width=width)
    targets = targets_of(labels, *targets)
    # The rows that weigh most lie along an axis of their own, which unweighted rows hardly show.
    features[:3] *= 20
    weights = np.ones(len(features), dtype=int)
    weights[:3] = 200
    objective = criterion(labels)
    calls = count_steps(objective)
    weighted = solve(objective, features, targets, 30.0, weights=0.1 * weights)
    steps = len(calls)
    strength = 30 * weights.sum() / len(weights)
    repeated = solve(objective, np.repeat(features, weights, axis=0), np.repeat(targets, weights, axis=0), strength)
    assert_same_head(weighted, repeated, atol=1e-4)
    assert abs(len(calls) - 2 * steps) <= 2


def test_weights_all_alike_change_nothing_and_rows_of_weight_0_are_not_there():
    features, targets, _ = problem()
    plain = solve(criterion(ONE), features, targets, 1.0)
    alike = solve(criterion(ONE), features, targets, 1.0, weights=np.full(len(targets), 0.7))
    others = np.concatenate([3 * features[:50], features]), np.concatenate([targets[:50], targets])
    absent = solve(criterion(ONE), *others, 1.0, weights=np.repeat([0.0, 2.0], [50, len(targets)]))
    for part, *same in zip(plain, alike, absent, strict=True):
        assert [np.array_equal(part, other) for other in same] == [True, True]


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("end", [None, 0, 1])
def test_joint_weights_minimize_alpha_times_source_loss_plus_beta_times_target_loss(labels, seed, end):
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
    found = solve(criterion(labels, classes), features, targets, 2.0, weights=np.concatenate(weights))
    # The whole is divided by alpha + beta, and the penalty counts the rows that weigh something.
    rows = sum(len(part[1]) for part in parts if part[0])
    assert_same_head(found, minimized(parts, shares.sum() * 2.0 / rows))


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("strength", [0.5, 20.0, 500.0])
def test_towards_a_head_is_the_minimum_with_the_distance_from_it_as_the_penalty(labels, has_bias, strength):
    features, *targets = problem()
    targets, source = targets_of(labels, *targets), some_head()
    weights = np.random.default_rng(2).exponential(size=len(targets))
    found = solve(criterion(labels), features, targets, strength, has_bias=has_bias, weights=weights, towards=source)
    expected = minimized([(1, features, targets, weights)], strength / len(targets), source, has_bias)
    assert_same_head(found, expected)
    assert has_bias or not found[1].any()


@pytest.mark.parametrize("width", [6, 300])
def test_the_strongest_pull_ends_at_the_source(width, count_steps):
    features, targets, _ = problem(width=width)
    objective, source = criterion(ONE), some_head(width)
    calls = count_steps(objective)
    for start in (None, (np.ones((3, width)), np.full(3, 5.0))):
        near = solve(objective, features, targets, 1e6, start, towards=source)
        assert_same_head(near, source, atol=1e-3)
    # The penalty is all that curves it, the bias too, and that is scaled away.
    assert len(calls) <= 15
    # There the source's head itself is where the steps begin, and end.
    assert_same_head(solve(criterion(ONE), features, targets, 1e12, towards=source), source, atol=0)


def test_a_start_at_the_solution_is_known_for_it(count_steps):
    features, targets, _ = problem()
    objective, source = criterion(ONE), some_head()
    found = solve(objective, features, targets, 10.0, towards=source)
    calls = count_steps(objective)
    again = solve(objective, features, targets, 10.0, found, towards=source)
    assert_same_head(again, found, atol=1e-4)
    assert len(calls) <= 3


def test_without_strength_there_is_no_pull():
    features, targets, _ = problem()
    free = solve(criterion(ONE), features, targets, 0.0)
    pulled = solve(criterion(ONE), features, targets, 0.0, towards=some_head())
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
        found = solve(
            criterion(labels),
            features,
            targets_of(labels, *targets),
            10.0**power,
            has_bias=has_bias,
            towards=towards,
        )
        distances.append(np.sqrt(sum(((part - at) ** 2).sum() for part, at in zip(found, towards, strict=True))))
    assert all(later <= 1.001 * earlier + 1e-3 for earlier, later in pairwise(distances))


def test_strengths_are_chosen_with_weights_and_towards_too():
    features, targets, _ = problem()
    weights = np.random.default_rng(3).exponential(size=len(targets))
    options = {"weights": weights, "towards": some_head()}
    pull = []

    def score(weight, bias):
        pull.append(np.abs(weight - options["towards"][0]).sum())
        return -abs(len(pull) - 4)

    best = choose_strength(criterion(ONE), features, targets, score, TOWARDS_STRENGTHS, **options)
    # From the source away; the weakest but one is the second in a row that is worse.
    assert pull == sorted(pull) and list(best.scores) == [1e5, 1e4, 1000.0, 100.0, 10.0, 1.0]
    assert best.strength == 100.0 and best.held_out is None
    assert_same_head((best.weight, best.bias), solve(criterion(ONE), features, targets, 100.0, **options))


def test_the_first_worse_loss_ends_the_choice():
    features, targets, _ = problem()
    losses = iter([3.0, 2.0, 2.0, 2.5, 1.0])
    best = choose_strength(criterion(ONE), features, targets, lambda *_: -next(losses), by_loss=True)
    assert best.scores == {1000.0: -3.0, 100.0: -2.0, 10.0: -2.0, 1.0: -2.5} and best.strength == 100.0


def test_a_strength_that_is_far_worse_is_given_up_on_its_way(count_steps, monkeypatch):
    # More features than rows: without a penalty all that is learned is noise.
    (features, targets, _), objective = problem(rows=200, width=150), criterion(ONE)
    train, out = slice(120), slice(120, None)
    steps, ended = count_steps(objective), []

    def score(weight, bias):
        return -log_loss(targets[out], softmax(features[out] @ weight.T + bias))

    for given_up_at in (np.inf, lbfgs.FAR_WORSE):
        monkeypatch.setattr(lbfgs, "FAR_WORSE", given_up_at)
        best = choose_strength(objective, features[train], targets[train], score, by_loss=True)
        ended.append((best, len(steps)))
    (whole, all_steps), (best, both) = ended
    assert both - all_steps < all_steps
    assert best.strength == whole.strength > min(best.scores)
    assert_same_head((best.weight, best.bias), (whole.weight, whole.bias), atol=0)
    *others, given_up = best.scores.items()
    assert others == list(whole.scores.items())[:-1]
    assert given_up[1] < lbfgs.FAR_WORSE * best.scores[best.strength]


def test_losses_of_large_features_are_compared_before_the_minimum_is_reached(count_steps, monkeypatch):
    monkeypatch.setattr(lbfgs, "LARGE", 0)
    (features, targets, _), objective = problem(), criterion(ONE)
    steps = count_steps(objective)

    def score(weight, bias):
        return -log_loss(targets, softmax(features @ weight.T + bias))

    rough = choose_strength(objective, features, targets, score, (10.0, 1.0, 0.1), by_loss=True)
    few = len(steps)
    whole = choose_strength(objective, features, targets, score, (10.0, 1.0, 0.1))
    assert few < len(steps) - few and rough.scores == pytest.approx(whole.scores, abs=1e-2)
    # Gone on with, it ends where the minimum is.
    expected = solve(objective, features, targets, rough.strength)
    assert_same_head(solve(objective, features, targets, rough.strength, rough), expected, atol=2e-2)


@pytest.mark.parametrize("labels", [ONE, SEVERAL])
@pytest.mark.parametrize("towards", [None, some_head()])
def test_cross_validation_is_a_loop_over_sklearns_folds(labels, towards):
    features, *targets = problem(rows=60)
    targets, objective = targets_of(labels, *targets), criterion(labels, np.array([1.0, 2.0, 0.5]))
    strengths = (0.1, 10.0, 1.0)
    seen = []

    def score(truth, logits):
        assert truth is targets
        seen.append(logits.copy())
        return {0: 0.5, 1: 0.8, 2: 0.8}[len(seen) - 1]

    best = cross_validated(objective, features, targets, score, strengths, towards=towards, folds=4, seed=3)
    folds = (KFold if labels.multi_label else StratifiedKFold)(4, shuffle=True, random_state=3)
    for strength, logits in zip((10.0, 1.0, 0.1), seen, strict=True):
        for kept, out in folds.split(features, targets):
            weight, bias = solve(objective, features[kept], targets[kept], strength, towards=towards)
            np.testing.assert_allclose(logits[out], features[out] @ weight.T + bias, atol=5e-3)
    assert best.scores == {10.0: 0.5, 1.0: 0.8, 0.1: 0.8}
    assert best.strength == 1.0
    assert np.array_equal(best.held_out, seen[1]) and best.held_out.dtype == np.float32
    assert_same_head((best.weight, best.bias), solve(objective, features, targets, 1.0, towards=towards), atol=0)


def test_rows_beside_are_trained_on_in_every_fold_and_keep_their_share():
    features, targets, _ = problem(rows=30)
    source = problem(rows=200, seed=7)[:2]
    classes = np.array([0.5, 1.0, 3.0])
    objective, alpha, beta = criterion(ONE, classes), 0.2, 0.7
    of_source = np.full(200, alpha / classes[source[1]].sum())
    of_target = np.full(30, beta / classes[targets].sum())
    found = cross_validated(
        objective, features, targets, accuracy, (1.0,), weights=of_target, beside=(*source, of_source), seed=1
    )
    least = min(5, np.bincount(targets).min())
    for kept, out in StratifiedKFold(least, shuffle=True, random_state=1).split(features, targets):
        both = [np.concatenate(pair) for pair in zip((features[kept], targets[kept]), source, strict=True)]
        again = np.full(len(kept), beta / classes[targets[kept]].sum())
        weight, bias = solve(objective, *both, 1.0, weights=np.concatenate([again, of_source]))
        np.testing.assert_allclose(found.held_out[out], features[out] @ weight.T + bias, atol=1e-4)
    both = [np.concatenate(pair) for pair in zip((features, targets), source, strict=True)]
    whole = solve(objective, *both, 1.0, weights=np.concatenate([of_target, of_source]))
    assert_same_head((found.weight, found.bias), whole, atol=1e-6)


def test_rows_beside_may_be_all_that_counts_or_nothing():
    features, targets, _ = problem(rows=30)
    source = problem(rows=200, seed=7)[:2]
    given = criterion(ONE), features, targets, accuracy, (10.0, 1.0)
    plain = cross_validated(*given)
    unheard = cross_validated(*given, beside=(*source, np.zeros(200)))
    assert np.array_equal(plain.held_out, unheard.held_out) and plain.scores == unheard.scores
    copied = cross_validated(*given, weights=np.zeros(30), beside=(*source, np.ones(200)))
    weight, bias = solve(criterion(ONE), *source, copied.strength)
    np.testing.assert_allclose(copied.held_out, features @ weight.T + bias, atol=5e-3)
    assert copied.scores[copied.strength] == accuracy(targets, copied.held_out)


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        ([0, 0, 1, 1], 2),
        ([0, 0, 0, 1, 1, 1, 1], 3),
        ([0] * 6 + [2] * 6, 5),
        # A class of one row, which one fold trains without; rows of one class only.
        ([0, 0, 0, 2], 4),
        ([0, 1, 2, 2, 2, 2, 2, 2], 5),
        ([1, 1, 1, 1], 4),
    ],
)
def test_few_rows_and_rare_labels_are_cross_validated(targets, parts, monkeypatch):
    features, targets = problem(rows=len(targets))[0], np.array(targets)
    objective, folds = criterion(ONE), []
    weigh = objective.row_weights
    monkeypatch.setattr(objective, "row_weights", lambda rows: folds.append(len(rows)) or weigh(rows))
    found = cross_validated(objective, features, targets, accuracy)
    # All rows, those left in each fold, and all again.
    assert len(folds) == parts + 2 and sum(folds) == len(targets) * (parts + 1)
    assert np.isfinite(found.held_out).all() and np.isfinite(found.weight).all()
    assert list(found.scores) == list(STRENGTHS)
    assert found.strength == max(s for s in found.scores if found.scores[s] == max(found.scores.values()))


@pytest.mark.parametrize("has_bias", [True, False])
def test_several_labels_are_cross_validated_also_where_all_rows_lack_one(has_bias):
    features, _, targets = problem(rows=9)
    targets[:, 1] = 0
    found = cross_validated(
        criterion(SEVERAL),
        features,
        targets,
        lambda truth, logits: ((logits > 0) == truth).mean(),
        TOWARDS_STRENGTHS,
        has_bias=has_bias,
        towards=some_head(),
    )
    assert found.held_out.shape == (9, 3) and np.isfinite(found.held_out).all()
    assert list(found.scores) == list(TOWARDS_STRENGTHS)
    assert found.bias.any() == has_bias


def test_cross_validation_depends_on_its_seed_alone():
    features, targets, _ = problem(rows=40)
    given = criterion(ONE), features, targets, accuracy, (1.0,)
    held_out = [cross_validated(*given, seed=seed).held_out for seed in (0, 0, 1)]
    assert np.array_equal(*held_out[:2]) and not np.array_equal(*held_out[1:])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(9), r"weights of shapes \[\(9,\)\]: expected \[\(10,\)\]; give each row a number from 0"),
        (np.ones((10, 1)), r"weights of shapes \[\(10, 1\)\]"),
        (np.array([1.0] * 9 + [-2.0]), r"weights: expected none below 0, found -2.0; give each row"),
        (np.array([1.0] * 9 + [np.nan]), r"weights: expected finite numbers, found NaN or infinity; give"),
        (np.array([1.0] * 9 + [np.inf]), r"weights: expected finite numbers"),
        (np.zeros(10), r"weights: expected some above 0, found all 0; raise those"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    features, targets, _ = problem(rows=10)
    with pytest.raises(SettingError, match=message):
        solve(criterion(ONE), features, targets, 1.0, weights=weights)
    with pytest.raises(SettingError, match=message):
        choose_strength(criterion(ONE), features, targets, lambda *_: 0.0, weights=weights)
    with pytest.raises(SettingError, match=message):
        cross_validated(criterion(ONE), features, targets, accuracy, weights=weights)


@pytest.mark.parametrize(
    ("towards", "message"),
    [
        (
            (np.zeros((3, 5)), np.zeros(3)),
            r"towards of shapes \[\(3, 5\), \(3,\)\]: expected \[\(3, 6\), \(3,\)\]; give a head of the same labels",
        ),
        ((np.zeros((3, 6)), np.zeros(2)), r"towards of shapes \[\(3, 6\), \(2,\)\]"),
        (
            (np.full((3, 6), np.nan), np.zeros(3)),
            r"towards: expected finite numbers, found NaN or infinity; give a head",
        ),
        ((np.zeros((3, 6)), np.full(3, np.inf)), r"towards: expected finite numbers"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(towards, message):
    features, targets, _ = problem(rows=10)
    with pytest.raises(SettingError, match=message):
        solve(criterion(ONE), features, targets, 1.0, towards=towards)
    with pytest.raises(SettingError, match=message):
        cross_validated(criterion(ONE), features, targets, accuracy, towards=towards)


def test_what_cannot_be_cross_validated_is_refused():
    features, targets, several = problem(rows=10)
    objective = criterion(ONE)
    with pytest.raises(TrainingError, match="expected 4 rows or more to cross-validate, found 3; add labeled rows"):
        cross_validated(objective, features[:3], targets[:3], accuracy)
    with pytest.raises(TrainingError, match="found 0; add"):
        cross_validated(criterion(SEVERAL), features[:0], several[:0], accuracy)
    with pytest.raises(SettingError, match="folds=1: expected 2 or more"):
        cross_validated(objective, features, targets, accuracy, folds=1)
    with pytest.raises(SettingError, match=r"strengths=\(\): expected at least one"):
        cross_validated(objective, features, targets, accuracy, ())
    with pytest.raises(SettingError, match=r"strength=-1.0: expected a number from 0"):
        cross_validated(objective, features, targets, accuracy, (1.0, -1.0))
    with pytest.raises(TrainingError, match="finite validation score, found nan: choose another"):
        cross_validated(objective, features, targets, lambda *_: float("nan"))
    for beside in [
        (features[:, :5], targets, np.ones(10)),
        (features, several, np.ones(10)),
        (features, targets, np.ones(9)),
        (features, targets[:9], np.ones(10)),
    ]:
        with pytest.raises(SettingError, match=r"beside of shapes .*: expected .*\(10, 6\)?.*; give rows of the same"):
            cross_validated(objective, features, targets, accuracy, beside=beside)
    with pytest.raises(SettingError, match=r"weights: expected none below 0, found -1\.0"):
        cross_validated(objective, features, targets, accuracy, beside=(features, targets, np.full(10, -1.0)))
    features[3, 2] = np.nan
    with pytest.raises(TrainingError, match="found NaN or infinity"):
        cross_validated(objective, features, targets, accuracy)

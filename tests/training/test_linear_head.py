"""A head for one task: by what its strength is chosen, and what it is solved with."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nlptransfer.data.labels import Labels
from nlptransfer.training.lbfgs import STRENGTHS, TOWARDS_STRENGTHS, choose_strength, cross_validated, solve
from nlptransfer.training.linear_head import FEW_ROWS, Features, HeadTask, share_weights
from nlptransfer.training.losses import LabelLoss

LABELS = Labels(("a", "b", "c"))


def rows(count, width=6, seed=0):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, width)).astype(np.float32)
    scores = values[:, :3] @ np.random.default_rng(9).normal(size=(3, 3)) + 0.5 * draw.normal(size=(count, 3))
    return Features(values, scores.argmax(axis=1))


def accuracy(targets, logits):
    return float((logits.argmax(axis=1) == targets).mean())


def task(train, validation, **options):
    return HeadTask(LabelLoss(LABELS), train, validation, accuracy, **options)


def log_loss(targets, logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]).mean())


def test_few_rows_are_cross_validated_and_many_are_not():
    few, many = task(rows(40), rows(9, seed=1)), task(rows(FEW_ROWS), rows(60, seed=1))
    assert few.has_few_rows and not many.has_few_rows
    assert not task(rows(40), rows(100, seed=1)).has_few_rows
    assert task(rows(40), rows(9, seed=1), folds_know=True).choose().record["chosen_by"] == "validation"
    assert few.choose().record["chosen_by"] == "cross-validation"
    assert many.choose().record["chosen_by"] == "validation"


def test_cross_validation_goes_by_the_loss_and_tells_the_score():
    own = task(rows(40), rows(9, seed=1))
    found = own.choose()
    both = own.train + own.validation
    by_loss = cross_validated(own.criterion, both.values, both.targets, lambda y, z: -log_loss(y, z))
    assert found.record["l2_strength"] == by_loss.strength
    assert found.record["validation_scores"] == pytest.approx(
        {f"{k:g}": v for k, v in by_loss.scores.items()}, rel=1e-4
    )
    assert found.score == found.record["best_score"] == accuracy(both.targets, by_loss.held_out)
    np.testing.assert_array_equal(found.held_out, by_loss.held_out[40:])
    peer = LogisticRegression(C=1 / by_loss.strength, tol=1e-10, max_iter=10_000).fit(both.values, both.targets)
    np.testing.assert_allclose(found.head[0], peer.coef_, atol=2e-3)


def test_validation_goes_by_the_loss_and_tells_the_score():
    own = task(rows(FEW_ROWS), rows(60, seed=1))
    found = own.choose()
    losses = {}
    for strength in STRENGTHS:
        peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000).fit(own.train.values, own.train.targets)
        losses[strength] = log_loss(own.validation.targets, peer.decision_function(own.validation.values))
    best = min(losses, key=losses.get)
    assert found.record["l2_strength"] == best and found.record["chosen_by"] == "validation"
    # All from the strongest to the first that is worse again.
    tried = STRENGTHS[: STRENGTHS.index(best) + 2]
    assert found.record["validation_scores"] == pytest.approx({f"{s:g}": -losses[s] for s in tried}, rel=1e-3)
    assert found.score == found.record["best_score"] == accuracy(own.validation.targets, found.held_out)


@pytest.mark.parametrize("count", [40, FEW_ROWS])
def test_a_metric_that_is_asked_for_is_gone_by(count):
    own = task(rows(count), rows(9, seed=1), by_loss=False)
    both = own.train + own.validation
    if count == 40:
        expected = cross_validated(own.criterion, both.values, both.targets, accuracy)
    else:

        def score(weight, bias):
            return accuracy(own.validation.targets, own.validation.values @ weight.T + bias)

        expected = choose_strength(own.criterion, own.train.values, own.train.targets, score)
    found = own.choose().record
    assert found["l2_strength"] == expected.strength
    assert found["validation_scores"] == {f"{s:g}": score for s, score in expected.scores.items()}
    assert found["best_score"] == expected.scores[expected.strength]


@pytest.mark.parametrize("held", [False, True])
def test_in_the_span_of_few_rows_the_solution_is_the_same(held):
    wide = task(rows(20, 80), rows(5, 80, seed=1))
    draw = np.random.default_rng(3)
    towards = (draw.normal(size=(3, 80)).astype(np.float32), draw.normal(size=3).astype(np.float32)) if held else None
    found = wide.choose(towards=towards)
    both = wide.train + wide.validation
    strengths = TOWARDS_STRENGTHS if held else STRENGTHS
    expected = cross_validated(
        wide.criterion, both.values, both.targets, lambda y, z: -log_loss(y, z), strengths, towards=towards
    )
    assert found.record["l2_strength"] == expected.strength
    np.testing.assert_allclose(found.head[0], expected.weight, atol=5e-3)
    np.testing.assert_allclose(found.held_out, expected.held_out[20:], atol=5e-2)


def test_many_rows_are_solved_again_with_the_validation_rows():
    own = task(rows(FEW_ROWS), rows(60, seed=1))
    found, kept = own.choose(), own.choose(refit=False)
    assert found.record["solved"] == "train+validation" and kept.record["solved"] == "train"
    both = own.train + own.validation
    expected = solve(own.criterion, both.values, both.targets, found.record["l2_strength"])
    np.testing.assert_allclose(found.head[0], expected[0], atol=1e-3)
    alone = solve(own.criterion, own.train.values, own.train.targets, found.record["l2_strength"])
    np.testing.assert_allclose(kept.head[0], alone[0], atol=1e-3)
    # Both are judged by a head that has not seen the validation rows.
    np.testing.assert_allclose(found.held_out, own.validation.values @ alone[0].T + alone[1], atol=1e-2)
    np.testing.assert_array_equal(found.held_out, kept.held_out)


@pytest.mark.parametrize("folds_know", [True, False])
def test_a_strength_that_is_given_is_taken_as_it_is(folds_know):
    own = task(rows(40), rows(9, seed=1), strength=3.0, folds_know=folds_know)
    found, both = own.choose(), own.train + own.validation
    assert (found.record["l2_strength"], found.record["chosen_by"]) == (3.0, "default")
    expected = solve(own.criterion, both.values, both.targets, 3.0)
    np.testing.assert_allclose(found.head[0], expected[0], atol=1e-3)
    if folds_know:
        # Judged on the validation rows alone, by a head that has not seen them.
        alone = solve(own.criterion, own.train.values, own.train.targets, 3.0)
        np.testing.assert_allclose(found.held_out, own.validation.values @ alone[0].T + alone[1], atol=1e-2)
        assert found.score == accuracy(own.validation.targets, found.held_out)


def test_few_rows_that_must_not_be_learned_choose_alone():
    own = task(rows(40), rows(9, seed=1))
    kept = own.choose(refit=False)
    assert kept.record["chosen_by"] == "validation" and kept.record["solved"] == "train"


@pytest.mark.parametrize("count", [40, FEW_ROWS])
def test_rows_beside_are_learned_in_the_share_that_is_asked_for(count):
    own, others = task(rows(count), rows(10, seed=1)), rows(90, seed=2)
    criterion = own.criterion
    beside = Features(others.values, others.targets, share_weights(criterion, others, 3.0))
    found = own.choose(beside=beside, share=0.5)
    both = own.train + own.validation
    values = np.concatenate([both.values, others.values])
    targets = np.concatenate([both.targets, others.targets])
    weights = np.concatenate([np.full(len(both), 0.5 / len(both)), np.full(len(others), 3.0 / len(others))])
    strength = found.record["l2_strength"]
    # scikit-learn adds losses up, and its penalty is |W|^2 / (2 C).
    peer = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=10_000)
    peer.fit(values, targets, sample_weight=weights / weights.sum() * len(weights))
    np.testing.assert_allclose(found.head[0] - found.head[0].mean(axis=0), peer.coef_, atol=5e-3)


def test_columns_left_out_count_nothing():
    own = task(rows(40), rows(9, seed=1))
    columns = np.array([True, False, True, True, False, True])
    found = own.only(columns).choose()
    assert abs(found.head[0][:, ~columns]).max() < 1e-6 and abs(found.head[0][:, columns]).min() > 0


def test_shares_follow_the_classes_and_the_rows_weights():
    criterion = LabelLoss(LABELS, np.array([1.0, 2.0, 4.0]))
    own = Features(np.zeros((4, 2), np.float32), np.array([0, 1, 2, 2]), np.array([1, 1, 1, 3], np.float32))
    found = share_weights(criterion, own, 2.0)
    np.testing.assert_allclose(found / found[0], [1, 1, 1, 3])
    assert (found * [1, 2, 4, 4]).sum() == pytest.approx(2.0)

"""A head for one task: by what its L2 strength is chosen, and what it is fitted on."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedKFold

from nlptransfer.data.labels import Labels
from nlptransfer.errors import TrainingError
from nlptransfer.training import linear_head
from nlptransfer.training.lbfgs import Features, fit
from nlptransfer.training.linear_head import FEW_ROWS, L2_STRENGTHS, TOWARDS_L2_STRENGTHS, HeadTask, share_weights
from nlptransfer.training.losses import LabelLoss

LABELS = Labels(("a", "b", "c"))
SEVERAL = Labels(("a", "b", "c"), multi_label=True)


def rows(count, width=6, seed=0):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, width)).astype(np.float32)
    scores = values[:, :3] @ np.random.default_rng(9).normal(size=(3, 3)) + 0.5 * draw.normal(size=(count, 3))
    return Features(values, scores.argmax(axis=1))


def accuracy(targets, logits):
    return float((logits.argmax(axis=1) == targets).mean())


def log_loss(targets, logits):
    return -float(log_softmax(logits, axis=1)[np.arange(len(targets)), targets].mean())


def task(train, validation, score=accuracy, labels=LABELS, **options):
    return HeadTask(LabelLoss(labels), train, validation, score, **options)


def peer_of(train, l2, **options):
    return LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(train.values, train.targets, **options)


def some_head(width, seed=3):
    draw = np.random.default_rng(seed)
    return draw.normal(size=(3, width)).astype(np.float32), draw.normal(size=3).astype(np.float32)


def test_few_rows_are_cross_validated_and_many_are_not():
    few, many = task(rows(40), rows(9, seed=1)), task(rows(FEW_ROWS), rows(60, seed=1))
    assert few.has_few_rows and not many.has_few_rows
    assert not task(rows(40), rows(100, seed=1)).has_few_rows
    assert task(rows(40), rows(9, seed=1), folds_know=True).choose_l2().record["chosen_by"] == "validation"
    assert few.choose_l2().record["chosen_by"] == "cross-validation"
    assert many.choose_l2().record["chosen_by"] == "validation" and many.choose_l2().of_training is None
    without_validation = task(rows(FEW_ROWS), rows(0)).choose_l2()
    assert (
        without_validation.record["chosen_by"] == "cross-validation" and len(without_validation.of_training) == FEW_ROWS
    )


def test_validation_goes_by_the_loss_and_records_the_score():
    own = task(rows(FEW_ROWS, 100), rows(60, 100, seed=1))
    found = own.choose_l2()
    losses = {}
    for l2 in L2_STRENGTHS:
        losses[l2] = log_loss(own.validation.targets, peer_of(own.train, l2).decision_function(own.validation.values))
    best = min(losses, key=losses.get)
    assert found.record["l2"] == best and found.record["chosen_by"] == "validation"
    # All from the strongest to the first that is worse again.
    tried = L2_STRENGTHS[: L2_STRENGTHS.index(best) + 2]
    assert found.record["validation_scores"] == pytest.approx({f"{l2:g}": -losses[l2] for l2 in tried}, rel=1e-2)
    assert found.score == found.record["best_score"] == accuracy(own.validation.targets, found.held_out)


@pytest.mark.parametrize("towards", [None, some_head(6)])
@pytest.mark.parametrize("width", [6, 80])
def test_cross_validation_is_a_loop_over_sklearns_folds(towards, width):
    own = task(rows(40, width), rows(9, width, seed=1), seed=3, ftol=1e-9)
    towards = None if towards is None else some_head(width)
    found, both = own.choose_l2(towards=towards), own.train + own.validation
    held_out, losses = {}, {}
    for l2 in L2_STRENGTHS if towards is None else TOWARDS_L2_STRENGTHS:
        held_out[l2] = np.empty((len(both), 3))
        for kept, out in StratifiedKFold(5, shuffle=True, random_state=3).split(both.values, both.targets):
            weight, bias = fit(own.criterion, both[kept], l2, towards=towards, ftol=1e-9)
            held_out[l2][out] = both.values[out] @ weight.T + bias
        losses[l2] = log_loss(both.targets, held_out[l2])
    best = min(losses, key=losses.get)
    assert found.record["l2"] == best
    scores = found.record["validation_scores"]
    assert scores == pytest.approx({name: -losses[float(name)] for name in scores}, rel=1e-2)
    np.testing.assert_allclose(found.held_out, held_out[best][40:], atol=0.05)
    np.testing.assert_allclose(found.of_training, held_out[best][:40], rtol=0.01, atol=0.05)
    assert found.score == pytest.approx(accuracy(both.targets, held_out[best]), abs=0.03)
    expected = fit(own.criterion, both, best, towards=towards, ftol=1e-9)
    np.testing.assert_allclose(found.head[0], expected[0], atol=5e-3)


def test_the_strength_of_several_labels_is_cross_validated_also_where_all_rows_lack_one():
    values, targets = rows(9).values, np.zeros((9, 3), np.float32)
    targets[::2, 0] = targets[3:, 2] = 1
    own = task(Features(values[:6], targets[:6]), Features(values[6:], targets[6:]), lambda y, z: 0.5, SEVERAL)
    found = own.choose_l2()
    out = np.empty((9, 3))
    for kept, held in KFold(5, shuffle=True, random_state=0).split(values):
        weight, bias = fit(own.criterion, Features(values[kept], targets[kept]), found.record["l2"], ftol=1e-9)
        out[held] = values[held] @ weight.T + bias
    np.testing.assert_allclose(found.held_out, out[6:], atol=0.1)
    assert not task(own.train, own.validation, lambda y, z: 0.5, SEVERAL, has_bias=False).choose_l2().head[1].any()


@pytest.mark.parametrize(("has_few", "patience"), [(True, 2), (False, 2)])
def test_a_metric_that_is_asked_for_is_gone_by_until_it_is_worse_twice(has_few, patience):
    scores = iter([0.5, 0.7, 0.7, 0.6, 0.65, 0.9])

    def score(targets, logits):
        return next(scores)

    own = task(rows(40 if has_few else FEW_ROWS), rows(9, seed=1), score, by_loss=False)
    with pytest.raises(StopIteration):
        for _ in range(2):  # the last score goes to the logits that were chosen, and none is left for another choice
            found = own.choose_l2().record
    # Of equals the stronger; 10 is not tried.
    assert found["l2"] == 1000.0 and found["best_score"] == 0.9
    assert found["validation_scores"] == {"3000": 0.5, "1000": 0.7, "300": 0.7, "100": 0.6, "30": 0.65}


@pytest.mark.parametrize(
    ("targets", "folds"),
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
def test_few_rows_and_rare_labels_are_held_out_fold_by_fold(targets, folds, monkeypatch):
    fitted = []

    def counted(criterion, part, l2, **options):
        fitted.append(len(part))
        return fit(criterion, part, l2, **options)

    monkeypatch.setattr("nlptransfer.training.linear_head.fit", counted)
    some = Features(rows(len(targets)).values, np.array(targets))
    found = task(some[:-1], some[-1:], l2=1.0).choose_l2()
    *parts, whole = fitted
    assert len(parts) == folds and sum(parts) == len(targets) * (folds - 1) and whole == len(targets)
    assert np.isfinite(found.held_out).all() and np.isfinite(found.head[0]).all()


def test_cross_validation_depends_on_its_seed_alone():
    held_out = [task(rows(40), rows(9, seed=1), seed=seed).choose_l2().held_out for seed in (0, 0, 1)]
    assert np.array_equal(*held_out[:2]) and not np.array_equal(*held_out[1:])


def test_what_cannot_choose_is_refused():
    with pytest.raises(TrainingError, match="expected 4 rows or more to cross-validate, found 3; add labeled rows"):
        task(rows(2), rows(1, seed=1)).choose_l2()
    with pytest.raises(TrainingError, match="finite validation score, found nan: choose another metric"):
        task(rows(40), rows(9, seed=1), lambda y, z: float("nan"), by_loss=False).choose_l2()


def test_many_rows_are_fitted_again_with_the_validation_rows():
    own = task(rows(FEW_ROWS), rows(60, seed=1))
    found, kept = own.choose_l2(), own.choose_l2(refit=False)
    assert found.record["fitted_on"] == "train+validation" and kept.record["fitted_on"] == "train"
    both = own.train + own.validation
    expected = peer_of(both, found.record["l2"])
    np.testing.assert_allclose(found.head[0], expected.coef_, atol=2e-3)
    alone = peer_of(own.train, found.record["l2"])
    np.testing.assert_allclose(kept.head[0], alone.coef_, atol=2e-3)
    # The scores of both are of a head that has not seen the validation rows.
    expected = alone.predict_proba(own.validation.values)
    np.testing.assert_allclose(softmax(found.held_out, axis=1), expected, atol=0.02)
    np.testing.assert_array_equal(found.held_out, kept.held_out)


@pytest.mark.parametrize("folds_know", [True, False])
def test_a_strength_that_is_set_is_taken_as_it_is(folds_know):
    own = task(rows(40), rows(9, seed=1), l2=3.0, folds_know=folds_know)
    found, both = own.choose_l2(), own.train + own.validation
    assert (found.record["l2"], found.record["chosen_by"]) == (3.0, "default")
    np.testing.assert_allclose(found.head[0], peer_of(both, 3.0).coef_, atol=2e-3)
    if folds_know:
        # Scored on the validation rows alone, by a head that has not seen them.
        expected = peer_of(own.train, 3.0).predict_proba(own.validation.values)
        np.testing.assert_allclose(softmax(found.held_out, axis=1), expected, atol=0.02)
        assert found.score == accuracy(own.validation.targets, found.held_out)


def test_few_rows_that_must_not_be_learned_choose_alone():
    kept = task(rows(40), rows(9, seed=1)).choose_l2(refit=False)
    assert kept.record["chosen_by"] == "validation" and kept.record["fitted_on"] == "train"


@pytest.mark.parametrize("count", [40, FEW_ROWS])
def test_extra_rows_are_learned_in_the_share_that_is_asked_for(count):
    own, others = task(rows(count), rows(10, seed=1)), rows(90, seed=2)
    extra = Features(others.values, others.targets, share_weights(own.criterion, others, 3.0))
    found = own.choose_l2(extra=extra, share=0.5)
    both = own.train + own.validation
    weights = np.concatenate([np.full(len(both), 0.5 / len(both)), np.full(len(others), 3.0 / len(others))])
    # scikit-learn adds losses up, and its penalty is |W|^2 / (2 C).
    sample_weight = weights / weights.sum() * len(weights)
    peer = peer_of(both + others, found.record["l2"], sample_weight=sample_weight)
    np.testing.assert_allclose(found.head[0] - found.head[0].mean(axis=0), peer.coef_, atol=1e-2)


def test_extra_rows_are_trained_on_in_every_fold_and_the_others_keep_their_share():
    own, others = task(rows(30), rows(9, seed=1), l2=1.0, seed=1), rows(200, seed=7)
    extra = Features(others.values, others.targets, share_weights(own.criterion, others, 0.2))
    found, both = own.choose_l2(extra=extra, share=0.7), own.train + own.validation
    expected = np.empty((len(both), 3))
    folds = min(5, np.bincount(both.targets).min())
    for kept, out in StratifiedKFold(folds, shuffle=True, random_state=1).split(both.values, both.targets):
        again = Features(both.values[kept], both.targets[kept], np.full(len(kept), 0.7 / len(kept)))
        weight, bias = fit(own.criterion, again + extra, 1.0, ftol=1e-9)
        expected[out] = both.values[out] @ weight.T + bias
    np.testing.assert_allclose(found.held_out, expected[30:], atol=0.05)


def test_extra_rows_may_be_all_that_counts_or_nothing():
    own, others = task(rows(30), rows(9, seed=1), l2=10.0), rows(200, seed=7)
    nothing = Features(others.values, others.targets, np.zeros(200))
    np.testing.assert_allclose(own.choose_l2(extra=nothing).head[0], own.choose_l2().head[0], atol=2e-3)
    alone = own.choose_l2(extra=Features(others.values, others.targets, np.ones(200)), share=0.0)
    np.testing.assert_allclose(alone.head[0], peer_of(others, 10.0).coef_, atol=2e-3)


def test_features_that_are_0_count_nothing():
    columns = np.array([True, False, True, True, False, True])
    found = task(rows(40), rows(9, seed=1)).mapped(lambda values: values * columns).choose_l2()
    assert abs(found.head[0][:, ~columns]).max() < 1e-6 and abs(found.head[0][:, columns]).min() > 0


def test_shares_follow_the_classes_and_the_rows_weights():
    criterion = LabelLoss(LABELS, np.array([1.0, 2.0, 4.0]))
    own = Features(np.zeros((4, 2), np.float32), np.array([0, 1, 2, 2]), np.array([1, 1, 1, 3], np.float32))
    found = share_weights(criterion, own, 2.0)
    np.testing.assert_allclose(found / found[0], [1, 1, 1, 3])
    assert (found * [1, 2, 4, 4]).sum() == pytest.approx(2.0)


# N-grams


def with_ngrams(count, seed=0, *, tell):
    """Rows with 60 n-grams, which tell the labels that features do not, or the other way round."""
    plain, draw = rows(count, seed=seed), np.random.default_rng(seed + 100)
    dense = draw.random((count, 60)) * (draw.random((count, 60)) < 0.1)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True).clip(min=1e-9)
    scores = 4 * dense @ np.random.default_rng(8).normal(size=(60, 3)) + draw.gumbel(size=(count, 3))
    targets = scores.argmax(axis=1) if tell else plain.targets
    return replace(plain, targets=targets, ngrams=sparse.csr_array(dense.astype(np.float32)))


def beside(part, scale):
    """Features with n-grams scaled, as a dense matrix."""
    return np.hstack([part.values, np.float32(scale) * part.ngrams.toarray()])


def peer_beside(part, l2, scale, **options):
    return LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000).fit(beside(part, scale), part.targets, **options)


def scale_of(record):
    return np.sqrt(record["l2"] / record["ngrams"]["l2"])


@pytest.fixture
def exact(monkeypatch):
    """Fits with n-grams that go on to the minimum, where they are to be compared with another solver's."""
    monkeypatch.setattr(linear_head, "NGRAM_FTOL", 1e-9)
    monkeypatch.setattr(linear_head, "NGRAM_FTOL_OF_FEW", 1e-9)


def assert_is_peer(head, peer, scale):
    for found, expected in ((head[0][:, :6], peer.coef_[:, :6]), (head[0][:, 6:] / scale, peer.coef_[:, 6:])):
        assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(peer.coef_[:, 6:])
    np.testing.assert_allclose(head[1] - head[1].mean(), peer.intercept_ - peer.intercept_.mean(), atol=0.02)


@pytest.mark.parametrize("count", [80, FEW_ROWS])
def test_ngrams_that_tell_nothing_are_dropped_where_they_may_be(count):
    parts = with_ngrams(count, 2, tell=False), with_ngrams(40, 1, tell=False)
    own = task(*parts, may_drop_ngrams=True)
    found, plain = own.choose_l2(), replace(
        own, train=replace(own.train, ngrams=None), validation=replace(own.validation, ngrams=None)
    ).choose_l2()  # fmt: skip
    assert found.head[0].shape == (3, 66) and not found.head[0][:, 6:].any()
    np.testing.assert_array_equal(found.head[0][:, :6], plain.head[0])
    np.testing.assert_array_equal(found.held_out, plain.held_out)
    record = dict(found.record)
    tried = record.pop("ngrams")
    assert record == plain.record and tried["l2"] is None and tried["validation_scores"]
    kept = replace(own, may_drop_ngrams=False).choose_l2()
    assert kept.head[0][:, 6:].any() and kept.record["ngrams"]["l2"] > 0
    # Its strength is that which costs least.
    assert max(tried["validation_scores"].values()) <= max(record["validation_scores"].values())


@pytest.mark.parametrize("may_drop", [True, False])
@pytest.mark.parametrize("count", [60, FEW_ROWS])
def test_ngrams_that_tell_labels_get_the_strength_that_is_recorded(count, may_drop, exact):
    own = task(with_ngrams(count, tell=True), with_ngrams(60, 1, tell=True), may_drop_ngrams=may_drop)
    found, both = own.choose_l2(), own.train + own.validation
    record = found.record
    assert record["chosen_by"] == ("validation" if count == FEW_ROWS else "cross-validation")
    scale = scale_of(record)
    assert_is_peer(found.head, peer_beside(both, record["l2"], scale), scale)
    # Without them no strength does as well.
    best = max(record["ngrams"]["validation_scores"].values())
    assert best > max(record["validation_scores"].values()) + 0.1
    assert record["ngrams"]["validation_scores"][f"{record['l2']:g}, {record['ngrams']['l2']:.3g}"] == best
    assert found.score == record["best_score"] > 0.5


def test_scores_with_ngrams_are_of_rows_that_were_held_out(exact):
    own = task(with_ngrams(FEW_ROWS, tell=True), with_ngrams(60, 1, tell=True))
    found = own.choose_l2(refit=False)
    losses = {}
    for name in found.record["ngrams"]["validation_scores"]:
        l2, of_ngrams = map(float, name.split(", "))
        scale = np.sqrt(l2 / of_ngrams)
        logits = peer_beside(own.train, l2, scale).decision_function(beside(own.validation, scale))
        losses[name] = -log_loss(own.validation.targets, logits)
    assert len(losses) >= 4 and len({name.split(", ")[0] for name in losses}) >= 2
    assert found.record["ngrams"]["validation_scores"] == pytest.approx(losses, rel=2e-2)
    scale = scale_of(found.record)
    alone = peer_beside(own.train, found.record["l2"], scale)
    assert_is_peer(found.head, alone, scale)
    expected = alone.predict_proba(beside(own.validation, scale))
    np.testing.assert_allclose(softmax(found.held_out, axis=1), expected, atol=0.03)
    assert found.record["fitted_on"] == "train"


def test_folds_with_ngrams_are_held_out_each_by_its_own_head():
    own = task(with_ngrams(40, tell=True), with_ngrams(20, 1, tell=True), l2=1.0, seed=2)
    found, both = own.choose_l2(), own.train + own.validation
    scale, expected = scale_of(found.record), np.empty((60, 3))
    for kept, out in StratifiedKFold(5, shuffle=True, random_state=2).split(both.values, both.targets):
        weight, bias = fit(own.criterion, Features(beside(both[kept], scale), both.targets[kept]), 1.0, ftol=1e-9)
        expected[out] = beside(both[out], scale) @ weight.T + bias
    np.testing.assert_allclose(found.held_out, expected[40:], atol=0.05)


def test_extra_rows_have_ngrams_too(exact):
    own, others = task(with_ngrams(FEW_ROWS, tell=True), with_ngrams(60, 1, tell=True)), with_ngrams(90, 2, tell=True)
    extra = replace(others, weights=share_weights(own.criterion, others, 3.0))
    found, both = own.choose_l2(extra=extra, share=0.5), own.train + own.validation
    weights = np.concatenate([np.full(len(both), 0.5 / len(both)), np.full(len(others), 3.0 / len(others))])
    scale, sample_weight = scale_of(found.record), weights / weights.sum() * len(weights)
    peer = peer_beside(both + others, found.record["l2"], scale, sample_weight=sample_weight)
    assert_is_peer(found.head, peer, scale)


def test_of_equals_ngrams_stay_out():
    parts = with_ngrams(60, tell=False), with_ngrams(20, 1, tell=False)
    found = task(*parts, lambda y, z: 0.5, by_loss=False, may_drop_ngrams=True).choose_l2()
    assert (found.record["ngrams"]["l2"], found.record["l2"]) == (None, L2_STRENGTHS[0])
    assert not found.head[0][:, 6:].any()


@pytest.mark.parametrize("count", [60, 0])
def test_ngrams_that_no_row_has_get_no_weight(count):
    parts = with_ngrams(60, tell=False), with_ngrams(20, 1, tell=False)
    own = task(*(replace(part, ngrams=sparse.csr_array((len(part), count), dtype=np.float32)) for part in parts))
    weight, bias = own.choose_l2().head
    assert weight.shape == (3, 6 + count) and not weight[:, 6:].any()
    assert np.abs(weight[:, :6]).min() > 0 and np.isfinite(bias).all()


def test_a_head_with_ngrams_is_pulled_to_a_source_and_loses_them_all_or_none():
    own = task(with_ngrams(60, tell=True), with_ngrams(30, 1, tell=True))
    source = with_ngrams(FEW_ROWS, 5, tell=True)
    towards = fit(own.criterion, source, 1.0)
    found = own.choose_l2(towards=towards)
    assert 0 < scale_of(found.record) < np.inf and found.record["l2"] in TOWARDS_L2_STRENGTHS
    scale, both = scale_of(found.record), own.train + own.validation
    pull = np.hstack([towards[0][:, :6], towards[0][:, 6:] / scale]), towards[1]
    weight, bias = fit(
        own.criterion, Features(beside(both, scale).astype(np.float32), both.targets), found.record["l2"],
        towards=pull, ftol=1e-9,
    )  # fmt: skip
    np.testing.assert_allclose(found.head[0], np.hstack([weight[:, :6], weight[:, 6:] * scale]), atol=0.05)
    np.testing.assert_allclose(found.head[1], bias, atol=0.05)
    # A source that has learned of noise, for a task that features tell.
    own = task(with_ngrams(60, tell=False), with_ngrams(30, 1, tell=False), may_drop_ngrams=True)
    assert not own.choose_l2(towards=towards).head[0][:, 6:].any()


def test_masked_ngrams_count_nothing():
    columns = np.random.default_rng(0).random(66) < 0.5
    own = task(with_ngrams(60, tell=True), with_ngrams(20, 1, tell=True))
    found = own.masked(columns).choose_l2()
    assert abs(found.head[0][:, ~columns]).max() < 1e-6 and abs(found.head[0][:, columns]).min() > 0

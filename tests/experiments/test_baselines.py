"""Baselines: the majority class, and TF-IDF with a logistic regression, beside scikit-learn's own."""

import random
from dataclasses import replace

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from helpers.corpora import text_of
from nlptransfer.data.dataset import Data, DataSettings, load_data
from nlptransfer.evaluation import predicted, score_predictions
from nlptransfer.experiments.baselines import BASELINES, INVERSE_L2, fit_majority, fit_tfidf
from nlptransfer.results import to_record


@pytest.fixture(scope="module")
def single() -> Data:
    draw = random.Random(3)
    topics = draw.choices(["good", "bad", "praise"], [5, 3, 2], k=300)
    return load_data(([text_of(draw, [topic]) for topic in topics], topics), DataSettings(calibration_size=0.1))


@pytest.fixture(scope="module")
def several(tickets) -> Data:
    return load_data(tickets, DataSettings(calibration_size=0.2))


def test_majority_is_the_most_frequent_label(single):
    fitted = fit_majority(single)
    found = fitted.probabilities(single.test.texts)
    dummy = DummyClassifier(strategy="prior").fit(single.train.texts, single.train.targets)
    assert np.allclose(found, dummy.predict_proba(single.test.texts))
    assert (predicted(found, single.labels) == dummy.predict(single.test.texts)).all()
    assert fitted.probabilities([]).shape == (0, 3)


def test_majority_of_several_labels_is_the_best_set_for_all(several):
    fitted = fit_majority(several)
    targets = several.train.targets.astype(int)
    guesses = predicted(fitted.probabilities(several.train.texts), several.labels, fitted.thresholds)
    assert len(np.unique(guesses, axis=0)) == 1
    k = several.labels.num_labels
    sets = [[number >> bit & 1 for bit in range(k)] for number in range(2**k)]
    best = max(f1_score(targets, np.tile(row, (len(targets), 1)), average="micro", zero_division=0) for row in sets)
    assert f1_score(targets, guesses, average="micro") == pytest.approx(best)


def test_tfidf_is_scikit_learns(single):
    fitted = fit_tfidf(single)
    own = {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"(?u)\b\w+\b"}

    def probabilities(texts, targets, asked, inverse_l2):
        vectorizer = TfidfVectorizer(**own).fit(texts)
        regression = LogisticRegression(C=inverse_l2, max_iter=1000)
        regression.fit(vectorizer.transform(texts), targets)
        return regression.predict_log_proba(vectorizer.transform(asked))

    train, validation = single.train, single.validation
    losses = {}
    for inverse_l2 in INVERSE_L2:
        found = probabilities(train.texts, train.targets, validation.texts, inverse_l2)
        losses[inverse_l2] = -found[np.arange(len(validation)), validation.targets].mean()
    assert fitted.fit.details["inverse_l2"] == min(losses, key=lambda inverse_l2: losses[inverse_l2])
    texts, targets = [*train.texts, *validation.texts], np.concatenate([train.targets, validation.targets])
    chosen = fitted.fit.details
    expected = probabilities(texts, targets, single.test.texts, chosen["inverse_l2"]) / chosen["temperature"]
    expected = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert np.allclose(fitted.probabilities(single.test.texts), expected, atol=1e-4)
    assert fitted.fit.details["temperature"] != 1 and fitted.thresholds is None
    # What it says of validation has not seen these rows.
    assert not np.allclose(fitted.held_out, fitted.probabilities(validation.texts), atol=1e-3)


def test_tfidf_of_several_labels(several):
    fitted = fit_tfidf(several)
    found = fitted.probabilities(several.test.texts)
    texts = [*several.train.texts, *several.validation.texts]
    targets = np.concatenate([several.train.targets, several.validation.targets])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b").fit(texts)
    regression = OneVsRestClassifier(LogisticRegression(C=fitted.fit.details["inverse_l2"], max_iter=1000))
    regression.fit(vectorizer.transform(texts), targets)
    logits = regression.decision_function(vectorizer.transform(several.test.texts)) / fitted.fit.details["temperature"]
    assert np.allclose(found, 1 / (1 + np.exp(-logits)), atol=1e-4)
    assert len(fitted.thresholds) == several.labels.num_labels
    report = score_predictions(several.test.targets, found, several.labels, thresholds=fitted.thresholds, resamples=0)
    assert report["f1_micro"] > 0.7
    assert fitted.parameters == several.labels.num_labels * (fitted.fit.details["features"] + 1)
    assert fitted.size_mb > 8 * fitted.parameters / 2**20


def test_labels_without_a_training_row_and_labels_of_all_rows(several):
    targets = several.train.targets.copy()
    targets[:, 0], targets[:, 1] = 0, 1
    rows = type(several.train)(several.train.texts, targets)
    validation = type(rows)(several.validation.take([0]).texts, targets[:1])
    data = replace(several, train=rows, validation=validation, calibration=several.test.take([]))
    found = fit_tfidf(data).probabilities(data.test.texts)
    assert (found[:, 0] < 1e-6).all() and (found[:, 1] > 1 - 1e-6).all()


def test_two_labels_and_a_label_of_which_no_row_is_left():
    texts, labels = ["a fine film", "a dull film", "so fine", "so dull", "what"], ["good", "bad", "good", "bad", "odd"]
    whole = load_data(
        {"train": (texts, labels), "validation": (["fine"], ["good"]), "test": (["dull", "fine"], ["bad", "good"])}
    )
    keep = [row for row, target in enumerate(whole.train.targets) if whole.labels.names[target] != "odd"]
    data = replace(whole, train=whole.train.take(keep))
    found = fit_tfidf(data).probabilities(data.test.texts)
    assert predicted(found, data.labels).tolist() == data.test.targets.tolist()
    assert found[:, data.labels.label2id["odd"]].max() < 1e-6 and np.allclose(found.sum(axis=1), 1)


def test_texts_without_blanks_are_cut_into_characters():
    good = ["房间很好", "服务好", "位置好极了", "早餐好", "很好", "真好"]
    bad = ["房间很差", "服务差", "位置差", "早餐差", "很差", "真差"]
    labels = ["good", "bad"]
    rows = {"train": (good + bad, ["good"] * 6 + ["bad"] * 6)}
    data = load_data(rows | {"validation": (["太好", "太差"], labels), "test": (["好房", "差房"], labels)})
    fitted = fit_tfidf(data)
    assert fitted.fit.details["analyzer"] == "char" and fitted.fit.details["ngrams"] == [1, 3]
    assert predicted(fitted.probabilities(data.test.texts), data.labels).tolist() == data.test.targets.tolist()


@pytest.mark.parametrize("name", BASELINES)
def test_test_is_not_looked_at(name, single):
    blind = replace(single, test=single.test.take([]))
    texts = single.test.texts
    seen, unseen = BASELINES[name](single), BASELINES[name](blind)
    assert np.array_equal(seen.probabilities(texts), unseen.probabilities(texts))
    told = {key: value for key, value in to_record(seen.fit).items() if key != "seconds"}
    assert told == {key: value for key, value in to_record(unseen.fit).items() if key != "seconds"}

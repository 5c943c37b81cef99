"""Baselines: the majority class, and TF-IDF with a logistic regression, beside scikit-learn's own."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier

from helpers.corpora import text_of
from helpers.runs import finetune
from nlptransfer import Classifier, RunResult
from nlptransfer.data.dataset import Data, DataSettings, load_data
from nlptransfer.evaluation import predicted, score_predictions
from nlptransfer.experiments import baselines
from nlptransfer.experiments.baselines import BASELINES, INVERSE_L2, fit_majority, fit_tfidf, quick_baselines
from nlptransfer.results import to_record

SOLVER = {"solver": "liblinear", "tol": 1e-6, "max_iter": 1000}
"""Not the one that is used, for the same optimum."""


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

    def logits(texts, targets, asked, inverse_l2):
        vectorizer = TfidfVectorizer(**own).fit(texts)
        regression = OneVsRestClassifier(LogisticRegression(C=inverse_l2, **SOLVER))
        return regression.fit(vectorizer.transform(texts), targets).decision_function(vectorizer.transform(asked))

    train, validation = single.train, single.validation
    losses = {}
    for inverse_l2 in INVERSE_L2:
        found = log_softmax(logits(train.texts, train.targets, validation.texts, inverse_l2), axis=1)
        losses[inverse_l2] = -found[np.arange(len(validation)), validation.targets].mean()
    assert fitted.fit.details["inverse_l2"] == min(losses, key=lambda inverse_l2: losses[inverse_l2])
    texts, targets = [*train.texts, *validation.texts], np.concatenate([train.targets, validation.targets])
    chosen = fitted.fit.details
    expected = logits(texts, targets, single.test.texts, chosen["inverse_l2"]) / chosen["temperature"]
    expected = softmax(expected, axis=1)
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
    regression = OneVsRestClassifier(LogisticRegression(C=fitted.fit.details["inverse_l2"], **SOLVER))
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


# Beside the result of a run


def test_quick_baselines_are_those_of_a_comparison_by_one_l2(single, several):
    for data in (single, several):
        found, test = quick_baselines(data), data.test
        assert [*found] == [*BASELINES]
        fitted = fit_majority(data)
        guesses = fitted.probabilities(test.texts)
        scores = score_predictions(test.targets, guesses, data.labels, thresholds=fitted.thresholds)
        assert found["majority"].scores == {"rows": len(test), **scores}
        assert found["tfidf"].scores["f1_micro"] > found["majority"].scores["f1_micro"] + 0.1
        assert (found["tfidf"].rows, found["tfidf"].is_sample) == (len(data.train), False)


def test_quick_baselines_of_many_rows_many_labels_and_long_texts_read_some(single, monkeypatch):
    monkeypatch.setattr(baselines, "QUICK_ROWS", 60)
    few = quick_baselines(single)["tfidf"]
    assert (few.rows, few.scores["rows"], few.is_sample) == (60, len(single.test), True)
    monkeypatch.setattr(baselines, "QUICK_BYTES_OF_LABELS", 3 * 1000)
    read = []
    monkeypatch.setitem(BASELINES, "majority", lambda data: read.append(data) or fit_majority(data))
    few = quick_baselines(single)["tfidf"]
    assert 10 <= few.rows < 60 and few.is_sample
    assert sum(map(len, read[0].train.texts)) <= 1000 and {*read[0].train.targets} == {0, 1, 2}
    long = replace(single, test=replace(single.test, texts=[text + " film" * 1000 for text in single.test.texts]))
    quick_baselines(long)
    assert max(map(len, read[1].test.texts)) == baselines.QUICK_CHARACTERS


def test_no_baseline_without_test_rows_and_none_of_words_without_words(single, caplog):
    assert quick_baselines(replace(single, test=single.test.take([]))) == {}
    mute = replace(single, train=replace(single.train, texts=["? !"] * len(single.train)))
    with caplog.at_level("INFO", "nlptransfer"):
        assert [*quick_baselines(mute)] == ["majority"]
    assert "no baseline tfidf" in caplog.text


@pytest.fixture(scope="module")
def tuned(vectors_file):
    return partial(finetune, base=vectors_file, head_type="linear", baseline=True)


def test_a_run_has_baselines_in_its_record_and_on_its_card(tuned, remarks, tmp_path):
    made = tuned(remarks, output_dir=tmp_path / "run")
    loaded = RunResult.load(made.folder)
    assert made.baselines == loaded.baselines and [*made.baselines] == [*BASELINES]
    assert {*made.metrics} == {*made.baselines["tfidf"].scores}
    assert made.cost.wall_seconds >= made.cost.train_seconds > 0
    card = Classifier.load(made.folder).record["results"]["baselines"]
    assert card["tfidf"]["scores"]["accuracy"] == made.baselines["tfidf"].scores["accuracy"]
    # What was finished is returned as it is.
    assert tuned(remarks, output_dir=made.folder, baseline=False).baselines == made.baselines
    assert tuned(remarks, output_dir=tmp_path / "without", baseline=False).baselines == {}


def test_baselines_beside_a_verdict_learn_from_the_target(tuned, remarks, tmp_path):
    run = tuned(remarks, source=remarks, seeds=1, output_dir=tmp_path)
    assert run.verdict is not None and run.baselines["tfidf"].rows == run.data.rows["train"]
    assert run.cost.wall_seconds > run.cost.train_seconds


def test_baselines_beside_a_run_without_labels_learn_from_the_source(tuned, remarks, tmp_path):
    run = tuned(remarks, source=remarks, transfer="selftrain", output_dir=tmp_path / "run")
    assert run.data.rows["train"] == 0 and run.baselines["tfidf"].rows == run.transfer.source.rows["train"]
    assert run.baselines["tfidf"].scores["rows"] == run.data.rows["test"]

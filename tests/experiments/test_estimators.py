"""TextClassifier and TextFeatures in what scikit-learn does with an estimator."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.encoders import SIZES, make_base
from helpers.runs import finetune
from nlptransfer import TextClassifier, TextFeatures
from nlptransfer.errors import DataError, SettingError


@pytest.fixture(scope="module")
def quick(vectors_file):
    return TextClassifier(base=vectors_file, head_type="linear", calibration_size=0)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return TextFeatures(make_base(tmp_path_factory.mktemp("base") / "bert", "bert", SIZES).path, max_length=16)


def test_it_predicts_what_finetune_predicts(quick, remarks, tmp_path):
    texts, labels = remarks
    fitted = clone(quick).fit(pd.Series(texts), np.array(labels))
    assert fitted.classes_.tolist() == ["negative", "positive"]
    run = finetune(remarks, base=quick.base, head_type="linear", calibration_size=0, test_size=0, output_dir=tmp_path)
    expected = run.classifier.probabilities(texts)
    np.testing.assert_array_equal(fitted.predict_proba(texts), expected)
    assert fitted.predict(texts).tolist() == [run.classifier.labels.names[place] for place in expected.argmax(axis=1)]
    assert fitted.score(texts, labels) == accuracy_score(labels, fitted.predict(texts)) > 0.9
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(texts), expected)


@pytest.mark.parametrize("kind", [bool, lambda one: 7 - 5 * one])
def test_labels_of_any_type_come_back_as_they_were(quick, remarks, kind):
    texts, names = remarks
    labels = np.array([kind(name == "positive") for name in names])
    fitted = clone(quick).fit(texts, labels)
    assert fitted.classes_.tolist() == sorted({*labels.tolist()})
    predicted = fitted.predict(texts)
    assert predicted.dtype == labels.dtype
    assert (predicted == labels).mean() > 0.9
    assert (fitted.classes_[fitted.predict_proba(texts).argmax(axis=1)] == predicted).all()


def test_several_labels_are_columns_of_0_and_1(quick, tickets):
    texts, rows = tickets
    names = sorted({name for row in rows for name in row})
    targets = np.array([[name in row for name in names] for row in rows], dtype=int)
    fitted = clone(quick).fit(texts, targets)
    predicted, probabilities = fitted.predict(texts), fitted.predict_proba(texts)
    assert predicted.shape == probabilities.shape == targets.shape
    assert (predicted == targets).mean() > 0.9
    assert (probabilities[targets == 1].mean()) > 0.5 > probabilities[targets == 0].mean()


def test_weights_of_rows_count(quick, remarks):
    texts, labels = remarks
    wrong = ["positive" if label == "negative" else "negative" for label in labels]
    weights = [1.0] * len(texts) + [0.0] * len(texts)
    fitted = clone(quick).fit([*texts, *(f"{text} again" for text in texts)], [*labels, *wrong], weights)
    assert fitted.score(texts, labels) > 0.9


def test_parameters_are_arguments_and_settings(quick):
    assert clone(quick).get_params() == quick.get_params()
    assert quick.get_params()["head_type"] == "linear" and quick.get_params()["route"] is None
    changed = clone(quick).set_params(route="word2vec", head_type="mlp", dropout=0.1)
    assert changed.get_params() == quick.get_params() | {"route": "word2vec", "head_type": "mlp", "dropout": 0.1}
    assert quick.get_params()["head_type"] == "linear"
    assert "head_type='mlp'" in repr(changed)


def test_it_is_searched_and_cross_validated(quick, remarks):
    texts, labels = (np.array(part[:40]) for part in remarks)
    grid = {"textclassifier__max_length": [1, 20]}
    search = GridSearchCV(make_pipeline(quick), grid, cv=2).fit(texts, labels)
    assert search.best_params_ == {"textclassifier__max_length": 20}
    assert search.best_score_ == pytest.approx(cross_val_score(search.best_estimator_, texts, labels, cv=2).mean())


def test_features_are_set_searched_and_named(features, remarks):
    texts, labels = (part[:40] for part in remarks)
    short = clone(features).set_params(max_length=3)
    assert short.get_params() == features.get_params() | {"max_length": 3} and features.get_params()["max_length"] == 16
    search = GridSearchCV(make_pipeline(features, LogisticRegression()), {"textfeatures__max_length": [3, 16]}, cv=2)
    assert search.fit(texts, labels).best_params_["textfeatures__max_length"] in (3, 16)
    named = clone(features).set_output(transform="pandas").fit_transform(texts)
    assert named.columns[0] == "feature_0"
    np.testing.assert_array_equal(named, clone(features).fit(texts).transform(texts))


def test_features_stand_beside_numbers(features, remarks):
    texts, labels = remarks
    frame = pd.DataFrame({"text": texts, "length": [len(text) for text in texts]})
    beside = ColumnTransformer([("text", features, "text"), ("number", StandardScaler(), ["length"])])
    matrix = beside.fit_transform(frame, labels)
    alone = clone(features).fit_transform(texts)
    assert alone.dtype == np.float32 and matrix.shape == (len(texts), alone.shape[1] + 1)
    np.testing.assert_array_equal(matrix[:, :-1].astype(np.float32), alone)
    assert beside.get_feature_names_out()[[0, -1]].tolist() == ["text__feature_0", "number__length"]
    model = make_pipeline(beside, LogisticRegression()).fit(frame, labels)
    again = pickle.loads(pickle.dumps(model))
    assert again.predict(frame).tolist() == model.predict(frame).tolist()


def test_what_is_wrong_is_said(quick, features, remarks):
    texts, labels = remarks
    with pytest.raises(NotFittedError):
        clone(quick).predict(texts)
    with pytest.raises(NotFittedError):
        clone(features).transform(texts)
    with pytest.raises(SettingError, match="unknown setting 'learning_rat': did you mean 'learning_rate'"):
        clone(quick).set_params(learning_rat=1).fit(texts, labels)
    with pytest.raises(SettingError, match="unknown setting 'max_len'"):
        TextFeatures(features.base, max_len=3).fit(texts)
    with pytest.raises(ValueError, match="Unknown label type"):
        clone(quick).fit(texts, np.linspace(0, 1, len(texts)))
    with pytest.raises(DataError):
        clone(quick).fit(texts[:-1], labels)

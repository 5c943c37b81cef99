"""The rows of an audit: folds that keep texts together, heads that have not seen a row, features out of the cache."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from helpers.runs import finetune
from nlptransfer.data import Data, load_data
from nlptransfer.errors import BaseModelError
from nlptransfer.evaluation import to_probabilities
from nlptransfer.experiments.auditing import rows as module
from nlptransfer.experiments.auditing.rows import FOLDS, AuditRows
from nlptransfer.routes import probe

Rows = tuple[list[str], list[Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, remarks: Rows) -> str:
    words = sorted({word for text in remarks[0] for word in text.lower().split() if word.isalpha()})
    return str(make_film_base(tmp_path_factory.mktemp("bases") / "knows", words=[*FILM_WORDS, *words]))


@pytest.fixture
def audited(remarks: Rows, base: str) -> AuditRows:
    return AuditRows.of(load_data(remarks, test_size=0), base)


def repeated(data: Data) -> Data:
    """Data whose first ten texts come again, with other case and marks."""
    train, again = data.train, data.train.take(range(10))
    texts = [*train.texts, *(f"{text.upper()} !" for text in again.texts)]
    both = replace(train, texts=texts, targets=np.concatenate([train.targets, again.targets]), numbers=None)
    return replace(data, train=both)


def test_texts_that_are_folded_alike_share_a_fold_and_labels_are_dealt_evenly(remarks: Rows, tickets: Rows) -> None:
    for source in (remarks, tickets):
        audited = AuditRows(repeated(load_data(source, test_size=0)), {}, None)
        assert (audited.folds[-10:] == audited.folds[:10]).all() and (audited.texts[-10:] == audited.texts[:10]).all()
        once = audited.folds[:-10]
        targets = audited.data.train.targets[:-10].reshape(len(once), -1)
        counts = np.array([[(targets[once == fold] == value).sum() for fold in range(FOLDS)] for value in (0, 1)])
        assert np.bincount(once).max() - np.bincount(once).min() <= 2
        assert (np.ptp(counts, axis=1) <= (1 if source is remarks else 15)).all()


def test_probabilities_are_those_of_logistic_regressions_on_the_other_folds(audited: AuditRows) -> None:
    features = np.asarray(audited.features("train"), np.float32)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    targets, strength = audited.data.train.targets, audited.head.record["l2"]
    expected = np.empty((len(targets), 2))
    for fold in range(FOLDS):
        out = audited.folds == fold
        reference = LogisticRegression(C=2 / strength, max_iter=1000).fit(features[~out], targets[~out])
        # scikit-learn has one weight for two labels, which is the difference of two: half the penalty.
        expected[out] = reference.predict_proba(features[out])
    assert (audited.out_of_fold.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.98
    assert np.corrcoef(audited.out_of_fold[:, 1], expected[:, 1])[0, 1] > 0.99
    assert audited.out_of_fold.dtype == np.float32 and np.allclose(audited.out_of_fold.sum(axis=1), 1, atol=1e-5)


def test_a_copy_does_not_vouch_for_a_wrong_label(remarks: Rows) -> None:
    data = repeated(load_data(remarks, test_size=0))
    wrong = data.train.targets.copy()
    wrong[-10:] = wrong[:10] = 1 - wrong[:10]
    data = replace(data, train=replace(data.train, targets=wrong))
    audited, vouched = AuditRows(data, {}, None), AuditRows(data, {}, None)
    # Each row a text of its own.
    vouched.__dict__["texts"] = np.arange(len(wrong))
    given, apart = (one.out_of_fold[np.arange(len(wrong)), wrong] for one in (audited, vouched))
    assert given[:10].mean() < 0.45 and given[-10:].mean() < 0.45 and given[10:-10].mean() > 0.6
    assert apart[:10].mean() > given[:10].mean() + 0.1


def test_heads_of_many_rows_are_fitted_on_some(
    audited: AuditRows, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "HEAD_ROWS", 80)
    monkeypatch.setattr(module, "BLOCK", 7)
    count = len(audited.data.train)
    with caplog.at_level(logging.INFO):
        assert len(audited.out_of_fold) == count > 80
    assert f"The classifiers that check labels learn from 80 of the {count} training rows" in caplog.text
    # The head of a fold is the same for rows that heads were fitted on and for others.
    head = audited.fitted(audited.folds != 2)
    values = audited._standardized("train", np.flatnonzero(audited.folds == 2))
    expected = to_probabilities(values @ head[0].T + head[1], audited.data.labels)
    np.testing.assert_allclose(audited.out_of_fold[audited.folds == 2], expected, atol=1e-5)


def test_features_are_those_that_a_training_by_the_frozen_route_reads(
    remarks: Rows, base: str, own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, through = list[int](), probe.through

    def counted(key: Any, model: Any, function: Any, encoded: Any) -> np.ndarray:
        def noted() -> Any:
            tokens = encoded()
            read.append(len(tokens))
            return tokens

        return through(key, model, function, noted)

    monkeypatch.setattr(probe, "through", counted)
    data = load_data(remarks)
    audited = AuditRows.of(data, base)
    for name in data.splits:
        features = audited.features(name)
        assert features.dtype == np.float16 and len(features) == len(data.splits[name])
    assert isinstance(audited.features("train"), np.memmap) and audited.features("train") is audited.features("train")
    once = [module.BUILT_ON, *filter(None, map(len, data.splits.values()))]
    assert read == once
    finetune(remarks, route="probe", base=base, output_dir=tmp_path / "run", save_model=False)
    assert read == once


@pytest.mark.parametrize("kind", ["remarks", "tickets"])
def test_without_an_encoder_words_are_looked_at(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: Any) -> Any:
        raise BaseModelError("no such encoder")

    monkeypatch.setattr(module, "find_base", none)
    monkeypatch.setattr(module, "base_for", lambda name, *_: name)
    data = load_data(request.getfixturevalue(kind))
    audited = AuditRows.of(data)
    assert audited.base is None and "TF-IDF takes its place" in caplog.text
    assert "no such encoder" in caplog.text
    for split, probabilities in (("train", audited.out_of_fold), ("test", audited.probabilities("test"))):
        targets = data.splits[split].targets
        guesses = probabilities > 0.5 if data.labels.multi_label else probabilities.argmax(axis=1)
        assert audited.features(split).shape[0] == len(targets) and audited.features(split).dtype == np.float16
        assert (guesses == targets).mean() > 0.8


def test_texts_without_words_have_features_that_say_nothing() -> None:
    data = load_data((["! !", "? !", ". ..", "- -", "; !", ": -", "( !", ") !"] * 4, ["a", "b"] * 16), test_size=0)
    audited = AuditRows(data, {}, None)
    assert audited.features("train").shape == (len(data.train), 1)
    np.testing.assert_allclose(audited.out_of_fold, 0.5, atol=0.2)


def test_frames_of_rows_have_their_numbers_in_the_source_and_all_their_labels(tickets: Rows) -> None:
    audited = AuditRows(load_data(tickets), {}, None)
    frame = audited.frame("validation", np.array([3, 0]))
    assert [*frame.columns] == ["split", "row", "text", "label"] and set(frame["split"]) == {"validation"}
    for number, text, label in frame[["row", "text", "label"]].itertuples(index=False):
        assert tickets[0][number - 1] == text and sorted(filter(None, label.split(", "))) == sorted(
            tickets[1][number - 1]
        )
    bare = replace(audited.data, validation=replace(audited.data.validation, numbers=None))
    assert [*AuditRows(bare, {}, None).frame("validation", np.array([3, 0]))["row"]] == [4, 1]

"""Whole runs with n-grams beside an encoder or word vectors: where they are chosen, what is saved and predicted."""

import logging
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from transformers import AutoModelForSequenceClassification, pipeline

import nlptransfer.word2vec
from helpers.classifiers import without_hashes
from helpers.corpora import FILM_WORDS
from helpers.encoders import make_film_base
from helpers.folders import RUN_FILES, files_of, no_path_in
from helpers.runs import finetune, record_of, same_weights
from nlptransfer import Classifier, Probe, RunResult, Word2Vec
from nlptransfer.errors import RunFolderError, SettingError
from nlptransfer.models.ngrams import Ngrams
from nlptransfer.vectors.store import save_vectors

SIZES = {"train": 60, "validation": 20, "test": 30}
# Neither the encoder nor the vectors know these.
OPINIONS = {"bad": ["awful", "dire", "grim"], "good": ["fine", "superb", "lovely"], "long": ["endless", "slow"]}
CHARACTERS = "酒店房间服务早餐位置前台价格"
CALIBRATED = {"calibration_size": 0.2}
WITH_NGRAMS = RUN_FILES | {"model/ngrams.safetensors"}


def opinions(count: int, draw: random.Random) -> tuple[list[str], list[Any]]:
    """Texts whose words tell their label, which the encoder takes for one unknown word."""
    labels = ["bad", "good"] * (count // 2)
    found = [[*draw.choices(FILM_WORDS, k=draw.randint(3, 7)), draw.choice(OPINIONS[label])] for label in labels]
    return [" ".join(draw.sample(words, len(words))) for words in found], labels


def several(count: int, draw: random.Random) -> tuple[list[str], list[Any]]:
    labels = [[name for name in OPINIONS if draw.random() < 0.4] for _ in range(count)]
    found = [draw.choices(FILM_WORDS, k=3) + [draw.choice(OPINIONS[name]) for name in names] for names in labels]
    return [" ".join(draw.sample(words, len(words))) for words in found], labels


def chinese(count: int, draw: random.Random) -> tuple[list[str], list[Any]]:
    labels = ["差", "好"] * (count // 2)
    found = [[*draw.choices(CHARACTERS, k=draw.randint(3, 9)), f"很{label}"] for label in labels]
    return ["".join(draw.sample(parts, len(parts))) for parts in found], labels


def loud(count: int, draw: random.Random) -> tuple[list[str], list[Any]]:
    """Each text twice, told apart by upper case: the encoder sees it, and to n-grams both are the same."""
    texts = [" ".join(draw.choices(FILM_WORDS, k=draw.randint(3, 7))) for _ in range(count // 2)]
    return [form for text in texts for form in (text, text.upper())], ["calm", "loud"] * (count // 2)


def splits_of(make: Callable[..., Any], seed: int = 0) -> dict[str, Any]:
    draw = random.Random(seed)
    return {name: make(count, draw) for name, count in SIZES.items()}


BESIDE_WORDS = Word2Vec(head_type="linear", features=("word2vec", "ngrams"))
CASES: dict[str, tuple[Any, Any]] = {
    "auto": (Probe(), opinions),
    "windows": (Probe(features=("ngrams", "encoder"), max_length=5, long_text="windows"), opinions),
    "several": (Probe(), several),
    "Chinese": (Probe(), chinese),
    "words": (BESIDE_WORDS, opinions),
    "words, several": (Word2Vec(**{"head_type": "linear", "features": ("ngrams", "word2vec")}), several),
}


@pytest.fixture(scope="module")
def bases_of(tmp_path_factory: pytest.TempPathFactory) -> dict[type, str]:
    folder = tmp_path_factory.mktemp("bases")
    matrix = np.random.default_rng(0).normal(size=(len(FILM_WORDS), 6)).astype(np.float32)
    save_vectors(folder / "vectors.txt", FILM_WORDS, matrix)
    return {Probe: make_film_base(folder / "encoder"), Word2Vec: str(folder / "vectors.txt")}


@pytest.fixture(scope="module")
def tune(bases_of: dict[type, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunResult]:
    def call(route: Any, data: Any, **settings: Any) -> RunResult:
        settings = {"base": bases_of[type(route)], "output_dir": tmp_path_factory.mktemp("run")} | settings
        return finetune(data, route=route, **settings)

    return call


@pytest.fixture(scope="module")
def known(tune: Callable[..., RunResult]) -> Callable[[str], RunResult]:
    """The cases by name, each run once."""

    @cache
    def case(name: str) -> RunResult:
        route, make = CASES[name]
        return tune(route, splits_of(make), **CALIBRATED)

    return case


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, known: Callable[[str], RunResult]) -> RunResult:
    return known(request.param)


def ngrams_of(run: RunResult) -> Any:
    ngrams = run.classifier.model.ngrams
    assert ngrams is not None
    return ngrams


def texts_of(run: RunResult) -> list[str]:
    make = chinese if "差" in run.data.labels.names else several if run.data.labels.multi_label else opinions
    return splits_of(make)["test"][0]


def test_files_and_record(run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert set(files_of(run.folder)) == WITH_NGRAMS
    no_path_in(run.folder, tmp_path_factory.getbasetemp())
    record = record_of(run.folder)
    assert "ngrams" in record["settings"]["route"]["features"] and len(record["settings"]["route"]["features"]) == 2
    assert run.classifier.route == Classifier.load(run.folder).route
    tried = record["training"]["ngrams"]
    assert tried["l2"] > 0 and len(tried["validation_scores"]) >= 3
    assert run.metrics["f1_micro"] > 0.75


def test_logits_are_those_of_the_formula(run: RunResult) -> None:
    model, route = run.classifier.model, run.classifier.route
    words = "差" not in run.data.labels.names
    # Of the training texts; rows of calibration are held out of them.
    ngrams, texts = ngrams_of(run), [*texts_of(run), "nothing of this", "unheard", "", "。"]
    form = {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"} if words else {"ngram_range": (1, 3)}
    peer = TfidfVectorizer(analyzer="word" if words else "char", sublinear_tf=True, vocabulary=ngrams.terms, **form)
    peer.idf_ = ngrams.idf
    rows = route.rows(model, run.classifier.tokenizer, texts, share=True)
    with torch.no_grad():
        (hidden,) = model(**rows.batch(np.arange(len(texts))), output_hidden_states=True).hidden_states
    width = hidden.shape[1]
    weight, bias = (value.detach().numpy() for value in (model.classifier.weight, model.classifier.bias))
    assert weight.shape == (run.data.labels.num_labels, width + len(ngrams)) and weight[:, width:].any()
    known = peer.transform(texts).toarray()
    assert not known[-3:].any() or not words
    expected = hidden.numpy() @ weight[:, :width].T + bias + known @ weight[:, width:].T
    # Features are in 16 bits in the cache.
    np.testing.assert_allclose(run.classifier.logits(texts), expected, atol=0.03)
    assert np.abs(known @ weight[:, width:].T).max() > 0.3


def test_a_text_alone_is_predicted_as_among_others(run: RunResult) -> None:
    texts = [*texts_of(run), "", "unheard", "awful " * 40]
    together = run.classifier.logits(texts)
    np.testing.assert_allclose(np.concatenate([run.classifier.logits([text]) for text in texts]), together, atol=1e-3)
    np.testing.assert_allclose(run.classifier.logits(texts[::-1], batch_size=3)[::-1], together, atol=1e-3)
    assert run.classifier.logits([]).shape == (0, run.data.labels.num_labels)


def test_what_was_saved_gives_the_same(run: RunResult, tmp_path: Path) -> None:
    texts = [*texts_of(run), "", "unheard"]
    loaded, wanted = Classifier.load(run.folder), run.classifier.logits(texts)
    np.testing.assert_allclose(loaded.logits(texts), wanted, atol=1e-6)
    # Saved again too.
    again = Classifier.load(loaded.save_pretrained(tmp_path / "again"))
    np.testing.assert_allclose(again.logits(texts), wanted, atol=1e-6)
    found = [row for row in pq.read_table(run.folder / "predictions.parquet").to_pylist() if row["split"] == "test"]
    predicted = loaded.predict(texts_of(run))
    expected = [row["probabilities"] for row in found]
    np.testing.assert_allclose([[*one.probabilities.values()] for one in predicted], expected, atol=5e-3)


# What is chosen


@pytest.mark.parametrize(
    ("kind", "alone"), [("auto", Probe(features=("encoder",))), ("words", Word2Vec(head_type="linear"))]
)
def test_ngrams_tell_what_frozen_features_cannot(kind: str, alone: Any, known: Any, tune: Any) -> None:
    without = tune(alone, splits_of(opinions), **CALIBRATED)
    assert known(kind).metrics["accuracy"] > 0.8 > 0.7 > without.metrics["accuracy"]
    assert set(files_of(without.folder)) == RUN_FILES


def test_what_was_chosen_is_the_route(known: Callable[[str], RunResult]) -> None:
    assert known("auto").classifier.route == Probe(features=("encoder", "ngrams"))
    for name in ("windows", "words"):
        assert known(name).classifier.route == CASES[name][0]


def test_ngrams_that_do_not_help_leave_nothing_behind(
    tune: Callable[..., RunResult], caplog: pytest.LogCaptureFixture
) -> None:
    data = splits_of(loud, 8)
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        chosen, alone = tune(Probe(), data), tune(Probe(features=("encoder",)), data)
    said = [line for line in caplog.messages if "(n-grams)" in line]
    assert said == ["Words and word pairs (n-grams) are left out, as held-out rows gain nothing by them"]
    assert chosen.metrics["accuracy"] > 0.8
    assert set(files_of(chosen.folder)) == RUN_FILES
    assert same_weights(chosen, alone) and chosen.scores == alone.scores
    assert record_of(chosen.folder)["settings"]["route"] == record_of(alone.folder)["settings"]["route"]
    for name in ("config.json", "model.safetensors"):
        one, other = (run.folder / "model" / name for run in (chosen, alone))
        assert one.read_bytes() == other.read_bytes()
    assert record_of(chosen.folder)["training"]["ngrams"]["l2"] is None
    loaded = Classifier.load(chosen.folder)
    assert loaded.route.recorded()["features"] == ("encoder",) and loaded.model.ngrams is None
    # Asked for by name they stay.
    named = tune(Probe(features=("encoder", "ngrams")), data)
    assert set(files_of(named.folder)) == WITH_NGRAMS and ngrams_of(named)


@pytest.mark.parametrize("kind", ["auto", "words"])
def test_texts_without_a_word_are_no_mistake(kind: str, tune: Callable[..., RunResult]) -> None:
    draw = random.Random(0)
    rows = {name: ["?" * draw.randint(1, 9) + " " + "!" * draw.randint(1, 9) for _ in range(20)] for name in SIZES}
    data = {name: (texts, ["a", "b"] * 10) for name, texts in rows.items()}
    run = tune(CASES[kind][0], data)
    assert set(files_of(run.folder)) == RUN_FILES
    texts = ["?! !", "a good film"]
    np.testing.assert_allclose(Classifier.load(run.folder).logits(texts), run.classifier.logits(texts), atol=1e-6)


# Runs that are there


def test_the_same_call_returns_the_run_and_other_features_are_refused(
    known: Callable[[str], RunResult], tune: Callable[..., RunResult], tmp_path: Path
) -> None:
    data, first = splits_of(opinions), known("auto")
    folder = copytree(first.folder, tmp_path / "run")
    before = files_of(folder)
    settings = {"output_dir": folder, **CALIBRATED}
    assert tune(Probe(), data, **settings).scores == first.scores
    with pytest.raises(RunFolderError, match=r"features='auto'.*features=\['encoder', 'ngrams'\]"):
        tune(Probe(features=("encoder", "ngrams")), data, **settings)
    assert files_of(folder) == before
    # Anew, without n-grams, leaves none behind.
    tune(Probe(features=("encoder",)), data, overwrite=True, **settings)
    assert set(files_of(folder)) == RUN_FILES
    Classifier.load(folder)


@pytest.mark.parametrize("kind", ["auto", "words"])
def test_a_damaged_file_of_ngrams_is_named(kind: str, known: Callable[[str], RunResult], tmp_path: Path) -> None:
    folder = copytree(known(kind).folder, tmp_path / "run")
    file = without_hashes(folder / "model") / "ngrams.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    with pytest.raises(RunFolderError, match=r"ngrams\.safetensors: expected n-grams and their weights, found"):
        Classifier.load(folder)
    count = len(ngrams_of(known(kind)))
    none, others = {
        "auto": (rf"expected {count} n-grams, found 0: fetch it again", rf"expected {count} n-grams, found 3: fetch"),
        "words": (r"this classifier's n-grams \(features=word2vec,ngrams\), found .*not the file of them",) * 2,
    }[kind]
    file.unlink()
    with pytest.raises(RunFolderError, match=none):
        Classifier.load(folder)
    Ngrams.of(["a film"], 2).save(folder / "model")
    with pytest.raises(RunFolderError, match=others):
        Classifier.load(folder)


# Beside word vectors


def test_transformers_alone_refuses_word_vectors_with_ngrams(known: Callable[[str], RunResult]) -> None:
    folder = known("words").folder / "model"
    message = (
        r"Classifier\.load, which reads this classifier's n-grams \(features=word2vec,ngrams\), found transformers"
    )
    with pytest.raises(RunFolderError, match=message):
        AutoModelForSequenceClassification.from_pretrained(folder)
    with pytest.raises(RunFolderError, match=message):
        pipeline("text-classification", model=str(folder))
    assert nlptransfer.word2vec is not None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head_type": "cnn"}, r"head_type='cnn': expected head_type=linear beside ngrams"),
        ({"head_type": "mlp"}, r"head_type='mlp': expected head_type=linear beside ngrams"),
        ({"head_type": "linear", "train_vectors": True}, r"train_vectors=True: expected False beside ngrams"),
        ({"features": ("ngrams",)}, r"features=\('ngrams',\): expected word2vec among them, and"),
        ({"features": ("word2vec", "word2vec")}, r"features=.*: expected word2vec among them, and each at most once"),
        ({"features": ("encoder", "ngrams")}, r"features=.*: expected one of 'word2vec', 'ngrams'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str, tune: Callable[..., RunResult]) -> None:
    route = Word2Vec(**{"features": ("word2vec", "ngrams"), "head_type": "linear", **settings})
    with pytest.raises(SettingError, match=message):
        tune(route, splits_of(opinions))

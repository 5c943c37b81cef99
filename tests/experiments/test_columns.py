"""Columns that make one text together, weights in the loss of every route, other names of labels; and the record."""

import random

import numpy as np
import pytest

from helpers.corpora import splits, texts_of, topic_rows, topic_splits
from helpers.runs import finetune, record_of
from helpers.transfers import ALONE, ROUTES
from nlptransfer import Classifier, compare
from nlptransfer.data.dataset import load_data
from nlptransfer.errors import DataError, SettingError

FLIPPED = {"good": "bad", "bad": "good"}


def settings_of(route, vectors_file, bases):
    of_route = ALONE | ROUTES[route] | {"num_train_epochs": 8}
    return of_route | {"base": vectors_file if route.startswith("words") else str(bases("bert").path)}


def with_lies(route):
    """Splits whose train has as many rows of wrong labels, of little weight, as of right ones."""
    right = topic_splits({"train": 60, "validation": 16, "test": 40}, 0) if route.startswith("words") else splits(60, 0)
    wrong, labels = topic_rows(60, random.Random(9)) if route.startswith("words") else texts_of(60, 9)
    texts, names = right["train"]
    train = {
        "text": [*texts, *wrong],
        "label": [*names, *(FLIPPED[label] for label in labels)],
        "weight": [1.0] * 60 + [0.001] * 60,
    }
    return {**right, "train": train}


@pytest.mark.parametrize("route", ROUTES)
def test_weights_count_in_the_loss_of_every_route(route, vectors_file, bases, tmp_path):
    settings = settings_of(route, vectors_file, bases)
    weighted = finetune(with_lies(route), output_dir=tmp_path / "a", weight_column="weight", **settings)
    alike = finetune(with_lies(route), output_dir=tmp_path / "b", **settings)
    assert weighted.metrics["accuracy"] >= 0.85 > alike.metrics["accuracy"]
    assert record_of(tmp_path / "a")["settings"]["data"]["weight_column"] == "weight"
    assert weighted.question != alike.question


def test_weights_count_in_the_baseline_and_in_a_source(vectors_file, tmp_path):
    rows, folder = with_lies("words linear"), tmp_path / "compared"
    found = compare(rows, routes=["tfidf"], seeds=1, weight_column="weight", output_dir=folder, progress=False)
    assert found.table[0]["score"] >= 0.85
    target = topic_splits({"train": 20, "validation": 16, "test": 40}, 3)
    settings = {"base": vectors_file, "route": "word2vec", "head_type": "linear", "transfer": "copy", "verdict": False}
    for number, column in enumerate(("weight", None)):
        run = finetune(target, source=rows, output_dir=tmp_path / str(number), source_weight_column=column, **settings)
        assert (run.metrics["accuracy"] >= 0.85) == (column is not None)


def test_files_of_the_source_are_read_by_settings_of_their_own(vectors_file, tmp_path):
    (texts, labels), target = topic_rows(60, random.Random(1)), tmp_path / "target.csv"
    lines = [f"{text};{label} é" for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "source.csv").write_bytes("\n".join(["text;label", *lines]).encode("cp1252"))
    target.write_text("\n".join(["text|label", *lines]).replace(";", "|"), encoding="utf-8")
    settings = {"base": vectors_file, "route": "word2vec", "head_type": "linear", "transfer": "copy", "verdict": False}
    settings |= {"source": tmp_path / "source.csv", "separator": "|"}
    reading = {"encoding": "cp1252", "separator": ";"}
    run = finetune(target, output_dir=tmp_path / "run", source_reading=reading, **settings)
    assert run.metrics["accuracy"] >= 0.85 and run.data.labels.names == ("bad é", "good é")
    with pytest.raises(DataError, match="encoding=cp1252"):
        finetune(target, output_dir=tmp_path / "no", **settings)
    with pytest.raises(SettingError, match="unknown setting 'coding': did you mean 'encoding'"):
        finetune(target, output_dir=tmp_path / "no", source_reading={"coding": "cp1252"}, **settings)


def test_rows_of_weight_zero_are_left_out_of_training_alone():
    texts = [f"text {row}" for row in range(200)]
    rows = {"text": texts, "label": ["a", "b"] * 100, "w": [0, 1, 2, 3] * 50}
    data = load_data(rows, weight_column="w")
    assert set(data.train.weights.tolist()) == {1, 2, 3}
    assert 0 in data.test.weights and {len(data.test), len(data.validation)} == {40, 16}
    place = {text: row for row, text in enumerate(texts)}
    for split in data.splits.values():
        assert split.row_weights().tolist() == [place[text] % 4 for text in split.texts]
    again = load_data({**rows, "w": [0, 1, 2, 4] * 50}, weight_column="w")
    assert again.fingerprints()["train"]["hash"] != data.fingerprints()["train"]["hash"]


def test_altered_copies_weigh_as_their_row(vectors_file, tmp_path):
    settings = {"route": "word2vec", "head_type": "linear", "base": vectors_file, "augment_copies": 1}
    run = finetune(with_lies("words"), output_dir=tmp_path, weight_column="weight", **settings)
    assert run.metrics["accuracy"] >= 0.85


def two_columns(rows):
    texts, labels = rows
    return {"title": [text.split()[0] for text in texts], "body": [text.partition(" ")[2] for text in texts],
            "label": labels}  # fmt: skip


@pytest.mark.parametrize("route", ["words linear", "full"])
def test_several_columns_are_one_text(route, vectors_file, bases, tmp_path):
    whole = topic_splits({"train": 60, "validation": 16, "test": 40}, 0) if route.startswith("words") else splits(60, 0)
    rows = {split: two_columns(of_split) for split, of_split in whole.items()}
    columns = ["title", "body"]
    run = finetune(rows, output_dir=tmp_path, text_column=columns, **settings_of(route, vectors_file, bases))
    assert run.metrics["accuracy"] >= 0.85
    assert record_of(tmp_path)["settings"]["data"]["text_column"] == columns
    title, body = rows["test"]["title"][0], rows["test"]["body"][0]
    # Neither the words' tokenizer nor the tiny encoder's has a separator.
    joined = f"{title}\n{body}"
    found = run.classifier.predict([{"title": title, "body": body}])
    np.testing.assert_allclose(found[0].score, run.classifier.predict([joined])[0].score, rtol=1e-5)
    assert Classifier.load(tmp_path).text_columns == ("title", "body")
    scores = run.classifier.evaluate(rows["test"])
    assert scores["accuracy"] == run.metrics["accuracy"] == run.classifier.evaluate(whole["test"])["accuracy"]


def test_labels_get_other_names_and_several_become_one(vectors_file, tmp_path):
    rows = topic_splits({"train": 60, "validation": 16, "test": 40}, 0)
    rows["train"] = (
        rows["train"][0],
        [label.upper() if row % 3 else label for row, label in enumerate(rows["train"][1])],
    )
    mapping = {"GOOD": "good", "BAD": "bad"}
    settings = {"route": "word2vec", "head_type": "linear", "base": vectors_file, "label_mapping": mapping}
    run = finetune(rows, output_dir=tmp_path / "run", **settings)
    assert run.data.labels.names == ("bad", "good") and run.metrics["accuracy"] >= 0.85
    assert "label_mapping" in run.command
    with pytest.raises(SettingError, match="label_mapping: data has no label 'god': did you mean 'good'"):
        load_data(rows, label_mapping={"god": "good"})
    source = topic_splits({"train": 60, "validation": 16, "test": 40}, 1, {"good": "fine"})
    both = settings | {"label_mapping": mapping | {"fine": "good"}, "transfer": "copy", "verdict": False}
    assert finetune(rows, source=source, output_dir=tmp_path / "both", **both).metrics["accuracy"] >= 0.85
    with pytest.raises(SettingError, match="label_mapping: source and target have no label 'fin': did you mean 'fine'"):
        finetune(
            rows, source=source, output_dir=tmp_path / "no", **both | {"label_mapping": {**mapping, "fin": "good"}}
        )

"""Texts without labels: what is read of a file, of splits and of a table, and what they add to the data."""

import pytest

from helpers.corpora import topic_splits
from nlptransfer.data.dataset import DataSettings, load_data
from nlptransfer.data.labels import Labels
from nlptransfer.data.unlabeled import load_texts, load_unlabeled, with_unlabeled
from nlptransfer.errors import DataError

LABELS = Labels(("bad", "good"))


def test_texts_are_read_once_each_and_normalized(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "One  text"}\n{"text": "one text"}\n{"text": " "}\n{"text": "two"}\n')
    assert load_texts(file, DataSettings(normalization="lower")) == ("one text", "two")
    with pytest.raises(DataError, match="expected texts, found none"):
        load_texts(["", "  "])


def test_labels_of_training_rows_are_not_read(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,what\nb,ever\nc,\n")
    (folder / "test.csv").write_text("text,label\nd,good\nb,bad\n")
    data = load_unlabeled(folder, LABELS)
    # What is in test too is left out.
    assert data.unlabeled == ("a", "c") and data.test.texts == ["d", "b"]
    assert [len(split) for split in data.splits.values()] == [0, 0, 0, 2]
    (folder / "test.csv").write_text("text,label\nd,fine\n")
    with pytest.raises(DataError, match="fine"):
        load_unlabeled(folder, LABELS)


def test_a_table_with_labels_and_no_test_gets_one(tmp_path):
    rows = topic_splits({"train": 60}, 0)["train"]
    data = load_unlabeled(rows, LABELS, DataSettings(max_train_rows=20))
    assert len(data.test) == len(load_data(rows).test) and len(data.unlabeled) == 20
    with pytest.raises(DataError, match="label_mapping"):
        load_unlabeled((rows[0], ["x", "y"] * 30), LABELS)


def test_further_texts_are_part_of_the_fingerprint():
    data = load_data(topic_splits({"train": 30, "test": 4}, 0))
    more = with_unlabeled(data, ["one", "two"])
    assert "unlabeled" not in data.fingerprints()
    assert more.fingerprints()["unlabeled"]["rows"] == 2 and "unlabeled 2" in repr(more)

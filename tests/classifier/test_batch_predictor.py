"""BatchPredictor: batches of every kind as an engine hands them out, what travels to its processes, and errors."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from helpers.classifiers import LABELS, SEVERAL, TEXTS, changed, write_vectors
from nlptransfer import BatchPredictor, Classifier, Word2Vec
from nlptransfer.classifier import batch_predictor
from nlptransfer.errors import DataError, RunFolderError, SettingError

ROWS = [*TEXTS, *(f"word{number} word{number % 7}" for number in range(19))]
"""Among them one without words, which gets no label."""


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[..., Path]:
    """Save a classifier that has learned noise."""
    root = tmp_path_factory.mktemp("saved")
    vectors = write_vectors(root / "vectors.txt")

    def save(name: str, labels: Any = LABELS) -> Path:
        return changed(Word2Vec(head_type="linear"), vectors, labels).save_pretrained(root / name)

    return save


@pytest.fixture(scope="module")
def folder(make) -> Path:
    return make("one")


@pytest.fixture(scope="module")
def several(make) -> Path:
    return make("several", SEVERAL)


def wanted(folder: Path, **options: Any) -> dict[str, list[Any]]:
    """The columns that predict_file writes."""
    (predicted,) = Classifier.load(folder).batches(ROWS)
    return {name: values.to_pylist() for name, values in predicted.columns(**options).items()}


def same(found: Any, expected: list[Any]) -> bool:
    """Whether labels of a column are the same and scores nearly, None and NaN alike."""
    found = found.to_pylist() if isinstance(found, (pa.Array, pa.ChunkedArray)) else [*found]
    some = [(None if value != value else value, other) for value, other in zip(found, expected, strict=True)]
    return all(a == b if b is None or isinstance(b, str) else a == pytest.approx(b, abs=1e-6) for a, b in some)


FRAME = pd.DataFrame({"id": range(len(ROWS)), "says": ROWS}, index=range(100, 100 + len(ROWS)))
TABLE = pa.table({"id": pa.array(range(len(ROWS)), pa.int16()), "says": ROWS}).replace_schema_metadata({"a": "b"})
BATCHES = {
    "arrays": {"id": np.arange(len(ROWS)), "says": np.array(ROWS, dtype=object)},
    "arrays of numpy's strings": {"says": np.array(ROWS)},
    "lists": {"id": [*range(len(ROWS))], "says": ROWS},
    "frame": FRAME,
    "frame on Arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "table": TABLE,
    "table of bytes": pa.table({"says": pa.array([text.encode() for text in ROWS])}),
    "table in chunks": pa.concat_tables([TABLE.slice(0, 7), TABLE.slice(7)]),
    "record batch": TABLE.to_batches()[0],
}


@pytest.mark.parametrize("name", BATCHES)
def test_each_kind_of_batch_comes_back_with_what_predict_gives(name, folder):
    batch = BATCHES[name]
    found = BatchPredictor(folder, text_column="says")(batch)
    assert type(found) is type(batch)
    names = [*(batch.schema.names if isinstance(batch, (pa.Table, pa.RecordBatch)) else batch)]
    assert [*(found.schema.names if isinstance(found, (pa.Table, pa.RecordBatch)) else found)] == [
        *names, "label", "score"
    ]  # fmt: skip
    expected = wanted(folder)
    assert expected["label"].count(None) == 1
    assert all(same(found[name], expected[name]) for name in ("label", "score"))
    if isinstance(batch, dict):
        assert all(found[column] is batch[column] for column in batch)
        assert {type(found[name]) for name in ("label", "score")} == {type(batch["says"])}
    elif isinstance(batch, pd.DataFrame):
        pd.testing.assert_frame_equal(found[names], batch)
        assert found["score"].dtype == np.float32 and [*batch] == names
    else:
        assert found.select(names).equals(batch) and found.schema.metadata == batch.schema.metadata
        assert found.schema.types[-2:] == [pa.string(), pa.float32()]


@pytest.mark.parametrize("name", ["arrays", "lists", "frame", "table", "record batch"])
def test_batches_without_rows_have_the_columns_too(name, folder):
    batch = BATCHES[name]
    none = {key: column[:0] for key, column in batch.items()} if isinstance(batch, dict) else batch[:0]
    found, whole = (BatchPredictor(folder, text_column="says")(each) for each in (none, batch))
    assert len(found["label"]) == len(found["score"]) == 0
    if isinstance(batch, (pa.Table, pa.RecordBatch)):
        assert found.schema == whole.schema
    elif name == "frame":
        assert [*found.dtypes] == [*whole.dtypes]


def test_outputs_are_columns_of_predict_file(folder, several):
    expected = wanted(folder, all_scores=True)
    found = BatchPredictor(folder, "says", ["score_good", "label"])(BATCHES["lists"])
    assert [*found] == ["id", "says", "score_good", "label"]
    assert same(found["score_good"], expected["score_good"]) and found["label"] == expected["label"]
    expected = wanted(several)
    for name in ("lists", "table", "frame"):
        found = BatchPredictor(several, "says", ("labels", "scores"))(BATCHES[name])
        labels = found["labels"].to_pylist() if name == "table" else found["labels"]
        assert [None if each is None else [*each] for each in labels] == expected["labels"]
    schema = BatchPredictor(several, "says", ("labels", "scores"))(TABLE).schema
    assert schema.types[-2:] == [pa.list_(pa.string()), pa.list_(pa.float32())]


def test_several_text_columns_are_read_as_predict_reads_them(folder):
    rows = {"title": ROWS, "body": ROWS[::-1]}
    expected = [each.labels for each in Classifier.load(folder).predict(rows, text_column=["title", "body"])]
    found = BatchPredictor(folder, ["title", "body"])(rows)
    assert [() if label is None else (label,) for label in found["label"]] == expected


def test_small_when_pickled_and_loaded_once_in_a_process(folder, monkeypatch):
    loads = []
    load = Classifier.load
    monkeypatch.setattr(batch_predictor, "_loaded", {})
    monkeypatch.setattr(Classifier, "load", lambda *args, **named: loads.append(args) or load(*args, **named))
    pickled = pickle.dumps(BatchPredictor(folder, text_column="says"))
    assert len(pickled) < 400 + len(str(folder)) and not loads
    workers = [pickle.loads(pickled) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        labels = {tuple(found["label"]) for found in pool.map(lambda worker: worker(BATCHES["lists"]), workers)}
    assert len(loads) == len(labels) == 1


def test_a_classifier_that_was_replaced_is_not_taken_for_the_other(make, folder):
    path = make("replaced")
    worker = BatchPredictor(path, "says")
    assert worker == pickle.loads(pickle.dumps(worker)) == BatchPredictor(str(path), ("says",))
    worker(TABLE)
    again = make("replaced", SEVERAL)
    # The one in memory is the one that was meant; a process that has to load it finds another.
    assert worker(TABLE).num_rows == len(ROWS)
    batch_predictor._loaded.clear()
    with pytest.raises(RunFolderError, match="the classifier that was there when the worker was made, found another"):
        worker(TABLE)
    assert BatchPredictor(again, "says", "labels")(TABLE).num_columns == 3


def test_folders_are_found_from_other_folders(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    worker = BatchPredictor(folder.name, "says")
    monkeypatch.chdir(tmp_path)
    assert worker(TABLE).num_columns == 4 and worker.source == str(folder)
    # What lies on the hub is looked for by those who need it.
    assert (BatchPredictor("me/reviews", "says").source, BatchPredictor("me/reviews", "says").saved) == (
        "me/reviews", None
    )  # fmt: skip


def test_map_of_datasets_deals_gpus_round_by_rank(folder, monkeypatch):
    rows, devices, expected = datasets.Dataset.from_dict({"says": ROWS}), [], wanted(folder)["label"]
    load = Classifier.load
    monkeypatch.setattr(batch_predictor, "_loaded", {})
    monkeypatch.setattr(Classifier, "load", lambda source, device: devices.append(device) or load(source))
    worker = BatchPredictor(folder, "says")
    found = rows.map(worker, batched=True, with_rank=True, batch_size=7)
    assert found["label"][:] == expected and devices == [None]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for rank in range(4):
        worker(TABLE, rank)
    assert devices == [None, "cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((), r"outputs=\(\): expected names of columns, each once, as label and score"),
        (("label", "label"), r"outputs=\('label', 'label'\): expected names"),
    ],
)
def test_outputs_that_make_no_sense(outputs, message, folder):
    with pytest.raises(SettingError, match=message):
        BatchPredictor(folder, "says", outputs)


def test_what_is_not_there(folder, several, tmp_path):
    worker = BatchPredictor(folder, "says")
    for batch, message in [
        ({"text": ROWS}, r"batch: expected one column 'says' \(text_column\), found only 'text'"),
        (TABLE.rename_columns(["says", "says"]), r"batch: expected one column 'says' \(text_column\), found 2"),
        ({"says": ROWS, "score": ROWS}, "expected no column 'score', as predictions go there, found one: rename it"),
        (ROWS, "batch: expected a dict of columns, a DataFrame or an Arrow table, found list"),
        ({"says": [1, 2]}, "row 1: expected text, found int 1"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            worker(batch)
    for path, outputs, message in [
        (folder, ("labels",), r"outputs=\('labels',\): expected of label, score, found 'labels'"),
        (folder, ("label", "score_x"), "expected of label, score, score_bad, score_good, found 'score_x'"),
        (several, ("label", "score"), "expected of labels, scores, found 'label'"),
    ]:
        with pytest.raises(SettingError, match=message):
            BatchPredictor(path, "says", outputs)(TABLE)
    with pytest.raises(RunFolderError, match="expected a saved classifier, found no nlptransfer"):
        BatchPredictor(tmp_path, "says")

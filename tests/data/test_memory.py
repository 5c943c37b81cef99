"""Rows in memory as tables, in every form that Python has them in, and what broken ones say."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nlptransfer.data.memory import table_of
from nlptransfer.data.reading import open_source, read_table
from nlptransfer.errors import DataError

TEXTS, LABELS = ["a", "b"], [0, 1]
COLUMNS = {"text": TEXTS, "label": LABELS}


class PolarsFrame:
    """Stands for polars' frame, which is told by its module and read through Arrow."""

    def to_arrow(self):
        return pa.table(COLUMNS)


@pytest.mark.parametrize(
    "rows",
    [
        (TEXTS, LABELS),
        [TEXTS, LABELS],
        (np.array(TEXTS), pd.Series(LABELS)),
        (pd.Series(TEXTS), np.array(LABELS)),
        (pa.array(TEXTS), pa.chunked_array([LABELS])),
        pd.DataFrame(COLUMNS),
        datasets.Dataset.from_dict(COLUMNS),
        datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(),
        pa.table(COLUMNS),
        pa.record_batch(COLUMNS),
        pa.table({"text": [b"a", b"b"], "label": LABELS}),
        COLUMNS,
        {"text": np.array(TEXTS), "label": pd.Series(LABELS)},
        [{"text": "a", "label": 0}, {"text": "b", "label": 1}],
    ],
    ids=lambda rows: type(rows).__name__,
)
def test_labeled_rows(rows):
    table = read_table(rows, "data")
    assert {name: table.values(name) for name in table.columns} == COLUMNS and len(table) == 2


def test_polars_frames_are_read_through_arrow(monkeypatch):
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(DataFrame=PolarsFrame))
    table = table_of(PolarsFrame(), "data")
    assert {name: table.values(name) for name in table.columns} == COLUMNS


@pytest.mark.parametrize("texts", [TEXTS, tuple(TEXTS), np.array(TEXTS), pd.Series(TEXTS), pa.array(TEXTS)])
def test_texts_alone(texts):
    table = table_of(texts, "data")
    assert table.columns == {"text": TEXTS} and not table.has_header


def test_missing_fields_and_matrices():
    table = table_of([{"text": "a"}, {"label": 1, "text": "b", "x": [1]}], "data")
    assert table.columns == {"text": ["a", "b"], "label": [None, 1], "x": [None, [1]]}
    assert table_of((TEXTS, np.array([[0, 1], [1, 0]])), "data").columns["label"] == [[0, 1], [1, 0]]


def test_class_names_come_with_datasets(tmp_path):
    label, tag = datasets.ClassLabel(names=["z", "a"]), datasets.ClassLabel(names=["u", "v"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.List(tag)})
    whole = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS, "tags": [[1], []]}, features=features)
    table = table_of(whole.select([1]), "")
    assert [table.values(name) for name in ("text", "label", "tags")] == [["b"], [1], [[]]]
    assert table.class_names == table_of(whole.to_iterable_dataset(), "").class_names
    assert table.class_names == {"label": ("z", "a"), "tags": ("u", "v")}
    whole.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", "").class_names == table.class_names
    assert open_source(datasets.DatasetDict(train=whole, dev=whole)).parts.keys() == {"train", "validation"}


def test_bytes_that_are_no_text_are_left_out_and_named(caplog):
    with caplog.at_level("INFO", logger="nlptransfer"):
        table = table_of(pa.table({"text": TEXTS, "picture": [b"\xff\xd8", b"x"]}), "data")
    assert [*table.columns] == ["text"]
    assert "data: columns left out, as they hold bytes that are no UTF-8: 'picture'" in caplog.text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"data: expected a path, a hub id, .* or \(texts, labels\), found int"),
        ((TEXTS, [0]), "data: expected as many values in every column, found 2 of 'text' and 1 of 'label'"),
        ((TEXTS, 0), "data: expected a list of labels, found int"),
        ({"text": "a"}, "data: expected a list of texts, found str"),
        (
            pd.DataFrame([["a", "b"]], columns=["text", "text"]),
            "expected distinct column names, found 'text' twice; ren",
        ),
    ],
)
def test_values_that_are_no_rows(value, message):
    with pytest.raises(DataError, match=message):
        table_of(value, "data")


def test_text_that_is_no_utf8_is_refused():
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(DataError, match=r"data: expected whole Arrow columns, found Column 0.*; make them anew"):
        table_of(pa.table({"text": broken}), "data")

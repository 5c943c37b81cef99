"""Every kind of source as raw columns, texts as a stream, and what broken ones say."""

import io
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tables import KINDS, QUOTED, ROWS, parquet, write
from nlptransfer.data.reading import WHOLE, Table, clean_text, find_columns, open_source, read_table, read_texts
from nlptransfer.errors import DataError


def read(path: Path) -> list[dict]:
    table = read_table(path, "")
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True)]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(tmp_path, kind, packed):
    path = write(tmp_path / f"films{kind}{packed}", KINDS[kind])
    assert read(path) == ROWS
    assert open_source(path).name == open_source(str(path)).name == "films"
    assert list(read_texts(path)) == [row["text"] for row in ROWS]


def test_json_file_may_have_an_object_a_line(tmp_path):
    assert read(write(tmp_path / "a.json", "\n" + KINDS[".jsonl"])) == ROWS


def test_csv_details(tmp_path):
    content = "\ufefftext,label\r\nNA,null\r\n,\r\n\r\nnan,None\r\n" + "x" * 300_000 + ",1\r\n"
    rows = read(write(tmp_path / "a.csv", content))
    assert rows[:3] == [{"text": "NA", "label": "null"}, {"text": "", "label": ""}, {"text": "nan", "label": "None"}]
    assert len(rows[3]["text"]) == 300_000


def test_tsv_with_bare_quotes(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"good film\t1\nsaid "no" twice\t0\n')
    assert [row["text"] for row in read(path)] == ['"good film', 'said "no" twice']


def test_missing_keys_and_further_columns(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"label": 1, "text": "b", "x": [1]}\n')
    assert read(path) == [{"text": "a", "label": None, "x": None}, {"text": "b", "label": 1, "x": [1]}]


def test_memory_sources(tmp_path):
    import datasets
    import numpy as np
    import pandas as pd

    assert read_table((["a", "b"], [0, 1]), "").columns == {"text": ["a", "b"], "label": [0, 1]}
    assert read_table((np.array(["a"]), pd.Series([1])), "").columns == {"text": ["a"], "label": [1]}
    assert read_table(pd.DataFrame({"text": ["a"], "label": [2]}), "").columns == {"text": ["a"], "label": [2]}
    label, tag = datasets.ClassLabel(names=["z", "a"]), datasets.ClassLabel(names=["u", "v"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": datasets.List(tag)})
    whole = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1], "tags": [[1], []]}, features=features)
    table = read_table(whole.select([1]), "")
    assert table.columns == {"text": ["b"], "label": [1], "tags": [[]]}
    assert table.class_names == {"label": ("z", "a"), "tags": ("u", "v")}
    whole.to_parquet(tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet", "").class_names == table.class_names
    assert open_source(datasets.DatasetDict(train=whole, dev=whole)).parts.keys() == {"train", "validation"}
    with pytest.raises(DataError, match="data: expected distinct column names, found 'text', 'text'; rename them"):
        read_table(pd.DataFrame([["a", "b"]], columns=["text", "text"]), "data")


def test_folder(tmp_path, caplog):
    for name in ("train.csv.gz", "dev.csv", "TEST.csv", "unlabeled.csv", "notes.txt", ".hidden"):
        write(tmp_path / name, QUOTED)
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        found = open_source(tmp_path)
    names = {"train": "train.csv.gz", "validation": "dev.csv", "test": "TEST.csv"}
    assert {split: path.name for split, path in found.parts.items()} == names and found.name == tmp_path.name
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: left alone: notes.txt, unlabeled.csv"]


def test_hub_is_asked_only_when_there_is_no_such_path(tmp_path, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or {"train": 1, "extra": 2})
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "films", "")
    assert open_source("films").parts == {WHOLE: Path("films")}
    assert open_source("user/gadgets").parts == {"train": 1} and asked == ["user/gadgets"]


def test_hub_that_fails(monkeypatch):
    import datasets

    def fail(name):
        raise ConnectionError("Couldn't reach the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = r"'user/films': no such file or folder here, and as a hub id it cannot be loaded: Couldn't reach the Hub;"
    with pytest.raises(DataError, match=message):
        open_source("user/films")


@pytest.mark.parametrize("source", ["nowhere.csv", "/nowhere/at/all", "a b", "../films", "x/y/z", Path("films")])
def test_no_such_file(source):
    with pytest.raises(DataError, match=f"{source}: no such file or folder; check the path"):
        open_source(source)


def test_sources_that_cannot_be_opened(tmp_path):
    with pytest.raises(DataError, match=r"expected files named train, validation, test .* found nothing"):
        open_source(tmp_path)
    write(tmp_path / "films.csv", QUOTED)
    with pytest.raises(DataError, match=r"found films\.csv"):
        open_source(tmp_path)
    write(tmp_path / "train.csv", QUOTED)
    write(tmp_path / "train.jsonl.gz", "")
    with pytest.raises(DataError, match=r"expected one train split, found two \(train is the second\); keep one"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"the splits given: expected splits named .* found unsupervised"):
        open_source({"unsupervised": (["a"], [0])})


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (3, r"data: expected a path, a hub id, .* or \(texts, labels\), found int"),
        (("a", "b"), "found tuple"),
        ((["a", "b"], [0]), "data: expected as many labels as texts, found 2 texts and 1 labels"),
        ([{"text": "a"}, {"text": "b"}], "expected a list of texts, found dict"),
        ((["a", "b"], 0), "expected a list of labels, found int"),
        (".", "expected a file, found a folder"),
        ("gone.csv", r"gone\.csv: expected a file, found no such file"),
    ],
)
def test_parts_that_are_no_table(part, message):
    with pytest.raises(DataError, match=message):
        read_table(part, "data")


def columns(**values):
    return Table("f.csv", {name: [value] for name, value in values.items()})


@pytest.mark.parametrize(
    ("table", "found"),
    [
        (columns(text="a", label="b"), ("text", "label")),
        (columns(Label=1, Sentence="a", id=3), ("Sentence", "Label")),
        (columns(text="a", title="t", labels=["b"]), ("text", "labels")),
        (columns(review="a", label=1, category="books"), ("review", "label")),
        (columns(title="t", content="a", class_=1, target=2), ("content", "target")),
        (columns(utterance="a", outcome="b"), ("utterance", "outcome")),
        (columns(words="a", score=1), ("words", "score")),
        (columns(words="a", label="b"), ("words", "label")),
        (columns(words="some", number="3"), ("words", "number")),
    ],
)
def test_columns_are_found(table, found):
    assert find_columns(table) == found


def test_columns_that_are_asked_for():
    table = columns(text="a", other="b", label=1, aspect=2)
    assert find_columns(table, "other", "aspect") == ("other", "aspect")
    assert find_columns(table, label_column="text") == ("other", "text")


@pytest.mark.parametrize(
    ("table", "asked", "message"),
    [
        (columns(a="x", b=1), ("c", None), r"f.csv: expected the column 'c' \(text_column\), found only 'a', 'b'; set"),
        (columns(a="x", b=1), (None, "c"), r"expected the column 'c' \(label_column\), found only 'a', 'b'; set label"),
        (columns(a="x", b="y"), (), r"expected one text column, found several .* it \('a', 'b'\).*set text_column"),
        (columns(a=1, b=2), (), "expected one text column, found none among the columns 'a', 'b'; set text_column"),
        (columns(text="x"), (), "expected one label column, found none among the columns 'text'; set label_column"),
        (columns(text="x", a=1, b=2), (), r"expected one label column, found several that could be it \('a', 'b'\)"),
        (columns(text="x", label=1, labels=2), (), r"several that could be it \('label', 'labels'\)"),
        (columns(sentence="x", review="y", label=1), (), r"several that could be it \('sentence', 'review'\)"),
        (columns(text="x", label=1), ("text", "text"), "found 'text' set as both"),
    ],
)
def test_columns_that_are_not_found(table, asked, message):
    with pytest.raises(DataError, match=message):
        find_columns(table, *asked)


@given(st.text(st.characters(codec="utf-8"), max_size=20))
def test_clean_text_is_idempotent(text):
    assert clean_text(clean_text(text, ""), "") == clean_text(text, "")


def test_missing_texts_are_empty():
    assert clean_text(None, "") == clean_text(float("nan"), "") == ""


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "here: expected text, found int 3; make the column plain strings, or name another one as text_column"),
        (["a"], "expected text, found list"),
        (b"a", "expected text, found bytes"),
        ("a\ud83d", "here: expected Unicode text, found half a surrogate pair"),
    ],
)
def test_values_that_are_no_text(value, message):
    with pytest.raises(DataError, match=message):
        clean_text(value, "here")


# Texts for prediction


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_texts_of_lines(tmp_path, name):
    path = write(tmp_path / name, "\ufeffone\r\n\n two \u2028x\ncafe\u0301")
    assert list(read_texts(str(path))) == ["one", "", " two \u2028x", "café"]


def test_texts_without_labels_and_with_none(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", '{"id": 3, "words": "a"}\n{"words": null}\n{"words": "b", "more": 1}\n')
    assert list(read_texts(path)) == ["a", "", "b"]
    assert list(read_texts(write(tmp_path / "a.csv", "anything\nNA\n3\n"))) == ["NA", "3"]
    assert list(read_texts(write(tmp_path / "b.csv", "a,label,b\nx,y,z\n"), text_column="b")) == ["z"]
    content = parquet([{"text": None, "n": 1}, {"text": "b", "n": 2}])
    assert list(read_texts(write(tmp_path / "a.parquet", content))) == ["", "b"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt", "a.json"])
def test_empty_files_have_no_text(tmp_path, name):
    assert list(read_texts(write(tmp_path / name, ""))) == []


def test_iterables_are_streamed():
    def endless():
        while True:
            yield "cafe\u0301"

    assert next(read_texts(endless())) == "café"
    assert list(read_texts(["a", ""])) == ["a", ""]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_files_are_streamed(tmp_path, name):
    line = {"a.jsonl": '{"text": "x"}\n', "a.csv": "x\n", "a.txt": "x\n"}[name]
    path = write(tmp_path / name, ("text\n" if name == "a.csv" else "") + line * 100_000)
    with path.open("ab") as handle:
        handle.write(b"\xff\n")
    texts = read_texts(path)
    assert next(texts) == "x"
    with pytest.raises(DataError, match=r"line 10000[12]: expected UTF-8"):
        list(texts)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one\n{two\n", ["one", "{two"]),
        ("{not json\nb\n", ["{not json", "b"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ("", []),
    ],
)
def test_standard_input(monkeypatch, content, texts):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert list(read_texts("-")) == texts
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    assert list(read_texts("-")) == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\nx,y\n", "a.csv: expected one text column, found several"),
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "row 2: expected 'text', found 'txt'"),
        ("a.jsonl", '{"text": ["x"]}\n', "row 1, column 'text': expected text, found list"),
        ("a.pdf", "", r"a.pdf: expected a file of kind .txt, .csv, .* found .pdf"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_texts(write(tmp_path / name, content)))


def test_texts_from_nowhere():
    with pytest.raises(DataError, match=r"what a film: expected a file of texts, found no such file; .* go in a list"):
        read_texts("what a film")
    with pytest.raises(DataError, match="text 2: expected a string, found int 3"):
        list(read_texts(["a", 3]))  # type: ignore[list-item]

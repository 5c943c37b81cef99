"""Every kind of source as raw columns, texts as a stream, and what broken ones say."""

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from helpers.tables import KINDS, QUOTED, ROWS, parquet, write
from nlptransfer.data.files.parsing import FileSettings
from nlptransfer.data.reading import WHOLE, open_source, read_table, read_texts, stream_tables
from nlptransfer.errors import DataError


def read(path: Path) -> list[dict]:
    table = read_table(path, "")
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*map(table.values, table.columns), strict=True)]


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file(tmp_path, kind, packed):
    path = write(tmp_path / f"films{kind}{packed}", KINDS[kind])
    assert read(path) == ROWS
    assert open_source(path).name == open_source(str(path)).name == "films"
    assert list(read_texts(path)) == [row["text"] for row in ROWS]


def test_csv_details(tmp_path):
    content = "\ufefftext,label\r\nNA,null\r\n,\r\n\r\nnan,None\r\n" + "x" * 300_000 + ",1\r\n"
    rows = read(write(tmp_path / "a.csv", content))
    assert rows[:3] == [{"text": "NA", "label": "null"}, {"text": "", "label": ""}, {"text": "nan", "label": "None"}]
    assert len(rows[3]["text"]) == 300_000


def test_folder(tmp_path, caplog):
    for name in ("train.csv.gz", "dev.csv", "TEST.csv", "unlabeled.csv", "notes.txt", ".hidden"):
        write(tmp_path / name, QUOTED)
    with caplog.at_level(logging.INFO, logger="nlptransfer"):
        found = open_source(tmp_path)
    names = {"train": "train.csv.gz", "validation": "dev.csv", "test": "TEST.csv"}
    assert {split: path.name for split, path in found.parts.items()} == names and found.name == tmp_path.name
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: not read: notes.txt, unlabeled.csv"]


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


@pytest.mark.parametrize(
    "source", ["nowhere.csv", "nowhere.txt", "/nowhere/at/all", "../films", "x/y/z", Path("films")]
)
def test_no_such_file(source):
    with pytest.raises(DataError, match=f"{source}: no such file or folder; check the path"):
        open_source(source)


def test_sources_that_cannot_be_opened(tmp_path):
    import datasets

    with pytest.raises(DataError, match=r"expected files named train, validation, test .* found nothing"):
        open_source(tmp_path)
    with pytest.raises(DataError, match=r"the splits given: expected splits named .* found unsupervised"):
        open_source(datasets.DatasetDict(unsupervised=datasets.Dataset.from_dict({"text": ["a"]})))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (3, r"data: expected a path, a hub id, .* or \(texts, labels\), found int"),
        (".", "expected a file, found a folder"),
        ("gone.csv", r"gone\.csv: expected a file, found no such file"),
    ],
)
def test_parts_that_are_no_table(part, message):
    with pytest.raises(DataError, match=message):
        read_table(part, "data")


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


def test_a_file_with_a_header_alone_has_no_text(tmp_path):
    assert list(read_texts(write(tmp_path / "a.csv", "text,label\n"))) == []


def test_iterables_are_streamed():
    def endless():
        while True:
            yield "cafe\u0301"

    assert next(read_texts(endless())) == "café"
    assert list(read_texts(["a", ""])) == ["a", ""]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_files_are_streamed(tmp_path, name):
    text = "a film " * 20
    line = {"a.jsonl": f'{{"text": "{text}"}}\n'}.get(name, f"{text}\n")
    path = write(tmp_path / name, ("text\n" if name == "a.csv" else "") + line * 20_000)
    with path.open("ab") as handle:
        handle.write(b"\xff\n")
    texts = read_texts(path)
    assert next(texts) == text
    with pytest.raises(DataError, match=r"line 2000[12]: expected UTF-8"):
        list(texts)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("one\n{two\n", ["one", "{two"]),
        ("{not json\nb\n", ["{not json", "b"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),
        ('\ufeff{"text": "a"}', ["a"]),
        ("{}\n{}\n", ["", ""]),
        ("caf\u00e9\n\nx", ["caf\u00e9", "", "x"]),
        ("", []),
    ],
)
def test_standard_input(monkeypatch, content, texts):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert list(read_texts("-")) == texts
    monkeypatch.setattr(sys, "stdin", io.StringIO(content))
    assert list(read_texts("-")) == texts


@pytest.mark.parametrize(
    ("content", "settings", "columns", "rows"),
    [
        ('said;n\na, b;1\n"c;\nd";2\n', {}, ["said"], {"said": ["a, b", "c;\nd"], "n": ["1", "2"]}),
        ('said\n"a, b"\nc, d\n', {}, ["said"], {"said": ["a, b", "c, d"]}),
        ("x|y\n1|2\n", {"separator": "|"}, [], {"x": ["1"], "y": ["2"]}),
        ("x\ty\n1\t2\n", {"header": True}, [], {"x": ["1"], "y": ["2"]}),
        ('x,y\n"1,2\n', {"separator": ",", "quoting": "none"}, [], {"x": ['"1'], "y": ["2"]}),
        ("x,text\n1,2\n", {"header": False}, ["text"], {"text": ["x,text", "1,2"]}),
        ("x,y\n1,2\n", {}, ["text"], {"text": ["x,y", "1,2"]}),
        ("said,n\n", {}, ["said"], {"said": [], "n": []}),
    ],
)
def test_cells_from_standard_input(monkeypatch, caplog, content, settings, columns, rows):
    caplog.set_level("INFO", "nlptransfer")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode()), newline=""))
    tables = [*stream_tables("-", FileSettings(**settings), columns)]
    assert {name: [value for table in tables for value in table.values(name)] for name in tables[0].columns} == rows
    assert ("standard input: the first line is a header" in caplog.text) == ("text" not in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "said,n\na,1\nb,c,2\n",
            "standard input, line 3: expected 2 cells as in the header, found 3: .*; put quotes around",
        ),
        ('said,n\n"a" b,1\n', "standard input, line 2: expected the quotes .*; set quoting=none"),
    ],
)
def test_broken_cells_from_standard_input(monkeypatch, content, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    with pytest.raises(DataError, match=message):
        list(stream_tables("-", columns=["said"]))


AS_ROWS = [lambda text: text, lambda text: f'{{"text": "{text}"}}', lambda text: f'1,"{text}"']


@pytest.mark.parametrize("as_row", AS_ROWS)
def test_standard_input_is_answered_as_it_comes(monkeypatch, as_row):
    reading, writing = os.pipe()
    with open(reading) as stdin, open(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr(sys, "stdin", stdin)
        tables = stream_tables("-", columns=["text"])
        if as_row is AS_ROWS[2]:
            pipe.write(b"n,text\n")
        for number, texts in enumerate((["a"], ["b", "c"], ["d"])):
            pipe.write("".join(as_row(text) + "\n" for text in texts).encode())
            table = next(tables)
            assert (table.values("text"), table.first_row) == (texts, (1, 2, 4)[number])
        pipe.write(as_row("caf\u00e9").encode()[:-3])
        pipe.write(as_row("caf\u00e9").encode()[-3:])
        pipe.close()
        assert [table.values("text") for table in tables] == [["caf\u00e9"]]


def test_standard_input_that_is_no_text(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ok\n\xff\n")))
    with pytest.raises(DataError, match=r"standard input, line 2: expected UTF-8, found the byte 0xff at position 1"):
        list(read_texts("-"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\nx,y\n", "a.csv: expected one text column, found several"),
        ("a.jsonl", '{"text": ["x"]}\n', "row 1.*: expected text, found list"),
        ("a.pdf", "%PDF-1.4", r"a.pdf: expected rows, found a PDF; name a file of rows"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_texts(write(tmp_path / name, content)))


def test_texts_from_nowhere():
    with pytest.raises(DataError, match=r"what a film: expected a file of texts, found no such file; .* go in a list"):
        read_texts("what a film")
    with pytest.raises(DataError, match="row 2: expected text, found int 3"):
        list(read_texts(["a", 3]))

"""Rows with what was predicted for them, written to files of every kind and read back."""

import csv
import gzip
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlptransfer.classifier import output
from nlptransfer.classifier.output import check_free, check_output, free_names, open_output
from nlptransfer.data import Table
from nlptransfer.errors import DataError, StorageError

ADDED = {"label": pa.array(["a", None]), "score": pa.array([0.5, None], pa.float32())}
TYPED = pa.table(
    {
        "text": ["ün, \"q\"\r\n", "b\tb"],
        "whole": pa.array([1, None], pa.int8()),
        "number": pa.array([0.1, float("nan")]),
        "flag": [True, None],
        "day": [date(2024, 2, 29), None],
        "moment": pa.array([datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        "clock": [time(1, 2, 3), None],
        "price": [Decimal("1.50"), None],
        "tags": [["x", "ü"], None],
        "deep": [{"inner": [{"n": 1}]}, None],
        "image": [b"\xff\x00", None],
        "bytes": ["zwölf".encode(), b""],
        "kind": pa.array(["k", None]).dictionary_encode(),
    },
    metadata={b"of": b"mine"},
)  # fmt: skip


def table(columns, **more):
    return Table("rows", columns, **more)


def arrow_rows(arrow):
    return table(dict(zip(arrow.schema.names, arrow.columns, strict=True)), arrow=arrow)


def written(path, *parts, raw_cells=False):
    with open_output(path, raw_cells) as writer:
        for rows, added in parts:
            writer.write(rows, added)
    return path


def test_parquet_keeps_every_type_and_the_schemas_metadata(tmp_path):
    found = pq.read_table(written(tmp_path / "a.parquet", (arrow_rows(TYPED), ADDED)))
    assert found.select(TYPED.schema.names).schema == TYPED.schema and found.schema.metadata == {b"of": b"mine"}
    assert str(found.select(TYPED.schema.names).to_pylist()) == str(TYPED.to_pylist())
    assert found.schema.names[-2:] == ["label", "score"] and found.select(["label", "score"]).to_pylist() == [
        {"label": "a", "score": 0.5}, {"label": None, "score": None},
    ]  # fmt: skip
    assert pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_csv_and_tsv_keep_strings_and_write_the_rest_as_it_reads(tmp_path):
    expected = [
        ["ün, \"q\"\r\n", "1", "0.1", "true", "2024-02-29", "2024-02-29T01:02:03+00:00", "01:02:03", "1.50",
         '["x", "ü"]', '{"inner": [{"n": 1}]}', "/wA=", "zwölf", "k", "a", "0.5"],
        ["b\tb", "", "nan", *[""] * 12],
    ]  # fmt: skip
    for name, delimiter, opened in (("a.csv", ",", open), ("a.tsv", "\t", open), ("a.csv.gz", ",", gzip.open)):
        path = written(tmp_path / name, (arrow_rows(TYPED), ADDED))
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, delimiter=delimiter, strict=True)
        assert header == [*TYPED.schema.names, "label", "score"] and rows == expected


def test_jsonl_keeps_what_json_has_and_writes_the_rest_as_text(tmp_path):
    for name, opened in (("a.jsonl", open), ("a.jsonl.gz", gzip.open)):
        path = written(tmp_path / name, (arrow_rows(TYPED), ADDED))
        with opened(path, "rt", encoding="utf-8") as file:
            first, second = map(json.loads, file)
        assert list(first) == [*TYPED.schema.names, "label", "score"]
        assert first == {
            "text": "ün, \"q\"\r\n", "whole": 1, "number": 0.1, "flag": True, "day": "2024-02-29",
            "moment": "2024-02-29T01:02:03+00:00", "clock": "01:02:03", "price": "1.50", "tags": ["x", "ü"],
            "deep": {"inner": [{"n": 1}]}, "image": "/wA=", "bytes": "zwölf", "kind": "k", "label": "a", "score": 0.5,
        }  # fmt: skip
        # JSON has no NaN.
        assert {name: value for name, value in second.items() if value is not None} == {"text": "b\tb", "bytes": ""}
    assert output.as_json({"for": timedelta(hours=1)}) == '{"for": "1:00:00"}'
    assert output.as_json([{"n": [float("inf")]}]) == '[{"n": [null]}]'


CELLS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["", '"', "\r", "\n", ",", "\t", "a\rb", "007"]
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_cells_read_back_as_they_were(tmp_path_factory, data):
    names = data.draw(st.lists(CELLS, min_size=1, max_size=4, unique=True))
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=6))
    columns = {name: pa.array(list(cells)) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}
    half = len(rows) // 2
    added = {"predicted": pa.array(["x"] * len(rows))}
    parts = [
        (table({name: column[of] for name, column in columns.items()}), {"predicted": added["predicted"][of]})
        for of in (slice(half), slice(half, None))
    ]
    folder = tmp_path_factory.mktemp("cells")
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with written(folder / name, *parts, raw_cells=True).open(encoding="utf-8", newline="") as file:
            assert [*csv.reader(file, delimiter=delimiter, strict=True)] == [
                [*names, "predicted"], *([*row, "x"] for row in rows)
            ]  # fmt: skip
    with written(folder / "a.jsonl", *parts).open(encoding="utf-8") as file:
        assert [json.loads(line) for line in file] == [
            {**dict(zip(names, row, strict=True)), "predicted": "x"} for row in rows
        ]
    assert pq.read_table(written(folder / "a.parquet", *parts)).equals(pa.table(columns | added))


# Blocks of different types


def block(values, row=1):
    rows = len(next(iter(values.values())))
    return table(values, first_row=row), {"label": pa.array(["a"] * rows)}


def test_parquet_widens_types_where_later_rows_need_it(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "ROW_GROUP_BYTES", 1)
    blocks = [
        {"n": [1, 2], "o": [None, None], "s": [{"a": 1}, None]},
        {"n": [1, None], "o": ["x", None], "s": [{"a": 2}, {}]},
        {"n": [0.5], "s": [{"a": 1, "b": ["y"]}]},
        {"s": [{"b": []}], "o": ["z"], "late": [True]},
        {"n": [4], "o": ["w"]},
    ]
    path = written(tmp_path / "a.parquet", *map(block, blocks))
    assert [*tmp_path.iterdir()] == [path]
    found = pq.read_table(path)
    assert found.schema.names == ["n", "o", "s", "late", "label"]
    columns = found.to_pydict()
    assert columns["n"] == [1.0, 2.0, 1.0, None, 0.5, None, 4.0] and columns["late"] == [None] * 5 + [True, None]
    assert columns["o"] == [None, None, "x", None, None, "z", "w"] and columns["label"] == ["a"] * 7
    assert columns["s"][:2] == [{"a": 1, "b": None}, None] and columns["s"][4] == {"a": 1, "b": ["y"]}


@pytest.mark.parametrize(
    "blocks",
    [
        [{"n": [1, 2]}, {"n": ["x"]}],
        [{"n": [1, "x"]}],
        [{"n": [1]}, {"n": [{"a": 1}, 2]}],
        [{"n": [{}]}],
    ],
)
def test_types_that_parquet_cannot_hold_together_are_one_line(tmp_path, blocks):
    path = tmp_path / "a.parquet"
    with pytest.raises(
        DataError, match=rf"{path}: expected rows that parquet can hold, .*\bn\b.*; write .jsonl"
    ) as raised:
        written(path, *map(block, blocks))
    assert "\n" not in str(raised.value) and not [*tmp_path.iterdir()]
    written(tmp_path / "a.jsonl", *map(block, blocks))
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [value for each in blocks for value in each["n"]]


def test_csv_has_the_columns_of_its_header(tmp_path):
    path = written(tmp_path / "a.csv", block({"a": ["1"], "b": ["2"]}), block({"b": ["3"]}))
    assert path.read_text() == "a,b,label\n1,2,a\n,3,a\n"
    with pytest.raises(DataError, match=r"found 'c' besides from row 2 on: write .jsonl or .parquet"):
        written(tmp_path / "b.csv", block({"a": ["1"]}), block({"a": ["3"], "c": ["4"]}))
    assert [*tmp_path.iterdir()] == [path]


def test_rows_are_written_by_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "ROW_GROUP_BYTES", 1000)
    path = written(tmp_path / "a.parquet", *(block({"a": ["x" * 96]}) for _ in range(45)))
    sizes = [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(5)]
    assert sizes[0] == sizes[1] < 11 and sum(sizes) == 45


# Names and places


def test_added_columns_take_no_name_that_is_there(caplog):
    caplog.set_level("INFO", "nlptransfer")
    names = ["label", "score"]
    assert free_names(names, table({"text": [], "labels": []}), "in") == {"label": "label", "score": "score"}
    assert not caplog.records
    assert free_names(names, table({"score": []}), "in.csv") == {"label": "predicted_label", "score": "predicted_score"}
    assert caplog.messages == [
        "in.csv: there is a column 'score' already, so predictions go to 'predicted_label', 'predicted_score'"
    ]
    taken = table({"label": [], "predicted_score": [], "predicted_2_label": []})
    assert free_names(names, taken, "in") == {"label": "predicted_3_label", "score": "predicted_3_score"}
    # Bytes that are no text are no column of the table, and yet of the file.
    image = pa.table({"score": [b"\xff"]})
    assert free_names(names, table({}, arrow=image), "in")["label"] == "predicted_label"


def test_later_rows_take_no_name_of_the_predictions():
    check_free(["label"], table({"text": []}), "out.csv")
    with pytest.raises(DataError, match=r"out.csv: .* found 'label' besides from row 8 on, where predictions go: give"):
        check_free(["label"], table({"text": [], "label": []}, first_row=8), "out.csv")


def test_halves_of_surrogate_pairs_are_escaped_or_refused(tmp_path):
    rows = block({"a": ["ü \ud800", "b"]})
    path = written(tmp_path / "a.jsonl", rows)
    assert [json.loads(line)["a"] for line in path.read_text(encoding="utf-8").splitlines()] == ["ü \ud800", "b"]
    for name in ("a.csv", "a.tsv", "a.parquet"):
        with pytest.raises(DataError, match=rf"{name}: expected .*write .jsonl") as raised:
            written(tmp_path / name, rows)
        assert "\n" not in str(raised.value)
    assert [*tmp_path.iterdir()] == [path]


def test_outputs_that_are_refused(tmp_path):
    rows, folder = tmp_path / "rows.csv", tmp_path / "parts"
    rows.write_text("text\na\n")
    folder.mkdir()
    (tmp_path / "soft.csv").symlink_to(rows)
    (tmp_path / "hard.csv").hardlink_to(rows)
    for name in ("soft.csv", "hard.csv", "rows.csv", "parts/../rows.csv"):
        with pytest.raises(DataError, match=r"expected an output that is not the input: name another file"):
            check_output(tmp_path / name, str(rows))
    with pytest.raises(DataError, match="not the input"):
        check_output(folder / "new.csv", folder)
    with pytest.raises(DataError, match=r"parts: expected a file to write, found a folder"):
        check_output(folder, rows)
    for name, ending in (("a.xlsx", ".xlsx"), ("a", "no ending"), ("a.parquet.gz", ".parquet.gz"), ("a.json", ".json")):
        with pytest.raises(DataError, match=rf"named .csv, .tsv, .jsonl, .parquet .*, found {ending}"):
            check_output(tmp_path / name, rows)
    for name in ("new.csv", "NEW.TSV.GZ", "a.b.jsonl", "hard.parquet"):
        for source in (rows, "-", ["a"], tmp_path / "nowhere.csv"):
            assert check_output(str(tmp_path / name), source) == tmp_path / name


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"a.csv: cannot be written: "), open_output(tmp_path / "file" / "a.csv"):
        pass


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_times_that_python_has_not_are_written_as_arrow_writes_them(tmp_path, ending):
    far = pa.chunked_array([pa.array([2**62 - 1], pa.duration("s"))])
    path = written(tmp_path / f"a{ending}", (table({"far": far}), {}))
    assert str(2**62 - 1) in path.read_text()
    nowhere = pa.chunked_array([pa.array([1], pa.timestamp("ns", "Nowhere/City"))])
    with pytest.raises(DataError, match=r"column 'x': expected values that can be written as text, found .*; write"):
        written(tmp_path / f"b{ending}", (table({"x": nowhere}), {}))

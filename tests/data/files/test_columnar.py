"""Parquet, Arrow and Excel files as tables."""

import datetime
import io
import json
import logging
import sys

import numpy as np
import openpyxl
import pandas as pd
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tables import rows_of
from nlptransfer.data.files.parsing import FileSettings, joined, read_file, stream_file
from nlptransfer.data.memory import table_of
from nlptransfer.errors import DataError, SettingError

ROWS = [{"text": f"text {number}", "label": number % 3, "tags": ["a"] * (number % 2)} for number in range(10_000)]
WHOLE = pyarrow.Table.from_pylist(ROWS)
WRITERS = {
    "parquet": lambda table, path: pyarrow.parquet.write_table(table, path),
    "parquet of many groups": lambda table, path: pyarrow.parquet.write_table(table, path, row_group_size=700),
    "parquet by zstd": lambda table, path: pyarrow.parquet.write_table(table, path, compression="zstd"),
    "feather": lambda table, path: pyarrow.feather.write_feather(table, path),
    "feather plain": lambda table, path: pyarrow.feather.write_feather(table, path, compression="uncompressed"),
    "stream": lambda table, path: stream(table, path),
}


def stream(table, path) -> None:
    with pyarrow.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, 3000)


@pytest.mark.parametrize("writer", WRITERS)
def test_what_pyarrow_writes_reads_back(tmp_path, writer):
    path = tmp_path / "a.data"
    WRITERS[writer](WHOLE, path)
    assert rows_of(read_file(path, FileSettings())) == ROWS
    tables = list(stream_file(path, FileSettings()))
    assert max(map(len, tables)) <= 4096 and len(tables) > 1
    assert rows_of(joined(tables)) == ROWS
    assert [table.first_row for table in tables] == (np.cumsum([0, *map(len, tables)])[:-1] + 1).tolist()
    WRITERS[writer](WHOLE.slice(0, 0), path)
    (empty,) = stream_file(path, FileSettings())
    assert [*empty.columns] == ["text", "label", "tags"] and len(empty) == 0


SCALARS = st.one_of(
    st.lists(kind, min_size=1, max_size=5)
    for kind in (
        st.text(max_size=5),
        st.integers(-(2**62), 2**62),
        st.booleans(),
        st.floats(allow_nan=False),
        st.dates(),
    )
)


@settings(deadline=None, max_examples=50)
@given(SCALARS)
def test_values_of_any_type_read_back(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("values") / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"x": [*values, None]}), path)
    assert read_file(path, FileSettings()).values("x") == [*values, None]


def test_what_pandas_writes_reads_back(tmp_path):
    frame = pd.DataFrame({"text": ["a", None], "kind": pd.Categorical(["x", "y"])}, index=[3, 5])
    frame.to_parquet(tmp_path / "a.parquet")
    found = rows_of(read_file(tmp_path / "a.parquet", FileSettings()))
    assert found == [
        {"text": "a", "kind": "x", "__index_level_0__": 3},
        {"text": None, "kind": "y", "__index_level_0__": 5},
    ]


def test_bytes_are_text_where_they_are_utf8(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    image = pyarrow.array([{"bytes": b"\xff\xd8", "path": "a"}, {"bytes": b"\x89", "path": "b"}])
    columns = {"text": [b"caf\xc3\xa9", None], "raw": [b"\xff", b"a"], "image": image, "label": ["a", "b"]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    table = read_file(tmp_path / "a.parquet", FileSettings())
    assert rows_of(table) == [{"text": "café", "label": "a"}, {"text": None, "label": "b"}]
    assert "columns left out, as they hold bytes that are no UTF-8: 'raw', 'image'" in caplog.text


def test_large_rows_are_read_a_few_at_a_time(tmp_path):
    draw = np.random.default_rng(0)
    images = [draw.bytes(2**20) for _ in range(40)]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * 40, "image": images}), tmp_path / "a.parquet")
    tables = list(stream_file(tmp_path / "a.parquet", FileSettings()))
    assert max(map(len, tables)) <= 16 and sum(map(len, tables)) == 40
    assert [table.first_row for table in tables[:2]] == [1, len(tables[0]) + 1]
    assert [image for table in tables for image in table.arrow["image"].to_pylist()] == images


def test_bytes_that_stop_being_text_are_refused(tmp_path):
    values = [b"a"] * 5000 + [b"\xff"]
    pyarrow.parquet.write_table(pyarrow.table({"text": values, "n": list(range(5001))}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, from row 4097: expected UTF-8 in 'text' as above, found bytes"):
        list(stream_file(tmp_path / "a.parquet", FileSettings()))


def test_names_of_classes_are_read_without_datasets(tmp_path):
    import datasets

    label, tag = datasets.ClassLabel(names=["z", "a"]), datasets.List(datasets.ClassLabel(names=["u", "v"]))
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "tags": tag})
    whole = datasets.Dataset.from_dict({"text": ["a"], "label": [1], "tags": [[1]]}, features=features)
    whole.to_parquet(tmp_path / "a.parquet")
    whole.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", tmp_path / "saved" / "data-00000-of-00001.arrow"):
        assert read_file(path, FileSettings()).class_names == {"label": ("z", "a"), "tags": ("u", "v")}


def test_columns_of_one_name_are_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.feather.write_feather(table, tmp_path / "a.feather", compression="uncompressed")
    with pytest.raises(DataError, match=r"expected distinct column names, found 'text' twice; rename them"):
        read_file(tmp_path / "a.feather", FileSettings())


@pytest.mark.parametrize("writer", WRITERS)
def test_broken_files_say_how_far_they_went(tmp_path, writer):
    path = tmp_path / "a.data"
    WRITERS[writer](WHOLE, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    kind = "parquet" if "parquet" in writer else "Arrow"
    with pytest.raises(DataError, match=rf"a\.data, after row \d+: broken {kind}: .*; copy or download it again"):
        read_file(path, FileSettings())


def damaged_arrow(kind: str) -> bytes:
    """An Arrow stream of two texts, of which offsets, a letter or the name of the column are damaged."""
    sink = io.BytesIO()
    stream(pyarrow.table({"title": ["good", "bad"], "label": ["a", "b"]}), sink)
    content, offsets = sink.getvalue(), np.array([0, 4, 7], "<i4").tobytes()
    damage = {
        "offsets": (offsets, np.array([0, 2**30, 2**30 + 3], "<i4").tobytes()),
        "letters": (b"goodbad", b"go\xffdbad"),
        "name": (b"title", b"t\xfftle"),
    }
    assert damage[kind][0] in content
    return content.replace(*damage[kind])


@pytest.mark.parametrize("kind", ["offsets", "letters", "name"])
def test_damaged_columns_are_refused_before_they_are_read(tmp_path, kind):
    (tmp_path / "a.arrow").write_bytes(damaged_arrow(kind))
    with pytest.raises(DataError, match=r"a\.arrow, after row 0: broken Arrow: .*; copy or download it again"):
        read_file(tmp_path / "a.arrow", FileSettings())


def test_columns_that_python_has_no_values_for_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    kinds = {"far": "timestamp[s]", "long": "duration[s]"}
    columns = {name: pyarrow.array([2**62], kind) for name, kind in kinds.items()}
    columns["nowhere"] = pyarrow.array([1], pyarrow.timestamp("ns", "Nowhere/City"))
    stream(pyarrow.table({"text": ["a"], **columns}), tmp_path / "a.arrow")
    assert rows_of(read_file(tmp_path / "a.arrow", FileSettings())) == [{"text": "a"}]
    assert "columns left out, as they hold times that Python has not: 'far', 'long', 'nowhere'" in caplog.text


def test_extension_types_are_what_they_hold(tmp_path):
    columns = {"text": pyarrow.array(['{"a": 1}'], pyarrow.json_()), "id": pyarrow.array([b"x" * 16], pyarrow.uuid())}
    stream(pyarrow.table(columns), tmp_path / "a.arrow")
    assert rows_of(read_file(tmp_path / "a.arrow", FileSettings())) == [{"text": '{"a": 1}', "id": "x" * 16}]


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "[" * 5000, '{"info": {"features": {"label": [[]]}}}', "names"])
def test_damaged_names_of_classes_are_said(tmp_path, caplog, content):
    if content == "names":
        feature = {"_type": "ClassLabel", "names": ["a", "a"]}
        content = json.dumps({"info": {"features": {"label": feature}}})
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": content})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    found = read_file(tmp_path / "a.parquet", FileSettings())
    assert found.values("label") == [0, 1] and not found.class_names
    assert caplog.text.count("names of labels are left out, as their metadata is damaged") == 1


def test_columns_nested_without_end_are_refused():
    kind = pyarrow.string()
    for _ in range(65):
        kind = pyarrow.list_(kind)
    with pytest.raises(DataError, match=r"data: expected values nested 64 deep at most, found column 'deep' deeper"):
        table_of(pyarrow.table({"text": ["a"], "deep": pyarrow.nulls(1, kind)}), "data")


# Excel


def book(path, **sheets) -> None:
    workbook = openpyxl.Workbook()
    workbook.remove(workbook.active)
    for name, rows in sheets.items():
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append(row)
    workbook.save(path)


CELLS = [
    ["text", "label", "when", "n", None],
    ["a, b", 1, datetime.datetime(2020, 1, 2), 2.5],
    ["c\nd", 2.0, datetime.datetime(2020, 1, 2, 10, 30), True],
    [],
    ["007", "NA", datetime.date(1999, 12, 31), None],
]


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv"])
def test_sheets_are_read_as_they_look(tmp_path, name, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    book(tmp_path / name, Data=CELLS, Empty=[])
    expected = {
        "text": ["a, b", "c\nd", "007"],
        "label": ["1", "2", "NA"],
        "when": ["2020-01-02", "2020-01-02 10:30:00", "1999-12-31"],
        "n": ["2.5", "TRUE", ""],
    }
    for table in (read_file(tmp_path / name, FileSettings()), joined(stream_file(tmp_path / name, FileSettings()))):
        assert {column: table.values(column) for column in table.columns} == expected
    assert "1 empty lines left out" in caplog.text


def test_a_sheet_without_header(tmp_path):
    book(tmp_path / "a.xlsx", Data=[["It was a fine film to see", "pos"], ["It was bad", "pos"]])
    table = read_file(tmp_path / "a.xlsx", FileSettings())
    assert not table.has_header and table.values("column_2") == ["pos", "pos"]


def test_several_sheets(tmp_path):
    path = tmp_path / "a.xlsx"
    book(path, First=[["text"], ["a"]], Second=[["text"], ["b"]], **{"2": [["text"], ["c"]]})
    with pytest.raises(DataError, match="expected one sheet, found 3 with rows; set sheet to one of First, Second, 2"):
        read_file(path, FileSettings())
    for sheet, text in ((1, "a"), ("Second", "b"), (2, "c"), ("2", "c"), (3, "c")):
        assert read_file(path, FileSettings(sheet=sheet)).values("text") == [text]
    with pytest.raises(DataError, match=r"found no sheet 'Third'; set sheet to one of First, Second, 2"):
        read_file(path, FileSettings(sheet="Third"))
    (table,) = stream_file(io.BytesIO(path.read_bytes()), FileSettings(sheet=1))
    assert table.values("text") == ["a"]


def test_excel_without_openpyxl(tmp_path, monkeypatch):
    book(tmp_path / "a.xlsx", Data=CELLS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(SettingError, match=r"Excel files need openpyxl: pip install 'nlptransfer\[excel\]'"):
        read_file(tmp_path / "a.xlsx", FileSettings())


def test_a_broken_sheet(tmp_path):
    path = tmp_path / "a.xlsx"
    book(path, Data=[["text"], *[[f"{number**5}"] for number in range(5000)]])
    content = bytearray(path.read_bytes())
    middle = content.find(b"xl/worksheets/sheet1.xml") + 200
    content[middle : middle + 500] = b"\xff" * 500
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.xlsx: broken Excel file: .*; save it again"):
        read_file(path, FileSettings())

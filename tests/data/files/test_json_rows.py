"""Rows written as JSON in any form read back as they were."""

import io
import json
import logging

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tables import rows_of, write
from nlptransfer.data.files.json_rows import read_json
from nlptransfer.data.files.opening import Buffered, Utf8, opened
from nlptransfer.data.files.parsing import FileSettings, joined, read_file, stream_file
from nlptransfer.errors import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6)
DATES = st.sampled_from(["2020-01-01", "2020-01-01T10:00:00Z", "12:30:00", "1", "1.0", "007"])
NAMES = st.sampled_from(["text", "label", "a.b", "é", "n"])
VALUES = st.recursive(
    SCALARS | DATES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=4
)
ROWS = st.lists(st.fixed_dictionaries({"text": st.text(max_size=6), "x": VALUES}), min_size=2, max_size=8)
FORMS = {
    "lines": lambda rows, **how: "\n".join(json.dumps(row, **how) for row in rows),
    "blank lines": lambda rows, **how: "\n\r\n".join(json.dumps(row, **how) for row in rows) + "\n\n",
    "list": lambda rows, **how: json.dumps(rows, **how),
    "pretty list": lambda rows, **how: json.dumps(rows, indent=2, **how),
    "pretty": lambda rows, **how: "\n".join(json.dumps(row, indent=1, **how) for row in rows),
    "wrapped": lambda rows, **how: json.dumps({"data": rows}, **how),
    "wrapped with more": lambda rows, **how: json.dumps({"version": 1, "rows": rows}, **how),
    "split": lambda rows, **how: json.dumps(
        {"columns": ["text", "x"], "index": [*range(len(rows))], "data": [[row["text"], row["x"]] for row in rows]},
        **how,
    ),
    "columns": lambda rows, **how: json.dumps(
        {name: {str(number): row[name] for number, row in enumerate(rows)} for name in ("text", "x")}, **how
    ),
    "index": lambda rows, **how: json.dumps({str(number): row for number, row in enumerate(rows)}, **how),
}


def parse(content: str, size: int = 2**20) -> list[dict]:
    with opened(io.BytesIO(content.encode()), FileSettings()) as front:
        return rows_of(joined(read_json(Buffered(Utf8(front, None), size), 3)))


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("form", FORMS)
@given(rows=ROWS, size=st.integers(1, 90), how=st.sampled_from([{}, {"ensure_ascii": False}]))
def test_what_json_writes_reads_back(form, rows, size, how):
    found = parse(FORMS[form](rows, **how), size)
    assert found == rows
    # 1 is no True, though they are equal; 1.0 may stand for 1 in a column of both.
    assert all(isinstance(a["x"], bool) == isinstance(b["x"], bool) for a, b in zip(found, rows, strict=True))
    assert all(isinstance(a["x"], str) == isinstance(b["x"], str) for a, b in zip(found, rows, strict=True))


FRAME = pd.DataFrame({"text": ["a, b", 'c "d"', "漢\n字"], "label": [1, 0, 1], "score": [0.5, None, 2.0]})


@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
def test_what_pandas_writes_reads_back(tmp_path, orient):
    path = tmp_path / "a.json"
    FRAME.to_json(path, orient=orient)
    rows = [dict(zip(FRAME, row, strict=True)) for row in FRAME.astype(object).where(FRAME.notna(), None).values]
    found = [{name: row[name] for name in FRAME} for row in rows_of(read_file(path, FileSettings()))]
    assert found == rows
    lines = tmp_path / "b.jsonl"
    FRAME.to_json(lines, orient="records", lines=True)
    assert rows_of(read_file(lines, FileSettings())) == rows


def test_what_datasets_writes_reads_back(tmp_path):
    import datasets

    rows = [{"text": "a", "tags": [1, 2], "cats": {"x": 1}}, {"text": "b", "tags": [], "cats": {"x": None}}]
    datasets.Dataset.from_list(rows).to_json(tmp_path / "a.json")
    assert rows_of(read_file(tmp_path / "a.json", FileSettings())) == rows


def test_values_stay_as_they_are():
    rows = [
        {"text": "2020-01-01", "x": 1, "big": 2**64, "cats": {"a": 1}, "list": [{"label": "a"}]},
        {"text": "12:30", "x": 1.5, "big": 1, "cats": {"b": 0}, "list": []},
        {"text": "\ud83d", "x": "1", "big": 2**53 + 1},
    ]
    missing = [{"big": None, "cats": None, "list": None, **row} for row in rows]
    assert parse(FORMS["lines"](rows)) == [{name: row[name] for name in rows[0]} for row in missing]


def test_lines_whose_columns_change_from_block_to_block():
    rows = [{"text": "a"}] * 5 + [{"text": "a", "n": 1}] * 5 + [{"text": "a", "n": "x"}] * 5
    assert parse(FORMS["lines"](rows), 30) == [{"text": "a", "n": row.get("n")} for row in rows]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"data": [{"a": 1}], "meta": {}}', "the rows are those under 'data'; not read: 'meta'"),
        ('{"text": {"0": "a", "1": "b"}}', "the file is a table, column by column"),
        ('{"q1": {"text": "a"}, "q2": {"text": "b"}}', "the file is a table, row by row, each under its name"),
        ('{"text": ["a", "b"], "label": [1, 2]}', "the file has a list for each column"),
    ],
)
def test_the_form_of_one_object_is_said(content, said, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    assert parse(content)
    assert [record.getMessage() for record in caplog.records] == [f"the stream: {said}"]


def test_columns_stay_in_order_though_dates_are_text():
    rows = [{"id": 1, "day": "2020-01-01", "text": "a", "more": [{"day": "2020-01-01T10:00:00"}]}] * 4
    rows += [
        {"id": 1, "text": "a", "new": "b"},
        {"id": 1, "day": None, "text": "a"},
        {"id": 1, "day": "x", "text": "a"},
    ]
    found = parse(FORMS["lines"](rows), 200)
    assert [*found[0]] == ["id", "day", "text", "more", "new"]
    assert found == [{name: row.get(name) for name in found[0]} for row in rows]


def test_one_object_may_be_a_row():
    for row in ({"text": "a", "data": [{"b": 1}]}, {"text": ["a"]}, {"data": {"text": "a"}, "meta": {"id": 3}}):
        assert parse(json.dumps(row)) == ([{"b": 1}] if "data" in row and "text" in row else [row])
    assert parse('{"text": "a", "annotations": [{"label": "b"}]}') == [{"text": "a", "annotations": [{"label": "b"}]}]


BROKEN = {
    '{"a": 1}\n{"a": 2\n': r"line 2: broken JSON: .*; write one object a line",
    '{"a": 1}\n\n[1]\n': r"line 3: expected a JSON object, found \[1\]; write a list of objects, or an object a line",
    '[{"a": 1}\n {"a": 2}]': r"line 2: broken JSON: expected a comma or the end of the list, found '{\"a\".*'",
    '[\n{"a": 1},\n{"a": }]': r"line 3: broken JSON: Expecting value, found '}\]'",
    '[{"a": 1}': r"line 1: broken JSON: expected a comma or the end of the list, found the end",
    '[{"a": 1}] x': r"line 1: broken JSON: expected nothing behind the list, found 'x'",
    '{"a": 1},\n{"a": 2},\n': r"line 1: broken JSON: Expecting value, found ',",
    '{"a":\n 1}\n{"a":': r"line 3: broken JSON: Expecting value, found the end",
    '[{"a": ' + "1" * 5000 + "}]": r"line 1: broken JSON: Exceeds the limit",
    '[{"a": ' + "[" * 100_000: r"line 1: broken JSON: maximum recursion",
    '{"a": 1}\n{"a": ' + "[" * 100_000: r"line 2: broken JSON: maximum recursion",
    '[["a", 1]]': r"row 1: expected a JSON object, found \[\"a\", 1\]; .*orient='records'",
    '"a text"': 'expected a JSON object, found "a text"',
    '{"columns": ["a", "b"], "data": [[1, 2], [3]]}': r"row 2: expected a list of 2 values, one a column, found \[3\]",
    '{"train": [{"a": 1}], "test": [{"a": 2}]}': r"expected one list of rows, found 'train', 'test'; write each to a",
}


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("size", [5, 2**20])
def test_broken_json_is_named_with_its_line(content, size):
    with pytest.raises(DataError, match=f"^the stream[,:] {BROKEN[content]}"):
        parse(content, size)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a"])
def test_json_is_seen_whatever_the_name(tmp_path, name):
    path = write(tmp_path / name, '{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n')
    assert rows_of(read_file(path, FileSettings())) == [{"text": "a", "n": 1}, {"text": "b", "n": 2}]
    other = write(tmp_path / name, "{curly} brackets\n[1] and more\n")
    assert all(
        "{" in next(iter(table.columns.values()))[0].as_py() for table in stream_file(other, FileSettings(header=False))
    )


DEEP = {
    "object": '{{"text": "a", "x": {}}}',
    "lines": '{{"text": "b"}}\n{{"text": "a", "x": {}}}',
    "list": '[{{"x": {}}}]',
}


@pytest.mark.parametrize("depth", [65, 200, 5000])
@pytest.mark.parametrize("form", DEEP)
def test_json_nested_without_end_is_refused(tmp_path, depth, form):
    path = tmp_path / "a.json"
    for left, right in (("[", "]"), ('{"x": ', "}"), ('{"x": [', "]}")):
        path.write_text(DEEP[form].format(left * depth + "1" + right * depth))
        message = r"a\.json, line \d: broken JSON: (lists and objects nested more than 64 deep|maximum recursion)"
        with pytest.raises(DataError, match=message):
            read_file(path, FileSettings())


def test_numbers_of_thousands_of_digits(tmp_path):
    path, number = tmp_path / "a.jsonl", "9" * 4000
    rows = "".join(f'{{"text": "a fine day {row}", "id": {number}}}\n' for row in range(20))
    path.write_text(rows)
    assert read_file(path, FileSettings()).values("id")[0] == int(number)
    path.write_text(rows.replace(number, "9" * 5000))
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: broken JSON: Exceeds the limit \(4300 digits\)"):
        read_file(path, FileSettings())

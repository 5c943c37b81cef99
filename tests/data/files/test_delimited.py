"""Tables of cells: what is written in any dialect reads back, and what is broken is named with its line."""

import csv
import io
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.tables import rows_of, write
from nlptransfer.data.files.delimited import read_delimited, separator_of
from nlptransfer.data.files.opening import Buffered, Utf8, opened
from nlptransfer.data.files.parsing import FileSettings, joined, read_file, stream_file
from nlptransfer.errors import DataError, SettingError

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8)
NASTY = st.text(st.sampled_from(' ab",;|\t\n\\é漢'), max_size=6)


@pytest.fixture(autouse=True, scope="module")
def blocks_of_any_size():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nlptransfer.data.files.delimited._LEAST_ROWS", 0)
        yield


def parse(content: bytes, size: int = 2**20, kind: str = ".csv", **values) -> list[dict]:
    options = FileSettings(**values)
    with opened(io.BytesIO(content), options) as front:
        return rows_of(joined(read_delimited(Buffered(Utf8(front, None), size), options, kind)))


def tables(draw, cells) -> tuple[list[str], list[list[str]]]:
    width = draw(st.integers(1, 4))
    row = st.lists(cells, min_size=width, max_size=width)
    names = [f"name {number}" for number in range(width)]
    return names, draw(st.lists(row, min_size=1, max_size=12))


@st.composite
def dialects(draw):
    names, rows = tables(draw, draw(st.sampled_from([CELLS, NASTY])))
    separator = draw(st.sampled_from(",;|\t^\x01"))
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]))
    content = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(content, delimiter=separator, quoting=quoting, lineterminator=end).writerows([names, *rows])
    text = content.getvalue()
    return names, rows, separator, text.removesuffix(end) if draw(st.booleans()) else text


@settings(max_examples=300, deadline=None)
@given(dialects(), st.integers(1, 60))
def test_what_csv_writes_reads_back(written, size):
    names, rows, separator, content = written
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert parse(content.encode(), size, separator=separator, header=True) == expected


@settings(max_examples=100, deadline=None)
@given(dialects())
def test_escapes_read_back(written):
    names, rows, separator, _ = written
    content = io.StringIO()
    writer = csv.writer(content, delimiter=separator, doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL)
    writer.writerows([names, *rows])
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert parse(content.getvalue().encode(), 20, separator=separator, escape="\\", header=True) == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_plain_characters_read_back_without_quoting(data):
    cells = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n\t"), min_size=1, max_size=8)
    names, rows = tables(data.draw, cells)
    content = "\n".join("\t".join(row) for row in [names, *rows])
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    assert parse(content.encode(), 30, separator="\t", quoting="none", header=True) == expected


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_separator_and_the_header_are_seen(data):
    words = st.sampled_from(["good", "film,", "a;", "b|c", "warm\tcold", "so-so", "very"])
    text = st.lists(words, min_size=2, max_size=12).map(" ".join)
    rows = data.draw(st.lists(st.tuples(text, st.sampled_from(["pos", "neg", "none"])), min_size=6, max_size=20))
    separator = data.draw(st.sampled_from(",\t;|"))
    content = io.StringIO()
    csv.writer(content, delimiter=separator, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    assert parse(content.getvalue().encode()) == [{"text": text, "label": label} for text, label in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_any_line_end_in_blocks_of_any_size(end, size):
    content = end.join(["text,label", '"a, b",1', "c,2", '"d ""e""",3', ""])
    rows = [{"text": "a, b", "label": "1"}, {"text": "c", "label": "2"}, {"text": 'd "e"', "label": "3"}]
    assert parse(content.encode(), size) == parse(content.removesuffix(end).encode(), size) == rows


SEPARATORS = {
    "text;label\ngood, very;1\nbad, very;2\n": ";",
    "good, very;1\nbad, very;2\n": ";",
    "text|label\na, b; c|1\n": "|",
    "text,label\na|b,1\nc|d,2\n": ",",
    "text\tlabel\na, b\t1\nc, d\t2\n": "\t",
    '"a;b","c;d"\n"e;f;g","h"\n': ",",
    "a;b;c\n1,5;2,5;x\n1,7;2,1;y\n": ";",
    "text,label\ngood, very,1\n": ",",
    "text\nso, it is; good\n": None,
    "one\ntwo\n": None,
}


@pytest.mark.parametrize("content", SEPARATORS)
def test_separators(content):
    assert separator_of(content.encode(), ".csv") == SEPARATORS[content]


def test_the_ending_of_the_name_breaks_a_tie():
    assert separator_of(b"a,b;c\nd,e;f\n", ".csv") == ","
    assert separator_of(b"a,b\tc\nd,e\tf\n", ".tsv") == "\t"


HEADERS = {
    "text,label\na,1\n": True,
    "words,n\na,1\nb,2\n": True,
    "0,1\na b,x\nc d,y\n": True,  # a frame's columns without names
    ",0,1\n0,a b,x\n1,c d,y\n": True,
    "a good film,pos\na bad film,neg\nfine,pos\n": False,
    "0,It was a good film to see\n1,It was a bad film to see\n": False,
    "It was a good film to see\nIt was a bad film to see\n": False,
    "How was it,question\nIt was good,statement\nWhy is that,question\n": False,
    "What did you like most about it?,How many stars?\nThe food was very good indeed,5\n": True,
    "这部电影真的非常好看啊朋友们,好\n这部电影真的非常难看啊朋友们,坏\n": False,
    "title,body\nsome,more\n": True,
    "colour,shape\nred,round\n": True,
    "PK,words\na,b\n": True,
}


@pytest.mark.parametrize("content", HEADERS)
def test_headers(tmp_path, content, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    path = write(tmp_path / "a.csv", content)
    table = read_file(path, FileSettings())
    rows = content.count("\n")
    assert (table.has_header, len(table)) == (HEADERS[content], rows - HEADERS[content])
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if HEADERS[content] else [f"{path}: no header; set header=true if it is another"])
    for header in (True, False):
        forced = read_file(path, FileSettings(header=header))
        assert (forced.has_header, len(forced)) == (header, rows - header)


MENDED = {
    "text,label,,\na,1,,\nb,2,,\n": (
        {"text": ["a", "b"], "label": ["1", "2"]},
        "2 empty columns without name left out",
    ),
    "text,label,\na,1,x\n": (
        {"text": ["a"], "label": ["1"], "column_3": ["x"]},
        "columns without name are column_3",
    ),
    ",text,label\n0,a,1\n": ({"": ["0"], "text": ["a"], "label": ["1"]}, None),
    "text,label\n1,a,x\n2,b,y\n": ({"": ["1", "2"], "text": ["a", "b"], "label": ["x", "y"]}, None),
    "text,label\na\n\nb,2\n\n\n": (
        {"text": ["a", "b"], "label": ["", "2"]},
        "3 empty lines left out, 1 lines short of cells filled with empty ones",
    ),
    "text,label\na,1,, \nb,2\n": (
        {"text": ["a", "b"], "label": ["1", "2"]},
        "1 lines with empty cells beyond the last column cut",
    ),
    "\n\ntext,label\na,1\n": ({"text": ["a"], "label": ["1"]}, "2 empty lines left out"),
    "text,label\na,1\n\0\0\0": ({"text": ["a"], "label": ["1"]}, "3 NUL bytes at the end are left out"),
    "text,label\n007,NA\n1e5,true\nnull,\n": ({"text": ["007", "1e5", "null"], "label": ["NA", "true", ""]}, None),
    "text,label\n": (
        {"text": [], "label": []},
        "there is no row below the header 'text', 'label'; set header=false if that is a row",
    ),
    "text,label\na,1\ntext,label\nb,2\n": (
        {"text": ["a", "b"], "label": ["1", "2"]},
        "1 lines that repeat the header left out",
    ),
    "sep=;\ntext;label\na;1\n": ({"text": ["a"], "label": ["1"]}, "separator ';'; set separator=... if it is another"),
    "\ufefftext,label\na,1\n": (
        {"text": ["a"], "label": ["1"]},
        "encoding utf-8-sig; set encoding=... if it is another",
    ),
}


@pytest.mark.parametrize("content", MENDED)
@pytest.mark.parametrize("read", [read_file, lambda *file: joined(stream_file(*file))])
def test_what_spreadsheets_leave_is_mended_and_said(tmp_path, content, read, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    columns, said = MENDED[content]
    path = write(tmp_path / "a.csv", content)
    table = read(path, FileSettings())
    assert {name: table.values(name) for name in table.columns} == columns
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {said}"] * (said is not None)


BROKEN = {
    'id,text\n1,15" screen\n2,the 27" one\n': r"line 2: expected the quotes .*, found '1,15\" scre.*; set quoting=none",
    'a,b\n"x","y" z\n': r"line 2: .* found '\"x\",\"y\" z'",
    'text,label\n"a, b" , "1"\n': r"line 2: .* found '\"a, b\" ",
    'a,b\n"x ""y"" "z",1\n': r"line 2: .* found '\"x",
    'a,b\n1,2\n\n"x\ny" z,1\n': r"line 5: .* found 'y\" z,1'",
    'a,b\n1,2\n"x,2\n3,4\n': r"line 3: expected an end of the quotes .*, found none after '\"x,2'; close",
    'a,b\n"he said \\"no\\"",2\n': r"line 2: .* set escape=\\\\ where a backslash precedes quotes inside",
    "a,b\n1,2\n1,2,3\n": r"line 3: expected 2 cells as in the header, found 3: '3' is too many; put",
    "a,b,a,b\n": r"line 1: expected distinct column names, found 'a' \(2 times\), 'b' \(2 times\)",
    "a,b\nx\\,y,1\n": r"line 2: expected 2 cells .* set escape=\\\\ where a backslash precedes separators inside",
    "My report\na,b\n1,2\n": r"line 2: expected 1 cells .* too many; leave out what is above the header",
    "1,2\n3,4\n1,2,3\n": r"line 3: expected 2 cells as in most lines, found 3",
}


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("size", [9, 2**20])
def test_broken_rows_are_named_with_their_line(content, size):
    with pytest.raises(DataError, match=f"^the stream, {BROKEN[content]}"):
        parse(content.encode(), size)


def test_quotes_and_escapes_by_settings(caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    inches = b'id,text\n1,15" screen, dim\n2,"ok"\n'
    rows = parse(inches, quoting="none")
    assert rows == [{"id": "1", "text": '15" screen, dim'}, {"id": "2", "text": '"ok"'}]
    assert "the stream: 1 lines with more cells, which were added to their last" in caplog.text
    slashes = rb"id,text" + b"\n" + rb'1,"he said \"no\", twice"' + b"\n" + rb"2,a \\ b" + b"\n"
    assert [row["text"] for row in parse(slashes, escape="\\")] == ['he said "no", twice', "a \\ b"]
    assert [row["text"] for row in parse(slashes, escape=r"\\")] == ['he said "no", twice', "a \\ b"]
    assert parse(b"a\tb\nc\td\n", separator="tab") == parse(b"a\tb\nc\td\n", separator=r"\t") == [{"a": "c", "b": "d"}]


def test_quotes_that_make_no_sense_beside_escapes():
    with pytest.raises(DataError, match=r"line 2: broken cells \(.*\), found 'x,\"a\" b'; mend the line"):
        parse(b'n,text\nx,"a" b\ny,c\n', escape="\\")


def test_quotes_of_a_tsv_file_that_make_no_sense_are_plain_characters(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "a fine one\t1\n" * 50_000 + 'the 27" one\t2\n"open\t3\n')
    for table in (read_file(path, FileSettings()), joined(stream_file(path, FileSettings()))):
        assert table.values("text")[-2:] == ['the 27" one', '"open']
    assert caplog.text.count("quotes are plain characters; set quoting=minimal") == 2
    with pytest.raises(DataError, match=r"line 50002: expected the quotes"):
        read_file(path, FileSettings(quoting="minimal"))
    late = write(tmp_path / "late.tsv", path.read_text().replace("a fine", "a very, very, very fine" * 2))
    with pytest.raises(DataError, match=r"line 50002: expected the quotes .* set quoting=none"):
        read_file(late, FileSettings())
    packed = write(tmp_path / "a.tsv.gz", 'text\tlabel\nthe 27" one\t2\n')
    assert read_file(packed, FileSettings()).values("text") == ['the 27" one']
    quoted = write(tmp_path / "b.tsv", 'text\tlabel\n"a\tb"\t1\n')
    assert read_file(quoted, FileSettings()).values("text") == ["a\tb"]


def test_a_column_without_name_may_not_fill_up_later():
    with pytest.raises(DataError, match=r"before line \d+: expected column 3, which has no name, to be empty as above"):
        parse(b"text,label,\n" + b"a,1,\n" * 20 + b"b,2,x\n", 30)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"separator": "::"}, "separator='::': expected one character of ASCII"),
        ({"separator": '"'}, "expected one character of ASCII, no quotes and no line end"),
        ({"escape": "ab"}, "escape='ab': expected one character"),
        ({"encoding": "klingon"}, "encoding='klingon': expected an encoding that Python knows"),
        ({"encoding": "base64"}, "encoding='base64'"),
        ({"quoting": "some"}, "quoting='some': expected"),
        ({"max_unpacked_gb": 0}, "max_unpacked_gb=0: expected"),
    ],
)
def test_settings_of_files(values, message):
    with pytest.raises(SettingError, match=message):
        FileSettings(**values)


def test_time_is_linear_in_columns(tmp_path):
    # Work is counted, not time: a sample of rows is looked at cell by cell, and each column is made once.
    width = 30_000
    names = ",".join(f"c{number}" for number in range(width))
    table = read_file(write(tmp_path / "a.csv", f"{names}\n{'1,' * (width - 1)}2\n"), FileSettings())
    assert len(table.columns) == width and table.values("c29999") == ["2"]


def test_rows_keep_their_numbers():
    content = b"text,label\n" + b"".join(b"row %d,x\n" % number for number in range(100))
    with opened(io.BytesIO(content), FileSettings()) as front:
        parts = list(read_delimited(Buffered(Utf8(front, None), 50), FileSettings(), ".csv"))
    assert len(parts) > 5
    starts = np.cumsum([0, *map(len, parts)])[:-1] + 1
    assert [part.first_row for part in parts] == starts.tolist()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_pandas_and_pyarrow_write_reads_back(tmp_path_factory, data):
    import pandas as pd
    import pyarrow
    from pyarrow import csv as arrow_csv

    names, rows = tables(data.draw, data.draw(st.sampled_from([CELLS, NASTY])))
    path = tmp_path_factory.mktemp("frames") / "a.csv"
    frame = pd.DataFrame(rows, columns=names)
    expected = [dict(zip(names, row, strict=True)) for row in rows]
    separator = data.draw(st.sampled_from(",;\t|"))
    packed = data.draw(st.sampled_from([None, "gzip", "zip"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
    has_index = data.draw(st.booleans())
    frame.to_csv(path, sep=separator, compression=packed, encoding=encoding, index=has_index, lineterminator="\r\n")
    found = rows_of(read_file(path, FileSettings(separator=separator, header=True)))
    assert [{name: row[name] for name in names} for row in found] == expected
    assert not has_index or [row[""] for row in found] == [str(number) for number in range(len(rows))]
    arrow_csv.write_csv(pyarrow.Table.from_pandas(frame), path, arrow_csv.WriteOptions(delimiter=separator))
    assert rows_of(read_file(path, FileSettings(separator=separator, header=True))) == expected


def test_late_quotes_in_tabs_are_the_same_error_whole_and_streamed(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "a fine film\tpos\n" * 80_000 + '15" screen\tneg\n')
    assert 2**20 < path.stat().st_size < 2**21
    for read in (read_file, lambda path, settings: [*stream_file(path, settings)]):
        with pytest.raises(DataError, match=r"line 80002: .*set quoting=none"):
            read(path, FileSettings())

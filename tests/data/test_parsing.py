"""What broken files say, and where they are broken."""

from pathlib import Path

import psutil
import pytest

from helpers.tables import KINDS, QUOTED, parquet, write
from nlptransfer.data.parsing import kind_of, stem_of
from nlptransfer.data.reading import read_table, read_texts
from nlptransfer.errors import DataError

BROKEN = {
    "latin.csv": (b"text,label\nok,1\ncaf\xe9,0\n", "line 3: expected UTF-8, found the byte 0xe9 at position 4; save"),
    "utf16.jsonl": ('{"text": "a"}'.encode("utf-16"), "line 1: expected UTF-8, found the byte 0xff at position 1"),
    "bad.jsonl": ('{"text": "a"}\n\n{"text": \n', r"bad.jsonl, line 3: broken JSON: .*; write one object a line"),
    "list.jsonl": ('["a", 1]\n', r"line 1: expected a JSON object, found \[\"a\", 1\]"),
    "bad.json": ('[{"text": "a"},', "bad.json, line 1: broken JSON"),
    "scalar.json": ('[{"text": "a"}, 3]', "row 2: expected an object, found 3"),
    "open.csv": ('text,label\na,1\n"b,0\nc,1\n', r"row 2, from line 3: broken csv: unexpected end of data; put quotes"),
    "quote.csv": ('text,label\n"a"b,1\n', "row 1, from line 2: broken csv: ',' expected after '\"'"),
    "short.csv": ("text,label\na,1\n\nb\n", "row 2, line 4: expected 2 fields as in the header, found 1; put quotes"),
    "long.csv": ("text,label\ngood, very,1\n", "row 1, line 2: expected 2 fields as in the header, found 3"),
    "short.tsv": ("text\tlabel\na\t1\nb\n", "row 2, line 3: expected 2 fields as in the header, found 1"),
    "open.tsv": ('text\tlabel\n"a\t1\nb\n', "row 1, from line 2: broken tsv: unexpected end of data"),
    "twice.csv": ("a,a\nx,y\n", "line 1: expected a header of distinct column names, found 'a' more than once"),
    "bad.parquet": ("PAR1 no", "bad.parquet, after row 0: broken parquet: .*; copy or download it again"),
    "cut.parquet": (KINDS[".parquet"][:-20], "cut.parquet, after row 0: broken parquet"),
    "empty.csv": ("", "empty.csv: expected rows of text and label, found no row; is the file empty"),
    "header.csv": ("text,label\n", "header.csv: expected rows of text and label, found no row"),
    "empty.jsonl": ("\n", "empty.jsonl: expected rows of text and label, found no row"),
    "empty.json": ("", "empty.json: expected rows"),
    "none.json": ("[]", "none.json: expected rows"),
    "a.xlsx": ("", r"a.xlsx: expected a file of kind .csv, .tsv, .jsonl, .json, .parquet, plain or .gz, found .xlsx"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(tmp_path, name):
    content, message = BROKEN[name]
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, "")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["short.csv", "open.csv", "short.tsv", "bad.jsonl"])
def test_a_broken_file_is_closed_while_its_error_is_held(tmp_path, name):
    path = write(tmp_path / name, BROKEN[name][0])
    with pytest.raises(DataError) as held:
        read_table(path, "")
    assert held.value and str(path) not in {file.path for file in psutil.Process().open_files()}


@pytest.mark.parametrize("kind", KINDS)
def test_broken_gzip(tmp_path, kind):
    path = write(tmp_path / f"a{kind}.gz", KINDS[kind])
    for content in (path.read_bytes()[:-12], b"no gzip at all"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"expected a whole gzip file, found a broken one .* copy or download"):
            read_table(path, "")


def test_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", QUOTED)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nlptransfer.data.parsing._open", refuse)
    with pytest.raises(DataError, match=r"a\.csv: cannot be read: Permission denied"):
        read_table(path, "")


def test_broken_gzip_says_how_far_it_went(tmp_path):
    # Random enough that gzip cannot pack it into one block.
    lines = "".join(f'{{"text": "{hash((seed, 7)) % 10**15}", "label": "a"}}\n' for seed in range(20_000))
    path = write(tmp_path / "a.jsonl.gz", lines)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz, after line \d{4,}: expected a whole gzip file"):
        read_table(path, "")


def test_broken_pages_of_parquet_say_how_far_it_went(tmp_path):
    content = bytearray(parquet([{"text": f"text {row} {row**5}", "label": row} for row in range(50_000)]))
    content[len(content) // 3 : len(content) // 3 + 2000] = b"\xff" * 2000
    path = write(tmp_path / "a.parquet", bytes(content))
    message = r"a\.parquet, after row \d+: broken parquet: .*; copy or download it again"
    with pytest.raises(DataError, match=message):
        read_table(path, "")
    with pytest.raises(DataError, match=message):
        list(read_texts(path, text_column="text"))


@pytest.mark.parametrize(
    ("name", "kind", "stem"),
    [("a.csv", ".csv", "a"), ("A.JSONL.GZ", ".jsonl", "A"), ("a.b.parquet", ".parquet", "a.b"), ("a", "", "a")],
)
def test_kind_and_stem(name, kind, stem):
    assert (kind_of(Path(name)), stem_of(Path(name))) == (kind, stem)

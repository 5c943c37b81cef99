"""What a file is, is seen by its first bytes: how it is packed, its encoding, and what holds no rows."""

import bz2
import codecs
import gzip
import io
import json
import logging
import lzma
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.tables import parquet, rows_of, write
from nlptransfer.data.files.opening import Utf8, opened
from nlptransfer.data.files.parsing import FileSettings, read_file, stream_file
from nlptransfer.errors import DataError

CONTENT = "text,label\ncafé,1\nnaïve,2\n"
ROWS = [{"text": "café", "label": "1"}, {"text": "naïve", "label": "2"}]


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name.replace("__", "."), member)
    return content.getvalue()


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, "zstd", asbytes=True)


PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "zip": lambda content: zipped(a__csv=content),
}


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip", "a"])
def test_packed_files_whatever_their_name(tmp_path, packer, name):
    content = PACKERS[packer](CONTENT.encode())
    path = tmp_path / name
    path.write_bytes(content)
    assert rows_of(read_file(path, FileSettings())) == ROWS
    (table,) = stream_file(io.BytesIO(content), FileSettings())
    assert rows_of(table) == ROWS
    path.write_bytes(gzip.compress(content))
    assert rows_of(read_file(path, FileSettings())) == ROWS


@pytest.mark.parametrize("packer", PACKERS)
def test_broken_packed_files(tmp_path, packer):
    rows = "".join(f"{number**7},x\n" for number in range(30_000))
    content = PACKERS[packer](f"text,label\n{rows}".encode())
    path = tmp_path / "a.csv"
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=rf"a\.csv(, after [\d,]+ bytes)?: expected a whole {packer}.* broken"):
        read_file(path, FileSettings())


def test_what_is_packed_out_of_proportion_is_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("nlptransfer.data.files.opening._GIGABYTE", 10**6)
    bomb = b"text\n" + b"a fine film\n" * 200_000
    for name, content in (("a.csv", gzip.compress(bomb)), ("b.csv", zipped(a__csv=bomb))):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(
            DataError, match=r"expected at most .* GB when it is unpacked, found more; .* max_unpacked_gb"
        ):
            read_file(path, FileSettings())
        assert len(read_file(path, FileSettings(max_unpacked_gb=3))) == 200_000
        with pytest.raises(DataError, match="expected at most 2 GB"):
            read_file(path, FileSettings(max_unpacked_gb=2))


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.csv"), io.BytesIO())
    return content.getvalue()


NO_ROWS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n",
        "a Git LFS pointer .*; run git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html></html>", "an HTML page; download the file itself"),
    "xml": (b'<?xml version="1.0"?><a/>', "an XML file"),
    "tar": (tar(), "a tar archive; unpack it"),
    "tar.gz": (gzip.compress(tar()), "a tar archive; unpack it"),
    "pickle": (b"\x80\x04\x95\x10", "a pickle, which may run code"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Excel or Office file; save it as .xlsx"),
    "pdf": (b"%PDF-1.4", "a PDF"),
    "sqlite": (b"SQLite format 3\x00\x10\x00\x01\x01", "NUL bytes: a binary file"),
    "rar": (b"Rar!\x1a\x07", "an archive"),
    "empty": (b"", "an empty file"),
    "nothing": (b"\0" * 100, "an empty file"),
    "packed nothing": (gzip.compress(b""), "an empty file"),
    "several": (zipped(a__csv=b"a", b__csv=b"b"), r"expected one file in the zip, found a\.csv, b\.csv; unpack it"),
    "none": (zipped(), "expected one file in the zip, found none"),
    "docx": (zipped(**{"word/document__xml": b""}), "an Office file; save it as .xlsx"),
    "binary": (bytes(range(1, 127)) + b"\0\x01\x02", "found NUL bytes: a binary file"),
}


@pytest.mark.parametrize("name", NO_ROWS)
def test_files_without_rows_are_named_as_what_they_are(tmp_path, name):
    content, message = NO_ROWS[name]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.csv: .*{message}"):
        read_file(path, FileSettings())


def test_mac_leavings_in_a_zip_are_no_file(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(**{"a__csv": CONTENT.encode(), "__MACOSX/._a__csv": b"x", "__DS_Store": b"y"}))
    assert rows_of(read_file(path, FileSettings())) == ROWS


MARKS = {"utf-8": codecs.BOM_UTF8, "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
MARKS |= {"utf-32-le": codecs.BOM_UTF32_LE, "utf-32-be": codecs.BOM_UTF32_BE}


@pytest.mark.parametrize("encoding", MARKS)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_encodings_with_a_mark(tmp_path, encoding, name, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    content = {"a.csv": CONTENT, "a.txt": "café\nnaïve\n"}.get(name) or "".join(json.dumps(row) + "\n" for row in ROWS)
    path = tmp_path / name
    path.write_bytes(MARKS[encoding] + content.encode(encoding))
    assert read_file(path, FileSettings()).values("text") == ["café", "naïve"]
    seen = {"utf-8": "utf-8-sig"}.get(encoding, encoding[:6])
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: encoding {seen}; set encoding=... if it is another"
    ]


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("cp1252", "text,label\nun café très cher – “bon”,1\nça va,2\n"),
        ("gb18030", "text,label\n这部电影真的非常好看,1\n"),
        ("shift_jis", "text,label\nこの映画はとても面白かったです,1\n"),
        ("euc_kr", "text,label\n이 영화는 정말 재미있었어요,1\n"),
        ("cp1251", "text,label\nэто очень хороший фильм,1\nа этот нет,2\n"),
        ("utf-16-le", "text,label\na good one,1\n"),
        ("utf-16-be", "text,label\na good one,1\n"),
        ("utf-16-le", "text,label\n这部电影真的非常好看,1\n"),
        ("utf-16-be", "text,label\nэто очень хороший фильм,1\n"),
    ],
)
def test_an_encoding_that_is_none_of_these_is_named_and_reads(tmp_path, encoding, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode(encoding))
    with pytest.raises(DataError, match=rf"a\.csv(, line 2)?: expected UTF-8, found .*encoding={encoding}( |$)"):
        read_file(path, FileSettings())
    table = read_file(path, FileSettings(encoding=encoding))
    assert table.values("text") == [line.rsplit(",", 1)[0] for line in content.splitlines()[1:]]
    with pytest.raises(DataError, match=r"expected encoding=ascii|expected UTF-8, found UTF-16"):
        read_file(path, FileSettings(encoding="ascii" if "utf-16" not in encoding else None))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff")), st.integers(1, 9))
def test_text_in_blocks_of_any_size_is_whole(text, size):
    for encoding in ("utf-8", "utf-16", "gb18030"):
        content = ("x" + text).encode(encoding)
        with opened(io.BytesIO(content), FileSettings()) as front:
            source = Utf8(front, encoding)
            blocks = []
            while block := source.read(size):
                blocks.append(block.decode())
        assert "".join(blocks) == "x" + text


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.csv.gz", "a.jsonl"])
def test_pipes_are_read_once_from_the_front(name):
    content = {
        "a.parquet": parquet(ROWS),
        "a.csv": CONTENT.encode(),
        "a.csv.gz": gzip.compress(CONTENT.encode()),
        "a.jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    }[name]
    reading, writing = os.pipe()
    writer = threading.Thread(target=lambda: (os.write(writing, content), os.close(writing)))
    writer.start()
    tables = list(stream_file(Path(f"/dev/fd/{reading}"), FileSettings()))
    writer.join()
    os.close(reading)
    assert [row for table in tables for row in rows_of(table)] == ROWS


def test_lines_of_text_keep_their_places(tmp_path):
    path = write(tmp_path / "a.txt", "one\r\n\n two \u2028x\rthree")
    assert read_file(path, FileSettings()).values("text") == ["one", "", " two \u2028x", "three"]
    assert not read_file(path, FileSettings()).has_header


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.txt", "text\tlabel\nso, so\t1\nwell\t2\n", ["text", "label"]),
        ("a.txt", "good, bad\nwell, fine\n", ["text"]),
        ("a.txt", "one\ttab\nand none\n", ["text"]),
        ("a", "text,label\nx,1\n", ["text", "label"]),
        ("a", "good, bad\nwell, fine\n", ["text"]),
        ("a.dat", "text;label\nx;1\n", ["text", "label"]),
        ("a.csv", "text\nx\n", ["text"]),
    ],
)
def test_tables_and_texts_are_told_by_their_lines(tmp_path, name, content, columns):
    path = write(tmp_path / name, content)
    table = read_file(path, FileSettings())
    assert [*table.columns] == columns
    assert len(table) == content.count("\n") - table.has_header


def test_a_separator_makes_a_text_file_a_table(tmp_path):
    path = write(tmp_path / "a.txt", "text,label\na, b\n")
    assert read_file(path, FileSettings()).values("text") == ["text,label", "a, b"]
    assert read_file(path, FileSettings(separator=",")).values("label") == [" b"]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_padding_is_left_out_and_said(tmp_path, name, caplog):
    content = {"a.csv": "text\nx\n", "a.jsonl": '{"text": "x"}\n', "a.txt": "x\n"}[name]
    path = write(tmp_path / name, content + "\0" * 99)
    assert read_file(path, FileSettings()).values("text") == ["x"]
    assert f"{path}: 99 NUL bytes at the end are left out" in caplog.text


FASTTEXT = {
    "__label__pos a fine film\nno label here at all\n__label__neg a bad one\n": (["pos", None, "neg"], "a fine film"),
    "__label__a __label__b a fine film\n__label__c bad\n\n": ([["a", "b"], ["c"]], "a fine film"),
    "a fine __label__x film\nbad __label__y\n": (["x", "y"], "a fine film"),
    "a fine film __label__x\tbad\n": (["x"], "a fine film bad"),
}


@pytest.mark.parametrize("content", FASTTEXT)
@pytest.mark.parametrize("name", ["a.txt", "cooking.train", "a"])
def test_lines_of_fasttext(tmp_path, content, name, caplog):
    caplog.set_level(logging.INFO, logger="nlptransfer")
    labels, text = FASTTEXT[content]
    path = write(tmp_path / name, content)
    table = read_file(path, FileSettings())
    assert table.values("label") == labels and table.values("text")[0] == text
    (streamed,) = stream_file(path, FileSettings())
    assert streamed.values("label") == labels
    assert "labels are the words that start with __label__" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-16", "punycode"])
def test_an_encoding_that_the_bytes_are_not(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\na-b;,c\n")
    with pytest.raises(
        DataError, match=rf"a\.csv: expected encoding={encoding}, found other bytes \(.*\); set another"
    ):
        read_file(path, FileSettings(encoding=encoding))

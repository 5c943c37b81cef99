"""Every kind of vector file against gensim's own reader, what broken ones say, and the downloader's models."""

import gzip
import pickle
import struct
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from helpers.gensim_site import publish, serve
from helpers.tables import write
from nlptransfer.errors import VectorsError
from nlptransfer.vectors import formats
from nlptransfer.vectors.formats import FILE_SUFFIXES, download_model, file_kind, read_blocks, write_vectors
from nlptransfer.vectors.store import save_vectors

WORDS = ["the", "café", "电影", "😀", "5", "3.14", "no\u00a0break", "#", "\ufeffmark", "don't"]
MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 7)).astype(np.float32)
ENDINGS = [*(suffix + packed for suffix in FILE_SUFFIXES for packed in ("", ".gz")), ".BIN"]


def read(path: Path, allow_pickle: bool = False) -> tuple[list[str], np.ndarray]:
    blocks = list(read_blocks(path, allow_pickle))
    return [word.decode() for words, _ in blocks for word in words], np.concatenate([rows for _, rows in blocks])


def text(words: list[str] = WORDS, matrix: np.ndarray = MATRIX, *, header: bool = True, end: str = "\n") -> str:
    lines = [f"{len(words)} {matrix.shape[1]}"] if header else []
    lines += [" ".join([word, *map(str, row)]) for word, row in zip(words, matrix, strict=True)]
    return "".join(line + end for line in lines)


def binary(words: list[str] = WORDS, matrix: np.ndarray = MATRIX, end: bytes = b"") -> bytes:
    records = (word.encode() + b" " + row.tobytes() + end for word, row in zip(words, matrix, strict=True))
    return f"{len(words)} {matrix.shape[1]}\n".encode() + b"".join(records)


def same_as_gensim(path: Path, *, is_binary: bool = False, no_header: bool = False) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # gensim leaves a file without a header open
        keyed = KeyedVectors.load_word2vec_format(str(path), binary=is_binary, no_header=no_header)
    words, matrix = read(path)
    assert words == keyed.index_to_key
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, keyed.vectors)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(formats, "_HEAD", 300)
    monkeypatch.setattr(formats, "_CHUNK", 11)


# Kinds


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz", "v.bin"])
@pytest.mark.parametrize("content", [text(), text(end=" \n"), text(end="\r\n")], ids=["word2vec", "fasttext", "crlf"])
def test_text_with_a_header_under_any_name(tmp_path, content, name):
    same_as_gensim(write(tmp_path / name, content))


def test_text_without_a_header_and_binary_files_of_either_tool(tmp_path):
    same_as_gensim(write(tmp_path / "glove.txt", text(header=False)), no_header=True)
    for end in (b"", b"\n"):
        same_as_gensim(write(tmp_path / "v.txt", binary(end=end)), is_binary=True)


@pytest.mark.parametrize("content", [text(), text(header=False), binary(), binary(end=b"\n")])
def test_records_may_lie_across_chunks(tmp_path, small_chunks, content):
    words, matrix = read(write(tmp_path / "v", content))
    assert words == WORDS
    np.testing.assert_array_equal(matrix, MATRIX)


PUBLISHED = {
    "byte order mark": ("\ufeff1 2\ngood 1 2\n", ["good"], [1, 2]),
    "no newline": ("1 2\ngood 1 2", ["good"], [1, 2]),
    "blank end": ("1 2\ngood 1 2\n\n \n", ["good"], [1, 2]),
    "tabs": ("1\t2\ngood\t1\t2\n", ["good"], [1, 2]),
    "wide spaces": ("1 2\ngood  1   2\n", ["good"], [1, 2]),
    "spaces in a word": ("2 2\ngood 1 2\n. . . -1e-3 .5\n", ["good", ". . ."], [1, 2]),
    "glove": ("good 1 2\nat name@domain.com 3 4\nbad 5 6\n", ["good", "at name@domain.com", "bad"], [1, 2]),
    "digits": ("2 2\n2 1 2\n3 4 5\n", ["2", "3"], [1, 2]),
    "blank lines": ("2 2\n\ngood 1 2\n \nbad 3 4\n", ["good", "bad"], [1, 2]),
    "tabs alone": ("a\t1\t2\nnew\tyork\t3\t4\nb\t5\t6\n", ["a", "new\tyork", "b"], [1, 2]),
    "a tab after the word": ("a\t1 2 3\nb\t4 5 6\n", ["a", "b"], [1, 2, 3]),
    "no word": (" .1 .2\na .3 .4\nb .5 .6\n", ["", "a", "b"], [0.1, 0.2]),
    "numbers in words": ("windows 10 1 2\n3 4 5 6\na 1 2\nb 3 4\n", ["windows 10", "3 4", "a", "b"], [1, 2]),
    "kinds of numbers": ("a 1e-05 2.\nb -3 4\n", ["a", "b"], [1e-5, 2]),
}


@pytest.mark.parametrize("what", PUBLISHED)
def test_what_published_text_files_do(tmp_path, what):
    content, words, row = PUBLISHED[what]
    found, matrix = read(write(tmp_path / "v.txt", content))
    assert found == words
    np.testing.assert_array_equal(matrix[0], np.array(row, dtype=np.float32))


@st.composite
def words_and_matrix(draw: st.DrawFn) -> tuple[list[str], np.ndarray]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters=" \t\n\r\v\f")
    words = draw(st.lists(st.text(characters), min_size=1))
    shape = st.tuples(st.just(len(words)), st.sampled_from([1, 2, 5, 12, 16]))
    numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
    return words, draw(st_numpy.arrays(np.float32, shape, elements=numbers))


def spelled(*rows: bytes) -> np.ndarray:
    """The numbers whose bytes are these."""
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), -1)


@settings(max_examples=60, deadline=None)
@given(ending=st.sampled_from(ENDINGS), vectors=words_and_matrix(), chunk=st.sampled_from([5, 1 << 20]))
@example(ending=".bin", vectors=([""], spelled(b"\tC\x0b[")), chunk=5)
@example(ending=".bin", vectors=(["a", "b"], spelled(b"  \xabI" * 12, b"  \xabI" * 12)), chunk=1 << 20)
def test_what_is_written_reads_back_bit_for_bit(ending, vectors, chunk):
    words, matrix = vectors
    # The bytes of few numbers can look like a word and other numbers.
    assume("bin" not in ending.lower() or matrix.shape[1] >= 12 or words == [""])
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_CHUNK", chunk)
        path = Path(folder) / f"v{ending}"
        write_vectors(path, words, matrix)
        found, read_back = read(path)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]
    assert found == words
    assert read_back.tobytes() == matrix.tobytes()


@pytest.mark.parametrize("ending", ENDINGS)
def test_gensim_reads_what_is_written(tmp_path, ending):
    path = tmp_path / f"v{ending}"
    save_vectors(path, [*WORDS, "two words"], np.vstack([MATRIX, MATRIX[:1]]).astype(np.float64))
    same_as_gensim(path, is_binary=".bin" in ending.lower())
    first = path.read_bytes()
    write_vectors(path, WORDS, MATRIX)
    assert path.read_bytes() == first


def test_write_refuses_words_that_all_have_white_space(tmp_path):
    with pytest.raises(VectorsError, match=r"v\.txt: expected a word without white space, found none among 1"):
        write_vectors(tmp_path / "v.txt", ["two words"], MATRIX[:1])
    assert not list(tmp_path.iterdir())


def test_binary_is_what_ends_exactly_after_its_last_record(tmp_path):
    content = b"1 1\n ab%d"
    for name in ("v.BIN.gz", "v.txt"):
        np.testing.assert_array_equal(read(write(tmp_path / name, content))[1], spelled(b"ab%d"))
        with pytest.raises(VectorsError, match=r"line 2: expected a number, found 'ab%d1'"):
            read(write(tmp_path / name, content + b"1"))


def test_the_name_decides_where_text_ends_as_binary_would(tmp_path):
    content = b"2 1\na 1.25\nb 2.50\n"
    np.testing.assert_array_equal(read(write(tmp_path / "v.txt", content))[1], [[1.25], [2.5]])
    np.testing.assert_array_equal(read(write(tmp_path / "v.bin", content))[1], spelled(b"1.25", b"2.50"))


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("words", [["new york", *WORDS], ["the", "a b c", *WORDS], ["a b", "c d e", "f g"], ["a b"]])
def test_words_with_spaces_in_binary_files(tmp_path, small_chunks, words, end):
    matrix = np.vstack([MATRIX, MATRIX])[: len(words)]
    found, read_back = read(write(tmp_path / "v.bin", binary(words, matrix, end=end)))
    assert found == words
    np.testing.assert_array_equal(read_back, matrix)


PARTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=" "), max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.lists(PARTS, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8),
    dimensions=st.integers(12, 60),
    end=st.sampled_from([b"\n", b""]),
    seed=st.integers(0, 99),
)
def test_words_of_several_parts_end_where_numbers_begin(words, dimensions, end, seed):
    matrix = np.random.default_rng(seed).standard_normal((len(words), dimensions)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        found, read_back = read(write(Path(folder) / "v", binary(words, matrix, end=end)))
    assert found == words
    np.testing.assert_array_equal(read_back, matrix)


def test_a_word_may_be_a_line_end(tmp_path):
    found, matrix = read(write(tmp_path / "v.bin", binary(["the", "\n", "film"], MATRIX[:3])))
    assert found == ["the", "", "film"]
    np.testing.assert_array_equal(matrix, MATRIX[:3])


def test_the_last_record_may_lack_its_line_end(tmp_path, small_chunks):
    assert read(write(tmp_path / "v.bin", binary(end=b"\n")[:-1]))[0] == WORDS


@settings(max_examples=60, deadline=None)
@given(
    vectors=words_and_matrix(),
    data=st.data(),
    separator=st.sampled_from([" ", "\t"]),
    chunk=st.sampled_from([5, 1 << 20]),
)
def test_words_of_several_parts_are_what_is_before_the_numbers(vectors, data, separator, chunk):
    parts, matrix = vectors
    gaps = data.draw(st.lists(st.sampled_from([" ", "\t", " \t "]), min_size=len(parts), max_size=len(parts)))
    words = [f"{part}{gap}x" if part else part for part, gap in zip(parts, gaps, strict=True)]
    lines = [separator.join([word, *map(str, row)]) for word, row in zip(words, matrix, strict=True)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_CHUNK", chunk)
        found, read_back = read(write(Path(folder) / "v", "\n\n".join([f"{len(words)} {matrix.shape[1]}", *lines])))
    assert found == words
    assert read_back.tobytes() == matrix.tobytes()


@pytest.mark.parametrize("content", [text(), text(header=False), binary(), binary(end=b"\n")])
def test_words_that_are_no_utf8_are_left_out_and_counted(tmp_path, caplog, small_chunks, content):
    content = content.encode() if isinstance(content, str) else content
    for broken in ("电影".encode()[:4], "café".encode("latin-1")):
        path = write(tmp_path / "v", content.replace("电影".encode(), broken))
        words, matrix = read(path)
        assert words == [word for word in WORDS if word != "电影"]
        np.testing.assert_array_equal(matrix, np.delete(MATRIX, WORDS.index("电影"), axis=0))
    assert caplog.messages == 2 * ["v: 1 of the 10 words are not UTF-8, and are left out"]


# Broken files

ROW = struct.pack("<2f", 0.1, 0.2)
BROKEN = {
    "empty": (b"", "the file is empty"),
    "no vectors": (b"hello\nworld\n", "line 1: expected a header 'N D', or a word and its numbers, found 'hello'"),
    "prose": (b"It was a good film.\nReally a good one.\n", "line 1: expected a header 'N D', or a word and its"),
    "labeled text": (
        b"a good film 1\na bad one 0\nnice\t1\nagain\t1 1\n",
        "line 1: expected a header 'N D', or a word",
    ),
    "photo": (b"\xff\xd8\xff\xe0 x y\n", "line 1: expected a header"),
    "no words": (b"0 2\n", "line 1: the header says 0 words of 2 dimensions: expected at least one word and 1 to"),
    "no dimensions": (b"2 0\na\nb\n", "line 1: the header says 2 words of 0 dimensions: expected"),
    "absurd dimensions": (b"2 99999999999999999999\na 1\nb 1\n", "line 1: .* of 99999999999999999999 dimensions"),
    "terabytes": (b"9999999999 300\na 1 2\n", "line 1: .* 9999999999 words .* 5,999,999,999,400 .*hold 21 at the most"),
    "short": (b"3 2\na .1 .2\nb .1 .2\n", "line 4: the header says 3 words, but the file ends after 2"),
    "long": (b"1 2\na .1 .2\nb .1 .2\n", "line 3: the header says 1 words, and here is more"),
    "too few numbers": (b"2 2\na .1 .2\nb .1\n", "line 3: expected a word and 2 numbers, found 2 fields"),
    "too many numbers": (b"2 2\na .1 .2\nb .125 .2 .3\n", "line 3: expected 2 numbers, found at least 3"),
    "two lines in one": (b"a .1 .2\nb .125 .2c .1 .2\nd -1e-3 2\n", "line 2: expected 2 numbers, found at least 3"),
    "narrow glove": (b"a .1 .2\nb .1\nc .1 .2\n", "line 2: expected a word and 2 numbers, found 2 fields"),
    "no number": (b"2 2\na .1 .2\nb .1 x\n", "line 3: expected a number, found 'x'"),
    "two numbers in one": (b"2 2\na .1 .2\nb .1 .2-3\n", "line 3: expected a number, found '.2-3'"),
    "after a blank line": (b"2 2\na .1 .2\n\nb .1 x\n", "line 4: expected a number, found 'x'"),
    "nan after a blank line": (b"2 2\na .1 .2\n\nb .1 nan\n", "line 4: number 2 is nan"),
    "more after a blank line": (b"1 2\na .1 .2\n\nb .1 .2\n", "line 4: the header says 1 words, and here is more"),
    "nan": (b"2 2\na .1 .2\nb .1 nan\n", "line 3: number 2 is nan, expected a finite one"),
    "infinite": (b"a .1 .2\nb -inf .1\n", "line 2: number 1 is -inf, expected a finite one"),
    "above float32": (b"a .1 .2\nb .1 1e39\n", "line 2: number 2 is inf, expected a finite one"),
    "cut binary": (b"2 2\na " + ROW + b"b " + ROW[:5], "record 2 is cut off: the header says 2 words"),
    "short binary": (b"3 2\na " + ROW + b"b " + ROW, "record 3 is missing: the header says 3 words"),
    "long binary": (b"1 2\na " + ROW + b"b " + ROW, "record 2: the header says 1 words, and here is more"),
    "nan binary": (b"2 2\na " + ROW + b"b " + struct.pack("<2f", 1, np.nan), "record 2: number 2 is nan, expected"),
}
FOREIGN = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"BZh9": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    "1 2\na 1 2\n".encode("utf-16"): "UTF-16: save it as UTF-8",
    b"version https://git-lfs.github.com/spec/v1": "a git-lfs pointer",
    b"<!DOCTYPE html>": "a web page: download the file itself",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_with_the_line(tmp_path, kind):
    content, message = BROKEN[kind]
    with pytest.raises(VectorsError, match=rf"^v\.txt[:,] {message}"):
        read(write(tmp_path / "v.txt", content))


def test_a_header_that_no_compressed_file_can_hold(tmp_path):
    with pytest.raises(VectorsError, match=r"^v\.gz, line 1: .* 9999999999 words .*can hold [0-9,]+ at the most"):
        read(write(tmp_path / "v.gz", BROKEN["terabytes"][0]))


@pytest.mark.parametrize("magic", FOREIGN)
def test_other_kinds_of_file_are_named(tmp_path, magic):
    with pytest.raises(VectorsError, match=f"^v.bin: expected word vectors, found {FOREIGN[magic]}"):
        file_kind(write(tmp_path / "v.bin", magic + b" more"), allow_pickle=True)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(VectorsError, match=r"^v\.txt: cannot be read \(No such file or directory\)"):
        file_kind(tmp_path / "v.txt", allow_pickle=False)


def test_lines_and_words_without_end(tmp_path, small_chunks, monkeypatch):
    for limit in ("_MAX_LINE", "_MAX_WORD"):
        monkeypatch.setattr(formats, limit, 100)
    with pytest.raises(VectorsError, match=r"^v, line 2: expected at most 100 bytes in a line"):
        read(write(tmp_path / "v", "1 1\n" + "a" * 1000 + " 1\n"))
    with pytest.raises(VectorsError, match=r"^v, record 2: no word ends within 100 bytes"):
        read(write(tmp_path / "v", b"2 2\na " + ROW + b"\1" * 3000))


@pytest.mark.parametrize("broken", [gzip.compress(binary())[:200], gzip.compress(text().encode())[:-8] + b"\0" * 8])
def test_broken_gzip(tmp_path, broken):
    (tmp_path / "v.gz").write_bytes(broken)
    with pytest.raises(VectorsError, match=r"^v\.gz: broken gzip \(.*\): download or compress it again"):
        read(tmp_path / "v.gz")


# Pickles


def test_pickles_only_when_asked(tmp_path):
    keyed = KeyedVectors(7)
    keyed.add_vectors(WORDS, MATRIX)
    for name in ("v.kv", "v.kv.gz"):
        keyed.save(str(tmp_path / name))
        with pytest.raises(VectorsError, match=rf"^{name}: a pickle, .*save_word2vec_format.*allow_pickle=True"):
            read(tmp_path / name)
        words, matrix = read(tmp_path / name, allow_pickle=True)
        assert words == WORDS
        np.testing.assert_array_equal(matrix, MATRIX)


def test_pickle_of_a_whole_model_with_its_arrays_beside_it(tmp_path):
    model = Word2Vec([["good", "film"]] * 20, vector_size=4, min_count=1, seed=0, workers=1)
    model.save(str(tmp_path / "v.model"), sep_limit=0)
    assert (tmp_path / "v.model.wv.vectors.npy").exists()
    words, matrix = read(tmp_path / "v.model", allow_pickle=True)
    assert words == model.wv.index_to_key
    np.testing.assert_array_equal(matrix, model.wv.vectors)


class _Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_code_in_a_pickle_runs_unasked(tmp_path):
    path = write(tmp_path / "v.kv", pickle.dumps(_Touch(tmp_path / "touched")))
    with pytest.raises(VectorsError, match="a pickle"):
        read(path)
    assert not (tmp_path / "touched").exists()
    with pytest.raises(VectorsError, match=r"^v\.kv: gensim cannot read this pickle \(AttributeError"):
        read(path, allow_pickle=True)
    assert (tmp_path / "touched").exists()


# Models of gensim's downloader


@pytest.mark.parametrize("parts", [1, 3])
def test_download_of_the_vectors(tmp_path, monkeypatch, parts):
    publish(serve(tmp_path / "site", monkeypatch), "glove-tiny-7", gzip.compress(text().encode()), parts)
    download_model("glove-tiny-7", tmp_path / "v.gz")
    assert read(tmp_path / "v.gz")[0] == WORDS


def test_download_that_goes_wrong(tmp_path, monkeypatch):
    folder, out = serve(tmp_path / "site", monkeypatch), tmp_path / "v.gz"
    with pytest.raises(VectorsError, match=r"^x: no such file .* could not be looked up \(.*No such file.*give a file"):
        download_model("x", out)
    (folder / "list.json").write_text("<html>")
    with pytest.raises(VectorsError, match=r"^x: .* could not be looked up"):
        download_model("x", out)
    publish(folder, "glove-tiny-7", b"content", checksum="0" * 32)
    with pytest.raises(VectorsError, match=r"^glove-tiny-8: no such file .*did you mean 'glove-tiny-7'\?"):
        download_model("glove-tiny-8", out)
    with pytest.raises(VectorsError, match=r"^text8: in gensim's downloader this is a corpus of text"):
        download_model("text8", out)
    with pytest.raises(VectorsError, match=r"^glove-tiny-7\.gz: expected md5 0{32}, found 9a0364b9e99bb480.*try again"):
        download_model("glove-tiny-7", out)
    (folder / "glove-tiny-7" / "glove-tiny-7.gz").unlink()
    with pytest.raises(VectorsError, match=r"^glove-tiny-7\.gz: the download failed \(.*No such file.*give its path"):
        download_model("glove-tiny-7", out)

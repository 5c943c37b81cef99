"""Files of word vectors: what kind a file is, its records block by block, and the files that other tools read.

    word2vec text     a header line "N D", then a word and D numbers a line (fastText's .vec is the same)
    GloVe text        the same without the header
    word2vec binary   the header line, then N times a word, a space, D little-endian float32, and a line end or none
    gensim pickles    .kv and .model; they can run code when read, so they have to be asked for

Each kind may be compressed by gzip, and is recognized by its content. The last D fields of a line of text, between
spaces or tabs, are the numbers, and whatever is before them is the word; words of a binary file may have spaces, too.
Those that are not UTF-8 are left out and counted. Nothing is allocated on a header's word: blocks grow with what is
really read. What is broken is a VectorsError that names the line or the record. fastText's own files are read by
fasttext.py, and matrices with their words beside them by matrices.py. This file does not know the cache.
"""

import codecs
import gzip
import hashlib
import http.client
import io
import json
import logging
import os
import re
import urllib.request
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from nlptransfer.errors import VectorsError, nearest
from nlptransfer.files import atomic_file
from nlptransfer.storage import storage_errors

logger = logging.getLogger("nlptransfer")

Block = tuple[list[bytes], np.ndarray]
"""Words in UTF-8 and their vectors, (rows, dimensions) float32, all of them finite."""
Kind = Literal["words", "pickle", "fasttext", "matrix"]
"""What reads a file: words are text or binary of word2vec and GloVe; a matrix has its words in another file."""
FILE_SUFFIXES = (".txt", ".vec", ".bin")
"""Endings that :func:`write_vectors` knows, each with or without ``.gz``."""
_HEAD = 4 << 20
_CHUNK = 16 << 20
_MAX_LINE = 16 << 20
_MAX_WORD = 64 << 10
_MAX_PRINTABLE = 4 << 10
_MAX_DIMENSIONS = 100_000
_GZIP, _BOM = b"\x1f\x8b", codecs.BOM_UTF8
_FASTTEXT, _NUMPY = b"\xba\x16\x4f\x2f", b"\x93NUMPY"
# Deflate packs at most about 1032 to 1.
_GZIP_RATIO = 1100
_HEADER = re.compile(rb"[ \t]*(\d{1,20})[ \t]+(\d{1,20})[ \t\r]*(?:\n|\Z)")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_NUMBER = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+|inf|nan)(?:[eE][-+]?\d+)?")
_FRACTION = re.compile(rb"[-+]?\d*\.\d{3,}(?:[eE][-+]?\d+)?|[-+]?\d[\d.]*[eE][-+]?\d+")
# What could be further parts of a word, and the spaces after them.
_MORE_PARTS = (
    rb"(?:(?:[!-~]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}){0,1000} ){1,50}"
)
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_FOREIGN: dict[bytes | tuple[bytes, ...], str] = {
    b"PK\x03\x04": "a zip archive: unpack it and give the file inside",
    b"BZh": "compressed by bzip2: unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or compress it by gzip",
    (b"\xff\xfe", b"\xfe\xff"): "UTF-16: save it as UTF-8",
    b"version https://git-lfs": "a git-lfs pointer, not the vectors themselves: fetch them with git lfs pull",
    (b"<!DOCTYPE", b"<!doctype", b"<html"): "a web page: download the file itself",
}
_LIST_URL = "https://raw.githubusercontent.com/RaRe-Technologies/gensim-data/master/list.json"
_DATA_URL = "https://github.com/RaRe-Technologies/gensim-data/releases/download"
_TIMEOUT = 10
_DOWNLOAD_ERRORS = (OSError, http.client.HTTPException, ValueError)


def file_kind(path: Path, allow_pickle: bool) -> Kind:
    """Tell the kind of a file by its first bytes; kinds that cannot or may not be read are a VectorsError."""
    with reading(path) as stream:
        head, is_packed = stream.read(32), isinstance(stream, gzip.GzipFile)
    if not head:
        raise VectorsError(f"{path.name}: the file is empty")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise VectorsError(f"{path.name}: expected word vectors, found {what}")
    if head.startswith(_FASTTEXT):
        return "fasttext"
    if head.startswith(_NUMPY) or (path.suffix == ".safetensors" and head[8:9] == b"{"):
        if is_packed:
            raise VectorsError(f"{path.name}: expected a matrix that can be mapped, found one in gzip: unpack it")
        return "matrix"
    if not _PICKLE.match(head):
        return "words"
    if not allow_pickle:
        raise VectorsError(
            f"{path.name}: a pickle, which can run code when it is read. Convert it once, where it comes from a source "
            "that you trust, with gensim: KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True) "
            "(a whole model: Word2Vec.load(FILE).wv.save_word2vec_format(...)); or open it with allow_pickle=True"
        )
    return "pickle"


def read_blocks(path: Path, allow_pickle: bool = False) -> Iterator[Block]:
    """Read the words and vectors of a file in the file's own order, in bounded memory; words not UTF-8 are left out."""
    if file_kind(path, allow_pickle) == "pickle":
        yield from _pickle_blocks(path)
        return
    with reading(path) as stream:
        head = stream.read(_HEAD).removeprefix(_BOM)
        header = _HEADER.match(head)
        if header:
            rows, dimensions, rest = int(header[1]), int(header[2]), head[header.end() :]
            _check_header(path, stream, rows, dimensions)
            is_text = _is_text(path, rest, rows, dimensions)
            blocks = (_text_blocks if is_text else _binary_blocks)(path.name, stream, rest, rows, dimensions)
        else:
            blocks = _text_blocks(path.name, stream, head, None, _guess_dimensions(path.name, head))
        yield from in_utf8(path.name, blocks)


def _is_text(path: Path, rest: bytes, rows: int, dimensions: int) -> bool:
    """Tell text from binary by the beginning of what follows a header.

    Where both could be meant, it is binary if as many records as the header says end exactly at the end of the file;
    a first line of text decides alone, unless the file is called .bin.
    """
    first = rest.lstrip().partition(b"\n")[0].split()[-dimensions:]
    starts_as_text = _numbers(b" ".join(first), dimensions) is not None
    if starts_as_text and not _has_binary_name(path):
        return True
    if not _is_printable(rest):
        return starts_as_text
    # More numbers than that would not all be printable.
    if len(rest) > _MAX_PRINTABLE:
        return True
    try:
        for _ in _binary_blocks(path.name, io.BytesIO(), rest, rows, dimensions):
            pass  # only whether it comes to its end
    except VectorsError:
        return True
    return False


def in_utf8(name: str, blocks: Iterable[Block]) -> Iterator[Block]:
    left_out = count = 0
    for words, vectors in blocks:
        count += len(words)
        try:
            b"\n".join(words).decode("utf-8")
        except UnicodeDecodeError:
            rows = [row for row, word in enumerate(words) if word.decode("utf-8", "ignore").encode("utf-8") == word]
            left_out += len(words) - len(rows)
            words, vectors = [words[row] for row in rows], vectors[rows]
        yield words, vectors
    if left_out:
        logger.warning("%s: %d of the %d words are not UTF-8, and are left out", name, left_out, count)


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file, decompressed as it is read; what is broken is a VectorsError."""
    what = "cannot be read"
    try:
        with storage_errors(path, "read"), path.open("rb") as plain:
            if packed := plain.read(2) == _GZIP:
                what = "broken gzip"
            plain.seek(0)
            with gzip.GzipFile(fileobj=plain) if packed else plain as stream:
                yield stream  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise VectorsError(f"{path.name}: {what} ({reason}): download or compress it again") from error


def write_vectors(path: Path, words: Iterable[str], matrix: np.ndarray) -> None:
    """Write a file that other tools read: ``.txt`` / ``.vec`` word2vec text, ``.bin`` binary, each with ``.gz`` or not.

    Words with white space inside, which the formats cannot hold, are left out with a warning; it is a VectorsError if
    that leaves none. ``matrix`` is (n, d) float32.
    """
    packed, binary = path.suffix.lower() == ".gz", _has_binary_name(path)
    kept = [(row, word) for row, word in enumerate(words) if not re.search("[ \t\n\r\v\f]", word)]
    if not kept:
        raise VectorsError(f"{path.name}: expected a word without white space, found none among {len(matrix)}")
    with atomic_file(path) as temporary, temporary.open("wb") as plain:
        # No name and no time in the gzip header: the same vectors make the same file.
        out = gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) if packed else plain
        out.write(f"{len(kept)} {matrix.shape[1]}\n".encode())
        for row, word in kept:
            vector = np.asarray(matrix[row], dtype="<f4")
            # str of a float32 is the shortest number that reads back as the same one.
            numbers = vector.tobytes() if binary else " ".join(map(str, vector)).encode()
            out.write(word.encode("utf-8") + b" " + numbers + b"\n")
        if packed:
            out.close()
    if left_out := len(matrix) - len(kept):
        logger.warning(
            "%s: %d words have white space, which the format cannot hold, and are left out", path.name, left_out
        )


def _check_header(path: Path, stream: BinaryIO, rows: int, dimensions: int) -> None:
    where = f"{path.name}, line 1: the header says {rows} words of {dimensions} dimensions"
    if rows == 0 or not 0 < dimensions <= _MAX_DIMENSIONS:
        raise VectorsError(f"{where}: expected at least one word and 1 to {_MAX_DIMENSIONS} dimensions")
    # Smaller lies are found in reading, and the line is named then.
    least, most = rows * 2 * dimensions, path.stat().st_size
    if isinstance(stream, gzip.GzipFile):
        most *= _GZIP_RATIO
    if least > most:
        raise VectorsError(
            f"{where}, at least {least:,} bytes, but the file can hold {most:,} at the most: "
            "the header is wrong, or the download stopped early"
        )


def _is_printable(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not _CONTROL.search(head)


def _has_binary_name(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".bin")


def _guess_dimensions(name: str, head: bytes) -> int:
    # Most of the first lines are right, so that the one that is not can be named.
    lines = head.split(b"\n")[:200]
    sample = [fields for line in lines[: max(1, len(lines) - 1)] if (fields := line.split())]
    widths = Counter(
        min(sum(1 for _ in takewhile(_NUMBER.fullmatch, reversed(fields))), len(fields) - 1) for fields in sample
    )
    dimensions = max(widths, key=lambda width: (widths[width], -width), default=0)
    # Of prose that ends in numbers, most has more than a word before them.
    alike = sum(len(fields) == dimensions + 1 for fields in sample)
    if not 0 < dimensions <= _MAX_DIMENSIONS or 2 * alike < len(sample):
        first = next((line for line in lines if line.strip()), b"")
        shown = first[:40].decode("utf-8", "replace")
        raise VectorsError(
            f"{name}, line 1: expected a header 'N D', or a word and its numbers, found {shown!r}: "
            "is this a file of word vectors?"
        )
    return dimensions


def _text_blocks(name: str, stream: BinaryIO, rest: bytes, rows: int | None, dimensions: int) -> Iterator[Block]:
    first, done = 1 if rows is None else 2, 0
    while True:
        chunk = stream.read(_CHUNK)
        rest += chunk
        # What follows the last full line may be the end of the file, so it is held back with its line ends.
        full = rest.rstrip().rpartition(b"\n")[0] if chunk else rest.rstrip()
        lines = [line.rstrip() for line in full.split(b"\n")] if full else []
        rest = rest[len(full) + 1 :] if full else rest
        numbers: Sequence[int] = range(first, first + len(lines))
        first += len(lines)
        if not all(lines):
            numbers = [number for number, line in zip(numbers, lines, strict=True) if line]
            lines = [line for line in lines if line]
        if rows is not None and done + len(lines) > rows:
            where = f"{name}, line {numbers[rows - done]}"
            raise VectorsError(f"{where}: the header says {rows} words, and here is more")
        if lines:
            yield checked(name, "line", numbers, *_parse_lines(name, lines, dimensions, numbers))
        done += len(lines)
        if len(rest) > _MAX_LINE:
            raise VectorsError(f"{name}, line {first}: expected at most {_MAX_LINE:,} bytes in a line")
        if not chunk:
            break
    if rows is not None and done < rows:
        raise VectorsError(f"{name}, line {first}: the header says {rows} words, but the file ends after {done}")


def _parse_lines(name: str, lines: list[bytes], dimensions: int, numbers: Sequence[int]) -> Block:
    """Parse the lines of a word and its numbers at once; those that are unlike them are looked at one by one."""
    # Tabs separate as spaces do; those of a word stay in it.
    spaced = [line.replace(b"\t", b" ") for line in lines] if any(b"\t" in line for line in lines) else lines
    plain = [row for row, line in enumerate(spaced) if line.count(b" ") == dimensions]
    parts = [spaced[row].partition(b" ") for row in plain]
    text = b" ".join(part[2] for part in parts)
    values = None if any(odd in text for odd in (b"\r", b"\v", b"\f")) else _numbers(text, len(plain) * dimensions)
    if values is None:
        plain, parts, values = [], [], np.zeros(0, dtype=np.float32)
    words, vectors = [b""] * len(lines), np.empty((len(lines), dimensions), dtype=np.float32)
    vectors[plain] = values.reshape(len(plain), dimensions)
    for row, part in zip(plain, parts, strict=True):
        words[row] = part[0]
    for row in sorted(set(range(len(lines))).difference(plain)):
        words[row], vectors[row] = _parse_line(f"{name}, line {numbers[row]}", lines[row], dimensions)
    return words, vectors


def _parse_line(where: str, line: bytes, dimensions: int) -> tuple[bytes, np.ndarray]:
    fields = line.rsplit(None, dimensions)
    if len(fields) == dimensions and line.startswith((b" ", b"\t")):
        fields.insert(0, b"")
    if len(fields) != dimensions + 1:
        raise VectorsError(f"{where}: expected a word and {dimensions} numbers, found {len(fields)} fields")
    word, *numbers = fields
    values = _numbers(b" ".join(numbers), dimensions)
    if values is None:
        wrong = next((field for field in numbers if _numbers(field, 1) is None), b"")
        raise VectorsError(f"{where}: expected a number, found {wrong[:40].decode('utf-8', 'replace')!r}")
    # Words may have spaces and whole numbers in them (". . .", "windows 10"); a fraction too many is a broken line.
    extra = [part for part in word.split()[1:] if _FRACTION.fullmatch(part)]
    if extra:
        raise VectorsError(f"{where}: expected {dimensions} numbers, found at least {dimensions + len(extra)}")
    return word.strip(), values


def _numbers(text: bytes, expected: int) -> np.ndarray | None:
    """(expected,) float32, or None where the text is anything else than that many numbers."""
    try:
        with warnings.catch_warnings():
            # Before numpy 2.3 unread text is a warning, since then it is a ValueError.
            warnings.simplefilter("error", DeprecationWarning)
            values = np.fromstring(text, dtype=np.float32, sep=" ")
    except (ValueError, DeprecationWarning):
        return None
    return values if values.size == expected else None


def _binary_blocks(name: str, stream: BinaryIO, buffer: bytes, rows: int, dimensions: int) -> Iterator[Block]:
    done, row_bytes, chunk = 0, 4 * dimensions, b" "
    # The original C tool ends each record with a newline, as we do; gensim does not.
    in_lines = True
    record = re.compile(rb"\n*([^ ]{0,%d}) (?=(%b)?)(.{%d})" % (_MAX_WORD, _MORE_PARTS, row_bytes), re.DOTALL)
    while done < rows:
        words: list[bytes] = []
        numbers: list[bytes] = []
        # The whole record must be here, also if it goes on after the first space.
        position, last = 0, len(buffer) - (_MAX_WORD + row_bytes + 1) if chunk else len(buffer)
        while done + len(words) < rows and position < last and (match := record.match(buffer, position)):
            word, more, row = match.groups()
            position = match.end()
            if more:
                end = _word_end(buffer, match.end(1), match.end(2), row_bytes, in_lines)
                position = end + 1 + row_bytes
                word, row = buffer[match.start(1) : end], buffer[end + 1 : position]
            in_lines = in_lines and buffer.startswith(b"\n", position)
            words.append(word)
            numbers.append(row)
        if words:
            vectors = np.frombuffer(b"".join(numbers), dtype="<f4").reshape(len(words), dimensions)
            yield checked(name, "record", range(done + 1, done + 1 + len(words)), words, vectors)
            done += len(words)
        buffer = buffer[position:]
        if done < rows and position < last and chunk:
            raise VectorsError(f"{name}, record {done + 1}: no word ends within {_MAX_WORD:,} bytes")
        if done < rows and not chunk:
            what = "is cut off" if buffer.strip() else "is missing"
            raise VectorsError(f"{name}, record {done + 1} {what}: the header says {rows} words")
        chunk = stream.read(_CHUNK)
        buffer += chunk
    while buffer:
        if buffer.strip():
            raise VectorsError(f"{name}, record {rows + 1}: the header says {rows} words, and here is more")
        buffer = stream.read(_CHUNK)


def _word_end(buffer: bytes, first: int, stop: int, row_bytes: int, in_lines: bool) -> int:
    """Return at which space, from the first one on, a word ends: that behind which numbers are most like numbers.

    Of text, or of numbers that begin elsewhere, some are all but zero, or immense. Where all records until here were
    lines, this one is a line too.
    """

    def likeness(end: int) -> int:
        sizes = np.abs(np.frombuffer(buffer, "<f4", row_bytes // 4, end + 1))
        return int(((sizes == 0) | ((sizes > 1e-12) & (sizes < 1e6))).sum())

    stop = min(stop, len(buffer) - row_bytes)
    ends = [end for end in range(first, stop) if buffer.startswith(b" ", end)]
    lines = [end for end in ends if in_lines and buffer.startswith(b"\n", end + 1 + row_bytes)]
    return max(lines or ends, key=likeness)


def _pickle_blocks(path: Path) -> Iterator[Block]:
    from gensim.utils import SaveLoad

    try:
        # The matrix of a large one lies in a file beside it, which need not be read at once.
        loaded = SaveLoad.load(str(path), mmap=None if path.suffix == ".gz" else "r")
        keyed = getattr(loaded, "wv", loaded)
        words, matrix = keyed.index_to_key, keyed.vectors
    except Exception as error:  # a pickle runs what it likes, and so may raise what it likes
        raise VectorsError(f"{path.name}: gensim cannot read this pickle ({type(error).__name__}: {error})") from error
    yield from array_blocks(path.name, words, matrix)


def array_blocks(name: str, words: Sequence[str | bytes], matrix: np.ndarray) -> Iterator[Block]:
    """Check words and vectors that are in memory already, and yield them in blocks."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or not matrix.size or len(words) != len(matrix) or matrix.dtype.kind not in "fiu":
        raise VectorsError(
            f"{name}: expected one vector of numbers for each word, "
            f"found {len(words)} words and an array of shape {matrix.shape} of {matrix.dtype}"
        )
    for start in range(0, len(words), 20_000):
        encoded = []
        for number, word in enumerate(words[start : start + 20_000], start=start + 1):
            try:
                encoded.append(word if isinstance(word, bytes) else word.encode("utf-8"))
            except (AttributeError, UnicodeEncodeError) as error:
                raise VectorsError(f"{name}, record {number}: expected a word of text, found {word!r}") from error
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(matrix[start : start + 20_000], dtype=np.float32)
        yield checked(name, "record", range(start + 1, start + 1 + len(encoded)), encoded, block)


def checked(name: str, unit: str, numbers: Sequence[int], words: list[bytes], vectors: np.ndarray) -> Block:
    """Return the block itself, or raise an error that names the first line or record with a number that is none."""
    finite = np.isfinite(vectors)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        wrong = f"number {column + 1} is {vectors[row, column]}"
        raise VectorsError(f"{name}, {unit} {numbers[row]}: {wrong}, expected a finite one")
    return words, vectors


def download_model(name: str, path: Path) -> None:
    """Download the vectors of a model that ``gensim.downloader`` lists, and none of the code published with them.

    Mirrors: NLPTRANSFER_GENSIM_LIST_URL (the list of models), NLPTRANSFER_GENSIM_DATA_URL (holds NAME/NAME.gz).
    """
    model = _known_model(name)
    base = os.environ.get("NLPTRANSFER_GENSIM_DATA_URL") or _DATA_URL
    parts = int(model.get("parts", 1))
    endings = {f"_0{part}": f"checksum-{part}" for part in range(parts)} if parts > 1 else {"": "checksum"}
    with path.open("wb") as out:
        for ending, checksum in endings.items():
            file, digest = f"{name}.gz{ending}", hashlib.md5(usedforsecurity=False)
            logger.info("Downloading %s", file)
            try:
                with urllib.request.urlopen(f"{base}/{name}/{file}", timeout=_TIMEOUT) as answer:
                    while chunk := answer.read(1 << 20):
                        digest.update(chunk)
                        out.write(chunk)
            except _DOWNLOAD_ERRORS as error:
                raise VectorsError(
                    f"{file}: the download failed ({error}): try again, or fetch the file elsewhere and give its path"
                ) from error
            if digest.hexdigest() != model.get(checksum):
                raise VectorsError(f"{file}: expected md5 {model.get(checksum)}, found {digest.hexdigest()}: try again")


def _known_model(name: str) -> dict[str, Any]:
    url = os.environ.get("NLPTRANSFER_GENSIM_LIST_URL") or _LIST_URL
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            listed = json.loads(answer.read())
        models, corpora = listed["models"], listed.get("corpora", {})
    except (*_DOWNLOAD_ERRORS, KeyError, TypeError) as error:
        raise VectorsError(
            f"{name}: no such file or folder here, and whether it is a model of gensim's downloader could not be "
            f"looked up ({error}): give a file of vectors, or fetch one where there is a network"
        ) from error
    if name in corpora:
        raise VectorsError(f"{name}: in gensim's downloader this is a corpus of text, not word vectors")
    if name not in models:
        raise VectorsError(
            f"{name}: no such file or folder, nor a model of gensim's downloader: {nearest(name, models)}"
        )
    return dict(models[name])

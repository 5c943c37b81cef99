"""Files of word vectors: what kind a file is, its records block by block, and the files that others read.

    word2vec text     a header line "N D", then a word and D numbers a line (fastText's .vec is the same)
    GloVe text        the same without the header
    word2vec binary   the header line, then a word, a space and D little-endian float32
    gensim pickles    .kv and .model; they can run code when read, so they have to be asked for

The kind is seen in the content, never in the name, and each kind may be compressed by gzip. Nothing is
allocated on a header's word: blocks grow with what is really read.
"""

import codecs
import gzip
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nlptransfer.errors import VectorsError
from nlptransfer.files import atomic_file

Block = tuple[list[bytes], np.ndarray]
"""Words in UTF-8 and their vectors, (rows, dimensions) float32, all of them finite."""

FILE_SUFFIXES = (".txt", ".vec", ".bin")
"""Endings that :func:`write_vectors` knows, each with or without ``.gz``."""

_HEAD = 4 << 20
_CHUNK = 16 << 20
_MAX_LINE = 16 << 20
_MAX_WORD = 64 << 10
_MAX_DIMENSIONS = 100_000
_GZIP, _BOM = b"\x1f\x8b", codecs.BOM_UTF8
# Deflate packs at most about 1032 to 1.
_GZIP_RATIO = 1100
_HEADER = re.compile(rb"[ \t]*(\d{1,20})[ \t]+(\d{1,20})[ \t\r]*(?:\n|\Z)")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_FOREIGN = {
    b"\xba\x16\x4f\x2f": "a fastText model: use the .vec file that is published beside it",
    b"\x93NUMPY": "a numpy array, which holds no words: use a file with the words in it",
    b"PK\x03\x04": "a zip archive: unpack it and give the file inside",
    b"BZh": "compressed by bzip2: unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz: unpack it, or compress it by gzip",
    b"\xff\xfe": "UTF-16: save it as UTF-8",
    b"\xfe\xff": "UTF-16: save it as UTF-8",
    b"version https://git-lfs": "a git-lfs pointer, not the vectors themselves: fetch them with git lfs pull",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}


@dataclass(frozen=True)
class _Input:
    """An open file, decompressed as it is read."""

    name: str
    stream: BinaryIO
    limit: int
    """The most bytes that there can be, decompressed."""

    def read(self, size: int) -> bytes:
        try:
            return self.stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise VectorsError(f"{self.name}: broken gzip, download or compress it again ({error})") from error


def check_kind(path: Path, allow_pickle: bool) -> bool:
    """Whether the file is a pickle that may be read; its first bytes decide.

    Raises:
        VectorsError: the file is empty, of a kind that holds no words, or a pickle that may not be read.
    """
    try:
        with _open(path) as stream:
            head = _Input(path.name, stream, 0).read(32)
    except OSError as error:
        raise VectorsError(f"{path.name}: cannot be read ({error.strerror})") from error
    if not head:
        raise VectorsError(f"{path.name}: the file is empty")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise VectorsError(f"{path.name}: expected word vectors, found {what}")
    if not _PICKLE.match(head):
        return False
    if not allow_pickle:
        raise VectorsError(
            f"{path.name}: a pickle, which can run code when it is read. Convert it once, where it comes from a source "
            "that you trust, with gensim: KeyedVectors.load(FILE).save_word2vec_format('vectors.bin', binary=True) "
            "(a whole model: Word2Vec.load(FILE).wv.save_word2vec_format(...)); or open it with allow_pickle=True"
        )
    return True


def read_blocks(path: Path, allow_pickle: bool = False) -> Iterator[Block]:
    """The words and vectors of a file in the file's own order, in bounded memory.

    Raises:
        VectorsError: the file is broken, lies about its size, is not UTF-8 or holds a number that is not
            finite; the line or the record is named.
    """
    if check_kind(path, allow_pickle):
        yield from _pickle_blocks(path)
        return
    with _open(path) as stream:
        size = path.stat().st_size
        source = _Input(path.name, stream, size * _GZIP_RATIO if isinstance(stream, gzip.GzipFile) else size)
        head = source.read(_HEAD).removeprefix(_BOM)
        header = _HEADER.match(head)
        if not header:
            yield from _text_blocks(source, head, rows=None, dimensions=_guess_dimensions(source.name, head))
            return
        rows, dimensions = int(header[1]), int(header[2])
        rest = head[header.end() :]
        binary = _is_binary(rest, dimensions)
        _check_header(source, rows, dimensions, (4 * dimensions if binary else 2 * dimensions) + 1)
        yield from (_binary_blocks if binary else _text_blocks)(source, rest, rows, dimensions)


def write_vectors(path: Path, words: Iterable[str], matrix: np.ndarray) -> int:
    """Write a file that other tools read: ``.txt`` / ``.vec`` word2vec text, ``.bin`` binary, each with ``.gz`` or not.

    Args:
        path: its ending decides, see :data:`FILE_SUFFIXES`.
        words: as many as ``matrix`` has rows.
        matrix: (n, d) float32.

    Returns:
        How many words were left out because the format cannot hold them: those with white space inside.
    """
    suffixes = path.suffixes
    packed = suffixes[-1].lower() == ".gz"
    binary = suffixes[-2 if packed else -1].lower() == ".bin"
    kept = [(row, word) for row, word in enumerate(words) if not re.search("[ \t\n\r\v\f]", word)]
    with atomic_file(path) as temporary, temporary.open("wb") as plain:
        # No name and no time in the gzip header: the same vectors make the same file.
        out = gzip.GzipFile("", "wb", compresslevel=6, fileobj=plain, mtime=0) if packed else plain
        out.write(f"{len(kept)} {matrix.shape[1]}\n".encode())
        pending = iter(kept)
        while block := list(islice(pending, 4096)):
            vectors = np.asarray(matrix[[row for row, _ in block]], dtype="<f4")
            _write_block(out, [word for _, word in block], vectors, binary)
        if packed:
            out.close()
    return len(matrix) - len(kept)


def _write_block(out: Any, words: Sequence[str], vectors: np.ndarray, binary: bool) -> None:
    for word, vector in zip(words, vectors, strict=True):
        # str of a float32 is the shortest number that reads back as the same one.
        numbers = vector.tobytes() if binary else " ".join(map(str, vector)).encode() + b"\n"
        out.write(word.encode("utf-8") + b" " + numbers)


def _open(path: Path) -> BinaryIO:
    stream = path.open("rb")
    packed = stream.read(2) == _GZIP
    stream.seek(0)
    if not packed:
        return stream
    stream.close()
    return gzip.open(path, "rb")  # type: ignore[return-value]


# Headers and kinds


def _check_header(source: _Input, rows: int, dimensions: int, least: int) -> None:
    where = f"{source.name}, line 1: the header says {rows} words of {dimensions} dimensions"
    if rows == 0 or not 0 < dimensions <= _MAX_DIMENSIONS:
        raise VectorsError(f"{where}: expected at least one word and 1 to {_MAX_DIMENSIONS} dimensions")
    # Smaller lies are found in reading, and the line is named then.
    if rows * least > 2 * source.limit + 1024:
        raise VectorsError(
            f"{where}, at least {rows * least:,} bytes, but the file can hold {source.limit:,} at the most: "
            "the header is wrong, or the download stopped early"
        )


def _is_binary(rest: bytes, dimensions: int) -> bool:
    first = rest.split(b"\n", 1)[0].rstrip().rsplit(b" ", dimensions)
    if len(first) == dimensions + 1 and _numbers(b" ".join(first[1:]), dimensions) is not None:
        return False
    if _CONTROL.search(rest):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return True
    return False


def _guess_dimensions(name: str, head: bytes) -> int:
    # Most of the first lines are right, so that the one that is not can be named.
    lines = head.split(b"\n")[:1000]
    widths = Counter(line.rstrip().count(b" ") for line in lines[: max(1, len(lines) - 1)] if line.strip())
    dimensions = max(widths, key=lambda width: (widths[width], -width), default=0)
    first = next((line for line in lines if line.strip()), b"")
    if not 0 < dimensions <= _MAX_DIMENSIONS or _is_binary(head, dimensions):
        shown = first[:40].decode("utf-8", "replace")
        raise VectorsError(
            f"{name}, line 1: expected a header 'N D', or a word and its numbers, found {shown!r}: "
            "is this a file of word vectors?"
        )
    return dimensions


# Text


def _text_blocks(source: _Input, head: bytes, rows: int | None, dimensions: int) -> Iterator[Block]:
    header_lines = 0 if rows is None else 1
    line = 1 + header_lines
    blank: int | None = None
    for lines in _lines(source, head, line):
        filled = len(lines)
        while filled and not lines[filled - 1].strip():
            filled -= 1
        if filled and blank is not None:
            raise VectorsError(f"{source.name}, line {blank}: expected a word and {dimensions} numbers, found nothing")
        if filled < len(lines) and blank is None:
            blank = line + filled
        if rows is not None and line + filled - 1 - header_lines > rows:
            raise VectorsError(f"{source.name}, line {rows + 2}: the header says {rows} words, and here is one more")
        if filled:
            yield _checked(source.name, "line", line, *_parse_lines(source.name, lines[:filled], dimensions, line))
        line += len(lines)
    found = (line if blank is None else blank) - 1 - header_lines
    if rows is not None and found < rows:
        raise VectorsError(
            f"{source.name}, line {found + 2}: the header says {rows} words, but the file ends after {found}"
        )


def _lines(source: _Input, head: bytes, first: int) -> Iterator[list[bytes]]:
    rest, chunk = head, b""
    while rest or chunk:
        lines = rest.split(b"\n")
        chunk = source.read(_CHUNK)
        if chunk:
            rest = lines.pop() + chunk
            if len(rest) - len(chunk) > _MAX_LINE:
                raise VectorsError(f"{source.name}, line {first + len(lines)}: longer than {_MAX_LINE:,} bytes")
        else:
            rest = b""
            if not lines[-1]:
                lines.pop()
        first += len(lines)
        if lines:
            yield lines


def _parse_lines(name: str, lines: list[bytes], dimensions: int, first: int) -> Block:
    """Parse whole lines at once; only lines that are unlike the others are looked at one by one."""
    words, numbers = [], []
    for line in lines:
        word, _, rest = line.rstrip().partition(b" ")
        if rest.count(b" ") != dimensions - 1:
            break
        words.append(word)
        numbers.append(rest)
    else:
        joined = b" ".join(numbers)
        if not re.search(rb"[\t\v\f\r]|  ", joined):
            values = _numbers(joined, len(lines) * dimensions)
            if values is not None:
                return words, values.reshape(len(lines), dimensions)
    pairs = [_parse_line(name, line, dimensions, number) for number, line in enumerate(lines, start=first)]
    return [word for word, _ in pairs], np.stack([values for _, values in pairs])


def _parse_line(name: str, line: bytes, dimensions: int, number: int) -> tuple[bytes, np.ndarray]:
    where = f"{name}, line {number}"
    line = line.rstrip()
    fields = line.rsplit(b" ", dimensions)
    values = _numbers(b" ".join(fields[1:]), dimensions) if len(fields) == dimensions + 1 else None
    if values is None or b"" in fields[1:]:
        # Tabs, or more than one space between numbers.
        fields = line.split()
        values = _numbers(b" ".join(fields[1:]), dimensions)
    if values is None:
        if len(fields) != dimensions + 1:
            raise VectorsError(f"{where}: expected a word and {dimensions} numbers, found {len(fields)} fields")
        wrong = next((field for field in fields[1:] if _numbers(field, 1) is None), b"")
        raise VectorsError(f"{where}: expected a number, found {wrong[:40].decode('utf-8', 'replace')!r}")
    word = fields[0].rstrip(b" ")
    # GloVe 840B has words with spaces in them (". . ."); a component too many is a broken line instead.
    extra = [part for part in word.split(b" ")[1:] if re.search(rb"[.eE]", part) and _numbers(part, 1) is not None]
    if extra:
        raise VectorsError(f"{where}: expected {dimensions} numbers, found at least {dimensions + len(extra)}")
    return word, values


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


# Binary and pickles


def _binary_blocks(source: _Input, buffer: bytes, rows: int, dimensions: int) -> Iterator[Block]:
    done, row_bytes = 0, 4 * dimensions
    while True:
        words: list[bytes] = []
        starts: list[int] = []
        position = 0
        while done + len(words) < rows:
            space = buffer.find(b" ", position, position + _MAX_WORD)
            start = space + 1
            if space < 0 or start + row_bytes > len(buffer):
                break
            # The original C tool ends each record with a newline, gensim does not.
            words.append(buffer[position:space].lstrip(b"\n"))
            starts.append(start)
            position = start + row_bytes
        if words:
            view = memoryview(buffer)
            raw = b"".join([view[start : start + row_bytes] for start in starts])
            vectors = np.frombuffer(raw, dtype="<f4").reshape(len(words), dimensions)
            yield _checked(source.name, "record", done + 1, words, vectors)
            done += len(words)
        buffer = buffer[position:]
        if done == rows:
            break
        if len(buffer) > _MAX_WORD + row_bytes:
            raise VectorsError(f"{source.name}, record {done + 1}: no word ends within {_MAX_WORD:,} bytes")
        chunk = source.read(_CHUNK)
        if not chunk:
            what = "is cut off" if buffer.strip() else "is missing"
            raise VectorsError(f"{source.name}, record {done + 1} {what}: the header says {rows} words")
        buffer += chunk
    while buffer:
        if buffer.strip():
            raise VectorsError(f"{source.name}, record {rows + 1}: the header says {rows} words, and here is more")
        buffer = source.read(_CHUNK)


def _pickle_blocks(path: Path) -> Iterator[Block]:
    from gensim.utils import SaveLoad

    try:
        loaded = SaveLoad.load(str(path))
        keyed = getattr(loaded, "wv", loaded)
        words, matrix = keyed.index_to_key, np.asarray(keyed.vectors, dtype=np.float32)
    except Exception as error:  # a pickle runs what it likes, and so may raise what it likes
        raise VectorsError(f"{path.name}: gensim cannot read this pickle ({type(error).__name__}: {error})") from error
    if matrix.ndim != 2 or len(words) != len(matrix):
        raise VectorsError(f"{path.name}: {len(words)} words, but vectors of shape {matrix.shape}")
    yield from array_blocks(path.name, words, matrix)


def array_blocks(name: str, words: Sequence[str], matrix: np.ndarray) -> Iterator[Block]:
    """Blocks of what is in memory already.

    Raises:
        VectorsError: a word that is no text, or a number that is not finite.
    """
    for start in range(0, len(words), 20_000):
        part = words[start : start + 20_000]
        try:
            encoded = [word.encode("utf-8") for word in part]
        except (AttributeError, UnicodeEncodeError) as error:
            raise VectorsError(f"{name}: a word after record {start} is not text ({error})") from error
        with np.errstate(over="ignore"):
            block = np.ascontiguousarray(matrix[start : start + 20_000], dtype=np.float32)
        yield _checked(name, "record", start + 1, encoded, block)


def _checked(name: str, unit: str, first: int, words: list[bytes], vectors: np.ndarray) -> Block:
    """The block itself, or an error that names the first line or record that is wrong."""
    try:
        b"\n".join(words).decode("utf-8")
    except UnicodeDecodeError:
        for number, word in enumerate(words, start=first):
            if word.decode("utf-8", "replace").encode("utf-8") != word:
                raise VectorsError(f"{name}, {unit} {number}: the word {word[:40]!r} is not UTF-8") from None
    finite = np.isfinite(vectors)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise VectorsError(
            f"{name}, {unit} {first + row}: number {column + 1} is {vectors[row, column]}, expected a finite one"
        )
    return words, vectors

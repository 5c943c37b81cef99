"""Open a file or a stream as bytes, unpacked, and as UTF-8; name what holds no rows. Does not know rows."""

import bz2
import codecs
import gzip
import io
import logging
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from nlptransfer.errors import DataError, abridged, first_line

if TYPE_CHECKING:
    from nlptransfer.data.files.parsing import FileSettings

logger = logging.getLogger("nlptransfer")

HEAD = 2**16
"""Bytes of the front of a file that tell what it is."""
_GIGABYTE = 10**9
_MOST_RATIO = 100
_BROKEN = (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
_PACKED = (
    (re.compile(rb"\x1f\x8b\x08"), "gzip", lambda packed: gzip.GzipFile(fileobj=packed)),
    (re.compile(rb"BZh[1-9]1AY&SY"), "bzip2", bz2.BZ2File),
    (re.compile(rb"\xfd7zXZ\x00"), "xz", lzma.LZMAFile),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zstd", lambda packed: _zstd(packed)),
)
"""First bytes, name and reader of each kind of compression."""
_PACKED_ENDINGS = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".zip")
_UNPACK = "unpack it, and name the file"
_NO_ROWS = (
    (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer in place of the file", "run git lfs pull"),
    (rb"(?i)\s*(<!doctype html|<html)", "an HTML page", "download the file itself"),
    (rb"\s*<\?xml", "an XML file", "save its rows as csv or jsonl"),
    (rb"(?s).{257}ustar", "a tar archive", _UNPACK),
    (rb"Rar!\x1a|7z\xbc\xaf\x27\x1c", "an archive", _UNPACK),
    (rb"\x80[\x02-\x05]", "a pickle, which may run code when it is opened", "save its rows as parquet or jsonl"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Office file", "save it as .xlsx or csv"),
    (rb"%PDF-", "a PDF", "name a file of rows"),
)
"""Pattern at the front of a file, what it is, and what to do."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ENCODINGS = (
    ("shift_jis", re.compile("[\u3040-\u30ff]"), 0.3),
    ("euc_kr", re.compile("[\uac00-\ud7a3]"), 0.95),
    ("gb18030", re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uff5e]"), 0.8),
)
"""Encodings of eastern Asia, what their texts hold, and the least share of it that is no accident."""


@dataclass(frozen=True)
class Opened:
    """The bytes of a file, unpacked, from their front."""

    where: str
    """The file, for messages."""
    name: str
    """Its name without an ending that says how it is packed."""
    head: bytes
    """The first :data:`HEAD` bytes, or all."""
    stream: IO[bytes]
    path: Path | None = None
    """The file itself where it is not packed, and can be read from any place."""

    def seekable(self) -> IO[bytes]:
        """Return a file that can be read from any place: the file itself, or all bytes in memory."""
        return self.path.open("rb") if self.path else io.BytesIO(self._bytes)

    @cached_property
    def _bytes(self) -> bytes:
        return self.stream.read()


@contextmanager
def opened(source: Path | IO[bytes], settings: "FileSettings") -> Iterator[Opened]:
    """Open a file, or a stream of bytes; a DataError where it cannot be read, is empty or holds no rows by its front.

    Args:
        source: a file, a named pipe, or a stream; what is packed is seen by its first bytes.
        settings: how much may be unpacked.
    """
    where = str(source) if isinstance(source, Path) else str(getattr(source, "name", "the stream"))
    with ExitStack() as stack:
        if isinstance(source, Path):
            try:
                stream: IO[bytes] = stack.enter_context(source.open("rb"))
            except OSError as error:
                raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
        else:
            stream = source
        front = _front(stream, where, Path(where).name, source if isinstance(source, Path) else None)
        while (inner := _unpacked(front, settings, stack)) is not None:
            front = inner
        _check_rows(front)
        yield front


def arriving(stream: Any, where: str) -> Opened:
    """Return the bytes of a stream as they come, without a wait for more than there is."""
    arrived = stream.read1(HEAD)
    return Opened(where, "", arrived, _Arriving(arrived, stream))  # type: ignore[arg-type]


class _Arriving:
    def __init__(self, head: bytes, stream: Any) -> None:
        self._head, self._stream = head, stream

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or bytes(self._stream.read1(size))


def log_inferred(where: str, inferred: Mapping[str, str]) -> None:
    """Say what was inferred about a file, setting -> what, and how to say otherwise; "" is of no setting."""
    if inferred:
        settings = [name if "=" in name else f"{name}=..." for name in inferred if name]
        advice = f"; set {abridged(settings, 9)} if it is another" if settings else ""
        logger.info("%s: %s%s", where, ", ".join(inferred.values()), advice)


def line_ends(data: bytes) -> int:
    """Count the lines that end in some bytes, of one kind of line end."""
    array = np.frombuffer(data, np.uint8)
    # Several times as fast as bytes.count.
    return int(np.count_nonzero(array == ord("\n")) or np.count_nonzero(array == ord("\r")))


def unpacked_name(name: str) -> str:
    """Return the name of a file without an ending that says how it is packed, as "a.csv" of "a.csv.gz"."""
    path = Path(name)
    return path.stem if path.suffix.lower() in _PACKED_ENDINGS else path.name


class Utf8:
    """Text of a file as UTF-8, without a mark and without NULs at the end; a DataError where it does not decode."""

    encoding: str
    """As it was seen or set; "utf-8-sig" for UTF-8 with a mark."""
    padding: int
    """Number of NULs at the end, known at the end."""

    def __init__(self, front: Opened, encoding: str | None) -> None:
        marked = (name for mark, name in _MARKS if front.head.startswith(mark))
        self.where, self.encoding, self.padding = front.where, encoding or next(marked, "utf-8"), 0
        self._stream, self._lines, self._carry, self._first = front.stream, 0, b"", True
        self._is_set = encoding is not None
        self._is_utf8 = codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")
        self._decoder = None if self._is_utf8 else codecs.getincrementaldecoder(self.encoding)()
        if encoding is None and self._is_utf8:
            _check_nuls(front)

    @property
    def inferred(self) -> dict[str, str]:
        """What was inferred, for :func:`log_inferred`."""
        return {} if self._is_set or self.encoding == "utf-8" else {"encoding": f"encoding {self.encoding}"}

    def read(self, size: int) -> bytes:
        """Read about ``size`` bytes of whole characters; none at the end."""
        while data := self._stream.read(size):
            if block := self._decoded(data, final=False):
                return block
        return self._decoded(b"", final=True)

    def _decoded(self, data: bytes, final: bool) -> bytes:
        data = self._carry + data
        try:
            if self._decoder is None:
                _, used = codecs.utf_8_decode(data, "strict", final)
                block, self._carry = data[:used], data[used:]
            else:
                block, self._carry = self._decoder.decode(data, final).encode(), b""
        except UnicodeDecodeError as error:
            raise self._error(error) from error
        except UnicodeError as error:  # of encodings that need a mark at the front, or that are no text of files
            reason = first_line(error)
            raise DataError(
                f"{self.where}: expected encoding={self.encoding}, found other bytes ({reason}); set another encoding"
            ) from error
        if self._first and block:
            block, self._first = block.removeprefix(codecs.BOM_UTF8), False
        self._lines += line_ends(block)
        # NULs are padding if nothing but NULs follows.
        content = block.rstrip(b"\0")
        padding, self.padding = self.padding, len(block) - len(content)
        if content:
            return b"\0" * padding + content
        self.padding += padding
        return b""

    def _error(self, error: UnicodeDecodeError) -> DataError:
        data = error.object
        line = self._lines + line_ends(data[: error.start]) + 1
        start = max(data.rfind(end, 0, error.start) for end in (b"\n", b"\r")) + 1
        end = next((at for at in range(error.start, len(data)) if data[at] in b"\r\n"), len(data))
        found = f"the byte 0x{data[error.start]:02x} at position {error.start - start + 1}"
        expected = self.encoding.removesuffix("-sig")
        expected = expected.upper() if not self._is_set else f"encoding={expected}"
        fits = _fitting(data[max(0, start - HEAD) : end + HEAD])
        before = max(0, len(data[start : error.start].decode(fits, "replace")) - 40)
        read = data[start:end].decode(fits, "replace")[before:][:80]
        return DataError(
            f"{self.where}, line {line}: expected {expected}, found {found}; encoding={fits} reads the line as {read!r}"
        )


class Buffered:
    """Text as far as it was read and not yet dropped; knows the line."""

    size: int
    """Least bytes that are read at a time."""

    def __init__(self, text: Utf8, size: int) -> None:
        self.where, self.inferred, self.line, self.is_whole = text.where, text.inferred, 1, False
        self._text, self.size = text, size
        self.data = text.read(size)

    def more(self) -> bool:
        """Read on, at least as much again; False at the end."""
        block = self._text.read(max(self.size, len(self.data)))
        self.data += block
        self.is_whole = not block
        return bool(block)

    def drop(self, stop: int) -> None:
        """Forget what was parsed."""
        self.line += line_ends(self.data[:stop])
        self.data = self.data[stop:]

    def drop_lines(self, count: int) -> None:
        """Forget as many lines."""
        self.drop(sum(map(len, self.data.splitlines(keepends=True)[:count])))

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that are there, drop them, and read on; the last may have no end."""
        while self.data or not self.is_whole:
            # A return at the very end may have its newline still to come.
            ends = self.data.rfind(b"\n"), self.data.rfind(b"\r", 0, -1)
            stop = len(self.data) if self.is_whole else max(ends) + 1
            if stop:
                yield self.data[:stop]
            self.drop(stop)
            if not self.is_whole:
                self.more()


def _check_nuls(front: Opened) -> None:
    content = front.head.rstrip(b"\0")
    if b"\0" not in content:
        return
    for encoding in ("utf-16-le", "utf-16-be"):
        text = content.decode(encoding, "ignore")
        printable = sum(character.isprintable() or character in "\t\r\n" for character in text)
        # Swapped bytes are printable too, but have no lines.
        if re.search("[\r\n]", text) and printable > 0.98 * len(text):
            raise DataError(f"{front.where}: expected UTF-8, found UTF-16 without its mark; set encoding={encoding}")
    raise DataError(f"{front.where}: expected text, found NUL bytes: a binary file? Name a file of rows")


def _fitting(data: bytes) -> str:
    """Guess the encoding of bytes that are no UTF-8, for a message that shows what they then read as."""
    for encoding, letters, share in _ENCODINGS:
        try:
            others = [character for character in data.decode(encoding) if character > "\x7f"]
        except UnicodeDecodeError:
            continue
        if sum(letters.match(character) is not None for character in others) > share * len(others):
            return encoding
    runs = re.findall(rb"[\x80-\xff]+", data)
    # Letters beyond ASCII stand alone in the languages of western Europe, and side by side in Cyrillic.
    return "cp1251" if runs and sum(map(len, runs)) > 2.5 * len(runs) else "cp1252"


def _front(stream: IO[bytes], where: str, name: str, path: Path | None = None) -> Opened:
    head = stream.read(HEAD)
    if path and path.is_file():
        stream.seek(0)
        return Opened(where, name, head, stream, path)
    return Opened(where, name, head, io.BufferedReader(_Rest(head, stream), HEAD))


class _Rest(io.RawIOBase):
    """A stream whose front was read, from its front; counts the bytes that were taken."""

    def __init__(self, head: bytes, stream: IO[bytes]) -> None:
        self.taken, self._head, self._stream = 0, io.BytesIO(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.taken += len(data)
        return len(data)


class _Unpacked(io.RawIOBase):
    """What a packed stream unpacks to; a DataError where it is broken, or out of all proportion."""

    def __init__(self, stream: IO[bytes], kind: str, front: Opened, most: float | None) -> None:
        self._stream, self._kind, self._front, self._most, self._bytes = stream, kind, front, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._stream.read(len(buffer))
        except _BROKEN as error:
            raise DataError(
                f"{self._front.where}, after {self._bytes:,} bytes: expected a whole {self._kind} file, found a broken "
                f"one ({first_line(error)}); copy or download it again"
            ) from error
        self._bytes += len(data)
        path = self._front.path
        packed = path.stat().st_size if path else self._front.stream.raw.taken  # type: ignore[attr-defined]
        _check_size(self._front.where, self._bytes, packed, self._most)
        buffer[: len(data)] = data
        return len(data)


def _check_size(where: str, unpacked: int, packed: int, most: float | None) -> None:
    limit = max(_GIGABYTE, _MOST_RATIO * packed) if most is None else most * _GIGABYTE
    if unpacked > limit:
        raise DataError(
            f"{where}: expected at most {limit / _GIGABYTE:g} GB when it is unpacked, found more; if it may be that "
            "large, set max_unpacked_gb"
        )


def _zstd(packed: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, "r"), "zstd")


def _unpacked(front: Opened, settings: "FileSettings", stack: ExitStack) -> Opened | None:
    """Open what a packed file holds; None where it is not packed."""
    where, name, most = front.where, unpacked_name(front.name), settings.max_unpacked_gb
    if front.head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _unzipped(front, settings, stack)
    for pattern, kind, reader in _PACKED:
        if pattern.match(front.head):
            make: Callable[[Any], Any] = reader
            inner = _Unpacked(stack.enter_context(make(front.stream)), kind, front, most)
            return _front(io.BufferedReader(inner, HEAD), where, name)
    return None


def _unzipped(front: Opened, settings: "FileSettings", stack: ExitStack) -> Opened | None:
    try:
        archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(front.seekable())))
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not re.search(r"(^|/)(\.|__MACOSX/)", member.filename)
        ]
        names = [member.filename for member in members]
        packed = sum(member.compress_size for member in members)
        _check_size(front.where, sum(member.file_size for member in members), packed, settings.max_unpacked_gb)
        if "xl/workbook.xml" in names:
            return None
        if "mimetype" in names or "word/document.xml" in names:
            raise DataError(f"{front.where}: expected rows, found an Office file; save it as .xlsx or csv")
        if len(members) != 1:
            found = abridged(names, 10) or "none"
            raise DataError(f"{front.where}: expected one file in the zip, found {found}; unpack it, and name one")
        stream = stack.enter_context(archive.open(members[0]))
        inner = _Unpacked(stream, "zip", front, settings.max_unpacked_gb)
    except DataError:
        raise
    except Exception as error:  # zipfile raises half a dozen unrelated kinds of broken and locked files
        raise DataError(
            f"{front.where}: expected a whole zip, found a broken or locked one ({first_line(error)})"
        ) from error
    return _front(io.BufferedReader(inner, HEAD), front.where, Path(names[0]).name)


def _check_rows(front: Opened) -> None:
    if not front.head.strip(b"\0"):
        raise DataError(f"{front.where}: expected rows, found an empty file; copy or download it again")
    for pattern, what, advice in _NO_ROWS:
        if re.match(pattern, front.head):
            raise DataError(f"{front.where}: expected rows, found {what}; {advice}")

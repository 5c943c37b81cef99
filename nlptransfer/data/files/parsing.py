"""Read files of rows as tables: what a file is, is seen by its content. Does not know which column is what."""

import codecs
import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from nlptransfer import mapped
from nlptransfer.data.files.columnar import read_arrow, read_parquet, read_sheet
from nlptransfer.data.files.delimited import ENDINGS, ONE_COLUMN, SEPARATORS, read_delimited, separator_of
from nlptransfer.data.files.json_rows import is_json, is_object, read_json, tables_of_lines
from nlptransfer.data.files.opening import HEAD, Buffered, Opened, Utf8, arriving, log_inferred, opened, unpacked_name
from nlptransfer.data.table import Table
from nlptransfer.progress import counted
from nlptransfer.settings import Positive, Settings, check

logger = logging.getLogger("nlptransfer")

KINDS = (".csv", ".tsv", ".tab", ".psv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".xlsx")
"""Endings of files of rows; each may be packed besides. Content decides how they are read."""
_WHOLE_BYTES, _WHOLE_ROWS = 2**21, 2**17
_STREAM_BYTES, _STREAM_ROWS = 2**20, 2**12
_LABEL = re.compile(r"(?:^|(?<=\s))__label__(\S+)(?:\s+|$)")
_FIRST = 2**14
_CHARACTERS = {"tab": "\t", r"\t": "\t", r"\\": "\\"}


@dataclass(frozen=True)
class FileSettings(Settings):
    """How files are read; None: as their content says."""

    separator: str | None = None
    r"""One character between the cells of a line: "," ";" "|" "\t" (or "tab") or any other of ASCII."""
    encoding: str | None = None
    """Encoding of text, as Python names it: "cp1252", "utf-16", ..."""
    header: bool | None = None
    """Whether the first line names the columns; where it does not, they are column_1, column_2, ..."""
    quoting: Literal["minimal", "none"] | None = None
    """Whether quotes around a cell quote it, or are plain characters; with these, the last column takes all the rest
    of a line."""
    escape: str | None = None
    """One character, as a backslash, that makes the next one plain."""
    sheet: int | str | None = None
    """Name of an Excel sheet, or its number, from 1."""
    max_unpacked_gb: Positive | None = None
    """Most gigabytes that a packed file may unpack to; if None, 1 or 100 times its size."""

    def __post_init__(self) -> None:
        self.check()
        for name in ("separator", "escape"):
            character = _CHARACTERS.get(getattr(self, name), getattr(self, name))
            is_one = character is None or (len(character) == 1 and character.isascii() and character not in '\r\n"')
            check(is_one, name, getattr(self, name), "one character of ASCII, no quotes and no line end")
        if self.encoding is not None:
            check(_is_encoding(self.encoding), "encoding", self.encoding, "an encoding that Python knows, as 'cp1252'")

    @property
    def separator_character(self) -> str | None:
        """The separator, where it is written as "tab" too."""
        return _CHARACTERS.get(self.separator or "", self.separator)

    @property
    def escape_character(self) -> str | None:
        """The escape, where it is written twice too."""
        return _CHARACTERS.get(self.escape or "", self.escape)


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name, as ".csv" of "a.csv.gz"."""
    return Path(unpacked_name(path.name)).suffix.lower()


def stem_of(path: Path) -> str:
    """Return the name of a file without its kind, as "a" of "a.csv.gz"."""
    return Path(unpacked_name(path.name)).stem


def read_file(path: Path, settings: FileSettings) -> Table:
    """Read a whole file, of any kind; a DataError says what it is where it holds no rows, and where it is broken.

    What was inferred about it (separator, encoding, ...) and what was mended is in the log.
    """
    # What the columns leave out would stay in memory.
    tables = (replace(table, arrow=None) for table in _tables(path, settings, _WHOLE_BYTES, _WHOLE_ROWS))
    return joined(_lightened(counted(tables, f"reading {path.name}", unit="rows")))


def _lightened(tables: Iterable[Table]) -> Iterator[Table]:
    """Join tables into large ones, whose Arrow columns are in mapped files; the last one stays in memory."""
    some, size = list[Table](), 0
    for table in tables:
        some.append(table)
        size += sum(column.nbytes for column in _arrow_columns(table).values())
        if size > mapped.MEMORY:
            yield _in_file(joined(some))
            some, size = [], 0
    if some:
        yield joined(some)


def _in_file(table: Table) -> Table:
    import pyarrow

    arrow = pyarrow.table(_arrow_columns(table))

    def write(file: IO[bytes]) -> None:
        with pyarrow.ipc.new_stream(file, arrow.schema) as writer:
            writer.write_table(arrow)

    columns = pyarrow.ipc.open_stream(pyarrow.py_buffer(mapped.in_file(write))).read_all()
    there = dict(zip(columns.column_names, columns.columns, strict=True))
    return replace(table, columns={name: there.get(name, column) for name, column in table.columns.items()})


def _arrow_columns(table: Table) -> dict[str, Any]:
    return {name: column for name, column in table.columns.items() if not isinstance(column, list)}


def stream_file(source: Path | IO[bytes], settings: FileSettings) -> Iterator[Table]:
    """Read a file, a pipe or a stream of bytes once from its front, as tables of some thousand rows, at least one.

    As :func:`read_file`; JSON that is not a row a line, and Excel sheets, may be read whole.
    """
    return _tables(source, settings, _STREAM_BYTES, _STREAM_ROWS)


def stream_input(stream: Any, settings: FileSettings, columns: Sequence[str] = ()) -> Iterator[Table]:
    """Read a stream of bytes as they come, by its first line: an object a line; cells, below a header; or texts.

    The first line is a header where it has one of ``columns``, or where the settings say so, or name a separator.
    """
    source = Buffered(Utf8(arriving(stream, "standard input"), settings.encoding), _STREAM_BYTES)
    while b"\n" not in source.data and source.more():
        continue
    first = source.data.partition(b"\n")[0]
    if is_object(first):
        yield from tables_of_lines(source)
    elif separator := _header_separator(first.decode(), settings, columns):
        inferred = {"header=false": "the first line is a header"}
        if separator != ONE_COLUMN:
            inferred["separator"] = f"separator {separator!r}"
        log_inferred(source.where, inferred)
        yield from read_delimited(source, replace(settings, separator=separator, header=True), "")
    else:
        yield from _lines(source)


def _header_separator(line: str, settings: FileSettings, columns: Sequence[str]) -> str | None:
    """Return what separates the cells of a header; None where the line is none."""
    if settings.separator_character or settings.header:
        return settings.separator_character or max(SEPARATORS, key=line.count)
    if settings.header is False:
        return None
    if line.strip() in columns:
        return ONE_COLUMN
    has_column = (one for one in SEPARATORS if {*columns} & {*next(csv.reader([line], delimiter=one), [])})
    return next(has_column, None)


def joined(tables: Iterable[Table]) -> Table:
    """Join tables of the same columns, row after row; a column that one lacks is None there."""
    parts = list(tables)
    if len(parts) == 1:
        return parts[0]
    parts = [part for part in parts if len(part)] or parts[:1]
    names = dict.fromkeys(chain.from_iterable(part.columns for part in parts))
    columns = {name: _joined([(part.columns.get(name), len(part)) for part in parts]) for name in names}
    first = parts[0]
    return Table(first.where, columns, first.class_names, first.has_header, first.first_row)


def _joined(pieces: list[tuple[Any, int]]) -> Any:
    import pyarrow

    is_arrow = not any(isinstance(piece, list) for piece, _ in pieces)
    kinds = {piece.type for piece, _ in pieces if piece is not None} - {pyarrow.null()} if is_arrow else set()
    if len(kinds) == 1:
        (kind,) = kinds
        there = (piece is not None and piece.type == kind for piece, _ in pieces)
        chunks = (
            piece.chunks if is_there else [pyarrow.nulls(length, kind)]
            for is_there, (piece, length) in zip(there, pieces, strict=True)
        )
        return pyarrow.chunked_array(list(chain.from_iterable(chunks)), kind)
    values = (
        [None] * length if piece is None else piece if isinstance(piece, list) else piece.to_pylist()
        for piece, length in pieces
    )
    return list(chain.from_iterable(values))


def _tables(source: Path | IO[bytes], settings: FileSettings, size: int, rows: int) -> Iterator[Table]:
    with opened(source, settings) as front:
        head, kind = front.head, Path(front.name).suffix.lower()
        if head.startswith(b"PAR1"):
            yield from read_parquet(front, rows)
        elif head.startswith(b"PK\x03\x04"):
            yield from _sheet_tables(front, settings, size)
        elif head.startswith((b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")):
            yield from read_arrow(front, rows)
        else:
            yield from _text_tables(front, settings, kind, size, rows)


def _sheet_tables(front: Opened, settings: FileSettings, size: int) -> Iterator[Table]:
    """Read an Excel sheet as if it were saved as csv: header, empty rows and columns are as there."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    for row in read_sheet(front, settings.sheet):
        writer.writerow(row if any(row) else ())
    data = content.getvalue().encode()
    text = Utf8(replace(front, head=data[:HEAD], stream=io.BytesIO(data)), "utf-8")
    plain = replace(settings, separator=",", quoting="minimal", escape=None)
    yield from read_delimited(Buffered(text, size), plain, ".csv")


def _text_tables(front: Opened, settings: FileSettings, kind: str, size: int, rows: int) -> Iterator[Table]:
    text = Utf8(front, settings.encoding)
    source = Buffered(text, size)
    sample = source.data[:HEAD]
    is_plain = settings.separator is None
    if is_plain and is_json(sample, kind):
        log_inferred(source.where, source.inferred)
        yield from read_json(source, rows)
    elif kind not in ENDINGS and _has_labels(sample):
        log_inferred(source.where, source.inferred | {"": "labels are the words that start with __label__"})
        yield from _labeled_lines(source, is_whole=size == _WHOLE_BYTES)
    elif is_plain and _is_prose(sample, kind):
        log_inferred(source.where, source.inferred)
        yield from _lines(source)
    else:
        yield from read_delimited(source, settings, kind)
    if text.padding:
        logger.warning("%s: %d NUL bytes at the end are left out", front.where, text.padding)


def _lines(source: Buffered) -> Iterator[Table]:
    """Read a text a line, empty ones too."""
    import pyarrow

    first = 1
    for data in source.lines():
        lines = _split(data)
        # Arrow's own way from a list imports pandas.
        each = [line.encode() for line in lines]
        ends = np.array([*accumulate(map(len, each), initial=0)], np.int32)
        buffers = pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(each))
        texts = pyarrow.StringArray.from_buffers(len(each), *buffers)
        yield Table(source.where, {"text": pyarrow.chunked_array([texts])}, has_header=False, first_row=first)
        first += len(lines)


def _split(data: bytes) -> list[str]:
    return data.decode().replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")


def _is_prose(sample: bytes, kind: str) -> bool:
    """Tell whether a file that is no table by its name is a text a line; no prose has as many tabs in every line."""
    separators = {".txt": ("\t", "|"), "": SEPARATORS}.get(kind)
    return separators is not None and separator_of(sample, kind) not in separators


def _has_labels(sample: bytes) -> bool:
    lines = [line for line in sample[:_FIRST].decode(errors="ignore").splitlines() if line.strip()]
    return 2 * sum(_LABEL.search(line) is not None for line in lines) > len(lines)


def _labeled_lines(source: Buffered, is_whole: bool) -> Iterator[Table]:
    """Read fastText's lines; the column "label" has lists where a line of the same table has several labels."""
    import pyarrow
    from pyarrow import compute

    kinds = pyarrow.schema({"text": pyarrow.string(), "label": pyarrow.list_(pyarrow.string())})

    def tables() -> Iterator[Any]:
        for data in source.lines():
            lines = [line for line in _split(data) if line.strip()]
            texts, labels = [_LABEL.sub("", line).strip() for line in lines], [*map(_LABEL.findall, lines)]
            yield pyarrow.table({"text": texts, "label": labels}, kinds)

    first = 1
    for table in [pyarrow.concat_tables(tables())] if is_whole else tables():
        labels = table["label"]
        if compute.max(compute.list_value_length(labels)).as_py() == 1:
            labels = [next(iter(some), None) for some in labels.to_pylist()]
        yield Table(source.where, {"text": table["text"], "label": labels}, first_row=first)
        first += len(table)


def _is_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except (LookupError, ValueError):  # what has a NUL in it is no name at all
        return False

"""Write rows with what was predicted for them: csv, tsv, jsonl or parquet. Does not know how it is predicted."""

import base64
import csv
import gzip
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time
from pathlib import Path
from typing import Any, Protocol, TextIO

from nlptransfer.data import Table
from nlptransfer.errors import DataError, abridged, first_line
from nlptransfer.files import atomic_file, named_path

log = logging.getLogger("nlptransfer")

KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of the files that can be written; the text ones may be gzipped besides (.csv.gz)."""
ROW_GROUP_BYTES = 2**24
"""Size in memory of a row group of parquet."""
_FORMULA = frozenset("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What spreadsheets take for the start of a formula, which may run commands (OWASP, CSV injection)."""
_NUMBER = re.compile(r"[-+]?(\d[\d.,]*|\.\d+)([eE][-+]?\d+)?%?")
_SURROGATE = re.compile("[\ud800-\udfff]")
Columns = Sequence[tuple[str, Any]]
"""Names with their values: an Arrow array, or a list of values as Python has them."""


class Writer(Protocol):
    """Writes the rows of one file, some at a time."""

    def write(self, rows: Table, added: Mapping[str, Any]) -> None:
        """Write all columns of some rows, and Arrow arrays that are added to them by their names."""


def check_output(output: str | Path, source: Any) -> Path:
    """Return a file's path; a DataError for another kind than :data:`KINDS`, a folder, or what is to be read."""
    path = named_path(output)
    if path.is_dir():
        raise DataError(f"{path}: expected a file to write, found a folder: add a file's name, as labels.csv")
    ending = "".join(path.suffixes[-2:]).lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if ending not in (*KINDS, *(f"{kind}.gz" for kind in KINDS[:-1])):
        raise DataError(
            f"{path}: expected an output named {', '.join(KINDS)} (the first three also .gz), found "
            f"{ending or 'no ending'}"
        )
    if isinstance(source, (str, Path)) and source != "-":
        read = named_path(source)
        is_same = read.exists() and path.exists() and read.samefile(path)
        if is_same or (read.is_dir() and path.resolve().is_relative_to(read.resolve())):
            raise DataError(f"{path}: expected an output that is not the input: name another file")
    return path


@contextmanager
def open_output(path: Path, raw_cells: bool = False) -> Iterator[Writer]:
    """Open a file to write, of a kind of :data:`KINDS`; it appears whole, or not at all after an exception.

    In csv and tsv files a ' is put before text, but no number, that a spreadsheet would take for a formula, unless the
    cells are to be ``raw_cells``.
    """
    try:
        with atomic_file(path) as temporary:
            if path.suffix.lower() == ".parquet":
                with _Parquet(temporary, path) as writer:
                    yield writer
                return
            is_gzipped = path.suffix.lower() == ".gz"
            kind = (Path(path.stem) if is_gzipped else path).suffix.lower()
            opened: Any = gzip.open if is_gzipped else open
            with opened(temporary, "wt", encoding="utf-8", newline="") as stream:
                yield _JsonLines(stream) if kind == ".jsonl" else _Delimited(stream, kind, path, raw_cells)
    except UnicodeEncodeError as error:
        found = f"half a surrogate pair in {error.object[error.start :]!r:.80}"
        raise DataError(f"{path}: expected Unicode text, found {found}; write .jsonl, or remove it") from error


def free_names(added: Sequence[str], rows: Table, where: str) -> dict[str, str]:
    """Map the names of added columns to those that they get: where one is taken, all begin with predicted_."""
    taken, prefix, number = {name for name, _ in _columns(rows)}, "", 1
    while clash := [prefix + name for name in added if prefix + name in taken]:
        prefix = f"predicted_{number}_" if number > 1 else "predicted_"
        number += 1
        names = abridged([repr(prefix + name) for name in added], 4)
        log.info("%s: there is a column %r already, so predictions go to %s", where, clash[0], names)
    return {name: prefix + name for name in added}


def check_free(names: Collection[str], rows: Table, where: str) -> None:
    """Raise a DataError where later rows have a column of the names that predictions have got."""
    if taken := [name for name, _ in _columns(rows) if name in names]:
        raise DataError(
            f"{where}: expected the columns of the rows before, found {taken[0]!r} besides from row {rows.first_row} "
            "on, where predictions go: give the first row such a column too"
        )


def _columns(rows: Table) -> Columns:
    if rows.arrow is None:
        return [*rows.columns.items()]
    return [*zip(rows.arrow.schema.names, rows.arrow.columns, strict=True)]


def _listed(name: str, column: Any) -> list[Any]:
    """Return the values of a column; as text where they are times that Python has not, a DataError if not even that."""
    import pyarrow as pa

    if isinstance(column, list):
        return column
    try:
        return list(column.to_pylist())
    except (pa.ArrowException, OverflowError, LookupError):
        try:
            return list(column.cast(pa.string()).to_pylist())
        except pa.ArrowException as error:
            what = f"column {name!r}: expected values that can be written as text, found {column.type}"
            raise DataError(f"{what} ({first_line(error)}); write .parquet, or leave it out") from error


def as_cell(text: str) -> str:
    """Return text with a ' before it where a spreadsheet would take it for a formula, and it is no number."""
    return text if text[:1] not in _FORMULA or _NUMBER.fullmatch(text) else f"'{text}"


def from_cell(cell: str) -> str:
    """Return the text that :func:`as_cell` made a cell of."""
    return cell[1:] if cell[:1] == "'" and as_cell(cell[1:]) == cell else cell


class _JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, rows: Table, added: Mapping[str, Any]) -> None:
        columns = [*_columns(rows), *added.items()]
        names = [name for name, _ in columns]
        for values in zip(*(_listed(name, column) for name, column in columns), strict=True):
            self.stream.write(as_json(dict(zip(names, values, strict=True))) + "\n")


def as_json(value: Any) -> str:
    """Write a value as JSON; bytes as text or base64, dates as ISO has them, what is not finite as null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        finite = json.loads(json.dumps(value, default=_plain), parse_constant=lambda _: None)
        text = json.dumps(finite, ensure_ascii=False)
    # Half a surrogate pair can be escaped, but not encoded.
    return json.dumps(json.loads(text)) if _SURROGATE.search(text) else text


def _plain(value: Any) -> str:
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)


class _Delimited:
    """A csv or tsv file: strings as they are, missing values as empty cells, nested ones as JSON."""

    def __init__(self, stream: TextIO, kind: str, where: Path, raw_cells: bool) -> None:
        self.writer = csv.writer(_Lines(stream), delimiter="\t" if kind == ".tsv" else ",")
        self.where, self.rows, self.raw_cells = where, 0, raw_cells
        self.names: list[str] = []
        self.has_formula = False

    def write(self, rows: Table, added: Mapping[str, Any]) -> None:
        columns = [*_columns(rows), *added.items()]
        names = [name for name, _ in columns]
        if not self.names:
            self.names = names
            self.writer.writerow(map(self._guarded, names))
        if names != self.names:
            if further := [name for name in names if name not in self.names]:
                raise DataError(
                    f"{self.where}: expected the columns of the rows before, found {further[0]!r} besides from row "
                    f"{self.rows + 1} on: write .jsonl or .parquet"
                )
            by_name, size = dict(columns), len(columns[0][1])
            columns = [(name, by_name.get(name, [None] * size)) for name in self.names]
        cells = [[*map(self._cell, _listed(name, column))] for name, column in columns]
        self.writer.writerows(zip(*cells, strict=True))
        self.rows += len(cells[0])

    def _cell(self, value: Any) -> str:
        if isinstance(value, str):
            return self._guarded(value)
        if value is None:
            return ""
        return as_json(value) if isinstance(value, (bool, list, tuple, dict)) else _plain(value)

    def _guarded(self, text: str) -> str:
        if self.raw_cells or (cell := as_cell(text)) == text:
            return text
        if not self.has_formula:
            log.info(
                "%s: text that begins with one of = + - @ gets a ' before it, as spreadsheets run it; --raw-cells "
                "(raw_cells=True) leaves it as it is",
                self.where,
            )
            self.has_formula = True
        return cell


class _Lines:
    """Ends the lines that csv ends with CR and LF by LF alone: told to do so, it would not quote a CR in a cell."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, line: str) -> None:
        self.stream.write(line.removesuffix("\r\n") + "\n")


class _Parquet:
    """A parquet file, zstd; where later rows need wider types, what was written is written again with them."""

    def __init__(self, path: Path, where: Path) -> None:
        self.path, self.where, self.rows = path, where, 0
        self.inputs: Any = None
        """schema of the rows without what is added to them"""
        self.writer: Any = None
        self.waiting: list[Any] = []
        """rows of the next row group"""
        self.size = 0
        """their bytes"""

    def __enter__(self) -> "_Parquet":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        if self.writer is not None:
            self.writer.close()

    def write(self, rows: Table, added: Mapping[str, Any]) -> None:
        import pyarrow as pa

        metadata = None if rows.arrow is None else rows.arrow.schema.metadata
        table = self._widened(self._table(rows), self.inputs or pa.schema([]))
        if table.schema != self.inputs:
            self.inputs = table.schema
            self._open(pa.schema([*table.schema, *((name, column.type) for name, column in added.items())], metadata))
        self.waiting.append(pa.table([*table.columns, *added.values()], self.writer.schema))
        self.rows += len(table)
        self.size += table.nbytes
        if self.size >= ROW_GROUP_BYTES:
            self._flush()

    def _table(self, rows: Table) -> Any:
        import pyarrow as pa

        columns = dict(_columns(rows))
        for name, values in columns.items():
            with self._refusals(f"column {name!r}: "):
                columns[name] = pa.array(values) if isinstance(values, list) else values
        return pa.table(columns)

    def _widened(self, table: Any, schema: Any) -> Any:
        """Return rows with the columns of a schema first, which are null where missing, of types that hold both."""
        import pyarrow as pa

        with self._refusals():
            return pa.concat_tables([schema.empty_table(), table], promote_options="permissive")

    def _open(self, schema: Any) -> None:
        """Open the file with a schema, and write again what is in it."""
        from pyarrow.parquet import ParquetFile, ParquetWriter

        self._flush()
        earlier = self.path.with_name(f"{self.path.name}.earlier")
        try:
            if self.writer is not None:
                self.writer.close()
                self.path.replace(earlier)
            with self._refusals():
                self.writer = ParquetWriter(self.path, schema, compression="zstd")
            if earlier.exists():
                with ParquetFile(earlier) as written:
                    for number in range(written.num_row_groups):
                        self.writer.write_table(self._widened(written.read_row_group(number), schema))
        finally:
            earlier.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        if self.waiting:
            with self._refusals():
                self.writer.write_table(pa.concat_tables(self.waiting))
            self.waiting.clear()
            self.size = 0

    @contextmanager
    def _refusals(self, place: str = "") -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, TypeError, UnicodeError) as error:
            raise DataError(
                f"{self.where}: expected rows that parquet can hold, found from row {self.rows + 1} on: "
                f"{place}{first_line(error)}; write .jsonl, or make the values of a column alike"
            ) from error

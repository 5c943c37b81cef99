"""Parse csv, tsv, JSON and parquet files, plain or .gz, and say where one is broken. Does not know columns."""

import csv
import gzip
import json
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from nlptransfer.errors import DataError

KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Kinds of files with labeled rows; each may be gzipped besides."""
_LONGEST_FIELD = 2**31 - 1
_PARQUET_ROWS = 1000
_GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)


def kind_of(path: Path) -> str:
    """Return the kind of a file by its name, as ".csv" of "a.csv.gz"."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def stem_of(path: Path) -> str:
    """Return the name of a file without its kind, as "a" of "a.csv.gz"."""
    return Path(path.stem).stem if _is_gzipped(path) else path.stem


def check_kind(path: Path, kinds: Sequence[str] = KINDS) -> None:
    """Raise a DataError unless a file is one of ``kinds``."""
    if kind_of(path) not in kinds:
        found = kind_of(path) or "none"
        raise DataError(f"{path}: expected a file of kind {', '.join(kinds)}, plain or .gz, found {found}")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the rows of a file one by one, by column name; a DataError for another kind, or where it does not parse."""
    check_kind(path)
    kind = kind_of(path)
    if kind == ".parquet":
        return (row for batch in parquet_batches(path) for row in batch.to_pylist())
    if kind == ".csv":
        return _csv_rows(path, ",", csv.QUOTE_MINIMAL)
    if kind == ".tsv":
        return _tsv_rows(path)
    if kind == ".jsonl":
        return _jsonl_rows(path)
    # One list, or an object a line.
    read = list(lines(path))
    start = next((line for line in read if line.strip()), "")
    return iter(_json_list("".join(read), path)) if start.lstrip()[:1] == "[" else json_objects(read, str(path))


def lines(path: Path) -> Generator[str, None, None]:
    """Read the lines of a UTF-8 file with their ends; a DataError where it is none, or may not be read."""
    number = 0
    try:
        with _open(path) as handle:
            for line in decoded(handle, str(path)):
                yield line
                number += 1
    except _GZIP_ERRORS as error:
        raise _broken_gzip(f"{path}, after line {number}", error) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def decoded(lines: Iterable[bytes], where: str) -> Iterator[str]:
    """Decode lines of bytes as UTF-8, without a byte order mark; a DataError names a line that is not."""
    encoding = "utf-8-sig"
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}, line {number}: expected UTF-8, found the byte 0x{error.object[error.start]:02x} at position "
                f"{error.start + 1}; save the file as UTF-8"
            ) from error
        encoding = "utf-8"


class _BrokenRowError(DataError):
    """A row of a csv or tsv file that does not parse."""


def _tsv_rows(path: Path) -> Iterator[dict[str, Any]]:
    # Whether quotes quote in a tsv file is anyone's guess: they do if the whole file can be read that way.
    errors = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        try:
            for _ in _csv_rows(path, "\t", quoting):
                continue
            return _csv_rows(path, "\t", quoting)
        except _BrokenRowError as error:
            errors.append(error)
    raise errors[0]


def _csv_rows(path: Path, delimiter: str, quoting: Any) -> Iterator[dict[str, Any]]:
    # The limit (128 KiB) belongs to the whole process: raise it, never lower it again under another reader.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    header: list[str] = []
    row, line = 0, 1
    try:
        # An error holds this frame: the file must not stay open with it.
        with closing(lines(path)) as source:
            reader = csv.reader(source, delimiter=delimiter, quoting=quoting, strict=True)
            for record in reader:
                if record and not header:
                    header = _checked_header(record, path)
                elif record:
                    row += 1
                    if len(record) != len(header):
                        raise _BrokenRowError(
                            f"{path}, row {row}, line {line}: expected {len(header)} fields as in the header, "
                            f"found {len(record)}; put quotes around fields with separators in them"
                        )
                    yield dict(zip(header, record, strict=True))
                line = reader.line_num + 1
    except csv.Error as error:
        raise _BrokenRowError(
            f"{path}, row {row + 1}, from line {line}: broken {kind_of(path)[1:]}: {error}; put quotes around fields "
            "with quotes or line ends in them, and double the quotes inside"
        ) from error


def _checked_header(header: list[str], path: Path) -> list[str]:
    if len({*header}) < len(header):
        twice = min(name for name in header if header.count(name) > 1)
        raise DataError(
            f"{path}, line 1: expected a header of distinct column names, found {twice!r} more than once in "
            f"{', '.join(map(repr, header))[:200]}; is the header line missing?"
        )
    return header


def _jsonl_rows(path: Path) -> Iterator[dict[str, Any]]:
    with closing(lines(path)) as source:
        yield from json_objects(source, str(path))


def json_objects(lines: Iterable[str], where: str) -> Iterator[dict[str, Any]]:
    """Parse the object on each line and skip empty lines; a DataError names a line that is no JSON object."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}, line {number}: broken JSON: {error}; write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}, line {number}: expected a JSON object, found {line.strip():.80}")
        yield row


def _json_list(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: broken JSON: {error}; write a list of objects") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: expected an object, found {row!r:.80}")
    return rows


def parquet_batches(path: Path) -> Iterator[Any]:
    """Read record batches of a parquet file, a gzipped one in memory; a DataError says after which row it is broken."""
    import pyarrow
    import pyarrow.parquet

    rows = 0
    try:
        with _open(path) as handle:
            content = BytesIO(handle.read()) if _is_gzipped(path) else path
        for batch in pyarrow.parquet.ParquetFile(content).iter_batches(_PARQUET_ROWS):
            yield batch
            rows += len(batch)
    except _GZIP_ERRORS as error:
        raise _broken_gzip(str(path), error) from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}, after row {rows}: broken parquet: {error}; copy or download it again") from error


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if _is_gzipped(path) else path.open("rb")  # type: ignore[return-value]


def _broken_gzip(where: str, error: Exception) -> DataError:
    return DataError(f"{where}: expected a whole gzip file, found a broken one ({error}); copy or download it again")

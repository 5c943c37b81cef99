"""Read files, folders, the hub and memory as raw columns, or texts alone. Does not know labels, nor splitting."""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nlptransfer.data import parsing
from nlptransfer.data.columns import Names, clean_text, find_columns
from nlptransfer.data.memory import arrow_table, is_a, table_of
from nlptransfer.data.parsing import KINDS, kind_of, stem_of
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError

logger = logging.getLogger("nlptransfer")

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""Names that a split goes by, in files and in a DatasetDict, and its name here."""
WHOLE = "all"
"""The name of the only part of a source that comes without splits."""


@dataclass(frozen=True)
class Tables:
    """A source of rows, split by split, before anything is read."""

    name: str
    parts: dict[str, Any]
    """What each split is read from; under :data:`WHOLE` alone where the source has no splits."""

    def table(self, split: str) -> Table:
        """Read the rows of a split."""
        return read_table(self.parts[split], self.name if split == WHOLE else f"{split} split of {self.name}")


def open_source(source: Any) -> Tables:
    """Find the splits of a file, folder, hub id, mapping or table; a DataError where it is not there, or ambiguous."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return Tables(path.resolve().name, _folder(path))
        if path.exists():
            return Tables(stem_of(path), {WHOLE: path})
        return _from_hub(source)
    if is_a(source, "datasets", "DatasetDict") or (isinstance(source, Mapping) and SPLIT_NAMES.keys() & {*source}):
        return Tables("data", _named_splits(source.items(), "the splits given"))
    return Tables("data", {WHOLE: source})


def read_table(part: Any, where: str) -> Table:
    """Read a file, or rows in memory; a DataError at ``where`` if they are broken, or if there is none."""
    table = _read_file(Path(part).expanduser()) if isinstance(part, (str, Path)) else table_of(part, where)
    if not len(table):
        raise DataError(f"{table.where}: expected rows of text and label, found no row; is the file empty?")
    return table


def read_texts(source: str | Path | Iterable[str], text_column: Names = None) -> Iterator[str]:
    """Read texts to predict, one by one; files are streamed (.json alone is read whole).

    A row without text gives an empty string, so that predictions stay in step with the rows. A DataError says that
    there is no such file, kind or text column, or while reading, that a row is broken or no text.

    Args:
        source: a path to a .txt (a text a line), csv, tsv, jsonl, json or parquet file, plain or .gz; ``"-"`` for
            standard input (a text a line, or an object a line if the first line is one); or an iterable of strings.
        text_column: column of the texts; found by its name if None.
    """
    if source == "-":
        return _texts_of_input("standard input", text_column)
    if not isinstance(source, (str, Path)):
        return (_required(text, f"text {number}") for number, text in enumerate(source, 1))
    path = Path(source).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: expected a file of texts, found {found}; texts themselves go in a list")
    parsing.check_kind(path, (".txt", *KINDS))
    if kind_of(path) == ".txt":
        return _texts_of_lines(parsing.lines(path), str(path))
    return _texts_of_rows(parsing.rows(path), str(path), text_column)


def _folder(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    splits = [file for file in files if kind_of(file) in KINDS and stem_of(file).lower() in SPLIT_NAMES]
    _log_others(folder, [file.name for file in files if file not in splits])
    if not splits:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
        raise DataError(
            f"{folder}: expected files named train, validation, test ({', '.join(KINDS)}, plain or .gz), found {found}"
        )
    return _named_splits(((stem_of(file).lower(), file) for file in splits), folder)


def _named_splits(items: Iterable[tuple[Any, Any]], where: str | Path) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    others = []
    for name, part in items:
        split = SPLIT_NAMES.get(str(name))
        if split is None:
            others.append(str(name))
        elif split in parts:
            raise DataError(f"{where}: expected one {split} split, found two ({name} is the second); keep one of them")
        else:
            parts[split] = part
    if not parts:
        found = ", ".join(others) or "none"
        raise DataError(f"{where}: expected splits named train, validation and test, found {found}")
    _log_others(where, others)
    return parts


def _log_others(where: str | Path, names: Sequence[str]) -> None:
    if names:
        logger.info("%s: left alone: %s", where, ", ".join(names))


def _from_hub(source: str | Path) -> Tables:
    if isinstance(source, Path) or kind_of(Path(source)) in KINDS or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        raise DataError(f"{source}: no such file or folder; check the path")
    import datasets

    try:
        loaded = datasets.load_dataset(source)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"{source!r}: no such file or folder here, and as a hub id it cannot be loaded: {reason}; "
            "check the spelling, and the connection if a hub id is meant"
        ) from error
    return Tables(source, _named_splits(loaded.items(), source))


def _read_file(path: Path) -> Table:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'no such file'}")
    return _read_parquet(path) if kind_of(path) == ".parquet" else _columns_of(parsing.rows(path), str(path))


def _columns_of(rows: Iterable[Mapping[str, Any]], where: str) -> Table:
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        for name in row:
            columns.setdefault(name, [None] * number)
        for name, values in columns.items():
            values.append(row.get(name))
    return Table(where, columns)


def _read_parquet(path: Path) -> Table:
    import pyarrow

    batches = list(parsing.parquet_batches(path))
    if not batches:
        return Table(str(path), {})
    features: Mapping[str, Any] = {}
    if b"huggingface" in (batches[0].schema.metadata or {}):
        import datasets

        features = datasets.Features.from_arrow_schema(batches[0].schema)
    return arrow_table(pyarrow.Table.from_batches(batches), str(path), features)


def _required(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where}: expected a string, found {type(text).__name__} {text!r:.80}")
    return clean_text(text, where)


def _texts_of_input(where: str, text_column: Names) -> Iterator[str]:
    handle = getattr(sys.stdin, "buffer", None)
    lines = iter(sys.stdin) if handle is None else parsing.decoded(handle, where)
    first = next(lines, "")
    rows = chain([first] if first else [], lines)
    if _is_object(first):
        return _texts_of_rows(parsing.json_objects(rows, where), where, text_column)
    return _texts_of_lines(rows, where)


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _texts_of_lines(lines: Iterable[str], where: str) -> Iterator[str]:
    return (clean_text(line.rstrip("\r\n"), where) for line in lines)


def _texts_of_rows(rows: Iterable[Mapping[str, Any]], where: str, text_column: Names) -> Iterator[str]:
    column = None
    for number, row in enumerate(rows, 1):
        if column is None:
            (column,) = find_columns(_columns_of([row], where), text_column, needs_label=False).text
        if column not in row:
            found = ", ".join(map(repr, row)) or "nothing"
            raise DataError(f"{where}, row {number}: expected {column!r}, found {found}")
        yield clean_text(row[column], f"{where}, row {number}, column {column!r}")

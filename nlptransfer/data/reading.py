"""Read files, folders, the hub and memory as raw columns, or texts alone. Does not know labels, nor splitting."""

import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from nlptransfer.data.columns import Names, clean_text, find_columns, texts_of
from nlptransfer.data.memory import is_a, table_of
from nlptransfer.data.parsing import KINDS, FileSettings, kind_of, read_file, stem_of, stream_file, stream_input
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError

logger = logging.getLogger("nlptransfer")

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""Names that a split goes by, in files and in a DatasetDict, and its name here."""
_BATCH = 1000
WHOLE = "all"
"""The name of the only part of a source that comes without splits."""


@dataclass(frozen=True)
class Tables:
    """A source of rows, split by split, before anything is read."""

    name: str
    parts: dict[str, Any]
    """What each split is read from; under :data:`WHOLE` alone where the source has no splits."""
    settings: FileSettings | None = None
    """How files are read."""

    def table(self, split: str) -> Table:
        """Read the rows of a split."""
        where = self.name if split == WHOLE else f"{split} split of {self.name}"
        return read_table(self.parts[split], where, self.settings)


def open_source(source: Any, settings: FileSettings | None = None) -> Tables:
    """Find the splits of a file, folder, hub id, mapping or table; a DataError where it is not there, or ambiguous."""
    settings = settings or FileSettings()
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return Tables(path.resolve().name, _folder(path), settings)
        if path.exists():
            return Tables(stem_of(path), {WHOLE: path}, settings)
        return _from_hub(source)
    if is_a(source, "datasets", "DatasetDict") or (isinstance(source, Mapping) and SPLIT_NAMES.keys() & {*source}):
        return Tables("data", _named_splits(source.items(), "the splits given"), settings)
    return Tables("data", {WHOLE: source}, settings)


def read_table(part: Any, where: str, settings: FileSettings | None = None) -> Table:
    """Read a file, or rows in memory; a DataError at ``where`` if they are broken, or if there is none."""
    settings = settings or FileSettings()
    table = read_file(_file(part), settings) if isinstance(part, (str, Path)) else table_of(part, where)
    if not len(table):
        raise DataError(f"{table.where}: expected rows of text and label, found no row; is the file empty?")
    return table


def stream_tables(source: Any, settings: FileSettings | None = None) -> Iterator[Table]:
    """Read rows to predict, table by table, at least one; files and iterators are streamed.

    Args:
        source: a file of any kind, or a pipe; ``"-"`` for standard input, whose rows are read as they come: an object
            a line if the first line is one, else a text a line; an iterator of texts; or rows in memory.
        settings: how files are read.
    """
    settings = settings or FileSettings()
    if source == "-":
        # What takes the place of standard input may have no bytes.
        return stream_input(getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode()))
    if isinstance(source, (str, Path)):
        return stream_file(_file(source, "; texts themselves go in a list"), settings)
    if isinstance(source, Iterator):
        return _batches(source)
    return iter([table_of(source, "data")])


def read_texts(source: Any, text_column: Names = None, settings: FileSettings | None = None) -> Iterator[str]:
    """Read texts to predict one by one, out of what :func:`stream_tables` takes.

    A row without text gives an empty string, so that predictions stay in step with the rows. A DataError says that
    there is no such file or text column, or while reading, that a row is broken or no text.
    """
    if isinstance(source, Iterator):
        return (clean_text(text, f"text {number}") for number, text in enumerate(source, 1))
    return _texts(stream_tables(source, settings), text_column)


def _texts(tables: Iterator[Table], text_column: Names) -> Iterator[str]:
    names: tuple[str, ...] | None = None
    for table in tables:
        names = names or find_columns(table, text_column, needs_label=False).text
        yield from texts_of(table, names)


def _batches(texts: Iterator[Any]) -> Iterator[Table]:
    first = 1
    while some := list(islice(texts, _BATCH)):
        yield replace(table_of(some, "data"), first_row=first)
        first += len(some)


def _file(part: str | Path, advice: str = "") -> Path:
    path = Path(part).expanduser()
    if path.is_dir() or not path.exists():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: expected a file{' of texts' if advice else ''}, found {found}{advice}")
    return path


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

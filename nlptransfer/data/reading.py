"""Read files, folders, the hub and memory as raw columns, or texts alone. Does not know labels, nor splitting."""

import io
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nlptransfer.data.columns import Names, clean_text, find_columns, texts_of
from nlptransfer.data.files.folders import SPLIT_NAMES, WHOLE, entries_of, files_of_splits
from nlptransfer.data.files.parsing import (
    KINDS,
    FileSettings,
    joined,
    kind_of,
    read_file,
    stem_of,
    stream_file,
    stream_input,
)
from nlptransfer.data.memory import is_a, table_of, tables_of
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError, abridged, first_line
from nlptransfer.files import named_path
from nlptransfer.memo import once
from nlptransfer.storage import storage_errors

logger = logging.getLogger("nlptransfer")

_BATCH = 2**12


@dataclass(frozen=True)
class Parts:
    """The files of one split, in order."""

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Tables:
    """A source of rows, split by split, before anything is read."""

    name: str
    parts: dict[str, Any]
    """What each split is read from; under :data:`WHOLE` alone where the source has no splits."""
    settings: FileSettings | None = None
    """How files are read."""
    _tables: dict[str, Table] = field(default_factory=dict, repr=False)
    """Those that were read."""

    def __str__(self) -> str:
        return self.name

    def table(self, split: str) -> Table:
        """Read the rows of a split, once."""
        if split not in self._tables:
            where = self.name if split == WHOLE else f"{split} split of {self.name}"
            self._tables[split] = read_table(self.parts[split], where, self.settings)
        return self._tables[split]


def open_source(source: Any, settings: FileSettings | None = None) -> Tables:
    """Find the splits of a file, folder, hub id, mapping or table; a DataError where it is not there, or ambiguous.

    What is opened already is returned as it is.
    """
    if isinstance(source, Tables):
        return source
    settings = settings or FileSettings()
    if isinstance(source, (str, Path)):
        place = source
        return once(("tables", str(place), str(settings)), lambda: _of_path(place, settings))
    if is_a(source, "datasets", "DatasetDict") or (isinstance(source, Mapping) and SPLIT_NAMES.keys() & {*source}):
        return Tables("data", _named_splits(source.items(), "the splits given"), settings)
    return Tables("data", {WHOLE: source}, settings)


def _of_path(source: str | Path, settings: FileSettings) -> Tables:
    path = named_path(source)
    with storage_errors(path, "read"):
        if path.is_dir():
            return Tables(path.resolve().name, _folder(path), settings)
        if path.exists():
            return Tables(stem_of(path), {WHOLE: path}, settings)
    return _from_hub(source)


def read_table(part: Any, where: str, settings: FileSettings | None = None) -> Table:
    """Read a file, or rows in memory; a DataError at ``where`` if they are broken, or if there is none."""
    settings = settings or FileSettings()
    if isinstance(part, Parts):
        table = _read_parts(part, settings)
    else:
        table = read_file(_file(part), settings) if isinstance(part, (str, Path)) else table_of(part, where)
    if not len(table):
        raise DataError(f"{table.where}: expected rows of text and label, found no row; is the file empty?")
    return table


def stream_tables(source: Any, settings: FileSettings | None = None, columns: Sequence[str] = ()) -> Iterator[Table]:
    """Read rows to predict, table by table, at least one; files and iterators are streamed.

    Args:
        source: a file of any kind, a pipe, or a folder of one table; ``"-"`` for standard input, whose rows are read
            as they come: an object a line if the first line is one, cells if that is a header, else a text a line; an
            iterable of texts or of dicts; or rows in memory.
        settings: how files are read.
        columns: names by which the header of standard input is seen.
    """
    settings = settings or FileSettings()
    if isinstance(source, str) and source == "-":
        if sys.stdin is None:
            raise DataError("standard input: expected rows, found it closed: name a file, or pipe them in")
        # What takes the place of standard input may have no bytes.
        stream = getattr(sys.stdin, "buffer", None) or io.BytesIO(sys.stdin.read().encode())
        return stream_input(stream, settings, columns)
    if isinstance(source, (str, Path)) and named_path(source).is_dir():
        return _folder_tables(named_path(source), settings)
    if isinstance(source, (str, Path)):
        return stream_file(_file(source, "; texts themselves go in a list, or by standard input (-)"), settings)
    return tables_of(source, "data", _BATCH)


def _folder_tables(folder: Path, settings: FileSettings) -> Iterator[Table]:
    splits = _folder(folder)
    if len(splits) > 1:
        raise DataError(f"{folder}: expected one table, found the splits {', '.join(splits)}; name the file of one")
    (part,) = splits.values()
    if not isinstance(part, (Path, Parts)):
        yield table_of(part, str(folder))
        return
    first = 1
    for path in part.paths if isinstance(part, Parts) else (part,):
        for table in stream_file(path, settings):
            yield replace(table, first_row=first)
            first += len(table)


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


def _file(part: str | Path, advice: str = "") -> Path:
    path = named_path(part)
    if path.is_dir() or not path.exists():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: expected a file{' of texts' if advice else ''}, found {found}{advice}")
    return path


def _folder(folder: Path) -> dict[str, Any]:
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder)
    splits = files_of_splits(folder)
    used = {name for files in splits.values() for file in files for name in file.relative_to(folder).parts}
    _log_others(folder, [entry.name for entry in entries_of(folder) if entry.name not in used])
    for split, files in splits.items():
        if len(files) > 1 or SPLIT_NAMES.get(stem_of(files[0]).lower(), WHOLE) != split:
            names = abridged([str(file.relative_to(folder)) for file in files], 5)
            count = f"{len(files)} files: " if len(files) > 1 else ""
            logger.info("%s: %s rows are read from %s%s", folder, split, count, names)
    return {split: files[0] if len(files) == 1 else Parts(files) for split, files in splits.items()}


def _saved(folder: Path) -> dict[str, Any]:
    """Open what a Dataset or DatasetDict wrote by save_to_disk."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing and broken files raise a dozen unrelated kinds
        raise DataError(f"{folder}: broken folder of save_to_disk: {first_line(error)}; save it again") from error
    return _named_splits(loaded.items(), folder) if isinstance(loaded, Mapping) else {WHOLE: loaded}


def _read_parts(parts: Parts, settings: FileSettings) -> Table:
    """Read the files of one split, one after the other; a DataError names one with other columns than the first."""
    tables: list[Table] = []
    for path in parts.paths:
        table = read_file(path, settings)
        if tables and (other := sorted({*tables[0].columns} ^ {*table.columns})):
            raise DataError(
                f"{path}: expected the columns of {parts.paths[0].name}, found {other[0]!r} in one of them alone; "
                "rename it, or take the file out of the folder"
            )
        tables.append(table)
    return replace(joined(tables), where=f"{parts.paths[0]} and {len(parts.paths) - 1} more")


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
        logger.info("%s: not read: %s", where, ", ".join(names))


def _from_hub(source: str | Path) -> Tables:
    if (
        isinstance(source, Path)
        or kind_of(Path(source)) in (*KINDS, ".txt")
        or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source)
    ):
        raise DataError(f"{source}: no such file or folder; check the path")
    import datasets

    try:
        loaded = datasets.load_dataset(source)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        reason = first_line(error)
        raise DataError(
            f"{source!r}: no such file or folder here, and as a hub id it cannot be loaded: {reason}; "
            "check the spelling, and the connection if a hub id is meant"
        ) from error
    return Tables(source, _named_splits(loaded.items(), source))

"""Take tables out of memory: frames, datasets, lists, arrays, pairs. Does not know files, nor columns by name."""

import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from nlptransfer.data.files.columnar import check_depth, check_names, class_names, readable
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError, first_line

logger = logging.getLogger("nlptransfer")

TAKEN = (
    "a path, a hub id, a Dataset or DatasetDict, an Arrow table, a DataFrame, a list of dicts, a dict of columns "
    "or (texts, labels)"
)
"""What holds rows, in words."""
_LISTS = ("tolist", "to_pylist", "to_list")
"""Methods of arrays, of Arrow's columns and of a Series that give their values."""


def table_of(value: Any, where: str) -> Table:
    """Return rows in memory as a table; a DataError at ``where`` for anything else, or for broken ones.

    A list, an array or a Series of strings is one column, "text"; a pair (texts, labels) has "label" too.
    """
    if is_a(value, "pandas", "DataFrame"):
        return _of_frame(value, where)
    if is_a(value, "datasets", "Dataset"):
        return _of_arrow(value.with_format("arrow")[:], where, value.features)
    if is_a(value, "datasets", "IterableDataset"):
        return _of_dicts(list(value), where, value.features)
    if is_a(value, "pyarrow", "Table") or is_a(value, "pyarrow", "RecordBatch"):
        return _of_arrow(value, where)
    if is_a(value, "polars", "DataFrame"):
        return _of_arrow(value.to_arrow(), where)
    if isinstance(value, Mapping):
        return _of_columns(value, where)
    if isinstance(value, (tuple, list)) and len(value) == 2 and not isinstance(value[0], (str, Mapping)):
        return _of_columns({"text": value[0], "label": value[1]}, where)
    if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
        return _of_dicts(value, where)
    if isinstance(value, (list, tuple)) or any(hasattr(value, name) for name in _LISTS):
        return Table(where, {"text": _values(value, "text", where)}, has_header=False)
    raise DataError(f"{where}: expected {TAKEN}, found {type(value).__name__}")


def tables_of(value: Any, where: str, rows: int) -> Iterator[Table]:
    """Yield tables of ``rows`` rows each of an iterable of strings or of dicts, read no further than it must be.

    What holds its rows by columns is one table, see :func:`table_of`.
    """
    if is_a(value, "datasets", "DatasetDict"):
        raise DataError(f"{where}: expected rows, found the splits {', '.join(value)}: take one of them")
    if not _yields_rows(value):
        yield table_of(value, where)
        return
    items, first = iter(value), 1
    while some := list(islice(items, rows)):
        if any(isinstance(item, Mapping) for item in some):
            table = _of_dicts([_row(item, f"{where}, row {row}") for row, item in enumerate(some, first)], where)
        else:
            table = Table(where, {"text": some}, has_header=False)
        yield replace(table, first_row=first)
        first += len(some)


def _yields_rows(value: Any) -> bool:
    """Tell whether iterating gives rows, and nothing else does at once."""
    if isinstance(value, (list, tuple)):
        # Not (texts, labels).
        return len(value) != 2 or not all(isinstance(part, Iterable) and not _is_row(part) for part in value)
    if is_a(value, "datasets", "IterableDataset"):
        return True
    by_columns = ("columns", "column_names", *_LISTS)
    return isinstance(value, Iterable) and not _is_row(value) and not any(hasattr(value, name) for name in by_columns)


def _is_row(value: Any) -> bool:
    return isinstance(value, (str, bytes, Mapping))


def _row(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise DataError(f"{where}: expected a dict as in other rows, found {type(value).__name__}")


def _of_arrow(arrow: Any, where: str, features: Any = None) -> Table:
    """Return an Arrow table or batch with its ``datasets`` features; columns of bytes are text, or left out."""
    import pyarrow

    whole = arrow if isinstance(arrow, pyarrow.Table) else pyarrow.Table.from_batches([arrow])
    try:
        whole.validate(full=True)
    except pyarrow.ArrowException as error:
        raise DataError(f"{where}: expected whole Arrow columns, found {first_line(error)}; make them anew") from error
    check_depth(where, whole.schema)
    table = readable(whole, where)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Table(where, columns, class_names(features.arrow_schema, where) if features else {}, arrow=whole)


def is_a(value: Any, module: str, name: str) -> bool:
    """Tell whether a value is of a class, without importing its module: it is loaded where there is an instance."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name, ()))


def _of_frame(frame: Any, where: str) -> Table:
    names = [str(name) for name in frame.columns]
    check_names(where, names)
    return Table(where, {name: frame.iloc[:, index].tolist() for index, name in enumerate(names)})


def _of_dicts(rows: list[Mapping[str, Any]], where: str, features: Any = None) -> Table:
    names = dict.fromkeys(chain.from_iterable(rows))
    columns = {str(name): [row.get(name) for row in rows] for name in names}
    return Table(where, columns, class_names(features.arrow_schema, where) if features else {})


def _of_columns(columns: Mapping[Any, Any], where: str) -> Table:
    values = {str(name): _values(column, str(name), where) for name, column in columns.items()}
    sizes = {name: len(column) for name, column in values.items()}
    if len(set(sizes.values())) > 1:
        found = " and ".join(f"{size} of {name!r}" for name, size in list(sizes.items())[:5])
        raise DataError(f"{where}: expected as many values in every column, found {found}")
    return Table(where, values)


def _values(column: Any, name: str, where: str) -> list[Any]:
    if isinstance(column, (str, bytes, Mapping)) or not isinstance(column, Iterable):
        raise DataError(f"{where}: expected a list of {name}s, found {type(column).__name__}")
    as_list = next((getattr(column, name) for name in _LISTS if hasattr(column, name)), None)
    return as_list() if as_list is not None else list(column)

"""Parse JSON in the forms that people write rows in. Does not know which column is what."""

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from nlptransfer.data.files.columnar import MOST_DEPTH, check_depth
from nlptransfer.data.files.opening import Buffered
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError, abridged, first_line

logger = logging.getLogger("nlptransfer")

KINDS = (".json", ".jsonl", ".ndjson")
"""Endings of the names of JSON files."""
_SPACE = re.compile(r"[ \t\r\n]*")
_ROWS_KEYS = ("data", "rows", "examples", "records", "items", "instances", "results", "train")
_DEEP_ENDS = (b"]" * MOST_DEPTH, b"}" * MOST_DEPTH, b"]}" * (MOST_DEPTH // 2), b"}]" * (MOST_DEPTH // 2))
_LARGEST_WHOLE = 2.0**53
_RECORDS = "write a list of objects, or an object a line (pandas: to_json(orient='records'))"


def is_json(head: bytes, kind: str) -> bool:
    """Tell whether text is JSON with rows, by its front; by the ending of its name where that says so."""
    return kind in KINDS or bool(re.match(rb'\s*(\{\s*("|\})|\[\s*(\{|\]))', head))


def read_json(source: Buffered, rows: int) -> Iterator[Table]:
    """Read rows from objects one after the other (a line each, or not), from a list of them, or from one object.

    One object may be pandas' table by columns, by index or split, or hold the rows under one of its keys. Lines are
    read in a table for each block of the source, other rows in tables of ``rows``; at least one table.
    """
    where, table = source.where, None
    has_lines = has_object_lines(source)
    for table in tables_of_lines(source) if has_lines else tables_of_rows(where, _rows(where, source), rows):
        yield table
    if table is None:
        yield Table(where, {})


def tables_of_rows(where: str, objects: Iterable[Mapping[str, Any]], rows: int, first: int = 1) -> Iterator[Table]:
    """Make tables of ``rows`` rows each out of objects; what one lacks is None."""
    objects = iter(objects)
    while some := list(islice(objects, rows)):
        names = dict.fromkeys(name for row in some for name in row)
        yield Table(where, {name: _column([row.get(name) for row in some]) for name in names}, first_row=first)
        first += len(some)


def has_object_lines(source: Buffered) -> bool:
    """Tell whether the first line is an object, and another one follows."""
    while source.data.lstrip().startswith(b"{") and b"\n" not in source.data.strip() and source.more():
        continue
    first, _, rest = source.data.strip().partition(b"\n")
    return bool(rest) and is_object(first)


def is_object(line: bytes) -> bool:
    """Tell whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def tables_of_lines(source: Buffered) -> Iterator[Table]:
    """Read an object a line."""
    where, parse, first = source.where, _Lines(source.where), 1
    for data in source.lines():
        if data.strip():
            table = parse.quickly(data, first) or _carefully(where, data, source.line, first)
            if not table.columns:
                # Rows without a field are rows.
                table = replace(table, columns={"text": [None] * sum(map(bool, map(bytes.strip, data.splitlines())))})
            yield table
            first += len(table)


class _Lines:
    """Parses lines of objects with pyarrow; remembers which of its dates are text, and the order of the columns."""

    def __init__(self, where: str) -> None:
        self._where, self._texts, self._names = where, dict[str, Any](), dict[str, None]()

    def quickly(self, data: bytes, first: int) -> Table | None:
        """Parse lines; None where pyarrow would change a value, or cannot read one."""
        import pyarrow

        if any(ends in data for ends in _DEEP_ENDS):
            return None  # pyarrow's time is the square of the depth
        try:
            table = self._arrow(data)
            check_depth(self._where, table.schema)
            self._names |= dict.fromkeys(table.column_names)
            dates = {field.name: _dates_as_text(field.type) for field in table.schema}
            if dates := {name: kind for name, kind in dates.items() if kind != table.schema.field(name).type}:
                self._texts |= dates
                table = self._arrow(data)
        except (pyarrow.ArrowException, DataError):  # whose line is to be named
            return None
        has_nulls = b"null" in data
        if not all(_is_exact(column, has_nulls) for column in table.columns):
            return None
        columns = dict(zip(table.column_names, table.columns, strict=True))
        # A column of text is there even where no object has it.
        empty = {name for name in self._texts if columns[name].null_count == len(table)}
        there = (name for name in self._names if name in columns and name not in empty)
        return Table(self._where, {name: columns[name] for name in there}, first_row=first)

    def _arrow(self, data: bytes) -> Any:
        import pyarrow
        from pyarrow import json as arrow_json

        return arrow_json.read_json(
            pyarrow.BufferReader(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(explicit_schema=pyarrow.schema(self._texts) if self._texts else None),
        )


def _dates_as_text(kind: Any) -> Any:
    import pyarrow
    from pyarrow import types

    if types.is_temporal(kind):
        return pyarrow.string()
    if types.is_list(kind):
        return pyarrow.list_(_dates_as_text(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(field.name, _dates_as_text(field.type)) for field in kind])
    return kind


def _is_exact(column: Any, has_nulls: bool) -> bool:
    """Tell whether a column of pyarrow's is what JSON said: whole numbers, and no fields that were not there."""
    import pyarrow.compute as compute
    from pyarrow import types

    kind = column.type
    if types.is_floating(kind):
        most = compute.max(compute.abs(column)).as_py()
        return most is None or most < _LARGEST_WHOLE
    if types.is_list(kind):
        # pyarrow 26 takes a null at the start of a list for a value.
        return not has_nulls and _is_exact(compute.list_flatten(column), has_nulls)
    if types.is_struct(kind):
        present = column.drop_null()
        fields = [compute.struct_field(present, index) for index in range(kind.num_fields)]
        return all(not field.null_count and _is_exact(field, has_nulls) for field in fields)
    return True


def _carefully(where: str, data: bytes, line: int, first: int) -> Table:
    rows = []
    for number, text in enumerate(data.decode().split("\n"), line):
        if text.strip():
            try:
                row = _not_too_deep(json.loads(text), text)
            except (ValueError, RecursionError) as error:
                reason = first_line(error)
                raise DataError(f"{where}, line {number}: broken JSON: {reason}; write one object a line") from error
            rows.append(_checked(row, f"{where}, line {number}"))
    return next(tables_of_rows(where, rows, len(rows), first))


def _not_too_deep(value: Any, text: str) -> Any:
    """Return what a text was parsed to; a ValueError where it is nested too deep."""
    if text.count("[") + text.count("{") > MOST_DEPTH:
        level = [value]
        for _ in range(MOST_DEPTH):
            nested = (one for one in level if isinstance(one, (dict, list)))
            level = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
        if any(isinstance(one, (dict, list)) for one in level):
            raise ValueError(f"lists and objects nested more than {MOST_DEPTH} deep")
    return value


def _checked(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {json.dumps(row, ensure_ascii=False):.80}; {_RECORDS}")
    return row


def _rows(where: str, source: Buffered) -> Iterator[dict[str, Any]]:
    values = _values(where, source)
    first = list(islice(values, 2))
    if len(first) == 1 and not first[0][0]:
        yield from _rows_of(_checked(first[0][2], where), where)
        return
    for _, number, row in chain(first, values):
        yield _checked(row, f"{where}, row {number}")


def _values(where: str, source: Buffered) -> Iterator[tuple[bool, int, Any]]:
    """Yield each value of a list, or one after the other: whether it is a list, the value's number, the value."""
    cursor, number = _Cursor(where, source), 0
    is_list = cursor.skip("[")
    while cursor.peek() not in ("]" if is_list else "", ""):
        number += 1
        yield is_list, number, cursor.value()
        if is_list and not cursor.skip(",") and cursor.peek() != "]":
            raise cursor.error("expected a comma or the end of the list")
    if is_list and not cursor.skip("]"):
        raise cursor.error("expected a value or the end of the list")
    if is_list and cursor.peek():
        raise cursor.error("expected nothing behind the list")


class _Cursor:
    """A place in a text that is read on as it is needed."""

    def __init__(self, where: str, source: Buffered) -> None:
        self._where, self._source, self._text, self._at = where, source, source.data.decode(), 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """Return the next character that is no space; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self, character: str) -> bool:
        """Go behind a character, and tell whether it is there."""
        is_there = self.peek() == character
        self._at += is_there
        return is_there

    def value(self) -> Any:
        """Parse the next value."""
        while True:
            try:
                value, at = self._decode(self._text, self._at)
                _not_too_deep(value, self._text)
                self._at = at
                return value
            except json.JSONDecodeError as error:
                reason, words, behind = error, error.msg, error.pos - self._at
            except (ValueError, RecursionError) as error:  # numbers and nesting beyond all measure
                raise self.error(first_line(error)) from error
            if not self._more():
                self._at += behind
                raise self.error(words) from reason

    def error(self, reason: str) -> DataError:
        """Return a DataError that names the line."""
        line = self._source.line + self._text[: self._at].count("\n")
        found = repr(self._text[self._at : self._at + 40].split("\n")[0]) if self._text[self._at :] else "the end"
        return DataError(f"{self._where}, line {line}: broken JSON: {reason}, found {found}; {_RECORDS}")

    def _more(self) -> bool:
        self._source.drop(len(self._text[: self._at].encode()))
        is_more = self._source.more()
        self._text, self._at = self._source.data.decode(), 0
        return is_more


def _rows_of(whole: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the rows that one object holds; the object itself where it is a row."""
    values, names = list(whole.values()), whole.get("columns")
    if isinstance(names, list) and isinstance(whole.get("data"), list):
        return [_named(row, names, f"{where}, row {number}") for number, row in enumerate(whole["data"], 1)]
    lists = [
        name for name, value in whole.items() if value and isinstance(value, list) and {*map(type, value)} == {dict}
    ]
    if len(lists) > 1 and len(lists) == len(whole):
        raise DataError(
            f"{where}: expected one list of rows, found {abridged([*map(repr, lists)], 5)}; write each to a file of "
            "its own, which in a folder may be train.jsonl, validation.jsonl, test.jsonl"
        )
    if len(lists) == 1 and (len(whole) == 1 or lists[0] in _ROWS_KEYS):
        others = [repr(name) for name in whole if name != lists[0]]
        left = f"; not read: {abridged(others, 10)}" if others else ""
        logger.info("%s: the rows are those under %r%s", where, lists[0], left)
        return [_checked(row, where) for row in whole[lists[0]]]
    if values and all(isinstance(value, dict) and value for value in values):
        return _rows_of_nested(whole, where)
    if values and all(isinstance(value, list) for value in values) and {*map(len, values)} == {max(2, len(values[0]))}:
        logger.info("%s: the file has a list for each column", where)
        return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)]
    return [whole]


def _rows_of_nested(whole: dict[str, dict[str, Any]], where: str) -> list[dict[str, Any]]:
    inner = list(dict.fromkeys(chain.from_iterable(whole.values())))
    if all(name.isdigit() for name in inner) or (not _are_rows(whole) and len(inner) > len(whole)):
        logger.info("%s: the file is a table, column by column", where)
        return [{name: column.get(row) for name, column in whole.items()} for row in inner]
    if _are_rows(whole) or len(whole) > len(inner):
        logger.info("%s: the file is a table, row by row, each under its name", where)
        return list(whole.values())
    return [whole]


def _are_rows(whole: dict[str, Any]) -> bool:
    return all(name.isdigit() for name in whole)


def _named(row: Any, names: list[Any], where: str) -> dict[str, Any]:
    if not isinstance(row, list) or len(row) != len(names):
        raise DataError(f"{where}: expected a list of {len(names)} values, one a column, found {row!r:.80}")
    return dict(zip(map(str, names), row, strict=True))


def _column(values: list[Any]) -> Any:
    """Return values as a column of Arrow's where it holds them exactly, else as they are."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if kinds == {list}:
        kinds = {type(item) for value in values if value is not None for item in value}
    if len(kinds) != 1 or not kinds <= {str, int, float, bool}:
        return values
    try:
        return pyarrow.chunked_array([pyarrow.array(values)])
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return values

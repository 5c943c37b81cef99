"""Label names and ids, one label a row or several, and what raw label columns mean."""

import ast
import json
import logging
import math
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np

from nlptransfer.data.spelling import TRUTHS, are_measurements, canonical, joined_name
from nlptransfer.errors import DataError, abridged

logger = logging.getLogger("nlptransfer")
_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")

_MOST_DIGITS = 300
"""Of a number: Python converts no more than some thousand."""
LONGEST_SCALE = 21
"""Whole numbers in a row that may be a scale at most: from 0 to 20, or from -10 to 10."""
Row = str | tuple[str, ...]
"""One row's label name, or its set of names where the data is multi-label."""


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The labels of rows, each distinct one once."""

    distinct: list[Row | None]
    """None: a missing label"""
    codes: np.ndarray
    """(rows,): the place of each row's among the distinct ones"""

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Row | None]:
        return (self.distinct[code] for code in self.codes.tolist())

    @property
    def multi_label(self) -> bool:
        return any(isinstance(label, tuple) for label in self.distinct)

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The names in each distinct one; none in a missing label."""
        return [(label,) if isinstance(label, str) else label or () for label in self.distinct]

    def is_present(self) -> np.ndarray:
        """Tell which rows have a label, or an empty set of labels, (rows,)."""
        present: np.ndarray = np.array([label is not None for label in self.distinct], bool)[self.codes]
        return present

    def take(self, rows: np.ndarray) -> "RowLabels":
        """Return the labels of the rows at these places, or where a mask is true, and no others as distinct."""
        codes, found = np.unique(self.codes[rows], return_inverse=True)
        return RowLabels([self.distinct[code] for code in codes.tolist()], found)

    def counts(self) -> Counter[str]:
        """Count the rows of each name, in the order of their first rows."""
        counts = Counter[str]()
        rows = np.bincount(self.codes, minlength=len(self.distinct)).tolist()
        for names, count in zip(self.names, rows, strict=True):
            counts.update(dict.fromkeys(names, count))
        return counts

    def mapped(self, mapping: Mapping[str, str]) -> "RowLabels":
        """Rename labels; those that no key is, in any spelling of a number or truth, stay as they are."""
        by_spelling = {canonical(name): other for name, other in mapping.items()}

        def renamed(name: str) -> str:
            return mapping[name] if name in mapping else by_spelling.get(canonical(name), name)

        def of_row(row: Row | None) -> Row | None:
            if isinstance(row, tuple):
                return tuple(dict.fromkeys(map(renamed, row)))
            return None if row is None else renamed(row)

        return RowLabels([*map(of_row, self.distinct)], self.codes)


@dataclass(frozen=True)
class Labels:
    """Label names in the order of their ids, each once; a DataError where there are none."""

    names: tuple[str, ...]
    """Name of label 0, 1, 2, ..."""
    multi_label: bool = False
    """Whether a row carries a set of labels instead of exactly one."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names:
            raise DataError("expected label names, found none")
        if len({*self.names}) < len(self.names):
            twice = sorted(repr(name) for name, count in Counter(self.names).items() if count > 1)
            raise DataError(f"expected every label name once, found {abridged(twice, 30)} more than once")

    @property
    def num_labels(self) -> int:
        return len(self.names)

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    @cached_property
    def label2id(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def known(self, name: str) -> str | None:
        """Return the label of that name, or the one that is the same number or truth in another spelling, if any."""
        return name if name in self.label2id else self._by_spelling.get(canonical(name))

    @cached_property
    def _by_spelling(self) -> dict[str, str]:
        counts = Counter(map(canonical, self.names))
        return {spelling: name for name in self.names if counts[spelling := canonical(name)] == 1}

    @cached_property
    def scale(self) -> tuple[int, ...] | None:
        """The numbers that the names are, if they are whole and in a row, as stars from 1 to 5 are; else None.

        More numbers than ``LONGEST_SCALE`` are ids of classes, of which a larger one is not more of anything.
        """
        are_few = 3 <= self.num_labels <= LONGEST_SCALE
        if self.multi_label or not are_few or not all(map(_WHOLE.fullmatch, self.names)):
            return None
        numbers = tuple(map(int, self.names))
        return numbers if max(numbers) - min(numbers) == self.num_labels - 1 else None

    @property
    def problem_type(self) -> str:
        """The ``problem_type`` of a transformers config."""
        return "multi_label_classification" if self.multi_label else "single_label_classification"

    def encode(self, rows: Iterable[str] | Iterable[Sequence[str]]) -> np.ndarray:
        """Return ids, int64 (n,), of n names, or 0 and 1, float32 (n, labels), of n sets; a DataError for others."""
        rows = list(rows)
        if not self.multi_label:
            return np.array([self._id(row, number) for number, row in enumerate(rows, 1)], dtype=np.int64)
        targets = np.zeros((len(rows), self.num_labels), dtype=np.float32)
        for number, row in enumerate(rows, 1):
            if isinstance(row, str):
                raise DataError(f"row {number}: expected a list of labels (multi-label data), found {row!r}")
            targets[number - 1, [self._id(name, number) for name in row]] = 1
        return targets

    def decode(self, targets: Any) -> list[str] | list[list[str]]:
        """Return n names, or n lists of names in the order of their ids: the inverse of :meth:`encode`.

        Targets are ids (n,), or 0/1 of shape (n, num_labels), 1 being above 0.5; a DataError for another shape or id.
        """
        array = np.asarray(targets)
        if self.multi_label:
            if array.ndim != 2 or array.shape[1] != self.num_labels:
                raise DataError(f"expected targets of shape (n, {self.num_labels}), found {array.shape}")
            return [[self.names[index] for index in np.flatnonzero(row > 0.5)] for row in array]
        if array.ndim != 1:
            raise DataError(f"expected targets of shape (n,), found {array.shape}")
        if array.size and not (array.min() >= 0 and array.max() < self.num_labels):
            raise DataError(f"expected label ids from 0 to {self.num_labels - 1}, found {array.min()} to {array.max()}")
        return [self.names[int(index)] for index in array]

    def count(self, targets: np.ndarray) -> np.ndarray:
        """Count the rows of each label, (num_labels,), in targets as :meth:`encode` gives them."""
        if self.multi_label:
            return np.asarray(targets.sum(axis=0, dtype=np.float64), np.int64)
        return np.bincount(targets, minlength=self.num_labels)

    def _id(self, name: object, number: int) -> int:
        if not isinstance(name, str):
            raise DataError(f"row {number}: expected a label name, found {type(name).__name__} {name!r}")
        if name not in self.label2id:
            known = abridged([*map(repr, self.names)], 30)
            raise DataError(f"row {number}: unknown label {name!r}; known labels: {known}")
        return self.label2id[name]


def read_labels(
    values: Any,
    where: str = "labels",
    class_names: Sequence[str] | None = None,
    delimiter: str | None = None,
    label_names: Sequence[str] | None = None,
) -> RowLabels:
    """Turn raw label values into names, or into tuples of names in multi-label data; a missing label is None.

    Names are stripped and NFC-normalized; whole numbers become their digits, true and false "true" and "false". None,
    NaN and an empty string are missing labels; an empty list, or the delimiter alone, is an empty set of labels. Texts
    stay as they are written: whether "1.0" is "1" depends on all labels (:func:`spelled_alike`, :meth:`Labels.known`).
    The work is done once for each distinct value.

    Args:
        values: a list or Arrow array of one a row: text (also bytes), whole numbers, true and false; a list, set or
            array of these, or one written as text ("['a', 'b']"), or a mapping of names to 0 or 1, for several labels.
        class_names: names of the ids 0, 1, ... where the values are ids (a ``ClassLabel``); -1 is a missing label.
        delimiter: what joins the names of a row in a string (``"|"`` in ``"a|b"``); makes the column multi-label.
            "" takes texts for one label each, also those that look like several.
        label_names: names of the ids 0, 1, ..., or of the columns of rows of 0 and 1.

    Raises:
        DataError: what is no label, values of several kinds, lists among single labels, names that seem to be joined.
    """
    column = _Column.of(values, where)
    if delimiter:
        column = column.mapped(lambda value: _parts(value, delimiter))
    elif delimiter is None:
        column = _lists_in_text(column)
    column = _names_of_flags(column)
    if label_names is not None:
        column = _with_names(column, label_names)
    elif class_names is not None:
        column = replace(column, values=[_class_name(*each, class_names) for each in column.places()])
    _refuse_mixed_shapes(column)
    _refuse_mixed_kinds(column)
    if delimiter is None and class_names is None and label_names is None:
        _refuse_what_is_no_name(column)
    return RowLabels([_names(*each) for each in column.places()], column.codes)


def labels_of_columns(columns: Mapping[str, Any], where: str = "labels") -> RowLabels:
    """Turn columns of 0 and 1, one a label, into the names of the labels that each row has.

    True and false are 1 and 0, in text too; a blank cell is 0, and a row of blanks has no label. A DataError names
    the row and the column of any other value.
    """
    names = [str(_plain(name)) for name in columns]
    carried, blank = [], []
    for name, values in columns.items():
        column = _Column.of(values, f"{where}, column {name!r}")
        for value, place in column.places():
            if value is not None and _flag(value) is None:
                raise DataError(
                    f"{place()}: expected 0 or 1, as each of several label columns is one label, found {value!r:.80}; "
                    "name one label_column, or columns of 0 and 1"
                )
        carried.append(np.array([bool(_flag(value)) for value in column.values], bool)[column.codes])
        blank.append(np.array([value is None for value in column.values], bool)[column.codes])
    is_blank = np.column_stack(blank).all(axis=1, keepdims=True)
    sets, codes = np.unique(np.hstack([np.column_stack(carried), is_blank]), axis=0, return_inverse=True)
    distinct: list[Row | None] = [
        None if row[-1] else tuple(names[index] for index in np.flatnonzero(row)) for row in sets
    ]
    return RowLabels(distinct, codes)


def order_names(names: Iterable[str], class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return distinct names in the order of ``class_names``, else by number if all are whole numbers, else sorted."""
    distinct = set(names)
    if class_names is not None and distinct <= set(class_names):
        return tuple(name for name in class_names if name in distinct)
    digits = [name.removeprefix("-") for name in distinct]
    by_number = all(name.isascii() and name.isdecimal() and len(name) <= _MOST_DIGITS for name in digits)
    return tuple(sorted(distinct, key=lambda name: (int(name) if by_number else 0, name)))


def is_missing(value: Any) -> bool:
    """Tell whether a raw value stands for nothing: None, NaN, or pandas' NA and NaT."""
    is_nan = isinstance(value, (float, Decimal)) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


_SIMPLE = {str, bytes, int, float, bool, Decimal}
_ITEM = r"""('[^']*'|"[^"]*"|-?[0-9]+\.?)"""
# As numpy writes an array: Python would read "['a' 'b']" as ['ab'].
_SPACED = re.compile(rf"\[\s*{_ITEM}(\s+{_ITEM})+\s*\]")


@dataclass(frozen=True)
class _Column:
    """A column by its distinct values, in the order of their first rows."""

    where: str
    values: list[Any]
    codes: np.ndarray
    """(rows,): the place of each row's among the values"""

    @classmethod
    def of(cls, values: Any, where: str) -> "_Column":
        distinct, codes = _distinct(values)
        return cls(where, [_plain(value) for value in distinct], codes)

    def mapped(self, function: Callable[[Any], Any]) -> "_Column":
        return replace(self, values=[function(value) for value in self.values])

    def row(self, index: int) -> int:
        """Return the number of the first row of a value, from 1."""
        return int(np.argmax(self.codes == index)) + 1

    def places(self) -> Iterator[tuple[Any, Callable[[], str]]]:
        """Yield each value, and what tells where it first stands."""
        for index, value in enumerate(self.values):
            yield value, partial(self.place, index)

    def items(self) -> Iterator[tuple[int, Any]]:
        """Yield each label, of the lists too, with the place of its value; none that is missing."""
        for index, value in enumerate(self.values):
            yield from ((index, item) for item in (value if isinstance(value, list) else [value]) if item is not None)

    def place(self, index: int) -> str:
        """Name the first row of a value, for messages."""
        return f"{self.where}, row {self.row(index)}"


def _distinct(values: Any) -> tuple[list[Any], np.ndarray]:
    if hasattr(values, "to_pylist"):
        import pyarrow

        types = pyarrow.types
        if types.is_dictionary(values.type) and "view" not in str(values.type):
            values = values.cast(values.type.value_type)
        if not (types.is_nested(values.type) or types.is_null(values.type) or types.is_dictionary(values.type)):
            chunks = values if isinstance(values, pyarrow.ChunkedArray) else pyarrow.chunked_array([values])
            encoded = chunks.dictionary_encode().unify_dictionaries().chunks
            # Arrow imports pandas for its own to_numpy, and for a value of Python's.
            indices = (part.indices for part in encoded)
            parts = (np.from_dlpack(one.fill_null(-1) if one.null_count else one) for one in indices)
            codes = np.concatenate([np.empty(0, np.int64), *parts])
            distinct = [*(encoded[0].dictionary.to_pylist() if encoded else []), None]
            return distinct, np.where(codes < 0, len(distinct) - 1, codes)
    rows = values.to_pylist() if hasattr(values, "to_pylist") else _as_list(values)
    keys = _keys(rows)
    value_of = dict(zip(reversed(keys), reversed(rows), strict=True))
    places = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return [value_of[key] for key in places], np.fromiter(map(places.__getitem__, keys), np.int64, len(keys))


def _as_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind not in "mM" else list(values)


def _keys(rows: list[Any]) -> list[Any]:
    """Return for each value what is equal for the same values alone, which in Python 1, 1.0 and True are too."""
    kinds = {*map(type, rows)} - {type(None)}
    if len(kinds) < 2 and kinds <= _SIMPLE:
        return rows
    if kinds == {list} and {*map(type, chain.from_iterable(row for row in rows if row))} in ({str}, {int}):
        return [None if row is None else tuple(row) for row in rows]
    return [_key(value) for value in rows]


def _key(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value), tuple(map(_key, sorted(value, key=str) if isinstance(value, (set, frozenset)) else value))
    if isinstance(value, Mapping):
        return dict, tuple((name, _key(item)) for name, item in value.items())
    return type(value), value if value.__hash__ else repr(value)


def _plain(value: Any) -> Any:
    """Return a raw value as None, str, bool, int, float, or a list or dict of these; anything else as it is."""
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return None if np.isnat(value) else value
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {_plain(name): _plain(item) for name, item in value.items()}
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, str):
        return unicodedata.normalize("NFC", str(value)).strip() or None
    if is_missing(value):
        return None
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def _parts(value: Any, delimiter: str) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(delimiter) if part.strip()]
    return value if value is None or isinstance(value, list) else [value]


def _lists_in_text(column: _Column) -> _Column:
    """Read lists and mappings that are written as text, if all values are one; a DataError if only some are."""
    with warnings.catch_warnings():
        # Python warns of text that is nearly code.
        warnings.simplefilter("ignore")
        read = [_literal(value) if isinstance(value, str) else None for value in column.values]
    first = next((index for index, value in enumerate(read) if value is not None), None)
    if first is None:
        return column
    shown = f"{column.values[first]!r:.80}"
    for index, value in enumerate(column.values):
        if isinstance(value, str) and read[index] is None:
            raise DataError(
                f"{column.where}: expected a list in every row or in none, found {shown} in row {column.row(first)} "
                f"and {value!r:.80} in row {column.row(index)}; write every row as a list, or set label_delimiter='' "
                "if each is one label"
            )
    if any(isinstance(value, list) for value in read):
        said = "%s: lists written as text (%s) are several labels a row; label_delimiter='' takes each for one label"
        logger.info(said, column.where, shown)
    return replace(column, values=[both[both[1] is not None] for both in zip(column.values, read, strict=True)])


def _literal(text: str) -> Any:
    """Return the list or mapping that a text is, in JSON or as Python writes it; None if it is none."""
    if text[0] not in "[({" or text[-1] not in "])}":
        return None
    if _SPACED.fullmatch(text):
        return _plain([ast.literal_eval(item) for item in re.findall(_ITEM, text)])
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        return _plain(value) if isinstance(value, (list, tuple, set, dict)) else None
    return None


def _names_of_flags(column: _Column) -> _Column:
    """Turn mappings of names to 0 or 1 into names, one a row if each row has one 1, else lists of them."""
    if not any(isinstance(value, dict) for value in column.values):
        return column
    found: list[Any] = []
    for value, place in column.places():
        if value is not None and not isinstance(value, dict):
            raise DataError(
                f"{place()}: expected a mapping of labels to 0 or 1 as in other rows, found {value!r:.80}; "
                "write all rows in one form"
            )
        for name, flag in (value or {}).items():
            if flag is not None and _flag(flag) is None:
                raise DataError(
                    f"{place()}: expected 0 or 1 of each label, found {flag!r:.80} of {name!r}; round it, or if one "
                    "field holds the label, name it in label_column, as in column.field"
                )
        found.append(None if value is None else [name for name, flag in value.items() if _flag(flag)])
    is_single = all(value is None or len(value) == 1 for value in found)
    said = "one label a row" if is_single else "several labels a row"
    logger.info("%s: mappings of labels to 0 and 1 are read as %s", column.where, said)
    return replace(column, values=[value[0] if value and is_single else value for value in found])


def _flag(value: Any) -> bool | None:
    spelling = canonical(str(value))
    return TRUTHS.get({"0": "false", "1": "true"}.get(spelling, spelling))


def _with_names(column: _Column, names: Sequence[str]) -> _Column:
    """Replace ids, or rows of 0 and 1, by names; names stay."""
    rows = [value for value in column.values if value is not None]
    if all(isinstance(row, list) and len(row) == len(names) and all(map(_is_bit, row)) for row in rows):
        return column.mapped(lambda row: row and [name for name, flag in zip(names, row, strict=True) if _flag(flag)])
    of_id, known = {str(index): name for index, name in enumerate(names)}, {*names}

    def by_id(item: Any) -> str | None:
        return of_id.get(str(int(item)) if isinstance(item, bool) else canonical(str(item)))

    are_names = all(item in known for _, item in column.items())
    are_ids = all(by_id(item) is not None for _, item in column.items())
    for index, item in column.items():
        if not are_names and by_id(item) is None:
            raise DataError(
                f"{column.place(index)}: expected an id from 0 to {len(names) - 1}, or one of the {len(names)} "
                f"label_names, found {item!r:.80}; name each id in label_names, in the order of the ids"
            )
        if are_names and are_ids and by_id(item) != item:
            raise DataError(
                f"{column.place(index)}: expected an id or one of label_names, found {item!r}, which is both; "
                "take names that are no numbers"
            )
    if are_names:
        return column
    return column.mapped(
        lambda row: [by_id(item) for item in row] if isinstance(row, list) else None if row is None else by_id(row)
    )


def _is_bit(value: Any) -> bool:
    return not isinstance(value, str) and _flag(value) is not None


def _class_name(value: Any, place: Callable[[], str], names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_class_name(item, place, names) for item in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{place()}: expected a class id from 0 to {len(names) - 1}, found {value!r}")
    return names[value]


def _refuse_mixed_shapes(column: _Column) -> None:
    found: dict[bool, int] = {}
    for index, value in enumerate(column.values):
        if value is not None:
            found.setdefault(isinstance(value, list), index)
    if len(found) > 1:
        many, one = found[True], found[False]
        raise DataError(
            f"{column.where}: expected one label in every row or a list in every row, found the list "
            f"{column.values[many]!r:.80} in row {column.row(many)} and the single label {column.values[one]!r:.80} "
            f"in row {column.row(one)}; make every row a list"
        )


_TEXT_OF = {"whole numbers": "text of a number", "true/false": "text of a truth"}
"""By kind, the text that is the same: "1.0" in a column of numbers."""


def _refuse_mixed_kinds(column: _Column) -> None:
    first: dict[str, tuple[int, Any]] = {}
    for index, item in column.items():
        first.setdefault(_kind(item, column, index), (index, item))
    alike = {_TEXT_OF[kind] for kind in first if kind in _TEXT_OF}
    apart = {kind.partition(" of ")[0]: place for kind, place in first.items() if kind not in alike}
    if alike and len(apart) > 1:
        found = (f"{kind} ({item!r:.80} in row {column.row(index)})" for kind, (index, item) in apart.items())
        raise DataError(
            f"{column.where}: expected labels of one kind, found {' and '.join(found)}; write all of them as text"
        )


def _kind(value: Any, column: _Column, index: int) -> str:
    if isinstance(value, str):
        spelling = canonical(value)
        return "text of a truth" if spelling in TRUTHS else "text of a number" if _WHOLE.fullmatch(spelling) else "text"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "whole numbers"
    what, remedy = f"{type(value).__name__} {value!r:.80}", "give each class a name"
    if isinstance(value, (float, Decimal)):
        what, remedy = f"the fraction {value}", "cut numbers on a scale into classes, or round them"
    raise DataError(
        f"{column.place(index)}: expected a label (text, a whole number, true or false, or a flat "
        f"list of these), found {what}; {remedy}"
    )


def _refuse_what_is_no_name(column: _Column) -> None:
    names, where = [value for value in column.values if isinstance(value, str)], column.where
    if are_measurements(names):
        low, high = min(names, key=float), max(names, key=float)
        raise DataError(
            f"{where}: expected labels, found a number on a scale ({len(names)} different ones from {low} to {high}); "
            "cut it into classes, or round it; label_delimiter='' takes each number for a name"
        )
    if joined := joined_name(names):
        name, delimiter = joined
        raise DataError(
            f"{where}: expected one label a row, found {name!r}, whose parts are labels of other rows; set "
            f"label_delimiter={delimiter!r} if a row has several labels, or label_delimiter='' if that is one label"
        )


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(int(value))


def _names(value: Any, place: Callable[[], str]) -> Row | None:
    if not isinstance(value, list):
        return None if value is None else _name(value)
    if None in value:
        raise DataError(
            f"{place()}: expected label names, found an empty one in {value!r:.80}; remove it from the list"
        )
    names = tuple(dict.fromkeys(map(_name, value)))
    # A number that comes twice in one set is a vector of 0 and 1 that was taken for a list of ids.
    if len(names) < len(value) and not isinstance(value[0], str):
        raise DataError(
            f"{place()}: expected a list of the labels that apply, each once, found {value!r:.80}; "
            "name the columns of vectors of 0 and 1 in label_names, or write lists of label names"
        )
    return names

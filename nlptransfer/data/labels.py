"""Label names and ids, one label a row or several, and what raw label columns mean."""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nlptransfer.errors import DataError, abridged

Row = str | tuple[str, ...]
"""One row's label name, or its set of names where the data is multi-label."""


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
            twice = sorted({repr(name) for name in self.names if self.names.count(name) > 1})
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

    def _id(self, name: object, number: int) -> int:
        if not isinstance(name, str):
            raise DataError(f"row {number}: expected a label name, found {type(name).__name__} {name!r}")
        if name not in self.label2id:
            known = abridged([*map(repr, self.names)], 30)
            raise DataError(f"row {number}: unknown label {name!r}; known labels: {known}")
        return self.label2id[name]


def read_labels(
    values: Iterable[Any], where: str = "labels", class_names: Sequence[str] | None = None, delimiter: str | None = None
) -> list[Row | None]:
    """Turn raw label values into names, or into tuples of names in multi-label data; a missing label is None.

    Names are stripped and NFC-normalized; whole numbers become their digits, true and false "true" and "false". None,
    NaN and an empty string are missing labels; an empty list, or the delimiter alone, is an empty set of labels. Mixed
    kinds, or lists among single labels, are a DataError, and so is a value that is no label.

    Args:
        values: one a row: str, int, bool, a whole float, a numpy scalar, or a list, tuple, set or array of these.
        class_names: names of the ids 0, 1, ... where the values are ids (a ``ClassLabel``); -1 is a missing label.
        delimiter: what joins the names of a row in a string (``"|"`` in ``"a|b"``); makes the column multi-label.
    """
    values = values.to_pylist() if hasattr(values, "to_pylist") else values
    plain = [_plain(value) for value in values]
    if delimiter:
        plain = [_parts(value, delimiter) for value in plain]
    if class_names is not None:
        plain = [_class_name(value, class_names, f"{where}, row {row}") for row, value in enumerate(plain, 1)]
    _refuse_mixed_shapes(plain, where)
    _refuse_mixed_kinds(plain, where)
    return [_names(value, f"{where}, row {row}") for row, value in enumerate(plain, 1)]


def order_names(names: Iterable[str], class_names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return distinct names in the order of ``class_names``, else by number if all are whole numbers, else sorted."""
    distinct = set(names)
    if class_names is not None and distinct <= set(class_names):
        return tuple(name for name in class_names if name in distinct)
    by_number = all(name.isascii() and name.removeprefix("-").isdecimal() for name in distinct)
    return tuple(sorted(distinct, key=lambda name: (int(name) if by_number else 0, name)))


def is_missing(value: Any) -> bool:
    """Tell whether a raw value stands for nothing: None, NaN, or pandas' NA."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or type(value).__name__ == "NAType"


def _plain(value: Any) -> Any:
    """Return a raw value as None, str, bool, int, float, or a list of these; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return unicodedata.normalize("NFC", str(value)).strip() or None
    return None if is_missing(value) else value


def _parts(value: Any, delimiter: str) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(delimiter) if part.strip()]
    return value if value is None or isinstance(value, list) else [value]


def _class_name(value: Any, names: Sequence[str], where: str) -> Any:
    if isinstance(value, list):
        return [_class_name(item, names, where) for item in value]
    if value is None or value == -1:
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise DataError(f"{where}: expected a class id from 0 to {len(names) - 1}, found {value!r}")
    return names[value]


def _refuse_mixed_shapes(values: list[Any], where: str) -> None:
    rows = {isinstance(value, list): row for row, value in enumerate(values) if value is not None}
    if len(rows) > 1:
        many, one = rows[True], rows[False]
        raise DataError(
            f"{where}: expected one label in every row or a list in every row, found the list {values[many]!r} in "
            f"row {many + 1} and the single label {values[one]!r} in row {one + 1}; make every row a list"
        )


def _refuse_mixed_kinds(values: list[Any], where: str) -> None:
    first: dict[str, str] = {}
    for row, value in enumerate(values, 1):
        for item in value if isinstance(value, list) else [value]:
            if item is not None and (kind := _kind(item, where, row)) not in first:
                first[kind] = f"{kind} ({item!r} in row {row})"
    if len(first) > 1:
        found = " and ".join(first.values())
        raise DataError(f"{where}: expected labels of one kind, found {found}; write all of them as text")


def _kind(value: Any, where: str, row: int) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true/false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "whole numbers"
    what = f"the fraction {value}" if isinstance(value, float) else f"{type(value).__name__} {value!r:.80}"
    raise DataError(
        f"{where}, row {row}: expected a label (text, a whole number, true or false, or a flat list of these), "
        f"found {what}; give each class a name"
    )


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(int(value))


def _names(value: Any, where: str) -> Row | None:
    if not isinstance(value, list):
        return None if value is None else _name(value)
    if None in value:
        raise DataError(f"{where}: expected label names, found an empty one in {value!r:.80}; remove it from the list")
    names = tuple(dict.fromkeys(map(_name, value)))
    # A number that comes twice in one set is a vector of 0 and 1 that was taken for a list of ids.
    if len(names) < len(value) and not isinstance(value[0], str):
        raise DataError(
            f"{where}: expected a list of the labels that apply, each once, found {value!r:.80}; "
            "turn vectors of 0 and 1 into lists of label names"
        )
    return names


def labels_of_columns(columns: Mapping[str, Sequence[Any]], where: str) -> list[Row]:
    """Read columns of 0 and 1 as the sets of labels of each row; a DataError for another value."""
    rows: list[Row] = []
    for row, cells in enumerate(zip(*columns.values(), strict=True), 1):
        names = []
        for name, cell in zip(columns, cells, strict=True):
            flag = str(cell).casefold().strip()
            if flag not in {"0", "1", "0.0", "1.0", "true", "false", ""}:
                raise DataError(f"{where}, row {row}, column {name!r}: expected 0 or 1, found {cell!r:.80}")
            if flag in {"1", "1.0", "true"}:
                names.append(name)
        rows.append(tuple(names))
    return rows

"""Find out which column of a table holds the text, the labels and the weights, and say so. Does not know files."""

import logging
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np

from nlptransfer.data.labels import is_missing
from nlptransfer.data.spelling import canonical
from nlptransfer.data.table import INDEX_NAMES, LABEL_NAMES, TEXT_NAMES, Table
from nlptransfer.errors import DataError, abridged

logger = logging.getLogger("nlptransfer")

Names = str | list[str] | None
"""A column or several, also with commas between them; None: found."""
JOINT = " \u2063 "
"""What joins the texts of several columns (an invisible separator); a tokenizer reads its own separator there."""
SAMPLE = 1000
"""Rows by which a column is judged."""
MOST_COLUMNS = 1000
"""Columns that are looked at for what is not used."""
LONGEST = 48
"""Characters of an example that is shown."""
_WEIGHT_NAMES = {"weight", "weights", "sample_weight", "sample_weights"}
_PAIR_NAMES = {"text_pair", "text2", "text_2", "text_b", "sentence2", "sentence_b", "premise", "hypothesis"}
_NUMBER = re.compile(r"\s*[-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?\s*")
_DATE = re.compile(r"\s*(\d{4}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{2,4})([T ].*)?")
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are read."""

    text: tuple[str, ...]
    """one, or several that make one text together"""
    label: tuple[str, ...] = ()
    """one, or several of 0 and 1; none where labels are not needed"""
    weight: str | None = None
    """of the weight of each row in the loss"""
    group: str | None = None
    """of what rows belong together by"""

    def as_settings(self) -> dict[str, Any]:
        """Return the settings that name them."""
        named = {"text_column": self.text, "label_column": self.label}
        columns = {setting: names[0] if len(names) == 1 else [*names] or None for setting, names in named.items()}
        return {**columns, "weight_column": self.weight, "group_column": self.group}

    def held_out(self, table: Table) -> "Columns":
        """Return the columns of rows that are not learned from; their table may have no column of groups."""
        has_groups = self.group is not None and table.has(self.group)
        return replace(self, weight=None, group=self.group if has_groups else None)


def find_columns(
    table: Table,
    text_column: Names = None,
    label_column: Names = None,
    weight_column: str | None = None,
    group_column: str | None = None,
    *,
    known: Sequence[str] = (),
    needs_label: bool = True,
) -> Columns:
    """Find the columns by the settings, else by their usual names, else by what they hold; the log says which.

    Text columns that are ``known``, as from training, are taken where the table has all of them.

    A DataError where there is none, or where several could be meant: it shows them with an example of each.
    """
    label = _named(table, "label_column", label_column)
    weight = _named(table, "weight_column", weight_column)
    group = _named(table, "group_column", group_column)
    # A group column of that name is rather a mistake, which is said below.
    taken = {*label, *weight} | ({*group} - {"text", "label"})
    named = text = _named(table, "text_column", text_column)
    if not text and known and {*known} <= {*table.columns, *table.paths()}:
        named = text = tuple(known)
    text = text or (_text_of(table, taken),)
    if needs_label and not label:
        label = (_label_of(table, {*text, *taken}),)
    if both := {*text} & {*label}:
        raise DataError(f"{table.where}: expected a text and a label column, found {both.pop()!r} set as both")
    if both := {*group} & {*text, *label}:
        found = f"found {both.pop()!r}, which is read as text or label"
        raise DataError(f"{table.where}: expected a column of its own (group_column), {found}; name another one")
    columns = Columns(text, label, *(names[0] if names else None for names in (weight, group)))
    if len(table.columns) > 1:
        _log(table, columns, is_inferred=not named)
    return columns


def has_labels(table: Table, label_column: Names = None) -> bool:
    """Tell whether a table has the label columns of the settings, or one by a usual name."""
    if label_column is not None:
        return bool(_named(table, "label_column", label_column))
    return any(_key(name) in names for names in LABEL_NAMES for name in table.columns)


def texts_of(table: Table, names: Sequence[str]) -> list[str]:
    """Return the texts of columns row by row, in NFC, joined by :data:`JOINT`; a missing one is "".

    A DataError where a value is no text.
    """
    parts = [_texts_of_column(table, name) for name in names]
    if len(parts) == 1:
        return parts[0]
    return [JOINT.join(part for part in row if part.strip()) for row in zip(*parts, strict=True)]


def in_lines(text: str) -> str:
    """Write a text of several columns for people to read: each on its lines."""
    return text.replace(JOINT, "\n")


def weights_of(table: Table, name: str) -> np.ndarray:
    """Return the weight of each row, (rows,) float32; a DataError where one is no number from 0."""
    weights = np.ones(len(table), np.float32)
    for row, value in enumerate(table.values(name)):
        try:
            weights[row] = float(value)
        except (TypeError, ValueError):
            weights[row] = np.nan
        if not 0 <= weights[row] < np.inf:
            where = f"{table.where}, row {table.first_row + row}, column {name!r} (weight_column)"
            raise DataError(f"{where}: expected a number from 0, found {value!r:.80}")
    if not weights.any():
        raise DataError(f"{table.where}, column {name!r} (weight_column): expected a weight above 0, found none")
    return weights


def groups_of(table: Table, name: str) -> list[str | None]:
    """Return what each row belongs to, as text; None where that is missing; a DataError where it is in every row."""
    spelled = ("" if is_missing(value) else canonical(unicodedata.normalize("NFC", str(value)).strip())
               for value in table.values(name))  # fmt: skip
    if not any(groups := [text or None for text in spelled]):
        raise DataError(f"{table.where}, column {name!r} (group_column): expected values, found none")
    return groups


def clean_text(value: Any, where: str) -> str:
    """Normalize a text to NFC, a missing one to ""; a DataError for no string or half a surrogate pair."""
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value)
        if _SURROGATE.search(text):
            raise DataError(f"{where}: expected Unicode text, found half a surrogate pair in {text!r:.80}; remove it")
        return text
    if is_missing(value):
        return ""
    raise DataError(
        f"{where}: expected text, found {type(value).__name__} {value!r:.80}; make the column plain strings, "
        "or name another one as text_column"
    )


def _texts_of_column(table: Table, name: str) -> list[str]:
    values = table.values(name)
    if _is_ascii(table.column(name)):
        return values
    where, first = f"{table.where}, column {name!r}", table.first_row
    return [
        value if type(value) is str and value.isascii() else clean_text(value, f"{where}, row {row}")
        for row, value in enumerate(values, first)
    ]


def _is_ascii(column: Any) -> bool:
    """Tell whether all values are text, and as in NFC, which ASCII is."""
    if isinstance(column, list):
        return all(type(value) is str and value.isascii() for value in column)
    import pyarrow
    from pyarrow import compute

    is_text = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    return is_text and not column.null_count and bool(compute.all(compute.string_is_ascii(column)).as_py())


def _named(table: Table, setting: str, value: Names) -> tuple[str, ...]:
    """Return the columns that a setting names; an exact name wins over a comma or a dot in it."""
    if value is None:
        return ()
    is_one = isinstance(value, str) and (value in table.columns or "," not in value)
    parts = value.split(",") if isinstance(value, str) else value
    names = (str(value),) if is_one else tuple(part.strip() for part in parts)
    there = {*table.columns, *table.paths()} if any(name not in table.columns for name in names) else table.columns
    for name in names:
        if name not in there:
            found = f"found only {abridged([*map(repr, table.paths())], 30)}; set {setting} to one of these"
            raise DataError(f"{table.where}: expected the column {name!r} ({setting}), {found}")
    return names


def _text_of(table: Table, taken: set[str]) -> str:
    for names in TEXT_NAMES:
        if found := [name for name in table.columns if name not in taken and _key(name) in names]:
            return _only(table, "text_column", found)
    paths = [name for name in table.paths() if name not in table.columns and _key(name.rpartition(".")[2]) == "text"]
    labels = {name for names in LABEL_NAMES for name in table.columns if _key(name) in names}
    free = [name for name in table.columns if name not in taken | labels and _key(name) not in INDEX_NAMES]
    contents = {name: _Content.of(table, name) for name in free}
    strings = [name for name, content in contents.items() if content.is_wordy]
    running = [name for name in strings if contents[name].is_running_text]
    return _only(table, "text_column", running or strings or paths or (free if len(table.columns) == 1 else []))


def _label_of(table: Table, taken: set[str]) -> str:
    for names in LABEL_NAMES:
        if found := [name for name in table.columns if name not in taken and _key(name) in names]:
            return _only(table, "label_column", found)
    roots = {name.partition(".")[0] for name in taken}
    others = [name for name in table.columns if name not in taken | roots and _key(name) not in INDEX_NAMES]
    contents = {name: _Content.of(table, name) for name in others}
    fitting = [name for name, content in contents.items() if content.is_label_like]
    paths = [path for path in table.paths() if path.rpartition(".")[2] == "label" and path not in table.columns]
    alone = others if len(others) == 1 and not contents[others[0]].is_index else []
    return _only(table, "label_column", fitting or paths or alone)


def _only(table: Table, setting: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    what = setting.replace("_", " ")
    if names:
        contents = [_Content.of(table, name) for name in names]
        shown = abridged([f"{name!r} ({content.shown})" for name, content in zip(names, contents, strict=True)], 8)
        found, options = f"several that could be it: {shown}", f"{setting}={names[0]}"
        if setting == "text_column" or all(content.is_zero_one for content in contents):
            options += f", or {setting}={','.join(names[:20])} for all of them"
        raise DataError(f"{table.where}: expected one {what}, found {found}; set {options}")
    contents = [_Content.of(table, name) for name in [*table.columns][:8]]
    shown = abridged([f"{content.name!r} ({content.shown})" for content in contents], 8)
    more = f" and {len(table.columns) - 8} more" if len(table.columns) > 8 else ""
    raise DataError(f"{table.where}: expected one {what}, found none among the columns {shown}{more}; set {setting}")


@dataclass(frozen=True)
class _Content:
    """What the first rows of a column hold."""

    name: str
    values: list[Any]
    """present ones"""
    is_all: bool
    """whether there are no other rows"""

    @classmethod
    def of(cls, table: Table, name: str) -> "_Content":
        column = table.column(name)[:SAMPLE]
        values = column if isinstance(column, list) else column.to_pylist()
        return cls(name, [value for value in values if not is_missing(value) and value != ""], len(table) <= SAMPLE)

    @cached_property
    def distinct(self) -> int:
        return len({str(value) for value in self.values})

    @property
    def shown(self) -> str:
        if not self.values:
            return "empty"
        example = str(self.values[0])
        if len(example) > LONGEST:
            example = example[: LONGEST - 3] + "..."
        return f"as {example!r}, {self.distinct:,} distinct{'' if self.is_all else f' in {SAMPLE:,} rows'}"

    @property
    def is_wordy(self) -> bool:
        """Whether it holds strings that are no numbers and no dates."""
        if not self.values or not all(isinstance(value, str) for value in self.values):
            return False
        return not all(_NUMBER.fullmatch(value) or _DATE.fullmatch(value) for value in self.values)

    @property
    def is_running_text(self) -> bool:
        """Whether it holds several words a row, most of them different."""
        if not self.is_wordy:
            return False
        words = sum(map(_words, self.values)) / len(self.values)
        return words >= 3 and self.distinct > len(self.values) / 10

    @property
    def is_zero_one(self) -> bool:
        return bool(self.values) and {str(value).casefold() for value in self.values} <= _ZERO_ONE

    @property
    def is_index(self) -> bool:
        """Whether it counts rows."""
        digits = [str(value) for value in self.values]
        if len(digits) < 3 or not all(digit.isdecimal() and len(digit) < 20 for digit in digits):
            return False
        return all(int(after) - int(before) == 1 for before, after in pairwise(digits))

    @property
    def is_label_like(self) -> bool:
        """Whether it holds few different values, which are no dates, or names of labels with 0 and 1."""
        if not self.values or all(isinstance(value, str) and _DATE.fullmatch(value) for value in self.values):
            return False
        if all(isinstance(value, Mapping) for value in self.values):
            return all(str(flag).casefold() in _ZERO_ONE for value in self.values for flag in value.values())
        if not all(isinstance(value, (str, int, float, list)) for value in self.values):
            return False
        if any(isinstance(item, Mapping) for value in self.values if isinstance(value, list) for item in value):
            return False
        return self.distinct <= max(2, len(self.values) / 2) and not self.is_running_text


_ZERO_ONE = {"0", "1", "0.0", "1.0", "true", "false"}


def _words(text: str) -> int:
    return len(UNSPACED.findall(text)) // 2 + len(text.split())


def _key(name: str) -> str:
    return name.casefold().strip()


def _log(table: Table, columns: Columns, *, is_inferred: bool) -> None:
    parts = [_described("texts", table, columns.text)]
    if columns.label:
        parts.append(_described("labels", table, columns.label))
    if columns.weight:
        parts.append(f"weights from column {columns.weight!r}")
    if columns.group:
        parts.append(f"rows of one value of {columns.group!r} stay on one side of the splits")
    used = {*columns.text, *columns.label, columns.weight, columns.group}
    if unused := _unused(table, used, has_label=bool(columns.label), is_inferred=is_inferred):
        parts.append(f"not used: {abridged(unused, 5)}")
    logger.info("%s: %s", table.where, "; ".join(parts))


def _described(what: str, table: Table, names: Iterable[str]) -> str:
    columns = [f"{name!r} ({_Content.of(table, name).shown})" for name in names]
    return f"{what} from {'column' if len(columns) == 1 else 'columns'} {abridged(columns, 5)}"


def _unused(table: Table, used: set[str | None], *, has_label: bool, is_inferred: bool) -> list[str]:
    """Name the columns that look as if they were meant, with the setting that takes them."""
    unused = []
    for name in islice(table.columns, MOST_COLUMNS):
        if name in used or _key(name) in INDEX_NAMES:
            continue
        if has_label and _key(name) in _WEIGHT_NAMES:
            unused.append(f"{name!r} (weight_column)")
        elif is_inferred and (_key(name) in _PAIR_NAMES or _Content.of(table, name).is_running_text):
            unused.append(f"{name!r} (text_column)")
        elif has_label and any(_key(name) in names for names in LABEL_NAMES):
            unused.append(f"{name!r} (label_column)")
    return unused

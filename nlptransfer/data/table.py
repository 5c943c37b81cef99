"""Hold raw rows column by column, as they were read, and know usual names. Does not know which column is what."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nlptransfer.errors import DataError

TEXT_NAMES = (
    {"text"},
    {"sentence", "content", "review", "document", "comment", "tweet", "utterance", "message", "body", "review_text"},
)
LABEL_NAMES = (
    {"label", "labels"},
    {"category", "categories", "class", "classes", "target", "targets", "y"}
    | {"sentiment", "emotion", "emotions", "intent", "topic", "topics", "tag", "tags"},
)
"""Names of the text and of the label column, the usual ones first; two columns of one group are ambiguous."""
INDEX_NAMES = {"", "unnamed: 0", "id", "idx", "index", "guid", "uuid", "__index_level_0__"}
HEADER_NAMES = set().union(*TEXT_NAMES, *LABEL_NAMES, INDEX_NAMES) - {"", "y"} | {
    *("query", "question", "title", "headline", "description", "post", "abstract"),
    *("name", "date", "time", "timestamp", "score", "rating"),
}
"""What tells a header from a row, unless they recur below."""


@dataclass(frozen=True)
class Table:
    """The raw rows of a file or a split, column by column."""

    where: str
    """File or split, for messages."""
    columns: Mapping[str, Any]
    """By name, all of the same length: each a ``pyarrow.ChunkedArray``, or a list of values as Python has them."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the ids in the columns that are a ``ClassLabel``."""
    has_header: bool = True
    """Whether the columns were named where they come from; else they are column_1, column_2, ..."""
    first_row: int = 1
    """Number of the first row here among all rows of the source, for messages."""
    arrow: Any = None
    """The Arrow table or record batch that the columns come from, with all of its columns, if there is one."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def part(self, start: int, stop: int) -> "Table":
        """Return some of the rows."""
        if start == 0 and stop >= len(self):
            return self
        columns = {name: column[start:stop] for name, column in self.columns.items()}
        arrow = None if self.arrow is None else self.arrow.slice(start, stop - start)
        return replace(self, columns=columns, first_row=self.first_row + start, arrow=arrow)

    def has(self, name: str) -> bool:
        """Tell whether :meth:`column` finds a column."""
        return name in self.columns or any(name.startswith(f"{root}.") for root in self.columns)

    def column(self, name: str) -> Any:
        """Return a column by its exact name, else by a path through nested values, as "data.text".

        A DataError where there is neither.
        """
        if name in self.columns:
            return self.columns[name]
        for root in sorted(self.columns, key=len, reverse=True):
            if name.startswith(f"{root}."):
                return [_inner(value, name[len(root) + 1 :]) for value in self.values(root)]
        there = ", ".join(map(repr, list(self.columns)[:30]))
        raise DataError(f"{self.where}: expected the column {name!r}, found only {there}")

    def values(self, name: str) -> list[Any]:
        """Return the values of a column as Python has them; see :meth:`column`."""
        column = self.column(name)
        return column if isinstance(column, list) else list(column.to_pylist())

    def paths(self) -> Iterator[str]:
        """Yield the names of columns, and of the fields of those that hold nested values, as "data.text"."""
        for name, column in self.columns.items():
            yield name
            first = next((value for value in _some(column) if value is not None), None)
            yield from (f"{name}.{inner}" for inner in _inner_paths(first))


def _some(column: Any) -> list[Any]:
    some = column[:100]
    return some if isinstance(some, list) else list(some.to_pylist())


def _inner_paths(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        value = next(iter(value), None)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from (f"{name}.{deeper}" for deeper in _inner_paths(inner))


def _inner(value: Any, path: str) -> Any:
    """Follow a path into nested values; a list gives a list of what is in its items, one item gives its own."""
    if isinstance(value, list):
        inner = [_inner(item, path) for item in value]
        return inner[0] if len(inner) == 1 else inner
    if not isinstance(value, Mapping):
        return None
    if path in value:
        return value[path]
    for name in sorted(value, key=len, reverse=True):
        if path.startswith(f"{name}."):
            return _inner(value[name], path[len(name) + 1 :])
    return None

"""The rows of a source with all of its columns, as splits refer to them: by part and number. Does not know labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.data.columns import Columns
from nlptransfer.data.dataset import Data, Split
from nlptransfer.data.files.folders import WHOLE
from nlptransfer.data.files.parsing import kind_of
from nlptransfer.data.reading import Parts, Tables
from nlptransfer.data.table import Table


@dataclass(frozen=True)
class SourceRows:
    """The rows of a source, part by part."""

    tables: Mapping[str, Table]
    """by the name of the part: "train" where the source has no splits"""
    has_splits: bool
    kind: str
    """of the file of the training rows, as ".csv"; "" for what is no file"""

    @classmethod
    def of(cls, opened: Tables) -> "SourceRows":
        """Take the rows of an opened source; read already by :func:`load_data` they are not read again."""
        tables = {"train" if part == WHOLE else part: opened.table(part) for part in opened.parts}
        first = opened.parts[WHOLE if WHOLE in opened.parts else "train"]
        first = first.paths[0] if isinstance(first, Parts) else first
        return cls(tables, WHOLE not in opened.parts, kind_of(Path(first)) if isinstance(first, (str, Path)) else "")

    def others(self, data: Data) -> dict[str, dict[str, Sequence[Any]]]:
        """Return by split the columns of its rows besides those that ``data`` was read of, row by row."""
        used = data.columns or Columns(())
        names = (*used.text, *used.label, *filter(None, [used.weight]))
        values = {
            part: {
                column: table.values(column)
                for column in table.columns
                if not any(name == column or name.startswith(f"{column}.") for name in names)
            }
            for part, table in self.tables.items()
        }
        return {
            name: {} if split.numbers is None else {
                column: [of_part[number - 1] for number in split.numbers.tolist()]
                for column, of_part in values[split.part].items()
            }
            for name, split in data.splits.items()
        }  # fmt: skip

    def rows(self, splits: Sequence[Split]) -> Table:
        """Return the rows of splits of one part with all columns, in the order of the source; ids of labels by name."""
        table = self.tables[splits[0].part]
        numbers = [split.numbers for split in splits if split.numbers is not None]
        kept = np.isin(np.arange(1, len(table) + 1), np.concatenate(numbers))
        return _named(_where(table, kept))


def _where(table: Table, kept: np.ndarray) -> Table:
    """Return the rows of a table where a mask is true."""
    columns = {
        name: [*compress(column, kept)] if isinstance(column, list) else column.filter(kept)
        for name, column in table.columns.items()
    }
    return replace(table, columns=columns, arrow=None if table.arrow is None else table.arrow.filter(kept))


def _named(table: Table) -> Table:
    """Return a table with names in place of the ids of labels, which files do not name."""
    named = {}
    for name, names in table.class_names.items():
        named[name] = [_name_of(value, names) for value in table.values(name)]
    return replace(table, columns={**table.columns, **named}, class_names={}, arrow=None) if named else table


def _name_of(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_name_of(one, names) for one in value]
    return None if value is None or value < 0 else names[int(value)]

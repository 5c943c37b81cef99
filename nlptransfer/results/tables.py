"""Results as tables: text, HTML, frames of pandas, csv, LaTeX, plots. This file does not know what is in them."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any

from nlptransfer.errors import SettingError, nearest
from nlptransfer.files import named_path
from nlptransfer.results.figures import Plot, printable
from nlptransfer.results.records import write_table

if TYPE_CHECKING:
    from pandas import DataFrame

INTERVAL, OF_CHANGE = " [{low:.3f}, {high:.3f}]", " [{low:+.3f}, {high:+.3f}]"
"""Parts of a cell: the interval of a score, and that of a gain or a difference."""
_LATEX = str.maketrans(
    {sign: rf"\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """Rows of a result, and how they are printed and plotted."""

    rows: Sequence[Mapping[str, Any]]
    """every value by its name; those of an interval are low and high"""
    columns: Mapping[str, Sequence[str]]
    """by heading, which begins with > where numbers stand below it, the parts of a cell: formats that a row fills, of
    which one is left out where a value of it is missing"""
    metric: str
    """the score in words; {metric} in a heading"""
    bold: int | None = None
    """row that is printed in bold"""
    plot: Plot | None = None

    def cells(self) -> dict[str, list[str]]:
        """Return the columns as they are printed, by heading, without those that are empty."""
        columns = {
            name.format(metric=self.metric): [_cell(parts, row) for row in self.rows]
            for name, parts in self.columns.items()
        }
        return {name: cells for name, cells in columns.items() if any(cells)}

    def __repr__(self) -> str:
        from rich.cells import cell_len

        columns = [(name, [name.removeprefix(">"), *map(_on_a_line, cells)]) for name, cells in self.cells().items()]
        for name, cells in columns:
            width = max(map(cell_len, cells))
            left = [" " * (width - cell_len(cell)) for cell in cells]
            is_right = name.startswith(">")
            cells[:] = [pad + cell if is_right else cell + pad for pad, cell in zip(left, cells, strict=True)]
        return "\n".join("  ".join(row).rstrip() for row in zip(*(cells for _, cells in columns), strict=True))

    def _repr_html_(self) -> str:
        """Return it as notebooks show it, the row ``bold`` in bold."""
        columns = self.cells()
        looks = [f"text-align: {'right' if name.startswith('>') else 'left'}" for name in columns]

        def row(kind: str, cells: Iterable[str], look: str = "") -> str:
            filled = (
                f'<{kind} style="{side}{look}">{html.escape(_on_a_line(cell))}</{kind}>'
                for side, cell in zip(looks, cells, strict=True)
            )
            return f"<tr>{''.join(filled)}</tr>"

        rows = [
            row("td", cells, "; font-weight: bold" if place == self.bold else "")
            for place, cells in enumerate(zip(*columns.values(), strict=True))
        ]
        heading = row("th", (name.removeprefix(">") for name in columns))
        return f"<table><thead>{heading}</thead><tbody>{''.join(rows)}</tbody></table>"

    def to_latex(self) -> str:
        """Return a tabular of the package booktabs."""
        columns = self.cells()
        rows = [
            [_latex(cell, name.startswith(">")) for name, cell in zip(columns, cells, strict=True)]
            for cells in zip(*columns.values(), strict=True)
        ]
        if self.bold is not None:
            rows[self.bold] = [rf"\textbf{{{cell}}}" for cell in rows[self.bold]]
        heading = _line([_latex(name.removeprefix(">")) for name in columns])
        sides = "".join("r" if name.startswith(">") else "l" for name in columns)
        begin, end = rf"\begin{{tabular}}{{{sides}}}", r"\end{tabular}"
        parts = [begin, r"\toprule", heading, r"\midrule", *map(_line, rows), r"\bottomrule", end]
        return "\n".join(["% \\usepackage{booktabs}", *parts, ""])


def _cell(parts: Sequence[str], row: Mapping[str, Any]) -> str:
    named = {part: [name for _, name, _, _ in Formatter().parse(part) if name] for part in parts}
    return "".join(part.format(**row) for part in parts if all(row.get(name) is not None for name in named[part]))


def _on_a_line(text: str) -> str:
    return " ".join(printable(text).split())


def _latex(text: str, numbers: bool = False) -> str:
    text = _on_a_line(text).translate(_LATEX)
    if not numbers:
        # Two of them would become a dash.
        return re.sub("-(?=-)", "-{}", text)
    return re.sub(r"([\d.]+)e-0*(\d+)", r"$\1\\cdot10^{-\2}$", re.sub(r"(?<!\w)-(?=\d)", "$-$", text))


def _line(cells: Sequence[str]) -> str:
    line = " & ".join(cells)
    # What follows a line's end in brackets is taken for a space to leave.
    return rf"{'{}' if line[:1] in ('[', '*') else ''}{line} \\"


class Shown:
    """A result that Python's prompt and notebooks show as a table."""

    @property
    def shown(self) -> Table:
        """The table that says most."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr(self.shown)

    def _repr_html_(self) -> str:
        return self.shown._repr_html_()


class Tables(Shown):
    """A result that consists of tables; where a method's ``table`` is None, the first of them is meant."""

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        raise NotImplementedError

    @property
    def shown(self) -> Table:
        return self._find(None)

    def to_frame(self, table: str | None = None) -> "DataFrame":
        """Return a table as a frame of pandas, with every value that there is."""
        import pandas as pd

        return pd.DataFrame(self._find(table).rows)

    def to_csv(self, path: str | Path, table: str | None = None) -> Path:
        """Write a table as csv, whose text no spreadsheet takes for a formula."""
        path = named_path(path)
        write_table(path, self.to_frame(table))
        return path

    def to_latex(self, table: str | None = None) -> str:
        """Return a table for a paper, with intervals beside the scores: a tabular of the package booktabs."""
        return self._find(table).to_latex()

    def plot(self, path: str | Path, table: str | None = None) -> Path:
        """Write a plot of a table, as svg, pdf or png by the ending of ``path``; a SettingError where there is none."""
        if (plot := self._find(table).plot) is not None:
            return plot.save(path)
        plotted = [name for name, one in self.tables.items() if one.plot is not None]
        raise SettingError(
            f"table={table!r}: expected one that has a plot: {', '.join(plotted) or 'none has scores yet'}"
        )

    def _find(self, name: str | None) -> Table:
        tables = {known: table for known, table in self.tables.items() if table.rows}
        if name is not None and name not in tables:
            raise SettingError(f"table={name!r}: expected a table of this result: {nearest(name, tables)}")
        return tables[name or next(iter(tables))]


def flat(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, or a row, with the ends of an interval as low and high."""
    row: dict[str, Any] = {}
    for name, part in (value if isinstance(value, Mapping) else vars(value)).items():
        before = name.removesuffix("interval")
        row |= (
            {name: part}
            if before == name
            else dict(zip((f"{before}low", f"{before}high"), part or (None, None), strict=True))
        )
    return row

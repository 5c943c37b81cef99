"""Parse csv, tsv and their like: what is as it should be with pyarrow, else with csv. Does not know columns by name."""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median, mode
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data.files.opening import Buffered, line_ends, log_inferred
from nlptransfer.data.table import HEADER_NAMES, Table
from nlptransfer.errors import DataError, abridged

if TYPE_CHECKING:
    from nlptransfer.data.files.parsing import FileSettings

logger = logging.getLogger("nlptransfer")

ENDINGS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".psv": "|"}
"""The usual separator of each kind of file."""
SEPARATORS = (",", "\t", ";", "|")
"""What is tried where no separator is set."""
ONE_COLUMN = "\x1f"
"""The separator of rows of one cell: the unit separator of ASCII, which no text has."""
_LEAST_ROWS = 50
"""Lines as long as the first that are read at a time."""
_SAMPLE_BYTES = 2**16
_SAMPLE_CELLS = 20_000
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?(?:\r\n|\n|\r)', re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?(\d[\d.,]*|\.\d+)([eE][-+]?\d+)?\s*")
_WIDE = re.compile("[\u2e80-\uffef]")
_NEWLINE, _QUOTE = b'\n"'
_DECISIVE_BYTES = 2**20

# Cells are texts, which may be longer than the 128 KB that csv takes for a mistake.
csv.field_size_limit(2**31 - 1)


def separator_of(sample: bytes, kind: str) -> str | None:
    """Find the separator whose number of cells agrees over the lines of a sample; None where the first line has none.

    Commas with a space behind them, as in prose, count less, and the ending of the file's name least; where that says
    nothing of tables, there must be no doubt.
    """
    sample = sample[:_SAMPLE_BYTES]
    whole = sample[: max(sample.rfind(b"\n"), sample.rfind(b"\r")) + 1] or sample
    scores = []
    for separator in SEPARATORS:
        lines = io.StringIO(whole.decode(errors="ignore"), newline="")
        rows = [row for row in csv.reader(lines, delimiter=separator) if row]
        if not rows or len(rows[0]) < 2 or (kind not in ENDINGS and len(rows) < 2):
            continue
        widths = [len(row) for row in rows]
        most = mode(widths)
        behind = [cell.startswith(" ") for row in rows for cell in row[1:]]
        agreeing = round(widths.count(most) / len(widths), 1)
        is_usual = ENDINGS.get(kind) == separator
        scores.append((widths[0] == most, agreeing, sum(behind) <= len(behind) / 2, is_usual, most, separator))
    if not scores:
        return None
    agrees, share, is_plain, *_, separator = max(scores)
    return separator if kind in ENDINGS or (agrees and share >= 0.9 and is_plain) else None


def read_delimited(source: Buffered, settings: "FileSettings", kind: str) -> Iterator[Table]:
    """Parse the rows of a file as they are read, at least one table.

    Args:
        source: its content, from its front.
        settings: its dialect, as far as it is set.
        kind: ending of its name, which decides only where the content does not.
    """
    yield from _Reader(source, settings, kind).tables()


class _Reader:
    """Reads one file; keeps its dialect, its columns, the number of the next row, and what was mended."""

    def __init__(self, source: Buffered, settings: "FileSettings", kind: str) -> None:
        self._source, self._settings, self._kind, self._where = source, settings, kind, source.where
        self._row, self._mended = 1, Counter[str]()
        self._header: list[str] = []
        self._names: list[str] = []
        self._has_header, self._left_out = True, frozenset[int]()
        # Each block costs time for each column: many columns get large blocks.
        least = _LEAST_ROWS * len(re.split(rb"[\r\n]", source.data, maxsplit=1)[0])
        if least > source.size:
            source.size = least
            source.more()
        named = _SEPARATOR_LINE.match(source.data)
        if named:
            source.drop(named.end())
        separator = settings.separator_character or (named and named[1].decode())
        self._separator: str = separator or separator_of(source.data, kind) or ENDINGS.get(kind, ",")
        self._borders = np.array([byte in f'{self._separator}"\r\n'.encode() for byte in range(256)])
        # Tabs divide without quotes, which are often plain characters there; as many bytes decide whole and streamed.
        first = np.flatnonzero(np.frombuffer(source.data, np.uint8)[:_DECISIVE_BYTES] == _QUOTE)
        is_open = settings.quoting is None and settings.escape is None and self._separator == "\t"
        is_plain = is_open and self._bad_quote(first) is not None
        self._quoting = "none" if is_plain else settings.quoting or "minimal"

    def tables(self) -> Iterator[Table]:
        for parsed in self._blocks():
            if self._row == 1:
                self._name_columns(parsed)
            yield self._table(parsed)
        if self._row == 1:
            shown = abridged([*map(repr, self._header)], 5)
            logger.warning(
                "%s: there is no row below the header %s; set header=false if that is a row", self._where, shown
            )
            none = self._arrow_of([])
            self._name_columns(none)
            yield self._table(none)
        if mended := [f"{count:,} {what}" for what, count in self._mended.items() if count]:
            logger.warning("%s: %s", self._where, ", ".join(mended))

    def _blocks(self) -> Iterator[Any]:
        """Yield Arrow tables of strings, one for the rows that are there; where none is whole, read twice as much."""
        at_end = False
        while not at_end:
            at_end = self._source.is_whole
            if self._names or self._take_header(at_end):
                parsed = None if at_end else self._quickly()
                parsed = self._carefully(at_end) if parsed is None else parsed
                if parsed is not None and len(parsed := self._without_headers(parsed)):
                    yield parsed
            if not at_end:
                self._source.more()

    def _quickly(self) -> Any:
        """Parse the rows that are whole with pyarrow; None where it takes a closer look."""
        import pyarrow
        from pyarrow import csv as arrow_csv

        data = self._source.data
        if not data or data[0] in b"\r\n" or self._settings.escape:
            return None
        array = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(array == _NEWLINE)
        if self._quoting == "minimal" and len(quotes := np.flatnonzero(array == _QUOTE)):
            if self._bad_quote(quotes) is not None:
                return None
            ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        stop = int(ends[-1]) + 1 if len(ends) else 0
        names = [str(index) for index in range(len(self._names))]
        try:
            parsed = arrow_csv.read_csv(
                pyarrow.BufferReader(data[:stop]),
                arrow_csv.ReadOptions(use_threads=False, block_size=stop + 1, column_names=names),
                arrow_csv.ParseOptions(
                    delimiter=self._separator,
                    quote_char='"' if self._quoting == "minimal" else False,
                    newlines_in_values=True,
                ),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pyarrow.string()), check_utf8=False, null_values=[]
                ),
            )
        except pyarrow.ArrowInvalid:
            return None
        if len(parsed) != len(ends):
            return None
        self._source.drop(stop)
        return parsed

    def _carefully(self, at_end: bool) -> Any:
        """Parse the rows that are whole with csv, filled or cut to as many cells each; None where there is none."""
        rows, width, lines = [], len(self._names), 0
        for line, done, row in self._rows(at_end):
            lines = done
            if row:
                rows.append(row if len(row) == width else self._fitted(line, row))
            else:
                self._mended["empty lines left out"] += 1
        self._source.drop_lines(lines)
        return self._arrow_of(rows) if rows else None

    def _rows(self, at_end: bool) -> Iterator[tuple[int, int, list[str]]]:
        """Yield the line of each row that is whole, the number of lines to its end, and its cells: none if empty."""
        source = self._source
        if self._quoting == "minimal" and not self._settings.escape:
            self._check_quotes(at_end)
        lines = list(io.StringIO(source.data.decode(), newline=""))
        # A return at the very end may have its newline still to come.
        if lines and not at_end and not lines[-1].endswith("\n"):
            lines.pop()
        reader = csv.reader(
            lines,
            delimiter=self._separator,
            quoting=csv.QUOTE_NONE if self._quoting == "none" else csv.QUOTE_MINIMAL,
            escapechar=self._settings.escape_character,
            strict=True,
        )
        done, first = 0, source.line
        try:
            for row in reader:
                line, done = first + done, reader.line_num
                yield line, done, row
        except csv.Error as error:
            if at_end or reader.line_num < len(lines):
                raise DataError(
                    f"{self._where}, line {first + done}: broken cells ({error}), found "
                    f"{_shown(lines[done].encode(), 0)}; mend the line, or set quoting=none where quotes are plain "
                    "characters"
                ) from error

    def _bad_quote(self, quotes: np.ndarray | None = None) -> int | None:
        """Find the first quote that opens behind something else than a separator, or closes before it."""
        array = np.frombuffer(self._source.data, np.uint8)
        quotes = np.flatnonzero(array == _QUOTE) if quotes is None else quotes
        is_fine = np.ones(len(quotes), bool)
        is_fine[::2] = self._borders[array[quotes[::2] - 1]] | (quotes[::2] == 0)
        last = len(array) - 1
        is_fine[1::2] = self._borders[array[np.minimum(quotes[1::2] + 1, last)]] | (quotes[1::2] == last)
        return None if is_fine.all() else int(quotes[np.argmin(is_fine)])

    def _check_quotes(self, at_end: bool) -> None:
        data, advice = self._source.data, "set quoting=none where quotes are plain characters"
        at = self._bad_quote()
        if at is not None:
            if data[at - 1 : at] == b"\\":
                advice = rf"set escape=\\ where a backslash precedes quotes inside, or {advice[4:]}"
            expected = 'expected the quotes " at the start and the end of cells, and doubled inside'
            start = max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at)) + 1
            raise DataError(f"{self._at(at)}: {expected}, found {_shown(data, max(start, at - 40))}; {advice}")
        if at_end and data.count(b'"') % 2:
            at = data.rfind(b'"')
            found = f"expected an end of the quotes that open here, found none after {_shown(data, at)}"
            raise DataError(f"{self._at(at)}: {found}; close them, or {advice}")

    def _at(self, position: int) -> str:
        return f"{self._where}, line {self._source.line + line_ends(self._source.data[:position])}"

    def _take_header(self, at_end: bool) -> bool:
        """Find the names of the columns by the first rows, if these are there."""
        rows, cells, empty, header = list[list[str]](), 0, 0, self._settings.header
        line = lines = 0
        for number, done, row in self._rows(at_end):
            if row and not rows:
                line, lines = number, done
            if row:
                rows.append(row)
                cells += len(row)
            empty += not rows
            if len(rows) == 1000 or (len(rows) > 1 and cells > _SAMPLE_CELLS):
                break
        if not rows or (len(rows) < 2 and header is None and not at_end):
            return False
        first, *below = rows
        self._has_header = not _is_row(first, below) if header is None else header
        if not self._has_header:
            self._names = [""] * mode(map(len, below or rows))
            return True
        numbered = [row[0] for row in below if len(row) == len(first) + 1 and row[-1].strip()]
        if len(numbered) == len(below) > 1 and all(map(_NUMBER.fullmatch, numbered)):
            # R gives the column of row names no name.
            first = ["", *first]
        counts = Counter(name for name in first if name.strip())
        if twice := [f"{name!r} ({count} times)" for name, count in counts.items() if count > 1]:
            raise DataError(
                f"{self._where}, line {line}: expected distinct column names, found {abridged(twice, 5)}; rename "
                "them, or set header=false if this line is a row"
            )
        self._header, self._names = first, [*first]
        self._mended["empty lines left out"] += empty
        self._source.drop_lines(lines)
        return True

    def _fitted(self, line: int, row: list[str]) -> list[str]:
        """Fill a row short of cells, cut empty cells beyond the last column, and add text beyond it to the last."""
        width, separator = len(self._names), self._separator
        if len(row) < width:
            self._mended["lines short of cells filled with empty ones"] += 1
            return row + [""] * (width - len(row))
        if not any(cell.strip() for cell in row[width:]):
            self._mended["lines with empty cells beyond the last column cut"] += 1
            return row[:width]
        if self._settings.quoting == "none":
            self._mended["lines with more cells, which were added to their last"] += 1
            return [*row[: width - 1], separator.join(row[width - 1 :])]
        advice = f"put quotes around cells with {separator!r} in them, set separator, or quoting=none, which"
        if width == 1 and self._has_header:
            advice = f"leave out what is above the header, {advice}"
        elif any(cell.endswith("\\") for cell in row[:-1]):
            advice = rf"set escape=\\ where a backslash precedes separators inside, {advice}"
        raise DataError(
            f"{self._where}, line {line}: expected {width} cells "
            f"{'as in the header' if self._has_header else 'as in most lines'}, found {len(row)}: "
            f"{row[width][:80]!r} is too many; {advice} adds it to the last column"
        )

    def _arrow_of(self, rows: list[list[str]]) -> Any:
        import pyarrow

        columns = zip(*rows, strict=True) if rows else [()] * len(self._names)
        arrays = [pyarrow.array(column, pyarrow.string()) for column in columns]
        return pyarrow.Table.from_arrays(arrays, [str(index) for index in range(len(arrays))])

    def _without_headers(self, parsed: Any) -> Any:
        """Leave out rows that repeat the header, as in files that were put one behind the other."""
        import pyarrow.compute as compute

        # The second is quick, and imports no pandas, as Arrow does for a value of Python's.
        if len(self._header) < 2 or not compute.any(compute.starts_with(parsed.column(0), self._header[0])).as_py():
            return parsed
        same = compute.equal(parsed.column(0), self._header[0])
        for index, name in enumerate(self._header):
            if not compute.any(same).as_py():
                return parsed
            same = compute.and_(same, compute.equal(parsed.column(index), name))
        self._mended["lines that repeat the header left out"] += compute.sum(same).as_py()
        return parsed.filter(compute.invert(same))

    def _name_columns(self, parsed: Any) -> None:
        """Leave out the columns without name and content, name those without name, and say what was inferred."""
        unnamed = [index for index, name in enumerate(self._names) if not name.strip()]
        if self._has_header and unnamed[:1] == [0]:
            # The index of a frame.
            unnamed = unnamed[1:]
        self._left_out = frozenset(index for index in unnamed if _is_empty(parsed.column(index)))
        for index in unnamed:
            self._names[index] = f"column_{index + 1}"
        inferred = {}
        if self._settings.separator is None and self._separator != ENDINGS.get(self._kind):
            inferred["separator"] = f"separator {self._separator!r}"
        inferred |= self._source.inferred
        if self._settings.header is None and not self._has_header:
            inferred["header=true"] = "no header"
        if self._settings.quoting is None and self._quoting == "none":
            inferred["quoting=minimal"] = "quotes are plain characters"
        if self._left_out and self._has_header:
            inferred[""] = f"{len(self._left_out)} empty columns without name left out"
        elif named := [self._names[index] for index in unnamed if self._has_header]:
            inferred[""] = f"columns without name are {abridged(named, 5)}"
        log_inferred(self._where, inferred)

    def _table(self, parsed: Any) -> Table:
        for index in self._left_out:
            if not _is_empty(parsed.column(index)):
                raise DataError(
                    f"{self._where}, before line {self._source.line}: expected column {index + 1}, which has no name, "
                    "to be empty as above, found text in it; name it in the header"
                )
        columns = {name: parsed.column(index) for index, name in enumerate(self._names) if index not in self._left_out}
        first, self._row = self._row, self._row + len(parsed)
        return Table(self._where, columns, has_header=self._has_header, first_row=first)


def _is_row(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Tell whether a first line is a row: a value recurs, there is prose as below, or a number where numbers follow."""
    if [name for name in first if name.strip()] == [str(number) for number in range(len(first) - (not first[0]))]:
        return False  # pandas' names of columns without name
    names = [name.casefold().strip() for name in first]
    if HEADER_NAMES.intersection(names) and list(first) in [list(row) for row in below]:
        return False  # files with headers, one after the other
    is_row = False
    for index, name in enumerate(first):
        values = [row[index] for row in below if index < len(row) and row[index].strip()]
        if not name.strip() or not values:
            continue
        if names[index] in HEADER_NAMES and name not in values:
            return False
        numbers = all(map(_NUMBER.fullmatch, values))
        if numbers and not _NUMBER.fullmatch(name):
            return False
        is_row |= numbers or name in values or (_is_prose(name) and median(map(_is_prose, values)) >= 0.5)
    return is_row


def _is_prose(cell: str) -> bool:
    return (cell.count(" ") >= 4 or len(_WIDE.findall(cell)) >= 10) and not cell.rstrip().endswith("?")


def _is_empty(column: Any) -> bool:
    import pyarrow.compute

    return not pyarrow.compute.max(pyarrow.compute.binary_length(column)).as_py()


def _shown(data: bytes, start: int) -> str:
    return repr(re.split(rb"[\r\n]", data[start : start + 400], maxsplit=1)[0].decode(errors="ignore")[:80])

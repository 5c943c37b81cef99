"""Parse csv, tsv and their like with pyarrow, after numpy has looked at quotes. Does not know which column is what."""

import csv
import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data.files.opening import Buffered, Utf8, line_ends, log_inferred
from nlptransfer.data.table import Table
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
_HEADER_NAME = re.compile(
    r"\s*(text|sentence|content|review|document|comment|tweet|utterance|message|body|query|question|title|headline"
    r"|description|post|abstract|labels?|category|categories|class|classes|targets?|sentiment|emotions?|intent|topics?"
    r"|tags?|id|idx|index|guid|name|date|time|timestamp|score|rating)\s*",
    re.IGNORECASE,
)
"""What tells a header from a row, unless they recur below."""
_LEAST_ROWS = 50
"""Lines as long as the first that are read at a time."""
_SAMPLE_BYTES = 2**16
_SAMPLE_CELLS = 20_000
_SEPARATOR_LINE = re.compile(rb'"?sep=(.)"?(?:\r\n|\n|\r)', re.IGNORECASE)
_NUMBER = re.compile(r"\s*[-+]?(\d[\d.,]*|\.\d+)([eE][-+]?\d+)?\s*")
_WIDE = re.compile("[\u2e80-\uffef]")
_NEWLINE, _RETURN = b"\n\r"


@dataclass(frozen=True)
class Dialect:
    """How cells are divided and quoted, each by one byte."""

    separator: bytes
    quote: bytes = b'"'
    """Empty where quotes do not quote."""
    escape: bytes = b""
    marks: bytes = field(init=False, repr=False)
    """For each byte, whether it may end a cell or be part of quoting."""
    borders: np.ndarray = field(init=False, repr=False)
    """For each byte, whether a quote may stand beside it."""

    def __post_init__(self) -> None:
        borders = self.separator + self.quote + b"\r\n"
        object.__setattr__(self, "marks", bytes(byte in borders + self.escape for byte in range(256)))
        object.__setattr__(self, "borders", np.array([byte in borders for byte in range(256)]))


@dataclass(frozen=True)
class _Rows:
    """Where the rows of some bytes are that end in them."""

    data: bytes
    starts: np.ndarray
    stops: np.ndarray
    """Where the line end of each starts."""
    cells: np.ndarray
    """Number of cells of each."""
    separators: np.ndarray
    """Where the separators between cells are, all rows together."""
    stop: int
    """Where the last row ends, with its line end."""
    problem: tuple[int, int] | None
    """Where the first cell starts whose quotes make no sense, and the quote that makes none."""
    opening: int | None
    """Where a quote opens that does not close."""

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def empty(self) -> np.ndarray:
        """Whether a row is an empty line."""
        return np.asarray(self.starts == self.stops)

    @cached_property
    def _bounds(self) -> list[int]:
        """Number of separators before each row, and at the end."""
        return [0, *np.cumsum(self.cells - 1).tolist()]

    def separators_of(self, row: int) -> list[int]:
        """Where the separators of a row are."""
        return list(self.separators[self._bounds[row] : self._bounds[row + 1]].tolist())

    def cells_of(self, row: int, dialect: Dialect) -> list[str]:
        bounds = [int(self.starts[row]) - 1, *self.separators_of(row), int(self.stops[row])]
        return [_unquoted(self.data[start + 1 : stop], dialect) for start, stop in pairwise(bounds)]


def read_delimited(
    where: str, text: Utf8, settings: "FileSettings", kind: str, size: int, quoting: str | None
) -> Iterator[Table]:
    """Parse the rows of a file, a table for about ``size`` bytes, at least one; see :class:`Table`.

    Args:
        where: the file, for messages.
        text: its content, from its front.
        settings: its dialect, as far as it is set.
        kind: ending of its name, which decides only where the content does not.
        size: in bytes.
        quoting: "none" where quotes were seen not to quote.
    """
    yield from _Reader(where, text, settings, kind, size, quoting).tables()


def tables_as_they_come(where: str, source: Buffered, separator: str, quoting: str | None) -> Iterator[Table]:
    """Parse the rows below a header as soon as they are there, in bounded memory; a DataError for a broken one."""
    names, carry, row = list[str](), b"", 0
    style: Any = csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL
    for block in source.lines():
        carry += block
        if style == csv.QUOTE_MINIMAL and carry.count(b'"') % 2 and not source.is_whole:
            continue  # a quoted cell goes on
        lines = io.StringIO(carry.decode(), newline="")
        carry = b""
        try:
            rows = csv.reader(lines, delimiter=separator, quoting=style, strict=separator != ONE_COLUMN)
            cells = [each for each in rows if each]
        except csv.Error as error:
            raise DataError(f"{where}, after row {row}: broken cells: {error}; set quoting=none, or mend it") from error
        if not names and cells:
            names, *cells = cells
        for number, each in enumerate(cells, row + 1):
            if len(each) != len(names):
                raise DataError(
                    f"{where}, row {number}: expected {len(names)} cells as in the header, found {len(each)}; "
                    "put quotes around cells with separators in them"
                )
        if cells:
            columns = map(list, zip(*cells, strict=True))
            yield Table(where, dict(zip(names, columns, strict=True)), first_row=row + 1)
            row += len(cells)
    if not row:
        yield Table(where, {name: [] for name in names})


def quotes_fit(text: Utf8, settings: "FileSettings", kind: str) -> bool:
    """Tell whether quotes quote in a whole text, or its separator is such that they must (any but a tab)."""
    data = text.read(_SAMPLE_BYTES)
    dialect = _dialect(data, settings, kind, None)
    if dialect.separator != b"\t":
        return True
    while block := text.read(max(2**20, len(data))):
        if dialect.quote in data:
            rows = _scan(data, dialect)
            if rows.problem is not None:
                return False
            data = data[rows.stop :] + block
        else:
            data = data[data.rfind(b"\n") + 1 :] + block
    rows = _scan(_ended(data), dialect)
    return rows.problem is None and rows.opening is None


def separator_of(sample: bytes, kind: str) -> str | None:
    """Find the separator whose number of cells agrees over the lines of a sample; None where the first line has none.

    Commas with a space behind them, as in prose, count less, and the ending of the file's name least; where that says
    nothing of tables, there must be no doubt.
    """
    scores = []
    for separator in SEPARATORS:
        rows = _scan(sample, Dialect(separator.encode()))
        cells = rows.cells[~rows.empty]
        if not len(cells) or cells[0] < 2 or (kind not in ENDINGS and len(cells) < 2):
            continue
        most = int(np.bincount(cells).argmax())
        behind = np.frombuffer(sample + b"\n", np.uint8)[rows.separators + 1]
        spaced = len(behind) > 0 and float((behind == ord(" ")).mean()) > 0.5
        agreeing = round(float((cells == most).mean()), 1)
        is_usual = ENDINGS.get(kind) == separator
        scores.append((bool(cells[0] == most), agreeing, not spaced, is_usual, most, separator))
    if not scores:
        return None
    agrees, share, is_plain, *_, separator = max(scores)
    return separator if kind in ENDINGS or (agrees and share >= 0.9 and is_plain) else None


class _Reader:
    """Reads one file; keeps what was inferred, the line and the row, and what was mended."""

    def __init__(
        self, where: str, text: Utf8, settings: "FileSettings", kind: str, size: int, quoting: str | None
    ) -> None:
        self._where, self._text, self._settings, self._kind, self._size = where, text, settings, kind, size
        self._quoting = quoting
        self._line, self._row, self._mended = 1, 1, Counter[str]()
        self._header: list[str] = []
        self._names: list[str] = []
        self._width, self._has_header = 0, True
        self._left_out: frozenset[int] = frozenset()

    def tables(self) -> Iterator[Table]:
        table = None
        for parsed in map(self._without_headers, self._parsed()):
            if table is None:
                self._name_columns(parsed)
            table = self._table(parsed)
            yield table
        if table is None:
            self._name_columns(None)
            shown = abridged([*map(repr, self._header)], 5)
            logger.warning("%s: no row below the header %s; set header=false if it is a row", self._where, shown)
            yield self._table(None)
        self._say_mended()

    def _parsed(self) -> Iterator[Any]:
        """Yield Arrow tables of strings, of the rows that end in each block; a longer row makes the next twice it."""
        data = self._text.read(self._size)
        # Each block costs time for each column: many columns get large blocks.
        least = _LEAST_ROWS * len(re.split(rb"[\r\n]", data, maxsplit=1)[0])
        if least > self._size:
            self._size = least
            data += self._text.read(least - len(data))
        if line := _SEPARATOR_LINE.match(data):
            data, self._line = data[line.end() :], 2
        self._dialect = _dialect(data, self._settings, self._kind, self._quoting, line[1] if line else None)
        block = b" "
        while block:
            block = self._text.read(max(self._size, len(data)))
            data = data if block else _ended(data)
            line_before = self._line
            quick = self._quickly(data) if self._width else None
            parsed, rest, lines = quick or self._carefully(data, at_end=not block)
            if parsed is not None:
                yield parsed
            self._line = line_before + lines
            data = rest + block

    def _without_headers(self, parsed: Any) -> Any:
        """Leave out rows that repeat the header, as in files that were put one behind the other."""
        import pyarrow.compute as compute

        if len(self._header) < 2:
            return parsed
        same = compute.equal(parsed.column(0), self._header[0])
        for index, name in enumerate(self._header):
            if not compute.any(same).as_py():
                return parsed
            same = compute.and_(same, compute.equal(parsed.column(index), name))
        self._mended["lines that repeat the header left out"] += compute.sum(same).as_py() or 0
        return parsed.filter(compute.invert(same))

    def _quickly(self, data: bytes) -> tuple[Any, bytes, int] | None:
        """Parse rows that are as they should be, as :meth:`_carefully`; None where it takes a closer look."""
        import pyarrow

        stop = data.rfind(b"\n") + 1
        array = np.frombuffer(data, np.uint8)[:stop]
        if not stop or self._dialect.escape or array[0] in b"\r\n":
            return None
        if self._dialect.quote:
            quotes = np.flatnonzero(array == self._dialect.quote[0])
            if len(quotes) % 2 or _quote_problem(array, quotes, self._dialect):
                return None
        try:
            parsed = self._arrow(data[:stop], b"")
        except pyarrow.ArrowInvalid:
            return None
        ends = array == _NEWLINE
        lines = int(np.count_nonzero(ends))
        # More lines than rows: some are within quotes, or empty, which is to be said.
        if len(parsed) != lines and ((ends[1:] & ends[:-1]).any() or b"\r" in data):
            return None
        return parsed, data[stop:], lines

    def _carefully(self, data: bytes, at_end: bool) -> tuple[Any, bytes, int]:
        """Parse rows with a look at each, after the header if it is to come.

        Returns an Arrow table, or None where there is no row; what is left of ``data``; and the number of lines.
        """
        rows, start = _scan(data, self._dialect), 0
        if rows.problem is not None and (tight := _without_spaces(data, self._dialect)) is not None:
            self._mended["spaces between separators and quotes left out"] += len(data) - len(tight)
            data, rows = tight, _scan(tight, self._dialect)
        self._check_quotes(rows, at_end)
        if not self._width:
            if len(rows) - int(rows.empty.sum()) < 2 and not at_end:
                return None, data, 0
            start = self._take_header(rows)
            rows = _scan(data[start : rows.stop], self._dialect)
            self._line += line_ends(data[:start])
        rest, lines = data[start + rows.stop :], line_ends(data[: start + rows.stop])
        content, escape = rows.data[: rows.stop], self._dialect.escape
        odd = np.flatnonzero((rows.cells != self._width) & ~rows.empty)
        if len(odd):
            escape = escape or (_unused(content) if self._settings.quoting == "none" else b"")
            content = self._mend(rows, odd, escape)
        empty = int(rows.empty.sum())
        self._mended["empty lines left out"] += empty
        return self._arrow(content, escape) if empty < len(rows) else None, rest, lines

    def _check_quotes(self, rows: _Rows, at_end: bool = False) -> None:
        data, quote = rows.data, self._dialect.quote.decode()
        advice = "set quoting=none where quotes are plain characters"
        if rows.problem is not None and (at_end or rows.problem[1] < rows.stop):
            start, at = rows.problem
            if data[at - 1 : at] == b"\\":
                advice = rf"set escape=\\ where a backslash precedes quotes inside, or {advice[4:]}"
            expected = f"expected the quotes {quote} at the start and the end of cells, and doubled inside"
            raise DataError(f"{self._at(data, start)}: {expected}, found {_shown(data, start)}; {advice}")
        if at_end and rows.opening is not None:
            found = f"expected an end of the quotes that open here, found none after {_shown(data, rows.opening)}"
            raise DataError(f"{self._at(data, rows.opening)}: {found}; close them, or {advice}")

    def _at(self, data: bytes, position: int) -> str:
        return f"{self._where}, line {self._line + line_ends(data[:position])}"

    def _take_header(self, rows: _Rows) -> int:
        """Find the names of the columns, and return where the rows below them start."""
        full = np.flatnonzero(~rows.empty)
        if not len(full):
            self._width = 1
            return 0
        widths = rows.cells[full]
        sample = full[: max(2, min(1000, _SAMPLE_CELLS // int(widths[0])))]
        first, *below = (rows.cells_of(row, self._dialect) for row in sample)
        header = self._settings.header
        self._has_header = not _is_row(first, below) if header is None else header
        most = int(np.bincount(widths[1:] if len(widths) > 1 else widths).argmax())
        if not self._has_header:
            self._names, self._width = [""] * most, most
            return 0
        numbered = [cells[0] for cells in below if len(cells) == len(first) + 1 and _NUMBER.fullmatch(cells[0])]
        if len(numbered) == len(below) > 1 and all(cells[-1].strip() for cells in below):
            # R gives the column of row names no name.
            first = ["", *first]
        counts = Counter(name for name in first if name.strip())
        if twice := [f"{name!r} ({count} times)" for name, count in counts.items() if count > 1]:
            raise DataError(
                f"{self._at(rows.data, int(rows.starts[full[0]]))}: expected distinct column names, found "
                f"{abridged(twice, 5)}; rename them, or set header=false if this line is a row"
            )
        self._header, self._names, self._width = first, [*first], len(first)
        self._mended["empty lines left out"] += int(full[0])
        return int(rows.starts[full[0] + 1]) if full[0] + 1 < len(rows) else rows.stop

    def _name_columns(self, parsed: Any) -> None:
        """Leave out the columns without name and content, name those without name, and say what was inferred."""
        unnamed = [index for index, name in enumerate(self._names) if not name.strip()]
        if self._has_header and unnamed[:1] == [0]:
            # The index of a frame.
            unnamed = unnamed[1:]
        self._left_out = frozenset(index for index in unnamed if parsed is None or _is_empty(parsed.column(index)))
        for index in unnamed:
            self._names[index] = f"column_{index + 1}"
        separator = self._dialect.separator.decode()
        inferred = {}
        if self._settings.separator is None and separator != ENDINGS.get(self._kind):
            inferred["separator"] = f"separator {separator!r}"
        inferred |= self._text.inferred
        if self._settings.header is None and not self._has_header:
            inferred["header=true"] = "no header"
        if self._quoting == "none":
            inferred["quoting=minimal"] = "quotes are plain characters"
        if self._left_out and self._has_header:
            inferred[""] = f"{len(self._left_out)} empty columns without name left out"
        elif named := [self._names[index] for index in unnamed if index not in self._left_out and self._has_header]:
            inferred[""] = f"columns without name are {abridged(named, 5)}"
        log_inferred(self._where, inferred)

    def _arrow(self, data: bytes, escape: bytes) -> Any:
        import pyarrow
        from pyarrow import csv

        names = [str(index) for index in range(self._width)]
        return csv.read_csv(
            pyarrow.BufferReader(data),
            csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=names),
            csv.ParseOptions(
                delimiter=self._dialect.separator.decode(),
                quote_char=self._dialect.quote.decode() or False,
                escape_char=escape.decode() or False,
                newlines_in_values=True,
            ),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()), check_utf8=False, null_values=[]),
        )

    def _mend(self, rows: _Rows, odd: np.ndarray, escape: bytes) -> bytes:
        """Fill lines short of cells, cut empty cells beyond the last column, and add text beyond it to the last."""
        data, separator, pieces, done = rows.data, self._dialect.separator, list[bytes](), 0
        for row, stop, cells in zip(odd.tolist(), rows.stops[odd].tolist(), rows.cells[odd].tolist(), strict=True):
            if cells < self._width:
                pieces += [data[done:stop], separator * (self._width - cells)]
                self._mended["lines short of cells filled with empty ones"] += 1
                done = stop
                continue
            surplus = rows.separators_of(row)[self._width - 1 :]
            if not data[surplus[0] : stop].strip(separator + b" "):
                pieces.append(data[done : surplus[0]])
                self._mended["lines with empty cells beyond the last column cut"] += 1
                done = stop
            elif self._settings.quoting == "none":
                for at in surplus:
                    pieces += [data[done:at], escape]
                    done = at
                self._mended["lines with more cells, which were added to their last"] += 1
            else:
                self._refuse_cells(rows, row, data[surplus[0] + 1 : stop])
        return b"".join([*pieces, data[done : rows.stop]])

    def _refuse_cells(self, rows: _Rows, row: int, beyond: bytes) -> None:
        separator, start = self._dialect.separator, int(rows.starts[row])
        advice = f"put quotes around cells with {separator.decode()!r} in them, set separator, or quoting=none, which"
        if self._width == 1 and self._has_header:
            advice = f"leave out what is above the header, {advice}"
        elif b"\\" + separator in rows.data[start : int(rows.stops[row])]:
            advice = rf"set escape=\\ where a backslash precedes separators inside, {advice}"
        raise DataError(
            f"{self._at(rows.data, start)}: expected {self._width} cells "
            f"{'as in the header' if self._has_header else 'as in most lines'}, found {rows.cells[row]}: "
            f"{_shown(beyond, 0)} is too many; {advice} adds it to the last column"
        )

    def _table(self, parsed: Any) -> Table:
        columns: dict[str, Any] = {}
        for index, name in enumerate(self._names):
            if parsed is None:
                import pyarrow

                column = pyarrow.chunked_array([], pyarrow.string())
            else:
                column = parsed.column(index)
            if index not in self._left_out:
                columns[name] = column
            elif not _is_empty(column):
                raise DataError(
                    f"{self._where}, from line {self._line}: expected column {index + 1}, which has no name, to be "
                    "empty as above, found text in it; name it in the header"
                )
        first, self._row = self._row, self._row + (0 if parsed is None else len(parsed))
        return Table(self._where, columns, has_header=self._has_header, first_row=first)

    def _say_mended(self) -> None:
        if mended := [f"{count:,} {what}" for what, count in self._mended.items() if count]:
            logger.warning("%s: %s", self._where, ", ".join(mended))


def _dialect(
    sample: bytes, settings: "FileSettings", kind: str, quoting: str | None, line: bytes | None = None
) -> Dialect:
    sample = sample[:_SAMPLE_BYTES]
    sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b"\r")) + 1] or _ended(sample)
    separator = settings.separator_character or (line and line.decode()) or separator_of(sample, kind)
    quote = b"" if "none" in (settings.quoting, quoting) else b'"'
    separator = separator or ENDINGS.get(kind, ",")
    return Dialect(separator.encode(), quote, (settings.escape_character or "").encode())


def _scan(data: bytes, dialect: Dialect) -> _Rows:
    """Find rows and cells of bytes that start with a row, and check that each quote is of a cell."""
    array = np.frombuffer(data, np.uint8)
    at = np.flatnonzero(np.frombuffer(data.translate(dialect.marks), bool))
    marks = array[at]
    if dialect.escape:
        at = _without_escaped(at, marks, dialect.escape[0])
        marks = array[at]
    problem = opening = None
    if dialect.quote and dialect.quote in data:
        is_quote = marks == dialect.quote[0]
        quotes = at[is_quote]
        problem = _quote_problem(array, quotes, dialect)
        opening = int(quotes[-1]) if len(quotes) % 2 else None
        # Both quotes of a cell become true: what is between them, and they themselves.
        inside = np.cumsum(is_quote.view(np.uint8), dtype=np.uint8)
        inside &= 1
        outside = ~(inside.view(bool) | is_quote)
        at, marks = at[outside], marks[outside]
    has_returns = b"\r" in data
    if has_returns:
        # Of a return and a newline the newline ends the row; one at the very end may have its newline still to come.
        returns = np.flatnonzero(marks == _RETURN)
        double = returns[np.append(array, np.uint8(_NEWLINE))[at[returns] + 1] == _NEWLINE]
        at, marks = np.delete(at, double), np.delete(marks, double)
    is_separator = marks == dialect.separator[0]
    is_end = ~is_separator
    ends = at[is_end]
    starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
    stops = ends
    if has_returns:
        stops = ends - ((array[ends - 1] == _RETURN) & (array[ends] == _NEWLINE) & (ends > starts))
    cells = np.diff(np.flatnonzero(is_end), prepend=-1)
    stop = int(ends[-1]) + 1 if len(ends) else 0
    return _Rows(data, starts, stops, cells, at[is_separator], stop, problem, opening)


def _without_escaped(at: np.ndarray, marks: np.ndarray, escape: int) -> np.ndarray:
    escapes = at[marks == escape]
    if not len(escapes):
        return at
    # Within a run of escapes every other one is escaped itself.
    starts = np.flatnonzero(np.diff(escapes, prepend=-2) != 1)
    place = np.arange(len(escapes)) - np.repeat(starts, np.diff(np.append(starts, len(escapes))))
    escaped = escapes[place % 2 == 0] + 1
    return np.setdiff1d(at[marks != escape], escaped, assume_unique=True)


def _quote_problem(array: np.ndarray, quotes: np.ndarray, dialect: Dialect) -> tuple[int, int] | None:
    bad_opens, bad_closes = _misplaced(array, quotes, dialect)
    if not len(bad_opens) and not len(bad_closes):
        return None
    if not len(bad_closes) or (len(bad_opens) and bad_opens[0] < bad_closes[0]):
        start = at = int(bad_opens[0])
        while start > 0 and not dialect.borders[array[start - 1]]:
            start -= 1
        return start, at
    opens, closes = quotes[::2], quotes[1::2]
    number = int(np.searchsorted(closes, bad_closes[0]))
    # A quote that opens right behind one that closes is the second of two inside a cell.
    while number > 0 and opens[number] == closes[number - 1] + 1:
        number -= 1
    return int(opens[number]), int(bad_closes[0])


def _misplaced(array: np.ndarray, quotes: np.ndarray, dialect: Dialect) -> tuple[np.ndarray, np.ndarray]:
    """Return the quotes that open behind something else than a separator, and those that close before it."""
    opens, closes = quotes[::2], quotes[1::2]
    bad_opens = ~dialect.borders[array[opens - 1]] & (opens > 0)
    bad_closes = ~dialect.borders[array[np.minimum(closes + 1, len(array) - 1)]] & (closes + 1 < len(array))
    return opens[bad_opens], closes[bad_closes]


def _without_spaces(data: bytes, dialect: Dialect) -> bytes | None:
    """Leave out spaces between separators and quotes, if all quotes are then in their places; else None."""
    if dialect.escape:
        return None
    array = np.frombuffer(data, np.uint8)
    left, ends = np.ones(len(array), bool), (*dialect.separator, _NEWLINE, _RETURN)
    misplaced = _misplaced(array, np.flatnonzero(array == dialect.quote[0]), dialect)
    for quotes, step in zip(misplaced, (-1, 1), strict=True):
        for quote in quotes.tolist():
            at = quote + step
            while 0 <= at < len(array) and array[at] == ord(" "):
                at += step
            # What is behind spaces at the very end is still to come.
            if at < len(array):
                if at >= 0 and array[at] not in ends:
                    return None
                left[min(at, quote) + 1 : max(at, quote)] = False
    return array[left].tobytes()


def _is_row(first: Sequence[str], below: Sequence[Sequence[str]]) -> bool:
    """Tell whether a first line is a row: a value recurs, there is prose as below, or a number where numbers follow."""
    if [name for name in first if name.strip()] == [str(number) for number in range(len(first) - (not first[0]))]:
        return False  # pandas' names of columns without name
    is_usual = any(map(_HEADER_NAME.fullmatch, first))
    if is_usual and list(first) in [list(row) for row in below]:
        return False  # files with headers, one after the other
    is_row = False
    for index, name in enumerate(first):
        values = [row[index] for row in below if index < len(row) and row[index].strip()]
        if not name.strip() or not values:
            continue
        if _HEADER_NAME.fullmatch(name) and name not in values:
            return False
        numbers = all(map(_NUMBER.fullmatch, values))
        if numbers and not _NUMBER.fullmatch(name):
            return False
        is_row |= numbers or name in values or (_is_prose(name) and median(map(_is_prose, values)) >= 0.5)
    return is_row


def _is_prose(cell: str) -> bool:
    return (cell.count(" ") >= 4 or len(_WIDE.findall(cell)) >= 10) and not cell.rstrip().endswith("?")


def _unquoted(cell: bytes, dialect: Dialect) -> str:
    if dialect.quote and cell.startswith(dialect.quote):
        cell = cell[1:-1].replace(dialect.quote * 2, dialect.quote)
    if dialect.escape:
        cell = re.sub(re.escape(dialect.escape) + b"(.)", rb"\1", cell, flags=re.DOTALL)
    return cell.decode()


def _unused(data: bytes) -> bytes:
    """Find a control character that text does not hold."""
    return next((bytes([byte]) for byte in range(1, 32) if byte not in data and byte not in b"\t\n\r"), b"\x7f")


def _is_empty(column: Any) -> bool:
    import pyarrow.compute

    return not pyarrow.compute.max(pyarrow.compute.binary_length(column)).as_py()


def _shown(data: bytes, start: int) -> str:
    return repr(re.split(rb"[\r\n]", data[start : start + 400], maxsplit=1)[0].decode(errors="ignore")[:80])


def _ended(data: bytes) -> bytes:
    return data if not data or data.endswith(b"\n") else data + b"\n"

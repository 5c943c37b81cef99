"""Read parquet, Arrow and Excel files. Does not know which column is what."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, time
from typing import TYPE_CHECKING, Any

from nlptransfer.data.files.opening import Opened
from nlptransfer.data.labels import Labels
from nlptransfer.data.table import Table
from nlptransfer.errors import DataError, NlpTransferError, SettingError, abridged, first_line
from nlptransfer.settings import convert

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger("nlptransfer")

MOST_DEPTH = 64
"""Lists and objects within each other at most: a few are of use, and many exhaust what walks through them."""
_TIMES = re.compile("timestamp|date|time|duration|interval")
_BATCH_BYTES = 2**24
"""Bytes of parquet, unpacked, that are read at a time: rows may hold images."""


def read_parquet(front: Opened, rows: int) -> Iterator[Table]:
    """Read tables of at most ``rows`` rows each, at least one; a DataError says after which row a file is broken."""
    import pyarrow.parquet

    def batches() -> Iterator["pyarrow.Table"]:
        source = str(front.path) if front.path else front.seekable()
        # With a buffer a column of a row group is read bit by bit, however large the group is.
        with pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=2**20) as file:
            yield file.schema_arrow.empty_table()
            groups = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
            fit = _BATCH_BYTES * file.metadata.num_rows // max(1, sum(groups))
            for batch in file.iter_batches(max(1, min(rows, fit))):
                yield pyarrow.Table.from_batches([batch])

    return _tables(front.where, "parquet", batches())


def read_arrow(front: Opened, rows: int) -> Iterator[Table]:
    """Read an Arrow or Feather file, or a stream of Arrow's, in its record batches of at most ``rows`` rows each."""
    import pyarrow.feather

    def batches() -> Iterator["pyarrow.Table"]:
        if front.head.startswith(b"FEA1"):
            with front.seekable() as file:
                whole = pyarrow.feather.read_table(file)
            yield from (whole.slice(start, rows) for start in range(0, max(1, len(whole)), rows))
        elif front.head.startswith(b"ARROW1"):
            source = pyarrow.memory_map(str(front.path)) if front.path else pyarrow.BufferReader(front.stream.read())
            with pyarrow.ipc.open_file(source) as reader:
                yield reader.schema.empty_table()
                for number in range(reader.num_record_batches):
                    yield from _slices(reader.get_batch(number), rows)
        else:
            with pyarrow.ipc.open_stream(front.stream) as reader:
                yield reader.schema.empty_table()
                for batch in reader:
                    yield from _slices(batch, rows)

    return _tables(front.where, "Arrow", batches())


def class_names(schema: "pyarrow.Schema", where: str) -> dict[str, tuple[str, ...]]:
    """Return the names of the ids in each ClassLabel column, as ``datasets`` keeps them in a schema's metadata.

    None, and a warning, where these are damaged.
    """
    metadata = (schema.metadata or {}).get(b"huggingface")
    names = {}
    try:
        features = json.loads(metadata).get("info", {}).get("features", {}) if metadata else {}
        for name, feature in features.items():
            feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
            if feature.get("_type") == "ClassLabel" and feature.get("names"):
                names[name] = tuple(Labels(convert("names", feature["names"], list[str])).names)
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError, NlpTransferError) as error:
        advice = "set label_names=... if they are ids"
        logger.warning("%s: names of labels are left out, as their metadata is damaged (%s); %s", where, error, advice)
        return {}
    return names


def readable(arrow: "pyarrow.Table", where: str | None) -> "pyarrow.Table":
    """Turn binary columns into text where they are UTF-8, and leave out others, and times that Python has not.

    Spark and Impala write text as bytes; other bytes are images and sounds. What is left out is said of ``where``, if
    it is not None.
    """
    import pyarrow

    no_text, no_times = list[str](), list[str]()
    for index, field in reversed(list(enumerate(arrow.schema))):
        try:
            column = arrow.column(index)
            if isinstance(field.type, pyarrow.BaseExtensionType):
                column = column.cast(field.type.storage_type)
            if "binary" in str(column.type):
                column = column.cast(pyarrow.large_string())
            elif _TIMES.search(str(column.type)):
                column.to_pylist()
            if column.type != field.type:
                arrow = arrow.set_column(index, field.name, column)
        except (pyarrow.ArrowException, OverflowError, ValueError, LookupError):
            arrow = arrow.remove_column(index)
            (no_text if "binary" in str(column.type) else no_times).append(repr(field.name))
    for what, names in {"bytes that are no UTF-8": no_text, "times that Python has not": no_times}.items():
        if names and where:
            logger.info("%s: columns left out, as they hold %s: %s", where, what, ", ".join(names[::-1]))
    return arrow


def _tables(where: str, kind: str, parts: Iterator["pyarrow.Table"]) -> Iterator[Table]:
    """Make tables of Arrow's; one without rows only where there are no others."""
    import pyarrow

    first, names, empty = 1, list[str](), None
    of_classes: dict[str, tuple[str, ...]] | None = None
    try:
        for part in parts:
            if not len(part):
                empty = part
                continue
            # What reads on trusts offsets and lengths: damaged ones would end the process, and no UTF-8 is no text.
            part.validate(full=True)
            check_names(where, part.column_names)
            if of_classes is None:
                check_depth(where, part.schema)
                of_classes = class_names(part.schema, where)
            table = readable(part, None if names else where)
            names = names or table.column_names
            if missing := sorted({*names} - {*table.column_names}):
                raise DataError(f"{where}, from row {first}: expected UTF-8 in {missing[0]!r} as above, found bytes")
            yield _table(where, table.select(names), first, part, of_classes)
            first += len(table)
    except (pyarrow.ArrowException, OSError, UnicodeError) as error:
        raise DataError(
            f"{where}, after row {first - 1}: broken {kind}: {first_line(error)}; copy or download it again"
        ) from error
    if empty is not None and not names:
        yield _table(where, empty, 1, empty, {})


def check_names(where: str, names: Sequence[str]) -> None:
    """Raise a DataError if two columns have one name."""
    if twice := [repr(name) for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{where}: expected distinct column names, found {abridged(twice, 5)} twice; rename them")


def check_depth(where: str, schema: "pyarrow.Schema") -> None:
    """Raise a DataError for a column that is nested deeper than any text or label."""
    for field in schema:
        kinds = [field.type]
        for _ in range(MOST_DEPTH):
            kinds = [kind.field(index).type for kind in kinds for index in range(kind.num_fields)]
        if kinds:
            found = f"column {field.name!r} deeper"
            raise DataError(f"{where}: expected values nested {MOST_DEPTH} deep at most, found {found}; leave it out")


def _table(
    where: str, arrow: "pyarrow.Table", first: int, whole: "pyarrow.Table", names: Mapping[str, tuple[str, ...]]
) -> Table:
    columns = dict(zip(arrow.column_names, arrow.columns, strict=True))
    return Table(where, columns, names, first_row=first, arrow=whole)


def _slices(batch: "pyarrow.RecordBatch", rows: int) -> Iterator["pyarrow.Table"]:
    import pyarrow

    for start in range(0, len(batch), rows):
        yield pyarrow.Table.from_batches([batch.slice(start, rows)])


def read_sheet(front: Opened, sheet: str | int | None) -> Iterator[list[str]]:
    """Read the rows of an Excel sheet as text: whole numbers without decimals, dates as year-month-day.

    A DataError where no sheet is named and several have rows, or where there is no such sheet; a SettingError without
    openpyxl.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise SettingError(f"{front.where}: Excel files need openpyxl: pip install 'nlptransfer[excel]'") from error
    try:
        with front.seekable() as file:
            book = load_workbook(file, read_only=True, data_only=True)
            for row in _sheet(book.worksheets, sheet, front.where).iter_rows(values_only=True):
                yield list(map(_cell, row))
            book.close()
    except DataError:
        raise
    except Exception as error:  # openpyxl raises a dozen unrelated kinds of broken and locked files
        raise DataError(f"{front.where}: broken Excel file: {first_line(error)}; save it again") from error


def _sheet(sheets: list[Any], wanted: str | int | None, where: str) -> Any:
    titles = [sheet.title for sheet in sheets]
    if wanted is None:
        full = [sheet for sheet in sheets if any(any(map(_cell, row)) for row in sheet.iter_rows(values_only=True))]
        if len(full) < 2:
            return (full or sheets)[0]
        found = f"{len(full)} with rows"
        titles = [sheet.title for sheet in full]
    elif str(wanted) in titles:
        return sheets[titles.index(str(wanted))]
    elif isinstance(wanted, int) and 0 < wanted <= len(sheets):
        return sheets[wanted - 1]
    else:
        found = f"no sheet {wanted!r}"
    raise DataError(f"{where}: expected one sheet, found {found}; set sheet to one of {abridged(titles, 20)}")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return str(value.date() if value.time() == time() else value)
    return "" if value is None else str(value)

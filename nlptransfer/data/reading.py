"""Read files, folders, the hub and memory as raw columns, or texts alone. Does not know labels, nor splitting."""

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from nlptransfer.data import parsing
from nlptransfer.data.labels import is_missing
from nlptransfer.data.parsing import KINDS, kind_of, stem_of
from nlptransfer.errors import DataError

logger = logging.getLogger("nlptransfer")

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
"""Names that a split goes by, in files and in a DatasetDict, and its name here."""
WHOLE = "all"
"""The name of the only part of a source that comes without splits."""
# Names tried in this order; two columns of one group are ambiguous.
_TEXT_COLUMNS = (
    ("text",),
    ("sentence", "content", "review", "document", "comment", "tweet", "utterance", "message", "body", "review_text"),
    ("query", "question", "title", "headline", "description", "post", "abstract"),
)
_LABEL_COLUMNS = (
    ("label", "labels"),
    ("category", "categories", "class", "classes", "target", "targets"),
    ("sentiment", "emotion", "emotions", "intent", "topic", "topics", "tag", "tags", "y"),
)
_INDEX_COLUMNS = ("", "unnamed: 0", "id", "idx", "index", "guid", "__index_level_0__")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Tables:
    """A source of rows, split by split, before anything is read."""

    name: str
    parts: dict[str, Any]
    """What each split is read from; under :data:`WHOLE` alone where the source has no splits."""

    def table(self, split: str) -> "Table":
        """Read the rows of a split."""
        return read_table(self.parts[split], self.name if split == WHOLE else f"{split} split of {self.name}")


@dataclass(frozen=True)
class Table:
    """The raw rows of one split, column by column."""

    where: str
    """File or split, for messages."""
    columns: dict[str, list[Any]]
    """Values by column name, all of the same length, at least one row."""
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the ids in the columns that are a ``ClassLabel``."""


def open_source(source: Any) -> Tables:
    """Find the splits of a file, folder, hub id, mapping or table; a DataError where it is not there, or ambiguous."""
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            return Tables(path.resolve().name, _folder(path))
        if path.exists():
            return Tables(stem_of(path), {WHOLE: path})
        return _from_hub(source)
    if isinstance(source, Mapping):
        return Tables("data", _named_splits(source.items(), "the splits given"))
    return Tables("data", {WHOLE: source})


def read_table(part: Any, where: str) -> Table:
    """Read a file, a Dataset, a DataFrame or (texts, labels); a DataError at ``where`` if it is broken or empty."""
    if isinstance(part, (str, Path)):
        table = _read_file(Path(part).expanduser())
    elif _is_a(part, "pandas", "DataFrame"):
        table = _from_frame(part, where)
    elif _is_a(part, "datasets", "Dataset"):
        table = _from_arrow(part.with_format("arrow")[:], where, part.features)
    elif isinstance(part, (tuple, list)) and len(part) == 2 and not isinstance(part[0], str):
        table = _from_pair(part[0], part[1], where)
    else:
        raise DataError(
            f"{where}: expected a path, a hub id, a Dataset or DatasetDict, a DataFrame or (texts, labels), "
            f"found {type(part).__name__}"
        )
    if not next(iter(table.columns.values()), []):
        raise DataError(f"{table.where}: expected rows of text and label, found no row; is the file empty?")
    return table


def find_columns(table: Table, text_column: str | None = None, label_column: str | None = None) -> tuple[str, str]:
    """Find the names of the text and the label column; a DataError where none or several could be meant."""
    text = text_column_of(table, text_column, label_column)
    label = _named(table, "label_column", label_column, _LABEL_COLUMNS, taken=text)
    label = label or _only(table, "label_column", [name for name in _content(table) if name != text])
    if text == label:
        raise DataError(f"{table.where}: expected a text and a label column, found {text!r} set as both")
    return text, label


def text_column_of(table: Table, text_column: str | None = None, label_column: str | None = None) -> str:
    """Find the name of the text column, in a table that may have no labels."""
    name = _named(table, "text_column", text_column, _TEXT_COLUMNS, taken=label_column)
    if name is not None or len(table.columns) == 1:
        return name or next(iter(table.columns))
    labels = {label_column, *chain.from_iterable(_LABEL_COLUMNS)}
    free = [name for name in _content(table) if not labels & {name, name.casefold().strip()}]
    return _only(table, "text_column", [name for name in free if _is_text(table.columns[name])])


def has_labels(table: Table, label_column: str | None = None) -> bool:
    """Tell whether a table has the label column of the settings, or one by a usual name."""
    return _named(table, "label_column", label_column, _LABEL_COLUMNS) is not None


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


def read_texts(source: str | Path | Iterable[str], text_column: str | None = None) -> Iterator[str]:
    """Read texts to predict, one by one; files are streamed (.json alone is read whole).

    A row without text gives an empty string, so that predictions stay in step with the rows. A DataError says that
    there is no such file, kind or text column, or while reading, that a row is broken or no text.

    Args:
        source: a path to a .txt (a text a line), csv, tsv, jsonl, json or parquet file, plain or .gz; ``"-"`` for
            standard input (a text a line, or an object a line if the first line is one); or an iterable of strings.
        text_column: column of the texts; found by its name if None.
    """
    if source == "-":
        return _texts_of_input("standard input", text_column)
    if not isinstance(source, (str, Path)):
        return (_required(text, f"text {number}") for number, text in enumerate(source, 1))
    path = Path(source).expanduser()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: expected a file of texts, found {found}; texts themselves go in a list")
    parsing.check_kind(path, (".txt", *KINDS))
    if kind_of(path) == ".txt":
        return _texts_of_lines(parsing.lines(path), str(path))
    return _texts_of_rows(parsing.rows(path), str(path), text_column)


def _folder(folder: Path) -> dict[str, Any]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    splits = [file for file in files if kind_of(file) in KINDS and stem_of(file).lower() in SPLIT_NAMES]
    _log_others(folder, [file.name for file in files if file not in splits])
    if not splits:
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:20]) or "nothing"
        raise DataError(
            f"{folder}: expected files named train, validation, test ({', '.join(KINDS)}, plain or .gz), found {found}"
        )
    return _named_splits(((stem_of(file).lower(), file) for file in splits), folder)


def _named_splits(items: Iterable[tuple[Any, Any]], where: str | Path) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    others = []
    for name, part in items:
        split = SPLIT_NAMES.get(str(name))
        if split is None:
            others.append(str(name))
        elif split in parts:
            raise DataError(f"{where}: expected one {split} split, found two ({name} is the second); keep one of them")
        else:
            parts[split] = part
    if not parts:
        found = ", ".join(others) or "none"
        raise DataError(f"{where}: expected splits named train, validation and test, found {found}")
    _log_others(where, others)
    return parts


def _log_others(where: str | Path, names: Sequence[str]) -> None:
    if names:
        logger.info("%s: left alone: %s", where, ", ".join(names))


def _from_hub(source: str | Path) -> Tables:
    if isinstance(source, Path) or kind_of(Path(source)) in KINDS or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source):
        raise DataError(f"{source}: no such file or folder; check the path")
    import datasets

    try:
        loaded = datasets.load_dataset(source)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"{source!r}: no such file or folder here, and as a hub id it cannot be loaded: {reason}; "
            "check the spelling, and the connection if a hub id is meant"
        ) from error
    return Tables(source, _named_splits(loaded.items(), source))


def _is_a(value: Any, module: str, name: str) -> bool:
    # An instance can only exist once its module is loaded: no need to import it to ask.
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name, ()))


def _from_frame(frame: Any, where: str) -> Table:
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: expected distinct column names, found {', '.join(map(repr, names))}; rename them")
    return Table(where, {name: frame.iloc[:, index].tolist() for index, name in enumerate(names)})


def _from_pair(texts: Any, labels: Any, where: str) -> Table:
    columns = {}
    for name, values in (("text", texts), ("label", labels)):
        if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
            raise DataError(f"{where}: expected a list of {name}s, found {type(values).__name__}")
        columns[name] = values.tolist() if hasattr(values, "tolist") else list(values)
    if len(columns["text"]) != len(columns["label"]):
        found = f"{len(columns['text'])} texts and {len(columns['label'])} labels"
        raise DataError(f"{where}: expected as many labels as texts, found {found}")
    return Table(where, columns)


def _from_arrow(arrow: Any, where: str, features: Mapping[str, Any]) -> Table:
    columns = parsing.without_bytes(arrow).to_pydict()
    class_names = {}
    for name in columns:
        feature: Any = features.get(name)
        feature = getattr(feature, "feature", feature)
        if type(feature).__name__ == "ClassLabel" and feature.names:
            class_names[name] = tuple(feature.names)
    return Table(where, columns, class_names)


def _read_file(path: Path) -> Table:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'no such file'}")
    return _read_parquet(path) if kind_of(path) == ".parquet" else _columns_of(parsing.rows(path), str(path))


def _columns_of(rows: Iterable[Mapping[str, Any]], where: str) -> Table:
    columns: dict[str, list[Any]] = {}
    for number, row in enumerate(rows):
        for name in row:
            columns.setdefault(name, [None] * number)
        for name, values in columns.items():
            values.append(row.get(name))
    return Table(where, columns)


def _read_parquet(path: Path) -> Table:
    import pyarrow

    batches = list(parsing.parquet_batches(path))
    if not batches:
        return Table(str(path), {})
    features: Mapping[str, Any] = {}
    if b"huggingface" in (batches[0].schema.metadata or {}):
        import datasets

        features = datasets.Features.from_arrow_schema(batches[0].schema)
    return _from_arrow(pyarrow.Table.from_batches(batches), str(path), features)


def _named(
    table: Table, setting: str, name: str | None, groups: Iterable[Sequence[str]], taken: str | None = None
) -> str | None:
    """Return the column that a setting names, or the only one of the first group of usual names that has any."""
    if name is not None:
        if name not in table.columns:
            found = f"found only {_columns(table)}; set {setting} to one of these"
            raise DataError(f"{table.where}: expected the column {name!r} ({setting}), {found}")
        return name
    for group in groups:
        names = [name for name in table.columns if name != taken and name.casefold().strip() in group]
        if names:
            return _only(table, setting, names)
    return None


def _only(table: Table, setting: str, names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    found = f"several that could be it ({', '.join(map(repr, names))})" if names else "none"
    raise DataError(
        f"{table.where}: expected one {setting.replace('_', ' ')}, found {found} among the columns {_columns(table)}; "
        f"set {setting}"
    )


def _content(table: Table) -> list[str]:
    return [name for name in table.columns if name.casefold().strip() not in _INDEX_COLUMNS]


def _columns(table: Table) -> str:
    return ", ".join(repr(name) for name in list(table.columns)[:30])


def _is_text(values: Sequence[Any]) -> bool:
    present = [value for value in values if not is_missing(value)]
    if not present or not all(isinstance(value, str) for value in present):
        return False
    return not all(re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", value) for value in present)


def _required(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise DataError(f"{where}: expected a string, found {type(text).__name__} {text!r:.80}")
    return clean_text(text, where)


def _texts_of_input(where: str, text_column: str | None) -> Iterator[str]:
    handle = getattr(sys.stdin, "buffer", None)
    lines = iter(sys.stdin) if handle is None else parsing.decoded(handle, where)
    first = next(lines, "")
    rows = chain([first] if first else [], lines)
    if _is_object(first):
        return _texts_of_rows(parsing.json_objects(rows, where), where, text_column)
    return _texts_of_lines(rows, where)


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _texts_of_lines(lines: Iterable[str], where: str) -> Iterator[str]:
    return (clean_text(line.rstrip("\r\n"), where) for line in lines)


def _texts_of_rows(rows: Iterable[Mapping[str, Any]], where: str, text_column: str | None) -> Iterator[str]:
    column = None
    for number, row in enumerate(rows, 1):
        if column is None:
            column = text_column_of(_columns_of([row], where), text_column)
        if column not in row:
            found = ", ".join(map(repr, row)) or "nothing"
            raise DataError(f"{where}, row {number}: expected {column!r}, found {found}")
        yield clean_text(row[column], f"{where}, row {number}, column {column!r}")

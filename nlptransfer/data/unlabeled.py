"""Read texts without labels: of a target, or beside labeled rows. Does not know how labeled rows are split."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from nlptransfer.data.columns import Columns, find_columns, has_labels, texts_of
from nlptransfer.data.dataset import Data, DataSettings, Split, load_data, load_split
from nlptransfer.data.files.folders import WHOLE
from nlptransfer.data.labels import Labels
from nlptransfer.data.normalization import normalize
from nlptransfer.data.reading import open_source, stream_tables
from nlptransfer.errors import DataError

logger = logging.getLogger("nlptransfer")


def stream_texts(texts: Any, settings: DataSettings | None = None) -> Iterator[list[str]]:
    """Read the texts of what :func:`stream_tables` takes, normalized, table by table.

    The text columns of the settings are taken where the texts have them.
    """
    settings = settings or DataSettings()
    named = settings.text_column.split(",") if isinstance(settings.text_column, str) else settings.text_column
    names = tuple[str, ...]()
    for table in stream_tables(texts, settings):
        names = names or find_columns(table, known=named or (), needs_label=False).text
        yield normalize(settings.normalization, texts_of(table, names))


def load_texts(texts: Any, settings: DataSettings | None = None) -> tuple[str, ...]:
    """Read the distinct texts of :func:`stream_texts`; a DataError where there are none."""
    distinct = dict[str, None]()
    for some in stream_texts(texts, settings):
        distinct |= dict.fromkeys(text for text in some if text.strip())
    if not distinct:
        raise DataError(f"unlabeled={texts!s:.200}: expected texts, found none")
    return tuple(distinct)


def with_unlabeled(data: Data, texts: Any, settings: DataSettings | None = None) -> Data:
    """Add texts, as :func:`load_texts` takes them; test texts among them are left out, and counted in the log."""
    distinct = dict.fromkeys((*data.unlabeled, *load_texts(texts, settings)))
    if shared := distinct.keys() & data.test.texts:
        logger.warning("%d of the texts without labels are test texts: they are left out", len(shared))
    return replace(data, unlabeled=tuple(text for text in distinct if text not in shared))


def load_unlabeled(source: Any, labels: Labels, settings: DataSettings | None = None) -> Data:
    """Read the texts of a task into ``unlabeled``, and no rows but those of test.

    Args:
        source: as in :func:`load_data`, with labels or without, or a .txt file of a text a line. What is not test is
            taken for text alone; a source with labels but no test split has one carved out, as there.
        labels: of the task that is learned from; a DataError where a test row has another.
        settings: as in :func:`load_data`; ``max_train_rows`` is of the texts.
    """
    settings = settings or DataSettings()
    none = Split([], labels.encode([]))
    name, rows, test, columns = _without_labels(source, labels, settings)
    texts = load_texts(rows, settings)
    if settings.max_train_rows is not None:
        order = np.random.default_rng(settings.seed_of_rows).permutation(len(texts))
        texts = tuple(texts[row] for row in sorted(order[: settings.max_train_rows]))
    return with_unlabeled(Data(name, labels, none, none, none, test, columns=columns), texts, settings)


def _without_labels(
    source: Any, labels: Labels, settings: DataSettings
) -> tuple[str, list[str], Split, Columns | None]:
    """Return the name of a source, its texts that are not of test, its test rows, and the columns that were read."""
    opened = open_source(source, settings)
    tables = {split: opened.table(split) for split in opened.parts}
    if WHOLE in tables and has_labels(tables[WHOLE], settings.label_column) and settings.test_size:
        data = load_data(source, replace(settings, max_train_rows=None), is_target=False)
        texts = [text for name, split in data.splits.items() if name != "test" for text in split.texts]
        test = replace(data.test, targets=labels.encode(_test_labels(data, labels)))
        return opened.name, texts, test, data.columns
    others = [table for split, table in tables.items() if split != "test"]
    columns = find_columns(others[0], settings.text_column, needs_label=False)
    texts = [text for table in others for text in texts_of(table, columns.text)]
    test = load_split(source, labels, settings) if "test" in tables else Split([], labels.encode([]))
    return opened.name, texts, test, columns


def _test_labels(data: Data, labels: Labels) -> list[Any]:
    """Return the names of the test rows' labels, or raise a DataError that one of them is not among ``labels``."""
    rows: list[Any] = data.labels.decode(data.test.targets)
    unknown = {name for row in rows for name in ([row] if isinstance(row, str) else row)} - {*labels.names}
    if unknown:
        raise DataError(
            f"{data.name}: expected test rows with labels among {', '.join(labels.names[:30])}, found "
            f"{', '.join(sorted(unknown)[:5])}: give label_mapping, from the source's names to these"
        )
    return rows

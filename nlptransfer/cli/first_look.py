"""Read and check data before torch is imported, which takes seconds: what is wrong with them is said at once."""

import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nlptransfer.routes import ROUTES

log = logging.getLogger("nlptransfer")


@contextmanager
def rows_first(
    data: str, config: Mapping[str, Any], arguments: Collection[str], *, whole: bool = False
) -> Iterator[None]:
    """Read labeled rows and check them; within the block they are not read again, with ``whole`` all columns.

    ``config`` has ``arguments`` of a public function, and settings. Others than of data and training, and a strategy,
    which may need no labels, are checked by what imports torch: they come first.
    """
    from nlptransfer.data import DataSettings, load_data
    from nlptransfer.memo import shared_work
    from nlptransfer.settings import fields_of, fill
    from nlptransfer.training import TrainingSettings

    log.info("Reading %s ...", data)
    route = config.get("route")
    if isinstance(route, str) and route not in ROUTES:
        ROUTES.find(route)
    kinds = {"data": DataSettings, "training": TrainingSettings}
    known = {name for kind in kinds.values() for name in fields_of(kind)}
    with shared_work({"data", "tables"} if whole else {"data"}):
        if config.keys() <= known.union(arguments) and config.get("transfer") is None:
            filled = fill(kinds, {name: value for name, value in config.items() if name in known})
            filled["training"].check()
            load_data(data, filled["data"], is_target=config.get("source") is None)
        yield


def texts_first(model: str, texts: str, reading: Mapping[str, Any]) -> None:
    """Open what a saved classifier is to predict, and find the texts in it, but of a stream, which comes once."""
    from nlptransfer.classifier import saved_task
    from nlptransfer.data import FileSettings, find_columns, stream_tables
    from nlptransfer.files import named_path
    from nlptransfer.settings import fill

    task, path = saved_task(model), named_path(texts)
    if sys.stderr.isatty():
        log.info("Reading %s ...", "standard input" if texts == "-" else texts)
    if texts == "-" or (path.exists() and not path.is_file()):
        return
    settings = {name: value for name, value in reading.items() if name != "text_column"}
    table = next(stream_tables(texts, fill({"file": FileSettings}, settings)["file"]))
    if task is not None:
        find_columns(table, reading.get("text_column"), known=task[1], needs_label=False)


def split_first(model: str, data: str, split: str, reading: Mapping[str, Any]) -> Any:
    """Read and check the split that a saved classifier is to be evaluated on; return the data, opened."""
    from nlptransfer.classifier import saved_task
    from nlptransfer.data import data_settings, load_split, open_source

    task, settings = saved_task(model), data_settings(None, reading)
    log.info("Reading %s ...", data)
    opened = open_source(data, settings)
    if task is not None:
        load_split(opened, task[0], settings, split, task[1])
    return opened

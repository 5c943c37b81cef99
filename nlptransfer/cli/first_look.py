"""Read and check data before torch is imported, which takes seconds: what is wrong with them is said at once."""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlptransfer.routes import ROUTES
from nlptransfer.transfer import may_lack_labels

if TYPE_CHECKING:
    from nlptransfer.data import DataSettings

log = logging.getLogger("nlptransfer")


@contextmanager
def rows_first(data: str | Sequence[str], config: Mapping[str, Any], *, whole: bool = False) -> Iterator[None]:
    """Read labeled rows and check them, those of sources too; within the block they are not read again.

    ``config`` has arguments of a public function, and settings; those of a route or a strategy are checked by what
    imports torch. Where the target may need no labels its columns alone are looked at. With ``whole`` all columns stay.
    """
    from nlptransfer.classifier import is_saved
    from nlptransfer.data import DataSettings, SourceSettings, load_data, stream_texts
    from nlptransfer.memo import shared_work
    from nlptransfer.training import TrainingSettings

    log.info("Reading %s ...", " and ".join(_several(data)))
    if isinstance(route := config.get("route"), str):
        ROUTES.check(route)
    may_lack = may_lack_labels(config.get("transfer") or "direct")
    sources = [one for one in _several(config.get("source") or config.get("sources")) if not is_saved(one)]
    filled = settings_of({"data": DataSettings, "source": SourceSettings, "training": TrainingSettings}, config)
    filled["training"].check()
    reading = filled["data"]
    with shared_work({"data", "tables"} if whole or (may_lack and sources) else {"data"}):
        for one in _several(data):
            if may_lack and sources:
                _check_texts(one, reading)
            else:
                load_data(one, reading, is_target=not config.get("source"))
        for one in sources:
            log.info("Reading %s ...", one)
            load_data(one, filled["source"].beside(reading), is_target=False)
        for one in _several(config.get("unlabeled")):
            next(stream_texts(one, reading), None)
        yield


def _several(value: str | Sequence[str] | None) -> Sequence[str]:
    return [value] if isinstance(value, str) else value or ()


def _check_texts(data: str, reading: "DataSettings") -> None:
    """Find the columns of rows that may have no labels."""
    from nlptransfer.data import find_columns, open_source

    opened = open_source(data, reading)
    # Test rows have labels, and are read later.
    part = next((name for name in opened.parts if name != "test"), "test")
    find_columns(opened.table(part), reading.text_column, needs_label=False)


def settings_of(kinds: Mapping[str, type], config: Mapping[str, Any]) -> dict[str, Any]:
    """Make settings of these kinds out of those that a command line has, whatever else it has."""
    from nlptransfer.settings import fields_of, fill

    known = {name for kind in kinds.values() for name in fields_of(kind)}
    return fill(kinds, {name: value for name, value in config.items() if name in known})


def model_first(model: str | Path) -> None:
    """Raise a RunFolderError where no classifier is saved, unless it is to be fetched from the hub."""
    from nlptransfer.classifier import saved_task

    saved_task(model)


def folder_first(folder: Path) -> None:
    """Raise a RunFolderError where there is no such folder."""
    from nlptransfer.errors import RunFolderError
    from nlptransfer.files import named_path

    if not named_path(folder).is_dir():
        raise RunFolderError(f"{folder}: expected the folder of a finished run or a comparison, found no folder")


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

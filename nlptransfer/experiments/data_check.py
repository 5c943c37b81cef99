"""Check data before it is trained on, and say what makes its scores less than they seem. Knows no training."""

import logging
from pathlib import Path

from nlptransfer import distributed
from nlptransfer.data import Data, data_warnings
from nlptransfer.results import warnings_in

log = logging.getLogger("nlptransfer")

MOST_SAID = 5
"""Lines of the log on the data, those of its reading among them; the record and the report have all."""


def checked_data(data: Data, folder: Path, source: Data | None = None, *, overwrite: bool = False) -> Data:
    """Return data with what :func:`data_warnings` finds, which the log says; all processes call this together.

    Where the folder has a run on the same data, finished or not, it has been said then, and is taken from there.
    """
    found = None
    if distributed.is_main():
        found = None if overwrite else warnings_in(folder, data.fingerprints())
        if found is None:
            found = tuple(data_warnings(data, source))
            for warning in found[:MOST_SAID]:
                if warning not in data.warnings:
                    log.warning("%s: %s", data.name, warning)
    return data.with_warnings(distributed.from_main(found))

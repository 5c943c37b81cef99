"""Write the report of a finished folder, once. Does not know what is in it."""

from functools import partial
from pathlib import Path

from nlptransfer import distributed
from nlptransfer.data import Data
from nlptransfer.progress import waiting
from nlptransfer.results import REPORT, RunResult


def report_once(folder: Path, data: Data | None = None, run: RunResult | None = None) -> None:
    """Write report.html where there is none, also of what was finished before: it may have been killed just then.

    With ``data`` it has texts; ``run`` is the one in the folder, where in memory. All processes call this together.
    """
    if not distributed.from_main((folder / REPORT).exists()):
        distributed.on_main(partial(_write, folder, data, run))


def _write(folder: Path, data: Data | None, run: RunResult | None) -> None:
    # Plots take half a second to import, which nobody should wait for who asks for no report.
    from nlptransfer.report import report_with_texts, write_report

    with waiting("writing the report"):
        if data is None:
            write_report(folder)
        else:
            report_with_texts(folder, data, run)

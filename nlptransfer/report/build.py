"""The report of a run with texts in it, and with the words that made its mistakes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nlptransfer.classifier import Explanation
from nlptransfer.data import Data, DataSettings, load_data
from nlptransfer.errors import DataError
from nlptransfer.files import named_path
from nlptransfer.report.page import write_report
from nlptransfer.results import ComparisonResult, RunResult, is_comparison, is_run
from nlptransfer.settings import fill

EXPLAINED_LENGTH, EXPLAINED_WHEN_ASKED = 500, 5000
"""Characters, of all mistakes together, whose words are explained at the end of a run, and in a report that is asked
for: each word costs a pass."""


def report_on(folder: str | Path, data: Any = None) -> Path:
    """Write report.html into the folder of a finished run or a comparison; a RunFolderError where there is neither.

    With ``data``, what it was trained on (a DataError for other rows), it shows the texts of mistakes and the words
    that made them: the files that a report is made of hold no texts.
    """
    folder = named_path(folder)
    run = _run_in(folder)
    if data is None or run is None:
        return write_report(folder)
    loaded = load_data(data, fill({"data": DataSettings}, run.settings["data"])["data"])
    for name, found in loaded.fingerprints().items():
        if run.data.fingerprints[name] != found:
            raise DataError(f"{data}: expected the rows that {folder} was trained on, found others in {name}")
    return report_with_texts(folder, loaded, run, explained=EXPLAINED_WHEN_ASKED)


def report_with_texts(
    folder: Path, data: Data, run: RunResult | None = None, *, explained: int = EXPLAINED_LENGTH
) -> Path:
    """Write report.html into a finished folder, with texts of the data; ``run`` is the one in it, where in memory."""
    run, explain = run or _run_in(folder), None
    if run is not None and run.has_model:
        explain = partial(_explained, run, explained)
    return write_report(folder, {name: split.texts for name, split in data.splits.items()}, explain)


def _run_in(folder: Path) -> RunResult | None:
    """Load the run itself, or the one that a comparison recommends, if any."""
    if not is_comparison(folder):
        return RunResult.load(folder) if is_run(folder) else None
    comparison = ComparisonResult.load_any(folder)
    return comparison.first_run(comparison.recommended) if comparison.recommended is not None else None


def _explained(run: RunResult, length: int, texts: Sequence[str], labels: Sequence[str]) -> list[Explanation]:
    """Explain the first texts, of so many characters together."""
    count = int((np.cumsum([len(text) for text in texts]) <= length).sum())
    return run.classifier.explain(texts[:count], label=labels[:count])

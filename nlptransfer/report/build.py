"""The report of a run with texts in it, and which words a prediction hangs on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlptransfer.classifier import Classifier
from nlptransfer.data import Data, DataSettings, load_data
from nlptransfer.errors import DataError
from nlptransfer.files import named_path
from nlptransfer.report.page import WordEffects, write_report
from nlptransfer.results import ComparisonResult, RunResult, is_comparison, is_run
from nlptransfer.settings import fill

MOST_WORDS = 60
"""Words of a text that are tried; what follows stays as it is."""
SHOWN_TEXTS = 3
"""Texts of which the report shows what their words count for."""


def report_on(folder: str | Path, data: Any = None) -> Path:
    """Write report.html into the folder of a finished run or a comparison; a RunFolderError where there is neither.

    With ``data``, what it was trained on (a DataError for other rows), it shows the texts of mistakes and what words
    count for: the files that a report is made of hold no texts.
    """
    folder = named_path(folder)
    run = _run_in(folder)
    if data is None or run is None:
        return write_report(folder)
    loaded = load_data(data, fill({"data": DataSettings}, run.settings["data"])["data"])
    for name, found in loaded.fingerprints().items():
        if run.data.fingerprints[name] != found:
            raise DataError(f"{data}: expected the rows that {folder} was trained on, found others in {name}")
    return report_with_texts(folder, loaded)


def report_with_texts(folder: Path, data: Data, run: RunResult | None = None) -> Path:
    """Write report.html into a finished folder, with texts of the data; ``run`` is the one in it, where in memory."""
    run, words = run or _run_in(folder), None
    if run is not None and run.has_model:
        words = word_effects(run.classifier, (data.test.texts or data.validation.texts)[:SHOWN_TEXTS])
    return write_report(folder, {name: split.texts for name, split in data.splits.items()}, words)


def _run_in(folder: Path) -> RunResult | None:
    """Load the run itself, or the one that a comparison recommends, if any."""
    if not is_comparison(folder):
        return RunResult.load(folder) if is_run(folder) else None
    comparison = ComparisonResult.load_any(folder)
    return comparison.first_run(comparison.recommended) if comparison.recommended is not None else None


def word_effects(classifier: Classifier, texts: Sequence[str]) -> list[WordEffects]:
    """Measure by how much the probability of the likeliest label falls without each word (Zeiler and Fergus 2014).

    Words are what white space parts; in text without any, single characters. A text without a word is left out.
    """
    found = []
    for text in filter(str.strip, texts):
        parts, glue = text.split(), " "
        if len(parts) == 1:
            parts, glue = list(parts[0]), ""
        tried = parts[:MOST_WORDS]
        without = [glue.join(parts[:place] + parts[place + 1 :]) for place in range(len(tried))]
        probabilities = classifier.probabilities([text, *without])
        label = int(probabilities[0].argmax())
        whole = float(probabilities[0, label])
        effects = [(word, whole - float(row[label])) for word, row in zip(tried, probabilities[1:], strict=True)]
        found.append(WordEffects(classifier.labels.names[label], whole, effects))
    return found

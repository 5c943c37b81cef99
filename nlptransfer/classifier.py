"""Classifier: a trained model with its tokenizer and labels; predict, evaluate, save, load."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, softmax
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nlptransfer import metrics, processes
from nlptransfer.batching import predict_logits
from nlptransfer.data import DataSettings, Split, load_split
from nlptransfer.errors import DataError, RunFolderError
from nlptransfer.files import atomic_folder, read_json, write_json
from nlptransfer.labels import Labels
from nlptransfer.normalisation import NORMALISATIONS, normalise
from nlptransfer.reading import read_texts
from nlptransfer.route import Route
from nlptransfer.routes import route_class
from nlptransfer.settings import fill

RECORD = "nlptransfer.json"
CHUNK = 4096
"""Texts that are tokenized and predicted at a time, so that a stream of any length fits in memory."""


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one text."""

    text: str
    labels: tuple[str, ...]
    """the label; with several labels at once, all that reach their threshold, perhaps none"""
    scores: tuple[float, ...]
    """the probability of each of ``labels``"""
    probabilities: dict[str, float]
    """the probability of every label"""
    multi_label: bool = False
    """whether a text may have several labels at once, or none"""

    @property
    def label(self) -> str:
        """The one label.

        Raises:
            DataError: there is none, or several; look at ``labels``.
        """
        if len(self.labels) != 1:
            raise DataError(f"expected one label, found {len(self.labels)}: look at .labels")
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the one label."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class Classifier:
    """A model that has learnt to label texts."""

    route: Route
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    labels: Labels
    thresholds: tuple[float, ...] | None = None
    """with several labels at once: the probability from which each is given; None: 0.5"""
    record: dict[str, Any] | None = None
    """where the model's knowledge comes from and how it was calibrated, saved with it"""
    normalisation: str = "none"
    """the form that texts are brought into before the tokenizer sees them, as they were in training"""

    def logits(self, texts: Sequence[str], *, share: bool = False) -> np.ndarray:
        """(texts, labels) float32.

        Args:
            share: whether all processes call this together, in a run: each works on a part, and what is frozen is
                kept in the feature cache.
        """
        rows = self.route.rows(self.model, self.tokenizer, normalise(self.normalisation, texts), share=share)
        return predict_logits(self.model, rows, share=share)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """(texts, labels), rows summing to 1, or each label by itself with several labels at once."""
        return to_probabilities(self.logits(texts), self.labels)

    def predict(self, texts: str | Path | Iterable[str], *, text_column: str | None = None) -> list[Prediction]:
        """Predictions in the order of the texts.

        Args:
            texts: a list of texts, or the path of a file of them.
            text_column: where the file has several columns.

        Raises:
            DataError: a single string that is no file, or a file that cannot be read.
        """
        return list(self.stream(texts, text_column=text_column))

    def stream(self, texts: str | Path | Iterable[str], *, text_column: str | None = None) -> Iterator[Prediction]:
        """As ``predict``, one after the other; "-" reads standard input."""
        source = iter(read_texts(texts, text_column))
        while chunk := list(islice(source, CHUNK)):
            yield from self._predictions(chunk)

    def evaluate(
        self, data: Any, *, settings: DataSettings | None = None, split: str = "test", further: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Scores with intervals on labelled data.

        Args:
            data: a file, taken whole, or anything with splits.
            settings: names of the columns.
            split: which split, where there are several.
            further: names of other ``evaluate`` metrics.

        Raises:
            DataError: the data cannot be read, or has a label that the classifier has not.
        """
        return self.score(load_split(data, self.labels, settings, split), further)

    def score(self, split: Split, further: Sequence[str] = ()) -> dict[str, Any]:
        """Scores with intervals on a split."""
        found = self.probabilities(split.texts)
        return metrics.score(split.targets, found, self.labels, thresholds=self.thresholds, metrics=further)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights (safetensors), tokenizer, config and nlptransfer.json; all or nothing.

        Raises:
            RunFolderError: the folder holds something that is not a saved classifier.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / RECORD).exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunFolderError(
                f"{folder}: expected a new folder or a saved classifier, found other files: name another"
            )
        with atomic_folder(folder) as new:
            self.route.save(self.model, self.tokenizer, new)
            record = {
                "route": self.route.name,
                "settings": self.route.recorded(),
                "labels": list(self.labels.names),
                "multi_label": self.labels.multi_label,
                "thresholds": None if self.thresholds is None else list(self.thresholds),
                "normalisation": self.normalisation,
                **(self.record or {}),
            }
            write_json(new / RECORD, record)
        return folder

    @classmethod
    def load(cls, folder: str | Path, base: str | None = None) -> "Classifier":
        """The classifier that ``save_pretrained`` wrote, or the one in a run's folder; on a GPU where there is one.

        Args:
            base: folder or hub id of the base model, where the classifier was saved without a copy of it and it is
                not found by itself.

        Raises:
            RunFolderError: no classifier is there, a part of it is missing, or it needs a newer nlptransfer.
            BaseModelError: the base model cannot be had, or is another one.
        """
        folder = Path(folder)
        if not (folder / RECORD).exists() and (folder / "model" / RECORD).exists():
            folder = folder / "model"
        if not (folder / RECORD).exists():
            raise RunFolderError(
                f"{folder}: expected a saved classifier, found no {RECORD}: give a run's folder or its model folder"
            )
        record = read_json(folder / RECORD)
        kind = route_class(record.pop("route"))
        route: Route = fill({"route": kind}, record.pop("settings"))["route"]
        labels = Labels(tuple(record.pop("labels")), record.pop("multi_label"))
        thresholds = record.pop("thresholds")
        thresholds = None if thresholds is None else tuple(thresholds)
        normalisation = _known_normalisation(record.pop("normalisation", "none"), folder)
        model, tokenizer = route.load(folder, record.get("base", {}), base)
        model = model.to(processes.state().device)
        return cls(route, model, tokenizer, labels, thresholds, record, normalisation)

    def _predictions(self, texts: Sequence[str]) -> Iterator[Prediction]:
        probabilities = self.probabilities(texts)
        given = metrics.predicted(probabilities, self.labels, self.thresholds)
        names = self.labels.decode(given)
        for text, row, found in zip(texts, probabilities.tolist(), names, strict=True):
            chosen = tuple(found) if self.labels.multi_label else (str(found),)
            by_name = dict(zip(self.labels.names, row, strict=True))
            yield Prediction(text, chosen, tuple(by_name[name] for name in chosen), by_name, self.labels.multi_label)


def _known_normalisation(name: str, folder: Path) -> str:
    if name not in NORMALISATIONS:
        raise RunFolderError(
            f"{folder / RECORD}: expected a normalisation among {', '.join(NORMALISATIONS)}, found {name!r}: upgrade "
            "nlptransfer, as a newer one has saved this"
        )
    return name


def to_probabilities(logits: np.ndarray, labels: Labels) -> np.ndarray:
    """Logits (rows, labels) -> probabilities: softmax, or a sigmoid for each of several labels."""
    return expit(logits) if labels.multi_label else softmax(logits, axis=1)

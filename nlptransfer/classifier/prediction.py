"""What is predicted for texts: for one, and for many in columns. Does not know how it is computed, nor files."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nlptransfer.data import Labels
from nlptransfer.errors import DataError
from nlptransfer.settings import check

if TYPE_CHECKING:
    import pyarrow


class _Probabilities:
    """A field that holds a dict, or names and their probabilities, of which a dict is made when it is looked at.

    There may be thousands of labels, and few who look at more than one.
    """

    def __get__(self, prediction: Any, owner: type | None = None) -> dict[str, float]:
        if prediction is None:
            raise AttributeError  # a field without a default
        value = prediction.__dict__["probabilities"]
        if not isinstance(value, dict):
            names, row = value
            value = prediction.__dict__["probabilities"] = dict(zip(names, row.tolist(), strict=True))
        return value

    def __set__(self, prediction: Any, value: dict[str, float] | tuple[Sequence[str], np.ndarray]) -> None:
        prediction.__dict__["probabilities"] = value


@dataclass(frozen=True)
class Prediction:
    """The labels of one text."""

    text: str
    labels: tuple[str, ...]
    """the label; with several labels at once, all that reach their threshold; none where it abstained"""
    scores: tuple[float, ...]
    """the probability of each of ``labels``"""
    probabilities: _Probabilities = _Probabilities()
    """the probability of every label, by its name"""
    multi_label: bool = False
    """whether a text may have several labels at once, or none"""
    abstained: bool = False
    """whether no label is given: the confidence is below ``min_confidence``, or there is no text"""

    @property
    def label(self) -> str:
        """The one label; raises a DataError where there is none, or several: look at ``labels``."""
        if self.abstained:
            raise DataError("expected a label, found that the classifier abstains from this text: look at .abstained")
        if len(self.labels) != 1:
            raise DataError(f"expected one label, found {len(self.labels)}: look at .labels")
        return self.labels[0]

    @property
    def score(self) -> float:
        """The probability of the one label."""
        _ = self.label
        return self.scores[0]


@dataclass(frozen=True)
class PredictedRows:
    """The labels of many texts, as columns."""

    texts: Sequence[str]
    probabilities: np.ndarray
    """(texts, labels) float32"""
    targets: np.ndarray
    """predicted ones, (texts,) int64, or (texts, labels) of 0 and 1 with several labels at once"""
    unsure: np.ndarray
    """(texts,) bool: the confidence is below ``min_confidence``"""
    labels: Labels

    @cached_property
    def without_text(self) -> np.ndarray:
        """(texts,) bool: there is no text."""
        return np.array([not text or text.isspace() for text in self.texts], dtype=bool)

    @cached_property
    def abstained(self) -> np.ndarray:
        """(texts,) bool: no label is given."""
        abstained: np.ndarray = self.unsure | self.without_text
        return abstained

    def __iter__(self) -> Iterator[Prediction]:
        names, multi_label = self.labels.names, self.labels.multi_label
        rows = zip(self.texts, self.probabilities, self._ids(), self.abstained.tolist(), strict=True)
        for text, row, ids, abstained in rows:
            labels = () if abstained else tuple(names[index] for index in ids)
            scores = () if abstained else tuple(row[ids].tolist())
            yield Prediction(text, labels, scores, (names, row), multi_label, abstained)

    def _ids(self) -> list[list[int]]:
        """Return the ids of each text's predicted labels."""
        if self.labels.multi_label:
            return [np.flatnonzero(row).tolist() for row in self.targets]
        return [[target] for target in self.targets.tolist()]

    def columns(self, *, top_k: int | None = None, all_scores: bool = False) -> "dict[str, pyarrow.Array]":
        """Return what is added to a table: label and score, or labels and scores where there may be several.

        All are null where no label is given. With ``top_k`` labels and scores are the likeliest ones, the first above
        all, whatever their thresholds; with ``all_scores`` there is a column score_LABEL for each label besides, null
        where there is no text.
        """
        import pyarrow as pa

        check(top_k is None or top_k >= 1, "top_k", top_k, "a whole number from 1")
        names, columns = self.labels.names, {}
        if not self.labels.multi_label:
            scores = self.probabilities[np.arange(len(self.targets)), self.targets]
            columns["label"] = pa.array([names[index] for index in self.targets], pa.string(), mask=self.abstained)
            columns["score"] = pa.array(scores, mask=self.abstained)
        if self.labels.multi_label or top_k is not None:
            ids = self._ids() if top_k is None else self._likeliest(top_k)
            rows = [*zip(self.probabilities, ids, self.abstained, strict=True)]
            some_labels = [None if abstained else [names[index] for index in of_row] for _, of_row, abstained in rows]
            some_scores = [None if abstained else row[of_row] for row, of_row, abstained in rows]
            columns["labels"] = pa.array(some_labels, pa.list_(pa.string()))
            columns["scores"] = pa.array(some_scores, pa.list_(pa.float32()))
        if all_scores:
            for name, scores in zip(names, self.probabilities.T, strict=True):
                columns[f"score_{name}"] = pa.array(scores, mask=self.without_text)
        return columns

    def lines(self, *, top_k: int | None = None, all_scores: bool = False) -> Iterator[str]:
        """Yield each text with what :meth:`columns` adds to it, as a JSON object."""
        added = self.columns(top_k=top_k, all_scores=all_scores)
        columns = [self.texts, *(values.to_pylist() for values in added.values())]
        for row in zip(*columns, strict=True):
            yield json.dumps(dict(zip(["text", *added], row, strict=True)), ensure_ascii=False)

    def _likeliest(self, count: int) -> np.ndarray:
        """Return the ids of the likeliest labels, (texts, count)."""
        count = min(count, self.labels.num_labels)
        # Only these are sorted: there may be thousands of labels.
        some = np.argpartition(-self.probabilities, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(self.probabilities, some, axis=1), axis=1, kind="stable")
        return np.take_along_axis(some, order, axis=1)

"""Rows as models take them: tokens, features or activations, and extra inputs, targets and weights of texts.
It knows rows, windows and batches, not how tokens or features are made, nor how rows are chosen."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import numpy as np
import torch
from scipy import sparse

from nlptransfer import mapped
from nlptransfer.models.tokens import TokenRows, ranges
from nlptransfer.vectors import UNKNOWN_ID


class Rows(Protocol):
    """Inputs of a model, row by row: a row is a text, or a window of one."""

    @property
    def lengths(self) -> np.ndarray:
        """Return the tokens of each row, (rows,)."""

    @property
    def windows(self) -> np.ndarray | None:
        """Return (texts + 1,) int64: text i is rows ``windows[i]`` to ``windows[i + 1]``; None: each row is a text."""
        return None

    @property
    def one_length(self) -> bool:
        """Tell whether rows of one length alone may be predicted together."""
        return False

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the keyword arguments of the model's ``forward`` for these rows."""


@dataclass(frozen=True)
class FeatureRows(Rows):
    """One vector of features per text, computed once by a frozen model."""

    features: np.ndarray
    """(texts, width) float32, or float16 as the cache keeps them"""

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.features), dtype=np.int64)

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        features = torch.from_numpy(self.features[indices]).float()
        mapped.release(self.features)
        return {"features": features}


@dataclass(frozen=True)
class _ExtendedRows(Rows):
    rows: Rows

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    @property
    def windows(self) -> np.ndarray | None:
        return self.rows.windows

    @property
    def one_length(self) -> bool:
        return self.rows.one_length


@dataclass(frozen=True)
class VectorRows(_ExtendedRows):
    """Rows, and a vector of each text as a further input."""

    name: str
    """of the input"""
    vectors: np.ndarray
    """(texts, width) float32"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        vectors = self.vectors[texts_of_rows(self.rows, indices)]
        return {**self.rows.batch(indices), self.name: torch.from_numpy(vectors)}


@dataclass(frozen=True)
class NgramRows(_ExtendedRows):
    """Rows, and the n-grams of each text with their weights."""

    ngrams: sparse.csr_array
    """(texts, n-grams) float32"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Add ``ngram_ids``, (len(indices), most n-grams) int64, and ``ngram_weights``, float32, 0 for padding."""
        some = self.ngrams[texts_of_rows(self.rows, indices)]
        counts = np.diff(some.indptr)
        real = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
        ids, weights = np.zeros(real.shape, dtype=np.int64), np.zeros(real.shape, dtype=np.float32)
        ids[real], weights[real] = some.indices, some.data
        return {
            **self.rows.batch(indices),
            "ngram_ids": torch.from_numpy(ids),
            "ngram_weights": torch.from_numpy(weights),
        }


@dataclass(frozen=True)
class WordIdRows(_ExtendedRows):
    """Rows, and the words of each text by their ids."""

    words: TokenRows
    """of each text"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Add ``word_ids``, (len(indices), most words) int64, to the rows' batch."""
        words = self.words.batch(texts_of_rows(self.rows, indices))["input_ids"]
        return {**self.rows.batch(indices), "word_ids": words}


@dataclass(frozen=True)
class NewWordRows(_ExtendedRows):
    """Token rows, some tokens of which are words that the model has no vector of, and their vectors."""

    rows: TokenRows
    first: int
    """the id of the first of these words"""
    vectors: np.ndarray
    """(words, width) float32"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Make them unknown words, with ``new_vectors``, (len(indices), longest row, width), zeros for the others."""
        inputs = self.rows.batch(indices)
        places = inputs["input_ids"] - self.first
        is_new = places >= 0
        vectors = torch.zeros(*places.shape, self.vectors.shape[1])
        vectors[is_new] = torch.from_numpy(self.vectors)[places[is_new]]
        return {**inputs, "input_ids": inputs["input_ids"].masked_fill(is_new, UNKNOWN_ID), "new_vectors": vectors}


@dataclass(frozen=True)
class ActivationRows(_ExtendedRows):
    """Token rows, and the activations of each token above frozen layers, computed once."""

    rows: TokenRows
    activations: np.ndarray
    """(tokens of all rows, width) float16"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Add ``activations``, (len(indices), longest row, width), to the rows' batch."""
        places, real = self.rows.places(indices)
        padded = np.zeros((*real.shape, self.activations.shape[1]), dtype=self.activations.dtype)
        padded[real] = self.activations[places]
        return {**self.rows.batch(indices), "activations": torch.from_numpy(padded)}


@dataclass(frozen=True)
class SomeRows(Rows):
    """The rows of some of the texts."""

    rows: Rows
    texts: np.ndarray
    """their places, (texts,) int64"""

    @cached_property
    def lengths(self) -> np.ndarray:
        return cast(np.ndarray, self.rows.lengths[self._places])

    @property
    def windows(self) -> np.ndarray | None:
        if self.rows.windows is None:
            return None
        return np.concatenate([[0], np.cumsum(np.diff(self.rows.windows)[self.texts])])

    @property
    def one_length(self) -> bool:
        return self.rows.one_length

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return self.rows.batch(self._places[indices])

    @cached_property
    def _places(self) -> np.ndarray:
        return _places_of_texts(self.rows, self.texts)


@dataclass(frozen=True)
class Examples:
    """Texts in rows, with their targets and weights."""

    rows: Rows
    targets: np.ndarray
    """(texts,) int64, or (texts, labels) float32"""
    weights: np.ndarray | None = None
    """(texts,) float32, the weight of each text besides that of its class; None: all 1"""

    @property
    def by_row(self) -> "Examples":
        """Give each window the target of its text, and an equal share of the text's weight."""
        if self.rows.windows is None:
            return self
        counts = np.diff(self.rows.windows)
        weights = (1 if self.weights is None else self.weights) / counts
        targets, weights = (np.repeat(values, counts, axis=0) for values in (self.targets, weights))
        return Examples(self.rows, targets, weights.astype(np.float32))


def used_ids(rows: Rows) -> np.ndarray | None:
    """Return the token ids that batches of these rows have, each once, with padding; None where rows are no tokens."""
    while isinstance(rows, (_ExtendedRows, SomeRows)):
        rows = rows.rows
    if not isinstance(rows, TokenRows):
        return None
    return np.union1d(np.flatnonzero(mapped.counted(rows.ids)), [rows.pad_id])


def tokens_of_texts(rows: Rows) -> np.ndarray:
    """Count the tokens of each text over all its windows, (texts,)."""
    return rows.lengths if rows.windows is None else np.add.reduceat(rows.lengths, rows.windows[:-1])


def texts_of_rows(rows: Rows, places: np.ndarray) -> np.ndarray:
    """Return the places of the texts that some rows belong to."""
    return places if rows.windows is None else np.searchsorted(rows.windows, places, side="right") - 1


def rows_of_texts(rows: Rows, texts: np.ndarray) -> np.ndarray:
    """Return the places of the rows of texts, by length where texts have several."""
    places = _places_of_texts(rows, texts)
    return places if rows.windows is None else places[np.argsort(rows.lengths[places], kind="stable")]


def _places_of_texts(rows: Rows, texts: np.ndarray) -> np.ndarray:
    windows = rows.windows
    return texts if windows is None else ranges(windows[texts], np.diff(windows)[texts])

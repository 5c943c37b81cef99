"""Rows as models take them: tokens, features or activations, and what is learned beside them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from nlptransfer.models.tokens import TokenRows, ranges


class Rows(Protocol):
    """Inputs of a model, row by row: a row is a text, or a window of one."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, (rows,)."""

    @property
    def windows(self) -> np.ndarray | None:
        """(texts + 1,) int64: text i is rows ``windows[i]`` to ``windows[i + 1]``; None: each row is a text."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The keyword arguments of the model's ``forward`` for these rows."""


@dataclass(frozen=True)
class FeatureRows:
    """One vector of features per text, computed once by a frozen model."""

    features: np.ndarray
    """(texts, width) float32, or float16 as the cache keeps them"""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        return np.ones(len(self.features), dtype=np.int64)

    @property
    def windows(self) -> None:
        return None

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"features": torch.from_numpy(self.features[indices]).float()}


@dataclass(frozen=True)
class _WithTokens:
    """Token rows, and something beside them."""

    tokens: TokenRows

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens.lengths

    @property
    def windows(self) -> np.ndarray | None:
        return self.tokens.windows


@dataclass(frozen=True)
class WordsBeside(_WithTokens):
    """Token rows, and for each row the pooled vectors of its words."""

    word_features: np.ndarray
    """(rows, dimensions) float32"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the token rows', and ``word_features``, (len(indices), dimensions)."""
        return {**self.tokens.batch(indices), "word_features": torch.from_numpy(self.word_features[indices])}


@dataclass(frozen=True)
class ActivationRows(_WithTokens):
    """Token rows, and what frozen lower layers make of each token, computed once."""

    activations: np.ndarray
    """(tokens of all rows, width) float16"""

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the token rows', and ``activations``, (len(indices), longest row, width)."""
        places, real = self.tokens.places(indices)
        padded = np.zeros((*real.shape, self.activations.shape[1]), dtype=self.activations.dtype)
        padded[real] = self.activations[places]
        return {**self.tokens.batch(indices), "activations": torch.from_numpy(padded)}


@dataclass(frozen=True)
class TaughtRows:
    """Rows, and for each what another model makes of its text."""

    rows: Rows
    taught: np.ndarray
    """(texts, width) float32"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    @property
    def windows(self) -> np.ndarray | None:
        return self.rows.windows

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """As the rows', and ``taught``, (len(indices), width)."""
        taught = self.taught[texts_of_rows(self.rows, indices)]
        return {**self.rows.batch(indices), "taught": torch.from_numpy(taught)}


@dataclass(frozen=True)
class SomeRows:
    """The rows of some of the texts."""

    rows: Rows
    texts: np.ndarray
    """their places, (texts,) int64"""

    def __len__(self) -> int:
        return len(self._places)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths[self._places]

    @property
    def windows(self) -> np.ndarray | None:
        if self.rows.windows is None:
            return None
        return np.concatenate([[0], np.cumsum(np.diff(self.rows.windows)[self.texts])])

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return self.rows.batch(self._places[indices])

    @cached_property
    def _places(self) -> np.ndarray:
        windows = self.rows.windows
        return self.texts if windows is None else ranges(windows[self.texts], np.diff(windows)[self.texts])


@dataclass(frozen=True)
class Examples:
    """Texts in rows, and what they should come out as."""

    rows: Rows
    targets: np.ndarray
    """(texts,) int64, or (texts, labels) float32"""
    weights: np.ndarray | None = None
    """(texts,) float32, what each text counts besides its class; None: all 1"""

    @property
    def by_row(self) -> "Examples":
        """Each window with the target of its text, and with an equal share of the text's weight."""
        if self.rows.windows is None:
            return self
        counts = np.diff(self.rows.windows)
        weights = (1 if self.weights is None else self.weights) / counts
        targets, weights = (np.repeat(values, counts, axis=0) for values in (self.targets, weights))
        return Examples(self.rows, targets, weights.astype(np.float32))


def tokens_of_texts(rows: Rows) -> np.ndarray:
    """(texts,) tokens of each text, over all its windows."""
    return rows.lengths if rows.windows is None else np.add.reduceat(rows.lengths, rows.windows[:-1])


def texts_of_rows(rows: Rows, places: np.ndarray) -> np.ndarray:
    """The places of the texts that some rows belong to."""
    return places if rows.windows is None else np.searchsorted(rows.windows, places, side="right") - 1


def rows_of_texts(rows: Rows, texts: np.ndarray) -> np.ndarray:
    """The places of the rows that texts have, those of like length together where texts have several."""
    if rows.windows is None:
        return texts
    found = ranges(rows.windows[texts], np.diff(rows.windows)[texts])
    return found[np.argsort(rows.lengths[found], kind="stable")]

"""Rows that a model can take, and batches of like length, the same on every machine."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from nlptransfer import arithmetic, distributed
from nlptransfer.cutting import first_token_alone
from nlptransfer.tokens import TokenRows, ranges

MEGABATCH = 50
"""Batches of like length are cut from at most so many batches of shuffled rows, so that each epoch mixes anew."""
BATCH_COST = 0.05
"""What a batch in prediction costs besides its tokens, as a share of the most tokens that it may have."""
PREDICTED_NUMBERS = {"cpu": 400_000, "other": 12_000_000}
"""Numbers of one batch's hidden states in prediction: what fits a processor's caches, and what fills an accelerator."""


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


def _over_windows(values: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """(rows, ...) -> (texts, ...) float32: the mean over a text's windows."""
    counts = np.diff(windows).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.add.reduceat(values, windows[:-1], axis=0, dtype=np.float32) / counts


def training_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """One epoch's batches: every row once, rows of like length together, in random order.

    The plan depends on the arguments alone, so that every process draws the same one and a resumed
    run goes on where it stopped.

    Args:
        lengths: (rows,) tokens per row.
        batch_size: rows of a batch over all processes; the last one may have fewer.

    Returns:
        For each batch the places of its rows.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    # Few rows are cut in four at least, or every epoch would have the same batches.
    mixed = batch_size * min(MEGABATCH, max(1, len(shuffled) // (4 * batch_size)))
    batches = []
    for start in range(0, len(shuffled), mixed):
        chunk = shuffled[start : start + mixed]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def endless_batches(lengths: np.ndarray, batch_size: int, seed: int, first: int, count: int) -> list[np.ndarray]:
    """Batches ``first`` to ``first + count`` of one epoch's :func:`training_batches` after the other's."""
    found: list[np.ndarray] = []
    epoch, skipped = divmod(first, math.ceil(len(lengths) / batch_size))
    while len(found) < count:
        found += training_batches(lengths, batch_size, seed, epoch)[skipped:]
        epoch, skipped = epoch + 1, 0
    return found[:count]


def prediction_batches(lengths: np.ndarray, tokens: int = 1024) -> Iterator[np.ndarray]:
    """Batches for prediction: rows of like length, the longest first; at most ``tokens`` with padding, or a single row.

    Where one batch ends and the next begins is chosen for the least work: all tokens with padding, and what each
    batch costs by itself (dynamic programming over the lengths that there are).
    """
    order = np.argsort(lengths, kind="stable")
    found, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    most = np.maximum(tokens // np.maximum(found, 1), 1)
    least = np.zeros(len(found) + 1)
    lowest = np.zeros(len(found), dtype=np.int64)
    for top, longest in enumerate(found):
        # As long as the longest: rows from each of the lengths on up to this one.
        rows = below[top + 1] - below[: top + 1]
        work = least[: top + 1] + rows * longest + np.ceil(rows / most[top]) * BATCH_COST * tokens
        lowest[top], least[top + 1] = work.argmin(), work.min()
    end = len(found)
    while end:
        start = lowest[end - 1]
        together = order[below[start] : below[end]][::-1]
        yield from np.array_split(together, -(-len(together) // most[end - 1]))
        end = start


def predict_logits(model: Any, rows: Rows, *, share: bool = False) -> np.ndarray:
    """The model's logits in evaluation mode, in the order of the texts.

    Args:
        share: whether all processes call this and work on a part each; everyone gets all rows.

    Returns:
        (texts, labels) float32, of a text in windows the mean of theirs.
    """
    if not len(rows):
        return np.zeros((0, model.config.num_labels), dtype=np.float32)
    with first_token_alone(model):
        return compute(model, lambda inputs: model(**inputs).logits.float(), rows, share=share)


def compute(
    model: Any,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    rows: Rows,
    *,
    share: bool = False,
    places: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """A function of batches of rows, with the model in evaluation mode, in the order of the texts.

    Args:
        function: of a batch of n rows, on the model's device; gives (n, ...).
        rows: at least one.
        share: whether all processes call this and work on a part each; everyone gets all rows.
        places: of the rows of a batch: where its results go, if there are more or fewer than one a row; all places
            together are 0, 1, ... each once.

    Returns:
        (texts, ...), of a text in windows the mean of theirs; or (places, ...)
    """
    device = next(model.parameters()).device
    numbers = PREDICTED_NUMBERS["cpu" if device.type == "cpu" else "other"]
    width = getattr(getattr(model, "config", None), "hidden_size", 384)
    batches = list(prediction_batches(rows.lengths, numbers // width))
    mine = batches[distributed.rank() :: distributed.count()] if share else batches
    # Sharded weights meet in every pass, so no process may make one pass fewer.
    sharded = share and any(isinstance(value, DTensor) for value in model.parameters())
    idle = batches[:1] if sharded and len(mine) * distributed.count() < len(batches) else []
    was_training = model.training
    model.eval()
    # Not inference_mode: what a model keeps from here (rotary tables, say) may be trained with later.
    with torch.no_grad(), arithmetic.fast(model, packed="all" if len(mine) > 1 else "none"):
        found = [
            function({name: value.to(device) for name, value in rows.batch(batch).items()}).cpu().numpy()
            for batch in [*mine, *idle]
        ][: len(mine)]
    model.train(was_training)
    if places is None:
        every = distributed.gather_rows(mine, found, len(rows), share=share)
        return every if rows.windows is None else _over_windows(every, rows.windows)
    count = sum(len(places(batch)) for batch in batches)
    return distributed.gather_rows([places(batch) for batch in mine], found, count, share=share)
